//! A connection on which the server tells what has changed of all that was read over it.
use std::{sync::Arc, time::Instant};

use redis::{
    AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, RedisResult, Value,
    aio::{AsyncPushSender, MultiplexedConnection, SendError},
};

use super::near::Near;

/// For one connection.
pub(super) struct Tracking {
    pub(super) near: Arc<Near>,
    /// That of the connection, never 0.
    pub(super) number: u64,
}

impl Tracking {
    /// Connects, and asks the server to remember what is read over this connection and to tell once when it changes.
    pub(super) async fn connect(
        self,
        client: &Client,
        config: AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let Self { near, number } = self;
        // The older protocol has no place for messages that nobody asked for.
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let config = config.set_push_sender(Listener { near: near.clone(), number });
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let asked = Instant::now();
        let mut command = redis::cmd("CLIENT");
        command.arg("TRACKING").arg("ON");
        connection.send_packed_command(&command).await?.extract_error()?;
        near.begin(number, asked);
        Ok(connection)
    }
}

/// Held by the task that reads the connection, and called before it passes on any later answer. That it is dropped means
/// that nobody listens any more, for whatever reason.
struct Listener {
    near: Arc<Near>,
    number: u64,
}

impl AsyncPushSender for Listener {
    fn send(&self, info: PushInfo) -> Result<(), SendError> {
        match (info.kind, info.data.as_slice()) {
            (PushKind::Invalidate, [Value::Array(keys)]) => {
                for key in keys {
                    match key {
                        Value::BulkString(key) => self.near.change(key),
                        _ => self.near.change_all(),
                    }
                }
            }
            // All keys, as after `FLUSHALL`; and whatever it may mean that is not understood.
            (PushKind::Invalidate, _) => self.near.change_all(),
            (PushKind::Disconnection, _) => self.near.end(self.number),
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.near.end(self.number);
    }
}
