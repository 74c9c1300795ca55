//! Calls that commit at once or look at the session as it is stored now.
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cloakroom::{Cache, CacheErrorKind, EndReason, Session, SessionError, testing::Operation};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    commits::stage::{Stage, add, store},
    support::{
        caches::on_every_cache,
        web::{id, send, start},
    },
};

on_every_cache! {
    of_all_takes_of_one_value_exactly_one_gets_it,
    take_now_takes_what_is_stored,
    take_now_gives_nothing_after_an_error,
    update_now_returns_the_value_that_is_stored,
    update_now_commits_all_that_is_pending,
    update_now_returns_its_own_value_where_another_one_is_set_before_it_is_committed,
    update_now_gives_a_visitor_a_session,
    reload_sees_what_others_did_and_keeps_what_is_pending,
    ended_resolves_when_another_process_ends_the_session,
    ended_resolves_at_once_in_this_process,
    ended_goes_on_through_a_renewal_of_its_own_request,
    ended_resolves_after_a_renewal_by_another_request,
    ended_tells_a_renewal_from_an_end_also_when_it_is_asked_late,
    ended_waits_through_an_outage_and_never_touches,
    modify_changes_in_place_and_set_ref_takes_no_value,
}

async fn of_all_takes_of_one_value_exactly_one_gets_it(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    stage.cache.yield_always(true);
    for round in 0..20 {
        stage.again().await;
        stage.elsewhere(|session| session.set("oauth_state", "once").unwrap()).await;
        let mut takes = JoinSet::new();
        for _ in 0..4 {
            let other = store(stage.cache.clone());
            let id = id(&stage.cookie).to_owned();
            for store in [stage.store.clone(), other] {
                let id = id.clone();
                takes.spawn(async move {
                    let session = store.load(&id).await.unwrap().unwrap();
                    tokio::task::yield_now().await;
                    session.take_now::<String>("oauth_state").await.unwrap()
                });
            }
        }
        let got: Vec<String> = takes.join_all().await.into_iter().flatten().collect();
        assert_eq!(got, ["once"], "{round}");
        assert!(!stage.stored().await.contains_key("oauth_state"));
    }
}

async fn take_now_takes_what_is_stored(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    stage.elsewhere(|session| session.set("k", 1).unwrap()).await;
    let session = stage.stored().await;
    stage.elsewhere(|session| session.set("k", 2).unwrap()).await;
    assert_eq!(session.take_now::<u64>("k").await.unwrap(), Some(2));
    assert_eq!(session.take_now::<u64>("k").await.unwrap(), None);
    stage.elsewhere(|session| session.set("k", 3).unwrap()).await;
    assert_eq!(session.take_now::<u64>("k").await.unwrap(), Some(3), "it looks first");
    session.set("k", 4).unwrap();
    assert_eq!(session.take_now::<u64>("k").await.unwrap(), Some(4), "what is pending comes before");
    stage.elsewhere(|session| session.set("k", "a text").unwrap()).await;
    assert!(matches!(session.take_now::<u64>("k").await, Err(SessionError::Decode(_))));
    assert_eq!(stage.stored().await.get::<String>("k").as_deref(), Some("a text"), "it stays");
}

async fn take_now_gives_nothing_after_an_error(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for lost in [false, true] {
        stage.again().await;
        stage.elsewhere(|session| session.set("k", 1).unwrap()).await;
        let got = Arc::new(Mutex::new(Vec::new()));
        let reply = stage.request(|session| {
            let (cache, got) = (stage.cache.clone(), got.clone());
            async move {
                if lost {
                    cache.lose_reply(Operation::Replace);
                } else {
                    cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
                }
                session.take_now::<u64>("k").await.unwrap_err();
                let second = session.take_now::<u64>("k").await.unwrap();
                got.lock().unwrap().push(second);
                200
            }
        });
        assert_eq!(reply.await.status, 200);
        let got = got.lock().unwrap().clone();
        assert_eq!(got, [if lost { None } else { Some(1) }], "{lost}");
        assert!(!stage.stored().await.contains_key("k"));
    }
}

async fn update_now_returns_the_value_that_is_stored(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    stage.cache.yield_always(true);
    let mut tasks = JoinSet::new();
    for number in 0..10 {
        let store = if number % 2 == 0 { stage.store.clone() } else { store(stage.cache.clone()) };
        let id = id(&stage.cookie).to_owned();
        tasks.spawn(async move {
            let session = store.load(&id).await.unwrap().unwrap();
            let first = session.update_now("n", add).await.unwrap();
            let clone = session.clone();
            let (second, third) = tokio::join!(session.update_now("n", add), clone.update_now("n", add));
            [first, second.unwrap(), third.unwrap()]
        });
    }
    let mut returned: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
    returned.sort_unstable();
    assert_eq!(returned, (1..=30).collect::<Vec<_>>(), "each was stored, once");
    assert_eq!(stage.n().await, 30);
}

async fn update_now_commits_all_that_is_pending(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let reply = stage.request(|session| {
        let stage = &stage;
        async move {
            session.set("beside", true).unwrap();
            session.update("n", add).unwrap();
            assert_eq!(session.update_now("n", add).await.unwrap(), 2);
            assert_eq!(stage.n().await, 2);
            assert!(stage.stored().await.contains_key("beside"));
            500
        }
    });
    assert_eq!(reply.await.status, 500);
    assert_eq!(stage.n().await, 2);
}

async fn update_now_gives_a_visitor_a_session(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let reply = send(&stage.layer, None, |session| async move {
        assert_eq!(session.update_now("n", add).await.unwrap(), 1);
        200
    });
    let cookie = reply.await.cookie().unwrap();
    assert_eq!(stage.by(&cookie).await.unwrap().get("n"), Some(1));
}

async fn reload_sees_what_others_did_and_keeps_what_is_pending(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let session = stage.stored().await;
    let detached = session.detach();
    for session in [&session, &detached] {
        let n: u64 = session.get("n").unwrap();
        session.set("pending", n).unwrap();
        session.update("n", add).unwrap();
        stage.elsewhere(|other| other.update("n", |n: Option<u64>| n.unwrap() + 10).map(drop).unwrap()).await;
        stage.elsewhere(|other| other.set("theirs", true).unwrap()).await;
        session.reload().await.unwrap();
        assert_eq!((session.get("theirs"), session.get("pending")), (Some(true), Some(n)));
        session.commit().await.unwrap();
        assert_eq!(stage.stored().await.get("pending"), Some(n));
    }
    assert_eq!(stage.n().await, 22);
    stage.elsewhere(Session::destroy).await;
    for session in [&session, &detached] {
        assert!(matches!(session.reload().await, Err(SessionError::Gone)));
    }
    assert!(matches!(Session::new().reload().await, Err(SessionError::NoStore)));
}

const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(20);

async fn ended_resolves_when_another_process_ends_the_session(cache: impl Cache) {
    let mut stage = Stage::with(cache, |store| store.ended_interval(SOON)).await;
    for detached in [false, true] {
        stage.again().await;
        let session = stage.stored().await;
        let session = if detached { session.detach() } else { session };
        let waits = tokio::spawn(async move { timeout(LONG, session.ended()).await });
        tokio::time::sleep(2 * SOON).await;
        stage.elsewhere(|session| session.set("n", 1).unwrap()).await;
        tokio::time::sleep(2 * SOON).await;
        assert!(!waits.is_finished(), "a write does not end it");
        // By a store of its own on the same cache, as another process has.
        store(stage.cache.clone()).destroy(id(&stage.cookie)).await.unwrap();
        assert_eq!(waits.await.unwrap().unwrap(), EndReason::Ended);
    }
}

async fn ended_resolves_at_once_in_this_process(cache: impl Cache) {
    let mut stage = Stage::with(cache, |store| store.ended_interval(Duration::from_secs(3600))).await;
    for revoked in [false, true] {
        stage.again().await;
        let session = stage.stored().await.detach();
        let waits = tokio::spawn(async move { timeout(LONG, session.ended()).await });
        tokio::time::sleep(SOON).await;
        if revoked {
            stage.store.revoke_all("alice").await.unwrap();
        } else {
            stage.store.destroy(id(&stage.cookie)).await.unwrap();
        }
        assert_eq!(waits.await.unwrap().unwrap(), EndReason::Ended);
    }
}

async fn ended_goes_on_through_a_renewal_of_its_own_request(cache: impl Cache) {
    let stage = Stage::with(cache, |store| store.ended_interval(SOON)).await;
    for (is_known, detached) in [(true, true), (false, true), (true, false), (false, false)] {
        let cookie = if is_known { Some(start(&stage.layer, "alice").await) } else { None };
        let waits = Arc::new(Mutex::new(None));
        let reply = send(&stage.layer, cookie.as_deref(), |session| {
            let waits = waits.clone();
            async move {
                session.set("n", 7).unwrap();
                let later = if detached { session.detach() } else { session.clone() };
                *waits.lock().unwrap() = Some(tokio::spawn(async move { timeout(LONG, later.ended()).await }));
                session.commit().await.unwrap();
                session.renew();
                session.commit().await.unwrap();
                tokio::time::sleep(2 * SOON).await;
                session.renew();
                200
            }
        })
        .await;
        let waits = waits.lock().unwrap().take().unwrap();
        tokio::time::sleep(3 * SOON).await;
        assert!(!waits.is_finished());
        store(stage.cache.clone()).destroy(id(&reply.cookie().unwrap())).await.unwrap();
        assert_eq!(waits.await.unwrap().unwrap(), EndReason::Ended);
    }
}

async fn ended_resolves_after_a_renewal_by_another_request(cache: impl Cache) {
    let stage = Stage::with(cache, |store| store.ended_interval(SOON)).await;
    let session = stage.stored().await;
    let waits = tokio::spawn(async move { timeout(LONG, session.ended()).await });
    tokio::time::sleep(SOON).await;
    stage.elsewhere(Session::renew).await;
    assert_eq!(waits.await.unwrap().unwrap(), EndReason::Renewed);
}

async fn ended_tells_a_renewal_from_an_end_also_when_it_is_asked_late(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let session = stage.stored().await;
    let reply = send(&stage.other, Some(&stage.cookie), |session| async move {
        session.renew();
        200
    })
    .await;
    let renewed = reply.cookie().unwrap();
    session.set("late", true).unwrap();
    assert!(matches!(session.commit().await, Err(SessionError::Gone)));
    assert_eq!(timeout(LONG, session.ended()).await.unwrap(), EndReason::Renewed);
    // The renewed session ends under its new key.
    store(stage.cache.clone()).destroy(id(&renewed)).await.unwrap();
    assert_eq!(timeout(LONG, session.ended()).await.unwrap(), EndReason::Ended);
    // What is known needs no cache.
    stage.cache.fail_all(CacheErrorKind::Unavailable);
    assert_eq!(timeout(LONG, session.ended()).await.unwrap(), EndReason::Ended);
}

async fn ended_waits_through_an_outage_and_never_touches(cache: impl Cache) {
    let stage = Stage::with(cache, |store| store.ended_interval(SOON)).await;
    let session = stage.stored().await;
    stage.cache.reset_calls();
    stage.cache.fail(Operation::Get, CacheErrorKind::Unavailable);
    let waits = tokio::spawn(async move { timeout(LONG, session.ended()).await });
    tokio::time::sleep(3 * SOON).await;
    assert!(!waits.is_finished());
    stage.cache.heal();
    tokio::time::sleep(2 * SOON).await;
    assert!(!waits.is_finished());
    let calls = stage.cache.calls();
    assert_eq!(calls.total(), calls.of(Operation::Get), "{calls:?}");
    store(stage.cache.clone()).destroy(id(&stage.cookie)).await.unwrap();
    waits.await.unwrap().unwrap();
}

async fn modify_changes_in_place_and_set_ref_takes_no_value(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let cart = vec!["umbrella".to_owned()];
    let reply = stage.request(|session| {
        let (stage, cart) = (&stage, &cart);
        async move {
            session.set_ref("theirs", cart).unwrap();
            let push = |cart: &mut Vec<String>| cart.push("hat".into());
            assert_eq!(session.modify("cart", push).unwrap(), ["hat"]);
            let theirs = |cart: &mut Vec<String>| cart.push("umbrella".into());
            stage.elsewhere(move |other| drop(other.modify("cart", theirs).unwrap())).await;
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    let stored = stage.stored().await;
    assert_eq!(stored.get::<Vec<String>>("cart").unwrap(), ["umbrella", "hat"]);
    assert_eq!(stored.get::<Vec<String>>("theirs").unwrap(), cart);
    assert!(matches!(stored.set_ref("nan", &f64::NAN), Err(SessionError::Encode(_))));
}

async fn update_now_returns_its_own_value_where_another_one_is_set_before_it_is_committed(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    stage.elsewhere(|session| session.set("n", 5).unwrap()).await;
    let gate = stage.cache.hold(Operation::Replace);
    let reply = stage.request(|session| {
        let gate = gate.clone();
        async move {
            session.set("first", true).unwrap();
            let clone = session.clone();
            let first = tokio::spawn(async move { clone.commit().await });
            gate.arrived().await;
            let rest = async {
                session.set("n", 8).unwrap();
                session.set("n", 9).unwrap();
                gate.open();
            };
            let (updated, ()) = tokio::join!(session.update_now("n", add), rest);
            assert_eq!(updated.unwrap(), 6);
            assert_eq!(session.get("n"), Some(9));
            first.await.unwrap().unwrap();
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    assert_eq!(stage.n().await, 9);
}
