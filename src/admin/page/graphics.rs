//! The graphics of the status page: bars of usage and lines of throughput, as inline SVG.

use std::fmt::Write;

use maud::{Markup, html};

use super::format::{bytes, percent};

/// Percentage from which a bar is shown as nearly full.
const NEARLY_FULL: u64 = 80;

/// Percentage from which a bar is shown as full.
const FULL: u64 = 95;

/// A bar, followed by its figures, in bytes.
pub fn bar(label: &str, used: u64, size: u64) -> Markup {
    let share = percent(used, size);
    let class = match share {
        FULL.. => "full",
        NEARLY_FULL.. => "nearly",
        _ => "roomy",
    };
    let shown = share.min(100);
    html! {
        meter min="0" max="100" value=(shown) aria-label=(label) { (share) " %" }
        svg class={ "bar " (class) } viewBox="0 0 100 1" preserveAspectRatio="none"
            aria-hidden="true" { rect width=(shown) height="1" {} }
        span class="amount" {
            b { (bytes(used)) } " of " (bytes(size)) " " i { (share) " %" }
        }
    }
}

/// The history of a value as a line, scaled to its maximum.
pub fn sparkline(label: &str, values: &[f64]) -> Markup {
    let highest = values.iter().copied().fold(0.0, f64::max);
    let step = 100.0 / u32::try_from(values.len().max(2) - 1).map_or(1.0, f64::from);
    let mut x = 100.0 - step * u32::try_from(values.len().max(1) - 1).map_or(0.0, f64::from);
    let mut points = String::new();
    for value in values {
        let y = if highest > 0.0 { 23.0 - 22.0 * value / highest } else { 23.0 };
        let _ = write!(points, "{x:.1},{y:.1} "); // writing to a String cannot fail
        x += step;
    }
    html! {
        svg viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label=(label) {
            polyline points=(points) {}
        }
    }
}
