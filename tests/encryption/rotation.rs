//! Keys change while sessions live on.
use std::sync::{
    Arc, RwLock,
    atomic::{AtomicBool, Ordering},
};

use cloakroom::{Replaced, Session, SessionError, SessionId, SessionStore};

use super::*;
#[cfg(feature = "redis")]
use crate::support::redis_server;

#[tokio::test]
async fn an_entry_moves_to_the_first_key_with_its_next_write() {
    let (old, inside) = memory(&[1]);
    let version = put(&old, "k", "first").await;
    let both = around(&inside, &[2, 1]);
    assert_eq!(value(&both, "k").await, "first");
    assert_eq!(both.replace("k", version, entry("second"), hour()).await.unwrap(), Replaced::Done);
    assert_eq!(value(&around(&inside, &[2]), "k").await, "second");
    assert_eq!(value(&around(&inside, &[3, 1, 2]), "k").await, "second", "older keys decrypt in any order");
    assert_eq!(value(&old, "k").await, "", "who has the old key alone reads no more");
}

#[tokio::test]
async fn a_key_that_is_taken_away_disturbs_no_other() {
    let (both, inside) = memory(&[2, 1]);
    put(&around(&inside, &[1]), "of the old key", "old").await;
    put(&both, "of the new key", "new").await;
    let cache = around(&inside, &[2]);
    let lost = get(&cache, "of the old key").await.unwrap();
    assert_eq!(lost.value, "");
    assert_eq!(value(&cache, "of the new key").await, "new");
    assert_eq!(value(&both, "of the old key").await, "old", "it is there again with its key");
    // What cannot be read can be written over by its version, as by any other.
    assert_eq!(cache.replace("of the old key", lost.version, entry("again"), hour()).await.unwrap(), Replaced::Done);
    assert_eq!(value(&cache, "of the old key").await, "again");
}

/// A process of an application: it is started again with other keys while requests go on.
#[derive(Clone)]
struct Process<C> {
    inside: C,
    store: Arc<RwLock<SessionStore<EncryptedCache<C>>>>,
}

impl<C: Cache + Clone> Process<C> {
    fn start(inside: &C, keys: &[u8]) -> Self {
        Self { inside: inside.clone(), store: Arc::new(RwLock::new(store(inside, keys))) }
    }

    fn restart(&self, keys: &[u8]) {
        *self.store.write().unwrap() = store(&self.inside, keys);
    }

    /// Adds one, and returns how many were added: none where others were faster until the deadline.
    async fn request(&self, id: &SessionId) -> u64 {
        // Those that never pause leave the other process no gap to write in.
        tokio::time::sleep(Duration::from_millis(3)).await;
        let store = self.store.read().unwrap().clone();
        let session = store.load(id).await.unwrap().expect("the session can be read");
        session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
        match session.commit().await {
            Ok(()) => 1,
            Err(SessionError::Conflict) => 0,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn store<C: Cache + Clone>(inside: &C, keys: &[u8]) -> SessionStore<EncryptedCache<C>> {
    SessionStore::new(around(inside, keys)).deadline(Duration::from_secs(20))
}

/// A new key in front, step by step, in two processes with a shared cache and requests of one session all the time.
async fn rotate<C: Cache + Clone>(a_inside: C, b_inside: C) {
    let (a, b) = (Process::start(&a_inside, &[1]), Process::start(&b_inside, &[1]));
    let id = store(&a_inside, &[1]).save(&Session::new()).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let requests: Vec<_> = [&a, &b, &a, &b]
        .into_iter()
        .map(|process| {
            let (process, id, over) = (process.clone(), id.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut added = 0;
                while !over.load(Ordering::Relaxed) {
                    added += process.request(&id).await;
                }
                added
            })
        })
        .collect();
    let mut added = 0;
    for (process, keys) in [(&a, [1, 2]), (&b, [1, 2]), (&a, [2, 1]), (&b, [2, 1])] {
        process.restart(&keys);
        for _ in 0..5 {
            added += a.request(&id).await + b.request(&id).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    for task in requests {
        added += task.await.unwrap();
    }
    added += a.request(&id).await;
    // The last write was made with the new key: the old one may go.
    let session = store(&a_inside, &[2]).load(&id).await.unwrap().expect("the session moved to the new key");
    assert_eq!(session.get::<u64>("n"), Some(added), "no update was lost");
}

#[tokio::test]
async fn rotation_under_load_in_memory() {
    let inside = InMemoryCache::new();
    rotate(inside.clone(), inside).await;
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_load_in_redis() {
    let server = redis_server::RedisServer::start();
    rotate(redis_server::patient(&server).await, redis_server::patient(&server).await).await;
}
