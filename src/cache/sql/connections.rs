//! Where connections come from and go to: the application's pool, or one of our own.
use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use sqlx::{Connection, Database, Pool, pool::PoolConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A connection of our own that rested for longer is asked first whether it still stands.
const FRESH: Duration = Duration::from_secs(1);
/// After this long a connection goes back to the pool once, which renews those that are old.
const KEPT: Duration = Duration::from_secs(60);

/// The pool of the application: each use ends with giving the connection back, which costs a round trip beside it.
/// A pool of our own: connections are kept between uses, and waited for in order.
pub(super) struct Connections<D: Database> {
    pool: Pool<D>,
    own: Option<OwnPool<D>>,
    /// Where writers would only get in each other's way, one writes at a time.
    writer: Option<Semaphore>,
}

struct OwnPool<D: Database> {
    free: Semaphore,
    /// The last one that was used is the first to be used again.
    kept: Mutex<Vec<Kept<D>>>,
}

struct Kept<D: Database> {
    connection: PoolConnection<D>,
    taken: Instant,
    used: Instant,
}

/// A connection while it is in use. Unless the statement ended, it is closed and not used again.
pub(super) struct ConnectionGuard<'a, D: Database> {
    connections: &'a Connections<D>,
    connection: Option<PoolConnection<D>>,
    taken: Instant,
    ended: bool,
    _permits: (Option<SemaphorePermit<'a>>, Option<SemaphorePermit<'a>>),
}

impl<D: Database> Connections<D> {
    pub(super) fn of_application(pool: Pool<D>, one_writer: bool) -> Self {
        Self { pool, own: None, writer: one_writer.then(|| Semaphore::new(1)) }
    }

    pub(super) fn own(pool: Pool<D>, one_writer: bool) -> Self {
        let free = Semaphore::new(usize::try_from(pool.options().get_max_connections()).unwrap_or(1));
        let own = OwnPool { free, kept: Mutex::default() };
        Self { pool, own: Some(own), writer: one_writer.then(|| Semaphore::new(1)) }
    }

    pub(super) const fn pool(&self) -> &Pool<D> {
        &self.pool
    }

    /// Waits for a connection; `surely`: for one that answers. Ends when the caller stops waiting.
    pub(super) async fn acquire(&self, writes: bool, surely: bool) -> Result<ConnectionGuard<'_, D>, sqlx::Error> {
        let closed = |_| sqlx::Error::PoolClosed;
        let writer = match &self.writer {
            Some(writer) if writes => Some(writer.acquire().await.map_err(closed)?),
            _ => None,
        };
        let free = match &self.own {
            Some(own) => Some(own.free.acquire().await.map_err(closed)?),
            None => None,
        };
        let mut guard = ConnectionGuard {
            connections: self,
            connection: None,
            taken: Instant::now(),
            ended: false,
            _permits: (free, writer),
        };
        while let Some(Kept { connection, taken, used }) = self.take_kept() {
            let rested = used.elapsed() > FRESH;
            (guard.connection, guard.taken) = (Some(connection), taken);
            if !(surely || rested) || guard.answers().await {
                return Ok(guard);
            }
            guard.close();
        }
        loop {
            guard.connection = Some(self.pool.acquire().await?);
            guard.taken = Instant::now();
            if !surely || guard.answers().await {
                return Ok(guard);
            }
            guard.close();
        }
    }

    /// Closes those that are not in use.
    pub(super) fn leave_kept(&self) {
        if let Some(mut kept) = self.own.as_ref().and_then(|own| own.kept.lock().ok()) {
            kept.drain(..).for_each(|kept| drop(kept.connection.detach()));
        }
    }

    fn take_kept(&self) -> Option<Kept<D>> {
        self.own.as_ref()?.kept.lock().ok()?.pop()
    }
}

impl<D: Database> ConnectionGuard<'_, D> {
    pub(super) fn connection(&mut self) -> Option<&mut D::Connection> {
        self.connection.as_deref_mut()
    }

    /// The statement ended, whatever its outcome: the connection can be used again.
    pub(super) fn end(mut self) {
        self.ended = true;
    }

    async fn answers(&mut self) -> bool {
        match self.connection() {
            Some(connection) => connection.ping().await.is_ok(),
            None => false,
        }
    }

    fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

impl<D: Database> Drop for ConnectionGuard<'_, D> {
    fn drop(&mut self) {
        if !self.ended {
            return self.close();
        }
        let Some(own) = &self.connections.own else { return };
        if self.taken.elapsed() < KEPT
            && let Some(connection) = self.connection.take()
            && let Ok(mut kept) = own.kept.lock()
        {
            kept.push(Kept { connection, taken: self.taken, used: Instant::now() });
        }
    }
}

impl<D: Database> Drop for OwnPool<D> {
    fn drop(&mut self) {
        // Giving them back would need a runtime, and there may be none any more.
        let kept = self.kept.get_mut().map(std::mem::take).unwrap_or_default();
        for Kept { connection, .. } in kept {
            drop(connection.detach());
        }
    }
}
