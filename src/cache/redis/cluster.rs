//! A cluster: which node has a key, and how to follow it when it moves.
//!
//! Hand-written, in place of the client's own cluster connection: that one sends a write again after a lost connection
//! without reporting it, so that an increment that was counted twice cannot be told from one that was not; and while it
//! looks for a node that does not answer, all other operations wait. Here every node has [`ReadWriteConnections`] of its
//! own, with the same rules as a single server. Only primaries are ever asked.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{Arg, Client, Cmd, Value};
use tokio::time::timeout;

use super::{
    clients::ServerSettings,
    connect::OperationLimits,
    connections::{Attempt, Message, ReadWriteConnections, Reply, Target},
    errors::{Failure, Redirect},
};
use crate::cache::near::{NearCache, Reports};

const SLOTS: u16 = 16384;
/// A command is not sent on more often than this at a time.
const REDIRECTS: u32 = 5;
/// The nodes are not asked for the whole map more often than this.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);

type Address = (String, u16);

pub(super) struct Cluster {
    /// Where to begin, and to begin again when all known nodes are gone.
    seeds: Vec<Node>,
    servers: ServerSettings,
    limits: OperationLimits,
    /// Bytes of all near caches together; 0: there are none.
    near: usize,
    map: Mutex<Map>,
    /// Held while the map is asked for: when that was begun last.
    refreshing: tokio::sync::Mutex<Option<Instant>>,
}

/// Which node has which slot.
#[derive(Default)]
struct Map {
    /// Sorted, without gaps between what is known: first slot, last slot and primary.
    ranges: Vec<(u16, u16, Arc<Node>)>,
    /// Slots for which a node has redirected since.
    moved: HashMap<u16, Arc<Node>>,
    nodes: HashMap<Address, Arc<Node>>,
}

struct Node {
    address: Address,
    connections: ReadWriteConnections,
}

impl Cluster {
    pub(super) fn new(
        seeds: Vec<(Address, Client)>,
        servers: ServerSettings,
        limits: OperationLimits,
        near: usize,
    ) -> Self {
        let node = |(address, client): (Address, Client)| Node {
            address,
            connections: ReadWriteConnections::new(Target::Server(client.into()), limits, None),
        };
        let seeds = seeds.into_iter().map(node).collect();
        Self { seeds, servers, limits, near, map: Mutex::default(), refreshing: tokio::sync::Mutex::default() }
    }

    /// Sends the message to the node that has its key.
    pub(super) async fn send(&self, message: &Message, attempt: Attempt) -> Result<Reply, Failure> {
        let slot = message.command().and_then(slot_of);
        let mut node = match self.node(slot) {
            Some(node) => node,
            None => {
                Box::pin(self.refresh(Duration::ZERO)).await?;
                self.node(slot).ok_or_else(|| Failure::no_server(true, "no node of the cluster has the slot"))?
            }
        };
        let mut once = false;
        for _ in 0..REDIRECTS {
            let outcome = if once {
                Box::pin(node.connections.send_asking(message, attempt)).await
            } else {
                node.connections.send(message, attempt).await
            };
            match outcome {
                Err(Failure::Redirected(redirect)) => {
                    once = redirect.once;
                    if !once {
                        node.forget();
                    }
                    let next = self.follow(&node, redirect)?;
                    if let (false, Some(slot)) = (once, slot) {
                        self.lock().moved.insert(slot, next.clone());
                    }
                    node = next;
                }
                // The node does not answer: another one may be in charge by now.
                Err(failure) if !failure.reached() => {
                    let nothing_sent = matches!(failure, Failure::CircuitOpen | Failure::NotReady(_));
                    if Box::pin(self.refresh(REFRESH_PAUSE)).await.is_err() {
                        return Err(failure);
                    }
                    match self.node(slot) {
                        Some(next) if nothing_sent && !Arc::ptr_eq(&next, &node) => (node, once) = (next, false),
                        _ => return Err(failure),
                    }
                }
                outcome => return outcome,
            }
        }
        Err(Failure::no_server(true, "the nodes of the cluster redirect in circles"))
    }

    /// What was read from the node that has the key, if the node is known.
    pub(super) fn near(&self, key: &str) -> Option<Arc<NearCache>> {
        self.node(Some(slot(key.as_bytes())))?.connections.near().cloned()
    }

    pub(super) fn each_near(&self, act: impl Fn(&NearCache)) {
        self.lock().nodes.values().filter_map(|node| node.connections.near()).for_each(|near| act(near));
    }

    /// How errors name it.
    pub(super) fn describe(&self) -> String {
        let seeds: Vec<_> = self.seeds.iter().map(|seed| seed.connections.describe()).collect();
        format!("the cluster of {}", seeds.join(", "))
    }

    /// Has the next commands use new connections.
    pub(super) fn disconnect(&self) {
        self.lock().nodes.values().for_each(|node| node.connections.disconnect());
    }

    /// The node that has the slot, or any one that is known to answer.
    fn node(&self, slot: Option<u16>) -> Option<Arc<Node>> {
        let map = self.lock();
        match slot {
            Some(slot) => map.node(slot),
            None => {
                let mut primaries = map.ranges.iter().map(|(_, _, node)| node);
                let sound = primaries.clone().find(|node| !node.connections.is_suspicious());
                sound.or_else(|| primaries.next()).cloned()
            }
        }
    }

    fn follow(&self, from: &Node, redirect: Redirect) -> Result<Arc<Node>, Failure> {
        // A node that does not know its own name leaves it out.
        let host = if redirect.host.is_empty() { from.address.0.clone() } else { redirect.host };
        let mut map = self.lock();
        let before = map.nodes.len();
        let node = self.known(&mut map.nodes, (host, redirect.port))?;
        if map.nodes.len() > before {
            map.share(self.near);
        }
        Ok(node)
    }

    fn known(&self, nodes: &mut HashMap<Address, Arc<Node>>, address: Address) -> Result<Arc<Node>, Failure> {
        if let Some(node) = nodes.get(&address) {
            return Ok(node.clone());
        }
        let client = self.servers.client(&address.0, address.1);
        let client = client
            .map_err(|_| Failure::no_server(true, "a node of the cluster gave an address that cannot be used"))?;
        let node = Arc::new(Node {
            connections: ReadWriteConnections::new(
                Target::Server(client.into()),
                self.limits,
                (self.near > 0).then(|| Arc::new(NearCache::new(self.near, Reports::ByServer))),
            ),
            address: address.clone(),
        });
        nodes.insert(address, node.clone());
        Ok(node)
    }

    /// Asks the nodes for the map, unless that was begun less than `pause` ago or has been done while we waited.
    async fn refresh(&self, pause: Duration) -> Result<(), Failure> {
        let called = Instant::now();
        let mut begun = self.refreshing.lock().await;
        if begun.is_some_and(|begun| begun + pause > called) {
            return Ok(());
        }
        *begun = Some(Instant::now());
        let mut nodes: Vec<_> = self.lock().nodes.values().cloned().collect();
        // Nodes that answered last time come first. Those that hang are asked at the very end, if at all.
        nodes.sort_by_key(|node| node.connections.is_suspicious());
        let each = (self.limits.timeout / 5).max(Duration::from_millis(20));
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        let question = Message::One(question);
        let mut last = Failure::no_server(false, "no node of the cluster can be reached");
        for node in nodes {
            match timeout(each, node.connections.send(&question, Attempt::first(Instant::now()))).await {
                Ok(Ok(answer)) if self.learn(&answer.value, &node.address.0) => return Ok(()),
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(failure)) => last = failure,
            }
        }
        for seed in &self.seeds {
            match timeout(each, seed.connections.send(&question, Attempt::first(Instant::now()))).await {
                Ok(Ok(answer)) if self.learn(&answer.value, &seed.address.0) => {
                    // From now on it is asked under the address that the cluster has for it.
                    seed.connections.disconnect();
                    return Ok(());
                }
                Ok(Ok(_)) => last = Failure::no_server(true, "the cluster has no slots"),
                Ok(Err(failure)) => last = failure,
                Err(_) => {}
            }
        }
        Err(last)
    }

    /// Takes over the answer to `CLUSTER SLOTS`, if there is something in it.
    fn learn(&self, answer: &Value, answered: &str) -> bool {
        let ranges = ranges(answer, answered);
        if ranges.is_empty() {
            return false;
        }
        let mut map = self.lock();
        let mut nodes = std::mem::take(&mut map.nodes);
        let mut kept = HashMap::new();
        map.moved.clear();
        let before = std::mem::take(&mut map.ranges);
        map.ranges = ranges
            .into_iter()
            .filter_map(|(first, last, address)| {
                let node = self.known(&mut nodes, address).ok()?;
                kept.insert(node.address.clone(), node.clone());
                Some((first, last, node))
            })
            .collect();
        map.nodes = kept;
        for (first, last, node) in before {
            let at = map.ranges.binary_search_by_key(&first, |(first, ..)| *first);
            let now = at.ok().and_then(|at| map.ranges.get(at));
            if !now.is_some_and(|now| now.1 == last && Arc::ptr_eq(&now.2, &node)) {
                node.forget();
            }
        }
        map.share(self.near);
        true
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Has everything that was read from this node read again: it lost slots, and does not report their changes any more.
    fn forget(&self) {
        if let Some(near) = self.connections.near() {
            near.invalidate_all();
        }
    }
}

impl Map {
    /// Shares the room for what is read among the nodes.
    fn share(&self, bytes: usize) {
        let each = bytes / self.nodes.len().max(1);
        self.nodes.values().filter_map(|node| node.connections.near()).for_each(|near| near.resize(each));
    }

    fn node(&self, slot: u16) -> Option<Arc<Node>> {
        if let Some(node) = self.moved.get(&slot) {
            return Some(node.clone());
        }
        let index = self.ranges.partition_point(|(_, last, _)| *last < slot);
        let (first, _, node) = self.ranges.get(index)?;
        (*first <= slot).then(|| node.clone())
    }
}

/// The slots and primaries in an answer to `CLUSTER SLOTS`, sorted.
fn ranges(answer: &Value, answered: &str) -> Vec<(u16, u16, Address)> {
    let Value::Array(entries) = answer else { return Vec::new() };
    let number = |value: &Value| match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    };
    let text = |value: &Value| match value {
        Value::BulkString(text) => String::from_utf8(text.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    };
    let mut ranges: Vec<_> = entries
        .iter()
        .filter_map(|entry| {
            let Value::Array(entry) = entry else { return None };
            let [first, last, Value::Array(primary), ..] = entry.as_slice() else { return None };
            let [host, port, ..] = primary.as_slice() else { return None };
            // A node that does not know its own name leaves it out, or says `?`.
            let host = text(host).filter(|host| !host.is_empty() && host != "?");
            let host = host.unwrap_or_else(|| answered.to_owned());
            Some((number(first)?, number(last)?, (host, number(port)?)))
        })
        .collect();
    ranges.sort_unstable_by_key(|(first, ..)| *first);
    ranges
}

/// The slot of the command's key, if it has one.
fn slot_of(command: &Cmd) -> Option<u16> {
    let mut args = command.args_iter().map(|arg| match arg {
        Arg::Simple(arg) => arg,
        _ => b"",
    });
    let key = match args.next()? {
        b"EVAL" | b"EVALSHA" => args.nth(2),
        _ => args.next(),
    };
    key.map(slot)
}

/// By the part between the first `{` and the next `}`, if there is something, else by the whole key.
fn slot(key: &[u8]) -> u16 {
    let tag = || {
        let rest = key.get(key.iter().position(|byte| *byte == b'{')? + 1..)?;
        let end = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..end).filter(|tag| !tag.is_empty())
    };
    crc16(tag().unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As `CLUSTER KEYSLOT` says.
        for (key, is) in [("foo", 12182), ("bar", 5061), ("123456789", 12739), ("", 0)] {
            assert_eq!(slot(key.as_bytes()), is, "{key}");
        }
        assert_eq!(slot(b"{foo}.a"), slot(b"foo"));
        assert_eq!(slot(b"a{foo}{bar}"), slot(b"foo"));
        assert_ne!(slot(b"{}foo"), slot(b""));
        assert_ne!(slot(b"{foo"), slot(b"foo"));
    }

    #[test]
    fn the_key_of_a_command_is_found() {
        let mut get = redis::cmd("GET");
        get.arg("foo");
        let mut script = redis::cmd("EVALSHA");
        script.arg("hash").arg(1).arg("foo").arg("bar");
        assert_eq!((slot_of(&get), slot_of(&script)), (Some(12182), Some(12182)));
        assert_eq!(slot_of(&redis::cmd("PING")), None);
    }

    #[test]
    fn a_map_is_read_with_the_primaries_only() {
        let text = "*2\r\n*4\r\n:8192\r\n:16383\r\n*2\r\n$1\r\nb\r\n:2\r\n*2\r\n$1\r\nc\r\n:3\r\n\
                    *3\r\n:0\r\n:8191\r\n*2\r\n$0\r\n\r\n:1\r\n";
        let answer = redis::parse_redis_value(text.as_bytes()).unwrap();
        let is = ranges(&answer, "answered");
        assert_eq!(is, [(0, 8191, ("answered".to_owned(), 1)), (8192, 16383, ("b".to_owned(), 2))]);
        assert_eq!(ranges(&Value::Okay, "answered"), []);
    }

    fn map_of(nodes: &[(u16, u16, u16)]) -> Value {
        let nodes = nodes.iter().map(|(first, last, port)| {
            let node = vec![Value::SimpleString("127.0.0.1".to_owned()), Value::Int((*port).into())];
            Value::Array(vec![Value::Int((*first).into()), Value::Int((*last).into()), Value::Array(node)])
        });
        Value::Array(nodes.collect())
    }

    #[test]
    fn what_was_read_from_a_node_that_lost_slots_is_forgotten() {
        use crate::cache::{
            near::NearLookup,
            redis::{builder::DEFAULT_LIMITS, clients},
        };

        let info = clients::read("redis://127.0.0.1").unwrap();
        let servers = ServerSettings::like(&info, &Default::default());
        let cluster = Cluster::new(Vec::new(), servers, DEFAULT_LIMITS, 1 << 20);
        assert!(cluster.near("foo").is_none(), "no node is known");
        // `bar` has slot 5061, `foo` 12182.
        assert!(cluster.learn(&map_of(&[(0, 8191, 1), (8192, 16383, 2)]), ""));
        let keep = |key: &str, number| {
            let near = cluster.near(key).unwrap();
            near.begin(number, Instant::now());
            let NearLookup::Miss(token) = near.find(key, None) else { panic!("nothing was read") };
            near.fill(
                &token,
                key,
                &crate::cache::near::Fetched {
                    entry: crate::Entry { value: bytes::Bytes::new(), version: crate::Version::from(1) },
                    idle: 60_000,
                    end: u64::MAX,
                    left: 60_000,
                },
            );
            near
        };
        let has = |near: &NearCache, key: &str| matches!(near.find(key, None), NearLookup::Hit(_));
        let (first, second) = (keep("bar", 1), keep("foo", 2));
        assert!(cluster.learn(&map_of(&[(0, 8191, 1), (8192, 16383, 2)]), ""));
        assert!(has(&first, "bar") && has(&second, "foo"), "nothing has moved");
        cluster.each_near(|near| near.invalidate(b"bar"));
        assert!(!has(&first, "bar") && has(&second, "foo"));
        let first = keep("bar", 1);
        assert!(cluster.learn(&map_of(&[(0, 8191, 1), (8192, 12000, 2), (12001, 16383, 3)]), ""));
        assert!(has(&first, "bar") && !has(&second, "foo"));
        assert!(!Arc::ptr_eq(&second, &cluster.near("foo").unwrap()), "another node has it");
    }
}
