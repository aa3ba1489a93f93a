//! Load that does not wait for the server, and more of it than the server can bear.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Project, Shop};

/// The value called `name` of what `bench` printed.
fn value(printed: &Value, name: &str) -> f64 {
    let results = printed["results"].as_array().expect("there are results");
    let result = results.iter().find(|result| result["name"] == name);
    result.and_then(|it| it["value"].as_f64()).unwrap_or_else(|| panic!("no {name} in {printed}"))
}

#[test]
fn a_stall_of_a_second_is_in_the_p99_of_the_bench() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let bench = |seconds: &str| {
        let url = server.url.as_str();
        let words =
            ["bench", "serve", "--json", "--url", url, "--rate", "50", "--seconds", seconds];
        project.run(words.into_iter().chain(["--deadline-ms", "5000"])).done().json()
    };
    let calm = bench("2");
    assert_eq!(value(&calm, "failed@50/s"), 0.0, "{calm}");
    let stalled = thread::scope(|scope| {
        let stalled = scope.spawn(|| bench("5"));
        thread::sleep(Duration::from_secs(2));
        server.hang();
        thread::sleep(Duration::from_secs(1));
        server.resume();
        stalled.join().expect("the bench ends")
    });
    // One of five seconds: a closed loop would have had a single request wait, of about 200.
    assert!(value(&stalled, "p90@50/s") > 100.0, "{stalled}");
    assert!(value(&stalled, "p99@50/s") > 800.0, "{stalled}");
    assert_eq!(value(&stalled, "failed@50/s"), 0.0, "{stalled}");
}

#[test]
fn what_cannot_be_answered_in_time_is_refused_and_nothing_fails() {
    let project = Project::trained(&Shop::default());
    project.configure("server.workers", 1);
    let server = project.serve();
    let url = server.url.as_str();
    let words = ["bench", "serve", "--json", "--url", url, "--rate", "20000", "--seconds", "2"];
    let bench = || project.run(words.into_iter().chain(["--deadline-ms", "20"])).done().json();
    let question = json!({ "user_id": "u1", "n": 20, "deadline_ms": 20 });
    let (overload, answers) = thread::scope(|scope| {
        let (overload, post) = (scope.spawn(bench), server.poster("/v1/recommend"));
        let mut answers: Vec<Value> = Vec::new();
        while !overload.is_finished() {
            let answer = post(&question).filter(|answer| answer.status == 200);
            answers.extend(answer.map(|answer| answer.json()));
        }
        (overload.join().expect("the bench ends"), answers)
    });
    assert!(value(&overload, "refused@20000/s") > 0.05, "{overload}");
    assert_eq!(value(&overload, "failed@20000/s"), 0.0, "{overload}");
    let metrics = server.get("/metrics").body;
    let refused = r#"cascade_http_requests_total{route="/v1/recommend",status="429"}"#;
    assert!(metrics.contains(refused), "{metrics}");
    // Before others are refused, those that are answered look at less.
    let shortened = r#"cascade_degraded_total{step="fewer_candidates"}"#;
    assert!(metrics.contains(shortened), "{metrics}");
    // It is over.
    let answer = server.post("/v1/recommend", &json!({ "user_id": "u1" })).json();
    assert_eq!(answer["degraded"], json!([]), "{answer}");
    // Afterwards, an answer is explained by as many candidates as it was made of.
    let explain = |answer: &Value| {
        let name = answer["recommendation_id"].as_str().expect("a name");
        server.get(&format!("/v1/recommendations/{name}/explain?item_id=i1")).json()
    };
    let n_candidates =
        |explained: &Value| explained["explanation"]["n_candidates"].as_u64().expect("a number");
    let mut shortened = answers;
    shortened.retain(|it| it["degraded"] == json!(["fewer_candidates"]));
    shortened.truncate(50);
    // The deadline may have cut some of them besides.
    let is_explained = |it: &Value| {
        let explained = explain(it);
        n_candidates(&explained) < n_candidates(&explain(&answer))
            && explained["is_as_shown"] == true
    };
    assert!(shortened.iter().any(is_explained), "{shortened:?}");
}

#[test]
fn a_list_that_was_computed_before_is_shown_when_there_is_no_time() {
    let project = Project::trained(&Shop::default());
    project.run(["precompute", "--to-store", "--n", "30"]).done();
    assert!(project.path("cascade-data/lists/home.jsonl").is_file());
    project.configure("server.workers", 1);
    let server = project.serve();
    let post = |n: usize, explain: &'static str, deadline_ms: u64| {
        let post = server.poster("/v1/recommend");
        move || {
            let question =
                json!({ "user_id": "u1", "n": n, "explain": explain, "deadline_ms": deadline_ms });
            let answer = post(&question).expect("the server answers");
            assert!([200, 429].contains(&answer.status), "{}", answer.body);
            (answer.status == 200).then(|| answer.json())
        }
    };
    // One keeps the thread busy while the other's time goes by.
    let answers: Vec<Value> = thread::scope(|scope| {
        let (long, short) = (post(300, "full", 5_000), post(10, "none", 1));
        let asker = scope.spawn(move || (0..300).filter_map(|_| short()).collect());
        while !asker.is_finished() {
            long();
        }
        asker.join().expect("it ends")
    });
    let late: Vec<&Value> =
        answers.iter().filter(|answer| answer["degraded"] == json!(["precomputed"])).collect();
    assert!(!late.is_empty(), "none of {}", answers.len());
    let calm = post(10, "none", 5_000)().expect("nobody else asks");
    assert_eq!(calm["degraded"], json!([]), "{calm}");
    let text = String::from_utf8(project.read("cascade-data/lists/home.jsonl")).expect("JSON");
    let lists = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let list = lists.into_iter().find(|list| list["user_id"] == "u1").expect("a list");
    let ids = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().expect("items").iter();
        items.map(|item| item["id"].to_string()).take(10).collect()
    };
    assert_eq!(ids(late[0]), ids(&list));
}
