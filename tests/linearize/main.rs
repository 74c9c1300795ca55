//! Histories of one session, recorded from several processes on a real Redis, PostgreSQL and MariaDB whose connections are
//! killed and that stop now and then, and on a SQLite file whose lock is taken, are linearizable: checked by `stateright`.
//!
//! ```sh
//! CLOAKROOM_HISTORIES=2000 cargo test --release --all-features --test linearize -- --nocapture
//! ```
#![cfg(test)]
#![cfg(any(feature = "redis", feature = "postgres", feature = "mysql", feature = "sqlite"))]
use std::{
    env,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use cloakroom::{Session, SessionStore};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

mod faults;
mod spec;
#[path = "../support/mod.rs"]
mod support;
mod worker;

use faults::Server;
use spec::{Op, Ret, Stored};
use worker::{Outcome, Worker};

/// Each is a process with one client.
const PROCESSES: usize = 3;
const OPERATIONS: usize = 8;
/// A history ends early after this many operations of unknown outcome: each may have taken effect at any later moment or
/// never, so that the search takes several times as long for each of them.
const UNKNOWN: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Event {
    Invoked(Op),
    Returned(Ret),
    /// Nothing was done: the operation is no part of the history.
    Refused,
}

/// In the order in which the recorder saw them: an operation begins after its first event, and ends before its last.
type History = Vec<(usize, Event)>;

#[derive(Debug, Default)]
struct Totals {
    histories: usize,
    operations: usize,
    unknown: usize,
    refused: usize,
}

/// The finalizer of splitmix64.
fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn judge(history: &History) -> bool {
    let mut tester = LinearizabilityTester::new(Stored::default());
    // A client whose operation never returned goes on under another name.
    let mut names: Vec<usize> = (0..=PROCESSES).collect();
    let mut next = names.len();
    for (at, (client, event)) in history.iter().enumerate() {
        match event {
            Event::Invoked(op) => {
                let end = history[at + 1..].iter().find(|(other, _)| other == client).map(|(_, event)| *event);
                match end {
                    Some(Event::Refused) => {}
                    Some(Event::Returned(_)) => {
                        tester.on_invoke(names[*client], *op).unwrap();
                    }
                    _ => {
                        tester.on_invoke(names[*client], *op).unwrap();
                        (names[*client], next) = (next, next + 1);
                    }
                }
            }
            Event::Returned(ret) => {
                tester.on_return(names[*client], *ret).unwrap();
            }
            Event::Refused => {}
        }
    }
    tester.is_consistent()
}

/// One client's operations on the session with this ID.
async fn client(
    number: usize,
    worker: &mut Worker,
    id: &str,
    seed: u64,
    history: &Mutex<History>,
    unknown: &AtomicUsize,
) {
    let record = |event| history.lock().unwrap().push((number, event));
    for turn in 0..OPERATIONS {
        if unknown.load(Ordering::Relaxed) >= UNKNOWN {
            break;
        }
        let op = Op::random(mix(seed ^ mix((number * OPERATIONS + turn) as u64)));
        record(Event::Invoked(op));
        match worker.run(id, op).await {
            Outcome::Returned(ret) => record(Event::Returned(ret)),
            Outcome::Refused => record(Event::Refused),
            Outcome::Unknown => {
                unknown.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// A thread that goes on with faults until this is dropped, and then lets go of the server: after a failure as well.
struct Disturber {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Disturber {
    fn start(server: &Arc<Server>, mut seed: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (server, over) = (Arc::clone(server), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    seed = mix(seed);
                    server.disturb(seed);
                }
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Disturber {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || !matches!(ended, Some(Err(_))), "the thread of faults failed");
    }
}

async fn record(server: Server, count: usize) -> Totals {
    let server = Arc::new(server);
    let mut workers = Vec::new();
    for _ in 0..PROCESSES {
        workers.push(Worker::start(&server.url(), server.timeout()).await);
    }
    let seed = env::var("CLOAKROOM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| RandomState::new().hash_one(()));
    let disturber = Disturber::start(&server, seed);
    let store = SessionStore::new(worker::cache(&server.url(), Duration::from_secs(10)).await)
        .deadline(Duration::from_secs(20));
    let mut seen = Totals::default();
    while seen.histories < count {
        let Ok(id) = store.save(&Session::new()).await else { continue };
        let (history, unknown) = (Mutex::new(History::new()), AtomicUsize::new(0));
        let seed = mix(seed ^ seen.histories as u64);
        let clients = workers
            .iter_mut()
            .enumerate()
            .map(|(number, worker)| client(number, worker, id.as_ref(), seed, &history, &unknown));
        together(clients).await;
        let mut history = history.into_inner().unwrap();
        for key in 0..spec::KEYS.len() {
            history.push((PROCESSES, Event::Invoked(Op::Get(key))));
            let value = loop {
                match store.load(&id).await {
                    Ok(Some(session)) => break Ret::Value(session.get(spec::KEYS[key])),
                    Ok(None) => break Ret::Gone,
                    Err(_) => {}
                }
            };
            history.push((PROCESSES, Event::Returned(value)));
        }
        let invoked = history.iter().filter(|(_, event)| matches!(event, Event::Invoked(_))).count();
        let returned = history.iter().filter(|(_, event)| matches!(event, Event::Returned(_))).count();
        let refused = history.iter().filter(|(_, event)| matches!(event, Event::Refused)).count();
        seen.histories += 1;
        seen.operations += invoked;
        seen.refused += refused;
        seen.unknown += invoked - returned - refused;
        assert!(judge(&history), "not linearizable: {history:#?}");
    }
    drop(disturber);
    seen
}

/// All of them at the same time, on this task.
async fn together(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.map(Box::pin).map(Some).collect();
    std::future::poll_fn(|cx| {
        for slot in &mut futures {
            if slot.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn histories_under_faults_are_linearizable(server: Server) {
    let count = env::var("CLOAKROOM_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(60);
    let seen = record(server, count).await;
    println!("{seen:?}");
    assert!(seen.operations >= count * PROCESSES);
    assert!(count < 60 || seen.unknown + seen.refused > 0, "the faults are felt: {seen:?}");
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_under_faults_are_linearizable_on_redis() {
    histories_under_faults_are_linearizable(Server::redis()).await;
}

#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_under_faults_are_linearizable_on_postgres() {
    histories_under_faults_are_linearizable(Server::postgres().await).await;
}

#[cfg(feature = "mysql")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_under_faults_are_linearizable_on_mariadb() {
    histories_under_faults_are_linearizable(Server::mariadb().await).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_under_faults_are_linearizable_on_sqlite() {
    histories_under_faults_are_linearizable(Server::sqlite().await).await;
}

/// The process of one client; without its variable it is no test.
#[tokio::test]
async fn worker() {
    if let Ok(url) = env::var(worker::VARIABLE) {
        worker::serve(&url).await;
    }
}

#[test]
fn the_check_finds_what_is_not_linearizable() {
    let add = |client, n| [(client, Event::Invoked(Op::Add(0))), (client, Event::Returned(Ret::Value(Some(n))))];
    let get = |client, n| [(client, Event::Invoked(Op::Get(0))), (client, Event::Returned(Ret::Value(n)))];
    let unknown = [(3, Event::Invoked(Op::Add(0)))];
    let refused = [(3, Event::Invoked(Op::Add(0))), (3, Event::Refused)];
    let destroyed = [(2, Event::Invoked(Op::Destroy)), (2, Event::Returned(Ret::Done))];
    assert!(judge(&[add(0, 1), add(1, 2), get(0, Some(2))].concat()));
    assert!(!judge(&[add(0, 1), add(1, 1)].concat()), "a lost update");
    assert!(!judge(&[add(0, 1), get(1, None)].concat()), "an old read");
    assert!(judge(&[&unknown[..], &get(0, None), &get(1, Some(1))].concat()), "unknown: late");
    assert!(judge(&[&unknown[..], &get(0, None), &get(1, None)].concat()), "unknown: never");
    assert!(!judge(&[&unknown[..], &get(0, Some(2))].concat()), "unknown: twice");
    assert!(!judge(&[&refused[..], &get(0, Some(1))].concat()), "refused and done");
    assert!(!judge(&[&destroyed[..], &get(0, None)].concat()), "it came back");
}
