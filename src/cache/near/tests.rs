use bytes::Bytes;

use super::*;
use crate::cache::Version;

fn near() -> NearCache {
    let near = NearCache::new(1 << 20, Reports::ByServer);
    near.begin(1, Instant::now());
    near
}

fn found(number: u64) -> Fetched {
    let entry = Entry { value: Bytes::from_static(b"value"), version: Version::from(number) };
    Fetched { entry, idle: 60_000, end: wall() + 120_000, left: 60_000 }
}

fn ask(near: &NearCache) -> FillToken {
    match near.find("k", None) {
        NearLookup::Miss(token) => token,
        _ => panic!("an entry was found"),
    }
}

fn has(near: &NearCache) -> bool {
    matches!(near.find("k", None), NearLookup::Hit(_))
}

fn filled() -> NearCache {
    let near = near();
    near.fill(&ask(&near), "k", &found(1));
    assert!(has(&near));
    near
}

/// As if the last proof were so long ago.
fn age(near: &mut NearCache, by: Duration) {
    near.start -= by;
    let until = u64::try_from(by.as_nanos()).unwrap();
    near.shards.iter().for_each(|shard| {
        let mut shard = lock(shard);
        if let Some(item) = shard.find(b"k") {
            item.times.until += until;
            item.times.sent += until;
        }
    });
}

#[test]
fn an_answer_is_kept_if_nothing_changed_since_the_question() {
    type Event = fn(&NearCache);
    let events: [(bool, Event); 6] = [
        (true, |_| {}),
        (false, |near| near.invalidate(b"k")),
        (false, NearCache::invalidate_all),
        (false, |near| near.end(1)),
        (false, |near| near.begin(2, Instant::now())),
        (true, |near| near.end(7)),
    ];
    for (number, (kept, event)) in events.into_iter().enumerate() {
        let near = near();
        let token = ask(&near);
        event(&near);
        near.fill(&token, "k", &found(1));
        assert_eq!(has(&near), kept, "event {number} between question and answer");
        let near = filled();
        event(&near);
        assert_eq!(has(&near), kept, "event {number} after the answer");
    }
}

#[test]
fn an_own_write_is_kept_if_no_other_change_was_reported_since_it_was_sent() {
    type Event = fn(&NearCache);
    let events: [(bool, Event); 6] = [
        (true, |near| near.invalidate(b"k")),
        (false, |_| {}),
        (false, |near| (0..2).for_each(|_| near.invalidate(b"k"))),
        (false, NearCache::invalidate_all),
        (false, |near| near.end(1)),
        (false, |near| near.begin(2, Instant::now())),
    ];
    for (number, (kept, event)) in events.into_iter().enumerate() {
        let near = filled();
        let token = near.token("k");
        event(&near);
        near.written(token, "k", &found(2));
        assert_eq!(has(&near), kept, "event {number}");
    }
}

#[test]
fn an_answer_from_before_an_own_write_is_not_kept() {
    for reported in [true, false] {
        let near = near();
        let (read, write) = (ask(&near), near.token("k"));
        if reported {
            near.invalidate(b"k");
        }
        near.written(write, "k", &found(2));
        near.fill(&read, "k", &found(1));
        let version = match near.find("k", None) {
            NearLookup::Hit(entry) => Some(entry.version),
            _ => None,
        };
        assert_eq!(version, reported.then(|| Version::from(2)));
    }
}

#[test]
fn a_change_of_another_key_changes_nothing_else() {
    let near = filled();
    (0..1000).for_each(|number| near.invalidate(format!("other{number}").as_bytes()));
    assert!(has(&near));
}

#[test]
fn nothing_is_kept_before_a_connection_tells_of_changes() {
    let near = NearCache::new(1 << 20, Reports::ByServer);
    let token = ask(&near);
    near.fill(&token, "k", &found(1));
    assert!(!has(&near));
    near.begin(1, Instant::now());
    near.fill(&token, "k", &found(1));
    assert!(!has(&near));
}

#[test]
fn nothing_is_served_when_nothing_was_proved_for_the_bound() {
    let mut near = filled();
    age(&mut near, BOUND);
    assert!((0..100).all(|_| !has(&near)));
    let token = ask(&near);
    near.answered(&token);
    assert!(has(&near), "an answer proves that all changes have arrived");
}

#[test]
fn the_answer_of_a_connection_that_is_gone_proves_nothing() {
    let mut near = filled();
    age(&mut near, BOUND);
    let token = ask(&near);
    near.begin(2, near.start);
    near.answered(&token);
    near.fill(&token, "k", &found(1));
    assert!(!has(&near));
    let token = ask(&near);
    near.fill(&token, "k", &found(1));
    assert!(!has(&near), "kept, but not proved");
}

#[test]
fn before_the_bound_one_read_at_a_time_is_sent_to_prove_it() {
    let mut near = filled();
    age(&mut near, EARLY);
    let sent = (0..100).filter(|_| !has(&near)).count();
    assert_eq!(sent, 1);
    age(&mut near, AGAIN);
    assert_eq!((0..100).filter(|_| !has(&near)).count(), 1);
}

#[test]
fn nothing_is_served_after_its_time() {
    for late in [
        Fetched { left: 0, ..found(1) },
        Fetched { left: -1, ..found(1) },
        Fetched { left: -2, ..found(1) },
        Fetched { end: wall(), ..found(1) },
    ] {
        let near = near();
        near.fill(&ask(&near), "k", &late);
        assert!(!has(&near), "{}", late.left);
    }
    let near = near();
    near.fill(&ask(&near), "k", &Fetched { left: 20, ..found(1) });
    assert!(has(&near));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!has(&near));
}

#[test]
fn what_has_to_be_restarted_is_due() {
    let near = near();
    let young = Fetched { left: 50_000, ..found(1) };
    assert!(young.is_due(9_000) && young.is_due(10_000) && !young.is_due(11_000));
    near.fill(&ask(&near), "k", &young);
    assert!(matches!(near.find("k", Some(11_000)), NearLookup::Hit(_)));
    assert!(matches!(near.find("k", Some(10_000)), NearLookup::Due(_)));
    assert!(Fetched { left: -1, ..found(1) }.is_due(u64::MAX));
}

#[test]
fn the_bytes_have_a_bound() {
    let near = NearCache::new(1 << 20, Reports::ByServer);
    near.begin(1, Instant::now());
    for number in 0..100_000 {
        let key = format!("key{number}");
        let NearLookup::Miss(token) = near.find(&key, None) else { panic!("{key}") };
        near.fill(&token, &key, &found(number));
    }
    let bytes: usize = near.shards.iter().map(|shard| lock(shard).bytes()).sum();
    assert!((900_000..=1 << 20).contains(&bytes), "{bytes}");
}

/// With writers that report, and a proof from just now.
fn reported() -> NearCache {
    let near = NearCache::new(1 << 20, Reports::ByWriters);
    near.begin(1, Instant::now());
    near.fill(&ask(&near), "k", &found(1));
    assert!(has(&near));
    near
}

#[test]
fn where_writers_report_only_a_proof_over_their_connection_counts() {
    let mut near = reported();
    age(&mut near, BOUND);
    near.prove(2, Instant::now());
    assert!((0..100).all(|_| !has(&near)));
    near.prove(1, Instant::now());
    assert!((0..100).all(|_| has(&near)), "no read is sent early");
}

#[test]
fn where_writers_report_an_entry_is_served_for_the_bound() {
    let mut near = reported();
    near.start -= BOUND / 2;
    near.prove(1, Instant::now());
    assert!(has(&near));
    near.start -= BOUND / 2;
    near.prove(1, Instant::now());
    assert!(!has(&near));
}

#[cfg(feature = "redis-cluster")]
#[test]
fn what_has_no_room_any_more_is_evicted() {
    let near = filled();
    near.resize(1 << 20);
    assert!(has(&near));
    near.resize(100);
    assert!(!has(&near));
    near.fill(&ask(&near), "k", &found(1));
    assert!(!has(&near), "there is no room");
    near.resize(1 << 20);
    near.fill(&ask(&near), "k", &found(1));
    assert!(has(&near));
}

/// A client chooses the IDs that are looked up, and with them the keys.
#[test]
fn every_near_cache_hashes_with_a_key_of_its_own() {
    let first = near().hash(b"k");
    assert!((0..8).all(|_| near().hash(b"k") != first));
}
