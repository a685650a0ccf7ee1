//! A list of export options as text: `rw,no_root_squash,anonuid=1000`.
//!
//! An option is accepted only if Berth does what it asks for. Options that ask for what Berth
//! always does are accepted without effect, each with its reason below. Other options of exports(5)
//! are rejected with a reason: an ignored option would promise something that does not happen.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::export::{Devices, Durability, ExportMode, ExportOptions, NO_ID, Ports, SetId, Squash};

/// Why an option is rejected.
#[derive(PartialEq, Eq, Error, Debug)]
pub enum OptionError {
    /// No such option.
    #[error("unknown option {0:?}")]
    Unknown(String),
    /// An option of exports(5) that Berth does not support.
    #[error("option {option:?} is not supported: {reason}")]
    Unsupported {
        /// The option.
        option: String,
        /// Why it is not supported, and what to write instead.
        reason: &'static str,
    },
    /// The value is not an id.
    #[error("option {0:?} needs a number from 0 to 4294967294")]
    Id(String),
}

/// Options while they are being parsed. A later option overrides an earlier one.
#[derive(Clone, Copy)]
pub(super) struct OptionsDraft {
    options: ExportOptions,
    // `all_squash` hides `root_squash` without changing it: after `all_squash,no_all_squash` root
    // is squashed or not, as before.
    root_squash: bool,
    all_squash: bool,
}

impl ExportOptions {
    /// Parses a list of options. Options that are not named keep their defaults.
    ///
    /// # Errors
    /// The first option that is unknown, unsupported or malformed.
    pub fn parse(list: &str) -> Result<Self, OptionError> {
        let mut draft = OptionsDraft::new();
        words(list).try_for_each(|word| draft.set(word))?;
        Ok(draft.finish())
    }
}

impl Squash {
    /// All values.
    pub const ALL: [Self; 3] = [Self::None, Self::Root, Self::All];

    /// Returns the word for it in exports(5).
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "no_root_squash",
            Self::Root => "root_squash",
            Self::All => "all_squash",
        }
    }
}

/// Writes all options in the syntax of exports(5).
impl fmt::Display for ExportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            ExportMode::ReadOnly => "ro",
            ExportMode::ReadWrite => "rw",
        };
        let durability = match self.durability {
            Durability::Sync => "sync",
            Durability::Async => "async",
        };
        let ports = match self.ports {
            Ports::Privileged => "secure",
            Ports::Any => "insecure",
        };
        let squash = self.squash.name();
        let (uid, gid) = (self.anonymous.uid, self.anonymous.gid);
        write!(f, "{mode},{durability},{ports},{squash},anonuid={uid},anongid={gid}")?;
        // exports(5) has no such options: write them only where they differ from its behaviour.
        if self.set_id == SetId::Refused {
            f.write_str(",nosuid")?;
        }
        if self.devices == Devices::Refused {
            f.write_str(",nodev")?;
        }
        Ok(())
    }
}

impl OptionsDraft {
    pub(super) fn new() -> Self {
        Self { options: ExportOptions::default(), root_squash: true, all_squash: false }
    }

    pub(super) fn set(&mut self, word: &str) -> Result<(), OptionError> {
        let options = &mut self.options;
        match word {
            "ro" => options.mode = ExportMode::ReadOnly,
            "rw" => options.mode = ExportMode::ReadWrite,
            "sync" => options.durability = Durability::Sync,
            "async" => options.durability = Durability::Async,
            "secure" => options.ports = Ports::Privileged,
            "insecure" => options.ports = Ports::Any,
            // These have the names of mount(8)'s options.
            "suid" => options.set_id = SetId::Kept,
            "nosuid" => options.set_id = SetId::Refused,
            "dev" => options.devices = Devices::Made,
            "nodev" => options.devices = Devices::Refused,
            "root_squash" => self.root_squash = true,
            "no_root_squash" => self.root_squash = false,
            "all_squash" => self.all_squash = true,
            "no_all_squash" => self.all_squash = false,
            _ if is_done_anyway(word) => {}
            _ => match word.split_once('=') {
                Some(("anonuid", id)) => options.anonymous.uid = parse_id(word, id)?,
                Some(("anongid", id)) => options.anonymous.gid = parse_id(word, id)?,
                _ => return Err(refusal(word)),
            },
        }
        Ok(())
    }

    pub(super) fn finish(self) -> ExportOptions {
        let squash = match (self.all_squash, self.root_squash) {
            (true, _) => Squash::All,
            (false, true) => Squash::Root,
            (false, false) => Squash::None,
        };
        ExportOptions { squash, ..self.options }
    }
}

/// Splits a list into options. The list may end with a comma.
pub(super) fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split_terminator(',')
}

/// Parses a number of digits only; `str::parse` alone accepts a sign.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_id(word: &str, id: &str) -> Result<u32, OptionError> {
    let id = number(id).filter(|&id| id != NO_ID);
    id.ok_or_else(|| OptionError::Id(word.to_owned()))
}

/// Whether an option asks for what Berth always does.
fn is_done_anyway(word: &str) -> bool {
    match word {
        // The only flavor that is supported; `unix` is its old name.
        "sec=sys" | "sec=unix" => true,
        // A handle is not checked against the tree: it is valid in the export that it was made for.
        "no_subtree_check" => true,
        // Calls that wait for the disk at the same time share a flush, as `wdelay` allows. No flush
        // is delayed to wait for more calls, as `no_wdelay` demands.
        "wdelay" | "no_wdelay" => true,
        // File systems mounted below an export are not part of it.
        "hide" | "nocrossmnt" => true,
        // There are no locks without credentials, no ACL protocol and no pNFS.
        "auth_nlm" | "secure_locks" | "no_acl" | "no_pnfs" => true,
        // The number makes handles survive a restart where the device has no persistent name;
        // Berth's handles carry a persistent id in any case. The root that `fsid=0` makes belongs
        // to NFSv4.
        _ => word.strip_prefix("fsid=").is_some_and(|id| !id.is_empty()),
    }
}

fn refusal(word: &str) -> OptionError {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let reason = match name {
        "sec" => "Kerberos is not implemented; use sec=sys",
        "xprtsec" => "TLS is not implemented; remove the option",
        "subtree_check" => "a handle stays valid when its file moves; use no_subtree_check",
        "crossmnt" | "nohide" => {
            "file systems mounted below are not exported; export each by itself"
        }
        "mountpoint" | "mp" => "mounts are not checked; start the server after the mount",
        "refer" | "replicas" | "pnfs" | "security_label" => {
            "it belongs to NFSv4; remove the option"
        }
        "nordirplus" => "READDIRPLUS cannot be disabled here; mount with nordirplus on the client",
        "no_auth_nlm" | "insecure_locks" => "every call needs credentials; remove the option",
        "acl" => "the ACL protocol is not served; remove the option",
        "squash_uids" | "squash_gids" => "use root_squash or all_squash",
        _ => return OptionError::Unknown(word.to_owned()),
    };
    OptionError::Unsupported { option: word.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "ro,sync,secure,root_squash";

    /// `expected` leaves out ids with their default value.
    fn check(list: &str, expected: &str) {
        let found = ExportOptions::parse(list).unwrap().to_string();
        let found = found.replace(",anonuid=65534,anongid=65534", "");
        assert_eq!(found, expected, "{list}");
    }

    #[test]
    fn each_option_has_its_effect() {
        check("", DEFAULT);
        check("ro,sync,secure,root_squash,no_all_squash", DEFAULT);
        check("rw", "rw,sync,secure,root_squash");
        check("async", "ro,async,secure,root_squash");
        check("insecure", "ro,sync,insecure,root_squash");
        check("no_root_squash", "ro,sync,secure,no_root_squash");
        check("all_squash", "ro,sync,secure,all_squash");
        check("anonuid=0,anongid=9", "ro,sync,secure,root_squash,anonuid=0,anongid=9");
        let largest = format!("{DEFAULT},anonuid=4294967294,anongid=65534");
        check("anonuid=4294967294", &largest);
        check("rw,", "rw,sync,secure,root_squash");
        for (list, found) in
            [("nosuid", ",nosuid"), ("nodev", ",nodev"), ("nodev,nosuid", ",nosuid,nodev")]
        {
            let found_last = ExportOptions::parse(list).unwrap().to_string();
            assert!(found_last.ends_with(&format!("anongid=65534{found}")), "{found_last}");
        }
        check("nosuid,nodev,suid,dev", DEFAULT);
    }

    #[test]
    fn a_later_option_overrides_an_earlier_one() {
        check("rw,ro", DEFAULT);
        check("async,sync,insecure,secure", DEFAULT);
        check("no_root_squash,root_squash", DEFAULT);
        check("all_squash,no_all_squash", DEFAULT);
        check("all_squash,no_root_squash", "ro,sync,secure,all_squash");
        check("no_root_squash,all_squash", "ro,sync,secure,all_squash");
        check("no_root_squash,all_squash,no_all_squash", "ro,sync,secure,no_root_squash");
    }

    #[test]
    fn options_for_what_is_always_done_change_nothing() {
        check("no_subtree_check,wdelay,no_wdelay,hide,nocrossmnt", DEFAULT);
        check("sec=sys,sec=unix,fsid=0,fsid=root,fsid=12345", DEFAULT);
        check("auth_nlm,secure_locks,no_acl,no_pnfs", DEFAULT);
    }

    #[test]
    fn unsupported_and_malformed_options_are_rejected() {
        let check = |word: &str, expected: &str| {
            let error = ExportOptions::parse(&format!("rw,{word},sync")).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(word), "{word}: {error}");
            assert!(error.contains(expected), "{word}: {error}");
        };
        check("sec=krb5", "Kerberos");
        check("sec=sys:krb5p", "Kerberos");
        check("sec=none", "use sec=sys");
        check("xprtsec=mtls", "TLS");
        check("subtree_check", "use no_subtree_check");
        check("crossmnt", "export each by itself");
        check("nohide", "export each by itself");
        check("mountpoint", "not checked");
        check("mp=/mnt", "not checked");
        check("refer=/a@b", "NFSv4");
        check("squash_uids=0-10", "all_squash");
        check("nordirplus", "mount with");
        check("no_auth_nlm", "credential");
        check("acl", "not served");
        for word in "RW; rw;rw=1;no_rw;fsid=;fsid;anonuid;root_squash=1;".split(';') {
            check(word, "unknown option");
        }
        for word in "anonuid=;anonuid=-2;anongid=+1;anonuid=4294967295;anongid=bin".split(';') {
            check(word, "number");
        }
    }
}
