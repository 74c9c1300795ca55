//! Two processes that do something to the same sessions at the same moment, and what has come of it.
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use cloakroom::{BoxedCache, LazySession, Session, SessionError, SessionLayer};
use http::{Request, Response, header};
use tokio::{sync::Semaphore, task::JoinSet};
use tower::{Layer, ServiceExt, service_fn};

use super::{
    other_process::OtherProcess,
    servers::store,
    shared::{Failure, Store, mix},
};

const BATCH: usize = 500;
const AT_ONCE: usize = 64;

/// What came of the races.
#[derive(Debug, Default)]
pub struct Report {
    /// How many sessions were raced for.
    pub races: usize,
    /// Sessions that lived after a logout.
    pub resurrected: usize,
    /// Additions that were promised and are not there, or sessions that are gone and were not ended.
    pub lost: usize,
    /// Sessions that live twice.
    pub extra: usize,
    /// Requests that failed.
    pub failed: usize,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.resurrected + self.lost + self.extra + self.failed == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Adds through a handle of its own, and is told what came of it.
    Add,
    /// Adds in a request.
    Request,
    Login,
    LogoutInRequest,
    Logout,
    Touch,
}

/// What a side does to a session, and how many microseconds it waits before.
fn choice(seed: u64, number: usize, side: u64) -> (Does, u64) {
    let random = mix(seed ^ mix((number as u64) << 1 | side));
    let does = match random % 10 {
        0..=2 => Does::Add,
        3 | 4 => Does::Request,
        5 | 6 => Does::Login,
        7 => Does::LogoutInRequest,
        8 => Does::Logout,
        _ => Does::Touch,
    };
    (does, (random >> 32) % 400)
}

/// Races `count` sessions against another process, or, where there is none, against a second connection.
pub async fn races(url: &str, count: usize, processes: bool) -> Result<Report, Failure> {
    let begun = Instant::now();
    let here = store(url).await?;
    let mut there = if processes { Some(OtherProcess::start(url).await?) } else { None };
    let other = store(url).await?;
    let mut report = Report::default();
    while report.races < count {
        let seed = mix(report.races as u64 ^ u64::from(std::process::id()));
        let size = BATCH.min(count - report.races);
        let owners: Vec<String> = (0..size).map(|number| format!("racer {seed} {number}")).collect();
        let mut ids = Vec::with_capacity(size);
        for owner in &owners {
            let session = Session::new();
            session.set("n", 0)?;
            session.set_owner(owner.as_str())?;
            ids.push(here.save(&session).await?.as_ref().to_owned());
        }
        let ours = side(&here, seed, 0, &ids);
        let (ours, theirs) = match &mut there {
            Some(worker) => {
                let theirs = worker.run(seed, &ids);
                let (ours, theirs) = tokio::join!(ours, theirs);
                (ours, theirs?)
            }
            None => tokio::join!(ours, side(&other, seed, 1, &ids)),
        };
        for (number, owner) in owners.iter().enumerate() {
            let said =
                [ours.get(number), theirs.get(number)].map(Option::<&Said>::cloned).map(Option::unwrap_or_default);
            let first = ids.get(number).cloned().unwrap_or_default();
            judge(&here, choices(seed, number), owner, first, said, &mut report).await?;
        }
        report.races += size;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// What came of one side's try: `+` for what was done, `-` for what came too late, anything else for a failure; after it the
/// ID that it was given, if any.
pub type Said = String;

fn choices(seed: u64, number: usize) -> [Does; 2] {
    [choice(seed, number, 0).0, choice(seed, number, 1).0]
}

/// Compares what both sides did and were answered with what is stored, and tries every ID that was ever issued.
async fn judge(
    store: &Store,
    did: [Does; 2],
    owner: &str,
    first: String,
    said: [Said; 2],
    report: &mut Report,
) -> Result<(), Failure> {
    let any = |does: Does| did.contains(&does);
    let live = store.sessions_of(owner).await?;
    report.failed += said.iter().filter(|said| !said.starts_with(['+', '-'])).count();
    let given: Vec<&str> = said.iter().filter_map(|said| said.get(1..)).filter(|id| !id.is_empty()).collect();
    let mut open = 0;
    for id in given.iter().copied().chain([first.as_str()]) {
        open += usize::from(store.load(id).await?.is_some());
    }
    if any(Does::Logout) || any(Does::LogoutInRequest) {
        report.resurrected += live.len().max(open);
        return Ok(());
    }
    // A renewal issued a new ID: then it is the only one, and the first leads to no session.
    report.extra += live.len().max(open).saturating_sub(1);
    report.lost += usize::from(open == 0 || (any(Does::Login) && given.is_empty()));
    let Some(session) = live.first() else {
        report.lost += 1;
        return Ok(());
    };
    let n: usize = session.get("n").unwrap_or_default();
    let told = did.iter().zip(&said).filter(|(does, said)| **does == Does::Add && said.starts_with('+')).count();
    let silent = did.iter().filter(|does| **does == Does::Request).count();
    let adds = did.iter().filter(|does| matches!(does, Does::Add | Does::Request)).count();
    // A renewal turns away those who came with the old ID.
    let fits = if any(Does::Login) { (told..=told + silent).contains(&n) } else { n == adds };
    report.lost += usize::from(!fits);
    Ok(())
}

/// One side of a batch.
pub async fn side(store: &Store, seed: u64, side: u64, ids: &[String]) -> Vec<Said> {
    let layer = SessionLayer::new(store.clone());
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (number, id) in ids.iter().enumerate() {
        let (does, pause) = choice(seed, number, side);
        let (store, layer, places, id) = (store.clone(), layer.clone(), Arc::clone(&places), id.clone());
        tasks.spawn(async move {
            let _place = places.acquire_owned().await;
            tokio::time::sleep(Duration::from_micros(pause)).await;
            (number, act(&store, &layer, &id, does).await.unwrap_or_else(|_| "!".into()))
        });
    }
    let mut said = tasks.join_all().await;
    said.sort_unstable();
    said.into_iter().map(|(_, said)| said).collect()
}

async fn act(store: &Store, layer: &SessionLayer<BoxedCache>, id: &str, does: Does) -> Result<Said, Failure> {
    let add = |n: Option<u64>| n.unwrap_or_default() + 1;
    match does {
        Does::Add => {
            let Some(session) = store.load(id).await? else { return Ok("-".into()) };
            session.update("n", add)?;
            return match session.commit().await {
                Ok(()) => Ok("+".into()),
                Err(SessionError::Gone) => Ok("-".into()),
                Err(error) => Err(error.into()),
            };
        }
        Does::Logout => {
            store.destroy(id).await?;
            return Ok("+".into());
        }
        Does::Request | Does::Login | Does::LogoutInRequest | Does::Touch => {}
    }
    let service = layer.layer(service_fn(move |request: Request<()>| async move {
        let lazy = request.extensions().get::<LazySession>().cloned();
        let session = match lazy {
            Some(lazy) => lazy.load().await,
            None => Err(SessionError::MissingLayer),
        };
        let done = session.and_then(|session| match does {
            Does::LogoutInRequest => {
                session.destroy();
                Ok(())
            }
            _ if session.is_new() => Ok(()),
            Does::Login => {
                session.renew();
                session.set("user", 42)
            }
            Does::Touch => {
                session.touch();
                Ok(())
            }
            _ => session.update("n", add).map(|_| ()),
        });
        let status = done.map_or(503, |()| 200);
        Ok::<_, Infallible>(Response::builder().status(status).body(String::new()).unwrap_or_default())
    }));
    let request = Request::get("/").header(header::COOKIE, format!("__Host-id={id}")).body(())?;
    let response = service.oneshot(request).await?;
    let said = if response.status().is_success() { "+" } else { "!" };
    let cookie = response.headers().get(header::SET_COOKIE).map(http::HeaderValue::to_str).transpose()?;
    let given = cookie.and_then(|cookie| cookie.strip_prefix("__Host-id=")?.split(';').next()).unwrap_or_default();
    Ok([said, given].concat())
}
