//! A user with very many sessions: work on them goes on part by part, each call gets further, and none is refused for ever.
use std::{collections::HashSet, time::Duration};

use cloakroom::{
    Cache, Entry, Expiry, InMemoryCache, Session, SessionError, SessionKey, SessionStore, Version,
    testing::{Operation, TestCache},
};

use crate::support::web::{layer, send};

const OWNER: &str = "alice";
const LIST: &str = "cloakroom:owner:alice";

/// Lists under the owner's name, and no limit yet.
fn store<C: Cache>(cache: C) -> SessionStore<C> {
    SessionStore::new(cache).readable_owners(true).max_sessions_per_owner(usize::MAX)
}

/// A record as the store writes it, from which others are made.
struct Template {
    text: String,
    key: String,
    stamp: (u64, u64),
}

impl Template {
    async fn new<C: Cache>(store: &SessionStore<C>) -> Self {
        let id = store.save(&session(OWNER)).await.unwrap();
        let key = id.key().to_string();
        let entry = store.cache().get(&format!("cloakroom:{key}")).await.unwrap().unwrap();
        let text = String::from_utf8(entry.value.to_vec()).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        let stamp = (record["s"]["at"].as_u64().unwrap(), record["s"]["nonce"].as_u64().unwrap());
        assert!(store.revoke(&id.key()).await.unwrap());
        Self { text, key, stamp }
    }

    /// The record of session `number` of `count`, and its key: all logins were before the template's.
    fn record(&self, number: usize, count: usize) -> (String, String) {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let key = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
        let stamp = |at: u64, nonce: u64| format!("{{\"at\":{at},\"nonce\":{nonce}}}");
        let (at, nonce) = self.stamp;
        let own = stamp(at - (count - number) as u64, number as u64);
        (self.text.replace(&self.key, &key).replace(&stamp(at, nonce), &own), key)
    }
}

fn session(owner: &str) -> Session {
    let session = Session::new();
    session.log_in(owner).unwrap();
    session
}

/// A login by a browser that comes without a session: the status, and the session's cookie.
async fn login<C: Cache>(store: &SessionStore<C>) -> (u16, Option<String>) {
    let reply = send(&layer(store), None, |session| async move { session.log_in(OWNER).map_or(500, |()| 200) }).await;
    (reply.status, reply.cookie())
}

async fn lives<C: Cache>(store: &SessionStore<C>, cookie: &str) -> bool {
    store.load(cookie.strip_prefix("__Host-id=").unwrap()).await.unwrap().is_some()
}

/// Every page, and what all of them have.
async fn pages<C: Cache>(store: &SessionStore<C>, limit: usize) -> (usize, HashSet<SessionKey>) {
    let (mut pages, mut keys, mut last) = (0, HashSet::new(), None);
    loop {
        let page = store.owner_sessions(OWNER, last.as_ref(), limit).await.unwrap();
        assert!(page.len() <= limit, "{} of {limit}", page.len());
        for info in &page {
            assert!(keys.insert(info.key()), "twice");
        }
        pages += 1;
        last = page.last().cloned();
        if page.len() < limit {
            return (pages, keys);
        }
    }
}

/// Calls it until nothing of `count` sessions is left, and checks that each call ended some. Returns how many calls it took.
async fn revoke_all<C: Cache>(store: &SessionStore<C>, count: usize) -> usize {
    let (mut calls, mut sessions) = (0, 0);
    loop {
        calls += 1;
        match store.revoke_all(OWNER).await {
            Ok(ended) => {
                sessions += ended;
                // What was just ending at a deadline, of these calls or of the logins before, may have ended or not.
                assert!(sessions <= count && sessions + 64 * (calls + 100) >= count, "{sessions} of {count}");
                return calls;
            }
            Err(SessionError::Incomplete { ended }) => {
                assert!(ended > 0, "call {calls}: no progress");
                sessions += ended;
            }
            Err(error) => panic!("call {calls}: {error:?}"),
        }
    }
}

/// Fills a cache by its own methods.
async fn fill<C: Cache>(store: &SessionStore<C>, count: usize) {
    let template = Template::new(store).await;
    let end = std::time::SystemTime::now() + Duration::from_secs(29 * 24 * 60 * 60);
    for number in 0..count {
        let (record, key) = template.record(number, count);
        let expiry = Expiry::new(Duration::from_secs(14 * 24 * 60 * 60), end);
        let entry = Entry::new(record.into(), Version::unique());
        assert!(store.cache().insert(&format!("cloakroom:{key}"), entry, expiry).await.unwrap());
        let members =
            store.cache().list_add(LIST, &key, end + Duration::from_millis(number as u64 / 64)).await.unwrap();
        assert_eq!(members, number + 1);
    }
}

#[tokio::test]
async fn in_memory_beyond_4096_members() {
    const COUNT: usize = 20_000;
    let memory = InMemoryCache::builder().max_bytes(1 << 30).build();
    let store = store(memory.clone());
    fill(&store, COUNT).await;
    // A login is neither refused nor left out of the list.
    let (status, cookie) = login(&store).await;
    assert_eq!(status, 200);
    assert!(lives(&store, &cookie.unwrap()).await);
    let (count, keys) = pages(&store, 1000).await;
    assert_eq!((count, keys.len()), (COUNT / 1000 + 1, COUNT + 1));
    // In parts, also where the cache never waits.
    let short = store.clone().deadline(Duration::from_millis(5));
    let calls = revoke_all(&short, COUNT + 1).await;
    assert!(calls > 1, "20,001 sessions within 5 ms");
    assert!(memory.is_empty() && memory.bytes() == 0, "{memory:?}");
}

#[tokio::test]
async fn other_tasks_run_beside_a_long_list_in_memory() {
    let store = store(InMemoryCache::builder().max_bytes(1 << 30).build()).deadline(Duration::from_secs(60));
    fill(&store, 5_000).await;
    let others = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let ticking = tokio::spawn({
        let others = others.clone();
        async move {
            loop {
                others.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    assert_eq!(store.sessions_of(OWNER).await.unwrap().len(), 5_000);
    assert!(others.load(std::sync::atomic::Ordering::Relaxed) > 10, "beside the listing");
    others.store(0, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(store.revoke_all(OWNER).await.unwrap(), 5_000);
    assert!(others.load(std::sync::atomic::Ordering::Relaxed) > 10, "beside the end");
    ticking.abort();
}

#[tokio::test]
async fn a_limit_that_is_set_later_is_enforced_by_the_next_logins_in_memory() {
    let memory = InMemoryCache::builder().max_bytes(1 << 30).build();
    let unlimited = store(memory.clone());
    fill(&unlimited, 5_000).await;
    let limited = unlimited.clone().max_sessions_per_owner(100);
    let mut cookies = Vec::new();
    loop {
        let (status, cookie) = login(&limited).await;
        assert_eq!(status, 200);
        cookies.push(cookie.unwrap());
        if unlimited.sessions_of(OWNER).await.unwrap().len() == 100 {
            break;
        }
        assert!(cookies.len() < 100, "no progress");
    }
    for cookie in &cookies {
        assert!(lives(&limited, cookie).await, "a new login was ended in place of an old one");
    }
    // Those that are left are the newest.
    let newest = unlimited.sessions_of(OWNER).await.unwrap();
    let template = Template::new(&unlimited).await;
    let expected = template.record(5_000 - 1, 5_000).1;
    assert!(newest.iter().any(|info| info.key().to_string() == expected));
}

#[tokio::test]
async fn a_page_is_never_longer_than_asked_for_and_goes_on_over_the_lists_of_older_keys() {
    let memory = InMemoryCache::new();
    let base = SessionStore::new(memory.clone()).max_sessions_per_owner(usize::MAX);
    let (old, new) = (base.clone().owner_keys([[2; 32]]), base.clone().owner_keys([[1; 32], [2; 32]]));
    let mut all = HashSet::new();
    for number in 0..40 {
        // By turns, so that in the common order members of both lists alternate.
        let id = if number % 2 == 0 { &old } else { &new }.save(&session(OWNER)).await.unwrap();
        all.insert(id.key());
    }
    for number in 0..20 {
        // Gone from a list by itself, and from a page.
        let id = old.save(&session(OWNER)).await.unwrap();
        let entry = format!("cloakroom:{}", id.key());
        let version = memory.get(&entry).await.unwrap().unwrap().version;
        assert_eq!(memory.delete(&entry, version).await.unwrap(), cloakroom::Deleted::Done, "{number}");
    }
    for limit in [1, 3, 7, 40, 41, usize::MAX] {
        let (count, keys) = pages(&new, limit).await;
        assert_eq!((count, keys), (all.len() / limit.min(all.len() * 2) + 1, all.clone()), "{limit}");
    }
    assert!(new.owner_sessions(OWNER, None, 0).await.unwrap().is_empty());
    // As a handler sees them.
    let session = new.load(new.save(&session(OWNER)).await.unwrap()).await.unwrap().unwrap();
    assert!(session.owner_sessions(None, 0).await.unwrap().is_empty());
    let first = session.owner_sessions(None, 3).await.unwrap();
    assert_eq!(first.len(), 3);
    assert_eq!(session.owner_sessions(first.last(), 100).await.unwrap().len(), 38);
    assert_eq!(new.revoke_all(OWNER).await.unwrap(), 41);
    assert!(memory.is_empty() && memory.bytes() == 0, "{memory:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_ended_before_the_deadline_counts_also_if_the_list_hangs() {
    let cache = TestCache::new(InMemoryCache::new());
    let store = SessionStore::new(cache.clone());
    for _ in 0..3 {
        store.save(&session(OWNER)).await.unwrap();
    }
    // The page is read, the members ended, and taking them off the list takes for ever.
    let gate = cache.hold(Operation::List);
    gate.open();
    let _hangs = cache.hold(Operation::List);
    assert!(matches!(store.revoke_all(OWNER).await, Err(SessionError::Incomplete { ended: 3 })));
    assert_eq!(store.revoke_all(OWNER).await.unwrap(), 0);
    assert!(cache.inner().is_empty());
}

#[cfg(feature = "redis")]
mod redis {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpStream,
    };

    use cloakroom::{RedisCache, SessionLimitPolicy};

    use super::*;
    use crate::support::{
        redis_proxy::{Mode, Proxy},
        redis_server::{self, RedisServer},
    };

    /// Fills the server by commands that are sent without waiting for their answers.
    async fn fill<C: Cache>(server: &RedisServer, store: &SessionStore<C>, count: usize) {
        let template = Template::new(store).await;
        // The head of an entry, and the time until the end, as the store writes them.
        let id = store.save(&session(OWNER)).await.unwrap();
        let name = format!("cloakroom:{}", id.key());
        let redis_server::Reply::Bytes(raw) = server.command(&["GET", &name]) else { panic!("no entry") };
        let ttl = server.command(&["PTTL", &name]).int().to_string();
        let end: u64 = server.command(&["ZSCORE", LIST, id.key().as_str()]).text().parse().unwrap();
        let head = raw[..21].to_vec();
        assert!(store.revoke(&id.key()).await.unwrap());
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let mut sent = Vec::new();
        let command = |sent: &mut Vec<u8>, parts: &[&[u8]]| {
            write!(sent, "*{}\r\n", parts.len()).unwrap();
            for part in parts {
                write!(sent, "${}\r\n", part.len()).unwrap();
                sent.extend_from_slice(part);
                sent.extend_from_slice(b"\r\n");
            }
        };
        let mut line = String::new();
        for first in (0..count).step_by(1000) {
            let numbers = first..count.min(first + 1000);
            for number in numbers.clone() {
                let (record, key) = template.record(number, count);
                let mut value = head.clone();
                value[1..9].copy_from_slice(&(number as u64 + 1).to_be_bytes());
                value.extend_from_slice(record.as_bytes());
                command(&mut sent, &[b"SET", format!("cloakroom:{key}").as_bytes(), &value, b"PX", ttl.as_bytes()]);
                // As many members end at the same moment as a script logs in within one.
                let end = (end - (count - number) as u64 / 64).to_string();
                command(&mut sent, &[b"ZADD", LIST.as_bytes(), end.as_bytes(), key.as_bytes()]);
            }
            stream.write_all(&sent).unwrap();
            sent.clear();
            for _ in 0..2 * numbers.len() {
                line.clear();
                answers.read_line(&mut line).unwrap();
                assert!(line.starts_with(['+', ':']), "{line}");
            }
        }
        assert_eq!(listed(server), count);
        server.command(&["PEXPIRE", LIST, &ttl]);
    }

    fn listed(server: &RedisServer) -> usize {
        usize::try_from(server.command(&["ZCARD", LIST]).int()).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_hundred_thousand_sessions() {
        const COUNT: usize = 200_000;
        let server = RedisServer::start();
        let patient = store(redis_server::patient(&server).await).deadline(Duration::from_secs(20));
        fill(&server, &patient, COUNT).await;

        let (count, keys) = pages(&patient, 2_000).await;
        assert_eq!((count, keys.len()), (COUNT / 2_000 + 1, COUNT));

        // A limit that is set later: each login gets in, and ends a part of those beyond it.
        let default = store(redis_server::patient(&server).await).deadline(Duration::from_secs(4));
        let limited = default.clone().max_sessions_per_owner(100);
        let mut before = COUNT;
        for _ in 0..3 {
            let (status, cookie) = login(&limited).await;
            assert_eq!(status, 200);
            assert!(lives(&default, &cookie.unwrap()).await);
            let after = listed(&server);
            assert!(after < before, "{before} before the login, {after} after it");
            before = after;
        }
        // The other policy refuses, and does not fail.
        let refusing = limited.clone().session_limit_policy(SessionLimitPolicy::Refuse);
        let refused = refusing.save(&session(OWNER)).await;
        assert!(matches!(refused, Err(SessionError::TooManySessions)), "{refused:?}");
        assert!(listed(&server) <= before);

        let calls = revoke_all(&default, before).await;
        println!("{before} sessions in {calls} calls of `revoke_all`");
        assert_eq!(server.command(&["DBSIZE"]).int(), 0, "no session, no list");
    }

    /// One scripted login a minute for 14 days, and a server that is far away.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn twenty_thousand_sessions_over_a_slow_connection() {
        const COUNT: usize = 20_160;
        let server = RedisServer::start();
        let near = store(redis_server::patient(&server).await).deadline(Duration::from_secs(20));
        fill(&server, &near, COUNT).await;
        let proxy = Proxy::before(server.port()).await;
        proxy.set(Mode::Delay(Duration::from_millis(3)));
        // A machine that is busy with other tests takes its share of each deadline.
        let cache = RedisCache::builder(proxy.url()).timeout(Duration::from_secs(10)).build().await.unwrap();
        let far = store(cache).deadline(Duration::from_secs(4));

        let page = far.owner_sessions(OWNER, None, 1000).await.unwrap();
        assert_eq!(far.owner_sessions(OWNER, page.last(), 1000).await.unwrap().len(), 1000);

        // A limit that is set later is reached in parts.
        let limited = far.clone().max_sessions_per_owner(100);
        let (mut before, mut logins) = (COUNT, 0);
        while before > COUNT / 2 {
            let (status, cookie) = login(&limited).await;
            logins += 1;
            assert_eq!(status, 200);
            assert!(lives(&far, &cookie.unwrap()).await);
            let after = listed(&server);
            assert!(after < before, "login {logins}: {before} before, {after} after it");
            before = after;
        }
        let calls = revoke_all(&far, before).await;
        println!("down to {before} within {logins} logins, and to none in {calls} calls of `revoke_all`");
        assert_eq!(server.command(&["DBSIZE"]).int(), 0, "no session, no list");
    }
}
