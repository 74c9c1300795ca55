//! A cache for tests: it counts its calls, fails, loses replies and holds operations on demand.
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::Semaphore;

use crate::{
    cache::{Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version},
    error::{CacheError, CacheErrorKind},
};

/// An operation of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Operation {
    /// [`Cache::get`]
    Get,
    /// [`Cache::get_and_touch`]
    GetAndTouch,
    /// [`Cache::insert`]
    Insert,
    /// [`Cache::replace`]
    Replace,
    /// [`Cache::touch`]
    Touch,
    /// [`Cache::delete`]
    Delete,
    /// [`Cache::list_add`], [`Cache::list_remove`] and [`Cache::list_page`]
    List,
    /// [`Cache::ping`]
    Ping,
}

/// How many calls a [`TestCache`] has had, by operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls(HashMap<Operation, usize>);

impl Calls {
    /// Calls of one operation.
    #[must_use]
    pub fn of(&self, operation: Operation) -> usize {
        self.0.get(&operation).copied().unwrap_or_default()
    }

    /// Calls of all operations.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }
}

/// A cache around another one that counts its calls, fails and waits on demand. Clones are the same cache.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), cloakroom::SessionError> {
/// use cloakroom::{CacheErrorKind, InMemoryCache, Session, SessionStore, testing::{Operation, TestCache}};
///
/// let cache = TestCache::new(InMemoryCache::new());
/// let store = SessionStore::new(cache.clone());
/// let id = store.save(&Session::new()).await?;
///
/// cache.fail_once(Operation::Get, CacheErrorKind::Unavailable);
/// assert!(store.load(&id).await.is_err());
/// assert!(store.load(&id).await?.is_some());
/// assert_eq!(cache.calls().of(Operation::Get), 2);
/// # Ok(()) }
/// ```
pub struct TestCache<C> {
    inner: Arc<C>,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    calls: Calls,
    always: HashMap<Operation, CacheErrorKind>,
    once: HashMap<Operation, VecDeque<Fault>>,
    gates: HashMap<Operation, VecDeque<Gate>>,
    yields: bool,
}

#[derive(Clone, Copy)]
enum Fault {
    /// Fails, and nothing is done.
    Before(CacheErrorKind),
    /// Is done, and the answer is lost.
    LostReply,
}

/// Holds one call of an operation until it is opened: see [`TestCache::hold`].
#[derive(Clone, Debug)]
pub struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until the call is there.
    pub async fn arrived(&self) {
        let _ = self.arrived.acquire().await;
    }

    /// Lets the call go on.
    pub fn open(&self) {
        self.open.add_permits(1);
    }

    async fn pass(&self) {
        self.arrived.add_permits(1);
        let _ = self.open.acquire().await;
    }
}

impl<C: Cache> TestCache<C> {
    /// A cache that does what `cache` does, until it is told otherwise.
    pub fn new(cache: C) -> Self {
        Self { inner: Arc::new(cache), plan: Arc::default() }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cache inside.
    pub fn inner(&self) -> &C {
        &self.inner
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.plan().calls.clone()
    }

    /// Counts from zero again.
    pub fn reset_calls(&self) {
        self.plan().calls = Calls::default();
    }

    /// From now on, this operation fails and does nothing, until [`heal`](Self::heal).
    pub fn fail(&self, operation: Operation, kind: CacheErrorKind) {
        self.plan().always.insert(operation, kind);
    }

    /// From now on, every operation fails: the cache is down, until [`heal`](Self::heal).
    pub fn fail_all(&self, kind: CacheErrorKind) {
        use Operation::{Delete, Get, GetAndTouch, Insert, List, Ping, Replace, Touch};
        for operation in [Get, GetAndTouch, Insert, Replace, Touch, Delete, List, Ping] {
            self.fail(operation, kind);
        }
    }

    /// The next call of this operation fails and does nothing. Repeated calls queue up.
    pub fn fail_once(&self, operation: Operation, kind: CacheErrorKind) {
        self.plan().once.entry(operation).or_default().push_back(Fault::Before(kind));
    }

    /// The next call of this operation is done, but its caller gets a [`Timeout`](CacheErrorKind::Timeout).
    pub fn lose_reply(&self, operation: Operation) {
        self.plan().once.entry(operation).or_default().push_back(Fault::LostReply);
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.always.clear();
        plan.once.clear();
    }

    /// The next call of this operation waits, before it does anything, until the gate is opened.
    pub fn hold(&self, operation: Operation) -> Gate {
        let gate = Gate::new();
        self.plan().gates.entry(operation).or_default().push_back(gate.clone());
        gate
    }

    /// Whether every operation yields before and after it is done, so that a scheduler can run others in between.
    pub fn yield_always(&self, yields: bool) {
        self.plan().yields = yields;
    }

    async fn run<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, CacheError>>,
    ) -> Result<T, CacheError> {
        let (gate, fault, yields) = {
            let mut plan = self.plan();
            *plan.calls.0.entry(operation).or_default() += 1;
            let gate = plan.gates.get_mut(&operation).and_then(VecDeque::pop_front);
            let once = plan.once.get_mut(&operation).and_then(VecDeque::pop_front);
            let always = || plan.always.get(&operation).map(|kind| Fault::Before(*kind));
            let fault = once.or_else(always);
            (gate, fault, plan.yields)
        };
        if let Some(gate) = gate {
            gate.pass().await;
        }
        if yields {
            tokio::task::yield_now().await;
        }
        if let Some(Fault::Before(kind)) = fault {
            return Err(CacheError::new(kind, "the test double fails on demand"));
        }
        let result = work.await;
        if yields {
            tokio::task::yield_now().await;
        }
        match fault {
            Some(Fault::LostReply) => Err(CacheError::new(CacheErrorKind::Timeout, "the test lost the reply")),
            _ => result,
        }
    }
}

impl<C: Cache> Cache for TestCache<C> {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        self.run(Operation::Get, self.inner.get(key)).await
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        self.run(Operation::GetAndTouch, self.inner.get_and_touch(key, after)).await
    }
    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        self.run(Operation::Insert, self.inner.insert(key, entry, expiry)).await
    }
    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        self.run(Operation::Replace, self.inner.replace(key, expected, entry, expiry)).await
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.run(Operation::Touch, self.inner.touch(key)).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        self.run(Operation::Delete, self.inner.delete(key, expected)).await
    }
    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        self.run(Operation::List, self.inner.list_add(list, member, end)).await
    }
    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        self.run(Operation::List, self.inner.list_remove(list, members)).await
    }
    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        self.run(Operation::List, self.inner.list_page(list, after, limit)).await
    }
    async fn ping(&self) -> Result<(), CacheError> {
        self.run(Operation::Ping, self.inner.ping()).await
    }
}

impl<C> Clone for TestCache<C> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), plan: Arc::clone(&self.plan) }
    }
}

impl<C> fmt::Debug for TestCache<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCache").finish_non_exhaustive()
    }
}
