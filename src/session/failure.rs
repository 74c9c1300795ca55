//! A failed commit that a handler called for: it is logged once, by the response that is made of it, or else when the request ends.
use crate::{error::SessionError, events, id::SessionKey};

/// How the last such commit failed, until one succeeds. [`Gone`](SessionError::Gone) stands here only if changes were dropped.
#[derive(Default)]
pub(super) struct CommitFailure {
    error: Option<Box<SessionError>>,
    is_logged: bool,
}

impl CommitFailure {
    pub(super) fn of(error: &SessionError) -> Self {
        Self { error: Some(Box::new(error.clone())), is_logged: false }
    }

    pub(super) const fn is_none(&self) -> bool {
        self.error.is_none()
    }

    /// Whether the changes are still there, and the response's commit tries them again.
    pub(super) fn is_tried_again(&self) -> bool {
        !self.is_none() && !self.is_gone()
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self.error.as_deref(), Some(SessionError::Gone))
    }

    /// A commit failed.
    pub(super) fn note(&mut self, error: &SessionError) {
        // Where it dropped changes that stands here already.
        if !matches!(error, SessionError::Gone) {
            *self = Self::of(error);
        }
    }

    pub(super) fn log(&mut self, session: Option<&SessionKey>) {
        if std::mem::replace(&mut self.is_logged, true) {
            return;
        }
        match self.error.as_deref() {
            Some(SessionError::Gone) => events::gone(session),
            Some(error) => events::failed(error, session),
            None => {}
        }
    }

    /// Changes are dropped: a failed commit says why, where there was one.
    pub(super) fn log_dropped(&mut self, session: Option<&SessionKey>, otherwise: fn(Option<&SessionKey>)) {
        if self.is_none() { otherwise(session) } else { self.log(session) }
    }
}
