use bytes::Bytes;

use super::*;

mod bounds;
mod lists;

const HOUR: Duration = Duration::from_secs(3600);

fn cache(max_entries: usize, max_bytes: usize) -> (InMemoryCache, Clock) {
    let clock = Clock::manual();
    let cache = InMemoryCache::builder().max_entries(max_entries).max_bytes(max_bytes).clock(clock.clone()).build();
    (cache, clock)
}

/// Writes under a version that is drawn here.
impl InMemoryCache {
    async fn put(&self, key: &str, value: Bytes, expiry: Expiry) -> Result<Option<Version>, CacheError> {
        let version = Version::unique();
        Ok(self.insert(key, Entry::new(value, version), expiry).await?.then_some(version))
    }

    async fn put_over(
        &self,
        key: &str,
        expected: Version,
        value: Bytes,
        expiry: Expiry,
    ) -> Result<Result<Version, Replaced>, CacheError> {
        let version = Version::unique();
        Ok(match self.replace(key, expected, Entry::new(value, version), expiry).await? {
            Replaced::Done => Ok(version),
            other => Err(other),
        })
    }
}

fn within(clock: &Clock, idle: Duration) -> Expiry {
    Expiry { idle, end: clock.now() + 24 * HOUR }
}

async fn fill(cache: &InMemoryCache, clock: &Clock, keys: std::ops::Range<usize>) {
    for n in keys {
        assert!(
            cache.put(&format!("key {n}"), Bytes::from_static(b"value"), within(clock, HOUR)).await.unwrap().is_some()
        );
    }
}

fn queued(cache: &InMemoryCache) -> usize {
    cache.shards.iter().map(|shard| shard.sizes().1).sum()
}

fn slots(cache: &InMemoryCache) -> usize {
    cache.shards.iter().map(|shard| shard.sizes().0).sum()
}

fn room(cache: &InMemoryCache) -> usize {
    cache.shards.iter().map(Shard::capacity).sum()
}

#[tokio::test]
async fn full_of_live_entries_it_refuses_new_ones_and_keeps_the_old() {
    let (cache, clock) = cache(100, usize::MAX);
    fill(&cache, &clock, 0..100).await;
    let error = cache.put("one more", Bytes::new(), within(&clock, HOUR)).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Full);
    assert_eq!(cache.len(), 100);
    for n in 0..100 {
        assert!(cache.get(&format!("key {n}")).await.unwrap().is_some());
    }
    clock.advance(HOUR);
    fill(&cache, &clock, 100..200).await;
    assert_eq!(cache.len(), 100);
}

#[tokio::test]
async fn an_insert_that_needs_room_does_not_remove_all_that_has_ended() {
    let (cache, clock) = cache(50_000, usize::MAX);
    fill(&cache, &clock, 0..50_000).await;
    clock.advance(HOUR);
    fill(&cache, &clock, 50_000..50_001).await;
    let left = cache.shards.usage.entries();
    assert!(left > 49_800, "{left}: one insert took out all of them");
    fill(&cache, &clock, 50_001..90_000).await;
    assert_eq!(cache.len(), 40_000);
}

#[tokio::test]
async fn bytes_are_bounded_also_when_a_value_grows() {
    let (cache, clock) = cache(100, 1000);
    let version = cache.put("a", Bytes::from(vec![0; 300]), within(&clock, HOUR)).await.unwrap().unwrap();
    let error = cache.put("b", Bytes::from(vec![0; 600]), within(&clock, HOUR)).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Full);
    let error = cache.put_over("a", version, Bytes::from(vec![0; 900]), within(&clock, HOUR)).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Full);
    assert_eq!(cache.get("a").await.unwrap().unwrap().value.len(), 300);
    let version = cache.put_over("a", version, Bytes::new(), within(&clock, HOUR)).await.unwrap().unwrap();
    assert!(cache.put("b", Bytes::from(vec![0; 500]), within(&clock, HOUR)).await.unwrap().is_some());
    assert_eq!(cache.delete("a", version).await.unwrap(), Deleted::Done);
    clock.advance(HOUR);
    assert_eq!((cache.len(), cache.bytes()), (0, 0));
}

#[tokio::test]
async fn ended_entries_leave_without_being_read() {
    let (cache, clock) = cache(100_000, usize::MAX);
    fill(&cache, &clock, 0..20_000).await;
    clock.advance(HOUR);
    for n in 0..40_000 {
        assert!(cache.get(&format!("other {n}")).await.unwrap().is_none());
    }
    assert_eq!(cache.shards.usage.entries(), 0);
    assert_eq!(cache.bytes(), 0);
}

#[tokio::test]
async fn a_touched_entry_outlives_its_first_deadline() {
    let (cache, clock) = cache(1000, usize::MAX);
    fill(&cache, &clock, 0..10).await;
    clock.advance(HOUR / 2);
    assert!(cache.touch("key 3").await.unwrap());
    clock.advance(HOUR / 2);
    assert_eq!(cache.len(), 1);
    assert!(cache.get("key 3").await.unwrap().is_some());
    clock.advance(HOUR / 2);
    assert_eq!(cache.len(), 0);
}

#[tokio::test]
async fn a_shorter_expiry_takes_effect_without_a_read() {
    let (cache, clock) = cache(1000, usize::MAX);
    let version = cache.put("a", Bytes::new(), within(&clock, HOUR)).await.unwrap().unwrap();
    cache.put_over("a", version, Bytes::new(), within(&clock, HOUR / 4)).await.unwrap().unwrap();
    clock.advance(HOUR / 4);
    assert_eq!(cache.len(), 0);
}

#[tokio::test]
async fn churn_does_not_pile_up_in_the_queue() {
    let (cache, clock) = cache(1000, usize::MAX);
    for n in 0..50_000_u64 {
        let key = format!("key {}", n % 7);
        let version = cache.put(&key, Bytes::new(), within(&clock, HOUR)).await.unwrap().unwrap();
        let idle = HOUR - Duration::from_millis(n % 1000);
        let version = cache.put_over(&key, version, Bytes::new(), within(&clock, idle)).await.unwrap().unwrap();
        assert_eq!(cache.delete(&key, version).await.unwrap(), Deleted::Done);
    }
    assert!(queued(&cache) <= cache.shards.iter().count() * 64, "{}", queued(&cache));
}

#[tokio::test]
async fn turning_the_clock_back_brings_nothing_back() {
    let (cache, clock) = cache(1000, usize::MAX);
    fill(&cache, &clock, 0..1).await;
    clock.advance(HOUR);
    assert!(cache.get("key 0").await.unwrap().is_none());
    clock.rewind(HOUR);
    assert!(cache.get("key 0").await.unwrap().is_none());
    clock.advance(Duration::MAX);
    assert!(cache.put("late", Bytes::new(), Expiry { idle: HOUR, end: clock.now() }).await.unwrap().is_some());
    assert!(cache.get("late").await.unwrap().is_none());
}

#[test]
fn threads_that_compare_and_set_lose_nothing() {
    let cache = InMemoryCache::new();
    let expiry = Expiry { idle: HOUR, end: SystemTime::now() + HOUR };
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime().block_on(cache.put("n", Bytes::from_static(b"0"), expiry)).unwrap().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                runtime().block_on(async {
                    for _ in 0..500 {
                        let mut found = cache.get("n").await.unwrap().unwrap();
                        loop {
                            let n: u32 = str::from_utf8(&found.value).unwrap().parse().unwrap();
                            match cache.put_over("n", found.version, (n + 1).to_string().into(), expiry).await.unwrap()
                            {
                                Ok(_) => break,
                                Err(Replaced::Conflict(newer)) => found = newer,
                                Err(other) => panic!("the entry was deleted: {other:?}"),
                            }
                        }
                    }
                });
            });
        }
    });
    assert_eq!(runtime().block_on(cache.get("n")).unwrap().unwrap().value, "4000");
}

#[test]
fn debug_shows_counts_alone() {
    assert_eq!(format!("{:?}", InMemoryCache::new()), "InMemoryCache { entries: 0, bytes: 0, .. }");
}

#[test]
fn every_cache_hashes_with_a_key_of_its_own() {
    let hash = || Shards::new(1, 1, Clock::system()).query("cloakroom:key").hash;
    let first = hash();
    assert!((0..8).all(|_| hash() != first));
}
