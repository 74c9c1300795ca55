//! The sessions of a user: listed, ended one by one or all at once, limited, and never alive unseen.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "all of this is a test")]
use std::{
    collections::{BTreeSet, HashSet},
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use cloakroom::{
    BoxedCache, Cache, CacheErrorKind, Clock, Entry, Expiry, InMemoryCache, Replaced, Session, SessionError,
    SessionKey, SessionLayer, SessionStore, Version, SessionLimitPolicy,
    testing::{Operation, TestCache},
};
use http::{Request, Response, StatusCode, header};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};

#[cfg(feature = "redis")]
#[allow(dead_code, unreachable_pub, clippy::panic, reason = "other tests use more of it")]
#[path = "common/redis_server.rs"]
mod redis_server;
#[allow(dead_code, unreachable_pub, reason = "other tests use more of it")]
#[path = "common/six_methods.rs"]
mod six_methods;

use six_methods::{SixMethods, Twist};

/// The keys that a cache was asked for.
#[derive(Clone, Debug, Default)]
struct Keys(Arc<Mutex<BTreeSet<String>>>);

impl Twist for Keys {
    async fn before(&self, key: &str) {
        self.0.lock().unwrap().insert(key.to_owned());
    }
}

/// A cache, and a look into it from behind.
struct World {
    name: &'static str,
    cache: TestCache<BoxedCache>,
    memory: Option<InMemoryCache>,
    keys: Option<Keys>,
    #[cfg(feature = "redis")]
    server: Option<redis_server::RedisServer>,
}

type Store = SessionStore<TestCache<BoxedCache>>;

impl World {
    fn of(name: &'static str, cache: impl Cache, memory: Option<InMemoryCache>) -> Self {
        let cache = TestCache::new(BoxedCache::new(cache));
        Self {
            name,
            cache,
            memory,
            keys: None,
            #[cfg(feature = "redis")]
            server: None,
        }
    }

    fn memory() -> Self {
        let memory = InMemoryCache::new();
        Self::of("memory", memory.clone(), Some(memory))
    }

    fn six() -> Self {
        let memory = InMemoryCache::new();
        let keys = Keys::default();
        let six = SixMethods { inner: memory.clone(), twist: keys.clone() };
        Self { keys: Some(keys), ..Self::of("six methods", six, Some(memory)) }
    }

    #[cfg(feature = "redis")]
    async fn redis() -> Self {
        let server = redis_server::RedisServer::start();
        let cache = cloakroom::RedisCache::connect(server.url()).await.unwrap();
        Self { server: Some(server), ..Self::of("Redis", cache, None) }
    }

    async fn all() -> Vec<Self> {
        vec![
            Self::memory(),
            Self::six(),
            #[cfg(feature = "redis")]
            Self::redis().await,
        ]
    }

    fn store(&self) -> Store {
        SessionStore::new(self.cache.clone()).deadline(Duration::from_secs(10))
    }

    /// How many entries there are.
    fn len(&self) -> usize {
        #[cfg(feature = "redis")]
        if let Some(server) = &self.server {
            return usize::try_from(server.command(&["DBSIZE"]).int()).unwrap();
        }
        self.memory.as_ref().unwrap().len()
    }

    /// What entries and lists take in memory; their number in Redis.
    fn bytes(&self) -> usize {
        #[cfg(feature = "redis")]
        if self.server.is_some() {
            return self.len();
        }
        self.memory.as_ref().unwrap().bytes()
    }
}

/// A browser and what it got.
#[derive(Clone, Debug, Default)]
struct Visitor {
    id: Option<String>,
    status: StatusCode,
}

impl Visitor {
    fn key(&self) -> Option<SessionKey> {
        // The ID's own key, by way of a store that knows no session.
        self.id.as_deref().map(key_of)
    }
}

/// The key of an ID whose session may be gone.
fn key_of(id: &str) -> SessionKey {
    let random = |bytes: &mut [u8]| {
        bytes.copy_from_slice(&WANTED.with_borrow(|id| decode(id)));
        Ok(())
    };
    WANTED.with_borrow_mut(|wanted| id.clone_into(wanted));
    let store = SessionStore::new(InMemoryCache::new()).random(random);
    let runtime = futures_block(async move { store.save(&Session::new()).await });
    let made = runtime.unwrap();
    assert_eq!(made.as_ref(), id);
    made.key()
}

thread_local! {
    static WANTED: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

fn decode(id: &str) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.decode(id).unwrap()
}

/// For futures that wait for nothing.
fn futures_block<F: Future>(future: F) -> F::Output {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => unreachable!("nothing here waits"),
    }
}

type Act =
    Arc<dyn Fn(Session) -> std::pin::Pin<Box<dyn Future<Output = Result<(), SessionError>> + Send>> + Send + Sync>;

/// A request through the layer; `act` is the handler.
async fn visit<C: Cache, F>(
    store: &SessionStore<C>,
    id: Option<&str>,
    act: impl Fn(Session) -> F + Send + Sync + 'static,
) -> Visitor
where
    F: Future<Output = Result<(), SessionError>> + Send + 'static,
{
    let act: Act = Arc::new(move |session| Box::pin(act(session)));
    let handler = service_fn(move |request: Request<()>| {
        let (act, session) = (Arc::clone(&act), request.extensions().get::<Session>().cloned());
        async move {
            let mut response = Response::new(String::new());
            *response.status_mut() = match session {
                None => StatusCode::SERVICE_UNAVAILABLE,
                Some(session) => act(session).await.map_or_else(|error| error.status(), |()| StatusCode::OK),
            };
            Ok::<_, Infallible>(response)
        }
    });
    let mut request = Request::new(());
    if let Some(id) = id {
        request.headers_mut().insert(header::COOKIE, format!("__Host-id={id}").parse().unwrap());
    }
    let response = SessionLayer::new(store.clone()).layer(handler).oneshot(request).await.unwrap();
    let cookie = response.headers().get(header::SET_COOKIE).map(|value| value.to_str().unwrap().to_owned());
    let id = match cookie {
        Some(cookie) if cookie.contains("Max-Age=0") => None,
        Some(cookie) => Some(cookie.split(';').next().unwrap().strip_prefix("__Host-id=").unwrap().to_owned()),
        None => id.map(ToOwned::to_owned),
    };
    Visitor { id, status: response.status() }
}

async fn login<C: Cache>(store: &SessionStore<C>, id: Option<&str>, owner: &'static str) -> Visitor {
    visit(store, id, move |session| async move {
        session.renew();
        session.set("device", "a browser")?;
        session.set_owner(owner)
    })
    .await
}

async fn renew<C: Cache>(store: &SessionStore<C>, visitor: &Visitor) -> Visitor {
    visit(store, visitor.id.as_deref(), |session| async move {
        session.renew();
        Ok(())
    })
    .await
}

async fn keys<C: Cache>(store: &SessionStore<C>, owner: &str) -> HashSet<SessionKey> {
    let sessions = store.sessions_of(owner).await.unwrap();
    let keys: HashSet<_> = sessions.iter().map(cloakroom::SessionInfo::key).collect();
    assert_eq!(keys.len(), sessions.len(), "each once");
    keys
}

fn set(visitors: &[&Visitor]) -> HashSet<SessionKey> {
    visitors.iter().map(|visitor| visitor.key().unwrap()).collect()
}

async fn lives<C: Cache>(store: &SessionStore<C>, visitor: &Visitor) -> bool {
    store.load(visitor.id.as_deref().unwrap()).await.unwrap().is_some()
}

#[tokio::test]
async fn an_owner_stays_through_writes_and_renewals_until_it_is_cleared() {
    for world in World::all().await {
        let store = world.store();
        let visitor = login(&store, None, "alice").await;
        let written = visit(&store, visitor.id.as_deref(), |session| async move {
            assert_eq!(session.owner().as_deref(), Some("alice"));
            session.set("n", 1)
        })
        .await;
        let renewed = renew(&store, &written).await;
        assert_ne!(renewed.id, visitor.id);
        assert_eq!(keys(&store, "alice").await, set(&[&renewed]), "{}", world.name);

        let cleared = visit(&store, renewed.id.as_deref(), |session| async move {
            assert_eq!(session.owner().as_deref(), Some("alice"));
            session.clear_owner()?;
            assert_eq!(session.owner(), None);
            Ok(())
        })
        .await;
        assert!(keys(&store, "alice").await.is_empty(), "{}", world.name);
        let session = store.load(cleared.id.unwrap()).await.unwrap().unwrap();
        assert_eq!((session.owner(), session.get("n")), (None, Some(1)));

        // Given back, it is there again.
        session.set_owner("alice").unwrap();
        session.commit().await.unwrap();
        assert_eq!(keys(&store, "alice").await, HashSet::from([session.key().unwrap()]), "{}", world.name);
        // Another owner's now.
        session.set_owner("bob").unwrap();
        session.commit().await.unwrap();
        assert!(keys(&store, "alice").await.is_empty(), "{}", world.name);
        assert_eq!(keys(&store, "bob").await.len(), 1, "{}", world.name);
        assert_eq!(store.revoke_all("alice").await.unwrap(), 0);
        assert_eq!(store.revoke_all("bob").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_list_tells_what_a_page_of_devices_needs() {
    for world in World::all().await {
        let store = world.store().max_lifetime(Duration::from_secs(3600));
        let before = SystemTime::now() - Duration::from_millis(1);
        let first = login(&store, None, "alice").await;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let second = login(&store, None, "alice").await;
        let _other = login(&store, None, "bob").await;
        let sessions = store.sessions_of("alice").await.unwrap();
        let order: Vec<_> = sessions.iter().map(cloakroom::SessionInfo::key).collect();
        assert_eq!(order, [first.key().unwrap(), second.key().unwrap()], "{}: the oldest first", world.name);
        for session in &sessions {
            assert!(session.created() >= before && session.created() <= SystemTime::now());
            assert_eq!(session.expires(), session.created() + Duration::from_secs(3600));
            assert_eq!(session.get::<String>("device").as_deref(), Some("a browser"));
            assert_eq!(session.get::<u8>("device"), None);
            assert_eq!(session.get::<String>("none"), None);
            assert!(!format!("{session:?}").contains("a browser"));
        }
        // What a page posts back is a key, and a key is no ticket.
        let posted: SessionKey = sessions[0].key().to_string().parse().unwrap();
        assert!(store.load(posted.to_string()).await.unwrap().is_none());
        assert!(store.revoke(&posted).await.unwrap());
        assert!(store.sessions_of("nobody").await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn revoke_says_whether_it_ended_a_session() {
    for world in World::all().await {
        let store = world.store();
        let visitor = login(&store, None, "alice").await;
        let old = visitor.key().unwrap();
        let renewed = renew(&store, &visitor).await;
        assert!(store.revoke(&old).await.unwrap(), "{}: the old key leads to the session", world.name);
        assert!(!lives(&store, &renewed).await);
        assert!(!store.revoke(&old).await.unwrap() && !store.revoke(&renewed.key().unwrap()).await.unwrap());

        // The session ended under its new key: the tombstone leads nowhere.
        let visitor = login(&store, None, "alice").await;
        let renewed = renew(&store, &visitor).await;
        assert!(store.revoke(&renewed.key().unwrap()).await.unwrap());
        assert!(!store.revoke(&visitor.key().unwrap()).await.unwrap(), "{}", world.name);
        assert!(keys(&store, "alice").await.is_empty());
        assert_eq!(world.len(), 0, "{}: nothing is left", world.name);
    }
}

#[tokio::test]
async fn revoke_all_ends_what_is_the_users_and_nothing_else() {
    for world in World::all().await {
        let store = world.store();
        let visitors = [login(&store, None, "alice").await, login(&store, None, "alice").await];
        let renewed = renew(&store, &login(&store, None, "alice").await).await;
        let other = login(&store, None, "bob").await;
        assert_eq!(store.revoke_all("alice").await.unwrap(), 3, "{}", world.name);
        for visitor in visitors.iter().chain([&renewed]) {
            assert!(!lives(&store, visitor).await, "{}", world.name);
        }
        assert!(lives(&store, &other).await);
        assert_eq!(store.revoke_all("alice").await.unwrap(), 0);
        assert_eq!(store.revoke_all("bob").await.unwrap(), 1);
        assert_eq!(world.len(), 0, "{}: no list, no tombstone", world.name);
    }
}

#[tokio::test]
async fn revoke_others_keeps_one_also_by_its_old_key() {
    for world in World::all().await {
        let store = world.store();
        for renewals in 0..3 {
            let mut kept = login(&store, None, "alice").await;
            let key = kept.key().unwrap();
            for _ in 0..renewals {
                kept = renew(&store, &kept).await;
            }
            let other = renew(&store, &login(&store, None, "alice").await).await;
            let another = login(&store, None, "alice").await;
            assert_eq!(store.revoke_others("alice", &key).await.unwrap(), 2, "{} {renewals}", world.name);
            assert_eq!(keys(&store, "alice").await, set(&[&kept]));
            assert!(lives(&store, &kept).await && !lives(&store, &other).await && !lives(&store, &another).await);
            assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
        }
        // A key that leads nowhere keeps nothing.
        let gone = login(&store, None, "alice").await.key().unwrap();
        assert!(store.revoke(&gone).await.unwrap());
        let _one = login(&store, None, "alice").await;
        assert_eq!(store.revoke_others("alice", &gone).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn a_handler_ends_the_other_sessions_whatever_else_it_does() {
    for world in World::all().await {
        let store = world.store();
        for case in 0..4 {
            let other = login(&store, None, "alice").await;
            let id = match case {
                0 => None,
                1 => visit(&store, None, |session| async move { session.set("cart", 1) }).await.id,
                _ => login(&store, None, "alice").await.id,
            };
            let changed = visit(&store, id.as_deref(), move |session| async move {
                // A new password, say.
                if case < 3 {
                    session.renew();
                }
                session.set_owner("alice")?;
                let ended = session.revoke_others().await?;
                assert_eq!(ended, 1);
                Ok(())
            })
            .await;
            assert_eq!(changed.status, StatusCode::OK);
            assert!(!lives(&store, &other).await);
            assert_eq!(keys(&store, "alice").await, set(&[&changed]), "{} {case}", world.name);
            assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
        }
        // Nobody's session has no others.
        let visitor = login(&store, None, "alice").await;
        visit(&store, None, |session| async move {
            assert_eq!(session.revoke_others().await?, 0);
            Ok(())
        })
        .await;
        assert!(lives(&store, &visitor).await);
    }
}

#[tokio::test]
async fn a_session_that_was_ended_ends_no_others() {
    for world in World::all().await {
        let store = world.store();
        let thief = login(&store, None, "alice").await;
        let (ender, key) = (store.clone(), thief.key().unwrap());
        let owner = login(&store, None, "alice").await;
        visit(&store, thief.id.as_deref(), move |session| {
            let store = ender.clone();
            async move {
                assert!(store.revoke(&key).await?);
                assert!(matches!(session.revoke_others().await, Err(SessionError::Gone)));
                Ok(())
            }
        })
        .await;
        assert!(lives(&store, &owner).await, "{}", world.name);
    }
}

#[tokio::test]
async fn a_revoked_session_stays_dead_whatever_is_in_flight() {
    for world in World::all().await {
        let store = world.store();
        for how in 0..4 {
            let visitor = login(&store, None, "alice").await;
            let ender = store.clone();
            let late = visit(&store, visitor.id.as_deref(), move |session| {
                let store = ender.clone();
                async move {
                    assert_eq!(store.revoke_all("alice").await?, 1);
                    match how {
                        0 => session.set("late", true)?,
                        1 => session.renew(),
                        2 => session.set_owner("bob")?,
                        _ => session.touch(),
                    }
                    Ok(())
                }
            })
            .await;
            assert_eq!((late.status, &late.id), (StatusCode::OK, &visitor.id), "{} {how}: no cookie", world.name);
            assert!(!lives(&store, &visitor).await);
            assert!(keys(&store, "alice").await.is_empty() && keys(&store, "bob").await.is_empty());
        }
        assert_eq!(world.len(), 0, "{}: nothing is left", world.name);
    }
}

#[tokio::test]
async fn the_limit_ends_the_oldest() {
    for world in World::all().await {
        let store = world.store().max_sessions_per_owner(2);
        let mut visitors = Vec::new();
        for _ in 0..4 {
            // As a visitor who had a session before the login, and as one who had none.
            let id = if visitors.len() % 2 == 0 {
                None
            } else {
                visit(&store, None, |session| async move { session.set("cart", 1) }).await.id
            };
            let visitor = login(&store, id.as_deref(), "alice").await;
            assert_eq!(visitor.status, StatusCode::OK);
            visitors.push(visitor);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(keys(&store, "alice").await, set(&[&visitors[2], &visitors[3]]), "{}", world.name);
        // A renewal is no new session.
        let renewed = renew(&store, &visitors[3]).await;
        assert_eq!(keys(&store, "alice").await, set(&[&visitors[2], &renewed]), "{}", world.name);
        let again = login(&store, renewed.id.as_deref(), "alice").await;
        assert_eq!(keys(&store, "alice").await, set(&[&visitors[2], &again]), "{}", world.name);
    }
}

#[tokio::test]
async fn the_limit_refuses_if_it_is_told_to() {
    for world in World::all().await {
        let store = world.store().max_sessions_per_owner(1).session_limit_policy(SessionLimitPolicy::Refuse);
        let first = login(&store, None, "alice").await;
        for renews in [true, false] {
            let visitor = visit(&store, None, |session| async move { session.set("cart", 1) }).await;
            let refused = visit(&store, visitor.id.as_deref(), move |session| async move {
                if renews {
                    session.renew();
                }
                session.set_owner("alice")?;
                let refused = session.commit().await;
                assert!(matches!(refused, Err(SessionError::TooManySessions)), "{renews} {refused:?}");
                // The handler can say so, and go on without.
                session.clear_owner()
            })
            .await;
            assert_eq!(refused.status, StatusCode::OK);
            assert_eq!(keys(&store, "alice").await, set(&[&first]), "{}", world.name);
        }
        let refused = login(&store, None, "alice").await;
        assert_eq!((refused.status, refused.id), (StatusCode::INTERNAL_SERVER_ERROR, None));
        assert!(store.revoke(&first.key().unwrap()).await.unwrap());
        assert_eq!(login(&store, None, "alice").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn of_two_new_sessions_at_the_same_moment_one_is_left() {
    for world in World::all().await {
        for (round, policy) in [SessionLimitPolicy::EndOldest, SessionLimitPolicy::Refuse].into_iter().cycle().take(20).enumerate() {
            let owner = ["a", "b"][round % 2];
            let store = world.store().max_sessions_per_owner(1).session_limit_policy(policy);
            world.cache.yield_always(true);
            tokio::join!(login(&store, None, owner), login(&store, None, owner));
            world.cache.yield_always(false);
            let left = keys(&store, owner).await.len();
            let expected = if policy == SessionLimitPolicy::EndOldest { 1..=1 } else { 0..=1 };
            assert!(expected.contains(&left), "{} {policy:?}: {left}", world.name);
            store.revoke_all(owner).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_login_sent_twice_is_one_session_for_the_limit() {
    for world in World::all().await {
        let store = world.store().max_sessions_per_owner(2);
        let other = login(&store, None, "alice").await;
        let visitor = visit(&store, None, |session| async move { session.set("cart", 1) }).await;
        let again = login(&store, visitor.id.as_deref(), "alice");
        let gate = world.cache.hold(Operation::Replace);
        let first = tokio::spawn({
            let (store, id) = (store.clone(), visitor.id.clone());
            async move { login(&store, id.as_deref(), "alice").await }
        });
        gate.arrived().await;
        let again = again.await;
        gate.open();
        first.await.unwrap();
        assert_eq!(keys(&store, "alice").await, set(&[&other, &again]), "{}", world.name);
    }
}

#[tokio::test]
async fn a_destroyed_session_leaves_no_list() {
    for world in World::all().await {
        let store = world.store();
        let first = renew(&store, &login(&store, None, "alice").await).await;
        store.destroy(first.id.unwrap()).await.unwrap();
        assert_eq!(world.len(), 1, "{}: the tombstone alone", world.name);
    }
}

#[tokio::test]
async fn no_key_in_the_cache_names_a_user_unless_it_may() {
    for world in World::all().await {
        for readable in [false, true] {
            let store = world.store().readable_owners(readable);
            let visitor = login(&store, None, "alice@example.org").await;
            let renewed = renew(&store, &visitor).await;
            assert_eq!(keys(&store, "alice@example.org").await, set(&[&renewed]));
            #[allow(unused_mut, reason = "without Redis")]
            let mut names = world.keys.as_ref().map(|keys| keys.0.lock().unwrap().clone()).unwrap_or_default();
            #[cfg(feature = "redis")]
            if let Some(server) = &world.server {
                names = server.command(&["KEYS", "*"]).text().lines().map(ToOwned::to_owned).collect();
            }
            if world.name != "memory" {
                assert!(names.len() >= 3, "{names:?}");
                assert_eq!(names.iter().any(|name| name.contains("alice")), readable, "{}: {names:?}", world.name);
            }
            store.revoke_all("alice@example.org").await.unwrap();
        }
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn every_key_in_redis_ends() {
    let world = World::redis().await;
    let store = world.store().max_lifetime(Duration::from_secs(1000)).ttl(Duration::from_secs(300));
    let visitor = login(&store, None, "alice").await;
    let renewed = renew(&store, &visitor).await;
    let other = login(&store, None, "bob").await;
    visit(&store, other.id.as_deref(), |session| async move { session.clear_owner() }).await;
    visit(&store, renewed.id.as_deref(), |session| async move { session.set_lifetime(Duration::from_secs(2000)) })
        .await;
    let server = world.server.as_ref().unwrap();
    let names = server.command(&["KEYS", "*"]).text();
    for name in names.lines() {
        let left = server.command(&["PTTL", name]).int();
        assert!((1..=3_600_000).contains(&left), "{name}: {left}");
        if name.contains("owner:") {
            assert!(left > 999_000, "a list lives as long as its members: {left}");
        }
    }
}

#[tokio::test]
async fn it_costs_one_operation_and_only_where_the_list_changes() {
    use Operation::{Delete, Get, Insert, List, Replace};
    for world in World::all().await {
        let (store, cache) = (world.store(), &world.cache);
        let cost = |what: &str, expected: &[(Operation, usize)]| {
            let calls = cache.calls();
            for (operation, count) in expected {
                assert_eq!(calls.of(*operation), *count, "{}, {what}: {operation:?} in {calls:?}", world.name);
            }
            assert_eq!(calls.total(), expected.iter().map(|(_, count)| count).sum::<usize>(), "{what}: {calls:?}");
            cache.reset_calls();
        };
        let visitor = login(&store, None, "alice").await;
        cost("a new session with an owner", &[(Insert, 1), (List, 1)]);
        let id = visitor.id.as_deref();
        visit(&store, id, |session| async move {
            let _ = session.owner();
            session.set_owner("alice")
        })
        .await;
        cost("reading, and the owner it has", &[(Get, 1)]);
        visit(&store, id, |session| async move { session.set("n", 1) }).await;
        cost("an ordinary write", &[(Get, 1), (Replace, 1)]);
        visit(&store, id, |session| async move { session.set_lifetime(Duration::from_secs(60 * 60)) }).await;
        cost("an earlier end", &[(Get, 1), (Replace, 1)]);
        visit(&store, id, |session| async move { session.set_owner("bob") }).await;
        cost("another owner", &[(Get, 1), (List, 1), (Replace, 1)]);
        visit(&store, id, |session| async move { session.clear_owner() }).await;
        cost("no owner", &[(Get, 1), (Replace, 1)]);
        visit(&store, id, |session| async move { session.set_owner("alice") }).await;
        cost("an owner", &[(Get, 1), (List, 1), (Replace, 1)]);
        let renewed = renew(&store, &visitor).await;
        cost("a renewal", &[(Get, 1), (Insert, 1), (List, 1), (Replace, 1)]);
        visit(&store, renewed.id.as_deref(), |session| async move {
            session.destroy();
            Ok(())
        })
        .await;
        cost("a destroy", &[(Get, 1), (Delete, 1), (List, 1)]);
        visit(&store, None, |session| async move {
            session.set("n", 1)?;
            session.set_owner("alice")?;
            session.clear_owner()
        })
        .await;
        cost("an owner that was not kept", &[(Insert, 1)]);
    }
}

#[tokio::test]
async fn it_costs_two_with_the_provided_methods() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(SixMethods::new(cache.clone()));
    let total = |what: &str, expected: usize| {
        assert_eq!(cache.calls().total(), expected, "{what}: {:?}", cache.calls());
        cache.reset_calls();
    };
    let first = login(&store, None, "alice").await;
    total("the first session", 1 + 2);
    let second = login(&store, None, "alice").await;
    total("the second", 1 + 2);
    let renewed = renew(&store, &second).await;
    total("a renewal", 3 + 2);
    store.destroy(renewed.id.unwrap()).await.unwrap();
    total("a destroy", 2 + 2);
    store.destroy(first.id.unwrap()).await.unwrap();
    total("the last destroy", 2 + 2);
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn it_costs_redis_one_command() {
    let world = World::redis().await;
    let (store, server) = (world.store(), world.server.as_ref().unwrap());
    // The scripts are known to the server afterwards.
    let warm = renew(&store, &login(&store, None, "alice").await).await;
    store.destroy(warm.id.unwrap()).await.unwrap();
    let commands = || {
        let calls = server.calls();
        let sent = ["get", "set", "evalsha", "eval"];
        sent.map(|name| calls.get(name).copied().unwrap_or_default())
    };
    server.reset_calls();
    let visitor = login(&store, None, "alice").await;
    assert_eq!(commands()[1..], [1, 1, 0], "a SET and the list");
    server.reset_calls();
    store.destroy(visitor.id.unwrap()).await.unwrap();
    assert_eq!(commands()[2..], [2, 0], "the delete and the list");
}

#[tokio::test]
async fn a_dead_member_is_dropped_when_it_is_seen() {
    for world in World::all().await {
        let store = world.store();
        let visitor = login(&store, None, "alice").await;
        // Taking it off the list fails: the session is destroyed all the same.
        world.cache.fail(Operation::List, CacheErrorKind::Unavailable);
        store.destroy(visitor.id.as_deref().unwrap()).await.unwrap();
        assert!(store.sessions_of("alice").await.is_err() && store.revoke_all("alice").await.is_err());
        world.cache.heal();
        assert_ne!(world.bytes(), 0, "{}: the list", world.name);
        assert!(keys(&store, "alice").await.is_empty());
        assert_eq!(world.bytes(), 0, "{}: healed", world.name);
        // A session that cannot be listed is not made.
        world.cache.fail(Operation::List, CacheErrorKind::Unavailable);
        let refused = login(&store, None, "alice").await;
        assert_eq!((refused.status, refused.id), (StatusCode::SERVICE_UNAVAILABLE, None));
        world.cache.heal();
        assert_eq!(world.len(), 0, "{}: nor left behind", world.name);
    }
}

#[tokio::test]
async fn a_list_is_bounded_and_dead_members_make_room() {
    let memory = Arc::new(SixMethods::new(InMemoryCache::new()));
    let store = SessionStore::new(memory.clone()).readable_owners(true);
    let (list, end) = ("cloakroom:owner:alice", SystemTime::now() + Duration::from_secs(3600));
    let first = login(&store, None, "alice").await;
    let full = memory.get(list).await.unwrap().unwrap();
    let members: String = (1..4096).map(|number| format!(",\"{number:043}\":{}", 4_102_444_800_000_u64)).collect();
    let text = format!("{}{members}}}", String::from_utf8_lossy(&full.value).trim_end_matches('}'));
    let expiry = Expiry { idle: Duration::from_secs(3600), end };
    let replaced =
        memory.replace(list, full.version, Entry::new(text.into(), Version::unique()), expiry).await.unwrap();
    assert!(matches!(replaced, Replaced::Done));
    assert_eq!(memory.list_page(list, None, 5000).await.unwrap().len(), 4096);
    let error = memory.list_add(list, "one more", end).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Full);
    // Those members are dead, so a login finds room.
    let second = login(&store, None, "alice").await;
    assert_eq!(second.status, StatusCode::OK);
    assert_eq!(memory.list_page(list, None, 5000).await.unwrap().len(), 2);
    assert_eq!(keys(&store, "alice").await, set(&[&first, &second]));
}

#[tokio::test]
async fn an_unreadable_list_is_an_error_for_everybody_who_needs_it() {
    let memory = Arc::new(SixMethods::new(InMemoryCache::new()));
    let store = SessionStore::new(memory.clone()).readable_owners(true);
    let other = login(&store, None, "bob").await;
    let expiry = Expiry { idle: Duration::from_secs(60), end: SystemTime::now() + Duration::from_secs(60) };
    assert!(memory.insert("cloakroom:owner:alice", Entry::new("?".into(), Version::unique()), expiry).await.unwrap());
    assert_eq!(login(&store, None, "alice").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(store.sessions_of("alice").await.is_err() && store.revoke_all("alice").await.is_err());
    assert!(lives(&store, &other).await);
    assert_eq!(store.revoke_all("bob").await.unwrap(), 1);
}

/// A renewal that has made and listed its successor and is about to bury the old entry; `then` happens meanwhile.
async fn amid_renewal<F: Future>(world: &World, store: &Store, visitor: &Visitor, then: F) -> (Visitor, F::Output) {
    let gate = world.cache.hold(Operation::Replace);
    let renewal = tokio::spawn({
        let (store, visitor) = (store.clone(), visitor.clone());
        async move { renew(&store, &visitor).await }
    });
    gate.arrived().await;
    let output = then.await;
    gate.open();
    (renewal.await.unwrap(), output)
}

#[tokio::test]
async fn a_session_that_is_being_renewed_is_one_session() {
    for world in World::all().await {
        let store = world.store();
        let other = login(&store, None, "alice").await;
        let visitor = login(&store, None, "alice").await;
        let key = visitor.key().unwrap();
        let (renewed, seen) = amid_renewal(&world, &store, &visitor, keys(&store, "alice")).await;
        assert_eq!(seen, set(&[&other, &visitor]), "{}", world.name);
        assert_eq!(keys(&store, "alice").await, set(&[&other, &renewed]));

        // The others end; it goes on.
        let (renewed, ended) = amid_renewal(&world, &store, &renewed, store.revoke_others("alice", &key)).await;
        assert_eq!(ended.unwrap(), 1, "{}", world.name);
        assert_eq!(keys(&store, "alice").await, set(&[&renewed]));
        assert!(lives(&store, &renewed).await);

        // All end, it too.
        let (late, ended) = amid_renewal(&world, &store, &renewed, store.revoke_all("alice")).await;
        assert_eq!(ended.unwrap(), 1, "{}", world.name);
        assert!(!lives(&store, &renewed).await && !lives(&store, &late).await);
        assert!(keys(&store, "alice").await.is_empty());
    }
}

#[tokio::test]
async fn an_owner_given_amid_a_renewal_is_listed_where_the_session_goes() {
    for world in World::all().await {
        let store = world.store();
        let visitor = visit(&store, None, |session| async move { session.set("cart", 1) }).await;
        let session = store.load(visitor.id.as_deref().unwrap()).await.unwrap().unwrap();
        let give = async {
            session.set_owner("alice").unwrap();
            session.commit().await.unwrap();
        };
        let (renewed, ()) = amid_renewal(&world, &store, &visitor, give).await;
        assert_ne!(renewed.id, visitor.id);
        assert_eq!(keys(&store, "alice").await, set(&[&renewed]), "{}", world.name);
        assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
    }
}

#[tokio::test]
async fn an_owner_and_a_later_end_given_at_the_same_time_are_both_listed() {
    let clock = Clock::manual();
    let day = Duration::from_secs(24 * 60 * 60);
    for owner_first in [true, false] {
        let memory = InMemoryCache::builder().clock(clock.clone()).build();
        let cache = TestCache::new(memory.clone());
        let store = SessionStore::new(cache.clone()).clock(clock.clone()).ttl(100 * day);
        let id = store.save(&Session::new()).await.unwrap();
        let (longer, owned) = (store.load(&id).await.unwrap().unwrap(), store.load(&id).await.unwrap().unwrap());
        longer.set_lifetime(90 * day).unwrap();
        owned.set_owner("alice").unwrap();
        let (late, soon) = if owner_first { (longer, owned) } else { (owned, longer) };
        let gate = cache.hold(Operation::Replace);
        let late = tokio::spawn(async move { late.commit().await });
        gate.arrived().await;
        soon.commit().await.unwrap();
        gate.open();
        late.await.unwrap().unwrap();
        clock.advance(60 * day);
        assert_eq!(keys(&store, "alice").await, HashSet::from([id.key()]), "owner first: {owner_first}");
        clock.advance(31 * day);
        assert!(memory.is_empty());
    }
}

#[tokio::test]
async fn a_write_that_fails_shortens_no_listing() {
    let clock = Clock::manual();
    let cache = TestCache::new(InMemoryCache::builder().clock(clock.clone()).build());
    let store = SessionStore::new(cache.clone()).clock(clock.clone());
    let visitor = login(&store, None, "alice").await;
    cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
    let failed = visit(&store, visitor.id.as_deref(), |session| async move {
        session.set_lifetime(Duration::from_secs(60))?;
        session.set_owner("bob")
    })
    .await;
    assert_eq!(failed.status, StatusCode::SERVICE_UNAVAILABLE);
    // And after a conflict.
    let id = visitor.id.as_deref().unwrap();
    let (late, soon) = (store.load(id).await.unwrap().unwrap(), store.load(id).await.unwrap().unwrap());
    late.set_lifetime(Duration::from_secs(60)).unwrap();
    soon.set("n", 1).unwrap();
    let gate = cache.hold(Operation::Replace);
    let late = tokio::spawn(async move { late.commit().await });
    gate.arrived().await;
    soon.commit().await.unwrap();
    cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
    gate.open();
    assert!(late.await.unwrap().is_err());
    clock.advance(Duration::from_secs(3600));
    assert_eq!(keys(&store, "alice").await, set(&[&visitor]));
}

#[tokio::test]
async fn a_session_being_made_is_revoked_or_listed() {
    for world in World::all().await {
        let store = world.store();
        // Not on the list yet.
        let gate = world.cache.hold(Operation::List);
        let making = tokio::spawn({
            let store = store.clone();
            async move { login(&store, None, "alice").await }
        });
        gate.arrived().await;
        assert_eq!(store.revoke_all("alice").await.unwrap(), 0);
        gate.open();
        let visitor = making.await.unwrap();
        assert_eq!(keys(&store, "alice").await, set(&[&visitor]), "{}: listed", world.name);

        // On the list, not the user's yet.
        let visitor = visit(&store, None, |session| async move { session.set("cart", 1) }).await;
        let gate = world.cache.hold(Operation::Replace);
        let making = tokio::spawn({
            let (store, id) = (store.clone(), visitor.id.clone());
            async move { visit(&store, id.as_deref(), |session| async move { session.set_owner("alice") }).await }
        });
        gate.arrived().await;
        assert_eq!(store.revoke_all("alice").await.unwrap(), 1, "{}: the one before", world.name);
        gate.open();
        making.await.unwrap();
        assert_eq!(keys(&store, "alice").await, set(&[&visitor]), "{}: listed", world.name);
        assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
    }
}

const OWNERS: [&str; 3] = ["alice", "bob", "carol"];

#[derive(Clone, Debug)]
enum Step {
    Create(Option<usize>),
    Login(usize, usize),
    Renew(usize),
    Write(usize),
    SetOwner(usize, usize),
    ClearOwner(usize),
    SetLifetime(usize, u64),
    Destroy(usize),
    DestroyInHandler(usize),
    Revoke(usize),
    RevokeByFirstKey(usize),
    RevokeAll(usize),
    RevokeOthers(usize, usize),
    Advance(u64),
}

fn steps(expiries: bool, most: usize) -> impl Strategy<Value = Vec<Step>> {
    let (owner, any) = (0..OWNERS.len(), 0..64_usize);
    let step = prop_oneof![
        4 => proptest::option::of(owner.clone()).prop_map(Step::Create),
        4 => (any.clone(), owner.clone()).prop_map(|(i, o)| Step::Login(i, o)),
        3 => any.clone().prop_map(Step::Renew),
        3 => any.clone().prop_map(Step::Write),
        2 => (any.clone(), owner.clone()).prop_map(|(i, o)| Step::SetOwner(i, o)),
        1 => any.clone().prop_map(Step::ClearOwner),
        2 => (any.clone(), prop_oneof![Just(550), Just(2050)]).prop_map(|(i, s)| Step::SetLifetime(i, s)),
        1 => any.clone().prop_map(Step::Destroy),
        1 => any.clone().prop_map(Step::DestroyInHandler),
        1 => any.clone().prop_map(Step::Revoke),
        1 => any.clone().prop_map(Step::RevokeByFirstKey),
        1 => owner.clone().prop_map(Step::RevokeAll),
        1 => (owner, any).prop_map(|(o, i)| Step::RevokeOthers(o, i)),
        if expiries { 4 } else { 1 } => (if expiries { 1..4_u64 } else { 0..1 }).prop_map(|n| Step::Advance(n * 100)),
    ];
    proptest::collection::vec(step, 1..most)
}

/// Ends lie between the steps of the clock.
const TTL: u64 = 250;
const LIFETIME: u64 = 1050;

#[derive(Clone, Debug)]
struct Model {
    id: String,
    first: SessionKey,
    owner: Option<usize>,
    created: u64,
    idle: u64,
    end: u64,
}

struct Run<C> {
    store: SessionStore<C>,
    clock: Clock,
    now: u64,
    live: Vec<Model>,
}

impl<C: Cache> Run<C> {
    fn at(&self, index: usize) -> Option<usize> {
        (!self.live.is_empty()).then(|| index % self.live.len())
    }

    fn expect(&self, owner: usize) -> HashSet<SessionKey> {
        self.live.iter().filter(|model| model.owner == Some(owner)).map(|model| key_of(&model.id)).collect()
    }

    async fn check(&self, after: &Step) {
        for (number, owner) in OWNERS.iter().enumerate() {
            assert_eq!(keys(&self.store, owner).await, self.expect(number), "{owner} after {after:?}");
        }
    }

    async fn request<F>(&mut self, at: usize, act: impl Fn(Session) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), SessionError>> + Send + 'static,
    {
        let visitor = visit(&self.store, Some(&self.live[at].id), act).await;
        assert_eq!(visitor.status, StatusCode::OK);
        let model = &mut self.live[at];
        model.idle = self.now + TTL;
        model.id = visitor.id.unwrap_or_default();
    }

    #[allow(clippy::too_many_lines, reason = "one arm a step")]
    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Create(owner) => {
                let visitor = visit(&self.store, None, move |session| async move {
                    session.set("n", 0)?;
                    owner.map_or(Ok(()), |owner| session.set_owner(OWNERS[owner]))
                })
                .await;
                let id = visitor.id.unwrap();
                let (created, idle, end) = (self.now, self.now + TTL, self.now + LIFETIME);
                self.live.push(Model { first: key_of(&id), id, owner, created, idle, end });
            }
            Step::Login(index, owner) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, move |session| async move {
                    session.renew();
                    session.set_owner(OWNERS[owner])
                })
                .await;
                self.live[at].owner = Some(owner);
            }
            Step::Renew(index) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, |session| async move {
                    session.renew();
                    Ok(())
                })
                .await;
            }
            Step::Write(index) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, |session| async move {
                    session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).map(drop)
                })
                .await;
            }
            Step::SetOwner(index, owner) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, move |session| async move {
                    session.touch();
                    session.set_owner(OWNERS[owner])
                })
                .await;
                self.live[at].owner = Some(owner);
            }
            Step::ClearOwner(index) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, |session| async move {
                    session.touch();
                    session.clear_owner()
                })
                .await;
                self.live[at].owner = None;
            }
            Step::SetLifetime(index, seconds) => {
                let Some(at) = self.at(index) else { return };
                if self.live[at].created + seconds <= self.now {
                    return;
                }
                self.request(at, move |session| async move {
                    session.touch();
                    session.set_lifetime(Duration::from_secs(seconds))
                })
                .await;
                self.live[at].end = self.live[at].created + seconds;
            }
            Step::Destroy(index) => {
                let Some(at) = self.at(index) else { return };
                let model = self.live.remove(at);
                self.store.destroy(model.id).await.unwrap();
            }
            Step::DestroyInHandler(index) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, |session| async move {
                    session.destroy();
                    Ok(())
                })
                .await;
                self.live.remove(at);
            }
            Step::Revoke(index) => {
                let Some(at) = self.at(index) else { return };
                let key = key_of(&self.live.remove(at).id);
                assert!(self.store.revoke(&key).await.unwrap());
                assert!(!self.store.revoke(&key).await.unwrap());
            }
            Step::RevokeByFirstKey(index) => {
                let Some(at) = self.at(index) else { return };
                // An hour, or the end of the lifetime, after a renewal its tombstone is gone.
                if self.live[at].created + 550 > self.now {
                    let model = self.live.remove(at);
                    assert!(self.store.revoke(&model.first).await.unwrap());
                }
            }
            Step::RevokeAll(owner) => {
                let expected = self.expect(owner).len();
                assert_eq!(self.store.revoke_all(OWNERS[owner]).await.unwrap(), expected);
                self.live.retain(|model| model.owner != Some(owner));
            }
            Step::RevokeOthers(owner, index) => {
                let Some(at) = self.at(index) else { return };
                let kept = self.live[at].id.clone();
                let others = |model: &Model| model.owner == Some(owner) && model.id != kept;
                let expected = self.live.iter().filter(|model| others(model)).count();
                let ended = self.store.revoke_others(OWNERS[owner], &key_of(&kept)).await.unwrap();
                assert_eq!(ended, expected);
                self.live.retain(|model| !others(model));
            }
            Step::Advance(seconds) => {
                self.clock.advance(Duration::from_secs(seconds));
                self.now += seconds;
                let now = self.now;
                self.live.retain(|model| now < model.idle && now < model.end);
            }
        }
    }
}

async fn run<C: Cache>(store: SessionStore<C>, clock: Clock, steps: &[Step], each: bool) -> Run<C> {
    let store = store.ttl(Duration::from_secs(TTL)).max_lifetime(Duration::from_secs(LIFETIME)).clock(clock.clone());
    let mut run = Run { store, clock, now: 0, live: Vec::new() };
    for step in steps {
        run.step(step).await;
        if each {
            run.check(step).await;
        }
    }
    run.check(&Step::Advance(0)).await;
    run
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// And at the end nothing is left: neither if every list was looked at nor if none ever was.
    #[test]
    fn the_list_is_the_set_of_live_sessions(steps in steps(true, 40), each: bool, six: bool, heals: bool) {
        let clock = Clock::manual();
        let memory = InMemoryCache::builder().clock(clock.clone()).build();
        let cache = if six { BoxedCache::new(SixMethods::new(memory.clone())) } else { BoxedCache::new(memory.clone()) };
        runtime().block_on(async {
            let mut run = run(SessionStore::new(cache), clock.clone(), &steps, each).await;
            if heals {
                while !run.live.is_empty() {
                    run.step(&Step::Destroy(0)).await;
                }
            }
            // Past the tombstones, and all ends.
            clock.advance(Duration::from_secs(3700));
            if heals {
                for owner in OWNERS {
                    assert!(keys(&run.store, owner).await.is_empty());
                }
            }
            assert!(memory.is_empty(), "{memory:?}");
        });
    }
}

#[cfg(feature = "redis")]
#[test]
fn the_list_is_the_set_of_live_sessions_in_redis() {
    let server = redis_server::RedisServer::start();
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps(false, 40), each: bool)| {
        runtime().block_on(async {
            let cache = cloakroom::RedisCache::connect(server.url()).await.unwrap();
            let mut run = run(SessionStore::new(cache), Clock::system(), &steps, each).await;
            while !run.live.is_empty() {
                run.step(&Step::Destroy(0)).await;
            }
            // The tombstones' time is over.
            for name in server.command(&["KEYS", "*"]).text().lines().filter(|name| !name.contains("owner:")) {
                server.command(&["DEL", name]);
            }
            for owner in OWNERS {
                assert!(keys(&run.store, owner).await.is_empty());
            }
            assert_eq!(server.command(&["DBSIZE"]).int(), 0);
        });
    });
}

/// A little chance without a dependency.
fn chance(below: u64) -> u64 {
    u64::from(Version::unique()) % below
}

/// Requests of one browser, while others do what they do. Every ID that it was ever given.
async fn browse(store: Store, mut visitor: Visitor, count: usize) -> Vec<String> {
    let mut ids: Vec<String> = visitor.id.iter().cloned().collect();
    for _ in 0..count {
        let what = chance(4);
        visitor = visit(&store, visitor.id.as_deref(), move |session| async move {
            if session.is_new() {
                // Signed out.
                return Ok(());
            }
            match what {
                0 => session.set("n", u64::from(Version::unique()))?,
                1 => session.touch(),
                _ => session.renew(),
            }
            Ok(())
        })
        .await;
        ids.extend(visitor.id.iter().cloned());
    }
    ids
}

async fn revoked_or_listed(world: World, rounds: usize) {
    let store = world.store();
    for round in 0..rounds {
        let owner: &'static str = OWNERS[round % OWNERS.len()];
        let mut old = Vec::new();
        for _ in 0..3 {
            old.push(login(&store, None, owner).await);
        }
        let revoking = tokio::spawn({
            let store = store.clone();
            async move {
                for _ in 0..chance(6) {
                    tokio::task::yield_now().await;
                }
                store.revoke_all(owner).await.unwrap()
            }
        });
        let browsing: Vec<_> = old.into_iter().map(|visitor| tokio::spawn(browse(store.clone(), visitor, 3))).collect();
        let making: Vec<_> = (0..3)
            .map(|how| {
                let store = store.clone();
                tokio::spawn(async move {
                    let id = match how {
                        0 => None,
                        _ => visit(&store, None, |session| async move { session.set("cart", 1) }).await.id,
                    };
                    visit(&store, id.as_deref(), move |session| async move {
                        if how == 2 {
                            session.renew();
                        }
                        session.set("made", true)?;
                        session.set_owner(owner)
                    })
                    .await
                })
            })
            .collect();
        let ended = revoking.await.unwrap();
        assert!((3..=6).contains(&ended), "{}: {ended}", world.name);
        let mut made = HashSet::new();
        for making in making {
            let visitor = making.await.unwrap();
            if lives(&store, &visitor).await {
                made.insert(visitor.key().unwrap());
            }
        }
        for browsing in browsing {
            for id in browsing.await.unwrap() {
                assert!(store.load(&id).await.unwrap().is_none(), "{}: it lives again", world.name);
            }
        }
        assert_eq!(keys(&store, owner).await, made, "{}: what lives is listed, and nothing else", world.name);
        assert_eq!(store.revoke_all(owner).await.unwrap(), made.len());
        assert!(keys(&store, owner).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_all_against_everything_else() {
    for world in World::all().await {
        world.cache.yield_always(true);
        let rounds = if world.name == "six methods" { 50 } else { 200 };
        revoked_or_listed(world, rounds).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_others_never_ends_the_one_it_keeps() {
    for world in World::all().await {
        world.cache.yield_always(true);
        let store = world.store();
        for _ in 0..100 {
            let mut kept = login(&store, None, "alice").await;
            let key = kept.key().unwrap();
            let others = [login(&store, None, "alice").await, login(&store, None, "alice").await];
            let renewing = tokio::spawn({
                let store = store.clone();
                async move {
                    for _ in 0..3 {
                        kept = renew(&store, &kept).await;
                    }
                    kept
                }
            });
            let browsing = others.map(|visitor| tokio::spawn(browse(store.clone(), visitor, 2)));
            for _ in 0..chance(20) {
                tokio::task::yield_now().await;
            }
            assert_eq!(store.revoke_others("alice", &key).await.unwrap(), 2, "{}", world.name);
            let kept = renewing.await.unwrap();
            for browsing in browsing {
                for id in browsing.await.unwrap() {
                    assert!(store.load(&id).await.unwrap().is_none(), "{}: it lives again", world.name);
                }
            }
            assert!(lives(&store, &kept).await, "{}", world.name);
            assert_eq!(keys(&store, "alice").await, set(&[&kept]), "{}", world.name);
            assert_eq!(store.revoke_all("alice").await.unwrap(), 1);
        }
    }
}
