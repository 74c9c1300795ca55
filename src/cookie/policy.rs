//! The session cookie of one layer: reads it from requests, issues and removes it in responses.
use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderValue};

#[cfg(feature = "signed")]
use super::signature::{self, Signer};
use super::{
    request,
    request::{Candidate, Candidates, Rejection},
    set_cookie::{self, Template},
    settings::CookieSettings,
};
use crate::{error::ConfigError, id::SessionId};

/// Checked settings, rendered as far as they are known before a request.
#[derive(Clone)]
pub(crate) struct CookiePolicy {
    template: Template,
    #[cfg(feature = "signed")]
    signer: Option<Signer>,
    secure: bool,
    persistent: bool,
}

impl CookiePolicy {
    /// The policy of these settings, if a browser keeps such a cookie.
    pub(crate) fn new(settings: &CookieSettings) -> Result<Self, ConfigError> {
        settings.check()?;
        Ok(Self::unchecked(settings))
    }

    fn unchecked(settings: &CookieSettings) -> Self {
        Self {
            template: Template::render(settings),
            #[cfg(feature = "signed")]
            signer: Signer::new(&settings.name, settings.keys.as_deref().unwrap_or_default()),
            secure: settings.secure,
            persistent: settings.persistent,
        }
    }

    /// The cookie's name.
    pub(crate) fn name(&self) -> &str {
        self.template.name()
    }

    /// The attributes as they stand in `Set-Cookie`, without an age.
    #[cfg(feature = "device-bound")]
    pub(crate) fn attributes(&self) -> &str {
        self.template.attributes()
    }

    /// Whether browsers keep the cookie to secure connections.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether a cookie outlives the browser unless its session decides otherwise.
    pub(crate) fn persistent(&self) -> bool {
        self.persistent
    }

    /// The IDs in all `Cookie` fields of a request.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Candidates {
        let start = self.template.start();
        #[cfg(feature = "signed")]
        if let Some(signer) = &self.signer {
            return request::read(headers, start, signature::MAX_VERIFIED, |value| signer.verify(value));
        }
        request::read(headers, start, request::MAX_PAIRS, |value| {
            SessionId::parse(value).map(|id| Candidate { id, resign: false }).ok_or(Rejection::Malformed)
        })
    }

    /// The `Set-Cookie` that gives the browser this ID: until it is closed, or for whole seconds of `max_age`.
    ///
    /// At least one second, as zero would remove the cookie, and at most 400 days.
    pub(crate) fn issue(&self, id: &SessionId, max_age: Option<Duration>) -> HeaderValue {
        #[cfg(feature = "signed")]
        if let Some(signer) = &self.signer {
            return self.template.issue(id, &signer.sign(id), max_age);
        }
        self.template.issue(id, &[], max_age)
    }

    /// The `Set-Cookie` that makes the browser forget the cookie.
    pub(crate) fn removal(&self) -> HeaderValue {
        self.template.removal()
    }

    /// Adds the session cookie beside the handler's other cookies; whether the handler had set one of its name, which is
    /// dropped.
    ///
    /// A response must not set the same name twice (RFC 6265bis, 4.1.1).
    pub(crate) fn put(&self, headers: &mut HeaderMap, value: HeaderValue) -> bool {
        let dropped = self.drop_foreign(headers);
        set_cookie::append(headers, value);
        dropped
    }

    /// Drops every cookie of the session cookie's name that a handler set; whether there was one. The others stay as they
    /// are and in order.
    ///
    /// A handler cannot know an ID that this layer would accept, so such a cookie would only end the visitor's session.
    pub(crate) fn drop_foreign(&self, headers: &mut HeaderMap) -> bool {
        set_cookie::drop_named(headers, self.name())
    }
}

/// The policy of the default settings, which break no rule.
impl Default for CookiePolicy {
    fn default() -> Self {
        Self::unchecked(&CookieSettings::default())
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
