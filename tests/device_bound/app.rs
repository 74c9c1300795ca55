//! The application behind the layer: one process of it.
use std::{convert::Infallible, time::Duration};

use cloakroom::{
    Cache, Clock, DeviceBound, DeviceBoundResponse, LazySession, Session, SessionError, SessionLayer, SessionStore,
};
use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};

pub(crate) const PATH: &str = "/device";
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(crate) struct App<C> {
    pub(crate) layer: SessionLayer<C, DeviceBoundResponse>,
    pub(crate) store: SessionStore<C>,
    pub(crate) clock: Clock,
}

impl<C: Cache + Clone> App<C> {
    pub(crate) fn new(cache: &C) -> Self {
        Self::with(cache, Clock::manual(), DeviceBound::new(PATH))
    }

    pub(crate) fn with(cache: &C, clock: Clock, settings: DeviceBound) -> Self {
        let store = SessionStore::new(cache.clone()).clock(clock.clone()).deadline(Duration::from_secs(20));
        let layer = SessionLayer::builder(store.clone()).device_bound(settings).build().unwrap();
        Self { layer, store, clock }
    }

    pub(crate) async fn send(&self, request: Request<()>) -> Response<String> {
        let handler = |request: Request<()>| async move { Ok::<_, Infallible>(answer(request).await) };
        self.layer.layer(service_fn(handler)).oneshot(request).await.unwrap()
    }
}

async fn answer(request: Request<()>) -> Response<String> {
    let lazy = request.extensions().get::<LazySession>().unwrap().clone();
    let done = match lazy.load().await {
        Ok(session) => act(request.uri().path(), &session).map(|()| page(&session)),
        Err(error) => Err(error),
    };
    match done {
        Ok(page) => Response::new(page),
        Err(error) => Response::builder().status(error.status()).body(error.to_string()).unwrap(),
    }
}

fn act(path: &str, session: &Session) -> Result<(), SessionError> {
    match path {
        "/log-in" => session.log_in("alice"),
        "/add" => session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).map(|_| ()),
        "/log-out" => {
            session.destroy();
            Ok(())
        }
        "/renew" => session.reauthenticated(),
        _ => Ok(()),
    }
}

/// The owner, whether the session is bound, and the number in it.
fn page(session: &Session) -> String {
    let owner = session.owner().unwrap_or_else(|| "-".to_owned());
    let bound = if session.is_device_bound() { "bound" } else { "unbound" };
    format!("{owner} {bound} {}", session.get::<u32>("n").unwrap_or(0))
}
