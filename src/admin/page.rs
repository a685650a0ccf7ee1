//! The status page: one HTML document, without scripts and external resources.
//!
//! It reloads every few seconds. [`maud`] escapes all text: a volume called `<script>` is shown as
//! that.

mod format;
mod graphics;
mod volumes;

use std::net::SocketAddr;
use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::rates::{Rate, Rates};
use super::server_view::{ServerView, StaticExport, VolumesSnapshot};
use crate::telemetry::metrics::scrape::Gauges;
use crate::volume::trash;
use format::{bytes, bytes_per_second, calls, count, duration, percent};
use graphics::{bar, sparkline};

const STYLE: &str = include_str!("page/page.css");

/// Seconds until the page reloads. A page that shows all volumes does not reload.
const REFRESH: u32 = 5;

/// The part of the page that needs no disk.
#[derive(Clone, Debug)]
pub struct PageContext {
    /// Whether the server is ready, or the reason why not.
    pub ready: Result<(), String>,
    /// Time since the start of the server.
    pub uptime: Duration,
    /// Addresses on which it serves NFS.
    pub listen: Vec<SocketAddr>,
    /// Current values of the gauges.
    pub gauges: Gauges,
    /// Connections accepted so far.
    pub accepted: u64,
    /// Connections refused so far.
    pub refused: u64,
    /// Throughput.
    pub rates: Rates,
    /// The nonce of the style, which the Content-Security-Policy names.
    pub nonce: String,
    /// Whether to show all volumes.
    pub all: bool,
}

/// The part of the page that is read from the rest of the server, and needs its disks.
#[derive(Clone, Debug)]
pub enum PageContent {
    /// The server is starting.
    Starting,
    /// A disk did not respond in time.
    Unavailable,
    /// The exports and volumes.
    Loaded {
        /// Static exports.
        exports: Vec<StaticExport>,
        /// The volumes.
        volumes: Option<VolumesSnapshot>,
    },
}

impl PageContent {
    /// Reads the exports and volumes. May block on a disk.
    pub fn of(server: &dyn ServerView) -> Self {
        let volumes = server.volumes();
        let statuses = volumes.iter().flat_map(|snapshot| &snapshot.volumes);
        let exports = server.exports(&statuses.map(|status| &*status.path).collect());
        Self::Loaded { exports, volumes }
    }
}

/// Returns the page as HTML.
pub fn render(context: &PageContext, content: &PageContent) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if !context.all {
                    meta http-equiv="refresh" content=(REFRESH);
                }
                title { "Berth" }
                style nonce=(context.nonce) { (PreEscaped(STYLE)) }
            }
            body {
                (header(context))
                main {
                    (traffic(context))
                    (main_part(content, context.all))
                }
                (footer(context))
            }
        }
    };
    page.into_string()
}

fn header(context: &PageContext) -> Markup {
    let (class, word) = match &context.ready {
        Ok(()) => ("good", "Ready"),
        Err(_) => ("bad", "Not ready"),
    };
    let listen: Vec<String> = context.listen.iter().map(ToString::to_string).collect();
    html! {
        header {
            h1 { "Berth" }
            p class={ "health " (class) } role="status" {
                (word)
                @if let Err(why) = &context.ready { ": " (why) }
            }
            p class="facts" {
                span { "version " (env!("CARGO_PKG_VERSION")) }
                " "
                span { "up " (duration(context.uptime)) }
                @if !listen.is_empty() {
                    " "
                    span { "NFS on " (listen.join(", ")) }
                }
            }
        }
    }
}

fn traffic(context: &PageContext) -> Markup {
    let rates = &context.rates;
    let now = rates.now();
    let gauges = &context.gauges;
    html! {
        section aria-labelledby="now" {
            h2 id="now" { "Now" }
            dl class="tiles" {
                (tile("Calls", &format!("{}/s", calls(now.calls)), rates, |rate| rate.calls))
                (tile("Read", &bytes_per_second(now.read), rates, |rate| rate.read))
                (tile("Written", &bytes_per_second(now.written), rates, |rate| rate.written))
                div {
                    dt { "Connections" }
                    dd {
                        (count(gauges.connections as u64))
                        small {
                            (count(context.accepted)) " accepted"
                            @if context.refused > 0 {
                                ", " span class="bad" { (count(context.refused)) " refused" }
                            }
                        }
                    }
                }
                div {
                    dt { "Open files" }
                    dd {
                        (count(gauges.nodes as u64))
                        small { (count(gauges.queue as u64)) " calls queued" }
                    }
                }
            }
        }
    }
}

/// A rate: its current value, and its history as a line.
fn tile(name: &str, value: &str, rates: &Rates, of: fn(&Rate) -> f64) -> Markup {
    let label = format!("{name} over the last {}", duration(rates.span()));
    let history: Vec<f64> = rates.iter().map(of).collect();
    html! {
        div {
            dt { (name) }
            dd { (value) (sparkline(&label, &history)) }
        }
    }
}

fn main_part(content: &PageContent, all: bool) -> Markup {
    let note = |text: &str| html! { p class="empty" { (text) } };
    match content {
        PageContent::Starting => note("The server is starting."),
        PageContent::Unavailable => {
            note("A disk does not respond. Exports and volumes are not shown.")
        }
        PageContent::Loaded { exports, volumes } => html! {
            @if let Some(snapshot) = volumes {
                (faults(&snapshot.faults))
                (space(snapshot))
                (volumes::volumes(snapshot, all))
            }
            @if volumes.is_none() || !exports.is_empty() {
                (volumes::exports(exports))
            }
        },
    }
}

fn faults(faults: &[String]) -> Markup {
    html! {
        @if !faults.is_empty() {
            section class="faults" aria-labelledby="faults" {
                h2 id="faults" { "Faults " small { (count(faults.len() as u64)) } }
                p { "These volumes are not served, and their files are not changed." }
                ul {
                    @for fault in faults { li { (fault) } }
                }
            }
        }
    }
}

fn space(snapshot: &VolumesSnapshot) -> Markup {
    let used = snapshot.volumes.iter().map(|status| status.used);
    let used = used.fold(0, u64::saturating_add);
    let promised = snapshot.promise.promised;
    html! {
        section aria-labelledby="space" {
            h2 id="space" { "Space" }
            dl class="space" {
                @if let Some(disk) = snapshot.disk {
                    div class="wide" {
                        dt { "Disk" }
                        dd { (bar("use of the disk", disk.used_bytes(), disk.size_bytes)) }
                    }
                }
                div {
                    dt { "All capacities" }
                    dd {
                        (bytes(promised))
                        @if let Some(disk) = snapshot.disk {
                            small {
                                (percent(promised, disk.size_bytes)) " % of the disk"
                                @if let Some(limit) = snapshot.promise.overcommit {
                                    ", the limit is " (limit) " %"
                                }
                            }
                        }
                    }
                }
                div { dt { "Used by volumes" } dd { (bytes(used)) } }
                (trash(&snapshot.trash))
            }
        }
    }
}

fn trash(trash: &trash::TrashStatus) -> Markup {
    html! {
        div {
            dt { "Trash" }
            dd {
                @if trash.waiting == 0 { "empty" } @else { (count(trash.waiting)) " waiting" }
                small {
                    (count(trash.removed)) " removed, " (bytes(trash.freed)) " freed"
                    @if let Some(current) = &trash.current {
                        "; removing " bdi { (current) }
                    }
                }
            }
        }
    }
}

fn footer(context: &PageContext) -> Markup {
    html! {
        footer {
            nav {
                a href="/metrics" { "metrics" } " "
                a href="/readyz" { "readyz" } " "
                a href="/livez" { "livez" }
            }
            p {
                @if context.all {
                    "This page does not reload. " a href="/" { "Show only the fullest" }
                } @else {
                    "This page reloads every " (REFRESH) " seconds."
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
