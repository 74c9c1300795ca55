//! The lists of one shard: their members by name and in the order in which they end. Every caller holds the shard's lock.
use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use super::{
    deadlines::NEVER,
    usage::{Lacking, Usage},
};

/// What a list takes beside its name, and a member beside its own: their places in a table and in an order, the counts of
/// their allocations and the allocator's share.
pub(super) const OVERHEAD: usize = 224;

pub(super) struct Lists {
    lists: HashMap<Arc<str>, List>,
    /// Every list at the time at which its first member ends.
    due: BTreeSet<(u64, Arc<str>)>,
}

#[derive(Default)]
struct List {
    /// Name → end, in milliseconds since the epoch.
    ends: HashMap<Arc<str>, u64>,
    order: BTreeSet<(u64, Arc<str>)>,
}

impl List {
    fn first_end(&self) -> Option<u64> {
        self.order.first().map(|(end, _)| *end)
    }

    /// Drops up to `most` members that have ended, and returns how many.
    fn drop_ended(&mut self, now: u64, most: usize, usage: &Usage) -> usize {
        let mut dropped = 0;
        while dropped < most
            && self.first_end().is_some_and(|end| end <= now)
            && let Some((_, name)) = self.order.pop_first()
        {
            self.ends.remove(&name);
            usage.release(0, cost(&name));
            dropped += 1;
        }
        if self.ends.capacity() > 32 * self.ends.len() + 64 {
            self.ends.shrink_to(2 * self.ends.len());
        }
        dropped
    }
}

impl Lists {
    pub(super) fn new() -> Self {
        Self { lists: HashMap::new(), due: BTreeSet::new() }
    }

    /// When the first member of all lists ends.
    pub(super) fn next_due(&self) -> u64 {
        self.due.first().map_or(NEVER, |(at, _)| *at)
    }

    /// Adds the member, or moves its end later. Returns how many members there are, those included whose end has passed
    /// and that no [`drop_ended`](Self::drop_ended) has removed. Up to `reserved` bytes are taken already.
    pub(super) fn add(
        &mut self,
        list: &str,
        member: &str,
        end: u64,
        reserved: usize,
        usage: &Usage,
    ) -> Result<usize, Lacking> {
        let known = self.lists.get_key_value(list).map(|(name, list)| (Arc::clone(name), list.first_end()));
        let is_new = known.as_ref().is_none_or(|(name, _)| !self.has(name, member));
        if is_new {
            let bytes = cost(member) + if known.is_none() { cost(list) } else { 0 };
            if bytes > reserved && !usage.reserve(0, bytes) {
                return Err(Lacking(bytes));
            }
            usage.release(0, reserved.saturating_sub(bytes));
        } else {
            usage.release(0, reserved);
        }
        let (name, before) = known.unwrap_or_else(|| (list.into(), None));
        let list = self.lists.entry(Arc::clone(&name)).or_default();
        match list.ends.get_key_value(member).map(|(name, end)| (Arc::clone(name), *end)) {
            None => {
                let member: Arc<str> = member.into();
                list.ends.insert(Arc::clone(&member), end);
                list.order.insert((end, member));
            }
            Some((member, earlier)) if earlier < end => {
                let key = (earlier, member);
                list.order.remove(&key);
                list.ends.insert(Arc::clone(&key.1), end);
                list.order.insert((end, key.1));
            }
            Some(_) => {}
        }
        let (count, first) = (list.ends.len(), list.first_end());
        self.requeue(&name, before, first);
        Ok(count)
    }

    pub(super) fn remove(&mut self, list: &str, members: &[String], usage: &Usage) {
        self.change(list, usage, |list| {
            for member in members {
                if let Some((name, end)) = list.ends.remove_entry(member.as_str()) {
                    list.order.remove(&(end, Arc::clone(&name)));
                    usage.release(0, cost(&name));
                }
            }
        });
    }

    /// Drops up to `most` members of the list that have ended, and returns how many.
    pub(super) fn drop_ended(&mut self, list: &str, now: u64, most: usize, usage: &Usage) -> usize {
        self.change(list, usage, |list| list.drop_ended(now, most, usage)).unwrap_or_default()
    }

    /// Up to `limit` members that end after `now`, and that come behind `after` in the order of ends and names.
    pub(super) fn page(&self, list: &str, after: Option<(u64, &str)>, now: u64, limit: usize) -> Vec<(u64, Arc<str>)> {
        let Some(list) = self.lists.get(list) else { return Vec::new() };
        let start = match after {
            Some((end, name)) if end > now => Excluded((end, Arc::from(name))),
            _ => Included((now.saturating_add(1), Arc::from(""))),
        };
        list.order.range((start, Unbounded)).take(limit).cloned().collect()
    }

    /// Drops up to `most` members that have ended, of whatever list, and returns how many.
    pub(super) fn sweep(&mut self, now: u64, most: usize, usage: &Usage) -> usize {
        let mut dropped = 0;
        while dropped < most && self.next_due() <= now {
            let Some(name) = self.due.first().map(|(_, name)| Arc::clone(name)) else { break };
            dropped += self.drop_ended(&name, now, most - dropped, usage).max(1);
        }
        dropped
    }

    /// How many members the list has, those included whose end has passed.
    pub(super) fn len(&self, list: &str) -> usize {
        self.lists.get(list).map_or(0, |list| list.ends.len())
    }

    fn has(&self, list: &str, member: &str) -> bool {
        self.lists.get(list).is_some_and(|list| list.ends.contains_key(member))
    }

    /// Changes the list, if it is there, and keeps the order of the lists; one that is empty then is removed.
    fn change<T>(&mut self, list: &str, usage: &Usage, change: impl FnOnce(&mut List) -> T) -> Option<T> {
        let name = Arc::clone(self.lists.get_key_value(list)?.0);
        let list = self.lists.get_mut(&name)?;
        let before = list.first_end();
        let answer = change(list);
        let after = list.first_end();
        if after.is_none() {
            self.lists.remove(&name);
            usage.release(0, cost(&name));
            if self.lists.capacity() > 32 * self.lists.len() + 64 {
                self.lists.shrink_to(2 * self.lists.len());
            }
        }
        self.requeue(&name, before, after);
        Some(answer)
    }

    fn requeue(&mut self, list: &Arc<str>, before: Option<u64>, after: Option<u64>) {
        if before != after {
            if let Some(before) = before {
                self.due.remove(&(before, Arc::clone(list)));
            }
            if let Some(after) = after {
                self.due.insert((after, Arc::clone(list)));
            }
        }
    }
}

fn cost(name: &str) -> usize {
    name.len() + OVERHEAD
}
