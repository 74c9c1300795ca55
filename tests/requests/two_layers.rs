//! Two layers on the same sessions under different cookie names are reported once for each, and nothing else is.
use std::sync::{Arc, Mutex};

use cloakroom::{InMemoryCache, SessionLayer, SessionStore};
use tracing_subscriber::{layer::Context, prelude::*};

/// The fields of every `two_cookie_names`.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{}={value:?} ", field.name()));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        if text.0.contains("two_cookie_names") {
            self.0.lock().unwrap().push(text.0);
        }
    }
}

fn lines(build: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines.clone()), build);
    lines.0.lock().unwrap().clone()
}

fn layer(store: &SessionStore<InMemoryCache>, name: &str) -> SessionLayer<InMemoryCache> {
    SessionLayer::builder(store.clone()).cookie_name(name).build().unwrap()
}

#[test]
fn another_name_on_clones_of_a_store_is_reported() {
    let found = lines(|| {
        let store = SessionStore::new(InMemoryCache::new());
        layer(&store, "__Host-shop");
        layer(&store, "__Host-shop");
        layer(&store.clone().ttl(std::time::Duration::from_secs(60)), "__Host-admin");
    });
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("cookie=\"__Host-admin\"") && found[0].contains("other=\"__Host-shop\""), "{found:?}");
}

#[test]
fn another_prefix_or_another_store_is_not() {
    let found = lines(|| {
        let store = SessionStore::new(InMemoryCache::new());
        layer(&store, "__Host-shop");
        layer(&store.clone().key_prefix("admin:"), "__Host-admin");
        layer(&SessionStore::new(InMemoryCache::new()), "__Host-third");
        drop(SessionLayer::new(SessionStore::new(InMemoryCache::new())));
    });
    assert_eq!(found, [] as [String; 0]);
}
