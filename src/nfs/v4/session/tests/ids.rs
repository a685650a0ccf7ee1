//! Ids, principals and statuses.

use std::collections::HashSet;

use super::id::IdSource;
use super::*;
use crate::rpc::auth::{AuthSys, Credentials};

#[test]
fn client_ids_are_unique_and_of_their_epoch() {
    //= test RFC 8881 2.4
    let mut ids = HashSet::new();
    for epoch in [1, 2] {
        let mut source = IdSource::new(epoch, [9; 16]);
        for _ in 0..100_000 {
            let id = source.next_client(|_| false);
            assert_eq!(id.0 >> 32, u64::from(epoch));
            assert!(ids.insert(id), "{id:?} was issued before");
        }
    }
}

#[test]
fn ids_cannot_be_guessed_from_others() {
    let [mut one, mut other] = [[1; 16], [2; 16]].map(|secret| IdSource::new(1, secret));
    let ids: Vec<_> = (0..10).map(|_| one.next_client(|_| false)).collect();
    let steps: HashSet<_> = ids.windows(2).map(|w| w[1].0.wrapping_sub(w[0].0)).collect();
    assert_eq!(steps.len(), 9);
    assert_ne!(ids[0], other.next_client(|_| false));
    assert_ne!(one.next_session(ids[0]), other.next_session(ids[0]));
    assert_ne!(one.next_session(ids[0]), one.next_session(ids[0]));
}

#[test]
fn an_id_in_use_is_not_issued() {
    let mut source = IdSource::new(1, [9; 16]);
    let first = IdSource::new(1, [9; 16]).next_client(|_| false);
    assert_ne!(source.next_client(|id| id == first), first);
}

#[test]
fn principals_are_told_apart_by_kind_user_and_group() {
    let of = |uid, gid| Principal::from(&Credentials::Sys(AuthSys::new(uid, gid, &[5])));
    assert_eq!(of(0, 0), ROOT);
    let all = [Principal::None, of(0, 0), of(1, 0), of(0, 1)];
    let bytes: HashSet<_> = all.iter().map(|principal| principal.to_bytes()).collect();
    assert_eq!(bytes.len(), all.len());
    assert_eq!(Principal::from(&Credentials::None), Principal::None);
}

#[test]
fn errors_have_the_numbers_of_the_protocol() {
    assert_eq!(SessionError::Inval.status(), 22);
    assert_eq!(SessionError::Badsession.status(), 10052);
    assert_eq!(SessionError::EncrAlgUnsupp.status(), 10079);
}
