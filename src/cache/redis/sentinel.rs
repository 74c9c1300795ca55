//! Sentinels: who is asked where the primary is, at each new connection.
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use redis::{Client, ErrorKind, ServerErrorKind, Value, aio::MultiplexedConnection};
use tokio::time::timeout;

use super::{
    dial::Dial,
    errors::{Failure, nobody},
    link::{self, Limits},
    tracking::Tracking,
};

pub(super) struct Sentinels {
    pub(super) sentinels: Vec<Client>,
    /// What they call the primary.
    pub(super) name: String,
    pub(super) dial: Dial,
    /// The one that answered last time is asked first.
    pub(super) first: AtomicUsize,
}

impl Sentinels {
    /// Connects to the server that is the primary now.
    pub(super) async fn connect(
        &self,
        limits: Limits,
        tracking: Option<Tracking>,
    ) -> Result<MultiplexedConnection, Failure> {
        let (host, port) = self.primary(limits).await?;
        let client = self.dial.client(&host, port);
        let client = client.map_err(|_| nobody(true, "the sentinels gave an address that cannot be used"))?;
        let mut connection = link::connect(&client, limits, tracking).await?;
        // It may not know yet, or no longer. A user who may not ask has to rely on the sentinels.
        match connection.send_packed_command(&redis::cmd("ROLE")).await.and_then(Value::extract_error) {
            Ok(Value::Array(role)) if role.first().is_some_and(is_master) => Ok(connection),
            Ok(_) => Err(nobody(true, "the server that the sentinels named is no primary")),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(connection),
            Err(error) => Err(Failure::while_connecting(&error)),
        }
    }

    /// What the first sentinel says that answers and knows.
    async fn primary(&self, limits: Limits) -> Result<(String, u16), Failure> {
        let count = self.sentinels.len();
        let each = (limits.timeout / 5).max(Duration::from_millis(20));
        let first = self.first.load(Ordering::Relaxed);
        let mut answered = false;
        for index in (0..count).map(|index| (first + index) % count) {
            let Some(sentinel) = self.sentinels.get(index) else { continue };
            match timeout(each, self.ask(sentinel, limits)).await {
                Ok(Ok(Some(address))) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(address);
                }
                Ok(Ok(None)) => answered = true,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let text =
            if answered { "no sentinel knows a primary of this name" } else { "no sentinel of Redis can be reached" };
        Err(nobody(false, text))
    }

    async fn ask(&self, sentinel: &Client, limits: Limits) -> Result<Option<(String, u16)>, Failure> {
        let mut connection = link::connect(sentinel, limits, None).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let answer = question.query_async(&mut connection).await;
        answer.map_err(|error| Failure::while_connecting(&error))
    }
}

fn is_master(role: &Value) -> bool {
    matches!(role, Value::BulkString(role) if role == b"master")
}
