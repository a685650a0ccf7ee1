//! Berth: NFSv3 from user space, a volume for every claim.
//!
//! ```text
//!   kernel NFS clients                        administrator
//!          | TCP, one port for NFS and MOUNT        | command line, HTTP, signals
//!   +------v-----------+                    +-------v--------+
//!   | rpc              |                    | config -> app  |   control plane: one thread,
//!   | data-plane       |                    | admin, state   |   its own runtime
//!   | threads and pool |                    +-------+--------+
//!   +------+-----------+                            |
//!     nfs  mount  portmap                        volume   registry, create, expand, reclaim
//!          |                                     |     |
//!          |   export::table::Exports  <---------+     |
//!          v   (replaced whole, read without a lock)   v
//!         fs   handles, identity, descriptors  ---> quota   what each volume uses, and may use
//!          |
//!    backing directories (any POSIX file system)
//! ```
//!
//! # Layers
//!
//! A test compares the imports of the source with this table, in both directions.
//!
//! | module | promises | may name |
//! |---|---|---|
//! | [`errno`] | what a system call answered | - |
//! | [`quantity`], [`label`] | amounts of bytes, names and labels, as Kubernetes has them; pure | - |
//! | [`mount_options`] | options of clients' mounts: the defaults, and what can never work; pure | - |
//! | [`sys`] | system calls, thin and safe; the only `unsafe` | errno |
//! | [`sched`] | threads and waiting: which thread runs work, and whether it may block | sys |
//! | [`xdr`] | bounded reading without allocation; writing into a buffer | - |
//! | [`rpc`] | records, calls, credentials, the reply cache, limits, drain; knows no program | errno sched sys xdr telemetry |
//! | [`export`] | what is exported, to whom, with which squash; pure | - |
//! | [`quota`] | what each volume uses; room is held before it is used, on the disk before it counts | errno sched sys |
//! | [`fs`] | POSIX operations on handles, as the caller; knows no wire format | errno sched sys export quota telemetry |
//! | [`locks`] | opens, share reservations, byte ranges, stateids, leases; pure | - |
//! | [`nfs`] | NFS: what all versions share, and the procedures of each | errno sched sys xdr rpc export fs locks telemetry |
//! | [`mount`] | MOUNT: paths to handles | errno sched xdr rpc export fs telemetry |
//! | [`portmap`] | where the programs are | rpc xdr |
//! | [`volume`] | directory, registry entry, export and account as one unit; knows no Kubernetes | errno export fs label quota sys telemetry |
//! | [`provisioner`] | Kubernetes: claims to volumes, by the contract of external provisioners | label mount_options quantity volume telemetry |
//! | [`state`] | what survives a restart, apart from volumes | export fs sys |
//! | [`admin`] | volumes over a unix socket; health, metrics and the status page over HTTP | telemetry volume |
//! | [`manual`] | the pages of the manual | - |
//! | [`command`] | `berth volume`, `berth health`, `berth manual`: asks a server, tells people and scripts | admin export label manual mount_options nfs quantity rpc telemetry volume xdr |
//! | [`config`] | the command line, checked into settings; uses the others' settings and choices only | command export fs label provisioner quantity telemetry volume |
//! | [`telemetry`] | log, with a bound for what peers cause; every metric | - |
//! | [`app`] | builds, starts and stops the parts | all |
//!
//! # Invariants
//!
//! - **A call runs first on the thread that read it.** A data-plane thread never blocks on a disk:
//!   a call that might block ([`sched::Patience::None`]) returns before it has changed anything, and
//!   runs again on a thread of the pool. Whether it might block is decided by what is in memory: an
//!   open file, a name in the kernel's cache (RESOLVE_CACHED), data in the page cache (RWF_NOWAIT),
//!   the latency of recent changes ([`sched::pace`]), and the budget of dirty pages for large writes
//!   ([`sched::dirty_budget`]). Each data-plane thread is a runtime of its own, so a call wakes no
//!   other thread.
//! - **Packets and calls share a processor.** A data-plane thread whose packets all arrive on one
//!   processor moves there as long as that pays ([`sched::affinity`]): waking another processor is
//!   most of the cost of a short call.
//! - **A blocked call holds no thread.** Changes of one file wait in a lane ([`sched::lanes`]), and
//!   so do listings of one directory: a file that hangs occupies one thread, not all. The thread
//!   that holds a lane carries out the calls that queue behind it, which saves waking a thread for
//!   each.
//! - **A thread has an identity.** System calls whose outcome depends on the caller run inside
//!   `acting_as` or `as_server` of [`fs::identity`]. A thread keeps an identity until a call needs
//!   another one.
//! - **A file appears complete.** It gets its name last, after all attributes of the call
//!   ([`fs::create`]), so that a crash at any point leaves no incomplete file. A call that changes
//!   several attributes changes all of them or none.
//! - **A change has a lock.** Attributes before and after a change are read under the lock of its
//!   file or directory ([`fs::guard::Guard`]).
//! - **A reply is a promise.** Nothing is reported as stable that is not on the disk. A failed
//!   flush changes the write verifier before any client hears of it; a WRITE reads the verifier
//!   first.
//! - **A call that waits for a flush holds no thread.** The call ends with its change. Threads of
//!   their own flush once for all calls that wait for the same file, or for names in the same
//!   export, and send the replies ([`fs::flush`]). A flush covers the changes made before it began,
//!   and no more. A call that finds its volume full only because of room that is held until files
//!   are flushed waits in the same way, and then runs again ([`rpc::program::Outcome::Wait`]).
//! - **Room is held before it is used.** Whatever may grow a volume takes a [`quota::Hold`] first,
//!   and settles it with the real size under the lock of the change. The ledger on the disk is
//!   always an upper bound; after a crash, a change that may not fit waits for a count and is not
//!   refused.
//! - **Nothing is removed in place.** Content is renamed into the trash in one step, when clients
//!   can no longer reach it, and removed from there in the background.
//! - **Peers choose no sizes.** Records, names, counts, queues, caches and connections are bounded,
//!   and memory grows with what arrives, not with what is announced. Everything that peers make the
//!   server hold comes out of one budget, shared by address ([`rpc::transport::memory_budget`]); a
//!   connection without room in it is not read.
//! - **One file system for each export.** Mount points inside an export are not crossed, so a
//!   handle of the file system identifies one file.

pub mod admin;
pub mod app;
pub mod command;
pub mod config;
pub mod errno;
pub mod export;
pub mod fs;
pub mod label;
pub mod locks;
pub mod manual;
pub mod mount;
pub mod mount_options;
pub mod nfs;
pub mod portmap;
pub mod provisioner;
pub mod quantity;
pub mod quota;
pub mod rpc;
pub mod sched;
pub mod state;
pub mod sys;
pub mod telemetry;
pub mod volume;
pub mod xdr;
