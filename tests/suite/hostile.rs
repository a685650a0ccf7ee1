//! Whatever a peer sends, says or leaves out: it gets the answer that the standards have for it, or
//! loses its connection, and the server goes on serving the others within its bounds.

mod budget;
mod crowd;
mod dribble;
mod gone;
mod unread;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::support::client::{
    Client, Cred, LAST, MOUNT, NFS, Reply, auth, message, packed_path, record, words,
};
use crate::support::server::{Server, Setup};
use crate::support::wire::*;
use crate::support::{PATIENCE, eventually};

/// NULL, without credentials.
fn null(xid: u32) -> Vec<u8> {
    message(xid, NFS, 0, &auth(0, &[]), &[])
}

/// How many sockets the server has open.
fn sockets(s: &Server) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", s.pid().as_raw_nonzero())).unwrap();
    let target = |entry: std::fs::DirEntry| std::fs::read_link(entry.path()).ok();
    open.flatten()
        .filter_map(target)
        .filter(|to| to.to_string_lossy().starts_with("socket:"))
        .count()
}

/// The server answers new connections, and knows its files.
#[track_caller]
fn check_alive(s: &Server) {
    let mut c = s.client();
    let root = c.root();
    c.getattr(&root).ok();
}

/// The arguments of every procedure, as a client would send them.
fn proper_args(root: &Fh) -> Vec<(NFS_PROGRAM, Vec<u8>)> {
    use NFS_PROGRAM::*;
    let dir = || packed(root);
    let name = || packed(&filename3::from(&b"name"[..]));
    let at = || [dir(), name()].concat();
    let attrs = || packed(&mode(0o644));
    let verf = [0; 8].to_vec();
    vec![
        (NFSPROC3_GETATTR, dir()),
        (NFSPROC3_SETATTR, [dir(), attrs(), words(&[1, 0, 0])].concat()),
        (NFSPROC3_LOOKUP, at()),
        (NFSPROC3_ACCESS, [dir(), words(&[1])].concat()),
        (NFSPROC3_READLINK, dir()),
        (NFSPROC3_READ, [dir(), words(&[0, 0, 10])].concat()),
        (NFSPROC3_WRITE, [dir(), words(&[0, 0, 4, 0, 4, 0])].concat()),
        (NFSPROC3_CREATE, [at(), packed(&createhow3::GUARDED(mode(0o644)))].concat()),
        (NFSPROC3_MKDIR, [at(), attrs()].concat()),
        (NFSPROC3_SYMLINK, [at(), attrs(), name()].concat()),
        (NFSPROC3_MKNOD, [at(), packed(&mknoddata3::NF3FIFO(mode(0o644)))].concat()),
        (NFSPROC3_REMOVE, at()),
        (NFSPROC3_RMDIR, at()),
        (NFSPROC3_RENAME, [at(), at()].concat()),
        (NFSPROC3_LINK, [dir(), at()].concat()),
        (NFSPROC3_READDIR, [dir(), verf.clone(), verf.clone(), words(&[4096])].concat()),
        (NFSPROC3_READDIRPLUS, [dir(), verf.clone(), verf, words(&[4096, 4096])].concat()),
        (NFSPROC3_FSSTAT, dir()),
        (NFSPROC3_FSINFO, dir()),
        (NFSPROC3_PATHCONF, dir()),
        (NFSPROC3_COMMIT, [dir(), words(&[0, 0, 0])].concat()),
    ]
}

#[test]
fn truncated_arguments_are_garbage_for_every_procedure() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for (procedure, args) in proper_args(&root) {
        for len in (0..args.len()).step_by(4) {
            let reply = c.raw(NFS, procedure as u32, &args[..len]);
            assert_eq!(reply, Reply::Refused(4, vec![]), "{procedure}, {len} bytes");
        }
        // Whole, they are understood: what was cut off was what was missing.
        c.raw(NFS, procedure as u32, &args).results();
        c.rmdir(&root, "name");
        c.remove(&root, "name");
    }
    for (procedure, args) in [(1, packed_path("/")), (3, packed_path("/"))] {
        for len in (0..args.len()).step_by(4) {
            assert_eq!(c.raw(MOUNT, procedure, &args[..len]), Reply::Refused(4, vec![]));
        }
    }
}

#[test]
fn lengths_of_four_gigabytes_are_garbage_and_cost_nothing() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let before = s.status_kib("VmHWM:");
    for (procedure, args) in proper_args(&root) {
        for at in (0..args.len()).step_by(4) {
            for huge in [u32::MAX, 1 << 31, 0x4000_0000] {
                let mut args = args.clone();
                args[at..at + 4].copy_from_slice(&huge.to_be_bytes());
                c.raw(NFS, procedure as u32, &args); // some are sensible: an offset, a count
            }
        }
    }
    c.raw(MOUNT, 1, &words(&[u32::MAX]));
    let grown = s.status_kib("VmHWM:") - before;
    assert!(grown < 64 << 10, "{grown} KiB more");
    check_alive(&s);
}

#[test]
fn other_programs_and_procedures_are_refused_as_the_standard_says() {
    let s = Server::start();
    let mut c = s.client();
    assert_eq!(c.raw((100_000_000, 1), 0, &[]), Reply::Refused(1, vec![]), "PROG_UNAVAIL");
    assert_eq!(c.raw((100_227, 3), 0, &[]), Reply::Refused(1, vec![]), "NFSACL is not served");
    for procedure in [22, 1000, u32::MAX] {
        assert_eq!(c.raw(NFS, procedure, &[]), Reply::Refused(3, vec![]), "PROC_UNAVAIL");
    }
    for procedure in [6, u32::MAX] {
        assert_eq!(c.raw(MOUNT, procedure, &[]), Reply::Refused(3, vec![]), "PROC_UNAVAIL");
    }
    c.null();
}

#[test]
fn another_version_of_rpc_is_told_which_one_is_spoken() {
    let s = Server::start();
    let mut c = s.client();
    for version in [0, 1, 3, u32::MAX] {
        let mut call = null(5);
        call[8..12].copy_from_slice(&version.to_be_bytes());
        assert_eq!(c.exchange(&call), Reply::Denied(0, words(&[2, 2])));
    }
    c.null();
}

#[test]
fn truncated_headers_are_answered_or_cut_off() {
    let s = Server::start();
    let whole = message(77, NFS, 0, &Cred::user(1).encoded(), &[]);
    for len in 0..whole.len() {
        let mut c = s.client();
        c.send(&record(&whole[..len])).unwrap();
        c.send(&record(&null(78))).unwrap();
        // The first may go unanswered; if the connection lives, the second one does not.
        while let Ok(answer) = c.receive() {
            let (xid, reply) = Reply::decode(&answer);
            if xid == 78 {
                assert_eq!(reply, Reply::Success(vec![]));
                break;
            }
            assert!(matches!(reply, Reply::Refused(4, _) | Reply::Denied(..)), "{len}: {reply:?}");
        }
    }
    check_alive(&s);
}

#[test]
fn a_reply_is_not_answered() {
    let s = Server::start();
    let mut c = s.client();
    c.send(&record(&words(&[9, 1, 0, 0, 0, 0]))).unwrap();
    // Either it is let pass, or it was the connection's last word.
    if c.send(&record(&null(10))).is_ok()
        && let Ok(answer) = c.receive()
    {
        assert_eq!(Reply::decode(&answer).0, 10);
    }
    check_alive(&s);
}

#[test]
fn a_record_may_come_in_many_fragments() {
    let s = Server::start();
    let mut c = s.client();
    let call = null(21);
    for size in [1, 3, 4, 7] {
        let mut stream = Vec::new();
        let mut pieces = call.chunks(size).peekable();
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { LAST } else { 0 };
            stream.extend(words(&[last | u32::try_from(piece.len()).unwrap()]));
            stream.extend(piece);
        }
        c.send(&stream).unwrap();
        assert_eq!(Reply::decode(&c.receive().unwrap()), (21, Reply::Success(vec![])));
    }
    // Empty ones between, and an empty last one.
    let mut stream = words(&[0, 0, 0, u32::try_from(call.len()).unwrap()]);
    stream.extend(&call);
    stream.extend(words(&[0, LAST]));
    c.send(&stream).unwrap();
    assert_eq!(Reply::decode(&c.receive().unwrap()), (21, Reply::Success(vec![])));
}

#[test]
fn fragments_without_end_are_cut_off() {
    let s = Server::start();
    let before = s.status_kib("VmHWM:");
    for piece in [words(&[0]), [words(&[4]), vec![0; 4]].concat()] {
        let mut c = s.client();
        let many = piece.repeat(1 << 14);
        // Until the server hangs up: at 64 MiB it should have.
        let cut = (0..1024).any(|_| c.send(&many).is_err());
        assert!(cut || c.is_closed(), "it still reads");
    }
    assert!(s.status_kib("VmHWM:") - before < 64 << 10);
    check_alive(&s);
}

#[test]
fn an_oversized_record_is_cut_off_before_it_is_kept() {
    let s = Server::start();
    let before = s.status_kib("VmHWM:");
    for mark in [u32::MAX, LAST | (64 << 20), 0x7fff_ffff, 64 << 20] {
        let mut c = s.client();
        c.send(&words(&[mark])).unwrap();
        let _ = c.send(&vec![0; 1 << 20]);
        eventually("it is cut off", || c.send(&[0; 4096]).is_err() || c.is_closed());
    }
    // As a sum of fragments that are each small enough.
    let mut c = s.client();
    let half = [words(&[1 << 19]), vec![0; 1 << 19]].concat();
    let cut = (0..64).any(|_| c.send(&half).is_err());
    assert!(cut || c.is_closed(), "32 MiB in one record are taken");
    assert!(s.status_kib("VmHWM:") - before < 64 << 10);
    check_alive(&s);
}

#[test]
fn claims_alone_reserve_nothing() {
    let s = Server::start();
    let before = s.status_kib("VmHWM:");
    // Each says that a megabyte comes, and sends a little of it.
    let mut waiting: Vec<Client> = (0..200).map(|_| s.client()).collect();
    for c in &mut waiting {
        c.send(&words(&[LAST | (1 << 20), 1, 0, 2])).unwrap();
    }
    check_alive(&s);
    let grown = s.status_kib("VmHWM:") - before;
    assert!(grown < 64 << 10, "{grown} KiB for 200 claims of a MiB");
}

#[test]
fn a_slow_sender_holds_up_nobody() {
    let s = Server::start();
    let mut slow = s.client();
    let mut other = s.client();
    for byte in record(&null(33)) {
        slow.send(&[byte]).unwrap();
        other.null();
    }
    assert_eq!(Reply::decode(&slow.receive().unwrap()), (33, Reply::Success(vec![])));
}

#[test]
fn many_calls_in_one_piece_are_all_answered() {
    let s = Server::start();
    let mut c = s.client();
    let calls: Vec<u8> = (0..2000).flat_map(|xid| record(&null(xid))).collect();
    c.send(&calls).unwrap();
    let mut answered: Vec<u32> =
        (0..2000).map(|_| Reply::decode(&c.receive().unwrap()).0).collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..2000));
}

#[test]
fn a_client_that_says_nothing_more_is_still_answered() {
    let s = Server::start();
    let mut c = s.client();
    c.send(&record(&null(3))).unwrap();
    c.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(Reply::decode(&c.receive().unwrap()), (3, Reply::Success(vec![])));
    assert!(c.is_closed());
}

#[test]
fn who_asks_and_does_not_read_makes_the_server_wait_and_not_grow() {
    let s = Setup::default().start_over(|dir| {
        for number in 0..8 {
            uncached_megabyte(&dir.join(number.to_string()));
        }
    });
    let mut c = s.client();
    let root = c.root();
    let before = s.status_kib("VmHWM:");
    let greedy: Vec<TcpStream> = (0..8)
        .map(|number| {
            let file = c.find(&root, number.to_string());
            let args = packed(&READ3args { file, offset: 0, count: 1 << 20 });
            let call = record(&message(1, NFS, 6, &c.cred.encoded(), &args));
            let stream = TcpStream::connect(s.addr).unwrap();
            stream.set_nonblocking(true).unwrap();
            send_while_taken(&stream, &call, 2000); // gigabytes of answers
            stream
        })
        .collect();
    for number in 0..100 {
        let file = c.find(&root, (number % 8).to_string());
        assert_eq!(c.read(&file, 0, 4096).ok().count, 4096, "others are served");
    }
    let grown = s.status_kib("VmHWM:") - before;
    assert!(grown < 256 << 10, "{grown} KiB for eight clients that do not read");
    // Who reads after all gets what it asked for.
    let mut late = &greedy[0];
    late.set_nonblocking(false).unwrap();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut mark = [0; 4];
    late.read_exact(&mut mark).unwrap();
    assert!(u32::from_be_bytes(mark) & !LAST > 1 << 20);
}

/// A file whose content must come from the disk, so that reading it takes a thread that may wait.
fn uncached_megabyte(path: &Path) {
    let mut file = File::create(path).unwrap();
    file.write_all(&[1; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Sends the same call again and again, as long as the other end takes it.
fn send_while_taken(mut stream: &TcpStream, call: &[u8], times: usize) {
    for _ in 0..times {
        match stream.write(call) {
            Ok(len) if len == call.len() => {}
            Ok(_) => break,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn what_peers_cause_fills_no_log_and_what_is_left_out_is_told() {
    const LIMIT: usize = 20;
    let s = Setup::default().args(&["--max-connections", &LIMIT.to_string()]).start();
    let mut c = s.client();
    let unknown = packed_path([&b"/"[..], &[1; 1000]].concat());
    for _ in 0..3000 {
        c.raw(MOUNT, 1, &unknown).results();
        c.raw(MOUNT, 1, &packed_path("/")).results();
    }
    let mut open: Vec<Client> = (1..LIMIT).map(|_| s.client()).collect();
    open.iter_mut().for_each(Client::null);
    for _ in 0..500 {
        open.push(s.client());
        open.last_mut().unwrap().null();
    }
    // How many of a kind of line are there, and how many were left out.
    let lines = |kind: &str| {
        let log = s.log();
        let of_kind = log.lines().filter(|line| line.contains(kind));
        let (told, written): (Vec<_>, Vec<_>) =
            of_kind.partition(|line| line.contains("left_out="));
        let number = |line: &str| -> usize {
            let (_, rest) = line.split_once("left_out=").unwrap();
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        (written.len(), told.into_iter().map(number).sum::<usize>())
    };
    let kinds = [("mount refused", 3000), ("mount granted", 3000), ("connection gave way", 500)];
    eventually("all is written or left out", || {
        kinds.iter().all(|(kind, all)| {
            let (written, left_out) = lines(kind);
            written + left_out >= *all
        })
    });
    for (kind, _) in kinds {
        assert!(lines(kind).0 <= 40, "{kind}: {} lines", lines(kind).0);
    }
    assert!(s.log().len() < 100 << 10, "{} bytes", s.log().len());
}

#[test]
fn connections_that_end_anywhere_leave_nothing_behind() {
    let s = Server::start();
    let fds = || {
        let path = format!("/proc/{}/fd", s.pid().as_raw_nonzero());
        std::fs::read_dir(path).unwrap().count()
    };
    check_alive(&s);
    let before = fds();
    let whole = record(&message(1, NFS, 0, &Cred::user(1).encoded(), &[]));
    for round in 0..400 {
        let mut c = s.client();
        c.send(&whole[..round % whole.len()]).unwrap();
        if round % 2 == 0 {
            // A reset instead of an orderly end.
            let socket = socket2::SockRef::from(c.stream());
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    eventually("all connections are closed", || fds() <= before);
    check_alive(&s);
}

#[test]
fn noise_is_survived() {
    let s = Server::start();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..200 {
        let mut c = s.client();
        let len = usize::try_from(random() % 2000).unwrap();
        let mut noise: Vec<u8> = (0..len).map(|_| random().to_be_bytes()[0]).collect();
        if round % 2 == 0 {
            // Inside a proper record of a proper call it gets further.
            let xid = u32::try_from(random() >> 32).unwrap();
            let procedure = u32::try_from(random() % 22).unwrap();
            noise.truncate(noise.len() / 4 * 4);
            noise = record(&message(xid, NFS, procedure, &Cred::user(0).encoded(), &noise));
        }
        let _ = c.send(&noise);
    }
    check_alive(&s);
}

#[test]
fn datagrams_of_any_kind_are_survived() {
    let s = Server::start();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(s.addr).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let call = message(50, MOUNT, 0, &Cred::user(0).encoded(), &[]);
    for len in 0..call.len() {
        socket.send(&call[..len]).unwrap();
    }
    // A reply: to answer it could go on for ever.
    socket.send(&words(&[51, 1, 0, 0, 0, 0])).unwrap();
    socket.send(&vec![0xff; 60_000]).unwrap();
    let last = message(52, MOUNT, 0, &Cred::user(0).encoded(), &[]);
    socket.send(&last).unwrap();
    let mut buffer = [0; 2048];
    loop {
        let len = socket.recv(&mut buffer).unwrap();
        let (xid, reply) = Reply::decode(&buffer[..len]);
        assert_ne!(xid, 51, "a reply was answered");
        if xid == 52 {
            break assert_eq!(reply, Reply::Success(vec![]));
        }
    }
}
