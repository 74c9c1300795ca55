//! Bounded waiting, free of charge where nothing waits.
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

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
        let mut future = pin!(future);
        // A cache in memory answers at once and needs no timer.
        if let Poll::Ready(output) = once(future.as_mut()).await {
            return Ok(output);
        }
        match self.at {
            Some(at) => tokio::time::timeout_at(at, future).await.map_err(|_| Elapsed),
            None => Ok(future.await),
        }
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

/// Polls once.
async fn once<F: Future + Unpin>(mut future: F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut future).poll(cx))).await
}
