//! A queue that serves groups in turn: a group with a thousand items delays the next item of
//! another group by one item.

use std::collections::{HashMap, VecDeque};

/// Items by group; within a group they keep their order.
pub struct FairQueue<T> {
    lines: HashMap<String, VecDeque<T>>,
    /// The groups that have items, the next one first.
    order: VecDeque<String>,
    len: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Appends an item to its group.
    pub fn push(&mut self, group: &str, item: T) {
        self.len += 1;
        if let Some(line) = self.lines.get_mut(group) {
            return line.push_back(item);
        }
        self.order.push_back(group.to_owned());
        self.lines.insert(group.to_owned(), VecDeque::from([item]));
    }

    /// Takes the first item of the group whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let group = self.order.pop_front()?;
        let line = self.lines.get_mut(&group)?;
        let item = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&group);
        } else {
            self.order.push_back(group);
        }
        self.len -= usize::from(item.is_some());
        item
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of items of a group.
    pub fn len_of(&self, group: &str) -> usize {
        self.lines.get(group).map_or(0, VecDeque::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_turn_and_keeps_its_order() {
        let mut queue = FairQueue::default();
        for item in 0..1000 {
            queue.push("greedy", item);
        }
        queue.push("modest", 7);
        queue.push("other", 8);
        assert_eq!((queue.len(), queue.len_of("greedy"), queue.len_of("nobody")), (1002, 1000, 0));
        let first: Vec<_> = std::iter::from_fn(|| queue.pop()).take(5).collect();
        assert_eq!(first, [0, 7, 8, 1, 2]);
        queue.push("modest", 9);
        let next: Vec<_> = std::iter::from_fn(|| queue.pop()).take(2).collect();
        assert_eq!(next, [3, 9]);
        while queue.pop().is_some() {}
        assert!(queue.is_empty() && queue.lines.is_empty() && queue.order.is_empty());
    }
}
