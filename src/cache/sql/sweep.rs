//! Removing what has ended: bounded, in small batches, and never waited for by a request.
use std::{future::Future, sync::atomic::Ordering, time::Duration};

use super::{
    Inner, SqlCache,
    call::{Answer, Effect, attempt},
    dialect::{Dialect, Swept},
    now,
    statement::Values,
};
use crate::{error::CacheError, events};

/// How many rows one statement looks at.
const BATCH: usize = 200;
/// A batch is swept with every so many inserts of a process: more can be removed than are inserted.
const EVERY: u64 = 50;
/// Ends go by the clock of the process that wrote them: those of other clocks are given this long.
const MARGIN_MS: i64 = 300_000;

impl<D: Dialect> SqlCache<D> {
    /// Removes rows that have ended, up to `limit` of them and in batches of 200. Returns how many it removed: fewer
    /// than `limit` when none is left that is due.
    ///
    /// A row is due at the end of the hour in which it ended, as far as that was known when it was written, and may
    /// thus stay for an hour and some minutes longer than its entry lives. Each batch has a
    /// [time limit](super::SqlCacheBuilder::timeout) of its own.
    ///
    /// # Errors
    /// When the cache cannot do it. What was removed before stays removed.
    pub async fn sweep(&self, limit: usize) -> Result<usize, CacheError> {
        let mut removed = 0;
        loop {
            let batch = BATCH.min(limit.saturating_sub(removed));
            if batch == 0 {
                return Ok(removed);
            }
            let swept = self.sweep_batch(batch).await?;
            removed += usize::try_from(swept.removed).unwrap_or_default();
            if swept.seen < u64::try_from(batch).unwrap_or(u64::MAX) {
                break;
            }
        }
        while self.sweep_lists().await? {}
        Ok(removed)
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
            let swept = cache.sweep_batch(BATCH).await;
            let lists = cache.sweep_lists().await;
            cache.inner.sweeping.store(false, Ordering::Release);
            if let Some(error) = swept.err().or(lists.err()) {
                events::sql_sweep_failed(&error);
            }
        });
    }

    async fn sweep_batch(&self, limit: usize) -> Result<Swept, CacheError> {
        let Inner { caller, statements, .. } = &*self.inner;
        let now = now();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = Values { now: now - MARGIN_MS, due: now, limit, ..Values::default() };
        let swept = attempt!(caller, Effect::Repeatable, caller.deadline(), |connection| {
            D::sweep(connection, statements, &values)
        });
        let Answer { value, .. } = swept.await?;
        Ok(value)
    }

    /// Whether there may be more.
    async fn sweep_lists(&self) -> Result<bool, CacheError> {
        let Inner { caller, statements, .. } = &*self.inner;
        let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
        let values = Values { now: now() - MARGIN_MS, limit, ..Values::default() };
        let swept = attempt!(caller, Effect::Repeatable, caller.deadline(), |connection| {
            D::execute(connection, &statements.sweep_lists, &values)
        });
        Ok(swept.await?.value >= values.limit.unsigned_abs())
    }
}
