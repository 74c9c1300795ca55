//! The counter on a Redis that cannot read it: session data is encrypted before it leaves the process.
//!
//! ```sh
//! export SESSION_KEYS=$(openssl rand -base64 32)
//! cargo run --example encrypted --features redis,encryption &
//! curl -b jar -c jar http://localhost:3000/                       # visits: 1
//! redis-cli --scan --pattern 'cloakroom:*' | xargs redis-cli get  # bytes
//! ```
//!
//! To change keys, start it with `SESSION_KEYS="$(openssl rand -base64 32) $SESSION_KEYS"`: the first key encrypts, all
//! decrypt, and the counter goes on. `REDIS_URL` says where Redis is; without it, `redis://127.0.0.1:6379`.
use std::{env, error::Error};

use axum::{Router, routing::get};
use cloakroom::{EncryptedCache, EncryptionKey, RedisCache, Session, SessionError, SessionLayer, SessionStore};
use tokio::net::TcpListener;

/// The pages, with the sessions in the Redis at this URL under these keys: base64, apart by white space.
pub async fn app(redis_url: &str, keys: &str) -> Result<Router, Box<dyn Error>> {
    let keys: Vec<_> = keys.split_whitespace().map(EncryptionKey::from_base64).collect::<Result<_, _>>()?;
    let cache = EncryptedCache::new(RedisCache::connect(redis_url).await?, keys)?;
    let sessions = SessionLayer::new(SessionStore::new(cache));
    Ok(Router::new().route("/", get(count)).layer(sessions))
}

async fn count(session: Session) -> Result<String, SessionError> {
    let visits = session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
    Ok(format!("visits: {visits}\n"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let keys =
        env::var("SESSION_KEYS").map_err(|_| "SESSION_KEYS is missing: `openssl rand -base64 32` makes a key")?;
    let redis_url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let app = app(&redis_url, &keys).await?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    let url = format!("http://localhost:{}", listener.local_addr()?.port());
    println!("Listening on {url}. Try it with a cookie jar:");
    println!();
    println!("  curl -b jar -c jar {url}/");
    axum::serve(listener, app).await?;
    Ok(())
}
