//! The read-only HTTP listener: health, metrics, the status page, and the requests it refuses.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::process::Signal;

use crate::support::client::{Cred, MOUNT, NFS, Reply, message, record};
use crate::support::server::{Server, Setup, free_port};
use crate::support::wire::*;
use crate::support::{PATIENCE, eventually};

/// The listener's limit of connections.
const CONNECTIONS: usize = 32;

/// A server with an HTTP listener.
pub struct Watched {
    /// The server.
    pub server: Server,
    admin: SocketAddr,
}

/// A response of the listener.
#[derive(Debug)]
struct Page {
    status: u16,
    head: String,
    body: String,
}

impl Watched {
    fn start() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        Self::over(setup, |_| ())
    }

    pub fn over(setup: Setup, prepare: impl FnOnce(&std::path::Path)) -> Self {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let server = setup.args(&["--admin", &admin.to_string()]).start_over(prepare);
        let watched = Self { server, admin };
        // The server replies to NFS calls a little before it becomes ready.
        eventually("the server is ready", || watched.get("/readyz").status == 200);
        watched
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn get(&self, path: &str) -> Page {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
            .unwrap()
    }

    /// Sends a raw request, and reads until the connection closes.
    fn send(&self, request: &str) -> io::Result<Page> {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let cut = || io::Error::other(format!("the response was cut off: {text:?}"));
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(cut)?;
        Ok(Page { status, head: head.to_lowercase(), body: body.to_owned() })
    }

    /// Reads the metrics.
    pub fn metrics(&self) -> Metrics {
        let response = self.get("/metrics");
        assert_eq!(response.status, 200, "{response:?}");
        assert!(response.body.ends_with("# EOF\n"), "{}", response.body);
        let lines = response.body.lines().filter(|line| !line.starts_with('#'));
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        Metrics(lines.map(pair).collect())
    }
}

/// Values by metric, with its labels.
pub struct Metrics(HashMap<String, f64>);

impl Metrics {
    /// The value of a metric; 0 if there is none yet.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// The value of a metric for a procedure.
    pub fn of(&self, metric: &str, procedure: &str) -> f64 {
        let program = if procedure == "MNT" { "mount" } else { "nfs" };
        self.get(&format!("berth_rpc_{metric}{{program=\"{program}\",procedure=\"{procedure}\"}}"))
    }

    fn errors(&self, program: &str, procedure: &str, status: &str) -> f64 {
        let labels = format!("program=\"{program}\",procedure=\"{procedure}\",status=\"{status}\"");
        self.get(&format!("berth_rpc_errors_total{{{labels}}}"))
    }
}

fn float(n: usize) -> f64 {
    u32::try_from(n).unwrap().into()
}

#[test]
fn a_serving_server_is_alive_and_ready() {
    let w = Watched::start();
    for page in ["/livez", "/readyz"] {
        let response = w.get(page);
        assert_eq!((response.status, &*response.body), (200, "ok\n"));
    }
    assert!(w.server.log().contains(&w.admin.to_string()), "{}", w.server.log());
}

#[test]
fn metrics_count_calls_and_bytes_by_procedure() {
    const DATA: usize = 5000;
    let w = Watched::start();
    let mut c = w.server.client();
    let root = c.root();
    let file = c.file(&root, "file");
    let before = w.metrics();
    let head = 24 + c.cred.encoded().len(); // header of each call
    let getattr = head + packed(&root).len();
    for _ in 0..3 {
        c.attrs(&root);
    }
    let attributes = c.last_size;
    assert_eq!(c.lookup(&root, "missing").status(), NFS3ERR_NOENT);
    c.write(&file, 0, &[7; DATA], stable_how::FILE_SYNC).ok();
    let write = head + packed(&file).len() + 8 + 4 + 4 + 4 + DATA;
    assert_eq!(c.read(&file, 0, 10_000).ok().data.len(), DATA);
    let read = c.last_size;
    let after = w.metrics();
    let moved =
        |metric: &str, procedure| after.of(metric, procedure) - before.of(metric, procedure);
    for (procedure, calls) in [("GETATTR", 3.0), ("LOOKUP", 1.0), ("WRITE", 1.0), ("READ", 1.0)] {
        assert_eq!(moved("calls_total", procedure), calls, "{procedure}");
        assert_eq!(moved("latency_seconds_count", procedure), calls, "{procedure}");
        let seconds = moved("latency_seconds_sum", procedure);
        assert!(seconds > 0.0 && seconds < PATIENCE.as_secs_f64(), "{procedure}: {seconds}");
    }
    assert_eq!(moved("calls_total", "CREATE"), 0.0);
    assert_eq!(moved("received_bytes_total", "GETATTR"), float(3 * getattr));
    assert_eq!(moved("sent_bytes_total", "GETATTR"), float(3 * (24 + attributes)));
    assert_eq!(moved("received_bytes_total", "WRITE"), float(write));
    assert_eq!(moved("sent_bytes_total", "READ"), float(24 + read));
    assert_eq!(after.errors("nfs", "LOOKUP", "NOENT"), 1.0);
    let failures = after.0.keys().filter(|name| name.starts_with("berth_rpc_errors")).count();
    assert_eq!(failures, 1, "nothing else failed");
}

#[test]
fn errors_are_counted_by_status() {
    let w = Watched::start();
    let mut c = w.server.client();
    c.mnt("/nowhere");
    c.raw(NFS, 1, &[1, 2, 3]); // no handle
    c.raw(NFS, 99, &[]);
    c.raw((NFS.0, 4), 0, &[]);
    c.raw((7, 1), 0, &[]);
    c.exchange(&message(1, NFS, 0, &[[0, 0, 0, 99], [0; 4], [0; 4], [0; 4]].concat(), &[]));
    let metrics = w.metrics();
    assert_eq!(metrics.of("calls_total", "MNT"), 1.0);
    for (program, procedure, status) in [
        ("mount", "MNT", "NOENT"),
        ("nfs", "GETATTR", "GARBAGE_ARGS"),
        ("other", "OTHER", "PROC_UNAVAIL"),
        ("other", "OTHER", "PROG_MISMATCH"),
        ("other", "OTHER", "PROG_UNAVAIL"),
        ("other", "OTHER", "AUTH_ERROR"),
    ] {
        assert_eq!(metrics.errors(program, procedure, status), 1.0, "{procedure} {status}");
    }
}

#[test]
fn a_retransmitted_call_is_counted_as_replayed() {
    let w = Watched::start();
    let mut c = w.server.client();
    let root = c.root();
    let args = packed(&diropargs3 { dir: root, name: (&b"missing"[..]).into() });
    let call = message(c.next_xid(), NFS, 12, &c.cred.encoded(), &args);
    let first = c.exchange(&call);
    assert!(matches!(first, Reply::Success(_)));
    assert_eq!(c.exchange(&call), first);
    let metrics = w.metrics();
    assert_eq!(metrics.of("calls_total", "REMOVE"), 1.0);
    assert_eq!(metrics.errors("nfs", "REMOVE", "NOENT"), 1.0);
    assert_eq!(metrics.get("berth_rpc_replayed_total"), 1.0);
}

#[test]
fn calls_over_udp_are_counted() {
    let w = Watched::start();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(w.server.addr).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let path = packed(&nfs3_types::xdr_codec::Opaque::borrowed(b"/"));
    let call = message(1, MOUNT, 1, &Cred::superuser().encoded(), &path);
    socket.send(&call).unwrap();
    let sent = socket.recv(&mut [0; 1000]).unwrap();
    let metrics = w.metrics();
    assert_eq!(metrics.of("calls_total", "MNT"), 1.0);
    assert_eq!(metrics.of("received_bytes_total", "MNT"), float(call.len()));
    assert_eq!(metrics.of("sent_bytes_total", "MNT"), float(sent));
}

#[test]
fn open_files_and_cache_hits_are_counted() {
    let w = Watched::start();
    let mut c = w.server.client();
    let root = c.root();
    let file = c.file(&root, "file");
    let before = w.metrics();
    assert!(before.get("berth_open_nodes") >= 2.0, "the root and the file");
    for _ in 0..5 {
        c.attrs(&file);
    }
    let after = w.metrics();
    let moved = |name| after.get(name) - before.get(name);
    assert_eq!(moved("berth_node_cache_hits_total"), 5.0);
    assert_eq!(moved("berth_node_cache_misses_total"), 0.0);
}

#[test]
fn connections_are_counted_and_a_full_server_is_still_ready() {
    let w = Watched::with(Setup::default().args(&["--max-connections", "2"]));
    // The connection of the last readiness check may still be open.
    eventually("no connection is open", || w.metrics().get("berth_connections") == 0.0);
    let before = w.metrics();
    let mut clients = [w.server.client(), w.server.client()];
    clients.iter_mut().for_each(crate::support::client::Client::null);
    clients[0].null();
    let full = w.metrics();
    assert_eq!(full.get("berth_connections"), 2.0);
    let ready = w.get("/readyz");
    assert_eq!(ready.status, 200, "{ready:?}");
    let after = w.metrics();
    let moved = |name| after.get(name) - before.get(name);
    assert_eq!(moved("berth_connections_accepted_total"), 3.0);
    assert_eq!(moved("berth_connections_refused_total"), 0.0);
    assert_eq!(moved("berth_connections_displaced_total"), 1.0);
    clients[0].null();
    assert!(clients[1].is_closed(), "it was idle for longer");
}

#[test]
fn a_stopping_server_is_not_ready_but_serves_metrics() {
    const CALLS: usize = 64;
    const SIZE: u32 = 1 << 20;
    let mut w = Watched::start();
    let mut c = w.server.client();
    let root = c.root();
    let file = c.file(&root, "file");
    c.setattr(&file, size(SIZE.into())).ok();
    let args = packed(&READ3args { file, offset: 0, count: SIZE });
    // More data than the socket buffers hold: as long as the client does not read, the server
    // drains.
    for xid in 0..u32::try_from(CALLS).unwrap() {
        c.send(&record(&message(xid, NFS, 6, &c.cred.encoded(), &args))).unwrap();
    }
    let first = c.receive().unwrap();
    let (mut answered, mut same) = (0.0, 0);
    eventually("the sockets are full", || {
        let now = w.metrics().of("calls_total", "READ");
        same = if now.total_cmp(&answered).is_eq() { same + 1 } else { 0 };
        answered = now;
        same == 20
    });
    w.server.signal(Signal::TERM);
    eventually("the server is not ready", || w.get("/readyz").status == 503);
    let ready = w.get("/readyz");
    assert!(ready.body.contains("stopping"), "{ready:?}");
    assert_eq!(w.get("/livez").status, 200);
    assert!(w.metrics().of("calls_total", "READ") >= 1.0);
    assert!(w.get("/").body.contains("Not ready: the server is stopping"));
    assert!(first.len() > SIZE as usize);
    while c.receive().is_ok() {}
    assert!(w.server.wait().success(), "its log:\n{}", w.server.log());
    assert!(TcpStream::connect(w.admin).is_err());
}

#[test]
fn other_methods_and_bodies_are_refused() {
    let w = Watched::start();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        for page in ["/", "/metrics", "/nothing"] {
            let response =
                w.send(&format!("{method} {page} HTTP/1.1\r\nHost: localhost\r\n\r\n")).unwrap();
            assert_eq!(response.status, 405, "{method} {page}: {response:?}");
            assert!(response.head.contains("allow: get, head"), "{response:?}");
        }
    }
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let response = w.send(&format!("GET / HTTP/1.1\r\nHost: localhost\r\n{body}")).unwrap();
        assert_eq!(response.status, 413, "{response:?}");
    }
    assert_eq!(w.get("/nothing").status, 404);
    let head = w.send("HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!((head.status, &*head.body), (200, ""));
}

#[test]
fn a_request_with_endless_headers_is_cut_off() {
    let w = Watched::start();
    let mut stream = w.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").unwrap();
    let line = format!("X-More: {}\r\n", "x".repeat(1000));
    let sent = (0..100_000).find(|_| stream.write_all(line.as_bytes()).is_err());
    assert!(sent.is_some(), "the server accepted 100 MB of headers");
    assert_eq!(w.get("/livez").status, 200);
}

#[test]
fn health_checks_get_through_when_all_connections_are_held() {
    let w = Watched::start();
    let send = |stream: &mut TcpStream, path: &str| {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut response = [0; 512];
        stream.read(&mut response).map(|read| response[..read].starts_with(b"HTTP/1.1 200"))
    };
    // Connections that stay open after a request, with an incomplete request, and without one.
    let mut held: Vec<TcpStream> = Vec::new();
    for n in 0..4 * CONNECTIONS {
        let mut stream = w.connect();
        match n % 3 {
            0 => assert!(send(&mut stream, "/livez").unwrap(), "{n}"),
            1 => stream.write_all(b"GET /livez HTTP/1.1\r\n").unwrap(),
            _ => {}
        }
        held.push(stream);
        for path in ["/livez", "/readyz"] {
            assert_eq!(w.get(path).status, 200, "{path} beside {n} connections");
        }
    }
    // The first ones were closed for later ones.
    assert_eq!(held[0].read(&mut [0; 10]).unwrap_or(0), 0);
}

#[test]
fn silent_connections_are_closed() {
    let w = Watched::start();
    let mut silent: Vec<TcpStream> = (0..CONNECTIONS / 2).map(|_| w.connect()).collect();
    for stream in silent.iter_mut().step_by(2) {
        stream.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    }
    for stream in &mut silent {
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn pages_are_refused_for_foreign_hosts() {
    let w = Watched::with(Setup::default().args(&["--admin-host", "storage.example.org"]));
    let status = |page: &str, host: &str| {
        let host = host.replace("PORT", &w.admin.port().to_string());
        let head = format!("GET {page} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        w.send(&head).unwrap().status
    };
    for page in ["/", "/?all", "/metrics"] {
        for ours in ["localhost", "127.0.0.1:PORT", "[::1]:1", "storage.example.org:80"] {
            assert_eq!(status(page, ours), 200, "{page} of {ours}");
        }
        for others in ["evil.example", "evil.example:PORT", "192.0.2.7", "localhost.evil.example"] {
            assert_eq!(status(page, others), 421, "{page} of {others}");
        }
    }
    // Health checks may use any host.
    assert_eq!((status("/livez", "evil.example"), status("/readyz", "evil.example")), (200, 200));
    let refused =
        w.send("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").unwrap();
    assert!(
        refused.body.contains("--admin-host") && refused.head.contains("nosniff"),
        "{refused:?}"
    );
    assert_eq!(
        w.send("GET / HTTP/1.0\r\n\r\n").unwrap().status,
        200,
        "browsers always send a host"
    );
}

#[test]
fn the_status_page_escapes_the_names_of_exports() {
    let exports = "{}/<script> 10.0.0.0/8(rw) *(ro)\n";
    let w = Watched::over(Setup::default().exports(exports), |dir| {
        std::fs::create_dir(dir.join("<script>")).unwrap();
    });
    let page = w.get("/");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{page:?}");
    assert!(page.head.contains("content-security-policy: default-src 'none'; style-src"));
    for part in ["Ready", &w.server.addr.to_string(), "/&lt;script&gt;<", "10.0.0.0/8, *"] {
        assert!(page.body.contains(part), "{part} is not in\n{}", page.body);
    }
    assert!(!page.body.contains("<script>"));
}

#[test]
fn without_the_option_nothing_listens() {
    let s = Server::start();
    eventually("the start is logged", || s.log().contains(" serving listen="));
    assert!(!s.log().contains("admin="), "{}", s.log());
}

#[test]
fn an_address_in_use_is_an_error_that_names_the_option() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = Setup::default().args(&["--admin", &address]).refused(|_| ());
    assert!(error.contains(&address) && error.contains("--admin"), "{error}");
}
