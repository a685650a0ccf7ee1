//! What is written to terminals: harmless, and in columns.
//!
//! What a server sends may hold what somebody else has chosen (labels, names, paths), and a
//! terminal obeys control characters.

use unicode_width::UnicodeWidthStr;

/// Between two columns.
const GAP: &str = "   ";

/// Rows of cells under a head. Cells are made harmless.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// One column, and on which side its cells stand.
pub enum Column {
    /// On the left.
    Left(&'static str),
    /// On the right, as numbers do.
    Right(&'static str),
}

impl Column {
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

impl Table {
    /// An empty table.
    pub const fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row. An empty cell becomes `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { "-".into() } else { plain(&cell) };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// The lines, head first.
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

/// Lines of a name and what it stands for, in two columns.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.width()).max().unwrap_or(0) + 1;
    let line = |(name, value): &(&str, String)| {
        let value = if value.is_empty() { "-".into() } else { plain(value) };
        format!("{:width$}  {value}\n", format!("{name}:"))
    };
    fields.iter().map(line).collect()
}

/// The text with everything spelt out that a terminal would obey or not show.
pub fn plain(text: &str) -> String {
    spelt(text, |c| c.escape_unicode().to_string())
}

/// JSON with everything spelt out that a terminal would obey. It means what it meant: such
/// characters stand in JSON only inside of texts, or as white space.
pub fn json(text: &str) -> String {
    let spell = |c: char| match c {
        '\n' | '\r' | '\t' => " ".to_owned(),
        _ => format!("\\u{:04x}", u32::from(c)),
    };
    spelt(text, spell)
}

fn spelt(text: &str, spell: impl Fn(char) -> String) -> String {
    let shown = |c: char| if is_harmful(c) { spell(c) } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// Control characters of both sets, separators of lines, and what turns the direction of writing,
/// so that a text looks like another one. None of them needs more than four hex digits.
fn is_harmful(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table =
            Table::new(vec![Column::Left("NAME"), Column::Right("SIZE"), Column::Left("AT")]);
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
    fn an_empty_table_has_a_head() {
        assert_eq!(Table::new(vec![Column::Left("A"), Column::Right("B")]).lines(), "A   B\n");
    }

    #[test]
    fn fields_stand_in_two_columns() {
        let lines = fields(&[("Name", "a\nb".into()), ("On delete", String::new())]);
        assert_eq!(lines, "Name:       a\\u{a}b\nOn delete:  -\n");
    }

    #[test]
    fn terminals_are_not_given_orders() {
        let check = |text, expected: &str| assert_eq!(plain(text), expected);
        check("Größe: 5 µ数据 🚢", "Größe: 5 µ数据 🚢");
        check("\u{1b}[2J", "\\u{1b}[2J");
        check("a\r\nb\t\u{7f}\u{9b}31m", "a\\u{d}\\u{a}b\\u{9}\\u{7f}\\u{9b}31m");
        check("\u{202e}txt.exe\u{2028}", "\\u{202e}txt.exe\\u{2028}");
        let mut table = Table::new(vec![Column::Left("A")]);
        table.row(["\u{1b}c".into()]);
        assert_eq!(table.lines(), "A\n\\u{1b}c\n");
    }

    #[test]
    fn json_means_what_it_meant() {
        let value = serde_json::json!({ "a\u{9b}": "\u{1b}\n\u{7f}\u{202e}\u{2029} ü\\u" });
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let harmless = json(&pretty);
        assert!(!harmless.chars().any(is_harmful), "{harmless:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&harmless).unwrap(), value);
    }
}
