//! When which slots are to be looked at.
use std::{cmp::Reverse, collections::BinaryHeap};

/// What [`Deadlines::first`] says where there are none: later than any time.
pub(super) const NEVER: u64 = u64::MAX;

/// A heap of times, each with the hash of the key whose slot is to be looked at.
///
/// A slot has one item that counts: the one at the time that it remembers as `queued`. Its deadline may move later without
/// a change of that item; the sweep that pops the item puts it in again. Other items are left over and find no slot.
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<Due>>,
    first: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: u64,
    pub(super) hash: u64,
}

impl Deadlines {
    pub(super) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), first: NEVER }
    }

    /// The earliest time. Kept outside of the heap, so that looking at it costs no cache miss.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn push(&mut self, due: Due) {
        self.first = self.first.min(due.at);
        self.heap.push(Reverse(due));
    }

    /// Takes out the earliest item if its time has come.
    pub(super) fn pop(&mut self, now: u64) -> Option<Due> {
        if self.first > now {
            return None;
        }
        let due = self.heap.pop();
        self.first = self.heap.peek().map_or(NEVER, |Reverse(due)| due.at);
        due.map(|Reverse(due)| due)
    }

    /// Starts over with just these items.
    pub(super) fn refill(&mut self, items: impl Iterator<Item = Due>) {
        let mut heap = std::mem::take(&mut self.heap).into_vec();
        heap.clear();
        heap.extend(items.map(Reverse));
        self.heap = heap.into();
        self.first = self.heap.peek().map_or(NEVER, |Reverse(due)| due.at);
    }

    /// Gives memory back after most slots have gone.
    pub(super) fn shrink(&mut self) {
        if self.heap.capacity() > 32 * self.heap.len() + 64 {
            self.heap.shrink_to(self.heap.len() * 2);
        }
    }
}
