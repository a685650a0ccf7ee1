//! A server of a test's own, over a temporary directory.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::client::{Client, Cred};
use super::faults::Faults;
use super::{Mode, PATIENCE, eventually};

/// The built program; another one if `BERTH_BIN` names it.
pub fn program() -> PathBuf {
    std::env::var_os("BERTH_BIN").map_or_else(|| env!("CARGO_BIN_EXE_berth").into(), PathBuf::from)
}

/// Runs the program to its end.
pub fn berth<S: AsRef<OsStr>>(args: &[S]) -> Output {
    Command::new(program()).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs a program that must succeed, and returns what it said.
pub fn run(command: &mut Command) -> String {
    let done = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A loopback port that nothing listens on. Outside the range from which the kernel takes ports for
/// connections, so that no client of another test gets it in the meantime.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 131 % u32::from(COUNT)).unwrap();
    (0..COUNT)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .find(|&port| is_free(port))
        .expect("one of so many ports is free")
}

/// Bound only, never listening: a process that another test starts just now has a copy of the
/// socket until it runs its program, and would accept what is meant for the server.
fn is_free(port: u16) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).is_ok()
}

/// Lets this process have as many connections as it may.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).unwrap();
}

/// How a server is to be started.
#[derive(Clone, Default)]
pub struct Setup {
    exports: Option<String>,
    args: Vec<String>,
    disk: Option<&'static str>,
    faults: bool,
    address_space: Option<u64>,
    descriptors: Option<u64>,
    secure: bool,
}

impl Setup {
    /// Exports what the lines say instead of the whole directory to all; `{}` in them stands for
    /// the directory.
    pub fn exports(mut self, lines: &str) -> Self {
        self.exports = Some(lines.to_owned());
        self
    }

    /// Adds arguments; `{}` in them stands for the directory.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&a| a.to_owned()));
        self
    }

    /// Gives the directory a disk of its own: a tmpfs with these options. Takes privileges.
    pub const fn disk(mut self, options: &'static str) -> Self {
        self.disk = Some(options);
        self
    }

    /// Lets the server have so many bytes of addresses, as `ulimit -v` does: beyond that it gets no
    /// memory.
    pub const fn address_space(mut self, bytes: u64) -> Self {
        self.address_space = Some(bytes);
        self
    }

    /// Lets the server have so many descriptors, as `ulimit -n` does.
    pub const fn descriptors(mut self, descriptors: u64) -> Self {
        self.descriptors = Some(descriptors);
        self
    }

    /// Leaves it to the server from which ports the directory may be used: here, clients have no
    /// privileged ones otherwise.
    pub const fn secure(mut self) -> Self {
        self.secure = true;
        self
    }

    /// Puts a disk under it that does what [`Server::faults`] is told. Takes a debug build.
    pub const fn faults(mut self) -> Self {
        self.faults = true;
        self
    }

    /// Starts the server over an empty directory.
    pub fn start(self) -> Server {
        self.start_over(|_| ())
    }

    /// Starts the server over a directory that `prepare` fills.
    pub fn start_over(self, prepare: impl FnOnce(&Path)) -> Server {
        let mut server = self.prepared(prepare);
        server.launch();
        server.wait_until_it_answers();
        server
    }

    /// Starts a server that is expected to refuse, and returns what it said.
    pub fn refused(self, prepare: impl FnOnce(&Path)) -> String {
        let mut server = self.prepared(prepare);
        server.launch();
        let status = server.wait();
        assert!(!status.success(), "it started: {}", server.log());
        server.log()
    }

    fn prepared(self, prepare: impl FnOnce(&Path)) -> Server {
        let temp = TempDir::with_prefix("berth-").unwrap();
        let dir = temp.path().join("export");
        fs::create_dir(&dir).unwrap();
        if let Some(options) = self.disk {
            run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&dir));
        }
        if self.faults {
            fs::create_dir(temp.path().join("faults")).unwrap();
        }
        prepare(&dir);
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let server = Server { setup: self, dir, addr, child: None, temp };
        if let Some(lines) = &server.setup.exports {
            server.write_exports(lines);
        }
        server
    }
}

/// A server that runs, and is killed at the end of the test.
pub struct Server {
    /// The backing directory.
    pub dir: PathBuf,
    /// Where NFS and MOUNT are served.
    pub addr: SocketAddr,
    setup: Setup,
    child: Option<Child>,
    temp: TempDir,
}

impl Server {
    /// Starts a server that exports an empty directory as `/` to all.
    pub fn start() -> Self {
        Setup::default().start()
    }

    /// A connection as the superuser; without privileges as the server's own user.
    pub fn client(&self) -> Client {
        self.client_as(Cred::superuser())
    }

    /// A connection as a user.
    pub fn client_as(&self, cred: Cred) -> Client {
        Client::connect(self.addr, cred)
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.temp.path().join("log")).unwrap_or_default()
    }

    /// A path beside the backing directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The disk of a server that was set up with faults.
    pub fn faults(&self) -> Faults {
        assert!(self.setup.faults);
        Faults::new(self.beside("faults"))
    }

    /// Writes the file that `--exports` names.
    pub fn write_exports(&self, lines: &str) {
        let lines = lines.replace("{}", self.dir.to_str().unwrap());
        fs::write(self.beside("exports"), lines).unwrap();
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the server runs"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("it does not end; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until no thread that carries out calls is at work.
    pub fn until_calls_rest(&self) {
        let mut rests = 0;
        eventually("no call is being carried out", || {
            rests = if self.is_at_work() { 0 } else { rests + 1 };
            rests == 5 // a thread may have been on its way from one call to the next
        });
    }

    /// Whether such a thread runs or waits for a disk (proc(5)).
    fn is_at_work(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid().as_raw_nonzero())).unwrap();
        let works = |task: PathBuf| {
            let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
            let carries = ["(berth-pool-", "(berth-data-"].iter().any(|name| stat.contains(name));
            carries && !stat.contains(") S ")
        };
        tasks.flatten().any(|task| works(task.path()))
    }

    /// Ends the server as an administrator does, and starts it again as it was.
    pub fn restart(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.wait().success(), "its log:\n{}", self.log());
        self.launch();
        self.wait_until_it_answers();
    }

    /// Ends the server as a crash does, and starts it again as it was.
    pub fn crash_and_restart(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
        self.launch();
        self.wait_until_it_answers();
    }

    /// Starts the server after its end, without waiting until it answers.
    pub fn launch_without_waiting(&mut self) {
        self.launch();
    }

    /// Starts the server again after its end was waited for.
    pub fn launch_again(&mut self) {
        self.launch();
        self.wait_until_it_answers();
    }

    /// Reads a number of kilobytes from the process' status.
    pub fn status_kib(&self, field: &str) -> u64 {
        let pid = self.pid().as_raw_nonzero();
        let mut status = String::new();
        File::open(format!("/proc/{pid}/status")).unwrap().read_to_string(&mut status).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(field)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    /// The processor time that all threads of the server have used.
    pub fn cpu_time(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.pid().as_raw_nonzero());
        let used = |task: io::Result<fs::DirEntry>| -> Option<u64> {
            let stat = fs::read_to_string(task.unwrap().path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse().ok()
        };
        Duration::from_nanos(fs::read_dir(tasks).unwrap().filter_map(used).sum())
    }

    fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(self.beside("log")).unwrap();
        let limits = [
            self.setup.address_space.map(|bytes| format!("ulimit -v {}; ", bytes / 1024)),
            self.setup.descriptors.map(|descriptors| format!("ulimit -n {descriptors}; ")),
        ];
        let mut command = Command::new("sh");
        let limits: String = limits.into_iter().flatten().collect();
        command.arg("-c").arg(format!("{limits}exec \"$0\" \"$@\"")).arg(program());
        command.arg("serve").arg("--listen").arg(self.addr.to_string());
        command.arg("--state").arg(self.beside("state"));
        command.arg("--handles").arg(Mode::current().handles());
        match self.setup.exports {
            Some(_) => command.arg("--exports").arg(self.beside("exports")),
            None => command.arg(&self.dir),
        };
        if !self.setup.secure {
            command.arg("--insecure");
        }
        let dir = self.dir.to_str().expect("paths of tests are text");
        if self.setup.faults {
            command.env("BERTH_FAULTS", self.beside("faults"));
        }
        command
            .args(self.setup.args.iter().map(|arg| arg.replace("{}", dir)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn wait_until_it_answers(&mut self) {
        eventually("the server answers", || {
            let child = self.child.as_mut().expect("the server was launched");
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the server ended ({status}); its log:\n{}", self.log());
            }
            match TcpStream::connect(self.addr) {
                Ok(_) => true,
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => false,
                Err(e) => panic!("cannot connect: {e}"),
            }
        });
        self.client().null();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.setup.disk.is_some() {
            run(Command::new("umount").arg(&self.dir));
        }
        if std::thread::panicking() {
            eprintln!("the log of the server at {}:\n{}", self.addr, self.log());
        }
    }
}
