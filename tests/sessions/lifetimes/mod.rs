//! How long a session lives: idle time and lifetime, the store's and its own, what restarts the one and that nothing moves
//! the other, what the cookie says of it, and what a refresh costs.
mod aging;
mod cookie;
mod expiry;
#[cfg(feature = "redis")]
mod on_redis;

use std::{fmt::Debug, future::ready, time::Duration};

use cloakroom::{
    Cache, Clock, Entry,
    Refresh::{self, OnLoad, OnLoadEvery, OnWrite},
    Session, SessionError, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use http::header;

use crate::support::web::{Reply, id, peek, send, start};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// What the real clock, which runs on under the turned one, may add to a test.
const SLACK: Duration = Duration::from_secs(5);
const POLICIES: [Refresh; 4] = [OnWrite, OnLoad, OnLoadEvery(MINUTE), OnLoadEvery(Duration::ZERO)];

/// Ten minutes of idle time, an hour in all.
struct Trial<C> {
    clock: Clock,
    age: Box<dyn Fn(Duration) + Send + Sync>,
    cache: TestCache<C>,
    store: SessionStore<TestCache<C>>,
}

impl<C: Cache> Trial<C> {
    fn new(cache: C, clock: Clock, age: impl Fn(Duration) + Send + Sync + 'static) -> Self {
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
