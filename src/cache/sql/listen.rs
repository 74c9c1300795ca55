//! Changes of keys, told to other processes and heard from them over one connection to PostgreSQL (`NOTIFY`, `LISTEN`).
//!
//! A transaction that notifies keeps all others that do so from committing until its own commit is on the disk. So a change is
//! told after its write was committed, by a statement that writes nothing to the disk, together with all others of the last
//! few milliseconds.
//!
//! A message has the number of its sender in front of the keys, each in base64.
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sqlx::{
    ConnectOptions, Executor, PgConnection, PgPool, Postgres, Row,
    error::DatabaseError,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    call::deadline,
    failure::Failure,
    near::{NotifyingNearCache, Outbox},
    tables::SqlTables,
};
use crate::{
    cache::{
        Version,
        near::{BOUND, NearCache, Reports},
    },
    error::{CacheError, CacheErrorKind},
    events,
};

/// Changes of so many milliseconds are told together.
const GATHER: Duration = Duration::from_millis(5);
/// The connection proves that it hears of changes so often.
const PROOF: Duration = Duration::from_millis(250);
/// From a failed try to connect to the next one.
const PAUSE: Duration = Duration::from_secs(1);
/// The same behind what will hardly change.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// PostgreSQL takes messages of up to 8,000 bytes.
const LONGEST: usize = 7900;

const TELL: &str = "SELECT pg_notify($1, $2)";

/// One connection after the other, for as long as it is polled.
struct Listener {
    near: Arc<NearCache>,
    outbox: Arc<Outbox>,
    options: PgConnectOptions,
    channel: String,
    /// Tells own messages from those of others.
    sender: u64,
    timeout: Duration,
    /// What an error of the database means.
    answer: fn(&dyn DatabaseError) -> Failure,
}

/// A near cache of so many bytes, kept true by a task that connects as `pool` does.
pub(super) fn near_cache(
    pool: &PgPool,
    tables: &SqlTables,
    bytes: usize,
    timeout: Duration,
    answer: fn(&dyn DatabaseError) -> Failure,
) -> NotifyingNearCache {
    let (near, outbox) = (Arc::new(NearCache::new(bytes, Reports::ByWriters)), Arc::new(Outbox::default()));
    let listener = Listener {
        near: Arc::clone(&near),
        outbox: Arc::clone(&outbox),
        options: pool.connect_options().as_ref().clone().disable_statement_logging(),
        channel: tables.channel(),
        sender: Version::unique().into(),
        timeout,
        answer,
    };
    NotifyingNearCache::new(near, outbox, |first| tokio::spawn(listener.run(first)))
}

impl Listener {
    async fn run(self, first: oneshot::Sender<Result<(), CacheError>>) {
        let mut first = Some(first);
        loop {
            let mut pause = PAUSE;
            match (self.connect().await, first.take()) {
                (Ok(connection), first) => {
                    first.map(|first| first.send(Ok(())));
                    events::near_cache_lost(&self.follow(connection).await);
                }
                // Where `build` waits for it, it is the error of that.
                (Err(error), Some(first)) => drop(first.send(Err(error))),
                (Err(error), None) => {
                    if error.kind() == CacheErrorKind::Unsupported {
                        pause = LONG_PAUSE;
                    }
                    events::near_cache_lost(&error);
                }
            }
            sleep(pause).await;
        }
    }

    /// A connection that hears of changes, and has proved it.
    async fn connect(&self) -> Result<PgListener, CacheError> {
        let connecting = async {
            let pool = PgPoolOptions::new().max_connections(2).connect_lazy_with(self.options.clone());
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            Ok((listener, pool.acquire().await?))
        };
        let (mut listener, mut other) = self.bounded(connecting).await?;
        let asked = async {
            if is_shared(&mut listener, &mut other).await? {
                return Ok(None);
            }
            // Behind a pooler that went unnoticed, the transaction keeps the connection that listens from `other`.
            other.execute(sqlx::raw_sql("BEGIN")).await?;
            listener.listen(&self.channel).await?;
            let message = format!("{:x}:", u64::from(Version::unique()));
            other.execute(sqlx::query(TELL).bind(&self.channel).bind(&message)).await?;
            other.execute(sqlx::raw_sql("COMMIT")).await?;
            Ok(Some(message))
        };
        let expected = self.bounded(asked).await?.ok_or_else(shared)?;
        drop(other.detach());
        let heard = async {
            loop {
                match listener.try_recv().await {
                    Ok(Some(message)) if message.payload() == expected => return Ok(()),
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(lost()),
                    Err(error) => return Err(failed(Failure::of(&error, self.answer))),
                }
            }
        };
        timeout_at(deadline(self.timeout), heard).await.unwrap_or_else(|_| Err(shared()))?;
        Ok(listener)
    }

    /// One of the steps of connecting.
    async fn bounded<T>(&self, step: impl Future<Output = sqlx::Result<T>>) -> Result<T, CacheError> {
        match timeout_at(deadline(self.timeout), step).await {
            Ok(done) => done.map_err(|error| failed(Failure::while_connecting(&error, self.answer))),
            Err(_) => Err(CacheError::new(CacheErrorKind::Unavailable, "the database cannot be reached in time")),
        }
    }

    /// Hears and tells until the connection fails.
    async fn follow(&self, mut listener: PgListener) -> CacheError {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let _end = End { near: &self.near, number };
        // It heard a message a moment ago.
        self.near.begin(number, std::time::Instant::now());
        let (mut told, mut proof) = (Instant::now(), Instant::now());
        loop {
            match next(listener.try_recv(), self.due(told + GATHER, proof)).await {
                Event::Due => {
                    let asked = std::time::Instant::now();
                    if let Err(error) = self.tell(&mut listener).await {
                        return error;
                    }
                    // What was told before has arrived before the answer.
                    while let Some(message) = listener.next_buffered() {
                        self.hear(message.payload());
                    }
                    self.near.prove(number, asked);
                    told = Instant::now();
                    proof = told + PROOF;
                }
                Event::Heard(Ok(Some(message))) => self.hear(message.payload()),
                Event::Heard(Ok(None)) => return lost(),
                Event::Heard(Err(error)) => return failed(Failure::of(&error, self.answer)),
            }
        }
    }

    /// Until there is something to tell, or a proof to be asked for.
    async fn due(&self, earliest: Instant, proof: Instant) {
        let filled = async {
            self.outbox.filled().await;
            sleep_until(earliest).await;
        };
        let _ = timeout_at(proof, filled).await;
    }

    async fn tell(&self, listener: &mut PgListener) -> Result<(), CacheError> {
        let mut message = format!("{:x}:", self.sender);
        let mut room = LONGEST - message.len();
        let keys = self.outbox.take(|key| {
            let length = base64::encoded_len(key.len(), false).unwrap_or(LONGEST) + 1;
            let fits = length <= room;
            room = room.saturating_sub(length);
            fits
        });
        for key in &keys {
            URL_SAFE_NO_PAD.encode_string(key, &mut message);
            message.push(',');
        }
        let sent = async {
            if keys.is_empty() {
                return listener.execute(sqlx::raw_sql("SELECT 1")).await;
            }
            listener.execute(sqlx::query::<Postgres>(TELL).bind(&self.channel).bind(&message)).await
        };
        match timeout_at(deadline(BOUND), sent).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(Failure::of(&error, self.answer))),
            Err(_) => Err(lost()),
        }
    }

    fn hear(&self, message: &str) {
        let Some((sender, keys)) = message.split_once(':') else { return self.near.invalidate_all() };
        if u64::from_str_radix(sender, 16) == Ok(self.sender) {
            return;
        }
        for key in keys.split(',').filter(|key| !key.is_empty()) {
            match URL_SAFE_NO_PAD.decode(key) {
                Ok(key) => self.near.invalidate(&key),
                Err(_) => self.near.invalidate_all(),
            }
        }
    }
}

/// What was read while this connection heard of changes is not served after it.
struct End<'a> {
    near: &'a NearCache,
    number: u64,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.near.end(self.number);
    }
}

enum Event<T> {
    Heard(T),
    Due,
}

/// Whatever comes first; what was heard goes before what is due.
async fn next<T>(heard: impl Future<Output = T>, due: impl Future<Output = ()>) -> Event<T> {
    let (mut heard, mut due) = (pin!(heard), pin!(due));
    poll_fn(|context| match heard.as_mut().poll(context) {
        Poll::Ready(heard) => Poll::Ready(Event::Heard(heard)),
        Poll::Pending => due.as_mut().poll(context).map(|()| Event::Due),
    })
    .await
}

/// Whether a pooler gives both the same connection of the server, or one of them now this one and now that. What listens
/// there would leave messages to whatever uses that connection next.
async fn is_shared(one: &mut PgListener, other: &mut PgConnection) -> sqlx::Result<bool> {
    const SERVER_SIDE: &str = "SELECT pg_backend_pid()";
    // A pooler that checks a connection before it gives it away may happen to give each the same one, now and then.
    for _ in 0..2 {
        let before: i32 = one.fetch_one(sqlx::raw_sql(SERVER_SIDE)).await?.try_get(0)?;
        other.execute(sqlx::raw_sql("BEGIN")).await?;
        let between: i32 = other.fetch_one(sqlx::raw_sql(SERVER_SIDE)).await?.try_get(0)?;
        let after: i32 = one.fetch_one(sqlx::raw_sql(SERVER_SIDE)).await?.try_get(0)?;
        other.execute(sqlx::raw_sql("ROLLBACK")).await?;
        if before == between || before != after {
            return Ok(true);
        }
    }
    Ok(false)
}

fn shared() -> CacheError {
    let text = "`near_cache` needs a connection of its own, and notifications do not arrive on this one: a pooler in \
                transaction mode gives it to others in between";
    CacheError::new(CacheErrorKind::Unsupported, text)
}

fn lost() -> CacheError {
    CacheError::new(CacheErrorKind::Unavailable, "the connection that hears of changes was lost")
}

fn failed(failure: Failure) -> CacheError {
    match failure {
        Failure::Rejected(kind, text) => CacheError::new(kind, text),
        Failure::NotReady { text, .. } => CacheError::new(CacheErrorKind::Unavailable, text),
        Failure::Lost => lost(),
    }
}
