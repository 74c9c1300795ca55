//! The settings of the session cookie, and the checks that refuse what a browser would silently drop.
use std::fmt;

use super::domain;
#[cfg(feature = "signed")]
use super::{signature, signing_key::SigningKey};
use crate::{error::ConfigError, id::ID_CHARS};

/// A longer attribute value is ignored by browsers (RFC 6265bis, 5.6).
const ATTRIBUTE_BYTES: usize = 1024;
/// A cookie with a longer name and value together is ignored by browsers (RFC 6265bis, 5.6).
const COOKIE_BYTES: usize = 4096;

/// Whether browsers send the cookie with requests that other sites cause (RFC 6265bis, 5.6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SameSite {
    /// Never, not even when a visitor follows a link from another site: the first page is that of a visitor without a session.
    Strict,
    /// Only when the visitor follows a link or opens the address: `GET` requests of the whole page. The default.
    #[default]
    Lax,
    /// Always. It takes [`secure`](crate::SessionLayerBuilder::secure), leaves forged requests to other checks (`Origin`, a
    /// token), and is logged once when the layer is built.
    None,
}

impl From<SameSite> for ::cookie::SameSite {
    fn from(same_site: SameSite) -> Self {
        match same_site {
            SameSite::Strict => Self::Strict,
            SameSite::Lax => Self::Lax,
            SameSite::None => Self::None,
        }
    }
}

/// The settings of the builder that concern the cookie.
#[derive(Clone)]
pub(crate) struct CookieSettings {
    pub(crate) name: String,
    pub(crate) path: String,
    /// One leading dot is accepted and dropped.
    pub(crate) domain: Option<String>,
    pub(crate) same_site: SameSite,
    pub(crate) http_only: bool,
    pub(crate) secure: bool,
    pub(crate) partitioned: bool,
    pub(crate) persistent: bool,
    /// The first signs, any verifies; `None`: values are not signed.
    #[cfg(feature = "signed")]
    pub(crate) keys: Option<Vec<SigningKey>>,
}

impl Default for CookieSettings {
    fn default() -> Self {
        Self {
            name: "__Host-id".to_owned(),
            path: "/".to_owned(),
            domain: None,
            same_site: SameSite::Lax,
            http_only: true,
            secure: true,
            partitioned: false,
            persistent: false,
            #[cfg(feature = "signed")]
            keys: None,
        }
    }
}

impl CookieSettings {
    /// # Errors
    /// For a cookie that no browser keeps, and for keys that protect nothing.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.check_name()?;
        self.check_path()?;
        if let Some(rule) = self.domain.as_deref().and_then(domain::broken_rule) {
            return Err(ConfigError::new("cookie_domain", rule));
        }
        self.check_flags()?;
        self.check_prefix()?;
        #[cfg(feature = "signed")]
        self.check_keys()?;
        Ok(())
    }

    fn value_length(&self) -> usize {
        #[cfg(feature = "signed")]
        if self.keys.is_some() {
            return signature::VALUE_CHARS;
        }
        ID_CHARS
    }

    #[cfg(feature = "signed")]
    fn check_keys(&self) -> Result<(), ConfigError> {
        const SETTING: &str = "signing_keys";
        let Some(keys) = &self.keys else { return Ok(()) };
        if keys.is_empty() {
            return Err(ConfigError::new(SETTING, "signed cookies need at least one key"));
        }
        for (position, key) in keys.iter().enumerate() {
            if keys.iter().take(position).any(|other| other.block() == key.block()) {
                return Err(ConfigError::new(
                    SETTING,
                    "the same key is given twice: each key needs a secret of its own",
                ));
            }
        }
        Ok(())
    }

    fn check_name(&self) -> Result<(), ConfigError> {
        const SETTING: &str = "cookie_name";
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if self.name.is_empty() {
            return Err(ConfigError::new(SETTING, "a cookie needs a name (RFC 6265bis, 4.1.1)"));
        }
        if !self.name.bytes().all(token) {
            return Err(ConfigError::new(
                SETTING,
                "only ASCII letters, digits and !#$%&'*+-.^_`|~ (token, RFC 9110, 5.6.2)",
            ));
        }
        if self.name.len() + self.value_length() > COOKIE_BYTES {
            return Err(ConfigError::new(SETTING, "name and value together exceed 4096 bytes (RFC 6265bis, 5.6)"));
        }
        Ok(())
    }

    fn check_path(&self) -> Result<(), ConfigError> {
        const SETTING: &str = "cookie_path";
        if !self.path.starts_with('/') {
            return Err(ConfigError::new(SETTING, "must begin with `/`, or browsers ignore it (RFC 6265bis, 5.6.4)"));
        }
        // A space is in the grammar, but in no request's path: such a cookie would never come back.
        if !self.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
            return Err(ConfigError::new(
                SETTING,
                "only visible ASCII characters without `;` (path-value, RFC 6265bis, 4.1.1)",
            ));
        }
        if self.path.len() > ATTRIBUTE_BYTES {
            return Err(ConfigError::new(SETTING, "longer than 1024 bytes, browsers ignore it (RFC 6265bis, 5.6)"));
        }
        Ok(())
    }

    fn check_flags(&self) -> Result<(), ConfigError> {
        if self.same_site == SameSite::None && !self.secure {
            return Err(ConfigError::new("same_site", "`SameSite=None` needs `Secure` (RFC 6265bis, 5.7)"));
        }
        if self.partitioned && !self.secure {
            return Err(ConfigError::new("partitioned", "`Partitioned` needs `Secure` (CHIPS, 2.1)"));
        }
        Ok(())
    }

    fn check_prefix(&self) -> Result<(), ConfigError> {
        for prefix in &PREFIXES {
            // Browsers compare without case (RFC 6265bis, 5.4), so `__host-id` is bound by the same rules.
            if !self.name.get(..prefix.text.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.text)) {
                continue;
            }
            let broken = |setting, rule| {
                let Prefix { text, section, .. } = prefix;
                Err(ConfigError::new(setting, format!("a name that begins with `{text}` {rule} ({section})")))
            };
            if !self.secure {
                return broken("secure", "needs `Secure`: without it choose another `cookie_name`");
            }
            if prefix.http && !self.http_only {
                return broken("http_only", "needs `HttpOnly`");
            }
            if prefix.host && self.path != "/" {
                return broken("cookie_path", "needs `Path=/`");
            }
            if prefix.host && self.domain.is_some() {
                return broken("cookie_domain", "allows no `Domain`");
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CookieSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("CookieSettings");
        out.field("name", &self.name)
            .field("path", &self.path)
            .field("domain", &self.domain)
            .field("same_site", &self.same_site)
            .field("http_only", &self.http_only)
            .field("secure", &self.secure)
            .field("partitioned", &self.partitioned)
            .field("persistent", &self.persistent);
        #[cfg(feature = "signed")]
        out.field("keys", &self.keys.as_ref().map_or(0, Vec::len));
        out.finish()
    }
}

/// What a name that begins with `text` demands beside `Secure`.
struct Prefix {
    text: &'static str,
    /// `Path=/` and no `Domain`.
    host: bool,
    /// `HttpOnly`.
    http: bool,
    section: &'static str,
}

const PREFIXES: [Prefix; 4] = [
    Prefix { text: "__Secure-", host: false, http: false, section: "RFC 6265bis, 4.1.3.1" },
    Prefix { text: "__Host-", host: true, http: false, section: "RFC 6265bis, 4.1.3.2" },
    Prefix { text: "__Http-", host: false, http: true, section: "layered-cookies, 4.1.3.3" },
    Prefix { text: "__Host-Http-", host: true, http: true, section: "layered-cookies, 4.1.3.4" },
];
