//! The operations of the cache: what each one sends, and what the answer means.
use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::{
    RedisCache,
    encoding::{self, DecodedEntry},
    errors::{Failure, unknown_outcome},
    executor::{CommandExecutor, Repeat, Reply, Request},
    scripts::LuaScript,
    server_info,
};
use crate::{
    cache::{
        Cache, Deleted, Entry, Expiry, ListMember, Replaced, Version,
        near::{Fetched, FillToken, NearCache, NearLookup},
    },
    clock::{millis, millis_since_epoch, time_of},
    error::{CacheError, CacheErrorKind},
    events,
};

impl RedisCache {
    /// Finds out once whether the server is one to hold sessions. Questions that the user may not ask are left out.
    async fn inspect(&self, deadline: Instant) -> Result<(), CacheError> {
        if self.inspected.load(Ordering::Relaxed) {
            return Ok(());
        }
        let about = self.executor.ask(&server_info::question("server"), deadline).await.and_then(Result::ok);
        if about.is_some_and(|about| server_info::is_too_old(&about)) {
            return Err(CacheError::new(CacheErrorKind::Unsupported, "the server is older than Redis 6.2"));
        }
        self.check_permissions(deadline).await?;
        let memory = self.executor.ask(&server_info::question("memory"), deadline).await.and_then(Result::ok);
        if !self.inspected.swap(true, Ordering::Relaxed) && memory.is_some_and(|memory| server_info::evicts(&memory)) {
            events::evicting();
        }
        Ok(())
    }

    /// An error where scripts are refused or switched off, or where one of their commands is.
    async fn check_permissions(&self, deadline: Instant) -> Result<(), CacheError> {
        let (check, key) = (&self.scripts.check, "cloakroom:ping");
        let mut answer = self.executor.ask(&check.by_hash(key, &[b"0"]), deadline).await;
        if matches!(answer, Some(Err(Failure::NoScript))) {
            answer = self.executor.ask(&check.by_text(key, &[b"0"]), deadline).await;
        }
        match answer {
            Some(Ok(missing)) => {
                let missing: Vec<String> = redis::from_redis_value(missing).unwrap_or_default();
                if missing.is_empty() {
                    return Ok(());
                }
                let remedy: String = missing.iter().map(|name| format!(" +{}", name.to_ascii_lowercase())).collect();
                let text = format!("the Redis user lacks permissions: `ACL SETUSER <user>{remedy}` gives them");
                Err(CacheError::new(CacheErrorKind::Refused, text))
            }
            // Whatever a server says that has no scripts: the command itself has no mistakes, and keys are told apart.
            Some(Err(Failure::Rejected(CacheErrorKind::Refused, _))) => {
                Err(self.executor.error(Failure::UnknownCommand, "EVALSHA"))
            }
            Some(Err(failure @ (Failure::Denied(Some("EVALSHA" | "EVAL")) | Failure::UnknownCommand))) => {
                Err(self.executor.error(failure, "EVALSHA"))
            }
            // A user without the permission for this very key may have that for others.
            _ => Ok(()),
        }
    }

    async fn script(&self, script: &LuaScript, repeat: Repeat, key: &str, args: &[&[u8]]) -> Result<Reply, CacheError> {
        self.executor.execute(Request::LuaScript(script, key, args), repeat, self.executor.deadline()).await
    }

    /// A plain read. One byte more than an entry may have tells that a value is too long.
    fn read(&self, key: &str) -> Request<'static> {
        let mut command = Cmd::with_capacity(4, 20 + key.len());
        command.arg("GETRANGE").arg(key).arg(0).arg(&*self.entry_limit.last);
        Request::Command(command)
    }

    /// The live entry, with its idle time restarted if that started `after` milliseconds ago or earlier. An entry that
    /// has ended is removed.
    async fn read_and_touch(&self, key: &str, after: u64, deadline: Instant) -> Result<Option<Entry>, CacheError> {
        let (now, after) = (now().to_string(), after.to_string());
        let args = [now.as_bytes(), self.entry_limit.last.as_bytes(), after.as_bytes()];
        let request = Request::LuaScript(&self.scripts.get_and_touch, key, &args);
        self.entry_in(self.executor.execute(request, Repeat::Freely, deadline).await?.value)
    }

    /// The same, and the next read asks the server.
    async fn touch_and_get(&self, key: &str, after: u64, deadline: Instant) -> Result<Option<Entry>, CacheError> {
        let _guard = self.guard(key);
        self.read_and_touch(key, after, deadline).await
    }

    /// Asks the server, and keeps the answer in the near cache that was looked into.
    async fn fetch(
        &self,
        asked: Option<(&NearCache, FillToken)>,
        key: &str,
        deadline: Instant,
    ) -> Result<Option<Fetched>, CacheError> {
        let answer = self.executor.execute(self.read(key), Repeat::Freely, deadline).await?.value;
        let (raw, left, connection) = match answer {
            Value::Array(parts) => match <[Value; 3]>::try_from(parts) {
                Ok([raw, Value::Int(left), Value::Int(connection)]) => (raw, left, connection.cast_unsigned()),
                _ => return Err(self.executor.unexpected()),
            },
            // Of a node of a cluster that takes over a slot: it is not kept.
            raw => (raw, -1, 0),
        };
        let asked = asked.filter(|(_, token)| token.is_of(connection));
        if let Some((near, token)) = &asked {
            near.answered(token);
        }
        let Some(DecodedEntry { entry, idle, end }) = self.live_in(raw)? else { return Ok(None) };
        let fetched = Fetched { entry, idle, end, left };
        if let Some((near, token)) = &asked {
            near.fill(token, key, &fetched);
        }
        Ok(Some(fetched))
    }

    /// To be held by a write until it is over: then the key is read from the server again.
    fn guard<'a>(&'a self, key: &'a str) -> Option<InvalidationGuard<'a>> {
        self.near.then(|| InvalidationGuard { executor: &self.executor, key })
    }

    fn entry_in(&self, answer: Value) -> Result<Option<Entry>, CacheError> {
        Ok(self.live_in(answer)?.map(|decoded| decoded.entry))
    }

    /// The live entry in an answer, if there is one.
    fn live_in(&self, answer: Value) -> Result<Option<DecodedEntry>, CacheError> {
        let raw = match answer {
            Value::Nil => return Ok(None),
            // `GETRANGE` of a key that is not there.
            Value::BulkString(raw) if raw.is_empty() => return Ok(None),
            Value::BulkString(raw) => raw,
            _ => return Err(self.executor.unexpected()),
        };
        match encoding::decode(raw.into(), self.entry_limit.bytes) {
            Some(decoded) => Ok((decoded.end > now()).then_some(decoded)),
            None => {
                events::foreign_value();
                Ok(None)
            }
        }
    }

    /// The value to store, and its time to live in milliseconds.
    fn encode(&self, entry: &Entry, expiry: Expiry) -> Result<(Vec<u8>, u64), CacheError> {
        if entry.value.len() > self.entry_limit.bytes {
            let text = "the entry is longer than `RedisCacheBuilder::max_entry_bytes` allows";
            return Err(CacheError::new(CacheErrorKind::Unsupported, text));
        }
        Ok(encoding::encode(entry.version, &entry.value, expiry, now()))
    }

    /// Whether the entry was written; it was not where another value is.
    async fn set_absent(&self, key: &str, raw: &[u8], ttl: u64, deadline: Instant) -> Result<bool, CacheError> {
        let mut command = Cmd::with_capacity(6, 32 + key.len() + raw.len());
        command.arg("SET").arg(key).arg(raw).arg("PX").arg(ttl).arg("NX");
        match self.executor.execute(Request::Command(command), Repeat::Never, deadline).await?.value {
            Value::Okay => Ok(true),
            Value::Nil => Ok(false),
            _ => Err(self.executor.unexpected()),
        }
    }
}

impl Cache for RedisCache {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        if self.near {
            let near = self.executor.near(key);
            let asked = match near.as_deref().map(|near| (near, near.find(key, None))) {
                Some((_, NearLookup::Hit(entry) | NearLookup::Due(entry))) => return Ok(Some(entry)),
                Some((near, NearLookup::Miss(token))) => Some((near, token)),
                None => None,
            };
            // In a box, so that a hit has little to carry.
            let fetched = Box::pin(self.fetch(asked, key, self.executor.deadline())).await?;
            return Ok(fetched.map(|fetched| fetched.entry));
        }
        let answer = self.executor.execute(self.read(key), Repeat::Freely, self.executor.deadline()).await?;
        self.entry_in(answer.value)
    }

    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        let (after, deadline) = (encoding::cut(millis(after)), self.executor.deadline());
        // What needs no restart yet is a plain read.
        if self.near && after > 0 {
            let near = self.executor.near(key);
            let asked = match near.as_deref().map(|near| (near, near.find(key, Some(after)))) {
                Some((_, NearLookup::Hit(entry))) => return Ok(Some(entry)),
                Some((_, NearLookup::Due(_))) => return self.touch_and_get(key, after, deadline).await,
                Some((near, NearLookup::Miss(token))) => Some((near, token)),
                None => None,
            };
            match Box::pin(self.fetch(asked, key, deadline)).await? {
                Some(fetched) if fetched.is_due(after) => {}
                fetched => return Ok(fetched.map(|fetched| fetched.entry)),
            }
        }
        self.touch_and_get(key, after, deadline).await
    }

    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let _guard = self.guard(key);
        let (raw, ttl) = self.encode(&entry, expiry)?;
        let deadline = self.executor.deadline();
        if self.set_absent(key, &raw, ttl, deadline).await? {
            return Ok(true);
        }
        // The value that is there may be an entry past its end that Redis kept: the script removes it.
        match self.read_and_touch(key, encoding::NEVER, deadline).await? {
            Some(other) => Ok(other.version == entry.version),
            None => self.set_absent(key, &raw, ttl, deadline).await,
        }
    }

    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let _guard = self.guard(key);
        let (raw, ttl) = self.encode(&entry, expiry)?;
        let (now, ttl, expected) = (now().to_string(), ttl.to_string(), u64::from(expected).to_be_bytes());
        let args: [&[u8]; 5] = [now.as_bytes(), self.entry_limit.last.as_bytes(), &expected, &raw, ttl.as_bytes()];
        let Reply { value, repeated } = self.script(&self.scripts.replace, Repeat::ByVersion, key, &args).await?;
        match value {
            Value::Int(1) => Ok(Replaced::Done),
            value => match self.entry_in(value)? {
                Some(found) if found.version == entry.version => Ok(Replaced::Done),
                _ if repeated => Err(unknown_outcome()),
                Some(found) => Ok(Replaced::Conflict(found)),
                None => Ok(Replaced::Missing),
            },
        }
    }

    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        let _guard = self.guard(key);
        let now = now().to_string();
        match self.script(&self.scripts.touch, Repeat::Freely, key, &[now.as_bytes()]).await?.value {
            Value::Int(touched) => Ok(touched == 1),
            _ => Err(self.executor.unexpected()),
        }
    }

    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        let _guard = self.guard(key);
        let (now, expected) = (now().to_string(), u64::from(expected).to_be_bytes());
        let args: [&[u8]; 3] = [now.as_bytes(), self.entry_limit.last.as_bytes(), &expected];
        let Reply { value, repeated } = self.script(&self.scripts.delete, Repeat::ByVersion, key, &args).await?;
        match value {
            Value::Int(1) => Ok(Deleted::Done),
            value => match self.entry_in(value)? {
                None if repeated => Ok(Deleted::Done),
                Some(_) if repeated => Err(unknown_outcome()),
                Some(found) => Ok(Deleted::Conflict(found)),
                None => Ok(Deleted::Missing),
            },
        }
    }

    async fn list_add(&self, list: &str, member: &str, end: SystemTime) -> Result<usize, CacheError> {
        let (now, end) = (now().to_string(), list_end(end).to_string());
        let args = [now.as_bytes(), end.as_bytes(), member.as_bytes()];
        match self.script(&self.scripts.list_add, Repeat::Freely, list, &args).await?.value {
            Value::Int(members) => Ok(usize::try_from(members).unwrap_or_default()),
            _ => Err(self.executor.unexpected()),
        }
    }

    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        if members.is_empty() {
            return Ok(());
        }
        let now = now().to_string();
        let args: Vec<&[u8]> = [now.as_bytes()].into_iter().chain(members.iter().map(String::as_bytes)).collect();
        self.script(&self.scripts.list_remove, Repeat::Freely, list, &args).await.map(drop)
    }

    async fn list_page(
        &self,
        list: &str,
        after: Option<&ListMember>,
        limit: usize,
    ) -> Result<Vec<ListMember>, CacheError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        // A number that Lua counts exactly.
        let (now, limit) = (now().to_string(), limit.min(1 << 30).to_string());
        let end = after.map_or(0, |after| list_end(after.end)).to_string();
        let name = after.map_or("", |after| after.name.as_str());
        let args = [now.as_bytes(), end.as_bytes(), name.as_bytes(), limit.as_bytes()];
        let answer = self.script(&self.scripts.list_page, Repeat::Freely, list, &args).await?;
        let members: Vec<(String, u64)> =
            redis::from_redis_value(answer.value).map_err(|_| self.executor.unexpected())?;
        Ok(members.into_iter().map(|(name, end)| ListMember::new(name, time_of(end))).collect())
    }

    async fn ping(&self) -> Result<(), CacheError> {
        let deadline = self.executor.deadline();
        self.executor.execute(Request::Command(redis::cmd("PING")), Repeat::Freely, deadline).await?;
        self.inspect(deadline).await
    }
}

/// When it is dropped, whatever came of the write, the key is read from the server again.
struct InvalidationGuard<'a> {
    executor: &'a CommandExecutor,
    key: &'a str,
}

impl Drop for InvalidationGuard<'_> {
    fn drop(&mut self) {
        self.executor.invalidate(self.key);
    }
}

/// A score that a sorted set keeps exactly.
fn list_end(end: SystemTime) -> u64 {
    millis_since_epoch(end).min(encoding::LONGEST)
}

fn now() -> u64 {
    millis_since_epoch(SystemTime::now())
}
