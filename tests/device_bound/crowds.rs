//! Many tabs and several processes refresh one session at the same time.
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cloakroom::{Cache, CacheError, Deleted, Entry, Expiry, InMemoryCache, Replaced, Version, testing::TestCache};

use super::{
    app::{App, MINUTE},
    device::{Device, Refreshed},
};
use crate::support::caches::on_every_cache;

const TABS: usize = 20;

on_every_cache! {
    twenty_tabs_refresh_at_once_and_lose_nothing,
    of_one_proof_sent_twenty_times_one_is_accepted,
    of_twenty_registrations_with_one_challenge_one_is_accepted,
}

/// Two processes, whose requests take turns at each operation of the cache.
fn processes<C: Cache + Clone>(cache: C) -> [App<TestCache<C>>; 2] {
    let cache = TestCache::new(cache);
    cache.yield_always(true);
    let one = App::new(&cache);
    let other = App::with(&cache, one.clock.clone(), cloakroom::DeviceBound::new(super::app::PATH));
    [one, other]
}

/// Runs `work` in as many tasks as there are tabs, with the processes in turn.
async fn in_tabs<C, F, Fut, T>(processes: &[App<C>; 2], device: &Arc<Device>, work: F) -> Vec<T>
where
    C: Cache + Clone,
    F: Fn(App<C>, App<C>, Arc<Device>) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let tabs: Vec<_> = (0..TABS)
        .map(|tab| {
            let (one, other) = (processes[tab % 2].clone(), processes[(tab + 1) % 2].clone());
            tokio::spawn(work(one, other, Arc::clone(device)))
        })
        .collect();
    let mut results = Vec::new();
    for tab in tabs {
        results.push(tab.await.unwrap());
    }
    results
}

async fn twenty_tabs_refresh_at_once_and_lose_nothing<C: Cache + Clone>(cache: C) {
    let processes = processes(cache);
    let device = Arc::new(Device::new());
    device.bind(&processes[0]).await;
    processes[0].clock.advance(8 * MINUTE);
    // Each of them on its own, which is worse than what a browser does: that refreshes once for all its tabs.
    let results = in_tabs(&processes, &device, |one, other, device| async move {
        let mut added = device.get(&one, "/add").await.status();
        while added == 401 {
            // The cookie in the jar is older than those that are kept: the request is held until there is a new one.
            device.refresh_at(&[&one, &other]).await;
            added = device.get(&one, "/add").await.status();
        }
        (added.as_u16(), device.refresh_at(&[&one, &other]).await)
    })
    .await;
    let done = results.iter().filter(|(_, refreshed)| *refreshed == Refreshed::Done).count();
    assert!(results.iter().all(|(added, _)| *added == 200), "{results:?}");
    assert!(results.iter().all(|(_, refreshed)| *refreshed != Refreshed::Ended), "{results:?}");
    assert!(done > 0, "{results:?}");
    if device.page(&processes[1]).await != format!("alice bound {TABS}") {
        // The last cookie of the jar may be an older one than those that are kept: it is removed, and the browser refreshes.
        assert_eq!(device.refresh(&processes[0]).await, Refreshed::Done);
    }
    assert_eq!(device.page(&processes[1]).await, format!("alice bound {TABS}"));
}

async fn of_one_proof_sent_twenty_times_one_is_accepted<C: Cache + Clone>(cache: C) {
    let processes = processes(cache);
    let device = Arc::new(Device::new());
    device.bind(&processes[0]).await;
    let proof = device.proof(&device.ask(&processes[0]).await);
    let statuses = in_tabs(&processes, &device, move |one, _, device| {
        let proof = proof.clone();
        async move { device.send_refresh(&one, Some(&proof)).await.status().as_u16() }
    })
    .await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
}

async fn of_twenty_registrations_with_one_challenge_one_is_accepted<C: Cache + Clone>(cache: C) {
    let processes = processes(cache);
    let device = Arc::new(Device::new());
    let challenge = device.log_in(&processes[0]).await;
    let statuses = in_tabs(&processes, &device, move |one, _, device| {
        let challenge = challenge.clone();
        async move {
            // Each with a key of its own.
            let other = device.thief();
            other.send_registration(&one, &other.registration(&challenge)).await.status().as_u16()
        }
    })
    .await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
}

/// A cache that keeps what it read first, as a near cache does until it hears of a change.
#[derive(Clone)]
struct Near {
    inner: InMemoryCache,
    kept: Arc<Mutex<Option<(String, Entry)>>>,
}

impl Cache for Near {
    async fn get(&self, key: &str) -> Result<Option<Entry>, CacheError> {
        if let Some((kept, entry)) = &*self.kept.lock().unwrap()
            && kept == key
        {
            return Ok(Some(entry.clone()));
        }
        let found = self.inner.get(key).await?;
        *self.kept.lock().unwrap() = found.clone().map(|entry| (key.to_owned(), entry));
        Ok(found)
    }

    async fn get_and_touch(&self, key: &str, after: Duration) -> Result<Option<Entry>, CacheError> {
        self.inner.get_and_touch(key, after).await
    }

    async fn insert(&self, key: &str, entry: Entry, expiry: Expiry) -> Result<bool, CacheError> {
        self.inner.insert(key, entry, expiry).await
    }

    async fn replace(
        &self,
        key: &str,
        expected: Version,
        entry: Entry,
        expiry: Expiry,
    ) -> Result<Replaced, CacheError> {
        self.inner.replace(key, expected, entry, expiry).await
    }

    async fn touch(&self, key: &str) -> Result<bool, CacheError> {
        self.inner.touch(key).await
    }

    async fn delete(&self, key: &str, expected: Version) -> Result<Deleted, CacheError> {
        self.inner.delete(key, expected).await
    }
}

/// The browser registers and refreshes at one process, and its next request reaches another, which has not heard of it.
#[tokio::test]
async fn what_a_near_cache_keeps_ends_no_binding_and_refuses_no_cookie() {
    let inner = InMemoryCache::new();
    let one = App::new(&inner);
    let near = Near { inner, kept: Arc::default() };
    let other = App::with(&near, one.clock.clone(), cloakroom::DeviceBound::new(super::app::PATH));
    let device = Device::new();
    let challenge = device.log_in(&one).await;
    assert_eq!(device.page(&other).await, "alice unbound 0");
    device.register(&one, &challenge).await;
    assert_eq!(device.refresh(&other).await, Refreshed::Done);

    one.clock.advance(MINUTE);
    *near.kept.lock().unwrap() = None;
    assert_eq!(device.page(&other).await, "alice bound 0");
    device.drop_cookie("__Host-id-bound");
    assert_eq!(device.refresh(&one).await, Refreshed::Done);
    assert_eq!(device.get(&other, "/add").await.status(), 200);
    assert_eq!(device.page(&one).await, "alice bound 1");
    assert_eq!(device.refresh(&other).await, Refreshed::Done);
}
