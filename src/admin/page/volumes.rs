//! The tables of the status page: volumes and exports.

use std::fmt::{Result, Write};
use std::net::IpAddr;

use super::bar;
use super::format::{Text, bytes, count, percent};
use crate::admin::source::{Exported, Found};
use crate::volume::spec::{VolumePhase, VolumeStatus};

/// Volumes that are shown unless all are requested.
const SHOWN: usize = 200;

/// Clients of a volume that are listed; the others are only counted.
const CLIENTS: usize = 3;

/// Writes the volumes: first those that are lost or failed, then the fullest.
pub fn volumes(found: &Found, all: bool, out: &mut String) -> Result {
    let mut sorted: Vec<&VolumeStatus> = found.volumes.iter().collect();
    sorted.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.spec.name.cmp(&b.spec.name)));
    let total = sorted.len();
    let shown = if all { total } else { total.min(SHOWN) };
    write!(out, "<section aria-labelledby=\"volumes\"><h2 id=\"volumes\">Volumes")?;
    writeln!(out, " <small>{}</small></h2>", count(total as u64))?;
    if total == 0 {
        return writeln!(out, "<p class=\"empty\">There are no volumes yet.</p></section>");
    }
    let columns = ["Name", "Use", "Files", "Clients", "State", "Read", "Written"];
    begin_table("volumes", &columns, out)?;
    for status in &sorted[..shown] {
        volume(status, out)?;
    }
    out.push_str("</tbody></table>\n");
    let left_out = count((total - shown) as u64);
    if shown < total {
        write!(out, "<p class=\"more\">These are the fullest {shown}. ")?;
        writeln!(out, "{left_out} more are not shown: <a href=\"?all\">show all</a>.</p>")?;
    }
    writeln!(out, "</section>")
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

fn volume(status: &VolumeStatus, out: &mut String) -> Result {
    let name = status.spec.name.as_str();
    out.push_str("<tr role=\"row\">");
    write!(out, "<th role=\"rowheader\" scope=\"row\"><bdi>{}</bdi></th>", Text(name))?;
    begin_cell("Use", "use", out);
    bar(&format!("use of {name}"), status.used, status.spec.capacity, out)?;
    begin_cell("Files", "number", out);
    out.push_str(&count(status.inodes_used));
    if let Some(limit) = status.spec.inodes {
        write!(out, " <span class=\"of\">of {}</span>", count(limit))?;
    }
    begin_cell("Clients", "clients", out);
    clients(&status.mounted_by, out)?;
    begin_cell("State", "state", out);
    state(&status.phase, out)?;
    begin_cell("Read", "number", out);
    out.push_str(&bytes(status.traffic.read));
    begin_cell("Written", "number", out);
    out.push_str(&bytes(status.traffic.written));
    writeln!(out, "</td></tr>")
}

fn clients(clients: &[IpAddr], out: &mut String) -> Result {
    if clients.is_empty() {
        out.push_str("<span class=\"none\">none</span>");
    }
    for (n, client) in clients.iter().take(CLIENTS).enumerate() {
        write!(out, "{}{client}", if n == 0 { "" } else { ", " })?;
    }
    match clients.len().saturating_sub(CLIENTS) {
        0 => Ok(()),
        more => write!(out, " and {more} more"),
    }
}

fn state(phase: &VolumePhase, out: &mut String) -> Result {
    match phase {
        VolumePhase::Ready => write!(out, "<span class=\"good\">ready</span>"),
        VolumePhase::Counting => write!(out, "<span class=\"busy\">counting</span>"),
        VolumePhase::Cloning { from, progress } => {
            let done = percent(progress.bytes_done, progress.bytes_total).min(100);
            let from = Text(from.as_str());
            write!(out, "<span class=\"busy\">cloning</span> <bdi>{from}</bdi>, {done} %")
        }
        VolumePhase::Failed { message } => {
            write!(out, "<span class=\"bad\">failed</span> {}", Text(message))
        }
        VolumePhase::Lost { message } => {
            write!(out, "<span class=\"bad\">lost</span> {}", Text(message))
        }
    }
}

/// Writes the exports of the command line or the exports file.
pub fn exports(exports: &[Exported], out: &mut String) -> Result {
    write!(out, "<section aria-labelledby=\"exports\"><h2 id=\"exports\">Exports")?;
    writeln!(out, " <small>{}</small></h2>", count(exports.len() as u64))?;
    begin_table("exports", &["Path", "Directory", "Disk", "For"], out)?;
    for export in exports {
        let path = Text(&export.path);
        write!(
            out,
            "<tr role=\"row\"><th role=\"rowheader\" scope=\"row\"><bdi>{path}</bdi></th>"
        )?;
        begin_cell("Directory", "path", out);
        write!(out, "<bdi>{}</bdi>", Text(&export.directory))?;
        begin_cell("Disk", "use", out);
        match export.disk {
            Some(disk) => {
                let used = disk.size.saturating_sub(disk.free);
                bar(&format!("use of the disk of {}", export.path), used, disk.size, out)?;
            }
            None => out.push_str("<span class=\"none\">unknown</span>"),
        }
        begin_cell("For", "clients", out);
        write!(out, "{}", Text(&export.clients.join(", ")))?;
        writeln!(out, "</td></tr>")?;
    }
    writeln!(out, "</tbody></table></section>")
}

/// Starts a table. It has explicit roles because on narrow screens its rows are laid out as blocks,
/// and browsers then no longer treat it as a table.
fn begin_table(label: &str, columns: &[&str], out: &mut String) -> Result {
    write!(out, "<table role=\"table\" aria-labelledby=\"{label}\"><thead role=\"rowgroup\">")?;
    out.push_str("<tr role=\"row\">");
    for column in columns {
        let class = if matches!(*column, "Files" | "Read" | "Written") { "number" } else { "" };
        write!(out, "<th role=\"columnheader\" scope=\"col\" class=\"{class}\">{column}</th>")?;
    }
    writeln!(out, "</tr></thead><tbody role=\"rowgroup\">")
}

/// Starts a cell, and ends the one before it, unless that is the header of the row.
fn begin_cell(column: &str, class: &str, out: &mut String) {
    if !out.ends_with("</th>") {
        out.push_str("</td>");
    }
    out.push_str("<td role=\"cell\" data-label=\"");
    out.push_str(column);
    out.push_str("\" class=\"");
    out.push_str(class);
    out.push_str("\">");
}
