//! A process that does one operation at a time, as it is told on its standard input.
use std::{env, process::Stdio, time::Duration};

use cloakroom::{BoxedCache, CacheError, CacheErrorKind, SessionError, SessionStore};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::spec::{KEYS, Op, Ret};

pub(crate) const VARIABLE: &str = "CLOAKROOM_LINEARIZE_WORKER";

/// What stands before each answer: the test's own output has lines, too.
const ANSWER: &str = "answer: ";

#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Returned(Ret),
    /// Nothing was done.
    Refused,
    /// It was done, or not, or is done later.
    Unknown,
}

pub(crate) struct Worker {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// `timeout` is that of its cache.
    pub(crate) async fn start(url: &str, timeout: Duration) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "worker", "--nocapture"]).env(VARIABLE, format!("{} {url}", timeout.as_millis()));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("this program again");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, input, output: BufReader::new(output).lines() }
    }

    pub(crate) async fn run(&mut self, id: &str, op: Op) -> Outcome {
        self.input.write_all(format!("{id} {}\n", op.line()).as_bytes()).await.unwrap();
        self.input.flush().await.unwrap();
        loop {
            let line = self.output.next_line().await.unwrap().expect("the worker lives");
            let Some((_, answer)) = line.split_once(ANSWER) else { continue };
            return match answer {
                "done" => Outcome::Returned(Ret::Done),
                "gone" => Outcome::Returned(Ret::Gone),
                "none" => Outcome::Returned(Ret::Value(None)),
                "refused" => Outcome::Refused,
                "unknown" => Outcome::Unknown,
                value => Outcome::Returned(Ret::Value(Some(value.parse().unwrap()))),
            };
        }
    }
}

/// What the URL names. The first connection may be killed: another one is tried then.
pub(crate) async fn cache(url: &str, timeout: Duration) -> BoxedCache {
    loop {
        if let Ok(cache) = build(url, timeout).await {
            return cache;
        }
    }
}

async fn build(url: &str, timeout: Duration) -> Result<BoxedCache, CacheError> {
    Ok(match url.split(':').next() {
        #[cfg(feature = "redis")]
        Some("redis") => BoxedCache::new(cloakroom::RedisCache::builder(url).timeout(timeout).build().await?),
        #[cfg(feature = "postgres")]
        Some("postgres") => BoxedCache::new(cloakroom::PostgresCache::builder(url).timeout(timeout).build().await?),
        #[cfg(feature = "mysql")]
        Some("mysql") => BoxedCache::new(cloakroom::MySqlCache::builder(url).timeout(timeout).build().await?),
        #[cfg(feature = "sqlite")]
        Some("sqlite") => BoxedCache::new(cloakroom::SqliteCache::builder(url).timeout(timeout).build().await?),
        _ => panic!("no cache of this scheme: {url}"),
    })
}

/// `settings` are the time limit in milliseconds and the URL.
pub(crate) async fn serve(settings: &str) {
    let (timeout, url) = settings.split_once(' ').unwrap();
    let timeout = Duration::from_millis(timeout.parse().unwrap());
    let store = SessionStore::new(cache(url, timeout).await).deadline(4 * timeout);
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = input.next_line().await.unwrap() {
        let (id, op) = line.split_once(' ').unwrap();
        let op = Op::of_line(op).unwrap();
        let answer = match run(&store, id, op).await {
            Ok(Ret::Done) => "done".to_owned(),
            Ok(Ret::Gone) => "gone".to_owned(),
            Ok(Ret::Value(None)) => "none".to_owned(),
            Ok(Ret::Value(Some(value))) => value.to_string(),
            Err(Failed { may_be_done: false }) => "refused".to_owned(),
            Err(Failed { may_be_done: true }) => "unknown".to_owned(),
        };
        println!("{ANSWER}{answer}");
    }
}

struct Failed {
    may_be_done: bool,
}

impl From<SessionError> for Failed {
    fn from(error: SessionError) -> Self {
        let unknown = [CacheErrorKind::Timeout, CacheErrorKind::Other];
        Self { may_be_done: error.cache_kind().is_some_and(|kind| unknown.contains(&kind)) }
    }
}

fn add(n: Option<u64>) -> u64 {
    n.unwrap_or_default() + 1
}

async fn run(store: &SessionStore<BoxedCache>, id: &str, op: Op) -> Result<Ret, Failed> {
    if op == Op::Destroy {
        store.destroy(id).await?;
        return Ok(Ret::Done);
    }
    // Loading changes nothing, whatever becomes of it.
    let loaded = store.load(id).await.map_err(|_| Failed { may_be_done: false })?;
    let Some(session) = loaded else { return Ok(Ret::Gone) };
    let done = match op {
        Op::Get(key) => return Ok(Ret::Value(session.get(KEYS[key]))),
        Op::Add(key) => session.update_now(KEYS[key], add).await.map(|value| Ret::Value(Some(value))),
        Op::Take(key) => session.take_now(KEYS[key]).await.map(Ret::Value),
        Op::Set(key, value) => {
            session.set(KEYS[key], value)?;
            session.commit().await.map(|()| Ret::Done)
        }
        Op::Remove(key) => {
            session.remove(KEYS[key]);
            session.commit().await.map(|()| Ret::Done)
        }
        Op::Bump(key) => {
            session.update(KEYS[key], add)?;
            let first = session.commit().await;
            if first.is_err() && !matches!(first, Err(SessionError::Gone)) {
                // The same list once more, as the commit at the end of a request takes it.
                let second = session.commit().await;
                let was_unknown = first.err().is_some_and(|error| Failed::from(error).may_be_done);
                return match second {
                    // An unknown outcome that could not be found out is dropped without another error.
                    Ok(()) if was_unknown => Err(Failed { may_be_done: true }),
                    Ok(()) => Ok(Ret::Done),
                    Err(SessionError::Gone) if !was_unknown => Ok(Ret::Gone),
                    Err(error) => Err(Failed { may_be_done: was_unknown || Failed::from(error).may_be_done }),
                };
            }
            first.map(|()| Ret::Done)
        }
        Op::Destroy => Ok(Ret::Done),
    };
    match done {
        Err(SessionError::Gone) => Ok(Ret::Gone),
        done => Ok(done?),
    }
}
