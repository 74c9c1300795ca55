//! Cookies as they come, and as they go out: hostile headers row by row, and every valid combination of attributes.
#![cfg(all(feature = "signed", feature = "testing"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{convert::Infallible, time::Duration};

use cloakroom::{
    ConfigError, InMemoryCache, SameSite, Session, SessionLayer, SessionLayerBuilder, SessionStore,
    testing::{Operation, TestCache},
};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tower::{Layer, ServiceExt, service_fn};

mod common;

use common::{Browser, id, request, serve, set_cookies, web};
use web::{peek, send, start};

type Cache = TestCache<InMemoryCache>;

fn trial() -> (SessionLayer<Cache>, SessionStore<Cache>, Cache) {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    (SessionLayer::new(store.clone()), store, cache)
}

fn builder(store: &SessionStore<Cache>) -> SessionLayerBuilder<Cache> {
    SessionLayer::builder(store.clone())
}

/// Whether these `Cookie` fields lead to a session, and the response's headers.
async fn visit(layer: &SessionLayer<Cache>, fields: &[&[u8]]) -> (bool, HeaderMap) {
    let inner = service_fn(|request: Request<()>| async move {
        let session = request.extensions().get::<Session>().unwrap();
        let found = session.get::<u64>("n").is_some();
        Ok::<_, Infallible>(Response::new(found))
    });
    let mut request = Request::new(());
    for field in fields {
        request.headers_mut().append(header::COOKIE, HeaderValue::from_bytes(field).unwrap());
    }
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    (*response.body(), response.headers().clone())
}

#[tokio::test]
async fn hostile_headers_row_by_row() {
    let (layer, store, cache) = trial();
    let cookie = start(&layer, "alice").await;
    let x = cookie.split_once('=').unwrap().1.to_owned();
    let other = start(&layer, "bob").await;
    let y = other.split_once('=').unwrap().1.to_owned();
    let key = store.sessions_of("alice").await.unwrap()[0].key().to_string();
    let mut flipped = x.clone().into_bytes();
    flipped[5] = if flipped[5] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    let destroyed = start(&layer, "carol").await;
    store.revoke_all("carol").await.unwrap();

    // Row, header, whether it leads to the session, look-ups.
    let mut rows: Vec<(u32, Vec<u8>, bool, usize)> = Vec::new();
    let mut row = |number: u32, text: String, session: bool, look_ups: usize| {
        rows.push((number, text.into_bytes(), session, look_ups));
    };
    row(1, "__Host-id=".into(), false, 0);
    row(1, "__Host-id".into(), false, 0);
    row(1, "__Host-id=   ".into(), false, 0);
    row(1, "   ".into(), false, 0);
    row(2, format!("__Host-id={}", &x[..31]), false, 0);
    row(2, format!("__Host-id={x}A"), false, 0);
    row(2, format!("__Host-id={}", "A".repeat(1 << 20)), false, 0);
    for bad in [format!("{}+", &x[..31]), format!("{}/", &x[..31]), format!("{}=", &x[..31]), format!("%41{x}")] {
        row(3, format!("__Host-id={bad}"), false, 0);
    }
    row(3, format!("__Host-id=\"{x}\""), false, 0);
    row(4, format!("__Host-id={flipped}"), false, 1);
    row(4, destroyed.clone(), false, 1);
    row(4, format!("__Host-id={}", "A".repeat(32)), false, 1);
    row(5, format!("__%48ost-id={x}"), false, 0);
    row(5, format!("%5F%5FHost-id={x}"), false, 0);
    for space in ["\u{2000}", "\u{a0}", "\u{85}", "\u{3000}", "\u{feff}"] {
        row(6, format!("{space}__Host-id={x}"), false, 0);
        row(6, format!("a=b; {space}__Host-id={x}"), false, 0);
    }
    row(7, format!("__HOST-id={x}"), false, 0);
    row(7, format!("__host-id={x}"), false, 0);
    row(8, format!("=__Host-id={x}"), false, 0);
    row(8, format!("..Host-id={x}"), false, 0);
    row(8, format!("a=1, __Host-id={x}"), false, 0);
    row(8, format!("__Host[id={x}"), false, 0);
    row(9, format!("$Version=1; __Host-id={x}; $Path=/"), true, 1);
    row(10, format!("utm=\u{e9}; __Host-id={x}"), true, 1);
    row(11, format!("a=b;__Host-id={x}"), true, 1);
    row(11, format!("a=b;\t __Host-id={x}\t ;c=d"), true, 1);
    row(12, format!("__Host-id=malformed; __Host-id={x}"), true, 1);
    row(12, format!("__Host-id={x}; __Host-id=malformed"), true, 1);
    row(12, format!("__Host-id={flipped}; __Host-id={x}"), true, 2);
    row(12, format!("__Host-id={x}; __Host-id={flipped}"), true, 2);
    row(12, format!("__Host-id={x}; __Host-id={x}"), true, 1);
    row(13, format!("__Host-id={x}; __Host-id={y}"), false, 2);
    row(13, format!("__Host-id={y}; __Host-id={x}"), false, 2);
    for id in ["../../etc/passwd", "*", "{x}", "sess:1", "' OR 1=1"] {
        row(15, format!("__Host-id={id}"), false, 0);
    }
    row(17, format!("__Host-id={key}"), false, 0);
    row(17, format!("__Host-id=cloakroom:{key}"), false, 0);
    let mut latin = b"utm=\xe9; ".to_vec();
    latin.extend_from_slice(cookie.as_bytes());
    rows.push((10, latin, true, 1));
    for (number, field, session, look_ups) in rows {
        cache.reset_calls();
        let (found, headers) = visit(&layer, &[&field]).await;
        let shown = String::from_utf8_lossy(&field[..field.len().min(80)]).into_owned();
        assert_eq!(found, session, "row {number}: {shown}");
        assert_eq!(cache.calls().total(), look_ups, "row {number}: {shown}");
        assert_eq!(headers.get(header::SET_COOKIE), None, "row {number}: {shown}");
    }
    // Nothing was destroyed by any of it.
    assert_eq!((peek(&layer, &cookie, "n").await, peek(&layer, &other, "n").await), (Some(0), Some(0)));

    // 11: in the second and third field, and one crumb for each pair.
    assert!(visit(&layer, &[b"a=b", cookie.as_bytes()]).await.0);
    assert!(visit(&layer, &[b"a=b", b"c=d", cookie.as_bytes(), b"e=f"]).await.0);
    // 14: bounded, whatever comes.
    cache.reset_calls();
    let many: Vec<String> = (0..10_000).map(|n| format!("__Host-id={n:032}")).collect();
    assert!(!visit(&layer, &[many.join("; ").as_bytes()]).await.0);
    assert_eq!(cache.calls().of(Operation::Get), 4);
    for unit in [";", "a;", "=;=;", "\"\\\"\"\";"] {
        assert!(!visit(&layer, &[unit.repeat(400_000 / unit.len()).as_bytes()]).await.0);
    }
    let far = format!("{}{cookie}", "a=b; ".repeat(511));
    assert!(visit(&layer, &[far.as_bytes()]).await.0, "the 512th pair is read");
    let too_far = format!("{}{cookie}", "a=b; ".repeat(512));
    assert!(!visit(&layer, &[too_far.as_bytes()]).await.0);
}

#[tokio::test]
async fn an_id_anywhere_but_in_the_cookie_opens_nothing() {
    let (layer, _, cache) = trial();
    let cookie = start(&layer, "alice").await;
    let id = cookie.split_once('=').unwrap().1;
    cache.reset_calls();
    let inner = service_fn(|request: Request<String>| async move {
        let session = request.extensions().get::<Session>().unwrap();
        Ok::<_, Infallible>(Response::new(session.is_new()))
    });
    let request = Request::get(format!("/?id={id}&__Host-id={id}"))
        .header("x-session-id", id)
        .header("authorization", format!("Bearer {id}"))
        .header("set-cookie", &cookie)
        .body(format!("id={id}"))
        .unwrap();
    assert!(*layer.layer(inner).oneshot(request).await.unwrap().body());
    assert_eq!(cache.calls().total(), 0);
}

fn attributes(headers: &HeaderMap) -> (String, Vec<String>) {
    let cookies: Vec<_> = headers.get_all(header::SET_COOKIE).iter().collect();
    assert_eq!(cookies.len(), 1, "exactly one: {cookies:?}");
    assert!(cookies[0].is_sensitive() && !format!("{headers:?}").contains("id="));
    let mut parts = cookies[0].to_str().unwrap().split("; ").map(str::to_owned);
    let pair = parts.next().unwrap();
    let mut attributes: Vec<_> = parts.collect();
    attributes.sort();
    (pair, attributes)
}

#[tokio::test]
async fn set_and_removal_have_the_same_attributes_in_every_valid_combination() {
    let (_, store, _) = trial();
    let mut built = 0;
    for name in ["__Host-id", "__Secure-id", "__Http-id", "__Host-Http-id", "id"] {
        for (path, domain) in [("/", None), ("/app", None), ("/", Some("example.com"))] {
            for same_site in [SameSite::Lax, SameSite::Strict, SameSite::None] {
                for bits in 0..16 {
                    let on = |bit: u32| bits & (1 << bit) != 0;
                    let mut layer = builder(&store)
                        .cookie_name(name)
                        .cookie_path(path)
                        .same_site(same_site)
                        .secure(on(0))
                        .http_only(on(1))
                        .partitioned(on(2))
                        .persistent(on(3));
                    if let Some(domain) = domain {
                        layer = layer.cookie_domain(domain);
                    }
                    let host = name.starts_with("__Host-");
                    let valid = (on(0) || (!name.starts_with("__") && same_site != SameSite::None && !on(2)))
                        && (!host || (path == "/" && domain.is_none()))
                        && (on(1) || !name.contains("Http-"));
                    let layer = match layer.build() {
                        Ok(layer) => layer,
                        Err(error) => {
                            assert!(!valid, "{error}");
                            continue;
                        }
                    };
                    assert!(valid, "{name} {path} {domain:?} {same_site:?} {bits:b}");
                    built += 1;
                    let reply =
                        send(&layer, None, |session| async move { session.set("n", 0).map_or(500, |()| 200) }).await;
                    let (pair, mut set) = attributes(&reply.headers);
                    let reply = send(&layer, Some(&pair), |session| async move {
                        session.destroy();
                        200
                    })
                    .await;
                    let (removed, mut removal) = attributes(&reply.headers);
                    assert_eq!(removed, format!("{name}="));
                    assert!(removal.contains(&"Max-Age=0".to_owned()));
                    assert!(removal.contains(&"Expires=Thu, 01 Jan 1970 00:00:00 GMT".to_owned()));
                    let lasting =
                        |attribute: &String| attribute.starts_with("Max-Age") || attribute.starts_with("Expires");
                    assert_eq!(set.iter().any(lasting), on(3), "{set:?}");
                    set.retain(|attribute| !lasting(attribute));
                    removal.retain(|attribute| !lasting(attribute));
                    assert_eq!(set, removal);
                }
            }
        }
    }
    assert!(built > 100, "{built}");
}

#[tokio::test]
async fn the_default_cookie() {
    let (layer, _, _) = trial();
    let reply = send(&layer, None, |session| async move { session.set("n", 0).map_or(500, |()| 200) }).await;
    let (pair, set) = attributes(&reply.headers);
    assert!(pair.starts_with("__Host-id=") && pair.len() == "__Host-id=".len() + 32);
    assert_eq!(set, ["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let (_, store, _) = trial();
    type Set = fn(SessionLayerBuilder<Cache>) -> SessionLayerBuilder<Cache>;
    let table: [(&str, Set); 16] = [
        ("secure", |b| b.secure(false)),
        ("secure", |b| b.cookie_name("__SECURE-id").secure(false)),
        ("cookie_path", |b| b.cookie_path("/app")),
        ("cookie_path", |b| b.cookie_name("id").cookie_path("app")),
        ("cookie_path", |b| b.cookie_name("id").cookie_path("/a;b")),
        ("cookie_domain", |b| b.cookie_domain("example.com")),
        ("cookie_domain", |b| b.cookie_name("id").cookie_domain("")),
        ("cookie_domain", |b| b.cookie_name("id").cookie_domain("a b")),
        ("same_site", |b| b.cookie_name("id").secure(false).same_site(SameSite::None)),
        ("partitioned", |b| b.cookie_name("id").secure(false).partitioned(true)),
        ("cookie_name", |b| b.cookie_name("")),
        ("cookie_name", |b| b.cookie_name("a b")),
        ("cookie_name", |b| b.cookie_name("naïve")),
        ("http_only", |b| b.cookie_name("__Host-Http-id").http_only(false)),
        ("http_only", |b| b.cookie_name("__Http-id").http_only(false)),
        ("signing_keys", |b| b.signing_keys([])),
    ];
    for (setting, set) in table {
        let error: ConfigError = set(builder(&store)).build().unwrap_err();
        assert_eq!(error.setting(), setting, "{error}");
        assert!(error.to_string().starts_with(setting) && error.rule().len() > 20, "{error}");
    }
    let of_store = |store: SessionStore<Cache>| SessionLayer::builder(store).build().unwrap_err();
    assert_eq!(of_store(store.clone().ttl(Duration::ZERO)).setting(), "ttl");
    assert_eq!(of_store(store.clone().max_lifetime(Duration::ZERO)).setting(), "max_lifetime");
    assert_eq!(of_store(store.clone().deadline(Duration::ZERO)).setting(), "deadline");
    assert_eq!(of_store(store.clone().key_prefix("")).setting(), "key_prefix");
    assert_eq!(of_store(store.clone().max_bytes(1)).setting(), "max_bytes");
    let year = Duration::from_secs(500 * 86_400);
    let long = SessionLayer::builder(store.max_lifetime(year)).persistent(true).build().unwrap_err();
    assert_eq!(long.setting(), "max_lifetime");
}

#[tokio::test]
async fn the_handlers_own_cookies_stay_and_one_of_the_sessions_name_does_not() {
    let (layer, _, _) = trial();
    let inner = service_fn(|request: Request<()>| async move {
        request.extensions().get::<Session>().unwrap().set("n", 1).unwrap();
        let response = Response::builder()
            .header(header::SET_COOKIE, "a=1; Path=/")
            .header(header::SET_COOKIE, "__Host-id=planted; Path=/")
            .header(header::SET_COOKIE, "b=2");
        Ok::<_, Infallible>(response.body(String::new()).unwrap())
    });
    let response = layer.layer(inner).oneshot(Request::new(())).await.unwrap();
    let cookies: Vec<_> = response.headers().get_all(header::SET_COOKIE).iter().map(|c| c.to_str().unwrap()).collect();
    assert_eq!((cookies.len(), cookies[0], cookies[1]), (3, "a=1; Path=/", "b=2"));
    assert!(cookies[2].starts_with("__Host-id=") && !cookies[2].contains("planted"));
}

#[tokio::test]
async fn signed_cookies_rotate_and_forged_ones_cost_nothing() {
    let (plain, store, cache) = trial();
    let (old_key, new_key) = (cookie_key(1), cookie_key(2));
    let old = builder(&store).signing_keys([old_key.clone()]).build().unwrap();
    let both = builder(&store).signing_keys([new_key.clone(), old_key]).build().unwrap();
    let new = builder(&store).signing_keys([new_key]).build().unwrap();
    let cookie = start(&old, "alice").await;
    assert_eq!(cookie.len(), "__Host-id=".len() + 32 + 1 + 43);

    let reply = send(&both, Some(&cookie), |session| async move { u16::from(session.is_new()) + 200 }).await;
    let reissued = reply.cookie().unwrap();
    assert_eq!(reply.status, 200);
    assert_ne!(reissued, cookie);
    assert_eq!(peek(&new, &reissued, "n").await, Some(0));
    assert_eq!(send(&both, Some(&reissued), |_| async { 200 }).await.cookie(), None);

    cache.reset_calls();
    let unsigned = &cookie[.."__Host-id=".len() + 32];
    let mut tampered = cookie.clone();
    tampered.replace_range(12..13, if &cookie[12..13] == "A" { "B" } else { "A" });
    let renamed = cookie.replace("__Host-id", "__Host-other");
    for forged in [unsigned, &tampered, &renamed, &cookie[..cookie.len() - 1], &format!("{cookie}A")] {
        assert!(!visit(&old, &[forged.as_bytes()]).await.0, "{forged}");
    }
    assert!(!visit(&new, &[cookie.as_bytes()]).await.0, "its key was retired");
    assert!(!visit(&plain, &[cookie.as_bytes()]).await.0);
    assert_eq!(cache.calls().total(), 0);

    // Not issued again for a session that has ended by the time the response goes out.
    let other = store.clone();
    let reply = send(&both, Some(&cookie), move |session| {
        let other = other.clone();
        async move {
            session.set("n", 1).unwrap();
            other.revoke_all("alice").await.unwrap();
            200
        }
    })
    .await;
    assert_eq!((reply.status, reply.cookie()), (200, None));
}

fn cookie_key(fill: u8) -> cookie::Key {
    cookie::Key::from(&[fill; 64])
}

fn write(session: Session) -> impl Future<Output = u16> {
    session.set("n", 1).unwrap();
    async { 200 }
}

fn renew(session: Session) -> impl Future<Output = u16> {
    session.renew();
    async { 200 }
}

fn destroy(session: Session) -> impl Future<Output = u16> {
    session.destroy();
    async { 200 }
}

#[tokio::test]
async fn a_browser_keeps_renews_and_removes_the_cookie_in_every_combination_that_builds() {
    let (_, store, _) = trial();
    let mut built = 0;
    for name in ["__Host-id", "__Secure-id", "__Http-id", "__Host-Http-id", "__HOST-id", "id"] {
        for (path, domain) in [("/", None), ("/app", None), ("/", Some("example.org")), ("/app", Some(".Example.org"))]
        {
            for same_site in [SameSite::Lax, SameSite::Strict, SameSite::None] {
                for bits in 0..16 {
                    let on = |bit: u32| bits & (1 << bit) != 0;
                    let mut layer = builder(&store).cookie_name(name).cookie_path(path).same_site(same_site);
                    layer = layer.secure(on(0)).http_only(on(1)).partitioned(on(2)).persistent(on(3));
                    if let Some(domain) = domain {
                        layer = layer.cookie_domain(domain);
                    }
                    let Ok(layer) = layer.build() else { continue };
                    built += 1;
                    for https in [true, false] {
                        let case = format!("{layer:?}, https {https}");
                        let mut browser = Browser::new().https(https);
                        let first = send(&layer, None, write).await;
                        let taken = browser.take(&first.headers[header::SET_COOKIE]);
                        if on(0) && !https {
                            assert!(taken.is_err(), "not in the clear: {case}");
                            continue;
                        }
                        taken.unwrap_or_else(|why| panic!("{case}: {why}"));
                        assert_eq!(browser.cookie(), first.cookie(), "{case}");
                        browser.send(&layer, renew).await;
                        assert_eq!(browser.kept.len(), 1, "the new ID takes the old one's place: {case}");
                        let second = browser.cookie().unwrap();
                        assert_ne!(Some(&second), first.cookie().as_ref());
                        assert_eq!(peek(&layer, &second, "n").await, Some(1), "{case}");
                        browser.send(&layer, destroy).await;
                        assert_eq!(browser.kept, [], "{case}");
                    }
                }
            }
        }
    }
    assert!(built > 200, "{built}");
}

#[tokio::test]
async fn two_live_sessions_in_one_request_are_nobodys_and_neither_is_harmed() {
    let (layer, _, _) = trial();
    let (x, y) = (start(&layer, "alice").await, start(&layer, "bob").await);
    for both in [format!("{x}; {y}"), format!("{y}; {x}")] {
        let reply = send(&layer, Some(&both), write).await;
        let own = reply.cookie().expect("what it writes is a session of its own");
        assert!(own != x && own != y);
        assert_eq!(send(&layer, Some(&both), destroy).await.cookie(), None);
        assert_eq!(send(&layer, Some(&both), renew).await.cookie(), None);
    }
    assert_eq!((peek(&layer, &x, "n").await, peek(&layer, &y, "n").await), (Some(0), Some(0)));
}

#[tokio::test]
async fn secure_is_not_guessed_from_the_request() {
    let (layer, _, _) = trial();
    for proto in ["http", "https"] {
        let request = Request::get("http://localhost/")
            .header("X-Forwarded-Proto", proto)
            .header("Forwarded", format!("proto={proto}"))
            .header(header::HOST, "localhost")
            .body(())
            .unwrap();
        let response = serve(&layer, request, |request| {
            request.extensions().get::<Session>().unwrap().set("n", 1).unwrap();
            async { Response::new(String::new()) }
        })
        .await;
        assert!(set_cookies(response.headers())[0].contains("; Secure"));
    }
}

#[tokio::test]
async fn the_handlers_own_cookies_stay_in_order_whatever_becomes_of_the_session() {
    let (layer, _, _) = trial();
    let own = ["a=1; Path=/", "__host-id=2", "b=\"3, 4\"; Max-Age=5", "a=6", "__Host-id2=7", "__Host-id"];
    type Change = fn(&Session);
    // What is done; whether a session cookie goes out where one came in, and where none did.
    let rows: [(Change, bool, bool); 4] = [
        (|s| s.set("n", 2).unwrap(), false, true),
        (Session::renew, true, false),
        (|s| assert!(!s.is_dirty()), false, false),
        (Session::destroy, true, false),
    ];
    for (row, (change, ours_with_a_cookie, ours_without)) in rows.into_iter().enumerate() {
        let cookie = start(&layer, "alice").await;
        for (cookie, ours) in [(Some(&*cookie), ours_with_a_cookie), (None, ours_without)] {
            let response = serve(&layer, request(cookie), move |request| {
                change(request.extensions().get::<Session>().unwrap());
                let mut response = Response::builder();
                for set in own {
                    response = response.header(header::SET_COOKIE, set);
                }
                async { response.body(String::new()).unwrap() }
            })
            .await;
            let set = set_cookies(response.headers());
            assert_eq!(set[..own.len()], own);
            assert_eq!(set.len(), own.len() + usize::from(ours), "row {row}: {set:?}");
            assert!(set[own.len()..].iter().all(|set| set.starts_with("__Host-id=")));
        }
    }
}

#[tokio::test]
async fn max_age_is_at_least_a_second_and_at_most_400_days() {
    let day = Duration::from_secs(86_400);
    for (lifetime, expected) in [
        (Duration::from_nanos(999_999_999), "; Max-Age=1;"),
        (401 * day, "; Max-Age=34560000;"),
        (Duration::MAX, "; Max-Age=34560000;"),
    ] {
        let layer = SessionLayer::new(SessionStore::new(InMemoryCache::new()).max_lifetime(lifetime));
        let reply = send(&layer, None, |session| async move {
            session.set("n", 1).unwrap();
            session.set_persistent(true).unwrap();
            200
        })
        .await;
        assert!(set_cookies(&reply.headers)[0].contains(expected), "{lifetime:?}");
    }
}

#[tokio::test]
async fn a_session_may_forget_what_the_layer_would_remember() {
    let (_, store, _) = trial();
    let layer = builder(&store).persistent(true).build().unwrap();
    let mut browser = Browser::new();
    browser.send(&layer, write).await;
    assert!(browser.kept[0].max_age.is_some());
    let forget = |session: Session| async move { session.set_persistent(false).map_or(500, |()| 200) };
    browser.send(&layer, forget).await;
    assert_eq!((browser.kept.len(), browser.kept[0].max_age), (1, None));
    browser.send(&layer, renew).await;
    assert_eq!((browser.kept.len(), browser.kept[0].max_age), (1, None), "a renewal keeps it");
    let own_ttl = |session: Session| async move { session.set_ttl(Duration::from_secs(60)).map_or(500, |()| 200) };
    assert_eq!(browser.send(&layer, own_ttl).await.cookie(), None, "the idle time is no concern of the browser");
}

#[tokio::test]
async fn a_cookie_is_signed_anew_only_for_a_session_that_is_there() {
    let (_, store, _) = trial();
    let old = builder(&store).signing_keys([cookie_key(1)]).build().unwrap();
    let both = builder(&store).signing_keys([cookie_key(2), cookie_key(1)]).build().unwrap();

    let dead = send(&old, None, write).await.cookie().unwrap();
    store.destroy(id(&dead)).await.unwrap();
    let look = |session: Session| async move { if session.is_new() { 200 } else { 500 } };
    let reply = send(&both, Some(&dead), look).await;
    assert_eq!((reply.status, reply.cookie()), (200, None));

    let ending = send(&old, None, write).await.cookie().unwrap();
    let reply = send(&both, Some(&ending), destroy).await;
    assert_eq!(set_cookies(&reply.headers).len(), 1);
    assert_eq!(reply.cookie().as_deref(), Some("__Host-id="), "removed, not issued");

    let renewed = send(&old, None, write).await.cookie().unwrap();
    let reply = send(&both, Some(&renewed), renew).await;
    assert_eq!(set_cookies(&reply.headers).len(), 1);
    assert_ne!(id(&reply.cookie().unwrap()), id(&renewed));
}

#[tokio::test]
async fn a_signature_is_for_one_name() {
    let (_, store, cache) = trial();
    let ours = builder(&store).signing_keys([cookie_key(1)]).build().unwrap();
    let theirs = builder(&store).cookie_name("__Host-di").signing_keys([cookie_key(1)]).build().unwrap();
    let cookie = send(&theirs, None, write).await.cookie().unwrap();
    assert_eq!(peek(&theirs, &cookie, "n").await, Some(1));
    cache.reset_calls();
    assert_eq!(peek(&ours, &cookie.replace("__Host-di", "__Host-id"), "n").await, None);
    assert_eq!(cache.calls().total(), 0);
}

#[tokio::test]
async fn a_flood_of_malformed_cookies_does_not_flood_the_log() {
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::atomic::AtomicUsize>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            self.0.fetch_add(lines, std::sync::atomic::Ordering::Relaxed);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (layer, _, _) = trial();
    let (x, y) = (start(&layer, "alice").await, start(&layer, "bob").await);
    for field in ["__Host-id=malformed", &format!("{x}; {y}")] {
        for _ in 0..5000 {
            visit(&layer, &[field.as_bytes()]).await;
        }
    }
    let lines = lines.0.load(std::sync::atomic::Ordering::Relaxed);
    assert!(lines < 100, "{lines} lines");
}
