//! What is logged and counted of entries that cannot be decrypted, and of plain text that was accepted.
use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use super::*;
use crate::support::log::Log;

impl Log {
    /// Reads until the event is among those that are not left out: other tests cause the same one.
    async fn reads_until(&self, cache: &Memory, name: &str, parts: &[&str]) {
        let began = Instant::now();
        while !self.text().lines().any(|line| parts.iter().all(|part| line.contains(part))) {
            assert!(began.elapsed() < Duration::from_secs(60), "no {parts:?}: {}", self.text());
            get(cache, name).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn what_an_operator_needs_is_logged_and_no_secret() {
    let (log, _recording) = Log::record();
    let (cache, inside) = memory(&[1]);
    put(&around(&inside, &[7]), "the-key-of-7", "canary").await;
    put(&inside, "the-key-of-plain", "canary").await;
    let id = format!("{:?}", key(7)).chars().filter(char::is_ascii_hexdigit).rev().take(8).collect::<Vec<_>>();
    let id: String = id.into_iter().rev().collect();
    log.reads_until(&cache, "the-key-of-7", &["WARN", "not among the keys", &format!("key_id={id}")]).await;
    log.reads_until(&cache, "the-key-of-plain", &["WARN", "it is not encrypted"]).await;
    log.reads_until(&cache.accept_plaintext(), "the-key-of-plain", &["WARN", "accept_plaintext"]).await;
    let text = log.text();
    assert!(!text.contains("canary") && !text.contains("the-key-of"), "{text}");
}

#[cfg(feature = "metrics")]
mod counted {
    use std::collections::BTreeMap;

    use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::*;

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
            Counter::from_arc(Arc::new(One(self.clone(), key.labels().next().unwrap().value().to_owned())))
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn each_one_is_counted() {
        let counts = Counts::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        metrics::with_local_recorder(&counts, || {
            runtime.block_on(async {
                let (cache, inside) = memory(&[1]);
                put(&inside, "plain", "text").await;
                put(&cache, "encrypted", "text").await;
                for _ in 0..3 {
                    get(&cache, "plain").await.unwrap();
                    get(&cache, "encrypted").await.unwrap();
                }
                let cache = cache.accept_plaintext();
                for _ in 0..2 {
                    get(&cache, "plain").await.unwrap();
                    get(&cache, "encrypted").await.unwrap();
                }
            });
        });
        let counts = counts.0.lock().unwrap().clone();
        assert_eq!(counts, [("plaintext_entry".to_owned(), 2), ("undecryptable_entry".to_owned(), 3)].into());
    }
}
