//! Closures of `update`: they may hold a handle of their own session, may panic when they run again, and are bounded.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use cloakroom::{Cache, CacheErrorKind, LazySession, Session, SessionError, testing::Operation};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    commits::stage::{Counted, Stage, Watchdog, increment},
    support::{
        caches::on_every_cache,
        {request, web::send},
    },
};

on_every_cache! {
    one_that_holds_its_session_is_dropped_with_the_request,
    one_that_holds_its_session_is_dropped_with_a_dropped_request,
    one_that_holds_its_session_is_dropped_when_it_is_replaced,
    a_guard_that_asks_the_session_on_drop_does_not_block,
    one_that_asks_and_changes_its_session_does_not_block,
    one_that_panics_when_it_runs_again_keeps_the_changes,
    one_that_always_panics_when_it_runs_again_stores_nothing,
    ten_thousand_are_bounded_or_refused,
    a_list_that_failed_stays_bounded,
}

/// Adds one by a closure that holds the session and a count.
fn add_holding(session: &Session, counted: &Counted) {
    let (held, counted) = (session.clone(), counted.clone());
    let f = move |n: Option<u64>| {
        let _ = (held.get::<u64>("other"), &counted);
        n.unwrap_or_default() + 1
    };
    session.update("n", f).unwrap();
}

#[derive(Clone, Copy, Debug)]
enum End {
    Commits,
    Conflicts,
    Fails,
    Destroys,
    Renews,
    CommitsBefore,
    CacheFails,
    ReplyLost,
    FindsItGone,
}

async fn one_that_holds_its_session_is_dropped_with_the_request(cache: impl Cache) {
    let _watch = Watchdog::start("one_that_holds_its_session_is_dropped_with_the_request");
    let mut stage = Stage::new(cache).await;
    for end in [
        End::Commits,
        End::Conflicts,
        End::Fails,
        End::Destroys,
        End::Renews,
        End::CommitsBefore,
        End::CacheFails,
        End::ReplyLost,
        End::FindsItGone,
    ] {
        stage.again().await;
        let counted = Counted::default();
        stage
            .request(|session| {
                let (counted, stage) = (counted.clone(), &stage);
                async move {
                    add_holding(&session, &counted);
                    match end {
                        End::Commits => {}
                        End::Conflicts => stage.elsewhere(increment).await,
                        End::Fails => return 500,
                        End::Destroys => session.destroy(),
                        End::Renews => session.renew(),
                        End::CommitsBefore => session.commit().await.unwrap(),
                        End::CacheFails => {
                            stage.cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
                            session.commit().await.unwrap_err();
                            add_holding(&session, &counted);
                            stage.cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
                        }
                        End::ReplyLost => {
                            stage.cache.lose_reply(Operation::Replace);
                            session.commit().await.unwrap_err();
                            add_holding(&session, &counted);
                            stage.cache.lose_reply(Operation::Replace);
                        }
                        End::FindsItGone => stage.elsewhere(Session::destroy).await,
                    }
                    200
                }
            })
            .await;
        assert_eq!(counted.others(), 0, "{end:?}");
    }
    // And one without a session before.
    for status in [200, 500] {
        let counted = Counted::default();
        send(&stage.layer, None, |session| {
            add_holding(&session, &counted);
            async move { status }
        })
        .await;
        assert_eq!(counted.others(), 0, "{status}");
    }
}

async fn one_that_holds_its_session_is_dropped_with_a_dropped_request(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    for panics in [false, true] {
        let counted = Counted::default();
        let held = counted.clone();
        let service = stage.layer.layer(service_fn(move |request: http::Request<()>| {
            let counted = held.clone();
            async move {
                let session = request.extensions().get::<LazySession>().unwrap().load().await.unwrap();
                add_holding(&session, &counted);
                drop(session);
                assert!(!panics, "as handlers do");
                std::future::pending::<Result<http::Response<String>, std::convert::Infallible>>().await
            }
        }));
        let request = request::request(Some(&stage.cookie));
        let running = tokio::spawn(service.oneshot(request));
        if panics {
            assert!(running.await.unwrap_err().is_panic());
        } else {
            while counted.others() < 2 {
                tokio::task::yield_now().await;
            }
            running.abort();
            assert!(running.await.unwrap_err().is_cancelled());
        }
        assert_eq!(counted.others(), 0, "{panics}");
    }
}

async fn one_that_holds_its_session_is_dropped_when_it_is_replaced(cache: impl Cache) {
    let _watch = Watchdog::start("one_that_holds_its_session_is_dropped_when_it_is_replaced");
    let stage = Stage::new(cache).await;
    let counted = Counted::default();
    let reply = stage.request(|session| {
        add_holding(&session, &counted);
        assert_eq!(counted.others(), 1);
        session.set("n", 1).unwrap();
        assert_eq!(counted.others(), 0, "a set replaces it");
        add_holding(&session, &counted);
        session.remove("n");
        assert_eq!(counted.others(), 0, "a remove replaces it");
        session.clear();
        add_holding(&session, &counted);
        session.clear();
        assert_eq!(counted.others(), 0, "a clear replaces it");
        async { 200 }
    });
    assert_eq!(reply.await.status, 200);
}

/// Asks the session for what only its lock can tell.
struct Guard(Session, Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = (self.0.get::<u64>("n"), self.0.keys(), self.0.owner(), self.0.set("dropped", true), self.0.is_dirty());
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

async fn a_guard_that_asks_the_session_on_drop_does_not_block(cache: impl Cache) {
    let _watch = Watchdog::start("a_guard_that_asks_the_session_on_drop_does_not_block");
    let mut stage = Stage::new(cache).await;
    let drops = Arc::new(AtomicUsize::new(0));
    type Act = fn(&Session);
    let acts: [Act; 6] = [
        |_| {},
        |session| session.set("n", 1).unwrap(),
        |session| drop(session.remove("n")),
        Session::clear,
        Session::destroy,
        |session| session.log_in("bob").unwrap(),
    ];
    let mut expected = 0;
    for act in acts {
        for status in [200, 500] {
            for fails in [false, true] {
                stage.again().await;
                stage
                    .request(|session| {
                        let (cache, guard) = (stage.cache.clone(), Guard(session.clone(), drops.clone()));
                        async move {
                            let f = move |n: Option<u64>| {
                                n.unwrap_or_default() + u64::from(guard.1.load(Ordering::SeqCst) < 999)
                            };
                            session.update("n", f).unwrap();
                            act(&session);
                            if fails {
                                cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
                                let _ = session.commit().await;
                            }
                            status
                        }
                    })
                    .await;
                expected += 1;
                assert_eq!(drops.load(Ordering::SeqCst), expected, "each is dropped");
                stage.cache.heal();
            }
        }
    }
}

async fn one_that_asks_and_changes_its_session_does_not_block(cache: impl Cache) {
    let _watch = Watchdog::start("one_that_asks_and_changes_its_session_does_not_block");
    let stage = Stage::new(cache).await;
    let reply = stage.request(|session| {
        let stage = &stage;
        async move {
            let held = session.clone();
            let f = move |n: Option<u64>| {
                let _ = held.set("from the closure", held.get::<u64>("n"));
                let _ = (held.is_new(), held.key(), held.keys());
                n.unwrap_or_default() + 1
            };
            session.update("n", f).unwrap();
            // So that it runs again during the commit.
            stage.elsewhere(increment).await;
            session.commit().await.unwrap();
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    assert_eq!(stage.n().await, 2);
}

/// Adds one, and panics at those of its runs that `panics` names.
fn add_panicking(session: &Session, panics: fn(usize) -> bool) {
    let mut runs = 0;
    let f = move |n: Option<u64>| {
        runs += 1;
        assert!(!panics(runs), "as closures do");
        n.unwrap_or_default() + 1
    };
    session.update("n", f).unwrap();
}

async fn one_that_panics_when_it_runs_again_keeps_the_changes(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let reply = stage.request(|session| {
        let stage = &stage;
        async move {
            session.set("beside", true).unwrap();
            add_panicking(&session, |runs| runs == 2 || runs == 3);
            stage.elsewhere(increment).await;
            for _ in 0..2 {
                let result = session.commit().await;
                assert!(matches!(result, Err(SessionError::Panicked)), "{result:?}");
                assert!(session.is_dirty());
                assert_eq!(stage.n().await, 1, "nothing of it is stored");
                assert!(!stage.stored().await.contains_key("beside"));
            }
            session.commit().await.unwrap();
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    assert_eq!(stage.n().await, 2);
    assert!(stage.stored().await.contains_key("beside"));
}

async fn one_that_always_panics_when_it_runs_again_stores_nothing(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let reply = stage.request(|session| {
        let stage = &stage;
        async move {
            session.set("beside", true).unwrap();
            add_panicking(&session, |runs| runs > 1);
            stage.elsewhere(increment).await;
            200
        }
    });
    assert_eq!(reply.await.status, 500, "the commit fails");
    assert_eq!(stage.stored().await.keys(), ["n"]);
    assert_eq!(stage.n().await, 1);
}

async fn ten_thousand_are_bounded_or_refused(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    for cookie in [Some(&*stage.cookie), None] {
        let counted = Counted::default();
        let accepted = Arc::new(AtomicUsize::new(0));
        let reply = send(&stage.layer, cookie, |session| {
            for _ in 0..10_000 {
                let counted = counted.clone();
                match session.update("n", move |n: Option<u64>| (n.unwrap_or_default() + 1, &counted).0) {
                    Ok(_) => {
                        accepted.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => assert!(matches!(error, SessionError::TooManyUpdates { .. }), "{error:?}"),
                }
            }
            assert!(counted.others() <= 1000, "{}", counted.others());
            async { 200 }
        })
        .await;
        let accepted = accepted.load(Ordering::SeqCst);
        assert_eq!(reply.status, 200);
        let cookie = reply.cookie().unwrap_or_else(|| stage.cookie.clone());
        assert_eq!(stage.by(&cookie).await.unwrap().get("n"), Some(accepted));
        assert!(accepted >= 1000, "{accepted}");
        assert_eq!(counted.others(), 0);
    }
}

async fn a_list_that_failed_stays_bounded(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let counted = Counted::default();
    let accepted = Arc::new(AtomicUsize::new(0));
    let reply = stage.request(|session| {
        let (counted, accepted, cache) = (counted.clone(), accepted.clone(), stage.cache.clone());
        async move {
            for _ in 0..30 {
                for _ in 0..100 {
                    let counted = counted.clone();
                    let f = move |n: Option<u64>| (n.unwrap_or_default() + 1, &counted).0;
                    accepted.fetch_add(usize::from(session.update("n", f).is_ok()), Ordering::SeqCst);
                }
                cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
                session.commit().await.unwrap_err();
            }
            // This handler has one of them.
            assert!(counted.others() <= 1001, "{}", counted.others());
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    assert_eq!(stage.n().await, accepted.load(Ordering::SeqCst) as u64);
}
