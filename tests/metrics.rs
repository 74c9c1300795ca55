//! Every event is counted, once each time it happens.
#![cfg(all(feature = "metrics", feature = "testing"))]
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use cloakroom::{
    CacheErrorKind, InMemoryCache, SessionLayer, SessionStore,
    testing::{Operation, TestCache},
};
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

#[path = "common/web.rs"]
mod web;

use web::{send, start};

#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

struct One(Counts, String);

impl CounterFn for One {
    fn increment(&self, value: u64) {
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }
    fn absolute(&self, _: u64) {}
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        assert_eq!(key.name(), "cloakroom_events_total");
        let event = key.labels().next().unwrap().value().to_owned();
        Counter::from_arc(Arc::new(One(self.clone(), event)))
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn every_event_is_counted() {
    let counts = Counts::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&counts, || {
        runtime.block_on(async {
            let cache = TestCache::new(InMemoryCache::new());
            let store = SessionStore::new(cache.clone());
            let layer = SessionLayer::new(store.clone());
            let cookie = start(&layer, "alice").await;
            let renewed = send(&layer, Some(&cookie), |session| async move {
                session.renew();
                200
            })
            .await
            .cookie()
            .unwrap();
            let other = store.clone();
            send(&layer, Some(&renewed), move |session| {
                let other = other.clone();
                async move {
                    session.set("n", 5).unwrap();
                    other.revoke_all("alice").await.unwrap();
                    200
                }
            })
            .await;
            for _ in 0..1000 {
                send(&layer, Some("__Host-id=malformed"), |_| async { 200 }).await;
            }
            cache.fail_once(Operation::Get, CacheErrorKind::Timeout);
            send(&layer, Some(&renewed), |_| async { 200 }).await;
        });
    });
    let counts = counts.0.lock().unwrap().clone();
    let expected = [
        ("cache_timeout", 1),
        ("created", 1),
        ("destroyed", 1),
        ("gone", 1),
        ("malformed_cookie", 1000),
        ("renewed", 1),
    ];
    assert_eq!(counts, expected.map(|(event, count)| (event.to_owned(), count)).into());
}
