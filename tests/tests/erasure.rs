//! A user who is erased is in no file any more.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::{Project, Redis, Shop};

const USER: &str = "erase-me-please";
const NONE: [PathBuf; 0] = [];

/// The files below `folder` that hold the name.
fn files_with_name(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(files_with_name(&path));
        } else {
            let bytes = match fs::read(&path) {
                // It was replaced or removed since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                read => read.expect("it can be read"),
            };
            if bytes.windows(USER.len()).any(|part| part == USER.as_bytes()) {
                found.push(path);
            }
        }
    }
    found
}

/// A trained project with a user who did something before it was trained, and who is asked for, listed and known.
fn project() -> Project {
    let project = Project::configured(&Shop::default());
    let mut events = Shop::default().events_csv();
    for (i, item) in ["i3", "i4", "only-theirs"].iter().enumerate() {
        events += &format!("mine{i},purchase,{USER},visit,{item},{}\n", 1_710_000_000 + i);
    }
    project.write("events.csv", events);
    project.run(["import", "--events", "events.csv", "--items", "items.csv"]).done();
    project.run(["train"]).done();
    project.run(["precompute", "--to-store"]).done();
    project
}

#[test]
fn an_erased_user_is_in_no_file_after_the_log_is_compacted() {
    let project = project();
    let data = project.path("cascade-data");
    let server = project.serve();
    let user = format!("/v1/users/{USER}");
    server.put(&user, &json!({ "fields": {} })).json();
    let event = json!({ "type": "view", "user_id": USER, "item_id": "i5" });
    assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
    let question = json!({ "user_id": USER, "n": 10 });
    server.post("/v1/recommend", &question).json();
    server.post("/v1/recommend", &question).json();
    let others = server.post("/v1/recommend", &json!({ "user_id": "u1" })).json();

    let receipt = server.delete(&user).json();
    let expected = json!({ "events": 4, "impressions": 2, "features": 4, "lists": 1 });
    assert_eq!(receipt["erased"], expected, "{receipt}");
    assert_eq!(receipt["releases_trained_on"], json!([others["release"]]));
    assert_eq!(server.delete(&user).status, 404);
    assert_eq!(server.get(&user).status, 404);
    let cold = server.post("/v1/recommend", &json!({ "user_id": USER, "dry_run": true })).json();
    assert!(cold["items"][0]["reasons"].to_string().contains("cold_user"), "{cold}");
    assert_eq!(server.terminate().0, Some(0));
    project.run(["verify-features"]).done();
    assert!(!files_with_name(&data).is_empty(), "nothing was there to compact");

    // The next server compacts the log, and ends with another snapshot.
    let server = project.serve();
    let cold = server.post("/v1/recommend", &json!({ "user_id": "u1" })).json();
    assert_eq!(cold["release"], others["release"], "the release still fits the log");
    let (status, stderr) = server.terminate();
    assert_eq!(status, Some(0));
    assert!(stderr.contains("records of deleted users, under 1 names,"), "{stderr}");
    assert_eq!(files_with_name(&data), NONE);
    project.run(["verify-features"]).done();
    project.run(["train"]);
    assert_eq!(files_with_name(&data), NONE);
}

#[test]
fn an_erased_user_is_not_in_redis_after_the_log_is_compacted() {
    let Some(redis) = Redis::start() else { return };
    let project = project();
    project.configure("store.kind", "redis");
    project.configure("store.url", redis.url());
    let (a, b) = (project.serve(), project.serve());
    let event = json!({ "type": "view", "user_id": USER, "item_id": "i5" });
    assert_eq!(a.post("/v1/events", &event).json()["accepted"], 1);
    // A server with a folder of its own has impressions and lists of its own.
    let elsewhere = project.copy();
    let c = elsewhere.serve();
    c.post("/v1/recommend", &json!({ "user_id": USER, "n": 10 })).json();
    let lists = elsewhere.path("cascade-data/lists");
    assert_eq!(files_with_name(&lists).len(), 1);
    let receipt = a.delete(&format!("/v1/users/{USER}")).json();
    assert_eq!(receipt["erased"]["features"], 4, "{receipt}");
    let cold = b.post("/v1/recommend", &json!({ "user_id": USER, "dry_run": true })).json();
    assert!(cold["items"][0]["reasons"].to_string().contains("cold_user"), "{cold}");
    let impressions = elsewhere.path("cascade-data/impressions");
    let started = Instant::now();
    while !files_with_name(&lists).is_empty() || !files_with_name(&impressions).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10), "the other server has not erased");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(project.run(["compact"]).status, Some(1), "servers run");
    assert_eq!((a.terminate().0, b.terminate().0, c.terminate().0), (Some(0), Some(0), Some(0)));
    let compacted = project.run(["compact", "--json"]).done().json();
    assert_eq!(compacted, json!({ "users": 1, "records": 5 }));
    assert_eq!(files_with_name(&project.path("cascade-data")), NONE);
    redis.ask("BGREWRITEAOF");
    let everything = redis.everything();
    assert!(everything.len() > 1_000);
    assert!(!everything.windows(USER.len()).any(|part| part == USER.as_bytes()));
    // The servers start again and know nobody of that name.
    let server = project.serve();
    let cold = server.post("/v1/recommend", &json!({ "user_id": USER, "dry_run": true })).json();
    assert!(cold["items"][0]["reasons"].to_string().contains("cold_user"), "{cold}");
}

#[test]
fn a_user_who_is_erased_while_lists_are_computed_is_in_none() {
    let project = project();
    let lists = project.path("cascade-data/lists");
    let of_user = format!("{USER}\n").repeat(5) + &"u1\n".repeat(1_500);
    project.write("users.txt", of_user + USER);
    let words = ["precompute", "--to-store", "--threads", "1", "--users", "users.txt"];
    let is_there = |extension: &str| {
        let entries = fs::read_dir(&lists).expect("the folder is there").flatten();
        entries.filter(|it| it.path().to_string_lossy().ends_with(extension)).count() > 0
    };
    let has_begun = || !files_with_name(&lists).iter().all(|path| path.ends_with("home.jsonl"));
    for is_killed in [true, false] {
        let server = project.serve();
        let user = format!("/v1/users/{USER}");
        let event = json!({ "type": "view", "user_id": USER, "item_id": "i5" });
        assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
        let mut running = project.start(words);
        let started = Instant::now();
        while !has_begun() && running.try_wait().expect("it was started").is_none() {
            assert!(started.elapsed() < Duration::from_secs(60), "no part was written");
        }
        if is_killed {
            running.kill().expect("it runs");
        }
        server.delete(&user).json();
        assert!(running.wait().expect("it was started").success() != is_killed);
        assert_eq!(files_with_name(&lists), NONE);
        assert_eq!(is_there(".parts"), is_killed, "what was killed goes on where it stopped");
        assert_eq!(server.terminate().0, Some(0));
    }
}

#[test]
fn users_who_were_merged_are_erased_as_one() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let event = |who: &str, name: &str| {
        let event = json!({ "type": "view", who: name, "item_id": "i5" });
        assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
    };
    // Erased before they were merged: not theirs any more.
    event("user_id", "old");
    server.put("/v1/users/old", &json!({ "fields": {} })).json();
    server.delete("/v1/users/old").json();
    (0..3).for_each(|_| event("user_id", "new"));
    (0..2).for_each(|_| event("session_id", "visit"));
    (0..4).for_each(|_| event("user_id", "old"));
    server.post("/v1/users/new/merge", &json!({ "session_id": "visit" })).json();
    server.post("/v1/users/new/merge", &json!({ "user_id": "old" })).json();
    assert_eq!(server.get("/v1/users/old").json()["id"], "new");
    let receipt = server.delete("/v1/users/old").json();
    assert_eq!(receipt["erased"]["events"], 9, "{receipt}");
    for name in ["old", "new"] {
        assert_eq!(server.get(&format!("/v1/users/{name}")).status, 404, "{name}");
    }
    // Who was merged is not the erased user's any more: what is done under that name tells of nobody else.
    event("session_id", "visit");
    assert_eq!(server.get("/v1/users/new").status, 404);
    let visit = json!({ "session_id": "visit", "n": 3, "dry_run": true });
    assert!(!server.post("/v1/recommend", &visit).body.contains("cold_user"));
    // Who comes again is a new user, who can be erased again.
    event("user_id", "new");
    assert_eq!(server.get("/v1/users/new").json()["fields"], json!({}));
    assert_eq!(server.delete("/v1/users/new").json()["erased"]["events"], 1);
    // So can one who was only shown something.
    server.post("/v1/recommend", &json!({ "user_id": "looks", "n": 5 })).json();
    assert_eq!(server.delete("/v1/users/looks").json()["erased"]["impressions"], 1);
    assert_eq!(server.delete("/v1/users/looks").status, 404);
}
