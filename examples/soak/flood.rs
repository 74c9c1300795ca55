//! What a flood of requests costs, by its kind, and what is left for those who are logged in.
use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use cloakroom::{
    Cache, InMemoryCache, LazySession, RedisCache, Session, SessionLayer, SessionStore, testing::TestCache,
};
use http::{Request, Response, header};
use tower::{Layer, ServiceExt, service_fn};

use super::{servers::redis_server::RedisServer, shared::Failure};

type Handler = fn(&Session) -> u16;
/// The kind of a flood, what the handler does, and the cookies of its requests by their number.
type Row = (&'static str, Handler, fn(usize) -> String);

fn look(session: &Session) -> u16 {
    if session.owner().is_some() { 200 } else { 401 }
}

/// A value of some 20 bytes for each visitor.
fn store(session: &Session) -> u16 {
    session.set("seen", "2024-01-01T00:00").map_or(500, |()| 200)
}

fn log_in(session: &Session) -> u16 {
    session.log_in("alice").map_or(500, |()| 200)
}

fn log_out(session: &Session) -> u16 {
    session.destroy();
    200
}

/// The status, and the cookie that the response sets.
async fn send<C: Cache>(layer: &SessionLayer<C>, cookie: &str, handler: Handler) -> (u16, Option<String>) {
    let service = layer.layer(service_fn(move |request: Request<()>| async move {
        let lazy = request.extensions().get::<LazySession>().cloned();
        let status = match lazy {
            Some(lazy) => lazy.load().await.map_or_else(|error| error.status().as_u16(), |session| handler(&session)),
            None => 500,
        };
        let mut response = Response::new(String::new());
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        Ok::<_, Infallible>(response)
    }));
    let mut request = Request::new(());
    if !cookie.is_empty()
        && let Ok(value) = http::HeaderValue::try_from(cookie)
    {
        request.headers_mut().insert(header::COOKIE, value);
    }
    let Ok(response) = service.oneshot(request).await;
    let cookie = response.headers().get(header::SET_COOKIE).and_then(|value| value.to_str().ok());
    let cookie = cookie.and_then(|value| value.split(';').next()).map(str::to_owned);
    (response.status().as_u16(), cookie)
}

/// A well-formed ID that leads nowhere.
fn unknown(number: usize) -> String {
    format!("__Host-id={number:032x}")
}

/// A header of `count` cookies of other names, about 20 bytes each, and ours behind them.
fn crowded(count: usize, own: &str) -> String {
    (0..count).map(|number| format!("preference{number:04}=xxxx; ")).chain([own.to_owned()]).collect()
}

pub async fn flood(requests: usize) -> Result<(), Failure> {
    println!("{requests} requests of each kind, one after the other\n");
    println!(
        "| requests | on | a request takes | look-ups and writes | sessions stored |\n| --- | --- | --- | --- | --- |"
    );
    let server = RedisServer::start();
    let redis = || RedisCache::builder(server.url()).timeout(Duration::from_secs(10));
    let commands = || server.info("total_commands_processed");
    let memory = TestCache::new(InMemoryCache::new());
    kinds("memory", memory.clone(), requests, || memory.calls().total() as u64).await?;
    // Its clients and the scripts that they run are what the server counts.
    kinds("Redis", redis().build().await?, requests / 10, commands).await?;
    kinds("Redis, near cache", redis().near_cache(64 << 20).build().await?, requests / 10, commands).await?;
    println!(
        "\n| full cache | bytes a session | read | write | logout | login | a new visitor |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    let memory = InMemoryCache::builder().max_bytes(8 << 20).build();
    full("`InMemoryCache`", memory.clone(), || Ok(memory.bytes())).await?;
    for policy in ["noeviction", "volatile-ttl", "allkeys-lru"] {
        let server = RedisServer::start();
        let cache = RedisCache::builder(server.url()).timeout(Duration::from_secs(10)).build().await?;
        server.command(&["CONFIG", "SET", "maxmemory-policy", policy]);
        let base = server.info("used_memory");
        server.command(&["CONFIG", "SET", "maxmemory", &(base + (8 << 20)).to_string()]);
        let used = || Ok(usize::try_from(server.info("used_memory").saturating_sub(base))?);
        full(&format!("Redis, `{policy}`"), cache, used).await?;
    }
    Ok(())
}

async fn kinds<C: Cache>(name: &str, cache: C, requests: usize, count: impl Fn() -> u64) -> Result<(), Failure> {
    let layer = SessionLayer::new(SessionStore::new(cache));
    let rows: [Row; 7] = [
        ("no cookie", look, |_| String::new()),
        ("an ID that cannot be one", look, |_| "__Host-id=x".to_owned()),
        ("unknown IDs", look, unknown),
        ("four unknown IDs in one request", look, |n| (4 * n..4 * n + 4).map(unknown).collect::<Vec<_>>().join("; ")),
        ("400 cookies, 8 KiB", look, |n| crowded(400, &unknown(n))),
        ("3,000 cookies, 60 KiB", look, |n| crowded(3000, &unknown(n))),
        ("a handler that stores a value", store, |_| String::new()),
    ];
    for (kind, handler, cookie) in rows {
        let cookies: Vec<_> = (0..requests).map(cookie).collect();
        let (before, begun) = (count(), Instant::now());
        let mut stored = 0;
        for cookie in &cookies {
            stored += usize::from(send(&layer, cookie, handler).await.1.is_some());
        }
        let each = begun.elapsed() / u32::try_from(requests.max(1))?;
        let calls = (count() - before) as f64 / requests.max(1) as f64;
        println!("| {kind} | {name} | {each:.1?} | {calls:.1} | {stored} |");
    }
    Ok(())
}

/// Fills a cache with sessions of visitors, and has a user try everything.
async fn full<C: Cache>(name: &str, cache: C, used: impl Fn() -> Result<usize, Failure>) -> Result<(), Failure> {
    // Those of visitors end sooner.
    let store_of = SessionStore::new(cache).anonymous_ttl(Duration::from_secs(900));
    let layer = SessionLayer::new(store_of);
    let user = async || send(&layer, "", log_in).await.1.ok_or("no login");
    let (reader, leaver) = (user().await?, user().await?);
    let (mut count, mut bytes) = (0, 0);
    let visitor = loop {
        let (status, _) = send(&layer, "", store).await;
        if status != 200 || count >= 40_000 {
            break status;
        }
        count += 1;
        if count == 5000 {
            bytes = used()? / count;
        }
    };
    let read = send(&layer, &reader, look).await.0;
    let write = send(&layer, &reader, |session| session.set("n", 1).map_or(500, |()| 200)).await.0;
    let login = send(&layer, "", log_in).await.0;
    let logout = send(&layer, &leaver, log_out).await.0;
    println!("| {name} | {bytes} | {read} | {write} | {logout} | {login} | {visitor} |");
    Ok(())
}
