//! Changes that are dropped: each drop is told, by the error that it came with or by an event of its own.
use std::{
    future::pending,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use cloakroom::{CacheErrorKind, Session, SessionError, testing::Operation};
use http::StatusCode;

use super::{Answer, Trial, check, commit, too_much, write};
use crate::support::web::id;

#[test]
fn a_change_that_is_dropped() {
    let ended = |end: fn(Session) -> Pin<Box<dyn Future<Output = Answer> + Send>>| {
        move |t: Trial| async move {
            let other = t.clone();
            t.request(move |session| {
                let other = other.clone();
                async move {
                    other.log_out_elsewhere().await;
                    end(session).await
                }
            })
            .await
        }
    };
    check("the session has ended", 200, &["gone"], ended(|session| Box::pin(write(session))));
    check("the commit fails, and is the answer", 500, &["session_error"], ended(|session| Box::pin(commit(session))));
    check(
        "the commit fails, and is passed over",
        200,
        &["gone"],
        ended(|session| Box::pin(async move { Ok(commit(session).await.unwrap_or(StatusCode::OK)) })),
    );
    check(
        "the commit fails, and the handler fails",
        500,
        &["gone"],
        ended(|session| {
            Box::pin(async move { Ok(commit(session).await.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)) })
        }),
    );
    check(
        "the commit fails, and more is changed",
        200,
        &["gone"],
        ended(|session| {
            Box::pin(async move {
                commit(session.clone()).await.unwrap_err();
                write(session).await
            })
        }),
    );
    check(
        "a second commit is the answer",
        500,
        &["session_error"],
        ended(|session| {
            Box::pin(async move {
                commit(session.clone()).await.unwrap_err();
                session.commit().await.map(|()| StatusCode::OK)
            })
        }),
    );
    check(
        "a look-up fails, and is the answer",
        500,
        &["session_error"],
        ended(|session| Box::pin(async move { session.reload().await.map(|()| StatusCode::OK) })),
    );
    check(
        "a look-up fails, and changes were there",
        200,
        &["gone"],
        ended(|session| {
            Box::pin(async move {
                session.set("n", 1)?;
                session.reload().await.unwrap_err();
                Ok(StatusCode::OK)
            })
        }),
    );
    for (name, status) in [("the handler fails", 500), ("the handler was cut off", 408)] {
        check(name, status, &["dropped_by_status"], |t| async move {
            t.request(move |session| async move {
                session.set("n", 1)?;
                Ok(StatusCode::from_u16(status).unwrap())
            })
            .await
        });
    }
    check("the handler fails, and nothing was changed", 500, &[], |t| async move {
        t.request(|_| async { Ok(StatusCode::INTERNAL_SERVER_ERROR) }).await
    });
    check("a detached handle, after the request", 200, &["gone"], |t| async move {
        let (other, kept) = (t.clone(), Arc::new(Mutex::new(None)));
        let keep = kept.clone();
        let status = t.request(move |session| {
            *keep.lock().unwrap() = Some(session.detach());
            async { Ok(StatusCode::OK) }
        });
        let status = status.await;
        other.log_out_elsewhere().await;
        let detached: Session = kept.lock().unwrap().take().unwrap();
        detached.set("n", 1).unwrap();
        detached.commit().await.unwrap_err();
        detached.commit().await.unwrap_err();
        status
    });
    check("a detached handle that is too large", 200, &["too_large"], |t| async move {
        t.request(|session| async move {
            let detached = session.detach();
            too_much(&detached)?;
            detached.commit().await.unwrap_err();
            Ok(StatusCode::OK)
        })
        .await
    });
    check("a detached handle of a loaded one", 200, &["too_large"], |t| async move {
        let other = t.clone();
        t.request(move |_| {
            let other = other.clone();
            async move {
                let detached = other.store.load(id(&other.cookie)).await?.unwrap().detach();
                too_much(&detached)?;
                detached.commit().await.unwrap_err();
                Ok(StatusCode::OK)
            }
        })
        .await
    });
    check("a detached handle of a visitor without a session", 200, &["gone"], |t| async move {
        let t = Trial { cookie: "other=1".into(), ..t };
        let kept = Arc::new(Mutex::new(None));
        let keep = kept.clone();
        let status = t.request(move |session| {
            *keep.lock().unwrap() = Some(session.detach());
            async { Ok(StatusCode::OK) }
        });
        let status = status.await;
        let detached: Session = kept.lock().unwrap().take().unwrap();
        detached.set("n", 1).unwrap();
        detached.commit().await.unwrap_err();
        status
    });
    for (name, change) in [
        ("a handle without a commit", (|session| session.set("n", 1).unwrap()) as fn(&Session)),
        ("a logout without a commit", Session::destroy),
    ] {
        check(name, 200, &["dropped_uncommitted"; 2], |t| async move {
            let other = t.clone();
            t.request(move |session| {
                let other = other.clone();
                async move {
                    change(&session.detach());
                    change(&other.store.load(id(&other.cookie)).await?.unwrap());
                    Ok(StatusCode::OK)
                }
            })
            .await
        });
    }
}

/// What a handler makes of the error of a handle that it detached.
#[test]
fn a_detached_handle_that_fails_while_its_request_runs() {
    type Fails = fn(Session, Trial) -> Pin<Box<dyn Future<Output = Answer> + Send>>;
    let is_too_large: Fails = |session, _| {
        Box::pin(async move {
            let detached = session.detach();
            too_much(&detached)?;
            detached.commit().await.map(|()| StatusCode::OK)
        })
    };
    let has_ended: Fails = |session, other| {
        Box::pin(async move {
            other.log_out_elsewhere().await;
            commit(session.detach()).await
        })
    };
    let has_ended_as_a_look_says: Fails = |session, other| {
        Box::pin(async move {
            let detached = session.detach();
            detached.set("n", 1)?;
            other.log_out_elsewhere().await;
            detached.reload().await.map(|()| StatusCode::OK)
        })
    };
    let rows: [(&str, Fails, &str, &str); 3] = [
        ("too large", is_too_large, "too_large", "too_large"),
        ("ended", has_ended, "session_error", "gone"),
        ("ended, as a look says", has_ended_as_a_look_says, "session_error", "gone"),
    ];
    for (name, fails, answered, passed_over) in rows {
        let with = |t: Trial, answer: fn(Answer) -> Answer| async move {
            let other = t.clone();
            t.request(move |session| {
                let other = other.clone();
                async move { answer(fails(session, other).await) }
            })
            .await
        };
        check(name, 500, &[answered], |t| with(t, |failed| failed));
        check(name, 200, &[passed_over], |t| with(t, |failed| Ok(failed.unwrap_or(StatusCode::OK))));
        check(name, 503, &[passed_over], |t| with(t, |failed| Ok(failed.unwrap_or(StatusCode::SERVICE_UNAVAILABLE))));
        let another = |failed: Answer| failed.or(Err(SessionError::NoStore));
        check(name, 500, &[passed_over, "session_error"], |t| with(t, another));
        check(name, 0, &[passed_over], |t| async move {
            let other = t.clone();
            let gone = t.request(move |session| {
                let other = other.clone();
                async move {
                    fails(session, other).await.unwrap_err();
                    pending().await
                }
            });
            let _ = tokio::time::timeout(Duration::from_millis(50), gone).await;
            0
        });
    }
    check("two of them, of which one is the answer", 500, &["too_large"; 2], |t| async move {
        t.request(move |session| async move {
            let (one, other) = (session.detach(), session.detach());
            too_much(&one)?;
            too_much(&other)?;
            one.commit().await.unwrap_err();
            other.commit().await.map(|()| StatusCode::OK)
        })
        .await
    });
    check("that the handler mends", 200, &[], |t| async move {
        t.request(move |session| async move {
            let detached = session.detach();
            too_much(&detached)?;
            detached.commit().await.unwrap_err();
            detached.remove("a");
            detached.commit().await.map(|()| StatusCode::OK)
        })
        .await
    });
}

/// The changes of a handle that the store was given a copy of.
#[test]
fn a_copy_of_a_changed_session() {
    type Saves = fn(Trial, Session) -> Pin<Box<dyn Future<Output = Result<(), SessionError>> + Send>>;
    let saves: [(&str, Saves); 2] = [
        ("under a new ID", |t, loaded| Box::pin(async move { t.store.save(&loaded).await.map(drop) })),
        ("under an ID of its own", |t, loaded| {
            Box::pin(async move { t.store.save_with_id("A".repeat(32), &loaded).await })
        }),
    ];
    for (name, save) in saves {
        let with = move |t: Trial, more: bool, answer: fn(Result<(), SessionError>) -> Answer| async move {
            let other = t.clone();
            t.request(move |_| {
                let other = other.clone();
                async move {
                    let loaded = other.store.load(id(&other.cookie)).await?.unwrap();
                    loaded.set("n", 1)?;
                    let saved = save(other, loaded.clone()).await;
                    if more {
                        loaded.set("n", 2)?;
                    }
                    answer(saved)
                }
            })
            .await
        };
        let status = |saved: Result<(), SessionError>| saved.map(|()| StatusCode::OK);
        check(name, 200, &[], |t| with(t, false, status));
        check(name, 200, &["dropped_uncommitted"], |t| with(t, true, status));
        let full = |t: Trial| {
            t.fail(Operation::Insert, CacheErrorKind::Full);
            t
        };
        check(name, 503, &["cache_full"], |t| with(full(t), false, status));
        check(name, 200, &["cache_full"], |t| {
            with(full(t), false, |saved| Ok(saved.map_or(StatusCode::OK, |()| StatusCode::IM_A_TEAPOT)))
        });
    }
}

#[test]
fn a_request_that_is_cut_off() {
    for (name, change) in [
        ("a write", (|session| session.set("n", 1).unwrap()) as fn(&Session)),
        ("a renewal", Session::renew),
        ("a logout", Session::destroy),
    ] {
        check(name, 0, &["dropped_by_abort"], |t| async move {
            let gone = t.request(move |session| async move {
                change(&session);
                pending().await
            });
            let _ = tokio::time::timeout(Duration::from_millis(20), gone).await;
            0
        });
    }
    check("nothing was changed", 0, &[], |t| async move {
        let gone = t.request(|_| pending());
        let _ = tokio::time::timeout(Duration::from_millis(20), gone).await;
        0
    });
    check("a panic", 0, &["dropped_by_abort"], |t| async move {
        let panics = async move {
            t.request(|session| async move {
                session.set("n", 1)?;
                panic!("as the test wants it")
            })
            .await
        };
        // On this thread, whose lines are recorded.
        let local = tokio::task::LocalSet::new();
        let panicked = local.spawn_local(panics);
        assert!(local.run_until(panicked).await.unwrap_err().is_panic());
        0
    });
}
