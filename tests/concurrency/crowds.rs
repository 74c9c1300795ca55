//! Crowds that write one session and never pause, and conflicts that never end.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use cloakroom::{
    Cache, CacheError, Deleted, Entry, Expiry, InMemoryCache, Replaced, SessionError, SessionStore, Version,
};
use tokio::{sync::Barrier, task::JoinSet};

use crate::support::{
    six_methods::{SixMethods, Twist},
    web::{layer, live, peek, send, start, store},
};

/// A server some way off: two to six milliseconds there, and as many back, so that no two are in step.
type Far = SixMethods<InMemoryCache, Way>;

#[derive(Clone, Debug)]
struct Way;

impl Twist for Way {
    async fn before(&self, _: &str) {
        way().await;
    }
    async fn after(&self) {
        way().await;
    }
}

async fn way() {
    // The finalizer of splitmix64 over a counter.
    static WAYS: AtomicU64 = AtomicU64::new(0);
    let mut x = WAYS.fetch_add(1, Ordering::Relaxed).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    tokio::time::sleep(Duration::from_millis(2 + (x >> 33) % 5)).await;
}

/// Requests that go on writing until they are told to stop; `apart` as if in a process of their own.
fn crowd(store: &SessionStore<Far>, cache: &Far, cookie: &str, size: usize, apart: bool) -> (JoinSet<u32>, Stop) {
    let stop = Stop::default();
    let mut writers = JoinSet::new();
    let store = if apart { SessionStore::new(cache.clone()) } else { store.clone() };
    for _ in 0..size {
        let (layer, cookie, stop) = (layer(&store), cookie.to_owned(), stop.clone());
        writers.spawn(async move {
            let mut written = 0;
            while !stop.0.load(Ordering::Relaxed) {
                let reply = send(&layer, Some(&cookie), |session| async move {
                    if !session.is_new() {
                        session.update("n", |n: Option<u64>| n.unwrap_or_default() + 1).unwrap();
                    }
                    200
                })
                .await;
                written += u32::from(reply.status == 200);
            }
            written
        });
    }
    (writers, stop)
}

#[derive(Clone, Default)]
struct Stop(Arc<AtomicBool>);

/// How many of ten sessions end up as they should although others never stop writing to them.
async fn against_a_crowd(size: usize, apart: bool, login: bool) -> usize {
    let mut done = 0;
    for _ in 0..10 {
        let cache = Far { inner: InMemoryCache::new(), twist: Way };
        let store = SessionStore::new(cache.clone());
        let layer = layer(&store);
        let cookie = start(&layer, "alice").await;
        let (writers, stop) = crowd(&store, &cache, &cookie, size, apart);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let reply = send(&layer, Some(&cookie), move |session| async move {
            if login {
                session.renew();
            } else {
                session.destroy();
            }
            200
        })
        .await;
        stop.0.store(true, Ordering::Relaxed);
        writers.join_all().await;
        done += usize::from(reply.status == 200 && live(&store, "alice").await == usize::from(login));
    }
    done
}

/// Other holders of the cookie cannot hold up a logout by writing.
#[tokio::test(start_paused = true)]
async fn a_logout_gets_through_a_crowd_of_the_same_process() {
    let done = [
        against_a_crowd(1, false, false).await,
        against_a_crowd(2, false, false).await,
        against_a_crowd(8, false, false).await,
    ];
    assert_eq!(done, [10; 3], "of ten each, against 1, 2 and 8 writers");
}

#[tokio::test(start_paused = true)]
async fn a_logout_gets_through_a_crowd_of_another_process() {
    let done = [
        against_a_crowd(1, true, false).await,
        against_a_crowd(2, true, false).await,
        against_a_crowd(8, true, false).await,
    ];
    assert_eq!(done, [10; 3], "of ten each, against 1, 2 and 8 writers");
}

#[tokio::test(start_paused = true)]
async fn a_login_gets_through_a_crowd_of_the_same_process() {
    let done = [
        against_a_crowd(1, false, true).await,
        against_a_crowd(2, false, true).await,
        against_a_crowd(8, false, true).await,
    ];
    assert_eq!(done, [10; 3], "of ten each, against 1, 2 and 8 writers");
}

#[tokio::test(start_paused = true)]
async fn a_login_gets_through_a_crowd_of_another_process() {
    let done = [
        against_a_crowd(1, true, true).await,
        against_a_crowd(2, true, true).await,
        against_a_crowd(8, true, true).await,
    ];
    assert_eq!(done, [10; 3], "of ten each, against 1, 2 and 8 writers");
}

/// Another request is always faster.
struct AlwaysLate(InMemoryCache);

impl Cache for AlwaysLate {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        self.0.get(key).await
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        self.0.get_and_touch(key, after).await
    }
    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        self.0.insert(key, entry, expiry).await
    }
    async fn replace(&self, key: &str, _: Version, _: Entry, _: Expiry) -> Result<Replaced, CacheError> {
        let entry = self.0.get(key).await?;
        Ok(entry.map_or(Replaced::Missing, |entry| Replaced::Conflict(Entry { version: Version::unique(), ..entry })))
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.0.touch(key).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        self.0.delete(key, expected).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_that_lasts_until_the_deadline_is_a_503() {
    let store = SessionStore::new(AlwaysLate(InMemoryCache::new()));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    for renew in [false, true] {
        let begun = tokio::time::Instant::now();
        let reply = send(&layer, Some(&cookie), move |session| async move {
            session.set("n", 1).unwrap();
            if renew {
                session.renew();
            }
            200
        })
        .await;
        assert_eq!((reply.status, reply.cookie()), (503, None));
        assert!(begun.elapsed() <= Duration::from_millis(1100), "{:?}", begun.elapsed());
        assert_eq!(peek(&layer, &cookie, "n").await, Some(0));
    }
    let session = store.load(cookie.split_once('=').unwrap().1).await.unwrap().unwrap();
    session.set("n", 1).unwrap();
    assert!(matches!(session.commit().await, Err(SessionError::Conflict)));
}

#[tokio::test]
async fn a_crowd_of_one_process_costs_three_operations_each_at_most() {
    let (store, cache) = store(InMemoryCache::new());
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    cache.yield_always(true);
    cache.reset_calls();
    let together = Arc::new(Barrier::new(64));
    let mut requests = JoinSet::new();
    for n in 0..64 {
        let (layer, cookie, together) = (layer.clone(), cookie.clone(), together.clone());
        requests.spawn(async move {
            send(&layer, Some(&cookie), move |session| {
                let together = together.clone();
                async move {
                    session.set(format!("key {n}"), n).unwrap();
                    together.wait().await;
                    200
                }
            })
            .await
        });
    }
    assert!(requests.join_all().await.iter().all(|reply| reply.status == 200));
    let calls = cache.calls();
    println!("{:.2} operations each: {calls:?}", calls.total() as f64 / 64.0);
    assert!(calls.total() <= 3 * 64, "{calls:?}");
}
