//! Errors that are no failure of the cache: of a value, of a call, of a setting.
use std::{
    pin::Pin,
    time::{Duration, SystemTime},
};

use axum::{Router, routing::get};
use cloakroom::{
    Cache as _, Entry, Expiry, InMemoryCache, LazySession, Session, SessionError, SessionLayer, SessionLimitPolicy,
    SessionStore, Version,
};
use http::StatusCode;

use super::{Cache, Trial, check, told, too_much};
use crate::support::{
    six_methods::{SixMethods, Twist},
    web::{id, send, start},
};

#[test]
fn an_error_that_is_not_of_the_cache() {
    let status = |done: Result<(), SessionError>| done.map(|()| StatusCode::OK);
    check("a value that is too large", 500, &["too_large"], |t| async move {
        t.request(move |session| async move { status(session.set("v", "x".repeat(1 << 20))) }).await
    });
    check("a session that is too large", 500, &["too_large"], |t| async move {
        t.request(move |session| async move { status(too_much(&session)) }).await
    });
    check("a commit that is too large", 500, &["too_large"], |t| async move {
        t.request(move |session| async move {
            too_much(&session)?;
            status(session.commit().await)
        })
        .await
    });
    check("that the handler answers in its own words", 500, &["too_large"], |t| async move {
        t.request(|session| async move {
            too_much(&session)?;
            Ok(session.commit().await.map_or(StatusCode::INTERNAL_SERVER_ERROR, |()| StatusCode::OK))
        })
        .await
    });
    check("that the handler passes over", 500, &["too_large"], |t| async move {
        t.request(|session| async move {
            too_much(&session)?;
            Ok(session.commit().await.map_or(StatusCode::OK, |()| StatusCode::OK))
        })
        .await
    });
    check("that the handler mends", 200, &[], |t| async move {
        t.request(move |session| async move {
            too_much(&session)?;
            session.commit().await.unwrap_err();
            session.remove("a");
            status(session.commit().await)
        })
        .await
    });
    check("a number that JSON does not have", 500, &["encode_error"], |t| async move {
        t.request(move |session| async move { status(session.set("v", f64::NAN)) }).await
    });
    check("a value of another type", 500, &["decode_error"], |t| async move {
        t.request(move |session| async move { status(session.try_get::<bool>("n").map(drop)) }).await
    });
    check("an update of another type", 500, &["decode_error"], |t| async move {
        t.request(move |session| async move { status(session.update("n", |_: Option<bool>| true).map(drop)) }).await
    });
    check("an update at once of another type", 500, &["decode_error"], |t| async move {
        t.request(move |session| async move { status(session.update_now("n", |_: Option<bool>| true).await.map(drop)) })
            .await
    });
    check("a value taken at once of another type", 500, &["decode_error"], |t| async move {
        t.request(move |session| async move { status(session.take_now::<bool>("n").await.map(drop)) }).await
    });
    check("a value that `get` does not give", 200, &["undecodable"], |t| async move {
        t.request(|session| async move {
            assert_eq!(session.get::<bool>("n"), None);
            Ok(StatusCode::OK)
        })
        .await
    });
    check("too many closures", 500, &["session_error"], |t| async move {
        t.request(move |session| async move {
            status((0..2000).try_for_each(|_| session.update("n", |n: Option<u64>| n.unwrap_or(0)).map(drop)))
        })
        .await
    });
    check("a closure that panics when it runs again", 500, &["session_error"], |t| async move {
        let other = t.clone();
        t.request(move |session| {
            let other = other.clone();
            async move {
                session.update("n", |n: Option<u64>| if n == Some(0) { 1 } else { panic!("as the test wants it") })?;
                other.count_elsewhere().await;
                Ok(StatusCode::OK)
            }
        })
        .await
    });
    for (name, call) in [
        (
            "a key that is too long",
            (|session| session.set("k".repeat(1000), 1)) as fn(Session) -> Result<(), SessionError>,
        ),
        ("an idle time of zero", |session| session.set_ttl(Duration::ZERO)),
        ("an owner without a name", |session| session.log_in("")),
        ("a login on a detached handle", |session| session.detach().log_in("bob")),
    ] {
        check(name, 500, &["session_error"], |t| async move {
            t.request(move |session| async move { call(session).map(|()| StatusCode::OK) }).await
        });
    }
    check("a session of no store", 500, &["session_error"], |t| async move {
        t.request(move |_| async move { status(Session::new().commit().await) }).await
    });
    check("a renewal of a detached handle", 500, &["session_error"], |t| async move {
        t.request(move |session| async move {
            let detached = session.detach();
            detached.renew();
            status(detached.commit().await)
        })
        .await
    });
    check("one session too many", 500, &["too_many_sessions"], |t| async move {
        let store = t.store.clone().max_sessions_per_owner(1).session_limit_policy(SessionLimitPolicy::Refuse);
        let one = Session::new();
        one.set_owner("bob").unwrap();
        store.save(&one).await.unwrap();
        let t = Trial { store, ..t };
        t.request(move |session| async move { status(session.log_in("bob")) }).await
    });
    check("no randomness", 503, &["random_error"], |t| async move {
        let t = Trial { store: t.store.clone().random(|_| Err(SessionError::Random)), ..t };
        t.request(move |session| async move {
            session.renew();
            Ok(StatusCode::OK)
        })
        .await
    });
    check("no layer", 500, &["session_error"], |t| async move {
        t.send(Router::new().route("/", get(|_: Session| async {})), false).await.status().as_u16()
    });
    check("no layer, lazily", 500, &["session_error"], |t| async move {
        t.send(Router::new().route("/", get(|_: LazySession| async {})), false).await.status().as_u16()
    });
}

#[test]
fn an_error_of_the_store() {
    type Call = fn(SessionStore<Cache>, String) -> Pin<Box<dyn Future<Output = Result<(), SessionError>> + Send>>;
    let rows: [(&str, u16, &[&str], Call); 6] = [
        ("a text that is no ID", 500, &["session_error"], |store, _| {
            Box::pin(async move { store.save_with_id("x", &Session::new()).await })
        }),
        ("an ID that was renewed away", 500, &["session_error"], |store, id| {
            Box::pin(async move {
                let layer = SessionLayer::new(store.clone());
                let renew = |session: Session| async move {
                    session.renew();
                    200
                };
                send(&layer, Some(&format!("__Host-id={id}")), renew).await;
                store.save_with_id(&id, &Session::new()).await
            })
        }),
        ("a session that is too large", 500, &["too_large"], |store, _| {
            Box::pin(async move {
                let session = Session::new();
                too_much(&session)?;
                store.save(&session).await.map(drop)
            })
        }),
        ("a loaded session that is too large", 500, &["too_large"], |store, id| {
            Box::pin(async move {
                let session = store.load(id).await?.unwrap();
                too_much(&session)?;
                session.commit().await
            })
        }),
        ("a loaded session that has ended", 500, &["session_error"], |store, id| {
            Box::pin(async move {
                let session = store.load(&id).await?.unwrap();
                store.destroy(&id).await?;
                session.set("n", 1)?;
                session.commit().await
            })
        }),
        ("a setting that cannot work", 500, &["setting"], |store, _| {
            Box::pin(async move { store.ttl(Duration::ZERO).save(&Session::new()).await.map(drop) })
        }),
    ];
    for (name, status, events, call) in rows {
        check(name, status, events, |t| async move {
            let (store, id) = (t.store.clone(), id(&t.cookie).to_owned());
            let handler = move || async move { call(store, id).await.map(|()| StatusCode::OK) };
            t.send(Router::new().route("/", get(handler)), false).await.status().as_u16()
        });
    }
    check("others of a session that has ended", 500, &["session_error"], |t| async move {
        let other = t.clone();
        t.request(move |session| {
            let other = other.clone();
            async move {
                other.log_out_elsewhere().await;
                session.revoke_others().await.map(|_| StatusCode::OK)
            }
        })
        .await
    });
}

/// Another process writes the session before each operation.
struct Contended(InMemoryCache);

impl Twist for Contended {
    async fn before(&self, key: &str) {
        let Ok(Some(entry)) = self.0.get(key).await else { return };
        let expiry = Expiry::new(Duration::from_secs(60), SystemTime::now() + Duration::from_secs(60));
        let newer = Entry::new(entry.value, Version::unique());
        let _ = self.0.replace(key, entry.version, newer, expiry).await.unwrap();
    }
}

#[test]
fn others_that_keep_changing_the_session() {
    let (status, events) = told("conflict", async {
        let inner = InMemoryCache::new();
        let cookie = start(&SessionLayer::new(SessionStore::new(inner.clone())), "alice").await;
        let cache = SixMethods { inner: inner.clone(), twist: Contended(inner) };
        let layer = SessionLayer::new(SessionStore::new(cache).deadline(Duration::from_millis(50)));
        let write = |session: Session| async move {
            session.set("n", 1).unwrap();
            200
        };
        send(&layer, Some(&cookie), write).await.status
    });
    assert_eq!((status, events), (503, [("conflict".to_owned(), 1)].into()));
}
