//! How long a session lives: idle time and lifetime, refresh policies, and what one session decides for itself.
#![cfg(all(feature = "redis", feature = "testing"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::time::Duration;

use cloakroom::{
    Bytes, Cache, CacheError, Clock, Deleted, Entry, Expiry, InMemoryCache, Refresh, Replaced, Session, SessionError,
    SessionLayer, SessionStore, Version,
    testing::{Operation, TestCache},
};
use http::header;

#[path = "common/redis_server.rs"]
mod redis_server;
#[path = "common/web.rs"]
mod web;

use redis_server::RedisServer;
use web::{peek, send, start};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

type Tested = TestCache<InMemoryCache>;

/// Idle an hour, ten hours in all.
fn trial(refresh: Refresh) -> (SessionLayer<Tested>, SessionStore<Tested>, Tested, Clock) {
    let clock = Clock::turnable();
    let cache = TestCache::new(InMemoryCache::builder().clock(clock.clone()).build());
    let store = SessionStore::new(cache.clone()).clock(clock.clone()).ttl(HOUR).max_lifetime(10 * HOUR);
    (SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap(), store, cache, clock)
}

async fn write<C: Cache>(layer: &SessionLayer<C>, cookie: &str) -> web::Reply {
    send(layer, Some(cookie), |session| async move {
        if !session.is_new() {
            session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
        }
        200
    })
    .await
}

#[tokio::test]
async fn on_write_reading_extends_nothing_and_writing_does() {
    let (layer, _, _, clock) = trial(Refresh::OnWrite);
    let cookie = start(&layer, "alice").await;
    clock.advance(40 * MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(19 * MINUTE);
    write(&layer, &cookie).await;
    clock.advance(59 * MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_none());
}

#[tokio::test]
async fn the_lifetime_ends_whatever_happens() {
    for does in 0..4 {
        let (layer, _, _, clock) = trial(Refresh::OnLoad);
        let mut cookie = start(&layer, "alice").await;
        for _ in 0..19 {
            clock.advance(30 * MINUTE);
            let reply = send(&layer, Some(&cookie), move |session| async move {
                assert!(!session.is_new());
                match does {
                    0 => {}
                    1 => session.set("n", rand(&session)).unwrap(),
                    2 => session.touch(),
                    _ => session.renew(),
                }
                200
            })
            .await;
            cookie = reply.cookie().unwrap_or(cookie);
        }
        clock.advance(29 * MINUTE);
        assert!(peek(&layer, &cookie, "n").await.is_some(), "{does}");
        clock.advance(MINUTE);
        assert!(peek(&layer, &cookie, "n").await.is_none(), "{does}");
    }
}

fn rand(session: &Session) -> u64 {
    session.get::<u64>("n").unwrap_or_default() + 1
}

#[tokio::test]
async fn on_load_slides_in_the_round_trip_of_the_load() {
    let (layer, _, cache, clock) = trial(Refresh::OnLoad);
    let cookie = start(&layer, "alice").await;
    cache.reset_calls();
    for _ in 0..5 {
        clock.advance(59 * MINUTE);
        assert!(peek(&layer, &cookie, "n").await.is_some());
    }
    let calls = cache.calls();
    assert_eq!((calls.of(Operation::GetAndTouch), calls.total()), (5, 5));
    clock.advance(HOUR);
    assert!(peek(&layer, &cookie, "n").await.is_none());
}

#[tokio::test]
async fn on_load_every_refreshes_at_most_that_often() {
    let (layer, _, cache, clock) = trial(Refresh::OnLoadEvery(20 * MINUTE));
    let cookie = start(&layer, "alice").await;
    cache.reset_calls();
    clock.advance(19 * MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(40 * MINUTE);
    // The load 19 minutes after the start did not count; this one, at 59, does.
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(59 * MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(19 * MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(41 * MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_none(), "19 minutes are no reason to refresh");
    assert_eq!(cache.calls().total(), cache.calls().of(Operation::GetAndTouch));
}

#[tokio::test]
async fn a_touch_refreshes_once_and_creates_and_rewrites_nothing() {
    let (layer, store, cache, clock) = trial(Refresh::OnWrite);
    let touch = |session: Session| async move {
        session.touch();
        200
    };
    assert_eq!(send(&layer, None, touch).await.cookie(), None);
    assert_eq!(cache.inner().len(), 0);
    let cookie = start(&layer, "alice").await;
    let id = cookie.split_once('=').unwrap().1.to_owned();
    let key = format!("cloakroom:{}", store.load(&id).await.unwrap().unwrap().key().unwrap());
    let before = cache.inner().get(&key).await.unwrap();
    clock.advance(50 * MINUTE);
    send(&layer, Some(&cookie), touch).await;
    assert_eq!(cache.inner().get(&key).await.unwrap(), before);
    clock.advance(50 * MINUTE);
    assert!(store.touch(&id).await.unwrap());
    clock.advance(59 * MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(MINUTE);
    assert!(!store.touch(&id).await.unwrap());
    assert!(peek(&layer, &cookie, "n").await.is_none());
    let cookie = start(&layer, "alice").await;
    send(&layer, Some(&cookie), |session| async move {
        session.renew();
        200
    })
    .await;
    assert!(!store.touch(cookie.split_once('=').unwrap().1).await.unwrap(), "a tombstone");
}

#[tokio::test]
async fn what_a_session_decides_for_itself_holds_from_then_on() {
    let (layer, _, _, clock) = trial(Refresh::OnLoad);
    let cookie = start(&layer, "alice").await;
    send(&layer, Some(&cookie), |session| async move {
        session.set_ttl(3 * HOUR).unwrap();
        session.set_lifetime(20 * HOUR).unwrap();
        200
    })
    .await;
    clock.advance(2 * HOUR + 59 * MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    let renew = |session: Session| async move {
        session.renew();
        200
    };
    let cookie = send(&layer, Some(&cookie), renew).await.cookie().unwrap();
    for _ in 0..5 {
        clock.advance(2 * HOUR + 59 * MINUTE);
        assert!(peek(&layer, &cookie, "n").await.is_some(), "kept by the renewal and honoured by every load");
        write(&layer, &cookie).await;
    }
    // 17 hours and 54 minutes: 2 hours and 6 minutes are left of the lifetime, whatever the idle time says.
    clock.advance(2 * HOUR + 5 * MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_none());
}

fn max_age(reply: &web::Reply) -> Option<u64> {
    let cookie = reply.headers.get(header::SET_COOKIE)?.to_str().unwrap();
    let attribute = cookie.split("; ").find_map(|attribute| attribute.strip_prefix("Max-Age="))?;
    Some(attribute.parse().unwrap())
}

#[tokio::test]
async fn a_persistent_cookie_lasts_as_long_as_the_session_may() {
    let (_, store, _, clock) = trial(Refresh::OnWrite);
    let layer = SessionLayer::builder(store).persistent(true).refresh(Refresh::OnLoad).build().unwrap();
    let set = |session: Session| async move { session.set("n", 0).map_or(500, |()| 200) };
    let reply = send(&layer, None, set).await;
    assert!((35_999..=36_000).contains(&max_age(&reply).unwrap()));
    let cookie = reply.cookie().unwrap();
    clock.advance(30 * MINUTE);
    let reply = write(&layer, &cookie).await;
    assert_eq!(reply.cookie(), None, "its end did not move");
    clock.advance(30 * MINUTE);
    let longer = |session: Session| async move { session.set_lifetime(20 * HOUR).map_or(500, |()| 200) };
    let reply = send(&layer, Some(&cookie), longer).await;
    assert_eq!(reply.cookie().as_deref(), Some(&*cookie), "the same ID again");
    assert!((68_399..=68_400).contains(&max_age(&reply).unwrap()), "{reply:?}");
    let renew = |session: Session| async move {
        session.renew();
        200
    };
    assert!((68_399..=68_400).contains(&max_age(&send(&layer, Some(&cookie), renew).await).unwrap()));
}

#[tokio::test]
async fn remember_me_is_kept_in_the_record() {
    let (layer, _, _, _) = trial(Refresh::OnWrite);
    let cookie = start(&layer, "alice").await;
    let remember = |session: Session| async move { session.set_persistent(true).map_or(500, |()| 200) };
    let reply = send(&layer, Some(&cookie), remember).await;
    assert!((35_999..=36_000).contains(&max_age(&reply).unwrap()));
    assert_eq!(send(&layer, Some(&cookie), remember).await.cookie(), None, "once is enough");
    let renew = |session: Session| async move {
        session.renew();
        200
    };
    let reply = send(&layer, Some(&cookie), renew).await;
    let cookie = reply.cookie().unwrap();
    assert!(max_age(&reply).is_some(), "a later request, and a renewal");
    let forget = |session: Session| async move { session.set_persistent(false).map_or(500, |()| 200) };
    let reply = send(&layer, Some(&cookie), forget).await;
    assert_eq!((reply.cookie().as_deref(), max_age(&reply)), (Some(&*cookie), None));
}

#[test]
fn settings_without_sense_are_errors_where_they_are_written() {
    let session = Session::new();
    for error in [
        session.set_ttl(Duration::ZERO),
        session.set_lifetime(Duration::ZERO),
        session.set_lifetime(401 * DAY),
        session.set_lifetime(Duration::MAX),
    ] {
        assert!(matches!(error, Err(SessionError::Setting(text)) if text.starts_with("set_")), "{error:?}");
    }
    session.set_lifetime(400 * DAY).unwrap();
    session.set_ttl(Duration::MAX).unwrap();
    session.set_ttl(Duration::from_nanos(1)).unwrap();
}

#[tokio::test]
async fn extreme_durations_do_not_panic() {
    for ttl in [Duration::from_nanos(1), Duration::from_nanos(999_999_999), 36_500 * DAY, Duration::MAX] {
        for lifetime in [Duration::from_nanos(1), Duration::from_secs(1), Duration::MAX] {
            let store = SessionStore::new(InMemoryCache::new()).ttl(ttl).max_lifetime(lifetime).deadline(Duration::MAX);
            let layer = SessionLayer::new(store.clone());
            let cookie = start(&layer, "alice").await;
            write(&layer, &cookie).await;
            store.touch(cookie.split_once('=').unwrap().1).await.unwrap();
        }
    }
}

/// Forgets to expire.
struct Forgetful(InMemoryCache);

impl Forgetful {
    fn forever() -> Expiry {
        Expiry { idle: 10_000 * DAY, end: std::time::SystemTime::now() + 10_000 * DAY }
    }
}

impl Cache for Forgetful {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        self.0.get(key).await
    }
    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        self.0.get_and_touch(key, after).await
    }
    async fn insert(&self, key: &str, value: Bytes, _: Expiry) -> Result<Option<Version>, CacheError> {
        self.0.insert(key, value, Self::forever()).await
    }
    async fn replace(&self, key: &str, expected: Version, value: Bytes, _: Expiry) -> Result<Replaced, CacheError> {
        self.0.replace(key, expected, value, Self::forever()).await
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.0.touch(key).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        self.0.delete(key, expected).await
    }
}

#[tokio::test]
async fn the_lifetime_holds_even_where_the_cache_forgot() {
    let clock = Clock::turnable();
    let store = SessionStore::new(Forgetful(InMemoryCache::new())).clock(clock.clone()).max_lifetime(HOUR);
    let layer = SessionLayer::new(store.clone());
    let cookie = start(&layer, "alice").await;
    let id = cookie.split_once('=').unwrap().1;
    let handle = store.load(id).await.unwrap().unwrap();
    clock.advance(HOUR - MINUTE);
    assert!(store.load(id).await.unwrap().is_some());
    clock.advance(MINUTE);
    assert!(store.load(id).await.unwrap().is_none());
    assert!(!store.touch(id).await.unwrap());
    assert!(store.sessions_of("alice").await.unwrap().is_empty());
    assert_eq!(write(&layer, &cookie).await.cookie(), None);
    handle.destroy();
    handle.commit().await.unwrap();
}

#[tokio::test]
async fn turning_the_clock_brings_nothing_back_and_panics_nowhere() {
    let (layer, _, _, clock) = trial(Refresh::OnLoad);
    let cookie = start(&layer, "alice").await;
    clock.turn_back(HOUR);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(3 * HOUR);
    assert!(peek(&layer, &cookie, "n").await.is_none());
    clock.turn_back(3 * HOUR);
    assert!(peek(&layer, &cookie, "n").await.is_none());
}

#[tokio::test]
async fn every_key_in_redis_has_a_time_to_live_within_its_sessions() {
    let server = RedisServer::start();
    let cache = redis_server::patient(&server).await;
    let store = SessionStore::new(cache).ttl(HOUR).max_lifetime(2 * HOUR);
    for refresh in [Refresh::OnWrite, Refresh::OnLoad, Refresh::OnLoadEvery(Duration::ZERO)] {
        let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
        for does in 0..6 {
            let cookie = start(&layer, "alice").await;
            for _ in 0..2 {
                send(&layer, Some(&cookie), move |session| async move {
                    match does {
                        0 => {}
                        1 => session.touch(),
                        2 => session.set("n", rand(&session)).unwrap(),
                        3 => session.renew(),
                        4 => session.set_ttl(HOUR / 2).unwrap(),
                        _ => session.clear(),
                    }
                    200
                })
                .await;
            }
        }
    }
    let cli = |args: &[&str]| server.command(args);
    let mut keys = 0;
    for key in cli(&["KEYS", "*"]).text().split_whitespace().filter(|word| word.starts_with("cloakroom:")) {
        let ttl = cli(&["PTTL", key]).int();
        let most = if key.contains("owner:") { 2 * 3_600_000 } else { 3_600_000 };
        assert!((1..=most).contains(&ttl), "{key}: {ttl} ms");
        keys += 1;
    }
    assert!(keys >= 18, "{keys}");
}

#[tokio::test]
async fn redis_ends_sessions_by_itself() {
    let server = RedisServer::start();
    let cache = redis_server::patient(&server).await;
    let store = SessionStore::new(cache).ttl(Duration::from_millis(300)).max_lifetime(Duration::from_millis(900));
    let layer = SessionLayer::builder(store.clone()).refresh(Refresh::OnLoad).build().unwrap();
    let (slides, idle) = (start(&layer, "alice").await, start(&layer, "bob").await);
    let begun = std::time::Instant::now();
    let mut seen = Duration::ZERO;
    while peek(&layer, &slides, "n").await.is_some() {
        seen = begun.elapsed();
        assert!(seen < Duration::from_secs(3), "the lifetime is not extended");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(seen > Duration::from_millis(500), "sliding outlived the idle time: {seen:?}");
    assert!(peek(&layer, &idle, "n").await.is_none());
}

/// Turns `hours` in steps that a session with an hour of idle time survives, reading at each.
async fn read_for(hours: u32, layer: &SessionLayer<Tested>, cookie: &str, clock: &Clock) {
    for _ in 0..hours * 2 {
        clock.advance(30 * MINUTE);
        assert!(peek(layer, cookie, "n").await.is_some());
    }
}

#[tokio::test]
async fn a_shorter_idle_time_of_its_own_holds_for_writes_touches_loads_and_renewals() {
    for does in 0..4 {
        let (layer, store, _, clock) = trial(if does == 2 { Refresh::OnLoad } else { Refresh::OnWrite });
        let cookie = start(&layer, "alice").await;
        let own = |session: Session| async move { session.set_ttl(10 * MINUTE).map_or(500, |()| 200) };
        assert_eq!(send(&layer, Some(&cookie), own).await.status, 200);
        clock.advance(9 * MINUTE);
        let reply = send(&layer, Some(&cookie), move |session| async move {
            assert!(!session.is_new());
            match does {
                0 => session.set("n", 5).unwrap(),
                1 => session.touch(),
                2 => {}
                _ => session.renew(),
            }
            200
        })
        .await;
        let cookie = reply.cookie().unwrap_or(cookie);
        let id = cookie.split_once('=').unwrap().1;
        clock.advance(9 * MINUTE);
        assert!(store.load(id).await.unwrap().is_some(), "refreshed: {does}");
        clock.advance(MINUTE);
        assert!(store.load(id).await.unwrap().is_none(), "ten minutes, not the store's hour: {does}");
    }
}

#[tokio::test]
async fn a_lifetime_that_is_over_already_ends_the_session_with_the_request() {
    let (layer, store, _, clock) = trial(Refresh::OnLoad);
    let cookie = start(&layer, "alice").await;
    read_for(2, &layer, &cookie, &clock).await;
    let shorter = |session: Session| async move { session.set_lifetime(HOUR).map_or(500, |()| 200) };
    let reply = send(&layer, Some(&cookie), shorter).await;
    assert_eq!((reply.status, reply.cookie()), (200, None));
    assert!(peek(&layer, &cookie, "n").await.is_none(), "counted from the creation");
    assert!(store.sessions_of("alice").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_session_given_less_time_than_the_store_gives_keeps_to_it_from_its_first_request_on() {
    let (layer, _, _, clock) = trial(Refresh::OnLoad);
    let login = |session: Session| async move {
        session.set("n", 0).unwrap();
        session.set_lifetime(2 * HOUR).unwrap();
        303
    };
    let cookie = send(&layer, None, login).await.cookie().unwrap();
    let renew = |session: Session| async move {
        session.renew();
        200
    };
    clock.advance(59 * MINUTE);
    let cookie = send(&layer, Some(&cookie), renew).await.cookie().unwrap();
    clock.advance(59 * MINUTE);
    let cookie = send(&layer, Some(&cookie), renew).await.cookie().unwrap();
    clock.advance(MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(MINUTE);
    assert!(peek(&layer, &cookie, "n").await.is_none(), "a renewal starts no new lifetime");
}

#[tokio::test]
async fn a_changed_setting_of_the_store_holds_from_the_next_write_on() {
    let (layer, store, _, clock) = trial(Refresh::OnWrite);
    let cookie = start(&layer, "alice").await;
    let longer = SessionLayer::new(store.ttl(3 * HOUR));
    clock.advance(59 * MINUTE);
    write(&longer, &cookie).await;
    clock.advance(2 * HOUR + 59 * MINUTE);
    assert!(peek(&longer, &cookie, "n").await.is_some());
    clock.advance(MINUTE);
    assert!(peek(&longer, &cookie, "n").await.is_none());
}

#[tokio::test]
async fn a_lifetime_that_is_over_is_replaced_by_a_new_session_and_never_written_over() {
    let clock = Clock::turnable();
    let cache = TestCache::new(Forgetful(InMemoryCache::new()));
    let store = SessionStore::new(cache.clone()).clock(clock.clone()).max_lifetime(HOUR);
    let layer = SessionLayer::builder(store.clone()).refresh(Refresh::OnLoad).build().unwrap();
    let cookie = start(&layer, "alice").await;
    let id = cookie.split_once('=').unwrap().1;
    let held = store.load(id).await.unwrap().unwrap();
    let key = format!("cloakroom:{}", held.key().unwrap());
    let before = cache.get(&key).await.unwrap().unwrap();
    clock.advance(HOUR);
    let set = |session: Session| async move { session.set("n", 9).map_or(500, |()| 200) };
    let reply = send(&layer, Some(&cookie), set).await;
    assert_ne!(reply.cookie().unwrap(), cookie, "an ID is issued, never accepted");
    assert!(cache.get(&key).await.unwrap().unwrap() == before, "byte for byte");
}

#[tokio::test]
async fn redis_keeps_a_key_for_good_and_its_session_ends_all_the_same() {
    let server = RedisServer::start();
    let clock = Clock::turnable();
    let store = SessionStore::new(redis_server::patient(&server).await).clock(clock.clone()).max_lifetime(HOUR);
    let layer = SessionLayer::new(store.clone());
    let cookie = start(&layer, "alice").await;
    let id = cookie.split_once('=').unwrap().1;
    let key = format!("cloakroom:{}", store.load(id).await.unwrap().unwrap().key().unwrap());
    assert_eq!(server.command(&["PERSIST", &key]).int(), 1);
    assert!(peek(&layer, &cookie, "n").await.is_some());
    clock.advance(HOUR);
    assert_eq!(peek(&layer, &cookie, "n").await, None);
    assert!(store.load(id).await.unwrap().is_none());
    assert!(!store.touch(id).await.unwrap());
}

#[tokio::test]
async fn extreme_durations_are_survived_in_redis() {
    let server = RedisServer::start();
    let cache = std::sync::Arc::new(redis_server::patient(&server).await);
    for ttl in [Duration::from_nanos(1), Duration::from_nanos(999_999_999), 36_500 * DAY, Duration::MAX] {
        for lifetime in [Duration::from_nanos(1), HOUR, Duration::MAX] {
            for refresh in [Refresh::OnWrite, Refresh::OnLoad, Refresh::OnLoadEvery(Duration::MAX)] {
                let store = SessionStore::new(cache.clone()).ttl(ttl).max_lifetime(lifetime);
                let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
                let set = |session: Session| async move { session.set("n", 0).map_or(500, |()| 200) };
                let cookie = send(&layer, None, set).await.cookie().unwrap();
                assert_eq!(write(&layer, &cookie).await.status, 200);
                store.touch(cookie.split_once('=').unwrap().1).await.unwrap();
                let own = move |session: Session| async move { session.set_ttl(ttl).map_or(500, |()| 200) };
                assert_eq!(send(&layer, Some(&cookie), own).await.status, 200, "{ttl:?} {lifetime:?} {refresh:?}");
                if lifetime > DAY && ttl > DAY {
                    assert_eq!(peek(&layer, &cookie, "n").await, Some(1), "{ttl:?} {lifetime:?} {refresh:?}");
                }
            }
        }
    }
    for key in server.command(&["KEYS", "*"]).text().split_whitespace() {
        assert!(server.command(&["PTTL", key]).int() != -1, "{key} stays for good");
    }
}
