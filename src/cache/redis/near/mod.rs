//! What was read from Redis a short while ago, kept true by what Redis says about changes.
//!
//! All reads go over one connection, and Redis tells on this very connection when something changes that was read over it.
//! So answers and changes arrive in the order in which they happened, and three rules make a trustworthy cache of that:
//!
//! - An answer is kept only if no change of its key was told, and none made here, since the question was sent.
//! - With the connection everything goes that was read over it, before another one is made.
//! - Nothing is served when the last question that has been answered over it was sent longer than [`BOUND`] ago: what was
//!   told before that answer has arrived, and a connection that died silently answers nothing.
use std::{
    hash::BuildHasher,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

mod shelf;

use self::shelf::{Item, Shelf, Times};
use crate::{cache::Entry, clock::millis_since_epoch};

/// A connection that has proved nothing for this long may be dead.
pub(super) const BOUND: Duration = Duration::from_secs(1);
/// From here on one read at a time goes to the server to prove it, while the others are still served.
const EARLY: Duration = Duration::from_millis(500);
/// That read may have failed: then another one goes.
const AGAIN: Duration = Duration::from_millis(100);

/// More locks than requests that meet at one, less where each part would be small.
const MOST_SHELVES: usize = 16;
const SMALLEST_SHELF: usize = 256 * 1024;

pub(super) struct Near {
    shelves: Box<[Mutex<Shelf>]>,
    hasher: rapidhash::quality::RandomState,
    start: Instant,
    /// The number of the connection that tells of changes, or 0.
    connection: AtomicU64,
    /// When the last question was sent that was answered over it. Like all times here in nanoseconds since `start`.
    proved: AtomicU64,
    /// When a read was last sent early.
    sent_early: AtomicU64,
}

/// What is here under a key.
pub(super) enum Look {
    Hit(Entry),
    /// It is here, but its idle time has to be restarted.
    Due(Entry),
    Miss(Ticket),
}

/// What the near cache looked like before a question was sent.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    hash: u64,
    connection: u64,
    changes: u64,
    sent: u64,
}

/// An answer of the server.
pub(super) struct Found {
    pub(super) entry: Entry,
    /// Milliseconds: the idle time, the end since the epoch, and what was left; negative where Redis knows of no end.
    pub(super) idle: u64,
    pub(super) end: u64,
    pub(super) left: i64,
}

impl Found {
    /// Whether the last start of the idle time is at least `after` milliseconds ago.
    pub(super) fn is_due(&self, after: u64) -> bool {
        u64::try_from(self.left).map_or(true, |left| self.idle.saturating_sub(left) >= after)
    }
}

impl Near {
    pub(super) fn new(bytes: usize) -> Self {
        let count = (bytes / SMALLEST_SHELF).clamp(1, MOST_SHELVES);
        Self {
            shelves: (0..count).map(|_| Mutex::new(Shelf::new(bytes / count))).collect(),
            hasher: rapidhash::quality::RandomState::new(),
            start: Instant::now(),
            connection: AtomicU64::new(0),
            proved: AtomicU64::new(0),
            sent_early: AtomicU64::new(0),
        }
    }

    /// Looks for a live entry. With `after`, for one whose idle time was started less than so many milliseconds ago.
    pub(super) fn look(&self, key: &str, after: Option<u64>) -> Look {
        let hash = self.hash(key.as_bytes());
        let now = self.nanos(Instant::now());
        let serves = self.is_proved(now);
        let mut shelf = self.shelf(hash);
        // Read under the lock, so that what is emptied after it has changed is not served.
        let connection = self.connection.load(Ordering::Acquire);
        let ticket = Ticket { hash, connection, changes: shelf.changes(hash), sent: now };
        if !serves || connection == 0 {
            return Look::Miss(ticket);
        }
        match shelf.find(hash, key.as_bytes()) {
            Some(item) if now < item.times.until && wall() < item.times.end => {
                item.used = true;
                let left = (item.times.until - now) / 1_000_000;
                let (idle, entry) = (item.times.idle, item.entry.clone());
                if after.is_some_and(|after| idle.saturating_sub(left) >= after) {
                    Look::Due(entry)
                } else {
                    Look::Hit(entry)
                }
            }
            _ => Look::Miss(ticket),
        }
    }

    /// The question was answered over the connection of that time, if it is still the one.
    pub(super) fn answered(&self, ticket: &Ticket) {
        if ticket.connection != 0 && self.connection.load(Ordering::Acquire) == ticket.connection {
            self.proved.fetch_max(ticket.sent, Ordering::AcqRel);
        }
    }

    /// Keeps what was found, if nothing has happened since the question.
    pub(super) fn keep(&self, ticket: &Ticket, key: &str, found: &Found) {
        // What was left when the server answered was left when the question was sent, and a little more.
        let Some(left) = u64::try_from(found.left).ok().and_then(|left| left.checked_mul(1_000_000)) else { return };
        let mut shelf = self.shelf(ticket.hash);
        if ticket.connection == 0
            || self.connection.load(Ordering::Acquire) != ticket.connection
            || shelf.changes(ticket.hash) != ticket.changes
        {
            return;
        }
        let times = Times { idle: found.idle, end: found.end, until: ticket.sent.saturating_add(left) };
        let entry = found.entry.clone();
        shelf.put(Item { key: key.into(), hash: ticket.hash, entry, times, used: false });
    }

    /// Something under the key has changed, or may have.
    pub(super) fn change(&self, key: &[u8]) {
        let hash = self.hash(key);
        self.shelf(hash).change(hash, key);
    }

    /// Anything may have changed.
    pub(super) fn change_all(&self) {
        self.shelves.iter().for_each(|shelf| lock(shelf).change_all());
    }

    /// A write of ours begins: when what is returned is dropped, whatever came of it, the key has changed.
    pub(super) fn changing<'a>(&'a self, key: &'a str) -> Changing<'a> {
        Changing { near: self, key }
    }

    /// From now on this connection tells of changes. It has answered a question that was sent at `asked`.
    pub(super) fn begin(&self, connection: u64, asked: Instant) {
        self.connection.store(0, Ordering::Release);
        self.change_all();
        self.proved.store(self.nanos(asked), Ordering::Release);
        self.connection.store(connection, Ordering::Release);
    }

    /// This connection tells of changes no more.
    pub(super) fn end(&self, connection: u64) {
        if self.connection.compare_exchange(connection, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.change_all();
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

    fn shelf(&self, hash: u64) -> MutexGuard<'_, Shelf> {
        // By other bits than those that the table and the counts go by.
        let between = usize::try_from((hash >> 32) & 0xff_ffff).unwrap_or_default();
        #[allow(clippy::indexing_slicing, reason = "the remainder is less than the length, and there is one at least")]
        lock(&self.shelves[between % self.shelves.len()])
    }

    fn nanos(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// See [`Near::changing`].
pub(super) struct Changing<'a> {
    near: &'a Near,
    key: &'a str,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.near.change(self.key.as_bytes());
    }
}

fn wall() -> u64 {
    millis_since_epoch(std::time::SystemTime::now())
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
