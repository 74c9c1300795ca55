//! Two processes with one Redis between them that know different keys: the old one alone, and a new one before it.
use std::{collections::BTreeSet, env, process::Stdio};

use cloakroom::{Session, SessionError, SessionId, SessionStore};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::*;
use crate::support::caches;

const VARIABLE: &str = "CLOAKROOM_ENCRYPTION_WORKER";

/// What stands before each answer: the test's own output has lines, too.
const ANSWER: &str = "answer: ";

const ROUNDS: usize = 40;

/// Another process with this program, which does what it is told on its standard input.
struct Worker {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    log: Vec<String>,
}

/// What became of the requests of one session.
#[derive(Debug, Default, PartialEq)]
struct RequestCounts {
    done: usize,
    /// There was no session.
    none: usize,
    /// The session could be read, and not any more when it was to be written.
    gone: usize,
}

fn seen(done: usize, none: usize, gone: usize) -> RequestCounts {
    RequestCounts { done, none, gone }
}

impl Worker {
    /// With these keys, the first one first.
    fn start(url: &str, keys: &[u8]) -> Self {
        let keys: Vec<_> = keys.iter().map(u8::to_string).collect();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "processes::worker", "--nocapture"]);
        let command = command.env(VARIABLE, format!("{} {url}", keys.join(",")));
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = spawned.expect("this program again");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { _child: child, input, output: BufReader::new(output).lines(), log: Vec::new() }
    }

    async fn ask(&mut self, what: &str) -> String {
        self.input.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        self.input.flush().await.unwrap();
        loop {
            let line = self.output.next_line().await.unwrap().expect("the worker lives");
            match line.split_once(ANSWER) {
                Some((_, answer)) => return answer.to_owned(),
                None => self.log.push(line),
            }
        }
    }

    /// So many requests of each session, those of one after another.
    async fn load(
        &mut self,
        rounds: usize,
        read: &[SessionId],
        write: &[SessionId],
    ) -> (Vec<RequestCounts>, Vec<RequestCounts>) {
        let words = read
            .iter()
            .map(|id| format!(" r:{}", id.as_ref()))
            .chain(write.iter().map(|id| format!(" w:{}", id.as_ref())));
        let answer = self.ask(&format!("load {rounds}{}", words.collect::<String>())).await;
        let mut all = answer.split(' ').map(|counts| {
            let mut counts = counts.split(',').map(|count| count.parse().unwrap());
            seen(counts.next().unwrap(), counts.next().unwrap(), counts.next().unwrap())
        });
        let read = all.by_ref().take(read.len()).collect();
        (read, all.collect())
    }

    async fn end(&mut self, id: &SessionId) {
        assert_eq!(self.ask(&format!("end {}", id.as_ref())).await, "ended");
    }

    /// The events that were logged as warnings or errors.
    fn events(&self) -> BTreeSet<&str> {
        let failures = self.log.iter().filter(|line| line.contains("WARN") || line.contains("ERROR"));
        failures
            .map(|line| line.split("event=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or(line))
            .collect()
    }
}

/// The process of a worker; without its variable it is no test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker() {
    let Ok(settings) = env::var(VARIABLE) else { return };
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false).with_writer(std::io::stdout).init();
    let (keys, url) = settings.split_once(' ').unwrap();
    let keys: Vec<u8> = keys.split(',').map(|key| key.parse().unwrap()).collect();
    let redis = cloakroom::RedisCache::builder(url).timeout(Duration::from_secs(10)).build().await.unwrap();
    let store = SessionStore::new(around(&redis, &keys)).deadline(Duration::from_secs(20));
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = input.next_line().await.unwrap() {
        let words: Vec<_> = line.split(' ').collect();
        let answers = match words[..] {
            ["load", rounds, ref ids @ ..] => {
                let rounds = rounds.parse().unwrap();
                let tasks: Vec<_> = ids
                    .iter()
                    .map(|word| {
                        let (how, id) = word.split_once(':').unwrap();
                        tokio::spawn(requests(store.clone(), id.to_owned(), how == "w", rounds))
                    })
                    .collect();
                let mut answers = Vec::new();
                for task in tasks {
                    let RequestCounts { done, none, gone } = task.await.unwrap();
                    answers.push(format!("{done},{none},{gone}"));
                }
                answers
            }
            ["end", id] => {
                store.destroy(id).await.unwrap();
                vec!["ended".to_owned()]
            }
            _ => panic!("not known: {line}"),
        };
        println!("\n{ANSWER}{}", answers.join(" "));
    }
}

/// An error of any other kind ends the worker, and with it the test.
async fn requests<C: Cache>(store: SessionStore<C>, id: String, writes: bool, rounds: usize) -> RequestCounts {
    let mut seen = RequestCounts::default();
    for _ in 0..rounds {
        // Those that never pause leave the other process no gap to write in.
        tokio::time::sleep(Duration::from_millis(3)).await;
        let Some(session) = store.load(&id).await.unwrap() else {
            seen.none += 1;
            continue;
        };
        if writes {
            session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).unwrap();
            match session.commit().await {
                Ok(()) => seen.done += 1,
                Err(SessionError::Gone) => seen.gone += 1,
                Err(error) => panic!("{error:?}"),
            }
        } else {
            seen.done += 1;
        }
    }
    seen
}

async fn create<C: Cache>(store: &SessionStore<C>, count: usize) -> Vec<SessionId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(store.save(&Session::new()).await.unwrap());
    }
    ids
}

async fn number<C: Cache>(store: &SessionStore<C>, id: &SessionId) -> usize {
    store.load(id).await.unwrap().expect("a session").get("n").unwrap_or(0)
}

async fn stored(inside: &impl Cache, ids: &[SessionId]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for id in ids {
        entries.push(get(inside, &format!("cloakroom:{}", id.key())).await.expect("an entry"));
    }
    entries
}

/// The IDs of the keys that entries were encrypted with.
fn key_ids(entries: &[Entry]) -> BTreeSet<Vec<u8>> {
    entries.iter().map(|entry| entry.value[1..5].to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_the_new_key_disturbs_no_session_that_it_can_read() {
    let (server, redis) = caches::redis().await;
    let store = |keys: &[u8]| SessionStore::new(around(&redis, keys)).deadline(Duration::from_secs(20));
    let (with_old, with_both) = (store(&[1]), store(&[2, 1]));
    let (mut old, mut new) = (Worker::start(&server.url(), &[1]), Worker::start(&server.url(), &[2, 1]));
    // The new process writes some of the sessions, the old one all of them.
    let (staying, moving) = (create(&with_old, 6).await, create(&with_old, 6).await);
    let of_old_key = key_ids(&stored(&redis, &staying).await);
    assert_eq!(of_old_key.len(), 1);
    let both: Vec<_> = [&staying[..], &moving].concat();
    let ((_, by_old), (read, by_new)) = tokio::join!(old.load(ROUNDS, &[], &both), new.load(ROUNDS, &staying, &moving));

    let (of_staying, of_moving) = by_old.split_at(staying.len());
    for seen in of_staying.iter().chain(&read).chain(&by_new) {
        assert_eq!(*seen, self::seen(ROUNDS, 0, 0), "no request of a session that the process can read fails");
    }
    for (id, seen) in staying.iter().zip(of_staying) {
        assert_eq!(number(&with_both, id).await, seen.done);
    }
    for (id, seen) in moving.iter().zip(of_moving) {
        assert_eq!(seen.done + seen.none + seen.gone, ROUNDS);
        assert!(seen.gone <= 1, "gone once, then none: {seen:?}");
        assert_eq!(number(&with_both, id).await, ROUNDS + seen.done, "no update was lost");
    }

    // Each entry has the key of its last writer.
    assert_eq!(key_ids(&stored(&redis, &staying).await), of_old_key);
    let moved = stored(&redis, &moving).await;
    let of_new_key = key_ids(&moved);
    assert!(of_new_key.len() == 1 && of_new_key != of_old_key);
    let created = create(&with_both, 2).await;
    assert_eq!(key_ids(&stored(&redis, &created).await), of_new_key);

    // The old process has no session there, and leaves it as it is.
    let (read, written) = old.load(3, &created, &both).await;
    for seen in read.iter().chain(&written[staying.len()..]) {
        assert_eq!(*seen, self::seen(0, 3, 0));
    }
    for seen in &written[..staying.len()] {
        assert_eq!(*seen, self::seen(3, 0, 0));
    }
    assert!(stored(&redis, &moving).await == moved, "nothing was written over");
    let mut events = old.events();
    // Those of a session that moved during a request.
    events.remove("gone");
    assert_eq!(events, ["undecryptable_entry", "unreadable_record"].into(), "{:?}", old.log);
    let id: String = of_new_key.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
    assert!(old.log.iter().any(|line| line.contains(&format!("key_id={id}"))), "{:?}", old.log);

    // It can end what it cannot read, and nothing else ends.
    old.end(&moving[0]).await;
    old.end(&created[0]).await;
    let (read, _) = new.load(1, &[&both[..], &created].concat(), &[]).await;
    let ended = |at: usize| at == staying.len() || at == both.len();
    for (at, seen) in read.iter().enumerate() {
        let expected = if ended(at) { self::seen(0, 1, 0) } else { self::seen(1, 0, 0) };
        assert_eq!(*seen, expected, "session {at}");
    }
    assert_eq!(new.events(), BTreeSet::new(), "{:?}", new.log);

    // Started again with the key that it lacked, it reads all of them.
    let mut old = Worker::start(&server.url(), &[1, 2]);
    let (read, _) = old.load(1, &moving[1..], &[]).await;
    assert!(read.iter().all(|seen| *seen == self::seen(1, 0, 0)), "{read:?}");
}
