//! When entries end.
use std::time::UNIX_EPOCH;

use super::*;

const MOST_OF_IDLE: Duration = Duration::from_millis(180);
const PAST_IDLE: Duration = Duration::from_millis(310);

pub(super) async fn an_idle_entry_ends<C: Cache>(t: &Trial<C>) {
    let (key, _) = t.entry(b"value", t.short()).await;
    holds("an entry is there before its time is over", t.get(&key).await.is_some());
    t.pass(PAST_IDLE).await;
    same("an entry ends when `idle` has passed since its last write or touch", &t.get(&key).await, &None);
}

pub(super) async fn an_entry_ends_at_its_end<C: Cache>(t: &Trial<C>) {
    let (key, _) = t.entry(b"value", t.ending()).await;
    holds("an entry is there before its time is over", t.get(&key).await.is_some());
    t.pass(PAST_IDLE).await;
    same("an entry ends at `end`", &t.get(&key).await, &None);
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

pub(super) async fn an_ended_entry_is_absent_for_every_method<C: Cache>(t: &Trial<C>) {
    let sentence = "an entry whose time is over is absent for every method";
    let mut ended = Vec::new();
    for expiry in [t.short(), t.ending()] {
        for _ in 0..5 {
            ended.push(t.entry(b"value", expiry).await);
        }
    }
    t.pass(PAST_IDLE).await;
    for (number, (key, version)) in ended.iter().enumerate() {
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

pub(super) async fn touch_restarts_the_idle_time<C: Cache>(t: &Trial<C>) {
    let sentence = "`touch` restarts the idle time";
    let (key, _) = t.entry(b"value", t.short()).await;
    for _ in 0..2 {
        t.pass(MOST_OF_IDLE).await;
        holds(sentence, ok(t.cache.touch(&key).await));
    }
    t.pass(MOST_OF_IDLE).await;
    holds(sentence, t.get(&key).await.is_some());
    t.pass(PAST_IDLE).await;
    same("a touched entry ends when `idle` has passed since the touch", &t.get(&key).await, &None);
}

pub(super) async fn touch_never_passes_the_end<C: Cache>(t: &Trial<C>) {
    let (key, _) = t.entry(b"value", t.ending()).await;
    holds("`touch` finds a live entry", ok(t.cache.touch(&key).await));
    t.pass(MOST_OF_IDLE).await;
    holds("`touch` finds a live entry", ok(t.cache.touch(&key).await));
    t.pass(MOST_OF_IDLE).await;
    same("`touch` never lets an entry live past `end`", &t.get(&key).await, &None);
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

pub(super) async fn get_and_touch_restarts_the_idle_time<C: Cache>(t: &Trial<C>) {
    let sentence = "`get_and_touch` restarts the idle time";
    let (key, _) = t.entry(b"value", t.short()).await;
    for _ in 0..2 {
        t.pass(MOST_OF_IDLE).await;
        holds(sentence, ok(t.cache.get_and_touch(&key, Duration::ZERO).await).is_some());
    }
    t.pass(MOST_OF_IDLE).await;
    holds(sentence, t.get(&key).await.is_some());
    t.pass(PAST_IDLE).await;
    same("a touched entry ends when `idle` has passed since the touch", &t.get(&key).await, &None);
}

pub(super) async fn get_and_touch_waits_for_after<C: Cache>(t: &Trial<C>) {
    let (early, _) = t.entry(b"value", t.short()).await;
    let (late, _) = t.entry(b"value", t.short()).await;
    t.pass(MOST_OF_IDLE).await;
    let found = ok(t.cache.get_and_touch(&early, Duration::from_millis(290)).await);
    holds("`get_and_touch` finds a live entry", found.is_some());
    let found = ok(t.cache.get_and_touch(&late, Duration::from_millis(150)).await);
    holds("`get_and_touch` finds a live entry", found.is_some());
    t.pass(MOST_OF_IDLE).await;
    let sentence = "`get_and_touch` restarts nothing if the last start is less than `after` ago";
    same(sentence, &t.get(&early).await, &None);
    let sentence = "`get_and_touch` restarts the idle time if its last start is `after` or longer ago";
    holds(sentence, t.get(&late).await.is_some());
}

pub(super) async fn get_and_touch_never_passes_the_end<C: Cache>(t: &Trial<C>) {
    let (key, _) = t.entry(b"value", t.ending()).await;
    t.pass(MOST_OF_IDLE).await;
    ok(t.cache.get_and_touch(&key, Duration::ZERO).await);
    t.pass(MOST_OF_IDLE).await;
    same("`get_and_touch` never lets an entry live past `end`", &t.get(&key).await, &None);
}

pub(super) async fn a_read_restarts_nothing<C: Cache>(t: &Trial<C>) {
    let (key, _) = t.entry(b"value", t.short()).await;
    t.pass(MOST_OF_IDLE).await;
    ok(t.cache.get(&key).await);
    t.insert(&key, Bytes::new(), t.long()).await;
    let _ = t.replace(&key, Version::unique(), Bytes::new(), t.long()).await;
    let _ = ok(t.cache.delete(&key, Version::unique()).await);
    t.pass(MOST_OF_IDLE).await;
    same("a `get`, and a write that was not done, restart nothing", &t.get(&key).await, &None);
}

pub(super) async fn replace_writes_the_expiry<C: Cache>(t: &Trial<C>) {
    let sentence = "`replace` writes the expiry with the value";
    let (longer, version) = t.entry(b"value", t.short()).await;
    holds(sentence, matches!(t.replace(&longer, version, Bytes::new(), t.long()).await, Replaced::Done));
    let (shorter, version) = t.entry(b"value", t.long()).await;
    holds(sentence, matches!(t.replace(&shorter, version, Bytes::new(), t.short()).await, Replaced::Done));
    t.pass(PAST_IDLE).await;
    holds(sentence, t.get(&longer).await.is_some());
    same(sentence, &t.get(&shorter).await, &None);
}
