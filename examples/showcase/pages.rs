//! What can be looked at. Everything that came from a visitor goes through [`escape`].
use std::time::{Duration, SystemTime};

use axum::{
    extract::Query,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
};
use cloakroom::{Session, SessionError, SessionInfo};
use serde::Deserialize;

use super::{CART, DEVICE, FLASH, panel::GAP, sessions};

/// What the shop has.
pub(super) const ITEMS: [&str; 6] = ["Umbrella", "Hat", "Scarf", "Coat", "Gloves", "Boots"];

type Page = Result<Response, SessionError>;

pub(super) async fn home(session: Session) -> Page {
    let body = "<p class=lead>A small shop. Each page tells what the session layer did for it, \
        and what that cost the cache.</p>\
        <ol class=steps>\
        <li><b>Look around.</b> Until you put something into the cart or sign in, no cookie is set, nothing is stored, and \
        the cache is not asked.</li>\
        <li><b><a href=/cart>Fill the cart</a></b> from as many tabs as you like, all at once. No item is lost.</li>\
        <li><b><a href=/sign-in>Sign in.</a></b> A sign-in replaces your session ID; the old one stops working. The cart \
        stays.</li>\
        <li><b>Place an order.</b> A minute after the sign-in, the shop asks who you are again.</li>\
        <li><b><a href=/devices>Sign another browser out.</a></b> A page that is open there shows it at once.</li>\
        <li><b>Sign out, and go back.</b> The browser does not show the pages from before.</li>\
        </ol>";
    Ok(page(&session, "Try a session", body)?.into_response())
}

pub(super) async fn cart(session: Session) -> Page {
    let cart = session.get(CART).unwrap_or_default();
    let buttons: String =
        ITEMS.iter().map(|item| format!("<button name=item value={item}>+ {item}</button>")).collect();
    let rows: String = cart
        .iter()
        .map(|(item, count)| {
            let item = escape(item);
            format!(
                "<li><span>{item}</span><b>{count}</b><form method=post action=/cart/remove>\
                 <button name=item value=\"{item}\" class=quiet aria-label=\"one {item} less\">−</button></form></li>"
            )
        })
        .collect();
    let total: u32 = cart.values().sum();
    let list = if cart.is_empty() {
        "<p class=hint>Nothing yet.</p>".into()
    } else {
        format!(
            "<ul class=items>{rows}<li class=total><span>Total</span><b id=total>{total}</b>\
             <form method=post action=/cart/empty><button class=quiet>Empty</button></form></li></ul>\
             <form method=post action=/order><button>Place the order</button></form>"
        )
    };
    let body = format!(
        "<form method=post action=/cart/add class=shelf>{buttons}</form>\
         <div id=list>{list}</div>\
         <section class=card><h2>Many tabs at once</h2>\
         <p>Each of these requests loads the session, takes 50 ms, and adds one umbrella. They overlap; \
         <code>session.update</code> runs again where another one was faster. With an empty cart the first one goes ahead: it makes \
         the session that the others share.</p>\
         <form id=tabs>\
         <label>Requests <input type=number name=tabs value=24 min=1 max=200></label>\
         <button>Send them</button></form>\
         <noscript><p class=hint>This button needs JavaScript. Without it: open this page in two tabs, and add \
         something in each of them.</p></noscript>\
         <p id=verdict role=status></p><ol id=lanes></ol></section>\
         <script src=/tabs.js defer></script>"
    );
    Ok(page(&session, "Your cart", &body)?.into_response())
}

/// For the button with many tabs.
pub(super) async fn count(session: Session) -> String {
    session.get(CART).unwrap_or_default().values().sum::<u32>().to_string()
}

#[derive(Deserialize)]
pub(super) struct SignIn {
    /// Why the form is shown. In the address, since a message in the session would be a session for each attempt.
    note: Option<String>,
}

pub(super) async fn sign_in(session: Session, Query(query): Query<SignIn>) -> Page {
    if session.owner().is_some() {
        return Ok(Redirect::to("/cart").into_response());
    }
    // The texts are this page's own: an address from elsewhere brings none along.
    let note = match query.note.as_deref() {
        Some("name") => "<p class=flash role=status>A name has 1 to 64 bytes.</p>",
        Some("order") => "<p class=flash role=status>Please sign in first. Your cart stays.</p>",
        _ => "",
    };
    let body = format!(
        "{note}<form method=post action=/sign-in class=card>\
         <label>Name <input name=name autocomplete=username maxlength=64 required autofocus></label>\
         <label class=check><input type=checkbox name=remember value=yes> Remember me on this device</label>\
         <button>Sign in</button></form>\
         <p class=hint>There is no password here: checking one is the application's part. The session's part begins when \
         that has succeeded.</p>\
         <p class=hint>Without the tick the cookie ends with the browser, and the session after 14 idle days, or after 30 \
         in any case. With it: 60 and 180 days.</p>"
    );
    Ok(page(&session, "Sign in", &body)?.into_response())
}

/// Before an order, if the sign-in is some time ago.
pub(super) async fn confirm(session: Session) -> Page {
    if session.owner().is_none() {
        return Ok(Redirect::to("/sign-in").into_response());
    }
    let since = session.authenticated_at().map_or_else(String::new, since);
    let body = format!(
        "<p>You signed in {since}. An order asks again when that is more than a minute ago, in case someone else sits at \
         your browser now.</p>\
         <form method=post action=/confirm class=card>\
         <label>Your name again <input name=name autocomplete=username maxlength=64 required autofocus></label>\
         <button>Confirm</button></form>\
         <p class=hint>An application asks for the password, or a passkey. The session notes the time and gets a new ID.</p>"
    );
    Ok(page(&session, "Is it still you?", &body)?.into_response())
}

pub(super) async fn not_found(session: Session) -> Page {
    let body = "<p class=lead>There is no page at this address.</p>\
        <p><a href=/>Start page</a> · <a href=/cart>Your cart</a></p>";
    Ok((StatusCode::NOT_FOUND, page(&session, "Page not found", body)?).into_response())
}

pub(super) async fn devices(session: Session) -> Page {
    let Some(user) = session.owner() else { return Ok(Redirect::to("/sign-in").into_response()) };
    // All of them: 100 is the limit for one user.
    let sessions = session.owner_sessions(None, 100).await?;
    let rows: String = sessions.iter().map(|info| device_row(&session, info)).collect();
    let form =
        |action, button| format!("<form method=post action={action}><button class=quiet>{button}</button></form>");
    let body = format!(
        "<p>Where <b>{}</b> is signed in.</p><ul class=devices>{rows}</ul><div class=row>{}{}</div>\
         <p class=hint>A page that is open on a device you sign out here shows it at once. What that device sends afterwards \
         is what a visitor sends who is not signed in. \
         After a change of password, sign out all others.</p>",
        escape(&user),
        form("/devices/revoke-others", "Sign out all others"),
        form("/devices/revoke-all", "Sign out everywhere"),
    );
    Ok(page(&session, "Your devices", &body)?.into_response())
}

fn device_row(session: &Session, info: &SessionInfo) -> String {
    let device = escape(&info.get(DEVICE).unwrap_or_default());
    let since = since(info.logged_in().unwrap_or_else(|| info.created()));
    let days = info.expires().duration_since(SystemTime::now()).unwrap_or_default().as_secs() / 86_400 + 1;
    // The key names the session and cannot be used as a cookie: a page may show it.
    let key = info.key();
    let end = if session.key() == Some(key) {
        "<b class=\"chip loaded\">this device</b>".into()
    } else {
        format!(
            "<form method=post action=/devices/revoke>\
             <button name=key value={key} class=quiet>Sign out</button></form>"
        )
    };
    let bound = sessions::bound(info);
    format!(
        "<li><span><b>{device}</b><br><small>signed in {since}, ends within {days} days{bound}</small></span>{end}</li>"
    )
}

/// The answer to a form that another site sent. Looks at no session: a message that is due stays for a page of the visitor's own.
pub(super) fn refused() -> Response {
    let body = "<p class=lead>This form was sent from another site, so it did nothing.</p>\
        <p><a href=/>Start page</a> · <a href=/cart>Your cart</a></p>";
    (StatusCode::FORBIDDEN, document("Form refused", "", "", body)).into_response()
}

/// A page, with the message that is due.
fn page(session: &Session, title: &str, body: &str) -> Result<impl IntoResponse, SessionError> {
    let flash = match session.take(FLASH)? {
        Some(text) => format!("<p class=flash role=status>{}</p>", escape(&text)),
        None => String::new(),
    };
    let who = match session.owner() {
        Some(user) => format!(
            "<script src=/notices.js defer></script><form method=post action=/sign-out>\
             <span class=who>{}</span> <button class=quiet>Sign out</button></form>",
            escape(&user)
        ),
        None => "<a href=/sign-in class=button>Sign in</a>".into(),
    };
    Ok(document(title, &who, &flash, body))
}

/// `no-store`: after the sign-out, going back shows nothing.
fn document(title: &str, who: &str, flash: &str, body: &str) -> impl IntoResponse + use<> {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ];
    let html = format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\
         <meta name=color-scheme content=\"light dark\"><title>{title}</title>\
         <link rel=icon href=/icon.svg><link rel=stylesheet href=/style.css></head><body>\
         <header><a href=/ class=brand><img src=/icon.svg alt=\"\" width=32 height=32>The Cloakroom</a>\
         <nav><a href=/cart>Cart</a><a href=/devices>Devices</a></nav>{who}</header>\
         <div class=columns><main>{flash}<h1>{title}</h1>{body}</main>{GAP}</div></body></html>"
    );
    (headers, Html(html))
}

fn since(time: SystemTime) -> String {
    match time.elapsed().unwrap_or(Duration::ZERO).as_secs() / 60 {
        0 => "just now".into(),
        1 => "a minute ago".into(),
        minutes @ 2..120 => format!("{minutes} minutes ago"),
        minutes @ 120..2880 => format!("{} hours ago", minutes / 60),
        minutes => format!("{} days ago", minutes / 1440),
    }
}

/// For text and for attributes in double quotes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
