//! When a session ends: by its idle time, by its lifetime, and what moves which of them.
use super::*;
use crate::support::caches::on_every_cache;

on_every_cache! {
    #[tokio::test] in crate::lifetimes::aging;
    what_restarts_the_idle_time,
    without_a_request_a_look_restarts_nothing_and_all_else_does,
    nothing_extends_the_lifetime,
    the_lifetime_holds_even_where_the_cache_forgot,
    an_idle_time_of_its_own_holds_for_every_way_to_refresh,
    a_lifetime_of_its_own_counts_from_the_creation,
    a_lifetime_that_is_over_already_ends_the_session_with_the_request,
    a_changed_setting_of_the_store_holds_from_the_next_write_on,
    what_each_policy_costs,
    a_refresh_creates_nothing_and_rewrites_nothing,
    a_session_that_ends_under_its_handler_stays_ended,
    extreme_durations_harm_nothing,
}

async fn what_restarts_the_idle_time<C: Cache>(trial: Trial<C>) {
    let every = OnLoadEvery(5 * MINUTE);
    // What is done in which minutes, and the one in which the session ends.
    let rows: [(Refresh, Act, &[u32], u32); 15] = [
        (OnWrite, Read, &[9], 10),
        (OnWrite, Write, &[9, 18], 28),
        (OnWrite, Touch, &[9, 18], 28),
        (OnWrite, Renew, &[9, 18], 28),
        (OnLoad, Read, &[1], 11),
        (OnLoad, Read, &[9, 18, 27, 36, 45], 55),
        (every, Read, &[4], 10),
        (every, Read, &[5], 15),
        (every, Read, &[9], 19),
        // Five minutes after the last restart, not after the last look.
        (every, Read, &[4, 8], 18),
        (every, Read, &[9, 13], 19),
        (every, Read, &[9, 18, 22], 28),
        (every, Write, &[4], 14),
        (every, Touch, &[4], 14),
        (OnLoadEvery(Duration::ZERO), Read, &[1, 2], 12),
    ];
    for row in rows {
        let (refresh, does, minutes, end) = row;
        let layer = trial.layer(refresh);
        let mut cookie = start(&layer, "alice").await;
        let mut now = 0;
        for minute in minutes {
            trial.pass((minute - now) * MINUTE);
            cookie = act(&layer, &cookie, &[does]).await;
            now = *minute;
        }
        trial.ends_in((end - now) * MINUTE, &cookie, row).await;
    }
}

async fn without_a_request_a_look_restarts_nothing_and_all_else_does<C: Cache>(trial: Trial<C>) {
    for (way, left) in [("load", 1), ("touch", 10), ("commit", 10), ("save", 10)] {
        let cookie = start(&trial.layer(OnLoad), "alice").await;
        trial.pass(9 * MINUTE);
        by_id(&trial.store, &cookie, way).await;
        trial.ends_in(left * MINUTE, &cookie, way).await;
    }
}

async fn nothing_extends_the_lifetime<C: Cache>(trial: Trial<C>) {
    let rows: [&[Act]; 7] =
        [&[Read], &[Write], &[Touch], &[Renew], &[Write, Renew], &[Ttl(30 * DAY)], &[Set, Clear, Touch]];
    for refresh in POLICIES {
        let layer = trial.layer(refresh);
        for acts in rows {
            let mut cookie = start(&layer, "alice").await;
            for _ in 0..11 {
                trial.pass(5 * MINUTE);
                cookie = act(&layer, &cookie, acts).await;
                for way in ["touch", "commit", "save"] {
                    by_id(&trial.store, &cookie, way).await;
                }
            }
            trial.ends_in(5 * MINUTE, &cookie, (refresh, acts)).await;
        }
    }
}

async fn the_lifetime_holds_even_where_the_cache_forgot<C: Cache>(trial: Trial<C>) {
    for refresh in POLICIES {
        // The store's clock is turned, the cache's stands still.
        let clock = Clock::manual();
        let store = trial.store.clone().clock(clock.clone());
        let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
        let cookie = start(&layer, "alice").await;
        let (held, key) = (store.load(id(&cookie)).await.unwrap().unwrap(), key(&store, &cookie).await);
        clock.advance(HOUR - SLACK);
        assert!(lives(&store, &cookie).await);
        let before = trial.entry(&key).await;
        clock.advance(SLACK);
        assert!(!lives(&store, &cookie).await && !store.touch(id(&cookie)).await.unwrap());
        assert!(store.sessions_of("alice").await.unwrap().is_empty());
        assert_eq!(peek(&layer, &cookie, "n").await, None);
        for does in [Write, Touch, Renew, Clear] {
            assert_eq!(visit(&layer, Some(&cookie), &[does]).await.cookie(), None, "{does:?}");
        }
        assert_ne!(act(&layer, &cookie, &[Set]).await, cookie, "an ID is issued, never accepted");
        assert!(!lives(&store, &cookie).await);
        assert!(before.is_some() && trial.entry(&key).await == before, "never written over");
        // For a process whose clock is behind it lives: a logout ends it there, too.
        assert_eq!(visit(&layer, Some(&cookie), &[Destroy]).await.cookie().as_deref(), Some("__Host-id="));
        assert!(trial.entry(&key).await.is_none());
        // Nor can a handle from before find out any more whether the session was renewed.
        held.destroy();
        assert!(matches!(held.commit().await, Err(SessionError::Gone)));
    }
}

async fn an_idle_time_of_its_own_holds_for_every_way_to_refresh<C: Cache>(trial: Trial<C>) {
    let rows = [
        (OnWrite, [Write, Write]),
        (OnWrite, [Touch, Touch]),
        (OnWrite, [Renew, Renew]),
        (OnWrite, [Renew, Touch]),
        (OnLoad, [Read, Read]),
        (OnLoad, [Renew, Read]),
        (OnLoad, [Write, Read]),
        (OnLoadEvery(SECOND), [Read, Read]),
    ];
    // Shorter than the store's, and longer.
    for own in [2 * MINUTE, 15 * MINUTE] {
        for (refresh, acts) in rows {
            let layer = trial.layer(refresh);
            let mut cookie = start(&layer, "alice").await;
            assert_eq!(visit(&layer, Some(&cookie), &[Ttl(own)]).await.cookie(), None, "no matter of the cookie");
            for does in acts {
                trial.pass(own - 2 * SLACK);
                cookie = act(&layer, &cookie, &[does]).await;
            }
            trial.ends_in(own, &cookie, (own, refresh, acts)).await;
        }
    }
}

async fn a_lifetime_of_its_own_counts_from_the_creation<C: Cache>(trial: Trial<C>) {
    let layer = trial.layer(OnLoad);
    for own in [30 * MINUTE, 3 * HOUR] {
        for does in [Read, Write, Touch, Renew] {
            for at_login in [true, false] {
                let (set, own_times) = ([Set, Owner], [Lifetime(own), Ttl(DAY)]);
                let first = if at_login { [set, own_times].concat() } else { set.to_vec() };
                let mut cookie = visit(&layer, None, &first).await.cookie().unwrap();
                trial.pass(9 * MINUTE);
                if !at_login {
                    act(&layer, &cookie, &own_times).await;
                }
                for _ in 0..2 {
                    trial.pass(own / 3);
                    cookie = act(&layer, &cookie, &[does]).await;
                }
                trial.ends_in(own / 3 - 9 * MINUTE, &cookie, (own, does, at_login)).await;
            }
        }
    }
}

async fn a_lifetime_that_is_over_already_ends_the_session_with_the_request<C: Cache>(trial: Trial<C>) {
    let layer = trial.layer(OnLoad);
    let cookie = start(&layer, "alice").await;
    trial.pass(9 * MINUTE);
    assert_eq!(visit(&layer, Some(&cookie), &[Lifetime(5 * MINUTE)]).await.cookie(), None);
    assert_eq!(peek(&layer, &cookie, "n").await, None, "counted from the creation");
    assert!(trial.store.sessions_of("alice").await.unwrap().is_empty());
}

async fn a_changed_setting_of_the_store_holds_from_the_next_write_on<C: Cache>(trial: Trial<C>) {
    for (does, minutes) in [(Touch, 10), (Write, 30), (Renew, 30)] {
        let cookie = start(&trial.layer(OnWrite), "alice").await;
        let longer = SessionLayer::new(trial.store.clone().ttl(30 * MINUTE));
        trial.pass(9 * MINUTE);
        let cookie = act(&longer, &cookie, &[does]).await;
        trial.ends_in(minutes * MINUTE, &cookie, does).await;
    }
}

async fn what_each_policy_costs<C: Cache>(trial: Trial<C>) {
    for refresh in POLICIES {
        let layer = trial.layer(refresh);
        let load = if refresh == OnWrite { Operation::Get } else { Operation::GetAndTouch };
        let rows: [(&[Act], Option<Operation>); 6] = [
            (&[Read], None),
            (&[Set], None),
            (&[Write], Some(Operation::Replace)),
            (&[Touch], Some(Operation::Touch)),
            (&[Touch, Touch], Some(Operation::Touch)),
            (&[Touch, Write, Touch], Some(Operation::Replace)),
        ];
        for (acts, commit) in rows {
            let cookie = visit(&layer, None, &[Set]).await.cookie().unwrap();
            // Due or not: the price is the same.
            for minutes in [0, 2] {
                trial.pass(minutes * MINUTE);
                trial.cache.reset_calls();
                visit(&layer, Some(&cookie), acts).await;
                let calls = trial.cache.calls();
                let paid = (calls.of(load), commit.map_or(0, |operation| calls.of(operation)), calls.total());
                let price = usize::from(commit.is_some());
                assert_eq!(paid, (1, price, 1 + price), "{acts:?}, {refresh:?}: {calls:?}");
            }
        }
    }
}

async fn a_refresh_creates_nothing_and_rewrites_nothing<C: Cache>(trial: Trial<C>) {
    for refresh in POLICIES {
        let layer = trial.layer(refresh);
        trial.cache.reset_calls();
        let unknown = format!("__Host-id={}", "A".repeat(32));
        for cookie in [None, Some("__Host-id=malformed"), Some(&*unknown)] {
            // Neither do settings without data.
            for does in [Touch, Ttl(DAY), Lifetime(DAY), Persistent(true)] {
                assert_eq!(visit(&layer, cookie, &[does]).await.cookie(), None, "{does:?}");
            }
        }
        let calls = trial.cache.calls();
        assert_eq!(calls.total(), calls.of(Operation::Get) + calls.of(Operation::GetAndTouch), "{calls:?}");

        let cookie = start(&layer, "alice").await;
        let before = trial.entry(&key(&trial.store, &cookie).await).await;
        for does in [Read, Touch] {
            trial.pass(5 * MINUTE);
            act(&layer, &cookie, &[does]).await;
            by_id(&trial.store, &cookie, "touch").await;
            let after = trial.entry(&key(&trial.store, &cookie).await).await;
            assert!(after == before, "same bytes, same version");
        }

        let renewed = act(&layer, &cookie, &[Renew]).await;
        let key = key(&trial.store, &renewed).await;
        assert!(!trial.store.touch(id(&cookie)).await.unwrap(), "a tombstone");
        trial.store.destroy(id(&renewed)).await.unwrap();
        for cookie in [&cookie, &renewed] {
            assert_eq!(visit(&layer, Some(cookie), &[Touch]).await.cookie(), None);
            assert!(!trial.store.touch(id(cookie)).await.unwrap());
        }
        assert!(trial.entry(&key).await.is_none());
    }
}

async fn a_session_that_ends_under_its_handler_stays_ended<C: Cache>(trial: Trial<C>) {
    let layer = trial.layer(OnWrite);
    for acts in [&[Touch][..], &[Touch, Write]] {
        for destroyed in [true, false] {
            let cookie = start(&layer, "alice").await;
            let key = key(&trial.store, &cookie).await;
            let (trial, sent) = (&trial, &cookie);
            let reply = send(&layer, Some(&cookie), |session| async move {
                acts.iter().for_each(|act| act.on(&session).unwrap());
                if destroyed {
                    trial.store.destroy(id(sent)).await.unwrap();
                } else {
                    trial.pass(11 * MINUTE);
                }
                200
            });
            let reply = reply.await;
            assert_eq!((reply.status, reply.cookie()), (200, None), "{acts:?} {destroyed}");
            assert!(!lives(&trial.store, &cookie).await && trial.entry(&key).await.is_none(), "{acts:?} {destroyed}");
        }
    }
}

#[tokio::test]
async fn settings_without_sense_are_errors_and_change_nothing() {
    let trial = aging::memory().await.1;
    let layer = trial.layer(OnWrite);
    let cookie = start(&layer, "alice").await;
    trial.cache.reset_calls();
    let reply = send(&layer, Some(&cookie), |session| {
        for session in [&session, &Session::new()] {
            for bad in [
                Ttl(Duration::ZERO),
                Lifetime(Duration::ZERO),
                Lifetime(400 * DAY + Duration::from_nanos(1)),
                Lifetime(Duration::MAX),
            ] {
                let error = bad.on(session).unwrap_err();
                assert!(matches!(error, SessionError::Setting(text) if text.starts_with("set_")), "{error:?}");
            }
            assert!(!session.is_dirty());
        }
        ready(200)
    });
    assert_eq!((reply.await.status, trial.cache.calls().total()), (200, 1));
    for good in [Ttl(Duration::from_nanos(1)), Ttl(Duration::MAX), Lifetime(400 * DAY)] {
        good.on(&Session::new()).unwrap();
    }

    let refused = |store, persistent| {
        let built = SessionLayer::builder(store).persistent(persistent).build();
        built.err().map(|error| error.setting().to_owned())
    };
    let store = trial.store;
    assert_eq!(refused(store.clone().ttl(Duration::ZERO), false).as_deref(), Some("ttl"));
    assert_eq!(refused(store.clone().max_lifetime(Duration::ZERO), false).as_deref(), Some("max_lifetime"));
    assert_eq!(refused(store.clone().max_lifetime(401 * DAY), true).as_deref(), Some("max_lifetime"));
    assert_eq!(refused(store.max_lifetime(401 * DAY), false), None, "a cookie that ends with the browser has no age");
}

async fn extreme_durations_harm_nothing<C: Cache>(trial: Trial<C>) {
    let extremes = [Duration::from_nanos(1), Duration::from_nanos(999_999_999), 36_500 * DAY, Duration::MAX];
    for ttl in extremes {
        for lifetime in extremes.into_iter().chain([SECOND, HOUR]) {
            for refresh in [Duration::ZERO, ttl, Duration::MAX].map(OnLoadEvery).into_iter().chain([OnWrite, OnLoad]) {
                let store = trial.store.clone().ttl(ttl).max_lifetime(lifetime).deadline(Duration::MAX);
                let layer = SessionLayer::builder(store.clone()).refresh(refresh).build().unwrap();
                let mut cookie = start(&layer, "alice").await;
                for does in [Read, Write, Touch, Ttl(ttl), Renew] {
                    cookie = act(&layer, &cookie, &[does]).await;
                }
                store.touch(id(&cookie)).await.unwrap();
                if ttl > DAY && lifetime >= HOUR {
                    assert_eq!(peek(&layer, &cookie, "n").await, Some(1), "{ttl:?}, {lifetime:?}, {refresh:?}");
                }
                trial.clock.advance(Duration::MAX);
                act(&layer, &cookie, &[Write]).await;
                trial.clock.rewind(Duration::MAX);
                act(&layer, &cookie, &[Write]).await;
            }
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_turned_back_brings_nothing_back() {
    for refresh in POLICIES {
        // Ended by idleness, and by the lifetime.
        for (step, steps) in [(11 * MINUTE, 1), (9 * MINUTE, 7)] {
            let trial = aging::memory().await.1;
            let layer = trial.layer(refresh);
            let cookie = start(&layer, "alice").await;
            for _ in 0..steps {
                trial.pass(step);
                act(&layer, &cookie, &[Write]).await;
            }
            assert!(!lives(&trial.store, &cookie).await);
            trial.clock.rewind(2 * HOUR);
            assert!(!lives(&trial.store, &cookie).await && !trial.store.touch(id(&cookie)).await.unwrap());
            assert_eq!(visit(&layer, Some(&cookie), &[Write]).await.cookie(), None);
        }
        let trial = aging::memory().await.1;
        let layer = trial.layer(refresh);
        let (destroyed, renewed, live) =
            (start(&layer, "alice").await, start(&layer, "alice").await, start(&layer, "alice").await);
        visit(&layer, Some(&destroyed), &[Destroy]).await;
        visit(&layer, Some(&renewed), &[Renew]).await;
        trial.clock.rewind(HOUR);
        assert!(!lives(&trial.store, &destroyed).await && !lives(&trial.store, &renewed).await);
        act(&layer, &live, &[Write]).await;
        trial.ends_in(10 * MINUTE, &live, refresh).await;
    }
}
