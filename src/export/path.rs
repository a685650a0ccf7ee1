//! The path by which clients mount an export.
//!
//! Paths are bytes, as in MOUNT; no encoding is assumed. They are kept in a normal form, so equal
//! paths are equal bytes: `/` alone, or one slash before each component.

use std::fmt::{self, Write};

use thiserror::Error;

/// Longest path that a client can mount, in bytes (`MNTPATHLEN`, RFC 1813 appendix I).
pub const MAX: usize = 1024;

/// Why a path cannot be exported.
#[derive(Clone, Copy, PartialEq, Eq, Error, Debug)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("path is not absolute; begin it with a slash")]
    Relative,
    /// It contains a `..`.
    #[error("path contains ..; write the directory itself")]
    Parent,
    /// It contains a NUL byte.
    #[error("path contains a NUL byte")]
    Nul,
    /// It exceeds [`MAX`].
    #[error("path is longer than {MAX} bytes, the longest that a client can mount")]
    TooLong,
}

/// Returns the normal form of a path, without `//`, `/./` and trailing slashes.
///
/// # Errors
/// The path is relative, contains `..` or a NUL byte, or exceeds [`MAX`].
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

/// Removes slashes from both ends.
pub(super) fn trim(mut path: &[u8]) -> &[u8] {
    while let [b'/', inner @ ..] | [inner @ .., b'/'] = path {
        path = inner;
    }
    path
}

/// Splits a trimmed path after its first component. The rest is trimmed again.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
    let (name, below) = path.split_at(end);
    (name, trim(below))
}

/// Writes a path as a word of exports(5). Bytes that would end the word or do not print are escaped
/// as `\040`.
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
    fn a_path_has_one_normal_form() {
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
