//! Writes of which no answer came: they are found out, and applied once.
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cloakroom::{
    Cache,
    CacheErrorKind::Timeout,
    Session, SessionError,
    testing::{Gate, Operation, TestCache},
};

use crate::{
    commits::stage::{Stage, add, is_unknown},
    support::{caches::on_every_cache, web::send},
};

on_every_cache! {
    an_increment_counts_once,
    an_increment_that_another_request_built_on_counts_once,
    two_unknown_outcomes_in_a_row,
    a_destroy_after_it_ends_the_session,
    a_failed_request_after_it_stores_nothing_more,
    a_new_session_is_there_once,
    the_handlers_own_timeout_around_commit,
    the_handlers_own_timeout_around_the_first_commit,
    a_renewal_is_found_out,
    a_renewal_is_found_out_and_its_cookie_sent_with_an_error,
    a_destroy_after_an_unknown_renewal_ends_both,
    update_now_after_an_error_is_not_tried_again,
}

/// How the answer to a write is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    Reply,
    Request,
}

impl Lost {
    const BOTH: [Self; 2] = [Self::Reply, Self::Request];

    fn next<C: Cache>(self, cache: &TestCache<C>, operation: Operation) {
        match self {
            Self::Reply => cache.lose_reply(operation),
            Self::Request => cache.fail_once(operation, Timeout),
        }
    }
}

async fn an_increment_counts_once(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for lost in Lost::BOTH {
        for goes_on in [false, true] {
            stage.again().await;
            let reply = stage.request(|session| {
                let cache = stage.cache.clone();
                async move {
                    session.update("n", add).unwrap();
                    lost.next(&cache, Operation::Replace);
                    assert!(is_unknown(&session.commit().await));
                    assert_eq!(session.get("n"), Some(1));
                    if goes_on {
                        assert_eq!(session.update("n", add).unwrap(), 2);
                    }
                    200
                }
            });
            assert_eq!(reply.await.status, 200);
            assert_eq!(stage.n().await, 1 + u64::from(goes_on), "{lost:?} {goes_on}");
        }
    }
}

async fn an_increment_that_another_request_built_on_counts_once(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for lost in Lost::BOTH {
        stage.again().await;
        let reply = stage.request(|session| {
            let stage = &stage;
            async move {
                session.update("n", add).unwrap();
                lost.next(&stage.cache, Operation::Replace);
                assert!(is_unknown(&session.commit().await));
                let add_ten = |other: &Session| {
                    other.update("n", |n: Option<u64>| n.unwrap_or_default() + 10).unwrap();
                };
                stage.elsewhere(add_ten).await;
                session.set("after", true).unwrap();
                200
            }
        });
        assert_eq!(reply.await.status, 200);
        // The error stands where the write cannot be recognised any more.
        let n = if lost == Lost::Reply { 11 } else { 10 };
        assert_eq!(stage.n().await, n, "{lost:?}");
        assert!(stage.stored().await.contains_key("after"), "{lost:?}");
    }
}

async fn two_unknown_outcomes_in_a_row(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for first in Lost::BOTH {
        for second in Lost::BOTH {
            stage.again().await;
            let reply = stage.request(|session| {
                let cache = stage.cache.clone();
                async move {
                    session.update("n", add).unwrap();
                    first.next(&cache, Operation::Replace);
                    assert!(is_unknown(&session.commit().await));
                    session.update("n", add).unwrap();
                    second.next(&cache, Operation::Replace);
                    assert!(is_unknown(&session.commit().await));
                    session.update("n", add).unwrap();
                    200
                }
            });
            assert_eq!(reply.await.status, 200);
            assert_eq!(stage.n().await, 3, "{first:?} {second:?}");
        }
    }
}

async fn a_destroy_after_it_ends_the_session(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for lost in Lost::BOTH {
        stage.again().await;
        let reply = stage.request(|session| {
            let cache = stage.cache.clone();
            async move {
                session.update("n", add).unwrap();
                lost.next(&cache, Operation::Replace);
                assert!(is_unknown(&session.commit().await));
                session.destroy();
                500
            }
        });
        assert_eq!(reply.await.status, 500);
        assert!(stage.by(&stage.cookie).await.is_none(), "{lost:?}");
    }
    assert_eq!(stage.live("alice").await, 1, "the first one, which is of no use here");
}

async fn a_failed_request_after_it_stores_nothing_more(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for lost in Lost::BOTH {
        stage.again().await;
        let reply = stage.request(|session| {
            let cache = stage.cache.clone();
            async move {
                session.update("n", add).unwrap();
                lost.next(&cache, Operation::Replace);
                assert!(is_unknown(&session.commit().await));
                session.update("n", add).unwrap();
                500
            }
        });
        assert_eq!(reply.await.status, 500);
        assert_eq!(stage.n().await, u64::from(lost == Lost::Reply), "{lost:?}");
    }
}

async fn a_new_session_is_there_once(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    for (number, lost) in Lost::BOTH.into_iter().enumerate() {
        let reply = send(&stage.layer, None, |session| {
            let cache = stage.cache.clone();
            async move {
                session.update("n", add).unwrap();
                session.set_owner(format!("owner {number}")).unwrap();
                lost.next(&cache, Operation::Insert);
                assert!(is_unknown(&session.commit().await));
                200
            }
        })
        .await;
        assert_eq!(reply.status, 200);
        assert_eq!(stage.by(&reply.cookie().unwrap()).await.unwrap().get("n"), Some(1));
        assert_eq!(stage.live(&format!("owner {number}")).await, 1, "{lost:?}");
    }
}

/// A commit whose caller waits only until its write is on the way; the write is done when the handler is.
async fn given_up(session: &Session, gate: Gate) {
    tokio::select! {
        biased;
        _ = session.commit() => panic!("it is held"),
        () = gate.arrived() => {}
    }
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        gate.open();
    });
}

async fn the_handlers_own_timeout_around_commit(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let reply = stage.request(|session| {
        let cache = stage.cache.clone();
        async move {
            session.update("n", add).unwrap();
            given_up(&session, cache.hold(Operation::Replace)).await;
            assert_eq!(session.update("n", add).unwrap(), 2);
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    assert_eq!(stage.n().await, 2);
}

async fn the_handlers_own_timeout_around_the_first_commit(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let reply = send(&stage.layer, None, |session| {
        let cache = stage.cache.clone();
        async move {
            session.update("n", add).unwrap();
            session.set_owner("bob").unwrap();
            given_up(&session, cache.hold(Operation::Insert)).await;
            session.update("n", add).unwrap();
            200
        }
    });
    let cookie = reply.await.cookie().unwrap();
    assert_eq!(stage.by(&cookie).await.unwrap().get("n"), Some(2));
    assert_eq!(stage.live("bob").await, 1);
}

/// The session's cookie after a request whose renewal was committed by the handler with a tombstone of unknown outcome.
async fn renewed<C: Cache>(stage: &Stage<C>, lost: Lost, status: u16) -> Option<String> {
    let reply = stage.request(|session| {
        let cache = stage.cache.clone();
        async move {
            session.update("n", add).unwrap();
            session.renew();
            lost.next(&cache, Operation::Replace);
            assert!(is_unknown(&session.commit().await));
            session.update("n", add).unwrap();
            status
        }
    });
    let reply = reply.await;
    assert_eq!(reply.status, status);
    reply.cookie()
}

async fn a_renewal_is_found_out(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for lost in Lost::BOTH {
        stage.again().await;
        let before = stage.live("alice").await;
        let cookie = renewed(&stage, lost, 200).await.unwrap();
        assert_ne!(cookie, stage.cookie);
        assert!(stage.by(&stage.cookie).await.is_none(), "{lost:?}");
        assert_eq!(stage.by(&cookie).await.unwrap().get("n"), Some(2), "{lost:?}");
        assert_eq!(stage.live("alice").await, before, "{lost:?}");
    }
}

async fn a_renewal_is_found_out_and_its_cookie_sent_with_an_error(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for lost in Lost::BOTH {
        stage.again().await;
        let cookie = renewed(&stage, lost, 500).await.unwrap_or_else(|| stage.cookie.clone());
        // Wherever the browser is now, there is a session, with what was committed or nothing of it.
        let n: u64 = stage.by(&cookie).await.unwrap().get("n").unwrap();
        assert!(n <= 1, "{lost:?}: {n}");
        if cookie != stage.cookie {
            assert!(stage.by(&stage.cookie).await.is_none(), "{lost:?}");
        }
    }
    assert_eq!(stage.live("alice").await, 3);
}

async fn a_destroy_after_an_unknown_renewal_ends_both(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for lost in Lost::BOTH {
        stage.again().await;
        let reply = stage.request(|session| {
            let cache = stage.cache.clone();
            async move {
                session.renew();
                lost.next(&cache, Operation::Replace);
                assert!(is_unknown(&session.commit().await));
                session.destroy();
                200
            }
        });
        let reply = reply.await;
        assert_eq!(reply.status, 200);
        assert!(reply.cookie().unwrap().ends_with('='), "it is removed");
        assert!(stage.by(&stage.cookie).await.is_none(), "{lost:?}");
    }
    assert_eq!(stage.live("alice").await, 1, "the first one, which is of no use here");
}

async fn update_now_after_an_error_is_not_tried_again(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for lost in Lost::BOTH {
        stage.again().await;
        let said = Arc::new(Mutex::new(Vec::new()));
        let reply = stage.request(|session| {
            let (cache, said) = (stage.cache.clone(), said.clone());
            async move {
                lost.next(&cache, Operation::Replace);
                let first = session.update_now("n", add).await;
                assert!(is_unknown(&first));
                cache.fail_once(Operation::Replace, cloakroom::CacheErrorKind::Unavailable);
                let second = session.update_now("n", add).await;
                assert!(matches!(second, Err(SessionError::Cache(_))), "{second:?}");
                let third = session.update_now("n", add).await.unwrap();
                said.lock().unwrap().push(third);
                200
            }
        });
        assert_eq!(reply.await.status, 200);
        let stored = stage.n().await;
        assert_eq!(*said.lock().unwrap(), [stored], "{lost:?}");
        // The first may be stored, the second is not, the third is.
        assert!((1..=2).contains(&stored), "{lost:?}: {stored}");
    }
}
