//! What must not break a server: damaged releases, swaps under load, kills, full disks, slow and hostile clients.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Project, Server, Shop, ids};

/// xorshift64*. Source: Vigna, "An experimental exploration of Marsaglia's xorshift generators".
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n.max(1) as u64) as usize
    }
}

/// A project with two releases; returns the one that is not active as well.
fn two_releases() -> (Project, String) {
    let project = Project::trained(&Shop::default());
    project.configure("training.seed", 8);
    project.configure("training.ranker.n_trees", 60);
    project.run(["train"]);
    let listed = project.run(["releases", "list", "--json"]).done().json();
    let releases = listed["releases"].as_array().expect("a shelf");
    let other = releases.iter().find(|release| release["active"] == false);
    let other = other.and_then(|release| release["id"].as_str()).expect("there are two releases");
    (project, other.to_owned())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn damaged_releases_are_refused_with_a_reason_and_the_active_one_serves() {
    let (project, other) = two_releases();
    let server = project.serve();
    let activate = format!("/v1/releases/{other}/activate");
    let folder = project.path("cascade-data/releases").join(&other);
    let files = files(&folder);
    assert!(files.len() > 4, "{files:?}");
    let mut random = Random(7);
    let active = server.get("/health/ready").json()["release"].clone();
    let mut reasons = BTreeSet::new();
    for case in 0..500 {
        let path = &files[random.below(files.len())];
        let whole = fs::read(path).expect("it can be read");
        let mut bytes = whole.clone();
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.below(256) as u8),
            _ => bytes[at] ^= 1 << random.below(8),
        }
        fs::write(path, &bytes).expect("it can be written");
        let answer = server.post(&activate, &json!({}));
        let name = path.display();
        assert_eq!(answer.status, 409, "case {case}: {name} at {at}: {}", answer.body);
        let problem: Value = serde_json::from_str(&answer.body).expect("a problem is JSON");
        let detail = problem["detail"].as_str().expect("it has a reason");
        reasons.insert(detail.split(' ').next_back().unwrap_or_default().to_owned());
        fs::write(path, &whole).expect("it can be written");
        if case % 50 == 0 {
            assert_eq!(server.get("/health/ready").json()["release"], active);
            assert!(
                !ids(&server.post("/v1/recommend", &json!({ "user_id": "u1" })).json()).is_empty()
            );
        }
    }
    // It was the damage.
    assert_eq!(server.post(&activate, &json!({})).json()["active"], json!(other));
}

#[test]
fn a_hundred_swaps_under_load_fail_no_request_and_mix_no_answer() {
    let (project, other) = two_releases();
    let server = project.serve();
    let first = server.get("/health/ready").json()["release"].as_str().expect("a name").to_owned();
    let question = json!({ "user_id": "u3", "n": 20, "dry_run": true, "deadline_ms": 10_000 });
    let is_over = AtomicBool::new(false);
    let ask = || {
        let post = server.poster("/v1/recommend");
        let mut lists: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
        while !is_over.load(Ordering::SeqCst) {
            let answer = post(&question).expect("the server answers").json();
            let release = answer["release"].as_str().expect("it names its release").to_owned();
            lists.entry(release).or_default().insert(ids(&answer));
        }
        lists
    };
    let (before, lists) = thread::scope(|scope| {
        let askers: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        let mut before = 0;
        for i in 0..100 {
            let id = if i % 2 == 0 { &other } else { &first };
            let swapped = server.post(&format!("/v1/releases/{id}/activate"), &json!({})).json();
            assert_eq!(swapped["active"], json!(id));
            if i == 20 {
                before = server.resident_kb();
            }
        }
        let after = server.resident_kb();
        assert!(after < before + before / 5 + 16_384, "{before} kB became {after} kB");
        is_over.store(true, Ordering::SeqCst);
        let lists = askers.into_iter().map(|asker| asker.join().expect("nobody was refused"));
        (before, lists.collect::<Vec<_>>())
    });
    assert!(before > 0);
    let mut all: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (release, answers) in lists.into_iter().flatten() {
        all.entry(release).or_default().extend(answers);
    }
    assert_eq!(all.keys().collect::<BTreeSet<_>>(), [&first, &other].into());
    // The clock goes on, so a list may change by itself, but it is never the other release's.
    let (a, b) = (&all[&first], &all[&other]);
    assert!(a.is_disjoint(b), "{a:?} {b:?}");
}

fn batch(name: usize) -> Value {
    let event = |i: usize| {
        json!({
            "event_id": format!("k{name}-{i}"), "type": "purchase",
            "user_id": format!("u{}", i % 150), "item_id": format!("i{}", (name + i) % 300),
        })
    };
    (0..5).map(event).collect()
}

/// `CASCADE_KILLS` says how often; 200 take a minute.
#[test]
fn events_survive_many_kills() {
    let n_kills = std::env::var("CASCADE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let project = Project::trained(&Shop::default());
    let mut random = Random(11);
    let (mut next, mut acknowledged) = (0, Vec::new());
    for _ in 0..n_kills {
        let mut server = project.serve();
        let post = server.poster("/v1/events");
        let delay = Duration::from_micros(random.below(60_000) as u64);
        let (sent, names) = thread::scope(|scope| {
            let poster = scope.spawn(move || {
                let mut names = Vec::new();
                for name in next.. {
                    match post(&batch(name)) {
                        Some(answer) if answer.status == 200 => names.push(name),
                        _ => return (name + 1, names),
                    }
                }
                unreachable!("it goes on until the server is gone")
            });
            thread::sleep(delay);
            server.kill();
            poster.join().expect("the poster ends")
        });
        next = sent;
        acknowledged.extend(names);
    }
    assert!(acknowledged.len() > n_kills, "too few events to show anything");
    let server = project.serve();
    for name in &acknowledged {
        let again = server.post("/v1/events", &batch(*name)).json();
        assert_eq!(again["duplicate"], 5, "batch {name}: {again}");
    }
    assert_eq!(server.terminate().0, Some(0));
    project.run(["verify-features"]).done();
}

#[test]
fn a_full_disk_refuses_events_and_nothing_else_until_there_is_room() {
    let project = Project::trained(&Shop::default());
    let disk = tempfile::tempdir().expect("a temporary folder can be made");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(disk.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a small disk cannot be mounted here; it takes root");
        return;
    }
    let unmount = Unmount(disk.path());
    let copied =
        Command::new("cp").arg("-r").arg(project.path("cascade-data")).arg(disk.path()).status();
    assert!(copied.expect("there is a cp").success());
    let data = disk.path().join("cascade-data");
    project.configure("data_dir", data.to_str().expect("UTF-8"));
    let server = project.serve();
    let filler = disk.path().join("filler");
    let mut file = fs::File::create(&filler).expect("there is room for a name");
    while file.write_all(&[7; 4_096]).is_ok() {}
    let mut refused = 0;
    for name in 0..400 {
        let answer = server.post("/v1/events", &batch(name));
        match answer.status {
            200 => assert_eq!(refused, 0, "a full disk has room again"),
            507 => refused += 1,
            status => panic!("{status}: {}", answer.body),
        }
        if name % 50 == 0 {
            let answer = server.post("/v1/recommend", &json!({ "user_id": "u1" })).json();
            assert!(!ids(&answer).is_empty(), "{answer}");
        }
    }
    assert!(refused > 0, "the disk was not full");
    drop(file);
    fs::remove_file(&filler).expect("it can be removed");
    for name in 400..450 {
        assert_eq!(server.post("/v1/events", &batch(name)).json()["accepted"], 5);
    }
    assert_eq!(server.terminate().0, Some(0));
    project.run(["verify-features"]).done();
    drop(unmount);
}

/// Unmounts the small disk, whatever happens.
struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn two_thousand_slow_clients_keep_nobody_waiting() {
    let server = Project::trained(&Shop::default()).serve();
    let address = server.url.trim_start_matches("http://").to_owned();
    let head = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 20\r\n";
    // Each takes an open file, here and in the server.
    let n_slow = 2_000.min(open_files().saturating_sub(200));
    let mut slow = Vec::new();
    for _ in 0..n_slow {
        match TcpStream::connect(&address) {
            Ok(stream) => slow.push(stream),
            Err(error) => panic!("connection {}: {error}", slow.len()),
        }
    }
    for second in 0..4 {
        for stream in &mut slow {
            // The server may have had enough of it.
            let _ = stream.write_all(&head[second..=second]);
        }
        let started = Instant::now();
        for user in 0..20 {
            let answer =
                server.post("/v1/recommend", &json!({ "user_id": format!("u{user}") })).json();
            assert!(!ids(&answer).is_empty());
        }
        assert!(started.elapsed() < Duration::from_secs(10), "others are kept waiting");
    }
    drop(slow);
    assert_eq!(server.get("/health/ready").status, 200);
}

/// How many files a process may have open here.
fn open_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(1_024)
}

/// What a server answers to bytes of which nobody would think.
fn raw(server: &Server, request: &[u8]) -> String {
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("it listens");
    let wait = Some(Duration::from_secs(15));
    stream.set_read_timeout(wait).expect("it is a socket");
    // It may answer and close before all is written.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.take(1 << 16).read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn hostile_bodies_are_answered_as_problems_and_take_no_memory() {
    let server = Project::trained(&Shop::default()).serve();
    server.post("/v1/recommend", &json!({ "user_id": "u1" })).json();
    let before = server.resident_kb();
    let deep = "[".repeat(60_000);
    let wide = format!("{{\"exclude_ids\": [{}]}}", vec!["\"a\""; 10_001].join(","));
    let long = format!("{{\"user_id\": \"{}\"}}", "x".repeat(10_000));
    let keys = (0..3_000).map(|i| format!("\"k{i}\": 1")).collect::<Vec<_>>().join(",");
    let bodies = [
        "",
        "{",
        "nul",
        "{\"n\": NaN}",
        "{\"n\": 1e400}",
        "{\"n\": -1}",
        "{\"n\": 1.5}",
        "{\"n\": 5, \"n\": 6}",
        "{\"user_id\": \"a\", \"user_id\": \"b\"}",
        "\u{0}",
        "{} {}",
        "{\"user_id\": \"\\ud800\"}",
        "{\"user_id\": 5}",
        "[{}]",
        "\"x\"",
        &deep,
        &wide,
        &long,
        &format!("{{{keys}}}"),
        &format!("{{\"filter\": {}1{}}}", "{\"must\":[".repeat(5_000), "]}".repeat(5_000)),
    ];
    for round in 0..30 {
        for body in bodies {
            for path in ["/v1/recommend", "/v1/events", "/v1/items", "/v1/rank", "/v1/similar"] {
                let answer = server.post_text(path, "application/json", body);
                let is_told = (400..500).contains(&answer.status);
                // Events and items are taken one by one, and the answer says what is wrong with each.
                let is_many = answer.status == 200 && path != "/v1/recommend";
                let start: String = body.chars().take(60).collect();
                assert!(is_told || is_many, "{path} {start}: {} {}", answer.status, answer.body);
                if is_told {
                    assert_eq!(answer.content_type, "application/problem+json", "{path} {start}");
                }
            }
        }
        if round == 0 {
            let huge = vec![b'x'; 8 << 20];
            let head =
                "POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n";
            let answer = raw(&server, &[head.as_bytes(), &huge].concat());
            assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
            let header = format!(
                "GET /health/live HTTP/1.1\r\nhost: x\r\nx-a: {}\r\n\r\n",
                "y".repeat(1 << 20)
            );
            assert!(!raw(&server, header.as_bytes()).starts_with("HTTP/1.1 5"));
        }
    }
    let after = server.resident_kb();
    assert!(after < before + 65_536, "{before} kB became {after} kB");
    assert_eq!(server.get("/health/ready").status, 200);
}
