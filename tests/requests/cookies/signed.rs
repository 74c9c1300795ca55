//! Signed cookies: what is forged costs nothing, and an old key is replaced.
use std::convert::Infallible;

use cloakroom::{CacheErrorKind, SessionLayer, SessionStore, SigningKey};
use http::{Request, Response, header};
use tower::{Layer as _, ServiceExt, service_fn};

use super::{Cache, Layer, login, logout, renew, set_cookies, trial, unknown, who};
use crate::support::web::send;

fn key(fill: u8) -> SigningKey {
    SigningKey::from_bytes(&[fill; 64]).unwrap()
}

/// Layers that know only the old key, both (the new one first), and only the new one.
fn layers(store: &SessionStore<Cache>) -> [Layer; 3] {
    [vec![1], vec![2, 1], vec![2]]
        .map(|keys| SessionLayer::builder(store.clone()).signing_keys(keys.into_iter().map(key)).build().unwrap())
}

async fn begin(layer: &Layer) -> String {
    send(layer, None, login).await.cookie().unwrap()
}

#[tokio::test]
async fn keys_that_protect_nothing_do_not_build() {
    let store = trial().await.store;
    for keys in [vec![], vec![key(1), key(1)]] {
        let error = SessionLayer::builder(store.clone()).signing_keys(keys).build().unwrap_err();
        assert_eq!(error.setting(), "signing_keys", "{error}");
    }
}

#[tokio::test]
async fn a_bad_signature_costs_no_look_up() {
    let trial = trial().await;
    let [old, both, new] = layers(&trial.store);
    let cookie = begin(&old).await;
    let (id, signature) = cookie["__Host-id=".len()..].split_once('.').unwrap();
    assert_eq!((id.len(), signature.len()), (32, 43));
    let flipped: String = signature.chars().rev().collect();
    let other = begin(&old).await;
    let (other_id, other_signature) = other["__Host-id=".len()..].split_once('.').unwrap();
    trial.cache.reset_calls();
    for value in [
        id.to_owned(),
        format!("{id}."),
        format!("{id}.{flipped}"),
        format!("{id}.{other_signature}"),
        format!("{other_id}.{signature}"),
        format!("{id}.{signature}A"),
        format!("{id}.{}", &signature[..42]),
        format!("{id}.{signature}="),
        format!("{id}{signature}"),
        format!("{id}..{signature}"),
        format!("{id}-{signature}"),
        format!("{}.{signature}", unknown('q')),
    ] {
        for layer in [&old, &both] {
            let (found, headers) = who(layer, &[format!("__Host-id={value}")]).await;
            assert_eq!((found, headers.get(header::SET_COOKIE)), (None, None), "{value}");
        }
    }
    // Of a key that was retired, for a layer that wants none, and of a cookie of another name.
    for layer in [&new, &trial.layer] {
        assert_eq!(who(layer, &[&cookie]).await.0, None);
    }
    let renamed =
        SessionLayer::builder(trial.store.clone()).cookie_name("__Host-other").signing_keys([key(1)]).build().unwrap();
    assert_eq!(who(&renamed, &[cookie.replace("__Host-id", "__Host-other")]).await.0, None);
    assert_eq!(trial.cache.calls().total(), 0);
    assert_eq!(who(&old, &[&cookie]).await.0.as_deref(), Some("A"));
    assert_eq!(trial.cache.calls().total(), 1);
}

#[tokio::test]
async fn an_old_key_is_replaced_once() {
    let trial = trial().await;
    let [old, both, new] = layers(&trial.store);
    let cookie = begin(&old).await;
    let (found, headers) = who(&both, &[&cookie]).await;
    assert_eq!(found.as_deref(), Some("A"));
    let [set] = set_cookies(&headers)[..] else { panic!("issued again: {headers:?}") };
    let (pair, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, "HttpOnly; SameSite=Lax; Secure; Path=/");
    assert_eq!(pair.split_once('.').unwrap().0, cookie.split_once('.').unwrap().0, "the same ID");
    let (found, headers) = who(&both, &[pair]).await;
    assert_eq!((found.as_deref(), set_cookies(&headers).len()), (Some("A"), 0), "only once");
    assert_eq!(who(&new, &[pair]).await.0.as_deref(), Some("A"));
}

#[tokio::test]
async fn only_what_is_live_is_issued_again() {
    let trial = trial().await;
    let [old, both, _] = layers(&trial.store);
    let (one, two) = (begin(&old).await, begin(&old).await);
    let none: [&str; 0] = [];
    // Of two live ones, neither counts.
    for both_live in [format!("{one}; {two}"), format!("{two}; {one}")] {
        assert_eq!(set_cookies(&who(&both, &[both_live]).await.1), none);
    }
    // The cache is down.
    trial.cache.fail_all(CacheErrorKind::Unavailable);
    let reply = send(&both, Some(&one), |_| async { 200 }).await;
    assert_eq!((reply.status, set_cookies(&reply.headers)), (503, vec![]));
    trial.cache.heal();
    // It was not asked for, so it is not known whether it lives.
    let lazy = SessionLayer::builder(trial.store.clone()).signing_keys([key(2), key(1)]).lazy(true).build().unwrap();
    trial.cache.reset_calls();
    let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
    let request = Request::get("/").header(header::COOKIE, &one).body(()).unwrap();
    let response = lazy.layer(inner).oneshot(request).await.unwrap();
    assert_eq!((set_cookies(response.headers()), trial.cache.calls().total()), (vec![], 0));
    // Renewed and destroyed in the same request: one cookie each, of the new ID and the removal.
    let reply = send(&both, Some(&one), renew).await;
    assert_eq!(set_cookies(&reply.headers).len(), 1);
    assert_ne!(reply.cookie().unwrap().split('.').next(), one.split('.').next());
    assert_eq!(set_cookies(&who(&both, &[&one]).await.1), none, "a tombstone");
    let reply = send(&both, Some(&two), logout).await;
    assert_eq!(reply.cookie().as_deref(), Some("__Host-id="));
    assert_eq!(set_cookies(&who(&both, &[&two]).await.1), none, "destroyed");
}

/// What ends the session while a request of it is under way.
#[derive(Clone, Copy, Debug)]
enum End {
    Destroyed,
    Renewed,
}

async fn ended_meanwhile(write: bool, end: End) {
    let trial = trial().await;
    let [old, both, _] = layers(&trial.store);
    let cookie = begin(&old).await;
    let (other, sent) = (both.clone(), cookie.clone());
    let reply = send(&both, Some(&cookie), move |session| {
        let (other, sent) = (other.clone(), sent.clone());
        async move {
            assert_eq!(session.get::<String>("who").as_deref(), Some("A"));
            if write {
                session.set("late", true).unwrap();
            }
            match end {
                End::Destroyed => send(&other, Some(&sent), logout).await,
                End::Renewed => send(&other, Some(&sent), renew).await,
            };
            200
        }
    })
    .await;
    assert_eq!((reply.status, set_cookies(&reply.headers)), (200, vec![]), "write: {write}, {end:?}");
}

#[tokio::test]
async fn a_session_that_ended_under_a_writing_request_is_not_issued_again() {
    ended_meanwhile(true, End::Destroyed).await;
    ended_meanwhile(true, End::Renewed).await;
}

#[tokio::test]
async fn a_session_destroyed_under_a_reading_request_is_not_issued_again() {
    ended_meanwhile(false, End::Destroyed).await;
}

/// The old ID would take the place of the one that the renewal gave the browser.
#[tokio::test]
async fn a_session_renewed_under_a_reading_request_is_not_issued_again() {
    ended_meanwhile(false, End::Renewed).await;
}

#[tokio::test]
async fn an_outage_at_the_end_costs_a_reading_request_nothing_but_the_new_signature() {
    let trial = trial().await;
    let [old, both, _] = layers(&trial.store);
    let cookie = begin(&old).await;
    let cache = trial.cache.clone();
    let reply = send(&both, Some(&cookie), move |_| {
        cache.fail_all(CacheErrorKind::Unavailable);
        async { 200 }
    });
    let reply = reply.await;
    assert_eq!((reply.status, set_cookies(&reply.headers)), (200, vec![]));
    trial.cache.heal();
    assert_eq!(set_cookies(&who(&both, &[&cookie]).await.1).len(), 1);
}

#[tokio::test]
async fn a_dead_neighbour_of_an_old_key_is_no_reason_to_issue() {
    let trial = trial().await;
    let [old, both, new] = layers(&trial.store);
    let (dead, live) = (begin(&old).await, begin(&new).await);
    send(&old, Some(&dead), logout).await;
    for pair in [format!("{dead}; {live}"), format!("{live}; {dead}")] {
        let (found, headers) = who(&both, &[pair]).await;
        assert_eq!((found.as_deref(), set_cookies(&headers)), (Some("A"), vec![]));
    }
}
