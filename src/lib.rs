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
//!    nfs3  mount  portmap                        volume   registry, create, expand, reclaim
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
//! | module | promises | may name |
//! |---|---|---|
//! | [`errno`] | what a system call answered | - |
//! | [`quantity`], [`label`] | amounts of bytes, names and labels, as Kubernetes has them; pure | - |
//! | [`mount_options`] | options of clients' mounts: the defaults, and what can never work; pure | - |
//! | [`sys`] | system calls, thin and safe; the only `unsafe` | errno |
//! | [`xdr`] | bounded reading without allocation; writing into a buffer | - |
//! | [`rpc`] | records, calls, credentials, the reply cache, limits, drain; knows no program | errno sys xdr telemetry |
//! | [`export`] | what is exported, to whom, with which squash; pure | - |
//! | [`quota`] | what each volume uses; room is held before it is used, on the disk before it counts | errno sys telemetry |
//! | [`fs`] | POSIX operations on handles, as the caller; knows no wire format | errno sys export quota telemetry |
//! | [`nfs3`] | the 22 procedures: arguments to results | errno sys xdr rpc export fs telemetry |
//! | [`mount`] | MOUNT: paths to handles | errno sys xdr rpc export fs telemetry |
//! | [`portmap`] | where the programs are | xdr rpc |
//! | [`volume`] | directory, registry entry, export and account as one unit; knows no Kubernetes | errno export fs label quota sys telemetry |
//! | [`provisioner`] | Kubernetes: claims to volumes, by the contract of external provisioners | label mount_options quantity volume telemetry |
//! | [`state`] | what survives a restart, apart from volumes | export fs sys |
//! | [`admin`] | volumes over a unix socket; health, metrics and the status page over HTTP | telemetry volume |
//! | [`manual`] | the pages of the manual | - |
//! | [`command`] | `berth volume`, `berth health`, `berth manual`: asks a server, tells people and scripts | admin export label manual mount_options nfs3 quantity rpc telemetry volume xdr |
//! | [`config`] | command line | command (arguments), export (ports), label, quantity, fs (kinds of handles), provisioner and volume (settings), telemetry |
//! | [`telemetry`] | log, with a bound for what peers cause; every metric | - |
//! | [`app`] | builds, starts and stops the parts | all |
//!
//! # What holds everywhere
//!
//! - **A call is tried where it was read.** A data-plane thread never waits for a disk: a call that
//!   might ([`sys::Patience::None`]) answers "later" before it has changed anything, and runs again
//!   in the pool. What may wait is decided by what is known to be in memory: a file is open, a name
//!   is in the kernel's cache (RESOLVE_CACHED), data is in the page cache (RWF_NOWAIT), and changes
//!   were quick lately ([`nfs3`]'s pace), and the kernel has room for what is written (its credit).
//!   Threads are single-threaded runtimes, so that a call wakes nobody.
//! - **A call is answered where it came in.** A data-plane thread whose packets all come to one processor
//!   moves there, while that pays (rpc's `follow`): for a short call, waking another processor is most
//!   of what it costs.
//! - **Who would wait for another call holds no thread either.** Changes of one file stand in a lane
//!   ([`rpc::lanes`]), and so do those who list one directory: a file that hangs takes one thread, not
//!   all. A thread that has a place in a lane, of the data plane or of the pool, does what others have put
//!   in line behind it, so that nobody is woken, and no lock is handed round, for changes that many make
//!   at once.
//! - **A thread has an identity.** System calls whose outcome depends on who makes them run inside
//!   `acting_as` or `as_server` of [`fs::identity`]; the thread stays who it was until the next
//!   call needs somebody else.
//! - **A file appears whole.** Its name comes last, after everything that the call asks for, so that
//!   nobody finds it half made, whatever fails and wherever the server ends ([`fs::make`]); a call that
//!   changes several attributes changes all of them or none.
//! - **A change has a lock.** Attributes before and after are taken under the lock of the file or
//!   directory, together with the change ([`fs::Guard`]).
//! - **An answer is a promise.** Nothing is answered as stable that is not on the disk; a flush that
//!   failed changes the write verifier before anybody hears of it; verifiers of WRITE are read
//!   before the write.
//! - **Who waits for a flush holds no thread.** The call ends with its change; threads of their own
//!   flush once for all who wait for the same file, or for names in the same export, and write the
//!   replies ([`fs::flush`]). A flush covers what was changed before it began, and no more.
//!   A call that finds its volume full, but only with what is held until files are flushed, waits in the
//!   same way for these flushes, and is then carried out again ([`rpc::Outcome::Wait`]).
//! - **Room is held before it is used.** Whatever may grow a volume takes a [`quota::Hold`] first, and
//!   settles it with what the file really took, under the lock of the change. The ledger on the disk
//!   is an upper bound at any time; after a crash, what may not fit waits for a count instead of
//!   being refused.
//! - **Nothing is removed in place.** What is no longer wanted is renamed into the trash in one step,
//!   when no client can reach it any more, and removed from there in the background.
//! - **Peers choose no sizes.** Records, names, counts, queues, caches and connections have bounds,
//!   and memory grows with what arrives, not with what is announced. What all peers make the server hold
//!   is one budget, shared by address ([`rpc::memory_budget`]); who has no room in it waits, and is not
//!   read.
//! - **One file system for each export.** Mount points inside an export are not crossed, so that a
//!   handle of the file system means one file only.

pub mod admin;
pub mod app;
pub mod command;
pub mod config;
pub mod errno;
pub mod export;
pub mod fs;
pub mod label;
pub mod manual;
pub mod mount;
pub mod mount_options;
pub mod nfs3;
pub mod portmap;
pub mod provisioner;
pub mod quantity;
pub mod quota;
pub mod rpc;
pub mod state;
pub mod sys;
pub mod telemetry;
pub mod volume;
pub mod xdr;
