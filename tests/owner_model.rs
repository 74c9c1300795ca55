//! The sessions of a user, checked over all orders of the cache operations of two or three requests in processes of their own,
//! with clocks that differ, and with one fault: what is run is the crate itself, and `stateright` searches.
//!
//! A state is reached by running its requests anew, one operation after another. Two states are the same if the cache has the
//! same entries and lists and each request has had the same answers. Not covered: expiry, and limits above two.
//!
//! ```sh
//! CLOAKROOM_MODEL=full cargo test --release --features testing --test owner_model -- --nocapture
//! ```
#![cfg(feature = "testing")]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    future::{Future, poll_fn},
    hash::{Hash, Hasher},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use cloakroom::{
    Cache, CacheError, CacheErrorKind, Clock, Deleted, Entry, Expiry, InMemoryCache, ListMember, Replaced, Session,
    SessionError, SessionLayer, SessionLimitPolicy, SessionStore, Value, Version,
};
use stateright::{Checker, Model, Property};

#[path = "common/web.rs"]
mod web;

use web::send;

const OWNER: &str = "alice";
const LIST: &str = "cloakroom:owner:alice";

/// What becomes of one operation on the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Done,
    /// It fails and does nothing.
    Refused,
    /// It is done, and its caller does not learn that.
    Lost,
    /// The process dies before it.
    Crash,
}

/// What one process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// A login of a browser without a session.
    LogIn,
    /// A login with the session of a visitor.
    VisitorLogsIn,
    /// The same without a new ID.
    VisitorIsGivenTheOwner,
    /// A login with the user's first session.
    LogInAgain,
    /// A renewal of the user's first session.
    Renew,
    LogOut,
    RevokeAll,
}

#[derive(Clone, Debug)]
struct Scenario {
    does: Vec<Does>,
    /// The minute that each process's clock shows: all differ, and may go against the order of events.
    clocks: Vec<u64>,
    /// Sessions of the user that are there before, by logins at minutes 0, 1 and so on.
    before: usize,
    limit: usize,
    policy: SessionLimitPolicy,
    faults: usize,
}

/// One process, as its operations on the cache are let through one at a time.
#[derive(Debug, Default)]
struct Gate {
    arrived: usize,
    fates: Vec<Fate>,
    /// What it did and was told so far.
    heard: u64,
    is_read: BTreeMap<usize, bool>,
}

#[derive(Clone)]
struct Gated {
    inner: InMemoryCache,
    number: usize,
    gate: Arc<Mutex<Gate>>,
    shared: Arc<Mutex<Shared>>,
    revokes: bool,
}

#[derive(Default)]
struct Shared {
    /// When the run began, in milliseconds since the epoch.
    start: u64,
    keys: BTreeSet<String>,
    /// Which write a version stands for: of which process, and its how many-th operation.
    versions: HashMap<u64, (usize, usize)>,
    /// The text of each version that was seen.
    texts: HashMap<u64, String>,
    /// The logins of the sessions that were on the list as the owner's when `revoke_all` began.
    doomed: Option<BTreeSet<u64>>,
}

impl Gated {
    async fn run<T>(
        &self,
        what: &str,
        key: &str,
        reads: bool,
        writes: Option<Version>,
        work: impl Future<Output = Result<T, CacheError>>,
        canon: impl Fn(&T) -> String,
    ) -> Result<T, CacheError> {
        let ticket = {
            let mut gate = self.gate.lock().unwrap();
            let ticket = gate.arrived;
            gate.arrived += 1;
            gate.is_read.insert(ticket, reads);
            let mut shared = self.shared.lock().unwrap();
            shared.keys.insert(key.to_owned());
            if let Some(version) = writes {
                shared.versions.insert(version.into(), (self.number, ticket));
            }
            ticket
        };
        let fate = poll_fn(|_| match self.gate.lock().unwrap().fates.get(ticket) {
            Some(fate) => Poll::Ready(*fate),
            None => Poll::Pending,
        })
        .await;
        let result = match fate {
            Fate::Refused => Err(CacheError::new(CacheErrorKind::Unavailable, "refused")),
            _ => work.await,
        };
        let result = match fate {
            Fate::Lost => Err(CacheError::new(CacheErrorKind::Timeout, "lost")),
            _ => result,
        };
        let mut gate = self.gate.lock().unwrap();
        let answer = result.as_ref().map_or_else(|error| format!("{:?}", error.kind()), canon);
        gate.heard = digest(&(gate.heard, what, key, answer));
        result
    }

    fn canon(&self, entry: &Entry) -> String {
        self.shared.lock().unwrap().canon(entry)
    }

    /// The logins of those of these members that are live and the owner's, and not on the way there from another's session.
    async fn stamps(&self, members: &[ListMember]) -> BTreeSet<u64> {
        let mut stamps = BTreeSet::new();
        for member in members {
            if let Some(record) = record(&self.inner, &member.name).await
                && record["o"] == OWNER
                && !self.is_in_the_making(&record).await
            {
                stamps.insert(self.shared.lock().unwrap().login(&record));
            }
        }
        stamps
    }

    async fn is_in_the_making(&self, found: &Value) -> bool {
        let Some(prev) = found["b"]["k"].as_str() else { return false };
        record(&self.inner, prev).await.is_some_and(|prev| prev["n"].is_null() && prev["o"] != OWNER)
    }
}

impl Shared {
    /// A time as its minute: clocks go on while a run does, and differ by minutes.
    fn minute(&self, time: u64) -> u64 {
        (time.saturating_sub(self.start) + 30_000) / 60_000
    }

    /// The minute of the login of a record.
    fn login(&self, record: &Value) -> u64 {
        self.minute(record["s"]["at"].as_u64().unwrap())
    }

    /// An entry without what is another one in each run. Its version stands for its text.
    fn canon(&mut self, entry: &Entry) -> String {
        let version = entry.version.into();
        if let Some(text) = self.texts.get(&version) {
            return text.clone();
        }
        let text = self.canonical(entry);
        self.texts.insert(version, text.clone());
        text
    }

    fn canonical(&self, entry: &Entry) -> String {
        let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
        for name in ["c", "e", "g", "a", "w", "t"] {
            if let Some(time) = record[name].as_u64() {
                record[name] = self.minute(time).into();
            }
        }
        if record["s"].is_object() {
            record["s"] = self.login(&record).into();
        }
        if record["b"].is_object() {
            record["b"]["m"] = self.minute(record["b"]["m"].as_u64().unwrap()).into();
        }
        format!("{record} {:?}", self.versions.get(&entry.version.into()))
    }
}

fn digest(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

impl Cache for Gated {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        let canon = |found: &Option<Entry>| found.as_ref().map_or(String::new(), |entry| self.canon(entry));
        self.run("get", key, true, None, self.inner.get(key), canon).await
    }
    async fn get_and_touch(&self, key: &str, _: Duration) -> Result<Option<Entry>, CacheError> {
        self.get(key).await
    }
    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let version = Some(entry.version);
        self.run("insert", key, false, version, self.inner.insert(key, entry, expiry), bool::to_string).await
    }
    async fn replace(&self, key: &str, old: Version, entry: Entry, expiry: Expiry) -> Result<Replaced, CacheError> {
        let version = Some(entry.version);
        let canon = |replaced: &Replaced| match replaced {
            Replaced::Conflict(found) => self.canon(found),
            other => format!("{other:?}"),
        };
        self.run("replace", key, false, version, self.inner.replace(key, old, entry, expiry), canon).await
    }
    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.run("touch", key, true, None, self.inner.touch(key), bool::to_string).await
    }
    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        let canon = |deleted: &Deleted| match deleted {
            Deleted::Conflict(found) => self.canon(found),
            other => format!("{other:?}"),
        };
        self.run("delete", key, false, None, self.inner.delete(key, expected), canon).await
    }
    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        let work = self.inner.list_add(list, member, end);
        self.run("add", member, false, None, work, usize::to_string).await
    }
    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        let mut names = members.to_vec();
        names.sort();
        let work = self.inner.list_remove(list, members);
        self.run("remove", &names.join(" "), false, None, work, |()| String::new()).await
    }
    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        let canon =
            |page: &Vec<ListMember>| page.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(" ");
        let work = async {
            let page = self.inner.list_page(list, after, limit).await;
            if self.revokes && self.shared.lock().unwrap().doomed.is_none() {
                let doomed = self.stamps(page.as_ref().unwrap()).await;
                self.shared.lock().unwrap().doomed = Some(doomed);
            }
            page
        };
        self.run("page", list, true, None, work, canon).await
    }
}

thread_local! {
    /// Whose turn it is, and how many IDs it has made.
    static ACTOR: Cell<usize> = const { Cell::new(0) };
    static IDS: RefCell<HashMap<usize, u8>> = RefCell::new(HashMap::new());
}

/// IDs that are the same in every run.
fn random(bytes: &mut [u8]) -> Result<(), SessionError> {
    let actor = ACTOR.get();
    let count = IDS.with_borrow_mut(|ids| {
        let count = ids.entry(actor).or_default();
        *count += 1;
        *count
    });
    bytes.fill(100 + u8::try_from(actor).unwrap());
    bytes[0] = count;
    Ok(())
}

async fn record(cache: &InMemoryCache, key: &str) -> Option<Value> {
    let entry = cache.get(&format!("cloakroom:{key}")).await.unwrap()?;
    serde_json::from_slice(&entry.value).ok()
}

type Running = Pin<Box<dyn Future<Output = String>>>;

/// The processes as far as they got.
struct Run {
    memory: InMemoryCache,
    shared: Arc<Mutex<Shared>>,
    gates: Vec<Arc<Mutex<Gate>>>,
    running: Vec<Option<Running>>,
    answers: Vec<Option<String>>,
    crashed: Vec<bool>,
    /// The logins that were there before.
    before: BTreeSet<u64>,
}

/// A clock that stands still at this minute.
fn clock(minute: u64) -> Clock {
    let clock = Clock::manual();
    clock.advance(Duration::from_secs(60 * minute));
    clock
}

impl Scenario {
    fn store<C: Cache>(&self, cache: C, minute: u64) -> SessionStore<C> {
        SessionStore::new(cache)
            .readable_owners(true)
            .random(random)
            .clock(clock(minute))
            .deadline(Duration::from_secs(24 * 60 * 60))
            .max_sessions_per_owner(self.limit)
            .session_limit_policy(self.policy)
    }

    async fn start(&self) -> Run {
        IDS.with_borrow_mut(HashMap::clear);
        let memory = InMemoryCache::builder().clock(clock(0)).build();
        let shared = Arc::new(Mutex::new(Shared::default()));
        shared.lock().unwrap().start = millis(SystemTime::now());
        let mut first = None;
        ACTOR.set(100);
        for minute in 0..self.before {
            let session = Session::new();
            session.log_in(OWNER).unwrap();
            let store = self.store(memory.clone(), minute as u64).max_sessions_per_owner(100);
            let id = store.save(&session).await.unwrap();
            first.get_or_insert(format!("__Host-id={}", id.as_ref()));
            shared.lock().unwrap().keys.insert(format!("cloakroom:{}", id.key()));
        }
        let mut run = Run {
            memory: memory.clone(),
            shared: shared.clone(),
            gates: Vec::new(),
            running: Vec::new(),
            answers: vec![None; self.does.len()],
            crashed: vec![false; self.does.len()],
            before: (0..self.before as u64).collect(),
        };
        for (number, does) in self.does.iter().copied().enumerate() {
            ACTOR.set(number);
            let visitor = Session::new();
            visitor.set("cart", 1).unwrap();
            let cookie = match does {
                Does::LogIn | Does::RevokeAll => None,
                Does::VisitorLogsIn | Does::VisitorIsGivenTheOwner => {
                    let id = self.store(memory.clone(), 2 + number as u64).save(&visitor).await.unwrap();
                    Some(format!("__Host-id={}", id.as_ref()))
                }
                _ => first.clone(),
            };
            let gate = Arc::new(Mutex::new(Gate::default()));
            let (revokes, shared) = (does == Does::RevokeAll, shared.clone());
            let cache = Gated { inner: memory.clone(), number, gate: gate.clone(), shared, revokes };
            run.gates.push(gate);
            run.running.push(Some(request(self.store(cache, self.clocks[number]), does, cookie)));
        }
        for number in 0..self.does.len() {
            run.go_on(number).await;
        }
        run
    }
}

fn request(store: SessionStore<Gated>, does: Does, cookie: Option<String>) -> Running {
    Box::pin(tokio::task::unconstrained(async move {
        if does == Does::RevokeAll {
            return format!("{:?}", store.revoke_all(OWNER).await);
        }
        let reply = send(&SessionLayer::new(store), cookie.as_deref(), move |session| async move {
            // A visitor by now.
            if session.is_new() && !matches!(does, Does::LogIn | Does::LogOut) {
                return 404;
            }
            let done = match does {
                Does::LogIn | Does::LogInAgain | Does::VisitorLogsIn => session.log_in(OWNER),
                Does::VisitorIsGivenTheOwner => session.set_owner(OWNER),
                Does::Renew => {
                    session.renew();
                    Ok(())
                }
                Does::LogOut | Does::RevokeAll => {
                    session.destroy();
                    Ok(())
                }
            };
            done.map_or(500, |()| 200)
        })
        .await;
        format!("{} {}", reply.status, reply.cookie().unwrap_or_default())
    }))
}

impl Run {
    /// Polls a process until it waits for its next operation.
    async fn go_on(&mut self, number: usize) {
        ACTOR.set(number);
        for _ in 0..100 {
            let Some(running) = &mut self.running[number] else { return };
            match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(answer) => {
                    self.answers[number] = Some(answer);
                    self.running[number] = None;
                    return;
                }
                Poll::Pending => {
                    let gate = self.gates[number].lock().unwrap();
                    if gate.arrived > gate.fates.len() {
                        return;
                    }
                }
            }
            // It waits for time to pass.
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        panic!("process {number} waits for nothing");
    }

    async fn step(&mut self, (number, fate): Step) {
        if fate == Fate::Crash {
            self.running[number] = None;
            self.crashed[number] = true;
            return;
        }
        self.gates[number].lock().unwrap().fates.push(fate);
        self.go_on(number).await;
    }

    /// The processes that can go on, and whether the next operation of each is a read.
    fn ready(&self) -> Vec<(usize, bool)> {
        let ready = (0..self.running.len()).filter(|number| self.running[*number].is_some());
        ready
            .map(|number| {
                let gate = self.gates[number].lock().unwrap();
                (number, gate.is_read[&gate.fates.len()])
            })
            .collect()
    }

    async fn digest(&self) -> u64 {
        let keys = self.shared.lock().unwrap().keys.clone();
        let mut parts = Vec::new();
        for key in keys {
            if let Some(entry) = self.memory.get(&key).await.unwrap() {
                parts.push(format!("{key} {}", self.shared.lock().unwrap().canon(&entry)));
            }
        }
        for member in self.memory.list_page(LIST, None, 100).await.unwrap() {
            parts.push(member.name);
        }
        let heard: Vec<_> = self.gates.iter().map(|gate| gate.lock().unwrap().heard).collect();
        digest(&(parts, heard, &self.answers, &self.crashed, self.shared.lock().unwrap().doomed.clone()))
    }

    /// What is wrong once all are done.
    async fn verdict(&self, scenario: &Scenario) -> Option<&'static str> {
        let store = scenario.store(self.memory.clone(), LAST);
        // Every entry of the owner that is not on the way to become one, or left over by a failed renewal.
        let keys = self.shared.lock().unwrap().keys.clone();
        let mut live = BTreeMap::new();
        for key in keys.iter().filter_map(|key| key.strip_prefix("cloakroom:")) {
            let Some(found) = record(&self.memory, key).await.filter(|found| found["o"] == OWNER) else { continue };
            let counts = match found["b"]["k"].as_str() {
                None => true,
                Some(prev) => record(&self.memory, prev).await.is_none_or(|prev| prev["n"] == key),
            };
            if counts {
                live.insert(self.shared.lock().unwrap().login(&found), key.to_owned());
            }
        }
        let is_faultless =
            self.gates.iter().all(|gate| gate.lock().unwrap().fates.iter().all(|fate| *fate == Fate::Done))
                && !self.crashed.contains(&true);
        let listed: BTreeSet<_> =
            store.sessions_of(OWNER).await.unwrap().iter().map(|info| info.key().to_string()).collect();
        if is_faultless && listed != live.values().cloned().collect() {
            return Some("a session lives that is not listed");
        }
        if !listed.iter().all(|key| live.values().any(|live| live == key)) {
            return Some("what is listed does not live");
        }
        let does = |what: Does| scenario.does.contains(&what);
        // A login whose browser got a cookie.
        let login =
            |number: usize| matches!(scenario.does[number], Does::LogIn | Does::VisitorLogsIn | Does::LogInAgain);
        let is_logged_in = |number: usize| {
            let answer = self.answers[number].as_deref().unwrap_or_default();
            answer.starts_with("200 __Host-id=") && !answer.ends_with('=')
        };
        let logins: BTreeSet<_> = (0..scenario.does.len())
            .filter(|number| login(*number) && is_logged_in(*number))
            .map(|number| scenario.clocks[number])
            .collect();
        if does(Does::LogOut) || does(Does::RevokeAll) {
            let revoked = (0..scenario.does.len()).any(|number| {
                scenario.does[number] == Does::RevokeAll
                    && self.answers[number].as_deref().is_some_and(|answer| answer.starts_with("Ok"))
            });
            if let Some(doomed) = self.shared.lock().unwrap().doomed.clone().filter(|_| revoked)
                && doomed.iter().any(|stamp| live.contains_key(stamp))
            {
                return Some("`revoke_all` missed a session");
            }
            // Whatever comes of the user's first session ends with it.
            let first_ends = is_faultless && (does(Does::LogOut) || revoked);
            if first_ends
                && self.before.first().is_some_and(|first| live.contains_key(first))
                && !does(Does::LogInAgain)
            {
                return Some("an ended session lives");
            }
            return None;
        }
        let known: BTreeSet<_> = self.before.iter().copied().chain(logins).collect();
        match scenario.policy {
            SessionLimitPolicy::EndOldest => {
                // A login again replaces the session that it came with.
                let replaced = |stamp: &u64| does(Does::LogInAgain) && self.before.first() == Some(stamp);
                // A login that failed, or was never answered, lived for a moment.
                let failed: Vec<_> = (0..scenario.does.len())
                    .filter(|number| !is_faultless && !matches!(scenario.does[*number], Does::Renew))
                    .map(|number| scenario.clocks[number])
                    .filter(|stamp| !known.contains(stamp) && !live.contains_key(stamp))
                    .collect();
                for dead in known.iter().filter(|stamp| !live.contains_key(stamp) && !replaced(stamp)) {
                    let newer = live.range(dead + 1..).count() + failed.iter().filter(|stamp| *stamp > dead).count();
                    if newer < scenario.limit {
                        return Some("a session was ended that is one of the newest");
                    }
                }
                if is_faultless && live.is_empty() && !known.is_empty() {
                    return Some("the user's only session was ended");
                }
                // A login that came too late has enforced nothing.
                let is_settled = live.keys().any(|stamp| !self.before.contains(stamp));
                let most = if is_settled { scenario.limit } else { scenario.limit.max(self.before.len()) };
                (is_faultless && live.len() > most).then_some("more sessions live than may be")
            }
            _ => {
                if is_faultless && known.iter().any(|stamp| !live.contains_key(stamp)) && !does(Does::LogInAgain) {
                    return Some("a session was ended, and none may be");
                }
                let sets = scenario.does.iter().filter(|does| **does == Does::VisitorIsGivenTheOwner).count();
                (listed.len() > scenario.limit.max(self.before.len()) + sets.saturating_sub(1))
                    .then_some("more sessions live than may be")
            }
        }
    }
}

/// The minute at which all is looked at: within half the time for which a tombstone is kept.
const LAST: u64 = 16;

fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

type Step = (usize, Fate);

#[derive(Clone, Debug)]
struct Node {
    path: Vec<Step>,
    digest: u64,
    next: Vec<Step>,
    wrong: Option<&'static str>,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl Scenario {
    /// Runs the requests anew, up to here.
    fn replay(&self, path: Vec<Step>) -> Node {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut run = self.start().await;
            for step in &path {
                run.step(*step).await;
            }
            let ready = run.ready();
            let faults = path.iter().filter(|(_, fate)| *fate != Fate::Done).count();
            let mut next = Vec::new();
            for (number, reads) in &ready {
                next.push((*number, Fate::Done));
                if faults < self.faults {
                    next.push((*number, Fate::Refused));
                    next.push((*number, Fate::Crash));
                    if !reads {
                        next.push((*number, Fate::Lost));
                    }
                }
            }
            let wrong = if ready.is_empty() { run.verdict(self).await } else { None };
            Node { digest: run.digest().await, path, next, wrong }
        })
    }
}

impl Model for Scenario {
    type State = Node;
    type Action = Step;

    fn init_states(&self) -> Vec<Node> {
        vec![self.replay(Vec::new())]
    }

    fn actions(&self, state: &Node, actions: &mut Vec<Step>) {
        actions.extend(&state.next);
    }

    fn next_state(&self, last: &Node, action: Step) -> Option<Node> {
        Some(self.replay(last.path.iter().copied().chain([action]).collect()))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is promised", |_, state: &Node| state.wrong.is_none()),
            Property::sometimes("all are done", |_, state: &Node| state.next.is_empty()),
        ]
    }
}

/// Searches all states; returns how many there are.
fn check(scenario: Scenario) -> usize {
    let checker = scenario.clone().checker().threads(2).spawn_bfs().join();
    if let Some(path) = checker.discovery("what is promised") {
        let last = path.into_states().pop().unwrap();
        panic!("{:?}: {scenario:?}\n{:?}", last.wrong, last.path);
    }
    assert!(checker.discovery("all are done").is_some());
    checker.unique_state_count()
}

fn is_full() -> bool {
    std::env::var("CLOAKROOM_MODEL").is_ok_and(|value| value == "full")
}

fn check_all(name: &str, all: impl IntoIterator<Item = Scenario>) {
    let (mut scenarios, mut states) = (0, 0);
    for scenario in all {
        scenarios += 1;
        let begun = std::time::Instant::now();
        let name = format!("{scenario:?}");
        let found = check(scenario);
        if std::env::var("CLOAKROOM_MODEL").is_ok() {
            println!("{found} {:?} {name}", begun.elapsed());
        }
        states += found;
    }
    println!("{name}: {states} states of {scenarios} scenarios");
    assert!(states > 40 * scenarios, "{states}");
}

const NEW: [Does; 3] = [Does::LogIn, Does::VisitorLogsIn, Does::VisitorIsGivenTheOwner];

/// Clocks in this order and in the other one, and behind a session that is there already.
const CLOCKS: [[u64; 3]; 3] = [[10, 13, 16], [16, 13, 10], [13, 10, 16]];

fn scenario(does: &[Does], clocks: [u64; 3], before: usize, limit: usize) -> Scenario {
    let policy = SessionLimitPolicy::EndOldest;
    Scenario { does: does.to_vec(), clocks: clocks.to_vec(), before, limit, policy, faults: 0 }
}

/// All of them, or in a run of all tests every `nth` of those that take least.
fn some(all: Vec<Scenario>, nth: usize) -> Vec<Scenario> {
    if is_full() {
        return all;
    }
    all.into_iter().filter(|scenario| scenario.limit != 2).step_by(nth).collect()
}

fn with_faults(scenarios: Vec<Scenario>) -> Vec<Scenario> {
    scenarios.into_iter().map(|scenario| Scenario { faults: 1, ..scenario }).collect()
}

fn two_logins() -> Vec<Scenario> {
    let mut all = Vec::new();
    for one in NEW.into_iter().chain([Does::LogInAgain]) {
        for other in NEW {
            for clocks in &CLOCKS[..2] {
                for (before, limit) in [(1, 1), (2, 2)] {
                    all.push(scenario(&[one, other], *clocks, before, limit));
                }
            }
        }
    }
    all
}

fn a_login_beside_a_renewal() -> Vec<Scenario> {
    let mut all = Vec::new();
    for other in NEW.into_iter().chain([Does::LogInAgain]) {
        for (before, limit) in [(1, 1), (2, 2), (2, 1)] {
            all.push(scenario(&[Does::Renew, other], CLOCKS[0], before, limit));
        }
    }
    all
}

fn an_end_beside(others: &[Does]) -> Vec<Scenario> {
    let mut all = Vec::new();
    for end in [Does::RevokeAll, Does::LogOut] {
        for other in others {
            all.push(scenario(&[end, *other], CLOCKS[0], 2, 100));
            all.push(scenario(&[end, *other], CLOCKS[1], 1, 1));
        }
    }
    all
}

#[test]
fn the_newest_remain_of_two_logins() {
    check_all("two logins", some(two_logins(), 19));
}

#[test]
fn the_newest_remain_of_a_login_beside_a_renewal() {
    check_all("a login beside a renewal", some(a_login_beside_a_renewal(), 3));
}

#[test]
fn revoke_all_and_a_logout_miss_nothing() {
    let others = [Does::Renew, Does::LogInAgain, Does::LogIn, Does::VisitorLogsIn, Does::VisitorIsGivenTheOwner];
    check_all("an end beside another request", some(an_end_beside(&others), 4));
}

#[test]
fn refusing_never_exceeds_the_limit_and_ends_nothing() {
    let refuse = |scenario: Scenario| Scenario { policy: SessionLimitPolicy::Refuse, ..scenario };
    let all = two_logins().into_iter().chain(a_login_beside_a_renewal()).map(refuse).collect();
    check_all("refusing", some(all, 8));
}

#[test]
fn a_fault_leaves_more_and_never_fewer() {
    let ends = an_end_beside(&[Does::Renew, Does::LogIn]);
    let all = a_login_beside_a_renewal().into_iter().chain(ends).chain(two_logins());
    check_all("with a fault", with_faults(some(all.collect(), 40)));
}

#[test]
fn three_at_once() {
    if !is_full() {
        return;
    }
    use Does::{LogIn, LogInAgain, LogOut, Renew, RevokeAll, VisitorLogsIn};
    let mut all = Vec::new();
    for clocks in CLOCKS {
        for limit in [1, 2] {
            all.push(scenario(&[LogIn, LogIn, LogIn], clocks, 1, limit));
            all.push(scenario(&[LogIn, VisitorLogsIn, Renew], clocks, 1, limit));
            all.push(scenario(&[LogIn, LogInAgain, Renew], clocks, 1, limit));
        }
    }
    for three in [[RevokeAll, Renew, LogIn], [LogOut, Renew, LogInAgain], [RevokeAll, LogInAgain, Renew]] {
        all.push(scenario(&three, CLOCKS[0], 1, 100));
    }
    check_all("three at once", all);
}
