//! Several servers on one Redis: what one is told, the other knows in its next answer, and Redis may fail.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Project, Proxy, Redis, Server, Shop, ids, scored};

/// When answers must be there: these tests run beside others, on few cores.
const DEADLINE: Duration = Duration::from_millis(500);

/// A trained project whose features are in the Redis at `urls`.
fn project(urls: &[String]) -> Project {
    let project = Project::imported(&Shop::default());
    project.configure("scenarios.home.budget.total_ms", DEADLINE.as_millis() as i64);
    // A read waits for half of it at most: a machine that stalls for a moment is not a Redis that does.
    for stage in ["retrieve_ms", "rank_ms"] {
        project.configure(&format!("scenarios.home.budget.{stage}"), 100);
    }
    project.run(["train"]).done();
    project.configure("store.kind", "redis");
    let urls: Vec<toml::Value> = urls.iter().map(|url| url.as_str().into()).collect();
    project.configure("store.url", urls);
    project
}

fn recommend(server: &Server, user: &str) -> Value {
    server.post("/v1/recommend", &json!({ "user_id": user, "n": 20, "explain": "reasons" })).json()
}

#[test]
fn what_one_server_is_told_the_other_knows_in_its_next_answer() {
    let Some(redis) = Redis::start() else { return };
    let project = project(&[redis.url()]);
    let (a, b) = (project.serve(), project.serve());
    for i in 0..100 {
        let (user, item) = (format!("new{i}"), format!("i{}", i % 90));
        let event = json!({ "type": "purchase", "user_id": user, "item_id": item });
        assert_eq!(a.post("/v1/events", &event).json()["accepted"], 1);
        let answer = recommend(&b, &user);
        assert_eq!(answer["degraded"], json!([]), "{answer}");
        let is_known = answer["items"].to_string().contains(&format!(r#""item":"{item}""#));
        let reasons = answer["items"][0]["reasons"].to_string();
        assert!(is_known && !reasons.contains("cold_user"), "{i}: {answer}");
        assert_eq!(scored(&answer), scored(&recommend(&a, &user)), "{i}");
    }
    // So is a change of the catalogue.
    let shown = ids(&recommend(&b, "u1")).remove(0);
    a.patch(&format!("/v1/items/{shown}"), &json!({ "hidden": true })).json();
    assert!(!ids(&recommend(&b, "u1")).contains(&shown));
    // Two changes of one item at once, by two servers, do not undo each other.
    let path = format!("/v1/items/{}", ids(&recommend(&b, "u2")).remove(0));
    let patch = |server: &Server, fields: Value| {
        server.patch(&path, &json!({ "fields": fields })).json();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| (1..=50).for_each(|i| patch(&a, json!({ "price": i }))));
        scope.spawn(|| {
            (1..=50).for_each(|i| patch(&b, json!({ "category": format!("c{i}") })));
        });
    });
    for server in [&a, &b] {
        let fields = &server.get(&path).json()["fields"];
        assert_eq!((&fields["price"], &fields["category"]), (&json!(50.0), &json!("c50")));
    }
    let metrics = b.get("/metrics").body;
    assert!(metrics.contains("cascade_feature_cache_hits_total"), "{metrics}");
}

#[test]
fn what_is_changed_in_redis_beside_the_log_is_soon_in_the_answers() {
    let Some(redis) = Redis::start() else { return };
    let server = project(&[redis.url()]).serve();
    let before = scored(&recommend(&server, "u1"));
    assert_eq!(scored(&recommend(&server, "u1")), before);
    let keys = redis.ask("KEYS cascade:*{i:*");
    let hashes: Vec<&str> = keys.lines().filter(|line| line.starts_with("cascade")).collect();
    assert!(hashes.len() > 10, "{keys}");
    redis.ask(&format!("DEL {}", hashes.join(" ")));
    let marks: Vec<String> = hashes.iter().map(|hash| format!("{hash}:changed now")).collect();
    assert!(redis.ask(&format!("MSET {}", marks.join(" "))).starts_with("+OK"));
    // What nobody doubts is read again as well, all of it in 400 s.
    let until = Instant::now() + Duration::from_secs(5);
    while scored(&recommend(&server, "u1")) == before {
        assert!(Instant::now() < until, "the near cache has what is not in Redis any more");
        std::thread::sleep(Duration::from_millis(20));
    }
    let metrics = server.get("/metrics").body;
    let count =
        metrics.lines().find(|line| line.starts_with("cascade_feature_cache_invalidations_total"));
    assert!(count.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
}

#[test]
fn the_features_in_redis_are_those_of_the_embedded_store() {
    let Some(redis) = Redis::start() else { return };
    let alone = Project::trained(&Shop::default());
    let together = alone.copy();
    together.configure("store.kind", "redis");
    together.configure("store.url", redis.url());
    let (alone, a, b) = (alone.serve(), together.serve(), together.serve());
    let users: Vec<String> = (0..40).map(|i| format!("u{i}")).collect();
    let same = |when: &str| {
        for user in &users {
            let expected = scored(&recommend(&alone, user));
            assert_eq!(scored(&recommend(&a, user)), expected, "{when}: {user}");
            assert_eq!(scored(&recommend(&b, user)), expected, "{when}: {user}");
        }
    };
    same("at first");
    for i in 0..300 {
        let kind = if i % 3 == 0 { "purchase" } else { "view" };
        let event = json!({
            "event_id": format!("x{}", i % 250), "type": kind, "user_id": users[i * 7 % 40],
            "session_id": format!("s{}", i / 4), "item_id": format!("i{}", i * 13 % 300),
            "timestamp": 1_716_900_000_000_u64 + i as u64 * 1_000,
        });
        let expected = alone.post("/v1/events", &event).json();
        let server = if i % 2 == 0 { &a } else { &b };
        assert_eq!(server.post("/v1/events", &event).json(), expected, "{i}");
    }
    same("after events");
}

#[test]
fn what_another_job_writes_into_the_shared_log_is_checked_and_holds_everywhere() {
    let Some(redis) = Redis::start() else { return };
    let project = project(&[redis.url()]);
    let (a, b) = (project.serve(), project.serve());
    let write = |json: &Value| {
        let written = redis.ask(&format!("XADD cascade:{{log}} * set '{json}'"));
        assert!(written.starts_with('$'), "{written}");
    };
    let before = a.get("/v1/items/i1").json();
    write(&json!({
        "items": [
            { "id": "i1", "fields": { "price": 7.25, "colour": "red" } },
            { "id": "i2", "fields": { "price": null } },
            { "id": "i3", "fields": { "price": "much", "category": "c1" } },
            { "id": "nobody", "fields": { "price": 1 } },
        ],
        "users": [{ "id": "u1", "fields": { "price": { "a": 1 } } }],
    }));
    redis.ask("XADD cascade:{log} * set nonsense");
    redis.ask("XADD cascade:{log} * r nonsense");
    redis.ask("XADD cascade:{log} * other 1");
    write(&json!({ "items": [{ "id": "i4", "fields": { "price": 3 } }] }));
    for server in [&a, &b] {
        let until = Instant::now() + Duration::from_secs(5);
        while server.get("/v1/items/i4").json()["fields"]["price"] != json!(3.0) {
            assert!(Instant::now() < until, "it is not taken in");
            std::thread::sleep(Duration::from_millis(10));
        }
        let fields = |id: &str| server.get(&format!("/v1/items/{id}")).json()["fields"].clone();
        assert_eq!(fields("i1")["price"], json!(7.25));
        assert_eq!(fields("i1")["category"], before["fields"]["category"], "others stay");
        assert_eq!((&fields("i2")["price"], &fields("i3")["price"]), (&Value::Null, &Value::Null));
        assert_eq!(fields("i3")["category"], json!("c1"));
        assert_eq!(server.get("/v1/items/nobody").status, 404);
        let metrics = server.get("/metrics").body;
        for (outcome, n) in [("taken", 3), ("missing", 1), ("unknown", 3), ("malformed", 5)] {
            let line = format!("cascade_external_values_total{{outcome=\"{outcome}\"}} {n}\n");
            assert!(metrics.contains(&line), "{line} is not in {metrics}");
        }
        assert_eq!(recommend(server, "u1")["degraded"], json!([]));
    }
    // It is in the event log, which the next release is trained on.
    for server in [a, b] {
        let (status, stderr) = server.terminate();
        assert_eq!(status, Some(0), "{stderr}");
    }
    redis.ask("FLUSHALL");
    let later = project.serve();
    assert_eq!(later.get("/v1/items/i1").json()["fields"]["price"], json!(7.25));
}

/// Asks `server` for `span` and returns how many answers there were, how many of them degraded, and the longest time.
fn ask_for(server: &Server, span: Duration) -> (usize, usize, Duration) {
    let (until, mut n, mut n_degraded, mut longest) = (Instant::now() + span, 0, 0, Duration::ZERO);
    while Instant::now() < until {
        let started = Instant::now();
        let answer = recommend(server, &format!("u{}", n % 50));
        longest = longest.max(started.elapsed());
        assert!(!ids(&answer).is_empty(), "{answer}");
        n += 1;
        n_degraded += usize::from(answer["degraded"] != json!([]));
        std::thread::sleep(Duration::from_millis(5));
    }
    (n, n_degraded, longest)
}

/// Waits until answers are not degraded any more.
fn normal_again(server: &Server) -> Duration {
    let started = Instant::now();
    while recommend(server, "u1")["degraded"] != json!([]) {
        assert!(started.elapsed() < Duration::from_secs(5), "still degraded");
        std::thread::sleep(Duration::from_millis(10));
    }
    started.elapsed()
}

#[test]
fn a_redis_that_dies_or_hangs_degrades_answers_and_loses_nothing() {
    let Some(mut redis) = Redis::start() else { return };
    let project = project(&[redis.url()]);
    let server = project.serve();
    assert_eq!(ask_for(&server, Duration::from_millis(500)).1, 0);

    redis.kill();
    let (n, n_degraded, longest) = ask_for(&server, Duration::from_secs(2));
    assert!(n_degraded == n && longest < DEADLINE, "{n_degraded} {n} {longest:?}");
    let event = json!({ "type": "purchase", "user_id": "u1", "item_id": "i1" });
    let refused = server.post("/v1/events", &event);
    assert_eq!(refused.status, 503, "{}", refused.body);
    redis.restart();
    normal_again(&server);

    redis.hang();
    let (n, n_degraded, longest) = ask_for(&server, Duration::from_secs(2));
    assert!(n_degraded == n && longest < DEADLINE, "{n_degraded} {n} {longest:?}");
    redis.resume();
    normal_again(&server);

    // All of it is gone: it comes from the log again.
    let before = scored(&recommend(&server, "u1"));
    let of_nobody = scored(&recommend(&server, "nobody"));
    redis.ask("FLUSHALL");
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        let answer = recommend(&server, "u1");
        let is_cold = answer.to_string().contains("cold_user");
        assert!(!is_cold || answer["degraded"] != json!([]), "{answer}");
        // Of whom nothing is known, items alone are read.
        let answer = recommend(&server, "nobody");
        assert!(scored(&answer) == of_nobody || answer["degraded"] != json!([]), "{answer}");
    }
    normal_again(&server);
    assert_eq!(scored(&recommend(&server, "u1")), before);
    assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
}

#[test]
fn what_was_acknowledged_just_before_redis_lost_everything_is_in_the_log() {
    let Some(redis) = Redis::start() else { return };
    let project = project(&[redis.url()]);
    let server = project.serve();
    let release = || redis.ask("GET cascade:{log}:release");
    let announced = release();
    assert!(announced.len() > 4, "{announced}");
    let n_events = 30;
    for i in 0..n_events {
        let event = json!({
            "type": "view", "user_id": "flushed", "item_id": "i1", "event_id": format!("f{i}"),
        });
        let started = Instant::now();
        while server.post("/v1/events", &event).status != 200 {
            assert!(started.elapsed() < Duration::from_secs(5), "not taken in again");
            std::thread::sleep(Duration::from_millis(20));
        }
        redis.ask("FLUSHALL");
    }
    normal_again(&server);
    let started = Instant::now();
    while release() != announced {
        assert!(started.elapsed() < Duration::from_secs(5), "nobody says what is to be served");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (status, stderr) = server.terminate();
    assert_eq!(status, Some(0), "{stderr}");
    // The log alone has all of it, each once.
    redis.ask("FLUSHALL");
    let receipt = project.serve().delete("/v1/users/flushed").json();
    assert_eq!(receipt["erased"]["events"], n_events, "{stderr}");
}

#[test]
fn a_redis_that_is_slow_drips_or_cuts_its_replies_degrades_answers_within_their_deadline() {
    let Some(redis) = Redis::start() else { return };
    let proxy = Proxy::start(redis.port);
    let project = project(&[format!("redis://127.0.0.1:{}", proxy.port)]);
    let server = project.serve();
    assert_eq!(ask_for(&server, Duration::from_millis(500)).1, 0);

    proxy.delay(Duration::from_millis(200));
    let (n, n_degraded, longest) = ask_for(&server, Duration::from_secs(2));
    let is_told = n_degraded + 1 >= n && longest < DEADLINE;
    assert!(is_told, "{n_degraded} of {n}, {longest:?}");
    proxy.delay(Duration::ZERO);
    normal_again(&server);

    // Each byte is in time, and the reply is not.
    proxy.drip(Duration::from_millis(5));
    let (n, n_degraded, longest) = ask_for(&server, Duration::from_secs(2));
    let is_told = n_degraded + 1 >= n && longest < DEADLINE;
    assert!(is_told, "dripping: {n_degraded} of {n}, {longest:?}");
    proxy.drip(Duration::ZERO);
    normal_again(&server);

    for n_bytes in [1, 3, 40] {
        proxy.cut_after(n_bytes);
        let (n, n_degraded, longest) = ask_for(&server, Duration::from_secs(1));
        let is_told = n_degraded > n / 2 && longest < DEADLINE;
        assert!(is_told, "cut after {n_bytes}: {n_degraded} of {n}, {longest:?}");
        proxy.cut_after(0);
        normal_again(&server);
    }
    let event = json!({ "type": "purchase", "user_id": "u1", "item_id": "i1" });
    assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
}

#[test]
fn a_release_that_one_server_activates_is_served_by_all() {
    let Some(redis) = Redis::start() else { return };
    let project = project(&[redis.url()]);
    let first = project.active_release();
    project.configure("training.seed", 8);
    project.run(["train"]);
    let releases = project.run(["releases", "list", "--json"]).done().json();
    let named = |active: bool| {
        let mut all = releases["releases"].as_array().expect("a shelf").iter();
        let found = all.find(|release| release["active"] == active);
        found.and_then(|release| release["id"].as_str()).expect("there are two").to_owned()
    };
    assert!(first.ends_with(named(true)) || first.ends_with(named(false)));
    let (a, b) = (project.serve(), project.serve());
    for id in [named(false), named(true), named(false)] {
        a.post(&format!("/v1/releases/{id}/activate"), &json!({})).json();
        assert_eq!(recommend(&a, "u1")["release"], json!(id));
        let started = Instant::now();
        while recommend(&b, "u1")["release"] != json!(id) {
            assert!(started.elapsed() < Duration::from_secs(10), "{id} is not picked up");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(scored(&recommend(&a, "u7")), scored(&recommend(&b, "u7")));
    }
}

#[test]
fn a_value_that_cannot_be_read_is_made_anew() {
    let Some(redis) = Redis::start() else { return };
    let project = project(&[redis.url()]);
    let server = project.serve();
    let before = scored(&recommend(&server, "u1"));
    let garble =
        "for _, key in ipairs(redis.call('KEYS', '*}:t')) do redis.call('SET', key, 'x') end";
    redis.ask(&format!("EVAL \"{garble}\" 0"));
    let answer = recommend(&server, "u2");
    assert_eq!(answer["degraded"], json!(["default_features"]), "{answer}");
    let event = json!({ "type": "purchase", "user_id": "u2", "item_id": "i1" });
    assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
    normal_again(&server);
    assert_eq!(scored(&recommend(&server, "u1")), before);
    assert!(server.get("/metrics").body.contains("cascade_feature_malformed_total"));
}

#[test]
fn a_cluster_that_loses_a_master_is_whole_again_within_seconds() {
    let Some(mut nodes) = Redis::start_cluster() else { return };
    let urls: Vec<String> = nodes.iter().map(Redis::url).collect();
    let project = project(&urls);
    let server = project.serve();
    assert_eq!(ask_for(&server, Duration::from_millis(500)).1, 0);
    for hangs in [false, true] {
        let master = nodes.iter().position(Redis::is_master).expect("there are masters");
        if hangs {
            nodes[master].hang()
        } else {
            nodes[master].kill()
        }
        let started = Instant::now();
        // The cluster itself takes its timeout of 2 s and a vote to put a replica into the master's place.
        let (n, _, longest) = ask_for(&server, Duration::from_secs(5));
        assert!(n > 50 && longest < DEADLINE, "{n} {longest:?}");
        normal_again(&server);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        if hangs {
            nodes[master].resume()
        } else {
            nodes[master].restart()
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    let event = json!({ "type": "purchase", "user_id": "u1", "item_id": "i1" });
    assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
}

#[test]
fn events_that_are_on_their_way_when_redis_dies_come_into_the_features_once() {
    let Some(mut redis) = Redis::start() else { return };
    let project = project(&[redis.url()]);
    let (a, b) = (project.serve(), project.serve());
    let event = |i: usize| {
        let (user, item) = (format!("late{}", i % 5), format!("i{}", i * 7 % 90));
        json!({
            "event_id": format!("d{i}"), "type": "purchase", "user_id": user, "item_id": item,
            "timestamp": 1_716_900_000_000_u64 + i as u64,
        })
    };
    for round in 0..4 {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (place, server) in [&a, &b].into_iter().enumerate() {
                let (is_over, event, post) = (&is_over, &event, server.poster("/v1/events"));
                scope.spawn(move || {
                    for i in 0.. {
                        if is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        // Whether it is taken or refused: both servers must agree afterwards.
                        post(&event(round * 1_000_000 + 2 * i + place)).expect("it is answered");
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(150 + 37 * round as u64));
            redis.kill();
            std::thread::sleep(Duration::from_millis(300));
            redis.restart();
            std::thread::sleep(Duration::from_millis(500));
            is_over.store(true, Ordering::Relaxed);
        });
        normal_again(&a);
        normal_again(&b);
        assert_same_counts(&counts(&a), &counts(&b));
    }
    // The log that the servers have kept says the same as the features that have gone through all that.
    let before = counts(&a);
    for server in [a, b] {
        let (status, stderr) = server.terminate();
        assert_eq!(status, Some(0), "{stderr}");
    }
    redis.ask("FLUSHALL");
    assert_same_counts(&counts(&project.serve()), &before);
}

/// What `server` counts of five users and their items, by features whose values do not depend on the time that it is.
fn counts(server: &Server) -> BTreeMap<(usize, String, String), Value> {
    let mut counts = BTreeMap::new();
    for user in 0..5 {
        let question = json!({ "user_id": format!("late{user}"), "n": 100, "explain": "full" });
        let answer = server.post("/v1/recommend", &question).json();
        assert_eq!(answer["degraded"], json!([]));
        for item in answer["items"].as_array().expect("items") {
            let features = &item["explanation"]["models"][0]["contributions"];
            for feature in features.as_array().expect("contributions") {
                let name = feature["feature"].as_str().expect("a name");
                if ["user_item_count", "item_users"].contains(&name) {
                    let key = (user, item["id"].to_string(), name.to_owned());
                    counts.insert(key, feature["value"].clone());
                }
            }
        }
    }
    counts
}

/// Lists may differ a little, since they were asked for at different times.
fn assert_same_counts(
    a: &BTreeMap<(usize, String, String), Value>,
    b: &BTreeMap<(usize, String, String), Value>,
) {
    let in_both = a.keys().filter(|key| b.contains_key(*key)).count();
    assert!(in_both > 50, "{in_both} of {} and {}", a.len(), b.len());
    for (key, value) in a {
        assert!(b.get(key).is_none_or(|other| other == value), "{key:?}: {value} {:?}", b[key]);
    }
}

#[test]
fn a_server_that_was_away_for_longer_than_the_shared_log_reaches_back_does_not_go_on() {
    let Some(redis) = Redis::start() else { return };
    let project = project(&[redis.url()]);
    let other = project.copy();
    let (status, stderr) = project.serve().terminate();
    assert_eq!(status, Some(0), "{stderr}");
    let server = other.serve();
    for i in 0..20 {
        let event = json!({ "type": "purchase", "user_id": format!("n{i}"), "item_id": "i1" });
        assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
    }
    let (status, stderr) = server.terminate();
    assert_eq!(status, Some(0), "{stderr}");
    other.run(["compact"]).done();
    let refused = project.run(["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status, Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("ends before what the shared log still holds"),
        "{}",
        refused.stderr
    );
    assert_eq!(other.serve().get("/health/ready").status, 200);
}

#[test]
fn the_shared_log_is_cut_when_it_has_too_many_bytes_and_nothing_is_lost() {
    let Some(redis) = Redis::start() else { return };
    let project = project(&[redis.url()]);
    let (a, b) = (project.serve(), project.serve());
    // As if large batches had been appended.
    redis.ask("SET cascade:{log}:bytes 300000000");
    for i in 0..60 {
        let event = json!({ "type": "purchase", "user_id": "many", "item_id": format!("i{i}") });
        assert_eq!(a.post("/v1/events", &event).json()["accepted"], 1);
    }
    let length = redis.ask("XLEN cascade:{log}");
    let length = length.lines().next().and_then(|line| line.strip_prefix(':'));
    let length: usize = length.and_then(|n| n.parse().ok()).expect("a number");
    assert!((1..40).contains(&length), "{length} entries");
    assert_eq!(b.delete("/v1/users/many").json()["erased"]["features"], 60);
    for server in [a, b] {
        let (status, stderr) = server.terminate();
        assert_eq!((status, stderr.contains("error")), (Some(0), false), "{stderr}");
    }
}

#[test]
fn a_server_that_waits_for_redis_ends_when_it_is_told() {
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let url = format!("redis://{}", silent.local_addr().expect("it is bound"));
    let project = project(&[url]);
    let server = project.begin_to_serve();
    assert_eq!(server.get("/health/live").status, 200);
    assert_eq!(server.get("/health/ready").status, 503);
    std::thread::sleep(Duration::from_secs(2));
    let (status, stderr) = server.terminate();
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("waiting for Redis"), "{stderr}");
}
