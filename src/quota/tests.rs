//! Which changes an account accepts, and what it gives back.

use super::*;
use std::thread;

/// An amount to hold.
pub(crate) const fn room(bytes: u64, inodes: u64) -> Usage {
    Usage { bytes, inodes }
}

pub(crate) fn account(bytes: u64, inodes: Option<u64>, opening: InitialUsage) -> Account {
    let limits = QuotaLimits { bytes, inodes, rule: LimitRule::Enforce };
    Account::new(limits, opening, Arc::default())
}

fn empty(bytes: u64) -> Account {
    account(bytes, None, InitialUsage::Exact(Usage::default()))
}

#[test]
fn what_does_not_fit_is_refused() {
    let account = empty(100);
    let hold = account.hold(room(60, 0), Patience::None).unwrap();
    assert_eq!(account.hold(room(41, 0), Patience::None).err(), Some(HoldError::Full));
    assert_eq!(account.left(), 40);
    hold.settle(1, Change::Resized(50));
    assert_eq!(account.usage().bytes, 50);
    let _all = account.hold(room(50, 0), Patience::None).unwrap();
    assert_eq!(account.hold(room(1, 0), Patience::None).err(), Some(HoldError::Full));
    assert!(account.hold(room(0, 0), Patience::None).is_ok(), "what takes nothing always fits");
}

#[test]
fn what_is_not_settled_is_given_back() {
    let account = account(100, Some(1), InitialUsage::Exact(Usage::default()));
    drop(account.hold(room(100, 1), Patience::None).unwrap());
    assert_eq!(account.hold(room(1, 2), Patience::None).err(), Some(HoldError::Full));
    assert!(account.hold(room(100, 1), Patience::None).is_ok(), "half of a hold was kept");
}

#[test]
fn deaths_give_back_at_once() {
    let account = account(100, Some(2), InitialUsage::Exact(Usage { bytes: 0, inodes: 1 }));
    account.hold(room(100, 1), Patience::None).unwrap().settle(7, Change::Created(90));
    assert_eq!(account.usage(), Usage { bytes: 90, inodes: 2 });
    assert_eq!(account.hold(room(0, 1), Patience::None).err(), Some(HoldError::Full));
    account.book(7, Change::Removed(90));
    assert_eq!(account.usage(), Usage { bytes: 0, inodes: 1 });
    assert!(account.hold(room(100, 1), Patience::None).is_ok());
}

#[test]
fn a_smaller_limit_leaves_what_is_there() {
    let account = account(100, None, InitialUsage::Exact(Usage { bytes: 80, inodes: 1 }));
    account.set_limits(QuotaLimits { bytes: 50, inodes: None, rule: LimitRule::Enforce });
    assert_eq!(account.hold(room(1, 0), Patience::None).err(), Some(HoldError::Full));
    assert_eq!(account.left(), 0);
    account.set_limits(QuotaLimits { bytes: 50, inodes: None, rule: LimitRule::Report });
    assert!(account.hold(room(1000, 0), Patience::None).is_ok());
}

#[test]
fn what_may_fit_is_put_off_until_it_is_known() {
    let unknown = account(100, None, InitialUsage::Unknown);
    assert_eq!(unknown.hold(room(1, 0), Patience::Blocking).err(), Some(HoldError::NotCounted));
    assert!(unknown.wants_count());
    let bounded = account(100, None, InitialUsage::AtMost(Usage { bytes: 40, inodes: 0 }));
    assert!(bounded.hold(room(60, 0), Patience::None).is_ok());
    assert!(!bounded.wants_count());
    assert_eq!(bounded.hold(room(61, 0), Patience::None).err(), Some(HoldError::WouldBlock));
}

#[test]
fn many_at_once_never_go_beyond_the_limit() {
    const WRITE: i64 = 7;
    let account = empty(1000);
    let written: i64 = thread::scope(|scope| {
        let writers: Vec<_> = (0..16)
            .map(|file| {
                let account = &account;
                scope.spawn(move || {
                    let mut written = 0;
                    while let Ok(hold) = account.hold(room(WRITE.unsigned_abs(), 0), Patience::None)
                    {
                        hold.settle(file, Change::Resized(WRITE));
                        written += WRITE;
                    }
                    written
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    assert_eq!(written, 1000 / WRITE * WRITE);
    assert_eq!(account.usage().bytes, written.unsigned_abs());
}
