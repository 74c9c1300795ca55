//! A failed commit that a handler called for: it is logged once, by the response that is made of it, or else when the request ends.
use std::{
    mem::discriminant,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{error::SessionError, events, id::SessionKey};

/// So many failures of detached handles wait for the response of their request.
const MOST: usize = 16;

/// How the last such commit failed, until one succeeds. [`Gone`](SessionError::Gone) stands here only if changes were dropped.
#[derive(Default)]
pub(super) struct CommitFailure {
    last: Option<Arc<Failed>>,
    /// Those of handles that were detached from a request's: its response may be made of their errors, too.
    detached: Vec<Arc<Failed>>,
}

struct Failed {
    error: SessionError,
    /// Logged, or followed by another commit.
    is_settled: AtomicBool,
}

impl Failed {
    fn settle(&self) -> bool {
        !self.is_settled.swap(true, Ordering::Relaxed)
    }

    fn log(&self, session: Option<&SessionKey>) {
        if self.settle() {
            match &self.error {
                SessionError::Gone => events::gone(session),
                error => events::failed(error, session),
            }
        }
    }
}

impl CommitFailure {
    pub(super) const fn is_none(&self) -> bool {
        self.last.is_none()
    }

    /// As [`is_none`](Self::is_none), and no handle that was detached has failed either.
    pub(super) const fn is_empty(&self) -> bool {
        self.is_none() && self.detached.is_empty()
    }

    /// Whether the response's commit does not try again what failed; `drops` says that of all changes.
    pub(super) fn is_final(&self, drops: bool) -> bool {
        !self.is_none() && (drops || self.is_gone())
    }

    fn is_gone(&self) -> bool {
        self.last.as_ref().is_some_and(|last| matches!(last.error, SessionError::Gone))
    }

    /// A commit failed.
    pub(super) fn note(&mut self, error: &SessionError) {
        // Where it dropped changes that stands here already.
        if !matches!(error, SessionError::Gone) {
            self.set(error.clone());
        }
    }

    /// A commit dropped its changes, as the session had ended.
    pub(super) fn note_gone(&mut self) {
        if !self.is_gone() {
            self.set(SessionError::Gone);
        }
    }

    fn set(&mut self, error: SessionError) {
        self.clear();
        self.last = Some(Arc::new(Failed { error, is_settled: AtomicBool::new(false) }));
    }

    /// A commit succeeded.
    pub(super) fn clear(&mut self) {
        if let Some(last) = self.last.take() {
            last.settle();
        }
    }

    pub(super) fn log(&self, session: Option<&SessionKey>) {
        if let Some(last) = &self.last {
            last.log(session);
        }
    }

    /// A handle that was detached from this one, whose request is not over, failed. Whether there is room for that until
    /// the response.
    pub(super) fn take_in(&mut self, other: &Self) -> bool {
        let Some(last) = &other.last else { return true };
        self.detached.retain(|failed| !failed.is_settled.load(Ordering::Relaxed));
        // The same one comes again where a handle is told again that its session is gone.
        if self.detached.iter().any(|failed| Arc::ptr_eq(failed, last)) {
            return true;
        }
        let has_room = self.detached.len() < MOST;
        if has_room {
            self.detached.push(Arc::clone(last));
        }
        has_room
    }

    /// The request ends: what its response does not tell is logged. The `answer` is the error that the response is made of.
    /// What `is_final` is told by this handle's own failure, or else by `dropped`.
    pub(super) fn log_end(
        &mut self,
        session: Option<&SessionKey>,
        answer: Option<&SessionError>,
        is_final: bool,
        dropped: fn(Option<&SessionKey>),
    ) {
        let mut untold = answer.map(discriminant);
        for failed in std::mem::take(&mut self.detached) {
            if untold == Some(discriminant(&failed.error)) && failed.settle() {
                untold = None;
            }
            failed.log(session);
        }
        if is_final && answer.is_none() {
            if self.is_none() { dropped(session) } else { self.log(session) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_wait_for_the_response_are_bounded() {
        let mut request = CommitFailure::default();
        let failed = || {
            let mut handle = CommitFailure::default();
            handle.note(&SessionError::NoStore);
            handle
        };
        let handles: Vec<_> = (0..MOST).map(|_| failed()).collect();
        assert!(handles.iter().all(|handle| request.take_in(handle)));
        assert!(!request.take_in(&failed()));
        assert!(handles.iter().all(|handle| request.take_in(handle)), "they are there already");
        // One of them has committed since.
        handles.into_iter().next().unwrap().clear();
        assert!(request.take_in(&failed()));
        assert_eq!(request.detached.len(), MOST);
    }
}
