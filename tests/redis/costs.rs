//! What a request costs Redis, by the server's own count: the table of costs, row by row.
use std::collections::BTreeMap;

use axum::{Router, body::Body, routing::get};
use cloakroom::{RedisCache, Refresh, Session, SessionLayer, SessionStore};
use http::{Request, header};
use tower::ServiceExt;

use crate::support::redis_server::RedisServer;

fn routes() -> Router {
    Router::new()
        .route("/none", get(|| async { "no session here" }))
        .route("/read", get(|session: Session| async move { session.get::<u64>("n").unwrap_or_default().to_string() }))
        .route(
            "/write",
            get(|session: Session| async move { session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).map(|_| ()) }),
        )
        .route("/same", get(|session: Session| async move { session.set("kind", "same") }))
        .route("/renew", get(|session: Session| async move { session.renew() }))
        .route("/touch", get(|session: Session| async move { session.touch() }))
        .route("/destroy", get(|session: Session| async move { session.destroy() }))
}

struct Trial {
    server: RedisServer,
    app: Router,
}

impl Trial {
    async fn new(refresh: Refresh, lazy: bool) -> Self {
        let server = RedisServer::start();
        let store = SessionStore::new(RedisCache::connect(server.url()).await.unwrap());
        let mut layer = SessionLayer::builder(store).refresh(refresh);
        if lazy {
            layer = layer.lazy(true);
        }
        let trial = Self { server, app: routes().layer(layer.build().unwrap()) };
        // Loads every script once.
        for path in ["/write", "/read", "/touch", "/renew", "/destroy"] {
            let cookie = trial.fresh().await;
            trial.request(path, Some(&cookie)).await;
        }
        trial
    }

    /// The cookie that the response sets, if it does.
    async fn request(&self, path: &str, cookie: Option<&str>) -> Option<String> {
        let mut request = Request::get(path);
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = self.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
        let cookie = response.headers().get(header::SET_COOKIE)?.to_str().unwrap();
        Some(cookie.split(';').next().unwrap().to_owned())
    }

    /// A session of its own, with a value in it.
    async fn fresh(&self) -> String {
        let cookie = self.request("/write", None).await.unwrap();
        self.request("/same", Some(&cookie)).await;
        cookie
    }

    /// The commands of one request: what clients sent, and what scripts read and wrote inside the server.
    async fn cost(&self, path: &str, cookie: Option<&str>) -> BTreeMap<String, u64> {
        let before = self.server.calls();
        self.request(path, cookie).await;
        let mut calls = self.server.calls();
        for (command, count) in before {
            *calls.get_mut(&command).unwrap() -= count;
        }
        let by_clients = ["get", "getrange", "set", "evalsha", "eval", "del", "pexpire", "getex", "multi", "watch"];
        let scripts = calls.contains_key("evalsha") && calls["evalsha"] > 0;
        // Inside of scripts `getrange`, `set` and the like are counted as well.
        calls.retain(|command, count| *count > 0 && by_clients.contains(&command.as_str()));
        if scripts {
            calls.retain(|command, _| ["evalsha", "eval", "getrange", "set"].contains(&command.as_str()));
        }
        calls
    }
}

fn commands(calls: &[(&str, u64)]) -> BTreeMap<String, u64> {
    calls.iter().map(|(command, count)| ((*command).to_owned(), *count)).collect()
}

#[tokio::test]
async fn requests_that_need_no_look_up_cost_nothing() {
    for lazy in [false, true] {
        let trial = Trial::new(Refresh::OnWrite, lazy).await;
        for cookie in [None, Some("__Host-id=malformed"), Some("other=1")] {
            for path in ["/none", "/read", "/destroy", "/renew", "/touch"] {
                assert_eq!(trial.cost(path, cookie).await, commands(&[]), "{path} {cookie:?}");
            }
        }
        if lazy {
            let cookie = trial.fresh().await;
            assert_eq!(trial.cost("/none", Some(&cookie)).await, commands(&[]));
        }
    }
}

#[tokio::test]
async fn a_read_is_one_get_and_a_new_session_one_set() {
    let trial = Trial::new(Refresh::OnWrite, false).await;
    let cookie = trial.fresh().await;
    assert_eq!(trial.cost("/read", Some(&cookie)).await, commands(&[("getrange", 1)]));
    assert_eq!(trial.cost("/same", Some(&cookie)).await, commands(&[("getrange", 1)]));
    assert_eq!(trial.cost("/write", None).await, commands(&[("set", 1)]));
}

#[tokio::test]
async fn a_change_is_a_get_and_one_script() {
    let trial = Trial::new(Refresh::OnWrite, false).await;
    let cookie = trial.fresh().await;
    // The script's own `GETRANGE` and `SET` are counted by the server, too.
    assert_eq!(trial.cost("/write", Some(&cookie)).await, commands(&[("evalsha", 1), ("getrange", 2), ("set", 1)]));
    assert_eq!(trial.cost("/touch", Some(&cookie)).await, commands(&[("evalsha", 1), ("getrange", 2)]));
    assert_eq!(trial.cost("/destroy", Some(&cookie)).await, commands(&[("evalsha", 1), ("getrange", 2)]));
}

#[tokio::test]
async fn a_renewal_is_a_get_an_insert_and_one_script() {
    let trial = Trial::new(Refresh::OnWrite, false).await;
    let cookie = trial.fresh().await;
    assert_eq!(trial.cost("/renew", Some(&cookie)).await, commands(&[("evalsha", 1), ("getrange", 2), ("set", 2)]));
}

#[tokio::test]
async fn sliding_expiry_is_one_round_trip() {
    let trial = Trial::new(Refresh::OnLoad, false).await;
    let cookie = trial.fresh().await;
    let calls = trial.cost("/read", Some(&cookie)).await;
    assert_eq!(calls.get("evalsha"), Some(&1), "{calls:?}");
    assert_eq!(calls.get("set"), None, "no data is rewritten: {calls:?}");
}
