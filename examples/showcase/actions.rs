//! What forms do. Each ends in a redirect, so that going back or reloading sends nothing twice. A visitor who is not signed in
//! has something stored only for what is in the cart: other messages than those of a session come with the address.
use std::time::Duration;

use axum::{
    Form,
    http::{HeaderMap, header},
    response::Redirect,
};
use cloakroom::{Session, SessionError, SessionKey};
use serde::Deserialize;

use super::{CART, Cart, DEVICE, FLASH, RECENT, pages::ITEMS};

type Done = Result<Redirect, SessionError>;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// All fields of all forms.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields {
    item: String,
    name: String,
    /// A box that is not ticked is not sent.
    remember: Option<String>,
    key: Option<SessionKey>,
}

pub(super) async fn add(session: Session, Form(fields): Form<Fields>) -> Done {
    put(&session, fields.item)?;
    Ok(Redirect::to("/cart"))
}

/// What the button with many tabs sends: it takes its time, so that all of them have loaded the session before the first
/// one writes.
pub(super) async fn add_as_tab(session: Session, Form(fields): Form<Fields>) -> Result<&'static str, SessionError> {
    tokio::time::sleep(Duration::from_millis(50)).await;
    put(&session, fields.item)?;
    Ok("done")
}

/// Counts one up. When another tab commits first, the closure runs again on what that left: no item is lost.
fn put(session: &Session, item: String) -> Result<Cart, SessionError> {
    // A client can post any text: only what the shop has gets in, which also bounds the cart.
    if !ITEMS.contains(&item.as_str()) {
        return Ok(Cart::new());
    }
    session.update(CART, move |cart| {
        let mut cart = cart.unwrap_or_default();
        let count = cart.entry(item.clone()).or_default();
        *count = count.saturating_add(1);
        cart
    })
}

pub(super) async fn remove(session: Session, Form(fields): Form<Fields>) -> Done {
    // An empty cart needs no session.
    if session.get(CART).is_none() {
        return Ok(Redirect::to("/cart"));
    }
    session.update(CART, move |cart| {
        let mut cart = cart.unwrap_or_default();
        if let Some(count) = cart.get_mut(&fields.item) {
            *count = count.saturating_sub(1);
        }
        cart.retain(|_, count| *count > 0);
        cart
    })?;
    Ok(Redirect::to("/cart"))
}

pub(super) async fn empty(session: Session) -> Done {
    if session.remove(CART).is_some() {
        session.set(FLASH, "The cart is empty.".into())?;
    }
    Ok(Redirect::to("/cart"))
}

pub(super) async fn sign_in(session: Session, headers: HeaderMap, Form(fields): Form<Fields>) -> Done {
    // Here the application checks the password, or the passkey, or asks a login service.
    let name = fields.name.trim();
    if session.owner().is_some() {
        session.set(FLASH, "You are signed in already: sign out first.".into())?;
        return Ok(Redirect::to("/cart"));
    }
    if name.is_empty() || name.len() > 64 {
        return Ok(Redirect::to("/sign-in?note=name"));
    }
    // A new ID, so that one from before the sign-in is worth nothing; the owner; a new lifetime. What is in the cart stays.
    session.log_in(name)?;
    session.set(DEVICE, device(&headers))?;
    if fields.remember.is_some() {
        session.set_persistent(true)?;
        session.set_ttl(60 * DAY)?;
        session.set_lifetime(180 * DAY)?;
    }
    session.set(FLASH, format!("Welcome, {name}."))?;
    Ok(Redirect::to("/cart"))
}

/// An order is what a stranger at an open browser must not send: it takes a sign-in, and a recent one.
pub(super) async fn order(session: Session) -> Done {
    if session.owner().is_none() {
        return Ok(Redirect::to("/sign-in?note=order"));
    }
    if !session.authenticated_within(RECENT) {
        return Ok(Redirect::to("/confirm"));
    }
    // Of two clicks, or two tabs, one gets the cart.
    let things: u32 = session.take_now(CART).await?.unwrap_or_default().values().sum();
    let message = match things {
        0 => "There is nothing in the cart.".into(),
        1 => "Ordered: one thing.".into(),
        things => format!("Ordered: {things} things."),
    };
    session.set(FLASH, message)?;
    Ok(Redirect::to("/cart"))
}

pub(super) async fn confirm(session: Session, Form(fields): Form<Fields>) -> Done {
    let Some(user) = session.owner() else { return Ok(Redirect::to("/sign-in")) };
    // Here the application checks the password again.
    if user != fields.name.trim() {
        session.set(FLASH, "That is another name.".into())?;
        return Ok(Redirect::to("/confirm"));
    }
    session.reauthenticated()?;
    session.set(FLASH, "Thank you. You can place your order now.".into())?;
    Ok(Redirect::to("/cart"))
}

/// Ends the session everywhere, whatever else is in flight, and removes the cookie.
pub(super) async fn sign_out(session: Session) -> Redirect {
    session.destroy();
    Redirect::to("/")
}

/// The key comes from a form, and can be any: only a session of this user ends.
pub(super) async fn revoke(session: Session, Form(fields): Form<Fields>) -> Done {
    if session.owner().is_none() {
        return Ok(Redirect::to("/sign-in"));
    }
    let ended = match fields.key {
        Some(key) => session.revoke(&key).await?,
        None => false,
    };
    let message = if ended { "That device is signed out." } else { "That device was signed out already." };
    session.set(FLASH, message.into())?;
    Ok(Redirect::to("/devices"))
}

pub(super) async fn revoke_others(session: Session) -> Done {
    if session.owner().is_none() {
        return Ok(Redirect::to("/sign-in"));
    }
    let message = match session.revoke_others().await? {
        0 => "You are signed in nowhere else.".into(),
        1 => "One other device is signed out.".into(),
        ended => format!("{ended} other devices are signed out."),
    };
    session.set(FLASH, message)?;
    Ok(Redirect::to("/devices"))
}

/// This one included, and its cookie goes with it.
pub(super) async fn revoke_all(session: Session) -> Done {
    session.revoke_all().await?;
    Ok(Redirect::to("/"))
}

/// What the browser calls itself.
fn device(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let first = |names: &[(&str, &'static str)]| {
        names.iter().find(|(mark, _)| agent.contains(mark)).map_or("unknown", |(_, name)| *name)
    };
    // Most browsers claim to be others as well: the order counts.
    let browser = first(&[
        ("Edg/", "Edge"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = first(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        ("unknown", "unknown") => "An unknown browser".into(),
        (browser, "unknown") => browser.into(),
        (browser, system) => format!("{browser} on {system}"),
    }
}
