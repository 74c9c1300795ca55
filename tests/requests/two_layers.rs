//! Two layers on the same sessions under different cookie names are reported once for each, and nothing else is.
use cloakroom::{InMemoryCache, SessionLayer, SessionStore};

use crate::support::log::Log;

fn lines(build: impl FnOnce()) -> Vec<String> {
    let (log, _recording) = Log::record();
    build();
    log.lines("two_cookie_names")
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
