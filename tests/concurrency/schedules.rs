//! All schedules, up to a bound, of two and three requests of one session that overlap.
//!
//! Every operation on the cache is a point at which another request may go on. A schedule is replayed from the start with
//! one decision changed, depth first, with a bound on how often a request is interrupted.
use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use cloakroom::{
    Cache, CacheErrorKind, InMemoryCache, SessionError, SessionStore, Value,
    testing::{Operation, TestCache},
};

use crate::support::{
    six_methods::{SixMethods, Twist},
    web::{self, layer, send, start},
};

/// Waits before every operation until the scheduler has been asked, however often it is polled meanwhile, and remembers every
/// key.
type Stage = SixMethods<TestCache<InMemoryCache>, Turns>;

#[derive(Clone, Debug, Default)]
struct Turns {
    yields: Arc<AtomicBool>,
    keys: Arc<Mutex<BTreeSet<String>>>,
    operations: Arc<AtomicUsize>,
    /// The polls by the scheduler.
    turn: Arc<AtomicUsize>,
}

impl Twist for Turns {
    async fn before(&self, key: &str) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.keys.lock().unwrap().insert(key.to_owned());
        if self.yields.load(Ordering::Relaxed) {
            let arrived = self.turn.load(Ordering::Relaxed);
            std::future::poll_fn(|_| {
                if self.turn.load(Ordering::Relaxed) == arrived { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }
    }
}

/// The records of all live sessions, also of those without a cookie.
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
    /// Adds, and adds again while a clone commits, and commits itself at the same time.
    Clones,
    /// Adds, and fails after a detached handle has added and committed.
    DetachedFails,
    /// Adds, and sets the owner while a clone commits.
    Owner,
    /// Adds and commits, and the answer to its first write is lost.
    LostReply,
}

impl Does {
    const fn status(self) -> u16 {
        if matches!(self, Self::DetachedFails) { 500 } else { 200 }
    }
}

#[derive(Debug, Default)]
struct Replies {
    cookies: Vec<String>,
    /// Additions that were acknowledged, and all that may be stored.
    promised: u64,
    possible: u64,
}

type Client = Pin<Box<dyn Future<Output = ()>>>;

fn client(
    layer: cloakroom::SessionLayer<Stage>,
    cookie: String,
    does: Does,
    number: usize,
    replies: Arc<Mutex<Replies>>,
    losing: TestCache<InMemoryCache>,
) -> Client {
    // The runtime would have a client pause that it has polled for long.
    Box::pin(tokio::task::unconstrained(async move {
        let heard = replies.clone();
        let reply = send(&layer, Some(&cookie), move |session| {
            let (heard, losing) = (heard.clone(), losing.clone());
            async move {
                let add = |n: Option<u64>| n.unwrap_or_default() + 1;
                // Who came too late is a visitor without a session, and would be given one of their own.
                if session.is_new() && does != Does::Destroy {
                    return 200;
                }
                let possible = |more| heard.lock().unwrap().possible += more;
                let (outcome, adds) = match does {
                    Does::Set => return session.set(format!("key {number}"), 1).map_or(500, |()| 200),
                    Does::Add => {
                        possible(1);
                        return session.update("n", add).map_or(500, |_| 200);
                    }
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
                        (session.commit().await, 1)
                    }
                    Does::Detached => {
                        let later = session.detach();
                        later.update("n", add).unwrap();
                        (later.commit().await, 1)
                    }
                    Does::Clones => {
                        session.update("n", add).unwrap();
                        let (clone, seen) = (session.clone(), session.get::<u64>("n").unwrap());
                        let again = async {
                            assert_eq!(session.get("n"), Some(seen));
                            session.update("n", add).unwrap();
                            session.commit().await
                        };
                        let (one, two) = tokio::join!(clone.commit(), again);
                        (one.and(two), 2)
                    }
                    Does::DetachedFails => {
                        session.update("n", add).unwrap();
                        let later = session.detach();
                        later.update("n", add).unwrap();
                        (later.commit().await, 1)
                    }
                    Does::Owner => {
                        session.update("n", add).unwrap();
                        let (clone, name) = (session.clone(), format!("owner {number}"));
                        let owned = async {
                            session.set_owner(&name).unwrap();
                            assert_eq!(session.owner(), Some(name.clone()));
                        };
                        let (outcome, ()) = tokio::join!(clone.commit(), owned);
                        (outcome, 1)
                    }
                    Does::LostReply => {
                        session.update("n", add).unwrap();
                        losing.lose_reply(Operation::Replace);
                        (session.commit().await, 1)
                    }
                };
                match outcome {
                    Ok(()) => {
                        possible(adds);
                        heard.lock().unwrap().promised += adds;
                    }
                    // Of the two of `Clones` one may have been stored.
                    Err(SessionError::Gone) => possible(adds - 1),
                    Err(SessionError::Cache(error)) if error.kind() == CacheErrorKind::Timeout => {
                        // A detached handle waits for its own request, which waits for it.
                        assert!(matches!(does, Does::Detached | Does::DetachedFails | Does::LostReply));
                        possible(adds);
                    }
                    Err(error) => panic!("{does:?}: {error}"),
                }
                does.status()
            }
        })
        .await;
        assert!(reply.status == does.status() || reply.status == 200, "{does:?}: {}", reply.status);
        replies.lock().unwrap().cookies.extend(reply.cookie().filter(|cookie| !cookie.ends_with('=')));
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
        stage.twist.turn.fetch_add(1, Ordering::Relaxed);
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
        assert!(steps.len() < 400, "no progress: {:?}", steps.iter().map(|s| s.went).collect::<Vec<_>>());
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
        let memory = InMemoryCache::new();
        let stage = Stage { inner: TestCache::new(memory.clone()), twist: Turns::default() };
        let store = SessionStore::new(stage.clone());
        let layer = layer(&store);
        let cookie = start(&layer, "alice").await;
        let replies = Arc::new(Mutex::new(Replies::default()));
        let client = |(number, does): (usize, &Does)| {
            // Answers are lost to this one alone, which has a process to itself.
            let losing = TestCache::new(memory.clone());
            let own = Stage { inner: losing.clone(), twist: stage.twist.clone() };
            let layer = if *does == Does::LostReply { web::layer(&SessionStore::new(own)) } else { layer.clone() };
            Some(client(layer, cookie.clone(), *does, number, replies.clone(), losing))
        };
        let clients = does.iter().enumerate().map(client).collect();
        stage.twist.yields.store(true, Ordering::Relaxed);
        let steps = play(&stage, clients, &decided, bound).await;
        stage.twist.yields.store(false, Ordering::Relaxed);
        let replies = std::mem::take(&mut *replies.lock().unwrap());
        check(does, &stage, &replies, &steps).await;
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

async fn check(does: &[Does], stage: &Stage, replies: &Replies, steps: &[Step]) {
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
    assert!((replies.promised..=replies.possible).contains(&n), "{n} of {replies:?}: {}", schedule());
    if how_many(Does::Login) == 0 {
        // What a lost answer leaves open is never more than one addition.
        let open = how_many(Does::LostReply) as u64;
        assert!(n + open >= replies.possible, "lost: {n} of {replies:?} {}", schedule());
        for (number, _) in does.iter().enumerate().filter(|(_, does)| **does == Does::Set) {
            assert_eq!(data[format!("key {number}")], 1, "lost: {}", schedule());
        }
        assert!(replies.cookies.is_empty(), "{}", schedule());
        let owners: Vec<String> = (0..does.len())
            .filter(|number| does[*number] == Does::Owner)
            .map(|number| format!("owner {number}"))
            .collect();
        let owner = live[0]["o"].as_str().unwrap();
        assert!(
            owners.iter().any(|set| set == owner) || (owners.is_empty() && owner == "alice"),
            "{owner} {}",
            schedule()
        );
    } else {
        // Those who came with the old ID after the renewal were turned away, and those who could be told were told.
        assert!(data["user"].is_u64(), "not privileged: {}", schedule());
    }
}

fn pairs() -> Vec<[Does; 2]> {
    use Does::{Add, Clones, Commit, Destroy, Detached, DetachedFails, Login, LostReply, Owner, Set, Touch};
    let all = [Set, Add, Touch, Login, Destroy, Commit, Detached, Clones, DetachedFails, Owner, LostReply];
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
        // Those that commit more than once have too many schedules for all of them.
        let many = |does: &Does| matches!(does, Does::Clones | Does::DetachedFails | Does::Owner | Does::LostReply);
        count += explore(&pair, if pair.iter().any(many) { 4 } else { usize::MAX }).await;
    }
    println!("{count} schedules of two requests");
    assert!(count >= 2000, "{count}: there are points to interrupt them at");
}

#[tokio::test(start_paused = true)]
async fn three_requests() {
    use Does::{Add, Clones, Commit, Destroy, Detached, DetachedFails, Login, LostReply, Owner, Touch};
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
        count += explore(&three, 3).await;
    }
    for three in [
        [Clones, Add, Add],
        [Clones, Add, Login],
        [DetachedFails, Add, Login],
        [Owner, Add, Destroy],
        [Owner, Owner, Add],
        [LostReply, Add, Commit],
        [LostReply, LostReply, Clones],
    ] {
        count += explore(&three, 2).await;
    }
    println!("{count} schedules of three requests");
    assert!(count >= 5000, "{count}: there are points to interrupt them at");
}
