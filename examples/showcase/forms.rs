//! What forms send, and the token that shows that a form is one of ours.
//!
//! Another site can have a visitor's browser send a form here. `SameSite=Lax` keeps the cookie out of that in most cases;
//! the token does in all: it stands in the session and in each form, and another site can read neither.
use axum::{
    Form,
    extract::{FromRequest, FromRequestParts, Request},
    response::{IntoResponse, Response},
};
use cloakroom::{Session, SessionError, SessionKey};
use serde::Deserialize;

use super::{TOKEN, pages};

/// All fields of all forms.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields {
    token: String,
    pub(super) item: String,
    pub(super) name: String,
    /// A box that is not ticked is not sent.
    pub(super) remember: Option<String>,
    pub(super) key: Option<SessionKey>,
}

/// A form that carried the session's token. Every handler that changes something takes this, so that no check is forgotten.
pub(super) struct Posted {
    pub(super) session: Session,
    pub(super) fields: Fields,
}

impl<S: Send + Sync> FromRequest<S> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let session = <Session as FromRequestParts<S>>::from_request_parts(&mut parts, state).await;
        let session = session.map_err(IntoResponse::into_response)?;
        let form = Form::<Fields>::from_request(Request::from_parts(parts, body), state).await;
        let Form(fields) = form.map_err(IntoResponse::into_response)?;
        match session.get(TOKEN) {
            Some(token) if same(&token, &fields.token) => Ok(Self { session, fields }),
            _ => Err(pages::refused(&session)),
        }
    }
}

/// The session's token. The first form that is shown makes it, and with it the session: pages without forms store nothing.
pub(super) fn token(session: &Session) -> Result<String, SessionError> {
    match session.get(TOKEN) {
        Some(token) => Ok(token),
        None => fresh_token(session),
    }
}

/// A new token, after a sign-in: forms from before it are as worthless as the old ID.
pub(super) fn fresh_token(session: &Session) -> Result<String, SessionError> {
    let mut bytes = [0; 16];
    rand::TryRng::try_fill_bytes(&mut rand::rngs::SysRng, &mut bytes).map_err(|_| SessionError::Random)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    session.set(TOKEN, token.clone())?;
    Ok(token)
}

/// Looks at every character, so that the time it takes does not tell how many agree.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
