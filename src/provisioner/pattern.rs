//! How the directory of a claim is named: `${.PVC.namespace}-${.PVC.name}-${.PV.name}`, or what the
//! class says. Pure.
//!
//! What comes out is below the root of the volumes whatever stands in the claim: a component is a
//! volume's [`VolumeName`], which is no `..`, begins with no dot and holds no slash. A value that is not
//! there is an error, and not nothing: two claims that both lack a label would get one directory.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use crate::volume::name::{self, BadName, VolumeName};

/// The pattern of classes that say nothing.
const DEFAULT: &str = "${.PVC.namespace}-${.PVC.name}-${.PV.name}";

/// Longest component, in bytes.
const COMPONENT_MAX: usize = 255;

/// A pattern, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    Namespace,
    Claim,
    Volume,
    Label(String),
    Annotation(String),
}

/// What is put in.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
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
pub struct Directory(Vec<VolumeName>);

/// Why a pattern, or what comes of it, cannot be used.
#[derive(Error, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// It has nothing in it.
    #[error("it is empty")]
    Empty,
    /// No such value.
    #[error(
        "${{{0}}} is not known; use ${{.PVC.namespace}}, ${{.PVC.name}}, ${{.PVC.labels.X}}, \
         ${{.PVC.annotations.X}}, ${{.PV.name}}"
    )]
    Unknown(String),
    /// A `${` without its end.
    #[error("${{ has no }} after it")]
    Open,
    /// The claim does not have it.
    #[error("the claim has no {what} {key}, which pathPattern names; add it to the claim")]
    Missing {
        /// Label or annotation.
        what: &'static str,
        /// Which one.
        key: String,
    },
    /// It would be another place.
    #[error("pathPattern makes the directory {path:?} of this claim, of which a part {why}")]
    Name {
        /// What came out.
        path: String,
        /// What is wrong with it.
        why: BadName,
    },
}

type Result<T> = std::result::Result<T, PatternError>;

impl Default for Pattern {
    fn default() -> Self {
        Self::parse(DEFAULT).expect("the default is a pattern")
    }
}

impl Pattern {
    /// Takes a pattern apart.
    ///
    /// # Errors
    /// It is empty, or names a value that is none.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let (key, behind) = after.split_once('}').ok_or(PatternError::Open)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::named(key.trim())?);
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if pieces.is_empty() { Err(PatternError::Empty) } else { Ok(Self(pieces)) }
    }

    /// The directory of a claim: always the same one for the same claim.
    ///
    /// # Errors
    /// A value is not there; what comes out is no directory below the root.
    pub fn directory(&self, subject: Subject<'_>) -> Result<Directory> {
        let values = self.0.iter().map(|piece| piece.value(subject)).collect::<Result<Vec<_>>>()?;
        let mut path = values.concat();
        if *self == Self::default() && path.len() > COMPONENT_MAX {
            path = shortened(&path, subject.volume);
        }
        let name = |part: &str| VolumeName::new(part);
        let names = path.split('/').map(name).collect::<std::result::Result<Vec<_>, _>>();
        names.map(Directory).map_err(|why| PatternError::Name { path, why })
    }
}

impl Piece {
    /// Both spellings that are in use elsewhere.
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

    fn value<'a>(&'a self, subject: Subject<'a>) -> Result<&'a str> {
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

/// What stands behind `.PVC.labels.` and the like.
fn after(key: &str, part: &str) -> Option<String> {
    let rest = key.strip_prefix(".PVC.").or_else(|| key.strip_prefix("pvc.metadata."))?;
    rest.strip_prefix(part).filter(|rest| !rest.is_empty()).map(str::to_owned)
}

/// The default name of a claim with a long one: its end, the PV's name, tells claims apart.
fn shortened(path: &str, volume: &str) -> String {
    let room = COMPONENT_MAX.saturating_sub(volume.len() + 1);
    format!("{}-{volume}", &path[..path.floor_char_boundary(room)])
}

impl Directory {
    /// The volume's name, and where it is, if that is not its name. A volume that lies deeper is
    /// called like its PV, `volume`: a name is one component.
    ///
    /// # Errors
    /// It is too long.
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

impl fmt::Display for Directory {
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
        let subject = Subject {
            namespace: "ns",
            claim: "data",
            volume: "pvc-1",
            labels: Some(&labels),
            annotations: Some(&annotations),
        };
        let directory = Pattern::parse(pattern)?.directory(subject)?;
        let (name, place) = directory.into_place(subject.volume)?;
        Ok(place.map_or(name.to_string(), |place| format!("{name} in {place}")))
    }

    #[test]
    fn values_are_put_in() {
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
    fn what_would_be_elsewhere_is_refused() {
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
    fn a_long_claim_has_a_directory_of_its_own() {
        let claim = "c".repeat(253);
        let directory = |volume| {
            let (labels, annotations) = (None, None);
            let subject = Subject { namespace: "ns", claim: &claim, volume, labels, annotations };
            Pattern::default().directory(subject).unwrap().to_string()
        };
        assert!(directory("pvc-1").ends_with("c-pvc-1") && directory("pvc-1").len() <= 255);
        assert_ne!(directory("pvc-1"), directory("pvc-2"));
    }

    proptest! {
        #[test]
        fn nothing_leads_out(label in ".*", text in ".*") {
            let labels = map(&[("x", &label)]);
            let (labels, annotations) = (Some(&labels), None);
            let subject = Subject {
                namespace: "ns", claim: "c", volume: "v", labels, annotations,
            };
            if let Ok(pattern) = Pattern::parse(&format!("{text}${{.PVC.labels.x}}"))
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
