//! The counter on PostgreSQL: several processes share the sessions, and a restart loses none.
//!
//! ```sh
//! export DATABASE_URL=postgres://user:password@localhost/database
//! PORT=3000 cargo run --example postgres --features postgres &
//! PORT=3001 cargo run --example postgres --features postgres &
//! curl -b jar -c jar http://localhost:3000/    # visits: 1
//! curl -b jar -c jar http://localhost:3001/    # visits: 2
//! ```
use std::{env, error::Error, time::Duration};

use axum::{Router, routing::get};
use cloakroom::{CacheError, PostgresCache, Session, SessionError, SessionLayer, SessionStore};
use tokio::net::TcpListener;

/// A page that counts, with the sessions in the database of this URL.
pub async fn app(url: &str) -> Result<Router, CacheError> {
    let cache = PostgresCache::connect(url).await?;
    // Any number of processes may do it at once. For a role without the right, run what `PostgresCache::schema` prints.
    cache.migrate().await?;
    // Inserts remove what has ended; an application with few of them may have a task that does.
    tokio::spawn(cache.sweeper(Duration::from_secs(600)));
    Ok(Router::new().route("/", get(count)).layer(SessionLayer::new(SessionStore::new(cache))))
}

async fn count(session: Session) -> Result<String, SessionError> {
    let visits = session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
    Ok(format!("visits: {visits}\n"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL says where the database is")?;
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    // The URL may hold a password: it is not printed.
    let app = app(&url).await?;
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    println!("Listening on http://localhost:{}. Start a second one with another PORT.", listener.local_addr()?.port());
    axum::serve(listener, app).await?;
    Ok(())
}
