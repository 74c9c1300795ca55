//! Proofs that are replayed, altered, stale, of another session or of another key.
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cloakroom::Cache;
use http::Method;

use super::{
    app::{App, MINUTE, PATH},
    device::{Device, Refreshed},
};
use crate::support::caches::on_every_cache;

on_every_cache! {
    a_proof_that_is_replayed_is_refused,
    a_challenge_that_was_overtaken_by_others_is_accepted,
    a_challenge_is_good_for_a_minute,
    a_challenge_of_another_session_is_refused,
    a_proof_of_another_key_is_refused,
    a_thief_can_neither_register_nor_refresh,
    every_byte_of_a_proof_counts,
    what_no_browser_sends_is_refused,
}

async fn a_proof_that_is_replayed_is_refused<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    let challenge = device.log_in(&app).await;
    device.register(&app, &challenge).await;
    let again = device.send_registration(&app, &device.registration(&challenge)).await;
    assert_eq!(again.status(), 403, "the registration");
    let as_refresh = device.send_refresh(&app, Some(&device.proof(&challenge))).await;
    assert_eq!(as_refresh.status(), 403, "its challenge");

    let proof = device.proof(&device.ask(&app).await);
    assert_eq!(device.send_refresh(&app, Some(&proof)).await.status(), 200);
    for _ in 0..2 {
        let thief = device.thief();
        let replayed = thief.send_refresh(&app, Some(&proof)).await;
        assert_eq!(replayed.status(), 403);
        assert!(!replayed.headers().contains_key("set-cookie"));
    }
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
}

async fn a_challenge_that_was_overtaken_by_others_is_accepted<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let first = device.ask(&app).await;
    for _ in 0..7 {
        device.ask(&app).await;
    }
    assert_eq!(device.send_refresh(&app, Some(&device.proof(&first))).await.status(), 200);
    let first = device.ask(&app).await;
    for _ in 0..8 {
        device.ask(&app).await;
    }
    let response = device.send_refresh(&app, Some(&device.proof(&first))).await;
    let next = device.challenge(&response);
    assert_eq!(device.send_refresh(&app, Some(&device.proof(&next))).await.status(), 200);
}

async fn a_challenge_is_good_for_a_minute<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    let late = Device::new();
    let challenge = late.log_in(&app).await;
    app.clock.advance(MINUTE);
    assert_eq!(late.send_registration(&app, &late.registration(&challenge)).await.status(), 403);
    assert_eq!(late.page(&app).await, "alice unbound 0");

    device.bind(&app).await;
    let challenge = device.ask(&app).await;
    app.clock.advance(MINUTE);
    let response = device.send_refresh(&app, Some(&device.proof(&challenge))).await;
    assert_eq!(response.status(), 403);
    assert_ne!(device.challenge(&response), challenge);
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
}

async fn a_challenge_of_another_session_is_refused<C: Cache + Clone>(cache: C) {
    let app = App::new(&cache);
    let (one, other) = (Device::new(), Device::new());
    let (for_one, for_other) = (one.log_in(&app).await, other.log_in(&app).await);
    assert_eq!(one.send_registration(&app, &one.registration(&for_other)).await.status(), 403);
    one.register(&app, &for_one).await;
    other.register(&app, &for_other).await;
    let challenge = other.ask(&app).await;
    assert_eq!(one.send_refresh(&app, Some(&one.proof(&challenge))).await.status(), 403);
    // The other one's name with this one's session cookie: the browser is told to forget it.
    let confused = one.thief();
    *confused.name.lock().unwrap() = Some(other.name());
    let response = confused.send_refresh(&app, Some(&other.proof(&challenge))).await;
    assert_eq!(response.body(), "{\"continue\":false}");
    assert!(!response.headers().contains_key("set-cookie"));
    assert_eq!((one.refresh(&app).await, other.refresh(&app).await), (Refreshed::Done, Refreshed::Done));
}

async fn a_proof_of_another_key_is_refused<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let thief = device.thief();
    let challenge = thief.ask(&app).await;
    let response = thief.send_refresh(&app, Some(&thief.proof(&challenge))).await;
    assert_eq!(response.status(), 400);
    assert!(!response.headers().contains_key("set-cookie"));
    // With a key of its own in the proof, as in a registration.
    let response = thief.send_refresh(&app, Some(&thief.registration(&challenge))).await;
    assert_eq!(response.status(), 400);
    // The challenge is still good for the device.
    assert_eq!(device.send_refresh(&app, Some(&device.proof(&challenge))).await.status(), 200);
}

async fn a_thief_can_neither_register_nor_refresh<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    let challenge = device.log_in(&app).await;
    // While the browser makes its key, the thief has the cookie and not the response of the login.
    let thief = device.thief();
    for guess in [String::new(), challenge.to_lowercase(), "A".repeat(32)] {
        assert_eq!(thief.send_registration(&app, &thief.registration(&guess)).await.status(), 403);
    }
    device.register(&app, &challenge).await;
    assert_eq!(thief.send_registration(&app, &thief.registration(&challenge)).await.status(), 403);
    let asked = device.thief();
    let challenge = asked.ask(&app).await;
    assert_eq!(thief.send_registration(&app, &thief.registration(&challenge)).await.status(), 403);

    // Both cookies work for as long as the bound one lives.
    let thief = device.thief();
    assert_eq!(thief.page(&app).await, "alice bound 0");
    app.clock.advance(10 * MINUTE);
    assert_eq!(thief.page(&app).await, "- unbound 0");
    assert_eq!(thief.refresh(&app).await, Refreshed::Ended);
    assert_eq!(device.refresh(&app).await, Refreshed::Done);
    assert_eq!((device.page(&app).await, thief.page(&app).await), ("alice bound 0".into(), "- unbound 0".into()));
}

async fn every_byte_of_a_proof_counts<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    let challenge = device.log_in(&app).await;
    let flip = |proof: &str, at: usize| {
        let mut bytes = proof.as_bytes().to_vec();
        bytes[at] ^= 1;
        String::from_utf8(bytes).unwrap()
    };
    let registration = device.registration(&challenge);
    for at in 0..registration.len() {
        let response = device.send_registration(&app, &flip(&registration, at)).await;
        assert!([400, 403].contains(&response.status().as_u16()), "byte {at}: {}", response.status());
    }
    device.register(&app, &challenge).await;
    let proof = device.proof(&device.ask(&app).await);
    for at in 0..proof.len() {
        let response = device.send_refresh(&app, Some(&flip(&proof, at))).await;
        assert_eq!(response.status(), 400, "byte {at}");
    }
    assert_eq!(device.send_refresh(&app, Some(&proof)).await.status(), 200);
    assert_eq!(device.page(&app).await, "alice bound 0");
}

async fn what_no_browser_sends_is_refused<C: Cache + Clone>(cache: C) {
    let (app, device) = (App::new(&cache), Device::new());
    device.bind(&app).await;
    let name = device.name();
    let challenge = device.ask(&app).await;
    let proof = device.proof(&challenge);
    let (header, rest) = proof.split_once('.').unwrap();
    let header = String::from_utf8(URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    let with = |header: &str| format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header));
    let unsigned = with(&header.replace("ES256", "none"));
    let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
    let (two, long) = (format!("{proof}, {proof}"), "a".repeat(5000));
    for altered in [
        with(&header.replace("ES256", "HS256")),
        with(&header.replace("ES256", "RS256")),
        with(&header.replace("dbsc+jwt", "jwt")),
        unsigned,
        long,
        two,
        format!("\"{proof}"),
        "...".to_owned(),
    ] {
        let response = device.send_refresh(&app, Some(&altered)).await;
        assert_eq!(response.status(), 400, "{altered}");
        assert!(!response.headers().contains_key("set-cookie"));
    }
    for (fields, status) in [
        (vec![], 400),
        (vec![("sec-secure-session-id", "\"")], 400),
        (vec![("sec-secure-session-id", name.as_str()), ("sec-secure-session-id", name.as_str())], 400),
        // Names of which this layer knows nothing, from before it was set up, say.
        (vec![("sec-secure-session-id", "other")], 200),
        (vec![("sec-secure-session-id", &name[1..])], 200),
    ] {
        let response = device.send(&app, Method::POST, PATH, &fields).await;
        assert_eq!(response.status(), status, "{fields:?}");
        assert!(status == 400 || response.body() == "{\"continue\":false}");
    }
    // In quotation marks, as the draft has it.
    let response = device.send_refresh(&app, Some(&format!("\"{proof}\""))).await;
    assert_eq!(response.status(), 200);
}
