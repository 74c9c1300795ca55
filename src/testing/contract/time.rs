//! When entries end.
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;

use super::trial::{Late, Trial, holds, must, ok, same};
use crate::cache::{Cache, Deleted, Entry, Expiry, Replaced, Version};

pub(super) async fn an_idle_entry_ends<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let (key, _, start) = t.soon(Trial::short).await?;
    t.live("an entry is there before its time is over", t.get(&key).await.is_some(), start)?;
    t.pass(t.past_idle()).await;
    same("an entry ends when `idle` has passed since its last write or touch", &t.get(&key).await, &None);
    Ok(())
}

pub(super) async fn an_entry_ends_at_its_end<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let (key, _, start) = t.soon(Trial::ending).await?;
    t.live("an entry is there before its time is over", t.get(&key).await.is_some(), start)?;
    t.pass(t.past_idle()).await;
    same("an entry ends at `end`", &t.get(&key).await, &None);
    Ok(())
}

pub(super) async fn a_time_that_is_over_writes_nothing_readable<C: Cache>(t: &Trial<C>) {
    let sentence = "an expiry that is over already writes nothing that can be read, and is no error";
    let hour = Duration::from_secs(3600);
    let over = [
        Expiry { idle: hour, end: t.now() - Duration::from_secs(1) },
        Expiry { idle: hour, end: UNIX_EPOCH },
        Expiry { idle: Duration::ZERO, end: t.now() + hour },
    ];
    for expiry in over {
        let key = t.key();
        t.insert(&key, Bytes::from_static(b"value"), expiry).await;
        same(sentence, &t.get(&key).await, &None);
        same(sentence, &ok(t.cache.touch(&key).await), &false);
        same(sentence, &ok(t.cache.get_and_touch(&key, Duration::ZERO).await), &None);

        let (key, version) = t.entry(b"value", t.long()).await;
        let replaced = t.replace(&key, version, Bytes::from_static(b"over"), expiry).await;
        holds(sentence, matches!(replaced, Replaced::Done));
        same(sentence, &t.get(&key).await, &None);

        let (key, version) = t.entry(b"value", t.long()).await;
        let taken = t.insert(&key, Bytes::from_static(b"over"), expiry).await;
        same("`insert` returns `false` if another live entry is there, whatever the expiry", &taken, &None);
        let there = t.get(&key).await.map(|entry| entry.version);
        same("`insert` leaves a live entry as it was, whatever the expiry", &there, &Some(version));
    }
}

pub(super) async fn an_ended_entry_is_absent_for_every_method<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let sentence = "an entry whose time is over is absent for every method";
    let mut ended = Vec::new();
    for expiry in [Trial::short, Trial::ending] {
        for _ in 0..5 {
            ended.push(t.soon(expiry).await?);
        }
    }
    t.pass(t.past_idle()).await;
    for (number, (key, version, _)) in ended.iter().enumerate() {
        let (key, version) = (key.as_str(), *version);
        match number % 5 {
            0 => same(sentence, &ok(t.cache.get_and_touch(key, Duration::ZERO).await), &None),
            1 => same(sentence, &ok(t.cache.touch(key).await), &false),
            2 => same(sentence, &ok(t.cache.delete(key, version).await), &Deleted::Missing),
            3 => {
                let replaced = t.replace(key, version, Bytes::new(), t.long()).await;
                same(sentence, &replaced, &Replaced::Missing);
            }
            _ => {
                let again = t.insert(key, Bytes::from_static(b"again"), t.long()).await;
                must(again, "an ended entry does not keep its key");
                continue;
            }
        }
        same("nothing brings an ended entry back", &t.get(key).await, &None);
    }
    Ok(())
}

pub(super) async fn extreme_times_are_no_error<C: Cache>(t: &Trial<C>) {
    let sentence = "long times are kept as far as the cache can count, and are no error";
    let far = UNIX_EPOCH + Duration::from_secs(1 << 36);
    for expiry in [
        Expiry { idle: Duration::MAX, end: far },
        Expiry { idle: Duration::MAX, end: t.now() + Duration::from_secs(60) },
        Expiry { idle: Duration::from_secs(60), end: far },
    ] {
        let (key, version) = t.entry(b"value", expiry).await;
        holds(sentence, t.get(&key).await.is_some());
        holds(sentence, ok(t.cache.touch(&key).await));
        holds(sentence, ok(t.cache.get_and_touch(&key, Duration::MAX).await).is_some());
        let replaced = t.replace(&key, version, Bytes::new(), expiry).await;
        holds(sentence, matches!(replaced, Replaced::Done));
        holds(sentence, t.get(&key).await.is_some());
    }
}

pub(super) async fn touch_restarts_the_idle_time<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let sentence = "`touch` restarts the idle time";
    let (key, _, mut start) = t.soon(Trial::short).await?;
    for _ in 0..2 {
        t.pass(t.most_of_idle()).await;
        let touched = Instant::now();
        t.live(sentence, ok(t.cache.touch(&key).await), start)?;
        start = touched;
    }
    t.pass(t.most_of_idle()).await;
    t.live(sentence, t.get(&key).await.is_some(), start)?;
    t.pass(t.past_idle()).await;
    same("a touched entry ends when `idle` has passed since the touch", &t.get(&key).await, &None);
    Ok(())
}

pub(super) async fn touch_never_passes_the_end<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let (key, _, start) = t.soon(Trial::ending).await?;
    t.live("`touch` finds a live entry", ok(t.cache.touch(&key).await), start)?;
    t.pass(t.most_of_idle()).await;
    t.live("`touch` finds a live entry", ok(t.cache.touch(&key).await), start)?;
    t.pass(t.most_of_idle()).await;
    same("`touch` never lets an entry live past `end`", &t.get(&key).await, &None);
    Ok(())
}

pub(super) async fn touch_changes_neither_data_nor_version<C: Cache>(t: &Trial<C>) {
    let (key, version) = t.entry(b"value", t.long()).await;
    holds("`touch` finds a live entry", ok(t.cache.touch(&key).await));
    ok(t.cache.get_and_touch(&key, Duration::ZERO).await);
    let entry = Some(Entry { value: Bytes::from_static(b"value"), version });
    same("a touch changes neither data nor version", &t.get(&key).await, &entry);
    let replaced = t.replace(&key, version, Bytes::new(), t.long()).await;
    holds("a touch changes neither data nor version", matches!(replaced, Replaced::Done));
}

pub(super) async fn get_and_touch_restarts_the_idle_time<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let sentence = "`get_and_touch` restarts the idle time";
    let (key, _, mut start) = t.soon(Trial::short).await?;
    for _ in 0..2 {
        t.pass(t.most_of_idle()).await;
        let touched = Instant::now();
        t.live(sentence, ok(t.cache.get_and_touch(&key, Duration::ZERO).await).is_some(), start)?;
        start = touched;
    }
    t.pass(t.most_of_idle()).await;
    t.live(sentence, t.get(&key).await.is_some(), start)?;
    t.pass(t.past_idle()).await;
    same("a touched entry ends when `idle` has passed since the touch", &t.get(&key).await, &None);
    Ok(())
}

pub(super) async fn get_and_touch_waits_for_after<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let (early, _, early_start) = t.soon(Trial::short).await?;
    let (late, _, late_start) = t.soon(Trial::short).await?;
    t.pass(t.most_of_idle()).await;
    let after = t.idle() * 29 / 30;
    let found = ok(t.cache.get_and_touch(&early, after).await);
    t.live("`get_and_touch` finds a live entry", found.is_some(), early_start)?;
    t.within(after, early_start)?;
    let touched = Instant::now();
    let found = ok(t.cache.get_and_touch(&late, t.idle() / 2).await);
    t.live("`get_and_touch` finds a live entry", found.is_some(), late_start)?;
    t.pass(t.most_of_idle()).await;
    let sentence = "`get_and_touch` restarts nothing if the last start is less than `after` ago";
    same(sentence, &t.get(&early).await, &None);
    let sentence = "`get_and_touch` restarts the idle time if its last start is `after` or longer ago";
    t.live(sentence, t.get(&late).await.is_some(), touched)
}

pub(super) async fn get_and_touch_never_passes_the_end<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let (key, _, start) = t.soon(Trial::ending).await?;
    t.pass(t.most_of_idle()).await;
    let found = ok(t.cache.get_and_touch(&key, Duration::ZERO).await);
    t.live("`get_and_touch` finds a live entry", found.is_some(), start)?;
    t.pass(t.most_of_idle()).await;
    same("`get_and_touch` never lets an entry live past `end`", &t.get(&key).await, &None);
    Ok(())
}

pub(super) async fn a_read_restarts_nothing<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let (key, _, start) = t.soon(Trial::short).await?;
    t.pass(t.most_of_idle()).await;
    ok(t.cache.get(&key).await);
    t.insert(&key, Bytes::new(), t.long()).await;
    let _ = t.replace(&key, Version::unique(), Bytes::new(), t.long()).await;
    let _ = ok(t.cache.delete(&key, Version::unique()).await);
    // An insert where the entry has ended is done.
    t.within(t.idle(), start)?;
    t.pass(t.most_of_idle()).await;
    same("a `get`, and a write that was not done, restart nothing", &t.get(&key).await, &None);
    Ok(())
}

pub(super) async fn replace_writes_the_expiry<C: Cache>(t: &Trial<C>) -> Result<(), Late> {
    let sentence = "`replace` writes the expiry with the value";
    let (longer, version, start) = t.soon(Trial::short).await?;
    let replaced = t.replace(&longer, version, Bytes::new(), t.long()).await;
    t.live(sentence, matches!(replaced, Replaced::Done), start)?;
    let (shorter, version) = t.entry(b"value", t.long()).await;
    holds(sentence, matches!(t.replace(&shorter, version, Bytes::new(), t.short()).await, Replaced::Done));
    t.pass(t.past_idle()).await;
    holds(sentence, t.get(&longer).await.is_some());
    same(sentence, &t.get(&shorter).await, &None);
    Ok(())
}
