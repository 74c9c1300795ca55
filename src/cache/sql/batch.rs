//! How many rows one statement of a sweep looks at, by the time that the ones before it took.
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// What one statement takes, or a little more: for so long a write of another row may have to wait (SQLite), and the disk
/// has so much more to write at once.
const AIM: Duration = Duration::from_millis(8);
/// Between two batches, unless one of them took longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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
    /// So many rows leave fewer pages in SQLite's log than the 1,000 at which whatever commits has to write it back.
    const MOST: usize = 250;

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

    /// What took longer than it should, although there were few rows, comes from a database that is busy with its disk.
    pub(super) fn pause_after(batch: Duration) -> Duration {
        let longer = batch.as_secs_f64() / (2.0 * AIM.as_secs_f64());
        batch.mul_f64(longer.max(1.0)).min(LONGEST_PAUSE.max(batch))
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

    #[test]
    fn pauses_grow_where_batches_take_long() {
        let ms = Duration::from_millis;
        for (batch, pause) in [(8, 8), (16, 16), (32, 64), (80, 400), (400, 1_000), (2_000, 2_000)] {
            assert!(Batch::pause_after(ms(batch)).abs_diff(ms(pause)) < ms(1), "{batch}");
        }
    }
}
