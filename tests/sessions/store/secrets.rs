//! Nothing secret in logs, errors and `Debug`.
use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use cloakroom::{
    Bytes, Cache, CacheErrorKind, Entry, Expiry, InMemoryCache, Session, SessionLayer, SessionStore, Version,
    testing::{Operation, TestCache},
};

use crate::support::{
    log::Log,
    web::{send, start},
};

#[test]
fn no_log_and_no_debug_shows_a_secret() {
    let (log, _recording) = Log::record();
    let mut shown = String::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut secrets = vec!["canary".to_owned()];
    runtime.block_on(async {
        let cache = TestCache::new(InMemoryCache::new());
        let store = SessionStore::new(cache.clone());
        let layer = SessionLayer::new(store.clone());
        for fails in [None, Some(Operation::Replace), Some(Operation::Get), Some(Operation::Delete)] {
            let cookie = start(&layer, "alice").await;
            secrets.push(cookie.split_once('=').unwrap().1.to_owned());
            for session in store.sessions_of("alice").await.unwrap() {
                secrets.push(session.key().to_string());
                write!(shown, "{session:?}{session:#?}").unwrap();
            }
            for does in 0..5 {
                if let Some(operation) = fails {
                    cache.fail_once(operation, CacheErrorKind::Unavailable);
                }
                let reply = send(&layer, Some(&cookie), move |session| async move {
                    session.set("data", "canary").unwrap();
                    let _ = session.get::<u64>("data");
                    match does {
                        0 => {}
                        1 => session.renew(),
                        2 => session.destroy(),
                        3 => drop(session.commit().await),
                        _ => return 500,
                    }
                    session.set("data", format!("{session:?}{session:#?}")).unwrap();
                    200
                })
                .await;
                secrets.extend(reply.cookie().and_then(|cookie| Some(cookie.split_once('=')?.1.to_owned())));
                write!(shown, "{:?}", reply.headers).unwrap();
            }
            send(&layer, Some("__Host-id=canary\u{e9}"), |_| async { 200 }).await;
            cache.heal();
        }
        let id = store.save(&Session::new()).await.unwrap();
        secrets.push(id.as_ref().to_owned());
        write!(shown, "{store:?}{layer:?}{cache:?}{id:?}{:?}{:#?}", id.key(), store.load(&id).await).unwrap();
        let entry = cache.get(&format!("cloakroom:{}", id.key())).await.unwrap();
        write!(shown, "{entry:?}{:?}", store.load("x").await).unwrap();
    });
    let log = log.text() + &shown;
    for event in ["session created", "session renewed", "session destroyed"] {
        assert!(log.contains(event), "{event}");
    }
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        assert!(!log.contains(secret.as_str()), "{secret} in {log}");
    }
}

#[tokio::test]
async fn debug_of_everything_public_is_free_of_secrets() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let session = Session::new();
    session.set("canary-key", "canary-value").unwrap();
    let id = store.save(&session).await.unwrap();
    let key = format!("cloakroom:{}", id.key());
    let entry = cache.get(&key).await.unwrap().unwrap();
    let version = cloakroom::Version::unique();
    let builder = SessionLayer::builder(store.clone());
    #[cfg(feature = "signed")]
    let builder = builder.signing_keys([cloakroom::SigningKey::from_bytes(&[b'c'; 64]).unwrap()]);
    let mut shown = vec![format!("{builder:?} {builder:#?}")];
    let layer = builder.build().unwrap();
    let service = tower::Layer::layer(
        &layer,
        tower::service_fn(|request: http::Request<()>| async move {
            let lazy = request.extensions().get::<cloakroom::LazySession>().unwrap();
            let before = format!("{lazy:?} {lazy:#?}");
            lazy.load().await.unwrap().get::<String>("canary-key");
            Ok::<_, std::convert::Infallible>(http::Response::new(format!("{before} {lazy:?} {lazy:#?}")))
        }),
    );
    let cookie = format!("__Host-id={}", id.as_ref());
    let request = http::Request::get("/").header(http::header::COOKIE, cookie).body(()).unwrap();
    let mut ready = service.clone();
    let future = tower::Service::call(&mut ready, request);
    shown.push(format!("{future:?} {layer:?} {layer:#?} {store:?} {store:#?}"));
    shown.push(future.await.unwrap().into_body());
    let missing = cache.delete(&key, version).await.unwrap();
    let conflict = cache
        .replace(
            &key,
            version,
            Entry::new(Bytes::new(), Version::unique()),
            Expiry::new(Duration::MAX, SystemTime::now()),
        )
        .await;
    shown.push(format!("{entry:?} {entry:#?} {missing:?} {conflict:?} {:?}", store.load(&id).await));
    shown.push(format!("{session:?} {session:#?} {id:?} {id:#?} {cache:?} {:?} {:#?}", cache.inner(), cache.inner()));
    shown.push(format!("{:?} {:?}", cloakroom::BoxedCache::new(InMemoryCache::new()), InMemoryCache::builder()));
    session.set("n", 1).unwrap();
    let errors = [
        session.set("canary-key", f64::NAN).unwrap_err(),
        session.set("canary-key", "canary-value".repeat(10_000)).unwrap_err(),
        session.set("canary-key".repeat(100), 1).unwrap_err(),
        session.commit().await.unwrap_err(),
        store.save_with_id("canary-value", &session).await.unwrap_err(),
    ];
    shown.extend(errors.iter().map(|error| format!("{error} {error:?} {error:#?}")));
    for shown in shown {
        for secret in ["canary", id.as_ref(), "cccccccc", "99, 99, 99"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
}

#[test]
fn an_error_of_another_type_does_not_quote_the_value() {
    let session = Session::new();
    session.set("canary-key", "canary-value").unwrap();
    for error in [
        session.try_get::<u64>("canary-key").unwrap_err(),
        session.take::<u64>("canary-key").unwrap_err(),
        session.update("canary-key", |n: Option<u64>| n.unwrap_or_default()).unwrap_err(),
    ] {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let shown = format!("{error} {error:?} {error:#?} {source:?}");
        assert!(shown.contains("canary-key") && !shown.contains("canary-value"), "{shown}");
    }
}
