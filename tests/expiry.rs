//! Idle time, lifetime and refresh policies: what each operation does to the time that is left, and what it costs.
#![cfg(feature = "testing")]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use cloakroom::{
    Bytes, Cache, CacheError, Clock, Deleted, Entry, Expiry, InMemoryCache, Refresh, Replaced, Session, SessionError,
    SessionLayer, SessionStore, Version,
    testing::{Operation, TestCache},
};
use http::header;

#[cfg(feature = "redis")]
#[path = "common/redis_server.rs"]
mod redis_server;
#[path = "common/web.rs"]
mod web;

use web::{Reply, peek, send};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const POLICIES: [Refresh; 3] = [Refresh::OnWrite, Refresh::OnLoad, Refresh::OnLoadEvery(MINUTE)];

type Counted = TestCache<InMemoryCache>;

struct Trial {
    clock: Clock,
    cache: Counted,
    store: SessionStore<Counted>,
    layer: SessionLayer<Counted>,
}

/// Ten minutes of idle time, an hour in all.
fn trial(refresh: Refresh) -> Trial {
    let clock = Clock::turnable();
    let cache = TestCache::new(InMemoryCache::builder().clock(clock.clone()).build());
    let store = SessionStore::new(cache.clone()).clock(clock.clone()).ttl(10 * MINUTE).max_lifetime(HOUR);
    let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
    Trial { clock, cache, store, layer }
}

type Act = fn(&Session);

fn read(session: &Session) {
    let _ = session.get::<u64>("n");
}

fn write(session: &Session) {
    if !session.is_new() {
        session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
    }
}

fn touch(session: &Session) {
    session.touch();
}

fn renew(session: &Session) {
    session.renew();
}

async fn act<C: Cache>(layer: &SessionLayer<C>, cookie: Option<&str>, act: Act) -> Reply {
    send(layer, cookie, move |session| {
        act(&session);
        std::future::ready(200)
    })
    .await
}

/// A stored session with `n` = 0, as a cookie.
async fn begin<C: Cache>(layer: &SessionLayer<C>) -> String {
    act(layer, None, |session| session.set("n", 0).unwrap()).await.cookie().unwrap()
}

fn id(cookie: &str) -> &str {
    cookie.split_once('=').unwrap().1
}

/// Looks without refreshing anything, whatever the layer's policy is.
async fn lives<C: Cache>(store: &SessionStore<C>, cookie: &str) -> bool {
    store.load(id(cookie)).await.unwrap().is_some()
}

fn max_age(reply: &Reply) -> Option<u64> {
    let text = reply.headers.get(header::SET_COOKIE)?.to_str().unwrap();
    Some(text.split("; ").find_map(|part| part.strip_prefix("Max-Age="))?.parse().unwrap())
}

#[tokio::test]
async fn what_restarts_the_idle_time_and_what_does_not() {
    let every = Refresh::OnLoadEvery(5 * MINUTE);
    let rows: [(Refresh, u32, Act, bool); 11] = [
        (Refresh::OnWrite, 9, read, false),
        (Refresh::OnWrite, 9, write, true),
        (Refresh::OnWrite, 9, touch, true),
        (Refresh::OnWrite, 9, renew, true),
        (Refresh::OnLoad, 9, read, true),
        (Refresh::OnLoad, 1, read, true),
        (every, 9, read, true),
        (every, 5, read, true),
        (every, 4, read, false),
        (every, 4, write, true),
        (every, 4, touch, true),
    ];
    for (row, (refresh, after, does, restarts)) in rows.into_iter().enumerate() {
        let trial = trial(refresh);
        let cookie = begin(&trial.layer).await;
        trial.clock.advance(after * MINUTE);
        let cookie = act(&trial.layer, Some(&cookie), does).await.cookie().unwrap_or(cookie);
        // Ten minutes after the start, and ten minutes after this.
        trial.clock.advance((10 - after) * MINUTE);
        assert_eq!(lives(&trial.store, &cookie).await, restarts, "row {row}");
        trial.clock.advance(after * MINUTE - 2 * SECOND);
        assert_eq!(lives(&trial.store, &cookie).await, restarts, "row {row}");
        trial.clock.advance(2 * SECOND);
        assert!(!lives(&trial.store, &cookie).await, "row {row}");
    }
}

#[tokio::test]
async fn nothing_extends_the_lifetime() {
    let acts: [(&str, Act); 7] = [
        ("read", read),
        ("write", write),
        ("touch", touch),
        ("renew", renew),
        ("write and renew", |session| {
            write(session);
            session.renew();
        }),
        ("set_ttl", |session| session.set_ttl(30 * DAY).unwrap()),
        ("clear", |session| {
            session.set("n", 1).unwrap();
            session.clear();
            session.touch();
        }),
    ];
    for refresh in POLICIES {
        for (name, does) in acts {
            let trial = trial(refresh);
            // The idle time must not be what ends it.
            let cookie = act(&trial.layer, None, |session| session.set_ttl(DAY).unwrap()).await.cookie();
            assert_eq!(cookie, None, "an empty session is not stored");
            let first = |session: &Session| {
                session.set("n", 0).unwrap();
                session.set_ttl(DAY).unwrap();
            };
            let mut cookie = act(&trial.layer, None, first).await.cookie().unwrap();
            for _ in 0..11 {
                trial.clock.advance(5 * MINUTE);
                cookie = act(&trial.layer, Some(&cookie), does).await.cookie().unwrap_or(cookie);
                trial.store.touch(id(&cookie)).await.unwrap();
                let handle = trial.store.load(id(&cookie)).await.unwrap().unwrap();
                handle.set("m", 1).unwrap();
                handle.commit().await.unwrap();
                trial.store.save_with_id(id(&cookie), &handle).await.unwrap();
            }
            trial.clock.advance(5 * MINUTE - 5 * SECOND);
            assert!(lives(&trial.store, &cookie).await, "{name}, {refresh:?}");
            trial.clock.advance(5 * SECOND);
            assert!(!lives(&trial.store, &cookie).await, "{name}, {refresh:?}");
            assert!(!trial.store.touch(id(&cookie)).await.unwrap(), "{name}, {refresh:?}");
            assert_eq!(act(&trial.layer, Some(&cookie), write).await.cookie(), None, "{name}, {refresh:?}");
        }
    }
}

#[tokio::test]
async fn what_each_policy_costs() {
    use Operation::{Get, GetAndTouch, Replace, Touch};
    for refresh in POLICIES {
        let load = if refresh == Refresh::OnWrite { Get } else { GetAndTouch };
        let trial = trial(refresh);
        let rows: [(&str, Act, &[Operation]); 6] = [
            ("read", read, &[load]),
            ("write", write, &[load, Replace]),
            ("touch", touch, &[load, Touch]),
            ("touch twice", |session| [(); 2].iter().for_each(|()| session.touch()), &[load, Touch]),
            (
                "touch and write",
                |session| {
                    session.touch();
                    write(session);
                    session.touch();
                },
                &[load, Replace],
            ),
            ("the same value again", |session| session.set("m", 1).unwrap(), &[load]),
        ];
        for (name, does, costs) in rows {
            let with_m = |session: &Session| session.set("m", 1).unwrap();
            let cookie = act(&trial.layer, None, with_m).await.cookie().unwrap();
            // Due or not: the price is the same.
            for minutes in [0, 2] {
                trial.clock.advance(minutes * MINUTE);
                trial.cache.reset_calls();
                act(&trial.layer, Some(&cookie), does).await;
                let calls = trial.cache.calls();
                for operation in costs {
                    assert_eq!(calls.of(*operation), 1, "{name}, {refresh:?}: {calls:?}");
                }
                assert_eq!(calls.total(), costs.len(), "{name}, {refresh:?}: {calls:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_refresh_creates_nothing_and_rewrites_nothing() {
    for refresh in POLICIES {
        let trial = trial(refresh);
        let unknown = format!("__Host-id={}", "A".repeat(32));
        for cookie in [None, Some("__Host-id=malformed"), Some(&*unknown)] {
            assert_eq!(act(&trial.layer, cookie, touch).await.cookie(), None);
            assert_eq!(trial.cache.inner().len(), 0);
        }
        let cookie = begin(&trial.layer).await;
        let key = trial.store.load(id(&cookie)).await.unwrap().unwrap().key().unwrap();
        let key = format!("cloakroom:{key}");
        let before = trial.cache.inner().get(&key).await.unwrap().unwrap();
        for does in [read as Act, touch] {
            trial.clock.advance(5 * MINUTE);
            act(&trial.layer, Some(&cookie), does).await;
            assert!(trial.store.touch(id(&cookie)).await.unwrap());
            let after = trial.cache.inner().get(&key).await.unwrap().unwrap();
            assert!(after == before, "same bytes, same version");
        }
        // A tombstone and an ended session are touched by nothing.
        let renewed = act(&trial.layer, Some(&cookie), renew).await.cookie().unwrap();
        assert!(!trial.store.touch(id(&cookie)).await.unwrap(), "a tombstone");
        trial.store.destroy(id(&renewed)).await.unwrap();
        let entries = trial.cache.inner().len();
        act(&trial.layer, Some(&renewed), touch).await;
        assert!(!trial.store.touch(id(&renewed)).await.unwrap());
        assert_eq!(trial.cache.inner().len(), entries);
    }
}

#[tokio::test]
async fn a_session_that_ends_while_it_is_touched_stays_ended() {
    let trial = trial(Refresh::OnWrite);
    let cookie = begin(&trial.layer).await;
    let (store, sent) = (trial.store.clone(), cookie.clone());
    let reply = send(&trial.layer, Some(&cookie), move |session| {
        let (store, sent) = (store.clone(), sent.clone());
        async move {
            session.touch();
            store.destroy(id(&sent)).await.unwrap();
            200
        }
    })
    .await;
    assert_eq!((reply.status, reply.cookie()), (200, None));
    assert_eq!(trial.cache.inner().len(), 0);
    // And one whose time passes in the handler.
    let cookie = begin(&trial.layer).await;
    let clock = trial.clock.clone();
    let reply = send(&trial.layer, Some(&cookie), move |session| {
        session.touch();
        session.set("n", 5).unwrap();
        clock.advance(11 * MINUTE);
        std::future::ready(200)
    })
    .await;
    assert_eq!((reply.status, reply.cookie()), (200, None));
    assert!(!lives(&trial.store, &cookie).await);
}

#[tokio::test]
async fn a_ttl_of_its_own_holds_for_every_way_to_refresh() {
    for own in [2 * MINUTE, 30 * MINUTE] {
        let acts: [(Refresh, Act); 5] = [
            (Refresh::OnWrite, write),
            (Refresh::OnWrite, touch),
            (Refresh::OnWrite, renew),
            (Refresh::OnLoad, read),
            (Refresh::OnLoadEvery(SECOND), read),
        ];
        for (row, (refresh, does)) in acts.into_iter().enumerate() {
            let trial = trial(refresh);
            let cookie = begin(&trial.layer).await;
            let set: Act = if own == 2 * MINUTE {
                |session| session.set_ttl(2 * MINUTE).unwrap()
            } else {
                |session| session.set_ttl(30 * MINUTE).unwrap()
            };
            assert_eq!(act(&trial.layer, Some(&cookie), set).await.cookie(), None, "no matter of the cookie");
            trial.clock.advance(own - 10 * SECOND);
            let cookie = act(&trial.layer, Some(&cookie), does).await.cookie().unwrap_or(cookie);
            trial.clock.advance(own - 10 * SECOND);
            assert!(lives(&trial.store, &cookie).await, "row {row}, {own:?}");
            trial.clock.advance(10 * SECOND);
            assert!(!lives(&trial.store, &cookie).await, "row {row}, {own:?}");
        }
    }
}

#[tokio::test]
async fn a_lifetime_of_its_own_counts_from_the_creation_and_survives_renewal() {
    for does in [read as Act, write, touch, renew] {
        let trial = trial(Refresh::OnLoad);
        let cookie = begin(&trial.layer).await;
        let set = |session: &Session| {
            session.set_lifetime(3 * HOUR).unwrap();
            session.set_ttl(DAY).unwrap();
        };
        trial.clock.advance(9 * MINUTE);
        act(&trial.layer, Some(&cookie), set).await;
        trial.clock.advance(HOUR);
        let cookie = act(&trial.layer, Some(&cookie), does).await.cookie().unwrap_or(cookie);
        trial.clock.advance(HOUR);
        let cookie = act(&trial.layer, Some(&cookie), does).await.cookie().unwrap_or(cookie);
        trial.clock.advance(51 * MINUTE - 5 * SECOND);
        assert!(lives(&trial.store, &cookie).await);
        trial.clock.advance(5 * SECOND);
        assert!(!lives(&trial.store, &cookie).await);
    }
}

#[tokio::test]
async fn remember_me_is_honoured_by_later_requests_and_renewals() {
    for (persistent, own) in [(false, true), (true, false)] {
        let trial = trial(Refresh::OnWrite);
        let layer = SessionLayer::builder(trial.store.clone()).persistent(persistent).build().unwrap();
        let reply = act(&layer, None, |session| session.set("n", 0).unwrap()).await;
        assert_eq!(max_age(&reply).is_some(), persistent);
        let cookie = reply.cookie().unwrap();
        let set: Act = if own {
            |session| session.set_persistent(true).unwrap()
        } else {
            |session| session.set_persistent(false).unwrap()
        };
        let reply = act(&layer, Some(&cookie), set).await;
        assert_eq!((reply.cookie().as_deref(), max_age(&reply).is_some()), (Some(&*cookie), own));
        for does in [read as Act, write, touch, set] {
            assert_eq!(act(&layer, Some(&cookie), does).await.cookie(), None, "once is enough");
        }
        let reply = act(&layer, Some(&cookie), renew).await;
        assert_eq!(max_age(&reply).is_some(), own);
        let again = act(&layer, reply.cookie().as_deref(), renew).await;
        assert_eq!(max_age(&again).is_some(), own);
    }
}

/// Forgets to expire, and remembers what it was told last.
struct Careless {
    inner: InMemoryCache,
    told: Arc<Mutex<Option<Expiry>>>,
}

impl Careless {
    fn new() -> (Self, Arc<Mutex<Option<Expiry>>>) {
        let told = Arc::new(Mutex::new(None));
        (Self { inner: InMemoryCache::new(), told: told.clone() }, told)
    }

    fn hear(&self, expiry: Expiry) -> Expiry {
        *self.told.lock().unwrap() = Some(expiry);
        Expiry { idle: 1000 * DAY, end: SystemTime::now() + 1000 * DAY }
    }
}

impl Cache for Careless {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        self.inner.get(key).await
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        self.inner.get_and_touch(key, after).await
    }
    async fn insert(&self, key: &str, value: Bytes, expiry: Expiry) -> Result<Option<Version>, CacheError> {
        self.inner.insert(key, value, self.hear(expiry)).await
    }
    async fn replace(
        &self,
        key: &str,
        expected: Version,
        value: Bytes,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        self.inner.replace(key, expected, value, self.hear(expiry)).await
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.inner.touch(key).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        self.inner.delete(key, expected).await
    }
}

#[tokio::test]
async fn a_record_whose_lifetime_is_over_is_absent_though_the_cache_returns_it() {
    for refresh in POLICIES {
        let clock = Clock::turnable();
        let (cache, _) = Careless::new();
        let store = SessionStore::new(cache).clock(clock.clone()).max_lifetime(HOUR);
        let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
        let cookie = begin(&layer).await;
        clock.advance(HOUR - 5 * SECOND);
        assert!(lives(&store, &cookie).await);
        clock.advance(5 * SECOND);
        assert!(!lives(&store, &cookie).await);
        assert_eq!(peek(&layer, &cookie, "n").await, None);
        assert!(!store.touch(id(&cookie)).await.unwrap());
        for does in [write as Act, touch, renew, |session| session.clear(), |session| session.destroy()] {
            let reply = act(&layer, Some(&cookie), does).await;
            assert_eq!((reply.status, reply.cookie()), (200, None));
        }
        let reply = act(&layer, Some(&cookie), |session| session.set("n", 1).unwrap()).await;
        assert_ne!(reply.cookie().unwrap(), cookie, "a new session has a new ID");
        assert!(!lives(&store, &cookie).await);
    }
}

#[tokio::test]
async fn the_cookie_and_the_cache_are_told_the_same_end() {
    for (lifetime, seconds) in [(Some(2 * HOUR), 7200), (Some(400 * DAY), 34_560_000), (None, 3600)] {
        let clock = Clock::turnable();
        let (cache, told) = Careless::new();
        let store = SessionStore::new(cache).clock(clock.clone()).max_lifetime(HOUR).ttl(7 * DAY);
        let layer = SessionLayer::builder(store).persistent(true).build().unwrap();
        let agree = |reply: &Reply, seconds: u64| {
            let end = told.lock().unwrap().unwrap().end;
            let left = end.duration_since(clock.now()).unwrap().as_secs();
            let age = max_age(reply).unwrap();
            assert!(left.abs_diff(age) <= 1, "{left} s in the cache, {age} s in the cookie");
            assert!((seconds - 5..=seconds).contains(&age), "{age} s, not {seconds}");
        };
        let reply = send(&layer, None, move |session| {
            session.set("n", 0).unwrap();
            if let Some(lifetime) = lifetime {
                session.set_lifetime(lifetime).unwrap();
            }
            std::future::ready(200)
        })
        .await;
        agree(&reply, seconds);
        clock.advance(20 * MINUTE);
        let cookie = reply.cookie().unwrap();
        let reply = act(&layer, Some(&cookie), renew).await;
        // The last that the cache hears is the tombstone's expiry, which is no longer than an hour.
        let tombstone = told.lock().unwrap().unwrap().end.duration_since(clock.now()).unwrap();
        assert!(tombstone <= HOUR.min(Duration::from_secs(seconds) - 20 * MINUTE + SECOND), "{tombstone:?}");
        let age = max_age(&reply).unwrap();
        assert!((seconds - 1205..=seconds - 1200).contains(&age), "{age}");
        // A write tells the cache, and the browser's cookie still says the same.
        let cookie = reply.cookie().unwrap();
        assert_eq!(act(&layer, Some(&cookie), write).await.cookie(), None, "its end did not move");
        let end = told.lock().unwrap().unwrap().end.duration_since(clock.now()).unwrap().as_secs();
        assert!(end.abs_diff(age) <= 5, "{end} s in the cache, {age} s in the cookie");
        // A moved end is told to both.
        let reply = act(&layer, Some(&cookie), |session| session.set_lifetime(5 * HOUR).unwrap()).await;
        agree(&reply, 5 * 3600 - 1200);
    }
}

#[tokio::test]
async fn settings_without_sense_are_errors_and_change_nothing() {
    let trial = trial(Refresh::OnWrite);
    let cookie = begin(&trial.layer).await;
    trial.cache.reset_calls();
    let reply = act(&trial.layer, Some(&cookie), |session| {
        for error in [
            session.set_ttl(Duration::ZERO).unwrap_err(),
            session.set_lifetime(Duration::ZERO).unwrap_err(),
            session.set_lifetime(400 * DAY + Duration::from_nanos(1)).unwrap_err(),
            session.set_lifetime(401 * DAY).unwrap_err(),
            session.set_lifetime(Duration::MAX).unwrap_err(),
        ] {
            assert!(matches!(error, SessionError::Setting(_)), "{error:?}");
        }
        assert!(!session.is_dirty());
    })
    .await;
    assert_eq!((reply.status, trial.cache.calls().total()), (200, 1));

    let store = || SessionStore::new(InMemoryCache::new());
    for (store, setting) in
        [(store().ttl(Duration::ZERO), "ttl"), (store().max_lifetime(Duration::ZERO), "max_lifetime")]
    {
        assert_eq!(SessionLayer::builder(store).build().unwrap_err().setting(), setting);
    }
    let long = || SessionLayer::builder(store().max_lifetime(401 * DAY));
    assert_eq!(long().persistent(true).build().unwrap_err().setting(), "max_lifetime");
    assert!(long().build().is_ok(), "a cookie that ends with the browser has no age");
}

#[tokio::test]
async fn extreme_durations_never_panic() {
    let extremes = [Duration::from_nanos(1), Duration::from_nanos(999_999_999), 36_500 * DAY, Duration::MAX];
    for ttl in extremes {
        for lifetime in extremes {
            for refresh in
                [Refresh::OnWrite, Refresh::OnLoad, Refresh::OnLoadEvery(ttl), Refresh::OnLoadEvery(Duration::ZERO)]
            {
                let clock = Clock::turnable();
                let cache = InMemoryCache::builder().clock(clock.clone()).build();
                let store = SessionStore::new(cache).clock(clock.clone()).ttl(ttl).max_lifetime(lifetime);
                let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
                let cookie = begin(&layer).await;
                for does in [read as Act, write, touch] {
                    assert_eq!(act(&layer, Some(&cookie), does).await.status, 200);
                }
                let own = move |session: Session| std::future::ready(session.set_ttl(ttl).map_or(500, |()| 200));
                assert_eq!(send(&layer, Some(&cookie), own).await.status, 200);
                let renewed = act(&layer, Some(&cookie), renew).await;
                assert_eq!(renewed.status, 200);
                if ttl > DAY && lifetime > DAY {
                    assert!(lives(&store, &renewed.cookie().unwrap()).await, "{ttl:?} {lifetime:?}");
                }
                store.touch(id(&cookie)).await.unwrap();
                clock.advance(Duration::MAX);
                assert_eq!(act(&layer, Some(&cookie), write).await.status, 200);
                clock.turn_back(Duration::MAX);
                assert_eq!(act(&layer, Some(&cookie), write).await.status, 200);
            }
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_turned_back_brings_nothing_back() {
    for refresh in POLICIES {
        // Ended by idleness, and by the lifetime.
        for (step, steps) in [(11 * MINUTE, 1), (9 * MINUTE, 7)] {
            let trial = trial(refresh);
            let cookie = begin(&trial.layer).await;
            for _ in 0..steps {
                trial.clock.advance(step);
                act(&trial.layer, Some(&cookie), write).await;
            }
            assert!(!lives(&trial.store, &cookie).await);
            trial.clock.turn_back(2 * HOUR);
            assert!(!lives(&trial.store, &cookie).await);
            assert_eq!(act(&trial.layer, Some(&cookie), write).await.cookie(), None);
            assert!(!trial.store.touch(id(&cookie)).await.unwrap());
        }
        // Destroyed, and renewed away.
        let trial = trial(refresh);
        let (one, two) = (begin(&trial.layer).await, begin(&trial.layer).await);
        act(&trial.layer, Some(&one), Session::destroy).await;
        act(&trial.layer, Some(&two), renew).await;
        trial.clock.turn_back(HOUR);
        assert!(!lives(&trial.store, &one).await && !lives(&trial.store, &two).await);
        // One that is live stays so.
        let cookie = begin(&trial.layer).await;
        trial.clock.turn_back(HOUR);
        act(&trial.layer, Some(&cookie), write).await;
        assert!(lives(&trial.store, &cookie).await);
    }
}

#[cfg(feature = "redis")]
mod on_redis {
    use super::*;

    use redis_server::{RedisServer, patient};

    const MS: Duration = Duration::from_millis(1);

    /// The key and the time to live of every entry. `-1` would be one that stays for good, `-2` one that ended meanwhile.
    fn ttls(server: &RedisServer) -> Vec<(String, i64)> {
        let keys = server.command(&["KEYS", "*"]).text();
        let ttl = |key: &str| server.command(&["PTTL", key]).int();
        keys.lines().filter(|key| !key.is_empty()).map(|key| (key.to_owned(), ttl(key))).collect()
    }

    async fn key(store: &SessionStore<cloakroom::RedisCache>, cookie: &str) -> String {
        format!("cloakroom:{}", store.load(id(cookie)).await.unwrap().unwrap().key().unwrap())
    }

    #[tokio::test]
    async fn short_times_end_by_themselves() {
        let server = RedisServer::start();
        // Idle time, lifetime, and what is done over and over: the sooner end counts.
        let rows =
            [(100, 100_000, None), (100_000, 300, Some(read as Act)), (200, 300, Some(write)), (300, 200, Some(touch))];
        for (idle, lifetime, does) in rows {
            let store = SessionStore::new(patient(&server).await).ttl(idle * MS).max_lifetime(lifetime * MS);
            let layer = SessionLayer::builder(store.clone()).refresh(Refresh::OnLoad).build().unwrap();
            let begun = std::time::Instant::now();
            let cookie = begin(&layer).await;
            while lives(&store, &cookie).await {
                for (key, ttl) in ttls(&server) {
                    let most = i64::from(idle.min(lifetime));
                    assert!(ttl == -2 || (0..=most).contains(&ttl), "{key}: {ttl} of {most} ms");
                }
                if let Some(does) = does {
                    act(&layer, Some(&cookie), does).await;
                }
                assert!(begun.elapsed() < 10 * SECOND, "{idle} {lifetime}: lives on and on");
                tokio::time::sleep(10 * MS).await;
            }
            assert!(begun.elapsed() + 2 * MS >= idle.min(lifetime) * MS, "{idle} {lifetime}: ended too soon");
        }
        tokio::time::sleep(20 * MS).await;
        assert_eq!(ttls(&server), [], "Redis itself has forgotten them");
    }

    #[tokio::test]
    async fn the_time_to_live_is_the_smaller_remaining_one() {
        let server = RedisServer::start();
        // Store's idle time and lifetime, the session's own, and what is left at most.
        let rows = [
            (HOUR, DAY, None, None, HOUR),
            (DAY, HOUR, None, None, HOUR),
            (HOUR, DAY, Some(10 * MINUTE), None, 10 * MINUTE),
            (HOUR, DAY, Some(3 * HOUR), None, 3 * HOUR),
            (HOUR, DAY, None, Some(30 * MINUTE), 30 * MINUTE),
            (Duration::MAX, Duration::MAX, Some(Duration::MAX), Some(400 * DAY), 400 * DAY),
        ];
        for (row, (ttl, lifetime, own_ttl, own_lifetime, most)) in rows.into_iter().enumerate() {
            for refresh in POLICIES {
                let store = SessionStore::new(patient(&server).await).ttl(ttl).max_lifetime(lifetime);
                let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
                let reply = send(&layer, None, move |session| {
                    session.set("n", 0).unwrap();
                    own_ttl.map_or(Ok(()), |ttl| session.set_ttl(ttl)).unwrap();
                    own_lifetime.map_or(Ok(()), |lifetime| session.set_lifetime(lifetime)).unwrap();
                    std::future::ready(200)
                })
                .await;
                let mut cookie = reply.cookie().unwrap();
                let most = i64::try_from(most.as_millis()).unwrap();
                for does in [read as Act, write, touch, renew, read, touch] {
                    cookie = act(&layer, Some(&cookie), does).await.cookie().unwrap_or(cookie);
                    let left = server.command(&["PTTL", &key(&store, &cookie).await]).int();
                    assert!((most - 60_000..=most).contains(&left), "row {row}, {refresh:?}: {left} of {most} ms");
                }
            }
        }
    }

    #[tokio::test]
    async fn after_every_operation_every_key_has_a_time_to_live() {
        for (ttl, lifetime) in [(HOUR, 10 * HOUR), (10 * HOUR, 30 * MINUTE), (10 * HOUR, 20 * HOUR)] {
            let server = RedisServer::start();
            let store = SessionStore::new(patient(&server).await).ttl(ttl).max_lifetime(lifetime);
            let acts: [Act; 8] = [
                read,
                write,
                touch,
                renew,
                |session| session.set_owner("alice").unwrap(),
                |session| session.set_persistent(true).unwrap(),
                |session| session.clear(),
                |session| session.destroy(),
            ];
            let mut tombstones = Vec::new();
            for refresh in POLICIES {
                let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
                for does in acts {
                    let mut cookie = begin(&layer).await;
                    for does in [does, write, does] {
                        if store.load(id(&cookie)).await.unwrap().is_none() {
                            break;
                        }
                        let before = key(&store, &cookie).await;
                        let reply = act(&layer, Some(&cookie), does).await;
                        let issued = reply.cookie().filter(|issued| !id(issued).is_empty());
                        if issued.as_ref().is_some_and(|issued| *issued != cookie) {
                            tombstones.push(before);
                        }
                        cookie = issued.unwrap_or(cookie);
                    }
                    store.touch(id(&cookie)).await.unwrap();
                }
            }
            let saved = store.save(&Session::new()).await.unwrap();
            store.save_with_id(&saved, &Session::new()).await.unwrap();
            let most = i64::try_from(ttl.min(lifetime).as_millis()).unwrap();
            let most_of_tombstones = i64::try_from(HOUR.min(lifetime).as_millis()).unwrap();
            let most_of_lists = i64::try_from(lifetime.as_millis()).unwrap();
            let found = ttls(&server);
            assert!(found.len() > 20 && tombstones.len() >= 6, "{} keys", found.len());
            assert!(tombstones.iter().all(|key| found.iter().any(|(found, _)| found == key)), "tombstones are there");
            for (key, left) in found {
                let most = if tombstones.contains(&key) {
                    most_of_tombstones
                } else if key.contains("owner:") {
                    most_of_lists
                } else {
                    most
                };
                assert!((1..=most).contains(&left), "{key}: {left} of {most} ms");
            }
        }
    }

    #[tokio::test]
    async fn a_touch_leaves_the_bytes_alone() {
        let server = RedisServer::start();
        let store = SessionStore::new(patient(&server).await).ttl(HOUR);
        for refresh in POLICIES {
            let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
            let cookie = begin(&layer).await;
            let key = key(&store, &cookie).await;
            let before = server.command(&["DUMP", &key]);
            server.command(&["PEXPIRE", &key, "60000"]);
            act(&layer, Some(&cookie), touch).await;
            assert!(server.command(&["PTTL", &key]).int() > 3_000_000, "{refresh:?}: refreshed");
            assert_eq!(server.command(&["DUMP", &key]), before, "{refresh:?}");
            server.command(&["DEL", &key]);
            act(&layer, Some(&cookie), touch).await;
            assert!(!store.touch(id(&cookie)).await.unwrap());
            assert_eq!(server.command(&["EXISTS", &key]).int(), 0, "{refresh:?}: not created");
        }
    }
}
