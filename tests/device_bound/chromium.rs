//! The exchange with a real browser, over HTTPS: Chromium registers and refreshes by itself.
//!
//! Chromium signs six proofs in nine minutes at most, the registration among them, so that each test has a browser of its own
//! and is sparing with refreshes. With less than two minutes of a bound cookie left it refreshes at every request.
use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{Html, Redirect, Response},
    routing::{get, post},
};
use cloakroom::{BoxedCache, Clock, DeviceBound, InMemoryCache, Session, SessionError, SessionLayer, SessionStore};
use cookie::{Cookie, SameSite};
use http::{StatusCode, header};
use serde_json::Value;
use tower::ServiceExt;

use super::{
    app::{MINUTE, PATH},
    https::Https,
    showcase,
};
use crate::support::browser::Browser;

const HOST: &str = "app.example.com";
const OTHER: &str = "www.example.net";
const BOUND: &str = "__Host-id-bound";
/// Starting a browser takes a while where little else runs at the same speed.
const PATIENCE: Duration = Duration::from_secs(60);

/// One request as it arrived, and how it was answered.
#[derive(Clone, Debug)]
struct LoggedRequest {
    path: String,
    bound: bool,
    #[expect(dead_code, reason = "shown by assertions that fail")]
    skipped: bool,
    status: u16,
}

type Log = Arc<Mutex<Vec<LoggedRequest>>>;

struct Site {
    https: Https,
    log: Log,
    clock: Clock,
    router: Router,
}

fn page(text: &str) -> Html<String> {
    Html(format!("<!doctype html><link rel=icon href=data:,><p>{text}</p>"))
}

async fn show(session: Session) -> Html<String> {
    let owner = session.owner().unwrap_or_else(|| "-".to_owned());
    let bound = if session.is_device_bound() { "bound" } else { "unbound" };
    page(&format!("{owner} {bound} {}", session.get::<u32>("n").unwrap_or(0)))
}

/// As most applications do it: what offers the registration is a redirect.
async fn log_in(session: Session) -> Result<Redirect, SessionError> {
    session.log_in("alice")?;
    Ok(Redirect::to("/welcome"))
}

async fn log_out(session: Session) -> Html<String> {
    session.destroy();
    page("logged out")
}

async fn add(session: Session) -> Result<StatusCode, SessionError> {
    session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn link(request: Request) -> Html<String> {
    let port = request.headers()[header::HOST].to_str().unwrap().split(':').nth(1).unwrap().to_owned();
    page(&format!("<a href='https://{HOST}:{port}/page'>to the application</a>"))
}

async fn note(State(log): State<Log>, request: Request, next: Next) -> Response {
    let cookies = request.headers().get(header::COOKIE).map(|field| field.to_str().unwrap().to_owned());
    let (path, skipped) = (request.uri().path().to_owned(), request.headers().contains_key("secure-session-skipped"));
    let response = next.run(request).await;
    let bound = cookies.is_some_and(|cookies| cookies.contains(BOUND));
    log.lock().unwrap().push(LoggedRequest { path, bound, skipped, status: response.status().as_u16() });
    response
}

impl Site {
    fn start(lifetime: Duration) -> Self {
        let (clock, log) = (Clock::manual(), Log::default());
        let store = SessionStore::new(InMemoryCache::new()).clock(clock.clone());
        let settings = DeviceBound::new(PATH).lifetime(lifetime).exclude("/static");
        let layer = SessionLayer::builder(store).device_bound(settings).build().unwrap();
        let router = Router::new()
            .route("/page", get(show))
            .route("/log-in", get(log_in))
            .route("/welcome", get(|| async { page("logged in") }))
            .route("/log-out", get(log_out))
            .route("/add", post(add))
            .route("/static/file", get(|| async { "a file" }))
            .layer(layer)
            .route("/link", get(link))
            .layer(middleware::from_fn_with_state(Arc::clone(&log), note));
        Self::serve(router, log, clock)
    }

    /// The showcase, whose clock is the real one.
    fn showcase() -> Self {
        let log = Log::default();
        let shop = showcase::app(BoxedCache::new(InMemoryCache::new()));
        let router = shop.layer(middleware::from_fn_with_state(Arc::clone(&log), note));
        Self::serve(router, log, Clock::system())
    }

    fn serve(router: Router, log: Log, clock: Clock) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let served = router.clone();
        thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), served).await.unwrap();
            });
        });
        Self { https: Https::start(address, &[HOST, OTHER]), log, clock, router }
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.https.port)
    }

    /// A browser that binds sessions to a key in software, as it does in its own tests.
    fn browser(&self) -> Option<Browser> {
        Browser::start_with(&[
            "--enable-features=DeviceBoundSessions:RequireOriginTrialTokens/false,\
             EnableBoundSessionCredentialsSoftwareKeysForManualTesting"
                .to_owned(),
            format!("--ignore-certificate-errors-spki-list={}", self.https.pin),
            format!("--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP {OTHER} 127.0.0.1"),
        ])
    }

    fn log(&self) -> Vec<LoggedRequest> {
        self.log.lock().unwrap().clone()
    }

    /// What arrived since the last call.
    fn take_log(&self) -> Vec<LoggedRequest> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    /// Waits until the browser has registered at this path.
    fn wait_for_registration(&self, browser: &Browser, path: &str) {
        let start = Instant::now();
        while !self.log().iter().any(|seen| seen.path == path && seen.status == 200) {
            assert!(
                start.elapsed() < PATIENCE,
                "{} has registered no key: it may lack Device Bound Session Credentials, or name their flags otherwise. \
                 Chromium 156 has them. Requests so far: {:?}",
                browser.version(),
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Logs in, and waits until the browser has registered and the session needs its bound cookie.
    fn bind(&self, browser: &Browser) {
        browser.goto(&self.url(HOST, "/log-in"));
        assert_eq!(browser.text("p"), "logged in");
        self.wait_for_registration(browser, PATH);
        self.clock.advance(MINUTE);
        self.take_log();
    }

    /// Another client with these cookies.
    fn thief(&self, cookies: &[Cookie<'_>]) -> Thief<'_> {
        let cookies: Vec<_> = cookies.iter().map(|cookie| cookie.stripped().to_string()).collect();
        assert_eq!(cookies.len(), 2, "{cookies:?}");
        Thief { site: self, cookies: cookies.join("; ") }
    }
}

struct Thief<'a> {
    site: &'a Site,
    cookies: String,
}

impl Thief<'_> {
    /// What the page says; nothing where the application does not answer.
    fn page(&self) -> String {
        let request = Request::get("/page").header(header::COOKIE, &self.cookies).body(axum::body::Body::empty());
        let router = self.site.router.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let body = runtime.block_on(async {
            let response = router.oneshot(request.unwrap()).await.unwrap();
            axum::body::to_bytes(response.into_body(), 10_000).await.unwrap()
        });
        String::from_utf8(body.to_vec()).unwrap()
    }
}

impl Browser {
    /// Runs a script that has to wait, and returns what it promises.
    fn promised(&self, script: &str) -> Value {
        self.run(&format!("window.done = undefined; ({script}).then(done => {{ window.done = done }})"));
        let start = Instant::now();
        loop {
            let done = self.run("return window.done === undefined ? null : window.done");
            if !done.is_null() {
                return done;
            }
            assert!(start.elapsed() < PATIENCE, "{script}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_browser_registers_refreshes_by_itself_and_holds_its_requests_meanwhile() {
    let site = Site::start(10 * MINUTE);
    let Some(browser) = site.browser() else { return };
    site.bind(&browser);
    browser.goto(&site.url(HOST, "/page"));
    assert_eq!(browser.text("p"), "alice bound 0");
    let cookies = browser.cookies();
    let bound = cookies.iter().find(|cookie| cookie.name() == BOUND).expect("a bound cookie");
    assert_eq!((bound.secure(), bound.http_only(), bound.same_site()), (Some(true), Some(true), Some(SameSite::Lax)));
    assert_eq!(browser.run("return document.cookie"), "");

    browser.delete_cookie(BOUND);
    site.take_log();
    let posts = "Promise.all([...Array(10)].map(() => fetch('/add', { method: 'POST' }))).then(all => all.map(one => one.status))";
    assert_eq!(browser.promised(posts), Value::from(vec![204; 10]));
    let log = site.take_log();
    let adds: Vec<_> = log.iter().filter(|seen| seen.path == "/add").collect();
    assert!(adds.len() == 10 && adds.iter().all(|seen| seen.bound), "{log:?}");
    assert_eq!(log.iter().filter(|seen| seen.path == PATH).count(), 2, "one challenge and one proof for all: {log:?}");

    // What needs no session is not held.
    browser.delete_cookie(BOUND);
    assert_eq!(browser.promised("fetch('/static/file').then(one => one.text())"), "a file");
    let log = site.take_log();
    assert!(log.len() == 1 && !log[0].bound, "{log:?}");

    browser.goto(&site.url(HOST, "/page"));
    assert_eq!(browser.text("p"), "alice bound 10");
    assert!(site.log().iter().all(|seen| seen.path != "/page" || seen.bound), "{:?}", site.log());
}

#[test]
fn copied_cookies_are_of_no_use_once_the_bound_one_has_ended() {
    // In real time for the browser; the grace after a registration is over for the server.
    let site = Site::start(Duration::from_secs(5));
    let Some(browser) = site.browser() else { return };
    site.bind(&browser);
    browser.goto(&site.url(HOST, "/page"));
    assert_eq!(browser.text("p"), "alice bound 0");
    let thief = site.thief(&browser.cookies());
    assert!(thief.page().contains("alice bound"), "{}", thief.page());

    let start = Instant::now();
    while browser.cookies().iter().any(|cookie| cookie.name() == BOUND) || thief.page().contains("alice") {
        assert!(start.elapsed() < PATIENCE, "the bound cookie does not end");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(!thief.page().contains("alice"), "{}", thief.page());
    site.take_log();
    browser.goto(&site.url(HOST, "/page"));
    assert_eq!(browser.text("p"), "alice bound 0");
    assert!(!thief.page().contains("alice"), "{}", thief.page());
    let log = site.log();
    assert!(log.iter().any(|seen| seen.path == "/page" && seen.bound && seen.status == 200), "{log:?}");
}

#[test]
fn a_cookie_that_the_server_does_not_accept_is_replaced_before_the_page() {
    let site = Site::start(10 * MINUTE);
    let Some(browser) = site.browser() else { return };
    site.bind(&browser);
    let thief = site.thief(&browser.cookies());
    site.clock.advance(10 * MINUTE);
    browser.goto(&site.url(HOST, "/page?x=1"));
    assert_eq!(browser.text("p"), "alice bound 0");
    assert!(browser.url().ends_with("/page?x=1"), "{}", browser.url());
    let log: Vec<_> = site.take_log().into_iter().filter(|seen| seen.path == "/page").map(|seen| seen.status).collect();
    assert_eq!(log, [307, 200]);
    assert!(!thief.page().contains("alice"));
}

#[test]
fn a_link_on_another_site_leads_to_a_page_with_the_session() {
    let site = Site::start(10 * MINUTE);
    let Some(browser) = site.browser() else { return };
    site.bind(&browser);
    browser.delete_cookie(BOUND);
    browser.goto(&site.url(OTHER, "/link"));
    site.take_log();
    browser.follow("a");
    assert_eq!(browser.text("p"), "alice bound 0");
    let log = site.take_log();
    assert!(log.iter().all(|seen| seen.path != "/page" || seen.bound), "{log:?}");
}

#[test]
fn the_showcase_binds_its_sessions() {
    let site = Site::showcase();
    let Some(browser) = site.browser() else { return };
    browser.goto(&site.url(HOST, "/sign-in"));
    browser.fill("input[name=name]", "alice");
    browser.follow("main form button");
    assert_eq!(browser.text("header .who"), "alice");
    site.wait_for_registration(&browser, "/device-bound-session");
    browser.goto(&site.url(HOST, "/devices"));
    assert!(browser.text(".devices").contains("bound to the device"), "{}", browser.text(".devices"));
    browser.delete_cookie(BOUND);
    site.take_log();
    browser.goto(&site.url(HOST, "/cart"));
    assert_eq!(browser.text("header .who"), "alice");
    assert!(site.log().iter().all(|seen| seen.path != "/cart" || seen.bound), "{:?}", site.log());
    browser.follow("header form button");
    assert_eq!(browser.cookies(), [] as [Cookie<'_>; 0]);
}

#[test]
fn the_browser_forgets_its_key_once_the_session_has_ended() {
    let site = Site::start(10 * MINUTE);
    let Some(browser) = site.browser() else { return };
    site.bind(&browser);
    browser.goto(&site.url(HOST, "/log-out"));
    assert_eq!(browser.text("p"), "logged out");
    assert_eq!(browser.cookies(), [] as [Cookie<'_>; 0]);
    site.take_log();
    for _ in 0..3 {
        browser.goto(&site.url(HOST, "/page"));
        assert_eq!(browser.text("p"), "- unbound 0");
    }
    let refreshes = site.log().iter().filter(|seen| seen.path == PATH).count();
    assert_eq!(refreshes, 1, "it asked once, and was told: {:?}", site.log());
    // And a login after that is bound again.
    site.bind(&browser);
    browser.goto(&site.url(HOST, "/page"));
    assert_eq!(browser.text("p"), "alice bound 0");
}
