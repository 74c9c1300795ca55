//! Cookies as they come, as they go out, and signed.
use std::convert::Infallible;

use cloakroom::{InMemoryCache, Session, SessionLayer, SessionStore, testing::TestCache};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tower::{Layer as _, ServiceExt, service_fn};

mod reading;
mod setting;
#[cfg(feature = "signed")]
mod signed;

type Cache = TestCache<InMemoryCache>;
type Layer = SessionLayer<Cache>;

struct Trial {
    cache: Cache,
    store: SessionStore<Cache>,
    layer: Layer,
    lazy: Layer,
    /// The IDs of A's and B's sessions.
    a: String,
    b: String,
}

async fn trial() -> Trial {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let layer = SessionLayer::new(store.clone());
    let lazy = SessionLayer::builder(store.clone()).lazy(true).build().unwrap();
    let (a, b) = (stored(&store, "A").await, stored(&store, "B").await);
    Trial { cache, store, layer, lazy, a, b }
}

/// The ID of a session whose `who` is this.
async fn stored(store: &SessionStore<Cache>, who: &str) -> String {
    let session = Session::new();
    session.set("who", who).unwrap();
    store.save(&session).await.unwrap().as_ref().to_owned()
}

/// Who these `Cookie` fields say it is, and the response's headers.
async fn who(layer: &Layer, fields: &[impl AsRef<[u8]>]) -> (Option<String>, HeaderMap) {
    let inner = service_fn(|request: Request<()>| async move {
        let lazy = request.extensions().get::<cloakroom::LazySession>().unwrap();
        let session = lazy.load().await.unwrap();
        assert_eq!(session.is_new(), session.is_empty());
        Ok::<_, Infallible>(Response::new(session.get::<String>("who")))
    });
    let mut request = Request::new(());
    for field in fields {
        request.headers_mut().append(header::COOKIE, HeaderValue::from_bytes(field.as_ref()).unwrap());
    }
    let (parts, body) = layer.layer(inner).oneshot(request).await.unwrap().into_parts();
    (body, parts.headers)
}

fn unknown(fill: char) -> String {
    fill.to_string().repeat(31) + "A"
}

/// 24 bytes are 32 characters with no bit to spare: every such text in the alphabet could be an ID.
fn is_canonical(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn set_cookies(headers: &HeaderMap) -> Vec<&str> {
    headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect()
}

fn login(session: Session) -> std::future::Ready<u16> {
    session.set("who", "A").unwrap();
    std::future::ready(200)
}

fn renew(session: Session) -> std::future::Ready<u16> {
    session.renew();
    std::future::ready(200)
}

fn logout(session: Session) -> std::future::Ready<u16> {
    session.destroy();
    std::future::ready(200)
}

fn remember(session: Session) -> std::future::Ready<u16> {
    session.set_persistent(true).unwrap();
    std::future::ready(200)
}
