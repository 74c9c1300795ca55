//! Users and permissions: a `User` extractor, pages that need a login, pages that need a permission, and sessions that end
//! when the password changes. axum, sessions in memory, passwords by argon2.
//!
//! ```sh
//! cargo run --example permissions    # PORT=4000 for another port than 3000
//! ```
//!
//! Open <http://localhost:3000/reports> and sign in as `reader` or `editor`; the password is `open sesame`. Only `editor`
//! may open `/reports/new`.
use std::{collections::BTreeMap, env, error::Error, sync::Arc};

use argon2::{
    Argon2, PasswordHash, PasswordHasher, PasswordVerifier,
    password_hash::{self, SaltString, rand_core::OsRng},
};
use axum::{
    Extension, Form, Router,
    extract::{FromRef, FromRequestParts, Query, Request, State},
    http::{StatusCode, Uri, header, request::Parts},
    middleware::{Next, from_extractor_with_state, from_fn_with_state},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cloakroom::{InMemoryCache, Key, Session, SessionError, SessionLayer, SessionStore};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, sync::RwLock, task::spawn_blocking};
use tower_http::csrf::CsrfLayer;

/// The password that the session was opened with: see [`User::fingerprint`].
const FINGERPRINT: Key<String> = Key::new("fingerprint");

/// A row of the application's table of users.
#[derive(Clone)]
pub(crate) struct User {
    id: u64,
    name: String,
    password_hash: String,
    permissions: Vec<&'static str>,
}

impl User {
    /// Changes with the password. A digest, so that the session store does not hold the hash.
    fn fingerprint(&self) -> String {
        STANDARD.encode(Sha256::digest(&self.password_hash))
    }
}

/// In a handler: the user who is signed in. As a layer: only signed-in users come through.
impl<S: Send + Sync> FromRequestParts<S> for User
where
    Users: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        // One look into the table for each request, however many layers and handlers ask.
        if let Some(user) = parts.extensions.get::<Self>() {
            return Ok(user.clone());
        }
        let session = <Session as FromRequestParts<S>>::from_request_parts(parts, state).await;
        // An outage of the cache is a 503 here, and no redirect to the sign-in.
        let session = session.map_err(IntoResponse::into_response)?;
        let Some(id) = session.owner() else { return Err(to_sign_in(&parts.uri)) };
        match Users::from_ref(state).by_id(&id).await {
            Some(user) if session.get(FINGERPRINT) == Some(user.fingerprint()) => {
                parts.extensions.insert(user.clone());
                Ok(user)
            }
            // The account was removed, or its password changed after this login.
            _ => {
                session.destroy();
                Err(to_sign_in(&parts.uri))
            }
        }
    }
}

/// A layer behind that of [`User`]: users without this permission get a 403.
async fn permission_required(
    State(permission): State<&'static str>,
    Extension(user): Extension<User>,
    request: Request,
    next: Next,
) -> Response {
    if user.permissions.contains(&permission) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, format!("{} lacks the permission {permission}\n", user.name)).into_response()
    }
}

pub(crate) fn app(users: &Users) -> Router {
    let login_required = from_extractor_with_state::<User, Users>(users.clone());
    let writers = Router::new()
        .route("/reports/new", get(|| async { "a form for a new report\n" }))
        .route_layer(from_fn_with_state("reports.write", permission_required));
    let signed_in = Router::new()
        .route("/reports", get(|user: User| async move { format!("reports for {}\n", user.name) }))
        .route("/password", post(change_password))
        .merge(writers)
        .route_layer(login_required);
    Router::new()
        .route("/sign-in", get(sign_in_form).post(sign_in))
        .route("/sign-out", post(|session: Session| async move { session.destroy() }))
        .merge(signed_in)
        .with_state(users.clone())
        .layer(SessionLayer::new(SessionStore::new(InMemoryCache::new())))
        // Refuses forms that other sites send.
        .layer(CsrfLayer::new())
}

#[derive(Deserialize)]
struct SignIn {
    name: String,
    password: String,
    next: String,
}

async fn sign_in(
    session: Session,
    State(users): State<Users>,
    Form(form): Form<SignIn>,
) -> Result<Response, SessionError> {
    let Some(user) = users.authenticate(&form.name, form.password).await else {
        // Nothing is stored for a failed attempt.
        return Ok((StatusCode::UNAUTHORIZED, "wrong name or password\n").into_response());
    };
    session.log_in(user.id)?;
    session.set(FINGERPRINT, user.fingerprint())?;
    Ok(Redirect::to(local(&form.next)).into_response())
}

#[derive(Deserialize)]
struct ChangePassword {
    old: String,
    new: String,
}

/// This session goes on. The other ones of this user end now, with their WebSockets.
async fn change_password(
    user: User,
    session: Session,
    State(users): State<Users>,
    Form(form): Form<ChangePassword>,
) -> Result<Response, SessionError> {
    let right = users.authenticate(&user.name, form.old).await.is_some();
    let Some(user) = (if right { users.set_password(user.id, form.new).await } else { None }) else {
        return Ok((StatusCode::UNAUTHORIZED, "wrong password\n").into_response());
    };
    session.reauthenticated()?;
    session.set(FINGERPRINT, user.fingerprint())?;
    let ended = session.revoke_others().await?;
    Ok(format!("changed, {ended} other sessions ended\n").into_response())
}

fn to_sign_in(uri: &Uri) -> Response {
    let next = uri.path().replace('%', "%25").replace('&', "%26").replace('+', "%2B");
    Redirect::to(&format!("/sign-in?next={next}")).into_response()
}

/// Where to go after the sign-in: a path here, as a link from outside could name another site.
fn local(next: &str) -> &str {
    let is_local = next.starts_with('/') && !next.starts_with("//");
    if is_local && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') { next } else { "/reports" }
}

#[derive(Deserialize)]
struct Continue {
    next: Option<String>,
}

async fn sign_in_form(Query(query): Query<Continue>) -> impl IntoResponse {
    let next = query.next.as_deref().map_or("/reports", local);
    let next = next.replace('&', "&amp;").replace('"', "&quot;");
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Sign in</title><form method=post>\
         <input type=hidden name=next value=\"{next}\"><label>Name <input name=name></label> \
         <label>Password <input name=password type=password></label> <button>Sign in</button></form>"
    );
    ([(header::CACHE_CONTROL, "no-store")], Html(html))
}

/// The table of users: a database, in an application.
#[derive(Clone)]
pub(crate) struct Users {
    rows: Arc<RwLock<BTreeMap<u64, User>>>,
    /// Of no user's password.
    decoy: Arc<str>,
}

impl Users {
    /// Two users with this password: `reader`, and `editor` with the permission `reports.write`.
    pub(crate) fn new(password: &str) -> Result<Self, password_hash::Error> {
        let mut rows = BTreeMap::new();
        for (id, name, permissions) in [(1, "reader", vec![]), (2, "editor", vec!["reports.write"])] {
            let password_hash = hash(password)?;
            rows.insert(id, User { id, name: name.into(), password_hash, permissions });
        }
        Ok(Self { rows: Arc::new(RwLock::new(rows)), decoy: hash("")?.into() })
    }

    async fn by_id(&self, id: &str) -> Option<User> {
        self.rows.read().await.get(&id.parse().ok()?).cloned()
    }

    /// The user of this name, if the password is right.
    async fn authenticate(&self, name: &str, password: String) -> Option<User> {
        let user = self.rows.read().await.values().find(|user| user.name == name).cloned();
        // A name that does not exist takes as long as one that does, so that the time does not tell which exist.
        let hash = user.as_ref().map_or_else(|| self.decoy.to_string(), |user| user.password_hash.clone());
        let verify = move || {
            let hash = PasswordHash::new(&hash)?;
            Argon2::default().verify_password(password.as_bytes(), &hash)
        };
        let right = spawn_blocking(verify).await.is_ok_and(|result| result.is_ok());
        user.filter(|_| right)
    }

    /// Also what an administrator's command does: all sessions of the user are refused at their next request.
    pub(crate) async fn set_password(&self, id: u64, password: String) -> Option<User> {
        let password_hash = spawn_blocking(move || hash(&password)).await.ok()?.ok()?;
        let mut rows = self.rows.write().await;
        let user = rows.get_mut(&id)?;
        user.password_hash = password_hash;
        Some(user.clone())
    }
}

/// Takes a while, as it should: `spawn_blocking` keeps it off the threads that serve requests.
fn hash(password: &str) -> Result<String, password_hash::Error> {
    Ok(Argon2::default().hash_password(password.as_bytes(), &SaltString::generate(&mut OsRng))?.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let app = app(&Users::new("open sesame")?);
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    println!("Open http://localhost:{}/reports", listener.local_addr()?.port());
    axum::serve(listener, app).await?;
    Ok(())
}
