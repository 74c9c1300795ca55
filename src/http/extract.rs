//! Extractors for axum.
use std::future::Future;

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header, request::Parts};

use crate::{
    error::SessionError,
    events,
    session::{LazySession, Session},
};

/// Answers 500 with a text that names the layer where there is none, and 503 when the session could not be loaded.
impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = SessionError;

    fn from_request_parts(parts: &mut Parts, _: &S) -> impl Future<Output = Result<Self, SessionError>> + Send {
        let lazy = parts.extensions.get::<LazySession>().cloned();
        async move { lazy.ok_or(SessionError::MissingLayer)?.load().await }
    }
}

/// `None` where there is no layer; with the layer always `Some`, and 503 when the session could not be loaded.
impl<S: Sync> OptionalFromRequestParts<S> for Session {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, SessionError> {
        match parts.extensions.get::<LazySession>().cloned() {
            Some(lazy) => lazy.load().await.map(Some),
            None => Ok(None),
        }
    }
}

/// Answers 500 with a text that names the layer where there is none. Loads nothing.
impl<S: Sync> FromRequestParts<S> for LazySession {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, SessionError> {
        parts.extensions.get::<Self>().cloned().ok_or(SessionError::MissingLayer)
    }
}

/// [`SessionError::status`] and a short text without the cause. Within a layer the response of
/// [`on_error`](crate::SessionLayerBuilder::on_error) takes its place.
impl IntoResponse for SessionError {
    fn into_response(self) -> Response {
        let answered = events::response_error(self, None);
        let error = answered.error();
        let mut response = error.response(Body::from(error.public_text()));
        // The layer answers in its place, as it does for an error of its own commit.
        response.extensions_mut().insert(answered);
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        response
    }
}
