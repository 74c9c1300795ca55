//! The showcase, request by request. The tests in `browser` look at it through a real browser.
use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use cloakroom::{BoxedCache, Clock, InMemoryCache};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::programs::showcase;
#[cfg(feature = "redis")]
use crate::support::redis_server;

fn shop() -> Router {
    showcase::app(BoxedCache::new(InMemoryCache::new()))
}

/// A browser as far as it matters here: it keeps the session cookie and follows redirects.
#[derive(Clone)]
struct Visitor {
    shop: Router,
    cookie: Option<String>,
}

struct Page {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn cookie(&self) -> Option<&str> {
        self.headers.get(header::SET_COOKIE).map(|cookie| cookie.to_str().unwrap())
    }

    fn has(&self, text: &str) -> bool {
        self.text.contains(text)
    }

    /// What stands between these two.
    fn between(&self, before: &str, after: &str) -> &str {
        self.text.split_once(before).unwrap().1.split_once(after).unwrap().0
    }

    /// What the panel says of the session: of the form, if there was one, and of the page.
    fn outcomes(&self) -> Vec<&str> {
        let chips = self.text.split("<dt>Session</dt><dd><b class=\"chip ").skip(1);
        chips.map(|chip| chip.split('"').next().unwrap()).collect()
    }

    /// What the panel says that the cache was asked.
    fn operations(&self) -> Vec<&str> {
        let panel = self.text.split("<aside").nth(1).unwrap();
        panel.split("<li><code>").skip(1).map(|row| row.split("</code>").next().unwrap()).collect()
    }
}

impl Visitor {
    fn new(shop: &Router) -> Self {
        Self { shop: shop.clone(), cookie: None }
    }

    async fn signed_in(shop: &Router, name: &str) -> Self {
        let mut visitor = Self::new(shop);
        let page = visitor.post("/sign-in", &format!("name={name}")).await;
        assert!(page.has("Welcome"));
        visitor
    }

    async fn get(&mut self, path: &str) -> Page {
        self.send(Request::get(path), Body::empty()).await
    }

    /// Sends a form, and gets the page behind the redirect.
    async fn post(&mut self, path: &str, fields: &str) -> Page {
        let page = self.post_only(path, fields).await;
        match page.headers.get(header::LOCATION) {
            Some(location) => self.get(location.to_str().unwrap()).await,
            None => page,
        }
    }

    async fn post_only(&mut self, path: &str, fields: &str) -> Page {
        self.post_from(&[("sec-fetch-site", "same-origin")], path, fields).await
    }

    /// Sends a form with the headers that a browser adds for the site that the form is on.
    async fn post_from(&mut self, site: &[(&str, &str)], path: &str, fields: &str) -> Page {
        let mut request = Request::post(path)
            .header(header::HOST, "shop.example")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        for (name, value) in site {
            request = request.header(*name, *value);
        }
        self.send(request, Body::from(fields.to_owned())).await
    }

    async fn send(&mut self, mut request: axum::http::request::Builder, body: Body) -> Page {
        if let Some(cookie) = &self.cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = self.shop.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let page =
            Page { status: head.status, headers: head.headers, text: String::from_utf8(bytes.to_vec()).unwrap() };
        if let Some(cookie) = page.cookie() {
            let removed = cookie.contains("Max-Age=0");
            self.cookie = (!removed).then(|| cookie.split(';').next().unwrap().to_owned());
        }
        page
    }
}

/// Sends this many additions of one visitor at once. Returns how many were accepted, and how many are in the cart then. On a
/// busy machine a request may be over its deadline.
async fn fill_at_once(visitor: &mut Visitor, shops: &[Router], requests: usize) -> (usize, usize) {
    let busy = |page: &Page| page.status == StatusCode::SERVICE_UNAVAILABLE;
    while busy(&visitor.post_only("/sign-in", "name=alice").await) {}
    let mut running = JoinSet::new();
    for number in 0..requests {
        let mut tab = Visitor { shop: shops[number % shops.len()].clone(), ..visitor.clone() };
        let item = ["Umbrella", "Hat", "Scarf"][number % 3];
        running.spawn(async move { tab.post_only("/cart/tab", &format!("item={item}")).await.status });
    }
    let statuses = running.join_all().await;
    assert!(statuses.iter().all(|status| [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(status)));
    let accepted = statuses.iter().filter(|status| **status == StatusCode::OK).count();
    loop {
        let page = visitor.get("/cart/count").await;
        if !busy(&page) {
            return (accepted, page.text.parse().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cart_that_32_requests_fill_at_once_has_32_items() {
    let shop = shop();
    let mut visitor = Visitor::new(&shop);
    assert_eq!(fill_at_once(&mut visitor, &[shop], 32).await, (32, 32));
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread")]
async fn nor_is_an_item_lost_between_two_processes_on_redis() {
    let server = redis_server::RedisServer::start();
    let mut shops = Vec::new();
    for _ in 0..2 {
        let cache = cloakroom::RedisCache::connect(&server.url()).await.unwrap();
        shops.push(showcase::app(BoxedCache::new(cache)));
    }
    let mut visitor = Visitor::new(&shops[0]);
    let (accepted, arrived) = fill_at_once(&mut visitor, &shops, 32).await;
    // What was over its deadline may have arrived all the same.
    assert!(accepted > 0 && (accepted..=32).contains(&arrived), "{accepted} accepted, {arrived} arrived");
}

#[tokio::test]
async fn who_only_looks_stores_nothing() {
    let cache = InMemoryCache::new();
    let shop = showcase::app(BoxedCache::new(cache.clone()));
    let mut visitor = Visitor::new(&shop);
    for path in ["/", "/cart", "/sign-in", "/sign-in?note=name", "/nowhere"] {
        let page = visitor.get(path).await;
        assert_eq!((page.cookie(), page.outcomes()), (None, vec!["none"]), "{path}");
        assert!(page.has("was not asked"), "{path}");
    }
    for path in ["/cart/count", "/devices", "/confirm", "/notices"] {
        assert_eq!(visitor.get(path).await.cookie(), None, "{path}");
    }
    assert_eq!(cache.len(), 0);
    let css = visitor.get("/style.css").await;
    assert_eq!((css.headers.get(header::VARY), css.cookie()), (None, None), "outside of the layer");
}

#[tokio::test]
async fn forms_of_a_stranger_store_nothing_but_a_cart() {
    let cache = InMemoryCache::new();
    let shop = showcase::app(BoxedCache::new(cache.clone()));
    let mut visitor = Visitor::new(&shop);
    for (path, fields, answer) in [
        ("/sign-in", "name=", "A name has 1 to 64 bytes."),
        ("/order", "", "Please sign in first. Your cart stays."),
        ("/confirm", "name=alice", "<h1>Sign in</h1>"),
        ("/cart/add", "item=%3Cscript%3E", "Nothing yet."),
        ("/cart/remove", "item=Hat", "Nothing yet."),
        ("/cart/empty", "", "Nothing yet."),
        ("/sign-out", "", "<h1>Try a session</h1>"),
        ("/devices/revoke", "", "<h1>Sign in</h1>"),
        ("/devices/revoke-others", "", "<h1>Sign in</h1>"),
        ("/devices/revoke-all", "", "<h1>Try a session</h1>"),
    ] {
        let page = visitor.post(path, fields).await;
        assert!(page.has(answer), "{path}: {}", page.text);
        assert_eq!(page.outcomes(), ["none", "none"], "{path}: the report of the form comes with the page");
        assert_eq!((page.cookie(), &visitor.cookie), (None, &None), "{path}");
    }
    assert_eq!(cache.len(), 0);
    let page = visitor.get("/sign-in?note=%3Cscript%3E").await;
    assert!(!page.has("class=flash"), "no text from the address");
    visitor.post("/cart/add", "item=Hat").await;
    assert_eq!(cache.len(), 1);
}

#[tokio::test]
async fn the_panel_says_what_a_page_cost() {
    let mut visitor = Visitor::new(&shop());
    let added = visitor.post_only("/cart/add", "item=Scarf").await;
    let timing = added.headers["server-timing"].to_str().unwrap();
    assert!(timing.starts_with("cache;dur=") && timing.contains("desc=\"insert\", total;dur="), "{timing}");
    let page = visitor.get(added.headers[header::LOCATION].to_str().unwrap()).await;
    assert_eq!((page.outcomes(), page.operations()), (vec!["created", "loaded"], vec!["insert", "get"]));
    let id = visitor.cookie.clone().unwrap();
    assert!(page.has("__Host-id=••••••••") && !page.has(id.strip_prefix("__Host-id=").unwrap()));
    assert_eq!(page.headers[header::CACHE_CONTROL], "no-store");

    let page = visitor.get("/cart").await;
    assert_eq!((page.outcomes(), page.operations(), page.cookie()), (vec!["loaded"], vec!["get"], None));
    let page = visitor.post("/cart/add", "item=Hat").await;
    assert_eq!((page.outcomes(), page.operations()), (vec!["written", "loaded"], vec!["get", "replace", "get"]));
    let page = visitor.get("/cart?after=0").await;
    assert_eq!(page.outcomes(), ["loaded"], "a report is shown once");
}

#[tokio::test]
async fn the_cart_takes_what_the_shop_has_and_gives_it_back() {
    let mut visitor = Visitor::new(&shop());
    for item in ["Hat", "Hat", "Coat", "%3Cscript%3E"] {
        visitor.post("/cart/add", &format!("item={item}")).await;
    }
    let page = visitor.get("/cart").await;
    assert_eq!(page.between("id=total>", "<"), "3");
    assert!(!page.has("<script>"));
    for item in ["Hat", "Coat", "Coat", "Boots"] {
        visitor.post("/cart/remove", &format!("item={item}")).await;
    }
    assert_eq!(visitor.get("/cart/count").await.text, "1");
    let page = visitor.post("/cart/empty", "").await;
    assert!(page.has("The cart is empty.") && page.has("Nothing yet."));
    assert!(!visitor.get("/cart").await.has("The cart is empty."), "a message is shown once");
}

#[tokio::test]
async fn a_sign_in_renews_and_keeps_the_cart() {
    let shop = shop();
    let mut visitor = Visitor::new(&shop);
    visitor.post("/cart/add", "item=Umbrella").await;
    let mut planted = visitor.clone();

    assert!(visitor.post("/sign-in", "name=").await.has("1 to 64"));
    let page = visitor.post("/sign-in", "name=%3Cb%3Ealice").await;
    assert_eq!(page.outcomes()[0], "renewed");
    assert!(page.has("Welcome, &lt;b&gt;alice.") && !page.has("<b>alice"));
    assert_eq!(page.between("id=total>", "<"), "1");
    assert_ne!(visitor.cookie, planted.cookie);

    let page = planted.get("/devices").await;
    assert_eq!(
        (page.status, page.headers[header::LOCATION].to_str().unwrap().starts_with("/sign-in")),
        (StatusCode::SEE_OTHER, true)
    );
    assert_eq!(planted.get("/cart/count").await.text, "0");
    let page = visitor.post("/sign-in", "name=bob").await;
    assert!(page.has("signed in already"));
}

#[tokio::test]
async fn only_who_asks_is_remembered() {
    for (fields, days) in [("name=alice", None), ("name=alice&remember=yes", Some(180))] {
        let mut visitor = Visitor::new(&shop());
        let page = visitor.post_only("/sign-in", fields).await;
        let seconds = page.cookie().unwrap().split("Max-Age=").nth(1).map(|rest| rest.split(';').next().unwrap());
        let rounded_up = seconds.map(|seconds| seconds.parse::<u64>().unwrap().div_ceil(86_400));
        assert_eq!(rounded_up, days);
    }
}

#[tokio::test]
async fn a_form_from_another_site_does_nothing() {
    let cache = InMemoryCache::new();
    let shop = showcase::app(BoxedCache::new(cache.clone()));
    let mut stranger = Visitor::new(&shop);
    // The message of the sign-in is still to be shown.
    let mut alice = Visitor::new(&shop);
    alice.post_only("/sign-in", "name=alice").await;
    for site in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://other.example")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://other.example")],
        &[("origin", "null")],
    ] {
        for path in ["/cart/add", "/cart/tab", "/sign-in", "/sign-out", "/devices/revoke-all", "/order"] {
            for visitor in [&mut alice, &mut stranger] {
                let page = visitor.post_from(site, path, "item=Hat&name=mallory").await;
                assert_eq!(page.status, StatusCode::FORBIDDEN, "{path} {site:?}");
                assert!(page.has("sent from another site") && page.has("<aside class=panel>"), "{path} {site:?}");
                assert!(page.cookie().is_none() && ["none", "loaded"].contains(&page.outcomes()[0]), "{path} {site:?}");
            }
        }
    }
    assert_eq!(cache.len(), 1, "the session of alice");
    let page = alice.get("/cart").await;
    assert!(page.has("Welcome, alice.") && page.has("Nothing yet."));
    // A browser without `Sec-Fetch-Site` names the origin.
    let page = alice.post_from(&[("origin", "https://shop.example")], "/cart/add", "item=Hat").await;
    assert_eq!((page.status, alice.get("/cart/count").await.text.as_str()), (StatusCode::SEE_OTHER, "1"));
}

#[tokio::test]
async fn devices_are_ended_one_by_one_and_all_at_once() {
    let shop = shop();
    let mut desk = Visitor::signed_in(&shop, "alice").await;
    let mut phone = Visitor::signed_in(&shop, "alice").await;
    let mut bob = Visitor::signed_in(&shop, "bob").await;

    let page = desk.get("/devices").await;
    assert_eq!(page.text.matches("action=/devices/revoke>").count(), 1, "one other device, and not bob's");
    let key = page.between("name=key value=", " ").to_owned();
    assert!(bob.post("/devices/revoke", &format!("key={key}")).await.has("already"), "not bob's to end");
    assert!(phone.get("/cart").await.has("alice"));
    assert!(desk.post("/devices/revoke", &format!("key={key}")).await.has("That device is signed out."));
    let page = phone.get("/cart").await;
    assert!(!page.has("alice") && page.outcomes() == ["none"], "signed out at the next click");
    assert_eq!(desk.post("/devices/revoke", "key=x").await.status, StatusCode::UNPROCESSABLE_ENTITY);

    let mut phone = Visitor::signed_in(&shop, "alice").await;
    let mut tablet = Visitor::signed_in(&shop, "alice").await;
    desk.get("/devices").await;
    assert!(desk.post("/devices/revoke-others", "").await.has("2 other devices"));
    assert_eq!(phone.get("/devices").await.status, StatusCode::SEE_OTHER);

    let mut phone = Visitor::signed_in(&shop, "alice").await;
    let page = desk.post("/devices/revoke-all", "").await;
    assert_eq!(page.outcomes()[0], "ended");
    for visitor in [&mut desk, &mut phone, &mut tablet] {
        assert_eq!(visitor.get("/devices").await.status, StatusCode::SEE_OTHER);
    }
    assert!(bob.get("/devices").await.has("bob"));
}

#[tokio::test]
async fn a_sign_out_is_final() {
    let shop = shop();
    let mut alice = Visitor::signed_in(&shop, "alice").await;
    let mut stolen = alice.clone();
    let page = alice.post_only("/sign-out", "").await;
    let removal = page.cookie().unwrap();
    assert!(
        removal.starts_with("__Host-id=;") && removal.contains("Secure") && removal.contains("Path=/"),
        "{removal}"
    );
    assert_eq!(alice.cookie, None);
    let page = stolen.get("/").await;
    assert!(page.has("the cookie belongs to no live session") && !page.has("alice") && page.cookie().is_none());
    let page = stolen.post("/cart/add", "item=Hat").await;
    assert!(page.outcomes() == ["created", "loaded"] && !page.has("alice"), "a visitor like any other");
}

#[tokio::test]
async fn an_order_takes_a_recent_sign_in() {
    let clock = Clock::manual();
    let shop = showcase::app_with(BoxedCache::new(InMemoryCache::new()), clock.clone());
    let mut visitor = Visitor::new(&shop);
    visitor.post("/cart/add", "item=Hat").await;
    assert!(visitor.post("/order", "").await.has("Please sign in first. Your cart stays."));
    visitor.post("/sign-in", "name=alice").await;
    visitor.post("/cart/add", "item=Coat").await;
    let page = visitor.post("/order", "").await;
    assert!(page.has("Ordered: 2 things.") && page.has("Nothing yet."));
    assert!(visitor.post("/order", "").await.has("There is nothing in the cart."));

    visitor.post("/cart/add", "item=Hat").await;
    clock.advance(Duration::from_secs(61));
    let page = visitor.post("/order", "").await;
    assert!(page.has("Is it still you?") && visitor.get("/cart").await.has("Place the order"), "nothing was ordered");
    assert!(visitor.post("/confirm", "name=bob").await.has("That is another name."));
    assert!(visitor.post("/order", "").await.has("Is it still you?"));
    let before = visitor.cookie.clone();
    let page = visitor.post("/confirm", "name=alice").await;
    assert!(page.has("You can place your order now.") && page.outcomes()[0] == "renewed");
    assert_ne!(visitor.cookie, before);
    assert!(visitor.post("/order", "").await.has("Ordered: one thing."));
    assert_eq!(Visitor::new(&shop).get("/confirm").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_orders_at_once_one_gets_the_cart() {
    let shop = shop();
    let mut visitor = Visitor::signed_in(&shop, "alice").await;
    visitor.post("/cart/add", "item=Hat").await;
    let (mut one, mut other) = (visitor.clone(), visitor.clone());
    tokio::join!(one.post_only("/order", ""), other.post_only("/order", ""));
    assert_eq!(visitor.get("/cart/count").await.text, "0");
}

#[tokio::test]
async fn an_address_without_a_page_has_a_page_of_its_own() {
    let shop = shop();
    let page = Visitor::new(&shop).get("/nowhere").await;
    assert_eq!((page.status, page.cookie()), (StatusCode::NOT_FOUND, None));
    assert!(page.has("There is no page at this address.") && page.has("<aside class=panel>"));
    assert!(Visitor::signed_in(&shop, "alice").await.get("/nowhere").await.has("alice"));
}

#[tokio::test]
async fn an_open_page_is_told_of_the_sign_out() {
    let shop = shop();
    let mut alice = Visitor::signed_in(&shop, "alice").await;
    let page = alice.get("/cart").await;
    assert!(page.has("<script src=/notices.js defer>"));
    let mut tab = alice.clone();
    let stream = tokio::spawn(async move { tab.get("/notices").await.text });
    tokio::task::yield_now().await;
    alice.post("/cart/add", "item=Hat").await;
    assert!(!stream.is_finished(), "a change does not end it");
    alice.post("/sign-out", "").await;
    let text = tokio::time::timeout(Duration::from_secs(20), stream).await.unwrap().unwrap();
    assert_eq!(text, "retry: 200\n\n: the session ended\n\n");
    // The browser connects again.
    assert_eq!(alice.get("/notices").await.text, "retry: 200\n\nevent: signed-out\ndata: signed out\n\n");
    assert!(!alice.get("/cart").await.has("notices.js"));
}
