//! Commands against a server with a [`FakeVolumes`].

use clap::Parser;

use super::*;
use crate::admin::api::VolumeApi;
use crate::admin::fake::{FakeServer, FakeVolumes, name};

#[derive(Parser)]
struct TestCommandLine {
    #[command(flatten)]
    volume: VolumeArgs,
}

/// The result of a command.
struct CommandOutcome {
    out: String,
    error: Option<CommandError>,
    questions: Vec<String>,
}

impl CommandOutcome {
    #[track_caller]
    fn prints(self, out: &str) {
        assert!(self.error.is_none(), "{:?}", self.error);
        assert_eq!(self.out, out);
    }

    #[track_caller]
    fn fails(self, exit: Exit) -> String {
        let error = self.error.expect("it fails");
        assert_eq!((error.exit(), self.out.as_str()), (exit, ""), "{error:?}");
        Chain(&error).to_string()
    }
}

/// Runs a command; `consent` is the reply to questions, `None` if there is no terminal.
fn run_asking(served: &FakeServer, words: &str, consent: Option<bool>) -> CommandOutcome {
    let words = ["berth"].into_iter().chain(words.split_whitespace());
    let args = TestCommandLine::try_parse_from(words).map_err(|e| e.to_string()).unwrap().volume;
    let (mut out, mut questions) = (Vec::new(), Vec::new());
    let mut ask = |question: &str| {
        questions.push(question.to_owned());
        Ok(consent)
    };
    let client = AdminClient::new(&served.path).unwrap();
    let pause = Duration::from_millis(1);
    let done = CommandSession { client, out: &mut out, ask: &mut ask, pause }.run(&args.command);
    CommandOutcome { out: String::from_utf8(out).unwrap(), error: done.err(), questions }
}

fn run(served: &FakeServer, words: &str) -> CommandOutcome {
    run_asking(served, words, None)
}

#[test]
fn creating_prints_nothing_and_may_be_repeated() {
    let served = FakeServer::start(FakeVolumes::with(&[]));
    run(&served, "create new --capacity 10Gi").prints("");
    run(&served, "create new --capacity 10Gi").prints("");
    let message = run(&served, "create new --capacity 20Gi --mode 700").fails(Exit::Conflict);
    assert!(message.contains("capacity, mode"), "{message}");
    run(&served, "adopt old --capacity 1Gi").prints("");
    run(&served, "list -o name").prints("new\nold\n");
    let message = run(&served, "create new --capacity 10Gi --id other").fails(Exit::Conflict);
    assert!(message.contains("other"), "{message}");
    let long = format!("create {} --capacity 1Gi", "x".repeat(200));
    let message = run(&served, &long).fails(Exit::Usage);
    assert!(message.contains("--id"), "{message}");
}

#[test]
fn cloning_waits_until_the_copy_is_ready() {
    let served = FakeServer::start(FakeVolumes::with(&["source"]));
    run(&served, "clone source copy --capacity 20Gi").prints("");
    let copy = served.volumes.show(&name("copy")).unwrap();
    assert_eq!((copy.phase, copy.spec.capacity), (VolumePhase::Ready, 20 << 30));
    run(&served, "create other --capacity 1Gi --from source").prints("");
    assert_eq!(served.volumes.show(&name("other")).unwrap().phase, VolumePhase::Ready);
    let message = run(&served, "clone nothing copy").fails(Exit::NotFound);
    assert!(message.contains("nothing"), "{message}");
}

#[test]
fn a_failed_clone_reports_the_reason() {
    let served = FakeServer::start(FakeVolumes::with(&["broken"]));
    let message = run(&served, "clone broken copy").fails(Exit::Failed);
    assert!(message.contains("copy") && message.contains("broken"), "{message}");
    let served = FakeServer::start(FakeVolumes::with(&["crowded"]));
    let message = run(&served, "clone crowded copy").fails(Exit::NoSpace);
    assert!(message.contains("full"), "{message}");
    let served = FakeServer::start(FakeVolumes::with(&["fleeting"]));
    let message = run(&served, "clone fleeting copy").fails(Exit::Failed);
    assert!(message.contains("again"), "{message}");
}

#[test]
fn json_is_what_the_server_sends() {
    let served = FakeServer::start(FakeVolumes::with(&["a", "b"]));
    let one = serde_json::to_string(&served.volumes.show(&name("a")).unwrap()).unwrap() + "\n";
    run(&served, "show a -o json").prints(&one);
    run(&served, "create a --capacity 10Gi -o json").prints(&one);
    run(&served, "recount a -o json").prints("{}\n");
    run(&served, "delete b --yes -o json").prints("{\"outcome\":\"deleted\"}\n");
    run(&served, "list -o json").prints(&format!("{{\"volumes\":[{}]}}\n", one.trim()));
    served.volumes.change("a", |a| a.directory = "\u{9b}2J".into());
    let out = run(&served, "show a -o json").out;
    assert!(out.contains("\\u009b2J"), "{out}");
}

#[test]
fn expand_changes_the_limits() {
    let served = FakeServer::start(FakeVolumes::with(&["a"]));
    run(&served, "expand a --capacity 20Gi").prints("");
    run(&served, "expand a --inodes 5").prints("");
    let spec = served.volumes.show(&name("a")).unwrap().spec;
    assert_eq!((spec.capacity, spec.inodes), (20 << 30, Some(5)));
    let message = run(&served, "expand a --capacity 1Gi").fails(Exit::Usage);
    assert!(message.contains("--shrink"), "{message}");
    run(&served, "expand a --capacity 1Gi --shrink").prints("");
}

#[test]
fn every_kind_of_error_has_its_exit_code() {
    let served = FakeServer::start(FakeVolumes::with(&[]));
    let check = |name, exit| drop(run(&served, &format!("show {name}")).fails(exit));
    check("nothing", Exit::NotFound);
    check("invalid", Exit::Usage);
    check("conflict", Exit::Conflict);
    check("nospace", Exit::NoSpace);
    check("busy", Exit::Busy);
    check("internal", Exit::Failed);
    let FakeServer { path, .. } = &served;
    let path = path.clone();
    drop(served);
    let error = CommandError::from(AdminClient::new(&path).unwrap().list().unwrap_err());
    assert_eq!(error.exit(), Exit::Unreachable);
    assert!(error.to_string().contains("berth serve"), "{error}");
}

#[test]
fn nothing_is_destroyed_without_confirmation() {
    let served = FakeServer::start(FakeVolumes::with(&["a"]));
    served.volumes.change("a", |a| a.used = 3 << 30);
    for words in ["delete a", "archive a", "recycle a", "delete a --on-delete archive"] {
        let message = run(&served, words).fails(Exit::Usage);
        assert!(message.contains("--yes"), "{message}");
        let outcome = run_asking(&served, words, Some(false));
        let question = outcome.questions.concat();
        assert!(question.contains("volume a") && question.contains("3Gi"), "{question}");
        assert!(outcome.fails(Exit::Usage).contains("nothing was done"));
    }
    assert_eq!(served.volumes.list().len(), 1);
}

#[test]
fn the_confirmed_action_is_carried_out() {
    let served = FakeServer::start(FakeVolumes::with(&["a", "b", "c", "d"]));
    let outcome = run_asking(&served, "recycle a", Some(true));
    assert_eq!(outcome.questions.len(), 1);
    outcome.prints("volume a is recycled: it is empty, and clients must mount it again\n");
    let deleted = "volume a is deleted; its files are removed in the background\n";
    run_asking(&served, "delete a", Some(true)).prints(deleted);
    run_asking(&served, "archive b", Some(true)).prints("/srv/archived-b\n");
    served.volumes.change("c", |c| c.spec.on_delete = OnDelete::Archive);
    let outcome = run_asking(&served, "delete c --yes", Some(false));
    assert!(outcome.questions.is_empty());
    outcome.prints("/srv/archived-c\n");
    let kept = run_asking(&served, "delete d --on-delete retain", None);
    assert!(kept.questions.is_empty(), "retain changes nothing");
    let why = "volume d is retained (--on-delete retain): nothing was removed";
    assert!(kept.out.starts_with(why), "{}", kept.out);
    served.volumes.change("d", |d| d.spec.on_delete = OnDelete::Retain);
    let kept = run(&served, "delete d --yes").out;
    assert!(kept.contains("(its --on-delete)") && kept.contains("--on-delete delete d"), "{kept}");
    run(&served, "list -o name").prints("d\n");
    run(&served, "delete c --yes").fails(Exit::NotFound);
}

#[test]
fn a_volume_in_use_by_a_claim_is_reclaimed_only_with_force() {
    let served = FakeServer::start(FakeVolumes::with(&["held"]));
    for words in ["delete held", "delete held --on-delete archive", "archive held", "recycle held"]
    {
        let message = run(&served, &format!("{words} --yes")).fails(Exit::Conflict);
        assert!(message.contains("default/data") && message.contains("--force"), "{message}");
    }
    let recycled = run(&served, "recycle held --yes --force").out;
    assert!(recycled.starts_with("volume held is recycled"), "{recycled}");
    let asked = run_asking(&served, "delete held --force", Some(false));
    assert_eq!(asked.questions.len(), 1, "--force does not confirm");
    run(&served, "archive held --yes --force").prints("/srv/archived-held\n");
    run(&served, "list -o name").prints("");
}

#[test]
fn the_trash_is_shown_or_waited_for() {
    let served = FakeServer::start(FakeVolumes::with(&[]));
    served.volumes.litter(3, 0);
    let out = run(&served, "trash").out;
    assert!(out.starts_with("Waiting:    3\nCurrent:    a\\u{1b}[31m\n"), "{out}");
    run(&served, "trash --wait").prints("");
    assert_eq!(served.volumes.trash().waiting, 0);
    served.volumes.litter(2, 1);
    let message = run(&served, "trash --wait").fails(Exit::Failed);
    assert!(message.contains("1 "), "{message}");
}

#[test]
fn a_manifest_needs_only_the_address_of_the_server() {
    let served = FakeServer::start(FakeVolumes::with(&["data", "My_Data"]));
    served.volumes.change("data", |data| {
        data.spec.labels.insert("team".into(), "blue".into());
        data.spec.labels.insert("not".into(), "for kubernetes".into());
        data.spec.labels.insert("berth.io/claim-name".into(), "before".into());
    });
    let read = |words: &str| {
        let outcome = run(&served, words);
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
        serde_saphyr::from_str::<serde_json::Value>(&outcome.out).unwrap()
    };
    let pv = read("pv data --server nas --label tier=gold");
    let labels = serde_json::json!({ "team": "blue", "tier": "gold" });
    let annotations = serde_json::json!({
        "pv.kubernetes.io/provisioned-by": "example.org/berth", "berth.io/server": "00ff",
        "berth.io/volume-id": "data", "berth.io/volume": "data",
    });
    let metadata =
        serde_json::json!({ "name": "data", "labels": labels, "annotations": annotations });
    assert_eq!(pv["metadata"], metadata);
    assert_eq!(pv["spec"]["capacity"]["storage"], "10Gi");
    let options = pv["spec"]["mountOptions"].to_string();
    assert!(options.contains("\"port=2050\""), "the server's own: {options}");
    let other = read("pv data --server nas --provisioner other.example.org/x");
    let by = &other["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"];
    assert_eq!(by, "other.example.org/x");
    let pv = read("pv data --server nas --port 1 --access-mode RWO,ReadOnlyMany --name x");
    assert_eq!(pv["metadata"]["name"], "x");
    assert!(pv["spec"]["mountOptions"].to_string().contains("\"port=1\""));
    let modes = serde_json::json!(["ReadWriteOnce", "ReadOnlyMany"]);
    assert_eq!(pv["spec"]["accessModes"], modes);
    let message = run(&served, "pv My_Data --server nas").fails(Exit::Usage);
    assert!(message.contains("--name"), "{message}");
    assert_eq!(read("pv My_Data --server nas --name m")["spec"]["nfs"]["path"], "/My_Data");
}
