//! Requests that are dropped, and writes that come too late.
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use cloakroom::{Cache, Entry, Expiry, Replaced, Version, testing::Operation};

use crate::support::{
    caches::on_every_cache,
    web::{layer, live, peek, send, start, store},
};

on_every_cache! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    a_dropped_request_leaves_the_old_state_or_the_new,
    a_write_that_comes_too_late_does_no_harm,
}

/// Polls a future a number of times, and drops it.
async fn poll_and_drop<F: Future>(future: F, polls: usize) -> bool {
    let mut future = Box::pin(future);
    for _ in 0..polls {
        let poll = poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await;
        if poll.is_ready() {
            return true;
        }
        // Time for an answer to arrive, so that the next poll finds something new.
        tokio::time::sleep(Duration::from_micros(300)).await;
    }
    false
}

async fn a_dropped_request_leaves_the_old_state_or_the_new<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let layer = layer(&store);
    cache.yield_always(true);
    for renew in [false, true] {
        for polls in 1.. {
            let cookie = start(&layer, "alice").await;
            let committing = Arc::new(AtomicUsize::new(0));
            let request = send(&layer, Some(&cookie), |session| {
                let committing = committing.clone();
                async move {
                    session.set("a", 1).unwrap();
                    session.set("b", 1).unwrap();
                    if renew {
                        session.renew();
                    }
                    committing.fetch_add(1, Ordering::Relaxed);
                    200
                }
            });
            let done = poll_and_drop(request, polls).await;
            // What had begun goes on by itself.
            let begun = committing.load(Ordering::Relaxed) > 0;
            let mut sessions = store.sessions_of("alice").await.unwrap();
            for _ in 0..400 {
                if sessions.len() == 1 && sessions[0].get::<u64>("a").is_some() == begun {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                sessions = store.sessions_of("alice").await.unwrap();
            }
            assert_eq!(sessions.len(), 1, "{polls} polls");
            let (a, b) = (sessions[0].get::<u64>("a"), sessions[0].get::<u64>("b"));
            assert_eq!(a, b, "{polls} polls: half of it was written");
            assert_eq!(a, begun.then_some(1), "{polls} polls: a commit that has begun ends");
            store.revoke_all("alice").await.unwrap();
            if done {
                break;
            }
            assert!(polls < 200);
        }
    }
}

async fn a_write_that_comes_too_late_does_no_harm<C: Cache>(cache: C) {
    let (store, cache) = store(cache);
    let store = store.deadline(Duration::from_millis(60));
    let layer = layer(&store);
    let cookie = start(&layer, "alice").await;
    let id = cookie.split_once('=').unwrap().1.to_owned();
    let key = format!("cloakroom:{}", store.load(&id).await.unwrap().unwrap().key().unwrap());
    let entry = cache.get(&key).await.unwrap().unwrap();
    let gate = cache.hold(Operation::Replace);
    let reply = send(&layer, Some(&cookie), |session| async move {
        session.set("late", 1).unwrap();
        200
    })
    .await;
    assert_eq!((reply.status, reply.cookie()), (503, None));
    gate.open();
    store.destroy(&id).await.unwrap();
    // The write that was on its way arrives now: it names a version that is gone.
    let expiry = Expiry { idle: Duration::from_secs(60), end: std::time::SystemTime::now() + Duration::from_secs(60) };
    let late = cache
        .inner()
        .replace(&key, entry.version, Entry { version: Version::unique(), ..entry }, expiry)
        .await
        .unwrap();
    assert_eq!(late, Replaced::Missing);
    assert_eq!(peek(&layer, &cookie, "n").await, None);
    assert_eq!(live(&store, "alice").await, 0);
}
