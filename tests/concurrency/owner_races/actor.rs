//! One side of a race: in this process, or a process of its own that is told on its standard input what to do.
use std::{env, process::Stdio, time::Duration};

use cloakroom::{
    BoxedCache, Session, SessionError, SessionKey, SessionLimitPolicy, SessionStore,
    testing::{Gate, Operation, TestCache},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
};

use super::OWNER;
use crate::support::web::{layer, send};

pub(super) const VARIABLE: &str = "CLOAKROOM_OWNER_RACES_WORKER";

/// What stands before each answer: the test's own output has lines, too.
const ANSWER: &str = "answer: ";

/// What one side does. A request comes with a cookie, or without one.
#[derive(Clone, Debug)]
pub(super) enum Act {
    LogIn(Option<String>),
    SetOwner(String),
    Renew(String),
    Write(String),
    LogOut(String),
    RevokeAll,
    RevokeOthers(SessionKey),
    Revoke(SessionKey),
}

/// Before which operation of the act the other side has its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// The new entry is written, and not listed.
    List,
    /// It is listed, and the old entry is as it was.
    Replace,
    /// It is written and listed, and the user's other sessions were not counted yet, as there are more than one may be.
    Count,
    /// All is written, and the request was not answered.
    Answer,
}

/// How many sessions the user may have.
pub(super) type Limit = (usize, SessionLimitPolicy);

pub(super) const NO_LIMIT: Limit = (100, SessionLimitPolicy::EndOldest);

/// What came of it: `200` and a cookie, `ended 3`, `TooManySessions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) answer: String,
    pub(super) cookie: Option<String>,
}

pub(super) enum Actor {
    Here { cache: TestCache<BoxedCache>, running: Option<(Gate, JoinHandle<Outcome>)> },
    Process { _child: Box<Child>, input: ChildStdin, output: Lines<BufReader<ChildStdout>> },
}

impl Actor {
    pub(super) fn here(cache: BoxedCache) -> Self {
        Self::Here { cache: TestCache::new(cache), running: None }
    }

    pub(super) fn process(url: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "owner_races::redis_worker", "--nocapture"]).env(VARIABLE, url);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("this program again");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self::Process { _child: Box::new(child), input, output: BufReader::new(output).lines() }
    }

    /// Does it up to this point.
    pub(super) async fn begin(&mut self, act: Act, limit: Limit, point: Point) {
        match self {
            Self::Here { cache, running } => {
                if point == Point::Count {
                    cache.hold(Operation::List).open();
                }
                let gate = cache.hold(match point {
                    Point::List | Point::Count => Operation::List,
                    Point::Replace => Operation::Replace,
                    Point::Answer => Operation::Ping,
                });
                let working = tokio::spawn(work(cache.clone(), act, limit, point == Point::Answer));
                gate.arrived().await;
                *running = Some((gate, working));
            }
            Self::Process { .. } => {
                self.tell(&line(&act, limit, Some(point))).await;
                assert_eq!(self.hear().await, "held");
            }
        }
    }

    /// The rest of it.
    pub(super) async fn end(&mut self) -> Outcome {
        if let Self::Here { running, .. } = self {
            let (gate, working) = running.take().expect("something was begun");
            gate.open();
            return working.await.unwrap();
        }
        self.tell("go").await;
        self.outcome().await
    }

    /// All of it.
    pub(super) async fn run(&mut self, act: Act, limit: Limit) -> Outcome {
        if let Self::Here { cache, .. } = self {
            return work(cache.clone(), act, limit, false).await;
        }
        self.tell(&line(&act, limit, None)).await;
        self.outcome().await
    }

    async fn tell(&mut self, line: &str) {
        let Self::Process { input, .. } = self else { unreachable!() };
        input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        input.flush().await.unwrap();
    }

    async fn hear(&mut self) -> String {
        let Self::Process { output, .. } = self else { unreachable!() };
        loop {
            let line = output.next_line().await.unwrap().expect("the worker lives");
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.to_owned();
            }
        }
    }

    async fn outcome(&mut self) -> Outcome {
        let heard = self.hear().await;
        let (answer, cookie) = heard.split_once('|').unwrap();
        Outcome { answer: answer.to_owned(), cookie: (!cookie.is_empty()).then(|| cookie.to_owned()) }
    }
}

fn line(act: &Act, (limit, policy): Limit, point: Option<Point>) -> String {
    let (name, argument) = match act {
        Act::LogIn(cookie) => ("log_in", cookie.clone().unwrap_or_default()),
        Act::SetOwner(cookie) => ("set_owner", cookie.clone()),
        Act::Renew(cookie) => ("renew", cookie.clone()),
        Act::Write(cookie) => ("write", cookie.clone()),
        Act::LogOut(cookie) => ("log_out", cookie.clone()),
        Act::RevokeAll => ("revoke_all", String::new()),
        Act::RevokeOthers(key) => ("revoke_others", key.to_string()),
        Act::Revoke(key) => ("revoke", key.to_string()),
    };
    let refuses = policy == SessionLimitPolicy::Refuse;
    format!("{name}|{argument}|{limit}|{refuses}|{}", point.map_or(String::new(), |point| format!("{point:?}")))
}

/// What a process of its own does, until its input ends.
#[cfg(feature = "redis")]
pub(super) async fn serve(url: &str) {
    let cache = cloakroom::RedisCache::builder(url).timeout(Duration::from_secs(10)).build().await.unwrap();
    let mut actor = Actor::here(BoxedCache::new(cache));
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = input.next_line().await.unwrap() {
        let parts: Vec<&str> = line.split('|').collect();
        let [name, argument, limit, refuses, point] = parts[..] else { panic!("{line}") };
        let cookie = argument.to_owned();
        let act = match name {
            "log_in" => Act::LogIn((!cookie.is_empty()).then_some(cookie)),
            "set_owner" => Act::SetOwner(cookie),
            "renew" => Act::Renew(cookie),
            "write" => Act::Write(cookie),
            "log_out" => Act::LogOut(cookie),
            "revoke_all" => Act::RevokeAll,
            "revoke_others" => Act::RevokeOthers(cookie.parse().unwrap()),
            _ => Act::Revoke(cookie.parse().unwrap()),
        };
        let policy = if refuses == "true" { SessionLimitPolicy::Refuse } else { SessionLimitPolicy::EndOldest };
        let limit = (limit.parse().unwrap(), policy);
        let point = match point {
            "" => None,
            "List" => Some(Point::List),
            "Replace" => Some(Point::Replace),
            "Count" => Some(Point::Count),
            _ => Some(Point::Answer),
        };
        let outcome = match point {
            None => actor.run(act, limit).await,
            Some(point) => {
                actor.begin(act, limit, point).await;
                println!("{ANSWER}held");
                assert_eq!(input.next_line().await.unwrap().as_deref(), Some("go"));
                actor.end().await
            }
        };
        println!("{ANSWER}{}|{}", outcome.answer, outcome.cookie.unwrap_or_default());
    }
}

async fn work(cache: TestCache<BoxedCache>, act: Act, (limit, policy): Limit, waits: bool) -> Outcome {
    let store = SessionStore::new(cache)
        .deadline(Duration::from_secs(30))
        .max_sessions_per_owner(limit)
        .session_limit_policy(policy);
    let said = |answer: String| Outcome { answer, cookie: None };
    let ended = |ended: Result<usize, SessionError>| {
        said(ended.map_or_else(|error| format!("{error:?}"), |ended| format!("ended {ended}")))
    };
    match act {
        Act::RevokeAll => ended(store.revoke_all(OWNER).await),
        Act::RevokeOthers(key) => ended(store.revoke_others(OWNER, &key).await),
        Act::Revoke(key) => ended(store.revoke(&key).await.map(usize::from)),
        Act::LogIn(cookie) => request(&store, cookie, waits, |session| session.log_in(OWNER)).await,
        Act::SetOwner(cookie) => request(&store, Some(cookie), waits, |session| session.set_owner(OWNER)).await,
        Act::Write(cookie) => request(&store, Some(cookie), waits, |session| session.set("written", true)).await,
        Act::Renew(cookie) => {
            let renew = |session: &Session| {
                session.renew();
                Ok(())
            };
            request(&store, Some(cookie), waits, renew).await
        }
        Act::LogOut(cookie) => {
            let destroy = |session: &Session| {
                session.destroy();
                Ok(())
            };
            request(&store, Some(cookie), waits, destroy).await
        }
    }
}

/// A request; if it `waits`, it commits itself and looks at the cache once more before it answers.
async fn request(
    store: &SessionStore<TestCache<BoxedCache>>,
    cookie: Option<String>,
    waits: bool,
    act: fn(&Session) -> Result<(), SessionError>,
) -> Outcome {
    let pinged = store.clone();
    let reply = send(&layer(store), cookie.as_deref(), move |session| {
        let store = pinged.clone();
        async move {
            let done = async {
                act(&session)?;
                if waits {
                    session.commit().await?;
                    store.ping().await?;
                }
                Ok::<_, SessionError>(())
            };
            done.await.map_or_else(|error| error.status().as_u16(), |()| 200)
        }
    })
    .await;
    Outcome { answer: reply.status.to_string(), cookie: reply.cookie() }
}
