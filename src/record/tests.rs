use proptest::prelude::*;

use super::{
    head::{Origin, Own},
    *,
};
use crate::cache::Version;
use std::time::Duration;

const LIMIT: usize = 65_536;
const LIFETIME: Duration = Duration::from_secs(3600);

fn key(fill: u8) -> SessionKey {
    SessionKey::of_digest(&[fill; 32])
}

fn head() -> Head {
    Head::with(1_780_000_000_000, 1_790_000_000_000, Own::default())
}

fn text(key: &SessionKey, head: &Head, pairs: &[(&str, &str)]) -> Bytes {
    let pairs = pairs.iter().map(|(key, json)| (key.as_bytes(), json.as_bytes()).into());
    encode(key, head, None, pairs, LIMIT).unwrap().values.text().clone()
}

fn live(bytes: &Bytes) -> Record {
    match decode(bytes, &key(1), LIMIT) {
        Ok(Decoded::Live(record)) => record,
        other => panic!("{bytes:?} is {other:?}"),
    }
}

fn pairs(values: &Values) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    values.iter().map(|pair| (text(pair.key), text(pair.json))).collect()
}

fn full() -> Own {
    Own {
        idle: Some(5),
        lifetime: Some(6),
        persistent: Some(true),
        owner: Some("us\"er".into()),
        stamp: Some(Stamp { at: 7, nonce: u64::MAX }),
        login: Some(8),
        authenticated: Some(9),
        origin: Some(Origin { prev: key(9), made: 10 }),
        written: Some(11),
        renewing: true,
        #[cfg(feature = "device-bound")]
        binding: Some(Box::new(binding::largest())),
    }
}

#[test]
fn a_record_that_is_written_is_read() {
    for head in [head(), Head::with(1, 2, full())] {
        let data = [("a", "1"), ("b\"", r#"{"x":[1,2]}"#), ("ü", "\"ü\"")];
        let fields = data.iter().map(|(key, json)| (key.as_bytes(), json.as_bytes()).into());
        let written = encode(&key(1), &head, None, fields, LIMIT).unwrap();
        let found = live(written.values.text());
        assert_eq!(found.head, head);
        // The same places, whether they were noted while it was written or found in the text, also when they are copied.
        assert_eq!(pairs(&written.values), pairs(&found.values));
        let copied = encode(&key(1), &head, None, found.values.iter(), LIMIT).unwrap();
        assert_eq!(pairs(&copied.values), pairs(&found.values));
        let mut sorted = data.map(|(key, json)| (key.to_owned(), json.to_owned()));
        sorted.sort();
        assert_eq!(pairs(&found.values), sorted);
        assert_eq!(found.values.get("b\"").as_deref(), Some(&br#"{"x":[1,2]}"#[..]));
    }
    assert_eq!(live(&text(&key(1), &head(), &[])).values.len(), 0);
    let tombstone = Tombstone { successor: key(2), at: 3 };
    let bytes = encode_tombstone(&key(1), &tombstone);
    assert!(matches!(decode(&bytes, &key(1), LIMIT), Ok(Decoded::Tombstone(found)) if found == tombstone));
}

#[test]
fn the_largest_head_fits_beside_the_largest_values() {
    let own = Own { owner: Some("\u{1}".repeat(256).into()), ..full() };
    let head = Head::with(u64::MAX, u64::MAX, own);
    let value = format!("\"{}\"", "v".repeat(LIMIT - 8));
    let record = encode(&key(1), &head, None, [("k".as_bytes(), value.as_bytes()).into()].into_iter(), LIMIT).unwrap();
    assert_eq!(record.values.size(), LIMIT);
    assert!(record.values.text().len() - LIMIT <= HEAD_BYTES, "{}", record.values.text().len() - LIMIT);
    assert_eq!(live(record.values.text()).head, head);
    let over = format!("\"{}\"", "v".repeat(LIMIT - 7));
    let result = encode(&key(1), &head, None, [("k".as_bytes(), over.as_bytes()).into()].into_iter(), LIMIT);
    assert!(matches!(result, Err(SessionError::TooLarge { .. })));
}

#[test]
fn a_record_belongs_to_its_key() {
    let bytes = text(&key(1), &head(), &[]);
    assert_eq!(decode(&bytes, &key(2), LIMIT).unwrap_err(), Unreadable::Foreign);
    let tombstone = encode_tombstone(&key(1), &Tombstone { successor: key(3), at: 0 });
    assert_eq!(decode(&tombstone, &key(2), LIMIT).unwrap_err(), Unreadable::Foreign);
}

#[test]
fn anything_else_is_refused() {
    let good = text(&key(1), &head(), &[("a", "1")]);
    for length in 0..good.len() {
        assert!(decode(&good.slice(..length), &key(1), LIMIT).is_err(), "{length} bytes");
    }
    let large = Bytes::from(vec![b' '; LIMIT + HEAD_BYTES + 1]);
    assert_eq!(decode(&large, &key(1), LIMIT).unwrap_err(), Unreadable::TooLarge);
    let text = String::from_utf8(good.to_vec()).unwrap();
    for (change, why) in [
        (text.replace("\"v\":2", "\"v\":1"), Unreadable::Version),
        (text.replace("\"v\":2", "\"v\":255"), Unreadable::Version),
        (r#"{"v":3,"state":{}}"#.to_owned(), Unreadable::Version),
        (text.replace("\"d\":{", "\"d\":{\"a\":2,"), Unreadable::Malformed),
        (text.replace("\"d\":{\"a\":1}", "\"d\":[1]"), Unreadable::Malformed),
        (text.replace("\"d\":{\"a\":1}", "\"n\":\"short\""), Unreadable::Malformed),
        (text.replace("\"d\":", "\"x\":1,\"d\":"), Unreadable::Malformed),
        (text.replace(",\"e\":1790000000000", ""), Unreadable::Malformed),
        (format!("{text}x"), Unreadable::Malformed),
        ("null".into(), Unreadable::Malformed),
        ("[1,2]".into(), Unreadable::Malformed),
        ("[".repeat(10_000), Unreadable::Malformed),
    ] {
        assert_eq!(decode(&change.clone().into(), &key(1), LIMIT).unwrap_err(), why, "{change}");
    }
}

#[test]
fn an_owner_cannot_pretend_to_be_a_value() {
    for owner in [",\"d\":{\"a\":2}}", "\",\"d\":{", "\\", ",", "}", "\u{fc}", "d"] {
        let own = Head::with(1, 2, Own { owner: Some(owner.into()), idle: Some(7), ..Own::default() });
        let bytes = text(&key(1), &own, &[("a", "1")]);
        let (found, values) = head_of(&bytes, &key(1)).unwrap();
        assert_eq!((found, &bytes[values..]), (own, &b"{\"a\":1}}"[..]), "{owner}");
    }
}

#[test]
fn what_is_written_does_not_depend_on_the_record_before_it() {
    let with = |end, own| Head::with(1, end, own);
    let (bytes, one) = (text(&key(1), &with(2, full()), &[("a", "1")]), [("b".as_bytes(), "2".as_bytes()).into()]);
    for base in [live(&bytes), encode(&key(1), &with(2, full()), None, one.into_iter(), LIMIT).unwrap()] {
        for (key, head) in
            [(1, with(2, full())), (2, with(2, full())), (1, with(3, full())), (1, with(2, Own::default()))]
        {
            let key = SessionKey::of_digest(&[key; 32]);
            let over = encode(&key, &head, Some(&base), one.into_iter(), LIMIT).unwrap();
            assert_eq!(over.values.text(), &text(&key, &head, &[("b", "2")]));
        }
    }
}

#[test]
fn a_record_laid_out_by_hand_is_read_and_written_again() {
    let compact = text(&key(1), &Head::with(1, 2, full()), &[("a", "[1,2]"), ("b", "2")]);
    let value: serde_json::Value = serde_json::from_slice(&compact).unwrap();
    let pretty = Bytes::from(serde_json::to_string_pretty(&value).unwrap());
    let (record, expected) = (live(&pretty), live(&compact));
    assert_eq!(record.head, expected.head);
    let again = encode(&key(1), &record.head, Some(&record), record.values.iter(), LIMIT).unwrap();
    let read = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    for ((name, json), (expected_name, expected)) in
        pairs(&live(again.values.text()).values).into_iter().zip(pairs(&expected.values))
    {
        assert_eq!((name, read(&json)), (expected_name, read(&expected)));
    }
}

// Changes and their replay.

fn record(values: &[(&str, &str)]) -> Record {
    live(&text(&key(1), &head(), &{
        let mut values = values.to_vec();
        values.sort_unstable();
        values
    }))
}

fn json(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn list(changes: &Changes, record: &Record) -> String {
    let text = |pair: EncodedValue<'_>| {
        format!("{}={}", String::from_utf8_lossy(pair.key), String::from_utf8_lossy(pair.json))
    };
    changes.effect().merged(&record.values).map(text).collect::<Vec<_>>().join(" ")
}

fn identity(version: u64) -> Identity {
    Some(Version::from(version))
}

/// A list that was computed on a record, as a handle makes it.
struct Handle {
    record: Record,
    changes: Changes,
}

impl Handle {
    fn on(values: &[(&str, &str)]) -> Self {
        let mut changes = Changes::default();
        changes.on = identity(1);
        Self { record: record(values), changes }
    }

    fn get(&self, key: &str) -> Option<Bytes> {
        match self.changes.effect().get(key) {
            Some(json) => json.cloned(),
            None => self.record.values.get(key),
        }
    }

    fn set(&mut self, key: &str, text: &str) {
        self.changes.set(key, Some(json(text)));
    }

    fn remove(&mut self, key: &str) {
        self.changes.set(key, None);
    }

    fn clear(&mut self) {
        self.changes.clear();
    }

    fn add(&mut self, key: &str, by: i64) {
        let mut run: Run = Box::new(move |old| {
            let old: i64 = old.map_or(Ok(0), |old| json::decode("k", old))?;
            json::encode(&(old + by), 100).map(Some)
        });
        let now = run(self.get(key).as_deref()).unwrap();
        self.changes.update(key, now, run).unwrap();
    }

    fn log_in(&mut self, owner: &str) {
        let owner = Owner { name: owner.into(), stamp: Stamp { at: 5, nonce: 5 } };
        let present = self.record.head.owner().map(str::to_owned);
        self.changes.log_in(owner, present.as_deref());
    }

    fn replayed_on(&mut self, newest: &Record) -> String {
        self.changes.replay(identity(2), newest).unwrap();
        list(&self.changes, newest)
    }
}

fn owned(values: &[(&str, &str)], owner: &str) -> Record {
    let own = Own { owner: Some(owner.into()), stamp: Some(Stamp { at: 1, nonce: 1 }), ..Own::default() };
    Record { head: Head::with(1, u64::MAX, own), ..record(values) }
}

#[test]
fn the_merge_table() {
    type This = fn(&mut Handle);
    let base = [("k", "1"), ("other", "0")];
    let clear_and_set: This = |this| {
        this.clear();
        this.set("mine", "7");
    };
    let others: [&[(&str, &str)]; 3] = [&[("k", "5"), ("other", "0"), ("new", "9")], &[("other", "0")], &[]];
    let table: [(&str, This, [&str; 3]); 8] = [
        ("set", |this| this.set("k", "10"), ["k=10 new=9 other=0", "k=10 other=0", "k=10"]),
        ("set to the value that was seen", |this| this.set("k", "1"), ["k=1 new=9 other=0", "k=1 other=0", "k=1"]),
        ("update", |this| this.add("k", 10), ["k=15 new=9 other=0", "k=10 other=0", "k=10"]),
        ("remove", |this| this.remove("k"), ["new=9 other=0", "other=0", ""]),
        ("remove of what was not seen", |this| this.remove("new"), ["k=5 other=0", "other=0", ""]),
        ("clear", |this| this.clear(), ["", "", ""]),
        ("clear and set", clear_and_set, ["mine=7", "mine=7", "mine=7"]),
        ("no change", |_| (), ["k=5 new=9 other=0", "other=0", ""]),
    ];
    for (name, this, outcomes) in table {
        for (newest, outcome) in others.iter().zip(outcomes) {
            let mut handle = Handle::on(&base);
            this(&mut handle);
            assert_eq!(handle.replayed_on(&record(newest)), outcome, "{name} on {newest:?}");
        }
    }
}

#[test]
fn updates_after_changes_of_the_same_list_build_on_those() {
    type This = fn(&mut Handle);
    let table: [(&str, This, &str); 4] = [
        ("set", |this| this.set("k", "1"), "k=2"),
        ("remove", |this| this.remove("k"), "k=1"),
        ("clear", |this| this.clear(), "k=1"),
        ("update", |this| this.add("k", 2), "k=103"),
    ];
    for (name, before, expected) in table {
        let mut handle = Handle::on(&[("k", "5")]);
        before(&mut handle);
        handle.add("k", 1);
        assert_eq!(handle.replayed_on(&record(&[("k", "100")])), expected, "{name}");
    }
}

#[test]
fn a_list_alters_a_record_if_anything_differs() {
    let base = [("k", "1"), ("map", r#"{"a":1,"b":2}"#)];
    type This = fn(&mut Handle);
    let same: [This; 5] = [
        |this| this.set("k", "1"),
        |this| this.set("map", r#"{"b":2,"a":1}"#),
        |this| this.add("k", 0),
        |this| this.remove("never"),
        |this| {
            this.clear();
            this.set("k", "1");
            this.set("map", r#"{"a":1,"b":2}"#);
        },
    ];
    for this in same {
        let mut handle = Handle::on(&base);
        this(&mut handle);
        assert!(
            !handle.changes.effect().alters(&handle.record, LIFETIME),
            "{:?}",
            list(&handle.changes, &handle.record)
        );
    }
    let other: [This; 5] = [
        |this| this.set("k", "2"),
        |this| this.remove("k"),
        |this| this.clear(),
        |this| this.log_in("a"),
        |this| this.changes.head_mut().idle = Some(1),
    ];
    for this in other {
        let mut handle = Handle::on(&base);
        this(&mut handle);
        assert!(handle.changes.effect().alters(&handle.record, LIFETIME));
    }
}

#[test]
fn a_login_keeps_data_without_an_owner_and_drops_that_of_another_one() {
    let rows: [(Record, &str); 4] = [
        (record(&[("k", "5")]), "after=1 before=1 k=6"),
        (owned(&[("k", "5")], "alice"), "after=1 before=1 k=6"),
        (owned(&[("k", "5")], "bob"), "after=1"),
        (record(&[]), "after=1 before=1 k=1"),
    ];
    for (newest, expected) in rows {
        let mut handle = Handle::on(&[("k", "1")]);
        handle.set("before", "1");
        handle.add("k", 1);
        handle.log_in("alice");
        handle.set("after", "1");
        assert_eq!(handle.replayed_on(&newest), expected);
    }
}

#[test]
fn a_second_login_of_a_list_drops_what_the_first_one_left() {
    let mut handle = Handle::on(&[("k", "1")]);
    handle.log_in("alice");
    handle.set("hers", "1");
    handle.log_in("bob");
    handle.set("his", "1");
    assert_eq!(handle.replayed_on(&record(&[("k", "1")])), "his=1");
    // The same owner again leaves open whether the record is another's.
    let mut handle = Handle::on(&[]);
    handle.set("before", "1");
    handle.log_in("alice");
    handle.log_in("alice");
    assert_eq!(handle.replayed_on(&owned(&[("k", "1")], "bob")), "");
    // Nor does a change of owner after the login make the data another's.
    let mut handle = Handle::on(&[]);
    handle.log_in("alice");
    let carol = Owner { name: "carol".into(), stamp: Stamp { at: 6, nonce: 6 } };
    handle.changes.head_mut().owner = Some(Some(carol));
    assert_eq!(handle.replayed_on(&owned(&[("k", "1")], "alice")), "k=1");
}

#[test]
fn a_list_that_is_put_back_comes_before_the_later_one() {
    let mut first = Handle::on(&[("k", "1"), ("gone", "1")]);
    first.add("k", 1);
    first.remove("gone");
    first.set("mine", "1");
    let mut later = Handle::on(&[("k", "2"), ("mine", "1")]);
    later.add("k", 10);
    later.add("mine", 10);
    later.set("gone", "2");
    first.changes.then(later.changes);
    assert_eq!(first.replayed_on(&record(&[("k", "100")])), "gone=2 k=111 mine=11");
}

#[test]
fn lists_with_logins_are_joined_in_their_order() {
    let mut first = Handle::on(&[]);
    first.set("one", "1");
    let mut later = Handle::on(&[]);
    later.set("two", "2");
    later.log_in("alice");
    later.set("three", "3");
    first.changes.then(later.changes);
    assert_eq!(first.replayed_on(&owned(&[("k", "1")], "bob")), "three=3");
    assert_eq!(first.changes.effect().head().unwrap().login, Some(5));
}

#[test]
fn closures_are_bounded_and_certain_values_keep_none() {
    let mut handle = Handle::on(&[("k", "0")]);
    for _ in 0..1000 {
        handle.add("k", 1);
    }
    let refused = handle.changes.update("k", None, Box::new(|_| Ok(None)));
    assert!(matches!(refused, Err(SessionError::TooManyUpdates { limit: 1000 })));
    handle.set("k", "0");
    for _ in 0..5000 {
        handle.add("k", 1);
    }
    assert_eq!(handle.replayed_on(&record(&[("k", "9")])), "k=5000");
}

#[test]
fn a_closure_that_panics_fails_the_replay_and_stays() {
    let mut handle = Handle::on(&[("k", "1")]);
    let mut runs = 0;
    let run: Run = Box::new(move |_| {
        runs += 1;
        assert!(runs > 1, "on purpose");
        Ok(Some(json("7")))
    });
    handle.changes.update("k", Some(json("1")), run).unwrap();
    assert!(matches!(handle.changes.replay(identity(2), &record(&[])), Err(SessionError::Panicked)));
    assert_eq!(handle.replayed_on(&record(&[])), "k=7");
}

#[test]
fn an_update_that_is_withdrawn_leaves_the_others() {
    let mut handle = Handle::on(&[("k", "1")]);
    handle.add("k", 10);
    handle.changes.update_at_commit("k", None, Box::new(|_| Ok(None)), 7).unwrap();
    let present = Some(json("11"));
    handle.changes.withdraw("k", 7, present.clone());
    assert_eq!(handle.changes.effect().get("k"), Some(present.as_ref()));
    assert_eq!(handle.replayed_on(&record(&[("k", "5")])), "k=15");
}

#[test]
fn names_of_every_kind_come_back() {
    let names = ["", "a\"b", "back\\slash", "tab\there", "ünïcode", "a b", "{", "zero\0"];
    let mut sorted = names;
    sorted.sort_unstable();
    let mut handle = Handle::on(&[]);
    for name in names {
        handle.set(name, "1");
    }
    let written = Values::of_values(handle.changes.effect().merged(&handle.record.values));
    let found: Vec<_> = written.iter().map(|pair| String::from_utf8(pair.key.to_vec()).unwrap()).collect();
    assert_eq!(found, sorted);
    for name in names {
        assert_eq!(written.get(name), Some(json("1")), "{name:?}");
    }
    assert!(check_value_key(&"k".repeat(256)).is_ok());
    assert!(matches!(check_value_key(&"k".repeat(257)), Err(SessionError::KeyTooLong { length: 257 })));
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes: Vec<u8>) {
        let _ = decode(&bytes.into(), &key(1), LIMIT);
    }

    /// Values that stay are copied as they stand, so they go through a second and a third record, blanks of others with them.
    #[test]
    fn values_that_stay_are_the_same(
        map in proptest::collection::btree_map(".{0,6}", ".{0,9}", 0..40),
        changes in proptest::collection::vec((".{0,6}", proptest::option::of(".{0,9}")), 0..6),
        blanks: bool,
    ) {
        let json = |text: &String| Bytes::from(serde_json::to_string(text).unwrap());
        let mut model: std::collections::BTreeMap<_, _> = map.iter().map(|(k, v)| (k.clone(), json(v))).collect();
        let written: Vec<_> = model.iter().map(|(k, v)| (&**k, std::str::from_utf8(v).unwrap())).collect();
        let mut bytes = text(&key(1), &head(), &written);
        if blanks {
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            bytes = serde_json::to_string_pretty(&value).unwrap().into();
        }
        for changes in [&changes[..], &[]] {
            let record = live(&bytes);
            let mut list = Changes::default();
            for (name, value) in changes {
                match value {
                    Some(value) => {
                        list.set(name, Some(json(value)));
                        model.insert(name.clone(), json(value));
                    }
                    None => {
                        list.set(name, None);
                        model.remove(name);
                    }
                }
            }
            let again = encode(&key(1), &record.head, Some(&record), list.effect().merged(&record.values), LIMIT).unwrap();
            let expected: Vec<_> =
                model.iter().map(|(k, v)| (k.clone(), String::from_utf8(v.to_vec()).unwrap())).collect();
            prop_assert_eq!(pairs(&again.values), expected.clone());
            bytes = again.values.text().clone();
            prop_assert_eq!(pairs(&live(&bytes).values), expected);
        }
    }
}
