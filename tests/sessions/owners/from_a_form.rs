//! A handler ends one session by a key from a form: one of its own user's, and no other.
use super::*;
use crate::support::{
    caches::on_every_cache,
    web::{Reply, id, layer, live, send, start, store},
};

on_every_cache! {
    a_session_of_the_same_user_ends,
    a_session_of_another_user_or_of_none_does_not_end,
    a_key_from_before_a_renewal_ends_the_session,
    a_session_that_changes_hands_meanwhile_does_not_end,
    the_own_key_removes_the_cookie_as_well,
    a_session_that_has_ended_itself_ends_no_other,
    a_visitor_ends_none,
    a_login_in_the_same_request_counts,
    it_runs_to_its_end_when_the_client_goes_away,
}

/// Long enough for a machine that is busy with other tests.
fn patient<C: Cache>(cache: C) -> SessionStore<TestCache<C>> {
    store(cache).0.deadline(Duration::from_secs(20))
}

async fn key<C: Cache>(store: &SessionStore<C>, cookie: &str) -> SessionKey {
    store.load(id(cookie)).await.unwrap().unwrap().key().unwrap()
}

async fn is_live<C: Cache>(store: &SessionStore<C>, cookie: &str) -> bool {
    store.load(id(cookie)).await.unwrap().is_some()
}

/// What `revoke` returned in a request with this cookie.
async fn revoke<C: Cache>(
    layer: &SessionLayer<C>,
    cookie: Option<&str>,
    key: SessionKey,
) -> (Result<bool, SessionError>, Reply) {
    let result = Arc::new(Mutex::new(None));
    let reply = send(layer, cookie, |session| {
        let result = result.clone();
        async move {
            *result.lock().unwrap() = Some(session.revoke(&key).await);
            200
        }
    })
    .await;
    let result = result.lock().unwrap().take().unwrap();
    (result, reply)
}

async fn renew_by<C: Cache>(layer: &SessionLayer<C>, cookie: &str) -> String {
    let reply = send(layer, Some(cookie), |session| async move {
        session.renew();
        200
    })
    .await;
    reply.cookie().unwrap()
}

async fn a_session_of_the_same_user_ends(cache: impl Cache) {
    let store = patient(cache);
    let layer = layer(&store);
    let (desk, phone) = (start(&layer, "alice").await, start(&layer, "alice").await);
    let key = key(&store, &phone).await;
    let (result, reply) = revoke(&layer, Some(&desk), key).await;
    assert!(result.unwrap());
    assert_eq!(reply.cookie(), None, "the own session stays");
    assert!(is_live(&store, &desk).await && !is_live(&store, &phone).await);
    assert_eq!(live(&store, "alice").await, 1);
    assert!(!revoke(&layer, Some(&desk), key).await.0.unwrap(), "it had ended already");
}

async fn a_session_of_another_user_or_of_none_does_not_end(cache: impl Cache) {
    let store = patient(cache);
    let layer = layer(&store);
    let (alice, bob) = (start(&layer, "alice").await, start(&layer, "bob").await);
    let former = key(&store, &bob).await;
    let bob = renew_by(&layer, &bob).await;
    let visitor = send(&layer, None, |session| async move {
        session.set("n", 1).unwrap();
        200
    });
    let visitor = visitor.await.cookie().unwrap();
    for key in [former, key(&store, &bob).await, key(&store, &visitor).await] {
        let (result, _) = revoke(&layer, Some(&alice), key).await;
        assert!(!result.unwrap());
    }
    assert!(is_live(&store, &bob).await && is_live(&store, &visitor).await);
    assert_eq!(live(&store, "bob").await, 1);
    assert!(store.revoke(&former).await.unwrap(), "the former key still leads to the session");
}

async fn a_key_from_before_a_renewal_ends_the_session(cache: impl Cache) {
    let store = patient(cache);
    let layer = layer(&store);
    let (desk, phone) = (start(&layer, "alice").await, start(&layer, "alice").await);
    let listed = key(&store, &phone).await;
    let phone = renew_by(&layer, &phone).await;
    assert!(revoke(&layer, Some(&desk), listed).await.0.unwrap());
    assert!(is_live(&store, &desk).await && !is_live(&store, &phone).await);
    assert_eq!(live(&store, "alice").await, 1);
}

async fn a_session_that_changes_hands_meanwhile_does_not_end(cache: impl Cache) {
    let store = patient(cache);
    let layer = layer(&store);
    let (desk, shared) = (start(&layer, "alice").await, start(&layer, "alice").await);
    let key = key(&store, &shared).await;
    let gate = store.cache().hold(Operation::Delete);
    let (revoking, _) = tokio::join!(revoke(&layer, Some(&desk), key), async {
        gate.arrived().await;
        let session = store.load(id(&shared)).await.unwrap().unwrap();
        session.set_owner("bob").unwrap();
        session.commit().await.unwrap();
        gate.open();
    });
    assert!(!revoking.0.unwrap());
    assert!(is_live(&store, &shared).await);
    assert_eq!((live(&store, "alice").await, live(&store, "bob").await), (1, 1));
}

async fn the_own_key_removes_the_cookie_as_well(cache: impl Cache) {
    let store = patient(cache);
    let layer = layer(&store);
    for renewed_meanwhile in [false, true] {
        let cookie = start(&layer, "alice").await;
        let own = key(&store, &cookie).await;
        let reply = send(&layer, Some(&cookie), |session| {
            let (layer, cookie) = (&layer, &cookie);
            async move {
                if renewed_meanwhile {
                    renew_by(layer, cookie).await;
                }
                assert!(session.revoke(&own).await.unwrap());
                200
            }
        })
        .await;
        assert_eq!(reply.status, 200);
        assert!(reply.headers[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
        assert_eq!(live(&store, "alice").await, 0);
    }
}

async fn a_session_that_has_ended_itself_ends_no_other(cache: impl Cache) {
    let store = patient(cache);
    let layer = layer(&store);
    let (thief, owner) = (start(&layer, "alice").await, start(&layer, "alice").await);
    let (stolen, target) = (key(&store, &thief).await, key(&store, &owner).await);
    send(&layer, Some(&thief), |session| {
        let store = &store;
        async move {
            assert!(store.revoke(&stolen).await.unwrap());
            assert!(matches!(session.revoke(&target).await, Err(SessionError::Gone)));
            200
        }
    })
    .await;
    assert!(is_live(&store, &owner).await);
}

async fn a_visitor_ends_none(cache: impl Cache) {
    let store = patient(cache);
    let layer = layer(&store);
    let alice = start(&layer, "alice").await;
    let key = key(&store, &alice).await;
    store.cache().reset_calls();
    assert!(!revoke(&layer, None, key).await.0.unwrap());
    assert_eq!(store.cache().calls().total(), 0);
    assert!(is_live(&store, &alice).await);
    assert!(matches!(Session::new().revoke(&key).await, Err(SessionError::NoStore)));
}

async fn a_login_in_the_same_request_counts(cache: impl Cache) {
    let store = patient(cache);
    let layer = layer(&store);
    let (alice, bob) = (start(&layer, "alice").await, start(&layer, "bob").await);
    let (alices, bobs) = (key(&store, &alice).await, key(&store, &bob).await);
    send(&layer, None, |session| async move {
        session.log_in("alice").unwrap();
        assert!(!session.revoke(&bobs).await.unwrap());
        assert!(session.revoke(&alices).await.unwrap());
        200
    })
    .await;
    assert!(!is_live(&store, &alice).await && is_live(&store, &bob).await);
    assert_eq!(live(&store, "alice").await, 1, "the one that logged in");
}

async fn it_runs_to_its_end_when_the_client_goes_away(cache: impl Cache) {
    let store = patient(cache);
    let layer = layer(&store);
    let (desk, phone) = (start(&layer, "alice").await, start(&layer, "alice").await);
    let key = key(&store, &phone).await;
    let gate = store.cache().hold(Operation::Delete);
    tokio::select! {
        _ = revoke(&layer, Some(&desk), key) => panic!("it waits for the gate"),
        () = gate.arrived() => {}
    }
    gate.open();
    for _ in 0..2000 {
        if live(&store, "alice").await == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!is_live(&store, &phone).await && is_live(&store, &desk).await);
}
