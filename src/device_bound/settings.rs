//! The settings of device-bound sessions, their checks, and what is rendered from them once.
use std::{fmt, time::Duration};

use http::HeaderValue;
use serde_json::{Value, json};

use crate::{
    cookie::{CookiePolicy, CookieSettings},
    error::ConfigError,
    id::SessionId,
};

const MAX_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a session needs a device. See [`DeviceBound::policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceBoundPolicy {
    /// Browsers that can bind a session do; for all others nothing changes. The default.
    #[default]
    Prefer,
    /// A session with an owner counts only if it is bound. Until the browser has registered it counts for one minute after
    /// [`log_in`](crate::Session::log_in); a browser that cannot register is then logged out.
    Require,
}

/// Binds sessions to the device of their visitor: Device Bound Session Credentials (DBSC).
///
/// **Experimental**: the [draft](https://w3c.github.io/webappsec-dbsc/) still changes, and this type with it, outside of
/// semantic versioning. The chapter [`device_bound`](crate::guide::device_bound) has what it protects from, what not, and
/// how to roll it out.
///
/// # Defaults
///
/// | setting | default | why |
/// | --- | --- | --- |
/// | [`lifetime`](Self::lifetime) | 10 minutes | how long stolen cookies work; browsers sign six proofs in nine minutes at most |
/// | [`policy`](Self::policy) | [`DeviceBoundPolicy::Prefer`] | most browsers cannot bind a session yet |
/// | [`cookie_name`](Self::cookie_name) | the session cookie's, and `-bound` | the same prefix, so the same protection |
/// | [`exclude`](Self::exclude) | nothing | every page may need the session |
/// | [`site`](Self::site) | none: the origin of the session cookie | that is where a cookie without `Domain` goes |
/// | [`refresh_initiators`](Self::refresh_initiators) | `*` | a link on any site leads to a page with a session |
///
/// # Example
/// ```
/// use cloakroom::{DeviceBound, InMemoryCache, SessionLayer, SessionStore};
///
/// let layer = SessionLayer::builder(SessionStore::new(InMemoryCache::new()))
///     .device_bound(DeviceBound::new("/device-bound-session"))
///     .build()?;
/// # Ok::<(), cloakroom::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until a layer has them"]
pub struct DeviceBound {
    path: String,
    lifetime: Duration,
    policy: DeviceBoundPolicy,
    cookie_name: Option<String>,
    exclude: Vec<String>,
    site: Option<String>,
    initiators: Vec<String>,
}

impl DeviceBound {
    /// With the path at which the layer itself answers registrations and refreshes: one that the application does not use,
    /// within the cookie's path, as the browser asks for it. Put the layer outside of a router that strips a prefix.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            lifetime: Duration::from_secs(10 * 60),
            policy: DeviceBoundPolicy::default(),
            cookie_name: None,
            exclude: Vec::new(),
            site: None,
            initiators: vec!["*".to_owned()],
        }
    }

    /// How long a bound cookie is good: so long do stolen cookies work. Default: 10 minutes; at least one second, at most a
    /// day.
    ///
    /// The browser is given nine tenths of it, so that a request which is on its way at the end is not refused. Chromium
    /// refreshes when less than two minutes are left, and signs at most six proofs in nine minutes: with less than five
    /// minutes it may run out of them, and its requests then go without a bound cookie.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Whether sessions need a device. Default: [`DeviceBoundPolicy::Prefer`].
    pub fn policy(mut self, policy: DeviceBoundPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The name of the bound cookie. Default: that of the session cookie with `-bound` behind it.
    ///
    /// It has the session cookie's attributes, and is `HttpOnly` always.
    pub fn cookie_name(mut self, name: impl Into<String>) -> Self {
        self.cookie_name = Some(name.into());
        self
    }

    /// A path, and all below it, whose requests are not held while the bound cookie is renewed: files that need no session.
    /// May be called several times. Default: none.
    ///
    /// Such a request can come without a bound cookie; a session is then not to be had there.
    pub fn exclude(mut self, path: impl Into<String>) -> Self {
        self.exclude.push(path.into());
        self
    }

    /// All hosts of a site share the session, whose origin this is: `https://example.com` for a cookie with the domain
    /// `example.com`. Default: none, the session belongs to one origin.
    ///
    /// Where the layer answers at another host than this one, the origin has to allow that in
    /// `/.well-known/device-bound-sessions` (DBSC, "device-bound-sessions Well Known").
    pub fn site(mut self, origin: impl Into<String>) -> Self {
        self.site = Some(origin.into());
        self
    }

    /// The hosts whose pages may cause a refresh by a request to this site: `example.com`, `*.example.com` or `*`. Default:
    /// `*`.
    ///
    /// A request that another site causes, and whose initiator is not listed, is not held: it comes without a bound cookie
    /// once that is gone. With `SameSite=Lax` only links can be such requests. With `SameSite=None` the time that a held
    /// request takes tells the other site whether the visitor has a session (DBSC, "Timing side channel leak").
    pub fn refresh_initiators(mut self, hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.initiators = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// # Errors
    /// For what a browser would refuse without a word.
    pub(crate) fn check(&self, session: &CookieSettings) -> Result<CheckedDeviceBound, ConfigError> {
        let refuse = |rule: &'static str| Err(ConfigError::new(SETTING, rule));
        if !is_path(&self.path) || self.path == "/" {
            return refuse(
                "the path must begin with `/`, be longer than that, and have only letters, digits and `-._~!$&()*+,=:@/`",
            );
        }
        if !is_below(&self.path, &session.path) {
            return refuse("the path must be within `cookie_path`, or the session cookie is not sent there");
        }
        if !self.exclude.iter().all(|path| is_path(path)) {
            return refuse("`exclude` takes paths: they begin with `/`");
        }
        if self.lifetime < Duration::from_secs(1) || self.lifetime > MAX_LIFETIME {
            return refuse("`lifetime` must be between one second and a day");
        }
        if !session.secure {
            return refuse("browsers bind sessions over HTTPS only: not with `secure(false)`");
        }
        if session.partitioned {
            return refuse("browsers bind no session with a partitioned cookie (DBSC, \"Create session\")");
        }
        if !self.initiators.iter().all(|host| is_host(host.strip_prefix("*.").unwrap_or(host)) || host == "*") {
            return refuse("`refresh_initiators` takes hosts: `example.com`, `*.example.com` or `*`");
        }
        self.check_site(session)?;
        let name = self.cookie_name.clone().unwrap_or_else(|| format!("{}-bound", session.name));
        if name == session.name {
            return refuse("`cookie_name` must differ from that of the session cookie");
        }
        if name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case("__Host-Http-")) {
            return refuse("Chromium 156 cannot refresh a cookie named `__Host-Http-…`: choose another `cookie_name`");
        }
        let bound = CookieSettings {
            name,
            http_only: true,
            persistent: false,
            #[cfg(feature = "signed")]
            keys: None,
            ..session.clone()
        };
        let cookie = CookiePolicy::new(&bound).map_err(|error| ConfigError::new(SETTING, error.rule().to_owned()))?;
        Ok(CheckedDeviceBound::new(self, &bound, cookie))
    }

    fn check_site(&self, session: &CookieSettings) -> Result<(), ConfigError> {
        let domain = session.domain.as_deref().map(|domain| domain.strip_prefix('.').unwrap_or(domain));
        let rule = match (&self.site, domain) {
            (None, None) => return Ok(()),
            (None, Some(_)) => {
                "with `cookie_domain` it needs `site`: the other hosts get the cookie and could not renew it"
            }
            (Some(_), None) => "`site` needs `cookie_domain`: the other hosts get no cookie without it",
            (Some(site), Some(domain)) => {
                let host = site.strip_prefix("https://").unwrap_or_default();
                let (host, port) = host.split_once(':').unwrap_or((host, "443"));
                let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
                if host.eq_ignore_ascii_case(domain) && is_port {
                    return Ok(());
                }
                "`site` must be `https://` and the `cookie_domain`"
            }
        };
        Err(ConfigError::new(SETTING, rule))
    }
}

const SETTING: &str = "device_bound";

/// Checked settings.
pub(crate) struct CheckedDeviceBound {
    pub(crate) path: String,
    pub(crate) lifetime: Duration,
    /// What the cookie in the browser has of it.
    max_age: Duration,
    pub(crate) require: bool,
    pub(crate) cookie: CookiePolicy,
    exclude: Vec<String>,
    /// Requests that other sites cause are preceded by a refresh, too.
    any_initiator: bool,
    scope: Value,
    credentials: Value,
    initiators: Value,
}

impl CheckedDeviceBound {
    fn new(settings: &DeviceBound, bound: &CookieSettings, cookie: CookiePolicy) -> Self {
        let exclude: Vec<_> = settings.exclude.iter().map(|path| json!({ "type": "exclude", "path": path })).collect();
        let mut scope = json!({ "include_site": settings.site.is_some(), "scope_specification": exclude });
        if let (Some(site), Some(scope)) = (&settings.site, scope.as_object_mut()) {
            scope.insert("origin".to_owned(), json!(site));
        }
        Self {
            path: settings.path.clone(),
            lifetime: settings.lifetime,
            max_age: settings.lifetime.mul_f32(0.9),
            require: settings.policy == DeviceBoundPolicy::Require,
            exclude: settings.exclude.clone(),
            any_initiator: settings.initiators.iter().any(|host| host == "*"),
            scope,
            credentials: json!([{ "type": "cookie", "name": bound.name, "attributes": cookie.attributes() }]),
            initiators: json!(settings.initiators),
            cookie,
        }
    }

    /// The `Set-Cookie` of a bound cookie.
    pub(crate) fn issue(&self, value: &SessionId) -> HeaderValue {
        self.cookie.issue(value, Some(self.max_age))
    }

    /// Whether a browser that has the key refreshes before a request for this path; `site` is its `Sec-Fetch-Site`.
    pub(super) fn is_refreshed_before(&self, path: &str, site: Option<&[u8]>) -> bool {
        let is_allowed = self.any_initiator || matches!(site, Some(b"none" | b"same-origin"));
        is_allowed && !self.exclude.iter().any(|excluded| is_below(path, excluded))
    }

    /// What the browser is told of the session (DBSC, "JSON Session Instruction Format").
    pub(crate) fn instructions(&self, identifier: &str) -> String {
        json!({
            "session_identifier": identifier,
            "refresh_url": self.path,
            "scope": self.scope,
            "credentials": self.credentials,
            "allowed_refresh_initiators": self.initiators,
        })
        .to_string()
    }
}

impl fmt::Debug for CheckedDeviceBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBound").field("path", &self.path).field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

/// What stands in a structured field's string and in a URL as it is.
fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && !path.starts_with("//")
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&()*+,=:@/".contains(&byte))
}

/// Whether `path` is `start` or below it: path-match (RFC 6265bis, 5.1.4), and the rule of the draft for its scopes.
fn is_below(path: &str, start: &str) -> bool {
    path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || start.ends_with('/') || rest.starts_with('/'))
}

fn is_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}
