//! Every accepted value comes back as it was, and two different values are never taken for one.
use std::collections::BTreeMap;

use cloakroom::{Cache, Session, SessionError, testing::Operation};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use serde_json::value::RawValue;

use crate::{commits::stage::Stage, support::caches::on_every_cache};

on_every_cache! {
    a_session_of_the_largest_size_can_be_renewed,
    floats_come_back_as_they_were,
    negative_zero_is_another_value_than_zero,
    numbers_in_raw_json_come_back_as_they_were,
    the_same_value_is_not_written_and_another_one_is,
}

async fn a_session_of_the_largest_size_can_be_renewed(cache: impl Cache) {
    let stage = Stage::with(cache, |store| store.max_bytes(2000)).await;
    let full = stage.stored().await;
    full.set_owner("o".repeat(256)).unwrap();
    full.set_ttl(std::time::Duration::from_secs(1_000_000)).unwrap();
    full.set_lifetime(std::time::Duration::from_secs(30_000_000)).unwrap();
    full.set_persistent(true).unwrap();
    let mut length = 2000;
    loop {
        let fits = full.set("v", "\u{e9}".repeat(length / 2)).is_ok() && full.commit().await.is_ok();
        if fits {
            break;
        }
        length -= 1;
    }
    assert!(length > 1900, "{length}");
    let mut cookie = stage.cookie.clone();
    type Act = fn(&Session) -> Result<(), SessionError>;
    let acts: [Act; 4] = [
        |session| {
            session.renew();
            Ok(())
        },
        |session| session.log_in("o".repeat(256)),
        Session::reauthenticated,
        |session| session.set_owner("\"".repeat(256)),
    ];
    for (number, act) in acts.into_iter().enumerate() {
        let reply = crate::support::web::send(&stage.layer, Some(&cookie), move |session| {
            act(&session).unwrap();
            async { 200 }
        })
        .await;
        assert_eq!(reply.status, 200, "{number}");
        cookie = reply.cookie().unwrap_or(cookie);
        let stored = stage.by(&cookie).await.unwrap();
        assert_eq!(stored.get::<String>("v").unwrap().len(), length / 2 * 2);
    }
}

fn finite() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        -180.0..180.0_f64,
        (-1_800_000_000..1_800_000_000_i64).prop_map(|e7| e7 as f64 / 1e7),
        Just(-0.0),
        Just(f64::MIN_POSITIVE),
        Just(5e-324),
        Just(f64::MAX),
        Just(1e23),
    ]
    .prop_filter("JSON has no others", |float| float.is_finite())
}

/// Random floats, alone and in a list, through requests of one session.
async fn floats_come_back_as_they_were(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let mut runner = TestRunner::new(Config::default());
    for _ in 0..40 {
        let floats = prop::collection::vec(finite(), 100).new_tree(&mut runner).unwrap().current();
        let singles: Vec<f32> = floats.iter().map(|float| *float as f32).filter(|float| float.is_finite()).collect();
        let reply = stage.request(|session| {
            session.set("list", &floats).unwrap();
            session.set("singles", &singles).unwrap();
            for (number, float) in floats.iter().enumerate() {
                session.set(format!("float {number}"), float).unwrap();
            }
            async { 200 }
        });
        assert_eq!(reply.await.status, 200);
        let stored = stage.stored().await;
        let bits = |floats: &[f64]| floats.iter().map(|float| float.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&stored.get::<Vec<f64>>("list").unwrap()), bits(&floats));
        let back: Vec<f32> = stored.get("singles").unwrap();
        assert!(back.iter().zip(&singles).all(|(a, b)| a.to_bits() == b.to_bits()) && back.len() == singles.len());
        for (number, float) in floats.iter().enumerate() {
            let back: f64 = stored.get(format!("float {number}")).unwrap();
            assert_eq!(back.to_bits(), float.to_bits(), "{float:e}");
        }
    }
}

async fn negative_zero_is_another_value_than_zero(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    for zero in [0.0_f64, -0.0, 0.0, -0.0] {
        let reply = stage.request(|session| {
            session.set("zero", zero).unwrap();
            session.set("in a list", [1.0, zero]).unwrap();
            async { 200 }
        });
        assert_eq!(reply.await.status, 200);
        let stored = stage.stored().await;
        assert_eq!(stored.get::<f64>("zero").unwrap().to_bits(), zero.to_bits());
        assert_eq!(stored.get::<[f64; 2]>("in a list").unwrap()[1].to_bits(), zero.to_bits());
    }
}

/// Each differs from the one before it, some of them only where a float of 64 bits cannot tell.
const RAW: [&str; 9] = [
    "9007199254740993",
    "9007199254740992",
    "36893488147419103233",
    "36893488147419103232",
    "0.1000000000000000055511151231257827",
    "0.1000000000000000055511151231257828",
    "1e999",
    "2e999",
    "-0",
];

async fn numbers_in_raw_json_come_back_as_they_were(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    for number in RAW {
        for text in [number.to_owned(), format!("[{number}]"), format!(r#"{{"deep":[1,{{"number":{number}}}]}}"#)] {
            let raw = RawValue::from_string(text.clone()).unwrap();
            let reply = stage.request(|session| {
                session.set("raw", &raw).unwrap();
                async { 200 }
            });
            assert_eq!(reply.await.status, 200);
            let back: Box<RawValue> = stage.stored().await.get("raw").unwrap();
            assert_eq!(back.get(), text);
        }
    }
    // Of the same shape and length, so that only the number tells them apart.
    for pair in RAW.windows(2) {
        for number in [pair[0], pair[1]] {
            let text = format!(r#"{{"deep":[1,{{"number":{number}}}]}}"#);
            let raw = RawValue::from_string(text.clone()).unwrap();
            stage.elsewhere(|session| session.set("raw", &raw).unwrap()).await;
            assert_eq!(stage.stored().await.get::<Box<RawValue>>("raw").unwrap().get(), text);
        }
    }
}

async fn the_same_value_is_not_written_and_another_one_is(cache: impl Cache) {
    let stage = Stage::new(cache).await;
    let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
    let writes = async |value: Box<RawValue>| {
        stage.cache.reset_calls();
        let reply = stage.request(|session| {
            session.set("value", &value).unwrap();
            async { 200 }
        });
        assert_eq!(reply.await.status, 200);
        stage.cache.calls().of(Operation::Replace)
    };
    for (first, second, is_same) in [
        (r#"{"a":1,"b":[2]}"#, r#"{"a":1,"b":[2]}"#, true),
        (r#"{"a":1,"b":[2]}"#, r#"{"b":[2],"a":1}"#, true),
        (r#"{"a":1,"b":[2]}"#, r#"{"a":1,"b":[3]}"#, false),
        (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#, false),
        ("[1,2]", "[2,1]", false),
        ("[1.0]", "[100]", false),
        ("9007199254740993", "9007199254740992", false),
        ("18446744073709551616", "18446744073709551617", false),
        ("1e999", "2e999", false),
        ("[0.0]", "[-0.0]", false),
    ] {
        writes(raw(first)).await;
        assert_eq!(writes(raw(second)).await, usize::from(!is_same), "{first} {second}");
    }
    // Two equal maps whose order of iteration differs.
    let one: BTreeMap<String, u64> = (0..50).map(|number| (number.to_string(), number)).collect();
    let text = one.iter().rev().map(|(key, value)| format!("\"{key}\":{value}")).collect::<Vec<_>>().join(",");
    writes(raw(&serde_json::to_string(&one).unwrap())).await;
    assert_eq!(writes(raw(&format!("{{{text}}}"))).await, 0);
}
