//! Whether a request counts as one of its session: sessions that are bound to a device ask for more than the session cookie.
use crate::{engine::Stored, id::SessionKey};

/// What a request shows beside its session cookie. Part of every request of a layer with device-bound sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceAdmission {
    /// Sessions with an owner count only if they are bound.
    pub(crate) require: bool,
    /// The digests of its bound cookies.
    pub(crate) cookies: Vec<SessionKey>,
    /// The sessions that the browser could not refresh, as it reports them.
    pub(crate) skipped: Option<Box<[u8]>>,
    /// A page is opened: the browser refreshes before that where it can.
    pub(crate) navigates: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Admitted,
    /// The browser does not hold the key: its visitor has no session, and may start another.
    Stranger,
    /// The browser may hold the key: nothing is read or written, so that the session can still be refreshed.
    Restricted,
    /// The browser holds the key and could not refresh: trying again may help.
    Unrefreshed,
}

impl DeviceAdmission {
    pub(crate) fn judge(&self, stored: &Stored, now: u64) -> Verdict {
        let head = &stored.record.head;
        if head.admits(&self.cookies, self.require, now) {
            return Verdict::Admitted;
        }
        let is_skipped = |skipped: &[u8]| head.binding().is_some_and(|binding| binding.is_named_in(skipped));
        if self.skipped.as_deref().is_some_and(is_skipped) {
            Verdict::Unrefreshed
        } else if self.navigates && self.cookies.is_empty() {
            Verdict::Stranger
        } else {
            Verdict::Restricted
        }
    }
}
