//! A part of the near cache: entries up to a number of bytes, and how often something under their keys changed.
use std::{collections::HashMap, sync::Arc};

use crate::cache::Entry;

/// What an entry costs beside its key and its value: its places in the table and in the order, with what they keep free, and the
/// allocations' own share.
pub(super) const OVERHEAD: usize = 256;
/// Keys share a count of changes: two that do are read once more than they had to be, now and then.
const COUNTS: usize = 64;

pub(super) struct NearShard {
    /// Where in `items` each key is.
    places: HashMap<Arc<[u8]>, usize>,
    items: Vec<Item>,
    /// The next one to be evicted, unless it was read since the hand came by.
    hand: usize,
    bytes: usize,
    most: usize,
    changes: [u64; COUNTS],
    /// Changes of all keys at once.
    of_all: u64,
}

pub(super) struct Item {
    pub(super) key: Arc<[u8]>,
    pub(super) entry: Entry,
    pub(super) times: Times,
    /// Read since it was put here, or since its last turn to be evicted.
    pub(super) used: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Milliseconds that it lives on from each restart of its idle time.
    pub(super) idle: u64,
    /// Milliseconds since the epoch.
    pub(super) end: u64,
    /// When it was asked for, and when it ends; both in nanoseconds on the clock of the near cache.
    pub(super) sent: u64,
    pub(super) until: u64,
}

impl Item {
    fn cost(&self) -> usize {
        self.key.len() + self.entry.value.len() + OVERHEAD
    }
}

impl NearShard {
    pub(super) fn new(most: usize) -> Self {
        let (places, items) = (HashMap::new(), Vec::new());
        Self { places, items, hand: 0, bytes: 0, most, changes: [0; COUNTS], of_all: 0 }
    }

    pub(super) fn find(&mut self, key: &[u8]) -> Option<&mut Item> {
        let at = *self.places.get(key)?;
        self.items.get_mut(at)
    }

    /// Changes with every change of the key.
    pub(super) fn changes(&self, hash: u64) -> u64 {
        self.of_all.wrapping_add(self.changes.get(count(hash)).copied().unwrap_or_default())
    }

    /// Something under the key changed.
    pub(super) fn invalidate(&mut self, hash: u64, key: &[u8]) {
        if let Some(count) = self.changes.get_mut(count(hash)) {
            *count = count.wrapping_add(1);
        }
        if let Some(at) = self.places.get(key).copied() {
            self.remove(at);
        }
    }

    /// Everything may have changed.
    pub(super) fn invalidate_all(&mut self) {
        // Two, so that it is not taken for the one report of an own write.
        self.of_all = self.of_all.wrapping_add(2);
        (self.places, self.items) = (HashMap::new(), Vec::new());
        (self.hand, self.bytes) = (0, 0);
    }

    /// From now on there is room for so many bytes.
    #[cfg(feature = "redis-cluster")]
    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
        self.make_room(0);
    }

    /// Puts an entry in the place of the one with the same key, and evicts others until there is room.
    pub(super) fn put(&mut self, item: Item) {
        if let Some(at) = self.places.get(&item.key).copied() {
            self.remove(at);
        }
        let cost = item.cost();
        if cost > self.most {
            return;
        }
        self.make_room(cost);
        self.places.insert(Arc::clone(&item.key), self.items.len());
        self.items.push(item);
        self.bytes += cost;
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn make_room(&mut self, cost: usize) {
        while self.bytes + cost > self.most && !self.items.is_empty() {
            self.evict();
        }
    }

    fn evict(&mut self) {
        loop {
            // Past the last one, which is the newest.
            if self.hand + 1 >= self.items.len() {
                self.hand = 0;
            }
            match self.items.get_mut(self.hand) {
                Some(item) if item.used => {
                    item.used = false;
                    self.hand += 1;
                }
                Some(_) => {
                    self.remove(self.hand);
                    // The newest one has moved here: its turn is a round later.
                    self.hand += 1;
                    return;
                }
                None => return,
            }
        }
    }

    /// Takes out what is at `at`, and moves the last one there.
    fn remove(&mut self, at: usize) {
        if at >= self.items.len() {
            return;
        }
        let gone = self.items.swap_remove(at);
        self.places.remove(&gone.key);
        self.bytes -= gone.cost();
        if let Some(place) = self.items.get(at).and_then(|moved| self.places.get_mut(&moved.key)) {
            *place = at;
        }
    }
}

/// Which count of changes is that of the keys with this hash.
const fn count(hash: u64) -> usize {
    (hash & (COUNTS as u64 - 1)) as usize
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cache::Version;

    fn item(number: u64) -> Item {
        let entry = Entry { value: Bytes::from(vec![7; 100]), version: Version::from(number) };
        let times = Times { idle: 1, end: 1, sent: 0, until: 1 };
        Item { key: number.to_string().into_bytes().into(), entry, times, used: false }
    }

    fn version(shard: &mut NearShard, number: u64) -> Option<u64> {
        let found = shard.find(number.to_string().as_bytes());
        found.map(|item| item.entry.version.into())
    }

    #[test]
    fn what_is_put_is_found_until_it_changes() {
        let mut shard = NearShard::new(1 << 20);
        (0..100).for_each(|number| shard.put(item(number)));
        for number in (0..100).step_by(3) {
            let before = shard.changes(number % 5);
            shard.invalidate(number % 5, number.to_string().as_bytes());
            assert_ne!(shard.changes(number % 5), before);
        }
        for number in 0..100 {
            assert_eq!(version(&mut shard, number), (number % 3 != 0).then_some(number));
        }
        let before = shard.changes(3);
        shard.invalidate_all();
        assert_ne!(shard.changes(3), before);
        assert_eq!((version(&mut shard, 1), shard.bytes()), (None, 0));
    }

    #[test]
    fn a_key_that_is_not_there_changes_too() {
        let mut shard = NearShard::new(1 << 20);
        let before = shard.changes(1);
        shard.invalidate(1, b"absent");
        assert_ne!(shard.changes(1), before);
    }

    #[test]
    fn the_bytes_have_a_bound_and_what_is_read_stays() {
        let mut shard = NearShard::new(10 * item(100).cost());
        for number in 100..200 {
            shard.put(item(number));
            assert!(shard.bytes() <= shard.most);
            if let Some(read) = shard.find(b"100") {
                read.used = true;
            }
        }
        assert_eq!(shard.items.len(), 10);
        assert_eq!(version(&mut shard, 100), Some(100));
        // Those that came last are there.
        let old = (101..190).filter(|number| version(&mut shard, *number).is_some()).count();
        assert_eq!(old, 0);
    }

    #[test]
    fn what_is_larger_than_all_is_not_kept_nor_what_it_would_replace() {
        let mut shard = NearShard::new(item(1).cost());
        shard.put(item(1));
        let mut large = item(1);
        large.entry.value = Bytes::from(vec![7; 101]);
        shard.put(large);
        assert_eq!((version(&mut shard, 1), shard.bytes()), (None, 0));
    }
}
