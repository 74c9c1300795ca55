//! The near cache: entries that were read from a server, kept in this process and invalidated by the server.
//!
//! Hand-written, because no library ties what it keeps to the connection that reports the changes. Three rules keep the
//! entries true:
//!
//! - An answer is kept only if it came over the connection that was in use when the question was sent, and if no change of
//!   its key was reported, and none made by this process, since then.
//! - When the connection that reports changes is left, everything is dropped, before another one is made.
//! - Nothing is served when the last question that was answered over that connection was sent longer than [`BOUND`] ago:
//!   everything that was reported before that answer has arrived, and a connection that died silently answers nothing.
//!
//! In Redis the reads whose answers are kept go over the connection that reports their changes: each answer is a proof, and
//! all changes are reported. In a cluster each node has a near cache of its own for what was read over the connection to it. In PostgreSQL a task asks over that connection, and changes are reported by the processes that make them, after
//! the fact: an entry is served for [`BOUND`] at most, for the case that such a process ends in between.
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

mod shard;

use self::shard::{Item, NearShard, Times};
use crate::{cache::Entry, clock::millis_since_epoch};

/// A connection that has proved nothing for this long may be dead.
pub(in crate::cache) const BOUND: Duration = Duration::from_secs(1);
/// From here on one read at a time goes to the server to prove it, while the others are still served.
const EARLY: Duration = Duration::from_millis(500);
/// That read may have failed: then another one goes.
const AGAIN: Duration = Duration::from_millis(100);

/// More locks than requests that meet at one, less where each part would be small.
const MOST_SHARDS: usize = 16;
const SMALLEST_SHARD: usize = 256 * 1024;

pub(in crate::cache) struct NearCache {
    shards: Box<[Mutex<NearShard>]>,
    hasher: RandomState,
    start: Instant,
    /// The number of the connection that reports changes, or 0.
    connection: AtomicU64,
    /// When the last question was sent that was answered over it. Like all times here in nanoseconds since `start`.
    proved: AtomicU64,
    /// When a read was last sent early.
    sent_early: AtomicU64,
    reports: Reports,
}

/// Who reports changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cache) enum Reports {
    /// The server reports all changes, and reads prove that it does.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "Redis does"))]
    ByServer,
    /// The writers do, and [`NearCache::prove`] is called in time.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "of PostgreSQL"))]
    ByWriters,
}

/// What came of a look for a key.
pub(in crate::cache) enum NearLookup {
    Hit(Entry),
    /// An entry, but its idle time has to be restarted.
    Due(Entry),
    Miss(FillToken),
}

/// The state before a question was sent: the answer is kept only if it is unchanged.
#[derive(Clone, Copy)]
pub(in crate::cache) struct FillToken {
    hash: u64,
    connection: u64,
    changes: u64,
    sent: u64,
}

/// An answer of the server.
pub(in crate::cache) struct Fetched {
    pub(in crate::cache) entry: Entry,
    /// Milliseconds: the idle time, the end since the epoch, and what was left; negative where the server knows of no end.
    pub(in crate::cache) idle: u64,
    pub(in crate::cache) end: u64,
    pub(in crate::cache) left: i64,
}

#[cfg(feature = "redis")]
impl FillToken {
    /// Whether this connection was the one that reports changes when the question was sent.
    pub(super) const fn is_of(&self, connection: u64) -> bool {
        self.connection == connection
    }
}

impl Fetched {
    /// Whether the last start of the idle time is at least `after` milliseconds ago.
    pub(in crate::cache) fn is_due(&self, after: u64) -> bool {
        u64::try_from(self.left).map_or(true, |left| self.idle.saturating_sub(left) >= after)
    }
}

impl NearCache {
    pub(in crate::cache) fn new(bytes: usize, reports: Reports) -> Self {
        let count = (bytes / SMALLEST_SHARD).clamp(1, MOST_SHARDS);
        Self {
            shards: (0..count).map(|_| Mutex::new(NearShard::new(bytes / count))).collect(),
            hasher: RandomState::new(),
            start: Instant::now(),
            connection: AtomicU64::new(0),
            proved: AtomicU64::new(0),
            sent_early: AtomicU64::new(0),
            reports,
        }
    }

    /// From now on there is room for so many bytes.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn resize(&self, bytes: usize) {
        let each = bytes / self.shards.len();
        self.shards.iter().for_each(|shard| lock(shard).resize(each));
    }

    /// Looks for a live entry. With `after`, for one whose idle time was started less than so many milliseconds ago.
    pub(in crate::cache) fn find(&self, key: &str, after: Option<u64>) -> NearLookup {
        let hash = self.hash(key.as_bytes());
        let now = self.nanos(Instant::now());
        let serves = self.is_proved(now);
        let mut shard = self.shard(hash);
        // Read under the lock, so that what is emptied after it has changed is not served.
        let connection = self.connection.load(Ordering::Acquire);
        let token = FillToken { hash, connection, changes: shard.changes(hash), sent: now };
        if !serves || connection == 0 {
            return NearLookup::Miss(token);
        }
        match shard.find(key.as_bytes()) {
            Some(item) if now < item.times.until && !self.is_old(now, item.times.sent) && wall() < item.times.end => {
                item.used = true;
                let left = (item.times.until - now) / 1_000_000;
                let (idle, entry) = (item.times.idle, item.entry.clone());
                if after.is_some_and(|after| idle.saturating_sub(left) >= after) {
                    NearLookup::Due(entry)
                } else {
                    NearLookup::Hit(entry)
                }
            }
            _ => NearLookup::Miss(token),
        }
    }

    /// The question was answered over the connection of that time, if it is still the one.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "reads of PostgreSQL prove nothing"))]
    pub(in crate::cache) fn answered(&self, token: &FillToken) {
        if token.connection != 0 && self.connection.load(Ordering::Acquire) == token.connection {
            self.proved.fetch_max(token.sent, Ordering::AcqRel);
        }
    }

    /// A question that was sent at `asked` was answered over this connection.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "Redis has its reads for that"))]
    pub(in crate::cache) fn prove(&self, connection: u64, asked: Instant) {
        if self.connection.load(Ordering::Acquire) == connection {
            self.proved.fetch_max(self.nanos(asked), Ordering::AcqRel);
        }
    }

    /// The state before a write.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "writers of PostgreSQL are told of their own writes"))]
    pub(in crate::cache) fn token(&self, key: &str) -> FillToken {
        let (hash, sent) = (self.hash(key.as_bytes()), self.nanos(Instant::now()));
        let shard = self.shard(hash);
        FillToken { hash, connection: self.connection.load(Ordering::Acquire), changes: shard.changes(hash), sent }
    }

    /// Keeps what was found, if nothing has happened since the question.
    pub(in crate::cache) fn fill(&self, token: &FillToken, key: &str, found: &Fetched) {
        self.put(&mut self.shard(token.hash), token, key, found);
    }

    /// This process has written the entry over the connection that reports changes, and read it again. Older answers that
    /// are still under way are not kept, and the entry is, if no other change than this one was reported since the write
    /// was sent.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "as `token`"))]
    pub(in crate::cache) fn written(&self, token: FillToken, key: &str, written: &Fetched) {
        let mut shard = self.shard(token.hash);
        let is_last = shard.changes(token.hash) == token.changes.wrapping_add(1);
        shard.invalidate(token.hash, key.as_bytes());
        if is_last {
            let changes = shard.changes(token.hash);
            self.put(&mut shard, &FillToken { changes, ..token }, key, written);
        }
    }

    fn put(&self, shard: &mut NearShard, token: &FillToken, key: &str, found: &Fetched) {
        // What was left when the server answered was left when the question was sent, and a little more.
        let Some(left) = u64::try_from(found.left).ok().and_then(|left| left.checked_mul(1_000_000)) else { return };
        // What was asked for later is newer, unless both were under way at the same moment.
        if shard.find(key.as_bytes()).is_some_and(|item| item.times.sent > token.sent) {
            return;
        }
        if token.connection == 0
            || self.connection.load(Ordering::Acquire) != token.connection
            || shard.changes(token.hash) != token.changes
        {
            return;
        }
        let times =
            Times { idle: found.idle, end: found.end, sent: token.sent, until: token.sent.saturating_add(left) };
        let entry = found.entry.clone();
        shard.put(Item { key: key.as_bytes().into(), entry, times, used: false });
    }

    /// The value of the key has changed, or may have.
    pub(in crate::cache) fn invalidate(&self, key: &[u8]) {
        let hash = self.hash(key);
        self.shard(hash).invalidate(hash, key);
    }

    /// Anything may have changed.
    pub(in crate::cache) fn invalidate_all(&self) {
        self.shards.iter().for_each(|shard| lock(shard).invalidate_all());
    }

    /// From now on this connection reports changes. It has answered a question that was sent at `asked`.
    pub(in crate::cache) fn begin(&self, connection: u64, asked: Instant) {
        self.connection.store(0, Ordering::Release);
        self.invalidate_all();
        self.proved.store(self.nanos(asked), Ordering::Release);
        self.connection.store(connection, Ordering::Release);
    }

    /// This connection reports changes no more.
    pub(in crate::cache) fn end(&self, connection: u64) {
        if self.connection.compare_exchange(connection, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.invalidate_all();
        }
    }

    fn is_proved(&self, now: u64) -> bool {
        let age = Duration::from_nanos(now.saturating_sub(self.proved.load(Ordering::Acquire)));
        if self.reports == Reports::ByWriters {
            return age < BOUND;
        }
        if age < EARLY {
            return true;
        }
        let before = self.sent_early.load(Ordering::Relaxed);
        let is_early = Duration::from_nanos(now.saturating_sub(before)) >= AGAIN
            && self.sent_early.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        age < BOUND && !is_early
    }

    /// Whether a report of a later change may have been lost.
    fn is_old(&self, now: u64, sent: u64) -> bool {
        self.reports == Reports::ByWriters && Duration::from_nanos(now.saturating_sub(sent)) >= BOUND
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, NearShard> {
        // By other bits than those that the table and the counts go by.
        let between = usize::try_from((hash >> 32) & 0xff_ffff).unwrap_or_default();
        #[allow(clippy::indexing_slicing, reason = "the remainder is less than the length, and there is one at least")]
        lock(&self.shards[between % self.shards.len()])
    }

    fn nanos(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

fn wall() -> u64 {
    millis_since_epoch(std::time::SystemTime::now())
}

fn lock(shard: &Mutex<NearShard>) -> MutexGuard<'_, NearShard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
