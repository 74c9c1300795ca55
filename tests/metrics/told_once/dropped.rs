//! Changes that are dropped: each drop is told, by the error that it came with or by an event of its own.
use std::{
    future::pending,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use cloakroom::Session;
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
    check("a handle without a commit", 200, &["dropped_uncommitted"; 2], |t| async move {
        let other = t.clone();
        t.request(move |session| {
            let other = other.clone();
            async move {
                session.detach().set("n", 1)?;
                other.store.load(id(&other.cookie)).await?.unwrap().set("n", 1)?;
                Ok(StatusCode::OK)
            }
        })
        .await
    });
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
