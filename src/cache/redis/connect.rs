//! Making a connection to a server whose address is known.
use redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use std::time::Duration;

use super::{clients::address, errors::Failure, tracking::Tracking};

#[derive(Clone, Copy)]
pub(super) struct OperationLimits {
    /// Of one operation.
    pub(super) timeout: Duration,
    /// Whether operations are refused while the server does not answer.
    pub(super) fail_fast: bool,
}

impl OperationLimits {
    /// How long to wait for something that comes before the operation itself.
    pub(super) fn part(&self) -> Duration {
        self.timeout / 2
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            // A little less than an operation has, so that one that waited for it can say that nothing was sent.
            .set_connection_timeout(Some(self.timeout / 10 * 9))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1000)
    }
}

pub(super) async fn connect(
    client: &Client,
    limits: OperationLimits,
    tracking: Option<Tracking>,
) -> Result<MultiplexedConnection, Failure> {
    #[cfg(feature = "redis-tls")]
    super::tls::prepare();
    match tracking {
        None => {
            let connected = client.get_multiplexed_async_connection_with_config(&limits.config()).await;
            connected.map_err(|error| Failure::while_connecting(&error, &address(client)))
        }
        Some(tracking) => tracking.connect(client, limits.config()).await,
    }
}
