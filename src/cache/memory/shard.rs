//! A part of the keys, under a lock of its own.
use std::sync::{
    Mutex, MutexGuard, PoisonError, TryLockError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{deadlines::NEVER, lists::Lists, table::Table, usage::Usage};

/// Every operation looks at up to so many due slots and members of its own shard first.
const OWN: usize = 4;
/// One operation in so many also helps another shard.
const HELP_EVERY: u32 = 8;

/// Aligned so that two shards share no cache line, nor the pair of lines that processors fetch together.
#[repr(align(128))]
pub(super) struct Shard {
    /// The first time at which something is due, readable without the lock.
    next_due: AtomicU64,
    contents: Mutex<Contents>,
}

pub(super) struct Contents {
    pub(super) table: Table,
    pub(super) lists: Lists,
    operations: u32,
}

impl Contents {
    fn next_due(&self) -> u64 {
        self.table.next_due().min(self.lists.next_due())
    }

    fn sweep(&mut self, now: u64, most: usize, usage: &Usage) -> usize {
        let seen = self.table.sweep(now, most, usage);
        seen + self.lists.sweep(now, most - seen, usage)
    }
}

impl Shard {
    pub(super) fn new() -> Self {
        let contents = Contents { table: Table::new(), lists: Lists::new(), operations: 0 };
        Self { next_due: AtomicU64::new(NEVER), contents: Mutex::new(contents) }
    }

    /// Calls `f` under the lock. The second answer counts up when it is this operation's turn to help another shard.
    pub(super) fn with<T>(&self, now: u64, usage: &Usage, f: impl FnOnce(&mut Contents) -> T) -> (T, Option<u32>) {
        let mut contents = self.lock();
        if self.is_due(now) {
            contents.sweep(now, OWN, usage);
        }
        let answer = f(&mut contents);
        contents.operations = contents.operations.wrapping_add(1);
        let operations = contents.operations;
        self.publish(&contents);
        (answer, operations.is_multiple_of(HELP_EVERY).then_some(operations / HELP_EVERY))
    }

    /// Whether there is something to look at.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.next_due.load(Relaxed) <= now
    }

    /// Looks at up to `most` due slots and members, drops those whose time is over, and returns at how many it looked.
    pub(super) fn sweep(&self, now: u64, most: usize, usage: &Usage) -> usize {
        self.sweep_locked(self.lock(), now, most, usage)
    }

    /// As [`sweep`](Self::sweep), unless another thread is at work here.
    pub(super) fn try_sweep(&self, now: u64, most: usize, usage: &Usage) {
        let contents = match self.contents.try_lock() {
            Ok(contents) => contents,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.sweep_locked(contents, now, most, usage);
    }

    fn sweep_locked(&self, mut contents: MutexGuard<'_, Contents>, now: u64, most: usize, usage: &Usage) -> usize {
        let seen = contents.sweep(now, most, usage);
        self.publish(&contents);
        seen
    }

    /// Nothing panics while a shard is locked; if it did, the shard would still be whole.
    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, contents: &Contents) {
        let next = contents.next_due();
        if self.next_due.load(Relaxed) != next {
            self.next_due.store(next, Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        self.lock().table.sizes()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.lock().table.capacity()
    }

    #[cfg(test)]
    pub(super) fn poison(&self) {
        let panics = || {
            let _contents = self.contents.lock();
            panic!("on purpose");
        };
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
    }
}
