//! The cache of one process: each of its operations waits until the search lets it through.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    future::{Future, poll_fn},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, SystemTime},
};

use cloakroom::{
    Cache, CacheError, CacheErrorKind, Deleted, Entry, Expiry, InMemoryCache, ListMember, Replaced, Value, Version,
};

use super::scenario::{OWNER, OperationOutcome};

/// One process, as its operations on the cache are let through one at a time.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) arrived: usize,
    pub(super) outcomes: Vec<OperationOutcome>,
    /// What it did and was told so far.
    pub(super) heard: u64,
    pub(super) is_read: BTreeMap<usize, bool>,
}

#[derive(Clone)]
pub(super) struct Gated {
    pub(super) inner: InMemoryCache,
    pub(super) number: usize,
    pub(super) gate: Arc<Mutex<Gate>>,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) revokes: bool,
}

#[derive(Default)]
pub(super) struct Shared {
    /// When the run began, in milliseconds since the epoch.
    pub(super) start: u64,
    pub(super) keys: BTreeSet<String>,
    /// Which write a version stands for: of which process, and its how many-th operation.
    pub(super) versions: HashMap<u64, (usize, usize)>,
    /// The text of each version that was seen.
    pub(super) texts: HashMap<u64, String>,
    /// The logins of the sessions that were on the list as the owner's when `revoke_all` began.
    pub(super) doomed: Option<BTreeSet<u64>>,
}

impl Gated {
    async fn run<T>(
        &self,
        what: &str,
        key: &str,
        reads: bool,
        writes: Option<Version>,
        work: impl Future<Output = Result<T, CacheError>>,
        canon: impl Fn(&T) -> String,
    ) -> Result<T, CacheError> {
        let ticket = {
            let mut gate = self.gate.lock().unwrap();
            let ticket = gate.arrived;
            gate.arrived += 1;
            gate.is_read.insert(ticket, reads);
            let mut shared = self.shared.lock().unwrap();
            shared.keys.insert(key.to_owned());
            if let Some(version) = writes {
                shared.versions.insert(version.into(), (self.number, ticket));
            }
            ticket
        };
        let outcome = poll_fn(|_| match self.gate.lock().unwrap().outcomes.get(ticket) {
            Some(outcome) => Poll::Ready(*outcome),
            None => Poll::Pending,
        })
        .await;
        let result = match outcome {
            OperationOutcome::Refused => Err(CacheError::new(CacheErrorKind::Unavailable, "refused")),
            _ => work.await,
        };
        let result = match outcome {
            OperationOutcome::Lost => Err(CacheError::new(CacheErrorKind::Timeout, "lost")),
            _ => result,
        };
        let mut gate = self.gate.lock().unwrap();
        let answer = result.as_ref().map_or_else(|error| format!("{:?}", error.kind()), canon);
        gate.heard = digest(&(gate.heard, what, key, answer));
        result
    }

    fn canon(&self, entry: &Entry) -> String {
        self.shared.lock().unwrap().canon(entry)
    }

    /// The logins of those of these members that are live and the owner's, and not on the way there from another's session.
    async fn stamps(&self, members: &[ListMember]) -> BTreeSet<u64> {
        let mut stamps = BTreeSet::new();
        for member in members {
            if let Some(record) = record(&self.inner, &member.name).await
                && record["o"] == OWNER
                && !self.is_in_the_making(&record).await
            {
                stamps.insert(self.shared.lock().unwrap().login(&record));
            }
        }
        stamps
    }

    async fn is_in_the_making(&self, found: &Value) -> bool {
        let Some(prev) = found["b"]["k"].as_str() else { return false };
        record(&self.inner, prev).await.is_some_and(|prev| prev["n"].is_null() && prev["o"] != OWNER)
    }
}

impl Shared {
    /// A time as its minute: clocks go on while a run does, and differ by minutes.
    fn minute(&self, time: u64) -> u64 {
        (time.saturating_sub(self.start) + 30_000) / 60_000
    }

    /// The minute of the login of a record.
    pub(super) fn login(&self, record: &Value) -> u64 {
        self.minute(record["s"]["at"].as_u64().unwrap())
    }

    /// An entry without what is another one in each run. Its version stands for its text.
    pub(super) fn canon(&mut self, entry: &Entry) -> String {
        let version = entry.version.into();
        if let Some(text) = self.texts.get(&version) {
            return text.clone();
        }
        let text = self.canonical(entry);
        self.texts.insert(version, text.clone());
        text
    }

    fn canonical(&self, entry: &Entry) -> String {
        let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
        for name in ["c", "e", "g", "a", "w", "t"] {
            if let Some(time) = record[name].as_u64() {
                record[name] = self.minute(time).into();
            }
        }
        if record["s"].is_object() {
            record["s"] = self.login(&record).into();
        }
        if record["b"].is_object() {
            record["b"]["m"] = self.minute(record["b"]["m"].as_u64().unwrap()).into();
        }
        format!("{record} {:?}", self.versions.get(&entry.version.into()))
    }
}

pub(super) fn digest(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

impl Cache for Gated {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        let canon = |found: &Option<Entry>| found.as_ref().map_or(String::new(), |entry| self.canon(entry));
        self.run("get", key, true, None, self.inner.get(key), canon).await
    }
    async fn get_and_touch(&self, key: &str, _: Duration) -> Result<Option<Entry>, CacheError> {
        self.get(key).await
    }
    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let version = Some(entry.version);
        self.run("insert", key, false, version, self.inner.insert(key, entry, expiry), bool::to_string).await
    }
    async fn replace(&self, key: &str, old: Version, entry: Entry, expiry: Expiry) -> Result<Replaced, CacheError> {
        let version = Some(entry.version);
        let canon = |replaced: &Replaced| match replaced {
            Replaced::Conflict(found) => self.canon(found),
            other => format!("{other:?}"),
        };
        self.run("replace", key, false, version, self.inner.replace(key, old, entry, expiry), canon).await
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.run("touch", key, true, None, self.inner.touch(key), bool::to_string).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        let canon = |deleted: &Deleted| match deleted {
            Deleted::Conflict(found) => self.canon(found),
            other => format!("{other:?}"),
        };
        self.run("delete", key, false, None, self.inner.delete(key, expected), canon).await
    }
    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        let work = self.inner.list_add(list, member, end);
        self.run("add", member, false, None, work, usize::to_string).await
    }
    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        let mut names = members.to_vec();
        names.sort();
        let work = self.inner.list_remove(list, members);
        self.run("remove", &names.join(" "), false, None, work, |()| String::new()).await
    }
    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        let canon =
            |page: &Vec<ListMember>| page.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(" ");
        let work = async {
            let page = self.inner.list_page(list, after, limit).await;
            if self.revokes && self.shared.lock().unwrap().doomed.is_none() {
                let doomed = self.stamps(page.as_ref().unwrap()).await;
                self.shared.lock().unwrap().doomed = Some(doomed);
            }
            page
        };
        self.run("page", list, true, None, work, canon).await
    }
}

pub(super) async fn record(cache: &InMemoryCache, key: &str) -> Option<Value> {
    let entry = cache.get(&format!("cloakroom:{key}")).await.unwrap()?;
    serde_json::from_slice(&entry.value).ok()
}
