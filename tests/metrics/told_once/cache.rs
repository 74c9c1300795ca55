//! The cache fails, whatever the request was about to do.
use axum::{Extension, Router, body::Body, routing::get};
use cloakroom::{CacheErrorKind, LazySession, Session, SessionError, testing::Operation};
use http::StatusCode;
use http_body_util::BodyExt;

use super::{Trial, check, commit, ok, write};
use crate::support::web::id;

const KINDS: [(CacheErrorKind, &str); 6] = [
    (CacheErrorKind::Unavailable, "cache_unavailable"),
    (CacheErrorKind::Timeout, "cache_timeout"),
    (CacheErrorKind::Refused, "cache_refused"),
    (CacheErrorKind::Full, "cache_full"),
    (CacheErrorKind::Unsupported, "cache_error"),
    (CacheErrorKind::Other, "cache_error"),
];

#[test]
fn a_failure_of_the_cache() {
    for (kind, event) in KINDS {
        check("load", 503, &[event], |t| async move { t.fail(Operation::Get, kind).request(ok).await });
        check("commit", 503, &[event], |t| async move { t.fail(Operation::Replace, kind).request(write).await });
        check("commit that the handler calls for", 503, &[event], |t| async move {
            t.fail(Operation::Replace, kind).request(commit).await
        });
        check("login", 503, &[event], |t| async move {
            t.fail(Operation::Insert, kind)
                .request(|session| async move { session.log_in("bob").map(|()| StatusCode::OK) })
                .await
        });
        check("logout", 503, &[event], |t| async move {
            let log_out = |session: Session| async move {
                session.destroy();
                Ok(StatusCode::OK)
            };
            t.fail(Operation::Delete, kind).request(log_out).await
        });
        check("touch", 503, &[event], |t| async move {
            let touch = |session: Session| async move {
                session.touch();
                Ok(StatusCode::OK)
            };
            t.fail(Operation::Touch, kind).request(touch).await
        });
        check("reload", 503, &[event], |t| async move {
            let cache = t.cache.clone();
            t.request(move |session| {
                cache.fail(Operation::Get, kind);
                async move { session.reload().await.map(|()| StatusCode::OK) }
            })
            .await
        });
        check("a call of the store", 503, &[event], |t| async move {
            let (store, cookie) = (t.store.clone(), t.cookie.clone());
            let handler = move || async move { store.load(id(&cookie)).await.map(|_| StatusCode::OK) };
            t.fail(Operation::Get, kind).send(Router::new().route("/", get(handler)), false).await.status().as_u16()
        });
    }
}

#[test]
fn an_outage_and_what_the_handler_makes_of_it() {
    use CacheErrorKind::{Timeout, Unavailable};
    check("an extension that is not there", 500, &["cache_unavailable"], |t| async move {
        // With a lazy layer there is no such extension; the handler asks for what there is.
        let app = if t.lazy {
            Router::new().route(
                "/",
                get(|Extension(lazy): Extension<LazySession>| async move {
                    lazy.load().await.map_or(StatusCode::INTERNAL_SERVER_ERROR, |_| StatusCode::OK)
                }),
            )
        } else {
            Router::new().route("/", get(|_: Extension<Session>| async {}))
        };
        t.fail(Operation::Get, Unavailable).send(app, true).await.status().as_u16()
    });
    check("an answer of the handler's own", 500, &["cache_unavailable"], |t| async move {
        let handler = |session| async move { Ok(commit(session).await.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)) };
        t.fail(Operation::Replace, Unavailable).request(handler).await
    });
    check("asked for twice", 503, &["cache_unavailable"], |t| async move {
        let handler = |lazy: LazySession, session: Result<Session, SessionError>| async move {
            (lazy.load().await.and(session)).map(|_| StatusCode::OK)
        };
        t.fail(Operation::Get, Unavailable).send(Router::new().route("/", get(handler)), true).await.status().as_u16()
    });
    check("two commits that fail", 503, &["cache_unavailable"; 2], |t| async move {
        let handler = |session| async move { Ok(commit(session).await.unwrap_or(StatusCode::OK)) };
        t.fail(Operation::Replace, Unavailable).request(handler).await
    });
    check("a write that is stored all the same", 200, &["cache_timeout"], |t| async move {
        t.cache.lose_reply(Operation::Replace);
        t.request(|session| async move { Ok(commit(session).await.unwrap_or(StatusCode::OK)) }).await
    });
    check("a write that turns out to be lost", 200, &["cache_timeout", "dropped_by_error"], |t| async move {
        let other = t.clone();
        t.request(move |session| {
            let other = other.clone();
            async move {
                other.cache.fail_once(Operation::Replace, Timeout);
                commit(session).await.unwrap_err();
                other.count_elsewhere().await;
                Ok(StatusCode::OK)
            }
        })
        .await
    });
    check("the session is read while the body is streamed", 200, &["cache_unavailable"], |t| async move {
        let handler = |lazy: LazySession| async move {
            Body::from_stream(futures_util::stream::once(async move {
                Ok::<_, std::io::Error>(if lazy.load().await.is_ok() { "a" } else { "b" })
            }))
        };
        let lazy = Trial { lazy: true, ..t };
        let response = lazy.fail(Operation::Get, Unavailable).send(Router::new().route("/", get(handler)), true).await;
        let status = response.status().as_u16();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "b");
        status
    });
    check("an entry is left behind as well", 503, &["cache_unavailable", "cleanup_failed"], |t| async move {
        t.fail(Operation::List, Unavailable).fail(Operation::Delete, Unavailable);
        t.request(|session| async move { session.log_in("bob").map(|()| StatusCode::OK) }).await
    });
}
