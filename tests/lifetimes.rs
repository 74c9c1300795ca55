//! How long a session lives: idle time and lifetime, the store's and its own, what restarts the one and that nothing moves
//! the other, what the cookie says of it, and what a refresh costs.
#![cfg(feature = "testing")]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{fmt::Debug, future::ready, time::Duration};

use cloakroom::{
    Cache, Clock, Entry, InMemoryCache,
    Refresh::{self, OnLoad, OnLoadEvery, OnWrite},
    Session, SessionError, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use http::header;

mod common;

use common::{id, web};
use web::{Reply, peek, send, start};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// What the real clock, which runs on under the turned one, may add to a test.
const SLACK: Duration = Duration::from_secs(5);
const POLICIES: [Refresh; 4] = [OnWrite, OnLoad, OnLoadEvery(MINUTE), OnLoadEvery(Duration::ZERO)];

/// One test for each function and cache. The time to live of Redis's keys is shortened where the clock is turned.
macro_rules! on_both_caches_in_time {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::in_memory()).await;
            })*
        }
        #[cfg(feature = "redis")]
        mod redis {
            $(#[tokio::test]
            async fn $name() {
                let server = super::on_redis::RedisServer::start();
                super::$name(super::on_redis::trial(&server).await).await;
                for (key, left) in super::on_redis::times(&server) {
                    assert_ne!(left, -1, "{key} would stay for good");
                }
            })*
        }
    };
}

on_both_caches_in_time! {
    what_restarts_the_idle_time,
    without_a_request_a_look_restarts_nothing_and_all_else_does,
    nothing_extends_the_lifetime,
    the_lifetime_holds_even_where_the_cache_forgot,
    an_idle_time_of_its_own_holds_for_every_way_to_refresh,
    a_lifetime_of_its_own_counts_from_the_creation,
    a_lifetime_that_is_over_already_ends_the_session_with_the_request,
    a_changed_setting_of_the_store_holds_from_the_next_write_on,
    what_each_policy_costs,
    a_refresh_creates_nothing_and_rewrites_nothing,
    a_session_that_ends_under_its_handler_stays_ended,
    remember_me_is_kept_in_the_record,
    extreme_durations_harm_nothing,
}

/// Ten minutes of idle time, an hour in all.
struct Trial<'a, C> {
    clock: Clock,
    age: Box<dyn Fn(Duration) + 'a>,
    cache: TestCache<C>,
    store: SessionStore<TestCache<C>>,
}

impl<'a, C: Cache> Trial<'a, C> {
    fn new(cache: C, clock: Clock, age: impl Fn(Duration) + 'a) -> Self {
        let cache = TestCache::new(cache);
        let store = SessionStore::new(cache.clone()).clock(clock.clone()).ttl(10 * MINUTE).max_lifetime(HOUR);
        Self { clock, age: Box::new(age), cache, store: store.deadline(Duration::from_secs(20)) }
    }

    fn layer(&self, refresh: Refresh) -> SessionLayer<TestCache<C>> {
        SessionLayer::builder(self.store.clone()).refresh(refresh).build().unwrap()
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        (self.age)(time);
    }

    async fn entry(&self, key: &str) -> Option<Entry> {
        self.cache.inner().get(key).await.unwrap()
    }

    /// In so much time, and no sooner.
    async fn ends_in(&self, time: Duration, cookie: &str, row: impl Debug) {
        self.pass(time - SLACK);
        assert!(lives(&self.store, cookie).await, "ended too soon: {row:?}");
        self.pass(SLACK);
        assert!(!lives(&self.store, cookie).await, "lives on: {row:?}");
        assert!(!self.store.touch(id(cookie)).await.unwrap(), "{row:?}");
    }
}

fn in_memory() -> Trial<'static, InMemoryCache> {
    let clock = Clock::manual();
    Trial::new(InMemoryCache::builder().clock(clock.clone()).build(), clock, |_| ())
}

/// Looks without refreshing anything, whatever the layer's policy is.
async fn lives<C: Cache>(store: &SessionStore<C>, cookie: &str) -> bool {
    store.load(id(cookie)).await.unwrap().is_some()
}

async fn key<C: Cache>(store: &SessionStore<C>, cookie: &str) -> String {
    format!("cloakroom:{}", store.load(id(cookie)).await.unwrap().unwrap().key().unwrap())
}

/// What a handler does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Read,
    Set,
    /// Where there is a session.
    Write,
    Touch,
    Renew,
    Clear,
    Destroy,
    Owner,
    Ttl(Duration),
    Lifetime(Duration),
    Persistent(bool),
}

use Act::{Clear, Destroy, Lifetime, Owner, Persistent, Read, Renew, Set, Touch, Ttl, Write};

impl Act {
    fn on(self, session: &Session) -> Result<(), SessionError> {
        match self {
            Read => drop(session.get::<u64>("n")),
            Set => session.set("n", 0)?,
            Write if session.is_new() => {}
            Write => drop(session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1)?),
            Touch => session.touch(),
            Renew => session.renew(),
            Clear => session.clear(),
            Destroy => session.destroy(),
            Owner => session.set_owner("alice")?,
            Ttl(time) => session.set_ttl(time)?,
            Lifetime(time) => session.set_lifetime(time)?,
            Persistent(is) => session.set_persistent(is)?,
        }
        Ok(())
    }
}

/// One request that does all of this.
async fn visit<C: Cache>(layer: &SessionLayer<C>, cookie: Option<&str>, acts: &[Act]) -> Reply {
    let reply =
        send(layer, cookie, |session| ready(acts.iter().try_for_each(|act| act.on(&session)).map_or(500, |()| 200)));
    let reply = reply.await;
    assert_eq!(reply.status, 200, "{acts:?}");
    reply
}

/// The same, and the cookie that the browser has then.
async fn act<C: Cache>(layer: &SessionLayer<C>, cookie: &str, acts: &[Act]) -> String {
    visit(layer, Some(cookie), acts).await.cookie().unwrap_or_else(|| cookie.to_owned())
}

/// What is done without a request.
async fn by_id<C: Cache>(store: &SessionStore<C>, cookie: &str, way: &str) {
    let session = store.load(id(cookie)).await.unwrap().unwrap();
    if way == "touch" {
        assert!(store.touch(id(cookie)).await.unwrap());
    } else if way != "load" {
        Write.on(&session).unwrap();
        let save = way == "save";
        let done = if save { store.save_with_id(id(cookie), &session).await } else { session.commit().await };
        done.unwrap();
    }
}

async fn what_restarts_the_idle_time<C: Cache>(trial: Trial<'_, C>) {
    let every = OnLoadEvery(5 * MINUTE);
    // What is done in which minutes, and the one in which the session ends.
    let rows: [(Refresh, Act, &[u32], u32); 15] = [
        (OnWrite, Read, &[9], 10),
        (OnWrite, Write, &[9, 18], 28),
        (OnWrite, Touch, &[9, 18], 28),
        (OnWrite, Renew, &[9, 18], 28),
        (OnLoad, Read, &[1], 11),
        (OnLoad, Read, &[9, 18, 27, 36, 45], 55),
        (every, Read, &[4], 10),
        (every, Read, &[5], 15),
        (every, Read, &[9], 19),
        // Five minutes after the last restart, not after the last look.
        (every, Read, &[4, 8], 18),
        (every, Read, &[9, 13], 19),
        (every, Read, &[9, 18, 22], 28),
        (every, Write, &[4], 14),
        (every, Touch, &[4], 14),
        (OnLoadEvery(Duration::ZERO), Read, &[1, 2], 12),
    ];
    for row in rows {
        let (refresh, does, minutes, end) = row;
        let layer = trial.layer(refresh);
        let mut cookie = start(&layer, "alice").await;
        let mut now = 0;
        for minute in minutes {
            trial.pass((minute - now) * MINUTE);
            cookie = act(&layer, &cookie, &[does]).await;
            now = *minute;
        }
        trial.ends_in((end - now) * MINUTE, &cookie, row).await;
    }
}

async fn without_a_request_a_look_restarts_nothing_and_all_else_does<C: Cache>(trial: Trial<'_, C>) {
    for (way, left) in [("load", 1), ("touch", 10), ("commit", 10), ("save", 10)] {
        let cookie = start(&trial.layer(OnLoad), "alice").await;
        trial.pass(9 * MINUTE);
        by_id(&trial.store, &cookie, way).await;
        trial.ends_in(left * MINUTE, &cookie, way).await;
    }
}

async fn nothing_extends_the_lifetime<C: Cache>(trial: Trial<'_, C>) {
    let rows: [&[Act]; 7] =
        [&[Read], &[Write], &[Touch], &[Renew], &[Write, Renew], &[Ttl(30 * DAY)], &[Set, Clear, Touch]];
    for refresh in POLICIES {
        let layer = trial.layer(refresh);
        for acts in rows {
            let mut cookie = start(&layer, "alice").await;
            for _ in 0..11 {
                trial.pass(5 * MINUTE);
                cookie = act(&layer, &cookie, acts).await;
                for way in ["touch", "commit", "save"] {
                    by_id(&trial.store, &cookie, way).await;
                }
            }
            trial.ends_in(5 * MINUTE, &cookie, (refresh, acts)).await;
        }
    }
}

async fn the_lifetime_holds_even_where_the_cache_forgot<C: Cache>(trial: Trial<'_, C>) {
    for refresh in POLICIES {
        // The store's clock is turned, the cache's stands still.
        let clock = Clock::manual();
        let store = trial.store.clone().clock(clock.clone());
        let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
        let cookie = start(&layer, "alice").await;
        let (held, key) = (store.load(id(&cookie)).await.unwrap().unwrap(), key(&store, &cookie).await);
        clock.advance(HOUR - SLACK);
        assert!(lives(&store, &cookie).await);
        let before = trial.entry(&key).await;
        clock.advance(SLACK);
        assert!(!lives(&store, &cookie).await && !store.touch(id(&cookie)).await.unwrap());
        assert!(store.sessions_of("alice").await.unwrap().is_empty());
        assert_eq!(peek(&layer, &cookie, "n").await, None);
        for does in [Write, Touch, Renew, Clear] {
            assert_eq!(visit(&layer, Some(&cookie), &[does]).await.cookie(), None, "{does:?}");
        }
        assert_ne!(act(&layer, &cookie, &[Set]).await, cookie, "an ID is issued, never accepted");
        assert!(!lives(&store, &cookie).await);
        assert!(before.is_some() && trial.entry(&key).await == before, "never written over");
        // For a process whose clock is behind it lives: a logout ends it there, too.
        assert_eq!(visit(&layer, Some(&cookie), &[Destroy]).await.cookie().as_deref(), Some("__Host-id="));
        assert!(trial.entry(&key).await.is_none());
        // Nor can a handle from before find out any more whether the session was renewed.
        held.destroy();
        assert!(matches!(held.commit().await, Err(SessionError::Gone)));
    }
}

async fn an_idle_time_of_its_own_holds_for_every_way_to_refresh<C: Cache>(trial: Trial<'_, C>) {
    let rows = [
        (OnWrite, [Write, Write]),
        (OnWrite, [Touch, Touch]),
        (OnWrite, [Renew, Renew]),
        (OnWrite, [Renew, Touch]),
        (OnLoad, [Read, Read]),
        (OnLoad, [Renew, Read]),
        (OnLoad, [Write, Read]),
        (OnLoadEvery(SECOND), [Read, Read]),
    ];
    // Shorter than the store's, and longer.
    for own in [2 * MINUTE, 15 * MINUTE] {
        for (refresh, acts) in rows {
            let layer = trial.layer(refresh);
            let mut cookie = start(&layer, "alice").await;
            assert_eq!(visit(&layer, Some(&cookie), &[Ttl(own)]).await.cookie(), None, "no matter of the cookie");
            for does in acts {
                trial.pass(own - 2 * SLACK);
                cookie = act(&layer, &cookie, &[does]).await;
            }
            trial.ends_in(own, &cookie, (own, refresh, acts)).await;
        }
    }
}

async fn a_lifetime_of_its_own_counts_from_the_creation<C: Cache>(trial: Trial<'_, C>) {
    let layer = trial.layer(OnLoad);
    for own in [30 * MINUTE, 3 * HOUR] {
        for does in [Read, Write, Touch, Renew] {
            for at_login in [true, false] {
                let (set, own_times) = ([Set, Owner], [Lifetime(own), Ttl(DAY)]);
                let first = if at_login { [set, own_times].concat() } else { set.to_vec() };
                let mut cookie = visit(&layer, None, &first).await.cookie().unwrap();
                trial.pass(9 * MINUTE);
                if !at_login {
                    act(&layer, &cookie, &own_times).await;
                }
                for _ in 0..2 {
                    trial.pass(own / 3);
                    cookie = act(&layer, &cookie, &[does]).await;
                }
                trial.ends_in(own / 3 - 9 * MINUTE, &cookie, (own, does, at_login)).await;
            }
        }
    }
}

async fn a_lifetime_that_is_over_already_ends_the_session_with_the_request<C: Cache>(trial: Trial<'_, C>) {
    let layer = trial.layer(OnLoad);
    let cookie = start(&layer, "alice").await;
    trial.pass(9 * MINUTE);
    assert_eq!(visit(&layer, Some(&cookie), &[Lifetime(5 * MINUTE)]).await.cookie(), None);
    assert_eq!(peek(&layer, &cookie, "n").await, None, "counted from the creation");
    assert!(trial.store.sessions_of("alice").await.unwrap().is_empty());
}

async fn a_changed_setting_of_the_store_holds_from_the_next_write_on<C: Cache>(trial: Trial<'_, C>) {
    for (does, minutes) in [(Touch, 10), (Write, 30), (Renew, 30)] {
        let cookie = start(&trial.layer(OnWrite), "alice").await;
        let longer = SessionLayer::new(trial.store.clone().ttl(30 * MINUTE));
        trial.pass(9 * MINUTE);
        let cookie = act(&longer, &cookie, &[does]).await;
        trial.ends_in(minutes * MINUTE, &cookie, does).await;
    }
}

async fn what_each_policy_costs<C: Cache>(trial: Trial<'_, C>) {
    for refresh in POLICIES {
        let layer = trial.layer(refresh);
        let load = if refresh == OnWrite { Operation::Get } else { Operation::GetAndTouch };
        let rows: [(&[Act], Option<Operation>); 6] = [
            (&[Read], None),
            (&[Set], None),
            (&[Write], Some(Operation::Replace)),
            (&[Touch], Some(Operation::Touch)),
            (&[Touch, Touch], Some(Operation::Touch)),
            (&[Touch, Write, Touch], Some(Operation::Replace)),
        ];
        for (acts, commit) in rows {
            let cookie = visit(&layer, None, &[Set]).await.cookie().unwrap();
            // Due or not: the price is the same.
            for minutes in [0, 2] {
                trial.pass(minutes * MINUTE);
                trial.cache.reset_calls();
                visit(&layer, Some(&cookie), acts).await;
                let calls = trial.cache.calls();
                let paid = (calls.of(load), commit.map_or(0, |operation| calls.of(operation)), calls.total());
                let price = usize::from(commit.is_some());
                assert_eq!(paid, (1, price, 1 + price), "{acts:?}, {refresh:?}: {calls:?}");
            }
        }
    }
}

async fn a_refresh_creates_nothing_and_rewrites_nothing<C: Cache>(trial: Trial<'_, C>) {
    for refresh in POLICIES {
        let layer = trial.layer(refresh);
        trial.cache.reset_calls();
        let unknown = format!("__Host-id={}", "A".repeat(32));
        for cookie in [None, Some("__Host-id=malformed"), Some(&*unknown)] {
            // Neither do settings without data.
            for does in [Touch, Ttl(DAY), Lifetime(DAY), Persistent(true)] {
                assert_eq!(visit(&layer, cookie, &[does]).await.cookie(), None, "{does:?}");
            }
        }
        let calls = trial.cache.calls();
        assert_eq!(calls.total(), calls.of(Operation::Get) + calls.of(Operation::GetAndTouch), "{calls:?}");

        let cookie = start(&layer, "alice").await;
        let before = trial.entry(&key(&trial.store, &cookie).await).await;
        for does in [Read, Touch] {
            trial.pass(5 * MINUTE);
            act(&layer, &cookie, &[does]).await;
            by_id(&trial.store, &cookie, "touch").await;
            let after = trial.entry(&key(&trial.store, &cookie).await).await;
            assert!(after == before, "same bytes, same version");
        }

        let renewed = act(&layer, &cookie, &[Renew]).await;
        let key = key(&trial.store, &renewed).await;
        assert!(!trial.store.touch(id(&cookie)).await.unwrap(), "a tombstone");
        trial.store.destroy(id(&renewed)).await.unwrap();
        for cookie in [&cookie, &renewed] {
            assert_eq!(visit(&layer, Some(cookie), &[Touch]).await.cookie(), None);
            assert!(!trial.store.touch(id(cookie)).await.unwrap());
        }
        assert!(trial.entry(&key).await.is_none());
    }
}

async fn a_session_that_ends_under_its_handler_stays_ended<C: Cache>(trial: Trial<'_, C>) {
    let layer = trial.layer(OnWrite);
    for acts in [&[Touch][..], &[Touch, Write]] {
        for destroyed in [true, false] {
            let cookie = start(&layer, "alice").await;
            let key = key(&trial.store, &cookie).await;
            let (trial, sent) = (&trial, &cookie);
            let reply = send(&layer, Some(&cookie), |session| async move {
                acts.iter().for_each(|act| act.on(&session).unwrap());
                if destroyed {
                    trial.store.destroy(id(sent)).await.unwrap();
                } else {
                    trial.pass(11 * MINUTE);
                }
                200
            });
            let reply = reply.await;
            assert_eq!((reply.status, reply.cookie()), (200, None), "{acts:?} {destroyed}");
            assert!(!lives(&trial.store, &cookie).await && trial.entry(&key).await.is_none(), "{acts:?} {destroyed}");
        }
    }
}

fn max_age(reply: &Reply) -> Option<u64> {
    let text = reply.headers.get(header::SET_COOKIE)?.to_str().unwrap();
    Some(text.split("; ").find_map(|part| part.strip_prefix("Max-Age="))?.parse().unwrap())
}

/// Whether the browser keeps the cookie for so long.
fn lasts(reply: &Reply, time: Duration) -> bool {
    max_age(reply).is_some_and(|age| ((time - SLACK).as_secs()..=time.as_secs()).contains(&age))
}

async fn remember_me_is_kept_in_the_record<C: Cache>(trial: Trial<'_, C>) {
    for persistent in [false, true] {
        let layer = SessionLayer::builder(trial.store.clone()).persistent(persistent).build().unwrap();
        let reply = visit(&layer, None, &[Set]).await;
        assert_eq!(max_age(&reply).is_some(), persistent);
        let mut cookie = reply.cookie().unwrap();
        for own in [!persistent, persistent] {
            let reply = visit(&layer, Some(&cookie), &[Persistent(own)]).await;
            assert_eq!((reply.cookie().as_deref(), lasts(&reply, HOUR)), (Some(&*cookie), own), "the same ID again");
            for does in [Read, Write, Touch, Persistent(own)] {
                assert_eq!(visit(&layer, Some(&cookie), &[does]).await.cookie(), None, "once is enough");
            }
            for _ in 0..2 {
                let reply = visit(&layer, Some(&cookie), &[Renew]).await;
                assert_eq!((max_age(&reply).is_some(), lasts(&reply, HOUR)), (own, own));
                cookie = reply.cookie().unwrap();
            }
        }
    }
}

/// Redis's clock cannot be turned, so this looks into memory; what Redis is told is in `on_redis`.
#[tokio::test]
async fn the_cookie_and_the_cache_are_told_the_same_end() {
    let longer = Lifetime(5 * HOUR);
    // What is done, whether the cookie goes out again, and whether it is the tombstone that is looked at.
    let acts = [
        (Read, false, false),
        (Write, false, false),
        (Touch, false, false),
        (Renew, true, false),
        (Renew, true, true),
        (longer, true, false),
    ];
    for (own, lifetime) in [(None, HOUR), (Some(2 * HOUR), 2 * HOUR), (Some(400 * DAY), 400 * DAY)] {
        for (does, is_sent, tombstone) in acts {
            let trial = in_memory();
            let store = trial.store.clone().ttl(Duration::MAX);
            let layer = SessionLayer::builder(store.clone()).persistent(true).refresh(OnLoad).build().unwrap();
            let first: Vec<_> = [Set].into_iter().chain(own.map(Lifetime)).collect();
            let reply = visit(&layer, None, &first).await;
            assert!(lasts(&reply, lifetime), "{lifetime:?}: {reply:?}");

            trial.pass(20 * MINUTE);
            let cookie = reply.cookie().unwrap();
            let old = key(&store, &cookie).await;
            let reply = visit(&layer, Some(&cookie), &[does]).await;
            let left = if does == longer { 5 * HOUR } else { lifetime } - 20 * MINUTE;
            assert_eq!((reply.cookie().is_some(), lasts(&reply, left)), (is_sent, is_sent), "{does:?}: {reply:?}");

            let new = reply.cookie().unwrap_or_else(|| cookie.clone());
            assert_eq!(new == cookie, does != Renew);
            let (key, end) = if tombstone { (old, HOUR) } else { (key(&store, &new).await, left) };
            trial.pass(end - SLACK);
            assert!(trial.entry(&key).await.is_some(), "{does:?}, {lifetime:?}");
            trial.pass(SLACK);
            assert!(trial.entry(&key).await.is_none(), "{does:?}, {lifetime:?}");
        }
    }
}

#[tokio::test]
async fn settings_without_sense_are_errors_and_change_nothing() {
    let trial = in_memory();
    let layer = trial.layer(OnWrite);
    let cookie = start(&layer, "alice").await;
    trial.cache.reset_calls();
    let reply = send(&layer, Some(&cookie), |session| {
        for session in [&session, &Session::new()] {
            for bad in [
                Ttl(Duration::ZERO),
                Lifetime(Duration::ZERO),
                Lifetime(400 * DAY + Duration::from_nanos(1)),
                Lifetime(Duration::MAX),
            ] {
                let error = bad.on(session).unwrap_err();
                assert!(matches!(error, SessionError::Setting(text) if text.starts_with("set_")), "{error:?}");
            }
            assert!(!session.is_dirty());
        }
        ready(200)
    });
    assert_eq!((reply.await.status, trial.cache.calls().total()), (200, 1));
    for good in [Ttl(Duration::from_nanos(1)), Ttl(Duration::MAX), Lifetime(400 * DAY)] {
        good.on(&Session::new()).unwrap();
    }

    let refused = |store, persistent| {
        let built = SessionLayer::builder(store).persistent(persistent).build();
        built.err().map(|error| error.setting().to_owned())
    };
    let store = trial.store;
    assert_eq!(refused(store.clone().ttl(Duration::ZERO), false).as_deref(), Some("ttl"));
    assert_eq!(refused(store.clone().max_lifetime(Duration::ZERO), false).as_deref(), Some("max_lifetime"));
    assert_eq!(refused(store.clone().max_lifetime(401 * DAY), true).as_deref(), Some("max_lifetime"));
    assert_eq!(refused(store.max_lifetime(401 * DAY), false), None, "a cookie that ends with the browser has no age");
}

async fn extreme_durations_harm_nothing<C: Cache>(trial: Trial<'_, C>) {
    let extremes = [Duration::from_nanos(1), Duration::from_nanos(999_999_999), 36_500 * DAY, Duration::MAX];
    for ttl in extremes {
        for lifetime in extremes.into_iter().chain([SECOND, HOUR]) {
            for refresh in [Duration::ZERO, ttl, Duration::MAX].map(OnLoadEvery).into_iter().chain([OnWrite, OnLoad]) {
                let store = trial.store.clone().ttl(ttl).max_lifetime(lifetime).deadline(Duration::MAX);
                let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
                let mut cookie = start(&layer, "alice").await;
                for does in [Read, Write, Touch, Ttl(ttl), Renew] {
                    cookie = act(&layer, &cookie, &[does]).await;
                }
                store.touch(id(&cookie)).await.unwrap();
                if ttl > DAY && lifetime >= HOUR {
                    assert_eq!(peek(&layer, &cookie, "n").await, Some(1), "{ttl:?}, {lifetime:?}, {refresh:?}");
                }
                trial.clock.advance(Duration::MAX);
                act(&layer, &cookie, &[Write]).await;
                trial.clock.rewind(Duration::MAX);
                act(&layer, &cookie, &[Write]).await;
            }
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_turned_back_brings_nothing_back() {
    for refresh in POLICIES {
        // Ended by idleness, and by the lifetime.
        for (step, steps) in [(11 * MINUTE, 1), (9 * MINUTE, 7)] {
            let trial = in_memory();
            let layer = trial.layer(refresh);
            let cookie = start(&layer, "alice").await;
            for _ in 0..steps {
                trial.pass(step);
                act(&layer, &cookie, &[Write]).await;
            }
            assert!(!lives(&trial.store, &cookie).await);
            trial.clock.rewind(2 * HOUR);
            assert!(!lives(&trial.store, &cookie).await && !trial.store.touch(id(&cookie)).await.unwrap());
            assert_eq!(visit(&layer, Some(&cookie), &[Write]).await.cookie(), None);
        }
        let trial = in_memory();
        let layer = trial.layer(refresh);
        let (destroyed, renewed, live) =
            (start(&layer, "alice").await, start(&layer, "alice").await, start(&layer, "alice").await);
        visit(&layer, Some(&destroyed), &[Destroy]).await;
        visit(&layer, Some(&renewed), &[Renew]).await;
        trial.clock.rewind(HOUR);
        assert!(!lives(&trial.store, &destroyed).await && !lives(&trial.store, &renewed).await);
        act(&layer, &live, &[Write]).await;
        trial.ends_in(10 * MINUTE, &live, refresh).await;
    }
}

#[cfg(feature = "redis")]
mod on_redis {
    use std::{collections::HashMap, time::Instant};

    use cloakroom::RedisCache;

    use super::*;
    pub use common::redis_server::{RedisServer, patient};

    pub async fn trial(server: &RedisServer) -> Trial<'_, RedisCache> {
        Trial::new(patient(server).await, Clock::manual(), |time| age(server, time))
    }

    /// Takes this much off what every key has left. One without a time to live keeps on having none.
    fn age(server: &RedisServer, time: Duration) {
        let script = "for _, key in ipairs(redis.call('KEYS', '*')) do
            local left = redis.call('PTTL', key)
            if left > 0 then redis.call('PEXPIRE', key, left - ARGV[1]) end
        end
        return 'aged'";
        assert_eq!(server.command(&["EVAL", script, "0", &time.as_millis().to_string()]).text(), "aged");
    }

    /// The key and the time to live of every entry: -1 for one that stays for good, -2 for one that ended meanwhile.
    pub fn times(server: &RedisServer) -> Vec<(String, i64)> {
        let keys = server.command(&["KEYS", "*"]).text();
        let time = |key: &str| server.command(&["PTTL", key]).int();
        keys.lines().filter(|key| !key.is_empty()).map(|key| (key.to_owned(), time(key))).collect()
    }

    /// None for a key that stays for good.
    fn millis(left: i64) -> Duration {
        Duration::from_millis(left.try_into().unwrap_or(0))
    }

    #[tokio::test]
    async fn every_key_has_the_time_to_live_that_is_left() {
        let server = RedisServer::start();
        // The store's idle time and lifetime, the session's own, and what is left of it.
        let rows = [
            (HOUR, DAY, None, None, HOUR),
            (DAY, HOUR, None, None, HOUR),
            (10 * HOUR, 30 * MINUTE, None, None, 30 * MINUTE),
            (HOUR, DAY, Some(10 * MINUTE), None, 10 * MINUTE),
            (HOUR, DAY, Some(3 * HOUR), None, 3 * HOUR),
            (HOUR, DAY, None, Some(30 * MINUTE), 30 * MINUTE),
            (Duration::MAX, Duration::MAX, Some(Duration::MAX), Some(400 * DAY), 400 * DAY),
        ];
        for row in rows {
            for refresh in POLICIES {
                let (ttl, lifetime, own_ttl, own_lifetime, left) = row;
                server.command(&["FLUSHALL"]);
                let store = trial(&server).await.store.ttl(ttl).max_lifetime(lifetime);
                let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
                let own = own_ttl.map(Ttl).into_iter().chain(own_lifetime.map(Lifetime));
                let first: Vec<_> = [Set].into_iter().chain(own).collect();
                let mut cookie = visit(&layer, None, &first).await.cookie().unwrap();
                let end = own_lifetime.unwrap_or(lifetime);
                let mut live = key(&store, &cookie).await;
                let mut entries = HashMap::from([(live.clone(), left)]);
                for does in [Owner, Read, Write, Touch, Renew, Read, Persistent(true), Touch, Clear, Renew, Write] {
                    cookie = act(&layer, &cookie, &[does]).await;
                    let key = key(&store, &cookie).await;
                    if key != live {
                        entries.insert(std::mem::replace(&mut live, key.clone()), HOUR);
                        entries.insert(key, left);
                    }
                    let found = times(&server);
                    assert_eq!(found.len(), entries.len() + 1, "sessions, tombstones and the owner's list");
                    for (key, found) in found {
                        let (most, found) = (entries.get(&key).copied().unwrap_or(end), millis(found));
                        assert!(most - MINUTE < found && found <= most, "{key}, {does:?}: {found:?} of {row:?}");
                    }
                }
                let saved = store.save(&Session::new()).await.unwrap();
                store.save_with_id(&saved, &Session::new()).await.unwrap();
                let found = millis(server.command(&["PTTL", &format!("cloakroom:{}", saved.key())]).int());
                assert!(!found.is_zero() && found <= ttl.min(lifetime), "{found:?} of {row:?}");
                visit(&layer, Some(&cookie), &[Destroy]).await;
                assert_eq!(server.command(&["EXISTS", &live]).int(), 0);
            }
        }
    }

    #[tokio::test]
    async fn short_times_end_by_themselves() {
        let server = RedisServer::start();
        // Idle time, lifetime, and what is done over and over: the sooner end counts.
        for row in [(100, 100_000, None), (100_000, 300, Some(Read)), (200, 300, Some(Write)), (300, 200, Some(Touch))]
        {
            let (idle, lifetime, does) = (Duration::from_millis(row.0), Duration::from_millis(row.1), row.2);
            let sooner = idle.min(lifetime);
            let store = trial(&server).await.store.ttl(idle).max_lifetime(lifetime);
            let layer = SessionLayer::builder(store.clone()).refresh(OnLoad).build().unwrap();
            let begun = Instant::now();
            let cookie = visit(&layer, None, &[Set]).await.cookie().unwrap();
            while lives(&store, &cookie).await {
                for (key, left) in times(&server) {
                    assert!(left != -1 && millis(left) <= sooner, "{key}: {left} ms of {row:?}");
                }
                if let Some(does) = does {
                    visit(&layer, Some(&cookie), &[does]).await;
                }
                assert!(begun.elapsed() < 10 * SECOND, "lives on and on: {row:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(begun.elapsed() + Duration::from_millis(2) >= sooner, "ended too soon: {row:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(times(&server), [], "Redis itself has forgotten them");
    }

    #[tokio::test]
    async fn a_key_that_stays_for_good_is_a_session_that_ends_all_the_same() {
        let server = RedisServer::start();
        let trial = trial(&server).await;
        let layer = trial.layer(OnWrite);
        let cookie = start(&layer, "alice").await;
        assert_eq!(server.command(&["PERSIST", &key(&trial.store, &cookie).await]).int(), 1);
        trial.ends_in(HOUR, &cookie, "persisted").await;
        assert_eq!(peek(&layer, &cookie, "n").await, None);
    }

    #[tokio::test]
    async fn a_touch_leaves_the_bytes_alone() {
        let server = RedisServer::start();
        let trial = trial(&server).await;
        for refresh in POLICIES {
            let layer = trial.layer(refresh);
            let cookie = start(&layer, "alice").await;
            let key = key(&trial.store, &cookie).await;
            let before = server.command(&["DUMP", &key]);
            for _ in 0..2 {
                trial.pass(9 * MINUTE);
                act(&layer, &cookie, &[Touch]).await;
                by_id(&trial.store, &cookie, "touch").await;
                assert_eq!(server.command(&["DUMP", &key]), before, "{refresh:?}");
            }
            server.command(&["DEL", &key]);
            act(&layer, &cookie, &[Touch]).await;
            assert!(!trial.store.touch(id(&cookie)).await.unwrap());
            assert_eq!(server.command(&["EXISTS", &key]).int(), 0, "{refresh:?}: not created");
        }
    }
}
