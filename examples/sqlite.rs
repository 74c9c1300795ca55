//! The counter on an SQLite file: one machine, no server, and a restart loses no session.
//!
//! ```sh
//! cargo run --example sqlite --features sqlite
//! curl -b jar -c jar http://localhost:3000/    # visits: 1; stop and start it again
//! curl -b jar -c jar http://localhost:3000/    # visits: 2
//! ```
//!
//! `DATABASE_URL` says which file; without it, `sqlite:sessions.db` in the current directory.
use std::{env, error::Error};

use axum::{Router, routing::get};
use cloakroom::{CacheError, Session, SessionError, SessionLayer, SessionStore, SqliteCache};
use tokio::net::TcpListener;

/// A page that counts, with the sessions in the file of this URL.
pub async fn app(url: &str) -> Result<Router, CacheError> {
    let cache = SqliteCache::connect(url).await?;
    cache.migrate().await?;
    Ok(Router::new().route("/", get(count)).layer(SessionLayer::new(SessionStore::new(cache))))
}

async fn count(session: Session) -> Result<String, SessionError> {
    let visits = session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
    Ok(format!("visits: {visits}\n"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:sessions.db".into());
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let app = app(&url).await?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    println!("Listening on http://localhost:{}. Try it with", listener.local_addr()?.port());
    println!();
    println!("  curl -b jar -c jar http://localhost:{}/", listener.local_addr()?.port());
    axum::serve(listener, app).await?;
    Ok(())
}
