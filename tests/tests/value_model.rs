//! One order from several events: each with its probability, weighed by what it is worth.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tests::{Project, Shop};

/// Scores by user and item, of every candidate of `scenario` as of the last event.
fn scores(project: &Project, scenario: &str) -> BTreeMap<(String, String), f64> {
    let file = format!("{scenario}.jsonl");
    project.run(["precompute", "--scenario", scenario, "--n", "300", "--out", &file]).done();
    let lists = String::from_utf8(project.read(&file)).expect("JSON is UTF-8");
    let mut scores = BTreeMap::new();
    for line in lists.lines() {
        let list: Value = serde_json::from_str(line).expect("each line is an object");
        for item in list["items"].as_array().into_iter().flatten() {
            let key = [&list["user_id"], &item["id"]].map(|id| id.as_str().expect("it has an id"));
            let score = item["score"].as_f64().expect("it has a score");
            scores.insert((key[0].to_owned(), key[1].to_owned()), score);
        }
    }
    scores
}

#[test]
fn a_score_is_the_sum_of_what_each_probable_event_is_worth() {
    let project = Project::imported(&Shop::default());
    project.configure("scenarios.home", toml::Table::new());
    for (scenario, event, weight) in [
        ("views", "view", 1.0),
        ("purchases", "purchase", 1.0),
        ("both", "view", 0.25),
        ("both", "purchase", 2.0),
    ] {
        project.configure(&format!("scenarios.{scenario}.value.{event}"), weight);
        project.configure(&format!("scenarios.{scenario}.top"), 300);
    }
    project.run(["train"]).done();
    let [views, purchases, both] =
        ["views", "purchases", "both"].map(|scenario| scores(&project, scenario));
    assert!(both.len() > 10_000, "{} candidates", both.len());
    for (key, score) in &both {
        let (view, purchase) = (views[key], purchases[key]);
        assert!((0.0..=1.0).contains(&view) && (0.0..=1.0).contains(&purchase), "{key:?}");
        assert!((score - (0.25 * view + 2.0 * purchase)).abs() < 1e-6, "{key:?}: {score}");
    }
    // The probabilities of all items add up to what happens in a visit, though the forests learn from a sample in which
    // one row of eleven is positive. The lists are not for the time of a visit, so this holds roughly.
    let events = Shop::default().events();
    let visits = events.iter().map(|event| &event.session).collect::<BTreeSet<_>>().len();
    for (kind, scores) in [("view", &views), ("purchase", &purchases)] {
        let happened = events.iter().filter(|event| event.kind == kind).count() as f64;
        let expected = scores.values().sum::<f64>() / Shop::default().n_users as f64;
        let ratio = expected / (happened / visits as f64);
        assert!(
            (0.5..2.0).contains(&ratio),
            "{kind}: {expected} a visit, {ratio} times as many as there were"
        );
    }
}

#[test]
fn an_event_that_is_too_rare_is_named_instead_of_learnt() {
    let project = Project::configured(&Shop::default());
    let rare = "event_id,type,user_id,session_id,item_id,timestamp\nx,return,u1,s,i1,1704153600\n";
    project.write("returns.csv", rare);
    project.configure("events.return.weight", 0.0);
    project.configure("scenarios.home.value.return", -3.0);
    project.run(["import", "--events", "events.csv", "--items", "items.csv"]).done();
    project.run(["import", "--events", "returns.csv"]).done();
    project.run(["train"]).refused(&["\"return\"", "only 0", "leave it out of `value`"]);
}
