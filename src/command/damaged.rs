//! Records that the server cannot use, as text for terminals. Pure.

use super::text;
use crate::volume::damaged::DamagedRecord;

/// Returns a line for each record, for printing below the table of all volumes; an empty text if
/// there are none.
pub fn lines(all: &[DamagedRecord]) -> String {
    let line = |of: &DamagedRecord| {
        let name = of.name.as_ref().unwrap_or(&of.id);
        text::plain(&format!("{name} is damaged, and not served: {}: {}", of.path, of.why)) + "\n"
    };
    let lines: String = all.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}
