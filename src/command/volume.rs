//! `berth volume`: asks the server, and says what it said.
//!
//! What takes content away from its users is asked about first, unless --yes; what is then asked
//! of the server is what was consented to, not what the volume may say by then.

use std::io::{self, BufRead, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::args::{
    CloneArgs, ConsentArgs, DeleteArgs, ExpandArgs, ListArgs, ListOutput, Output, OutputArg,
    PvArgs, TrashArgs, VolumeArgs, VolumeCommand,
};
use super::progress::Progress;
use super::pv::Manifest;
use super::{Error, Exit, Result, show, text, wish};
use crate::admin::api::{Create, End, Force, Kind};
use crate::admin::client::{self, Answer, Client};
use crate::label::is_label;
use crate::quantity::about;
use crate::telemetry::log::Chain;
use crate::volume::name::Name;
use crate::volume::spec::{OWN_LABELS, OnDelete, Phase, Status};
use crate::volume::{Ended, Growth, trash};

/// The first pause before it is asked again how far something is; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Asks whether something is wanted; nothing if there is nobody to ask.
type Ask<'a> = &'a mut dyn FnMut(&str) -> io::Result<Option<bool>>;

/// One command, and whom it talks to.
struct Session<'a> {
    client: Client,
    out: &'a mut dyn Write,
    ask: Ask<'a>,
    pause: Duration,
}

/// Runs a command against the server behind `socket`, to its end.
pub fn run(socket: &Path, args: &VolumeArgs) -> ExitCode {
    let done = Client::new(socket).map_err(Error::from).and_then(|client| {
        let (out, ask) = (&mut io::stdout().lock(), &mut ask_on_terminal);
        let mut session = Session { client, out, ask, pause: FIRST_PAUSE };
        session.run(&args.command)?;
        Ok(session.out.flush()?)
    });
    let Err(error) = done else { return Exit::Done.into() };
    if error.exit() != Exit::Done {
        eprintln!("berth: {}", text::plain(&Chain(&error).to_string()));
    }
    error.exit().into()
}

fn ask_on_terminal(question: &str) -> io::Result<Option<bool>> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")))
}

/// Says something that scripts need not know.
fn note(text: &str) {
    if io::stderr().is_terminal() {
        eprintln!("{}", text::plain(text));
    }
}

impl Session<'_> {
    fn run(&mut self, command: &VolumeCommand) -> Result<()> {
        match command {
            VolumeCommand::Create(args) => self.make(&wish::create(args)?, args.output),
            VolumeCommand::Adopt(args) => self.make(&wish::adopt(args)?, args.output),
            VolumeCommand::Clone(args) => self.clone_volume(args),
            VolumeCommand::List(args) => self.list(args),
            VolumeCommand::Show(args) => {
                let answer = self.client.show(&args.name)?;
                self.say(args.output, &answer, show::fields)
            }
            VolumeCommand::Expand(args) => self.expand(args),
            VolumeCommand::Recycle(args) => self.end(args, Some(OnDelete::Recycle)),
            VolumeCommand::Archive(args) => self.end(args, Some(OnDelete::Archive)),
            VolumeCommand::Delete(DeleteArgs { on_delete, consent }) => {
                self.end(consent, *on_delete)
            }
            VolumeCommand::Recount(args) => {
                let answer = self.client.recount(&args.name)?;
                self.say(args.output, &answer, |_| String::new())
            }
            VolumeCommand::Trash(args) => self.trash(args),
            VolumeCommand::Pv(args) => self.manifest(args),
        }
    }

    fn clone_volume(&mut self, args: &CloneArgs) -> Result<()> {
        let source = self.client.show(&args.source)?.value.spec;
        self.make(&wish::clone(args, source)?, args.output)
    }

    /// Makes a volume, and waits until it can be used.
    fn make(&mut self, wish: &Create, output: OutputArg) -> Result<()> {
        let mut answer = self.client.create(wish)?;
        let name = &wish.spec.name;
        if let Phase::Cloning { .. } = answer.value.phase {
            answer = self.wait_for(name)?;
        }
        let Status { phase, path, spec, .. } = &answer.value;
        if let Phase::Failed { message } | Phase::Lost { message } = phase {
            return Err(Error::Unusable { name: name.clone(), message: message.clone() });
        }
        let differences = wish::differences(&wish.spec, spec);
        if !differences.is_empty() {
            return Err(Error::Different { name: name.clone(), differences });
        }
        note(&format!("volume {name} is there; clients mount {path}"));
        self.say(output, &answer, |_| String::new())
    }

    /// Looks until it is no longer being cloned. To ask for it again would begin anew once it has
    /// failed.
    fn wait_for(&self, name: &Name) -> Result<Answer<Status>> {
        let mut shown = Progress::new(format!("cloning {name}"));
        let mut pause = self.pause;
        loop {
            let answer = match self.client.show(name) {
                Err(client::Error::Refused(why)) if why.kind == Kind::NotFound => {
                    return Err(Error::Gone(name.clone()));
                }
                answer => answer?,
            };
            let Phase::Cloning { progress, .. } = &answer.value.phase else { return Ok(answer) };
            shown.at(progress.bytes_done, progress.bytes_total, &show::progress(progress));
            pause = wait(pause);
        }
    }

    fn list(&mut self, args: &ListArgs) -> Result<()> {
        let answer = self.client.list()?;
        let volumes = &answer.value.volumes;
        match args.output {
            ListOutput::Table => {
                write!(self.out, "{}", show::table(volumes))?;
                if let Some(promise) = &answer.value.promise {
                    writeln!(self.out, "\n{}", show::promise(promise))?;
                }
            }
            ListOutput::Json => self.json(&answer)?,
            ListOutput::Name => {
                // Names have no control characters, and a script wants them as they are.
                for volume in volumes {
                    writeln!(self.out, "{}", volume.spec.name)?;
                }
            }
        }
        Ok(())
    }

    fn expand(&mut self, args: &ExpandArgs) -> Result<()> {
        let ExpandArgs { capacity, inodes, shrink, .. } = *args;
        let answer = self.client.expand(&args.name, &Growth { capacity, inodes, shrink })?;
        self.say(args.output, &answer, |_| String::new())
    }

    fn end(&mut self, args: &ConsentArgs, how: Option<OnDelete>) -> Result<()> {
        let how = if args.yes { how } else { Some(self.consent(args, how)?) };
        let force = args.force;
        let answer = match how {
            Some(OnDelete::Recycle) => self.client.recycle(&args.name, Force { force })?,
            Some(OnDelete::Archive) => self.client.archive(&args.name, Force { force })?,
            on_delete => self.client.end(&args.name, End { on_delete, force })?,
        };
        let outcome = |ended: &Ended| match ended {
            Ended::Archived(directory) => format!("{}\n", text::plain(directory)),
            Ended::Deleted | Ended::Recycled(_) | Ended::Retained(_) => String::new(),
        };
        self.say(args.output, &answer, outcome)
    }

    /// Asks whether it is wanted, and returns what was consented to.
    fn consent(&mut self, args: &ConsentArgs, how: Option<OnDelete>) -> Result<OnDelete> {
        let volume = self.client.show(&args.name)?.value;
        let how = how.unwrap_or(volume.spec.on_delete);
        let (name, content) = (&args.name, show::content(&volume));
        let question = match how {
            OnDelete::Delete => format!("Destroy volume {name}, with {content}?"),
            OnDelete::Recycle => format!("Destroy the content of volume {name}, {content}?"),
            OnDelete::Archive => format!("End volume {name}, and put aside {content}?"),
            OnDelete::Retain => return Ok(how), // nothing happens to it
        };
        match (self.ask)(&text::plain(&question))? {
            Some(true) => Ok(how),
            Some(false) => Err(Error::Declined),
            None => Err(Error::NobodyToAsk),
        }
    }

    fn trash(&mut self, args: &TrashArgs) -> Result<()> {
        if !args.wait {
            let answer = self.client.trash()?;
            return self.say(args.output, &answer, show::trash);
        }
        let answer = self.wait_for_trash()?;
        match answer.value.set_aside {
            0 => self.say(args.output, &answer, |_| String::new()),
            n => Err(Error::SetAside(n)),
        }
    }

    fn wait_for_trash(&self) -> Result<Answer<trash::Status>> {
        let mut shown = Progress::new("emptying the trash");
        let (mut pause, mut most) = (self.pause, 0);
        loop {
            let answer = self.client.trash()?;
            if answer.value.idle {
                return Ok(answer);
            }
            let trash::Status { waiting, removed, freed, .. } = answer.value;
            most = most.max(waiting);
            let freed = about(freed);
            let text = format!("{waiting} left; {removed} files removed, {freed} given back");
            shown.at(most - waiting, most, &text);
            pause = wait(pause);
        }
    }

    fn manifest(&mut self, args: &PvArgs) -> Result<()> {
        let volume = self.client.show(&args.name)?.value;
        let about = self.client.server()?.value.about;
        let listens = || about.listen.first().map(SocketAddr::port).ok_or(Error::NoPort);
        let port = args.port.map_or_else(listens, Ok)?;
        let by = about
            .server
            .filter(|_| args.provisioner.is_none() || args.provisioner == about.provisioner);
        let provisioner = args.provisioner.clone().or(about.provisioner);
        if provisioner.is_none() && !args.storage_class.is_empty() {
            eprintln!(
                "berth: no provisioner looks after it, so that its claim cannot grow; name one with \
                 --provisioner"
            );
        }
        let mut labels = volume.spec.labels;
        labels.retain(|key, _| !key.starts_with(OWN_LABELS));
        labels.retain(|key, value| {
            let fits = is_label(key, value);
            if !fits {
                let label = text::plain(&format!("{key}={value}"));
                eprintln!("berth: left out the label {label}: it cannot be one in Kubernetes");
            }
            fits
        });
        labels.extend(args.label.iter().cloned());
        let manifest = Manifest {
            name: args.called.clone().unwrap_or_else(|| args.name.to_string()),
            labels,
            volume: volume.spec.name.to_string(),
            id: volume.spec.id.to_string(),
            provisioner,
            by,
            capacity: volume.spec.capacity,
            access_modes: args.access_mode.clone(),
            storage_class: args.storage_class.clone(),
            server: args.server.clone(),
            port,
            path: volume.path,
            mount_options: args.mount_option.clone(),
        };
        Ok(write!(self.out, "{}", manifest.yaml()?)?)
    }

    fn say<T>(
        &mut self,
        output: OutputArg,
        answer: &Answer<T>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        match output.output {
            Output::Text => Ok(write!(self.out, "{}", text(&answer.value))?),
            Output::Json => self.json(answer),
        }
    }

    fn json<T>(&mut self, answer: &Answer<T>) -> Result<()> {
        Ok(writeln!(self.out, "{}", text::json(&answer.json))?)
    }
}

/// Waits, and says how long to wait the next time.
fn wait(pause: Duration) -> Duration {
    thread::sleep(pause);
    (pause * 2).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
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
        for words in
            ["delete held", "delete held --on-delete archive", "archive held", "recycle held"]
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
}
