//! The lists of [`Cache`]'s provided methods: an entry like any other, written by compare-and-set.
use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, SystemTime},
};

use super::{Cache, Entry, Expiry, ListMember, Replaced, Version};
use crate::{
    clock::{Clock, millis_since_epoch, time_of},
    error::{CacheError, CacheErrorKind},
};

/// These lists end by the system's clock: a cache with another one keeps lists of its own.
static CLOCK: Clock = Clock::system();

/// A writer that loses this often has met a cache that answers every write with a conflict.
const TRIES: usize = 1000;

/// The members that a list has room for: 250 KB. More is an error, never a member that is left out in silence.
const MOST: usize = 4096;

/// Member → its end, in milliseconds since the epoch.
type Members = BTreeMap<String, u64>;

pub(super) async fn add<C: Cache + ?Sized>(
    cache: &C,
    list: &str,
    member: &str,
    end: SystemTime,
) -> Result<usize, CacheError> {
    let end = millis_since_epoch(end);
    edit(cache, list, true, |members| {
        let known = members.entry(member.to_owned()).or_insert(end);
        *known = end.max(*known);
    })
    .await
}

pub(super) async fn remove<C: Cache + ?Sized>(cache: &C, list: &str, gone: &[String]) -> Result<(), CacheError> {
    if gone.is_empty() {
        return Ok(());
    }
    let gone: HashSet<_> = gone.iter().collect();
    edit(cache, list, false, |members| members.retain(|member, _| !gone.contains(member))).await?;
    Ok(())
}

pub(super) async fn page<C: Cache + ?Sized>(
    cache: &C,
    list: &str,
    after: Option<&ListMember>,
    limit: usize,
) -> Result<Vec<ListMember>, CacheError> {
    let Some(entry) = cache.get(list).await? else { return Ok(Vec::new()) };
    let members = live(&entry)?.into_iter().map(|(name, end)| ListMember::new(name, time_of(end)));
    let mut members: Vec<_> = members.filter(|member| after.is_none_or(|after| member > after)).collect();
    members.sort();
    members.truncate(limit);
    Ok(members)
}

async fn edit<C: Cache + ?Sized>(
    cache: &C,
    list: &str,
    create: bool,
    change: impl Fn(&mut Members) + Send + Sync,
) -> Result<usize, CacheError> {
    let mut found = cache.get(list).await?;
    for _ in 0..TRIES {
        match found {
            None if !create => return Ok(0),
            None => {
                let mut members = Members::new();
                change(&mut members);
                if cache.insert(list, encode(&members)?, expiry(&members)).await? {
                    return Ok(members.len());
                }
                found = cache.get(list).await?;
            }
            Some(entry) => {
                let mut members = live(&entry)?;
                let before = members.len();
                change(&mut members);
                if members.len() > before.max(MOST) {
                    return Err(CacheError::new(CacheErrorKind::Full, "a list of sessions has 4096 members"));
                }
                if !create && members.len() == before {
                    return Ok(before);
                }
                match write(cache, list, entry.version, &members).await? {
                    Replaced::Done => return Ok(members.len()),
                    Replaced::Conflict(newer) => found = Some(newer),
                    Replaced::Missing => found = None,
                }
            }
        }
        tokio::task::yield_now().await;
    }
    Err(CacheError::new(CacheErrorKind::Timeout, "a list of sessions changed at every try"))
}

/// An empty list is removed rather than written.
async fn write<C: Cache + ?Sized>(
    cache: &C,
    list: &str,
    version: Version,
    members: &Members,
) -> Result<Replaced, CacheError> {
    use super::Deleted;
    if members.is_empty() {
        return Ok(match cache.delete(list, version).await? {
            Deleted::Done | Deleted::Missing => Replaced::Done,
            Deleted::Conflict(newer) => Replaced::Conflict(newer),
        });
    }
    cache.replace(list, version, encode(members)?, expiry(members)).await
}

fn live(entry: &Entry) -> Result<Members, CacheError> {
    let mut members: Members = serde_json::from_slice(&entry.value)
        .map_err(|_| CacheError::new(CacheErrorKind::Other, "a list of sessions is unreadable"))?;
    let now = CLOCK.now_ms();
    members.retain(|_, end| *end > now);
    Ok(members)
}

fn encode(members: &Members) -> Result<Entry, CacheError> {
    let text = serde_json::to_vec(members)
        .map_err(|_| CacheError::new(CacheErrorKind::Other, "a list of sessions does not encode"))?;
    Ok(Entry::new(text.into(), Version::unique()))
}

/// The list lives as long as its longest-lived member.
fn expiry(members: &Members) -> Expiry {
    let end = members.values().copied().max().unwrap_or_default();
    let left = end.saturating_sub(CLOCK.now_ms());
    Expiry { idle: Duration::from_millis(left), end: time_of(end) }
}
