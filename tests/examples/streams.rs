//! Server-sent events of a handler that is over.
use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, header},
    response::{Sse, sse::Event},
    routing::get,
};
use cloakroom::{Cache, Session, SessionError, SessionLayer, SessionStore};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::support::caches::on_every_cache;

on_every_cache! {
    a_stream_writes_into_the_session_of_a_first_time_visitor,
}

/// How long to wait for what has to happen sooner or later.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream of three events, each of which is stored before it goes out.
async fn progress(session: Session) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, SessionError> {
    session.set("progress", 0)?;
    let later = session.detach();
    let events = stream::iter([50, 100]).then(move |percent| {
        let later = later.clone();
        async move {
            later.set("progress", percent).unwrap();
            later.commit().await.unwrap();
            Ok(Event::default().data(percent.to_string()))
        }
    });
    Ok(Sse::new(events))
}

/// As `progress`, of a handler that stores nothing itself: the outcome of the stream's commit.
async fn nothing_stored(session: Session) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let later = session.detach();
    Sse::new(stream::once(async move {
        later.set("progress", 100).unwrap();
        let gone = matches!(later.commit().await, Err(SessionError::Gone));
        later.ended().await;
        Ok(Event::default().data(format!("gone: {gone}")))
    }))
}

async fn a_stream_writes_into_the_session_of_a_first_time_visitor(cache: impl Cache) {
    let store = SessionStore::new(cache).deadline(PATIENCE);
    let app = Router::new().route("/", get(progress)).route("/nothing", get(nothing_stored));
    let app = app.layer(SessionLayer::new(store.clone()));
    for known in [false, true] {
        let mut request = Request::get("/");
        let known = if known { Some(store.save(&Session::new()).await.unwrap()) } else { None };
        if let Some(id) = &known {
            request = request.header(header::COOKIE, format!("__Host-id={}", id.as_ref()));
        }
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let id = match &known {
            Some(id) => id.as_ref().to_owned(),
            None => {
                let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap();
                cookie.split(['=', ';']).nth(1).unwrap().to_owned()
            }
        };
        let stored = async || store.load(&*id).await.unwrap().unwrap().get::<u32>("progress");
        assert_eq!(stored().await, Some(0), "the head goes out when the session is stored");
        let mut body = response.into_body().into_data_stream();
        for percent in [50, 100] {
            let event = timeout(PATIENCE, body.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(event, format!("data: {percent}\n\n"));
            assert_eq!(stored().await, Some(percent));
        }
        assert!(body.next().await.is_none());
    }

    // Nothing was stored when the head went out without a cookie: there is no session to write to, and none is made.
    let response = app.oneshot(Request::get("/nothing").body(Body::empty()).unwrap()).await.unwrap();
    assert!(!response.headers().contains_key(header::SET_COOKIE));
    let body = timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap().to_bytes();
    assert_eq!(body, "data: gone: true\n\n");
}
