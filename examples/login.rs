//! Login, logout, "remember me" and a page of devices: axum, sessions in memory, plain HTML.
//!
//! ```sh
//! cargo run --example login          # PORT=4000 for another port than 3000
//! ```
//!
//! Open <http://localhost:3000> in two browsers, sign in with the same name, and end one session from the other.
//!
//! Any name gets in: checking passwords (or passkeys, or a login elsewhere) is the application's part. The session's part
//! begins when that has succeeded, in [`login`].
use std::{
    env,
    error::Error,
    time::{Duration, SystemTime},
};

use axum::{
    Form, Router,
    extract::Query,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Redirect},
    routing::{get, post},
};
use cloakroom::{InMemoryCache, Key, Session, SessionError, SessionKey, SessionLayer, SessionStore};
use serde::Deserialize;
use tokio::net::TcpListener;
use tower_http::csrf::CsrfLayer;

/// A message that is shown once.
const FLASH: Key<String> = Key::new("flash");
/// The browser, for the page of devices.
const DEVICE: Key<String> = Key::new("device");

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// All pages. No handler needs the store: a session lists and ends those of its own user.
pub fn app() -> Router {
    Router::new()
        .route("/", get(home))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .route("/devices", get(devices))
        .route("/devices/revoke", post(revoke))
        .route("/devices/revoke-others", post(revoke_others))
        .route("/devices/revoke-all", post(revoke_all))
        .layer(SessionLayer::new(SessionStore::new(InMemoryCache::new())))
        // Refuses forms that other sites send, the login form included.
        .layer(CsrfLayer::new())
}

#[derive(Deserialize)]
struct Home {
    /// What was wrong with a login, in the redirect's address: a session would be one for each attempt.
    error: Option<String>,
}

async fn home(session: Session, Query(query): Query<Home>) -> Result<impl IntoResponse, SessionError> {
    let Some(user) = session.owner() else {
        // A text of this page, and never one that the address brings along.
        let error = query.error.map_or("", |_| "<p class=flash>A name has 1 to 64 bytes.</p>");
        return Ok(page("Sign in", &format!("{error}{LOGIN_FORM}")));
    };
    let (user, flash) = (escape(&user), flash(&session)?);
    let since = session.authenticated_at().map(minutes_ago).unwrap_or_default();
    Ok(page(
        "Home",
        &format!(
            "{flash}<p>Signed in as <b>{user}</b>, {since}.</p>\
             <p><a href=/devices>Your devices</a></p>\
             <form method=post action=/logout><button>Sign out</button></form>"
        ),
    ))
}

#[derive(Deserialize)]
struct Login {
    name: String,
    /// A box that is not ticked is not sent.
    remember: Option<String>,
}

async fn login(
    session: Session,
    headers: HeaderMap,
    Form(form): Form<Login>,
) -> Result<impl IntoResponse, SessionError> {
    // Here the application checks the password.
    let name = form.name.trim();
    if name.is_empty() || name.len() > 64 {
        return Ok(Redirect::to("/?error=name"));
    }
    // A new ID, so that one from before the login is worth nothing; the owner; a new lifetime. The visitor's data stays.
    session.log_in(name)?;
    session.set(DEVICE, device(&headers))?;
    if form.remember.is_some() {
        session.set_persistent(true)?;
        session.set_ttl(60 * DAY)?;
        session.set_lifetime(180 * DAY)?;
    }
    session.set(FLASH, "Welcome.".into())?;
    Ok(Redirect::to("/"))
}

/// Ends the session everywhere and removes the cookie.
async fn logout(session: Session) -> Redirect {
    session.destroy();
    Redirect::to("/")
}

async fn devices(session: Session) -> Result<impl IntoResponse, SessionError> {
    if session.owner().is_none() {
        return Ok(Redirect::to("/").into_response());
    }
    let mut rows = String::new();
    // All of them: 100 is the limit for one user.
    for info in session.owner_sessions(None, 100).await? {
        let device = escape(&info.get(DEVICE).unwrap_or_default());
        let since = info.logged_in().map(minutes_ago).unwrap_or_default();
        // The key names the session and cannot be used as a cookie: a page may show it.
        let end = if session.key() == Some(info.key()) {
            "this device".to_owned()
        } else {
            let key = info.key();
            format!(
                "<form method=post action=/devices/revoke>\
                 <input type=hidden name=key value=\"{key}\"><button>End</button></form>"
            )
        };
        rows += &format!("<tr><td>{device}</td><td>{since}</td><td>{end}</td></tr>\n");
    }
    let flash = flash(&session)?;
    let body = format!(
        "{flash}<table><tr><th>Device</th><th>Signed in</th><th></th></tr>\n{rows}</table>\
         <form method=post action=/devices/revoke-others><button>Log out all other devices</button></form>\
         <form method=post action=/devices/revoke-all><button>Log out everywhere</button></form>\
         <p><a href=/>Home</a></p>"
    );
    Ok(page("Your devices", &body).into_response())
}

#[derive(Deserialize)]
struct Revoke {
    key: SessionKey,
}

/// The key comes from a form, and can be any: only a session of this user ends.
async fn revoke(session: Session, Form(form): Form<Revoke>) -> Result<Redirect, SessionError> {
    if session.owner().is_none() {
        return Ok(Redirect::to("/"));
    }
    let ended = session.revoke(&form.key).await?;
    let message = if ended { "That device is signed out." } else { "That device was not signed in any more." };
    session.set(FLASH, message.into())?;
    Ok(Redirect::to("/devices"))
}

async fn revoke_others(session: Session) -> Result<Redirect, SessionError> {
    if session.owner().is_none() {
        return Ok(Redirect::to("/"));
    }
    let ended = session.revoke_others().await?;
    session.set(FLASH, format!("Other devices signed out: {ended}."))?;
    Ok(Redirect::to("/devices"))
}

/// This one included, and its cookie goes with it.
async fn revoke_all(session: Session) -> Result<Redirect, SessionError> {
    session.revoke_all().await?;
    Ok(Redirect::to("/"))
}

fn minutes_ago(time: SystemTime) -> String {
    format!("{} min ago", time.elapsed().unwrap_or_default().as_secs() / 60)
}

/// What the browser calls itself. A client can send any text: it is cut to size now and escaped when it is shown.
fn device(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    agent.unwrap_or("unknown").chars().take(120).collect()
}

/// The message that is due, gone from the session once it is shown.
fn flash(session: &Session) -> Result<String, SessionError> {
    let message = session.take(FLASH)?;
    Ok(message.map(|text| format!("<p class=flash>{}</p>", escape(&text))).unwrap_or_default())
}

const LOGIN_FORM: &str = "<form method=post action=/login>\
    <p><label>Name <input name=name autocomplete=username required autofocus></label></p>\
    <p><label><input type=checkbox name=remember value=yes> Remember me on this device</label></p>\
    <button>Sign in</button></form>\
    <p>There are no passwords in this example: any name will do.</p>";

/// A page that is not kept, so that the back button shows nothing after the logout.
fn page(title: &str, body: &str) -> (StatusCode, [(header::HeaderName, &'static str); 1], Html<String>) {
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>{title}</title>\
         <style>body{{font:1rem/1.5 sans-serif;max-width:40rem;margin:2rem auto;padding:0 1rem}}\
         td,th{{text-align:left;padding:.2rem 1rem .2rem 0}}form{{margin:.5rem 0}}.flash{{background:#eef;padding:.5rem}}</style>\
         <h1>{title}</h1>{body}"
    );
    (StatusCode::OK, [(header::CACHE_CONTROL, "no-store")], Html(html))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    println!("Listening on http://localhost:{}: open it in two browsers.", listener.local_addr()?.port());
    axum::serve(listener, app()).await?;
    Ok(())
}
