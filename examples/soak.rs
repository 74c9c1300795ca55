//! Races of logouts, renewals and writes on a real Redis, from two processes at once.
//!
//! ```sh
//! cargo run --release --all-features --example soak -- races 100000
//! cargo run --release --all-features --example soak -- crowd
//! cargo run --release --all-features --example soak -- faults 600
//! cargo run --release --all-features --example soak -- fuzz 20
//! ```
//!
//! `races` gives each session to both processes, and each does something to it at the same moment: adds to a number, logs
//! in (a renewal), logs out, touches. Afterwards nothing may have come back, nothing may be lost, and no session may live
//! twice. `crowd` counts what 64 parallel writers of one session cost the server, from one process and from two.
//! `faults` runs a mixed load for so many seconds while its own server is killed, stopped, paused, and loses connections and
//! scripts: no session may be lost that no fault destroyed, and no cookie may open the session of another user.
//! `fuzz` runs each target in `fuzz/` for so many seconds; it needs `cargo install cargo-fuzz`, and the first build takes minutes.
//! `REDIS_URL` names a server for the first two; without it one is started and stopped again.
#![allow(dead_code, missing_docs, unreachable_pub)]
use std::{
    convert::Infallible,
    env,
    error::Error,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use cloakroom::{LazySession, RedisCache, Session, SessionError, SessionLayer, SessionStore};
use http::{Request, Response, header};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Semaphore,
    task::JoinSet,
};
use tower::{Layer, ServiceExt, service_fn};

#[path = "../tests/common/redis_server.rs"]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
pub mod redis_server;

type Failure = Box<dyn Error + Send + Sync>;
type Store = SessionStore<RedisCache>;

const BATCH: usize = 500;
const AT_ONCE: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["worker", url] => worker(url).await,
        ["races", rest @ ..] => {
            let count = rest.first().map_or(Ok(100_000), |count| count.parse())?;
            with_server(async |url| {
                let report = races(&url, count, true).await?;
                println!("{report:?}");
                if report.is_clean() { Ok(()) } else { Err("a promise was broken".into()) }
            })
            .await
        }
        ["faults", rest @ ..] => {
            let seconds = rest.first().map_or(Ok(600), |seconds| seconds.parse())?;
            let report = faults(Duration::from_secs(seconds)).await?;
            println!("{report:?}");
            if report.is_clean() { Ok(()) } else { Err("a promise was broken".into()) }
        }
        ["fuzz", rest @ ..] => fuzz(rest.first().copied().unwrap_or("20")).await,
        ["crowd"] => with_server(async |url| crowd(&url).await).await,
        _ => Err("usage: soak races [count] | soak crowd | soak faults [seconds] | soak fuzz [seconds]".into()),
    }
}

async fn with_server(run: impl AsyncFnOnce(String) -> Result<(), Failure>) -> Result<(), Failure> {
    match env::var("REDIS_URL") {
        Ok(url) => run(url).await,
        Err(_) => {
            let server = redis_server::RedisServer::start();
            let url = server.url();
            run(url).await
        }
    }
}

async fn store(url: &str) -> Result<Store, Failure> {
    let cache = RedisCache::builder(url).timeout(Duration::from_secs(10)).build().await?;
    Ok(SessionStore::new(cache).deadline(Duration::from_secs(20)))
}

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

/// The finalizer of splitmix64.
fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
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
    let mut there = if processes { Some(Worker::start(url).await?) } else { None };
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
type Said = String;

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
    // A renewal issued a new ID: then it is the only one, and the first opens nothing.
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
async fn side(store: &Store, seed: u64, side: u64, ids: &[String]) -> Vec<Said> {
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

async fn act(store: &Store, layer: &SessionLayer<RedisCache>, id: &str, does: Does) -> Result<Said, Failure> {
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

/// Runs each fuzz target for so many seconds. Needs `cargo install cargo-fuzz`; the first build takes minutes.
async fn fuzz(seconds: &str) -> Result<(), Failure> {
    let seconds: u64 = seconds.parse()?;
    let mut version = Command::new("cargo");
    version.args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().await?.success() {
        return Err("cargo-fuzz is missing: `cargo install cargo-fuzz`".into());
    }
    for target in TARGETS {
        std::fs::create_dir_all(format!(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/{}"), target))?;
        let mut fuzz = Command::new("cargo");
        fuzz.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"));
        // The sanitizers are features of a nightly compiler; with this a stable one has them as well.
        fuzz.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "run", target]);
        fuzz.args([format!("corpus/{target}"), format!("seeds/{target}")]);
        let status = fuzz.args(["--", &format!("-max_total_time={seconds}")]).status().await?;
        if !status.success() {
            return Err(format!("{target}: {status}").into());
        }
    }
    Ok(())
}

const TARGETS: [&str; 2] = ["cookie_header", "record"];

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
    let cache = RedisCache::connect(server.url()).await?;
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
    layer: &SessionLayer<RedisCache>,
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

/// The other process.
struct Worker {
    /// Ends with this process: it reads the end of its input.
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    async fn start(url: &str) -> Result<Self, Failure> {
        let mut child = Command::new(env::current_exe()?)
            .args(["worker", url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("the other process has no pipes".into()) };
        Ok(Self { child, input, output: BufReader::new(output).lines() })
    }

    async fn run(&mut self, seed: u64, ids: &[String]) -> Result<Vec<Said>, Failure> {
        let line = format!("{seed} {}\n", ids.join(" "));
        self.input.write_all(line.as_bytes()).await?;
        self.input.flush().await?;
        let answer = self.output.next_line().await?.ok_or("the other process has ended")?;
        Ok(answer.split(' ').map(str::to_owned).collect())
    }
}

async fn worker(url: &str) -> Result<(), Failure> {
    let store = store(url).await?;
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut output = tokio::io::stdout();
    while let Some(line) = input.next_line().await? {
        let mut words = line.split(' ');
        let seed = words.next().unwrap_or_default();
        let ids: Vec<String> = words.map(str::to_owned).collect();
        let said = match seed.strip_prefix("crowd:") {
            Some(first) => write_keys(&store, first.parse()?, &ids).await?,
            None => side(&store, seed.parse()?, 1, &ids).await,
        };
        output.write_all(format!("{}\n", said.join(" ")).as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

/// 32 writers of one session at once, each with a key of its own.
async fn write_keys(store: &Store, first: usize, ids: &[String]) -> Result<Vec<Said>, Failure> {
    let id = ids.first().ok_or("no session")?;
    let together = Arc::new(tokio::sync::Barrier::new(32));
    let mut tasks = JoinSet::new();
    for number in first..first + 32 {
        let (store, id, together) = (store.clone(), id.clone(), Arc::clone(&together));
        tasks.spawn(async move {
            let session = store.load(&id).await?.ok_or(SessionError::Gone)?;
            session.set(format!("key {number}"), number)?;
            together.wait().await;
            session.commit().await
        });
    }
    for done in tasks.join_all().await {
        done?;
    }
    Ok(vec!["+".into()])
}

async fn crowd(url: &str) -> Result<(), Failure> {
    let here = store(url).await?;
    let client = redis::Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    for processes in [1, 2] {
        let mut worker = Worker::start(url).await?;
        let (mut commands, mut keys) = (0, 0);
        const ROUNDS: usize = 50;
        for _ in 0..ROUNDS {
            let id = here.save(&Session::new()).await?.as_ref().to_owned();
            let ids = [id.clone()];
            let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut connection).await?;
            if processes == 1 {
                tokio::try_join!(write_keys(&here, 0, &ids), write_keys(&here, 32, &ids))?;
            } else {
                let line = format!("crowd:32 {id}\n");
                let theirs = async {
                    worker.input.write_all(line.as_bytes()).await?;
                    worker.input.flush().await?;
                    Ok::<_, Failure>(worker.output.next_line().await?)
                };
                tokio::try_join!(write_keys(&here, 0, &ids), theirs)?;
            }
            let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await?;
            // What scripts call inside of the server is counted there as well; loading was one `GET` each.
            commands += 64;
            for line in stats.lines().filter(|line| line.starts_with("cmdstat_evalsha:")) {
                if let Some(calls) = line.split("calls=").nth(1).and_then(|rest| rest.split(',').next()) {
                    commands += calls.parse::<usize>()?;
                }
            }
            keys += here.load(&id).await?.map_or(0, |session| session.len());
        }
        let each = commands as f64 / (64 * ROUNDS) as f64;
        println!("{processes} process(es): {each:.2} commands a writer, {keys} of {} keys there", 64 * ROUNDS);
    }
    Ok(())
}
