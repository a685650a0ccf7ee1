//! A list of options as text: `rw,no_root_squash,anonuid=1000`.
//!
//! An option is accepted only if Berth does what it asks for. Some ask for what Berth does anyway
//! (each says why, below); what Berth does not do is refused with the reason, because an option
//! that is quietly ignored is a promise that nobody keeps.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::export::{Devices, Durability, Mode, NO_ID, Options, Ports, SetId, Squash};

/// Why an option is not accepted.
#[derive(PartialEq, Eq, Error, Debug)]
pub enum OptionError {
    /// No such option.
    #[error("unknown option {0:?}")]
    Unknown(String),
    /// exports(5) knows it, Berth does not do it.
    #[error("option {option:?} is not supported: {reason}")]
    Unsupported {
        /// The option.
        option: String,
        /// Why not, and what to write.
        reason: &'static str,
    },
    /// The value is no id.
    #[error("option {0:?} does not give a number from 0 to 4294967294")]
    Id(String),
}

/// Options while they are read, one after the other; the later one counts.
#[derive(Clone, Copy)]
pub(super) struct Draft {
    options: Options,
    // Two switches, of which the second hides the first: after `all_squash,no_all_squash` root is
    // squashed or not as it was before.
    root_squash: bool,
    all_squash: bool,
}

impl Options {
    /// Reads options; what is not named has its default.
    pub fn parse(list: &str) -> Result<Self, OptionError> {
        let mut draft = Draft::new();
        words(list).try_for_each(|word| draft.set(word))?;
        Ok(draft.finish())
    }
}

/// The options in the words of exports(5), all of them.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            Mode::ReadOnly => "ro",
            Mode::ReadWrite => "rw",
        };
        let durability = match self.durability {
            Durability::Sync => "sync",
            Durability::Async => "async",
        };
        let ports = match self.ports {
            Ports::Privileged => "secure",
            Ports::Any => "insecure",
        };
        let squash = match self.squash {
            Squash::None => "no_root_squash",
            Squash::Root => "root_squash",
            Squash::All => "all_squash",
        };
        let (uid, gid) = (self.anonymous.uid, self.anonymous.gid);
        write!(f, "{mode},{durability},{ports},{squash},anonuid={uid},anongid={gid}")?;
        // Only where they are not as exports(5) has it, which does not know them.
        if self.set_id == SetId::Refused {
            f.write_str(",nosuid")?;
        }
        if self.devices == Devices::Refused {
            f.write_str(",nodev")?;
        }
        Ok(())
    }
}

impl Draft {
    pub(super) fn new() -> Self {
        Self { options: Options::default(), root_squash: true, all_squash: false }
    }

    pub(super) fn set(&mut self, word: &str) -> Result<(), OptionError> {
        let options = &mut self.options;
        match word {
            "ro" => options.mode = Mode::ReadOnly,
            "rw" => options.mode = Mode::ReadWrite,
            "sync" => options.durability = Durability::Sync,
            "async" => options.durability = Durability::Async,
            "secure" => options.ports = Ports::Privileged,
            "insecure" => options.ports = Ports::Any,
            // The words of mount(8).
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

    pub(super) fn finish(self) -> Options {
        let squash = match (self.all_squash, self.root_squash) {
            (true, _) => Squash::All,
            (false, true) => Squash::Root,
            (false, false) => Squash::None,
        };
        Options { squash, ..self.options }
    }
}

/// Cuts a list into options; it may end with a comma.
pub(super) fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split_terminator(',')
}

/// Reads a number of digits only: `str::parse` takes a sign too.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_id(word: &str, id: &str) -> Result<u32, OptionError> {
    let id = number(id).filter(|&id| id != NO_ID);
    id.ok_or_else(|| OptionError::Id(word.to_owned()))
}

/// Says whether an option asks for what Berth does in any case.
fn is_done_anyway(word: &str) -> bool {
    match word {
        // The only flavor there is; `unix` is its old name.
        "sec=sys" | "sec=unix" => true,
        // A handle is not looked for in the tree: it is good in the export that it was made for.
        "no_subtree_check" => true,
        // Calls that wait for the disk at the same time share a flush, and none is held back in
        // the hope of another: what the one allows and what the other demands.
        "wdelay" | "no_wdelay" => true,
        // What is mounted below an export is not part of it.
        "hide" | "nocrossmnt" => true,
        // No lock without a credential, no ACL and no pNFS protocol.
        "auth_nlm" | "secure_locks" | "no_acl" | "no_pnfs" => true,
        // The number makes handles outlive a restart where the device has no name of its own;
        // Berth's carry a persistent id in any case. The root that `fsid=0` makes is NFSv4's.
        _ => word.strip_prefix("fsid=").is_some_and(|id| !id.is_empty()),
    }
}

fn refusal(word: &str) -> OptionError {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let reason = match name {
        "sec" => "there is no Kerberos, only sec=sys",
        "xprtsec" => "there is no TLS",
        "subtree_check" => "a handle stays good when a file is moved; use no_subtree_check",
        "crossmnt" | "nohide" => "what is mounted below is not shown; export it by itself",
        "mountpoint" | "mp" => "mounts are not checked; start the server after the mount",
        "refer" | "replicas" | "pnfs" | "security_label" => "it belongs to NFSv4",
        "nordirplus" => "READDIRPLUS is always answered; mount with nordirplus",
        "no_auth_nlm" | "insecure_locks" => "locks need a credential as all calls do",
        "acl" => "the ACL protocol is not served",
        "squash_uids" | "squash_gids" => "use root_squash or all_squash",
        _ => return OptionError::Unknown(word.to_owned()),
    };
    OptionError::Unsupported { option: word.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "ro,sync,secure,root_squash";

    /// The ids may be left out of what is expected.
    fn check(list: &str, expected: &str) {
        let found = Options::parse(list).unwrap().to_string();
        let found = found.replace(",anonuid=65534,anongid=65534", "");
        assert_eq!(found, expected, "{list}");
    }

    #[test]
    fn options_and_their_effect() {
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
            let found_last = Options::parse(list).unwrap().to_string();
            assert!(found_last.ends_with(&format!("anongid=65534{found}")), "{found_last}");
        }
        check("nosuid,nodev,suid,dev", DEFAULT);
    }

    #[test]
    fn the_later_option_counts() {
        check("rw,ro", DEFAULT);
        check("async,sync,insecure,secure", DEFAULT);
        check("no_root_squash,root_squash", DEFAULT);
        check("all_squash,no_all_squash", DEFAULT);
        check("all_squash,no_root_squash", "ro,sync,secure,all_squash");
        check("no_root_squash,all_squash", "ro,sync,secure,all_squash");
        check("no_root_squash,all_squash,no_all_squash", "ro,sync,secure,no_root_squash");
    }

    #[test]
    fn what_is_done_anyway_changes_nothing() {
        check("no_subtree_check,wdelay,no_wdelay,hide,nocrossmnt", DEFAULT);
        check("sec=sys,sec=unix,fsid=0,fsid=root,fsid=12345", DEFAULT);
        check("auth_nlm,secure_locks,no_acl,no_pnfs", DEFAULT);
    }

    #[test]
    fn what_is_not_done_is_refused() {
        let check = |word: &str, expected: &str| {
            let error = Options::parse(&format!("rw,{word},sync")).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(word), "{word}: {error}");
            assert!(error.contains(expected), "{word}: {error}");
        };
        check("sec=krb5", "Kerberos");
        check("sec=sys:krb5p", "Kerberos");
        check("sec=none", "only sec=sys");
        check("xprtsec=mtls", "TLS");
        check("subtree_check", "use no_subtree_check");
        check("crossmnt", "export it by itself");
        check("nohide", "export it by itself");
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
