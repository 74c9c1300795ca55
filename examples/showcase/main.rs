//! A small shop that shows what a session does: sign in, a cart that many tabs fill at once, messages shown once,
//! "remember me", an order that asks for the name again, a page of devices, sign out that open pages notice at once. A panel
//! on every page tells what the layer did for that page.
//!
//! ```sh
//! cargo run --example showcase          # PORT=4000 for another port than 3000
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example showcase --features redis
//! ```
//!
//! Open <http://localhost:3000>. All of it works without JavaScript, except for the button that plays many tabs and the notice
//! of a sign-out.
//!
//! - `pages` is what can be looked at, `actions` what a form can do, `notices` the stream that tells an open page of a
//!   sign-out;
//! - `sessions` is the session layer;
//! - `watch` is a cache around another one that writes down what it is asked, `panel` shows that.
use std::{collections::BTreeMap, env, error::Error, time::Duration};

use axum::{
    Router,
    http::header,
    middleware,
    response::IntoResponse,
    routing::{get, post},
};
use cloakroom::{BoxedCache, Clock, InMemoryCache, Key, SessionStore};
use tokio::net::TcpListener;
use tower_http::csrf::CsrfLayer;

mod actions;
mod notices;
mod pages;
mod panel;
mod sessions;
mod watch;

use watch::Watched;

/// What was put in, and how often.
type Cart = BTreeMap<String, u32>;

/// The names of what is in a session, each with its type: a typo does not compile, and no call has to name the type.
const CART: Key<Cart> = Key::new("cart");
const FLASH: Key<String> = Key::new("flash");
const DEVICE: Key<String> = Key::new("device");

/// An order asks who is there again, if the last time is longer ago than this.
const RECENT: Duration = Duration::from_secs(60);

type Store = SessionStore<Watched>;

/// The shop, with its sessions in this cache.
pub fn app(cache: BoxedCache) -> Router {
    app_with(cache, Clock::system())
}

/// The same, with a clock that a test can move.
pub fn app_with(cache: BoxedCache, clock: Clock) -> Router {
    // A sign-out in another process is noticed within a second. What is stored for a visitor who is not signed in is a cart:
    // it ends when it is idle for an hour.
    let store = SessionStore::new(Watched::new(cache))
        .clock(clock)
        .ended_interval(Duration::from_secs(1))
        .anonymous_ttl(Duration::from_secs(60 * 60));
    let shop = Router::new()
        .route("/", get(pages::home))
        .route("/cart", get(pages::cart))
        .route("/cart/count", get(pages::count))
        .route("/cart/add", post(actions::add))
        .route("/cart/tab", post(actions::add_as_tab))
        .route("/cart/remove", post(actions::remove))
        .route("/cart/empty", post(actions::empty))
        .route("/order", post(actions::order))
        .route("/confirm", get(pages::confirm).post(actions::confirm))
        .route("/notices", get(notices::notices))
        .route("/sign-in", get(pages::sign_in).post(actions::sign_in))
        .route("/sign-out", post(actions::sign_out))
        .route("/devices", get(pages::devices))
        .route("/devices/revoke", post(actions::revoke))
        .route("/devices/revoke-others", post(actions::revoke_others))
        .route("/devices/revoke-all", post(actions::revoke_all))
        .fallback(pages::not_found)
        // Refuses forms that other sites send, the sign-in form included. Inside of the session layer, which answers the requests
        // that a browser makes of itself to bind a session: those are no forms.
        .layer(CsrfLayer::new().with_rejection_response(|_| pages::refused()))
        .layer(middleware::from_fn(panel::inside))
        .layer(sessions::layer(store))
        .layer(middleware::from_fn_with_state(panel::Reports::default(), panel::outside));
    // What is the same for all visitors stays outside of the layer: no session is loaded for it.
    Router::new()
        .route("/style.css", get(|| file("text/css", include_str!("style.css"))))
        .route("/tabs.js", get(|| file("text/javascript", include_str!("tabs.js"))))
        .route("/notices.js", get(|| file("text/javascript", include_str!("notices.js"))))
        .route("/icon.svg", get(|| file("image/svg+xml", include_str!("icon.svg"))))
        .merge(shop)
}

async fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=60")], text)
}

/// Redis, if `REDIS_URL` names one, else the memory of this process.
async fn cache() -> Result<BoxedCache, Box<dyn Error>> {
    match env::var("REDIS_URL") {
        #[cfg(feature = "redis")]
        Ok(url) => Ok(BoxedCache::new(cloakroom::RedisCache::connect(&url).await?)),
        #[cfg(not(feature = "redis"))]
        Ok(_) => Err("REDIS_URL is set: this takes `--features redis`".into()),
        Err(_) => Ok(BoxedCache::new(InMemoryCache::new())),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = app(cache().await?);
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}; choose another one with PORT=4000"))?;
    println!("Open http://localhost:{}, in two browsers if you like.", listener.local_addr()?.port());
    axum::serve(listener, app).await?;
    Ok(())
}
