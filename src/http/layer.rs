//! The layer and its builder.
use std::{fmt, sync::Arc, time::Duration};

use http::Response;
use tower_layer::Layer;

use super::{exchange::Shared, service::SessionService};
#[cfg(feature = "signed")]
use crate::cookie::SigningKey;
use crate::{
    cache::Cache,
    cookie::{CookiePolicy, CookieSettings, SameSite},
    error::{ConfigError, DefaultErrorResponse, SessionError},
    events,
    store::SessionStore,
};
#[cfg(feature = "device-bound")]
use crate::{
    device_bound::{CheckedDeviceBound, DeviceBound},
    error::DeviceBoundResponse,
};

/// When a session's idle time starts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refresh {
    /// With every write; reading does not count. The default: only a dirty session costs a write.
    #[default]
    OnWrite,
    /// With every load as well: sliding expiry, in the same round trip as the load.
    OnLoad,
    /// With a load, if the last start is this long ago or longer: at most one refresh per such time, in the same round trip
    /// as the load.
    OnLoadEvery(Duration),
}

impl Refresh {
    pub(crate) const fn after(self) -> Option<Duration> {
        match self {
            Self::OnWrite => None,
            Self::OnLoad => Some(Duration::ZERO),
            Self::OnLoadEvery(after) => Some(after),
        }
    }
}

/// Wraps a service so that its handlers have a [`Session`](crate::Session).
///
/// For each request: read the cookie, load the session into the request's extensions, run the service, commit what changed,
/// and set the cookie if the browser's has to change. What changed is written before the response's head goes out.
///
/// # What becomes of the changes
///
/// | the handler | the changes |
/// | --- | --- |
/// | answers 1xx to 4xx, but not 408 | are committed |
/// | answers 5xx or 408, or its service fails | are dropped, a renewal too; a destroy is done all the same |
/// | panics, or the client goes away | are dropped; a commit that has begun runs to its end |
///
/// When the cache fails, the response is replaced by the [error response](SessionLayerBuilder::on_error), and the browser's
/// cookie stays as it is. When the session ended meanwhile, the handler's response goes out without a session cookie.
///
/// # Example
/// ```
/// # #[cfg(feature = "axum")] {
/// use axum::{Router, routing::get};
/// use cloakroom::{InMemoryCache, Session, SessionError, SessionLayer, SessionStore};
///
/// async fn visits(session: Session) -> Result<String, SessionError> {
///     let visits = session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?;
///     Ok(format!("{visits} visits"))
/// }
///
/// let sessions = SessionLayer::builder(SessionStore::new(InMemoryCache::new())).build()?;
/// let app: Router = Router::new().route("/", get(visits)).layer(sessions);
/// # }
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
pub struct SessionLayer<C, E = DefaultErrorResponse> {
    /// One pointer: an axum router clones its layers for each request.
    inner: Arc<LayerInner<C, E>>,
}

struct LayerInner<C, E> {
    store: SessionStore<C>,
    shared: Arc<Shared<E>>,
}

impl<C: Cache> SessionLayer<C> {
    /// A layer with the default settings: see [`SessionLayerBuilder`].
    ///
    /// Settings of the store that cannot work are logged, once; [`builder`](Self::builder) returns them as an error.
    pub fn new(store: SessionStore<C>) -> Self {
        if let Err(error) = store.check() {
            events::setting(&error);
        }
        let settings = LayerSettings::default();
        Self::of(
            store,
            CookiePolicy::default(),
            settings,
            DefaultErrorResponse,
            #[cfg(feature = "device-bound")]
            None,
        )
    }

    /// A layer whose settings can be chosen.
    pub fn builder(store: SessionStore<C>) -> SessionLayerBuilder<C> {
        SessionLayerBuilder {
            store,
            cookie: CookieSettings::default(),
            settings: LayerSettings::default(),
            on_error: DefaultErrorResponse,
            #[cfg(feature = "device-bound")]
            device_bound: None,
            #[cfg(feature = "device-bound")]
            makes_answers: false,
        }
    }
}

impl<C: Cache, E> SessionLayer<C, E> {
    fn of(
        store: SessionStore<C>,
        policy: CookiePolicy,
        settings: LayerSettings,
        on_error: E,
        #[cfg(feature = "device-bound")] device_bound: Option<CheckedDeviceBound>,
    ) -> Self {
        store.note_layer(policy.name());
        let shared = Shared {
            engine: store.engine(),
            refresh: settings.refresh.after(),
            lazy: settings.lazy,
            caching_headers: settings.caching_headers,
            clear_site_data: settings.clear_site_data && policy.is_secure(),
            policy,
            on_error,
            #[cfg(feature = "device-bound")]
            device_bound: device_bound.map(Arc::new),
        };
        Self { inner: Arc::new(LayerInner { store, shared: Arc::new(shared) }) }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn policy(&self) -> &CookiePolicy {
        &self.inner.shared.policy
    }

    /// The store underneath.
    pub fn store(&self) -> &SessionStore<C> {
        &self.inner.store
    }
}

impl<C, E> Clone for SessionLayer<C, E> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<C, E> fmt::Debug for SessionLayer<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer")
            .field("store", &self.inner.store)
            .field("cookie", &self.inner.shared.policy)
            .field("lazy", &self.inner.shared.lazy)
            .finish_non_exhaustive()
    }
}

impl<S, C, E> Layer<S> for SessionLayer<C, E> {
    type Service = SessionService<S, E>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService::new(inner, Arc::clone(&self.inner.shared))
    }
}

/// Builds a [`SessionLayer`].
///
/// # Defaults
///
/// The cookie is `__Host-id=…; Path=/; Secure; HttpOnly; SameSite=Lax`, without `Domain` and without `Max-Age`.
///
/// | setting | default | why |
/// | --- | --- | --- |
/// | [`cookie_name`](Self::cookie_name) | `__Host-id` | the prefix keeps other hosts from setting it (RFC 6265bis, section 4.1.3.2); the rest tells nothing |
/// | [`secure`](Self::secure) | `true` | never in the clear; browsers take `http://localhost` as secure |
/// | [`http_only`](Self::http_only) | `true` | no script reads it |
/// | [`same_site`](Self::same_site) | `Lax` | not sent with requests of other sites that change something; `Strict` would lose the session behind every inbound link |
/// | [`cookie_path`](Self::cookie_path) | `/` | what the prefix asks for |
/// | [`cookie_domain`](Self::cookie_domain) | none | the cookie belongs to one host |
/// | [`persistent`](Self::persistent) | `false` | it ends with the browser (NIST SP 800-63B-4, section 5.1) |
/// | [`refresh`](Self::refresh) | [`Refresh::OnWrite`] | reading costs no write |
/// | [`lazy`](Self::lazy) | `false` | handlers find the session in the extensions |
/// | [`on_error`](Self::on_error) | an empty 503 or 500 | says nothing of the cause |
/// | [`caching_headers`](Self::caching_headers) | `true` | a shared cache must not hand out one visitor's page to another |
/// | [`clear_site_data`](Self::clear_site_data) | `false` | it clears the cookies of sibling hosts as well |
#[must_use = "a builder does nothing until `build`"]
pub struct SessionLayerBuilder<C, E = DefaultErrorResponse> {
    store: SessionStore<C>,
    cookie: CookieSettings,
    settings: LayerSettings,
    on_error: E,
    #[cfg(feature = "device-bound")]
    device_bound: Option<DeviceBound>,
    /// `on_error` is a [`DeviceBoundResponse`].
    #[cfg(feature = "device-bound")]
    makes_answers: bool,
}

#[derive(Clone, Copy, Debug)]
struct LayerSettings {
    refresh: Refresh,
    lazy: bool,
    caching_headers: bool,
    clear_site_data: bool,
}

impl Default for LayerSettings {
    fn default() -> Self {
        Self { refresh: Refresh::default(), lazy: false, caching_headers: true, clear_site_data: false }
    }
}

impl<C: Cache, E> SessionLayerBuilder<C, E> {
    /// The cookie's name. Default: `__Host-id`.
    ///
    /// The prefixes `__Host-`, `__Secure-`, `__Http-` and `__Host-Http-` bind the other attributes, in any case of letters.
    ///
    /// The name keeps two cookies apart in a browser, and not two sets of sessions in a cache: a layer accepts every ID of its
    /// store, whatever cookie it was issued in. That takes another [`key_prefix`](SessionStore::key_prefix).
    pub fn cookie_name(mut self, name: impl Into<String>) -> Self {
        self.cookie.name = name.into();
        self
    }

    /// The path that the cookie is sent for. Default: `/`.
    pub fn cookie_path(mut self, path: impl Into<String>) -> Self {
        self.cookie.path = path.into();
        self
    }

    /// The domain whose hosts, all of them, get the cookie. Default: none, so that the cookie belongs to one host.
    ///
    /// Takes another [`cookie_name`](Self::cookie_name) than the default, whose prefix forbids it. `build` refuses a single
    /// label (`localhost`, `com`) and an IP address, which browsers refuse too. A public suffix of several labels (`co.uk`)
    /// is not found out: that takes a list of 800 KB that changes every week, and browsers drop such a cookie silently.
    pub fn cookie_domain(mut self, domain: impl Into<String>) -> Self {
        self.cookie.domain = Some(domain.into());
        self
    }

    /// Whether the cookie goes with requests that other sites cause. Default: [`SameSite::Lax`].
    ///
    /// [`SameSite::None`] is logged as `same_site_none` when the layer is built.
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.cookie.same_site = same_site;
        self
    }

    /// Whether scripts cannot read the cookie. Default: `true`.
    pub fn http_only(mut self, http_only: bool) -> Self {
        self.cookie.http_only = http_only;
        self
    }

    /// Whether the cookie goes over secure connections only. Default: `true`.
    ///
    /// Browsers take `http://localhost` as secure, and no other plain HTTP: they drop the cookie there, and the visitor stays
    /// logged out. A cookie that is sent to such a browser is logged as `cookie_likely_lost`, once per process. For
    /// development over plain HTTP: `.secure(false).cookie_name("id")`, which is logged as `insecure`.
    pub fn secure(mut self, secure: bool) -> Self {
        self.cookie.secure = secure;
        self
    }

    /// Whether an embedded page has a cookie of its own on each site that embeds it (CHIPS). Default: `false`.
    pub fn partitioned(mut self, partitioned: bool) -> Self {
        self.cookie.partitioned = partitioned;
        self
    }

    /// Whether the cookie outlives the browser. Default: `false`.
    ///
    /// `Max-Age` is the end of the session's lifetime, so that a session that slides needs no new cookie. A session decides
    /// for itself with [`Session::set_persistent`](crate::Session::set_persistent).
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.cookie.persistent = persistent;
        self
    }

    /// Signs the cookie: with the first key; verifies with any, so that a key can be replaced without ending sessions.
    /// Default: no keys, the cookie is not signed.
    ///
    /// A 192-bit random ID cannot be guessed, signed or not. What a signature adds: a forged ID costs no look-up in the
    /// cache. What it does not: a stolen cookie works as before. A cookie signed with an older key is issued again.
    ///
    /// `build` refuses an empty list, and a key that is given twice.
    ///
    /// # Example
    /// ```
    /// # use cloakroom::{InMemoryCache, SessionLayer, SessionStore, SigningKey};
    /// let (new, old) = (SigningKey::generate()?, SigningKey::generate()?); // in production: `from_base64` of a secret
    /// let layer = SessionLayer::builder(SessionStore::new(InMemoryCache::new())).signing_keys([new, old]).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "signed")]
    pub fn signing_keys(mut self, keys: impl IntoIterator<Item = SigningKey>) -> Self {
        self.cookie.keys = Some(keys.into_iter().collect());
        self
    }

    /// When the idle time starts again. Default: [`Refresh::OnWrite`].
    pub fn refresh(mut self, refresh: Refresh) -> Self {
        self.settings.refresh = refresh;
        self
    }

    /// Whether a session is loaded when a handler asks for it, instead of before the handler runs. Default: `false`.
    ///
    /// If it is, the extensions hold a [`LazySession`](crate::LazySession) and no [`Session`](crate::Session); the extractors
    /// work as before. Routes that never ask cost no look-up, and are served at full speed while the cache is down.
    pub fn lazy(mut self, lazy: bool) -> Self {
        self.settings.lazy = lazy;
        self
    }

    /// Whether the layer keeps shared caches from storing responses that depend on a session. Default: `true`.
    ///
    /// A response whose handler accessed the session gets `Vary: Cookie` and `Cache-Control: private`, one with a session
    /// cookie `no-store` (RFC 9111, section 7.3). A handler that lets shared caches store such a response is overridden, which
    /// is logged; fields that some caches obey in place of `Cache-Control` are removed (RFC 9213 and older ones). See
    /// [`defaults`](crate::guide::defaults). Turn it off only where something else does all of this.
    pub fn caching_headers(mut self, on: bool) -> Self {
        self.settings.caching_headers = on;
        self
    }

    /// Whether a response that ends the session by [`destroy`](crate::Session::destroy) has the browser drop what it keeps of
    /// this site: `Clear-Site-Data: "cache", "cookies"` (OWASP ASVS 5.0, 14.3.1). Default: `false`.
    ///
    /// `"cache"` makes the browser forget the pages it has stored, so that the back button shows none of them on a shared
    /// computer. `"cookies"` drops all cookies of the registrable domain: those of this application with the session's, those
    /// that the same response sets, and those of all its sub-domains. Browsers may take a moment for it, and obey the field
    /// over secure connections alone: with [`secure(false)`](Self::secure) it is not sent. A `Clear-Site-Data` of the handler's
    /// own stays as it is.
    ///
    /// # Example
    /// ```
    /// # use cloakroom::{InMemoryCache, SessionLayer, SessionStore};
    /// let layer = SessionLayer::builder(SessionStore::new(InMemoryCache::new())).clear_site_data(true).build()?;
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    pub fn clear_site_data(mut self, on: bool) -> Self {
        self.settings.clear_site_data = on;
        self
    }

    /// The response when the session cannot be loaded or committed, or a handler returns its error. Default: an empty body with
    /// [`SessionError::status`], `Cache-Control: no-store` and, for a 503, `Retry-After`.
    ///
    /// The default is what asks for `B: Default`; a closure of one's own does not.
    ///
    /// # Example
    /// ```
    /// # use cloakroom::{InMemoryCache, SessionError, SessionLayer, SessionStore};
    /// let layer = SessionLayer::builder(SessionStore::new(InMemoryCache::new()))
    ///     .on_error(|error: &SessionError| {
    ///         let mut response = http::Response::new(format!("Sorry: {error}."));
    ///         *response.status_mut() = error.status();
    ///         response
    ///     })
    ///     .build()?;
    /// # Ok::<(), cloakroom::ConfigError>(())
    /// ```
    pub fn on_error<F, B>(self, respond: F) -> SessionLayerBuilder<C, F>
    where
        F: Fn(&SessionError) -> Response<B>,
    {
        SessionLayerBuilder {
            store: self.store,
            cookie: self.cookie,
            settings: self.settings,
            on_error: respond,
            #[cfg(feature = "device-bound")]
            device_bound: self.device_bound,
            #[cfg(feature = "device-bound")]
            makes_answers: false,
        }
    }

    /// Binds the sessions of users to their devices, in browsers that can: a stolen cookie is then of no use after minutes.
    /// Default: no. **Experimental**, outside of semantic versioning: see [`DeviceBound`] and the chapter
    /// [`device_bound`](crate::guide::device_bound).
    ///
    /// To be called after [`on_error`](Self::on_error), as `build` checks: the layer answers some requests itself, with bodies
    /// that it makes of a `String`.
    #[cfg(feature = "device-bound")]
    pub fn device_bound(self, settings: DeviceBound) -> SessionLayerBuilder<C, DeviceBoundResponse<E>> {
        SessionLayerBuilder {
            store: self.store,
            cookie: self.cookie,
            settings: self.settings,
            on_error: DeviceBoundResponse(self.on_error),
            device_bound: Some(settings),
            makes_answers: true,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// For what a browser would drop without a word, and for what cannot work: the error names the setting and the rule.
    pub fn build(self) -> Result<SessionLayer<C, E>, ConfigError> {
        self.store.check()?;
        if self.cookie.persistent && self.store.config().max_lifetime > MAX_COOKIE {
            return Err(ConfigError::new(
                "max_lifetime",
                "browsers keep no cookie for more than 400 days (RFC 6265bis, section 5.5): shorter, or not `persistent`",
            ));
        }
        let policy = CookiePolicy::new(&self.cookie)?;
        #[cfg(feature = "device-bound")]
        if self.device_bound.is_some() && !self.makes_answers {
            return Err(ConfigError::new(
                "device_bound",
                "must be called after `on_error`, which takes its responses away",
            ));
        }
        #[cfg(feature = "device-bound")]
        let device_bound = self.device_bound.map(|settings| settings.check(&self.cookie)).transpose()?;
        if !self.cookie.secure {
            events::insecure();
        }
        if self.cookie.same_site == SameSite::None {
            events::same_site_none();
        }
        Ok(SessionLayer::of(
            self.store,
            policy,
            self.settings,
            self.on_error,
            #[cfg(feature = "device-bound")]
            device_bound,
        ))
    }
}

const MAX_COOKIE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

impl<C, E> fmt::Debug for SessionLayerBuilder<C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayerBuilder")
            .field("store", &self.store)
            .field("cookie", &self.cookie)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
