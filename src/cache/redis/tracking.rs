//! A connection on which the server reports changes of all that was read over it.
use std::{sync::Arc, time::Instant};

use redis::{
    AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, RedisError, Value,
    aio::{AsyncPushSender, MultiplexedConnection, SendError},
};

use super::{clients::address, errors::Failure};
use crate::cache::near::NearCache;

/// For one connection.
pub(super) struct Tracking {
    pub(super) near: Arc<NearCache>,
    /// That of the connections, never 0.
    pub(super) number: u64,
}

impl Tracking {
    /// Connects, and asks the server to remember what is read over this connection and to report its next change.
    pub(super) async fn connect(
        self,
        client: &Client,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Failure> {
        let Self { near, number } = self;
        let failed = |error: &RedisError| Failure::while_connecting_to_track(error, &address(client));
        // The older protocol has no place for messages that answer no question.
        let info = client.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings)).map_err(|error| failed(&error))?;
        let config = config.set_push_sender(InvalidationReceiver { near: near.clone(), number });
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connected.map_err(|error| failed(&error))?;
        let asked = Instant::now();
        let mut command = redis::cmd("CLIENT");
        command.arg("TRACKING").arg("ON");
        let answer = connection.send_packed_command(&command).await.and_then(Value::extract_error);
        answer.map_err(|error| failed(&error).while_tracking())?;
        near.begin(number, asked);
        Ok(connection)
    }
}

/// Held by the task that reads the connection, and called before that passes on any later answer. When it is dropped,
/// the connection reports nothing any more, for whatever reason.
struct InvalidationReceiver {
    near: Arc<NearCache>,
    number: u64,
}

impl AsyncPushSender for InvalidationReceiver {
    fn send(&self, info: PushInfo) -> Result<(), SendError> {
        match (info.kind, info.data.as_slice()) {
            (PushKind::Invalidate, [Value::Array(keys)]) => {
                for key in keys {
                    match key {
                        Value::BulkString(key) => self.near.invalidate(key),
                        _ => self.near.invalidate_all(),
                    }
                }
            }
            // All keys, as after `FLUSHALL`; and every form of the message that is not understood.
            (PushKind::Invalidate, _) => self.near.invalidate_all(),
            (PushKind::Disconnection, _) => self.near.end(self.number),
            _ => {}
        }
        Ok(())
    }
}

impl Drop for InvalidationReceiver {
    fn drop(&mut self) {
        self.near.end(self.number);
    }
}
