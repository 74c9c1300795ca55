//! How much of what is allowed is in use.
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counted before it is taken and given back after it is freed, so that the counts are never less than what is in use.
///
/// On a cache line of its own: it changes with every write, its neighbours never do.
#[repr(align(64))]
pub(super) struct Usage {
    entries: AtomicUsize,
    bytes: AtomicUsize,
    max_entries: usize,
    max_bytes: usize,
}

/// There is no room: so many bytes are lacking.
pub(super) struct Lacking(pub(super) usize);

impl Usage {
    pub(super) const fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { entries: AtomicUsize::new(0), bytes: AtomicUsize::new(0), max_entries, max_bytes }
    }

    /// Takes room for so many more, or none at all.
    pub(super) fn reserve(&self, entries: usize, bytes: usize) -> bool {
        if !take(&self.entries, entries, self.max_entries) {
            return false;
        }
        let taken = take(&self.bytes, bytes, self.max_bytes);
        if !taken {
            self.entries.fetch_sub(entries, Relaxed);
        }
        taken
    }

    pub(super) fn release(&self, entries: usize, bytes: usize) {
        if entries > 0 {
            self.entries.fetch_sub(entries, Relaxed);
        }
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Relaxed);
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.entries.load(Relaxed)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }
}

fn take(count: &AtomicUsize, more: usize, max: usize) -> bool {
    let fits = |used: usize| used.checked_add(more).filter(|sum| *sum <= max);
    more == 0 || count.fetch_update(Relaxed, Relaxed, fits).is_ok()
}
