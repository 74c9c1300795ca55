//! Processes whose clocks differ.
use cloakroom::{Cache, Clock, DeviceBound};

use super::{
    app::{App, MINUTE, PATH},
    device::{Device, Refreshed},
};
use crate::support::caches::on_every_cache;

on_every_cache! {
    a_clock_that_is_off_costs_refreshes_and_no_session,
    a_clock_that_jumps_costs_refreshes_and_no_session,
}

async fn a_clock_that_is_off_costs_refreshes_and_no_session<C: Cache + Clone>(cache: C) {
    for (minutes, ahead) in [(0, true), (2, true), (2, false), (15, true), (15, false)] {
        let (one, clock) = (App::new(&cache), Clock::manual());
        let other = App::with(&cache, clock.clone(), DeviceBound::new(PATH));
        if ahead {
            clock.advance(minutes * MINUTE);
        } else {
            clock.rewind(minutes * MINUTE);
        }
        let device = Device::new();
        device.bind(&one).await;
        for _ in 0..3 {
            one.clock.advance(10 * MINUTE);
            clock.advance(10 * MINUTE);
            for app in [&one, &other] {
                device.drop_cookie("__Host-id-bound");
                assert_eq!(device.refresh(app).await, Refreshed::Done, "{minutes} minutes, {ahead}");
                assert_eq!(device.page(app).await, "alice bound 0", "{minutes} minutes, {ahead}");
            }
            // Requests of one refresh that reach both in turn get there within the challenges that a browser answers.
            let refreshed = device.refresh_at(&[&one, &other]).await;
            assert_ne!(refreshed, Refreshed::Ended, "{minutes} minutes, {ahead}");
            assert!(minutes > 2 || refreshed == Refreshed::Done, "{minutes} minutes, {ahead}");
        }
    }
}

async fn a_clock_that_jumps_costs_refreshes_and_no_session<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    for _ in 0..3 {
        app.clock.advance(60 * MINUTE);
        assert_eq!(device.refresh(&app).await, Refreshed::Done);
        app.clock.rewind(59 * MINUTE);
        assert_eq!(device.page(&app).await, "alice bound 0");
        assert_eq!(device.refresh(&app).await, Refreshed::Done);
    }
}
