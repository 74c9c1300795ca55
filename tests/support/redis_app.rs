//! A small application with sessions, and a visitor who uses it all the time.
//!
//! How long anything takes is printed and not judged: on a busy machine everything may take long. What is judged is what
//! was answered, in which order, and that it is answered at all within [`PATIENCE`].
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::Request, routing::get};
use cloakroom::{Cache, LazySession, RedisCache, Session, SessionError, SessionLayer, SessionStore};
use http_body_util::BodyExt;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, sleep},
};
use tower::ServiceExt;

/// How long to wait for what has to happen sooner or later. Whatever takes longer is taken to hang for ever.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Many times the deadline of the layer: no request takes as long as this.
const FOR_EVER: Duration = Duration::from_secs(15);

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
    session.get("user").unwrap_or_else(|| "none".to_owned())
}

async fn counted(session: Session) -> String {
    session.get::<u64>("n").unwrap_or(0).to_string()
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

/// Loads, and writes a while later; answers whose session it was.
async fn slow(session: LazySession) -> Result<String, SessionError> {
    let session = session.load().await?;
    sleep(Duration::from_millis(300)).await;
    session.set("slow", true)?;
    Ok(read(session).await)
}

impl App {
    /// With the deadline that the store has by default.
    pub fn new(cache: impl Cache) -> Self {
        Self::over_store(SessionStore::new(cache))
    }

    /// For what has to succeed at the first try, however busy the machine is; the cache has to be patient, too.
    pub fn patient(cache: impl Cache) -> Self {
        Self::over_store(SessionStore::new(cache).deadline(2 * PATIENCE))
    }

    fn over_store(store: SessionStore<impl Cache>) -> Self {
        let sessions = SessionLayer::builder(store).lazy(true).build().unwrap();
        let router = Router::new()
            .route("/read", get(read))
            .route("/counted", get(counted))
            .route("/count", get(count))
            .route("/login", get(login))
            .route("/logout", get(logout))
            .route("/slow", get(slow))
            .route("/health", get(|| async { "well" }))
            .layer(sessions);
        Self { router, cookie: String::new() }
    }

    /// With a user logged in.
    pub async fn logged_in(mut self) -> Self {
        self.cookie = self.eventually("/login").await.cookie.expect("a cookie from the login");
        self
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
        let took = began.elapsed();
        assert!(took < FOR_EVER, "{path} was answered after {took:?}");
        Answer { status, body: String::from_utf8_lossy(&body).into_owned(), cookie, took }
    }

    /// The first answer that is not 503.
    pub async fn eventually(&self, path: &str) -> Answer {
        let began = Instant::now();
        loop {
            let answer = self.get(path).await;
            match answer.status {
                200 => return answer,
                503 => assert!(began.elapsed() < PATIENCE, "{path} never works again"),
                _ => panic!("{path}: {answer:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whose session it is.
    pub async fn user(&self) -> String {
        self.eventually("/read").await.body
    }

    /// The counter in the session.
    pub async fn counter(&self) -> u64 {
        self.eventually("/counted").await.body.parse().unwrap()
    }
}

/// A cache with the default limits on a server that runs.
pub async fn connected(url: impl AsRef<str>) -> RedisCache {
    answering(RedisCache::builder(url).build_lazy().unwrap()).await
}

/// A cache that outwaits a busy machine.
pub async fn unhurried(url: impl AsRef<str>) -> RedisCache {
    RedisCache::builder(url).timeout(PATIENCE / 3).build().await.unwrap()
}

/// Once the server answers it, which takes longer than its limit now and then.
pub async fn answering(cache: RedisCache) -> RedisCache {
    let began = Instant::now();
    while let Err(error) = cache.ping().await {
        assert!(began.elapsed() < PATIENCE, "{error:?}");
        sleep(Duration::from_millis(20)).await;
    }
    cache
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
    /// The counter at the start.
    before: u64,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Progress>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Progress {
    samples: Vec<Sample>,
    /// By the order in which they began.
    running: BTreeSet<u64>,
    begun: u64,
    most: usize,
}

impl Load {
    /// `paths` in turn, one request every `pause`.
    pub fn start(app: &App, paths: &'static [&'static str], pause: Duration) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Progress>>::default());
        let task = {
            let (app, stop, seen) = (app.clone(), stop.clone(), seen.clone());
            tokio::spawn(async move {
                let mut requests = JoinSet::new();
                let mut ticks = tokio::time::interval(pause);
                // A machine that cannot keep up has no use for even more at a time.
                ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                for &path in paths.iter().cycle() {
                    ticks.tick().await;
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    while let Some(ended) = requests.try_join_next() {
                        ended.unwrap();
                    }
                    let id = seen.lock().unwrap().begin();
                    let (app, seen) = (app.clone(), seen.clone());
                    requests.spawn(async move {
                        let at = Instant::now();
                        let Answer { status, body, cookie, took } = app.get(path).await;
                        let cookie = cookie.is_some();
                        seen.lock().unwrap().end(id, Sample { path, at, took, status, body, cookie });
                    });
                }
                while let Some(ended) = requests.join_next().await {
                    ended.unwrap();
                }
            })
        };
        Self { app: app.clone(), before: 0, stop, seen, task }
    }

    /// Reads and writes, two hundred a second, and the first of them have been answered.
    pub async fn mixed(app: &App) -> Self {
        let before = app.counter().await;
        let load = Self::start(app, &["/read", "/read", "/count", "/health"], Duration::from_millis(5));
        let load = Self { before, ..load };
        load.answers(5, Instant::now(), &[("/read", 200), ("/count", 200)]).await;
        load
    }

    /// Waits until each of these paths was answered with that status so often, by requests that began after `since`.
    pub async fn answers(&self, times: usize, since: Instant, wanted: &[(&str, u16)]) {
        let is = |seen: &Progress, (path, status): (&str, u16)| {
            let is = |sample: &&Sample| sample.at >= since && (sample.path, sample.status) == (path, status);
            seen.samples.iter().rev().filter(is).take(times).count() == times
        };
        self.until(&format!("{wanted:?}"), |seen| wanted.iter().all(|&wanted| is(seen, wanted))).await;
    }

    /// Waits until all requests that have begun by now are answered.
    pub async fn settled(&self) {
        let begun = self.seen().begun;
        self.until("an answer to each request", |seen| seen.running.first().is_none_or(|id| *id >= begun)).await;
    }

    async fn until(&self, what: &str, is: impl Fn(&Progress) -> bool) {
        let began = Instant::now();
        while !is(&self.seen()) {
            if began.elapsed() > PATIENCE {
                let seen = self.seen();
                let last: Vec<_> = seen.samples.iter().rev().take(8).map(|last| (last.path, last.status)).collect();
                panic!("not within {PATIENCE:?}: {what}; at last {last:?}, {} wait", seen.running.len());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn seen(&self) -> MutexGuard<'_, Progress> {
        self.seen.lock().unwrap()
    }

    pub async fn end(self) -> Report {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert!(seen.running.is_empty());
        Report { app: self.app, before: self.before, samples: seen.samples, most: seen.most }
    }
}

impl Progress {
    fn begin(&mut self) -> u64 {
        let id = self.begun;
        self.begun += 1;
        self.running.insert(id);
        self.most = self.most.max(self.running.len());
        id
    }

    fn end(&mut self, id: u64, sample: Sample) {
        self.running.remove(&id);
        self.samples.push(sample);
    }
}

pub struct Report {
    app: App,
    before: u64,
    pub samples: Vec<Sample>,
    /// The most requests that were under way at the same time.
    pub most: usize,
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

    /// Whether `path` was answered with nothing but 200.
    pub fn always_worked(&self, path: &str) -> bool {
        self.statuses(path).keys().eq([&200])
    }

    pub fn failed(&self) -> usize {
        self.samples.iter().filter(|sample| sample.status != 200).count()
    }

    /// From `cured` to the end of the first success that `path` had after it.
    pub fn recovered(&self, path: &str, cured: Instant) -> Duration {
        let after = |sample: &&Sample| sample.path == path && sample.at + sample.took >= cured;
        let success = self.samples.iter().filter(after).filter(|sample| sample.status == 200);
        let first = success.map(|sample| sample.at + sample.took).min().expect("a success after the fault");
        first - cured
    }

    /// What has to hold whatever happens: recovery, no cookie, no session of another user, nothing counted twice, nothing lost.
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
        for sample in &self.samples {
            assert!(matches!(sample.status, 200 | 503), "{fault}: {sample:?}");
            assert!(!sample.cookie, "{fault}: {sample:?}");
            assert!(sample.path != "/read" || sample.status != 200 || sample.body == "alice", "{fault}: {sample:?}");
        }
        assert!(self.always_worked("/health"), "{fault}: without a session");
        self.counted(fault).await;
    }

    /// Each write that was confirmed counts once, one that was not at most once.
    pub async fn counted(&self, fault: &str) {
        let counts: Vec<_> = self.samples.iter().filter(|sample| sample.path == "/count").collect();
        let confirmed = counts.iter().filter(|sample| sample.status == 200).count() as u64;
        let (n, all) = (self.app.counter().await - self.before, counts.len() as u64);
        assert!((confirmed..=all).contains(&n), "{fault}: {n} counted, {confirmed} of {all} confirmed");
    }
}
