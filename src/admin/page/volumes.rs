//! The tables of the status page: volumes and exports.

use std::net::IpAddr;

use maud::{Markup, html};

use super::format::{bytes, count, percent};
use super::graphics::bar;
use crate::admin::server_view::{StaticExport, VolumesSnapshot};
use crate::volume::spec::{VolumePhase, VolumeStatus};

/// Volumes that are shown unless all are requested.
const SHOWN: usize = 200;

/// Clients of a volume that are listed; the others are only counted.
const CLIENTS: usize = 3;

/// The volumes: first those that are lost or failed, then the fullest.
pub fn volumes(snapshot: &VolumesSnapshot, all: bool) -> Markup {
    let mut sorted: Vec<&VolumeStatus> = snapshot.volumes.iter().collect();
    sorted.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.spec.name.cmp(&b.spec.name)));
    let total = sorted.len();
    let shown = if all { total } else { total.min(SHOWN) };
    let columns = ["Name", "Use", "Files", "Clients", "State", "Read", "Written"];
    html! {
        section aria-labelledby="volumes" {
            h2 id="volumes" { "Volumes " small { (count(total as u64)) } }
            @if total == 0 {
                p class="empty" { "There are no volumes yet." }
            } @else {
                (table("volumes", &columns, html! {
                    @for status in &sorted[..shown] { (volume(status)) }
                }))
            }
            @if shown < total {
                p class="more" {
                    "These are the fullest " (shown) ". " (count((total - shown) as u64))
                    " more are not shown: " a href="?all" { "show all" } "."
                }
            }
        }
    }
}

/// The sort key of a volume: lost or failed, then usage.
fn order(status: &VolumeStatus) -> (u8, std::cmp::Reverse<u128>) {
    let trouble = match status.phase {
        VolumePhase::Lost { .. } | VolumePhase::Failed { .. } => 0,
        VolumePhase::Ready | VolumePhase::Counting | VolumePhase::Cloning { .. } => 1,
    };
    let capacity = u128::from(status.spec.capacity.max(1));
    (trouble, std::cmp::Reverse((u128::from(status.used) << 32) / capacity))
}

fn volume(status: &VolumeStatus) -> Markup {
    let name = status.spec.name.as_str();
    row(
        name,
        html! {
            (cell("Use", "use", bar(&format!("use of {name}"), status.used, status.spec.capacity)))
            (cell("Files", "number", html! {
                (count(status.inodes_used))
                @if let Some(limit) = status.spec.inodes {
                    " " span class="of" { "of " (count(limit)) }
                }
            }))
            (cell("Clients", "clients", clients(&status.mounted_by)))
            (cell("State", "state", state(&status.phase)))
            (cell("Read", "number", html! { (bytes(status.traffic.read)) }))
            (cell("Written", "number", html! { (bytes(status.traffic.written)) }))
        },
    )
}

fn clients(clients: &[IpAddr]) -> Markup {
    let named: Vec<String> = clients.iter().take(CLIENTS).map(ToString::to_string).collect();
    html! {
        @if clients.is_empty() { span class="none" { "none" } }
        (named.join(", "))
        @if clients.len() > CLIENTS { " and " (clients.len() - CLIENTS) " more" }
    }
}

fn state(phase: &VolumePhase) -> Markup {
    match phase {
        VolumePhase::Ready => html! { span class="good" { "ready" } },
        VolumePhase::Counting => html! { span class="busy" { "counting" } },
        VolumePhase::Cloning { from, progress } => {
            let done = percent(progress.bytes_done, progress.bytes_total).min(100);
            html! { span class="busy" { "cloning" } " " bdi { (from.as_str()) } ", " (done) " %" }
        }
        VolumePhase::Failed { message } => html! { span class="bad" { "failed" } " " (message) },
        VolumePhase::Lost { message } => html! { span class="bad" { "lost" } " " (message) },
    }
}

/// The exports of the command line or the exports file.
pub fn exports(exports: &[StaticExport]) -> Markup {
    html! {
        section aria-labelledby="exports" {
            h2 id="exports" { "Exports " small { (count(exports.len() as u64)) } }
            (table("exports", &["Path", "Directory", "Disk", "For"], html! {
                @for of in exports { (export(of)) }
            }))
        }
    }
}

fn export(export: &StaticExport) -> Markup {
    let label = format!("use of the disk of {}", export.path);
    row(
        &export.path,
        html! {
            (cell("Directory", "path", html! { bdi { (export.directory) } }))
            (cell("Disk", "use", match export.disk {
                Some(disk) => bar(&label, disk.used_bytes(), disk.size_bytes),
                None => html! { span class="none" { "unknown" } },
            }))
            (cell("For", "clients", html! { (export.clients.join(", ")) }))
        },
    )
}

/// A table. It has explicit roles because on narrow screens its rows are laid out as blocks, and
/// browsers then no longer treat it as a table.
fn table(label: &str, columns: &[&str], rows: Markup) -> Markup {
    let class = |column| matches!(column, "Files" | "Read" | "Written").then_some("number");
    html! {
        table role="table" aria-labelledby=(label) {
            thead role="rowgroup" {
                tr role="row" {
                    @for column in columns {
                        th role="columnheader" scope="col" class=[class(column)] { (column) }
                    }
                }
            }
            tbody role="rowgroup" { (rows) }
        }
    }
}

fn row(name: &str, cells: Markup) -> Markup {
    html! {
        tr role="row" {
            th role="rowheader" scope="row" { bdi { (name) } }
            (cells)
        }
    }
}

fn cell(column: &str, class: &str, content: Markup) -> Markup {
    html! { td role="cell" data-label=(column) class=(class) { (content) } }
}
