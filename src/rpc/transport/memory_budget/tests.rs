//! How the budget is shared, and in which order memory is granted.

use super::*;
use proptest::prelude::*;

const MIB: usize = 1024 * 1024;

fn account(address: &Arc<AddressMemory>) -> Arc<ConnectionMemory> {
    ConnectionMemory::new(address, Arc::default())
}

/// Connections of one address that each request `bytes`. Also returns how many are admitted.
fn admitted(
    address: &Arc<AddressMemory>,
    count: usize,
    bytes: usize,
) -> (Vec<Arc<ConnectionMemory>>, usize) {
    let accounts: Vec<_> = (0..count).map(|_| account(address)).collect();
    let admitted = accounts.iter().filter(|account| account.admit(bytes)).count();
    (accounts, admitted)
}

#[test]
fn one_address_gets_two_thirds_and_the_next_two_thirds_of_the_rest() {
    let budget = MemoryBudget::new(256 * MIB);
    let mut left = budget.limit;
    let mut held = Vec::new();
    for _ in 0..4 {
        let address = budget.address();
        held.push(admitted(&address, 1000, MIB));
        let share = left * 2 / 3;
        assert!((share - MIB..=share).contains(&address.held()), "{} of {left}", address.held());
        left -= address.held();
    }
    let newcomer = account(&budget.address());
    assert!(newcomer.admit(MIB), "{} of {} bytes", budget.taken(), budget.limit);
    assert!(budget.taken() <= budget.limit);
    drop((held, newcomer));
    assert_eq!(budget.taken(), 0);
}

#[test]
fn waiting_connections_are_granted_memory_in_their_order() {
    let budget = MemoryBudget::new(MINIMUM);
    let address = budget.address();
    let (mut accounts, got) = admitted(&address, 12, MIB);
    assert!((6..10).contains(&got), "{got}");
    assert_eq!(budget.waits(), 12 - got as u64);
    for (next, first) in (got..12).zip(0..) {
        assert!(!accounts[next].admit(MIB));
        accounts[first].give(MIB);
        assert!(accounts[next].admit(MIB), "{next}");
    }
    // No other request of the address is granted before, however small.
    let (mut late, early) = (account(&address), account(&address));
    assert!(!early.admit(4 * MIB));
    assert!(!late.admit(CHUNK * 2));
    accounts.clear();
    assert!(early.admit(4 * MIB) && late.admit(CHUNK * 2));
    // A connection that ends while it waits delays no other.
    late = account(&address);
    assert!(!late.admit(budget.limit));
    drop(late);
    assert!(account(&address).admit(MIB));
}

#[test]
fn one_that_waits_holds_up_no_other_address() {
    let budget = MemoryBudget::new(MINIMUM);
    let (greedy, other) = (budget.address(), budget.address());
    let (_accounts, got) = admitted(&greedy, 20, MIB);
    assert!(got < 20);
    assert!(account(&other).admit(MIB));
}

#[test]
fn what_waits_leaves_room_for_what_is_admitted() {
    let budget = MemoryBudget::new(MINIMUM);
    let addresses: Vec<_> = (0..20).map(|_| budget.address()).collect();
    let mut accounts = Vec::new();
    for address in addresses.iter().cycle().take(1000) {
        let next = account(address);
        next.keep(if next.is_short() { 0 } else { 256 * 1024 });
        accounts.push(next);
    }
    assert!(account(&addresses[0]).is_short());
    assert!((budget.backlog / 2..=budget.backlog + MIB).contains(&budget.taken()));
    assert!(addresses.iter().all(|address| account(address).admit(MIB)));
    drop(accounts);
    assert_eq!(budget.taken(), 0);
}

#[test]
fn small_amounts_are_free_of_charge() {
    let budget = MemoryBudget::new(MINIMUM);
    let account = account(&budget.address());
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
    let account = account(&budget.address());
    assert!(account.admit(2 * MINIMUM));
    assert!(account.is_over());
}

#[test]
fn threads_lose_no_bytes_and_no_turn() {
    let budget = MemoryBudget::new(MINIMUM);
    let addresses = [budget.address(), budget.address()];
    std::thread::scope(|scope| {
        for n in 0..8 {
            let address = &addresses[n % 2];
            scope.spawn(move || {
                let account = account(address);
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
        let address = budget.address();
        let accounts: Vec<_> = (0..4).map(|_| account(&address)).collect();
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
