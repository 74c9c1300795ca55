//! A visit counter that remembers you: axum, sessions in memory.
//!
//! ```sh
//! cargo run --example counter        # PORT=4000 for another port than 3000
//! ```
//!
//! Open <http://localhost:3000> and reload, or follow with curl and a cookie jar as the program tells you.
use std::{env, error::Error};

use axum::{Router, routing::get};
use cloakroom::{InMemoryCache, Session, SessionError, SessionLayer, SessionStore};
use tokio::net::TcpListener;

/// Three pages: one writes the session, one reads it, one has no use for it.
pub fn app() -> Router {
    let sessions = SessionLayer::new(SessionStore::new(InMemoryCache::new()));
    Router::new().route("/", get(count)).route("/peek", get(peek)).route("/about", get(about)).layer(sessions)
}

/// Changes the session: the first visit sets the cookie, later ones only write.
async fn count(session: Session) -> Result<String, SessionError> {
    let visits = session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
    Ok(format!("visits: {visits}\n"))
}

/// Reads the session: nothing is written, and no cookie is sent.
async fn peek(session: Session) -> String {
    let visits: u64 = session.get("visits").unwrap_or(0);
    format!("visits so far: {visits}\n")
}

/// Does not ask for the session.
async fn about() -> &'static str {
    "This page has no use for a session.\n"
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    let url = format!("http://localhost:{}", listener.local_addr()?.port());
    println!("Listening on {url}: open it in a browser and reload, or try");
    println!();
    println!("  curl -b jar -c jar {url}/        # visits: 1; again, and it counts");
    println!("  curl -b jar -c jar {url}/peek    # only reads: no Set-Cookie, see it with -i");
    println!("  curl -i {url}/about              # has no use for a session: no cookie");
    println!("  curl {url}/                      # without the jar: visits: 1, every time");
    println!();
    println!("Stop with Ctrl-C: the sessions are in memory and end with the process.");
    axum::serve(listener, app()).await?;
    Ok(())
}
