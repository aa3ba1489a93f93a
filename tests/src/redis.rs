//! Real processes of Redis.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::server::signal;

/// A `redis-server` of its own, which keeps every write; it is killed when this is dropped.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    folder: TempDir,
    /// Its port on this machine.
    pub port: u16,
    is_cluster_node: bool,
}

impl Redis {
    /// Starts one. `None`, loudly, if there is no `redis-server` on this machine.
    pub fn start() -> Option<Self> {
        Self::start_node(false)
    }

    fn start_node(is_cluster_node: bool) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let port = free_port();
        let child = match command(&folder, port, is_cluster_node).spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("SKIPPED: redis-server cannot be started: {error}");
                return None;
            }
        };
        let redis = Self { child, folder, port, is_cluster_node };
        redis.wait();
        Some(redis)
    }

    /// Starts three masters with a replica each, as a cluster.
    pub fn start_cluster() -> Option<Vec<Self>> {
        let nodes = (0..6).map(|_| Self::start_node(true)).collect::<Option<Vec<_>>>()?;
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("there is a redis-cli beside redis-server");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        // A replica that has not got its master's data yet does not take its place.
        let is_whole = |node: &Self| {
            let role = node.ask("ROLE");
            node.ask("CLUSTER INFO").contains("cluster_state:ok")
                && (role.contains("master") || role.contains("connected"))
        };
        let until = Instant::now() + Duration::from_secs(30);
        while !nodes.iter().all(is_whole) {
            assert!(Instant::now() < until, "the cluster does not come together");
            sleep(Duration::from_millis(50));
        }
        Some(nodes)
    }

    /// Has the keys that share a slot with `key` go from one master of the cluster `nodes` to another. The slot is on its way
    /// until what this returns is called.
    ///
    /// # Panics
    /// If a node refuses it.
    pub fn begin_to_move<'a>(nodes: &'a [Self], key: &str) -> impl FnOnce() + use<'a> {
        let lines = |answer: String| -> Vec<String> {
            let is_value = |line: &&str| !line.starts_with(['$', '*', '+', ':']);
            answer.lines().filter(is_value).map(str::to_owned).collect()
        };
        let does = |node: &Self, command: &str| {
            let answer = node.ask(command);
            assert!(answer.starts_with("+OK"), "{command}: {answer}");
        };
        let masters: Vec<&Self> = nodes.iter().filter(|node| node.is_master()).collect();
        let is_there = |node: &Self| node.ask(&format!("EXISTS {key}")).starts_with(":");
        let from = masters.iter().position(|node| is_there(node)).expect("a master has the slot");
        let (from, to) = (masters[from], masters[(from + 1) % masters.len()]);
        let slot = from.ask(&format!("CLUSTER KEYSLOT {key}"));
        let slot = slot.lines().next().expect("it answers").trim_start_matches(':').to_owned();
        let id_of = |node: &Self| lines(node.ask("CLUSTER MYID")).remove(0);
        does(to, &format!("CLUSTER SETSLOT {slot} IMPORTING {}", id_of(from)));
        does(from, &format!("CLUSTER SETSLOT {slot} MIGRATING {}", id_of(to)));
        for key in lines(from.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"))) {
            does(from, &format!("MIGRATE 127.0.0.1 {} {key} 0 5000", to.port));
        }
        let id = id_of(to);
        move || {
            // First the one that it comes to, so that none is without.
            does(to, &format!("CLUSTER SETSLOT {slot} NODE {id}"));
            for node in masters.iter().filter(|node| node.port != to.port) {
                does(node, &format!("CLUSTER SETSLOT {slot} NODE {id}"));
            }
        }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it answers to a line, as it comes over the wire.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn ask(&self, line: &str) -> String {
        self.try_ask(line).unwrap_or_else(|| panic!("Redis does not answer to {line}"))
    }

    /// The names and values of all keys, one behind the other, as `DUMP` and `XRANGE` tell them.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn everything(&self) -> Vec<u8> {
        let dump = "for _, key in ipairs(redis.call('KEYS', '*')) do all[#all + 1] = key; \
                    local kind = redis.call('TYPE', key).ok; \
                    if kind == 'stream' then for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do \
                    all[#all + 1] = entry[2][2] end \
                    elseif kind == 'hash' then for _, part in ipairs(redis.call('HGETALL', key)) do all[#all + 1] = part end \
                    else all[#all + 1] = redis.call('GET', key) end end";
        let script = format!("local all = {{}}; {dump}; return table.concat(all, ' ')");
        let asked = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "--raw", "EVAL", &script, "0"])
            .output()
            .expect("there is a redis-cli beside redis-server");
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        asked.stdout
    }

    fn try_ask(&self, line: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("{line}\r\nQUIT\r\n").as_bytes()).ok()?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.try_ask("PING").is_some_and(|answer| answer.contains("PONG")) {
            assert!(Instant::now() < until, "redis-server does not come up");
            sleep(Duration::from_millis(10));
        }
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after [`kill`](Self::kill), with its data.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn restart(&mut self) {
        let mut command = command(&self.folder, self.port, self.is_cluster_node);
        self.child = command.spawn().expect("it was started before");
        self.wait();
    }

    /// Has it hang, by SIGSTOP.
    pub fn hang(&self) {
        signal(&self.child, "-STOP");
    }

    /// Has it go on after [`hang`](Self::hang).
    pub fn resume(&self) {
        signal(&self.child, "-CONT");
    }

    /// Whether it is a master of the cluster.
    pub fn is_master(&self) -> bool {
        self.ask("ROLE").contains("master")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command(folder: &TempDir, port: u16, is_cluster_node: bool) -> Command {
    let mut command = Command::new("redis-server");
    command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let port = port.to_string();
    command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
    if is_cluster_node {
        command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]);
        command.args(["--repl-diskless-sync-delay", "0"]);
    }
    command
}

/// A port that is free now, low enough that the bus of a cluster node, 10,000 above, has one too.
fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let low = 10_000 + port % 20_000;
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(low) && is_free(low + 10_000) {
            return low;
        }
    }
}
