//! The bounds, also when threads race for the last room, and how ended entries are removed.
use super::*;
use crate::cache::memory::shard::OVERHEAD;

#[tokio::test]
async fn bytes_are_counted_exactly_and_what_has_ended_makes_room_to_grow() {
    let (cache, clock) = cache(100, 2 * (OVERHEAD + 11));
    let long = within(&clock, HOUR);
    let a = cache.put("a", "0123456789".into(), long).await.unwrap().unwrap();
    cache.put("b", "0123456789".into(), within(&clock, HOUR / 2)).await.unwrap().unwrap();
    let a = cache.put_over("a", a, "9876543210".into(), long).await.unwrap().unwrap();
    let refused = cache.put_over("a", a, "0123456789+".into(), long).await.unwrap_err();
    assert_eq!(refused.kind(), CacheErrorKind::Full);
    assert_eq!(cache.get("a").await.unwrap(), Some(Entry { value: "9876543210".into(), version: a }));
    assert_eq!(cache.bytes(), 2 * (OVERHEAD + 11));

    clock.advance(HOUR / 2);
    let a = cache.put_over("a", a, "0123456789+".into(), long).await.unwrap().unwrap();
    assert_eq!(cache.bytes(), OVERHEAD + 12);
    cache.put_over("a", a, "".into(), long).await.unwrap().unwrap();
    assert_eq!((cache.len(), cache.bytes()), (1, OVERHEAD + 1));
}

#[tokio::test]
async fn traffic_on_one_key_cleans_all_shards() {
    let (cache, clock) = cache(1_000_000, usize::MAX);
    fill(&cache, &clock, 0..20_000).await;
    cache.put("live", Bytes::new(), within(&clock, 4 * HOUR)).await.unwrap().unwrap();
    clock.advance(HOUR);
    assert_eq!(slots(&cache), 20_001);
    for _ in 0..20_000 {
        assert!(cache.get("live").await.unwrap().is_some());
    }
    assert_eq!((slots(&cache), queued(&cache)), (1, 1));
}

#[tokio::test]
async fn looking_for_room_ends_also_when_everything_was_touched() {
    let (cache, clock) = cache(30_000, usize::MAX);
    fill(&cache, &clock, 0..30_000).await;
    clock.advance(HOUR / 2);
    for n in 0..30_000 {
        assert!(cache.touch(&format!("key {n}")).await.unwrap());
    }
    clock.advance(HOUR / 2);
    let untouched = |cache: &InMemoryCache| cache.shards.iter().filter(|shard| shard.is_due(clock.now_ms())).count();
    let before = untouched(&cache);
    let error = cache.put("one more", Bytes::new(), within(&clock, HOUR)).await.unwrap_err();
    assert_eq!(error.kind(), CacheErrorKind::Full);
    assert!((1..before).contains(&untouched(&cache)), "it looked at some of them, but not at all");
    assert_eq!(cache.len(), 30_000);
}

#[tokio::test]
async fn looking_for_room_stops_as_soon_as_there_is_enough() {
    const MOST: usize = 20 << 20;
    let (cache, clock) = cache(100_000, MOST);
    fill(&cache, &clock, 0..50_000).await;
    clock.advance(HOUR);
    for _ in 0..1000 {
        assert!(cache.get("one more").await.unwrap().is_none(), "until its own shard has nothing left to drop");
    }
    let before = cache.shards.usage.entries();
    let large = vec![0; MOST - cache.bytes() - OVERHEAD];
    cache.put("one more", large.into(), within(&clock, HOUR)).await.unwrap().unwrap();
    let dropped = before + 1 - cache.shards.usage.entries();
    assert!((1..=128).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn a_crowd_that_has_left_takes_its_memory_along() {
    let (cache, clock) = cache(100_000, usize::MAX);
    fill(&cache, &clock, 0..50_000).await;
    let full = room(&cache);
    clock.advance(HOUR);
    assert_eq!(cache.len(), 0);
    assert!(room(&cache) * 8 < full, "{} of {full}", room(&cache));
}

#[tokio::test]
async fn touches_under_a_clock_that_runs_backwards_do_not_pile_up() {
    let (cache, clock) = cache(1000, usize::MAX);
    fill(&cache, &clock, 0..1).await;
    for _ in 0..10_000 {
        clock.rewind(Duration::from_secs(1));
        assert!(cache.touch("key 0").await.unwrap());
    }
    assert!(queued(&cache) <= 66, "{}", queued(&cache));
    clock.advance(100 * HOUR);
    assert_eq!((cache.len(), cache.bytes()), (0, 0));
}

#[tokio::test]
async fn a_value_does_not_keep_the_buffer_that_it_came_in() {
    let (cache, clock) = cache(10, usize::MAX);
    let buffer = Bytes::from(vec![7; 1 << 20]);
    cache.put("a", buffer.slice(..100), within(&clock, HOUR)).await.unwrap().unwrap();
    assert!(buffer.try_into_mut().is_ok(), "the cache holds no part of it");
    assert_eq!(cache.get("a").await.unwrap().unwrap().value, vec![7; 100]);
}

#[tokio::test]
async fn a_lock_that_was_poisoned_is_no_end() {
    let (cache, clock) = cache(10, usize::MAX);
    fill(&cache, &clock, 0..1).await;
    cache.shards.iter().for_each(Shard::poison);
    assert!(cache.get("key 0").await.unwrap().is_some());
    clock.advance(HOUR);
    assert!(cache.is_empty());
}

#[test]
fn racing_inserts_never_exceed_the_bounds() {
    let (cache, clock) = cache(500, 400 * (OVERHEAD + 8));
    let long = within(&clock, HOUR);
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::thread::scope(|threads| {
        for thread in 0..8 {
            let (cache, clock) = (cache.clone(), &clock);
            threads.spawn(move || {
                for i in 0..2000 {
                    let key = format!("{:07}", thread * 2000 + i);
                    match runtime().block_on(cache.put(&key, "x".into(), long)) {
                        Ok(Some(version)) if i % 3 == 0 => {
                            // The clock may have been turned in between.
                            let deleted = runtime().block_on(cache.delete(&key, version)).unwrap();
                            assert!(!matches!(deleted, Deleted::Conflict(_)));
                        }
                        Ok(_) => {}
                        Err(error) => assert_eq!(error.kind(), CacheErrorKind::Full),
                    }
                    let usage = &cache.shards.usage;
                    assert!(usage.entries() <= 500 && usage.bytes() <= 400 * (OVERHEAD + 8));
                    if i == 1000 && thread == 0 {
                        clock.advance(2 * HOUR);
                    }
                }
            });
        }
    });
    let live = cache.len();
    assert_eq!((live, cache.bytes()), (slots(&cache), live * (OVERHEAD + 8)));
}

#[tokio::test]
async fn settings_at_their_extremes_work() {
    for (entries, bytes, holds) in
        [(0, 0, false), (0, usize::MAX, false), (usize::MAX, 0, false), (1, 1, false), (usize::MAX, usize::MAX, true)]
    {
        let (cache, clock) = cache(entries, bytes);
        let written = cache.put("a", Bytes::from_static(b"value"), within(&clock, Duration::MAX)).await;
        let kind = written.map(|version| version.is_some()).map_err(|error| error.kind());
        assert_eq!(kind, if holds { Ok(true) } else { Err(CacheErrorKind::Full) }, "{entries}, {bytes}");
        assert_eq!(cache.get_and_touch("a", Duration::MAX).await.unwrap().is_some(), holds);
        let listed = cache.list_add("list", "member", clock.now() + HOUR).await;
        assert_eq!(listed.is_ok(), bytes == usize::MAX, "{entries}, {bytes}");
        assert!(cache.list_page("list", None, usize::MAX).await.unwrap().len() <= 1);
    }
}
