//! The status page: one HTML document, without scripts and external resources.
//!
//! It reloads every few seconds. All text goes through [`format::Text`], which escapes it: a volume
//! called `<script>` is shown as that.

mod format;
mod volumes;

use std::fmt::{Result, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::rates::{Rate, Rates};
use super::source::{Exported, Found, Source};
use crate::telemetry::metrics::scrape::Gauges;
use crate::volume::{DiskSpace, trash};
use format::{Text, bytes, bytes_per_second, calls, count, duration, percent};

const STYLE: &str = include_str!("page/page.css");

/// Seconds until the page reloads. A page that shows all volumes does not reload.
const REFRESH: u32 = 5;

/// Percentage from which a bar is shown as nearly full.
const NEARLY_FULL: u64 = 80;

/// Percentage from which a bar is shown as full.
const FULL: u64 = 95;

/// The part of the page that needs no disk.
#[derive(Clone, Debug)]
pub struct View {
    /// Whether the server is ready, or the reason why not.
    pub ready: std::result::Result<(), String>,
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
pub enum Content {
    /// The server is starting.
    Starting,
    /// A disk did not respond in time.
    Unavailable,
    /// The exports and volumes.
    Loaded {
        /// Static exports.
        exports: Vec<Exported>,
        /// The volumes.
        volumes: Option<Found>,
    },
}

impl Content {
    /// Reads the exports and volumes. May block on a disk.
    pub fn of(source: &dyn Source) -> Self {
        let volumes = source.volumes();
        let statuses = volumes.iter().flat_map(|found| &found.volumes);
        let exports = source.exports(&statuses.map(|status| &*status.path).collect());
        Self::Loaded { exports, volumes }
    }
}

/// Returns the page as HTML.
pub fn render(view: &View, content: &Content) -> String {
    let mut out = String::new();
    let _ = document(view, content, &mut out); // writing to a String cannot fail
    out
}

fn document(view: &View, content: &Content, out: &mut String) -> Result {
    let nonce = &view.nonce;
    let refresh = match view.all {
        true => String::new(),
        false => format!("<meta http-equiv=\"refresh\" content=\"{REFRESH}\">\n"),
    };
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n{refresh}\
         <title>Berth</title>\n<style nonce=\"{nonce}\">\n{STYLE}</style>\n</head>\n<body>\n"
    )?;
    header(view, out)?;
    out.push_str("<main>\n");
    traffic(view, out)?;
    match content {
        Content::Starting => note("The server is starting.", out)?,
        Content::Unavailable => {
            note("A disk does not respond. Exports and volumes are not shown.", out)?;
        }
        Content::Loaded { exports, volumes } => loaded(exports, volumes.as_ref(), view.all, out)?,
    }
    out.push_str("</main>\n");
    footer(view, out)?;
    writeln!(out, "</body>\n</html>")
}

fn header(view: &View, out: &mut String) -> Result {
    let (class, word) = match &view.ready {
        Ok(()) => ("good", "Ready"),
        Err(_) => ("bad", "Not ready"),
    };
    write!(out, "<header><h1>Berth</h1><p class=\"health {class}\" role=\"status\">{word}")?;
    if let Err(why) = &view.ready {
        write!(out, ": {}", Text(why))?;
    }
    let listen: Vec<String> = view.listen.iter().map(ToString::to_string).collect();
    let (version, uptime) = (env!("CARGO_PKG_VERSION"), duration(view.uptime));
    write!(out, "</p><p class=\"facts\"><span>version {version}</span> <span>up {uptime}</span>")?;
    if !listen.is_empty() {
        write!(out, " <span>NFS on {}</span>", listen.join(", "))?;
    }
    writeln!(out, "</p></header>")
}

fn traffic(view: &View, out: &mut String) -> Result {
    let now = view.rates.now();
    let span = duration(view.rates.span());
    writeln!(out, "<section aria-labelledby=\"now\"><h2 id=\"now\">Now</h2><dl class=\"tiles\">")?;
    let mut tile = |name: &str, value: String, of: fn(&Rate) -> f64| -> Result {
        write!(out, "<div><dt>{name}</dt><dd>{value}")?;
        let line: Vec<f64> = view.rates.iter().map(of).collect();
        sparkline(&format!("{name} over the last {span}"), &line, out)?;
        writeln!(out, "</dd></div>")
    };
    tile("Calls", format!("{}/s", calls(now.calls)), |rate| rate.calls)?;
    tile("Read", bytes_per_second(now.read), |rate| rate.read)?;
    tile("Written", bytes_per_second(now.written), |rate| rate.written)?;
    let gauges = &view.gauges;
    let open = count(gauges.connections as u64);
    write!(out, "<div><dt>Connections</dt><dd>{open}")?;
    write!(out, "<small>{} accepted", count(view.accepted))?;
    if view.refused > 0 {
        write!(out, ", <span class=\"bad\">{} refused</span>", count(view.refused))?;
    }
    writeln!(out, "</small></dd></div>")?;
    let (nodes, queue) = (count(gauges.nodes as u64), count(gauges.queue as u64));
    writeln!(
        out,
        "<div><dt>Open files</dt><dd>{nodes}<small>{queue} calls queued</small></dd></div>\
         \n</dl></section>"
    )
}

fn loaded(exports: &[Exported], found: Option<&Found>, all: bool, out: &mut String) -> Result {
    if let Some(found) = found {
        faults(&found.faults, out)?;
        space(found, out)?;
        volumes::volumes(found, all, out)?;
    }
    if found.is_none() || !exports.is_empty() {
        volumes::exports(exports, out)?;
    }
    Ok(())
}

fn faults(faults: &[String], out: &mut String) -> Result {
    if faults.is_empty() {
        return Ok(());
    }
    out.push_str("<section class=\"faults\" aria-labelledby=\"faults\"><h2 id=\"faults\">Faults ");
    writeln!(out, "<small>{}</small></h2>", count(faults.len() as u64))?;
    out.push_str("<p>These volumes are not served, and their files are not changed.</p><ul>");
    for fault in faults {
        writeln!(out, "<li>{}</li>", Text(fault))?;
    }
    writeln!(out, "</ul></section>")
}

fn space(found: &Found, out: &mut String) -> Result {
    let used = found.volumes.iter().fold(0, |sum: u64, status| sum.saturating_add(status.used));
    let promised = found.promise.promised;
    out.push_str("<section aria-labelledby=\"space\"><h2 id=\"space\">Space</h2>");
    out.push_str("<dl class=\"space\">\n");
    if let Some(DiskSpace { size, free }) = found.disk {
        out.push_str("<div class=\"wide\"><dt>Disk</dt><dd>");
        bar("use of the disk", size.saturating_sub(free), size, out)?;
        out.push_str("</dd></div>\n");
        let share = percent(promised, size);
        write!(out, "<div><dt>All capacities</dt><dd>{}", bytes(promised))?;
        write!(out, "<small>{share} % of the disk")?;
        if let Some(limit) = found.promise.overcommit {
            write!(out, ", the limit is {limit} %")?;
        }
        writeln!(out, "</small></dd></div>")?;
    } else {
        writeln!(out, "<div><dt>All capacities</dt><dd>{}</dd></div>", bytes(promised))?;
    }
    writeln!(out, "<div><dt>Used by volumes</dt><dd>{}</dd></div>", bytes(used))?;
    trash(&found.trash, out)?;
    writeln!(out, "</dl></section>")
}

fn trash(trash: &trash::TrashStatus, out: &mut String) -> Result {
    let removed = format!("{} removed, {} freed", count(trash.removed), bytes(trash.freed));
    let waiting = match trash.waiting {
        0 => "empty".to_owned(),
        n => format!("{} waiting", count(n)),
    };
    write!(out, "<div><dt>Trash</dt><dd>{waiting}<small>{removed}")?;
    if let Some(current) = &trash.current {
        write!(out, "; removing <bdi>{}</bdi>", Text(current))?;
    }
    writeln!(out, "</small></dd></div>")
}

fn note(text: &str, out: &mut String) -> Result {
    writeln!(out, "<p class=\"empty\">{}</p>", Text(text))
}

fn footer(view: &View, out: &mut String) -> Result {
    out.push_str("<footer><nav><a href=\"/metrics\">metrics</a> <a href=\"/readyz\">readyz</a> ");
    out.push_str("<a href=\"/livez\">livez</a></nav><p>");
    match view.all {
        true => out.push_str("This page does not reload. <a href=\"/\">Show only the fullest</a>"),
        false => write!(out, "This page reloads every {REFRESH} seconds.")?,
    }
    writeln!(out, "</p></footer>")
}

/// Writes a bar, followed by its figures.
fn bar(label: &str, used: u64, size: u64, out: &mut String) -> Result {
    let share = percent(used, size);
    let class = match share {
        FULL.. => "full",
        NEARLY_FULL.. => "nearly",
        _ => "roomy",
    };
    let (label, shown) = (Text(label), share.min(100));
    write!(out, "<meter min=\"0\" max=\"100\" value=\"{shown}\" aria-label=\"{label}\">")?;
    write!(out, "{share} %</meter><svg class=\"bar {class}\" viewBox=\"0 0 100 1\"")?;
    write!(out, " preserveAspectRatio=\"none\" aria-hidden=\"true\">")?;
    write!(out, "<rect width=\"{shown}\" height=\"1\"/></svg>")?;
    let (used, size) = (bytes(used), bytes(size));
    write!(out, "<span class=\"amount\"><b>{used}</b> of {size} <i>{share} %</i></span>")
}

/// Writes the history of a value as a line, scaled to its maximum.
fn sparkline(label: &str, values: &[f64], out: &mut String) -> Result {
    let highest = values.iter().copied().fold(0.0, f64::max);
    let label = Text(label);
    write!(out, "<svg viewBox=\"0 0 100 24\" preserveAspectRatio=\"none\" role=\"img\"")?;
    write!(out, " aria-label=\"{label}\"><polyline points=\"")?;
    let step = 100.0 / u32::try_from(values.len().max(2) - 1).map_or(1.0, f64::from);
    let mut x = 100.0 - step * u32::try_from(values.len().max(1) - 1).map_or(0.0, f64::from);
    for value in values {
        let y = if highest > 0.0 { 23.0 - 22.0 * value / highest } else { 23.0 };
        write!(out, "{x:.1},{y:.1} ")?;
        x += step;
    }
    write!(out, "\"/></svg>")
}

#[cfg(test)]
mod tests;
