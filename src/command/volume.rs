//! `berth volume`: sends a request to the server, and prints the response.
//!
//! Commands that take content from its users ask for confirmation first, unless `--yes` is given.
//! The request then names the action that was confirmed, because the volume's `onDelete` may have
//! changed meanwhile.

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
use super::progress::ProgressDisplay;
use super::pv::PvManifest;
use super::{CommandError, Exit, Result, damaged, reclaimed, request, show, text};
use crate::admin::api::{ApiErrorKind, CreateRequest, ForceQuery, ReclaimRequest};
use crate::admin::client::{AdminClient, AdminClientError, ApiReply};
use crate::label::is_label;
use crate::quantity::about;
use crate::telemetry::log::Chain;
use crate::volume::name::VolumeName;
use crate::volume::spec::{OWN_LABELS, OnDelete, VolumePhase, VolumeStatus};
use crate::volume::{CapacityChange, VolumeOrigin, trash};

/// The first interval of polling for progress; each one is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest interval of polling.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Asks a question for confirmation; `None` if there is no terminal.
type Ask<'a> = &'a mut dyn FnMut(&str) -> io::Result<Option<bool>>;

/// What a command needs: the server, the output and the user.
struct CommandSession<'a> {
    client: AdminClient,
    out: &'a mut dyn Write,
    ask: Ask<'a>,
    pause: Duration,
}

/// Runs a command against the server at `socket`, prints its result or error, and returns the exit
/// code. Blocks until the command is complete.
pub fn run(socket: &Path, args: &VolumeArgs) -> ExitCode {
    let done = AdminClient::new(socket).map_err(CommandError::from).and_then(|client| {
        let (out, ask) = (&mut io::stdout().lock(), &mut ask_on_terminal);
        let mut session = CommandSession { client, out, ask, pause: FIRST_PAUSE };
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

/// Prints a note that scripts do not need.
fn note(text: &str) {
    if io::stderr().is_terminal() {
        eprintln!("{}", text::plain(text));
    }
}

impl CommandSession<'_> {
    fn run(&mut self, command: &VolumeCommand) -> Result<()> {
        match command {
            VolumeCommand::Create(args) => {
                self.create_and_wait(&request::create(args)?, args.output)
            }
            VolumeCommand::Adopt(args) => self.create_and_wait(&request::adopt(args)?, args.output),
            VolumeCommand::Clone(args) => self.clone_volume(args),
            VolumeCommand::List(args) => self.list(args),
            VolumeCommand::Show(args) => {
                let reply = self.client.show(&args.name)?;
                self.print(args.output, &reply, show::fields)
            }
            VolumeCommand::Expand(args) => self.expand(args),
            VolumeCommand::Recycle(args) => self.reclaim(args, Some(OnDelete::Recycle)),
            VolumeCommand::Archive(args) => self.reclaim(args, Some(OnDelete::Archive)),
            VolumeCommand::Delete(DeleteArgs { on_delete, consent }) => {
                self.reclaim(consent, *on_delete)
            }
            VolumeCommand::Recount(args) => {
                let reply = self.client.recount(&args.name)?;
                self.print(args.output, &reply, |_| String::new())
            }
            VolumeCommand::Trash(args) => self.trash(args),
            VolumeCommand::Pv(args) => self.manifest(args),
        }
    }

    fn clone_volume(&mut self, args: &CloneArgs) -> Result<()> {
        let source = self.client.show(&args.source)?.value.spec;
        self.create_and_wait(&request::clone(args, source)?, args.output)
    }

    /// Creates a volume, and waits until it is no longer being cloned.
    fn create_and_wait(&mut self, request: &CreateRequest, output: OutputArg) -> Result<()> {
        let name = &request.spec.name;
        let existed = matches!(request.origin, VolumeOrigin::Clone(_)) && self.is_complete(name);
        let mut reply = self.client.create(request)?;
        if let VolumePhase::Cloning { .. } = reply.value.phase {
            reply = self.wait_for(name)?;
        }
        let VolumeStatus { phase, path, spec, full, .. } = &reply.value;
        if let VolumePhase::Failed { message } | VolumePhase::Lost { message } = phase {
            let (message, full) = (message.clone(), *full);
            return Err(CommandError::Unusable { name: name.clone(), message, full });
        }
        let differences = request::differences(&request.spec, spec);
        if !differences.is_empty() {
            return Err(CommandError::Different { name: name.clone(), differences });
        }
        match &reply.value.copy_of {
            Some(from) if existed => {
                let at = reply.value.created.strftime(show::TIME);
                let text = format!(
                    "volume {name} already exists, copied from {from} at {at}; nothing was copied"
                );
                eprintln!("berth: {}", text::plain(&text));
            }
            _ => note(&format!("clients can mount volume {name} as {path}")),
        }
        self.print(output, &reply, |_| String::new())
    }

    /// Whether a volume exists, and is neither being cloned nor a failed clone.
    fn is_complete(&self, name: &VolumeName) -> bool {
        let found = self.client.show(name).map(|reply| reply.value.phase);
        matches!(found, Ok(VolumePhase::Ready | VolumePhase::Counting | VolumePhase::Lost { .. }))
    }

    /// Polls until the volume is no longer being cloned. It does not repeat the request, which
    /// would restart a clone that has failed.
    fn wait_for(&self, name: &VolumeName) -> Result<ApiReply<VolumeStatus>> {
        let mut shown = ProgressDisplay::new(format!("cloning {name}"));
        let mut pause = self.pause;
        loop {
            let reply = match self.client.show(name) {
                Err(AdminClientError::Refused(why)) if why.kind == ApiErrorKind::NotFound => {
                    return Err(CommandError::Gone(name.clone()));
                }
                reply => reply?,
            };
            let VolumePhase::Cloning { progress, .. } = &reply.value.phase else {
                return Ok(reply);
            };
            shown.at(progress.bytes_done, progress.bytes_total, &show::progress(progress));
            pause = wait(pause);
        }
    }

    fn list(&mut self, args: &ListArgs) -> Result<()> {
        let reply = self.client.list()?;
        let volumes = &reply.value.volumes;
        match args.output {
            ListOutput::Table => {
                write!(self.out, "{}", show::table(volumes))?;
                write!(self.out, "{}", damaged::lines(&reply.value.damaged))?;
                if let Some(promise) = &reply.value.promise {
                    writeln!(self.out, "\n{}", show::promise(promise))?;
                }
            }
            ListOutput::Json => self.json(&reply)?,
            ListOutput::Name => {
                // Not escaped: names have no control characters, and scripts need them unchanged.
                for volume in volumes {
                    writeln!(self.out, "{}", volume.spec.name)?;
                }
            }
        }
        Ok(())
    }

    fn expand(&mut self, args: &ExpandArgs) -> Result<()> {
        let ExpandArgs { capacity, inodes, shrink, .. } = *args;
        let reply = self.client.expand(&args.name, &CapacityChange { capacity, inodes, shrink })?;
        self.print(args.output, &reply, |_| String::new())
    }

    fn reclaim(&mut self, args: &ConsentArgs, how: Option<OnDelete>) -> Result<()> {
        let how = if args.yes { how } else { Some(self.consent(args, how)?) };
        let force = args.force;
        let reply = match how {
            Some(OnDelete::Recycle) => self.client.recycle(&args.name, ForceQuery { force })?,
            Some(OnDelete::Archive) => self.client.archive(&args.name, ForceQuery { force })?,
            on_delete => self.client.reclaim(&args.name, ReclaimRequest { on_delete, force })?,
        };
        self.print(args.output, &reply, |reclaimed| reclaimed::outcome(&args.name, reclaimed))
    }

    /// Asks for confirmation, and returns the action that was confirmed.
    fn consent(&mut self, args: &ConsentArgs, how: Option<OnDelete>) -> Result<OnDelete> {
        let volume = self.client.show(&args.name)?.value;
        let how = how.unwrap_or(volume.spec.on_delete);
        let (name, content) = (&args.name, show::content(&volume));
        let question = match how {
            OnDelete::Delete => format!("Delete volume {name} with its content ({content})?"),
            OnDelete::Recycle => format!("Delete the content of volume {name} ({content})?"),
            OnDelete::Archive => {
                format!("Remove volume {name}, and archive its content ({content})?")
            }
            OnDelete::Retain => return Ok(how), // changes nothing
        };
        match (self.ask)(&text::plain(&question))? {
            Some(true) => Ok(how),
            Some(false) => Err(CommandError::Declined),
            None => Err(CommandError::NoTerminal),
        }
    }

    fn trash(&mut self, args: &TrashArgs) -> Result<()> {
        if !args.wait {
            let reply = self.client.trash()?;
            return self.print(args.output, &reply, show::trash);
        }
        let reply = self.wait_for_trash()?;
        match reply.value.set_aside {
            0 => self.print(args.output, &reply, |_| String::new()),
            n => Err(CommandError::SetAside(n)),
        }
    }

    fn wait_for_trash(&self) -> Result<ApiReply<trash::TrashStatus>> {
        let mut shown = ProgressDisplay::new("emptying the trash");
        let (mut pause, mut most) = (self.pause, 0);
        loop {
            let reply = self.client.trash()?;
            if reply.value.idle {
                return Ok(reply);
            }
            let trash::TrashStatus { waiting, removed, freed, .. } = reply.value;
            most = most.max(waiting);
            let freed = about(freed);
            let text = format!("{waiting} left; {removed} files removed, {freed} freed");
            shown.at(most - waiting, most, &text);
            pause = wait(pause);
        }
    }

    fn manifest(&mut self, args: &PvArgs) -> Result<()> {
        let volume = self.client.show(&args.name)?.value;
        let about = self.client.server()?.value.about;
        let listens = || about.listen.first().map(SocketAddr::port).ok_or(CommandError::NoPort);
        let port = args.port.map_or_else(listens, Ok)?;
        let by = about
            .server
            .filter(|_| args.provisioner.is_none() || args.provisioner == about.provisioner);
        let provisioner = args.provisioner.clone().or(about.provisioner);
        if provisioner.is_none() && !args.storage_class.is_empty() {
            eprintln!(
                "berth: the PersistentVolume has no provisioner, so its claim cannot be expanded; \
                 name one with --provisioner"
            );
        }
        let mut labels = volume.spec.labels;
        labels.retain(|key, _| !key.starts_with(OWN_LABELS));
        labels.retain(|key, value| {
            let fits = is_label(key, value);
            if !fits {
                let label = text::plain(&format!("{key}={value}"));
                eprintln!("berth: label {label} is left out: Kubernetes does not allow it");
            }
            fits
        });
        labels.extend(args.label.iter().cloned());
        let manifest = PvManifest {
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

    fn print<T>(
        &mut self,
        output: OutputArg,
        reply: &ApiReply<T>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        match output.output {
            Output::Text => Ok(write!(self.out, "{}", text(&reply.value))?),
            Output::Json => self.json(reply),
        }
    }

    fn json<T>(&mut self, reply: &ApiReply<T>) -> Result<()> {
        Ok(writeln!(self.out, "{}", text::json(&reply.json))?)
    }
}

/// Sleeps for `pause`, and returns the next pause.
fn wait(pause: Duration) -> Duration {
    thread::sleep(pause);
    (pause * 2).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
