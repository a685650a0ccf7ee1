//! Names of volumes for people and paths, and ids for programs.
//!
//! Both become parts of paths. They are checked when they are created and never again.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name, in bytes: that of a directory.
const NAME_MAX: usize = 255;

/// Longest path of a directory, in bytes.
const PATH_MAX: usize = 1024;

/// Lengths of tokens, in bytes. The shortest has about 80 bits if it is random.
const TOKEN_LEN: RangeInclusive<usize> = 16..=64;

/// Longest id, in bytes. It becomes the name of a file, with an extension.
const ID_MAX: usize = 128;

/// The name of a volume. It is the name of its directory, and with a `/` before it the path that
/// clients mount.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct VolumeName(String);

/// The id by which a program knows the volume that it has requested, so that it can repeat the
/// request. It belongs to one volume for ever, and survives recycling.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct VolumeId(String);

/// The secret component of the path that clients mount. Without it a volume cannot be mounted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct MountToken(String);

/// The path of a volume's directory below the directory with volumes, if it is not the volume's
/// name: one or several components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct VolumeDirectory(String);

/// Why a text is not a name, an id, a directory or a token.
#[derive(Clone, Copy, PartialEq, Eq, Error, Debug)]
pub enum BadName {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It has more bytes than this.
    #[error("has more than {0} bytes")]
    TooLong(usize),
    /// It begins with a dot: such names are Berth's own, or `.` and `..`.
    #[error("begins with a dot")]
    Dot,
    /// It has several components.
    #[error("has a slash in it")]
    Slash,
    /// It cannot be displayed.
    #[error("has a control character in it")]
    Control,
    /// Only for tokens: a shorter one could be guessed.
    #[error("does not consist of 16 to 64 letters and digits")]
    MountToken,
    /// Only for ids.
    #[error("has characters other than letters, digits, '-', '_' and '.'")]
    Character,
}

impl VolumeName {
    /// Checks a name: 1 to 255 bytes, no `/`, no control characters, no `.` at the beginning.
    pub fn new(name: impl Into<String>) -> Result<Self, BadName> {
        let name = name.into();
        let shown = |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
        match name.as_str() {
            "" => Err(BadName::Empty),
            _ if name.len() > NAME_MAX => Err(BadName::TooLong(NAME_MAX)),
            _ if name.starts_with('.') => Err(BadName::Dot),
            _ if name.contains('/') => Err(BadName::Slash),
            _ if !name.chars().all(shown) => Err(BadName::Control),
            _ => Ok(Self(name)),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl VolumeDirectory {
    /// Checks a relative path: names ([`VolumeName::new`]) separated by `/`, at most 1024 bytes.
    pub fn new(path: impl Into<String>) -> Result<Self, BadName> {
        let path = path.into();
        if path.len() > PATH_MAX {
            return Err(BadName::TooLong(PATH_MAX));
        }
        path.split('/').try_for_each(|name| VolumeName::new(name).map(drop))?;
        Ok(Self(path))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl VolumeId {
    /// Checks an id: 1 to 128 letters, digits, `-`, `_` and `.`, with no `.` at the beginning.
    pub fn new(id: impl Into<String>) -> Result<Self, BadName> {
        let id = id.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        match id.as_str() {
            "" => Err(BadName::Empty),
            _ if id.len() > ID_MAX => Err(BadName::TooLong(ID_MAX)),
            _ if id.starts_with('.') => Err(BadName::Dot),
            _ if !id.chars().all(allowed) => Err(BadName::Character),
            _ => Ok(Self(id)),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl MountToken {
    /// Checks a token: 16 to 64 letters and digits.
    pub fn new(token: impl Into<String>) -> Result<Self, BadName> {
        let token = token.into();
        let plain = token.bytes().all(|b| b.is_ascii_alphanumeric());
        if plain && TOKEN_LEN.contains(&token.len()) {
            Ok(Self(token))
        } else {
            Err(BadName::MountToken)
        }
    }

    /// Returns a random token.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(Self(format!("{:032x}", u128::from_ne_bytes(bytes))))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hides the token, because debug output ends up in logs.
impl fmt::Debug for MountToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MountToken(..)")
    }
}

impl TryFrom<String> for MountToken {
    type Error = BadName;

    fn try_from(token: String) -> Result<Self, BadName> {
        Self::new(token)
    }
}

impl TryFrom<String> for VolumeName {
    type Error = BadName;

    fn try_from(name: String) -> Result<Self, BadName> {
        Self::new(name)
    }
}

impl TryFrom<String> for VolumeDirectory {
    type Error = BadName;

    fn try_from(path: String) -> Result<Self, BadName> {
        Self::new(path)
    }
}

impl TryFrom<String> for VolumeId {
    type Error = BadName;

    fn try_from(id: String) -> Result<Self, BadName> {
        Self::new(id)
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for VolumeDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_visible_directory() {
        let check = |name: &str, expected| {
            assert_eq!(VolumeName::new(name).map(|name| name.0), expected, "{name:?}");
        };
        let good = |name: &str| check(name, Ok(name.to_owned()));
        good("data");
        good("default-claim-pvc-1b2c");
        good("a..b");
        good("mit Leerzeichen, Umläuten");
        good(&"x".repeat(255));
        check("", Err(BadName::Empty));
        check(&"x".repeat(256), Err(BadName::TooLong(255)));
        check(&"ü".repeat(128), Err(BadName::TooLong(255)));
        check(".", Err(BadName::Dot));
        check("..", Err(BadName::Dot));
        check(".berth", Err(BadName::Dot));
        check("a/b", Err(BadName::Slash));
        check("/a", Err(BadName::Slash));
        check("a\0b", Err(BadName::Control));
        check("a\nb", Err(BadName::Control));
        check("a\u{7f}", Err(BadName::Control));
        check("a\u{9b}31m", Err(BadName::Control));
    }

    #[test]
    fn ids_are_plain() {
        let check = |id: &str, expected: Option<BadName>| {
            assert_eq!(VolumeId::new(id).err(), expected, "{id:?}");
        };
        check("0f2c6a6e-8e5d-4a39-9f7f-1c2d3e4f5a6b", None);
        check("a.b_c", None);
        check("", Some(BadName::Empty));
        check("..", Some(BadName::Dot));
        check("a/b", Some(BadName::Character));
        check("a b", Some(BadName::Character));
        check(&"x".repeat(129), Some(BadName::TooLong(128)));
    }

    #[test]
    fn tokens_cannot_be_guessed() {
        let [one, other] = [(); 2].map(|()| MountToken::random().unwrap());
        assert!(one != other && one.as_str().len() == 32);
        assert_eq!(MountToken::new(one.as_str()), Ok(one.clone()));
        assert!(!format!("{one:?}").contains(one.as_str()));
        for bad in
            ["", "short", "with-a-dash-and-long-enough", "a/b/c/d/e/f/g/h/i/j/k", &"x".repeat(65)]
        {
            assert_eq!(MountToken::new(bad), Err(BadName::MountToken), "{bad}");
        }
    }

    #[test]
    fn directories_stay_below() {
        let check = |path: &str, expected: Option<BadName>| {
            assert_eq!(VolumeDirectory::new(path).err(), expected, "{path:?}");
        };
        check("a", None);
        check("team/app/data", None);
        check("", Some(BadName::Empty));
        check("/a", Some(BadName::Empty));
        check("a/", Some(BadName::Empty));
        check("a//b", Some(BadName::Empty));
        check("a/../b", Some(BadName::Dot));
        check("a/./b", Some(BadName::Dot));
        check(".berth/volumes", Some(BadName::Dot));
        check("a/b\nc", Some(BadName::Control));
        check(&"a/".repeat(600), Some(BadName::TooLong(1024)));
    }

    #[test]
    fn what_is_read_is_checked() {
        assert!(serde_json::from_str::<VolumeName>("\"../x\"").is_err());
        assert!(serde_json::from_str::<VolumeId>("\"../x\"").is_err());
        assert_eq!(serde_json::from_str::<VolumeName>("\"x\"").unwrap().as_str(), "x");
    }
}
