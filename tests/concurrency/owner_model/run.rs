//! One run of the requests, operation by operation, and what is wrong at its end.
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use cloakroom::{Cache, Clock, InMemoryCache, Session, SessionError, SessionLayer, SessionLimitPolicy, SessionStore};

use super::{
    gated::{Gate, Gated, Shared, digest, record},
    scenario::{Does, LIST, OWNER, OperationOutcome, Scenario},
};
use crate::support::web::send;

thread_local! {
    /// Whose turn it is, and how many IDs it has made.
    static ACTOR: Cell<usize> = const { Cell::new(0) };
    static IDS: RefCell<HashMap<usize, u8>> = RefCell::new(HashMap::new());
}

/// IDs that are the same in every run.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), SessionError> {
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

pub(super) type Running = Pin<Box<dyn Future<Output = String>>>;

/// Which process goes on, and what becomes of its operation.
pub(super) type Step = (usize, OperationOutcome);

/// The processes as far as they got.
pub(super) struct Run {
    pub(super) memory: InMemoryCache,
    pub(super) shared: Arc<Mutex<Shared>>,
    pub(super) gates: Vec<Arc<Mutex<Gate>>>,
    pub(super) running: Vec<Option<Running>>,
    pub(super) answers: Vec<Option<String>>,
    pub(super) crashed: Vec<bool>,
    /// The logins that were there before.
    pub(super) before: BTreeSet<u64>,
}

/// A clock that stands still at this minute.
pub(super) fn clock(minute: u64) -> Clock {
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

    pub(super) async fn start(&self) -> Run {
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

pub(super) fn request(store: SessionStore<Gated>, does: Does, cookie: Option<String>) -> Running {
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
                    if gate.arrived > gate.outcomes.len() {
                        return;
                    }
                }
            }
            // It waits for time to pass.
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        panic!("process {number} waits for nothing");
    }

    pub(super) async fn step(&mut self, (number, outcome): Step) {
        if outcome == OperationOutcome::Crash {
            self.running[number] = None;
            self.crashed[number] = true;
            return;
        }
        self.gates[number].lock().unwrap().outcomes.push(outcome);
        self.go_on(number).await;
    }

    /// The processes that can go on, and whether the next operation of each is a read.
    pub(super) fn ready(&self) -> Vec<(usize, bool)> {
        let ready = (0..self.running.len()).filter(|number| self.running[*number].is_some());
        ready
            .map(|number| {
                let gate = self.gates[number].lock().unwrap();
                (number, gate.is_read[&gate.outcomes.len()])
            })
            .collect()
    }

    pub(super) async fn digest(&self) -> u64 {
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
    pub(super) async fn verdict(&self, scenario: &Scenario) -> Option<&'static str> {
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
        let is_faultless = self
            .gates
            .iter()
            .all(|gate| gate.lock().unwrap().outcomes.iter().all(|outcome| *outcome == OperationOutcome::Done))
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
pub(super) const LAST: u64 = 16;

pub(super) fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
