//! Removing what has ended: in batches that take a few milliseconds, and never waited for by a request.
use std::{
    future::Future,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{
    Inner, SqlCache,
    batch::Batch,
    call::{Executed, StatementKind, attempt},
    dialect::{Dialect, Swept},
    now,
    statement::Arguments,
};
use crate::{error::CacheError, events};

/// A batch is swept with every so many inserts of a process: more can be removed than are inserted.
const EVERY: u64 = 50;
/// Twice as many rows.
const LEAST_BY_INSERTS: usize = 2 * EVERY as usize;
/// After so many rows SQLite writes its log back: long before it does so by itself, as a write of a request waits until it is done.
const WRITE_BACK: usize = 100;
/// Ends go by the clock of the process that wrote them: those of other clocks are given this long.
const MARGIN_MS: i64 = 300_000;

impl<D: Dialect> SqlCache<D> {
    /// Removes rows that have ended, up to `limit` of them. Returns how many it removed: fewer than `limit` when none is
    /// left that is due.
    ///
    /// It does so in batches of 20 to 250 rows, as many as take some 8 ms, and waits between two of them for as long as the
    /// first one took; where that is more than 16 ms, for longer, up to a second. A row is due at the end of the hour in
    /// which it ended, as far as that was known when it was written, and may thus stay for an hour and some minutes longer
    /// than its entry lives. Each batch has a [time limit](super::SqlCacheBuilder::timeout) of its own.
    ///
    /// # Errors
    /// When the cache cannot do it. What was removed before stays removed.
    pub async fn sweep(&self, limit: usize) -> Result<usize, CacheError> {
        let (mut removed, mut unwritten) = (0, 0);
        loop {
            let rows = self.inner.batch.rows().min(limit.saturating_sub(removed));
            if rows == 0 {
                return Ok(removed);
            }
            let begun = Instant::now();
            let swept = self.sweep_batch(rows).await?;
            removed += usize::try_from(swept.removed).unwrap_or_default();
            if swept.seen < u64::try_from(rows).unwrap_or(u64::MAX) {
                break;
            }
            self.pause_after(rows, begun, &mut unwritten).await?;
        }
        loop {
            let (rows, begun) = (self.inner.batch.rows(), Instant::now());
            if !self.sweep_lists(rows).await? {
                return Ok(removed);
            }
            self.pause_after(rows, begun, &mut unwritten).await?;
        }
    }

    /// Leaves others as much time as the batch took, or more.
    async fn pause_after(&self, rows: usize, begun: Instant, unwritten: &mut usize) -> Result<(), CacheError> {
        let Inner { executor, batch, .. } = &*self.inner;
        batch.took(rows, begun.elapsed());
        *unwritten += rows;
        if *unwritten >= WRITE_BACK {
            *unwritten = 0;
            // Most of it beside other writers, and then without them the little that they added: only a log that is written
            // back in full begins anew, and as long as it is long, each write of a request writes it back.
            for kind in [StatementKind::Read, StatementKind::Repeatable] {
                attempt!(executor, kind, executor.deadline(), |connection| D::write_back(connection)).await?;
            }
        }
        tokio::time::sleep(Batch::pause_after(begun.elapsed())).await;
        Ok(())
    }

    /// Sweeps all that is due, waits for `every`, and begins again: to be spawned by those who want a task for it.
    ///
    /// It ends when it is dropped or its task aborted. What goes wrong is logged, and tried again the next time.
    ///
    /// # Example
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # fn run(cache: cloakroom::PostgresCache) {
    /// let sweeper = tokio::spawn(cache.sweeper(std::time::Duration::from_secs(60)));
    /// # drop(sweeper);
    /// # }
    /// ```
    pub fn sweeper(&self, every: Duration) -> impl Future<Output = ()> + Send + 'static {
        let cache = self.clone();
        async move {
            loop {
                if let Err(error) = cache.sweep(usize::MAX).await {
                    events::sql_sweep_failed(&error);
                }
                tokio::time::sleep(every).await;
            }
        }
    }

    /// One batch in a task of its own, with every so many inserts, and not while the one before is under way.
    pub(super) fn sweep_now_and_then(&self) {
        let Inner { sweeps, inserts, sweeping, .. } = &*self.inner;
        if !*sweeps
            || inserts.fetch_add(1, Ordering::Relaxed) % EVERY != EVERY - 1
            || sweeping.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let cache = self.clone();
        tokio::spawn(async move {
            let (rows, begun) = (cache.inner.batch.rows().max(LEAST_BY_INSERTS), Instant::now());
            let swept = cache.sweep_batch(rows).await;
            cache.inner.batch.took(rows, begun.elapsed());
            let lists = cache.sweep_lists(rows).await;
            cache.inner.sweeping.store(false, Ordering::Release);
            if let Some(error) = swept.err().or(lists.err()) {
                events::sql_sweep_failed(&error);
            }
        });
    }

    async fn sweep_batch(&self, limit: usize) -> Result<Swept, CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let now = now();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = Arguments { now: now - MARGIN_MS, due: now, limit, ..Arguments::default() };
        let swept = attempt!(executor, StatementKind::Repeatable, executor.deadline(), |connection| {
            D::sweep(connection, statements, &values)
        });
        let Executed { value, .. } = swept.await?;
        Ok(value)
    }

    /// Whether there may be more.
    async fn sweep_lists(&self, rows: usize) -> Result<bool, CacheError> {
        let Inner { executor, statements, .. } = &*self.inner;
        let limit = i64::try_from(rows).unwrap_or(i64::MAX);
        let values = Arguments { now: now() - MARGIN_MS, limit, ..Arguments::default() };
        let swept = attempt!(executor, StatementKind::Repeatable, executor.deadline(), |connection| {
            D::execute(connection, &statements.sweep_lists, &values)
        });
        Ok(swept.await?.value >= values.limit.unsigned_abs())
    }
}
