//! Sentinels: which of them is asked where the primary is, at each new connection.
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use redis::{Client, ErrorKind, ServerErrorKind, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{
    clients::{ServerSettings, address},
    connect::{OperationLimits, connect},
    errors::Failure,
};

pub(super) struct Sentinels {
    pub(super) sentinels: Vec<Client>,
    /// The name under which they know the primary.
    pub(super) name: String,
    pub(super) servers: ServerSettings,
    /// The one that answered last time is asked first.
    pub(super) first: AtomicUsize,
}

impl Sentinels {
    /// The server that is the primary now, by the first sentinel that answers and knows it.
    pub(super) async fn primary(&self, limits: OperationLimits) -> Result<Client, Failure> {
        let count = self.sentinels.len();
        let each = (limits.timeout / 5).max(Duration::from_millis(20));
        let first = self.first.load(Ordering::Relaxed);
        let (mut answered, mut last) = (false, None);
        for index in (0..count).map(|index| (first + index) % count) {
            let Some(sentinel) = self.sentinels.get(index) else { continue };
            match timeout(each, self.ask(sentinel, limits)).await {
                Ok(Ok(Some((host, port)))) => {
                    self.first.store(index, Ordering::Relaxed);
                    let client = self.servers.client(&host, port);
                    return client.map_err(|_| Failure::no_server(true, "the sentinels gave an unusable address"));
                }
                Ok(Ok(None)) => answered = true,
                Ok(Err(failure)) => last = Some(failure),
                Err(_) => {}
            }
        }
        if answered {
            return Err(Failure::no_server(true, "no sentinel knows a primary of this name"));
        }
        Err(last.unwrap_or_else(|| Failure::no_server(false, "no sentinel answered in time")))
    }

    async fn ask(&self, sentinel: &Client, limits: OperationLimits) -> Result<Option<(String, u16)>, Failure> {
        let mut connection = connect(sentinel, limits, None).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let answer = question.query_async(&mut connection).await;
        answer.map_err(|error| Failure::while_connecting(&error, &address(sentinel)))
    }

    /// How errors name the server.
    pub(super) fn describe(&self) -> String {
        format!("the primary of the sentinels {}", self.sentinels.iter().map(address).collect::<Vec<_>>().join(", "))
    }
}

/// Asks the server whether it is a primary: a sentinel may not know yet, or no longer. A user without the permission
/// for that question relies on the sentinels.
pub(super) async fn confirm_primary(
    mut connection: MultiplexedConnection,
    client: &Client,
) -> Result<MultiplexedConnection, Failure> {
    match connection.send_packed_command(&redis::cmd("ROLE")).await.and_then(Value::extract_error) {
        Ok(Value::Array(role)) if role.first().is_some_and(is_master) => Ok(connection),
        Ok(_) => Err(Failure::no_server(true, "the server that the sentinels named is no primary")),
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(connection),
        Err(error) => Err(Failure::while_connecting(&error, &address(client))),
    }
}

fn is_master(role: &Value) -> bool {
    matches!(role, Value::BulkString(role) if role == b"master")
}
