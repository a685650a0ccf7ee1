//! Splits an exports file into lines and words.
//!
//! The syntax is that of nfs-utils:
//! - White space separates words.
//! - `"` begins and ends text in which white space is literal.
//! - `\040` is the byte with that octal number; it never acts as white space or as a quote.
//! - A backslash at the end of a line, with the white space that begins the next line, is a blank.
//! - A word that begins with `#` begins a comment. A comment ends with its line, even if a
//!   backslash precedes the end of the line.
//! - Other backslashes, and a `#` inside a word, are literal.

/// An iterator over the lines that have words.
pub(super) struct Lines<'t> {
    rest: &'t [u8],
    number: usize,
}

/// A line, with its continuation lines.
#[derive(Default)]
pub(super) struct LogicalLine {
    pub words: Vec<Word>,
    /// A quote was opened but not closed.
    pub unclosed: bool,
}

/// A word, without quotes and escapes.
pub(super) struct Word {
    /// The number of the line in which it begins, from 1.
    pub line: usize,
    pub bytes: Vec<u8>,
}

enum Lexeme {
    End,
    Blank(u8),
    Quote,
    Hash,
    Byte(u8),
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self { rest: text, number: 1 }
    }

    fn line(&mut self) -> LogicalLine {
        let mut line = LogicalLine::default();
        let mut word = None;
        loop {
            let number = self.number;
            let begin = || Word { line: number, bytes: Vec::new() };
            match self.token() {
                Lexeme::End => break,
                Lexeme::Quote => {
                    // A quote begins a word even if nothing follows: "" is an empty word.
                    word.get_or_insert_with(begin);
                    line.unclosed = !line.unclosed;
                }
                Lexeme::Blank(_) if !line.unclosed => line.words.extend(word.take()),
                Lexeme::Hash if word.is_none() => self.skip_comment(),
                Lexeme::Hash => word.get_or_insert_with(begin).bytes.push(b'#'),
                Lexeme::Blank(byte) | Lexeme::Byte(byte) => {
                    word.get_or_insert_with(begin).bytes.push(byte);
                }
            }
        }
        line.words.extend(word);
        line
    }

    fn token(&mut self) -> Lexeme {
        let (token, rest) = match self.rest {
            [] => (Lexeme::End, self.rest),
            [b'\n', rest @ ..] => {
                self.number += 1;
                (Lexeme::End, rest)
            }
            [b'\\', b'\n', rest @ ..] => {
                self.number += 1;
                let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
                (Lexeme::Blank(b' '), &rest[blanks..])
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] => {
                (Lexeme::Byte((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')), rest)
            }
            [b'"', rest @ ..] => (Lexeme::Quote, rest),
            [b'#', rest @ ..] => (Lexeme::Hash, rest),
            [byte, rest @ ..] if byte.is_ascii_whitespace() => (Lexeme::Blank(*byte), rest),
            [byte, rest @ ..] => (Lexeme::Byte(*byte), rest),
        };
        self.rest = rest;
        token
    }

    fn skip_comment(&mut self) {
        let end = self.rest.iter().position(|&byte| byte == b'\n').unwrap_or(self.rest.len());
        self.rest = &self.rest[end..];
    }
}

impl Iterator for Lines<'_> {
    type Item = LogicalLine;

    fn next(&mut self) -> Option<LogicalLine> {
        while !self.rest.is_empty() {
            let line = self.line();
            if !line.words.is_empty() {
                return Some(line);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as `line:text`, lines separated by `;`; `!` marks a line whose quote is open.
    fn check(text: &str, expected: &str) {
        let show = |word: &Word| format!("{}:{}", word.line, word.bytes.escape_ascii());
        let lines = Lines::new(text.as_bytes()).map(|line| {
            let words: Vec<_> = line.words.iter().map(show).collect();
            words.join(" ") + if line.unclosed { "!" } else { "" }
        });
        assert_eq!(lines.collect::<Vec<_>>().join(";"), expected, "{text:?}");
    }

    #[test]
    fn lines_are_split_into_words() {
        check("", "");
        check("\n \n\t\n", "");
        check("/a b\n/c", "1:/a 1:b;2:/c");
        check("  /a\t b \r\n", "1:/a 1:b");
        check("# x\n/a # y\n/b#z #\n", "2:/a;3:/b#z");
        check("# x \\\n/a", "2:/a");
        check("/a \\\n   b\\\nc\n/d", "1:/a 2:b 3:c;4:/d");
        check("\\\n/a", "2:/a");
        check("/a\\", r"1:/a\\");
        check(r#""/a b" c"#, "1:/a b 1:c");
        check(r#"/a" "b"#, "1:/a b");
        check(r#""/a#b""#, "1:/a#b");
        check(r##""#a" \043b ""#c"##, "1:#a 1:#b 1:#c");
        check(r#""" x"#, "1: 1:x");
        check("\"/a b\n/c", "1:/a b!;2:/c");
        check(r"/a\040b", "1:/a b");
        check(r"/a\043\042\134", r#"1:/a#\"\\"#);
        check(r"/a\400\008\x", r"1:/a\\400\\008\\x");
        check(r"/a\377", r"1:/a\xff");
    }
}
