//! Settings that cannot work are found by `build`.
use std::time::Duration;

use cloakroom::{DeviceBound, InMemoryCache, SessionError, SessionLayer, SessionLayerBuilder, SessionStore};

use super::app::PATH;

type Builder = SessionLayerBuilder<InMemoryCache>;

fn rule(cookie: impl FnOnce(Builder) -> Builder, settings: DeviceBound) -> Option<String> {
    let builder = cookie(SessionLayer::builder(SessionStore::new(InMemoryCache::new())));
    let error = builder.device_bound(settings).build().err()?;
    assert_eq!(error.setting(), "device_bound");
    Some(error.rule().to_owned())
}

#[test]
fn what_no_browser_would_do_is_named() {
    let new = || DeviceBound::new(PATH);
    let same = |builder| builder;
    let domain = |builder: Builder| builder.cookie_name("__Secure-id").cookie_domain("example.com");
    for settings in [
        new(),
        new().lifetime(Duration::from_secs(1)),
        new().lifetime(Duration::from_secs(24 * 60 * 60)),
        new().exclude("/").exclude("/static/x.css"),
        new().refresh_initiators(Vec::<String>::new()),
        new().cookie_name("__Host-other"),
        DeviceBound::new("/.well-known/device-bound"),
    ] {
        assert_eq!(rule(same, settings.clone()), None, "{settings:?}");
    }
    assert_eq!(rule(domain, new().site("https://example.com")), None);
    assert_eq!(
        rule(|builder| builder.cookie_name("__Secure-id").cookie_path("/app"), DeviceBound::new("/app/x")),
        None
    );

    for path in ["", "/", "device", "//device", "/a b", "/a\"b", "/a?b", "/a#b", "/ä", "/a\\b", "https://example.com/a"]
    {
        assert!(rule(same, DeviceBound::new(path)).unwrap().starts_with("the path must begin"), "{path}");
    }
    for (settings, word) in [
        (new().lifetime(Duration::ZERO), "lifetime"),
        (new().lifetime(Duration::from_millis(999)), "lifetime"),
        (new().lifetime(Duration::MAX), "lifetime"),
        (new().exclude("static"), "exclude"),
        (new().cookie_name("__Host-id"), "cookie_name"),
        (new().cookie_name("__Host-Http-x"), "Chromium"),
        (new().cookie_name("a b"), "ASCII"),
        (new().cookie_name(""), "name"),
        (new().refresh_initiators([""]), "refresh_initiators"),
        (new().refresh_initiators(["https://example.com"]), "refresh_initiators"),
        (new().site("https://example.com"), "cookie_domain"),
    ] {
        let rule = rule(same, settings.clone()).unwrap_or_else(|| panic!("{settings:?}"));
        assert!(rule.contains(word), "{settings:?}: {rule}");
    }
    assert_eq!(rule(domain, new().site("https://Example.com:8443")), None);
    for site in [
        "http://example.com",
        "https://example.org",
        "https://example.com/",
        "https://example.com:",
        "https://example.com:x",
        "https://example.com:+1",
        "https://example.com:65536",
        "https://example.com:443/",
        "https://example.com:443#",
        "example.com",
        "",
    ] {
        assert!(rule(domain, new().site(site)).unwrap().contains("site"), "{site}");
    }
    assert!(rule(domain, new()).unwrap().contains("site"));
    assert!(rule(|builder| builder.cookie_name("id").secure(false), new()).unwrap().contains("HTTPS"));
    assert!(rule(|builder| builder.partitioned(true), new()).unwrap().contains("partitioned"));
    let path = |builder: Builder| builder.cookie_name("__Secure-id").cookie_path("/app");
    for outside in ["/application", "/device"] {
        assert!(rule(path, DeviceBound::new(outside)).unwrap().contains("cookie_path"), "{outside}");
    }
    assert!(rule(|builder| builder.cookie_name("__Host-Http-id"), new()).unwrap().contains("Chromium"));
}

#[test]
fn an_error_response_that_is_set_afterwards_is_refused() {
    let builder = || SessionLayer::builder(SessionStore::new(InMemoryCache::new()));
    let respond = |error: &SessionError| http::Response::new(error.to_string());
    assert!(builder().on_error(respond).device_bound(DeviceBound::new(PATH)).build().is_ok());
    let error = builder().device_bound(DeviceBound::new(PATH)).on_error(respond).build().unwrap_err();
    assert_eq!(error.setting(), "device_bound");
}
