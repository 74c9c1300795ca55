//! The wall clock, and the one that tests set by hand.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where a cache and a store read the time: the system's wall clock, or one that a test moves.
///
/// Clones share the offset: moving one moves all of them.
///
/// # Example
/// ```
/// use std::time::Duration;
/// use cloakroom::{Clock, InMemoryCache, SessionStore};
///
/// let clock = Clock::manual();
/// let cache = InMemoryCache::builder().clock(clock.clone()).build();
/// let store = SessionStore::new(cache).clock(clock.clone());
/// clock.advance(Duration::from_secs(3600)); // an hour later for both
/// # drop(store);
/// ```
#[derive(Clone, Default)]
pub struct Clock {
    /// Milliseconds that this clock is ahead of the system's; absent for the system's own.
    ahead: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's wall clock.
    #[must_use]
    pub const fn system() -> Self {
        Self { ahead: None }
    }

    /// A clock that runs with the system's, and is moved by [`advance`](Self::advance) and [`rewind`](Self::rewind).
    #[must_use]
    pub fn manual() -> Self {
        Self { ahead: Some(Arc::default()) }
    }

    /// Moves the clock forward. Has no effect on [`Clock::system`].
    pub fn advance(&self, by: Duration) {
        self.shift(millis(by).try_into().unwrap_or(i64::MAX));
    }

    /// Moves the clock back. Has no effect on [`Clock::system`].
    pub fn rewind(&self, by: Duration) {
        self.shift(millis(by).try_into().map_or(i64::MIN, |ms: i64| -ms));
    }

    fn shift(&self, by: i64) {
        if let Some(ahead) = &self.ahead {
            let moved = |now: i64| Some(now.saturating_add(by));
            let _ = ahead.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
        }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        time_of(self.now_ms())
    }

    /// Milliseconds since the Unix epoch; zero before it.
    pub(crate) fn now_ms(&self) -> u64 {
        let system = millis_since_epoch(SystemTime::now());
        match &self.ahead {
            None => system,
            Some(ahead) => system.saturating_add_signed(ahead.load(Ordering::Relaxed)),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ahead.is_some() { "Clock(manual)" } else { "Clock(system)" })
    }
}

/// The end of the year 9999: later times are cut to it, so that arithmetic never overflows.
const LATEST_MS: u64 = 253_402_300_799_999;

/// Whole milliseconds, saturating; what is shorter than one counts as one, except zero.
pub(crate) fn millis(duration: Duration) -> u64 {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 && !duration.is_zero() { 1 } else { ms }
}

pub(crate) fn millis_since_epoch(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).min(LATEST_MS)
}

pub(crate) fn time_of(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.min(LATEST_MS))
}

/// `from` plus `by`, never past the end of the year 9999.
pub(crate) fn later(from: u64, by: Duration) -> u64 {
    from.saturating_add(millis(by)).min(LATEST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_move_together_and_extremes_do_not_panic() {
        let clock = Clock::manual();
        let other = clock.clone();
        let before = other.now_ms();
        clock.advance(Duration::from_secs(3600));
        assert!(other.now_ms() >= before + 3_600_000);
        clock.rewind(Duration::from_secs(7200));
        assert!(other.now_ms() < before);
        clock.advance(Duration::MAX);
        clock.rewind(Duration::MAX);
        let _ = other.now();
        assert_eq!(later(5, Duration::MAX), LATEST_MS);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::ZERO), 0);
    }
}
