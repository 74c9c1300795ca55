//! The showcase in a real browser.
//!
//! What a person should look at is in `target/screenshots/` afterwards.
use std::{
    net::TcpListener,
    path::Path,
    thread,
    time::{Duration, SystemTime},
};

use cloakroom::{BoxedCache, InMemoryCache};
use cookie::{Cookie, SameSite};

use crate::{programs::showcase, support::browser::Browser};

/// Serves the shop, with sessions of its own, as long as the tests run.
fn shop() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://localhost:{}", listener.local_addr().unwrap().port());
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, showcase::app(BoxedCache::new(InMemoryCache::new()))).await.unwrap();
        });
    });
    url
}

impl Browser {
    fn sign_in(&self, shop: &str, name: &str) {
        self.goto(&format!("{shop}/sign-in"));
        self.fill("input[name=name]", name);
        self.follow("main form button");
        assert_eq!(self.text("header .who"), name);
    }

    /// The page that is open hears of no sign-out, as without JavaScript.
    fn stop_notices(&self) {
        self.run("source.close()");
    }

    fn session_cookie(&self) -> Option<Cookie<'static>> {
        self.cookies().into_iter().find(|cookie| cookie.name() == "__Host-id")
    }

    fn source(&self) -> String {
        self.run("return document.documentElement.outerHTML").as_str().unwrap().to_owned()
    }
}

const SIGN_OUT: &str = "header form button";

#[test]
fn the_cookie_is_accepted_hidden_from_scripts_and_gone_after_the_sign_out() {
    let Some(browser) = Browser::start() else { return };
    let shop = shop();
    for path in ["", "/sign-in", "/devices", "/cart"] {
        browser.goto(&format!("{shop}{path}"));
        assert_eq!(browser.cookies(), [] as [Cookie<'_>; 0], "a visitor who only looks gets no cookie");
    }
    browser.follow("button[value=Umbrella]");
    let cookie = browser.session_cookie().expect("accepted, with its prefix, on http://localhost");
    assert_eq!((cookie.secure(), cookie.http_only()), (Some(true), Some(true)));
    assert_eq!((cookie.path(), cookie.same_site()), (Some("/"), Some(SameSite::Lax)));
    assert_eq!((cookie.domain(), cookie.expires_datetime()), (Some("localhost"), None));
    assert_eq!(browser.run("return document.cookie"), "");

    browser.sign_in(&shop, "alice");
    let renewed = browser.session_cookie().expect("still there");
    assert_ne!(renewed.value(), cookie.value());
    assert_eq!(browser.text("#total"), "1", "what was in the cart stays");
    assert_eq!(browser.run("return document.cookie"), "");

    browser.follow(SIGN_OUT);
    assert_eq!(browser.cookies(), [] as [Cookie<'_>; 0]);
    browser.goto(&format!("{shop}/devices"));
    assert!(browser.url().contains("/sign-in"));
}

#[test]
fn who_asks_to_be_remembered_has_a_cookie_that_outlives_the_browser() {
    let Some(browser) = Browser::start() else { return };
    let shop = shop();
    browser.goto(&format!("{shop}/sign-in"));
    browser.fill("input[name=name]", "alice");
    browser.click("input[name=remember]");
    browser.follow("main form button");
    let expiry = browser.session_cookie().unwrap().expires_datetime().expect("an end");
    let days = |days: u64| SystemTime::now() + Duration::from_secs(days * 86_400);
    assert!(expiry > days(179) && expiry <= days(180), "{expiry}");
}

#[test]
fn two_tabs_lose_nothing() {
    let Some(browser) = Browser::start() else { return };
    let shop = shop();
    browser.sign_in(&shop, "alice");
    let one = browser.tab();
    let other = browser.new_tab();
    browser.goto(&format!("{shop}/cart"));
    let send = "document.querySelector('#tabs').requestSubmit()";
    // Both send at once; the second page was loaded before the first one changed anything.
    browser.run(send);
    browser.switch_to(&one);
    browser.run(send);
    let arrived = |text: &str| text.contains("arrived");
    let verdicts = [browser.wait_for("#verdict", arrived), {
        browser.switch_to(&other);
        browser.wait_for("#verdict", arrived)
    }];
    for verdict in verdicts {
        assert!(verdict.starts_with("24 of 24 accepted"), "{verdict}");
    }
    // And by hand, in turns.
    for tab in [&one, &other, &one, &other] {
        browser.switch_to(tab);
        browser.follow("button[value=Hat]");
    }
    browser.reload();
    assert_eq!(browser.text("#total"), "52");
}

#[test]
fn the_button_with_many_tabs_says_that_nothing_was_lost() {
    let Some(browser) = Browser::start() else { return };
    let shop = shop();
    browser.goto(&format!("{shop}/cart"));
    assert!(browser.session_cookie().is_none(), "the button makes the session");
    browser.fill("input[name=tabs]", "40");
    browser.click("#tabs button");
    let verdict = browser.wait_for("#verdict", |text| text.contains("arrived"));
    assert!(verdict.contains("40 of 40 accepted") && verdict.contains("40 arrived, 0 lost"), "{verdict}");
    assert_eq!(browser.text("#total"), "40", "the list was empty when the page came");

    browser.follow("#list form[action='/cart/empty'] button");
    browser.follow("button[value=Hat]");
    browser.click("#tabs button");
    browser.wait_for("#verdict", |text| text.contains("24 arrived"));
    assert_eq!(browser.text("#total"), "25", "the page shows the cart as it is");
    assert_eq!(browser.text("#list .total span"), "Total");
    browser.reload();
    assert_eq!(browser.text("#total"), "25");
}

#[test]
fn a_device_that_was_revoked_is_signed_out_at_its_next_click() {
    let (Some(desk), Some(phone)) = (Browser::start(), Browser::start()) else { return };
    let shop = shop();
    desk.sign_in(&shop, "alice");
    phone.sign_in(&shop, "alice");
    phone.stop_notices();
    desk.follow("nav a[href='/devices']");
    desk.follow("main form[action='/devices/revoke'] button");
    assert_eq!(desk.text(".flash"), "That device is signed out.");

    phone.follow("nav a[href='/devices']");
    assert!(phone.url().contains("/sign-in"), "{}", phone.url());
    assert!(!phone.source().contains("alice"));
    assert_eq!(desk.text("header .who"), "alice");

    // And a form that was open there does nothing to the user's sessions.
    phone.sign_in(&shop, "alice");
    phone.follow("nav a[href='/devices']");
    phone.stop_notices();
    desk.goto(&format!("{shop}/devices"));
    desk.follow("main form[action='/devices/revoke-others'] button");
    phone.follow("main form[action='/devices/revoke-all'] button");
    assert!(phone.text("header").contains("Sign in"));
    desk.reload();
    assert_eq!(desk.text("header .who"), "alice");
}

#[test]
fn a_form_on_another_site_is_refused() {
    let Some(browser) = Browser::start() else { return };
    let (shop, other) = (shop(), shop());
    browser.sign_in(&shop, "alice");
    // Another port is another origin of the same site: here `SameSite` keeps no cookie out.
    browser.goto(&format!("{other}/style.css"));
    let form = format!(
        "const form = document.createElement('form'); form.method = 'post'; form.action = '{shop}/sign-out'; \
         form.append(document.createElement('button')); document.body.append(form);"
    );
    browser.run(&form);
    browser.follow("form button");
    assert_eq!(browser.text("h1"), "Form refused");
    browser.goto(&format!("{shop}/cart"));
    assert_eq!(browser.text("header .who"), "alice");
}

const SIGNED_OUT: &str = "You were signed out";

#[test]
fn a_sign_out_in_another_tab_or_from_another_device_shows_at_once() {
    let (Some(desk), Some(phone)) = (Browser::start(), Browser::start()) else { return };
    let shop = shop();
    desk.sign_in(&shop, "alice");
    phone.sign_in(&shop, "alice");
    desk.goto(&format!("{shop}/devices"));
    desk.follow("main form[action='/devices/revoke'] button");
    // The phone does nothing.
    phone.wait_for("h1", |text| text == SIGNED_OUT);
    assert!(!phone.source().contains("alice"));
    phone.follow("header a.button");
    assert!(phone.url().contains("/sign-in"));

    // Another tab renews the session: that is no sign-out. Then it signs out.
    phone.sign_in(&shop, "alice");
    let (one, other) = (phone.tab(), phone.new_tab());
    phone.goto(&format!("{shop}/confirm"));
    phone.fill("input[name=name]", "alice");
    phone.follow("main form button");
    assert!(phone.text(".flash").contains("You can place your order now."));
    phone.switch_to(&one);
    phone.follow("button[value=Hat]");
    assert_eq!(phone.text("header .who"), "alice");
    phone.switch_to(&other);
    phone.follow(SIGN_OUT);
    phone.switch_to(&one);
    phone.wait_for("h1", |text| text == SIGNED_OUT);
    assert_eq!(desk.text("header .who"), "alice", "the desk has a session of its own");
}

#[test]
fn going_back_after_the_sign_out_shows_nothing_private() {
    let Some(browser) = Browser::start() else { return };
    let shop = shop();
    browser.sign_in(&shop, "alice-the-private");
    browser.follow("nav a[href='/devices']");
    browser.follow("nav a[href='/cart']");
    browser.follow(SIGN_OUT);
    for _ in 0..4 {
        browser.back();
        let page = browser.source();
        assert!(!page.contains("alice-the-private"), "{}", browser.url());
        assert!(browser.text("header").contains("Sign in"), "{}", browser.url());
    }
}

#[test]
fn screenshots_to_look_at() {
    let Some(browser) = Browser::start() else { return };
    let shop = shop();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    let shoot = |name: &str| {
        for (width, device) in [(1200, "desktop"), (390, "phone"), (320, "small-phone")] {
            let overflow = browser.screenshot(width, &dir.join(format!("{name}-{device}.png")));
            assert!(overflow <= 0, "{name} is {overflow} pixels wider than a {device}");
        }
    };
    browser.goto(&shop);
    shoot("1-home");
    browser.goto(&format!("{shop}/cart"));
    for item in ["Umbrella", "Hat", "Scarf"] {
        browser.follow(&format!("button[value={item}]"));
    }
    shoot("2-cart");
    browser.follow("#list form[action='/order'] button");
    shoot("3-sign-in");
    browser.sign_in(&shop, "alice");
    shoot("4-signed-in");
    browser.dark(true);
    shoot("4-signed-in-dark");
    browser.dark(false);
    browser.click("#tabs button");
    browser.wait_for("#verdict", |text| text.contains("arrived"));
    shoot("5-many-tabs");
    let other = Browser::start().unwrap();
    other.sign_in(&shop, "alice");
    browser.goto(&format!("{shop}/devices"));
    shoot("6-devices");
    browser.goto(&format!("{shop}/confirm"));
    shoot("7-confirm");
    browser.goto(&format!("{shop}/cart"));
    other.goto(&format!("{shop}/devices"));
    other.follow("main form[action='/devices/revoke-others'] button");
    drop(other);
    browser.wait_for("h1", |text| text == SIGNED_OUT);
    shoot("8-signed-out-elsewhere");
    browser.goto(&format!("{shop}/nowhere"));
    shoot("9-not-found");
}
