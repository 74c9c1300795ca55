use super::*;

fn values(pairs: &[(&str, &str)]) -> Arc<Values> {
    let mut pairs = pairs.to_vec();
    pairs.sort_unstable();
    Arc::new(snapshot(pairs.iter().map(|(key, json)| (key.as_bytes(), json.as_bytes()).into())))
}

fn json(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn list<'a>(pairs: impl Iterator<Item = Pair<'a>>) -> String {
    let text = |pair: Pair<'_>| format!("{}={}", String::from_utf8_lossy(pair.key), String::from_utf8_lossy(pair.json));
    pairs.map(text).collect::<Vec<_>>().join(" ")
}

/// Adds `by` to the number that is there.
fn add(data: &mut Data, key: &str, by: i64) {
    let step = move |old: Option<&[u8]>| {
        let old: i64 = old.map_or(Ok(0), json::decode)?;
        json::encode(&(old + by), 100)
    };
    let seen = data.get(key);
    let now = step(seen.as_deref()).unwrap();
    assert!(data.update(key, seen.as_ref(), now, || Step::new(step)));
}

/// What is stored after `this` ran on `base` and was replayed on `newest`.
fn replay(base: &[(&str, &str)], this: impl FnOnce(&mut Data), newest: &[(&str, &str)]) -> String {
    let mut data = Data::new(values(base));
    this(&mut data);
    let (_, mut changes) = data.take_changes(Arc::default());
    let newest = values(newest);
    changes.rebase(&newest).unwrap();
    list(changes.merged(&newest))
}

#[test]
fn the_table_of_replays() {
    type This = fn(&mut Data);
    let base = [("k", "1"), ("other", "0")];
    let set: This = |data| data.set("k", json("10"));
    let update: This = |data| add(data, "k", 10);
    let remove: This = |data| drop(data.remove("k"));
    let clear: This = |data| data.clear();
    let clear_and_set: This = |data| {
        data.clear();
        data.set("mine", json("7"));
    };
    let nothing: This = |_| ();
    let others: [&[(&str, &str)]; 3] = [&[("k", "5"), ("other", "0"), ("new", "9")], &[("other", "0")], &[]];
    let table: [(&str, This, [&str; 3]); 6] = [
        ("set", set, ["k=10 new=9 other=0", "k=10 other=0", "k=10"]),
        ("update", update, ["k=15 new=9 other=0", "k=10 other=0", "k=10"]),
        ("remove", remove, ["new=9 other=0", "other=0", ""]),
        ("clear", clear, ["", "", ""]),
        ("clear and set", clear_and_set, ["mine=7", "mine=7", "mine=7"]),
        ("nothing", nothing, ["k=5 new=9 other=0", "other=0", ""]),
    ];
    for (name, this, outcomes) in table {
        for (newest, outcome) in others.iter().zip(outcomes) {
            assert_eq!(replay(&base, this, newest), outcome, "{name} on {newest:?}");
        }
    }
}

#[test]
fn updates_after_this_requests_own_changes_build_on_those() {
    let newest = [("k", "100")];
    let after_set = |data: &mut Data| {
        data.set("k", json("1"));
        add(data, "k", 1);
    };
    assert_eq!(replay(&[("k", "5")], after_set, &newest), "k=2");
    let after_remove = |data: &mut Data| {
        data.remove("k");
        add(data, "k", 1);
    };
    assert_eq!(replay(&[("k", "5")], after_remove, &newest), "k=1");
    let after_clear = |data: &mut Data| {
        data.clear();
        add(data, "k", 1);
    };
    assert_eq!(replay(&[("k", "5")], after_clear, &newest), "k=1");
    let twice = |data: &mut Data| {
        add(data, "k", 1);
        add(data, "k", 2);
    };
    assert_eq!(replay(&[("k", "5")], twice, &newest), "k=103");
}

#[test]
fn what_changes_nothing_leaves_nothing_to_write() {
    let mut data = Data::new(values(&[("k", "1"), ("map", r#"{"a":1,"b":2}"#)]));
    data.set("k", json("1"));
    data.set("map", json(r#"{"b":2,"a":1}"#));
    add(&mut data, "k", 0);
    assert!(!data.is_dirty());
    data.set("new", json("1"));
    data.remove("new");
    assert!(data.remove("never").is_none());
    assert!(!data.is_dirty());
    data.set("k", json("2"));
    assert!(data.is_dirty());
    data.set("k", json("1"));
    assert!(!data.is_dirty());
    let mut empty = Data::default();
    empty.clear();
    assert!(!empty.is_dirty());
    empty.set("a", json("1"));
    empty.clear();
    assert!(!empty.is_dirty());
}

#[test]
fn the_view_follows_the_changes() {
    let mut data = Data::new(values(&[("a", "1"), ("b", "2"), ("c", "3")]));
    data.set("d", json("4"));
    data.remove("b");
    assert_eq!(list(data.merged()), "a=1 c=3 d=4");
    assert_eq!((data.len(), data.contains("b"), data.contains("d")), (3, false, true));
    assert_eq!(data.get("a"), Some(json("1")));
    data.clear();
    assert_eq!((data.len(), data.get("a")), (0, None));
    data.set("z", json("1"));
    assert_eq!(list(data.merged()), "z=1");
}

#[test]
fn a_value_that_changed_under_an_update_is_not_overwritten() {
    let mut data = Data::new(values(&[("k", "1")]));
    let seen = data.get("k");
    data.set("k", json("2"));
    assert!(!data.update("k", seen.as_ref(), json("9"), || unreachable!()));
    assert_eq!(data.get("k"), Some(json("2")));
}

#[test]
fn a_failed_write_puts_its_changes_before_the_later_ones() {
    let mut data = Data::new(values(&[("k", "1"), ("gone", "1")]));
    add(&mut data, "k", 1);
    data.remove("gone");
    data.set("mine", json("1"));
    let draft = Arc::new(snapshot(data.merged()));
    let (base, changes) = data.take_changes(draft);
    assert_eq!(list(data.merged()), "k=2 mine=1");
    add(&mut data, "k", 10);
    add(&mut data, "mine", 10);
    data.set("gone", json("2"));
    data.restore(base, changes);
    assert_eq!(list(data.merged()), "gone=2 k=12 mine=11");
    let (_, mut changes) = data.take_changes(Arc::default());
    let newest = values(&[("k", "100")]);
    changes.rebase(&newest).unwrap();
    assert_eq!(list(changes.merged(&newest)), "gone=2 k=111 mine=11");
}

#[test]
fn tentative_data_records_what_seems_to_change_nothing() {
    let mut data = Data::tentative(values(&[("k", "1")]));
    data.set("k", json("1"));
    let (_, changes) = data.take_changes(Arc::default());
    assert_eq!(list(changes.merged(&Values::default())), "k=1");
}

#[test]
fn keys_of_every_kind_come_back() {
    let keys = ["", "a\"b", "back\\slash", "tab\there", "ünïcode", "a b", "{", "zero\0"];
    let mut sorted = keys;
    sorted.sort_unstable();
    let mut data = Data::default();
    for key in keys {
        data.set(key, json("1"));
    }
    let written = snapshot(data.merged());
    let found: Vec<_> = written.iter().map(|pair| String::from_utf8(pair.key.to_vec()).unwrap()).collect();
    assert_eq!(found, sorted);
    for key in keys {
        assert_eq!(written.get(key), Some(json("1")), "{key:?}");
    }
}

#[test]
fn long_keys_are_refused() {
    assert!(check_key(&"k".repeat(256)).is_ok());
    assert!(matches!(check_key(&"k".repeat(257)), Err(SessionError::KeyTooLong { length: 257 })));
}
