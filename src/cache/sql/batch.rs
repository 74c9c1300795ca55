//! How many rows one statement of a sweep looks at, by the time that the ones before it took.
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// What one statement takes, or a little more: for so long a write of another row may have to wait (SQLite), and the disk
/// has so much more to write at once.
const AIM: Duration = Duration::from_millis(8);

#[derive(Debug)]
pub(super) struct Batch(AtomicUsize);

impl Default for Batch {
    fn default() -> Self {
        Self(AtomicUsize::new(Self::FIRST))
    }
}

impl Batch {
    const FIRST: usize = 200;
    const LEAST: usize = 20;
    const MOST: usize = 500;

    pub(super) fn rows(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// So many rows took so long.
    pub(super) fn took(&self, rows: usize, time: Duration) {
        let rows_in_aim = rows as f64 * AIM.as_secs_f64() / time.as_secs_f64().max(1e-6);
        // At most twice as many: the rows of one batch may lie closer together than those of the next.
        let next = (rows_in_aim as usize).min(2 * rows).clamp(Self::LEAST, Self::MOST);
        self.0.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_aim_at_a_time() {
        let batch = Batch::default();
        assert_eq!(batch.rows(), 200);
        let after = |rows, time| {
            batch.took(rows, time);
            batch.rows()
        };
        assert_eq!(after(150, AIM), 150);
        assert_eq!(after(400, AIM * 2), 200);
        assert_eq!(after(100, AIM / 10), 200, "at most twice as many");
        assert_eq!(after(400, AIM / 2), Batch::MOST);
        assert_eq!(after(100, AIM * 100), Batch::LEAST);
        assert_eq!(after(1, Duration::ZERO), Batch::LEAST, "a small limit says little");
    }
}
