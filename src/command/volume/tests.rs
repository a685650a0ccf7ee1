//! Commands, told to a server whose volumes are only remembered.

use clap::Parser;

use super::*;
use crate::admin::api::Admin;
use crate::admin::double::{Double, Served, name};

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    volume: VolumeArgs,
}

/// What a command did.
struct Did {
    out: String,
    error: Option<Error>,
    asked: Vec<String>,
}

impl Did {
    #[track_caller]
    fn said(self, out: &str) {
        assert!(self.error.is_none(), "{:?}", self.error);
        assert_eq!(self.out, out);
    }

    #[track_caller]
    fn failed(self, exit: Exit) -> String {
        let error = self.error.expect("it fails");
        assert_eq!((error.exit(), self.out.as_str()), (exit, ""), "{error:?}");
        Chain(&error).to_string()
    }
}

/// Runs a command; `consent` is what is answered to questions.
fn told(served: &Served, words: &str, consent: Option<bool>) -> Did {
    let words = ["berth"].into_iter().chain(words.split_whitespace());
    let args = Words::try_parse_from(words).map_err(|e| e.to_string()).unwrap().volume;
    let (mut out, mut asked) = (Vec::new(), Vec::new());
    let mut ask = |question: &str| {
        asked.push(question.to_owned());
        Ok(consent)
    };
    let client = Client::new(&served.path).unwrap();
    let pause = Duration::from_millis(1);
    let done = Session { client, out: &mut out, ask: &mut ask, pause }.run(&args.command);
    Did { out: String::from_utf8(out).unwrap(), error: done.err(), asked }
}

fn run(served: &Served, words: &str) -> Did {
    told(served, words, None)
}

#[test]
fn making_is_quiet_and_may_be_repeated() {
    let served = Served::start(Double::with(&[]));
    run(&served, "create new --capacity 10Gi").said("");
    run(&served, "create new --capacity 10Gi").said("");
    let message = run(&served, "create new --capacity 20Gi --mode 700").failed(Exit::Conflict);
    assert!(message.contains("capacity, mode"), "{message}");
    run(&served, "adopt old --capacity 1Gi").said("");
    run(&served, "list -o name").said("new\nold\n");
    let message = run(&served, "create new --capacity 10Gi --id other").failed(Exit::Conflict);
    assert!(message.contains("other"), "{message}");
    let long = format!("create {} --capacity 1Gi", "x".repeat(200));
    let message = run(&served, &long).failed(Exit::Usage);
    assert!(message.contains("--id"), "{message}");
}

#[test]
fn a_clone_is_waited_for() {
    let served = Served::start(Double::with(&["source"]));
    run(&served, "clone source copy --capacity 20Gi").said("");
    let copy = served.double.show(&name("copy")).unwrap();
    assert_eq!((copy.phase, copy.spec.capacity), (Phase::Ready, 20 << 30));
    run(&served, "create other --capacity 1Gi --from source").said("");
    assert_eq!(served.double.show(&name("other")).unwrap().phase, Phase::Ready);
    let message = run(&served, "clone nothing copy").failed(Exit::NotFound);
    assert!(message.contains("nothing"), "{message}");
}

#[test]
fn a_clone_that_fails_says_why() {
    let served = Served::start(Double::with(&["broken"]));
    let message = run(&served, "clone broken copy").failed(Exit::Failed);
    assert!(message.contains("copy") && message.contains("broken"), "{message}");
    let served = Served::start(Double::with(&["fleeting"]));
    let message = run(&served, "clone fleeting copy").failed(Exit::Failed);
    assert!(message.contains("again"), "{message}");
}

#[test]
fn json_is_what_the_server_says() {
    let served = Served::start(Double::with(&["a", "b"]));
    let one = serde_json::to_string(&served.double.show(&name("a")).unwrap()).unwrap() + "\n";
    run(&served, "show a -o json").said(&one);
    run(&served, "create a --capacity 10Gi -o json").said(&one);
    run(&served, "recount a -o json").said("{}\n");
    run(&served, "delete b --yes -o json").said("{\"outcome\":\"deleted\"}\n");
    run(&served, "list -o json").said(&format!("{{\"volumes\":[{}]}}\n", one.trim()));
    served.double.change("a", |a| a.directory = "\u{9b}2J".into());
    let out = run(&served, "show a -o json").out;
    assert!(out.contains("\\u009b2J"), "{out}");
}

#[test]
fn limits_are_changed() {
    let served = Served::start(Double::with(&["a"]));
    run(&served, "expand a --capacity 20Gi").said("");
    run(&served, "expand a --inodes 5").said("");
    let spec = served.double.show(&name("a")).unwrap().spec;
    assert_eq!((spec.capacity, spec.inodes), (20 << 30, Some(5)));
    let message = run(&served, "expand a --capacity 1Gi").failed(Exit::Usage);
    assert!(message.contains("--shrink"), "{message}");
    run(&served, "expand a --capacity 1Gi --shrink").said("");
}

#[test]
fn every_kind_of_refusal_has_its_code() {
    let served = Served::start(Double::with(&[]));
    let check = |name, exit| drop(run(&served, &format!("show {name}")).failed(exit));
    check("nothing", Exit::NotFound);
    check("invalid", Exit::Usage);
    check("conflict", Exit::Conflict);
    check("nospace", Exit::NoSpace);
    check("busy", Exit::Busy);
    check("internal", Exit::Failed);
    let Served { path, .. } = &served;
    let path = path.clone();
    drop(served);
    let error = Error::from(Client::new(&path).unwrap().list().unwrap_err());
    assert_eq!(error.exit(), Exit::Unreachable);
    assert!(error.to_string().contains("berth serve"), "{error}");
}

#[test]
fn nothing_is_taken_away_without_consent() {
    let served = Served::start(Double::with(&["a"]));
    served.double.change("a", |a| a.used = 3 << 30);
    for words in ["delete a", "archive a", "recycle a", "delete a --on-delete archive"] {
        let message = run(&served, words).failed(Exit::Usage);
        assert!(message.contains("--yes"), "{message}");
        let did = told(&served, words, Some(false));
        let question = did.asked.concat();
        assert!(question.contains("volume a") && question.contains("3Gi"), "{question}");
        assert_eq!(did.failed(Exit::Usage), "nothing was done");
    }
    assert_eq!(served.double.list().len(), 1);
}

#[test]
fn what_is_consented_to_is_done() {
    let served = Served::start(Double::with(&["a", "b", "c", "d"]));
    let did = told(&served, "recycle a", Some(true));
    assert_eq!(did.asked.len(), 1);
    did.said("");
    told(&served, "delete a", Some(true)).said("");
    told(&served, "archive b", Some(true)).said("/srv/archived-b\n");
    served.double.change("c", |c| c.spec.on_delete = OnDelete::Archive);
    let did = told(&served, "delete c --yes", Some(false));
    assert!(did.asked.is_empty());
    did.said("/srv/archived-c\n");
    let kept = told(&served, "delete d --on-delete retain", None);
    assert!(kept.asked.is_empty(), "nothing happens to it");
    kept.said("");
    run(&served, "list -o name").said("d\n");
    run(&served, "delete c --yes").failed(Exit::NotFound);
}

#[test]
fn a_volume_that_a_claim_has_is_taken_away_by_force_only() {
    let served = Served::start(Double::with(&["held"]));
    for words in ["delete held", "delete held --on-delete archive", "archive held", "recycle held"]
    {
        let message = run(&served, &format!("{words} --yes")).failed(Exit::Conflict);
        assert!(message.contains("default/data") && message.contains("--force"), "{message}");
    }
    run(&served, "recycle held --yes --force").said("");
    let asked = told(&served, "delete held --force", Some(false));
    assert_eq!(asked.asked.len(), 1, "that it is forced is no consent to what is lost");
    run(&served, "archive held --yes --force").said("/srv/archived-held\n");
    run(&served, "list -o name").said("");
}

#[test]
fn the_trash_is_shown_or_waited_for() {
    let served = Served::start(Double::with(&[]));
    served.double.litter(3, 0);
    let out = run(&served, "trash").out;
    assert!(out.starts_with("Waiting:    3\nCurrent:    a\\u{1b}[31m\n"), "{out}");
    run(&served, "trash --wait").said("");
    assert_eq!(served.double.trash().waiting, 0);
    served.double.litter(2, 1);
    let message = run(&served, "trash --wait").failed(Exit::Failed);
    assert!(message.contains("1 "), "{message}");
}

#[test]
fn a_manifest_needs_only_the_server() {
    let served = Served::start(Double::with(&["data", "My_Data"]));
    served.double.change("data", |data| {
        data.spec.labels.insert("team".into(), "blue".into());
        data.spec.labels.insert("not".into(), "for kubernetes".into());
        data.spec.labels.insert("berth.io/claim-name".into(), "before".into());
    });
    let read = |words: &str| {
        let did = run(&served, words);
        assert!(did.error.is_none(), "{:?}", did.error);
        serde_saphyr::from_str::<serde_json::Value>(&did.out).unwrap()
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
    let message = run(&served, "pv My_Data --server nas").failed(Exit::Usage);
    assert!(message.contains("--name"), "{message}");
    assert_eq!(read("pv My_Data --server nas --name m")["spec"]["nfs"]["path"], "/My_Data");
}
