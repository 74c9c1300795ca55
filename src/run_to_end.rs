//! Work that runs to its end once it has begun, also if its caller stops waiting.
use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Dropped half-way, the rest moves to a task of its own.
///
/// Where it is not dropped it costs no task and no hand-over.
pub(crate) struct RunToEnd<T: Send + 'static> {
    work: Option<Boxed<T>>,
    /// Known once the work has begun.
    runtime: Option<Handle>,
}

impl<T: Send + 'static> RunToEnd<T> {
    pub(crate) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { work: Some(Box::pin(work)), runtime: None }
    }
}

impl<T: Send + 'static> Future for RunToEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Out of its place while it runs, so that a panic leaves nothing to go on with.
        let Some(mut work) = self.work.take() else { return Poll::Pending };
        let poll = work.as_mut().poll(cx);
        if poll.is_pending() {
            if self.runtime.is_none() {
                self.runtime = Handle::try_current().ok();
            }
            self.work = Some(work);
        }
        poll
    }
}

impl<T: Send + 'static> Drop for RunToEnd<T> {
    fn drop(&mut self) {
        if let (Some(work), Some(runtime)) = (self.work.take(), &self.runtime) {
            runtime.spawn(work);
        }
    }
}

impl<T: Send + 'static> fmt::Debug for RunToEnd<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunToEnd").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_has_begun_ends_and_what_has_not_does_not_begin() {
        let (go, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let work = || {
            let (go, done) = (go.clone(), done.clone());
            RunToEnd::new(async move {
                go.notified().await;
                done.notify_one();
            })
        };
        drop(work());
        let mut begun = work();
        assert!(std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut begun).poll(cx))).await.is_pending());
        drop(begun);
        go.notify_one();
        tokio::time::timeout(Duration::from_secs(5), done.notified()).await.unwrap();
    }
}
