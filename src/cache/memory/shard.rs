//! A part of the keys, under a lock of its own.
use std::sync::{
    Mutex, MutexGuard, PoisonError, TryLockError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{queue::NEVER, table::Table, usage::Usage};

/// Every operation looks at up to so many due slots of its own shard first.
const OWN: usize = 4;
/// One operation in so many also helps another shard.
const HELP_EVERY: u32 = 8;

/// Aligned so that two shards share no cache line, nor the pair of lines that processors fetch together.
#[repr(align(128))]
pub(super) struct Shard {
    /// The first time in the table's queue, readable without the lock.
    next_due: AtomicU64,
    inside: Mutex<Inside>,
}

struct Inside {
    table: Table,
    operations: u32,
}

impl Shard {
    pub(super) const fn new() -> Self {
        Self { next_due: AtomicU64::new(NEVER), inside: Mutex::new(Inside { table: Table::new(), operations: 0 }) }
    }

    /// Does something under the lock. The second answer counts up when it is this operation's turn to help another shard.
    pub(super) fn with<T>(&self, now: u64, usage: &Usage, f: impl FnOnce(&mut Table) -> T) -> (T, Option<u32>) {
        let mut inside = self.lock();
        if inside.table.next_due() <= now {
            inside.table.sweep(now, OWN, usage);
        }
        let answer = f(&mut inside.table);
        inside.operations = inside.operations.wrapping_add(1);
        let operations = inside.operations;
        self.publish(&inside.table);
        (answer, operations.is_multiple_of(HELP_EVERY).then_some(operations / HELP_EVERY))
    }

    /// Whether there is something to look at.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.next_due.load(Relaxed) <= now
    }

    /// Looks at up to `most` due slots, drops those whose time is over, and returns at how many it looked.
    pub(super) fn sweep(&self, now: u64, most: usize, usage: &Usage) -> usize {
        self.sweep_locked(self.lock(), now, most, usage)
    }

    /// As [`sweep`](Self::sweep), unless another thread is at work here.
    pub(super) fn try_sweep(&self, now: u64, most: usize, usage: &Usage) {
        let inside = match self.inside.try_lock() {
            Ok(inside) => inside,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.sweep_locked(inside, now, most, usage);
    }

    fn sweep_locked(&self, mut inside: MutexGuard<'_, Inside>, now: u64, most: usize, usage: &Usage) -> usize {
        let seen = inside.table.sweep(now, most, usage);
        self.publish(&inside.table);
        seen
    }

    /// Nothing panics while a shard is locked; if it did, the shard would still be whole.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, table: &Table) {
        let next = table.next_due();
        if self.next_due.load(Relaxed) != next {
            self.next_due.store(next, Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        self.lock().table.sizes()
    }

    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.lock().table.room()
    }

    #[cfg(test)]
    pub(super) fn poison(&self) {
        let panics = || {
            let _inside = self.inside.lock();
            panic!("on purpose");
        };
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
    }
}
