//! The sentences of [`Cache`]'s contract, each as a check of its own.
#![allow(clippy::panic, reason = "a broken sentence is what this is to panic at")]
use std::{
    fmt::Debug,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::{
    Clock,
    cache::{Cache, Deleted, Entry, Expiry, Replaced, Version},
    error::CacheError,
};

mod lists;
mod time;
mod writes;

/// Checks a cache against every sentence of [`Cache`]'s contract, and panics with the sentence that it breaks.
///
/// `make` gives a cache for each of the checks. They use keys of their own, so that it may be the same one again.
/// Give the `clock` that the cache was built with if it is a manual one; without one the checks wait for real, some
/// seconds in all: what an operation finds is judged only if it was answered in time, and else the check begins again with
/// longer times. So a busy machine makes no sentence fail. Needs a Tokio runtime with its timer.
///
/// # Panics
/// At the first sentence that does not hold, when a method returns an error, or when operations take seconds.
///
/// # Example
/// ```
/// # async fn run<C: cloakroom::Cache + Clone>(my_cache: C) {
/// cloakroom::testing::cache_contract(|| async { my_cache.clone() }, None).await;
/// # }
/// ```
pub async fn cache_contract<C, F, Fut>(make: F, clock: Option<Clock>)
where
    C: Cache,
    F: Fn() -> Fut,
    Fut: Future<Output = C>,
{
    let manual = clock.is_some();
    let mut waiting: Vec<Check> = Vec::new();
    macro_rules! checks {
        ($($module:ident::$check:ident),* $(,)?) => {
            $({
                let trial = Trial::new(make().await, clock.clone());
                let check: Check = Box::pin(async move {
                    while !$module::$check(&trial).await.judged() {
                        trial.slow_down();
                    }
                    trial.rewind();
                });
                if manual { check.await } else { waiting.push(check) }
            })*
        };
    }
    checks!(
        writes::an_absent_key_is_no_error,
        writes::what_was_inserted_is_read,
        writes::any_bytes_come_back,
        writes::any_key_is_a_key_of_its_own,
        writes::insert_leaves_a_live_entry_as_it_is,
        writes::replace_writes_over_the_expected_version_only,
        writes::delete_removes_the_expected_version_only,
        writes::a_repeated_insert_is_done,
        writes::a_repeated_replace_is_done_and_changes_nothing,
        writes::one_of_many_inserts_wins,
        writes::no_increment_is_lost,
        writes::one_of_many_deletes_wins,
        writes::readers_see_value_and_version_together,
        writes::a_ping_is_answered,
    );
    for check in std::mem::take(&mut waiting) {
        check.await;
    }
    checks!(
        time::an_idle_entry_ends,
        time::an_entry_ends_at_its_end,
        time::a_time_that_is_over_writes_nothing_readable,
        time::an_ended_entry_is_absent_for_every_method,
        time::extreme_times_are_no_error,
        time::touch_restarts_the_idle_time,
        time::touch_never_passes_the_end,
        time::touch_changes_neither_data_nor_version,
        time::get_and_touch_restarts_the_idle_time,
        time::get_and_touch_waits_for_after,
        time::get_and_touch_never_passes_the_end,
        time::a_read_restarts_nothing,
        time::replace_writes_the_expiry,
        lists::an_absent_list_is_empty,
        lists::members_are_sorted_by_their_end,
        lists::adding_a_member_again_moves_its_end_later_only,
        lists::adding_returns_how_many_members_there_are,
        lists::pages_have_every_member_once,
        lists::a_page_begins_behind_a_member_that_is_gone,
        lists::removed_members_are_gone,
        lists::members_end,
        lists::a_list_lives_as_long_as_its_longest_member,
        lists::no_added_member_is_lost,
    );
    all(waiting).await;
}

type Check = Pin<Box<dyn Future<Output = ()>>>;

/// Checks that wait for real do so together.
async fn all(mut checks: Vec<Check>) {
    poll_fn(|context| {
        checks.retain_mut(|check| check.as_mut().poll(context).is_pending());
        if checks.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// An operation was answered so late that the entry may have ended before: what it found says nothing about the cache.
struct Late;

/// What a check returns: checks without a time limit return nothing.
trait Verdict {
    fn judged(self) -> bool;
}

impl Verdict for () {
    fn judged(self) -> bool {
        true
    }
}

impl Verdict for Result<(), Late> {
    fn judged(self) -> bool {
        self.is_ok()
    }
}

/// What a check needs: the cache, keys of its own, and a way to let time pass.
struct Trial<C> {
    cache: Arc<C>,
    clock: Option<Clock>,
    turned: AtomicU64,
    /// The idle time in milliseconds of the entries that are to end.
    idle: AtomicU64,
}

/// The first idle time of entries that are to end; each repetition of a check doubles it.
const SHORTEST_IDLE: u64 = 300;
const LONGEST_IDLE: u64 = 64 * SHORTEST_IDLE;
/// Caches count whole milliseconds, and their clock is not the one here.
const ROUNDING: Duration = Duration::from_millis(10);

impl<C: Cache> Trial<C> {
    fn new(cache: C, clock: Option<Clock>) -> Self {
        Self { cache: Arc::new(cache), clock, turned: AtomicU64::new(0), idle: AtomicU64::new(SHORTEST_IDLE) }
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.idle.load(Ordering::Relaxed))
    }

    fn slow_down(&self) {
        let idle = 2 * self.idle.load(Ordering::Relaxed);
        holds("operations are answered within seconds", idle <= LONGEST_IDLE);
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// More than half of the idle time, so that twice as long is over.
    fn most_of_idle(&self) -> Duration {
        self.idle() * 3 / 5
    }

    fn past_idle(&self) -> Duration {
        self.idle() + ROUNDING
    }

    /// Whether less than `time` has passed since `start`; a manual clock passes by itself only.
    fn within(&self, time: Duration, start: Instant) -> Result<(), Late> {
        if self.clock.is_some() || start.elapsed() + ROUNDING < time { Ok(()) } else { Err(Late) }
    }

    /// Of what began at `start` and lasts for the idle time: `is` has to be true unless that is over.
    fn live(&self, sentence: &str, is: bool, start: Instant) -> Result<(), Late> {
        if !is {
            self.within(self.idle(), start)?;
        }
        holds(sentence, is);
        Ok(())
    }

    fn key(&self) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let run = u64::from(Version::unique());
        format!("cloakroom:contract:{run:016x}:{}", COUNT.fetch_add(1, Ordering::Relaxed))
    }

    fn now(&self) -> SystemTime {
        self.clock.as_ref().map_or_else(SystemTime::now, Clock::now)
    }

    async fn pass(&self, time: Duration) {
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
    fn rewind(&self) {
        if let Some(clock) = &self.clock {
            clock.rewind(Duration::from_millis(self.turned.load(Ordering::Relaxed)));
        }
    }

    /// Ends in an hour.
    fn long(&self) -> Expiry {
        Expiry { idle: Duration::from_secs(3600), end: self.now() + Duration::from_secs(7200) }
    }

    /// Ends when it is idle.
    fn short(&self) -> Expiry {
        Expiry { idle: self.idle(), end: self.now() + Duration::from_secs(7200) }
    }

    /// Ends after the idle time, touched or not.
    fn ending(&self) -> Expiry {
        Expiry { idle: Duration::from_secs(3600), end: self.now() + self.idle() }
    }

    /// A new entry under a new key.
    async fn entry(&self, value: &'static [u8], expiry: Expiry) -> (String, Version) {
        let key = self.key();
        let version = self.insert(&key, Bytes::from_static(value), expiry).await;
        (key, must(version, "`insert` writes an entry where there is none"))
    }

    /// A new entry that ends soon, and the time before it was written.
    async fn soon(&self, expiry: fn(&Self) -> Expiry) -> Result<(String, Version, Instant), Late> {
        let (key, start) = (self.key(), Instant::now());
        let version = self.insert(&key, Bytes::from_static(b"value"), expiry(self)).await;
        self.live("`insert` writes an entry where there is none", version.is_some(), start)?;
        version.map(|version| (key, version, start)).ok_or(Late)
    }

    /// Inserts under a new version, and returns that if it was written.
    async fn insert(&self, key: &str, value: Bytes, expiry: Expiry) -> Option<Version> {
        let version = Version::unique();
        ok(self.cache.insert(key, Entry::new(value, version), expiry).await).then_some(version)
    }

    /// Replaces by an entry with a new version.
    async fn replace(&self, key: &str, expected: Version, value: Bytes, expiry: Expiry) -> Replaced {
        ok(self.cache.replace(key, expected, Entry::new(value, Version::unique()), expiry).await)
    }

    async fn get(&self, key: &str) -> Option<Entry> {
        ok(self.cache.get(key).await)
    }
}

fn ok<T>(result: Result<T, CacheError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("a method returned an error, where it could do what was asked: {error:?}"),
    }
}

fn must<T>(value: Option<T>, sentence: &str) -> T {
    match value {
        Some(value) => value,
        None => panic!("broken: {sentence}"),
    }
}

#[track_caller]
fn holds(sentence: &str, is: bool) {
    assert!(is, "broken: {sentence}");
}

#[track_caller]
fn same<T: PartialEq + Debug>(sentence: &str, is: &T, should: &T) {
    assert!(is == should, "broken: {sentence}\n     is: {is:?}\n should: {should:?}");
}

/// Runs `count` tasks at the same time, and gives what they returned.
async fn together<T, Fut>(count: usize, task: impl Fn(usize) -> Fut) -> Vec<T>
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
