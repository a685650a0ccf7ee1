//! What is printed of records that the server cannot use.

use super::text;
use crate::volume::damaged::DamagedRecord;

/// A line for each, to stand below the table of all volumes; nothing if there is none.
pub fn lines(all: &[DamagedRecord]) -> String {
    let line = |of: &DamagedRecord| {
        let name = of.name.as_ref().unwrap_or(&of.id);
        text::plain(&format!("{name} is damaged, and not served: {}: {}", of.path, of.why)) + "\n"
    };
    let lines: String = all.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}
