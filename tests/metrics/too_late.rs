//! Calls that return no error and come after the response's commit: they do nothing, at error level and counted.
use std::sync::{Arc, Mutex};

use cloakroom::{InMemoryCache, Session, SessionStore};
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use crate::support::{
    log::Log,
    web::{layer, peek, send, start},
};

/// How often the event `closed` was counted.
#[derive(Clone, Default)]
struct Closed(Arc<Mutex<u64>>);

impl CounterFn for Closed {
    fn increment(&self, value: u64) {
        *self.0.lock().unwrap() += value;
    }
    fn absolute(&self, _: u64) {}
}

impl Recorder for Closed {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let closed = key.labels().any(|label| (label.key(), label.value()) == ("event", "closed"));
        if closed { Counter::from_arc(Arc::new(self.clone())) } else { Counter::noop() }
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

async fn calls_after_the_response(closed: &Closed) {
    let layer = layer(&SessionStore::new(InMemoryCache::new()));
    let cookie = start(&layer, "alice").await;
    let kept = Arc::new(Mutex::new(None));
    let into = kept.clone();
    let reply = send(&layer, Some(&cookie), move |session| {
        *into.lock().unwrap() = Some(session);
        async { 200 }
    });
    assert_eq!(reply.await.status, 200);
    let session = kept.lock().unwrap().take().unwrap();
    // The logout comes first: lines of one kind are limited to one a second.
    let calls: [fn(&Session); 5] =
        [Session::destroy, Session::renew, Session::clear, Session::touch, |session| drop(session.remove("n"))];
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(*closed.0.lock().unwrap(), number as u64);
        call(&session);
    }
    assert_eq!(peek(&layer, &cookie, "n").await, Some(0), "the session lives, as it was");
    // In time there is nothing to report.
    send(&layer, Some(&cookie), |session| {
        session.clear();
        session.touch();
        session.renew();
        session.destroy();
        async { 200 }
    })
    .await;
    assert_eq!(peek(&layer, &cookie, "n").await, None);
}

#[test]
fn a_call_that_comes_too_late_is_an_error_in_the_log_and_counted() {
    let closed = Closed::default();
    let (log, _recording) = Log::record();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&closed, || runtime.block_on(calls_after_the_response(&closed)));
    assert_eq!(*closed.0.lock().unwrap(), 5);
    let lines = log.lines("event=\"closed\"");
    assert!(lines[0].contains("ERROR cloakroom:") && lines[0].contains("call=\"destroy\""), "{lines:?}");
}
