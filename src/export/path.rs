//! The path by which clients name an export.
//!
//! Bytes, as MOUNT carries them: no encoding is assumed. Kept in one form, so that equal paths are
//! equal bytes: `/` alone, or every component behind one slash.

use std::fmt::{self, Write};

use thiserror::Error;

/// The longest path that a client can mount (RFC 1813 appendix I, `MNTPATHLEN`).
pub const MAX: usize = 1024;

/// Why a path cannot be exported.
#[derive(Clone, Copy, PartialEq, Eq, Error, Debug)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("path is not absolute")]
    Relative,
    /// It has a `..` in it.
    #[error("path has a .. in it")]
    Parent,
    /// It has a NUL in it.
    #[error("path has a NUL in it")]
    Nul,
    /// No client could mount it.
    #[error("path is longer than {MAX} bytes, the most that a client can mount")]
    TooLong,
}

/// Brings a path into the one form: takes out `//`, `/./` and slashes at the end.
pub fn normalise(path: &[u8]) -> Result<Vec<u8>, PathError> {
    if !path.starts_with(b"/") {
        return Err(PathError::Relative);
    }
    if path.contains(&0) {
        return Err(PathError::Nul);
    }
    let mut out = Vec::with_capacity(path.len());
    let mut rest = trim(path);
    while !rest.is_empty() {
        let (name, below) = split(rest);
        rest = below;
        match name {
            b".." => return Err(PathError::Parent),
            b"." => {}
            _ => {
                out.push(b'/');
                out.extend_from_slice(name);
            }
        }
    }
    match out.len() {
        0 => Ok(b"/".to_vec()),
        1..=MAX => Ok(out),
        _ => Err(PathError::TooLong),
    }
}

/// Takes the slashes off both ends.
pub(super) fn trim(mut path: &[u8]) -> &[u8] {
    while let [b'/', inner @ ..] | [inner @ .., b'/'] = path {
        path = inner;
    }
    path
}

/// Splits a trimmed path after its first component; what is left is trimmed again.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
    let (name, below) = path.split_at(end);
    (name, trim(below))
}

/// Writes a path as a word of exports(5): what would end the word, or would not print, as `\040`.
pub(super) fn write_escaped(f: &mut fmt::Formatter<'_>, path: &[u8]) -> fmt::Result {
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_whitespace() || c.is_control() || matches!(c, '"' | '#' | '\\') {
                write_octal(f, c.encode_utf8(&mut [0; 4]).as_bytes())?;
            } else {
                f.write_char(c)?;
            }
        }
        write_octal(f, chunk.invalid())?;
    }
    Ok(())
}

fn write_octal(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\{byte:03o}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form() {
        let check = |path: &str, expected: Result<&str, PathError>| {
            let expected = expected.map(|path| path.as_bytes().to_vec());
            assert_eq!(normalise(path.as_bytes()), expected, "{path:?}");
        };
        check("/", Ok("/"));
        check("//.//./", Ok("/"));
        check("/a", Ok("/a"));
        check("//a/./b//", Ok("/a/b"));
        check("/a/...", Ok("/a/..."));
        check("/a b", Ok("/a b"));
        check("", Err(PathError::Relative));
        check("a", Err(PathError::Relative));
        check("./a", Err(PathError::Relative));
        check("/..", Err(PathError::Parent));
        check("/a/../b", Err(PathError::Parent));
        check("/a\0b", Err(PathError::Nul));
        check(&format!("/{}", "a".repeat(MAX)), Err(PathError::TooLong));
        let longest = format!("/{}", "a".repeat(MAX - 1));
        check(&longest, Ok(&longest));
    }
}
