//! A WebSocket that closes within a second of "log out everywhere", on whichever machine that was clicked: axum, Redis.
//!
//! ```sh
//! PORT=3000 cargo run --example websocket --features redis &
//! PORT=3001 cargo run --example websocket --features redis &
//! ```
//!
//! Open <http://localhost:3000> and sign in. Open <http://localhost:3001> in another browser, sign in with the same name, and
//! log out everywhere: the first page reports that its WebSocket was closed. `REDIS_URL` names the Redis; the default is
//! `redis://127.0.0.1:6379`.
use std::{env, error::Error, time::Duration};

use axum::{
    Form, Router,
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use cloakroom::{CacheError, EndReason, RedisCache, Session, SessionError, SessionLayer, SessionStore};
use serde::Deserialize;
use tokio::net::TcpListener;
use tower_http::csrf::CsrfLayer;

/// From 4000 on, codes are the application's (RFC 6455, section 7.4.2).
pub const SIGNED_OUT: u16 = 4001;
/// Another request has renewed the session: the browser has a new ID, and connects again with that.
pub const RENEWED: u16 = 4002;

/// The pages, with the sessions in the Redis at this URL.
pub async fn app(redis_url: &str) -> Result<Router, CacheError> {
    // What a look finds in the near cache costs Redis nothing, and Redis reports what changes: so many looks are cheap.
    let cache = RedisCache::builder(redis_url).near_cache(16 << 20).build().await?;
    let store = SessionStore::new(cache).ended_interval(Duration::from_millis(250));
    Ok(Router::new()
        .route("/", get(home))
        .route("/socket", get(socket))
        .route("/sign-in", post(sign_in))
        .route("/sign-out-everywhere", post(sign_out_everywhere))
        .layer(SessionLayer::new(store))
        .layer(CsrfLayer::new()))
}

/// The handshake is a request like any other, with the session of its cookie.
async fn socket(session: Session, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    if session.owner().is_none() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if !is_same_origin(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    // This handle outlives the response, and knows if the session is renewed by its request.
    let session = session.detach();
    upgrade.on_upgrade(move |socket| talk(socket, session))
}

async fn talk(mut socket: WebSocket, session: Session) {
    // One future for the whole conversation: a new one for each message would look the session up each time.
    let ended = session.ended();
    tokio::pin!(ended);
    let reason = loop {
        let text = tokio::select! {
            reason = &mut ended => break reason,
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        // Commits at once, and returns `Gone` if the session ended a moment ago.
        let number = match session.update_now("messages", |n: Option<u64>| n.unwrap_or(0) + 1).await {
            Ok(number) => number,
            Err(SessionError::Gone) => break ended.await,
            // An outage is no logout: the client may try again.
            Err(_) => 0,
        };
        if socket.send(Message::Text(format!("{number}: {text}").into())).await.is_err() {
            return;
        }
    };
    let (code, reason) = match reason {
        EndReason::Renewed => (RENEWED, "renewed"),
        _ => (SIGNED_OUT, "signed out"),
    };
    let close = CloseFrame { code, reason: reason.into() };
    let _ = socket.send(Message::Close(Some(close))).await;
}

/// A page of another origin may open a WebSocket here, and the browser sends the cookie along where both are of one site
/// (OWASP WebSocket Security Cheat Sheet, "Origin Header Validation"). Clients that are no browsers send no `Origin`.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    matches!((origin, host), (Some((_, from)), Some(host)) if from == host)
}

#[derive(Deserialize)]
struct SignIn {
    name: String,
}

async fn sign_in(session: Session, Form(form): Form<SignIn>) -> Result<Redirect, SessionError> {
    // Here the application checks the password. An empty name is an error of `log_in`.
    session.log_in(form.name.trim())?;
    Ok(Redirect::to("/"))
}

async fn sign_out_everywhere(session: Session) -> Result<Redirect, SessionError> {
    session.revoke_all().await?;
    Ok(Redirect::to("/"))
}

async fn home(session: Session) -> impl IntoResponse {
    let page = if session.owner().is_some() { SIGNED_IN } else { SIGN_IN };
    ([(header::CACHE_CONTROL, "no-store")], Html(page))
}

const SIGN_IN: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Sign in</title>\
    <form method=post action=/sign-in><label>Name <input name=name required></label> <button>Sign in</button></form>";

const SIGNED_IN: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>WebSocket</title>\
    <form id=chat><label>Message <input name=text></label> <button>Send</button></form><p id=log></p>\
    <form method=post action=/sign-out-everywhere><button>Log out everywhere</button></form>\
    <script>const log = document.querySelector('#log'); let socket; connect();\
    function connect() {\
    socket = new WebSocket(`ws://${location.host}/socket`);\
    socket.onmessage = event => log.textContent = event.data;\
    socket.onclose = event => event.code === 4002 ? connect() :\
    log.textContent = event.code === 4001 ? 'You were signed out.' : 'The connection is lost.'; }\
    document.querySelector('#chat').onsubmit = event => \
    { event.preventDefault(); socket.send(event.target.elements.text.value); };</script>";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redis_url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let app = app(&redis_url).await?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    println!("Open http://localhost:{}; start a second one with another PORT.", listener.local_addr()?.port());
    axum::serve(listener, app).await?;
    Ok(())
}
