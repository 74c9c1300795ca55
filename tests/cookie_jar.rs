//! Cookies in both directions: the table of hostile headers row by row, and a browser's jar for those that are set.
#![cfg(feature = "testing")]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use cloakroom::{
    CacheErrorKind, InMemoryCache, SameSite, Session, SessionLayer, SessionLayerBuilder, SessionStore,
    testing::{Operation, TestCache},
};
use cookie_store::{CookieStore, StoreAction};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tower::{Layer as _, ServiceExt, service_fn};

#[path = "common/web.rs"]
mod web;

use web::send;

type Cache = TestCache<InMemoryCache>;
type Layer = SessionLayer<Cache>;
type Builder = SessionLayerBuilder<Cache>;

struct Trial {
    cache: Cache,
    store: SessionStore<Cache>,
    layer: Layer,
    lazy: Layer,
    /// The IDs of A's and B's sessions.
    a: String,
    b: String,
}

async fn trial() -> Trial {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    let layer = SessionLayer::new(store.clone());
    let lazy = SessionLayer::builder(store.clone()).lazy().build().unwrap();
    let (a, b) = (stored(&store, "A").await, stored(&store, "B").await);
    Trial { cache, store, layer, lazy, a, b }
}

/// The ID of a session whose `who` is this.
async fn stored(store: &SessionStore<Cache>, who: &str) -> String {
    let session = Session::new();
    session.set("who", who).unwrap();
    store.save(&session).await.unwrap().as_ref().to_owned()
}

/// Who these `Cookie` fields say it is, and the response's headers.
async fn who(layer: &Layer, fields: &[impl AsRef<[u8]>]) -> (Option<String>, HeaderMap) {
    let inner = service_fn(|request: Request<()>| async move {
        let lazy = request.extensions().get::<cloakroom::LazySession>().unwrap();
        let session = lazy.load().await.unwrap();
        assert_eq!(session.is_new(), session.is_empty());
        Ok::<_, Infallible>(Response::new(session.get::<String>("who")))
    });
    let mut request = Request::new(());
    for field in fields {
        request.headers_mut().append(header::COOKIE, HeaderValue::from_bytes(field.as_ref()).unwrap());
    }
    let (parts, body) = layer.layer(inner).oneshot(request).await.unwrap().into_parts();
    (body, parts.headers)
}

impl Trial {
    /// One row of the table: who it is in the end, at the price of how many look-ups, eager and lazy.
    async fn row(&self, number: u32, fields: &[impl AsRef<[u8]>], expected: Option<&str>, look_ups: usize) {
        for layer in [&self.layer, &self.lazy] {
            let entries = self.cache.inner().len();
            self.cache.reset_calls();
            let begun = Instant::now();
            let (found, headers) = who(layer, fields).await;
            let shown: Vec<_> = fields.iter().map(|field| start_of(field.as_ref())).collect();
            assert_eq!(found.as_deref(), expected, "row {number}: {shown:?}");
            assert_eq!(self.cache.calls().of(Operation::Get), look_ups, "row {number}, look-ups: {shown:?}");
            assert_eq!(self.cache.calls().total(), look_ups, "row {number}, nothing else: {shown:?}");
            assert_eq!(headers.get(header::SET_COOKIE), None, "row {number}, a cookie: {shown:?}");
            assert_eq!(self.cache.inner().len(), entries, "row {number}, stored: {shown:?}");
            assert!(begun.elapsed() < Duration::from_secs(5), "row {number}, time: {shown:?}");
        }
    }

    async fn anon(&self, number: u32, field: impl AsRef<[u8]>, look_ups: usize) {
        self.row(number, &[field], None, look_ups).await;
    }

    async fn is_a(&self, number: u32, field: impl AsRef<[u8]>, look_ups: usize) {
        self.row(number, &[field], Some("A"), look_ups).await;
    }

    /// None of it harmed anybody.
    async fn both_live(&self, number: u32) {
        for (id, name) in [(&self.a, "A"), (&self.b, "B")] {
            self.row(number, &[format!("__Host-id={id}")], Some(name), 1).await;
        }
    }
}

fn start_of(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned()
}

fn unknown(fill: char) -> String {
    fill.to_string().repeat(31) + "A"
}

#[tokio::test]
async fn rows_1_to_3_what_cannot_be_an_id_costs_nothing() {
    let trial = trial().await;
    let x = &trial.a;
    for field in ["__Host-id=", "__Host-id", "__Host-id=   ", "__Host-id=\t", "   ", "", "=", ";", "__Host-id=; a=b"] {
        trial.anon(1, field, 0).await;
    }
    for value in [x[..31].to_owned(), format!("{x}A"), "A".repeat(1 << 20), x[..1].to_owned(), format!("{x}{x}")] {
        trial.anon(2, format!("__Host-id={value}"), 0).await;
    }
    for bad in ['+', '/', '=', '.', '%', '~', ',', ' ', '\u{e9}'] {
        for at in [0, 15, 31] {
            let value: String = x.chars().enumerate().map(|(n, char)| if n == at { bad } else { char }).collect();
            // A blank at the end is stripped, which leaves 31 characters.
            trial.anon(3, format!("__Host-id={value}"), 0).await;
        }
    }
    let encoded: String = x.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for value in [format!("\"{x}\""), format!("'{x}'"), encoded, format!("%41{}", &x[3..]), format!("%41{}", &x[1..])] {
        trial.anon(3, format!("__Host-id={value}"), 0).await;
    }
    trial.both_live(3).await;
}

#[tokio::test]
async fn row_4_an_unknown_id_is_one_look_up_and_not_adopted() {
    let trial = trial().await;
    for at in [0, 7, 31] {
        for bit in 0..6 {
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let mut bytes = trial.a.clone().into_bytes();
            let value = alphabet.iter().position(|byte| *byte == bytes[at]).unwrap();
            bytes[at] = alphabet[value ^ (1 << bit)];
            trial.anon(4, [b"__Host-id=", &bytes[..]].concat(), 1).await;
        }
    }
    let ended = stored(&trial.store, "C").await;
    trial.store.destroy(&ended).await.unwrap();
    trial.anon(4, format!("__Host-id={ended}"), 1).await;
    trial.anon(4, format!("__Host-id={}", "A".repeat(32)), 1).await;
    trial.both_live(4).await;
}

#[tokio::test]
async fn rows_5_to_8_another_name_is_another_cookie() {
    let trial = trial().await;
    let x = &trial.a;
    for name in ["__%48ost-id", "%5F%5FHost-id", "__Host%2Did", "__Host-id%20", "%00__Host-id"] {
        trial.anon(5, format!("{name}={x}"), 0).await;
        trial.is_a(5, format!("__Host-id={x}; {name}={}", trial.b), 1).await;
    }
    let blanks = [
        "\u{2000}", "\u{a0}", "\u{85}", "\u{3000}", "\u{feff}", "\u{1680}", "\u{2028}", "\u{2029}", "\u{202f}",
        "\u{205f}",
    ];
    for blank in blanks {
        for field in
            [format!("{blank}__Host-id={x}"), format!("a=b; {blank}__Host-id={x}"), format!("__Host-id{blank}={x}")]
        {
            trial.anon(6, field, 0).await;
        }
        trial.anon(6, format!("__Host-id={blank}{x}"), 0).await;
        trial.anon(6, format!("__Host-id={x}{blank}"), 0).await;
    }
    for raw in [&b"\xa0"[..], b"\x85", b"\xff"] {
        trial.anon(6, [raw, b"__Host-id=", x.as_bytes()].concat(), 0).await;
    }
    for name in ["__HOST-id", "__host-id", "__Host-ID", "__Host-Id"] {
        trial.anon(7, format!("{name}={x}"), 0).await;
    }
    for field in [
        format!("=__Host-id={x}"),
        format!("..Host-id={x}"),
        format!("__Host[id={x}"),
        format!("a=1, __Host-id={x}"),
        format!("a=1,__Host-id={x}"),
        format!("__Host-id ={x}"),
        format!("__Host-id= {x}"),
        format!("x__Host-id={x}"),
        format!("__Host-id2={x}"),
        format!("a=__Host-id={x}"),
        format!("__Host-id:{x}"),
        format!("__Host-id=={x}"),
    ] {
        trial.anon(8, field, 0).await;
    }
    trial.both_live(8).await;
}

#[tokio::test]
async fn rows_9_to_11_neighbours_and_fields() {
    let trial = trial().await;
    let x = &trial.a;
    trial.is_a(9, format!("$Version=1; __Host-id={x}; $Path=/"), 1).await;
    for bad in
        [&b"utm=\xe9"[..], b"utm=\xc3\xa9", b"\xff\xfe", b"=", b"a", b"\"", b"a=\"b;c", b"a=\"", b"__Host-id2=;;;"]
    {
        trial.is_a(10, [bad, b"; __Host-id=", x.as_bytes()].concat(), 1).await;
        trial.is_a(10, [b"__Host-id=", x.as_bytes(), b"; ", bad].concat(), 1).await;
        trial.is_a(10, [b"__Host-id=", x.as_bytes(), b";", bad].concat(), 1).await;
    }
    for tidy in [format!("a=b;__Host-id={x}"), format!(" \t__Host-id={x}\t "), format!(";;__Host-id={x};;")] {
        trial.is_a(10, tidy, 1).await;
    }
    let pair = format!("__Host-id={x}");
    for fields in [
        vec!["a=b", &pair],
        vec!["a=b", "c=d", &pair],
        vec![&pair, "c=d"],
        vec!["", &pair],
        vec!["a=b", "c=d; e=f", &pair, "g=h"],
        vec!["__Host-id=", &pair],
        vec![&pair, &pair],
    ] {
        trial.row(11, &fields, Some("A"), 1).await;
    }
    // A pair is not put together from two fields.
    trial.row(11, &["__Host-id=", &**x], None, 0).await;
    trial.row(11, &[&pair[..20], &pair[20..]], None, 0).await;
}

#[tokio::test]
async fn rows_12_and_13_duplicates() {
    let trial = trial().await;
    let (x, y) = (&trial.a, &trial.b);
    let [malformed, stranger] = ["short".to_owned(), unknown('z')];
    for (one, two, look_ups) in
        [(&malformed, x, 1), (x, &malformed, 1), (&stranger, x, 2), (x, &stranger, 2), (x, x, 1)]
    {
        trial.is_a(12, format!("__Host-id={one}; __Host-id={two}"), look_ups).await;
        trial.row(12, &[format!("__Host-id={one}"), format!("__Host-id={two}")], Some("A"), look_ups).await;
    }
    for (one, two) in [(x, y), (y, x)] {
        trial.anon(13, format!("__Host-id={one}; __Host-id={two}"), 2).await;
        trial.row(13, &[format!("__Host-id={one}"), format!("__Host-id={two}")], None, 2).await;
        trial.anon(13, format!("__Host-id={stranger}; __Host-id={one}; __Host-id=; __Host-id={two}"), 3).await;
    }
    trial.both_live(13).await;
}

#[tokio::test]
async fn row_13_whatever_the_handler_does_with_two_live_sessions_harms_neither() {
    let trial = trial().await;
    let (x, y) = (&trial.a, &trial.b);
    for both in [format!("__Host-id={x}; __Host-id={y}"), format!("__Host-id={y}; __Host-id={x}")] {
        for layer in [&trial.layer, &trial.lazy] {
            for what in 0..5 {
                let reply = send(layer, Some(&both), move |session| async move {
                    assert!(session.is_new() && session.is_empty());
                    match what {
                        0 => session.destroy(),
                        1 => session.renew(),
                        2 => session.touch(),
                        3 => session.clear(),
                        _ => session.set("who", "C").unwrap(),
                    }
                    200
                })
                .await;
                match reply.cookie() {
                    None => assert!(what < 4, "row 13: a new session of its own"),
                    Some(cookie) => {
                        assert!(what == 4 && !cookie.contains(x) && !cookie.contains(y), "row 13: {what}");
                        assert_eq!(who(layer, &[cookie]).await.0.as_deref(), Some("C"), "row 13");
                    }
                }
            }
        }
    }
    trial.both_live(13).await;
}

#[tokio::test]
async fn row_14_hostile_lengths() {
    let trial = trial().await;
    let x = &trial.a;
    let flood: Vec<_> = (0..10_000).map(|n| format!("__Host-id={n:032}")).collect();
    trial.anon(14, flood.join("; "), 4).await;
    trial.row(14, &flood[..1000], None, 4).await;
    let same = vec![format!("__Host-id={x}"); 500];
    trial.is_a(14, same.join("; "), 1).await;
    trial.anon(14, vec!["__Host-id=short"; 10_000].join("; "), 0).await;
    for unit in [";", "=", "a;", "=;=;", "\"\\\"\"\";", " ", "\t;", "__Host-id", "__Host-id=;", "\u{e9}"] {
        trial.anon(14, unit.repeat(400_000 / unit.len()), 0).await;
    }
    trial.is_a(14, format!("{}__Host-id={x}", "a=b; ".repeat(511)), 1).await;
    trial.anon(14, format!("{}__Host-id={x}", "a=b; ".repeat(512)), 0).await;
    let four: String = "wxyz".chars().map(|fill| format!("__Host-id={}; ", unknown(fill))).collect();
    trial.anon(14, format!("{four}__Host-id={x}"), 4).await;
    trial.both_live(14).await;
}

#[tokio::test]
async fn rows_15_and_17_commands_paths_and_keys_are_no_ids() {
    let trial = trial().await;
    for text in [
        "../../etc/passwd",
        "*",
        "{x}",
        "sess:1",
        "cloakroom:*",
        "%0d%0aFLUSHALL",
        "\\r\\nFLUSHALL",
        "' OR 1=1 --",
        "${jndi:ldap://x}",
        "null",
        "0",
    ] {
        trial.anon(15, format!("__Host-id={text}"), 0).await;
        trial.anon(15, format!("__Host-id={text:_<32}"), usize::from(text == "null" || text == "0")).await;
    }
    let key = trial.store.load(&trial.a).await.unwrap().unwrap().key().unwrap().to_string();
    for shown in [key.clone(), format!("cloakroom:{key}")] {
        trial.anon(17, format!("__Host-id={shown}"), 0).await;
    }
    trial.anon(17, format!("__Host-id={}", &key[..32]), usize::from(is_canonical(&key[..32]))).await;
    trial.both_live(17).await;
}

/// 24 bytes are 32 characters with no bit to spare: every such text in the alphabet could be an ID.
fn is_canonical(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[tokio::test]
async fn row_16_an_id_anywhere_else_is_not_read() {
    let trial = trial().await;
    let x = &trial.a;
    for layer in [&trial.layer, &trial.lazy] {
        trial.cache.reset_calls();
        let inner = service_fn(|request: Request<String>| async move {
            let session = request.extensions().get::<cloakroom::LazySession>().unwrap().load().await.unwrap();
            Ok::<_, Infallible>(Response::new(session.is_new()))
        });
        let request = Request::post(format!("/{x}?id={x}&__Host-id={x}&sid={x}"))
            .header("X-Session-Id", x)
            .header("__Host-id", x)
            .header("Cookie2", format!("__Host-id={x}"))
            .header("Set-Cookie", format!("__Host-id={x}"))
            .header("Authorization", format!("Bearer {x}"))
            .header("Referer", format!("https://example.org/?__Host-id={x}"))
            .body(format!("__Host-id={x}&id={x}"))
            .unwrap();
        assert!(*layer.layer(inner).oneshot(request).await.unwrap().body(), "row 16");
        assert_eq!(trial.cache.calls().total(), 0, "row 16");
    }
}

#[tokio::test]
async fn row_18_a_login_under_a_chosen_id_gets_another_one() {
    let trial = trial().await;
    for (n, chosen) in [unknown('q'), "A".repeat(32), "attacker-chosen".into(), String::new()].iter().enumerate() {
        for layer in [&trial.layer, &trial.lazy] {
            let sent = format!("__Host-id={chosen}");
            let reply = send(layer, Some(&sent), |session| async move {
                session.renew();
                session.set("who", "A").unwrap();
                200
            })
            .await;
            let issued = reply.cookie().expect("row 18: a login sets a cookie");
            assert_ne!(issued, sent, "row 18");
            assert_eq!(who(layer, &[issued]).await.0.as_deref(), Some("A"), "row 18");
            trial.row(18, &[sent], None, usize::from(n < 2)).await;
        }
    }
}

#[tokio::test]
async fn row_19_what_looks_like_control_never_reaches_the_log() {
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for byte in [b'\r', b'\n', 0, 0x1b, 0x7f] {
        let value = [b"__Host-id=", &[byte][..], b"canary"].concat();
        assert!(HeaderValue::from_bytes(&value).is_err(), "row 19: {byte} does not get as far as the layer");
    }
    let trial = trial().await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    for _ in 0..500 {
        for value in ["canary\\r\\n", "%0Acanary", "\u{9b}31mcanary", "\u{2028}canary", "canary\tcanary"] {
            trial.anon(19, format!("__Host-id={value}"), 0).await;
        }
        trial.anon(19, format!("__Host-id={}; __Host-id={}", trial.a, trial.b), 2).await;
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("canary") && !text.contains('\u{9b}'), "row 19: {text}");
    assert!(!text.contains(&trial.a) && !text.contains(&trial.b), "row 19: an ID in the log");
    assert!(text.lines().count() < 100, "row 19: {} lines", text.lines().count());
}

fn set_cookies(headers: &HeaderMap) -> Vec<&str> {
    headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect()
}

fn login(session: Session) -> std::future::Ready<u16> {
    session.set("who", "A").unwrap();
    std::future::ready(200)
}

fn renew(session: Session) -> std::future::Ready<u16> {
    session.renew();
    std::future::ready(200)
}

fn logout(session: Session) -> std::future::Ready<u16> {
    session.destroy();
    std::future::ready(200)
}

fn remember(session: Session) -> std::future::Ready<u16> {
    session.set_persistent(true).unwrap();
    std::future::ready(200)
}

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
        assert_eq!(kept.same_site().map(|it| it.to_string()), Some(case.same_site.to_string()), "{case:?}");
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
    let longest = SessionLayer::builder(store).cookie_name("a".repeat(4064)).build();
    assert!(longest.is_ok(), "4096 bytes are allowed");
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
    ];
    let planted = ["__Host-id=planted; Secure; Path=/", " __Host-id = planted", "__Host-id=", "\t__Host-id=a=b"];
    for (came_with, change) in [(None, login as fn(Session) -> _), (Some(&trial.a), renew), (Some(&trial.b), logout)] {
        let inner = service_fn(move |request: Request<()>| async move {
            change(request.extensions().get::<Session>().unwrap().clone()).await;
            let mut response = Response::new(());
            for n in 0..own.len().max(planted.len()) {
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
        assert_eq!(others, own, "untouched and in order");
        assert_eq!(ours.len(), 1, "{ours:?}");
        assert!(ours[0].contains("; HttpOnly;") && !ours[0].contains("planted"));
    }
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

#[cfg(feature = "signed")]
mod signed {
    use super::*;

    fn key(fill: u8) -> cookie::Key {
        cookie::Key::from(&[fill; 64])
    }

    /// Layers that know only the old key, both (the new one first), and only the new one.
    fn layers(store: &SessionStore<Cache>) -> [Layer; 3] {
        [vec![1], vec![2, 1], vec![2]]
            .map(|keys| SessionLayer::builder(store.clone()).signing_keys(keys.into_iter().map(key)).build().unwrap())
    }

    async fn begin(layer: &Layer) -> String {
        send(layer, None, login).await.cookie().unwrap()
    }

    #[tokio::test]
    async fn a_bad_signature_costs_no_look_up() {
        let trial = trial().await;
        let [old, both, new] = layers(&trial.store);
        let cookie = begin(&old).await;
        let (id, signature) = cookie["__Host-id=".len()..].split_once('.').unwrap();
        let flipped: String = signature.chars().rev().collect();
        let other = begin(&old).await;
        let (other_id, other_signature) = other["__Host-id=".len()..].split_once('.').unwrap();
        trial.cache.reset_calls();
        for value in [
            id.to_owned(),
            format!("{id}."),
            format!("{id}.{flipped}"),
            format!("{id}.{other_signature}"),
            format!("{other_id}.{signature}"),
            format!("{id}.{signature}A"),
            format!("{id}.{}", &signature[..42]),
            format!("{id}.{signature}="),
            format!("{id}{signature}"),
            format!("{id}..{signature}"),
            format!("{}.{signature}", unknown('q')),
        ] {
            for layer in [&old, &both] {
                let (found, headers) = who(layer, &[format!("__Host-id={value}")]).await;
                assert_eq!((found, headers.get(header::SET_COOKIE)), (None, None), "{value}");
            }
        }
        // Of a key that was retired, for a layer that wants none, and of a cookie of another name.
        for layer in [&new, &trial.layer] {
            assert_eq!(who(layer, &[&cookie]).await.0, None);
        }
        let renamed = SessionLayer::builder(trial.store.clone())
            .cookie_name("__Host-other")
            .signing_keys([key(1)])
            .build()
            .unwrap();
        assert_eq!(who(&renamed, &[cookie.replace("__Host-id", "__Host-other")]).await.0, None);
        assert_eq!(trial.cache.calls().total(), 0);
        assert_eq!(who(&old, &[&cookie]).await.0.as_deref(), Some("A"));
        assert_eq!(trial.cache.calls().total(), 1);
    }

    #[tokio::test]
    async fn an_old_key_is_replaced_once() {
        let trial = trial().await;
        let [old, both, new] = layers(&trial.store);
        let cookie = begin(&old).await;
        let (found, headers) = who(&both, &[&cookie]).await;
        assert_eq!(found.as_deref(), Some("A"));
        let [set] = set_cookies(&headers)[..] else { panic!("issued again: {headers:?}") };
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "HttpOnly; SameSite=Lax; Secure; Path=/");
        assert_eq!(pair.split_once('.').unwrap().0, cookie.split_once('.').unwrap().0, "the same ID");
        let (found, headers) = who(&both, &[pair]).await;
        assert_eq!((found.as_deref(), set_cookies(&headers).len()), (Some("A"), 0), "only once");
        assert_eq!(who(&new, &[pair]).await.0.as_deref(), Some("A"));
    }

    #[tokio::test]
    async fn only_what_is_live_is_issued_again() {
        let trial = trial().await;
        let [old, both, _] = layers(&trial.store);
        let (one, two) = (begin(&old).await, begin(&old).await);
        let none: [&str; 0] = [];
        // Two live ones are nobody's.
        for both_live in [format!("{one}; {two}"), format!("{two}; {one}")] {
            assert_eq!(set_cookies(&who(&both, &[both_live]).await.1), none);
        }
        // The cache is down.
        trial.cache.fail_all(CacheErrorKind::Unavailable);
        let reply = send(&both, Some(&one), |_| async { 200 }).await;
        assert_eq!((reply.status, set_cookies(&reply.headers)), (503, vec![]));
        trial.cache.heal();
        // Nobody asked for it: it is not known whether it lives.
        let lazy = SessionLayer::builder(trial.store.clone()).signing_keys([key(2), key(1)]).lazy().build().unwrap();
        trial.cache.reset_calls();
        let inner = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(())) });
        let request = Request::get("/").header(header::COOKIE, &one).body(()).unwrap();
        let response = lazy.layer(inner).oneshot(request).await.unwrap();
        assert_eq!((set_cookies(response.headers()), trial.cache.calls().total()), (vec![], 0));
        // Renewed and destroyed in the same request: one cookie each, of the new ID and the removal.
        let reply = send(&both, Some(&one), renew).await;
        assert_eq!(set_cookies(&reply.headers).len(), 1);
        assert_ne!(reply.cookie().unwrap().split('.').next(), one.split('.').next());
        assert_eq!(set_cookies(&who(&both, &[&one]).await.1), none, "a tombstone");
        let reply = send(&both, Some(&two), logout).await;
        assert_eq!(reply.cookie().as_deref(), Some("__Host-id="));
        assert_eq!(set_cookies(&who(&both, &[&two]).await.1), none, "destroyed");
    }

    /// What ends the session while a request of it is under way.
    #[derive(Clone, Copy, Debug)]
    enum End {
        Destroyed,
        Renewed,
    }

    async fn ended_meanwhile(write: bool, end: End) {
        let trial = trial().await;
        let [old, both, _] = layers(&trial.store);
        let cookie = begin(&old).await;
        let (other, sent) = (both.clone(), cookie.clone());
        let reply = send(&both, Some(&cookie), move |session| {
            let (other, sent) = (other.clone(), sent.clone());
            async move {
                assert_eq!(session.get::<String>("who").as_deref(), Some("A"));
                if write {
                    session.set("late", true).unwrap();
                }
                match end {
                    End::Destroyed => send(&other, Some(&sent), logout).await,
                    End::Renewed => send(&other, Some(&sent), renew).await,
                };
                200
            }
        })
        .await;
        assert_eq!((reply.status, set_cookies(&reply.headers)), (200, vec![]), "write: {write}, {end:?}");
    }

    #[tokio::test]
    async fn a_session_that_ended_under_a_writing_request_is_not_issued_again() {
        ended_meanwhile(true, End::Destroyed).await;
        ended_meanwhile(true, End::Renewed).await;
    }

    #[tokio::test]
    async fn a_session_destroyed_under_a_reading_request_is_not_issued_again() {
        ended_meanwhile(false, End::Destroyed).await;
    }

    /// The old ID would take the place of the one that the renewal gave the browser.
    #[tokio::test]
    async fn a_session_renewed_under_a_reading_request_is_not_issued_again() {
        ended_meanwhile(false, End::Renewed).await;
    }

    #[tokio::test]
    async fn an_outage_at_the_end_costs_a_reading_request_nothing_but_the_new_signature() {
        let trial = trial().await;
        let [old, both, _] = layers(&trial.store);
        let cookie = begin(&old).await;
        let cache = trial.cache.clone();
        let reply = send(&both, Some(&cookie), move |_| {
            cache.fail_all(CacheErrorKind::Unavailable);
            async { 200 }
        });
        let reply = reply.await;
        assert_eq!((reply.status, set_cookies(&reply.headers)), (200, vec![]));
        trial.cache.heal();
        assert_eq!(set_cookies(&who(&both, &[&cookie]).await.1).len(), 1);
    }

    #[tokio::test]
    async fn a_dead_neighbour_of_an_old_key_is_no_reason_to_issue() {
        let trial = trial().await;
        let [old, both, new] = layers(&trial.store);
        let (dead, live) = (begin(&old).await, begin(&new).await);
        send(&old, Some(&dead), logout).await;
        for pair in [format!("{dead}; {live}"), format!("{live}; {dead}")] {
            let (found, headers) = who(&both, &[pair]).await;
            assert_eq!((found.as_deref(), set_cookies(&headers)), (Some("A"), vec![]));
        }
    }
}
