//! Random steps against a model: the list of an owner is the set of its live sessions.
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Create(Option<usize>),
    Login(usize, usize),
    Renew(usize),
    Write(usize),
    SetOwner(usize, usize),
    ClearOwner(usize),
    SetLifetime(usize, u64),
    Destroy(usize),
    DestroyInHandler(usize),
    Revoke(usize),
    RevokeByFirstKey(usize),
    RevokeAll(usize),
    RevokeOthers(usize, usize),
    Advance(u64),
}

fn steps(expiries: bool, most: usize) -> impl Strategy<Value = Vec<Step>> {
    let (owner, any) = (0..OWNERS.len(), 0..64_usize);
    let step = prop_oneof![
        4 => proptest::option::of(owner.clone()).prop_map(Step::Create),
        4 => (any.clone(), owner.clone()).prop_map(|(i, o)| Step::Login(i, o)),
        3 => any.clone().prop_map(Step::Renew),
        3 => any.clone().prop_map(Step::Write),
        2 => (any.clone(), owner.clone()).prop_map(|(i, o)| Step::SetOwner(i, o)),
        1 => any.clone().prop_map(Step::ClearOwner),
        2 => (any.clone(), prop_oneof![Just(550), Just(2050)]).prop_map(|(i, s)| Step::SetLifetime(i, s)),
        1 => any.clone().prop_map(Step::Destroy),
        1 => any.clone().prop_map(Step::DestroyInHandler),
        1 => any.clone().prop_map(Step::Revoke),
        1 => any.clone().prop_map(Step::RevokeByFirstKey),
        1 => owner.clone().prop_map(Step::RevokeAll),
        1 => (owner, any).prop_map(|(o, i)| Step::RevokeOthers(o, i)),
        if expiries { 4 } else { 1 } => (if expiries { 1..4_u64 } else { 0..1 }).prop_map(|n| Step::Advance(n * 100)),
    ];
    proptest::collection::vec(step, 1..most)
}

/// Ends lie between the steps of the clock.
const TTL: u64 = 250;
const LIFETIME: u64 = 1050;

#[derive(Clone, Debug)]
struct Model {
    id: String,
    first: SessionKey,
    owner: Option<usize>,
    created: u64,
    idle: u64,
    end: u64,
}

struct Run<C> {
    store: SessionStore<C>,
    clock: Clock,
    now: u64,
    live: Vec<Model>,
}

impl<C: Cache> Run<C> {
    fn at(&self, index: usize) -> Option<usize> {
        (!self.live.is_empty()).then(|| index % self.live.len())
    }

    fn expect(&self, owner: usize) -> HashSet<SessionKey> {
        self.live.iter().filter(|model| model.owner == Some(owner)).map(|model| key_of(&model.id)).collect()
    }

    async fn check(&self, after: &Step) {
        for (number, owner) in OWNERS.iter().enumerate() {
            assert_eq!(keys(&self.store, owner).await, self.expect(number), "{owner} after {after:?}");
        }
    }

    async fn request<F>(&mut self, at: usize, act: impl Fn(Session) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), SessionError>> + Send + 'static,
    {
        let visitor = visit(&self.store, Some(&self.live[at].id), act).await;
        assert_eq!(visitor.status, StatusCode::OK);
        let model = &mut self.live[at];
        model.idle = self.now + TTL;
        model.id = visitor.id.unwrap_or_default();
    }

    #[allow(clippy::too_many_lines, reason = "one arm a step")]
    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Create(owner) => {
                let visitor = visit(&self.store, None, move |session| async move {
                    session.set("n", 0)?;
                    owner.map_or(Ok(()), |owner| session.set_owner(OWNERS[owner]))
                })
                .await;
                let id = visitor.id.unwrap();
                let (created, idle, end) = (self.now, self.now + TTL, self.now + LIFETIME);
                self.live.push(Model { first: key_of(&id), id, owner, created, idle, end });
            }
            Step::Login(index, owner) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, move |session| async move {
                    session.renew();
                    session.set_owner(OWNERS[owner])
                })
                .await;
                self.live[at].owner = Some(owner);
            }
            Step::Renew(index) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, |session| async move {
                    session.renew();
                    Ok(())
                })
                .await;
            }
            Step::Write(index) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, |session| async move {
                    session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).map(drop)
                })
                .await;
            }
            Step::SetOwner(index, owner) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, move |session| async move {
                    session.touch();
                    session.set_owner(OWNERS[owner])
                })
                .await;
                self.live[at].owner = Some(owner);
            }
            Step::ClearOwner(index) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, |session| async move {
                    session.touch();
                    session.clear_owner()
                })
                .await;
                self.live[at].owner = None;
            }
            Step::SetLifetime(index, seconds) => {
                let Some(at) = self.at(index) else { return };
                if self.live[at].created + seconds <= self.now {
                    return;
                }
                self.request(at, move |session| async move {
                    session.touch();
                    session.set_lifetime(Duration::from_secs(seconds))
                })
                .await;
                self.live[at].end = self.live[at].created + seconds;
            }
            Step::Destroy(index) => {
                let Some(at) = self.at(index) else { return };
                let model = self.live.remove(at);
                self.store.destroy(model.id).await.unwrap();
            }
            Step::DestroyInHandler(index) => {
                let Some(at) = self.at(index) else { return };
                self.request(at, |session| async move {
                    session.destroy();
                    Ok(())
                })
                .await;
                self.live.remove(at);
            }
            Step::Revoke(index) => {
                let Some(at) = self.at(index) else { return };
                let key = key_of(&self.live.remove(at).id);
                assert!(self.store.revoke(&key).await.unwrap());
                assert!(!self.store.revoke(&key).await.unwrap());
            }
            Step::RevokeByFirstKey(index) => {
                let Some(at) = self.at(index) else { return };
                // An hour, or the end of the lifetime, after a renewal its tombstone is gone.
                if self.live[at].created + 550 > self.now {
                    let model = self.live.remove(at);
                    assert!(self.store.revoke(&model.first).await.unwrap());
                }
            }
            Step::RevokeAll(owner) => {
                let expected = self.expect(owner).len();
                assert_eq!(self.store.revoke_all(OWNERS[owner]).await.unwrap(), expected);
                self.live.retain(|model| model.owner != Some(owner));
            }
            Step::RevokeOthers(owner, index) => {
                let Some(at) = self.at(index) else { return };
                let kept = self.live[at].id.clone();
                let others = |model: &Model| model.owner == Some(owner) && model.id != kept;
                let expected = self.live.iter().filter(|model| others(model)).count();
                let ended = self.store.revoke_others(OWNERS[owner], &key_of(&kept)).await.unwrap();
                assert_eq!(ended, expected);
                self.live.retain(|model| !others(model));
            }
            Step::Advance(seconds) => {
                self.clock.advance(Duration::from_secs(seconds));
                self.now += seconds;
                let now = self.now;
                self.live.retain(|model| now < model.idle && now < model.end);
            }
        }
    }
}

async fn run<C: Cache>(store: SessionStore<C>, clock: Clock, steps: &[Step], each: bool) -> Run<C> {
    let store = store.ttl(Duration::from_secs(TTL)).max_lifetime(Duration::from_secs(LIFETIME)).clock(clock.clone());
    let mut run = Run { store, clock, now: 0, live: Vec::new() };
    for step in steps {
        run.step(step).await;
        if each {
            run.check(step).await;
        }
    }
    run.check(&Step::Advance(0)).await;
    run
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// And at the end nothing is left: neither if every list was looked at nor if none ever was.
    #[test]
    fn the_list_is_the_set_of_live_sessions(steps in steps(true, 40), each: bool, six: bool, heals: bool) {
        let clock = Clock::manual();
        let memory = InMemoryCache::builder().clock(clock.clone()).build();
        let cache = if six { BoxedCache::new(SixMethods::new(memory.clone())) } else { BoxedCache::new(memory.clone()) };
        runtime().block_on(async {
            let mut run = run(SessionStore::new(cache), clock.clone(), &steps, each).await;
            if heals {
                while !run.live.is_empty() {
                    run.step(&Step::Destroy(0)).await;
                }
            }
            // Past the tombstones, and all ends.
            clock.advance(Duration::from_secs(3700));
            if heals {
                for owner in OWNERS {
                    assert!(keys(&run.store, owner).await.is_empty());
                }
            }
            assert!(memory.is_empty(), "{memory:?}");
        });
    }
}

/// The same on a server, whose clock is not turned.
#[cfg(any(feature = "redis", feature = "sqlite", feature = "postgres", feature = "mysql"))]
fn the_list_is_the_set_of_live_sessions_on(world: impl Future<Output = World>) {
    let runtime = runtime();
    let world = runtime.block_on(world);
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps(false, 40), each: bool)| {
        runtime.block_on(async {
            let mut run = run(world.store(), Clock::system(), &steps, each).await;
            while !run.live.is_empty() {
                run.step(&Step::Destroy(0)).await;
            }
            // The tombstones' time is over.
            world.stored.delete_entries();
            for owner in OWNERS {
                assert!(keys(&run.store, owner).await.is_empty());
            }
            assert_eq!(world.len(), 0);
        });
    });
}

#[cfg(feature = "redis")]
#[test]
fn the_list_is_the_set_of_live_sessions_in_redis() {
    the_list_is_the_set_of_live_sessions_on(World::redis());
}

#[cfg(feature = "sqlite")]
#[test]
fn the_list_is_the_set_of_live_sessions_in_sqlite() {
    the_list_is_the_set_of_live_sessions_on(World::sqlite());
}

#[cfg(feature = "postgres")]
#[test]
fn the_list_is_the_set_of_live_sessions_in_postgres() {
    the_list_is_the_set_of_live_sessions_on(World::postgres());
}

#[cfg(feature = "mysql")]
#[test]
fn the_list_is_the_set_of_live_sessions_in_mariadb() {
    the_list_is_the_set_of_live_sessions_on(World::mariadb());
}
