//! What is sent to a browser, by the letter and by what its jar does with it; and what does not build.
use std::{convert::Infallible, time::Duration};

use cloakroom::{
    InMemoryCache, SameSite, Session, SessionLayer, SessionLayerBuilder, SessionStore, testing::TestCache,
};
use cookie_store::{CookieStore, StoreAction};
use http::{HeaderValue, Request, Response, header};
use tower::{Layer as _, ServiceExt, service_fn};

use super::{Cache, is_canonical, login, logout, remember, renew, set_cookies, trial};
use crate::support::web::send;

type Builder = SessionLayerBuilder<Cache>;

#[tokio::test]
async fn the_default_cookie_and_its_removal_to_the_letter() {
    let trial = trial().await;
    let reply = send(&trial.layer, None, login).await;
    let [cookie] = set_cookies(&reply.headers)[..] else { panic!("one cookie: {:?}", reply.headers) };
    let pair = reply.cookie().unwrap();
    let id = pair.strip_prefix("__Host-id=").unwrap();
    assert!(is_canonical(id));
    assert_eq!(cookie, format!("__Host-id={id}; HttpOnly; SameSite=Lax; Secure; Path=/"));
    let reply = send(&trial.layer, Some(&pair), remember).await;
    let forms =
        [2_592_000, 2_591_999].map(|age| format!("{pair}; Max-Age={age}; HttpOnly; SameSite=Lax; Secure; Path=/"));
    assert!(forms.iter().any(|form| set_cookies(&reply.headers) == [form]), "{:?}", set_cookies(&reply.headers));
    let reply = send(&trial.layer, Some(&pair), logout).await;
    let removal =
        "__Host-id=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; SameSite=Lax; Secure; Path=/";
    assert_eq!(set_cookies(&reply.headers), [removal]);
}

#[tokio::test]
async fn a_set_cookie_is_sensitive() {
    let trial = trial().await;
    let first = send(&trial.layer, None, login).await;
    let cookie = first.cookie();
    let mut replies = vec![first];
    replies.push(send(&trial.layer, cookie.as_deref(), remember).await);
    let renewed = send(&trial.layer, cookie.as_deref(), renew).await;
    let cookie = renewed.cookie();
    replies.push(renewed);
    replies.push(send(&trial.layer, cookie.as_deref(), logout).await);
    for reply in replies {
        let value = reply.headers.get(header::SET_COOKIE).unwrap();
        assert!(value.is_sensitive());
        let pair = reply.cookie().unwrap();
        let shown = format!("{:?} {:#?}", reply.headers, reply.headers);
        assert!(shown.contains("Sensitive") && !shown.contains("__Host-id"), "{shown}");
        assert!(!shown.contains(&pair["__Host-id=".len()..]) || pair == "__Host-id=");
    }
}

/// Settings of the cookie, those that a browser would accept and those that it would not.
fn combinations() -> Vec<Case> {
    let mut cases = Vec::new();
    let names = ["__Host-id", "__Secure-id", "__Http-id", "__Host-Http-id", "__hOsT-id", "id", "!#$%&'*+-.^_`|~aZ0"];
    for name in names {
        for path in ["/", "/app", "/app/page", "/app/"] {
            for domain in [None, Some("www.example.org"), Some("example.org"), Some(".Example.ORG")] {
                for same_site in [SameSite::Strict, SameSite::Lax, SameSite::None] {
                    for bits in 0..16_u8 {
                        let [secure, http_only, partitioned, persistent] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
                        let case = Case { name, path, domain, same_site, secure, http_only, partitioned, persistent };
                        cases.push(case);
                    }
                }
            }
        }
    }
    cases
}

#[derive(Debug)]
struct Case {
    name: &'static str,
    path: &'static str,
    domain: Option<&'static str>,
    same_site: SameSite,
    secure: bool,
    http_only: bool,
    partitioned: bool,
    persistent: bool,
}

impl Case {
    fn builder(&self, store: &SessionStore<Cache>) -> Builder {
        let mut builder = SessionLayer::builder(store.clone())
            .cookie_name(self.name)
            .cookie_path(self.path)
            .same_site(self.same_site)
            .secure(self.secure)
            .http_only(self.http_only)
            .partitioned(self.partitioned)
            .persistent(self.persistent);
        if let Some(domain) = self.domain {
            builder = builder.cookie_domain(domain);
        }
        builder
    }

    /// RFC 6265bis, sections 4.1.3 and 5.7, and layered cookies, section 4.1.3: what a browser does not ignore.
    fn a_browser_takes_it(&self) -> bool {
        let name = self.name.to_ascii_lowercase();
        let prefixed = |prefix| name.starts_with(prefix);
        let (host, http) = (prefixed("__host-"), prefixed("__http-") || prefixed("__host-http-"));
        let needs_secure =
            self.partitioned || self.same_site == SameSite::None || host || http || prefixed("__secure-");
        (self.secure || !needs_secure)
            && (!host || (self.path == "/" && self.domain.is_none()))
            && (!http || self.http_only)
    }
}

#[tokio::test]
async fn a_jar_keeps_replaces_and_removes_the_cookie_in_every_valid_combination() {
    let trial = trial().await;
    let (mut built, mut refused) = (0, 0);
    for case in combinations() {
        let layer = match case.builder(&trial.store).build() {
            Ok(layer) => layer,
            Err(error) => {
                assert!(!case.a_browser_takes_it(), "{case:?}: {error}");
                refused += 1;
                continue;
            }
        };
        assert!(case.a_browser_takes_it(), "{case:?} builds");
        built += 1;
        let page = if case.secure { "https" } else { "http" };
        let page = format!("{page}://www.example.org/app/page").parse().unwrap();
        let mut jar = CookieStore::default();
        let sent = |jar: &CookieStore| -> Vec<String> {
            jar.get_request_values(&page).map(|(name, value)| format!("{name}={value}")).collect()
        };

        let reply = send(&layer, None, login).await;
        let [set] = set_cookies(&reply.headers)[..] else { panic!("{case:?}: {:?}", reply.headers) };
        assert_eq!(jar.parse(set, &page).unwrap(), StoreAction::Inserted, "{case:?}");
        let first = sent(&jar);
        assert_eq!(first, [reply.cookie().unwrap()], "{case:?}");
        let kept = jar.iter_any().next().unwrap();
        assert_eq!(kept.secure().unwrap_or(false), case.secure, "{case:?}");
        assert_eq!(kept.http_only().unwrap_or(false), case.http_only, "{case:?}");
        assert_eq!(kept.partitioned().unwrap_or(false), case.partitioned, "{case:?}");
        assert_eq!(kept.same_site().map(|it| it.to_string()), Some(format!("{:?}", case.same_site)), "{case:?}");
        assert_eq!(kept.path(), Some(case.path), "{case:?}");
        assert_eq!(kept.domain().is_some(), case.domain.is_some(), "{case:?}");
        assert_eq!(kept.is_persistent(), case.persistent, "{case:?}");

        let reply = send(&layer, Some(&first[0]), renew).await;
        let [set] = set_cookies(&reply.headers)[..] else { panic!("{case:?}: {:?}", reply.headers) };
        assert_eq!(jar.parse(set, &page).unwrap(), StoreAction::UpdatedExisting, "{case:?}");
        let second = sent(&jar);
        assert_eq!((second.len(), first == second), (1, false), "{case:?}");

        let reply = send(&layer, Some(&second[0]), logout).await;
        let [removal] = set_cookies(&reply.headers)[..] else { panic!("{case:?}: {:?}", reply.headers) };
        assert_eq!(jar.parse(removal, &page).unwrap(), StoreAction::ExpiredExisting, "{case:?}");
        assert_eq!((sent(&jar).len(), jar.iter_unexpired().count()), (0, 0), "{case:?}");
        let lasting = |text: &str| {
            let mut rest: Vec<_> = text.split("; ").skip(1).map(str::to_owned).collect();
            rest.retain(|attribute| !attribute.starts_with("Max-Age=") && !attribute.starts_with("Expires="));
            rest
        };
        assert_eq!(lasting(set), lasting(removal), "{case:?}");
    }
    assert!(built > 500 && refused > 500, "{built} built, {refused} refused");
}

#[test]
fn settings_that_a_browser_would_drop_do_not_build() {
    type Set = fn(Builder) -> Builder;
    let store = SessionStore::new(TestCache::new(InMemoryCache::new()));
    let rows: [(&str, &str, Set); 35] = [
        ("secure", "`__Host-`", |b| b.secure(false)),
        ("secure", "`__Host-`", |b| b.cookie_name("__HOST-x").secure(false)),
        ("secure", "`__Secure-`", |b| b.cookie_name("__secure-x").secure(false)),
        ("secure", "`__Http-`", |b| b.cookie_name("__Http-x").secure(false)),
        ("secure", "`__Host-", |b| b.cookie_name("__Host-Http-x").secure(false)),
        ("http_only", "`__Http-`", |b| b.cookie_name("__hTTp-x").http_only(false)),
        ("http_only", "`__Host-Http-`", |b| b.cookie_name("__Host-Http-x").http_only(false)),
        ("cookie_path", "`Path=/`", |b| b.cookie_path("/app")),
        ("cookie_path", "`Path=/`", |b| b.cookie_name("__Host-Http-x").cookie_path("/app")),
        ("cookie_domain", "no `Domain`", |b| b.cookie_domain("example.org")),
        ("cookie_domain", "no `Domain`", |b| b.cookie_name("__host-x").cookie_domain("example.org")),
        ("same_site", "`Secure`", |b| b.cookie_name("x").secure(false).same_site(SameSite::None)),
        ("partitioned", "`Secure`", |b| b.cookie_name("x").secure(false).partitioned(true)),
        ("cookie_name", "needs a name", |b| b.cookie_name("")),
        ("cookie_name", "token", |b| b.cookie_name("a=b")),
        ("cookie_name", "token", |b| b.cookie_name("a;b")),
        ("cookie_name", "token", |b| b.cookie_name("a b")),
        ("cookie_name", "token", |b| b.cookie_name("a\r\nb")),
        ("cookie_name", "token", |b| b.cookie_name("a\0")),
        ("cookie_name", "token", |b| b.cookie_name("\u{e9}")),
        ("cookie_name", "4096", |b| b.cookie_name("a".repeat(4065))),
        ("cookie_path", "`/`", |b| b.cookie_name("x").cookie_path("")),
        ("cookie_path", "`/`", |b| b.cookie_name("x").cookie_path("app")),
        ("cookie_path", "path-value", |b| b.cookie_name("x").cookie_path("/a;b")),
        ("cookie_path", "path-value", |b| b.cookie_name("x").cookie_path("/a\u{7f}")),
        ("cookie_path", "path-value", |b| b.cookie_name("x").cookie_path("/\u{e9}")),
        ("cookie_path", "1024", |b| b.cookie_name("x").cookie_path("/".repeat(1025))),
        ("cookie_domain", "host name", |b| b.cookie_name("x").cookie_domain("")),
        ("cookie_domain", "host name", |b| b.cookie_name("x").cookie_domain("a;b")),
        ("cookie_domain", "host name", |b| b.cookie_name("x").cookie_domain("a b")),
        ("cookie_domain", "host name", |b| b.cookie_name("x").cookie_domain("a\r\nb")),
        ("cookie_domain", "host name", |b| b.cookie_name("x").cookie_domain("..org")),
        ("cookie_domain", "host name", |b| b.cookie_name("x").cookie_domain("-a.org")),
        ("cookie_domain", "253", |b| b.cookie_name("x").cookie_domain("a.".repeat(127) + "org")),
        ("max_lifetime", "400 days", |b| b.persistent(true)),
    ];
    for (row, (setting, rule, set)) in rows.into_iter().enumerate() {
        let days = if setting == "max_lifetime" { 401 } else { 30 };
        let store = store.clone().max_lifetime(Duration::from_secs(days * 86_400));
        let error = set(SessionLayer::builder(store)).build().unwrap_err();
        assert_eq!(error.setting(), setting, "{row}: {error}");
        assert!(error.rule().contains(rule), "{row}, {rule}: {error}");
        assert_eq!(error.to_string(), format!("{}: {}", error.setting(), error.rule()));
    }
    let longest = SessionLayer::builder(store.clone()).cookie_name("a".repeat(4064)).build();
    assert!(longest.is_ok(), "4096 bytes are allowed");
    let longest = SessionLayer::builder(store.max_lifetime(Duration::from_secs(400 * 86_400))).persistent(true).build();
    assert!(longest.is_ok(), "400 days are allowed");
}

#[tokio::test]
async fn the_handlers_cookies_stay_and_there_is_one_of_ours() {
    let trial = trial().await;
    let own = [
        "b=2; Path=/",
        "a=1",
        "__Host-id2=x",
        "x__Host-id=x",
        "a=1",
        "__host-id=x",
        "c=\"__Host-id=x\"",
        "=__Host-id=x",
        "__Host-id",
    ];
    let planted = ["__Host-id=planted; Secure; Path=/", " __Host-id = planted", "__Host-id=", "\t__Host-id=a=b"];
    type Change = fn(Session) -> std::future::Ready<u16>;
    let rows: [(Option<&str>, Change, bool); 6] = [
        (None, login, true),
        (Some(&trial.a), renew, true),
        (Some(&trial.b), logout, true),
        (Some(&trial.a), look, false),
        (None, renew, false),
        (None, logout, false),
    ];
    for (row, (came_with, change, ours_goes_out)) in rows.into_iter().enumerate() {
        let inner = service_fn(move |request: Request<()>| async move {
            change(request.extensions().get::<Session>().unwrap().clone()).await;
            let mut response = Response::new(());
            for n in 0..own.len() {
                for value in own.get(n).into_iter().chain(planted.get(n)) {
                    response.headers_mut().append(header::SET_COOKIE, HeaderValue::from_static(value));
                }
            }
            Ok::<_, Infallible>(response)
        });
        let mut request = Request::new(());
        if let Some(id) = came_with {
            request.headers_mut().insert(header::COOKIE, format!("__Host-id={id}").parse().unwrap());
        }
        let response = trial.layer.layer(inner).oneshot(request).await.unwrap();
        let sent = set_cookies(response.headers());
        let (ours, others): (Vec<_>, Vec<_>) = sent.into_iter().partition(|value| value.starts_with("__Host-id="));
        assert_eq!(others, own, "{row}: untouched and in order");
        assert_eq!(ours.len(), usize::from(ours_goes_out), "{row}: {ours:?}");
        assert!(ours.iter().all(|ours| ours.contains("; HttpOnly;") && !ours.contains("planted")), "{row}: {ours:?}");
    }
}

fn look(session: Session) -> std::future::Ready<u16> {
    std::future::ready(if session.is_new() { 500 } else { 200 })
}

#[tokio::test]
async fn a_request_that_changes_no_cookie_sets_none() {
    let trial = trial().await;
    let cookie = format!("__Host-id={}", trial.a);
    for n in 0..50_u32 {
        let reply = send(&trial.layer, Some(&cookie), move |session| async move {
            assert!(session.get::<String>("who").is_some());
            session.touch();
            if n % 2 == 0 {
                session.set("n", n).unwrap();
            }
            200
        })
        .await;
        assert_eq!(set_cookies(&reply.headers), [""; 0]);
    }
}

#[tokio::test]
async fn secure_is_not_guessed_from_the_request() {
    let trial = trial().await;
    for proto in ["http", "https"] {
        let inner = service_fn(|request: Request<()>| async move {
            login(request.extensions().get::<Session>().unwrap().clone()).await;
            Ok::<_, Infallible>(Response::new(()))
        });
        let request = Request::get("http://localhost/")
            .header("X-Forwarded-Proto", proto)
            .header("Forwarded", format!("proto={proto}"))
            .header(header::HOST, "localhost")
            .body(())
            .unwrap();
        let response = trial.layer.layer(inner).oneshot(request).await.unwrap();
        assert!(set_cookies(response.headers())[0].contains("; Secure;"));
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
        let reply = send(&layer, None, |session| {
            session.set("n", 1).unwrap();
            remember(session)
        })
        .await;
        assert!(set_cookies(&reply.headers)[0].contains(expected), "{lifetime:?}");
    }
}

#[tokio::test]
async fn a_session_may_forget_what_the_layer_would_remember() {
    let trial = trial().await;
    let layer = SessionLayer::builder(trial.store.clone()).persistent(true).build().unwrap();
    let first = send(&layer, None, login).await;
    assert!(set_cookies(&first.headers)[0].contains("; Max-Age="));
    let forget = |session: Session| async move { session.set_persistent(false).map_or(500, |()| 200) };
    let forgetful = send(&layer, first.cookie().as_deref(), forget).await;
    let renewed = send(&layer, first.cookie().as_deref(), renew).await;
    assert_eq!(forgetful.cookie(), first.cookie(), "the same ID, and so in its place");
    assert_ne!(renewed.cookie(), first.cookie());
    for (what, reply) in [("forgotten", forgetful), ("still so after a renewal", renewed)] {
        let [set] = set_cookies(&reply.headers)[..] else { panic!("{what}: {:?}", reply.headers) };
        assert!(!set.contains("Max-Age") && !set.contains("Expires"), "{what}: {set}");
    }
}

#[tokio::test]
async fn an_idle_time_is_no_concern_of_the_browser() {
    let trial = trial().await;
    for persistent in [false, true] {
        let layer = SessionLayer::builder(trial.store.clone()).persistent(persistent).build().unwrap();
        let cookie = send(&layer, None, login).await.cookie();
        let own_ttl = |session: Session| async move { session.set_ttl(Duration::from_secs(60)).map_or(500, |()| 200) };
        let reply = send(&layer, cookie.as_deref(), own_ttl).await;
        assert_eq!((reply.status, set_cookies(&reply.headers)), (200, vec![]), "persistent: {persistent}");
    }
}

#[test]
fn settings_of_the_store_that_cannot_work_do_not_build() {
    type Set = fn(SessionStore<InMemoryCache>) -> SessionStore<InMemoryCache>;
    let rows: [(&str, Set); 5] = [
        ("ttl", |store| store.ttl(Duration::ZERO)),
        ("max_lifetime", |store| store.max_lifetime(Duration::ZERO)),
        ("deadline", |store| store.deadline(Duration::ZERO)),
        ("key_prefix", |store| store.key_prefix("")),
        ("max_bytes", |store| store.max_bytes(1)),
    ];
    for (setting, set) in rows {
        let error = SessionLayer::builder(set(SessionStore::new(InMemoryCache::new()))).build().unwrap_err();
        assert_eq!(error.setting(), setting, "{error}");
        assert!(error.rule().starts_with("must "), "{error}");
    }
}
