//! Compounds, up to the reply.

use super::super::testing::*;
use super::*;

#[test]
fn a_client_walks_from_the_root_to_an_export_and_back() {
    let served = Served::new(&["/data", "/vol/a"]);
    let session = served.session();
    let root = |n| in_session(session, n).plain(PUTROOTFH);
    let top = handle(&served.done(&root(1).plain(GETFH)));
    let sub = handle(&served.done(&root(2).lookup("vol").lookup("a").lookup("sub").plain(GETFH)));
    let again = in_session(session, 3).op(PUTFH, |w| w.opaque(&sub)).plain(GETFH);
    assert_eq!(handle(&served.done(&again)), sub);
    let back = in_session(session, 4).op(PUTFH, |w| w.opaque(&sub));
    let back = back.plain(LOOKUPP).plain(LOOKUPP).plain(LOOKUPP).plain(GETFH);
    assert_eq!(handle(&served.done(&back)), top);
    let above = served.send(&root(5).plain(LOOKUPP));
    assert_eq!(above.status, Status::NOENT);
    let other = root(6).lookup("data").plain(SAVEFH).plain(PUTROOTFH);
    let other = handle(&served.done(&other.plain(RESTOREFH).plain(GETFH)));
    assert!(other != top && other != sub);
}

#[test]
fn an_export_at_the_root_is_the_root_and_others_lie_in_it() {
    let served = Served::new(&["/", "/vol/a"]);
    let session = served.session();
    let root = |n| in_session(session, n).plain(PUTROOTFH);
    served.done(&root(1).lookup("sub").plain(GETFH));
    let inner = handle(&served.done(&root(2).lookup("vol").lookup("a").lookup("sub").plain(GETFH)));
    let outer = handle(&served.done(&root(3).lookup("sub").plain(GETFH)));
    assert_ne!(inner, outer);
    assert_eq!(served.send(&root(4).lookup("none")).status, Status::NOENT);
}

#[test]
fn a_compound_that_would_block_goes_on_where_it_stopped() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let request = in_session(session, 1).plain(PUTROOTFH).lookup("data").plain(GETFH).bytes();
    let (outcome, _) = served.call(&request, Patience::None);
    assert_eq!(outcome, Outcome::Later);
    // The connection is lost: the retransmission is the one that goes on.
    let (outcome, first) = served.call(&request, Patience::Blocking);
    assert_eq!(outcome, Outcome::SUCCESS);
    let reply = parse(&first);
    let numbers: Vec<_> = reply.operations.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [SEQUENCE, PUTROOTFH, LOOKUP, GETFH]);
    assert_eq!(served.call(&request, Patience::None), (Outcome::SUCCESS, first), "from its slot");
}

#[test]
fn operations_need_a_session() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let refused = |request: Request, status: Status, operations: &[(u32, Status)]| {
        let reply = served.send(&request);
        assert_eq!((reply.status, &*reply.operations), (status, operations));
    };
    let new = Request::new;
    refused(new(), Status::OK, &[]);
    let status = Status::OP_NOT_IN_SESSION;
    refused(new().plain(PUTROOTFH), status, &[(PUTROOTFH, status)]);
    let status = Status::NOT_ONLY_OP;
    refused(exchange_id().plain(PUTROOTFH), status, &[(EXCHANGE_ID, status)]);
    for illegal in [0, 2, 59, 10_044] {
        let status = Status::OP_ILLEGAL;
        refused(new().plain(illegal), status, &[(ops::ILLEGAL, status)]);
    }
    let status = Status::MINOR_VERS_MISMATCH;
    for minor in [0, 3] {
        refused(Request { minor, ..new().plain(PUTROOTFH) }, status, &[]);
    }
    let status = Status::BADSESSION;
    refused(in_session([9; 16], 1), status, &[(SEQUENCE, status)]);
    let (done, status) = ((SEQUENCE, Status::OK), Status::SEQUENCE_POS);
    let twice = in_session(session, 1).op(SEQUENCE, |w| w.fixed(&[0; 32]));
    refused(twice, status, &[done, (SEQUENCE, status)]);
    let status = Status::NOFILEHANDLE;
    refused(in_session(session, 2).plain(GETFH), status, &[done, (GETFH, status)]);
    let status = Status::BADXDR;
    refused(in_session(session, 3).plain(LOOKUP), status, &[done, (LOOKUP, status)]);
    let status = Status::NOTSUPP;
    refused(in_session(session, 4).plain(20), status, &[done, (20, status)]);
}

#[test]
fn every_truncated_compound_is_refused() {
    let served = Served::new(&["/data"]);
    let (session, mut sequence) = (served.session(), 1);
    let whole = |n| in_session(session, n).plain(PUTROOTFH).lookup("data").plain(GETFH).bytes();
    for len in 0..whole(1).len() {
        let (outcome, out) = served.call(&whole(sequence)[..len], Patience::Blocking);
        if outcome == Outcome::Garbage {
            continue;
        }
        let reply = parse(&out);
        assert_eq!((reply.status, outcome), (Status::BADXDR, Outcome::Done { status: 10036 }));
        sequence += u32::from(reply.operations[0] == (SEQUENCE, Status::OK));
    }
    assert!(sequence > 20, "truncated in the operations after SEQUENCE, too");
}

#[test]
fn a_session_ends_with_its_last_compound() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let destroy = |request: Request| request.op(DESTROY_SESSION, |w| w.fixed(&session));
    let status = served.send(&destroy(in_session(session, 1)).plain(PUTROOTFH)).status;
    assert_eq!(status, Status::NOT_ONLY_OP);
    served.done(&destroy(in_session(session, 2)));
    assert_eq!(served.send(&in_session(session, 3)).status, Status::BADSESSION);
}
