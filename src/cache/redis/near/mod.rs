//! The near cache: entries that were read from Redis, kept in this process and invalidated by the server.
//!
//! Hand-written, because no library ties what it keeps to the connection that reports the changes. All reads go over one
//! connection, and Redis reports on this very connection when a key changes that was read over it. So answers and changes
//! arrive in the order in which they happened, and three rules keep the entries true. In a cluster each node has a near
//! cache of its own for what was read over the connection to it.
//!
//! - An answer is kept only if it came over the connection that was in use when the question was sent, and if no change of
//!   its key was reported, and none made by this process, since then.
//! - When the connection is left, everything that was read over it is dropped, before another one is made.
//! - Nothing is served when the last question that has been answered was sent longer than [`BOUND`] ago: everything that
//!   was reported before that answer has arrived, and a connection that died silently answers nothing.
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

mod shard;

use self::shard::{Item, Shard, Times};
use crate::{cache::Entry, clock::millis_since_epoch};

/// A connection that has proved nothing for this long may be dead.
pub(super) const BOUND: Duration = Duration::from_secs(1);
/// From here on one read at a time goes to the server to prove it, while the others are still served.
const EARLY: Duration = Duration::from_millis(500);
/// That read may have failed: then another one goes.
const AGAIN: Duration = Duration::from_millis(100);

/// More locks than requests that meet at one, less where each part would be small.
const MOST_SHARDS: usize = 16;
const SMALLEST_SHARD: usize = 256 * 1024;

pub(super) struct NearCache {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    start: Instant,
    /// The number of the connection that reports changes, or 0.
    connection: AtomicU64,
    /// When the last question was sent that was answered over it. Like all times here in nanoseconds since `start`.
    proved: AtomicU64,
    /// When a read was last sent early.
    sent_early: AtomicU64,
}

/// What came of a look for a key.
pub(super) enum Lookup {
    Hit(Entry),
    /// An entry, but its idle time has to be restarted.
    Due(Entry),
    Miss(FillToken),
}

/// The state before a question was sent: the answer is kept only if it is unchanged.
#[derive(Clone, Copy)]
pub(super) struct FillToken {
    hash: u64,
    connection: u64,
    changes: u64,
    sent: u64,
}

/// An answer of the server.
pub(super) struct Fetched {
    pub(super) entry: Entry,
    /// Milliseconds: the idle time, the end since the epoch, and what was left; negative where Redis knows of no end.
    pub(super) idle: u64,
    pub(super) end: u64,
    pub(super) left: i64,
}

impl FillToken {
    /// Whether this connection was the one that reports changes when the question was sent.
    pub(super) const fn is_of(&self, connection: u64) -> bool {
        self.connection == connection
    }
}

impl Fetched {
    /// Whether the last start of the idle time is at least `after` milliseconds ago.
    pub(super) fn is_due(&self, after: u64) -> bool {
        u64::try_from(self.left).map_or(true, |left| self.idle.saturating_sub(left) >= after)
    }
}

impl NearCache {
    pub(super) fn new(bytes: usize) -> Self {
        let count = (bytes / SMALLEST_SHARD).clamp(1, MOST_SHARDS);
        Self {
            shards: (0..count).map(|_| Mutex::new(Shard::new(bytes / count))).collect(),
            hasher: RandomState::new(),
            start: Instant::now(),
            connection: AtomicU64::new(0),
            proved: AtomicU64::new(0),
            sent_early: AtomicU64::new(0),
        }
    }

    /// From now on there is room for so many bytes.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn resize(&self, bytes: usize) {
        let each = bytes / self.shards.len();
        self.shards.iter().for_each(|shard| lock(shard).resize(each));
    }

    /// Looks for a live entry. With `after`, for one whose idle time was started less than so many milliseconds ago.
    pub(super) fn find(&self, key: &str, after: Option<u64>) -> Lookup {
        let hash = self.hash(key.as_bytes());
        let now = self.nanos(Instant::now());
        let serves = self.is_proved(now);
        let mut shard = self.shard(hash);
        // Read under the lock, so that what is emptied after it has changed is not served.
        let connection = self.connection.load(Ordering::Acquire);
        let token = FillToken { hash, connection, changes: shard.changes(hash), sent: now };
        if !serves || connection == 0 {
            return Lookup::Miss(token);
        }
        match shard.find(key.as_bytes()) {
            Some(item) if now < item.times.until && wall() < item.times.end => {
                item.used = true;
                let left = (item.times.until - now) / 1_000_000;
                let (idle, entry) = (item.times.idle, item.entry.clone());
                if after.is_some_and(|after| idle.saturating_sub(left) >= after) {
                    Lookup::Due(entry)
                } else {
                    Lookup::Hit(entry)
                }
            }
            _ => Lookup::Miss(token),
        }
    }

    /// The question was answered over the connection of that time, if it is still the one.
    pub(super) fn answered(&self, token: &FillToken) {
        if token.connection != 0 && self.connection.load(Ordering::Acquire) == token.connection {
            self.proved.fetch_max(token.sent, Ordering::AcqRel);
        }
    }

    /// Keeps what was found, if nothing has happened since the question.
    pub(super) fn fill(&self, token: &FillToken, key: &str, found: &Fetched) {
        // What was left when the server answered was left when the question was sent, and a little more.
        let Some(left) = u64::try_from(found.left).ok().and_then(|left| left.checked_mul(1_000_000)) else { return };
        let mut shard = self.shard(token.hash);
        if token.connection == 0
            || self.connection.load(Ordering::Acquire) != token.connection
            || shard.changes(token.hash) != token.changes
        {
            return;
        }
        let times = Times { idle: found.idle, end: found.end, until: token.sent.saturating_add(left) };
        let entry = found.entry.clone();
        shard.put(Item { key: key.as_bytes().into(), entry, times, used: false });
    }

    /// The value of the key has changed, or may have.
    pub(super) fn invalidate(&self, key: &[u8]) {
        let hash = self.hash(key);
        self.shard(hash).invalidate(hash, key);
    }

    /// Anything may have changed.
    pub(super) fn invalidate_all(&self) {
        self.shards.iter().for_each(|shard| lock(shard).invalidate_all());
    }

    /// From now on this connection reports changes. It has answered a question that was sent at `asked`.
    pub(super) fn begin(&self, connection: u64, asked: Instant) {
        self.connection.store(0, Ordering::Release);
        self.invalidate_all();
        self.proved.store(self.nanos(asked), Ordering::Release);
        self.connection.store(connection, Ordering::Release);
    }

    /// This connection reports changes no more.
    pub(super) fn end(&self, connection: u64) {
        if self.connection.compare_exchange(connection, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.invalidate_all();
        }
    }

    fn is_proved(&self, now: u64) -> bool {
        let age = Duration::from_nanos(now.saturating_sub(self.proved.load(Ordering::Acquire)));
        if age < EARLY {
            return true;
        }
        let before = self.sent_early.load(Ordering::Relaxed);
        let is_early = Duration::from_nanos(now.saturating_sub(before)) >= AGAIN
            && self.sent_early.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        age < BOUND && !is_early
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
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

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
