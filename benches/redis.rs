//! Redis by operation, with 1, 64 and 512 of them in flight, beside `redis-benchmark` with the very same commands.
//!
//!     cargo bench --bench redis --features redis
//!     cargo bench --bench redis --features redis -- get       # operations that begin so
//!     cargo bench --bench redis --features redis -- near      # a hit of the near cache beside the cache in memory
//!     SECONDS=5 IN_FLIGHT=64 CONNECTIONS=2 cargo bench --bench redis --features redis
//!
//! Both ask the same server, one after the other, over as many connections: `redis-benchmark` sends in one go what is in
//! flight on a connection, and waits for all of the answers. The last two columns have it with a connection for each
//! operation in flight, as an application without multiplexing would. With `ALONE=1` it does not run, as for a profile.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
use std::{
    ffi::OsString,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::ffi::OsStringExt,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

use cloakroom::{Bytes, Cache, Entry, Expiry, InMemoryCache, RedisCache, Replaced, Version};

#[path = "../tests/support/redis_server.rs"]
mod redis_server;

use redis_server::RedisServer;

const IN_FLIGHT: [usize; 3] = [1, 64, 512];
const KEYS: u64 = 1000;
const PREFIX: &str = "cloakroom:1111111111111111111111111111111";
/// What a small session takes.
const VALUE: [u8; 200] = [b'x'; 200];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Get,
    GetAndTouch,
    Touch,
    Insert,
    Replace,
}

use Operation::{Get, GetAndTouch, Insert, Replace, Touch};

fn key(number: u64) -> String {
    format!("{PREFIX}{number:012}")
}

/// Without a zero byte in what is stored: it has to be an argument of another program.
fn expiry() -> Expiry {
    let end = UNIX_EPOCH + Duration::from_millis(0x7f7f_7f7f_7f7f);
    Expiry { idle: Duration::from_millis(0x0101_0101_0101), end }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn number_of(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// An entry with the same value each time, and a version of its own.
fn entry() -> Entry {
    Entry::new(Bytes::from_static(&VALUE), Version::unique())
}

/// Never used twice for an insert.
static COUNT: AtomicU64 = AtomicU64::new(KEYS);

async fn once(cache: &RedisCache, operation: Operation, mine: u64, version: &mut Option<Version>) {
    let some = key(mix(COUNT.fetch_add(1, Relaxed)) % KEYS);
    match operation {
        Get => assert!(cache.get(&some).await.unwrap().is_some()),
        GetAndTouch => {
            // As most of them are: there is nothing to restart.
            assert!(cache.get_and_touch(&some, Duration::from_secs(3600)).await.unwrap().is_some());
        }
        Touch => assert!(cache.touch(&some).await.unwrap()),
        Insert => {
            let new = key(COUNT.fetch_add(1, Relaxed));
            assert!(cache.insert(&new, entry(), expiry()).await.unwrap());
        }
        Replace => {
            // A key of its own, so that no other write collides.
            let key = key(mine);
            let expected = match version.take() {
                Some(version) => version,
                None => cache.get(&key).await.unwrap().unwrap().version,
            };
            let entry = entry();
            *version = Some(entry.version);
            assert_eq!(cache.replace(&key, expected, entry, expiry()).await.unwrap(), Replaced::Done);
        }
    }
}

/// Operations a second.
async fn ours(caches: &[RedisCache], operation: Operation, in_flight: usize, time: Duration) -> f64 {
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..in_flight)
        .map(|mine| {
            let (cache, done) = (caches[mine % caches.len()].clone(), done.clone());
            tokio::spawn(async move {
                let mut version = None;
                while began.elapsed() < time {
                    once(&cache, operation, mine as u64, &mut version).await;
                    done.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let done = done.load(Relaxed) as f64;
    if std::env::var_os("ALONE").is_some() {
        println!("{done} operations");
    }
    done / began.elapsed().as_secs_f64()
}

/// A way to the server that writes down what it is asked.
fn recorder(server: u16) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::<Mutex<Vec<u8>>>::default();
    let record = seen.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
            let (mut to_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let record = record.clone();
            std::thread::spawn(move || std::io::copy(&mut server, &mut to_client));
            std::thread::spawn(move || {
                let mut buffer = [0; 65536];
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    record.lock().unwrap().extend_from_slice(&buffer[..count]);
                    to_server.write_all(&buffer[..count]).unwrap();
                }
            });
        }
    });
    (port, seen)
}

/// The arguments of the last command that was recorded.
fn last_command(recorded: &[u8]) -> Vec<Vec<u8>> {
    let start = recorded.windows(2).rposition(|two| two[0] == b'*' && two[1].is_ascii_digit()).unwrap();
    let line = |from: usize| from + recorded[from..].windows(2).position(|two| two == b"\r\n").unwrap();
    let number = |from: usize| std::str::from_utf8(&recorded[from + 1..line(from)]).unwrap().parse::<usize>().unwrap();
    let mut at = start;
    let count = number(at);
    at = line(at) + 2;
    let mut args = Vec::new();
    for _ in 0..count {
        let length = number(at);
        at = line(at) + 2;
        args.push(recorded[at..at + length].to_vec());
        at += length + 2;
    }
    args
}

/// The command that `operation` sends, for any of the keys, so that it can be sent again and again.
async fn command(server: &RedisServer, operation: Operation) -> Vec<Vec<u8>> {
    let (port, seen) = recorder(server.port());
    let cache = RedisCache::connect(format!("redis://127.0.0.1:{port}")).await.unwrap();
    loop {
        let mut version = None;
        once(&cache, operation, 0, &mut version).await;
        seen.lock().unwrap().clear();
        once(&cache, operation, 0, &mut version).await;
        let mut args = last_command(&seen.lock().unwrap());
        if operation == Replace {
            // Writes the version that it expects: all keys have it, and keep it.
            let expected = args[6].clone();
            args[7][1..9].copy_from_slice(&expected);
        }
        if args.iter().any(|arg| arg.contains(&0)) {
            continue;
        }
        let at = if args[0] == b"EVALSHA" { 3 } else { 1 };
        if operation == Replace {
            for number in 0..KEYS {
                server.command_bytes(&[b"SET", key(number).as_bytes(), &args[7]]);
            }
        }
        args[at] = format!("{PREFIX}__rand_int__").into_bytes();
        return args;
    }
}

/// What `redis-benchmark` does, in operations a second.
fn theirs(port: u16, args: &[Vec<u8>], keys: u64, connections: usize, pipelined: usize, time: Duration) -> f64 {
    let run = |count: u64| -> f64 {
        let output = Command::new("redis-benchmark")
            .args(["-p", &port.to_string(), "-c", &connections.to_string(), "-P", &pipelined.to_string()])
            .args(["-n", &count.to_string(), "-r", &keys.to_string(), "--csv"])
            .args(args.iter().map(|arg| OsString::from_vec(arg.clone())))
            .output()
            .expect("redis-benchmark, which comes with redis-server");
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().rfind(|line| line.contains(',')).unwrap_or_else(|| panic!("{output:?}"));
        // The name of the test may have any character in it.
        last.rsplit(',').nth(6).and_then(|rate| rate.trim_matches('"').parse().ok()).unwrap_or_else(|| panic!("{last}"))
    };
    let first = run(20_000.max(connections as u64 * 20));
    run((first * time.as_secs_f64()) as u64)
}

/// Nanoseconds for one of many reads, one after the other; the fastest of some rounds.
async fn read(cache: &impl Cache) -> f64 {
    const READS: u64 = 200_000;
    let keys: Vec<_> = (0..KEYS).map(key).collect();
    let mut best = f64::MAX;
    for _ in 0..10 {
        let began = Instant::now();
        for number in 0..READS {
            let key = &keys[(mix(number) % KEYS) as usize];
            assert!(cache.get(key).await.unwrap().is_some());
        }
        best = best.min(began.elapsed().as_secs_f64() * 1e9 / READS as f64);
    }
    best
}

async fn near() {
    let server = RedisServer::start();
    let cache = RedisCache::builder(server.url()).near_cache(64 << 20).build().await.unwrap();
    let memory = InMemoryCache::new();
    for number in 0..KEYS {
        assert!(cache.insert(&key(number), entry(), expiry()).await.unwrap());
        assert!(memory.insert(&key(number), entry(), expiry()).await.unwrap());
    }
    let (near, memory) = (read(&cache).await, read(&memory).await);
    println!("near cache: {near:.0} ns a read; in memory: {memory:.0} ns; {:.2} times as long", near / memory);
}

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let time = Duration::from_secs(number_of("SECONDS", 2));
    let connections = number_of("CONNECTIONS", 1) as usize;
    let in_flight = match number_of("IN_FLIGHT", 0) {
        0 => IN_FLIGHT.to_vec(),
        some => vec![some as usize],
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if filter.is_empty() || filter == "near" {
        runtime.block_on(near());
        if filter == "near" {
            return;
        }
    }
    println!("operations a second, and ours as a part of theirs");
    println!("operation      in flight        ours  redis-benchmark         a connection each");
    for operation in [Get, GetAndTouch, Touch, Insert, Replace] {
        let name = format!("{operation:?}").to_lowercase();
        if !name.starts_with(&filter) {
            continue;
        }
        for in_flight in in_flight.clone() {
            let server = RedisServer::start();
            let (ours, args) = runtime.block_on(async {
                let mut caches = Vec::new();
                for _ in 0..connections {
                    let builder = RedisCache::builder(server.url()).timeout(Duration::from_secs(10));
                    caches.push(builder.build().await.unwrap());
                }
                for number in 0..KEYS {
                    assert!(caches[0].insert(&key(number), entry(), expiry()).await.unwrap());
                }
                ours(&caches, operation, in_flight, time / 5).await;
                let ours = ours(&caches, operation, in_flight, time).await;
                (ours, command(&server, operation).await)
            });
            if std::env::var_os("ALONE").is_some() {
                println!("{name:<14} {in_flight:>9} {ours:>11.0}");
                continue;
            }
            let keys = if operation == Insert { 100_000_000_000 } else { KEYS };
            let port = server.port();
            let same = theirs(port, &args, keys, connections, in_flight.div_ceil(connections), time);
            let each = theirs(port, &args, keys, in_flight, 1, time);
            println!(
                "{name:<14} {in_flight:>9} {ours:>11.0} {same:>11.0} {:>6.2} {each:>11.0} {:>6.2}",
                ours / same,
                ours / each
            );
        }
    }
}
