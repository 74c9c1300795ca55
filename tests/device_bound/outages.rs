//! The cache fails during a refresh: 503, and no session ends by that.
use cloakroom::{
    Cache, CacheErrorKind,
    testing::{Operation, TestCache},
};

use super::{
    app::{App, MINUTE},
    device::{Device, Refreshed},
};
use crate::support::caches::on_every_cache;

on_every_cache! {
    an_outage_during_a_refresh_is_a_503_and_no_logout,
    an_outage_between_challenge_and_proof_costs_a_challenge_at_most,
    a_lost_reply_leaves_the_session_bound_once,
    an_outage_during_a_registration_leaves_the_session_as_it_was,
}

async fn an_outage_during_a_refresh_is_a_503_and_no_logout<C: Cache + Clone>(cache: C) {
    let cache = TestCache::new(cache);
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    app.clock.advance(10 * MINUTE);
    for kind in [CacheErrorKind::Unavailable, CacheErrorKind::Timeout, CacheErrorKind::Refused, CacheErrorKind::Other] {
        cache.fail_all(kind);
        let response = device.send_refresh(&app, None).await;
        assert_eq!(response.status(), 503, "{kind:?}");
        assert!(!response.headers().contains_key("set-cookie"));
        assert_eq!(device.get(&app, "/page").await.status(), 503);
        cache.heal();
    }
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!(device.page(&app).await, "alice bound 0");
}

async fn an_outage_between_challenge_and_proof_costs_a_challenge_at_most<C: Cache + Clone>(cache: C) {
    let cache = TestCache::new(cache);
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    for operation in [Operation::GetAndTouch, Operation::Replace] {
        let proof = device.proof(&device.ask(&app).await);
        cache.fail_once(operation, CacheErrorKind::Unavailable);
        assert_eq!(device.send_refresh(&app, Some(&proof)).await.status(), 503);
        assert_eq!(device.send_refresh(&app, Some(&proof)).await.status(), 200, "it was not used");
    }
}

async fn a_lost_reply_leaves_the_session_bound_once<C: Cache + Clone>(cache: C) {
    let cache = TestCache::new(cache);
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let proof = device.proof(&device.ask(&app).await);
    cache.lose_reply(Operation::Replace);
    assert_eq!(device.send_refresh(&app, Some(&proof)).await.status(), 503);
    cache.heal();
    assert_eq!(device.send_refresh(&app, Some(&proof)).await.status(), 403, "it was used");
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!(device.page(&app).await, "alice bound 0");
}

async fn an_outage_during_a_registration_leaves_the_session_as_it_was<C: Cache + Clone>(cache: C) {
    let cache = TestCache::new(cache);
    let (app, device) = (App::new(&cache), Device::new());
    let challenge = device.log_in(&app).await;
    cache.fail_all(CacheErrorKind::Unavailable);
    let response = device.send_registration(&app, &device.registration(&challenge)).await;
    assert_eq!(response.status(), 503);
    cache.heal();
    app.clock.advance(MINUTE / 2);
    assert_eq!(device.page(&app).await, "alice unbound 0");
    device.register(&app, &challenge).await;
    assert_eq!(device.page(&app).await, "alice bound 0");
}
