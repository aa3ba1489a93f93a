//! The main job, from files to lists: everything through the command line and HTTP.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{Project, Server, Shop, ids};

fn assert_is_a_list_of(answer: &Value, n: usize) {
    let ids = ids(answer);
    assert_eq!(ids.len(), n, "{answer}");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), n, "an item is there twice: {answer}");
    assert_eq!(answer["degraded"], json!([]), "{answer}");
    for key in ["recommendation_id", "release", "timing_ms"] {
        assert!(!answer[key].is_null(), "no {key} in {answer}");
    }
}

fn recommend(server: &Server, user: &str, n: usize) -> Value {
    server.post("/v1/recommend", &json!({ "user_id": user, "n": n })).json()
}

/// The number that `/metrics` gives for the lines that start so, summed.
fn metric(server: &Server, start: &str) -> f64 {
    let text = server.get("/metrics").body;
    let lines = text.lines().filter(|line| line.starts_with(start));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn from_files_to_lists_over_http_in_a_file_and_in_a_report() {
    let project = Project::configured(&Shop::default());
    project.run(["import", "--events", "events.csv", "--items", "items.csv"]).done();
    project.run(["check"]).done();
    let trained = project.run(["train", "--json"]).done().json();
    assert_eq!(trained["verdict"]["passed"], true, "{trained}");

    let report = project.run(["evaluate", "--json", "--report", "report"]).done().json();
    let names: Vec<_> =
        report["models"].as_array().into_iter().flatten().map(|it| it["name"].clone()).collect();
    for name in ["pipeline", "best_source", "popular_7d", "own_frequency", "own_frequency_60d"] {
        assert!(names.contains(&json!(name)), "{name} is not among {names:?}");
    }
    let ndcg = |name: &str| {
        let model = report["models"].as_array().into_iter().flatten().find(|it| it["name"] == name);
        let metric = &model.expect("it is among them")["metrics"]["ndcg@10"];
        [&metric["low"], &metric["mean"], &metric["high"]].map(|it| it.as_f64().expect("a number"))
    };
    let [low, mean, high] = ndcg("pipeline");
    assert!(0.0 < low && low <= mean && mean <= high && high < 1.0);
    assert!(low > ndcg("popular_7d")[2], "{report}");
    let waterfall = ["relevant", "retrieved", "after_filter", "top_ranked", "shown"];
    let waterfall = |report: &Value| {
        waterfall.map(|step| report["waterfall"][step].as_f64().expect("a number"))
    };
    let all = waterfall(&report);
    assert!(all.is_sorted_by(|a, b| a >= b), "{all:?}");
    let part = waterfall(&project.run(["evaluate", "--json", "--share", "0.1"]).done().json());
    assert!(part[0] == all[0] && part[1] < all[1], "{part:?} of {all:?}");
    assert!(report["models"][0]["metrics"]["log_loss/candidates"]["mean"].is_f64(), "{report}");
    assert!(report["calibration_error"].is_f64() && report["reliability"].is_array(), "{report}");
    assert!(report["features"][0]["share"].is_f64(), "{report}");
    for file in ["report/report.json", "report/report.html"] {
        assert!(!project.read(file).is_empty());
    }

    project.run(["precompute", "--out", "lists.jsonl"]).done();
    let lists = String::from_utf8(project.read("lists.jsonl")).expect("JSON is UTF-8");
    assert_eq!(lists.lines().count(), Shop::default().n_users);
    project.run(["precompute", "--out", "lists.parquet"]).done();
    assert_eq!(&project.read("lists.parquet")[..4], b"PAR1");

    let server = project.serve();
    assert_is_a_list_of(&recommend(&server, "u1", 10), 10);
    assert_is_a_list_of(&server.get("/v1/recommend?user_id=u2&n=5").json(), 5);
    assert_is_a_list_of(&recommend(&server, "nobody", 10), 10);
    let event =
        json!([{ "event_id": "x1", "type": "purchase", "user_id": "u1", "item_id": "i299" }]);
    let taken = server.post("/v1/events", &event).json();
    assert_eq!(
        (&taken["accepted"], &taken["duplicate"], &taken["rejected"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert_eq!(server.post("/v1/events", &event).json()["duplicate"], 1);
    assert_eq!(server.get("/health/live").status, 200);
    assert!(metric(&server, "cascade_http_requests_total{") >= 5.0);
    assert!(metric(&server, "cascade_events_total{") >= 2.0);
    assert!(metric(&server, "cascade_release_info{") == 1.0);
    let (status, stderr) = server.terminate();
    assert_eq!(status, Some(0), "{stderr}");
    assert!(!stderr.contains("snapshot"), "there is none at the first start: {stderr}");
}

#[test]
fn the_next_request_reflects_an_event() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    // Who has done nothing is not like anybody: what proposes to him is what is popular, and the answer says so.
    let knows_him = |answer: &Value| {
        let sources = answer["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| item["sources"].to_string());
        sources.into_iter().any(|sources| sources.contains("co_visitation"))
    };
    let before = recommend(&server, "newcomer", 10);
    assert!(
        !knows_him(&before) && before["items"][0]["reasons"][0]["code"] == "cold_user",
        "{before}"
    );
    let bought = json!({ "type": "purchase", "user_id": "newcomer", "item_id": "i17" });
    assert_eq!(server.post("/v1/events", &json!([bought, bought, bought])).json()["accepted"], 3);
    let after = recommend(&server, "newcomer", 10);
    assert!(knows_him(&after) && after["items"][0]["reasons"] == json!([]), "{after}");
}

#[test]
fn the_nightly_file_holds_what_the_server_answers() {
    let project = Project::trained(&Shop::default());
    project.run(["precompute", "--out", "lists.jsonl", "--n", "10"]).done();
    let lists = String::from_utf8(project.read("lists.jsonl")).expect("JSON is UTF-8");
    let server = project.serve();
    // The file is computed for the time of the last event, the answers for a few seconds later.
    for line in lists.lines().take(20) {
        let list: Value = serde_json::from_str(line).expect("each line is an object");
        let user = list["user_id"].as_str().expect("a list is somebody's");
        let (answer, listed) = (ids(&recommend(&server, user, 10)), ids(&list));
        let in_both = answer.iter().filter(|id| listed.contains(id)).count();
        assert!(listed.len() == 10 && in_both >= 9, "{answer:?} instead of {listed:?}");
    }
}

#[test]
fn a_replay_finds_the_features_of_a_live_session_bit_equal() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    for step in 0..200 {
        let (user, item) = (step * 7 % 40, step * 31 % 300);
        let event = json!([
            { "type": "view", "user_id": format!("u{user}"), "item_id": format!("i{item}"), "session_id": "live" },
            { "type": "purchase", "user_id": format!("u{user}"), "item_id": format!("i{item}"), "session_id": "live" },
        ]);
        assert_eq!(server.post("/v1/events", &event).json()["accepted"], 2);
        if step % 20 == 0 {
            recommend(&server, &format!("u{user}"), 10);
        }
    }
    let (status, stderr) = server.terminate();
    assert_eq!(status, Some(0), "{stderr}");
    let verified = project.run(["verify-features", "--json"]).done().json();
    assert!(verified["values"].as_u64() > Some(100_000), "{verified}");
    assert_eq!(verified["different"], json!([]), "{verified}");
}

#[test]
fn requests_that_make_no_sense_are_answered_as_problems() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let deep = "[".repeat(100_000);
    for body in [
        "",
        "{",
        "[]",
        "null",
        r#"{"n":"ten"}"#,
        r#"{"n":-1}"#,
        r#"{"usr_id":"u1"}"#,
        &deep[..60_000],
    ] {
        let answer = server.post_text("/v1/recommend", "application/json", body);
        let start: String = body.chars().take(40).collect();
        assert!((400..500).contains(&answer.status), "{start} is answered with {}", answer.status);
        assert_eq!(answer.content_type, "application/problem+json", "{start}");
        let problem: Value = serde_json::from_str(&answer.body).expect("a problem is JSON");
        assert!(problem["code"].is_string() && problem["request_id"].is_string(), "{problem}");
    }
    let huge = json!({ "user_id": "u".repeat(200_000) });
    assert_eq!(server.post("/v1/recommend", &huge).status, 413);
    assert_eq!(server.get("/v1/nothing").status, 404);
    let bad = json!([{ "type": "purchase", "user_id": "u1", "item_id": "i1" }, { "type": "purchse", "user_id": "u1", "item_id": "i1" }]);
    let taken = server.post("/v1/events", &bad).json();
    assert_eq!((&taken["accepted"], &taken["rejected"]), (&json!(1), &json!(1)), "{taken}");
    assert_eq!(taken["errors"][0]["index"], 1, "{taken}");
    assert_is_a_list_of(&recommend(&server, "u1", 10), 10);
}

#[test]
fn a_release_that_is_activated_beside_a_server_is_served() {
    let project = Project::trained(&Shop::default());
    project.configure("training.seed", 8);
    project.run(["train"]);
    let server = project.serve();
    let served = || server.get("/health/ready").json()["release"].as_str().map(str::to_owned);
    let first = served();
    let releases = project.run(["releases", "list", "--json"]).done().json();
    let ids = releases["releases"].as_array().expect("a shelf").iter();
    let other =
        ids.filter_map(|release| release["id"].as_str()).find(|id| first.as_deref() != Some(id));
    let other = other.expect("there are two").to_owned();
    project.run(["releases", "activate", &other]).done();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while served().as_ref() != Some(&other) {
        assert!(std::time::Instant::now() < until, "{other} is active, and {first:?} is served");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let first = first.expect("one was served");
    let diff = project.run(["releases", "diff", &first, &other, "--json"]).done().json();
    let changed = diff["differences"].as_object().expect("differences").keys();
    let changed: Vec<_> = changed.filter(|key| key.starts_with("config.")).collect();
    assert_eq!(changed, ["config.training.seed"]);
    let back = project.run(["releases", "rollback", "--json"]).done().json();
    assert_eq!(back, json!({ "active": first }));
}
