//! Bounded waiting, free of charge where nothing waits.
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until},
};

use crate::{
    error::{CacheError, CacheErrorKind, SessionError},
    events,
};

/// The time at which waiting ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// `None`: never.
    at: Option<Instant>,
}

/// The deadline passed.
#[derive(Debug)]
pub(crate) struct Elapsed;

impl Deadline {
    pub(crate) const NEVER: Self = Self { at: None };

    pub(crate) fn after(limit: Duration) -> Self {
        Self { at: Instant::now().checked_add(limit) }
    }

    pub(crate) fn left(&self) -> Duration {
        self.at.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Runs `future` until the deadline.
    pub(crate) async fn bound<F: Future>(self, future: F) -> Result<F::Output, Elapsed> {
        let (mut future, mut timer) = (pin!(future), pin!(None));
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            // Only now: a cache in memory answers at once and needs none.
            if let (Some(at), true) = (self.at, timer.is_none()) {
                timer.set(Some(unconstrained(sleep_until(at))));
            }
            match timer.as_mut().as_pin_mut() {
                Some(timer) => timer.poll(cx).map(|()| Err(Elapsed)),
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// Runs a call of the store or of a handle that is no load and no commit, until the deadline. A failure of the cache is logged
/// here, as the caller may answer with whatever it likes.
pub(crate) async fn within<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    let result = deadline.bound(work).await.unwrap_or_else(|_| Err(timed_out()));
    result.inspect_err(|error| events::cache_failed(error, None))
}

pub(crate) fn timed_out() -> SessionError {
    CacheError::new(CacheErrorKind::Timeout, "the deadline of the session's work passed").into()
}

/// The output of a future that waits for nothing.
pub(crate) fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
