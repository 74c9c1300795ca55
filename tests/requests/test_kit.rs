//! What `cloakroom::testing` gives to the tests of users.
use std::time::Duration;

use cloakroom::{InMemoryCache, Session, SessionId, SessionLayer, SessionStore, testing};
use http::{Request, Response, header};

use crate::support::request::serve;

type Layer = SessionLayer<InMemoryCache>;

/// A stored session.
async fn saved(store: &SessionStore<InMemoryCache>) -> SessionId {
    let session = Session::new();
    session.set("user", "alice").unwrap();
    store.save(&session).await.unwrap()
}

/// Whose session the layer finds in a request with the cookie that `testing::cookie` makes for `cookies_of`.
async fn user(layer: &Layer, cookies_of: &Layer, id: &SessionId) -> Option<String> {
    let request = Request::get("/").header(header::COOKIE, testing::cookie(cookies_of, id)).body(()).unwrap();
    let answer = |request: Request<()>| async move {
        let session = request.extensions().get::<Session>().unwrap();
        Response::new(session.get::<String>("user").unwrap_or_default())
    };
    let response = serve(layer, request, answer).await;
    assert!(!response.headers().contains_key(header::SET_COOKIE), "it is the cookie that a browser would have");
    Some(response.into_body()).filter(|user| !user.is_empty())
}

#[tokio::test]
async fn the_cookie_of_a_layer_opens_its_session() {
    let store = SessionStore::new(InMemoryCache::new());
    let id = saved(&store).await;
    let plain = SessionLayer::new(store.clone());
    let named = SessionLayer::builder(store.clone()).cookie_name("sid").build().unwrap();
    for layer in [&plain, &named] {
        assert_eq!(user(layer, layer, &id).await.as_deref(), Some("alice"));
    }
    assert_eq!(user(&plain, &named, &id).await, None, "a cookie of another name");
    let cookie = testing::cookie(&named, &id);
    assert_eq!(cookie.to_str().unwrap(), format!("sid={}", id.as_ref()));
    assert!(cookie.is_sensitive());
}

#[cfg(feature = "signed")]
#[tokio::test]
async fn the_cookie_of_a_layer_that_signs_is_signed_by_its_first_key() {
    use cloakroom::SigningKey;

    let store = SessionStore::new(InMemoryCache::new());
    let id = saved(&store).await;
    let (one, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let signed = |keys: &[&SigningKey]| {
        SessionLayer::builder(store.clone()).signing_keys(keys.iter().copied().cloned()).build().unwrap()
    };
    let both = signed(&[&one, &other]);
    assert_eq!(user(&both, &both, &id).await.as_deref(), Some("alice"));
    assert_eq!(user(&signed(&[&one]), &both, &id).await.as_deref(), Some("alice"));
    assert_eq!(user(&signed(&[&other]), &both, &id).await, None);
    assert_eq!(user(&both, &SessionLayer::new(store.clone()), &id).await, None, "without a signature");
}

/// As on a busy machine, every operation and every wait takes longer than the first idle time leaves room for.
#[tokio::test]
async fn a_busy_machine_breaks_no_sentence_of_the_cache_contract() {
    let busy = tokio::spawn(async {
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(200));
            tokio::task::yield_now().await;
        }
    });
    testing::cache_contract(|| async { InMemoryCache::new() }, None).await;
    busy.await.unwrap();
}
