//! Requests to the API, made from the arguments of the command line. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::args::{AdoptArgs, CloneArgs, CreateVolumeArgs, SettingArgs};
use crate::admin::api::CreateRequest;
use crate::volume::VolumeOrigin;
use crate::volume::name::{BadName, VolumeId, VolumeName};
use crate::volume::spec::{OWN_LABELS, Spec};

/// The request of `berth volume create`.
///
/// # Errors
/// No id can be made from the name, because it is too long.
pub fn create(args: &CreateVolumeArgs) -> Result<CreateRequest, BadName> {
    let origin = match (&args.from, args.adopt) {
        (Some(from), _) => VolumeOrigin::Clone(from.clone()),
        (None, true) => VolumeOrigin::Adopt,
        (None, false) => VolumeOrigin::Fresh,
    };
    let spec = fresh(&args.name, args.capacity, &args.settings)?;
    Ok(CreateRequest { spec, origin })
}

/// The request of `berth volume adopt`.
///
/// # Errors
/// As for [`create`].
pub fn adopt(args: &AdoptArgs) -> Result<CreateRequest, BadName> {
    let spec = fresh(&args.name, args.capacity, &args.settings)?;
    Ok(CreateRequest { spec, origin: VolumeOrigin::Adopt })
}

/// The request of `berth volume clone`, with the settings of the source where none are given.
///
/// # Errors
/// As for [`create`].
pub fn clone(args: &CloneArgs, source: Spec) -> Result<CreateRequest, BadName> {
    let mut spec = Spec {
        name: args.name.clone(),
        id: id(&args.name, &args.settings)?,
        capacity: args.capacity.unwrap_or(source.capacity),
        // A default limit depends on the capacity, so it is not copied.
        inodes: source.inodes.filter(|_| !source.has_default_inodes()),
        token: None, // if the source has one, the server generates another for the copy
        ..source
    };
    // These labels name the claim of the source; the copy has none yet.
    spec.labels.retain(|key, _| !key.starts_with(OWN_LABELS));
    args.settings.apply(&mut spec);
    Ok(CreateRequest { spec, origin: VolumeOrigin::Clone(args.source.clone()) })
}

/// The names of the API's fields in which a volume differs from what was requested.
pub fn differences(requested: &Spec, found: &Spec) -> Vec<String> {
    let fields = |spec| match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (mut requested, mut found) = (fields(requested), fields(found));
    match requested.get("inodes").and_then(Value::as_u64) {
        // Without a request the server chooses; 0 requests no limit.
        None => drop(found.remove("inodes")),
        Some(0) => drop(requested.remove("inodes")),
        Some(_) => {}
    }
    let all: BTreeSet<&String> = requested.keys().chain(found.keys()).collect();
    // A token that was not requested is the server's choice.
    let counts = |key: &str| key != "token" || requested.contains_key(key);
    let differ = |key: &&String| counts(key) && requested.get(*key) != found.get(*key);
    all.into_iter().filter(differ).cloned().collect()
}

fn fresh(name: &VolumeName, capacity: u64, settings: &SettingArgs) -> Result<Spec, BadName> {
    let mut spec = Spec::new(name.clone(), id(name, settings)?, capacity);
    settings.apply(&mut spec);
    Ok(spec)
}

/// The requested id, or one made from the name by escaping what an id cannot contain.
///
/// A name always has the same id, which makes the command repeatable, and no two names share one.
fn id(name: &VolumeName, settings: &SettingArgs) -> Result<VolumeId, BadName> {
    if let Some(id) = &settings.id {
        return Ok(id.clone());
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let escaped = |byte: u8| match byte {
        _ if plain(byte) => char::from(byte).to_string(),
        b'_' => "__".to_owned(), // the escape character itself
        _ => format!("_{byte:02x}"),
    };
    VolumeId::new(name.as_str().bytes().map(escaped).collect::<String>())
}

/// Which of two opposite flags was given, if any.
fn chosen(yes: bool, no: bool) -> Option<bool> {
    (yes || no).then_some(yes)
}

impl SettingArgs {
    fn apply(&self, spec: &mut Spec) {
        spec.directory.clone_from(&self.directory);
        spec.inodes = self.inodes.or(spec.inodes);
        spec.uid = self.uid.or(spec.uid);
        spec.gid = self.gid.or(spec.gid);
        spec.mode = self.mode.unwrap_or(spec.mode);
        spec.squash = self.squash.unwrap_or(spec.squash);
        spec.anon_uid = self.anon_uid.unwrap_or(spec.anon_uid);
        spec.anon_gid = self.anon_gid.unwrap_or(spec.anon_gid);
        if !self.client.is_empty() {
            spec.clients.clone_from(&self.client);
        }
        spec.secure = self.secure || (spec.secure && !self.insecure);
        spec.nosuid = chosen(self.nosuid, self.suid).or(spec.nosuid);
        spec.nodev = chosen(self.nodev, self.dev).or(spec.nodev);
        spec.sync = self.sync || (spec.sync && !self.asynchronous);
        spec.quota = self.quota.unwrap_or(spec.quota);
        spec.on_delete = self.on_delete.unwrap_or(spec.on_delete);
        spec.labels.extend(self.label.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::command::args::VolumeCommand;
    use crate::export::Squash;
    use crate::volume::name::MountToken;
    use crate::volume::spec::{OnDelete, QuotaMode, parse_client};

    #[derive(Parser)]
    struct TestCommandLine {
        #[command(subcommand)]
        command: VolumeCommand,
    }

    fn read(words: &str) -> VolumeCommand {
        let words = ["berth"].into_iter().chain(words.split_whitespace());
        TestCommandLine::try_parse_from(words).map(|words| words.command).unwrap()
    }

    fn created(words: &str) -> CreateRequest {
        match read(words) {
            VolumeCommand::Create(args) => create(&args).unwrap(),
            VolumeCommand::Adopt(args) => adopt(&args).unwrap(),
            _ => unreachable!("the command creates a volume"),
        }
    }

    fn name(text: &str) -> VolumeName {
        VolumeName::new(text).unwrap()
    }

    fn plain(text: &str) -> Spec {
        Spec::new(name(text), VolumeId::new(text).unwrap(), 10 << 30)
    }

    #[test]
    fn name_and_capacity_are_enough() {
        let request = created("create data --capacity 10Gi");
        assert_eq!(request, CreateRequest { spec: plain("data"), origin: VolumeOrigin::Fresh });
    }

    #[test]
    fn every_setting_can_be_given() {
        let request = created(
            "create data --capacity 500M --inodes 7 --uid 1 --gid 2 --mode 2770 \
             --squash all_squash --anon-uid 3 --anon-gid 4 --client 10.0.0.0/8,fd00::1 \
             --client 192.0.2.1 --async --secure --nosuid --dev --quota report \
             --on-delete archive --label a=b --label c= --id 0f-2 --adopt",
        );
        let clients = ["10.0.0.0/8", "fd00::1", "192.0.2.1"].map(|c| parse_client(c).unwrap());
        let labels = [("a", "b"), ("c", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let spec = Spec {
            directory: None,
            token: None,
            name: name("data"),
            id: VolumeId::new("0f-2").unwrap(),
            capacity: 500_000_000,
            inodes: Some(7),
            quota: QuotaMode::Report,
            uid: Some(1),
            gid: Some(2),
            mode: 0o2770,
            squash: Squash::All,
            anon_uid: 3,
            anon_gid: 4,
            clients: clients.into(),
            secure: true,
            nosuid: Some(true),
            nodev: Some(false),
            sync: false,
            on_delete: OnDelete::Archive,
            labels: labels.into(),
        };
        assert_eq!(request, CreateRequest { spec, origin: VolumeOrigin::Adopt });
    }

    #[test]
    fn the_origin_follows_from_the_command_and_its_flags() {
        let origin = |words: &str| created(words).origin;
        assert_eq!(origin("adopt a --capacity 1Gi"), VolumeOrigin::Adopt);
        assert_eq!(origin("create a --capacity 1Gi --from b"), VolumeOrigin::Clone(name("b")));
    }

    #[test]
    fn a_clone_has_the_settings_of_its_source_unless_others_are_given() {
        let mut source = plain("source");
        source.sync = false;
        source.uid = Some(5);
        source.mode = 0o700;
        source.labels.insert("a".into(), "1".into());
        source.labels.insert("b".into(), "1".into());
        let mut expected = Spec { name: name("copy"), ..source.clone() };
        expected.id = VolumeId::new("copy").unwrap();
        // Neither the source's claim nor its token is copied.
        source.token = MountToken::new("0123456789abcdef").ok();
        source.labels.insert("berth.io/claim-namespace".into(), "ns".into());
        let cloned = |words: &str| match read(words) {
            VolumeCommand::Clone(args) => clone(&args, source.clone()).unwrap(),
            _ => unreachable!("it is a clone"),
        };
        let request = cloned("clone source copy");
        assert_eq!(
            request,
            CreateRequest { spec: expected.clone(), origin: VolumeOrigin::Clone(name("source")) }
        );
        let request = cloned("clone source copy --capacity 20Gi --sync --mode 0750 --label b=2");
        expected.capacity = 20 << 30;
        expected.sync = true;
        expected.mode = 0o750;
        expected.labels.insert("b".into(), "2".into());
        assert_eq!(request.spec, expected);
    }

    #[test]
    fn every_name_that_is_not_too_long_gives_an_id() {
        let check = |text: &str, expected: &str| {
            let id = id(&name(text), &SettingArgs::default()).unwrap();
            assert_eq!(id.as_str(), expected);
        };
        check("data", "data");
        check("a-b.c", "a-b.c");
        check("a b", "a_20b");
        check("a_20b", "a__20b");
        check("ü", "_c3_bc");
        let long = id(&name(&"x".repeat(129)), &SettingArgs::default());
        assert_eq!(long, Err(BadName::TooLong(128)));
    }

    #[test]
    fn differences_are_named_by_field() {
        let mut other = plain("data");
        assert_eq!(differences(&plain("data"), &other), [""; 0]);
        other.capacity += 1;
        other.uid = Some(5);
        assert_eq!(differences(&plain("data"), &other), ["capacity", "uid"]);
        assert_eq!(differences(&other, &plain("data")), ["capacity", "uid"]);
        let limited = |inodes| Spec { inodes, ..plain("data") };
        assert_eq!(differences(&limited(None), &limited(Some(7))), [""; 0]);
        assert_eq!(differences(&limited(Some(0)), &limited(None)), [""; 0]);
        assert_eq!(differences(&limited(Some(0)), &limited(Some(7))), ["inodes"]);
        assert_eq!(differences(&limited(Some(6)), &limited(Some(7))), ["inodes"]);
        let token = MountToken::new("0123456789abcdef").ok();
        let hidden = Spec { token, ..plain("data") };
        assert_eq!(
            differences(&plain("data"), &hidden),
            [""; 0],
            "the server generates a token for the copy of a volume that has one"
        );
        assert_eq!(differences(&hidden, &plain("data")), ["token"]);
    }

    #[test]
    fn invalid_or_contradictory_arguments_are_refused() {
        let check = |words: &str| {
            let all = ["berth"].into_iter().chain(words.split_whitespace());
            assert!(TestCommandLine::try_parse_from(all).is_err(), "{words}");
        };
        check("create data");
        check("create a/b --capacity 1Gi");
        check("create .a --capacity 1Gi");
        check("create a --capacity 0");
        check("create a --capacity lots");
        check("create a --capacity 1Gi --from b --adopt");
        check("create a --capacity 1Gi --async --sync");
        check("create a --capacity 1Gi --mode 999");
        check("create a --capacity 1Gi --squash some");
        check("create a --capacity 1Gi --quota maybe");
        check("create a --capacity 1Gi --on-delete burn");
        check("create a --capacity 1Gi --client example.org");
        check("create a --capacity 1Gi --label =b");
        check("create a --capacity 1Gi --label b");
        check("create a --capacity 1Gi --id a/b");
        check("create a --capacity 1Gi -o name");
        check("expand a");
        check("adopt a");
        check("clone a");
        check("pv a");
        check("pv a --server b --port 70000");
        check("pv a --server b --access-mode RWZ");
        check("pv a --server b --provisioner kubernetes.io/nfs");
        check("list -o yaml");
    }
}
