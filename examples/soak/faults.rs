//! Visitors of a server that fails in many ways.
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use cloakroom::{BoxedCache, LazySession, RedisCache, Session, SessionError, SessionLayer, SessionStore};
use http::{Request, Response, header};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};

use super::{
    servers::redis_server,
    shared::{Failure, Store, mix},
};

/// What came of the load under faults.
#[derive(Debug, Default)]
pub struct Endured {
    pub faults: usize,
    pub requests: usize,
    /// Requests that were answered 503.
    pub refused: usize,
    /// Sessions that were gone without a logout.
    pub lost: usize,
    /// Additions that were promised and are not there.
    pub forgotten: usize,
    /// Requests that saw another's session.
    pub mixed_up: usize,
    pub longest: Duration,
    pub first_success_after: Duration,
}

impl Endured {
    pub fn is_clean(&self) -> bool {
        self.lost + self.forgotten + self.mixed_up == 0
    }
}

/// A visitor's session, and what it has been promised.
struct Visitor {
    name: String,
    id: String,
    /// Additions that were answered with success, and those whose outcome is unknown.
    promised: u64,
    unknown: u64,
}

const VISITORS: usize = 48;

/// Runs visitors against a server of its own that fails in many ways.
pub async fn faults(length: Duration) -> Result<Endured, Failure> {
    let mut server = redis_server::RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let cache = BoxedCache::new(RedisCache::connect(server.url()).await?);
    let store = SessionStore::new(cache);
    let end = Instant::now() + length;
    let endured = Arc::new(std::sync::Mutex::new(Endured::default()));
    let mut visitors = JoinSet::new();
    for number in 0..VISITORS {
        visitors.spawn(visit(store.clone(), number, end, Arc::clone(&endured)));
    }
    let mut seed = mix(u64::from(std::process::id()));
    let mut count = 0;
    let mut slowest = Duration::ZERO;
    while Instant::now() + Duration::from_secs(6) < end {
        seed = mix(seed);
        tokio::time::sleep(Duration::from_millis(1000 + seed % 2000)).await;
        let ill = Duration::from_millis((seed >> 16) % 2500);
        server = tokio::task::spawn_blocking(move || {
            match seed >> 40 & 7 {
                0 => {
                    server.pause();
                    std::thread::sleep(ill);
                    server.resume();
                }
                1 | 2 => {
                    server.stop();
                    std::thread::sleep(ill);
                    server.restart();
                }
                3 => drop(server.command(&["CLIENT", "PAUSE", &ill.as_millis().to_string(), "ALL"])),
                4 => drop(server.command(&["CLIENT", "PAUSE", &ill.as_millis().to_string(), "WRITE"])),
                5 => drop(server.command(&["CLIENT", "KILL", "TYPE", "normal"])),
                6 => drop(server.command(&["SCRIPT", "FLUSH"])),
                _ => drop(server.command(&["CONFIG", "SET", "maxmemory", "1"])),
            }
            if seed >> 40 & 7 == 7 {
                std::thread::sleep(ill);
                server.command(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            server
        })
        .await?;
        count += 1;
        // A pause goes on after the command that asked for it.
        let paused = if matches!(seed >> 40 & 7, 3 | 4) { ill } else { Duration::ZERO };
        tokio::time::sleep(paused).await;
        let cured = Instant::now();
        while store.save(&Session::new()).await.is_err() && cured.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        slowest = slowest.max(cured.elapsed());
    }
    while let Some(visited) = visitors.join_next().await {
        visited??;
    }
    drop(server);
    let mut endured = endured.lock().map_err(|_| "a visitor panicked")?;
    (endured.faults, endured.first_success_after) = (count, slowest);
    Ok(std::mem::take(&mut *endured))
}

async fn visit(
    store: Store,
    number: usize,
    end: Instant,
    endured: Arc<std::sync::Mutex<Endured>>,
) -> Result<(), Failure> {
    let layer = SessionLayer::new(store.clone());
    let name = format!("visitor {number}");
    let session = Session::new();
    session.set("name", &name)?;
    session.set("n", 0)?;
    let mut visitor = Visitor { name, id: save(&store, &session).await?, promised: 0, unknown: 0 };
    let mut seed = mix(number as u64);
    while Instant::now() + Duration::from_secs(3) < end {
        seed = mix(seed);
        tokio::time::sleep(Duration::from_millis(seed % 20)).await;
        one_request(&layer, &mut visitor, seed, &endured).await?;
    }
    // Once all is well, the sums have to fit.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let found = loop {
        match store.load(&visitor.id).await {
            Ok(found) => break found,
            Err(_) if Instant::now() < end + Duration::from_secs(10) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let mut endured = endured.lock().map_err(|_| "a visitor panicked")?;
    match found {
        None => endured.lost += 1,
        Some(session) => {
            let n: u64 = session.get("n").unwrap_or_default();
            let fits = (visitor.promised..=visitor.promised + visitor.unknown).contains(&n);
            endured.forgotten += usize::from(!fits);
        }
    }
    Ok(())
}

async fn save(store: &Store, session: &Session) -> Result<String, Failure> {
    loop {
        match store.save(session).await {
            Ok(id) => return Ok(id.as_ref().to_owned()),
            Err(error) if error.cache_kind().is_none() => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Reads or adds, now and then as a login that renews; remembers what was promised.
async fn one_request(
    layer: &SessionLayer<BoxedCache>,
    visitor: &mut Visitor,
    seed: u64,
    endured: &std::sync::Mutex<Endured>,
) -> Result<(), Failure> {
    let adds = seed >> 20 & 3 != 0;
    // A renewal whose answer is lost leaves a visitor with an ID that is no longer good: that is the documented exception,
    // so renewals are left to the races.
    let name = visitor.name.clone();
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let name = name.clone();
        async move {
            let lazy = request.extensions().get::<LazySession>().cloned();
            let loaded = match lazy {
                Some(lazy) => lazy.load().await,
                None => Err(SessionError::MissingLayer),
            };
            let status = match loaded {
                Err(_) => 503,
                Ok(session) => match session.get::<String>("name") {
                    None => 410,
                    Some(found) if found != name => 409,
                    Some(_) if !adds => 200,
                    Some(_) => session.update("n", |n: Option<u64>| n.unwrap_or_default() + 1).map_or(503, |_| 201),
                },
            };
            Ok::<_, Infallible>(Response::builder().status(status).body(String::new()).unwrap_or_default())
        }
    }));
    let request = Request::get("/").header(header::COOKIE, format!("__Host-id={}", visitor.id)).body(())?;
    let begun = Instant::now();
    let response = service.oneshot(request).await?;
    let took = begun.elapsed();
    let mut endured = endured.lock().map_err(|_| "a visitor panicked")?;
    endured.requests += 1;
    endured.longest = endured.longest.max(took);
    match response.status().as_u16() {
        201 => visitor.promised += 1,
        409 => endured.mixed_up += 1,
        410 => endured.lost += 1,
        503 => {
            endured.refused += 1;
            visitor.unknown += u64::from(adds);
        }
        _ => {}
    }
    Ok(())
}
