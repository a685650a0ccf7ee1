//! A fake of the volumes behind the API, for tests: it keeps them in memory.
//!
//! Some names have an effect:
//! - The name of a kind of error: every operation on it returns an error of that kind.
//! - `broken`: a clone of it fails at the first poll; `crowded`: it fails because the disk is full.
//!   `fleeting`: a clone of it is gone then. A clone of any other volume is ready at the third
//!   poll.
//! - `held`: a claim uses it.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::api::{ReclaimRequest, ServerProperties, VolumeApi};
use super::{socket, v1};
use crate::volume::error::{Error, Result};
use crate::volume::name::{VolumeId, VolumeName};
use crate::volume::overcommit::CommittedCapacity;
use crate::volume::progress::ProgressSnapshot;
use crate::volume::spec::{OnDelete, Spec, VolumePhase, VolumeStatus};
use crate::volume::{CapacityChange, DiskSpace, Reclaimed, VolumeOrigin, trash};

/// Volumes in memory.
#[derive(Default)]
pub struct FakeVolumes {
    volumes: Mutex<BTreeMap<VolumeName, VolumeStatus>>,
    trash: Mutex<trash::TrashStatus>,
}

/// A server of the API on a socket in a temporary directory, stopped when this is dropped.
pub struct FakeServer {
    /// The volumes.
    pub volumes: Arc<FakeVolumes>,
    /// The socket.
    pub path: PathBuf,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

/// The properties of a server with [`FakeVolumes`].
pub fn about() -> ServerProperties {
    ServerProperties {
        version: "1.2.3".into(),
        listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 2050))],
        provisioner: Some("example.org/berth".into()),
        server: Some("00ff".into()),
    }
}

/// A valid name.
pub fn name(text: &str) -> VolumeName {
    VolumeName::new(text).expect("the name is valid")
}

/// A volume of 10 GiB.
pub fn spec(text: &str) -> Spec {
    let id = text.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    Spec::new(name(text), VolumeId::new(id).expect("the id is valid"), 10 << 30)
}

impl FakeVolumes {
    /// Creates a fake with volumes of these names.
    pub fn with(names: &[&str]) -> Arc<Self> {
        let fake = Self::default();
        for name in names {
            fake.create(spec(name), VolumeOrigin::Fresh)
                .expect("the name has no effect on creation");
        }
        Arc::new(fake)
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<VolumeName, VolumeStatus>> {
        self.volumes.lock()
    }

    /// Changes the status of a volume.
    pub fn change(&self, which: &str, change: impl FnOnce(&mut VolumeStatus)) {
        change(self.volumes().get_mut(&name(which)).expect("the volume exists"));
    }

    /// Fills the trash; each poll then removes one entry.
    pub fn litter(&self, waiting: u64, set_aside: u64) {
        let current = Some("a\u{1b}[31m".to_owned());
        *self.trash.lock() =
            trash::TrashStatus { waiting, set_aside, current, ..trash::TrashStatus::default() };
    }

    /// Returns a volume, and advances its cloning by one step.
    fn step(&self, name: &VolumeName) -> Result<VolumeStatus> {
        let mut volumes = self.volumes();
        let status = volumes.get_mut(name).ok_or_else(|| Error::NotFound(name.to_string()))?;
        if let VolumePhase::Cloning { progress, from } = &mut status.phase {
            progress.entries_done += 1;
            progress.bytes_done += progress.bytes_total / progress.entries_total;
            match from.as_str() {
                "fleeting" => {
                    volumes.remove(name);
                    return Err(Error::NotFound(name.to_string()));
                }
                "broken" => {
                    status.phase =
                        VolumePhase::Failed { message: "the disk is\u{7} broken".into() };
                }
                "crowded" => {
                    status.phase = VolumePhase::Failed { message: "the disk is full".into() };
                    status.full = true;
                }
                _ if progress.entries_done == progress.entries_total => {
                    status.phase = VolumePhase::Ready;
                }
                _ => (),
            }
        }
        Ok(status.clone())
    }
}

/// The error that the name stands for, if any.
fn error_of(name: &VolumeName) -> Result<()> {
    let path = || PathBuf::from("/x");
    match name.as_str() {
        "invalid" => Err(Error::Invalid("it makes no sense\u{1b}[2J".into())),
        "conflict" => Err(Error::InTheWay(path())),
        "busy" => Err(Error::Counting(name.clone())),
        "nospace" => Err(Error::TooLarge { wanted: 2, size: 1 }),
        "internal" => {
            let source = io::Error::from_raw_os_error(5);
            Err(Error::Io { what: "read", path: path(), source })
        }
        "panic" => panic!("a bug"),
        _ => Ok(()),
    }
}

impl VolumeApi for FakeVolumes {
    fn create(&self, spec: Spec, origin: VolumeOrigin) -> Result<VolumeStatus> {
        error_of(&spec.name)?;
        let known = self.volumes().get(&spec.name).cloned();
        match known {
            Some(known) if known.spec.id != spec.id => {
                return Err(Error::OtherId { name: spec.name, id: known.spec.id, wanted: spec.id });
            }
            Some(VolumeStatus { phase: VolumePhase::Failed { .. }, .. }) | None => (),
            Some(known) => return Ok(known),
        }
        let progress = ProgressSnapshot {
            entries_total: 3,
            bytes_total: 3 << 20,
            ..ProgressSnapshot::default()
        };
        let phase = match origin {
            VolumeOrigin::Clone(from) => VolumePhase::Cloning { from, progress },
            VolumeOrigin::Fresh | VolumeOrigin::Adopt => VolumePhase::Ready,
        };
        let status = VolumeStatus {
            path: spec.export_path(),
            directory: format!("/srv/{}", spec.name),
            created: Timestamp::UNIX_EPOCH,
            copy_of: None,
            access: None,
            full: false,
            phase,
            used: 0,
            free: spec.capacity,
            inodes_used: 1,
            mounted_by: Vec::new(),
            traffic: Default::default(),
            spec,
        };
        self.volumes().insert(status.spec.name.clone(), status.clone());
        Ok(status)
    }

    fn list(&self) -> Vec<VolumeStatus> {
        self.volumes().values().cloned().collect()
    }

    fn show(&self, name: &VolumeName) -> Result<VolumeStatus> {
        error_of(name)?;
        self.step(name)
    }

    fn expand(&self, name: &VolumeName, growth: CapacityChange) -> Result<VolumeStatus> {
        let mut status = self.show(name)?;
        let (wanted, now) = (growth.capacity.unwrap_or(status.spec.capacity), status.spec.capacity);
        if wanted < now && !growth.shrink {
            return Err(Error::WouldShrink { wanted, now });
        }
        status.spec.capacity = wanted;
        status.spec.inodes = growth.inodes.or(status.spec.inodes);
        self.volumes().insert(name.clone(), status.clone());
        Ok(status)
    }

    fn reclaim(
        &self,
        name: &VolumeName,
        ReclaimRequest { on_delete: how, force }: ReclaimRequest,
    ) -> Result<Reclaimed> {
        let status = self.show(name)?;
        let kept = how.unwrap_or(status.spec.on_delete) == OnDelete::Retain;
        if name.as_str() == "held" && !force && !kept {
            let holder = "the claim default/data".into();
            return Err(Error::Held { name: name.clone(), holder });
        }
        match how.unwrap_or(status.spec.on_delete) {
            OnDelete::Recycle => return Ok(Reclaimed::Recycled(Box::new(status))),
            OnDelete::Retain => return Ok(Reclaimed::Retained(Box::new(status))),
            OnDelete::Delete | OnDelete::Archive => self.volumes().remove(name),
        };
        match how.unwrap_or(status.spec.on_delete) {
            OnDelete::Archive => Ok(Reclaimed::Archived(format!("/srv/archived-{name}"))),
            _ => Ok(Reclaimed::Deleted),
        }
    }

    fn recount(&self, name: &VolumeName) -> Result<()> {
        self.show(name).map(|_| ())
    }

    fn trash(&self) -> trash::TrashStatus {
        let mut trash = self.trash.lock();
        let now = trash.clone();
        trash.waiting = trash.waiting.saturating_sub(1);
        trash.idle = trash.waiting == 0;
        trash.removed += 1;
        now
    }

    fn faults(&self) -> Vec<String> {
        vec!["something is wrong".into()]
    }

    fn disk(&self) -> Result<DiskSpace> {
        match self.volumes().contains_key(&name("lost")) {
            true => Err(Error::NotFound("disk".into())),
            false => Ok(DiskSpace { size_bytes: 100, free_bytes: 50 }),
        }
    }

    fn committed_capacity(&self) -> Option<CommittedCapacity> {
        None
    }
}

impl FakeServer {
    /// Starts a server.
    pub fn start(volumes: Arc<FakeVolumes>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be created");
        let path = folder.path().join("admin.sock");
        let stop = CancellationToken::new();
        let (api, ends) = (v1::router(volumes.clone(), about()), stop.clone());
        let runtime = runtime();
        let listening = runtime.block_on(listen(&path)).expect("the directory is empty");
        let serve = move || runtime.block_on(socket::serve(listening, api, ends));
        let thread = Some(thread::spawn(serve));
        Self { volumes, path, stop, thread, _folder: folder }
    }
}

async fn listen(path: &Path) -> std::result::Result<socket::ListeningSocket, socket::SocketError> {
    socket::listen(path)
}

/// A runtime like that of the control plane.
pub fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime can be created")
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // this may run during a panic
        }
    }
}
