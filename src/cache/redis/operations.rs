//! The operations of the cache: what each one sends, and what the answer means.
use std::{
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use redis::{Cmd, Value};

use super::{
    RedisCache,
    connections::Reply,
    encoding::{self, DecodedEntry},
    errors::{Failure, unknown_outcome},
    executor::{CommandExecutor, Repeat, Request, TimeLimit},
    scripts::{
        LuaScript,
        ScriptArg::{self, Bytes, Number},
    },
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
    async fn inspect(&self, limit: TimeLimit) -> Result<(), CacheError> {
        if self.inspected.load(Ordering::Relaxed) {
            return Ok(());
        }
        let about = self.executor.ask(server_info::question("server"), limit).await.and_then(Result::ok);
        if about.is_some_and(|about| server_info::is_too_old(&about)) {
            return Err(CacheError::new(CacheErrorKind::Unsupported, "the server is older than Redis 6.2"));
        }
        self.check_permissions(limit).await?;
        let memory = self.executor.ask(server_info::question("memory"), limit).await.and_then(Result::ok);
        if !self.inspected.swap(true, Ordering::Relaxed) && memory.is_some_and(|memory| server_info::evicts(&memory)) {
            events::evicting();
        }
        Ok(())
    }

    /// An error where scripts are refused or switched off, or where one of their commands is.
    async fn check_permissions(&self, limit: TimeLimit) -> Result<(), CacheError> {
        let (check, key) = (&self.scripts.check, "cloakroom:ping");
        let mut answer = self.executor.ask(check.by_hash(key, &[Number(0)]), limit).await;
        if matches!(answer, Some(Err(Failure::NoScript))) {
            answer = self.executor.ask(check.by_text(key, &[Number(0)]), limit).await;
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

    async fn script(
        &self,
        script: &LuaScript,
        repeat: Repeat,
        key: &str,
        args: &[ScriptArg<'_>],
    ) -> Result<Reply, CacheError> {
        self.executor.execute(Request::LuaScript(script, key, args), None, repeat, self.executor.time_limit()).await
    }

    fn command(
        &self,
        command: Cmd,
        repeat: Repeat,
        limit: TimeLimit,
    ) -> impl Future<Output = Result<Value, CacheError>> + '_ {
        let reply = self.executor.execute(Request::Command(command), None, repeat, limit);
        async move { Ok(reply.await?.value) }
    }

    /// The place of the last byte to read: one byte more than an entry may have tells that a value is too long.
    fn last(&self) -> u64 {
        u64::try_from(encoding::HEADER + self.max_entry_bytes).unwrap_or(u64::MAX)
    }

    /// The live entry, with its idle time restarted if that started `after` milliseconds ago or earlier. An entry that
    /// has ended is removed.
    async fn read_and_touch(&self, key: &str, after: u64, limit: TimeLimit) -> Result<Option<Entry>, CacheError> {
        let args = [Number(now()), Number(self.last()), Number(after)];
        let request = Request::LuaScript(&self.scripts.get_and_touch, key, &args);
        self.entry_in(self.executor.execute(request, None, Repeat::Freely, limit).await?.value)
    }

    /// The same, and the next read asks the server.
    async fn touch_and_get(&self, key: &str, after: u64, limit: TimeLimit) -> Result<Option<Entry>, CacheError> {
        let _guard = self.guard(key);
        self.read_and_touch(key, after, limit).await
    }

    /// Asks the server, and keeps the answer in the near cache that was looked into.
    async fn fetch(
        &self,
        asked: Option<(&NearCache, FillToken)>,
        key: &str,
        limit: TimeLimit,
    ) -> Result<Option<Fetched>, CacheError> {
        let mut time_left = Cmd::with_capacity(2, 4 + key.len());
        time_left.arg("PTTL").arg(key);
        let request = Request::Command(read(key, self.last()));
        let Reply { value, connection, .. } =
            self.executor.execute(request, Some(time_left), Repeat::Freely, limit).await?;
        let (raw, left) = match value {
            Value::Array(parts) => match <[Value; 2]>::try_from(parts) {
                Ok([raw, Value::Int(left)]) => (raw, left),
                Ok([raw, _]) => (raw, -1),
                Err(_) => return Err(self.executor.unexpected()),
            },
            // Not over the connection that reports changes: it is not kept.
            raw => (raw, -1),
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
        match encoding::decode(raw.into(), self.max_entry_bytes) {
            Some(decoded) => Ok((decoded.end > now()).then_some(decoded)),
            None => {
                events::foreign_value();
                Ok(None)
            }
        }
    }

    /// The value to store, and its time to live in milliseconds.
    fn encode(&self, entry: &Entry, expiry: Expiry, now: u64) -> Result<(Vec<u8>, u64), CacheError> {
        if entry.value.len() > self.max_entry_bytes {
            let text = "the entry is longer than `RedisCacheBuilder::max_entry_bytes` allows";
            return Err(CacheError::new(CacheErrorKind::Unsupported, text));
        }
        Ok(encoding::encode(entry.version, &entry.value, expiry, now))
    }

    /// Whether the entry was written; it was not where another value is.
    async fn set_absent(&self, key: &str, raw: &[u8], ttl: u64, limit: TimeLimit) -> Result<bool, CacheError> {
        let mut command = Cmd::with_capacity(6, 32 + key.len() + raw.len());
        command.arg("SET").arg(key).arg(raw).arg("PX").arg(ttl).arg("NX");
        match self.command(command, Repeat::Never, limit).await? {
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
            let fetched = Box::pin(self.fetch(asked, key, self.executor.time_limit())).await?;
            return Ok(fetched.map(|fetched| fetched.entry));
        }
        let answer = self.command(read(key, self.last()), Repeat::Freely, self.executor.time_limit()).await?;
        self.entry_in(answer)
    }

    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        let (after, limit) = (encoding::cut(millis(after)), self.executor.time_limit());
        // What needs no restart yet is a plain read.
        if self.near && after > 0 {
            let near = self.executor.near(key);
            let asked = match near.as_deref().map(|near| (near, near.find(key, Some(after)))) {
                Some((_, NearLookup::Hit(entry))) => return Ok(Some(entry)),
                Some((_, NearLookup::Due(_))) => return self.touch_and_get(key, after, limit).await,
                Some((near, NearLookup::Miss(token))) => Some((near, token)),
                None => None,
            };
            match Box::pin(self.fetch(asked, key, limit)).await? {
                Some(fetched) if fetched.is_due(after) => {}
                fetched => return Ok(fetched.map(|fetched| fetched.entry)),
            }
        }
        self.touch_and_get(key, after, limit).await
    }

    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        let _guard = self.guard(key);
        let (raw, ttl) = self.encode(&entry, expiry, now())?;
        let limit = self.executor.time_limit();
        if self.set_absent(key, &raw, ttl, limit).await? {
            return Ok(true);
        }
        // The value that is there may be an entry past its end that Redis kept: the script removes it.
        match self.read_and_touch(key, encoding::NEVER, limit).await? {
            Some(other) => Ok(other.version == entry.version),
            None => self.set_absent(key, &raw, ttl, limit).await,
        }
    }

    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        let guard = self.guard(key);
        let near = self.near.then(|| self.executor.near(key)).flatten();
        let token = near.as_deref().map(|near| (near, near.token(key)));
        let (now, expected) = (now(), u64::from(expected).to_be_bytes());
        let (raw, ttl) = self.encode(&entry, expiry, now)?;
        let args = [Number(now), Number(self.last()), Bytes(&expected), Bytes(&raw), Number(ttl)];
        // Once the head has been read again, the server has reported this change, and will report the next one.
        let head = token.is_some().then(|| read(key, encoding::HEADER as u64 - 1));
        let request = Request::LuaScript(&self.scripts.replace, key, &args);
        let limit = self.executor.time_limit();
        let Reply { value, repeated, connection } =
            self.executor.execute(request, head, Repeat::ByVersion, limit).await?;
        let (value, head) = match value {
            Value::Array(parts) => match <[Value; 2]>::try_from(parts) {
                Ok([value, Value::BulkString(head)]) => (value, head),
                Ok([value, _]) => (value, Vec::new()),
                Err(_) => return Err(self.executor.unexpected()),
            },
            value => (value, Vec::new()),
        };
        match value {
            Value::Int(1) => {
                let token =
                    token.filter(|(_, token)| token.is_of(connection) && raw.get(..encoding::HEADER) == Some(&head));
                if let (Some((near, token)), Some(guard)) = (token, guard) {
                    guard.keep(near, token, raw, ttl, self.max_entry_bytes);
                }
                Ok(Replaced::Done)
            }
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
        match self.script(&self.scripts.touch, Repeat::Freely, key, &[Number(now())]).await?.value {
            Value::Int(touched) => Ok(touched == 1),
            _ => Err(self.executor.unexpected()),
        }
    }

    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        let _guard = self.guard(key);
        let expected = u64::from(expected).to_be_bytes();
        let args = [Number(now()), Number(self.last()), Bytes(&expected)];
        let Reply { value, repeated, .. } = self.script(&self.scripts.delete, Repeat::ByVersion, key, &args).await?;
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
        let args = [Number(now()), Number(list_end(end)), Bytes(member.as_bytes())];
        match self.script(&self.scripts.list_add, Repeat::Freely, list, &args).await?.value {
            Value::Int(members) => Ok(usize::try_from(members).unwrap_or_default()),
            _ => Err(self.executor.unexpected()),
        }
    }

    async fn list_remove(&self, list: &str, members: &[String]) -> Result<(), CacheError> {
        if members.is_empty() {
            return Ok(());
        }
        let members = members.iter().map(|member| Bytes(member.as_bytes()));
        let args: Vec<_> = [Number(now())].into_iter().chain(members).collect();
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
        let limit = u64::try_from(limit.min(1 << 30)).unwrap_or(u64::MAX);
        let end = after.map_or(0, |after| list_end(after.end));
        let name = after.map_or("", |after| after.name.as_str());
        let args = [Number(now()), Number(end), Bytes(name.as_bytes()), Number(limit)];
        let answer = self.script(&self.scripts.list_page, Repeat::Freely, list, &args).await?;
        let members: Vec<(String, u64)> =
            redis::from_redis_value(answer.value).map_err(|_| self.executor.unexpected())?;
        Ok(members.into_iter().map(|(name, end)| ListMember::new(name, time_of(end))).collect())
    }

    async fn ping(&self) -> Result<(), CacheError> {
        let limit = self.executor.time_limit();
        self.command(redis::cmd("PING"), Repeat::Freely, limit).await?;
        self.inspect(limit).await
    }
}

/// When it is dropped, whatever came of the write, the key is read from the server again.
struct InvalidationGuard<'a> {
    executor: &'a CommandExecutor,
    key: &'a str,
}

impl InvalidationGuard<'_> {
    /// The value was written over the connection that reports the next change: this near cache keeps it.
    fn keep(self, near: &NearCache, token: FillToken, raw: Vec<u8>, ttl: u64, most: usize) {
        let Some(DecodedEntry { entry, idle, end }) = encoding::decode(raw.into(), most) else { return };
        let left = i64::try_from(ttl).unwrap_or(i64::MAX);
        near.written(token, self.key, &Fetched { entry, idle, end, left });
        self.executor.invalidate(self.key, Some(near));
        std::mem::forget(self);
    }
}

impl Drop for InvalidationGuard<'_> {
    fn drop(&mut self) {
        self.executor.invalidate(self.key, None);
    }
}

/// A plain read up to the byte at `last`.
fn read(key: &str, last: u64) -> Cmd {
    let mut command = Cmd::with_capacity(4, 32 + key.len());
    command.arg("GETRANGE").arg(key).arg(0).arg(last);
    command
}

/// A score that a sorted set keeps exactly.
fn list_end(end: SystemTime) -> u64 {
    millis_since_epoch(end).min(encoding::LONGEST)
}

fn now() -> u64 {
    millis_since_epoch(SystemTime::now())
}
