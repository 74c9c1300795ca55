//! The counter on Redis: several processes share the sessions, and a restart loses none.
//!
//! ```sh
//! PORT=3000 cargo run --example redis --features redis &
//! PORT=3001 cargo run --example redis --features redis &
//! curl -b jar -c jar http://localhost:3000/    # visits: 1
//! curl -b jar -c jar http://localhost:3001/    # visits: 2
//! ```
//!
//! `REDIS_URL` says where Redis is; without it, `redis://127.0.0.1:6379`.
use std::{env, error::Error};

use axum::{Router, routing::get};
use cloakroom::{CacheError, RedisCache, Session, SessionError, SessionLayer, SessionStore};
use tokio::net::TcpListener;

/// The pages of `counter`, with the sessions in the Redis at this URL.
pub async fn app(redis_url: &str) -> Result<Router, CacheError> {
    let sessions = SessionLayer::new(SessionStore::new(RedisCache::connect(redis_url).await?));
    Ok(Router::new().route("/", get(count)).route("/peek", get(peek)).layer(sessions))
}

async fn count(session: Session) -> Result<String, SessionError> {
    let visits = session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
    Ok(format!("visits: {visits}\n"))
}

async fn peek(session: Session) -> String {
    let visits: u64 = session.get("visits").unwrap_or(0);
    format!("visits so far: {visits}\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redis_url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    // The URL may hold a password: it is not printed.
    let app = app(&redis_url).await?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    let url = format!("http://localhost:{}", listener.local_addr()?.port());
    println!("Listening on {url}. Start a second one with another PORT, and try both with one jar:");
    println!();
    println!("  curl -b jar -c jar {url}/");
    axum::serve(listener, app).await?;
    Ok(())
}
