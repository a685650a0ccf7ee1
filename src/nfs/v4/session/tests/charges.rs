//! Memory of sessions.

use super::memory::{AddressShare, Need, SlotCharge, SlotMemory};
use super::*;

#[test]
fn one_address_leaves_a_third() {
    let memory = Arc::new(SlotMemory::new(300));
    let [mut one, mut other] =
        [(); 2].map(|()| SlotCharge::new(Arc::new(AddressShare::new(memory.clone()))));
    assert!(one.grow(200, Need::Must));
    assert!(!one.grow(1, Need::Must));
    assert!(other.grow(66, Need::Must));
    assert!(!other.grow(2, Need::Must));
    assert_eq!(memory.used(), 266);
    drop((one, other));
    assert_eq!(memory.used(), 0);
}

#[test]
fn what_need_not_be_kept_leaves_half() {
    let mut charge = charge(300);
    assert!(charge.grow(150, Need::May));
    assert!(!charge.grow(1, Need::May));
    assert!(charge.grow(50, Need::Must));
    charge.shrink(51);
    assert!(charge.grow(1, Need::May));
    assert_eq!(charge.bytes(), 150);
}

#[test]
fn sizes_that_overflow_are_refused() {
    let mut charge = charge(300);
    assert!(!charge.grow(usize::MAX / 2, Need::Must));
    assert_eq!(charge.bytes(), 0);
}
