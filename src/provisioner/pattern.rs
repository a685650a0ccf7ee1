//! Names the directory of a claim by a pattern: `${.PVC.namespace}-${.PVC.name}-${.PV.name}`, or
//! the class's `pathPattern`. Pure.
//!
//! The result is below the root of the volumes whatever the claim contains: each component is a
//! [`VolumeName`], which does not begin with a dot and contains no slash. A missing value is an
//! error and does not count as empty: two claims without a label would get the same directory.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use crate::volume::name::{self, BadName, VolumeName};

/// The pattern of classes without `pathPattern`.
const DEFAULT: &str = "${.PVC.namespace}-${.PVC.name}-${.PV.name}";

/// Longest component, in bytes.
const COMPONENT_MAX: usize = 255;

/// A parsed pattern.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathPattern(Vec<PatternPiece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum PatternPiece {
    Text(String),
    Namespace,
    Claim,
    Volume,
    Label(String),
    Annotation(String),
}

/// The values that are filled in.
#[derive(Clone, Copy, Debug)]
pub struct PatternValues<'a> {
    /// The claim's namespace.
    pub namespace: &'a str,
    /// The claim's name.
    pub claim: &'a str,
    /// The PV's name.
    pub volume: &'a str,
    /// The claim's labels.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// The claim's annotations.
    pub annotations: Option<&'a BTreeMap<String, String>>,
}

/// A directory below the root of the volumes: one component, or several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PatternDirectory(Vec<VolumeName>);

/// Why a pattern or its result cannot be used.
#[derive(Error, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// The pattern is empty.
    #[error("it is empty")]
    Empty,
    /// There is no such value.
    #[error(
        "${{{0}}} is not known; use ${{.PVC.namespace}}, ${{.PVC.name}}, ${{.PVC.labels.X}}, \
         ${{.PVC.annotations.X}}, ${{.PV.name}}"
    )]
    Unknown(String),
    /// A `${` has no closing `}`.
    #[error("${{ has no }} after it")]
    Open,
    /// The claim does not have the value.
    #[error("the claim has no {what} {key}, which pathPattern names; add it to the claim")]
    Missing {
        /// Label or annotation.
        what: &'static str,
        /// Which one.
        key: String,
    },
    /// The result is not a path below the root.
    #[error("pathPattern makes the directory {path:?} of this claim, of which a part {why}")]
    Name {
        /// The result.
        path: String,
        /// What is wrong with it.
        why: BadName,
    },
}

type Result<T> = std::result::Result<T, PatternError>;

impl Default for PathPattern {
    fn default() -> Self {
        Self::parse(DEFAULT).expect("the default is a pattern")
    }
}

impl PathPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// It is empty, or names an unknown value.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let (key, behind) = after.split_once('}').ok_or(PatternError::Open)?;
            if !before.is_empty() {
                pieces.push(PatternPiece::Text(before.to_owned()));
            }
            pieces.push(PatternPiece::named(key.trim())?);
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(PatternPiece::Text(rest.to_owned()));
        }
        if pieces.is_empty() { Err(PatternError::Empty) } else { Ok(Self(pieces)) }
    }

    /// Returns the directory of a claim; always the same one for the same values.
    ///
    /// # Errors
    /// A value is missing, or the result is not a path below the root.
    pub fn directory(&self, subject: PatternValues<'_>) -> Result<PatternDirectory> {
        let values = self.0.iter().map(|piece| piece.value(subject)).collect::<Result<Vec<_>>>()?;
        let mut path = values.concat();
        if *self == Self::default() && path.len() > COMPONENT_MAX {
            path = shortened(&path, subject.volume);
        }
        let name = |part: &str| VolumeName::new(part);
        let names = path.split('/').map(name).collect::<std::result::Result<Vec<_>, _>>();
        names.map(PatternDirectory).map_err(|why| PatternError::Name { path, why })
    }
}

impl PatternPiece {
    /// Parses the name of a value, in both spellings that other provisioners use.
    fn named(key: &str) -> Result<Self> {
        Ok(match key {
            ".PVC.namespace" | "pvc.metadata.namespace" => Self::Namespace,
            ".PVC.name" | "pvc.metadata.name" => Self::Claim,
            ".PV.name" | "pv.metadata.name" => Self::Volume,
            _ => match (after(key, "labels."), after(key, "annotations.")) {
                (Some(label), _) => Self::Label(label),
                (None, Some(annotation)) => Self::Annotation(annotation),
                (None, None) => return Err(PatternError::Unknown(key.to_owned())),
            },
        })
    }

    fn value<'a>(&'a self, subject: PatternValues<'a>) -> Result<&'a str> {
        let find = |what, map: Option<&'a BTreeMap<String, String>>, key: &String| {
            let value = map.and_then(|map| map.get(key)).filter(|value| !value.is_empty());
            let missing = || PatternError::Missing { what, key: key.clone() };
            value.map(String::as_str).ok_or_else(missing)
        };
        match self {
            Self::Text(text) => Ok(text),
            Self::Namespace => Ok(subject.namespace),
            Self::Claim => Ok(subject.claim),
            Self::Volume => Ok(subject.volume),
            Self::Label(key) => find("label", subject.labels, key),
            Self::Annotation(key) => find("annotation", subject.annotations, key),
        }
    }
}

/// The rest of a name after `.PVC.labels.` and the like.
fn after(key: &str, part: &str) -> Option<String> {
    let rest = key.strip_prefix(".PVC.").or_else(|| key.strip_prefix("pvc.metadata."))?;
    rest.strip_prefix(part).filter(|rest| !rest.is_empty()).map(str::to_owned)
}

/// Shortens the default directory of a claim with a long name. The PV's name at its end keeps it
/// unique.
fn shortened(path: &str, volume: &str) -> String {
    let room = COMPONENT_MAX.saturating_sub(volume.len() + 1);
    format!("{}-{volume}", &path[..path.floor_char_boundary(room)])
}

impl PatternDirectory {
    /// Returns the volume's name, and its directory if that is not its name. A volume whose
    /// directory has several components is named after its PV, `volume`.
    ///
    /// # Errors
    /// The path is too long.
    pub fn into_place(self, volume: &str) -> Result<(VolumeName, Option<name::VolumeDirectory>)> {
        let path = self.to_string();
        let bad = |why| PatternError::Name { path: path.clone(), why };
        match <[VolumeName; 1]>::try_from(self.0) {
            Ok([name]) => Ok((name, None)),
            Err(_) => {
                let directory = name::VolumeDirectory::new(path.clone()).map_err(bad)?;
                Ok((VolumeName::new(volume).map_err(bad)?, Some(directory)))
            }
        }
    }
}

impl fmt::Display for PatternDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            write!(f, "{}{name}", if i == 0 { "" } else { "/" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(words: &[(&str, &str)]) -> BTreeMap<String, String> {
        words.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn named(pattern: &str) -> Result<String> {
        let labels = map(&[("team", "blue"), ("a.b/c", "x"), ("empty", ""), ("up", "..")]);
        let annotations =
            map(&[("path", "a/b"), ("abs", "/etc"), ("evil", "../../etc"), ("d", ".")]);
        let subject = PatternValues {
            namespace: "ns",
            claim: "data",
            volume: "pvc-1",
            labels: Some(&labels),
            annotations: Some(&annotations),
        };
        let directory = PathPattern::parse(pattern)?.directory(subject)?;
        let (name, place) = directory.into_place(subject.volume)?;
        Ok(place.map_or(name.to_string(), |place| format!("{name} in {place}")))
    }

    #[test]
    fn values_are_filled_in() {
        let check = |pattern: &str, expected: &str| {
            assert_eq!(named(pattern).as_deref(), Ok(expected), "{pattern}");
        };
        check(DEFAULT, "ns-data-pvc-1");
        check("${.PVC.name}", "data");
        check("x-${.PVC.labels.team}-y", "x-blue-y");
        check("${.PVC.labels.a.b/c}", "x");
        check(
            "${pvc.metadata.namespace}_${ pvc.metadata.name }_${pv.metadata.name}",
            "ns_data_pvc-1",
        );
        check("${pvc.metadata.labels.team}", "blue");
        check("$x{y}", "$x{y}");
        check("${.PVC.annotations.path}", "pvc-1 in a/b");
        check("${.PVC.namespace}/${.PVC.name}", "pvc-1 in ns/data");
    }

    #[test]
    fn paths_outside_the_root_are_refused() {
        let check = |pattern: &str, word: &str| {
            let error = named(pattern).unwrap_err().to_string();
            assert!(error.contains(word), "{pattern}: {error}");
        };
        check("", "empty");
        check("${.PVC.colour}", ".PVC.colour");
        check("${.PVC.labels.}", ".PVC.labels.");
        check("${.PVC.name", "no }");
        check("${.PVC.labels.none}", "label none");
        check("${.PVC.labels.empty}", "label empty");
        check("${.PVC.annotations.none}", "annotation none");
        check("${.PVC.labels.up}", "dot");
        check("${.PVC.annotations.d}", "dot");
        check("${.PVC.annotations.evil}", "dot");
        check("${.PVC.annotations.abs}", "empty");
        check("/${.PVC.name}", "empty");
        check("${.PVC.name}/", "empty");
        check(".${.PVC.name}", "dot");
        check(&format!("{}x", "x/".repeat(600)), "1024");
        check(&"x".repeat(256), "255");
    }

    #[test]
    fn claims_with_long_names_have_directories_of_their_own() {
        let claim = "c".repeat(253);
        let directory = |volume| {
            let (labels, annotations) = (None, None);
            let subject =
                PatternValues { namespace: "ns", claim: &claim, volume, labels, annotations };
            PathPattern::default().directory(subject).unwrap().to_string()
        };
        assert!(directory("pvc-1").ends_with("c-pvc-1") && directory("pvc-1").len() <= 255);
        assert_ne!(directory("pvc-1"), directory("pvc-2"));
    }

    proptest! {
        #[test]
        fn no_value_leads_out_of_the_root(label in ".*", text in ".*") {
            let labels = map(&[("x", &label)]);
            let (labels, annotations) = (Some(&labels), None);
            let subject = PatternValues {
                namespace: "ns", claim: "c", volume: "v", labels, annotations,
            };
            if let Ok(pattern) = PathPattern::parse(&format!("{text}${{.PVC.labels.x}}"))
                && let Ok(directory) = pattern.directory(subject)
            {
                let path = directory.to_string();
                prop_assert!(!path.starts_with('/'));
                let bad = |part: &str| part.is_empty() || part == "." || part == "..";
                prop_assert!(!path.split('/').any(bad), "{}", path);
            }
        }
    }
}
