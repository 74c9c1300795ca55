//! What sends one command: the place where clusters and sentinels come in.
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{
    Client, Cmd, RedisResult, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

/// Something that sends one command. Clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    /// The application's own.
    Borrowed(ConnectionManager),
    /// To one server, built by us.
    Single(Arc<Single>),
}

impl Connection {
    pub(super) const fn borrowed(manager: ConnectionManager) -> Self {
        Self::Borrowed(manager)
    }

    /// To one server; nothing is sent before the first command.
    pub(super) fn single(client: Client, timeout: Duration) -> Self {
        Self::Single(Arc::new(Single { client, config: config(timeout), current: Mutex::default() }))
    }

    /// Sends the command and waits for the answer, without a limit of its own.
    pub(super) async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let mut manager = match self {
            Self::Borrowed(manager) => manager.clone(),
            Self::Single(single) => single.manager()?,
        };
        manager.send_packed_command(command).await?.extract_error()
    }

    /// Has the next command use a new connection. What is under way on the old one may still end.
    pub(super) fn renew(&self) {
        match self {
            Self::Borrowed(_) => {}
            Self::Single(single) => single.renew(),
        }
    }
}

/// Connections are not renewed more often than this, whatever the number of requests that fail.
const RENEWAL_PAUSE: Duration = Duration::from_millis(200);

/// A manager that can be replaced: by itself it keeps a connection on which nothing arrives any more, one to a former
/// primary, and the error of a login that failed once.
pub(super) struct Single {
    client: Client,
    config: ConnectionManagerConfig,
    current: Mutex<Option<(ConnectionManager, Instant)>>,
}

impl Single {
    fn manager(&self) -> RedisResult<ConnectionManager> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((manager, _)) = &*current {
            return Ok(manager.clone());
        }
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone())?;
        *current = Some((manager.clone(), Instant::now()));
        Ok(manager)
    }

    fn renew(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|(_, since)| since.elapsed() >= RENEWAL_PAUSE);
    }
}

/// Two attempts to connect with a short pause are one try: all operations that wait share it, so that an outage brings
/// few of them, and a server that is back is noticed at the next.
fn config(timeout: Duration) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_min_delay((timeout / 10).min(Duration::from_millis(50)))
        .set_max_delay(Duration::from_millis(250))
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(1000)
}
