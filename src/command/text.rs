//! Text for terminals: escaping and columns.
//!
//! Text from the server may contain names, labels and paths that others chose, and a terminal
//! obeys control characters in them.
//!
//! The table does not use a library (comfy-table, tabled): cells must be escaped before their width
//! is measured, and what remains is two dozen lines of padding. Sizes are those of
//! [`crate::quantity`], which reads and writes the quantities of Kubernetes.

use unicode_width::UnicodeWidthStr;

/// Space between two columns.
const GAP: &str = "   ";

/// Rows of cells under a header. Cells are escaped.
pub struct TextTable {
    columns: Vec<TextColumn>,
    rows: Vec<Vec<String>>,
}

/// The header of a column, and the alignment of its cells.
pub enum TextColumn {
    /// Aligned to the left.
    Left(&'static str),
    /// Aligned to the right, for numbers.
    Right(&'static str),
}

impl TextColumn {
    const fn head(&self) -> &'static str {
        match self {
            Self::Left(head) | Self::Right(head) => head,
        }
    }

    fn pad(&self, cell: &str, width: usize) -> String {
        let space = " ".repeat(width.saturating_sub(cell.width()));
        match self {
            Self::Left(_) => format!("{cell}{space}"),
            Self::Right(_) => format!("{space}{cell}"),
        }
    }
}

impl TextTable {
    /// Creates a table without rows.
    pub const fn new(columns: Vec<TextColumn>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row. An empty cell becomes `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { "-".into() } else { plain(&cell) };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Returns the lines, the header first.
    pub fn lines(&self) -> String {
        let head: Vec<String> = self.columns.iter().map(|c| c.head().to_owned()).collect();
        let all = || std::iter::once(&head).chain(&self.rows);
        let width = |at: usize| all().map(|row| row[at].width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = self.columns.iter().zip(row).zip(&widths);
            let cells: Vec<_> = cells.map(|((c, cell), width)| c.pad(cell, *width)).collect();
            format!("{}\n", cells.join(GAP).trim_end())
        };
        all().map(line).collect()
    }
}

/// Lines of a name and its value, in two columns. Values are escaped; an empty one becomes `-`.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.width()).max().unwrap_or(0) + 1;
    let line = |(name, value): &(&str, String)| {
        let value = if value.is_empty() { "-".into() } else { plain(value) };
        format!("{:width$}  {value}\n", format!("{name}:"))
    };
    fields.iter().map(line).collect()
}

/// Escapes the characters that a terminal would obey or not show.
pub fn plain(text: &str) -> String {
    escaped(text, |c| c.escape_unicode().to_string())
}

/// Escapes such characters in JSON, which keeps its meaning: they occur in JSON only inside
/// strings, or as white space between tokens.
pub fn json(text: &str) -> String {
    let escape = |c: char| match c {
        '\n' | '\r' | '\t' => " ".to_owned(),
        _ => format!("\\u{:04x}", u32::from(c)),
    };
    escaped(text, escape)
}

/// Whether a terminal shows all of a text, and obeys none of it.
pub fn is_plain(text: &str) -> bool {
    !text.contains(is_unsafe)
}

fn escaped(text: &str, escape: impl Fn(char) -> String) -> String {
    let shown = |c: char| if is_unsafe(c) { escape(c) } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// Whether a character is a control character (C0, C1, DEL), a line separator, or changes the
/// direction of writing, which can make a text look like another one.
///
/// All of them have at most four hex digits, as the escapes of JSON need.
fn is_unsafe(c: char) -> bool {
    let is_bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}');
    c.is_control() || is_bidi || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = TextTable::new(vec![
            TextColumn::Left("NAME"),
            TextColumn::Right("SIZE"),
            TextColumn::Left("AT"),
        ]);
        table.row(["a".into(), "10Gi".into(), String::new()]);
        table.row(["数据".into(), "5".into(), "x y".into()]);
        table.row(["long-name".into(), "12345".into(), "z".into()]);
        let expected = "\
NAME         SIZE   AT
a            10Gi   -
数据            5   x y
long-name   12345   z
";
        assert_eq!(table.lines(), expected);
    }

    #[test]
    fn an_empty_table_has_a_header() {
        assert_eq!(
            TextTable::new(vec![TextColumn::Left("A"), TextColumn::Right("B")]).lines(),
            "A   B\n"
        );
    }

    #[test]
    fn fields_have_two_columns() {
        let lines = fields(&[("Name", "a\nb".into()), ("On delete", String::new())]);
        assert_eq!(lines, "Name:       a\\u{a}b\nOn delete:  -\n");
    }

    #[test]
    fn control_characters_are_escaped() {
        let check = |text, expected: &str| assert_eq!(plain(text), expected);
        check("Größe: 5 µ数据 🚢", "Größe: 5 µ数据 🚢");
        check("\u{1b}[2J", "\\u{1b}[2J");
        check("a\r\nb\t\u{7f}\u{9b}31m", "a\\u{d}\\u{a}b\\u{9}\\u{7f}\\u{9b}31m");
        check("\u{202e}txt.exe\u{2028}", "\\u{202e}txt.exe\\u{2028}");
        let mut table = TextTable::new(vec![TextColumn::Left("A")]);
        table.row(["\u{1b}c".into()]);
        assert_eq!(table.lines(), "A\n\\u{1b}c\n");
    }

    #[test]
    fn escaped_json_keeps_its_meaning() {
        let value = serde_json::json!({ "a\u{9b}": "\u{1b}\n\u{7f}\u{202e}\u{2029} ü\\u" });
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let escaped = json(&pretty);
        assert!(!escaped.chars().any(is_unsafe), "{escaped:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
