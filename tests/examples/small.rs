//! The smaller examples do what they say.
use std::{collections::BTreeMap, fmt::Debug, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header},
};
use bytes::Bytes;
use cloakroom::{InMemoryCache, SessionStore};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use crate::programs::{counter, hyper_example, login, store};
#[cfg(feature = "redis")]
use crate::{programs::redis_example, support::redis_server};

/// A browser as far as it matters here: it keeps cookies and sends them back.
struct Browser {
    app: Router,
    jar: BTreeMap<String, String>,
    agent: &'static str,
}

/// What came back.
struct Page {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn set_cookie(&self) -> Vec<&str> {
        self.headers.get_all(header::SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

impl Browser {
    fn new(app: &Router, agent: &'static str) -> Self {
        Self { app: app.clone(), jar: BTreeMap::new(), agent }
    }

    /// Another browser that sends the same cookies, as from a copy of them.
    fn copy(&self) -> Self {
        Self { app: self.app.clone(), jar: self.jar.clone(), agent: "copy" }
    }

    async fn get(&mut self, path: &str) -> Page {
        self.send(Request::get(path), Body::empty()).await
    }

    async fn post(&mut self, path: &str, form: &str) -> Page {
        let form_type = "application/x-www-form-urlencoded";
        self.send(Request::post(path).header(header::CONTENT_TYPE, form_type), Body::from(form.to_owned())).await
    }

    async fn send(&mut self, request: axum::http::request::Builder, body: Body) -> Page {
        let mut request = request.header(header::USER_AGENT, self.agent).body(body).unwrap();
        let cookies: Vec<_> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request.headers_mut().insert(header::COOKIE, cookies.join("; ").parse().unwrap());
        }
        let page = read(self.app.clone().oneshot(request).await.unwrap()).await;
        for cookie in page.set_cookie() {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
        page
    }

    fn id(&self) -> Option<&str> {
        self.jar.get("__Host-id").map(String::as_str)
    }
}

async fn read<B>(response: Response<B>) -> Page
where
    B: hyper::body::Body,
    B::Error: Debug,
{
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Page { status: head.status, headers: head.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}

#[tokio::test]
async fn the_counter_counts_and_says_nothing_more_than_it_must() {
    let app = counter::app();
    let mut browser = Browser::new(&app, "one");
    assert!(browser.get("/about").await.headers.get(header::SET_COOKIE).is_none());
    assert!(browser.get("/peek").await.set_cookie().is_empty(), "reading makes no session");

    let first = browser.get("/").await;
    assert_eq!((first.status, first.text.as_str()), (StatusCode::OK, "visits: 1\n"));
    let cookie = first.set_cookie();
    assert_eq!(cookie.len(), 1);
    for attribute in ["; HttpOnly", "; SameSite=Lax", "; Secure", "; Path=/"] {
        assert!(cookie[0].contains(attribute), "{cookie:?}");
    }
    assert!(cookie[0].starts_with("__Host-id=") && !cookie[0].contains("Max-Age"));

    let again = browser.get("/").await;
    assert_eq!(again.text, "visits: 2\n");
    assert!(again.set_cookie().is_empty(), "the browser has the cookie");
    let peek = browser.get("/peek").await;
    assert_eq!(peek.text, "visits so far: 2\n");
    assert!(peek.set_cookie().is_empty());
    assert_eq!(peek.headers[header::VARY], "Cookie");
    let about = browser.get("/about").await;
    assert!(about.headers.get(header::VARY).is_none() && about.set_cookie().is_empty());
    assert_eq!(Browser::new(&app, "two").get("/").await.text, "visits: 1\n");
}

#[tokio::test]
async fn an_invented_id_opens_nothing_and_is_not_adopted() {
    let mut browser = Browser::new(&counter::app(), "one");
    browser.jar.insert("__Host-id".into(), "A".repeat(32));
    assert_eq!(browser.get("/").await.text, "visits: 1\n");
    assert_ne!(browser.id(), Some("A".repeat(32).as_str()));
}

#[tokio::test]
async fn a_login_renews_and_a_logout_is_final() {
    let app = login::app();
    let mut browser = Browser::new(&app, "one");
    let before = browser.get("/").await;
    assert!(before.text.contains("Sign in") && before.set_cookie().is_empty(), "no session without a login");

    let refused = browser.post("/login", "name=").await;
    assert_eq!(refused.headers[header::LOCATION], "/?error=name");
    let page = browser.get("/?error=name").await;
    assert!(page.text.contains("1 to 64") && refused.set_cookie().is_empty() && page.set_cookie().is_empty());

    let page = browser.post("/login", "name=alice").await;
    assert_eq!((page.status, &page.headers[header::LOCATION]), (StatusCode::SEE_OTHER, &HeaderValue::from_static("/")));
    let page = browser.get("/").await;
    assert!(page.text.contains("Signed in as <b>alice</b>, 0 min ago") && page.text.contains("Welcome."));
    assert!(!browser.get("/").await.text.contains("Welcome."), "shown once");

    let mut before = browser.copy();
    browser.post("/login", "name=alice").await;
    assert_ne!(browser.id(), before.id(), "renewed");
    assert!(before.get("/").await.text.contains("Sign in"), "the ID from before the login is no session");

    let mut stolen = browser.copy();
    let page = browser.post("/logout", "").await;
    let removal = page.set_cookie();
    assert!(removal.len() == 1 && removal[0].starts_with("__Host-id=;") && removal[0].contains("Max-Age=0"));
    assert!(removal[0].contains("; Secure") && removal[0].contains("; Path=/"), "{removal:?}");
    assert_eq!(browser.id(), None);
    let page = stolen.get("/").await;
    assert!(page.text.contains("Sign in") && page.set_cookie().is_empty());
}

#[tokio::test]
async fn only_who_asks_is_remembered() {
    let app = login::app();
    let page = Browser::new(&app, "one").post("/login", "name=alice").await;
    assert!(!page.set_cookie()[0].contains("Max-Age"));
    let page = Browser::new(&app, "two").post("/login", "name=alice&remember=yes").await;
    let seconds = page.set_cookie()[0].split("Max-Age=").nth(1).unwrap().split(';').next().unwrap().parse::<u64>();
    assert!((179 * 86_400..=180 * 86_400).contains(&seconds.unwrap()));
}

#[tokio::test]
async fn the_page_of_devices_lists_escapes_and_ends() {
    let app = login::app();
    let (mut one, mut two) = (Browser::new(&app, "one"), Browser::new(&app, "<script>\"two\"&"));
    let mut other = Browser::new(&app, "three");
    for (browser, name) in [(&mut one, "name=alice"), (&mut two, "name=alice"), (&mut other, "name=%3Ci%3Ebob")] {
        browser.post("/login", name).await;
    }
    assert!(other.get("/").await.text.contains("<b>&lt;i&gt;bob</b>"));

    let page = one.get("/devices").await;
    assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");
    assert!(page.text.contains("&lt;script&gt;&quot;two&quot;&amp;") && !page.text.contains("<script>"));
    assert!(page.text.contains("this device") && !page.text.contains("three"));
    for id in [one.id().unwrap(), two.id().unwrap(), other.id().unwrap()] {
        assert!(!page.text.contains(id), "an ID in a page can be used by its readers");
    }

    // The key that the page names ends the other device; bob cannot use it.
    let key = page.text.split("name=key value=\"").nth(1).unwrap().split('"').next().unwrap();
    other.post("/devices/revoke", &format!("key={key}")).await;
    assert!(two.get("/").await.text.contains("alice"), "not bob's to end");
    one.post("/devices/revoke", &format!("key={key}")).await;
    assert!(one.get("/devices").await.text.contains("That device is signed out."));
    assert!(two.get("/").await.text.contains("Sign in"));

    two.post("/login", "name=alice").await;
    one.post("/devices/revoke-others", "").await;
    assert!(two.get("/").await.text.contains("Sign in") && one.get("/").await.text.contains("alice"));

    two.post("/login", "name=alice").await;
    let page = one.post("/devices/revoke-all", "").await;
    assert!(page.set_cookie()[0].contains("Max-Age=0"));
    for browser in [&mut one, &mut two] {
        assert!(browser.get("/").await.text.contains("Sign in"));
    }
    assert!(other.get("/").await.text.contains("bob"));
}

#[tokio::test]
async fn other_sites_cannot_send_the_forms() {
    let app = login::app();
    let mut browser = Browser::new(&app, "one");
    browser.post("/login", "name=alice").await;
    let forged = Request::post("/logout").header("sec-fetch-site", "cross-site");
    assert_eq!(browser.send(forged, Body::empty()).await.status, StatusCode::FORBIDDEN);
    assert!(browser.get("/").await.text.contains("alice"));
}

#[tokio::test]
async fn the_store_tells_its_story_and_no_id() {
    let story = store::run(&SessionStore::new(InMemoryCache::new())).await.unwrap();
    assert_eq!(story[1..], ["with a hat: 2 items", "loaded: alice with umbrella, hat", "destroyed: gone everywhere"]);
    assert!(!story[0].contains(|c: char| c.is_ascii_digit()), "{}", story[0]);
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn processes_on_one_redis_share_a_session() {
    let server = redis_server::RedisServer::start();
    let mut browser = Browser::new(&redis_example::app(&server.url()).await.unwrap(), "one");
    let first = browser.get("/").await;
    assert_eq!((first.text.as_str(), first.set_cookie().len()), ("visits: 1\n", 1));
    // All that a second process shares with the first is the server.
    browser.app = redis_example::app(&server.url()).await.unwrap();
    let second = browser.get("/").await;
    assert_eq!((second.text.as_str(), second.set_cookie().len()), ("visits: 2\n", 0));
    let peek = browser.get("/peek").await;
    assert_eq!((peek.text.as_str(), peek.set_cookie().len()), ("visits so far: 2\n", 0));
}

async fn hyper_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(hyper_example::serve(listener));
    address
}

/// One request on a connection of its own; each of `cookies` is a header field of its own.
async fn ask(address: SocketAddr, version: Version, path: &str, cookies: &[&str]) -> Page {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let mut request = Request::get(format!("http://{address}{path}")).body(Empty::<Bytes>::new()).unwrap();
    for cookie in cookies {
        request.headers_mut().append(header::COOKIE, cookie.parse().unwrap());
    }
    let response = if version == Version::HTTP_2 {
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        client.send_request(request).await.unwrap()
    } else {
        let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        request.headers_mut().insert(header::HOST, address.to_string().parse().unwrap());
        client.send_request(request).await.unwrap()
    };
    assert_eq!(response.version(), version);
    read(response).await
}

#[tokio::test]
async fn hyper_serves_one_session_over_http_1_and_2() {
    let address = hyper_server().await;
    let first = ask(address, Version::HTTP_11, "/", &[]).await;
    assert_eq!((first.status, first.text.as_str()), (StatusCode::OK, "visits: 1\n"));
    let cookie = first.set_cookie()[0].split(';').next().unwrap().to_owned();

    let second = ask(address, Version::HTTP_2, "/", &[&cookie]).await;
    assert_eq!(second.text, "visits: 2\n");
    assert!(second.set_cookie().is_empty());
    // HTTP/2 may split cookies into crumbs, one field each (RFC 9113, section 8.2.3).
    let crumbs = ask(address, Version::HTTP_2, "/", &["theme=dark", &cookie, "lang=en"]).await;
    assert_eq!(crumbs.text, "visits: 3\n");
    let joined = ask(address, Version::HTTP_11, "/peek", &[&format!("theme=dark; {cookie}; lang=en")]).await;
    assert_eq!(joined.text, "visits so far: 3\n");
    assert!(joined.set_cookie().is_empty());
    assert_eq!(ask(address, Version::HTTP_2, "/", &[]).await.text, "visits: 1\n");
}
