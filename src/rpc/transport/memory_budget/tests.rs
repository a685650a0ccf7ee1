//! Who gets how much of the budget, and when.

use super::*;
use proptest::prelude::*;

const MIB: usize = 1024 * 1024;

fn account(peer: &Arc<Peer>) -> Arc<Account> {
    Account::new(peer, Arc::default())
}

/// Accounts of one address that each want `bytes`; answers those that are admitted.
fn admitted(peer: &Arc<Peer>, count: usize, bytes: usize) -> (Vec<Arc<Account>>, usize) {
    let accounts: Vec<_> = (0..count).map(|_| account(peer)).collect();
    let admitted = accounts.iter().filter(|account| account.admit(bytes)).count();
    (accounts, admitted)
}

#[test]
fn one_address_gets_two_thirds_and_the_next_two_thirds_of_the_rest() {
    let budget = MemoryBudget::new(256 * MIB);
    let mut left = budget.limit;
    let mut held = Vec::new();
    for _ in 0..4 {
        let peer = budget.peer();
        held.push(admitted(&peer, 1000, MIB));
        let share = left * 2 / 3;
        assert!((share - MIB..=share).contains(&peer.held()), "{} of {left}", peer.held());
        left -= peer.held();
    }
    let newcomer = account(&budget.peer());
    assert!(newcomer.admit(MIB), "{} of {} bytes", budget.taken(), budget.limit);
    assert!(budget.taken() <= budget.limit);
    drop((held, newcomer));
    assert_eq!(budget.taken(), 0);
}

#[test]
fn who_waits_is_granted_what_is_given_back_in_turn() {
    let budget = MemoryBudget::new(MINIMUM);
    let peer = budget.peer();
    let (mut accounts, got) = admitted(&peer, 12, MIB);
    assert!((6..10).contains(&got), "{got}");
    assert_eq!(budget.waits(), 12 - got as u64);
    for (next, first) in (got..12).zip(0..) {
        assert!(!accounts[next].admit(MIB));
        accounts[first].give(MIB);
        assert!(accounts[next].admit(MIB), "{next}");
    }
    // Nobody else of the address comes in between, small as the request may be.
    let (mut late, early) = (account(&peer), account(&peer));
    assert!(!early.admit(4 * MIB));
    assert!(!late.admit(CHUNK * 2));
    accounts.clear();
    assert!(early.admit(4 * MIB) && late.admit(CHUNK * 2));
    // Who goes away while it waits is in nobody's way.
    late = account(&peer);
    assert!(!late.admit(budget.limit));
    drop(late);
    assert!(account(&peer).admit(MIB));
}

#[test]
fn one_that_waits_holds_up_no_other_address() {
    let budget = MemoryBudget::new(MINIMUM);
    let (greedy, other) = (budget.peer(), budget.peer());
    let (_accounts, got) = admitted(&greedy, 20, MIB);
    assert!(got < 20);
    assert!(account(&other).admit(MIB));
}

#[test]
fn what_waits_leaves_room_for_what_is_admitted() {
    let budget = MemoryBudget::new(MINIMUM);
    let peers: Vec<_> = (0..20).map(|_| budget.peer()).collect();
    let mut accounts = Vec::new();
    for peer in peers.iter().cycle().take(1000) {
        let next = account(peer);
        next.keep(if next.is_short() { 0 } else { 256 * 1024 });
        accounts.push(next);
    }
    assert!(account(&peers[0]).is_short());
    assert!((budget.backlog / 2..=budget.backlog + MIB).contains(&budget.taken()));
    assert!(peers.iter().all(|peer| account(peer).admit(MIB)));
    drop(accounts);
    assert_eq!(budget.taken(), 0);
}

#[test]
fn small_amounts_are_free_of_charge() {
    let budget = MemoryBudget::new(MINIMUM);
    let account = account(&budget.peer());
    account.take(ALLOWANCE);
    assert_eq!(budget.taken(), 0);
    account.take(1);
    assert_eq!(budget.taken(), CHUNK);
    account.give(1);
    assert_eq!(budget.taken(), 0);
}

#[test]
fn the_only_one_may_take_more_than_there_is() {
    let budget = MemoryBudget::new(MINIMUM);
    let account = account(&budget.peer());
    assert!(account.admit(2 * MINIMUM));
    assert!(account.is_over());
}

#[test]
fn threads_lose_no_bytes_and_no_turn() {
    let budget = MemoryBudget::new(MINIMUM);
    let peers = [budget.peer(), budget.peer()];
    std::thread::scope(|scope| {
        for n in 0..8 {
            let peer = &peers[n % 2];
            scope.spawn(move || {
                let account = account(peer);
                for round in 0..2000 {
                    let bytes = MIB * (1 + round % 3);
                    while !account.admit(bytes) {
                        std::thread::yield_now();
                    }
                    account.give(bytes);
                }
            });
        }
    });
    assert_eq!((budget.taken(), budget.waiting.load(Ordering::SeqCst)), (0, 0));
}

proptest! {
    #[test]
    fn what_is_charged_is_what_is_used_in_chunks(
        steps in prop::collection::vec((0usize..4, 0usize..100_000), 0..100),
    ) {
        let budget = MemoryBudget::new(MINIMUM);
        let peer = budget.peer();
        let accounts: Vec<_> = (0..4).map(|_| account(&peer)).collect();
        let mut used = [0; 4];
        for (n, bytes) in steps {
            if used[n] > 200_000 {
                accounts[n].give(used[n]);
                used[n] = 0;
            }
            accounts[n].take(bytes);
            used[n] += bytes;
            prop_assert_eq!(budget.taken(), used.into_iter().map(charge).sum::<usize>());
        }
    }
}
