//! The head of a record: what a session is, beside its values.
use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

#[cfg(feature = "device-bound")]
use super::binding::{Binding, Challenge};
use crate::{
    clock::{later, millis},
    id::SessionKey,
};

/// Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// When the session was created; a renewal keeps it.
    pub(crate) created: u64,
    /// When its lifetime is over.
    pub(crate) end: u64,
    /// `None` for a session without any of it, as most anonymous ones are.
    own: Option<Arc<Own>>,
}

/// What only some sessions have; the names are those in the record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Own {
    /// The session's own idle timeout in place of the store's, in milliseconds.
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<u64>,
    /// The session's own lifetime in place of the store's, in milliseconds.
    #[serde(rename = "l", skip_serializing_if = "Option::is_none")]
    pub(crate) lifetime: Option<u64>,
    /// The session's own choice whether the cookie is persistent, in place of the layer's.
    #[serde(rename = "p", skip_serializing_if = "Option::is_none")]
    pub(crate) persistent: Option<bool>,
    /// The user that the session belongs to.
    #[serde(rename = "o", skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Box<str>>,
    /// Since when the session is this owner's.
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub(crate) stamp: Option<Stamp>,
    /// When the lifetime started anew: at the last login.
    #[serde(rename = "g", skip_serializing_if = "Option::is_none")]
    pub(crate) login: Option<u64>,
    /// When the user proved last who they are.
    #[serde(rename = "a", skip_serializing_if = "Option::is_none")]
    pub(crate) authenticated: Option<u64>,
    /// Where the last renewal moved the session from.
    #[serde(rename = "b", skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Origin>,
    /// When the record of an owner's session was written last.
    #[serde(rename = "w", skip_serializing_if = "Option::is_none")]
    pub(crate) written: Option<u64>,
    /// A renewal lost to the writes of others: they wait a moment.
    #[serde(rename = "r", skip_serializing_if = "is_false")]
    pub(crate) renewing: bool,
    /// The device that the session is bound to, or an offer to bind it.
    #[cfg(feature = "device-bound")]
    #[serde(rename = "x", skip_serializing_if = "Option::is_none")]
    pub(crate) binding: Option<Box<Binding>>,
}

/// Identifies a session among those of its owner, and puts them in order: a renewal keeps it, a login replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// When the session got its owner, by the clock of that process.
    pub(crate) at: u64,
    /// Tells sessions apart that got their owner in the same millisecond.
    pub(crate) nonce: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The key before the renewal.
    #[serde(rename = "k")]
    pub(crate) prev: SessionKey,
    /// When the entry under the present key was inserted.
    #[serde(rename = "m")]
    pub(crate) made: u64,
}

/// Changes of a [`Head`]: of each setting the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadChanges {
    pub(crate) idle: Option<u64>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) persistent: Option<bool>,
    /// `Some(None)` takes the owner away.
    pub(crate) owner: Option<Option<Owner>>,
    pub(crate) authenticated: Option<u64>,
    pub(crate) login: Option<u64>,
    /// What a login offers to a browser that can bind the session.
    #[cfg(feature = "device-bound")]
    pub(crate) offer: Option<Box<Challenge>>,
}

/// An owner that a session is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) name: Box<str>,
    pub(crate) stamp: Stamp,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Head {
    pub(crate) fn new(now: u64, lifetime: Duration) -> Self {
        Self::plain(now, later(now, lifetime))
    }

    pub(crate) const fn plain(created: u64, end: u64) -> Self {
        Self { created, end, own: None }
    }

    pub(crate) fn with(created: u64, end: u64, own: Own) -> Self {
        let own = (own != Own::default()).then(|| Arc::new(own));
        Self { created, end, own }
    }

    pub(crate) fn own(&self) -> Option<&Own> {
        self.own.as_deref()
    }

    pub(crate) fn owner(&self) -> Option<&str> {
        self.own()?.owner.as_deref()
    }

    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.own()?.stamp
    }

    pub(crate) fn persistent(&self) -> Option<bool> {
        self.own()?.persistent
    }

    pub(crate) fn authenticated(&self) -> Option<u64> {
        let own = self.own()?;
        own.authenticated.max(own.login)
    }

    pub(crate) fn login(&self) -> Option<u64> {
        self.own()?.login
    }

    pub(crate) fn origin(&self) -> Option<Origin> {
        self.own()?.origin
    }

    pub(crate) fn is_renewing(&self) -> bool {
        self.own().is_some_and(|own| own.renewing)
    }

    pub(crate) fn renewing(self, renewing: bool) -> Self {
        if renewing == self.is_renewing() { self } else { self.altered(|own| own.renewing = renewing) }
    }

    fn altered(&self, alter: impl FnOnce(&mut Own)) -> Self {
        let mut own = self.own().cloned().unwrap_or_default();
        alter(&mut own);
        Self::with(self.created, self.end, own)
    }

    /// When the record was written, if the session has an owner: others cost no bytes for it.
    pub(crate) fn written(&self) -> Option<u64> {
        self.own()?.written
    }

    /// The head as it is written at this time.
    pub(crate) fn written_at(&self, now: u64) -> Self {
        if self.owner().is_none() && self.written().is_none() {
            return self.clone();
        }
        self.altered(|own| own.written = own.owner.is_some().then_some(now))
    }

    #[cfg(feature = "device-bound")]
    pub(crate) fn binding(&self) -> Option<&Binding> {
        self.own()?.binding.as_deref()
    }

    #[cfg(feature = "device-bound")]
    pub(crate) fn with_binding(&self, binding: Option<Binding>) -> Self {
        self.altered(|own| own.binding = binding.map(Box::new))
    }

    #[cfg(feature = "device-bound")]
    pub(crate) fn is_bound(&self) -> bool {
        self.binding().is_some_and(Binding::is_bound)
    }

    /// Whether a request with these bound cookies counts as the session's; `require`: if it has an owner, it must be bound.
    #[cfg(feature = "device-bound")]
    pub(crate) fn admits(&self, cookies: &[SessionKey], require: bool, now: u64) -> bool {
        let needs_device = self.is_bound() || (require && self.owner().is_some());
        !needs_device || self.binding().is_some_and(|binding| binding.admits(cookies, now))
    }

    /// The session's own idle timeout.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.own()?.idle.map(Duration::from_millis)
    }

    /// The head of the entry that a renewal moves the session to.
    pub(crate) fn moved(&self, prev: SessionKey, now: u64) -> Self {
        self.altered(|own| (own.origin, own.renewing) = (Some(Origin { prev, made: now }), false))
    }

    /// The head of a new session with the settings of this one.
    pub(crate) fn like(&self, now: u64, nonce: u64, lifetime: Duration) -> Self {
        let mut own = Own { origin: None, login: None, ..self.own().cloned().unwrap_or_default() };
        own.stamp = own.owner.is_some().then_some(Stamp { at: now, nonce });
        // The device has proven to hold the key of the other session.
        #[cfg(feature = "device-bound")]
        (own.binding = None);
        let lifetime = own.lifetime.map_or(lifetime, Duration::from_millis);
        Self::with(now, later(now, lifetime), own)
    }

    /// The head with these changes made; `lifetime` is the store's.
    pub(crate) fn changed(&self, changes: &HeadChanges, lifetime: Duration) -> Self {
        let mut own = self.own().cloned().unwrap_or_default();
        if changes.login.is_some() {
            // Who ticked "remember me" at an earlier login did not tick it for this one.
            (own.idle, own.lifetime, own.persistent) = (None, None, None);
        }
        own.idle = changes.idle.or(own.idle);
        own.persistent = changes.persistent.or(own.persistent);
        own.authenticated = changes.authenticated.or(own.authenticated);
        match &changes.owner {
            Some(None) => (own.owner, own.stamp) = (None, None),
            Some(Some(owner)) if changes.login.is_some() || own.owner.as_ref() != Some(&owner.name) => {
                (own.owner, own.stamp) = (Some(owner.name.clone()), Some(owner.stamp));
            }
            _ => {}
        }
        own.lifetime = changes.lifetime.map(millis).or(own.lifetime);
        own.login = changes.login.or(own.login);
        // A login ends the binding of the one before: the browser registers anew.
        #[cfg(feature = "device-bound")]
        if changes.login.is_some() {
            own.binding = changes.offer.as_deref().cloned().map(|offer| Box::new(Binding::offered(offer)));
        }
        let mut end = self.end;
        if changes.lifetime.is_some() || changes.login.is_some() {
            let start = own.login.unwrap_or(self.created);
            end = later(start, own.lifetime.map_or(lifetime, Duration::from_millis));
        }
        Self::with(self.created, end, own)
    }
}

impl HeadChanges {
    /// `self` first, `later` after it.
    pub(crate) fn then(&mut self, later: Self) {
        self.idle = later.idle.or(self.idle);
        self.lifetime = later.lifetime.or(self.lifetime);
        self.persistent = later.persistent.or(self.persistent);
        self.authenticated = later.authenticated.or(self.authenticated);
        self.login = later.login.or(self.login);
        #[cfg(feature = "device-bound")]
        if later.offer.is_some() {
            self.offer = later.offer;
        }
        if later.owner.is_some() {
            self.owner = later.owner;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn owner(name: &str, at: u64) -> Owner {
        Owner { name: name.into(), stamp: Stamp { at, nonce: 7 } }
    }

    #[test]
    fn of_each_setting_the_last_one_counts() {
        let mut first = HeadChanges { idle: Some(1), owner: Some(Some(owner("a", 1))), ..HeadChanges::default() };
        first.then(HeadChanges { idle: Some(2), owner: Some(None), ..HeadChanges::default() });
        let head = Head::new(1000, HOUR).changed(&first, HOUR);
        assert_eq!((head.idle(), head.owner()), (Some(Duration::from_millis(2)), None));
    }

    #[test]
    fn a_lifetime_counts_from_the_login_or_else_from_the_creation() {
        let head = Head::new(1000, HOUR);
        assert_eq!(head.end, 1000 + 3_600_000);
        let own = HeadChanges { lifetime: Some(Duration::from_secs(1)), ..HeadChanges::default() };
        let short = head.changed(&own, HOUR);
        assert_eq!(short.end, 2000);
        let login = HeadChanges { login: Some(5000), ..HeadChanges::default() };
        assert_eq!(head.changed(&login, HOUR).end, 5000 + 3_600_000);
        assert_eq!(short.changed(&login, HOUR).end, 5000 + 3_600_000, "the setting of before the login is gone");
        let both = HeadChanges { login: Some(5000), ..own.clone() };
        assert_eq!(short.changed(&both, HOUR).end, 6000);
        assert_eq!(head.changed(&login, HOUR).changed(&own, HOUR).end, 6000);
    }

    #[test]
    fn the_same_owner_keeps_the_stamp_unless_it_is_a_login() {
        let set = |at| HeadChanges { owner: Some(Some(owner("a", at))), ..HeadChanges::default() };
        let first = Head::new(1000, HOUR).changed(&set(1), HOUR);
        assert_eq!(first.changed(&set(2), HOUR), first);
        let login = HeadChanges { login: Some(2), ..set(2) };
        assert_eq!(first.changed(&login, HOUR).stamp(), Some(Stamp { at: 2, nonce: 7 }));
    }
}
