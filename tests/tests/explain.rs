//! Why an item is where it is, and what was shown in vain makes way.

use serde_json::{Value, json};
use tests::{Project, Shop, ids};

/// The sum of what the features added, and the mean that they added to.
fn sum(model: &Value) -> f64 {
    let parts = model["contributions"].as_array().expect("there are contributions");
    let part = |part: &Value| part["contribution"].as_f64().expect("a number");
    model["base"].as_f64().expect("a number") + parts.iter().map(part).sum::<f64>()
}

/// Every item of the catalogue names what became of it; `why` asks the server.
fn assert_absent_items_name_their_stage(shown: &[String], why: &dyn Fn(&str) -> Value) {
    let mut stages: Vec<String> = Vec::new();
    for i in 0..300 {
        let item = format!("i{i}");
        let fate = why(&item)["fate"].clone();
        let fate = format!("{}/{}", fate["stage"], fate["reason"]).replace('"', "");
        let expected = match i {
            _ if shown.contains(&item) => Some("shown/null"),
            5 => Some("filter/unavailable"),
            7 => Some("filter/excluded"),
            11 => Some("filter/hide_seen"),
            i if i % 10 == 3 => Some("filter/filter"),
            _ => None,
        };
        assert_eq!(expected.unwrap_or(&fate), fate, "{item}");
        stages.push(fate);
    }
    stages.sort();
    stages.dedup();
    for stage in ["rank/below_top", "rerank/caps", "rerank/outranked"] {
        assert!(stages.iter().any(|found| found == stage), "{stage} is not in {stages:?}");
    }
}

#[test]
fn contributions_sum_to_the_score_and_lost_items_name_their_stage() {
    let project = Project::imported(&Shop::default());
    project.configure("scenarios.home.rerank.hide_seen.events", vec!["view"]);
    project.configure("scenarios.home.rerank.hide_seen.for", "1d");
    let caps = toml::toml! { all = [{ field = "category", at_most = 1, within = 5 }] };
    project.configure("scenarios.home.rerank.caps", caps["all"].clone());
    project.configure("scenarios.home.top", 40);
    project.run(["train"]).done();
    let server = project.serve();
    server.put("/v1/items/i5", &json!({ "fields": {}, "hidden": true })).json();
    let viewed = json!({ "type": "view", "user_id": "u1", "item_id": "i11" });
    assert_eq!(server.post("/v1/events", &viewed).json()["accepted"], 1);
    let filter = json!({ "must_not": [{ "field": "category", "in": ["c3"] }] });
    let question = json!({
        "user_id": "u1", "n": 8, "explain": "full", "exclude_ids": ["i7"], "filter": filter,
    });
    let answer = server.post("/v1/recommend", &question).json();
    let name = answer["recommendation_id"].as_str().expect("answers have names");
    let why = |item: &str| {
        server.get(&format!("/v1/recommendations/{name}/explain?item_id={item}")).json()
    };
    for (position, item) in answer["items"].as_array().expect("items").iter().enumerate() {
        let inline = &item["explanation"];
        let model = &inline["models"][0];
        let score = item["score"].as_f64().expect("a number");
        assert!((sum(model) - score).abs() < 1e-4 * score.abs().max(1.0), "{item}");
        let after = why(item["id"].as_str().expect("an id"));
        assert_eq!(after["fate"], json!({ "stage": "shown", "position": position }), "{after}");
        assert_eq!(after["is_as_shown"], true, "{after}");
        assert_eq!(after["explanation"], *inline);
        assert_eq!(after["shown"]["position"], position);
    }
    assert_absent_items_name_their_stage(&ids(&answer), &why);
    assert_eq!(why("nothing")["fate"], json!({ "stage": "catalogue", "reason": "unknown_item" }));
    for (path, status, code) in [
        ("/v1/recommendations/no/explain?item_id=i1", 404, "unknown_recommendation"),
        (&*format!("/v1/recommendations/{}/explain?item_id=i1", "0".repeat(32)), 404, "unknown"),
        (&*format!("/v1/recommendations/{name}/explain"), 422, "/item_id: is missing"),
    ] {
        let refused = server.get(path);
        assert_eq!(refused.status, status, "{}", refused.body);
        assert!(refused.body.contains(code), "{}", refused.body);
    }
}

#[test]
fn lists_that_are_not_a_placements_are_explained_too() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    server.put("/v1/items/i5", &json!({ "fields": {}, "hidden": true })).json();
    let given = json!({
        "user_id": "u1", "scenario": "home", "explain": "full",
        "items": [{ "id": "i5" }, { "id": "i9" }, { "id": "i4", "fields": { "price": 3.5 } }, { "id": "i8" }],
    });
    let similar = json!({ "item_ids": ["i1"], "n": 5, "explain": "full" });
    let answers = [
        (server.post("/v1/rank", &given).json(), "retrieve/not_given"),
        (server.post("/v1/similar", &similar).json(), "retrieve/not_proposed"),
        (server.get("/v1/popular?n=5&user_id=u1&explain=full").json(), "retrieve/not_proposed"),
        (server.get("/v1/latest?n=5&explain=full").json(), "retrieve/not_proposed"),
    ];
    for (answer, of_others) in &answers {
        let name = answer["recommendation_id"].as_str().expect("answers have names");
        let why = |item: &str| {
            server.get(&format!("/v1/recommendations/{name}/explain?item_id={item}")).json()
        };
        let fate_of = |item: &str| {
            let fate = why(item)["fate"].clone();
            format!("{}/{}", fate["stage"], fate["reason"]).replace('"', "")
        };
        let items = answer["items"].as_array().expect("items");
        assert!(items.len() >= 3, "{answer}");
        for (position, item) in items.iter().enumerate() {
            let after = why(item["id"].as_str().expect("an id"));
            assert_eq!(after["fate"], json!({ "stage": "shown", "position": position }), "{after}");
            assert_eq!(after["is_as_shown"], true, "{after}");
            assert_eq!(after["explanation"], item["explanation"]);
            assert_eq!(after["explanation"]["rank"], position + 1);
            assert_eq!(after["explanation"]["score"], item["score"], "{after}");
        }
        assert_eq!(fate_of("i5"), "filter/unavailable");
        let shown = ids(answer);
        let others = (0..300).map(|i| format!("i{i}"));
        let mut others = others.filter(|item| !shown.contains(item)).map(|item| fate_of(&item));
        assert!(others.any(|fate| fate == *of_others), "{answer}");
    }
    let [ranked, similar, ..] = &answers;
    let name = |answer: &Value| answer["recommendation_id"].as_str().expect("a name").to_owned();
    let of_itself = format!("/v1/recommendations/{}/explain?item_id=i1", name(&similar.0));
    let of_itself = server.get(&of_itself).json()["fate"].clone();
    assert_eq!(of_itself, json!({ "stage": "filter", "reason": "named" }));
    let priced = format!("/v1/recommendations/{}/explain?item_id=i4", name(&ranked.0));
    let models = server.get(&priced).json()["explanation"]["models"].clone();
    assert!(!models.as_array().expect("models").is_empty(), "{models}");
}

#[test]
fn what_there_is_no_time_to_explain_is_shown_without() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let ask = |deadline_ms: u64| {
        let question =
            json!({ "user_id": "u1", "n": 300, "explain": "full", "deadline_ms": deadline_ms });
        server.post("/v1/recommend", &question).json()
    };
    let n_explained = |answer: &Value| {
        let items = answer["items"].as_array().expect("items");
        items.iter().filter(|item| !item["explanation"].is_null()).count()
    };
    let says = |answer: &Value, step: &str| answer["degraded"].to_string().contains(step);
    let whole = ask(60_000);
    assert!(!says(&whole, "unexplained"));
    assert_eq!(n_explained(&whole), ids(&whole).len());
    let mut n_cut = 0;
    for deadline_ms in [1, 2, 3, 4, 6, 8].repeat(10) {
        let answer = ask(deadline_ms);
        let is_whole = n_explained(&answer) == ids(&answer).len();
        assert_eq!(says(&answer, "unexplained"), !is_whole, "{deadline_ms}");
        n_cut += usize::from(!is_whole);
    }
    assert!(n_cut > 0, "a millisecond is enough to explain 300 items");
}

#[test]
fn what_was_shown_and_not_chosen_makes_way_also_after_a_restart() {
    let project = Project::configured(&Shop::default());
    project.configure("scenarios.home.rerank.hide_served.strength", 0.9);
    project.configure("scenarios.home.rerank.hide_served.half_life", "7d");
    project.run(["import", "--events", "events.csv", "--items", "items.csv"]).done();
    project.run(["train"]).done();
    let server = project.serve();
    let dry = json!({ "user_id": "u1", "n": 5, "dry_run": true });
    let first = ids(&server.post("/v1/recommend", &dry).json());
    assert_eq!(ids(&server.post("/v1/recommend", &dry).json()), first, "a dry run shows nothing");
    let shown = server.post("/v1/recommend", &json!({ "user_id": "u1", "n": 5 })).json();
    assert_eq!(ids(&shown), first);
    let second = ids(&server.post("/v1/recommend", &dry).json());
    assert!(first.iter().all(|item| !second.contains(item)), "{first:?} {second:?}");
    // Another user minds nothing.
    let other = json!({ "user_id": "u2", "n": 5, "dry_run": true });
    let others = ids(&server.post("/v1/recommend", &other).json());
    // What is chosen has not been shown in vain.
    let chosen = json!({ "type": "view", "user_id": "u1", "item_id": first[0] });
    assert_eq!(server.post("/v1/events", &chosen).json()["accepted"], 1);
    let all = json!({ "user_id": "u1", "n": 300, "dry_run": true });
    let third = ids(&server.post("/v1/recommend", &all).json());
    let place = |item: &String| third.iter().position(|other| other == item).expect("a place");
    let places: Vec<usize> = first.iter().map(place).collect();
    assert!(places[1..].iter().all(|other| places[0] < *other), "{first:?} {places:?}");
    let last = ids(&server.post("/v1/recommend", &dry).json());
    assert_eq!(server.terminate().0, Some(0));
    let server = project.serve();
    assert_eq!(ids(&server.post("/v1/recommend", &dry).json()), last);
    assert_eq!(ids(&server.post("/v1/recommend", &other).json()), others);
}
