//! The `Cookie` header that a browser would send.
use http::HeaderValue;

use crate::{cache::Cache, http::SessionLayer, id::SessionId};

/// The `Cookie` header of a browser that has the session with this ID, in the name that the layer gives its cookie, and signed
/// if the layer signs.
///
/// # Example
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use cloakroom::{InMemoryCache, Session, SessionLayer, SessionStore, testing};
/// use http::{Request, header};
///
/// let layer = SessionLayer::new(SessionStore::new(InMemoryCache::new()));
/// let session = Session::new();
/// session.log_in("alice")?;
/// let id = layer.store().save(&session).await?;
///
/// let request = Request::get("/account").header(header::COOKIE, testing::cookie(&layer, &id)).body(())?;
/// assert!(request.headers()[header::COOKIE].to_str()?.starts_with("__Host-id="));
/// # Ok(()) }
/// ```
#[must_use]
pub fn cookie<C: Cache, E>(layer: &SessionLayer<C, E>, id: &SessionId) -> HeaderValue {
    let set_cookie = layer.policy().issue(id, None);
    let pair = set_cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    let mut pair = HeaderValue::from_bytes(pair).unwrap_or_else(|_| set_cookie.clone());
    pair.set_sensitive(true);
    pair
}
