//! The sessions of a user: listed, ended one by one or all at once, limited, and never alive unseen.
mod from_a_form;
mod limit;
mod lists;
mod long_chains;
mod many;
mod model;
mod races;
mod renewals;
mod revoking;
mod session_info;

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use std::any::Any;
use std::{
    collections::{BTreeSet, HashSet},
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use cloakroom::{
    BoxedCache, Cache, CacheErrorKind, Clock, Entry, Expiry, InMemoryCache, Replaced, Session, SessionError,
    SessionKey, SessionLayer, SessionLimitPolicy, SessionStore, Version,
    testing::{Operation, TestCache},
};
use http::{Request, Response, StatusCode, header};
use tower::{Layer, ServiceExt, service_fn};

#[cfg(any(
    feature = "encryption",
    feature = "redis",
    feature = "sqlite",
    feature = "postgres",
    feature = "mysql"
))]
use crate::support::caches;
#[cfg(feature = "redis")]
use crate::support::redis_server::RedisServer;
use crate::support::six_methods::{SixMethods, Twist};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::support::sql_view::SqlView;

/// The keys that a cache was asked for.
#[derive(Clone, Debug, Default)]
struct Keys(Arc<Mutex<BTreeSet<String>>>);

impl Twist for Keys {
    async fn before(&self, key: &str) {
        self.0.lock().unwrap().insert(key.to_owned());
    }
}

/// What the cache stores.
enum Stored {
    Memory(InMemoryCache),
    #[cfg(feature = "redis")]
    Redis(RedisServer),
    /// And what has to live as long.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    Sql(SqlView, #[allow(dead_code, reason = "dropped at the end")] Box<dyn Any + Send + Sync>),
}

impl Stored {
    /// How many entries there are; in SQL, members of lists as well.
    fn len(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.len(),
            #[cfg(feature = "redis")]
            Self::Redis(server) => usize::try_from(server.command(&["DBSIZE"]).int()).unwrap(),
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            Self::Sql(view, _) => view.keys().len(),
        }
    }

    /// What entries and lists take in memory; elsewhere their number.
    fn bytes(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.bytes(),
            #[cfg(any(feature = "redis", feature = "sqlite", feature = "postgres", feature = "mysql"))]
            _ => self.len(),
        }
    }

    /// The keys of entries and lists, where they can be seen.
    fn keys(&self) -> Vec<String> {
        match self {
            Self::Memory(_) => Vec::new(),
            #[cfg(feature = "redis")]
            Self::Redis(server) => {
                let keys = server.command(&["KEYS", "*"]).text();
                keys.lines().filter(|key| !key.is_empty()).map(ToOwned::to_owned).collect()
            }
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            Self::Sql(view, _) => view.keys(),
        }
    }

    /// All but the lists.
    #[cfg(any(feature = "redis", feature = "sqlite", feature = "postgres", feature = "mysql"))]
    fn delete_entries(&self) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "redis")]
            Self::Redis(server) => {
                for key in self.keys().iter().filter(|key| !key.contains("owner:")) {
                    server.command(&["DEL", key]);
                }
            }
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            Self::Sql(view, _) => view.delete_entries(),
        }
    }
}

/// A cache, and what it stores.
struct World {
    name: &'static str,
    cache: TestCache<BoxedCache>,
    stored: Stored,
    keys: Option<Keys>,
}

type Store = SessionStore<TestCache<BoxedCache>>;

impl World {
    fn of(name: &'static str, cache: impl Cache, stored: Stored) -> Self {
        Self { name, cache: TestCache::new(BoxedCache::new(cache)), stored, keys: None }
    }

    fn memory() -> Self {
        let memory = InMemoryCache::new();
        Self::of("memory", memory.clone(), Stored::Memory(memory))
    }

    fn six() -> Self {
        let memory = InMemoryCache::new();
        let keys = Keys::default();
        let six = SixMethods { inner: memory.clone(), twist: keys.clone() };
        Self { keys: Some(keys), ..Self::of("six methods", six, Stored::Memory(memory)) }
    }

    /// Encrypted, with nothing but the six methods inside.
    #[cfg(feature = "encryption")]
    fn encrypted() -> Self {
        let memory = InMemoryCache::new();
        let keys = Keys::default();
        let cache = caches::encrypt(SixMethods { inner: memory.clone(), twist: keys.clone() });
        Self { keys: Some(keys), ..Self::of("encrypted six methods", cache, Stored::Memory(memory)) }
    }

    #[cfg(all(feature = "encryption", feature = "redis"))]
    async fn encrypted_redis() -> Self {
        let (server, cache) = caches::redis().await;
        Self::of("encrypted Redis", caches::encrypt(cache), Stored::Redis(server))
    }

    #[cfg(all(feature = "encryption", feature = "sqlite"))]
    async fn encrypted_sqlite() -> Self {
        let (file, cache) = caches::sqlite().await;
        Self::of("encrypted SQLite", caches::encrypt(cache), Stored::Sql(file.view(), Box::new(file)))
    }

    #[cfg(feature = "redis")]
    async fn redis() -> Self {
        let (server, cache) = caches::redis().await;
        Self::of("Redis", cache, Stored::Redis(server))
    }

    #[cfg(feature = "sqlite")]
    async fn sqlite() -> Self {
        let (file, cache) = caches::sqlite().await;
        Self::of("SQLite", cache, Stored::Sql(file.view(), Box::new(file)))
    }

    #[cfg(feature = "postgres")]
    async fn postgres() -> Self {
        let (tables, cache) = caches::postgres().await;
        Self::of("PostgreSQL", cache, Stored::Sql(tables.view(), Box::new(tables)))
    }

    #[cfg(feature = "mysql")]
    async fn mariadb() -> Self {
        let (tables, cache) = caches::mariadb().await;
        Self::of("MariaDB", cache, Stored::Sql(tables.view(), Box::new(tables)))
    }

    async fn all() -> Vec<Self> {
        vec![
            Self::memory(),
            Self::six(),
            #[cfg(feature = "encryption")]
            Self::encrypted(),
            #[cfg(all(feature = "encryption", feature = "redis"))]
            Self::encrypted_redis().await,
            #[cfg(all(feature = "encryption", feature = "sqlite"))]
            Self::encrypted_sqlite().await,
            #[cfg(feature = "redis")]
            Self::redis().await,
            #[cfg(feature = "sqlite")]
            Self::sqlite().await,
            #[cfg(feature = "postgres")]
            Self::postgres().await,
            #[cfg(feature = "mysql")]
            Self::mariadb().await,
        ]
    }

    fn store(&self) -> Store {
        SessionStore::new(self.cache.clone()).deadline(Duration::from_secs(20))
    }

    fn len(&self) -> usize {
        self.stored.len()
    }

    fn bytes(&self) -> usize {
        self.stored.bytes()
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

const OWNERS: [&str; 3] = ["alice", "bob", "carol"];
