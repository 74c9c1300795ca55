//! The end of a session is the end of its binding: the browser forgets the key.
use std::time::Duration;

use cloakroom::{Cache, Session};

use super::{
    app::App,
    device::{Device, Refreshed},
};
use crate::support::caches::on_every_cache;

on_every_cache! {
    a_logout_ends_the_binding_and_removes_both_cookies,
    a_revocation_ends_the_binding,
    an_expiry_ends_the_binding,
    a_session_that_is_saved_over_keeps_its_device,
}

async fn a_logout_ends_the_binding_and_removes_both_cookies<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let kept = device.thief();
    device.get(&app, "/log-out").await;
    assert!(device.jar.lock().unwrap().is_empty());
    assert_eq!(device.refresh(&app).await, Refreshed::Ended);
    assert_eq!(kept.page(&app).await, "- unbound 0");
    assert_eq!(kept.refresh(&app).await, Refreshed::Ended);
}

async fn a_revocation_ends_the_binding<C: Cache + Clone>(cache: C) {
    let app = App::new(&cache);
    let (one, other) = (Device::new(), Device::new());
    one.bind(&app).await;
    other.bind(&app).await;
    one.get(&app, "/renew").await;
    assert_eq!(app.store.revoke_all("alice").await.unwrap(), 2);
    for device in [one, other] {
        assert_eq!(device.page(&app).await, "- unbound 0");
        assert_eq!(device.refresh(&app).await, Refreshed::Ended);
    }
}

async fn an_expiry_ends_the_binding<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    app.clock.advance(Duration::from_secs(31 * 24 * 60 * 60));
    assert_eq!(device.refresh(&app).await, Refreshed::Ended);
}

async fn a_session_that_is_saved_over_keeps_its_device<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let id = device.cookie("__Host-id").unwrap();
    let session = Session::new();
    session.set_owner("alice").unwrap();
    session.set("n", 5).unwrap();
    app.store.save_with_id(&id, &session).await.unwrap();
    assert_eq!(device.page(&app).await, "alice bound 5");
    // A copy is another session, which the device has proven nothing of.
    let bound = app.store.load(&id).await.unwrap().unwrap();
    assert!(bound.is_device_bound());
    let copy = app.store.save(&bound).await.unwrap();
    assert!(!app.store.load(&copy).await.unwrap().unwrap().is_device_bound());
}
