//! Tells an open page when its session has ended.
use std::{convert::Infallible, time::Duration};

use axum::response::{Sse, sse::Event};
use cloakroom::Session;
use futures_util::{Stream, StreamExt, stream};

/// Server-sent events. The stream ends with the session, and the browser connects again with the cookie that it has then:
/// another tab may have renewed the session. Without a user the only event is that there is none.
pub(super) async fn notices(session: Session) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let signed_in = session.owner().is_some();
    let session = session.detach();
    let soon = async { Event::default().retry(Duration::from_millis(200)) };
    let last = async move {
        if signed_in {
            session.ended().await;
            Event::default().comment("the session ended")
        } else {
            // A browser ignores an event without data.
            Event::default().event("signed-out").data("signed out")
        }
    };
    Sse::new(stream::once(soon).chain(stream::once(last)).map(Ok))
}
