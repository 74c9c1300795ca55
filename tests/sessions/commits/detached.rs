//! Detached handles: they commit before, after and without their request, and follow its renewals.
use std::sync::{Arc, Mutex};

use cloakroom::{Cache, Session, SessionError};

use crate::{
    commits::stage::{Stage, add, increment},
    support::{
        caches::on_every_cache,
        web::{Reply, send, start},
    },
};

on_every_cache! {
    one_that_commits_before_its_request_counts_once,
    one_that_commits_after_its_request_counts_once,
    one_of_a_request_without_a_session,
    a_pending_owner_is_seen_and_kept,
    revoke_others_knows_a_pending_owner,
    it_follows_the_renewals_of_its_request,
    it_does_not_follow_the_renewal_of_another_request,
    its_destroy_follows_the_renewals_of_its_request,
    its_destroy_ends_a_session_that_its_request_stores_first,
}

type Kept = Arc<Mutex<Option<Session>>>;

/// The reply of a request, and a handle that was detached after `before` and before `after`.
async fn detach_in<C: Cache>(
    stage: &Stage<C>,
    cookie: Option<&str>,
    before: fn(&Session),
    after: fn(&Session),
    status: u16,
) -> (Reply, Session) {
    let kept = Kept::default();
    let reply = send(&stage.layer, cookie, |session| {
        before(&session);
        *kept.lock().unwrap() = Some(session.detach());
        after(&session);
        async move { status }
    })
    .await;
    assert_eq!(reply.status, status);
    let later = kept.lock().unwrap().take().unwrap();
    (reply, later)
}

fn nothing(_: &Session) {}

async fn one_that_commits_before_its_request_counts_once(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for (status, n) in [(200, 2), (404, 2), (500, 1), (503, 1), (408, 1)] {
        stage.again().await;
        let reply = stage.request(|session| async move {
            increment(&session);
            session.set("of the request", true).unwrap();
            let later = session.detach();
            assert_eq!(later.update("n", add).unwrap(), 2);
            later.commit().await.unwrap();
            status
        });
        assert_eq!(reply.await.status, status);
        let stored = stage.stored().await;
        assert_eq!((stored.get("n"), stored.contains_key("of the request")), (Some(n), n == 2), "{status}");
    }
}

async fn one_that_commits_after_its_request_counts_once(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for (status, n) in [(200, 2), (404, 2), (500, 1), (503, 1), (408, 1)] {
        for elsewhere in [false, true] {
            stage.again().await;
            let before = |session: &Session| {
                increment(session);
                session.set("of the request", true).unwrap();
                session.set_ttl(std::time::Duration::from_secs(60)).unwrap();
            };
            let (_, later) = detach_in(&stage, Some(&stage.cookie), before, nothing, status).await;
            if elsewhere {
                stage.elsewhere(increment).await;
            }
            assert_eq!(
                (later.get("n"), later.contains_key("of the request")),
                (Some(1), true),
                "as its request saw it"
            );
            increment(&later);
            later.commit().await.unwrap();
            let stored = stage.stored().await;
            let n = n + u64::from(elsewhere);
            assert_eq!(stored.get("n"), Some(n), "{status} {elsewhere}");
            assert_eq!(stored.contains_key("of the request"), status < 408, "{status}");
            assert_eq!(later.get("n"), Some(n), "it sees what is stored now");
        }
    }
}

async fn one_of_a_request_without_a_session(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let before = |session: &Session| {
        increment(session);
        session.set_owner("bob").unwrap();
    };
    for status in [200, 500] {
        let (reply, later) = detach_in(&stage, None, before, nothing, status).await;
        increment(&later);
        let result = later.commit().await;
        if status == 200 {
            result.unwrap();
            assert_eq!(stage.by(&reply.cookie().unwrap()).await.unwrap().get("n"), Some(2));
        } else {
            assert!(matches!(result, Err(SessionError::Gone)), "{result:?}");
            assert!(matches!(later.commit().await, Err(SessionError::Gone)));
            assert_eq!(reply.cookie(), None);
        }
        assert_eq!(stage.live("bob").await, 1, "{status}");
    }
}

async fn a_pending_owner_is_seen_and_kept(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for within in [false, true] {
        stage.again().await;
        let kept = Kept::default();
        let reply = stage.request(|session| {
            let kept = kept.clone();
            async move {
                session.set_owner("bob").unwrap();
                let later = session.detach();
                assert_eq!(later.owner().as_deref(), Some("bob"));
                if within {
                    increment(&later);
                    later.commit().await.unwrap();
                }
                *kept.lock().unwrap() = Some(later);
                200
            }
        });
        assert_eq!(reply.await.status, 200);
        let later = kept.lock().unwrap().take().unwrap();
        increment(&later);
        later.commit().await.unwrap();
        assert_eq!(later.owner().as_deref(), Some("bob"));
        assert_eq!(stage.stored().await.owner().as_deref(), Some("bob"));
        assert_eq!(stage.n().await, 1 + u64::from(within));
    }
    assert_eq!(stage.live("bob").await, 2);
}

async fn revoke_others_knows_a_pending_owner(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let devices = [start(&stage.layer, "bob").await, start(&stage.layer, "bob").await];
    let (_, later) =
        detach_in(&stage, Some(&stage.cookie), |session| session.set_owner("bob").unwrap(), nothing, 200).await;
    assert_eq!(later.revoke_others().await.unwrap(), 2);
    assert!(stage.by(&devices[0]).await.is_none() && stage.by(&devices[1]).await.is_none());
    assert_eq!(stage.live("bob").await, 1);
}

/// Renews twice by commits of its own, and once at the end.
async fn renewed_three_times<C: Cache>(stage: &Stage<C>, cookie: Option<&str>) -> (Reply, Session) {
    let kept = Kept::default();
    let reply = send(&stage.layer, cookie, |session| {
        let kept = kept.clone();
        async move {
            session.set("n", 7).unwrap();
            *kept.lock().unwrap() = Some(session.detach());
            for _ in 0..2 {
                session.renew();
                session.commit().await.unwrap();
            }
            session.renew();
            200
        }
    })
    .await;
    let later = kept.lock().unwrap().take().unwrap();
    (reply, later)
}

async fn it_follows_the_renewals_of_its_request(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    for cookie in [Some(&*stage.cookie), None] {
        let (reply, later) = renewed_three_times(&stage, cookie).await;
        increment(&later);
        later.commit().await.unwrap();
        assert_eq!(stage.by(&reply.cookie().unwrap()).await.unwrap().get("n"), Some(8));
    }
}

async fn it_does_not_follow_the_renewal_of_another_request(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let (_, later) = detach_in(&stage, Some(&stage.cookie), nothing, nothing, 200).await;
    let reply = stage.request(|session| async move {
        session.renew();
        200
    });
    let cookie = reply.await.cookie().unwrap();
    increment(&later);
    assert!(matches!(later.commit().await, Err(SessionError::Gone)));
    assert_eq!(stage.by(&cookie).await.unwrap().get("n"), Some(0));
}

async fn its_destroy_follows_the_renewals_of_its_request(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    for cookie in [Some(&*stage.cookie), None] {
        let (reply, later) = renewed_three_times(&stage, cookie).await;
        let cookie = reply.cookie().unwrap();
        assert!(stage.by(&cookie).await.is_some());
        later.destroy();
        later.commit().await.unwrap();
        assert!(stage.by(&cookie).await.is_none());
    }
}

async fn its_destroy_ends_a_session_that_its_request_stores_first(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let (reply, later) = detach_in(&stage, None, increment, nothing, 200).await;
    let cookie = reply.cookie().unwrap();
    assert!(stage.by(&cookie).await.is_some());
    later.destroy();
    later.commit().await.unwrap();
    assert!(stage.by(&cookie).await.is_none());
}
