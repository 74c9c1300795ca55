//! An entry in its place in a table.
use bytes::Bytes;

use crate::{
    cache::{Entry, Expiry, Version},
    clock::{millis, millis_since_epoch},
};

/// What an entry takes beside its key and its value: its slot and its share of the empty ones, its item among the
/// deadlines, the count of its readers and the allocator's share.
pub(super) const OVERHEAD: usize = 192;

pub(super) struct Slot {
    /// Key and value in one allocation. A copy: the bytes that came in may be a small part of a large buffer, which nothing
    /// here could account for.
    text: Bytes,
    key_length: usize,
    pub(super) version: Version,
    /// The idle time and the end of the lifetime, in milliseconds.
    idle: u64,
    end: u64,
    /// When its idle time started last.
    started: u64,
    /// When the item among the deadlines comes up that stands for it: no later than its deadline.
    pub(super) queued: u64,
}

impl Slot {
    pub(super) fn new(key: &str, entry: &Entry, expiry: Expiry, now: u64) -> Self {
        let mut slot = Self {
            text: [key.as_bytes(), &entry.value].concat().into(),
            key_length: key.len(),
            version: entry.version,
            idle: millis(expiry.idle),
            end: millis_since_epoch(expiry.end),
            started: now,
            queued: 0,
        };
        slot.queued = slot.deadline();
        slot
    }

    pub(super) fn is_of(&self, key: &str) -> bool {
        self.text.get(..self.key_length) == Some(key.as_bytes())
    }

    pub(super) fn entry(&self) -> Entry {
        Entry { value: self.text.slice(self.key_length..), version: self.version }
    }

    /// When it ends unless it is touched.
    pub(super) fn deadline(&self) -> u64 {
        self.started.saturating_add(self.idle).min(self.end)
    }

    /// Restarts the idle time if it started `after` milliseconds ago or earlier.
    pub(super) fn touch(&mut self, now: u64, after: u64) {
        if now.saturating_sub(self.started) >= after {
            self.started = now;
        }
    }

    /// Becomes `other`, and the other way round, but for the time at which the deadlines look at it.
    pub(super) fn swap(&mut self, other: &mut Self) {
        std::mem::swap(self, other);
        std::mem::swap(&mut self.queued, &mut other.queued);
    }

    /// What it counts for against the bound on bytes.
    pub(super) fn cost(&self) -> usize {
        self.text.len().saturating_add(OVERHEAD)
    }
}
