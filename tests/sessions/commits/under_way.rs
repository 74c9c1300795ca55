//! Changes to a session while an explicit commit of the same session is under way.
use cloakroom::{Cache, CacheErrorKind, Session, testing::Operation};
use tokio::task::JoinSet;

use crate::{
    commits::stage::{Stage, add, increment, store},
    support::{caches::on_every_cache, web},
};

on_every_cache! {
    increments_count_once,
    increments_of_clones_that_commit_at_the_same_time_count_once,
    a_later_set_back_to_the_first_value_is_kept,
    the_owner_set_last_is_the_owner,
    an_owner_taken_away_is_away,
    an_update_that_was_put_back_after_a_conflict_is_replayed,
    the_handler_sees_all_of_its_changes_in_their_order,
    what_is_updated_at_once_is_seen_as_it_was_until_then,
}

/// A commit of `before` is held at its write while `during` happens, and, if `meanwhile` is given, another process wins.
async fn while_committing<C: Cache>(
    stage: &Stage<C>,
    before: fn(&Session),
    during: fn(&Session),
    meanwhile: Option<fn(&Session)>,
) {
    let gate = stage.cache.hold(Operation::Replace);
    let reply = stage.request(|session| {
        let gate = gate.clone();
        async move {
            before(&session);
            let clone = session.clone();
            let commit = tokio::spawn(async move { clone.commit().await });
            gate.arrived().await;
            during(&session);
            if let Some(meanwhile) = meanwhile {
                stage.elsewhere(meanwhile).await;
            }
            gate.open();
            commit.await.unwrap().unwrap();
            200
        }
    });
    assert_eq!(reply.await.status, 200);
}

const OTHERS: [Option<fn(&Session)>; 3] =
    [None, Some(increment), Some(|session| session.set("elsewhere", true).unwrap())];

async fn increments_count_once(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for (at, meanwhile) in OTHERS.into_iter().enumerate() {
        stage.again().await;
        let during = |session: &Session| {
            assert_eq!(session.update("n", add).unwrap(), 2);
            assert_eq!(session.modify("n", |n: &mut u64| *n += 1).unwrap(), 3);
            assert_eq!(session.get("n"), Some(3));
        };
        while_committing(&stage, increment, during, meanwhile).await;
        assert_eq!(stage.n().await, 3 + u64::from(at == 1), "{at}");
    }
}

async fn increments_of_clones_that_commit_at_the_same_time_count_once(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    stage.cache.yield_always(true);
    let elsewhere = store(stage.cache.clone());
    let reply = stage.request(|session| {
        let (elsewhere, cookie) = (elsewhere.clone(), stage.cookie.clone());
        async move {
            let mut tasks = JoinSet::new();
            for number in 0..20 {
                let session = session.clone();
                tasks.spawn(async move {
                    session.update("n", add).unwrap();
                    session.commit().await.unwrap();
                    session.update("n", add).unwrap();
                    if number % 2 == 0 {
                        let (one, two) = tokio::join!(session.commit(), session.commit());
                        one.and(two).unwrap();
                    }
                });
                let (elsewhere, id) = (elsewhere.clone(), web::id(&cookie).to_owned());
                tasks.spawn(async move {
                    let other = elsewhere.load(&id).await.unwrap().unwrap();
                    other.update("n", add).unwrap();
                    other.commit().await.unwrap();
                });
            }
            tasks.join_all().await;
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    assert_eq!(stage.n().await, 60);
}

async fn a_later_set_back_to_the_first_value_is_kept(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for meanwhile in OTHERS.into_iter().flatten().map(Some).chain([None]) {
        stage.again().await;
        let before = |session: &Session| session.set("n", 5).unwrap();
        // As it was when the request loaded it.
        let during = |session: &Session| session.set("n", 0).unwrap();
        while_committing(&stage, before, during, meanwhile).await;
        assert_eq!(stage.n().await, 0);
    }
}

async fn the_owner_set_last_is_the_owner(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for meanwhile in OTHERS {
        stage.again().await;
        let before = |session: &Session| session.set_owner("bob").unwrap();
        for during in [
            |session: &Session| {
                session.set_owner("carol").unwrap();
                assert_eq!(session.owner().as_deref(), Some("carol"));
            },
            // As it was when the request loaded it.
            |session: &Session| {
                session.set_owner("alice").unwrap();
                assert_eq!(session.owner().as_deref(), Some("alice"));
                session.set_owner("carol").unwrap();
            },
        ] {
            while_committing(&stage, before, during, meanwhile).await;
            let stored = stage.stored().await;
            assert_eq!(stored.owner().as_deref(), Some("carol"));
            let listed = stage.store.sessions_of("carol").await.unwrap();
            assert!(listed.iter().any(|info| Some(info.key()) == stored.key()));
            assert_eq!(stage.live("bob").await, 0);
        }
    }
}

async fn an_owner_taken_away_is_away(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for meanwhile in OTHERS {
        stage.again().await;
        let before = |session: &Session| session.set_owner("bob").unwrap();
        let during = |session: &Session| {
            session.clear_owner().unwrap();
            assert_eq!(session.owner(), None);
        };
        while_committing(&stage, before, during, meanwhile).await;
        assert_eq!(stage.stored().await.owner(), None);
        assert_eq!(stage.live("bob").await, 0);
    }
}

async fn the_handler_sees_all_of_its_changes_in_their_order(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for meanwhile in OTHERS {
        stage.again().await;
        let before = |session: &Session| {
            session.set("a", 1).unwrap();
            session.set("b", 1).unwrap();
        };
        let during = |session: &Session| {
            assert_eq!(session.keys(), ["a", "b", "n"]);
            session.remove("a");
            session.set("c", 1).unwrap();
            assert_eq!(session.keys(), ["b", "c", "n"]);
            session.clear();
            assert!(session.is_empty());
            session.set("d", 1).unwrap();
        };
        while_committing(&stage, before, during, meanwhile).await;
        assert_eq!(stage.stored().await.keys(), ["d"]);
    }
}

async fn an_update_that_was_put_back_after_a_conflict_is_replayed(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    stage.elsewhere(|session| session.set("n", 5).unwrap()).await;
    let gate = stage.cache.hold(Operation::Replace);
    let reply = stage.request(|session| {
        let (gate, stage) = (gate.clone(), &stage);
        async move {
            increment(&session);
            let clone = session.clone();
            let commit = tokio::spawn(async move { clone.commit().await });
            gate.arrived().await;
            // So that one more is what this request has loaded.
            stage.elsewhere(|session| session.set("n", 4).unwrap()).await;
            stage.cache.fail_once(Operation::Replace, CacheErrorKind::Unavailable);
            gate.open();
            commit.await.unwrap().unwrap_err();
            session.commit().await.unwrap();
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    assert_eq!(stage.n().await, 5);
}

async fn what_is_updated_at_once_is_seen_as_it_was_until_then(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    stage.elsewhere(|session| session.set("n", 5).unwrap()).await;
    let gate = stage.cache.hold(Operation::Replace);
    let reply = stage.request(|session| {
        let gate = gate.clone();
        async move {
            let clone = session.clone();
            let commit = tokio::spawn(async move { clone.update_now("n", add).await });
            gate.arrived().await;
            assert_eq!(session.get("n"), Some(5));
            assert_eq!(session.detach().get("n"), Some(5));
            assert_eq!(session.update("n", add).unwrap(), 6);
            gate.open();
            assert_eq!(commit.await.unwrap().unwrap(), 6);
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    assert_eq!(stage.n().await, 7);
}
