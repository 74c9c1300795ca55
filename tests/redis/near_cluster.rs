//! The near cache in a cluster: what it saves, and that nothing old is served while slots move and primaries change.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use cloakroom::{Cache, Expiry, RedisCache, Version, testing::cache_contract};
use tokio::time::sleep;

use crate::support::{
    redis_cluster::{RedisCluster, until},
    redis_server::{RedisServer, Reply},
    writes::Writes,
};

const HOUR: Duration = Duration::from_secs(3600);
const MIB: usize = 1 << 20;
/// Nothing is served that was last known to be true so long ago.
const BOUND: Duration = Duration::from_secs(1);
/// A message of a server arrives sooner, and nothing is read again of itself before half a second has passed.
const SOON: Duration = Duration::from_millis(400);
/// For operations that have to succeed on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(20);

fn hour() -> Expiry {
    Expiry { idle: HOUR, end: SystemTime::now() + 2 * HOUR }
}

fn number(number: u64) -> Bytes {
    Bytes::from(number.to_string())
}

/// With a near cache, and without: another process, as far as this one can tell.
async fn caches(cluster: &RedisCluster) -> (RedisCache, RedisCache) {
    let builder = RedisCache::cluster(cluster.urls()).timeout(LIMIT);
    (builder.clone().near_cache(MIB).build().await.unwrap(), builder.build().await.unwrap())
}

async fn value(cache: &RedisCache, key: &str) -> Option<u64> {
    let entry = cache.get(key).await.unwrap()?;
    Some(std::str::from_utf8(&entry.value).unwrap().parse().unwrap())
}

/// Reads until it is `should`, and gives the time that it took.
async fn becomes(cache: &RedisCache, key: &str, should: Option<u64>) -> Duration {
    let began = Instant::now();
    while value(cache, key).await != should {
        assert!(began.elapsed() < LIMIT, "{key} is still not {should:?}");
        sleep(Duration::from_millis(1)).await;
    }
    began.elapsed()
}

fn gets(cluster: &RedisCluster, index: usize) -> u64 {
    cluster.servers[index].calls().get("getrange").copied().unwrap_or_default()
}

/// Some keys on each node, with the value 0.
async fn keys_on_all_nodes(cluster: &RedisCluster, cache: &RedisCache) -> Vec<(String, Version, usize)> {
    let mut keys = Vec::new();
    for n in 0..30 {
        let key = format!("cloakroom:{n}");
        let version = cache.put(&key, number(0), hour()).await.unwrap().unwrap();
        let owner = cluster.owner(cluster.slot(&key));
        keys.push((key, version, owner));
    }
    assert!((0..3).all(|node| keys.iter().any(|(_, _, owner)| *owner == node)));
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_saved_and_changes_arrive_from_each_node() {
    let cluster = RedisCluster::start();
    let (cache, other) = caches(&cluster).await;
    cache_contract(|| async { cache.clone() }, None).await;
    let keys = keys_on_all_nodes(&cluster, &other).await;
    for (key, ..) in &keys {
        // The read that connects is not kept.
        value(&cache, key).await;
        value(&cache, key).await;
    }
    cluster.servers.iter().for_each(RedisServer::reset_calls);
    let began = Instant::now();
    for _ in 0..20 {
        for (key, ..) in &keys {
            assert_eq!(value(&cache, key).await, Some(0));
        }
    }
    // Each node is asked now and then, as a proof.
    let proofs = began.elapsed().as_millis() as u64 / 100 + 1;
    for node in 0..3 {
        assert!(gets(&cluster, node) <= proofs, "{} reads of node {node}", gets(&cluster, node));
    }
    for (key, version, _) in keys {
        other.put_over(&key, version, number(1), hour()).await.unwrap().unwrap();
        assert!(becomes(&cache, &key, Some(1)).await < SOON, "{key}");
        let version = cache.get(&key).await.unwrap().unwrap().version;
        cache.put_over(&key, version, number(2), hour()).await.unwrap().unwrap();
        assert_eq!(value(&cache, &key).await, Some(2), "its own write");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_takes_what_was_read_from_its_node() {
    let cluster = RedisCluster::start();
    let (cache, other) = caches(&cluster).await;
    let mut keys = keys_on_all_nodes(&cluster, &other).await;
    for round in 1..=5 {
        for (key, ..) in &keys {
            value(&cache, key).await;
            value(&cache, key).await;
        }
        cluster.servers[0].command(&["CLIENT", "KILL", "TYPE", "normal"]);
        // A process whose connections were not lost.
        let other = RedisCache::cluster(cluster.urls()).timeout(LIMIT).build().await.unwrap();
        for (key, version, owner) in &mut keys {
            if *owner == 0 {
                *version = other.put_over(key, *version, number(round), hour()).await.unwrap().unwrap();
            }
        }
        cluster.servers[1..3].iter().for_each(RedisServer::reset_calls);
        for (key, _, owner) in &keys {
            let should = if *owner == 0 { round } else { 0 };
            assert!(becomes(&cache, key, Some(should)).await < SOON);
        }
        for node in 1..3 {
            assert!(gets(&cluster, node) <= 3, "node {node} was read from again, though its connection was not lost");
        }
    }
}

/// Writes numbers that increase, and remembers when the one before was written over.
struct Writer {
    key: String,
    written: AtomicU64,
}

/// Reads without a pause, and checks that nothing older is read than what was written `bound` before.
async fn check(cache: RedisCache, writer: Arc<Writer>, stop: Arc<AtomicBool>) -> u64 {
    let mut known = std::collections::VecDeque::new();
    let mut reads = 0;
    while !stop.load(SeqCst) {
        let began = Instant::now();
        known.push_back((began, writer.written.load(SeqCst)));
        let read = cache.get(&writer.key).await.unwrap().expect("the key is there");
        let read: u64 = std::str::from_utf8(&read.value).unwrap().parse().unwrap();
        while known.get(1).is_some_and(|(at, _)| began - *at >= BOUND) {
            known.pop_front();
        }
        let (at, written) = known[0];
        assert!(
            began - at < BOUND || read >= written,
            "{}: {read}, and {written} was written {:?} before",
            writer.key,
            began - at
        );
        reads += 1;
        sleep(Duration::from_micros(300)).await;
    }
    reads
}

/// Increments each key, and reads it through the near cache, while `events` happen to the cluster.
async fn under_changes(cluster: RedisCluster, keys: &[String], events: fn(&RedisCluster, &[u16])) {
    let (cache, other) = caches(&cluster).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writes = Vec::new();
    let mut checks = Vec::new();
    for key in keys {
        let mut version = other.put(key, number(0), hour()).await.unwrap().unwrap();
        let writer = Arc::new(Writer { key: key.clone(), written: AtomicU64::new(0) });
        checks.push(tokio::spawn(check(cache.clone(), writer.clone(), stop.clone())));
        let (other, stop) = (other.clone(), stop.clone());
        writes.push(tokio::spawn(async move {
            while !stop.load(SeqCst) {
                let next = writer.written.load(SeqCst) + 1;
                version = other.put_over(&writer.key, version, number(next), hour()).await.unwrap().unwrap();
                writer.written.store(next, SeqCst);
                sleep(Duration::from_millis(7)).await;
            }
            writer
        }));
    }
    let slots: Vec<_> = keys.iter().map(|key| cluster.slot(key)).collect();
    let cluster = tokio::task::spawn_blocking(move || {
        events(&cluster, &slots);
        cluster
    });
    let _cluster = cluster.await.unwrap();
    stop.store(true, SeqCst);
    let mut reads = 0;
    for check in checks {
        reads += check.await.unwrap();
    }
    for write in writes {
        let writer = write.await.unwrap();
        let last = writer.written.load(SeqCst);
        assert!(last > 10);
        assert!(becomes(&cache, &writer.key, Some(last)).await < BOUND + SOON);
    }
    // Nothing is left that stops it from keeping what it reads.
    for key in keys {
        value(&cache, key).await;
        value(&cache, key).await;
    }
    eprintln!("near cache under changes of the cluster: {reads} reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_old_is_served_while_slots_move() {
    let keys: Vec<String> = (0..12).map(|n| format!("cloakroom:{{{}}}:{n}", ["a", "b", "c"][n % 3])).collect();
    under_changes(RedisCluster::start(), &keys, |cluster, slots| {
        // Each slot goes round, and comes back to where it was.
        for round in 0..6 {
            let slot = slots[round % 3];
            for _ in 0..3 {
                let from = cluster.owner(slot);
                cluster.move_slot(slot, from, (from + 1) % 3, Duration::from_millis(8));
                until("all know", || cluster.owner(slot) != from);
            }
        }
    })
    .await;
}

/// Valkey 9 moves slots without a command for each key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_old_is_served_while_slots_move_as_a_whole() {
    let server = RedisServer::start();
    if server.command(&["COMMAND", "INFO", "cluster|migrateslots"]) == Reply::Array(vec![Reply::Nil]) {
        eprintln!("left out: this server has no CLUSTER MIGRATESLOTS");
        return;
    }
    let cluster = RedisCluster::start();
    let keys: Vec<String> = (0..12).map(|n| format!("cloakroom:{{{}}}:{n}", ["a", "b", "c"][n % 3])).collect();
    under_changes(cluster, &keys, |cluster, slots| {
        for round in 0..9 {
            let slot = slots[round % 3];
            let from = cluster.owner(slot);
            let target = cluster.servers[(from + 1) % 3].command(&["CLUSTER", "MYID"]).text();
            let slot_text = slot.to_string();
            let moved = cluster.servers[from].command(&[
                "CLUSTER",
                "MIGRATESLOTS",
                "SLOTSRANGE",
                &slot_text,
                &slot_text,
                "NODE",
                &target,
            ]);
            assert_eq!(moved.text(), "OK");
            until("the slot has moved", || cluster.owner(slot) == (from + 1) % 3);
            until("the node that had it knows", || {
                cluster.servers[from].command(&["CLUSTER", "COUNTKEYSINSLOT", &slot_text]).int() == 0
            });
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_old_is_served_after_a_planned_failover() {
    let cluster = RedisCluster::start();
    let (cache, other) = caches(&cluster).await;
    let mut keys = keys_on_all_nodes(&cluster, &other).await;
    keys.retain(|(_, _, owner)| *owner == 0);
    for round in 1..=2 {
        let (from, to) = if round == 1 { (0, 3) } else { (3, 0) };
        for (key, ..) in &keys {
            value(&cache, key).await;
            assert_eq!(value(&cache, key).await, Some(round - 1));
        }
        // The connections to the former primary stay open. A failover that a node was not ready for is given up.
        let mut asked = None;
        until("a new primary", || {
            if asked.is_none_or(|asked: Instant| asked.elapsed() > Duration::from_secs(6)) {
                assert_eq!(cluster.servers[to].command(&["CLUSTER", "FAILOVER"]).text(), "OK");
                asked = Some(Instant::now());
            }
            cluster.servers[to].is("master")
        });
        until("the former primary follows", || cluster.servers[from].is("slave"));
        for (key, version, _) in &mut keys {
            *version = other.put_over(key, *version, number(round), hour()).await.unwrap().unwrap();
            let took = becomes(&cache, key, Some(round)).await;
            assert!(took < BOUND, "{key} was old for {took:?}");
        }
        until("the replica has all slots of the former primary", || {
            cluster.servers[..3]
                .iter()
                .all(|server| server.command(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok"))
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_old_is_served_after_a_primary_was_killed() {
    let mut cluster = RedisCluster::start();
    let (cache, other) = caches(&cluster).await;
    let mut keys = keys_on_all_nodes(&cluster, &other).await;
    for (key, ..) in &keys {
        value(&cache, key).await;
        assert_eq!(value(&cache, key).await, Some(0));
    }
    until("the replicas have everything", || {
        let keys = |index: usize| cluster.servers[index].command(&["DBSIZE"]);
        (0..3).all(|index| keys(index) == keys(index + 3))
    });
    cluster.servers[0].stop();
    until("the replica takes over", || cluster.servers[3].is("master"));
    for (key, version, _) in &mut keys {
        *version = other.put_over(key, *version, number(1), hour()).await.unwrap().unwrap();
        assert!(becomes(&cache, key, Some(1)).await < BOUND, "{key}");
    }
    // What the new primary has is kept, too.
    for (key, ..) in &keys {
        value(&cache, key).await;
        value(&cache, key).await;
    }
    cluster.servers[3].reset_calls();
    for (key, ..) in &keys {
        assert_eq!(value(&cache, key).await, Some(1));
    }
    assert!(gets(&cluster, 3) <= 2, "{} reads", gets(&cluster, 3));
}
