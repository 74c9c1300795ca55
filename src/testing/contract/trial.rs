//! What a check of the contract needs: a cache, keys and entries of its own, a way to let time pass, and sentences to judge by.
use std::{
    fmt::Debug,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::{
    Clock,
    cache::{Cache, Entry, Expiry, Replaced, Version},
    error::CacheError,
};

/// An operation was answered so late that the entry may have ended before: what it found says nothing about the cache.
pub(super) struct Late;

/// What a check returns: checks without a time limit return nothing.
pub(super) trait CheckOutcome {
    fn judged(self) -> bool;
}

impl CheckOutcome for () {
    fn judged(self) -> bool {
        true
    }
}

impl CheckOutcome for Result<(), Late> {
    fn judged(self) -> bool {
        self.is_ok()
    }
}

/// What a check needs: the cache, keys of its own, and a way to let time pass.
pub(super) struct Trial<C> {
    pub(super) cache: Arc<C>,
    clock: Option<Clock>,
    turned: AtomicU64,
    /// The idle time in milliseconds of the entries that are to end.
    idle: AtomicU64,
}

/// The first idle time of entries that are to end; each repetition of a check doubles it.
const SHORTEST_IDLE: u64 = 300;
const LONGEST_IDLE: u64 = 64 * SHORTEST_IDLE;
/// Caches count whole milliseconds, and their clock is not the one here.
pub(super) const ROUNDING: Duration = Duration::from_millis(10);

impl<C: Cache> Trial<C> {
    pub(super) fn new(cache: C, clock: Option<Clock>) -> Self {
        Self { cache: Arc::new(cache), clock, turned: AtomicU64::new(0), idle: AtomicU64::new(SHORTEST_IDLE) }
    }

    pub(super) fn idle(&self) -> Duration {
        Duration::from_millis(self.idle.load(Ordering::Relaxed))
    }

    pub(super) fn slow_down(&self) {
        let idle = 2 * self.idle.load(Ordering::Relaxed);
        holds("operations are answered within seconds", idle <= LONGEST_IDLE);
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// More than half of the idle time, so that twice as long is over.
    pub(super) fn most_of_idle(&self) -> Duration {
        self.idle() * 3 / 5
    }

    pub(super) fn past_idle(&self) -> Duration {
        self.idle() + ROUNDING
    }

    /// Whether less than `time` has passed since `start`; a manual clock passes by itself only.
    pub(super) fn within(&self, time: Duration, start: Instant) -> Result<(), Late> {
        if self.clock.is_some() || start.elapsed() + ROUNDING < time { Ok(()) } else { Err(Late) }
    }

    /// Of what began at `start` and lasts for the idle time: `is` has to be true unless that is over.
    pub(super) fn live(&self, sentence: &str, is: bool, start: Instant) -> Result<(), Late> {
        if !is {
            self.within(self.idle(), start)?;
        }
        holds(sentence, is);
        Ok(())
    }

    pub(super) fn key(&self) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let run = u64::from(Version::unique());
        format!("cloakroom:contract:{run:016x}:{}", COUNT.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn now(&self) -> SystemTime {
        self.clock.as_ref().map_or_else(SystemTime::now, Clock::now)
    }

    pub(super) async fn pass(&self, time: Duration) {
        match &self.clock {
            None => tokio::time::sleep(time).await,
            Some(clock) => {
                clock.advance(time);
                let turned = u64::try_from(time.as_millis()).unwrap_or_default();
                self.turned.fetch_add(turned, Ordering::Relaxed);
            }
        }
    }

    /// The next check starts at the real time: lists may be kept by the system's clock.
    pub(super) fn rewind(&self) {
        if let Some(clock) = &self.clock {
            clock.rewind(Duration::from_millis(self.turned.load(Ordering::Relaxed)));
        }
    }

    /// Ends in an hour.
    pub(super) fn long(&self) -> Expiry {
        Expiry { idle: Duration::from_secs(3600), end: self.now() + Duration::from_secs(7200) }
    }

    /// Ends when it is idle.
    pub(super) fn short(&self) -> Expiry {
        Expiry { idle: self.idle(), end: self.now() + Duration::from_secs(7200) }
    }

    /// Ends after the idle time, touched or not.
    pub(super) fn ending(&self) -> Expiry {
        Expiry { idle: Duration::from_secs(3600), end: self.now() + self.idle() }
    }

    /// A new entry under a new key.
    pub(super) async fn entry(&self, value: &'static [u8], expiry: Expiry) -> (String, Version) {
        let key = self.key();
        let version = self.insert(&key, Bytes::from_static(value), expiry).await;
        (key, must(version, "`insert` writes an entry where there is none"))
    }

    /// A new entry that ends soon, and the time before it was written.
    pub(super) async fn soon(&self, expiry: fn(&Self) -> Expiry) -> Result<(String, Version, Instant), Late> {
        let (key, start) = (self.key(), Instant::now());
        let version = self.insert(&key, Bytes::from_static(b"value"), expiry(self)).await;
        self.live("`insert` writes an entry where there is none", version.is_some(), start)?;
        version.map(|version| (key, version, start)).ok_or(Late)
    }

    /// Inserts under a new version, and returns that if it was written.
    pub(super) async fn insert(&self, key: &str, value: Bytes, expiry: Expiry) -> Option<Version> {
        let version = Version::unique();
        ok(self.cache.insert(key, Entry::new(value, version), expiry).await).then_some(version)
    }

    /// Replaces by an entry with a new version.
    pub(super) async fn replace(&self, key: &str, expected: Version, value: Bytes, expiry: Expiry) -> Replaced {
        ok(self.cache.replace(key, expected, Entry::new(value, Version::unique()), expiry).await)
    }

    pub(super) async fn get(&self, key: &str) -> Option<Entry> {
        ok(self.cache.get(key).await)
    }
}

pub(super) fn ok<T>(result: Result<T, CacheError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("a method returned an error, where it could do what was asked: {error:?}"),
    }
}

pub(super) fn must<T>(value: Option<T>, sentence: &str) -> T {
    match value {
        Some(value) => value,
        None => panic!("broken: {sentence}"),
    }
}

#[track_caller]
pub(super) fn holds(sentence: &str, is: bool) {
    assert!(is, "broken: {sentence}");
}

#[track_caller]
pub(super) fn same<T: PartialEq + Debug>(sentence: &str, is: &T, should: &T) {
    assert!(is == should, "broken: {sentence}\n     is: {is:?}\n should: {should:?}");
}

/// Runs `count` tasks at the same time, and gives what they returned.
pub(super) async fn together<T, Fut>(count: usize, task: impl Fn(usize) -> Fut) -> Vec<T>
where
    T: Send + 'static,
    Fut: Future<Output = T> + Send + 'static,
{
    let mut tasks: JoinSet<T> = (0..count).map(task).collect();
    let mut results = Vec::with_capacity(count);
    while let Some(result) = tasks.join_next().await {
        match result {
            Ok(result) => results.push(result),
            Err(error) => panic!("a task of the check failed: {error}"),
        }
    }
    results
}
