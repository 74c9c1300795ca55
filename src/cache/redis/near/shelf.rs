//! A part of the near cache: entries up to a number of bytes, and how often something under their keys changed.
use hashbrown::HashTable;

use crate::cache::Entry;

/// What an entry costs beside its key and its value: its place in both tables, with what they keep free, and the
/// allocations' own share.
pub(super) const OVERHEAD: usize = 256;
/// Keys share a count of changes: two that do are read once more than they had to be, now and then.
const COUNTS: usize = 64;

pub(super) struct Shelf {
    /// Where in `items` each is.
    table: HashTable<usize>,
    items: Vec<Item>,
    /// The next one to be thrown out, unless it was read since the hand came by.
    hand: usize,
    bytes: usize,
    most: usize,
    changes: [u64; COUNTS],
    /// Changes of all keys at once.
    of_all: u64,
}

pub(super) struct Item {
    pub(super) key: Box<str>,
    pub(super) hash: u64,
    pub(super) entry: Entry,
    pub(super) times: Times,
    /// Read since it was put here, or since it was to be thrown out.
    pub(super) used: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Milliseconds that it lives on from each restart of its idle time.
    pub(super) idle: u64,
    /// Milliseconds since the epoch.
    pub(super) end: u64,
    /// Nanoseconds on the clock of the near cache.
    pub(super) until: u64,
}

impl Item {
    fn cost(&self) -> usize {
        self.key.len() + self.entry.value.len() + OVERHEAD
    }
}

impl Shelf {
    pub(super) fn new(most: usize) -> Self {
        let (table, items) = (HashTable::new(), Vec::new());
        Self { table, items, hand: 0, bytes: 0, most, changes: [0; COUNTS], of_all: 0 }
    }

    pub(super) fn find(&mut self, hash: u64, key: &[u8]) -> Option<&mut Item> {
        let at = self.position(hash, key)?;
        self.items.get_mut(at)
    }

    /// Changes with every change of the key.
    pub(super) fn changes(&self, hash: u64) -> u64 {
        self.of_all.wrapping_add(self.changes.get(count(hash)).copied().unwrap_or_default())
    }

    /// Something under the key changed.
    pub(super) fn change(&mut self, hash: u64, key: &[u8]) {
        if let Some(count) = self.changes.get_mut(count(hash)) {
            *count = count.wrapping_add(1);
        }
        if let Some(at) = self.position(hash, key) {
            self.remove(at);
        }
    }

    /// Everything may have changed.
    pub(super) fn change_all(&mut self) {
        self.of_all = self.of_all.wrapping_add(1);
        (self.table, self.items) = (HashTable::new(), Vec::new());
        (self.hand, self.bytes) = (0, 0);
    }

    /// Puts an entry in the place of the one with the same key, and throws out others until there is room.
    pub(super) fn put(&mut self, item: Item) {
        if let Some(at) = self.position(item.hash, item.key.as_bytes()) {
            self.remove(at);
        }
        let cost = item.cost();
        if cost > self.most {
            return;
        }
        while self.bytes + cost > self.most && !self.items.is_empty() {
            self.throw_out();
        }
        let (hash, at) = (item.hash, self.items.len());
        self.items.push(item);
        self.bytes += cost;
        let items = &self.items;
        self.table.insert_unique(hash, at, |at| items.get(*at).map_or(0, |item| item.hash));
    }

    #[cfg(test)]
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn throw_out(&mut self) {
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

    fn position(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let is = |at: &usize| self.items.get(*at).is_some_and(|item| item.hash == hash && item.key.as_bytes() == key);
        self.table.find(hash, is).copied()
    }

    /// Takes out what is at `at`, and moves the last one there.
    fn remove(&mut self, at: usize) {
        let Some(hash) = self.items.get(at).map(|item| item.hash) else { return };
        if let Ok(place) = self.table.find_entry(hash, |other| *other == at) {
            place.remove();
        }
        let gone = self.items.swap_remove(at);
        self.bytes -= gone.cost();
        let last = self.items.len();
        if let Some(moved) = self.items.get(at)
            && let Some(place) = self.table.find_mut(moved.hash, |other| *other == last)
        {
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
        let times = Times { idle: 1, end: 1, until: 1 };
        // Few different hashes, so that keys have to be told apart.
        Item { key: number.to_string().into(), hash: number % 5, entry, times, used: false }
    }

    fn version(shelf: &mut Shelf, number: u64) -> Option<u64> {
        let found = shelf.find(number % 5, number.to_string().as_bytes());
        found.map(|item| item.entry.version.into())
    }

    #[test]
    fn what_is_put_is_found_until_it_changes() {
        let mut shelf = Shelf::new(1 << 20);
        (0..100).for_each(|number| shelf.put(item(number)));
        for number in (0..100).step_by(3) {
            let before = shelf.changes(number % 5);
            shelf.change(number % 5, number.to_string().as_bytes());
            assert_ne!(shelf.changes(number % 5), before);
        }
        for number in 0..100 {
            assert_eq!(version(&mut shelf, number), (number % 3 != 0).then_some(number));
        }
        let before = shelf.changes(3);
        shelf.change_all();
        assert_ne!(shelf.changes(3), before);
        assert_eq!((version(&mut shelf, 1), shelf.bytes()), (None, 0));
    }

    #[test]
    fn a_key_that_is_not_there_changes_too() {
        let mut shelf = Shelf::new(1 << 20);
        let before = shelf.changes(1);
        shelf.change(1, b"absent");
        assert_ne!(shelf.changes(1), before);
    }

    #[test]
    fn the_bytes_have_a_bound_and_what_is_read_stays() {
        let mut shelf = Shelf::new(10 * item(100).cost());
        for number in 100..200 {
            shelf.put(item(number));
            assert!(shelf.bytes() <= shelf.most);
            if let Some(read) = shelf.find(0, b"100") {
                read.used = true;
            }
        }
        assert_eq!(shelf.items.len(), 10);
        assert_eq!(version(&mut shelf, 100), Some(100));
        // Those that came last are there.
        let old = (101..190).filter(|number| version(&mut shelf, *number).is_some()).count();
        assert_eq!(old, 0);
    }

    #[test]
    fn what_is_larger_than_all_is_not_kept_nor_what_it_would_replace() {
        let mut shelf = Shelf::new(item(1).cost());
        shelf.put(item(1));
        let mut large = item(1);
        large.entry.value = Bytes::from(vec![7; 101]);
        shelf.put(large);
        assert_eq!((version(&mut shelf, 1), shelf.bytes()), (None, 0));
    }
}
