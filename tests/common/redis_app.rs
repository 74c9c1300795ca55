//! A small application with sessions, and somebody who uses it all the time.
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::Request, routing::get};
use cloakroom::{Cache, LazySession, Session, SessionError, SessionLayer, SessionStore};
use http_body_util::BodyExt;
use tokio::task::JoinSet;
use tower::ServiceExt;

#[derive(Clone)]
pub struct App {
    pub router: Router,
    pub cookie: String,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    pub cookie: Option<String>,
    pub took: Duration,
}

async fn read(session: Session) -> String {
    session.get("user").unwrap_or_else(|| "nobody".to_owned())
}

async fn count(session: Session) -> Result<String, SessionError> {
    Ok(session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1)?.to_string())
}

async fn login(session: Session) -> Result<String, SessionError> {
    session.renew();
    session.set("user", "alice")?;
    Ok("in".to_owned())
}

async fn logout(session: Session) -> &'static str {
    session.destroy();
    "out"
}

/// Loads, and writes a while later.
async fn slow(session: LazySession) -> Result<String, SessionError> {
    let session = session.load().await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    session.set("slow", true)?;
    Ok("slow".to_owned())
}

impl App {
    pub fn new(cache: impl Cache) -> Self {
        let sessions = SessionLayer::builder(SessionStore::new(cache)).lazy().build().unwrap();
        let router = Router::new()
            .route("/read", get(read))
            .route("/count", get(count))
            .route("/login", get(login))
            .route("/logout", get(logout))
            .route("/slow", get(slow))
            .route("/health", get(|| async { "well" }))
            .layer(sessions);
        Self { router, cookie: String::new() }
    }

    /// With somebody logged in.
    pub async fn logged_in(cache: impl Cache) -> Self {
        let mut app = Self::new(cache);
        app.cookie = app.get("/login").await.cookie.expect("a cookie from the login");
        app
    }

    /// The same browser at another process.
    pub fn over(&self, cache: impl Cache) -> Self {
        Self { cookie: self.cookie.clone(), ..Self::new(cache) }
    }

    pub async fn get(&self, path: &str) -> Answer {
        let began = Instant::now();
        let request = Request::get(path).header("cookie", &self.cookie).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let cookie = response.headers().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
        let cookie = cookie.map(|value| value.split(';').next().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, body: String::from_utf8_lossy(&body).into_owned(), cookie, took: began.elapsed() }
    }

    /// What is in the session, which has to be reachable.
    pub async fn user(&self) -> String {
        let answer = self.get("/read").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// The counter in the session, which has to be reachable.
    pub async fn counter(&self) -> u64 {
        let answer = self.get("/count").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body.parse::<u64>().unwrap() - 1
    }
}

/// One answer: to what, when it was asked for, how long it took, its status.
#[derive(Clone, Debug)]
pub struct Sample {
    pub path: &'static str,
    pub at: Instant,
    pub took: Duration,
    pub status: u16,
    pub body: String,
    pub cookie: bool,
}

/// Requests that keep coming, each at its time, whether those before were answered or not.
pub struct Load {
    app: App,
    stop: Arc<AtomicBool>,
    samples: Arc<Mutex<Vec<Sample>>>,
    running: Arc<AtomicI64>,
    most: Arc<AtomicI64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    /// `paths` in turn, one request every `pause`.
    pub fn start(app: &App, paths: &'static [&'static str], pause: Duration) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
        let (running, most): (Arc<AtomicI64>, Arc<AtomicI64>) = Default::default();
        let task = {
            let (app, stop, samples) = (app.clone(), stop.clone(), samples.clone());
            let (running, most) = (running.clone(), most.clone());
            tokio::spawn(async move {
                let mut requests = JoinSet::new();
                let mut ticks = tokio::time::interval(pause);
                for &path in paths.iter().cycle() {
                    ticks.tick().await;
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    while requests.try_join_next().is_some() {}
                    let (app, samples, running) = (app.clone(), samples.clone(), running.clone());
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    requests.spawn(async move {
                        let at = Instant::now();
                        let Answer { status, body, cookie, took } = app.get(path).await;
                        running.fetch_sub(1, Ordering::SeqCst);
                        let cookie = cookie.is_some();
                        samples.lock().unwrap().push(Sample { path, at, took, status, body, cookie });
                    });
                }
                while requests.join_next().await.is_some() {}
            })
        };
        Self { app: app.clone(), stop, samples, running, most, task }
    }

    /// Reads and writes, two hundred a second.
    pub fn mixed(app: &App) -> Self {
        Self::start(app, &["/read", "/read", "/count", "/health"], Duration::from_millis(5))
    }

    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap().clone()
    }

    pub async fn end(self) -> Report {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        assert_eq!(self.running.load(Ordering::SeqCst), 0);
        let samples = self.samples.lock().unwrap().clone();
        Report { app: self.app, samples, most: self.most.load(Ordering::SeqCst) }
    }
}

pub struct Report {
    app: App,
    pub samples: Vec<Sample>,
    /// The most requests that were under way at the same time.
    pub most: i64,
}

impl Report {
    pub fn longest(&self) -> Duration {
        self.samples.iter().map(|sample| sample.took).max().unwrap_or_default()
    }

    /// How often each status was the answer to `path`.
    pub fn statuses(&self, path: &str) -> BTreeMap<u16, usize> {
        let mut statuses = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.path == path) {
            *statuses.entry(sample.status).or_default() += 1;
        }
        statuses
    }

    pub fn failed(&self) -> usize {
        self.samples.iter().filter(|sample| sample.status != 200).count()
    }

    /// From `cured` to the end of the first success that `path` had after it, and of the last failure.
    pub fn recovered(&self, path: &str, cured: Instant) -> Duration {
        let after = |sample: &&Sample| sample.path == path && sample.at + sample.took >= cured;
        let success = self.samples.iter().filter(after).filter(|sample| sample.status == 200);
        let first = success.map(|sample| sample.at + sample.took).min().expect("a success after the fault");
        first - cured
    }

    /// What has to hold whatever happens: deadlines, recovery, no cookie, nothing counted twice, nothing lost.
    pub async fn check(&self, fault: &str, cured: Instant) {
        let (read, count) = (self.recovered("/read", cured), self.recovered("/count", cured));
        eprintln!(
            "{fault}: longest request {:?}, first read {read:?} and first write {count:?} after the cure, \
             reads {:?}, writes {:?}, at most {} at a time",
            self.longest(),
            self.statuses("/read"),
            self.statuses("/count"),
            self.most,
        );
        assert!(self.longest() < Duration::from_millis(1200), "{fault}: {:?}", self.longest());
        assert!(read < Duration::from_millis(1500) && count < Duration::from_millis(1500), "{fault}");
        for sample in &self.samples {
            assert!(matches!(sample.status, 200 | 503), "{fault}: {sample:?}");
            assert!(!sample.cookie, "{fault}: {sample:?}");
            assert!(sample.path != "/read" || sample.status != 200 || sample.body == "alice", "{fault}: {sample:?}");
        }
        assert_eq!(self.statuses("/health").keys().copied().collect::<Vec<_>>(), [200], "{fault}");
        let slowest = self.samples.iter().filter(|sample| sample.path == "/health").map(|sample| sample.took).max();
        assert!(slowest.unwrap_or_default() < Duration::from_millis(100), "{fault}: {slowest:?} without a session");
        self.counted(fault).await;
    }

    /// Each write that was confirmed counts once, one that was not at most once.
    pub async fn counted(&self, fault: &str) {
        let counts: Vec<_> = self.samples.iter().filter(|sample| sample.path == "/count").collect();
        let confirmed = counts.iter().filter(|sample| sample.status == 200).count() as u64;
        let (n, all) = (self.app.counter().await, counts.len() as u64);
        assert!((confirmed..=all).contains(&n), "{fault}: {n} counted, {confirmed} of {all} confirmed");
    }
}
