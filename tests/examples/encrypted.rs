//! The example `encrypted` counts, goes on counting under a new key, and leaves no plain text behind.
use axum::{Router, body::Body, http::Request};
use http::header::{COOKIE, SET_COOKIE};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::{
    programs::encrypted,
    support::redis_server::{RedisServer, Reply},
};

const OLD: &str = "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=";
const NEW: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

/// The page, and the cookie from now on.
async fn page(app: &Router, cookie: &str) -> (String, String) {
    let request = Request::get("/").header(COOKIE, cookie).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let set = response.headers().get(SET_COOKIE).map(|value| value.to_str().unwrap().split(';').next().unwrap());
    let cookie = set.unwrap_or(cookie).to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), cookie)
}

#[tokio::test]
async fn it_counts_on_under_a_new_key() {
    let server = RedisServer::start();
    let app = async |keys: &str| encrypted::app(&server.url(), keys).await.unwrap();
    let first = app(OLD).await;
    let (text, cookie) = page(&first, "").await;
    assert_eq!(text, "visits: 1\n");
    assert_eq!(page(&first, &cookie).await.0, "visits: 2\n");
    let both = app(&format!("{NEW} {OLD}")).await;
    assert_eq!(page(&both, &cookie).await.0, "visits: 3\n");
    assert_eq!(page(&app(NEW).await, &cookie).await.0, "visits: 4\n");
    assert_eq!(page(&app(OLD).await, &cookie).await.0, "visits: 1\n", "without its key it is no session");

    let Reply::Array(names) = server.command(&["KEYS", "*"]) else { panic!("no keys") };
    for name in names {
        let Reply::Bytes(stored) = server.command(&["GET", &name.text()]) else { panic!("no value") };
        assert!(!stored.windows(6).any(|part| part == b"visits"));
    }
    assert!(encrypted::app(&server.url(), "").await.is_err());
}
