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
use crate::volume::{Ended, Growth, Origin, trash};

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
        let name = &wish.spec.name;
        let existed = matches!(wish.origin, Origin::Clone(_)) && self.is_complete(name);
        let mut answer = self.client.create(wish)?;
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
        match &answer.value.copy_of {
            Some(from) if existed => {
                let at = answer.value.created.strftime(show::TIME);
                let text = format!(
                    "{name} exists already, copied from {from} at {at}; nothing was copied"
                );
                eprintln!("berth: {}", text::plain(&text));
            }
            _ => note(&format!("volume {name} is there; clients mount {path}")),
        }
        self.say(output, &answer, |_| String::new())
    }

    /// Whether a volume exists, and is not being cloned nor failed to be.
    fn is_complete(&self, name: &Name) -> bool {
        let found = self.client.show(name).map(|answer| answer.value.phase);
        matches!(found, Ok(Phase::Ready | Phase::Counting | Phase::Lost { .. }))
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
mod tests;
