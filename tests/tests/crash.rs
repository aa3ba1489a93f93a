//! The process dies in the middle of its work.

use std::collections::HashMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use featurestore::log::{EventLog, Position, Record};
use serde_json::{Value, json};
use tests::{Project, Shop};

const N_EVENTS: usize = 10_000;
const N_POSTERS: usize = 4;
/// Events in one request.
const BATCH: usize = 10;

fn event(i: usize) -> Value {
    json!({
        "event_id": format!("live{i}"), "type": "purchase",
        "user_id": format!("u{}", i % 150), "item_id": format!("i{}", i % 300),
    })
}

fn batch(first: usize) -> Value {
    (first..first + BATCH).map(event).collect()
}

/// How often each event that the server was sent is in the log.
fn in_log(folder: &Path) -> HashMap<String, usize> {
    let mut times = HashMap::new();
    for record in EventLog::reader(folder, Position::START).expect("the log opens") {
        if let Record::Event(event) = record.expect("the log is whole")
            && let Some(id) = event.event_id.filter(|id| id.starts_with("live"))
        {
            *times.entry(String::from(id)).or_default() += 1;
        }
    }
    times
}

#[test]
fn events_of_requests_at_once_count_once_and_each_request_hears_of_its_own() {
    const N: usize = 200;
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    // Each poster sends all events, from another one on, each with one that has a mistake and some of its own: as many as no
    // other poster.
    let count_all = |poster: usize| {
        let post = server.poster("/v1/events");
        let n_own = 2 * poster + 1;
        let sums = (0..N).map(|i| {
            let own = json!({ "type": "view", "user_id": format!("p{poster}"), "item_id": "i1" });
            let wrong = json!({ "type": "purchase", "user_id": "u1" });
            let mut events = vec![event((poster * N / N_POSTERS + i) % N), wrong];
            events.extend(std::iter::repeat_n(own, n_own));
            let answer = post(&json!(events)).expect("an answer").json();
            assert_eq!(
                (&answer["rejected"], &answer["errors"][0]["index"]),
                (&json!(1), &json!(1))
            );
            let n = |what: &str| answer[what].as_u64().expect("a number") as usize;
            assert_eq!(n("accepted") + n("duplicate"), n_own + 1, "{answer}");
            assert!((n_own..=n_own + 1).contains(&n("accepted")), "{answer}");
            n("accepted") - n_own
        });
        sums.sum::<usize>()
    };
    let n_accepted: usize = thread::scope(|scope| {
        let count_all = &count_all;
        let posters: Vec<_> =
            (0..N_POSTERS).map(|poster| scope.spawn(move || count_all(poster))).collect();
        posters.into_iter().map(|poster| poster.join().expect("it does not fail")).sum()
    });
    assert_eq!(n_accepted, N);
    let log = in_log(&project.path("cascade-data/log"));
    assert_eq!(log.len(), N);
    assert!(log.values().all(|times| *times == 1));
}

#[test]
fn no_acknowledged_event_is_lost_or_doubled_by_a_kill() {
    let project = Project::trained(&Shop::default());
    project.configure("server.fsync", "always");
    let mut server = project.serve();
    let posters: Vec<_> = (0..N_POSTERS)
        .map(|poster| {
            let post = server.poster("/v1/events");
            thread::spawn(move || {
                let mut acknowledged = Vec::new();
                for first in (poster * BATCH..N_EVENTS).step_by(N_POSTERS * BATCH) {
                    match post(&batch(first)) {
                        Some(answer) => assert_eq!(answer.json()["accepted"], BATCH),
                        None => break,
                    }
                    acknowledged.push(first);
                }
                acknowledged
            })
        })
        .collect();
    // It dies when about half of them are there.
    let log = project.path("cascade-data/log");
    let start = Instant::now();
    while in_log(&log).len() < N_EVENTS / 2 && start.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(1));
    }
    server.kill();
    let acknowledged: Vec<usize> =
        posters.into_iter().flat_map(|poster| poster.join().expect("a poster ends")).collect();
    assert!(acknowledged.len() * BATCH < N_EVENTS, "the server died too late to show anything");
    assert!(
        acknowledged.len() * BATCH > N_EVENTS / 10,
        "the server died too early to show anything"
    );

    let server = project.serve();
    for first in &acknowledged {
        let again = server.post("/v1/events", &batch(*first)).json();
        assert_eq!(again["duplicate"], BATCH, "{again}");
    }
    // What was not acknowledged is sent again, as a careful client would.
    for first in (0..N_EVENTS).step_by(BATCH) {
        let again = server.post("/v1/events", &batch(first)).json();
        let taken = again["duplicate"].as_u64().zip(again["accepted"].as_u64()).map(|(a, b)| a + b);
        assert_eq!(taken, Some(BATCH as u64), "{again}");
    }
    assert_eq!(server.terminate().0, Some(0));
    let times = in_log(&log);
    assert_eq!(times.len(), N_EVENTS);
    assert!(times.values().all(|n| *n == 1), "an event is there twice");
}

#[test]
fn an_import_that_is_killed_can_be_run_again() {
    let project = Project::configured(&Shop { n_users: 1_000, ..Shop::default() });
    let arguments = ["import", "--events", "events.csv", "--items", "items.csv"];
    for wait_ms in [2, 10, 30, 60, 100] {
        let mut import = project.start(arguments);
        thread::sleep(Duration::from_millis(wait_ms));
        let _ = import.kill();
        let _ = import.wait();
    }
    project.run(arguments).done();
    let mut times: HashMap<String, usize> = HashMap::new();
    for record in
        EventLog::reader(&project.path("cascade-data/log"), Position::START).expect("the log opens")
    {
        if let Record::Event(event) = record.expect("the log is whole") {
            *times.entry(event.event_id.expect("all of them have ids").into()).or_default() += 1;
        }
    }
    let n_events = Shop { n_users: 1_000, ..Shop::default() }.events().len();
    assert_eq!(times.len(), n_events);
    assert!(times.values().all(|n| *n == 1), "an event is there twice");
}

#[test]
fn precompute_that_was_killed_goes_on_to_the_same_bytes() {
    let project = Project::trained(&Shop::default());
    let users: String = (0..6_000).map(|i| format!("u{}\n", i % 200)).collect();
    project.write("users.txt", users);
    for out in ["lists.jsonl", "lists.parquet"] {
        let arguments = |out: String| {
            let words = ["precompute", "--users", "users.txt", "--threads", "1", "--json", "--out"];
            words.map(String::from).into_iter().chain([out])
        };
        let whole = format!("whole-{out}");
        project.run(arguments(whole.clone())).done();
        let mut killed = project.start(arguments(out.into()));
        // The first parts are there.
        let parts = project.path(format!("{out}.parts"));
        let start = Instant::now();
        while std::fs::read_dir(&parts).map_or(0, Iterator::count) < 4
            && start.elapsed() < Duration::from_secs(60)
        {
            thread::sleep(Duration::from_millis(1));
        }
        killed.kill().expect("it is still running");
        killed.wait().expect("it was started");
        assert!(!project.path(out).exists(), "it ended before it was killed");
        let resumed = project.run(arguments(out.into())).done().json();
        assert!(resumed["resumed"].as_u64() > Some(0), "{resumed}");
        assert!(resumed["computed"].as_u64() > Some(0), "{resumed}");
        assert!(project.read(out) == project.read(&whole), "the bytes of {out} are others");
    }
}
