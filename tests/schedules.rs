//! All schedules, up to a bound, of two and three requests of one session that overlap.
//!
//! Every operation on the cache is a point at which another request may go on. A schedule is replayed from the start with
//! one decision changed, depth first, with a bound on how often a request is interrupted.
#![cfg(feature = "testing")]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use cloakroom::{Cache, CacheErrorKind, InMemoryCache, SessionError, SessionStore, Value};

#[path = "common/six_methods.rs"]
mod six_methods;
#[path = "common/web.rs"]
mod web;

use six_methods::{SixMethods, Twist};
use web::{layer, send, start};

/// Yields before every operation, and remembers every key.
type Stage = SixMethods<InMemoryCache, Turns>;

#[derive(Clone, Debug, Default)]
struct Turns {
    yields: Arc<AtomicBool>,
    keys: Arc<Mutex<BTreeSet<String>>>,
    operations: Arc<AtomicUsize>,
}

impl Twist for Turns {
    async fn before(&self, key: &str) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.keys.lock().unwrap().insert(key.to_owned());
        if self.yields.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }
}

/// The records of all live sessions, whoever knows of them.
async fn live(stage: &Stage) -> Vec<Value> {
    let keys = stage.twist.keys.lock().unwrap().clone();
    let mut live = Vec::new();
    for key in keys {
        if let Some(entry) = stage.inner.get(&key).await.unwrap() {
            let record: Value = serde_json::from_slice(&entry.value).unwrap();
            if record.get("d").is_some() {
                live.push(record);
            }
        }
    }
    live
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Set,
    Add,
    Touch,
    Login,
    Destroy,
    /// Adds and commits itself, and says what came of it.
    Commit,
    /// Adds through a detached handle that commits while the request still runs.
    Detached,
}

#[derive(Debug, Default)]
struct Said {
    cookies: Vec<String>,
    committed: usize,
}

type Client = Pin<Box<dyn Future<Output = ()>>>;

fn client(
    layer: cloakroom::SessionLayer<Stage>,
    cookie: String,
    does: Does,
    number: usize,
    said: Arc<Mutex<Said>>,
) -> Client {
    // The runtime would have a client pause that it has polled for long.
    Box::pin(tokio::task::unconstrained(async move {
        let heard = said.clone();
        let reply = send(&layer, Some(&cookie), move |session| {
            let heard = heard.clone();
            async move {
                let add = |n: Option<u64>| n.unwrap_or_default() + 1;
                // Who came too late is a visitor without a session, and would be given one of their own.
                if session.is_new() && does != Does::Destroy {
                    return 200;
                }
                let outcome = match does {
                    Does::Set => return session.set(format!("key {number}"), 1).map_or(500, |()| 200),
                    Does::Add => return session.update("n", add).map_or(500, |_| 200),
                    Does::Touch => {
                        session.touch();
                        return 200;
                    }
                    Does::Login => {
                        session.renew();
                        return session.set("user", number).map_or(500, |()| 200);
                    }
                    Does::Destroy => {
                        session.destroy();
                        return 200;
                    }
                    Does::Commit => {
                        session.update("n", add).unwrap();
                        session.commit().await
                    }
                    Does::Detached => {
                        let later = session.detach();
                        later.update("n", add).unwrap();
                        later.commit().await
                    }
                };
                match outcome {
                    Ok(()) => heard.lock().unwrap().committed += 1,
                    Err(SessionError::Gone) => {}
                    // Another's renewal: what it waits for is its own request, which waits for it.
                    Err(SessionError::Cache(error)) if error.kind() == CacheErrorKind::Timeout => {
                        assert_eq!(does, Does::Detached);
                    }
                    Err(error) => panic!("{does:?}: {error}"),
                }
                200
            }
        })
        .await;
        assert_eq!(reply.status, 200, "{does:?}");
        said.lock().unwrap().cookies.extend(reply.cookie().filter(|cookie| !cookie.ends_with('=')));
    }))
}

/// Who goes on at each step, and who could have gone on instead.
#[derive(Debug)]
struct Step {
    went: usize,
    others: Vec<usize>,
}

/// Runs the clients: first as `decided`, then each to its end. Returns what could have been decided otherwise.
async fn play(stage: &Stage, mut clients: Vec<Option<Client>>, decided: &[usize], bound: usize) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut current, mut interrupted) = (0, 0);
    // They wait for another's turn, or for time to pass.
    let mut waiting = vec![false; clients.len()];
    while clients.iter().any(Option::is_some) {
        let mut ready: Vec<usize> = (0..clients.len()).filter(|at| clients[*at].is_some() && !waiting[*at]).collect();
        if ready.is_empty() {
            tokio::time::advance(Duration::from_millis(20)).await;
            waiting.fill(false);
            ready = (0..clients.len()).filter(|at| clients[*at].is_some()).collect();
        }
        let goes_on = ready.contains(&current);
        let default = if goes_on { current } else { ready[0] };
        let went = decided.get(steps.len()).copied().unwrap_or(default);
        let may_switch = !goes_on || interrupted < bound;
        let others = if may_switch { ready.iter().copied().filter(|at| *at != went).collect() } else { Vec::new() };
        interrupted += usize::from(went != current && goes_on);
        current = went;
        let before = stage.twist.operations.load(Ordering::Relaxed);
        let poll = clients[went].as_mut().unwrap().as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if poll.is_ready() {
            clients[went] = None;
        }
        if poll.is_ready() || stage.twist.operations.load(Ordering::Relaxed) > before {
            waiting.fill(false);
        } else {
            waiting[went] = true;
        }
        steps.push(Step { went, others });
        assert!(steps.len() < 400, "nobody gets any further: {:?}", steps.iter().map(|s| s.went).collect::<Vec<_>>());
    }
    steps
}

/// All schedules of these clients; returns how many.
async fn explore(does: &[Does], bound: usize) -> usize {
    let mut count = 0;
    let mut decided: Vec<usize> = Vec::new();
    // What is still to be tried at each decided step.
    let mut untried: Vec<Vec<usize>> = Vec::new();
    loop {
        let stage = Stage { inner: InMemoryCache::new(), twist: Turns::default() };
        let store = SessionStore::new(stage.clone());
        let layer = layer(&store);
        let cookie = start(&layer, "alice").await;
        let said = Arc::new(Mutex::new(Said::default()));
        let client =
            |(number, does): (usize, &Does)| Some(client(layer.clone(), cookie.clone(), *does, number, said.clone()));
        let clients = does.iter().enumerate().map(client).collect();
        stage.twist.yields.store(true, Ordering::Relaxed);
        let steps = play(&stage, clients, &decided, bound).await;
        stage.twist.yields.store(false, Ordering::Relaxed);
        let said = std::mem::take(&mut *said.lock().unwrap());
        check(does, &stage, &said, &steps).await;
        count += 1;

        for step in steps.into_iter().skip(decided.len()) {
            decided.push(step.went);
            untried.push(step.others);
        }
        loop {
            match untried.last_mut().map(Vec::pop) {
                None => return count,
                Some(Some(other)) => {
                    *decided.last_mut().unwrap() = other;
                    break;
                }
                Some(None) => {
                    untried.pop();
                    decided.pop();
                }
            }
        }
    }
}

async fn check(does: &[Does], stage: &Stage, said: &Said, steps: &[Step]) {
    let schedule = || format!("{does:?} {:?}", steps.iter().map(|step| step.went).collect::<Vec<_>>());
    let how_many = |what: Does| does.iter().filter(|does| **does == what).count();
    let live = live(stage).await;
    if how_many(Does::Destroy) > 0 {
        assert!(live.is_empty(), "resurrected: {live:?} {}", schedule());
        return;
    }
    assert_eq!(live.len(), 1, "live sessions: {live:?} {}", schedule());
    let data = &live[0]["d"];
    let n = data["n"].as_u64().unwrap();
    let (silent, spoken) = (how_many(Does::Add) as u64, said.committed as u64);
    if how_many(Does::Login) == 0 {
        let adds = silent + (how_many(Does::Commit) + how_many(Does::Detached)) as u64;
        assert_eq!(n, adds, "lost: {}", schedule());
        for (number, _) in does.iter().enumerate().filter(|(_, does)| **does == Does::Set) {
            assert_eq!(data[format!("key {number}")], 1, "lost: {}", schedule());
        }
        assert!(said.cookies.is_empty(), "{}", schedule());
    } else {
        // Those who came with the old ID after the renewal were turned away, and those who could be told were told.
        assert!((spoken..=spoken + silent).contains(&n), "{n}, {spoken} said so: {}", schedule());
        assert!(data["user"].is_u64(), "not privileged: {}", schedule());
    }
}

fn pairs() -> Vec<[Does; 2]> {
    use Does::{Add, Commit, Destroy, Detached, Login, Set, Touch};
    let all = [Set, Add, Touch, Login, Destroy, Commit, Detached];
    let mut pairs = Vec::new();
    for (at, a) in all.into_iter().enumerate() {
        pairs.extend(all[at..].iter().map(|b| [a, *b]));
    }
    pairs
}

#[tokio::test(start_paused = true)]
async fn two_requests() {
    let mut count = 0;
    for pair in pairs() {
        count += explore(&pair, usize::MAX).await;
    }
    println!("{count} schedules of two requests");
    assert!(count >= 150, "{count}: there are points to interrupt them at");
}

#[tokio::test(start_paused = true)]
async fn three_requests() {
    use Does::{Add, Commit, Destroy, Detached, Login, Touch};
    let mut count = 0;
    for three in [
        [Add, Add, Add],
        [Add, Login, Destroy],
        [Login, Login, Destroy],
        [Add, Login, Login],
        [Commit, Add, Login],
        [Detached, Login, Destroy],
        [Detached, Add, Login],
        [Touch, Login, Destroy],
        [Destroy, Destroy, Login],
    ] {
        count += explore(&three, 4).await;
    }
    println!("{count} schedules of three requests");
    assert!(count >= 1000, "{count}: there are points to interrupt them at");
}
