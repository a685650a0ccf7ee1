//! The words for [`QuotaMode`] and [`OnDelete`]: one parser for parameters of StorageClasses, the
//! command line, the API and the registry.

use std::str::FromStr;

use thiserror::Error;

use super::spec::{OnDelete, QuotaMode};

/// Why a text is not one of the words for a choice.
#[derive(Clone, PartialEq, Eq, Error, Debug)]
#[error("{text:?} is not one of {words}")]
pub struct UnknownWord {
    text: String,
    words: String,
}

/// Returns the choice that `text` names.
fn find_word<T: Copy>(
    text: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, UnknownWord> {
    all.iter().copied().find(|choice| name(*choice) == text).ok_or_else(|| {
        let words: Vec<_> = all.iter().map(|choice| name(*choice)).collect();
        UnknownWord { text: text.to_owned(), words: words.join(", ") }
    })
}

impl QuotaMode {
    /// All modes, in the order in which help lists them.
    pub const ALL: [Self; 3] = [Self::Enforce, Self::Report, Self::Off];

    /// Returns the word for it in parameters, in the API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Report => "report",
            Self::Off => "off",
        }
    }
}

impl OnDelete {
    /// All choices, in the order in which help lists them.
    pub const ALL: [Self; 4] = [Self::Delete, Self::Archive, Self::Recycle, Self::Retain];

    /// Returns the word for it in parameters, in the API and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Archive => "archive",
            Self::Recycle => "recycle",
            Self::Retain => "retain",
        }
    }
}

impl FromStr for QuotaMode {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        find_word(text, &Self::ALL, Self::name)
    }
}

impl TryFrom<String> for QuotaMode {
    type Error = UnknownWord;

    fn try_from(text: String) -> Result<Self, UnknownWord> {
        text.parse()
    }
}

impl From<QuotaMode> for &'static str {
    fn from(choice: QuotaMode) -> Self {
        choice.name()
    }
}

impl FromStr for OnDelete {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        find_word(text, &Self::ALL, Self::name)
    }
}

impl TryFrom<String> for OnDelete {
    type Error = UnknownWord;

    fn try_from(text: String) -> Result<Self, UnknownWord> {
        text.parse()
    }
}

impl From<OnDelete> for &'static str {
    fn from(choice: OnDelete) -> Self {
        choice.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_is_read_by_its_name() {
        QuotaMode::ALL.iter().for_each(|mode| assert_eq!(mode.name().parse(), Ok(*mode)));
        OnDelete::ALL.iter().for_each(|how| assert_eq!(how.name().parse(), Ok(*how)));
        let refused = |text: &str| text.parse::<OnDelete>().unwrap_err().to_string();
        assert_eq!(refused("Delete"), "\"Delete\" is not one of delete, archive, recycle, retain");
        assert_eq!(serde_json::to_string(&QuotaMode::Off).unwrap(), "\"off\"");
    }
}
