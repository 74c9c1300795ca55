//! What may be configured: whatever a browser would silently drop is refused here.
use std::fmt;

#[cfg(feature = "signed")]
use super::signed::{self, Signer};
use super::{SameSite, write::Template};
use crate::{error::ConfigError, id::ID_CHARS};

/// A longer attribute value is ignored by browsers (RFC 6265bis, 5.6).
const ATTRIBUTE_BYTES: usize = 1024;
/// A cookie with a longer name and value together is ignored by browsers (RFC 6265bis, 5.6).
const COOKIE_BYTES: usize = 4096;
/// The longest host name and the longest of its labels (RFC 1035, 2.3.4).
const DOMAIN_BYTES: usize = 253;
const LABEL_BYTES: usize = 63;

/// What the builder was told about the cookie.
#[derive(Clone)]
pub(crate) struct CookieSettings {
    pub(crate) name: String,
    pub(crate) path: String,
    /// One leading dot is accepted and dropped: it has had no meaning since RFC 6265 (5.2.3).
    pub(crate) domain: Option<String>,
    pub(crate) same_site: SameSite,
    pub(crate) http_only: bool,
    pub(crate) secure: bool,
    pub(crate) partitioned: bool,
    pub(crate) persistent: bool,
    /// Signs with the first, accepts any; none: values are not signed.
    #[cfg(feature = "signed")]
    pub(crate) keys: Vec<::cookie::Key>,
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
            keys: Vec::new(),
        }
    }
}

impl CookieSettings {
    /// The policy, if a browser would keep such a cookie.
    pub(crate) fn check(self) -> Result<CookiePolicy, ConfigError> {
        self.check_name()?;
        self.check_path()?;
        self.check_domain()?;
        self.check_flags()?;
        self.check_prefix()?;
        Ok(CookiePolicy::of(&self))
    }

    fn value_length(&self) -> usize {
        #[cfg(feature = "signed")]
        if !self.keys.is_empty() {
            return signed::VALUE_CHARS;
        }
        ID_CHARS
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

    fn check_domain(&self) -> Result<(), ConfigError> {
        const SETTING: &str = "cookie_domain";
        let Some(domain) = self.domain.as_deref() else { return Ok(()) };
        let domain = domain.strip_prefix('.').unwrap_or(domain);
        if domain.len() > DOMAIN_BYTES {
            return Err(ConfigError::new(SETTING, "longer than the 253 bytes of a host name (RFC 1035, 2.3.4)"));
        }
        if !domain.split('.').all(is_label) {
            return Err(ConfigError::new(
                SETTING,
                "not a host name: labels of 1 to 63 ASCII letters, digits and inner hyphens, a name in another script as \
                 `xn--…` (domain-value, RFC 6265bis, 4.1.1; RFC 1123, 2.1)",
            ));
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
        out.field("keys", &self.keys.len());
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

fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The session cookie as it is read and written: checked, and rendered as far as it is known.
#[derive(Clone)]
pub(crate) struct CookiePolicy {
    pub(super) template: Template,
    #[cfg(feature = "signed")]
    pub(super) signer: Option<Signer>,
    persistent: bool,
}

impl CookiePolicy {
    fn of(settings: &CookieSettings) -> Self {
        Self {
            template: Template::render(settings),
            #[cfg(feature = "signed")]
            signer: Signer::new(&settings.name, &settings.keys),
            persistent: settings.persistent,
        }
    }

    /// The cookie's name.
    pub(crate) fn name(&self) -> &str {
        self.template.name()
    }

    /// Whether a cookie outlives the browser when its session says nothing else.
    pub(crate) fn persistent(&self) -> bool {
        self.persistent
    }
}

/// The policy of the default settings, which break no rule.
impl Default for CookiePolicy {
    fn default() -> Self {
        Self::of(&CookieSettings::default())
    }
}

impl fmt::Debug for CookiePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("CookiePolicy");
        out.field("template", &self.template).field("persistent", &self.persistent);
        #[cfg(feature = "signed")]
        out.field("signed", &self.signer.is_some());
        out.finish()
    }
}
