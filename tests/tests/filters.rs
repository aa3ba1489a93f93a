//! Filters over HTTP, and catalogue writes that hold from the next request on.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use tests::{Project, Server, Shop, ids};

fn items(answer: &Value) -> &Vec<Value> {
    answer["items"].as_array().unwrap_or_else(|| panic!("no items in {answer}"))
}

/// Items of category `c3` below a price: a tenth of the shop, and of it a part.
fn filter(below: f64) -> Value {
    json!({ "must": [{ "field": "category", "in": ["c3"] }, { "field": "price", "lte": below }] })
}

#[test]
fn a_filter_holds_on_every_list_and_lists_stay_full() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let fields = json!(["category", "price"]);
    let check = |answer: &Value, n: usize| {
        assert_eq!(items(answer).len(), n, "{answer}");
        for item in items(answer) {
            assert_eq!(item["fields"]["category"], "c3", "{answer}");
            assert!(item["fields"]["price"].as_f64().is_some_and(|p| p <= 12.0), "{answer}");
        }
    };
    // So many items pass.
    let listed = server.get("/v1/items?n=1000").json();
    let passes = |item: &&Value| {
        item["fields"]["category"] == "c3"
            && item["fields"]["price"].as_f64().is_some_and(|price| price <= 12.0)
    };
    let n_passing = items(&listed).iter().filter(passes).count();
    assert!((8..30).contains(&n_passing), "{n_passing}");
    for user in [json!("u1"), json!("u2"), Value::Null, json!("nobody")] {
        let body =
            json!({ "user_id": user, "n": 30, "filter": filter(12.0), "return_fields": fields });
        check(&server.post("/v1/recommend", &body).json(), n_passing);
    }
    let body =
        json!({ "item_ids": ["i3"], "n": 5, "filter": filter(12.0), "return_fields": fields });
    check(&server.post("/v1/similar", &body).json(), 5);
    let batch =
        json!({ "requests": [{ "n": 4, "filter": filter(12.0), "return_fields": fields }] });
    check(&server.post("/v1/recommend/batch", &batch).json()["responses"][0], 4);
    let query =
        "%7B%22must%22%3A%5B%7B%22field%22%3A%22category%22%2C%22in%22%3A%5B%22c3%22%5D%7D%5D%7D";
    let number = |id: &String| id[1..].parse::<usize>().unwrap_or_default();
    for path in ["recommend?user_id=u1&", "popular?", "trending?", "latest?", "items/i3/similar?"] {
        let answer = server.get(&format!("/v1/{path}n=5&filter={query}")).json();
        assert_eq!(ids(&answer).len(), 5, "{path}: {answer}");
        assert!(ids(&answer).iter().all(|id| number(id) % 10 == 3), "{path}: {answer}");
    }
}

#[test]
fn what_is_wrong_with_a_filter_is_placed() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let refused = |filter: Value, words: &[&str]| {
        let answer = server.post("/v1/recommend", &json!({ "filter": filter }));
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.content_type, "application/problem+json");
        for word in words {
            assert!(answer.body.contains(word), "{word:?} is not in {}", answer.body);
        }
    };
    let one = |condition: Value| json!({ "must": [condition] });
    refused(
        one(json!({ "field": "categry", "exists": true })),
        &["/filter/must/0/field", "category"],
    );
    refused(one(json!({ "field": "category", "lte": 1 })), &["/filter/must/0/lte", "no order"]);
    refused(one(json!({ "field": "price" })), &["/filter/must/0", "needs `in`"]);
    refused(one(json!({ "field": "price", "above": 1 })), &["/filter", "above"]);
    refused(
        json!({ "must": vec![json!({ "field": "price", "exists": true }); 65] }),
        &["at most 64"],
    );
    let answer = server.get("/v1/recommend?filter=%7B");
    assert_eq!(answer.status / 100, 4, "{}", answer.body);
    assert!(answer.body.contains("/filter"), "{}", answer.body);
}

/// Hides one item after the other, and notes it once the server has said so.
fn hide_all(server: &Server, hidden: &Mutex<BTreeSet<String>>, n: usize) {
    let listed = server.get("/v1/items?n=1000").json();
    for item in items(&listed).iter().take(n) {
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        let answer = server.patch(&format!("/v1/items/{id}"), &json!({ "hidden": true }));
        assert_eq!(answer.status / 100, 2, "{}", answer.body);
        hidden.lock().expect("no holder panics").insert(id);
    }
}

#[test]
fn a_hidden_item_is_in_no_answer_to_a_request_that_begins_later() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let (hidden, done) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    let n_asked = thread::scope(|scope| {
        let ask = |requests: [(&'static str, Value); 2]| {
            let (server, hidden, done) = (&server, &hidden, &done);
            scope.spawn(move || {
                let mut n_asked = 0;
                // Once more after the last was hidden.
                loop {
                    let last = done.load(Ordering::SeqCst);
                    for (path, body) in &requests {
                        let before = hidden.lock().expect("no holder panics").clone();
                        let answer = server.post(path, body).json();
                        let shown = ids(&answer);
                        let wrong: Vec<&String> =
                            shown.iter().filter(|id| before.contains(*id)).collect();
                        assert!(wrong.is_empty(), "{wrong:?} are hidden: {answer}");
                    }
                    n_asked += 1;
                    if last {
                        return n_asked;
                    }
                }
            })
        };
        let everywhere = json!({ "should": [{ "field": "price", "gte": 0 }] });
        let readers = [
            ask([
                ("/v1/recommend", json!({ "user_id": "u1", "n": 50 })),
                ("/v1/recommend", json!({ "user_id": "u2", "n": 50, "filter": everywhere })),
            ]),
            ask([
                ("/v1/recommend", json!({ "n": 50, "filter": filter(20.0) })),
                ("/v1/similar", json!({ "item_ids": ["i250"], "n": 50 })),
            ]),
        ];
        hide_all(&server, &hidden, 150);
        done.store(true, Ordering::SeqCst);
        readers.map(|reader| reader.join().expect("a reader saw nothing wrong"))
    });
    assert!(n_asked.iter().all(|n| *n >= 2), "{n_asked:?}");
    // Half of the shop is hidden, and the list is as long as ever.
    let answer = server.post("/v1/recommend", &json!({ "user_id": "u1", "n": 50 })).json();
    assert_eq!(ids(&answer).len(), 50);
}
