//! How the budget is shared, and in which order memory is granted.

use super::*;
use proptest::prelude::*;

const MIB: usize = 1024 * 1024;

fn connection(address: &Arc<AddressMemory>) -> Arc<ConnectionMemory> {
    ConnectionMemory::new(address, Arc::default())
}

/// Connections of one address that each request `bytes`. Also returns how many are admitted.
fn admitted(
    address: &Arc<AddressMemory>,
    count: usize,
    bytes: usize,
) -> (Vec<Arc<ConnectionMemory>>, usize) {
    let connections: Vec<_> = (0..count).map(|_| connection(address)).collect();
    let admitted = connections.iter().filter(|connection| connection.admit(bytes)).count();
    (connections, admitted)
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
    let newcomer = connection(&budget.address());
    assert!(newcomer.admit(MIB), "{} of {} bytes", budget.taken(), budget.limit);
    assert!(budget.taken() <= budget.limit);
    drop((held, newcomer));
    assert_eq!(budget.taken(), 0);
}

#[test]
fn waiting_connections_are_granted_memory_in_their_order() {
    let budget = MemoryBudget::new(MINIMUM);
    let address = budget.address();
    let (mut connections, got) = admitted(&address, 12, MIB);
    assert!((6..10).contains(&got), "{got}");
    assert_eq!(budget.waits(), 12 - got as u64);
    for (next, first) in (got..12).zip(0..) {
        assert!(!connections[next].admit(MIB));
        connections[first].give(MIB);
        assert!(connections[next].admit(MIB), "{next}");
    }
    // No other request of the address is granted before, however small.
    let (mut late, early) = (connection(&address), connection(&address));
    assert!(!early.admit(4 * MIB));
    assert!(!late.admit(CHUNK * 2));
    connections.clear();
    assert!(early.admit(4 * MIB) && late.admit(CHUNK * 2));
    // A connection that ends while it waits delays no other.
    late = connection(&address);
    assert!(!late.admit(budget.limit));
    drop(late);
    assert!(connection(&address).admit(MIB));
}

#[test]
fn one_that_waits_holds_up_no_other_address() {
    let budget = MemoryBudget::new(MINIMUM);
    let (greedy, other) = (budget.address(), budget.address());
    let (_accounts, got) = admitted(&greedy, 20, MIB);
    assert!(got < 20);
    assert!(connection(&other).admit(MIB));
}

#[test]
fn what_waits_leaves_room_for_what_is_admitted() {
    let budget = MemoryBudget::new(MINIMUM);
    let addresses: Vec<_> = (0..20).map(|_| budget.address()).collect();
    let mut connections = Vec::new();
    for address in addresses.iter().cycle().take(1000) {
        let next = connection(address);
        next.keep(if next.is_short() { 0 } else { 256 * 1024 });
        connections.push(next);
    }
    assert!(connection(&addresses[0]).is_short());
    assert!((budget.backlog / 2..=budget.backlog + MIB).contains(&budget.taken()));
    assert!(addresses.iter().all(|address| connection(address).admit(MIB)));
    drop(connections);
    assert_eq!(budget.taken(), 0);
}

#[test]
fn small_amounts_are_free_of_charge() {
    let budget = MemoryBudget::new(MINIMUM);
    let connection = connection(&budget.address());
    connection.take(ALLOWANCE);
    assert_eq!(budget.taken(), 0);
    connection.take(1);
    assert_eq!(budget.taken(), CHUNK);
    connection.give(1);
    assert_eq!(budget.taken(), 0);
}

#[test]
fn the_only_one_may_take_more_than_there_is() {
    let budget = MemoryBudget::new(MINIMUM);
    let connection = connection(&budget.address());
    assert!(connection.admit(2 * MINIMUM));
    assert!(connection.is_over());
}

#[test]
fn threads_lose_no_bytes_and_no_turn() {
    let budget = MemoryBudget::new(MINIMUM);
    let addresses = [budget.address(), budget.address()];
    std::thread::scope(|scope| {
        for n in 0..8 {
            let address = &addresses[n % 2];
            scope.spawn(move || {
                let connection = connection(address);
                for round in 0..2000 {
                    let bytes = MIB * (1 + round % 3);
                    while !connection.admit(bytes) {
                        std::thread::yield_now();
                    }
                    connection.give(bytes);
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
        let connections: Vec<_> = (0..4).map(|_| connection(&address)).collect();
        let mut used = [0; 4];
        for (n, bytes) in steps {
            if used[n] > 200_000 {
                connections[n].give(used[n]);
                used[n] = 0;
            }
            connections[n].take(bytes);
            used[n] += bytes;
            prop_assert_eq!(budget.taken(), used.into_iter().map(charge).sum::<usize>());
        }
    }
}
