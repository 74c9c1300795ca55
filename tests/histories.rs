//! Random histories of several handles and requests on one session, against a model that says what must be true after
//! every step.
#![cfg(all(feature = "redis", feature = "testing"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::collections::BTreeMap;

use cloakroom::{Cache, InMemoryCache, Session, SessionError, SessionStore};
use proptest::prelude::*;

#[path = "common/redis_server.rs"]
mod redis_server;
#[path = "common/web.rs"]
mod web;

use web::{layer, send, start};

const HANDLES: usize = 3;
const KEYS: [&str; 3] = ["n", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Load(usize),
    Set(usize, usize, u64),
    Add(usize, usize, u64),
    Remove(usize, usize),
    Clear(usize),
    Touch(usize),
    Destroy(usize),
    Commit(usize),
    /// A request of its own, with the cookie of the moment or with the first one.
    Request {
        stale: bool,
        does: Does,
    },
}

#[derive(Clone, Debug)]
enum Does {
    Read,
    Add(usize, u64),
    Renew,
    Login(u64),
    Destroy,
    Fail(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (handle, key, value) = (0..HANDLES, 0..KEYS.len(), 1..4_u64);
    let does = prop_oneof![
        2 => Just(Does::Read),
        4 => (key.clone(), value.clone()).prop_map(|(key, by)| Does::Add(key, by)),
        2 => Just(Does::Renew),
        1 => value.clone().prop_map(Does::Login),
        1 => Just(Does::Destroy),
        1 => (key.clone(), value.clone()).prop_map(|(key, by)| Does::Fail(key, by)),
    ];
    prop_oneof![
        4 => handle.clone().prop_map(Step::Load),
        4 => (handle.clone(), key.clone(), value.clone()).prop_map(|(h, k, v)| Step::Set(h, k, v)),
        4 => (handle.clone(), key.clone(), value).prop_map(|(h, k, v)| Step::Add(h, k, v)),
        2 => (handle.clone(), key).prop_map(|(h, k)| Step::Remove(h, k)),
        1 => handle.clone().prop_map(Step::Clear),
        1 => handle.clone().prop_map(Step::Touch),
        1 => handle.clone().prop_map(Step::Destroy),
        6 => handle.prop_map(Step::Commit),
        6 => (prop::bool::weighted(0.2), does).prop_map(|(stale, does)| Step::Request { stale, does }),
    ]
}

type Data = BTreeMap<&'static str, u64>;

/// What a handle has done since it was loaded or committed, as a user would say it.
#[derive(Clone, Debug, Default)]
struct Held {
    base: Data,
    clear: bool,
    changes: BTreeMap<&'static str, Change>,
    destroy: bool,
    touch: bool,
    /// The renewals that the session had seen when the handle was loaded.
    age: usize,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Is(Option<u64>),
    Plus(u64),
}

impl Held {
    fn original(&self, key: &str) -> Option<u64> {
        if self.clear { None } else { self.base.get(key).copied() }
    }

    fn now(&self, key: &str) -> Option<u64> {
        match self.changes.get(key) {
            Some(Change::Is(value)) => *value,
            Some(Change::Plus(by)) => Some(self.original(key).unwrap_or_default() + by),
            None => self.original(key),
        }
    }

    fn set(&mut self, key: &'static str, value: Option<u64>) {
        // What is as it was is no change.
        if self.original(key) == value {
            self.changes.remove(key);
        } else {
            self.changes.insert(key, Change::Is(value));
        }
    }

    fn add(&mut self, key: &'static str, by: u64) {
        match self.changes.get_mut(key) {
            Some(Change::Plus(sum)) => *sum += by,
            None if !self.clear => {
                self.changes.insert(key, Change::Plus(by));
            }
            _ => self.set(key, Some(self.now(key).unwrap_or_default() + by)),
        }
    }

    fn is_dirty(&self) -> bool {
        self.clear || !self.changes.is_empty()
    }

    fn onto(&self, data: &mut Data) {
        if self.clear {
            data.clear();
        }
        for (key, change) in &self.changes {
            let value = match change {
                Change::Is(value) => *value,
                Change::Plus(by) => Some(data.get(key).copied().unwrap_or_default() + by),
            };
            match value {
                Some(value) => data.insert(key, value),
                None => data.remove(key),
            };
        }
    }
}

fn view(session: &Session) -> Data {
    KEYS.into_iter().filter_map(|key| Some((key, session.get(key)?))).collect()
}

async fn run<C: Cache>(store: SessionStore<C>, steps: Vec<Step>) {
    let layer = layer(&store);
    let first = start(&layer, "alice").await;
    let mut cookie = first.clone();
    let mut data = Data::from([("n", 0)]);
    let (mut ended, mut renewals) = (false, 0);
    let mut handles: Vec<Option<(Session, Held)>> = vec![None; HANDLES];
    let id = |cookie: &str| cookie.split_once('=').unwrap().1.to_owned();

    for step in steps {
        match step.clone() {
            Step::Load(handle) => {
                handles[handle] = store.load(id(&cookie)).await.unwrap().map(|session| {
                    let held = Held { base: data.clone(), age: renewals, ..Held::default() };
                    (session, held)
                });
                assert_eq!(handles[handle].is_some(), !ended, "{step:?}");
            }
            Step::Set(handle, key, value) => {
                let Some((session, held)) = &mut handles[handle] else { continue };
                session.set(KEYS[key], value).unwrap();
                held.set(KEYS[key], Some(value));
            }
            Step::Add(handle, key, by) => {
                let Some((session, held)) = &mut handles[handle] else { continue };
                let sum = session.update(KEYS[key], move |n: Option<u64>| n.unwrap_or_default() + by).unwrap();
                held.add(KEYS[key], by);
                assert_eq!(Some(sum), held.now(KEYS[key]));
            }
            Step::Remove(handle, key) => {
                let Some((session, held)) = &mut handles[handle] else { continue };
                session.remove(KEYS[key]);
                held.set(KEYS[key], None);
            }
            Step::Clear(handle) => {
                let Some((session, held)) = &mut handles[handle] else { continue };
                session.clear();
                held.changes.clear();
                held.clear = !held.base.is_empty();
            }
            Step::Touch(handle) => {
                let Some((session, held)) = &mut handles[handle] else { continue };
                session.touch();
                held.touch = true;
            }
            Step::Destroy(handle) => {
                let Some((session, held)) = &mut handles[handle] else { continue };
                session.destroy();
                held.destroy = true;
            }
            Step::Commit(handle) => {
                let Some((session, held)) = &mut handles[handle] else { continue };
                let result = session.commit().await;
                if held.destroy {
                    // Also through a renewal, and also where nothing is left to end.
                    assert!(result.is_ok(), "{step:?}: {result:?}");
                    ended = true;
                    handles[handle] = None;
                } else if held.is_dirty() {
                    if ended || held.age != renewals {
                        assert!(matches!(result, Err(SessionError::Gone)), "{step:?}: {result:?}");
                        handles[handle] = None;
                    } else {
                        result.unwrap();
                        held.onto(&mut data);
                        *held = Held { base: data.clone(), age: renewals, ..Held::default() };
                    }
                } else {
                    // A touch of what has ended says so; a tombstone has nothing to touch but is there.
                    let gone = matches!(result, Err(SessionError::Gone));
                    assert!(result.is_ok() || (gone && held.touch && ended), "{step:?}: {result:?}");
                    if gone {
                        handles[handle] = None;
                    } else {
                        held.touch = false;
                    }
                }
            }
            Step::Request { stale, does } => {
                let sent = if stale { first.clone() } else { cookie.clone() };
                let finds = !ended && sent == cookie;
                let status = if matches!(does, Does::Fail(..)) { 500 } else { 200 };
                let asked = does.clone();
                let reply = send(&layer, Some(&sent), move |session| {
                    let add = |key: usize, by: u64| {
                        session.update(KEYS[key], move |n: Option<u64>| n.unwrap_or_default() + by).unwrap();
                    };
                    match asked {
                        Does::Destroy => session.destroy(),
                        // A visitor without a session is left without one here.
                        _ if session.is_new() => {}
                        Does::Read => drop(session.len()),
                        Does::Add(key, by) => add(key, by),
                        Does::Renew => session.renew(),
                        Does::Login(value) => {
                            session.set("n", value).unwrap();
                            session.renew();
                        }
                        Does::Fail(key, by) => {
                            add(key, by);
                            session.renew();
                        }
                    }
                    async move { status }
                })
                .await;
                assert_eq!(reply.status, status, "{step:?}");
                let new = reply.cookie();
                match does {
                    Does::Destroy => {
                        // The cookie of a renewed session leads to what came of it.
                        assert!(new.is_none_or(|new| new.ends_with('=')), "{step:?}");
                        ended = true;
                    }
                    Does::Renew | Does::Login(_) if finds => {
                        cookie = new.unwrap();
                        renewals += 1;
                        if let Does::Login(value) = does {
                            data.insert("n", value);
                        }
                    }
                    Does::Add(key, by) if finds => {
                        assert_eq!(new, None, "{step:?}");
                        *data.entry(KEYS[key]).or_default() += by;
                    }
                    _ => assert_eq!(new, None, "{step:?}"),
                }
            }
        }
        let live = store.sessions_of("alice").await.unwrap();
        assert_eq!(live.len(), usize::from(!ended), "{step:?}");
        let found = store.load(id(&cookie)).await.unwrap();
        assert_eq!(found.as_ref().map(view), (!ended).then(|| data.clone()), "{step:?}");
        if first != cookie {
            assert!(store.load(id(&first)).await.unwrap().is_none(), "{step:?}: the old ID opens nothing");
        }
    }
}

fn check(cases: u32, run: impl Fn(Vec<Step>)) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..30))| run(steps));
}

#[test]
fn in_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    check(512, |steps| runtime.block_on(run(SessionStore::new(InMemoryCache::new()), steps)));
}

#[test]
fn on_redis() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = redis_server::RedisServer::start();
    let cache = runtime.block_on(redis_server::patient(&server));
    let number = std::cell::Cell::new(0);
    check(48, |steps| {
        number.set(number.get() + 1);
        let store = SessionStore::new(cache.clone()).key_prefix(format!("case {}:", number.get()));
        let store = store.deadline(std::time::Duration::from_secs(20));
        runtime.block_on(run(store, steps));
    });
}
