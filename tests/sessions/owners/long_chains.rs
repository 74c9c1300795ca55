//! A session that was renewed very often: what ends it by an ID or a key from long ago, and what that costs.
use cloakroom::{Clock, InMemoryCache, Session, SessionError, SessionLayer, SessionStore, testing::TestCache};

use crate::support::web::{self, send};

const OWNER: &str = "alice";
const RENEWALS: usize = 20_000;
/// Tombstones that one call follows, and twice that with what it does to them.
const BOUND: usize = 32;

type Store = SessionStore<TestCache<InMemoryCache>>;

struct Chain {
    cache: TestCache<InMemoryCache>,
    layer: SessionLayer<TestCache<InMemoryCache>>,
    /// As cookies, the newest last.
    cookies: Vec<String>,
}

impl Chain {
    async fn new(owned: bool, renewals: usize) -> Self {
        let clock = Clock::manual();
        let memory = InMemoryCache::builder().clock(clock.clone()).max_bytes(1 << 30).build();
        let cache = TestCache::new(memory);
        let store = SessionStore::new(cache.clone()).clock(clock).max_sessions_per_owner(usize::MAX);
        let layer = web::layer(&store);
        let first = send(&layer, None, move |session| async move {
            session.set("n", 1).unwrap();
            if owned {
                session.log_in(OWNER).unwrap();
            }
            200
        });
        let mut chain = Self { cookies: vec![first.await.cookie().unwrap()], cache, layer };
        for _ in 0..renewals {
            chain.renew().await;
        }
        chain
    }

    async fn renew(&mut self) {
        let renewed = send(&self.layer, self.cookies.last().map(String::as_str), |session| async move {
            session.renew();
            200
        });
        self.cookies.push(renewed.await.cookie().unwrap());
    }

    fn store(&self) -> &Store {
        self.layer.store()
    }

    fn id(&self, at: usize) -> &str {
        self.cookies[at].strip_prefix("__Host-id=").unwrap()
    }

    async fn lives(&self) -> bool {
        self.store().load(self.id(self.cookies.len() - 1)).await.unwrap().is_some()
    }

    /// The most that one of these calls cost, and how many there were until it was done.
    async fn until_done(&self, call: impl AsyncFn() -> Result<(), SessionError>) -> (usize, usize) {
        let (mut most, mut calls) = (0, 0);
        loop {
            self.cache.reset_calls();
            let done = call().await;
            (most, calls) = (most.max(self.cache.calls().total()), calls + 1);
            match done {
                Ok(()) => return (most, calls),
                Err(SessionError::Incomplete { .. }) => assert!(self.lives().await, "not done, and the session ended"),
                Err(error) => panic!("call {calls}: {error:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_destroy_by_the_first_of_20_000_ids_costs_little_each_time_and_gets_there() {
    let chain = Chain::new(false, RENEWALS).await;
    let (most, calls) = chain.until_done(async || chain.store().destroy(chain.id(0)).await).await;
    assert!(!chain.lives().await);
    assert!(most <= 2 * BOUND + 4, "{most} operations in one call");
    assert!(calls <= RENEWALS / BOUND + 1, "{calls} calls");
    println!("{calls} calls of at most {most} operations");
}

#[tokio::test]
async fn a_destroy_by_a_recent_id_is_one_call() {
    for renewals in [1, BOUND - 1, BOUND] {
        let chain = Chain::new(true, renewals).await;
        let (_, calls) = chain.until_done(async || chain.store().destroy(chain.id(0)).await).await;
        assert_eq!(calls, 1, "{renewals} renewals");
        assert!(!chain.lives().await);
    }
}

#[tokio::test]
async fn a_logout_with_an_old_cookie_says_so_until_it_is_done() {
    let chain = Chain::new(true, 3 * BOUND).await;
    let mut replies = Vec::new();
    while chain.lives().await {
        let reply = send(&chain.layer, Some(&chain.cookies[0]), |session| async move {
            session.destroy();
            200
        });
        replies.push(reply.await);
        assert!(replies.len() < 10, "no progress");
    }
    let last = replies.pop().unwrap();
    assert_eq!((last.status, last.cookie().as_deref()), (200, Some("__Host-id=")));
    assert_eq!(replies.len(), 2, "more than one call can do");
    assert!(replies.iter().all(|reply| reply.status == 503 && reply.cookie().is_none()), "{replies:?}");
}

#[tokio::test]
async fn revoke_follows_renewals_from_any_key_of_the_session() {
    for at in [0, 5, 10] {
        let mut keys = Vec::new();
        let mut chain = Chain::new(true, 0).await;
        for _ in 0..=10 {
            keys.push(chain.store().load(chain.id(chain.cookies.len() - 1)).await.unwrap().unwrap().key().unwrap());
            chain.renew().await;
        }
        assert!(chain.store().revoke(&keys[at]).await.unwrap(), "{at}");
        assert!(!chain.lives().await);
        assert!(!chain.store().revoke(&keys[at]).await.unwrap());
        assert!(chain.store().sessions_of(OWNER).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_session_that_was_renewed_often_is_listed_once_and_revoked_in_parts() {
    for lists_first in [true, false] {
        let chain = Chain::new(true, 2_000).await;
        if lists_first {
            // The keys from before the last renewal leave the list.
            let patient = chain.store().clone().deadline(std::time::Duration::from_secs(60));
            assert_eq!(patient.sessions_of(OWNER).await.unwrap().len(), 1);
            chain.cache.reset_calls();
            assert_eq!(chain.store().sessions_of(OWNER).await.unwrap().len(), 1);
            assert!(chain.cache.calls().total() < 10, "{:?}", chain.cache.calls());
        }
        let (mut calls, mut ended) = (0, 0);
        loop {
            calls += 1;
            match chain.store().revoke_all(OWNER).await {
                Ok(last) => {
                    ended += last;
                    break;
                }
                Err(SessionError::Incomplete { ended: some }) => ended += some,
                Err(error) => panic!("{error:?}"),
            }
            assert!(calls < 1000, "no progress");
        }
        assert_eq!(ended, 1);
        assert!(!chain.lives().await);
        assert!(chain.store().sessions_of(OWNER).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_owner_is_neither_empty_nor_longer_than_256_bytes() {
    let session = Session::new();
    for refused in [session.set_owner(""), session.log_in("")] {
        assert!(matches!(refused, Err(SessionError::Setting(why)) if why.contains("must not be empty")), "{refused:?}");
    }
    for refused in [session.set_owner("o".repeat(257)), session.log_in("o".repeat(257))] {
        assert!(matches!(refused, Err(SessionError::TooLarge { size: 257, limit: 256 })), "{refused:?}");
    }
    assert_eq!(session.owner(), None);
    session.set_owner("o".repeat(256)).unwrap();
    assert_eq!(session.owner().map(|owner| owner.len()), Some(256));
}
