//! The parameters of a StorageClass: as text ([`RawParameters`]), and checked and converted
//! ([`ClassParameters`]). Pure.
//!
//! An unknown parameter and an invalid value are errors that name the parameter; they become an
//! event of the claim. No parameter is ignored, and no default replaces an invalid value, because a
//! class promises what its volumes are.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::pattern::{PathPattern, PatternError};
use crate::label::is_label;
use crate::volume::name::{VolumeId, VolumeName};
use crate::volume::spec::{OnDelete, Spec, parse_client, parse_mode, parse_squash};
use crate::volume::words::UnknownWord;

/// Not a valid uid or gid: chown(2) takes it as "do not change".
const NO_ID: u32 = u32::MAX;

/// The parameters as text. These are all parameters that there are.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawParameters {
    on_delete: Option<String>,
    archive_on_delete: Option<String>,
    path_pattern: Option<String>,
    uid: Option<String>,
    gid: Option<String>,
    mode: Option<String>,
    squash: Option<String>,
    anon_uid: Option<String>,
    anon_gid: Option<String>,
    clients: Option<String>,
    secure: Option<String>,
    nosuid: Option<String>,
    nodev: Option<String>,
    sync: Option<String>,
    quota: Option<String>,
    inodes: Option<String>,
    labels: Option<String>,
}

/// What a class asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct ClassParameters {
    /// How the directories of volumes are named.
    pub pattern: PathPattern,
    /// Labels of the PV.
    pub labels: BTreeMap<String, String>,
    /// Everything else. Name, id and capacity are placeholders.
    like: Spec,
}

/// Why parameters cannot be used.
#[derive(Error, Debug, PartialEq, Eq)]
pub enum ParameterError {
    /// There is no such parameter.
    #[error("parameters of the class: {0}; correct it, in a new StorageClass")]
    Unknown(String),
    /// A value is invalid.
    #[error("parameter {key}: {why}; correct it, in a new StorageClass")]
    Value {
        /// The parameter.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The pattern is invalid.
    #[error("parameter pathPattern: {0}; correct it, in a new StorageClass")]
    PathPattern(PatternError),
}

type Result<T> = std::result::Result<T, ParameterError>;

impl ClassParameters {
    /// Reads the parameters of a class.
    ///
    /// # Errors
    /// [`ParameterError`]
    pub fn read(parameters: &BTreeMap<String, String>) -> Result<Self> {
        let texts = parameters.iter().map(|(k, v)| (k.clone(), Value::String(v.clone())));
        let raw: RawParameters =
            serde_json::from_value(Value::Object(texts.collect::<Map<_, _>>()))
                .map_err(|error| ParameterError::Unknown(error.to_string()))?;
        let pattern = match &raw.path_pattern {
            Some(text) => PathPattern::parse(text).map_err(ParameterError::PathPattern)?,
            None => PathPattern::default(),
        };
        let labels = raw.labels.as_deref().map(labels).transpose()?.unwrap_or_default();
        Ok(Self { pattern, labels, like: raw.spec()? })
    }

    /// Returns the specification of a volume of the class; `capacity` in bytes.
    pub fn spec(&self, name: VolumeName, id: VolumeId, capacity: u64) -> Spec {
        Spec { name, id, capacity, ..self.like.clone() }
    }

    /// How volumes of the class are reclaimed.
    pub fn on_delete(&self) -> OnDelete {
        self.like.on_delete
    }
}

impl RawParameters {
    fn spec(&self) -> Result<Spec> {
        let mut like = placeholder()?;
        like.on_delete = self.on_delete()?;
        like.uid = self.uid.as_deref().map(|text| id("uid", text)).transpose()?;
        like.gid = self.gid.as_deref().map(|text| id("gid", text)).transpose()?;
        like.inodes = self.inodes.as_deref().map(|text| number("inodes", text)).transpose()?;
        if let Some(text) = &self.mode {
            like.mode = parse_mode(text).map_err(|why| value("mode", why))?;
        }
        if let Some(text) = &self.squash {
            like.squash = parse_squash(text).map_err(|why| value("squash", why))?;
        }
        if let Some(text) = &self.anon_uid {
            like.anon_uid = id("anonUid", text)?;
        }
        if let Some(text) = &self.anon_gid {
            like.anon_gid = id("anonGid", text)?;
        }
        if let Some(text) = &self.clients {
            let clients = items(text).map(parse_client).collect::<std::result::Result<_, _>>();
            like.clients = clients.map_err(|why| value("clients", why))?;
            if like.clients.is_empty() {
                return Err(value("clients", "nobody may use the volume; name a client, or *"));
            }
        }
        if let Some(text) = &self.secure {
            like.secure = truth("secure", text)?;
        }
        like.nosuid = self.nosuid.as_deref().map(|text| truth("nosuid", text)).transpose()?;
        like.nodev = self.nodev.as_deref().map(|text| truth("nodev", text)).transpose()?;
        if let Some(text) = &self.sync {
            like.sync = truth("sync", text)?;
        }
        if let Some(text) = &self.quota {
            like.quota = text.parse().map_err(|why| choice("quota", &why))?;
        }
        Ok(like)
    }

    /// `onDelete` counts before `archiveOnDelete`, its older form.
    fn on_delete(&self) -> Result<OnDelete> {
        let archive = self.archive_on_delete.as_deref();
        let archive = archive.map(|text| truth("archiveOnDelete", go_truth(text))).transpose()?;
        match (&self.on_delete, archive) {
            (Some(text), _) => text.parse().map_err(|why| choice("onDelete", &why)),
            (None, Some(true)) => Ok(OnDelete::Archive),
            (None, Some(false)) => Ok(OnDelete::Delete),
            (None, None) => Ok(OnDelete::default()),
        }
    }
}

/// A volume with the default of everything.
fn placeholder() -> Result<Spec> {
    let broken = |why: crate::volume::name::BadName| value("name", why.to_string());
    let name = VolumeName::new("class").map_err(broken)?;
    Ok(Spec::new(name, VolumeId::new("class").map_err(broken)?, 0))
}

fn value(key: &'static str, why: impl Into<String>) -> ParameterError {
    ParameterError::Value { key, why: why.into() }
}

fn choice(key: &'static str, why: &UnknownWord) -> ParameterError {
    value(key, why.to_string())
}

/// Digits only: `str::parse` takes a sign too.
fn number<T: FromStr>(key: &'static str, text: &str) -> Result<T> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| value(key, format!("{text:?} is not a number, or too large")))
}

fn id(key: &'static str, text: &str) -> Result<u32> {
    match number(key, text)? {
        NO_ID => Err(value(key, format!("{text} means nobody in particular"))),
        id => Ok(id),
    }
}

fn truth(key: &'static str, text: &str) -> Result<bool> {
    let text = text.to_ascii_lowercase();
    text.parse().map_err(|_| value(key, format!("{text:?} is neither true nor false")))
}

/// Converts the other spellings that Go accepts, as nfs-subdir-external-provisioner does.
fn go_truth(text: &str) -> &str {
    match text {
        "1" | "t" | "T" => "true",
        "0" | "f" | "F" => "false",
        other => other,
    }
}

/// The items of a comma-separated list, without blanks around them.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn labels(text: &str) -> Result<BTreeMap<String, String>> {
    let label = |word: &str| {
        let (key, label) = word.split_once('=').unwrap_or((word, ""));
        let (key, label) = (key.trim(), label.trim());
        match is_label(key, label) {
            true => Ok((key.to_owned(), label.to_owned())),
            false => Err(value("labels", format!("{word:?} is no label, like team=blue"))),
        }
    };
    items(text).map(label).collect()
}

/// Describes the parameters of a volume, for the log.
pub fn describe(spec: &Spec) -> String {
    let (mode, squash) = (spec.mode, spec.squash.name());
    format!("mode={mode:04o} {squash} onDelete={}", spec.on_delete.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::Squash;
    use crate::volume::spec::QuotaMode;

    fn read(words: &[(&str, &str)]) -> Result<ClassParameters> {
        let own = |(k, v): &(&str, &str)| (k.to_string(), v.to_string());
        ClassParameters::read(&words.iter().map(own).collect())
    }

    fn spec(words: &[(&str, &str)]) -> Spec {
        read(words).unwrap().spec(VolumeName::new("n").unwrap(), VolumeId::new("i").unwrap(), 5)
    }

    #[test]
    fn a_class_may_have_no_parameters() {
        let plain = Spec::new(VolumeName::new("n").unwrap(), VolumeId::new("i").unwrap(), 5);
        assert_eq!(spec(&[]), plain);
        assert_eq!(read(&[]).unwrap().pattern, PathPattern::default());
        assert!(read(&[]).unwrap().labels.is_empty());
    }

    #[test]
    fn every_parameter_is_read() {
        let spec = spec(&[
            ("onDelete", "archive"),
            ("uid", "1"),
            ("gid", "2"),
            ("mode", "2770"),
            ("squash", "all_squash"),
            ("anonUid", "3"),
            ("anonGid", "4"),
            ("clients", "10.0.0.0/8, fd00::1"),
            ("secure", "true"),
            ("nosuid", "true"),
            ("nodev", "false"),
            ("sync", "false"),
            ("quota", "report"),
            ("inodes", "7"),
        ]);
        assert_eq!((spec.uid, spec.gid, spec.mode), (Some(1), Some(2), 0o2770));
        assert_eq!((spec.squash, spec.anon_uid, spec.anon_gid), (Squash::All, 3, 4));
        assert_eq!((spec.clients.len(), spec.sync, spec.quota), (2, false, QuotaMode::Report));
        assert_eq!((spec.secure, spec.nosuid, spec.nodev), (true, Some(true), Some(false)));
        assert_eq!((spec.inodes, spec.on_delete), (Some(7), OnDelete::Archive));
        let labels = read(&[("labels", "team=blue, example.org/x=")]).unwrap().labels;
        assert_eq!(labels.len(), 2);
        assert_eq!(labels["team"], "blue");
    }

    #[test]
    fn on_delete_counts_before_archive_on_delete() {
        let check = |words: &[(&str, &str)], expected| assert_eq!(spec(words).on_delete, expected);
        check(&[("archiveOnDelete", "true")], OnDelete::Archive);
        check(&[("archiveOnDelete", "False")], OnDelete::Delete);
        ["1", "t", "T", "TRUE"]
            .iter()
            .for_each(|t| check(&[("archiveOnDelete", t)], OnDelete::Archive));
        ["0", "f", "F"].iter().for_each(|t| check(&[("archiveOnDelete", t)], OnDelete::Delete));
        check(&[], OnDelete::Delete);
        check(&[("archiveOnDelete", "true"), ("onDelete", "retain")], OnDelete::Retain);
        check(&[("onDelete", "recycle")], OnDelete::Recycle);
    }

    #[test]
    fn an_invalid_parameter_is_refused_by_name() {
        let check = |key: &str, text: &str| {
            let error = read(&[(key, text)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("StorageClass"), "{error}");
        };
        check("onDelet", "delete");
        check("ondelete", "delete");
        check("onDelete", "burn");
        check("onDelete", "");
        check("archiveOnDelete", "maybe");
        check("pathPattern", "${.PVC.colour}");
        for id in ["uid", "gid", "anonUid", "anonGid"] {
            ["", "-1", "+1", "root", "4294967295", "4294967296"].iter().for_each(|t| check(id, t));
        }
        check("mode", "888");
        check("squash", "some");
        check("clients", "example.org");
        check("clients", " , ");
        check("sync", "yes");
        ["secure", "nosuid", "nodev"].iter().for_each(|key| check(key, "maybe"));
        check("quota", "some");
        check("inodes", "-1");
        check("inodes", "many");
        check("labels", "a b=c");
        let error = read(&[("onDelet", "x")]).unwrap_err().to_string();
        assert!(error.contains("`onDelete`"), "the known parameters are named: {error}");
    }
}
