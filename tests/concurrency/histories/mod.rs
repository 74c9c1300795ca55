//! Random histories of several handles and requests of one session against a model that says what must be true after every
//! step: clones and detached handles, explicit commits, owners, lost answers, failed requests, renewals and logouts.
use std::{cell::RefCell, pin::pin, rc::Rc};

use cloakroom::{
    Cache, CacheErrorKind, InMemoryCache, Session, SessionError, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use proptest::prelude::*;
use tokio::runtime::Runtime;

mod model;

use model::{CommitResult, Data, Fault, Held, KEYS, OWNERS, Op, World};

#[cfg(any(feature = "redis", feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::support::caches;
use crate::support::web::{id, layer, send, start};

/// Handles that live on from step to step.
const HANDLES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// A handle of the store's own, from the cookie of the moment.
    Load(usize),
    /// A clone of a handle, in place of another one: both are the same session.
    Clone(usize, usize),
    /// A handle detached from one of the store's or of a request.
    Detach(usize, usize),
    Do(usize, Act),
    /// A request with the cookie of the moment or with the first one; its handle is number `HANDLES` meanwhile.
    Request {
        stale: bool,
        steps: Vec<Self>,
        status: u16,
    },
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Change(Op),
    Commit(Option<Fault>),
    /// A change is made while the commit is at its first write.
    CommitDuring(Option<Fault>, Op),
    /// `update_now`.
    AddNow(usize, u64, Option<Fault>),
    Reload,
    Renew,
    LogIn(usize),
    Destroy,
}

fn act() -> impl Strategy<Value = Act> {
    let (key, value) = (0..KEYS.len(), 0..4_u64);
    let op = prop_oneof![
        4 => (key.clone(), value.clone()).prop_map(|(key, value)| Op::Set(key, value)),
        6 => (key.clone(), 1..4_u64).prop_map(|(key, by)| Op::Add(key, by)),
        2 => key.clone().prop_map(Op::Remove),
        1 => Just(Op::Clear),
        1 => prop::option::of(0..OWNERS.len()).prop_map(Op::Owner),
    ];
    let fault = prop_oneof![Just(Fault::ReplyLost), Just(Fault::RequestLost), Just(Fault::Refused)];
    let fault = prop::option::weighted(0.3, fault);
    prop_oneof![
        14 => op.clone().prop_map(Act::Change),
        3 => (fault.clone(), op).prop_map(|(fault, op)| Act::CommitDuring(fault, op)),
        8 => fault.clone().prop_map(Act::Commit),
        3 => (key, 1..4_u64, fault).prop_map(|(key, by, fault)| Act::AddNow(key, by, fault)),
        2 => Just(Act::Reload),
        1 => Just(Act::Renew),
        1 => (0..OWNERS.len()).prop_map(Act::LogIn),
        1 => prop::bool::weighted(0.4).prop_map(|ends| if ends { Act::Destroy } else { Act::Commit(None) }),
    ]
}

fn step(handles: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..HANDLES).prop_map(Step::Load),
        1 => (0..handles, 0..HANDLES).prop_map(|(from, to)| Step::Clone(from, to)),
        2 => (0..handles, 0..HANDLES).prop_map(|(from, to)| Step::Detach(from, to)),
        10 => (0..handles, act()).prop_map(|(handle, act)| Step::Do(handle, act)),
    ]
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    let request = (
        prop::bool::weighted(0.1),
        prop::collection::vec(
            prop_oneof![2 => act().prop_map(|act| Step::Do(HANDLES, act)), 3 => step(HANDLES + 1)],
            1..12,
        ),
        prop_oneof![4 => Just(200), 1 => Just(404), 1 => Just(408), 2 => Just(500)],
    );
    let request = request.prop_map(|(stale, steps, status)| Step::Request { stale, steps, status });
    prop::collection::vec(prop_oneof![2 => request, 3 => step(HANDLES)], 1..14)
}

/// A handle and its model; clones share both.
#[derive(Clone)]
struct Handle {
    session: Session,
    held: Rc<RefCell<Held>>,
    /// It is a request's own: its cookie goes out with the response.
    of_request: bool,
}

struct Run<C> {
    cache: TestCache<C>,
    store: SessionStore<TestCache<C>>,
    layer: SessionLayer<TestCache<C>>,
    first: String,
    cookie: RefCell<String>,
    world: RefCell<World>,
    handles: RefCell<Vec<Option<Handle>>>,
    families: RefCell<usize>,
}

fn view(session: &Session) -> Data {
    let owner = session.owner().map(|owner| *OWNERS.iter().find(|known| **known == owner).unwrap());
    Data { values: KEYS.into_iter().filter_map(|key| Some((key, session.get(key)?))).collect(), owner }
}

fn change(session: &Session, op: Op) {
    match op {
        Op::Set(key, value) => session.set(KEYS[key], value).unwrap(),
        Op::Add(key, by) => {
            session.update(KEYS[key], move |n: Option<u64>| n.unwrap_or_default() + by).unwrap();
        }
        Op::Remove(key) => drop(session.remove(KEYS[key])),
        Op::Clear => session.clear(),
        Op::Owner(Some(owner)) => session.set_owner(OWNERS[owner]).unwrap(),
        Op::Owner(None) => session.clear_owner().unwrap(),
        Op::LogIn { owner, .. } => session.log_in(OWNERS[owner]).unwrap(),
    }
}

fn said(result: &Result<(), SessionError>) -> CommitResult {
    match result {
        Ok(()) => CommitResult::Done,
        Err(SessionError::Gone) => CommitResult::Gone,
        Err(SessionError::Cache(_)) => CommitResult::Failed,
        Err(error) => panic!("{error:?}"),
    }
}

impl<C: Cache> Run<C> {
    async fn new(cache: C, set: impl FnOnce(SessionStore<TestCache<C>>) -> SessionStore<TestCache<C>>) -> Self {
        let cache = TestCache::new(cache);
        let store = set(SessionStore::new(cache.clone()));
        let layer = layer(&store);
        let first = start(&layer, OWNERS[0]).await;
        let data = Data { values: [("n", 0)].into(), owner: Some(OWNERS[0]) };
        Self {
            cache,
            store,
            layer,
            cookie: RefCell::new(first.clone()),
            first,
            world: RefCell::new(World::new(data)),
            handles: RefCell::new(vec![None; HANDLES + 1]),
            families: RefCell::new(0),
        }
    }

    fn family(&self) -> usize {
        *self.families.borrow_mut() += 1;
        *self.families.borrow()
    }

    fn handle(&self, at: usize) -> Option<Handle> {
        self.handles.borrow()[at].clone()
    }

    fn keep(&self, at: usize, handle: Option<Handle>) {
        self.handles.borrow_mut()[at] = handle;
    }

    async fn step(&self, step: &Step) {
        match step {
            Step::Load(to) => {
                let cookie = self.cookie.borrow().clone();
                let found = self.store.load(id(&cookie)).await.unwrap();
                // The browser learns of a renewal with the response, so that the cookie may lead to a tombstone meanwhile.
                let in_request = self.handle(HANDLES).is_some();
                assert!(in_request || found.is_some() != self.world.borrow().ended);
                let held = found.map(|session| {
                    let held = Rc::new(RefCell::new(Held::load(&self.world.borrow(), self.family())));
                    Handle { session, held, of_request: false }
                });
                self.keep(*to, held);
            }
            Step::Clone(from, to) => {
                // What is left of a request's own handle is closed.
                let handle = self.handle(*from).filter(|handle| !handle.of_request);
                self.keep(*to, handle);
            }
            Step::Detach(from, to) => {
                let detached = self.handle(*from).map(|handle| Handle {
                    session: handle.session.detach(),
                    held: Rc::new(RefCell::new(handle.held.borrow().detach())),
                    of_request: false,
                });
                self.keep(*to, detached);
            }
            Step::Do(at, act) => {
                let Some(handle) = self.handle(*at) else { return };
                self.act(&handle, *act).await;
                let seen = view(&handle.session);
                let held = handle.held.borrow();
                if !held.is_over() {
                    assert_eq!(seen, held.view, "what the handler sees");
                }
            }
            Step::Request { .. } => {}
        }
    }

    async fn act(&self, handle: &Handle, act: Act) {
        let Handle { session, held, of_request } = handle;
        match act {
            Act::Change(op) => {
                change(session, op);
                held.borrow_mut().change(op);
            }
            Act::Renew if *of_request => {
                session.renew();
                held.borrow_mut().renews = true;
            }
            Act::LogIn(owner) if *of_request => {
                let op = Op::LogIn { owner, clears: held.borrow().is_of_another(owner) };
                change(session, op);
                held.borrow_mut().change(op);
                held.borrow_mut().renews = true;
            }
            Act::Renew | Act::LogIn(_) => {}
            Act::Destroy => {
                session.destroy();
                held.borrow_mut().destroys = true;
            }
            Act::Commit(fault) => {
                let fault = self.provoke(held, fault);
                let result = session.commit().await;
                self.cache.heal();
                let expected = held.borrow_mut().commit(&mut self.world.borrow_mut(), fault);
                assert_eq!(said(&result), expected, "{result:?}");
            }
            Act::CommitDuring(fault, op) => {
                // What is sent again first takes the change along, and a renewal is no write.
                if held.borrow().is_unsure() || held.borrow().renews || held.borrow().destroys {
                    return;
                }
                let fault = self.provoke(held, fault);
                let gate = self.cache.hold(Operation::Replace);
                let mut commit = pin!(session.commit());
                let result = tokio::select! {
                    biased;
                    result = &mut commit => Some(result),
                    () = gate.arrived() => None,
                };
                let is_under_way = result.is_none();
                if is_under_way {
                    change(session, op);
                }
                gate.open();
                let result = match result {
                    Some(result) => result,
                    None => commit.await,
                };
                self.cache.heal();
                let expected =
                    held.borrow_mut().commit_during(&mut self.world.borrow_mut(), fault, is_under_way.then_some(op));
                assert_eq!(said(&result), expected, "{result:?}");
            }
            Act::AddNow(key, by, fault) => {
                if held.borrow().destroys {
                    return;
                }
                let fault = self.provoke(held, fault);
                let result = session.update_now(KEYS[key], move |n: Option<u64>| n.unwrap_or_default() + by).await;
                self.cache.heal();
                let expected = held.borrow_mut().add_now(&mut self.world.borrow_mut(), key, by, fault);
                let (value, result) = (result.as_ref().ok().copied(), result.map(drop));
                assert_eq!(said(&result), expected, "{result:?}");
                assert_eq!(value, value.and(held.borrow().view.values.get(KEYS[key]).copied()));
            }
            Act::Reload => {
                if held.borrow().is_unsure() {
                    return;
                }
                let result = session.reload().await;
                let expected = held.borrow_mut().reload(&self.world.borrow());
                assert_eq!(said(&result), expected, "{result:?}");
            }
        }
    }

    /// Has the next write fail so. The faults of renewals have tests of their own.
    fn provoke(&self, held: &RefCell<Held>, fault: Option<Fault>) -> Option<Fault> {
        let fault = fault.filter(|_| !held.borrow().renews && !held.borrow().destroys);
        match fault {
            Some(Fault::ReplyLost) => self.cache.lose_reply(Operation::Replace),
            Some(Fault::RequestLost) => self.cache.fail_once(Operation::Replace, CacheErrorKind::Timeout),
            Some(Fault::Refused) => self.cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable),
            None => {}
        }
        fault
    }

    async fn request(&self, stale: bool, steps: &[Step], status: u16) {
        let cookie = if stale { self.first.clone() } else { self.cookie.borrow().clone() };
        let finds = !self.world.borrow().ended && cookie == *self.cookie.borrow();
        let own = Rc::new(RefCell::new(Held::load(&self.world.borrow(), self.family())));
        let own_is_first = Rc::clone(&own);
        let reply = send(&self.layer, Some(&cookie), move |session| {
            let held = Rc::clone(&own_is_first);
            async move {
                assert_eq!(session.is_new(), !finds);
                if !finds {
                    // What came with an old ID sees and writes nothing.
                    assert!(session.is_empty());
                    if stale && has_tombstone(self) {
                        session.set("n", 99).unwrap();
                        session.set_owner(OWNERS[1]).unwrap();
                    }
                    return status;
                }
                self.keep(HANDLES, Some(Handle { session, held, of_request: true }));
                for step in steps {
                    self.step(step).await;
                }
                self.keep(HANDLES, None);
                status
            }
        })
        .await;
        assert_eq!(reply.status, status);
        if !finds {
            assert_eq!(reply.cookie(), None);
            return;
        }
        let mut own = own.borrow_mut();
        let mut world = self.world.borrow_mut();
        let destroyed = own.destroys;
        if matches!(status, 408 | 500) {
            own.fail(&mut world);
        } else {
            own.commit(&mut world, None);
        }
        let renewed = own.owes_cookie();
        match reply.cookie() {
            Some(new) if new.ends_with('=') => assert!(destroyed),
            Some(new) => {
                assert!(renewed, "a cookie without a renewal");
                *self.cookie.borrow_mut() = new;
            }
            None => assert!(!renewed && !destroyed),
        }
    }

    async fn check(&self) {
        let (data, ended) = (self.world.borrow().data.clone(), self.world.borrow().ended);
        let cookie = self.cookie.borrow().clone();
        let found = self.store.load(id(&cookie)).await.unwrap();
        assert_eq!(found.as_ref().map(view), (!ended).then(|| data.clone()), "what is stored");
        for owner in OWNERS {
            let live = self.store.sessions_of(owner).await.unwrap().len();
            assert_eq!(live, usize::from(!ended && data.owner == Some(owner)), "sessions of {owner}");
        }
        if self.first != cookie {
            assert!(self.store.load(id(&self.first)).await.unwrap().is_none(), "the old ID leads to no session");
        }
    }
}

fn has_tombstone<C>(run: &Run<C>) -> bool {
    // A logout takes the tombstones with it.
    *run.cookie.borrow() != run.first && !run.world.borrow().ended
}

async fn run<C: Cache>(
    cache: C,
    set: impl FnOnce(SessionStore<TestCache<C>>) -> SessionStore<TestCache<C>>,
    steps: Vec<Step>,
) {
    let run = Run::new(cache, set).await;
    for step in &steps {
        match step {
            Step::Request { stale, steps, status } => run.request(*stale, steps, *status).await,
            step => run.step(step).await,
        }
        run.check().await;
    }
}

fn check(cases: u32, run: impl Fn(Vec<Step>)) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in history())| run(steps));
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// All on one cache, each with a prefix of its own.
#[cfg(any(feature = "redis", feature = "sqlite", feature = "postgres", feature = "mysql"))]
fn check_on(cases: u32, runtime: &Runtime, cache: impl Cache + Clone) {
    let number = std::cell::Cell::new(0);
    check(cases, |steps| {
        number.set(number.get() + 1);
        let prefix = format!("case {}:", number.get());
        let set = |store: SessionStore<_>| store.key_prefix(prefix).deadline(std::time::Duration::from_secs(20));
        runtime.block_on(run(cache.clone(), set, steps));
    });
}

#[test]
fn in_memory() {
    let runtime = runtime();
    check(1500, |steps| runtime.block_on(run(InMemoryCache::new(), |store| store, steps)));
}

#[cfg(feature = "redis")]
#[test]
fn on_redis() {
    let runtime = runtime();
    let (_server, cache) = runtime.block_on(caches::redis());
    check_on(64, &runtime, cache);
}

#[cfg(feature = "sqlite")]
#[test]
fn on_sqlite() {
    let runtime = runtime();
    let (_file, cache) = runtime.block_on(caches::sqlite());
    check_on(64, &runtime, cache);
}

#[cfg(feature = "postgres")]
#[test]
fn on_postgres() {
    let runtime = runtime();
    let (_tables, cache) = runtime.block_on(caches::postgres());
    check_on(64, &runtime, cache);
}

#[cfg(feature = "mysql")]
#[test]
fn on_mariadb() {
    let runtime = runtime();
    let (_tables, cache) = runtime.block_on(caches::mariadb());
    check_on(64, &runtime, cache);
}
