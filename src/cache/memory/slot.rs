//! An entry's place in the table.
use super::payload::Payload;
use crate::cache::{Entry, Version};

/// What an entry takes beside its key and its value: its slot and its share of the empty ones, its item in the queue, the
/// head of its payload and the allocator's share.
pub(super) const OVERHEAD: usize = 192;

/// One cache line. What is written together is in the payload; here is what changes without a write, and what finds it.
#[repr(align(64))]
pub(super) struct Slot {
    pub(super) payload: Payload,
    pub(super) version: Version,
    pub(super) hash: u64,
    /// When its idle time started last.
    pub(super) start: u64,
    /// When the queue will look at it: no later than its deadline.
    pub(super) queued: u64,
}

impl Slot {
    pub(super) fn is(&self, hash: u64, key: &str) -> bool {
        self.hash == hash && self.payload.is_of(key)
    }

    pub(super) fn deadline(&self) -> u64 {
        self.payload.lease().deadline(self.start)
    }

    pub(super) fn entry(&self) -> Entry {
        Entry { value: self.payload.value(), version: self.version }
    }
}

/// What a payload counts for against the bound on bytes.
pub(super) fn cost(payload: &Payload) -> usize {
    payload.len().saturating_add(OVERHEAD)
}
