//! The table of `record::changes`: this request's change against what another request committed first.
use cloakroom::{Cache, Session};

use crate::{commits::stage::Stage, support::caches::on_every_cache};

on_every_cache! {
    the_table_as_it_is_written,
    a_list_that_changes_nothing_writes_nothing,
    if_anything_is_written_all_of_it_is,
    an_update_builds_on_the_change_before_it,
}

type Act = fn(&Session);

fn plus_one(session: &Session) {
    session.update("k", |k: Option<u64>| k.unwrap_or_default() + 1).unwrap();
}

/// What this request does, and what is under `k` afterwards if another request set it to 50, removed it, cleared the session.
const MINE: [(&str, Act, [Option<u64>; 3]); 7] = [
    ("set", |session| session.set("k", 7).unwrap(), [Some(7); 3]),
    ("set to the value that was seen", |session| session.set("k", 5).unwrap(), [Some(5); 3]),
    ("update", plus_one, [Some(51), Some(1), Some(1)]),
    ("remove", |session| drop(session.remove("k")), [None; 3]),
    ("clear", Session::clear, [None; 3]),
    ("take", |session| assert!(session.take::<u64>("k").is_ok()), [None; 3]),
    ("nothing", |_| {}, [Some(50), None, None]),
];

const OTHERS: [(&str, Act); 3] = [
    ("set", |session| session.set("k", 50).unwrap()),
    ("removed", |session| drop(session.remove("k"))),
    ("cleared", Session::clear),
];

async fn against<C: Cache>(stage: &mut Stage<C>, seen: bool, mine: impl Fn(&Session), other: Act) -> Session {
    stage.again().await;
    if seen {
        stage.elsewhere(|session| session.set("k", 5).unwrap()).await;
    }
    let reply = stage.request(|session| {
        mine(&session);
        let stage = &*stage;
        async move {
            stage.elsewhere(other).await;
            200
        }
    });
    assert_eq!(reply.await.status, 200);
    stage.stored().await
}

async fn the_table_as_it_is_written(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for (name, mine, expected) in MINE {
        for ((other_name, other), expected) in OTHERS.into_iter().zip(expected) {
            for seen in [true, false] {
                let case = format!("{name}, another {other_name}, seen: {seen}");
                // A change beside it, so that something is written.
                let both = |session: &Session| {
                    mine(session);
                    session.set("beside", true).unwrap();
                };
                let stored = against(&mut stage, seen, both, other).await;
                assert_eq!(stored.get("k"), expected, "{case}");
                assert_eq!(stored.get("beside"), Some(true), "{case}");
                let keeps_n = other_name != "cleared" && name != "clear";
                assert_eq!(stored.contains_key("n"), keeps_n, "{case}");
            }
        }
    }
}

async fn a_list_that_changes_nothing_writes_nothing(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    let set: Act = |session| session.set("k", 5).unwrap();
    let back: Act = |session| {
        session.set("k", 6).unwrap();
        session.set("k", 5).unwrap();
    };
    for mine in [set, back] {
        assert_eq!(against(&mut stage, true, mine, OTHERS[0].1).await.get("k"), Some(50));
    }
    let unseen: Act = |session| drop(session.remove("k"));
    assert_eq!(against(&mut stage, false, unseen, OTHERS[0].1).await.get("k"), Some(50));
}

async fn if_anything_is_written_all_of_it_is(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    let mine: Act = |session| {
        session.set("k", 5).unwrap();
        session.remove("unseen");
        session.set("n", 1).unwrap();
    };
    let other: Act = |session| {
        session.set("k", 50).unwrap();
        session.set("unseen", 1).unwrap();
    };
    let stored = against(&mut stage, true, mine, other).await;
    assert_eq!(stored.keys(), ["k", "n"]);
    assert_eq!(stored.get("k"), Some(5));
}

async fn an_update_builds_on_the_change_before_it(cache: impl Cache) {
    let mut stage = Stage::new(cache).await;
    for (_, other) in OTHERS {
        let set = |session: &Session| {
            session.set("k", 7).unwrap();
            plus_one(session);
        };
        assert_eq!(against(&mut stage, true, set, other).await.get("k"), Some(8));
        let remove = |session: &Session| {
            session.remove("k");
            plus_one(session);
        };
        assert_eq!(against(&mut stage, true, remove, other).await.get("k"), Some(1));
        let clear = |session: &Session| {
            session.clear();
            plus_one(session);
        };
        assert_eq!(against(&mut stage, true, clear, other).await.get("k"), Some(1));
    }
}
