//! The cache in memory alone: one operation, by 1, 2 and 8 threads, as it grows, and when all of it ends at once.
//!
//!     cargo bench --bench memory
//!     ENTRIES=10000000 cargo bench --bench memory -- growth         # one more size; 5 GB
//!     cargo bench --bench memory -- ending                          # the slowest operation while a million end
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
use std::{
    collections::BTreeMap,
    fmt::Write,
    pin::pin,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use cloakroom::{Bytes, Cache, Clock, Entry, Expiry, InMemoryCache, Replaced, Version};
use divan::Bencher;

const HOUR: Duration = Duration::from_secs(3600);
const MILLION: u64 = 1_000_000;
/// With a key of 53 bytes, what a small session takes.
const VALUE: [u8; 200] = [b'x'; 200];

/// What a future gives at its first poll: those of this cache never wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the cache in memory waited"),
    }
}

/// A number for each count, in no order.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Writes a key as the store would, into memory that is there already.
fn key(text: &mut String, n: u64) -> &str {
    text.clear();
    write!(text, "cloakroom:{n:043}").unwrap();
    text
}

fn expiry(n: u64) -> Expiry {
    // Not all in the same millisecond: those that end together ended one after the other.
    Expiry { idle: HOUR + Duration::from_millis(mix(n) % 1000), end: SystemTime::now() + 24 * HOUR }
}

/// A value in memory of its own, as the store hands it in, under a new version.
fn entry() -> Entry {
    Entry::new(Bytes::copy_from_slice(&VALUE), Version::unique())
}

fn filled(entries: u64, clock: Clock) -> InMemoryCache {
    // A little more than is there, for the threads that insert.
    let room = usize::try_from(entries).unwrap() + 100;
    let cache = InMemoryCache::builder().max_entries(room).max_bytes(usize::MAX).clock(clock).build();
    let mut text = String::new();
    for n in 0..entries {
        assert!(now(cache.insert(key(&mut text, n), entry(), expiry(n))).unwrap());
    }
    cache
}

/// Filled once for all benchmarks of that size.
fn shared(entries: u64) -> InMemoryCache {
    static CACHES: LazyLock<Mutex<BTreeMap<u64, InMemoryCache>>> = LazyLock::new(Mutex::default);
    CACHES.lock().unwrap().entry(entries).or_insert_with(|| filled(entries, Clock::system())).clone()
}

/// Keys of entries in no order, made before the clock runs.
fn some_key(entries: u64) -> impl Fn() -> String + Sync {
    let count = AtomicU64::new(0);
    move || {
        let mut text = String::with_capacity(53);
        key(&mut text, mix(count.fetch_add(1, Relaxed)) % entries);
        text
    }
}

fn replace(cache: &InMemoryCache, key: &str) {
    let mut version = now(cache.get(key)).unwrap().unwrap().version;
    while let Replaced::Conflict(newer) = now(cache.replace(key, version, entry(), expiry(0))).unwrap() {
        version = newer.version;
    }
}

mod threads {
    use super::{Bencher, Cache, now, replace, shared, some_key};

    #[divan::bench(threads = [1, 2, 8])]
    fn get(bencher: Bencher<'_, '_>) {
        let cache = shared(1000);
        bencher.with_inputs(some_key(1000)).bench_refs(|key| now(cache.get(key)).unwrap().unwrap());
    }

    #[divan::bench(threads = [1, 2, 8])]
    fn get_and_replace(bencher: Bencher<'_, '_>) {
        let cache = shared(1000);
        bencher.with_inputs(some_key(1000)).bench_refs(|key| replace(&cache, key));
    }

    #[divan::bench(threads = [1, 2, 8])]
    fn get_one_key(bencher: Bencher<'_, '_>) {
        let cache = shared(1000);
        bencher.with_inputs(some_key(1)).bench_refs(|key| now(cache.get(key)).unwrap().unwrap());
    }
}

mod growth {
    use super::{Bencher, Cache, MILLION, entry, expiry, now, replace, shared, some_key};

    fn sizes() -> Vec<u64> {
        let more = std::env::var("ENTRIES").ok().and_then(|text| text.parse().ok());
        [1000, MILLION].into_iter().chain(more).collect()
    }

    #[divan::bench(args = sizes())]
    fn get(bencher: Bencher<'_, '_>, entries: u64) {
        let cache = shared(entries);
        bencher.with_inputs(some_key(entries)).bench_local_refs(|key| now(cache.get(key)).unwrap().unwrap());
    }

    #[divan::bench(args = sizes())]
    fn get_and_replace(bencher: Bencher<'_, '_>, entries: u64) {
        let cache = shared(entries);
        bencher.with_inputs(some_key(entries)).bench_local_refs(|key| replace(&cache, key));
    }

    #[divan::bench(args = sizes())]
    fn insert_and_delete(bencher: Bencher<'_, '_>, entries: u64) {
        let cache = shared(entries);
        let key = some_key(u64::MAX);
        bencher.with_inputs(|| format!("new:{}", key())).bench_local_refs(|key| {
            let entry = entry();
            let version = entry.version;
            assert!(now(cache.insert(key, entry, expiry(0))).unwrap());
            now(cache.delete(key, version)).unwrap()
        });
    }
}

/// A million entries end within a second. How long takes the slowest of the operations that meet them?
fn ending() {
    let clock = Clock::manual();
    let before = resident();
    let cache = filled(MILLION, clock.clone());
    let taken = resident().zip(before).map(|(after, before)| (after - before) / MILLION);
    clock.advance(2 * HOUR);
    let (mut text, mut times) = (String::new(), Vec::new());
    while cache.bytes() > 0 {
        let key = key(&mut text, MILLION + times.len() as u64);
        let (waited_before, start) = (waited(), Instant::now());
        let found = now(cache.get(key)).unwrap();
        let took = start.elapsed();
        // What other processes had meanwhile is not the cache's.
        times.push(took.saturating_sub(waited().saturating_sub(waited_before)));
        assert!(found.is_none());
    }
    times.sort();
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).or(times.last()).unwrap();
    if let Some(taken) = taken {
        println!("a million entries with 253 bytes of key and value take {taken} bytes each");
    }
    println!(
        "they end at once: gone after {} look-ups for other keys, of which half took {:?} or more, 1 in 1000 {:?} or more, the slowest {:?}",
        times.len(),
        at(0.5),
        at(0.999),
        at(1.0)
    );
}

/// How long this thread has waited for a processor that others had, where the system reports it.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// The memory of this process, where the system reports it.
fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse::<u64>().ok()?;
    Some(pages * 4096)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.is_empty() || args.iter().any(|arg| arg == "ending") {
        ending();
    }
    divan::Divan::from_args().sample_size(1000).sample_count(200).main();
}
