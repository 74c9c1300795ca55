//! A cluster of three primaries with a replica each, on loopback.
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use super::redis_server::{RedisServer, Reply};

pub struct RedisCluster {
    /// The first three are the primaries at the start, the others their replicas in the same order.
    pub servers: Vec<RedisServer>,
    _turn: Turn,
}

/// Its holder may start many servers; the others wait until it is dropped.
pub struct Turn(());

static TAKEN: AtomicBool = AtomicBool::new(false);

impl Turn {
    pub fn wait() -> Self {
        while TAKEN.swap(true, Ordering::SeqCst) {
            sleep(Duration::from_millis(20));
        }
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::SeqCst);
    }
}

const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

impl RedisCluster {
    pub fn start() -> Self {
        let turn = Turn::wait();
        let servers: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..6).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|start| start.join().expect("a node that starts")).collect()
        });
        let cluster = Self { servers, _turn: turn };
        for (index, server) in cluster.servers.iter().enumerate() {
            ok(server.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]));
            if let Some((from, to)) = SLOTS.get(index) {
                let slots: Vec<_> = (*from..=*to).map(|slot| slot.to_string()).collect();
                let add = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str));
                ok(server.command(&add.collect::<Vec<_>>()));
            }
            // All are told of all, so that none has to wait until another one has heard of it.
            for other in &cluster.servers[..index] {
                ok(server.command(&["CLUSTER", "MEET", "127.0.0.1", &other.port().to_string()]));
            }
        }
        until("all nodes know each other", || {
            cluster
                .servers
                .iter()
                .all(|server| server.command(&["CLUSTER", "NODES"]).text().matches("connected").count() == 6)
        });
        for index in 0..3 {
            let primary = cluster.id(index);
            until("a replica knows its primary", || {
                cluster.servers[index + 3].command(&["CLUSTER", "REPLICATE", &primary]).text() == "OK"
            });
        }
        until("the cluster is up", || cluster.servers.iter().all(is_up));
        until("the replicas follow", || {
            cluster.servers[3..]
                .iter()
                .all(|server| server.command(&["INFO", "replication"]).text().contains("master_link_status:up"))
                && cluster.servers[..3].iter().all(slots_have_replicas)
        });
        cluster
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::url).collect()
    }

    fn id(&self, index: usize) -> String {
        self.servers[index].command(&["CLUSTER", "MYID"]).text()
    }

    /// The primary that has the slot, among the first three.
    pub fn owner(&self, slot: u16) -> usize {
        let nodes = self.servers[0].command(&["CLUSTER", "SLOTS"]);
        let Reply::Array(ranges) = nodes else { panic!("{nodes:?}") };
        let port = ranges.iter().find_map(|range| match range {
            Reply::Array(range) if (range[0].int()..=range[1].int()).contains(&i64::from(slot)) => match &range[2] {
                Reply::Array(node) => Some(node[1].int()),
                _ => None,
            },
            _ => None,
        });
        let port = port.expect("an owner of the slot");
        self.servers.iter().position(|server| i64::from(server.port()) == port).expect("a node of ours")
    }

    pub fn slot(&self, key: &str) -> u16 {
        self.servers[0].command(&["CLUSTER", "KEYSLOT", key]).int() as u16
    }

    /// Moves a slot to another primary as `redis-cli --cluster reshard` does, with a pause between the keys.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize, pause: Duration) {
        let (source, target) = (&self.servers[from], &self.servers[to]);
        let (source_id, target_id) = (self.id(from), self.id(to));
        let (slot, port) = (slot.to_string(), target.port().to_string());
        ok(target.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]));
        ok(source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]));
        loop {
            let Reply::Array(keys) = source.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]) else { panic!() };
            let Some(key) = keys.first() else { break };
            source.command(&["MIGRATE", "127.0.0.1", &port, &key.text(), "0", "1000"]);
            sleep(pause);
        }
        ok(target.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]));
        ok(source.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]));
    }
}

fn start() -> RedisServer {
    RedisServer::start_with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "2000",
        "--cluster-replica-validity-factor",
        "0",
        "--cluster-require-full-coverage",
        "no",
        "--repl-diskless-sync-delay",
        "0",
        // A replica is named among the slots from the first byte of its primary on, and by default a ping comes after 10 s.
        "--repl-ping-replica-period",
        "1",
        "--appendonly",
        "yes",
    ])
}

fn slots_have_replicas(server: &RedisServer) -> bool {
    match server.command(&["CLUSTER", "SLOTS"]) {
        Reply::Array(ranges) => ranges.iter().all(|range| matches!(range, Reply::Array(range) if range.len() == 4)),
        _ => false,
    }
}

fn is_up(server: &RedisServer) -> bool {
    server.command(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok")
}

fn ok(reply: Reply) {
    assert_eq!(reply, Reply::Simple("OK".to_owned()));
}

pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(60), "not within 60 s: {what}");
        sleep(Duration::from_millis(20));
    }
}
