//! The counters on PostgreSQL and SQLite go on counting in other processes and after a restart.
#[cfg(feature = "postgres")]
use crate::{programs::postgres_example, support::postgres_server::PostgresServer};
#[cfg(feature = "sqlite")]
use crate::{programs::sqlite_example, support::sqlite_file::SqliteFile};

/// A request by the browser with this cookie, which keeps what it is given: the body of the response.
async fn ask(app: axum::Router, cookie: &mut Option<String>) -> String {
    let mut request = http::Request::get("/");
    if let Some(cookie) = cookie {
        request = request.header("cookie", &*cookie);
    }
    let response = tower::ServiceExt::oneshot(app, request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
    if let Some(set) = response.headers().get("set-cookie") {
        *cookie = set.to_str().unwrap().split(';').next().map(str::to_owned);
    }
    let body = axum::body::to_bytes(response.into_body(), 99).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn processes_of_the_example_share_a_session() {
    let server = PostgresServer::start();
    let mut cookie = None;
    for visits in ["visits: 1\n", "visits: 2\n"] {
        let app = postgres_example::app(&server.url()).await.unwrap();
        assert_eq!(ask(app, &mut cookie).await, visits);
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn the_example_counts_on_after_a_restart() {
    let files = SqliteFile::new();
    let mut cookie = None;
    for visits in ["visits: 1\n", "visits: 2\n"] {
        let app = sqlite_example::app(&files.url()).await.unwrap();
        assert_eq!(ask(app, &mut cookie).await, visits);
    }
}
