//! Connections to the nodes of Redis: one pipeline per node and call, and a breaker for each node, so that one that hangs
//! costs nobody more than a few calls.
//!
//! A call has a time by which it must end. Whatever fails or is late leaves its connection behind, since a late reply
//! would be taken for that of the next command.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ::redis::{
    Cmd, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, Value,
};
use rustc_hash::FxHashMap;

use super::addresses::Addresses;
use super::breaker::Breaker;
use super::error::{RedisError, late, refused, sent};
use super::session::Session;
use super::topology::{N_SLOTS, Topology, range_of, slot_of};
use super::wire::Wire;

/// How long a node may take to tell about the cluster.
const TOPOLOGY_TIMEOUT: Duration = Duration::from_millis(200);

/// The cluster is asked about itself at most so often.
const TOPOLOGY_PAUSE: Duration = Duration::from_millis(100);

/// How long a node may take to look through a part of its keys.
const SCAN_TIMEOUT: Duration = Duration::from_secs(10);

/// Errors of a node that will answer later.
const NOT_NOW: [&str; 5] = ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"];

/// Connections that wait for their next call; further ones are closed.
const MAX_IDLE: usize = 64;

/// A command on its way to the node that has the slot of its key.
#[derive(Clone)]
pub(super) struct Command {
    slot: u16,
    bytes: Vec<u8>,
}

impl Command {
    pub(super) fn new(key: &str, cmd: &Cmd) -> Self {
        Self { slot: slot_of(key), bytes: cmd.get_packed_command() }
    }

    /// Has a node take the next command for a slot that is on its way to it.
    fn asking(slot: u16) -> Self {
        Self { slot, bytes: asking() }
    }
}

/// The same in bytes.
pub(super) fn asking() -> Vec<u8> {
    ::redis::cmd("ASKING").get_packed_command()
}

/// The nodes of one Redis, alone or as a cluster.
pub struct Nodes {
    /// Host and port of the nodes of the configuration.
    seeds: Vec<Arc<str>>,
    /// How a connection introduces itself.
    settings: RedisConnectionInfo,
    addresses: Addresses,
    topology: RwLock<Topology>,
    breakers: Mutex<FxHashMap<Arc<str>, Breaker>>,
    idle: Mutex<Vec<Session>>,
    asked_at: Mutex<Option<Instant>>,
}

impl Nodes {
    /// The Redis at `urls`: several are the seeds of a cluster. Nothing is connected yet.
    ///
    /// # Errors
    /// If one is not a URL of Redis, or there is none.
    pub fn new(urls: &[String]) -> Result<Self, RedisError> {
        let parse = |url: &String| {
            let error = |reason: String| RedisError::Url { url: without_password(url), reason };
            if url.starts_with("rediss:") {
                return Err(error("TLS is not supported; use a tunnel".into()));
            }
            let info = url.as_str().into_connection_info().map_err(|e| error(e.to_string()))?;
            let ConnectionAddr::Tcp(host, port) = info.addr() else {
                return Err(error("it must be redis://host:port".into()));
            };
            Ok((format!("{host}:{port}").into(), info.redis_settings().clone()))
        };
        let parsed = urls.iter().map(parse).collect::<Result<Vec<(Arc<str>, _)>, _>>()?;
        let none = || RedisError::Url { url: String::new(), reason: "there is none".into() };
        let settings = parsed.first().ok_or_else(none)?.1.clone();
        Ok(Self {
            seeds: parsed.into_iter().map(|(node, _)| node).collect(),
            settings,
            addresses: Addresses::default(),
            topology: RwLock::default(),
            breakers: Mutex::default(),
            idle: Mutex::default(),
            asked_at: Mutex::default(),
        })
    }

    /// Runs `commands`, each on the node of its key, and returns their results in their order, at `until` at the latest.
    pub(super) fn run(
        &self,
        commands: &[Command],
        until: Instant,
    ) -> Vec<Result<Value, RedisError>> {
        let mut session = lock(&self.idle).pop().unwrap_or_default();
        let results = self.run_in(&mut session, commands, until);
        let mut idle = lock(&self.idle);
        if idle.len() < MAX_IDLE {
            idle.push(session);
        }
        results
    }

    /// The same, over the connections of `session`.
    pub(super) fn run_in(
        &self,
        session: &mut Session,
        commands: &[Command],
        until: Instant,
    ) -> Vec<Result<Value, RedisError>> {
        if self.topology().ranges.is_empty() {
            self.ask_topology(until);
        }
        let all: Vec<usize> = (0..commands.len()).collect();
        let mut results: Vec<Result<Value, RedisError>> =
            commands.iter().map(|_| Err(RedisError::Moved)).collect();
        self.try_once(session, commands, &all, until, &mut results);
        let is_moved = |i: &usize| matches!(results[*i], Err(RedisError::Moved));
        let moved: Vec<usize> = all.into_iter().filter(is_moved).collect();
        if !moved.is_empty() {
            self.ask_topology(until);
            self.try_once(session, commands, &moved, until, &mut results);
        }
        self.follow(session, commands, until, &mut results);
        results
    }

    /// Runs those of `commands` that are for other nodes there.
    fn follow(
        &self,
        session: &mut Session,
        commands: &[Command],
        until: Instant,
        results: &mut [Result<Value, RedisError>],
    ) {
        let (mut by_node, mut is_new) = (Vec::<(Arc<str>, Vec<usize>)>::new(), false);
        for (i, result) in results.iter().enumerate() {
            let Err(RedisError::Elsewhere { node, has_moved }) = result else { continue };
            is_new |= has_moved;
            match by_node.iter_mut().find(|(known, _)| known == node) {
                Some((_, of_node)) => of_node.push(i),
                None => by_node.push((node.clone(), vec![i])),
            }
        }
        for (node, of_node) in by_node {
            let both = |i: &usize| [Command::asking(commands[*i].slot), commands[*i].clone()];
            let asked: Vec<Command> = of_node.iter().flat_map(both).collect();
            let all: Vec<usize> = (0..asked.len()).collect();
            let mut replies: Vec<Result<Value, RedisError>> =
                asked.iter().map(|_| Err(RedisError::Moved)).collect();
            match self.send(&node, &asked, &all, until, session) {
                Ok(()) => self.receive(&node, &all, until, session, &mut replies),
                Err(error) => replies.iter_mut().for_each(|reply| *reply = Err(error.clone())),
            }
            for (i, reply) in of_node.into_iter().zip(replies.into_iter().skip(1).step_by(2)) {
                results[i] = reply;
            }
        }
        if is_new {
            self.ask_topology(until);
        }
    }

    /// Runs one command.
    ///
    /// # Errors
    /// If it has no result by `until`.
    pub(super) fn run_one(&self, command: Command, until: Instant) -> Result<Value, RedisError> {
        let mut results = self.run(&[command], until);
        results.pop().unwrap_or(Err(RedisError::Moved))
    }

    /// A connection for calls that block, to the node that has `key`, and which node that is.
    ///
    /// # Errors
    /// If it cannot be had by `until`.
    pub(super) fn connection_for(
        &self,
        key: &str,
        until: Instant,
    ) -> Result<(Wire, Arc<str>), RedisError> {
        if self.topology().ranges.is_empty() {
            self.ask_topology(until);
        }
        let slot = slot_of(key);
        let topology = self.topology();
        let node = topology.node_of(slot).ok_or_else(|| self.unserved(&topology, slot))?;
        Ok((self.connect(node, until)?, node.clone()))
    }

    /// Calls `look` with the keys of `node` that match `pattern`, some at a time.
    ///
    /// # Errors
    /// If the node does not answer, or `look` fails.
    pub(super) fn scan(
        &self,
        node: &str,
        pattern: &str,
        mut look: impl FnMut(Vec<String>) -> Result<(), RedisError>,
    ) -> Result<(), RedisError> {
        let mut connection = self.connect(node, Instant::now() + SCAN_TIMEOUT)?;
        let mut cursor = 0u64;
        loop {
            let mut cmd = ::redis::cmd("SCAN");
            cmd.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000);
            let value = connection.call(&cmd.get_packed_command(), Instant::now() + SCAN_TIMEOUT);
            let value = sent(value.and_then(Value::extract_error), node)?;
            let (next, keys): (u64, Vec<String>) =
                sent(::redis::from_redis_value(value).map_err(Into::into), node)?;
            look(keys)?;
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// How often it changed who serves which slots.
    pub(super) fn topology_version(&self) -> u64 {
        self.topology().version
    }

    /// Nodes that serve slots.
    pub(super) fn masters(&self, until: Instant) -> Vec<Arc<str>> {
        if self.topology().ranges.is_empty() {
            self.ask_topology(until);
        }
        let mut nodes: Vec<Arc<str>> =
            self.topology().ranges.iter().map(|(_, _, node)| node.clone()).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    /// Asks the cluster who serves what, if a node fails or slots have no node: somebody else may have taken over. To be called now and then.
    pub fn maintain(&self) {
        let topology = self.topology();
        let is_doubtful =
            || !topology.serves_all() || lock(&self.breakers).values().any(Breaker::is_failing);
        if topology.is_cluster && is_doubtful() {
            self.ask_topology(Instant::now() + TOPOLOGY_TIMEOUT);
        }
    }

    /// Why nobody serves `slot`.
    fn unserved(&self, topology: &Topology, slot: u16) -> RedisError {
        match topology.ranges.is_empty() {
            true => RedisError::Unreachable(self.seeds.join(", ")),
            false => RedisError::Unserved { slot },
        }
    }

    fn topology(&self) -> Topology {
        self.topology.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn try_once(
        &self,
        session: &mut Session,
        commands: &[Command],
        which: &[usize],
        until: Instant,
        results: &mut [Result<Value, RedisError>],
    ) {
        let topology = self.topology();
        let mut by_node: Vec<(Arc<str>, Vec<usize>)> = Vec::new();
        for i in which {
            let slot = commands[*i].slot;
            let Some(node) = topology.node_of(slot) else {
                results[*i] = Err(self.unserved(&topology, slot));
                continue;
            };
            match by_node.iter_mut().find(|(known, _)| known == node) {
                Some((_, of_node)) => of_node.push(*i),
                None => by_node.push((node.clone(), vec![*i])),
            }
        }
        // What needs no new connection goes first, and those that must connect share the time: one may hang.
        by_node.sort_by_key(|(node, _)| session.connection(node).is_none());
        let (n_nodes, mut sent) = (by_node.len(), Vec::with_capacity(by_node.len()));
        for (i, (node, of_node)) in by_node.into_iter().enumerate() {
            let now = Instant::now();
            let until = now + until.saturating_duration_since(now) / (n_nodes - i) as u32;
            let result = self.send(&node, commands, &of_node, until, session);
            match result {
                Ok(()) => sent.push((node, of_node)),
                Err(error) => of_node.iter().for_each(|i| results[*i] = Err(error.clone())),
            }
        }
        for (node, of_node) in sent {
            self.receive(&node, &of_node, until, session, results);
        }
    }

    fn send(
        &self,
        node: &Arc<str>,
        commands: &[Command],
        of_node: &[usize],
        until: Instant,
        session: &mut Session,
    ) -> Result<(), RedisError> {
        // Another node may have used up the time: that is not this one's failure.
        if left(until).is_none() {
            return Err(late(node));
        }
        if !lock(&self.breakers).entry(node.clone()).or_default().admits(Instant::now()) {
            return Err(RedisError::Open { node: node.to_string() });
        }
        let mut bytes = Vec::new();
        of_node.iter().for_each(|i| bytes.extend_from_slice(&commands[*i].bytes));
        // A connection that was closed meanwhile is told apart from a node that fails: it is tried anew, once.
        if let Some(connection) = session.connection(node) {
            if connection.send(&bytes, until).is_ok() {
                return Ok(());
            }
            session.forget(node);
        }
        let protocol = match session.is_tracking() {
            true => ProtocolVersion::RESP3,
            false => ProtocolVersion::RESP2,
        };
        let fresh = self.connect_with(node, protocol, until).and_then(|connection| {
            let connection = session.insert(node, connection, until)?;
            sent(connection.send(&bytes, until), node)
        });
        fresh.inspect_err(|_| {
            // A part of the bytes may have been sent.
            session.forget(node);
            self.fail(node);
        })
    }

    fn receive(
        &self,
        node: &Arc<str>,
        of_node: &[usize],
        until: Instant,
        session: &mut Session,
        results: &mut [Result<Value, RedisError>],
    ) {
        // If another node has used up the time, that is not this one's failure.
        let (mut failed, had_time) = (None, left(until).is_some());
        for i in of_node {
            if let Some(error) = &failed {
                results[*i] = Err(RedisError::clone(error));
                continue;
            }
            let Some(received) = session.receive(node, until) else { return };
            results[*i] = match received {
                Ok(Value::ServerError(error)) => Err(refused(error.into(), node)),
                Ok(value) => Ok(value),
                Err(error) => {
                    failed = Some(error.clone());
                    Err(error)
                }
            };
        }
        if failed.is_some() {
            session.forget(node);
            if had_time {
                self.fail(node);
            }
        } else {
            *lock(&self.breakers).entry(node.clone()).or_default() = Breaker::default();
        }
    }

    fn fail(&self, node: &Arc<str>) {
        lock(&self.breakers).entry(node.clone()).or_default().fail(Instant::now());
    }

    /// A connection to `node`.
    ///
    /// # Errors
    /// If it cannot be had by `until`.
    pub(super) fn connect(&self, node: &str, until: Instant) -> Result<Wire, RedisError> {
        self.connect_with(node, ProtocolVersion::RESP2, until)
    }

    fn connect_with(
        &self,
        node: &str,
        protocol: ProtocolVersion,
        until: Instant,
    ) -> Result<Wire, RedisError> {
        let settings = self.settings.clone().set_protocol(protocol);
        sent(Wire::connect(&self.addresses, node, &settings, until), node)
    }

    /// Asks seeds and nodes who serves which slots, until one tells.
    pub(super) fn ask_topology(&self, until: Instant) {
        {
            let mut asked_at = lock(&self.asked_at);
            if asked_at.is_some_and(|at| at.elapsed() < TOPOLOGY_PAUSE) {
                return;
            }
            *asked_at = Some(Instant::now());
        }
        let known = self.topology();
        let is_failing =
            |node: &str| lock(&self.breakers).get(node).is_some_and(|breaker| breaker.is_failing());
        let seeds = self.seeds.iter().cloned();
        let nodes = known.ranges.iter().map(|(_, _, node)| node.clone());
        let mut nodes: Vec<Arc<str>> = seeds.chain(nodes).collect();
        nodes.sort();
        nodes.dedup();
        nodes.sort_by_key(|node| is_failing(node));
        for node in nodes {
            let until = until.min(Instant::now() + TOPOLOGY_TIMEOUT);
            if let Some(topology) = self.topology_by(&node, until) {
                let mut breakers = lock(&self.breakers);
                breakers
                    .retain(|node, _| topology.ranges.iter().any(|(_, _, known)| known == node));
                drop(breakers);
                let mut known = self.topology.write().unwrap_or_else(PoisonError::into_inner);
                let version = known.version + u64::from(known.ranges != topology.ranges);
                *known = Topology { version, ..topology };
                return;
            }
        }
    }

    fn topology_by(&self, node: &Arc<str>, until: Instant) -> Option<Topology> {
        let mut connection = self.connect(node, until).ok()?;
        let cmd = ::redis::cmd("CLUSTER").arg("SLOTS").get_packed_command();
        connection.send(&cmd, until).ok()?;
        match connection.receive(until).ok()? {
            Value::Array(ranges) if !ranges.is_empty() => {
                let ranges: Option<Vec<_>> =
                    ranges.iter().map(|range| range_of(range, node)).collect();
                Some(Topology { is_cluster: true, version: 0, ranges: ranges? })
            }
            // It cannot tell now.
            Value::ServerError(error) if NOT_NOW.contains(&error.code()) => None,
            Value::ServerError(_) => Some(Topology {
                is_cluster: false,
                version: 0,
                ranges: vec![(0, N_SLOTS - 1, node.clone())],
            }),
            _ => None,
        }
    }
}

/// The time until `until`, if there is some.
fn left(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    (left >= Duration::from_micros(100)).then_some(left)
}

fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.into(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// A node that answers every command at once, or never.
    fn node(answers: bool) -> Arc<str> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if answers {
                    std::thread::spawn(move || {
                        while stream.read(&mut [0; 512]).is_ok_and(|n| n > 0) {
                            stream.write_all(b"+OK\r\n").unwrap();
                        }
                    });
                } else {
                    open.push(stream);
                }
            }
        });
        address.into()
    }

    #[test]
    fn a_node_that_hangs_does_not_make_others_fail() {
        let (start, hangs, answers) = (Instant::now(), node(false), node(true));
        // With a password, connecting takes an answer.
        let nodes = Nodes::new(&[format!("redis://:secret@{hangs}")]).unwrap();
        let ranges = vec![(0, 8_191, hangs.clone()), (8_192, N_SLOTS - 1, answers.clone())];
        *nodes.topology.write().unwrap() = Topology { is_cluster: true, version: 0, ranges };
        let bytes = ::redis::cmd("PING").get_packed_command();
        let ping = |slot| Command { slot, bytes: bytes.clone() };
        for i in 0..5 {
            let until = Instant::now() + Duration::from_millis(30);
            let results = nodes.run(&[ping(1), ping(9_000)], until);
            assert!(results[0].is_err() && results[1].is_ok(), "{i}: {results:?}");
        }
        assert!(!lock(&nodes.breakers).get_mut(&hangs).unwrap().admits(start));
        assert!(!lock(&nodes.breakers)[&answers].is_failing());
    }

    #[test]
    fn a_reply_that_comes_byte_by_byte_is_late_as_a_whole() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let node: Arc<str> = listener.local_addr().unwrap().to_string().into();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let reply = format!("$80\r\n{}\r\n", "x".repeat(80));
                    for byte in reply.bytes() {
                        std::thread::sleep(Duration::from_millis(10));
                        (&stream).write_all(&[byte])?;
                    }
                    (&stream).read(&mut [0])
                });
            }
        });
        let nodes = Nodes::new(&[format!("redis://{node}")]).unwrap();
        let ranges = vec![(0, N_SLOTS - 1, node)];
        *nodes.topology.write().unwrap() = Topology { is_cluster: false, version: 0, ranges };
        let get = || Command::new("k", ::redis::cmd("GET").arg("k"));
        let within = |ms| nodes.run_one(get(), Instant::now() + Duration::from_millis(ms));
        let error = within(100).unwrap_err();
        assert!(matches!(error, RedisError::Node { .. }), "{error}");
        // Given the time, it is whole.
        assert!(matches!(within(60_000), Ok(Value::BulkString(bytes)) if bytes.len() == 80));
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(without_password("redis://me:secret@host:1/0"), "redis://host:1/0");
        let message = Nodes::new(&["rediss://:secret@h".into()]).err().unwrap().to_string();
        assert!(message.contains("TLS") && !message.contains("secret"), "{message}");
    }
}
