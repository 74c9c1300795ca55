//! What is written, by whom, and what the others see of it.
use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;

use super::trial::{Trial, holds, must, ok, same, together};
use crate::cache::{Cache, Deleted, Entry, Replaced, Version};

pub(super) async fn an_absent_key_is_no_error<C: Cache>(t: &Trial<C>) {
    let sentence = "absence is never an error";
    let key = t.key();
    same(sentence, &t.get(&key).await, &None);
    same(sentence, &ok(t.cache.get_and_touch(&key, Duration::ZERO).await), &None);
    same(sentence, &ok(t.cache.touch(&key).await), &false);
    let replaced = t.replace(&key, Version::unique(), Bytes::new(), t.long()).await;
    same(sentence, &replaced, &Replaced::Missing);
    same(sentence, &ok(t.cache.delete(&key, Version::unique()).await), &Deleted::Missing);
    same("`touch` and `replace` create no entry", &t.get(&key).await, &None);
}

pub(super) async fn what_was_inserted_is_read<C: Cache>(t: &Trial<C>) {
    let (key, version) = t.entry(b"value", t.long()).await;
    let entry = Some(Entry { value: Bytes::from_static(b"value"), version });
    same("`get` returns what was inserted, and its version", &t.get(&key).await, &entry);
    let touched = ok(t.cache.get_and_touch(&key, Duration::ZERO).await);
    same("`get_and_touch` returns the same as `get`", &touched, &entry);
}

pub(super) async fn any_bytes_come_back<C: Cache>(t: &Trial<C>) {
    let all: Vec<u8> = (0..=255).collect();
    let samples = [
        Vec::new(),
        vec![0],
        vec![1; 21],
        vec![0xff; 3],
        b"\r\n$-1\r\n".to_vec(),
        b"{\"a\":1}".to_vec(),
        all.repeat(256),
    ];
    for bytes in samples {
        let (sentence, length) = ("bytes come back as they were given", bytes.len());
        let (key, value) = (t.key(), Bytes::from(bytes));
        let version = must(t.insert(&key, value.clone(), t.long()).await, sentence);
        let read = must(t.get(&key).await, sentence);
        holds(&format!("{sentence}: {length} bytes, inserted"), read.value == value);
        let read = must(ok(t.cache.get_and_touch(&key, Duration::ZERO).await), sentence);
        holds(&format!("{sentence}: {length} bytes, touched"), read.value == value);
        let conflict = t.replace(&key, Version::unique(), Bytes::new(), t.long()).await;
        holds(
            &format!("{sentence}: {length} bytes, in a conflict"),
            conflict == Replaced::Conflict(Entry { value: value.clone(), version }),
        );
        holds(sentence, matches!(t.replace(&key, version, value.clone(), t.long()).await, Replaced::Done));
        let read = must(t.get(&key).await, sentence);
        holds(&format!("{sentence}: {length} bytes, replaced"), read.value == value);
    }
}

pub(super) async fn any_key_is_a_key_of_its_own<C: Cache>(t: &Trial<C>) {
    let sentence = "every text is a key, and a key of its own";
    let base = t.key();
    let keys: Vec<_> =
        ["", " ", "*", "\0", "{a}", "\r\n", "é", "Upper", "upper"].map(|end| format!("{base}{end}")).into();
    for key in &keys {
        holds(sentence, t.insert(key, Bytes::from(key.clone()), t.long()).await.is_some());
    }
    for key in &keys {
        same(sentence, &t.get(key).await.map(|entry| entry.value), &Some(Bytes::from(key.clone())));
    }
}

pub(super) async fn insert_leaves_a_live_entry_as_it_is<C: Cache>(t: &Trial<C>) {
    let (key, version) = t.entry(b"first", t.long()).await;
    let second = t.insert(&key, Bytes::from_static(b"second"), t.long()).await;
    same("`insert` returns `None` if a live entry is there", &second, &None);
    let entry = Some(Entry { value: Bytes::from_static(b"first"), version });
    same("`insert` leaves a live entry as it was", &t.get(&key).await, &entry);
}

pub(super) async fn replace_writes_over_the_expected_version_only<C: Cache>(t: &Trial<C>) {
    let (key, first) = t.entry(b"first", t.long()).await;
    let second = Entry::new(Bytes::from_static(b"second"), Version::unique());
    let replaced = ok(t.cache.replace(&key, first, second.clone(), t.long()).await);
    same("`replace` writes over the entry whose version is expected", &replaced, &Replaced::Done);
    same("`replace` writes the value and the version that it is given", &t.get(&key).await, &Some(second.clone()));
    let late = t.replace(&key, first, Bytes::from_static(b"late"), t.long()).await;
    same("a conflict brings the entry that is there now", &late, &Replaced::Conflict(second.clone()));
    same("`replace` writes over no other version", &t.get(&key).await, &Some(second));
}

pub(super) async fn a_repeated_insert_is_done<C: Cache>(t: &Trial<C>) {
    let sentence = "an `insert` of an entry whose version is there already is done, and changes nothing";
    let (key, entry) = (t.key(), Entry::new(Bytes::from_static(b"value"), Version::unique()));
    for _ in 0..2 {
        same(sentence, &ok(t.cache.insert(&key, entry.clone(), t.long()).await), &true);
        same(sentence, &t.get(&key).await, &Some(entry.clone()));
    }
}

pub(super) async fn a_repeated_replace_is_done_and_changes_nothing<C: Cache>(t: &Trial<C>) {
    let sentence = "a `replace` by an entry whose version is there already is done, and changes nothing";
    let (key, first) = t.entry(b"first", t.long()).await;
    let second = Entry::new(Bytes::from_static(b"second"), Version::unique());
    for _ in 0..2 {
        same(sentence, &ok(t.cache.replace(&key, first, second.clone(), t.long()).await), &Replaced::Done);
        same(sentence, &t.get(&key).await, &Some(second.clone()));
    }
    let third = Entry::new(Bytes::from_static(b"third"), Version::unique());
    same(sentence, &ok(t.cache.replace(&key, second.version, third.clone(), t.long()).await), &Replaced::Done);
    let late = ok(t.cache.replace(&key, first, second, t.long()).await);
    same("a repeated `replace` does not undo a later one", &late, &Replaced::Conflict(third));
}

pub(super) async fn delete_removes_the_expected_version_only<C: Cache>(t: &Trial<C>) {
    let (key, version) = t.entry(b"value", t.long()).await;
    let entry = Entry { value: Bytes::from_static(b"value"), version };
    let conflict = ok(t.cache.delete(&key, Version::unique()).await);
    same("a conflict brings the entry that is there now", &conflict, &Deleted::Conflict(entry.clone()));
    same("`delete` removes no other version", &t.get(&key).await, &Some(entry));
    same("`delete` removes the expected version", &ok(t.cache.delete(&key, version).await), &Deleted::Done);
    same("what was deleted is absent", &t.get(&key).await, &None);
    same("a second `delete` finds nothing", &ok(t.cache.delete(&key, version).await), &Deleted::Missing);
    same("`touch` brings nothing back", &ok(t.cache.touch(&key).await), &false);
    let replaced = t.replace(&key, version, Bytes::new(), t.long()).await;
    same("`replace` brings nothing back", &replaced, &Replaced::Missing);
}

pub(super) async fn one_of_many_inserts_wins<C: Cache>(t: &Trial<C>) {
    let (key, expiry) = (t.key(), t.long());
    let versions = together(64, |number| {
        let (cache, key) = (Arc::clone(&t.cache), key.clone());
        let entry = Entry::new(Bytes::from(number.to_string()), Version::unique());
        async move { ok(cache.insert(&key, entry.clone(), expiry).await).then_some(entry.version) }
    });
    let winners: Vec<_> = versions.await.into_iter().flatten().collect();
    same("of many inserts at the same time one writes", &winners.len(), &1);
    let version = t.get(&key).await.map(|entry| entry.version);
    same("the entry is the one of the insert that won", &version, &winners.first().copied());
}

pub(super) async fn no_increment_is_lost<C: Cache>(t: &Trial<C>) {
    let expiry = t.long();
    let (key, _) = t.entry(b"0", expiry).await;
    together(64, |_| {
        let (cache, key) = (Arc::clone(&t.cache), key.clone());
        async move {
            let mut found = must(ok(cache.get(&key).await), "a live entry is found");
            loop {
                let more = Bytes::from((number(&found) + 1).to_string());
                let entry = Entry::new(more, Version::unique());
                match ok(cache.replace(&key, found.version, entry, expiry).await) {
                    Replaced::Done => return,
                    Replaced::Conflict(newer) => found = newer,
                    Replaced::Missing => panic!("broken: a live entry is never thrown out"),
                }
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    let count = t.get(&key).await.map(|entry| number(&entry));
    same("64 writers that compare and set lose no increment", &count, &Some(64));
}

fn number(entry: &Entry) -> u64 {
    let text = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
    must(text, "bytes come back as they were given")
}

pub(super) async fn one_of_many_deletes_wins<C: Cache>(t: &Trial<C>) {
    let (key, version) = t.entry(b"value", t.long()).await;
    let deleted = together(16, |_| {
        let (cache, key) = (Arc::clone(&t.cache), key.clone());
        async move { ok(cache.delete(&key, version).await) }
    });
    let done = deleted.await.into_iter().filter(|deleted| *deleted == Deleted::Done).count();
    same("of many deletes at the same time one removes", &done, &1);
}

pub(super) async fn readers_see_value_and_version_together<C: Cache>(t: &Trial<C>) {
    let expiry = t.long();
    let (key, first) = t.entry(b"0", expiry).await;
    let seen = together(8, |task| {
        let (cache, key) = (Arc::clone(&t.cache), key.clone());
        async move {
            let (mut seen, mut version) = (Vec::new(), first);
            for round in 1..=50_u64 {
                if task == 0 {
                    let entry = Entry::new(Bytes::from(round.to_string()), Version::unique());
                    let (expected, next) = (version, entry.version);
                    let replaced = ok(cache.replace(&key, expected, entry, expiry).await);
                    same("the only writer meets no conflict", &replaced, &Replaced::Done);
                    version = next;
                    seen.push((version, round));
                } else if let Some(entry) = ok(cache.get(&key).await) {
                    seen.push((entry.version, number(&entry)));
                }
                tokio::task::yield_now().await;
            }
            seen
        }
    });
    let pairs: HashSet<_> = seen.await.into_iter().flatten().collect();
    let versions: HashSet<_> = pairs.iter().map(|(version, _)| version).collect();
    same("no reader sees a version with another write's value", &pairs.len(), &versions.len());
}

pub(super) async fn a_ping_is_answered<C: Cache>(t: &Trial<C>) {
    ok(t.cache.ping().await);
}
