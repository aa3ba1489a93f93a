//! The lists beside `/v1/recommend`: several placements at once, popular, trending and latest items, similar ones, and
//! the caller's own candidates.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{Project, Server, Shop, ids};

fn scores(answer: &Value) -> Vec<f64> {
    let items = answer["items"].as_array().unwrap_or_else(|| panic!("no items in {answer}"));
    items.iter().map(|item| item["score"].as_f64().expect("a score is a number")).collect()
}

fn recommend(server: &Server, user: &str, n: usize) -> Value {
    server.post("/v1/recommend", &json!({ "user_id": user, "n": n })).json()
}

/// The status of `answer` and everything in it, for words that it should have.
fn refused(answer: &tests::Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.content_type, "application/problem+json");
    for word in words {
        assert!(answer.body.contains(word), "{word:?} is not in {}", answer.body);
    }
}

#[test]
fn a_batch_answers_in_order_and_without_repeats_if_asked() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let requests = json!([
        { "user_id": "u1", "n": 10 },
        { "user_id": "u1", "n": 5 },
        { "user_id": "u2", "n": 7, "exclude_ids": ["i1", "nothing"] },
    ]);
    let same = server.post("/v1/recommend/batch", &json!({ "requests": requests })).json();
    let lists: Vec<Vec<String>> =
        same["responses"].as_array().into_iter().flatten().map(ids).collect();
    assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [10, 5, 7], "{same}");
    assert_eq!(lists[0], ids(&recommend(&server, "u1", 10)));
    assert_eq!(lists[1], lists[0][..5]);
    assert_eq!(same["responses"][2]["missing_ids"], json!(["nothing"]));

    let distinct = json!({ "requests": requests, "distinct": true });
    let distinct = server.post("/v1/recommend/batch", &distinct).json();
    let lists: Vec<Vec<String>> =
        distinct["responses"].as_array().into_iter().flatten().map(ids).collect();
    assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [10, 5, 7], "{distinct}");
    let all: BTreeSet<&String> = lists.iter().flatten().collect();
    assert_eq!(all.len(), 22, "an item is there twice: {distinct}");
    let named: BTreeSet<String> =
        (0..3).map(|i| distinct["responses"][i]["recommendation_id"].to_string()).collect();
    assert_eq!(named.len(), 3, "each answer has a name of its own: {distinct}");
}

#[test]
fn a_mistake_in_a_batch_is_placed_and_nothing_is_answered() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let post = |body: Value| server.post("/v1/recommend/batch", &body);
    let of = |request: Value| post(json!({ "requests": [{ "user_id": "u1" }, request] }));
    refused(&of(json!({ "n": 0 })), 422, &["/requests/1/n"]);
    refused(&of(json!({ "usr_id": "u" })), 422, &["/requests/1/usr_id", "did you mean"]);
    refused(&of(json!({ "scenario": "hme" })), 422, &["/requests/1/scenario", "unknown_scenario"]);
    refused(&of(json!([])), 422, &["/requests/1"]);
    refused(&post(json!({ "requests": [] })), 422, &["/requests"]);
    refused(&post(json!({})), 422, &["requests"]);
    refused(&post(json!({ "requests": vec![json!({}); 33] })), 413, &["too_many_requests"]);
}

#[test]
fn popular_trending_and_latest_items_are_in_the_order_of_their_source() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let source = |answer: &Value| answer["items"][0]["sources"][0].to_string();
    for (path, name) in [("popular", "popular_7d"), ("trending", "trending_1d"), ("latest", "new")]
    {
        let answer = server.get(&format!("/v1/{path}?n=12&explain=reasons")).json();
        assert_eq!(ids(&answer).len(), 12, "{answer}");
        assert!(scores(&answer).is_sorted_by(|a, b| a >= b), "{answer}");
        assert!(source(&answer).contains(name), "{answer}");
        for key in ["recommendation_id", "release", "timing_ms"] {
            assert!(!answer[key].is_null(), "no {key} in {answer}");
        }
        assert!(answer["items"][0]["reasons"][0]["code"] != "cold_user", "{answer}");
        assert_eq!(ids(&server.get(&format!("/v1/{path}?n=300")).json()).len(), 300);
    }
    // What was bought just now, and often, is what is popular.
    let bought = json!({ "type": "purchase", "user_id": "u1", "item_id": "brand-new" });
    server.post("/v1/events", &json!(vec![bought; 3_000])).json();
    for path in ["popular", "trending", "latest"] {
        assert_eq!(ids(&server.get(&format!("/v1/{path}?n=1")).json()), ["brand-new"]);
    }
    refused(&server.get("/v1/popular?n=0"), 422, &["/n"]);
    refused(&server.get("/v1/popular?m=5"), 422, &["/m"]);
    assert_eq!(server.post("/v1/popular", &json!({})).status, 405);
}

#[test]
fn a_list_for_a_user_leaves_out_what_the_user_has_seen() {
    let project = Project::imported(&Shop::default());
    let hide: toml::Table = "events = [\"purchase\"]".parse().expect("it is TOML");
    project.configure("scenarios.home.rerank.hide_seen", hide);
    project.run(["train"]).done();
    let server = project.serve();
    let first = ids(&server.get("/v1/popular?n=1").json()).remove(0);
    let similar = |user: &str| {
        let body = json!({ "item_ids": ["i17"], "user_id": user, "n": 5 });
        ids(&server.post("/v1/similar", &body).json())
    };
    let second = similar("newcomer").remove(0);
    let bought = |item: &str| json!({ "type": "purchase", "user_id": "newcomer", "item_id": item });
    server.post("/v1/events", &json!([bought(&first), bought(&second)])).json();
    let popular = |query: &str| ids(&server.get(&format!("/v1/popular?n=20{query}")).json());
    assert!(popular("").contains(&first));
    let mine = popular("&user_id=newcomer");
    assert!(mine.len() == 20 && !mine.contains(&first), "{mine:?}");
    assert!(!similar("newcomer").contains(&second) && similar("somebody").contains(&second));
}

#[test]
fn similar_items_are_those_that_go_with_the_given_ones() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let one = server.get("/v1/items/i17/similar?n=8&explain=reasons").json();
    assert_eq!(ids(&one).len(), 8, "{one}");
    assert!(!ids(&one).contains(&"i17".to_owned()), "{one}");
    assert!(scores(&one).is_sorted_by(|a, b| a >= b), "{one}");
    let reasons = one["items"][0]["reasons"].to_string();
    assert!(reasons.contains(r#""code":"similar_to","item":"i17""#), "{one}");
    let same = server.post("/v1/similar", &json!({ "item_ids": ["i17"], "n": 8 })).json();
    assert_eq!(ids(&same), ids(&one));

    let body = json!({ "item_ids": ["i17", "i40", "nothing", "i17"], "n": 8,
                       "return_fields": ["category"] });
    let both = server.post("/v1/similar", &body).json();
    assert_eq!(both["missing_ids"], json!(["nothing"]), "{both}");
    assert_eq!(ids(&both).len(), 8, "{both}");
    assert!(both["items"][0]["fields"]["category"].is_string(), "{both}");
    assert!(ids(&both).iter().all(|id| id != "i17" && id != "i40"), "{both}");
    let excluded = ids(&both).remove(0);
    let body = json!({ "item_ids": ["i17", "i40"], "n": 8, "exclude_ids": [excluded] });
    assert!(!ids(&server.post("/v1/similar", &body).json()).contains(&excluded));

    let unknown = server.get("/v1/items/nothing/similar").json();
    assert_eq!((ids(&unknown).len(), &unknown["missing_ids"]), (0, &json!(["nothing"])));
    refused(&server.post("/v1/similar", &json!({})), 422, &["/item_ids"]);
    refused(&server.post("/v1/similar", &json!({ "item_ids": [""] })), 422, &["/item_ids/0"]);
    let filter = json!({ "item_ids": ["i1"], "filter": { "must": [{ "field": "category" }] } });
    refused(&server.post("/v1/similar", &filter), 422, &["invalid_filter", "/filter/must/0"]);
}

#[test]
fn the_callers_own_candidates_are_ordered_as_recommend_orders_them() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let list = recommend(&server, "u1", 20);
    let recommended = ids(&list);
    let mut given: Vec<Value> = recommended.iter().rev().map(|id| json!({ "id": id })).collect();
    given.push(json!({ "id": "nothing" }));
    given.push(given[0].clone());
    let ranked = server.post("/v1/rank", &json!({ "user_id": "u1", "items": given })).json();
    assert_eq!(ranked["missing_ids"], json!(["nothing"]), "{ranked}");
    let ordered = ids(&ranked);
    assert_eq!(ordered.len(), 20, "{ranked}");
    assert!(scores(&ranked).is_sorted_by(|a, b| a >= b), "{ranked}");
    // A few features say how many candidates there are: the order may differ a little, not much.
    let of_top = |list: &[String]| list[..5].iter().cloned().collect::<BTreeSet<_>>();
    assert!(of_top(&ordered).intersection(&of_top(&recommended)).count() >= 3, "{ranked} {list}");
    assert_eq!(ranked["items"][0]["sources"].as_array().map(Vec::is_empty), Some(false));

    refused(&server.post("/v1/rank", &json!({ "items": [] })), 422, &["/items"]);
    refused(&server.post("/v1/rank", &json!({ "items": [{}] })), 422, &["/items/0", "id"]);
    refused(&server.post("/v1/rank", &json!({ "items": [["i1"]] })), 422, &["/items/0"]);
}

#[test]
fn fields_of_the_callers_candidates_hold_instead_of_the_catalogues() {
    let server = Project::trained(&Shop::default()).serve();
    let rank = |fields: Value| {
        let items = json!([{ "id": "i1", "fields": fields }, { "id": "i2" }]);
        let body = json!({ "user_id": "u1", "items": items, "explain": "full", "dry_run": true });
        server.post("/v1/rank", &body)
    };
    let price = |answer: &Value, id: &str| -> Option<Value> {
        let item = answer["items"].as_array().expect("items").iter().find(|it| it["id"] == id);
        let explanation = &item.expect("it is ranked")["explanation"];
        let features = explanation["models"][0]["contributions"].as_array().expect("features");
        let price = features.iter().find(|feature| feature["feature"] == "item_price");
        price.map(|price| price["value"].clone())
    };
    let (as_it_is, dear) = (rank(json!({})).json(), rank(json!({ "price": 1234.5 })).json());
    assert_eq!(price(&dear, "i1"), Some(json!(1234.5)), "{dear}");
    assert_eq!(price(&dear, "i2"), price(&as_it_is, "i2"));
    assert_ne!(price(&as_it_is, "i1"), Some(json!(1234.5)));
    let unpriced = rank(json!({ "price": null })).json();
    assert_eq!(price(&unpriced, "i1").unwrap_or_default(), Value::Null, "{unpriced}");
    assert_eq!(price(&rank(json!({})).json(), "i1"), price(&as_it_is, "i1"), "nothing stays");
    refused(&rank(json!({ "price": "much" })), 422, &["/items/0/fields/price", "number"]);
    refused(&rank(json!({ "prise": 1 })), 422, &["/items/0/fields/prise", "price"]);
    refused(&rank(json!({ "category": "c1" })), 422, &["/items/0/fields/category", "catalogue"]);
}

#[test]
fn more_diversity_in_a_request_changes_its_list() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let list = |diversity: f32| {
        let body = json!({ "user_id": "u1", "n": 10, "diversity": diversity });
        ids(&server.post("/v1/recommend", &body).json())
    };
    assert_ne!(list(0.0), list(1.0));
}

#[test]
fn a_list_starts_from_the_items_that_it_is_given() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let of = |body: Value| server.post("/v1/recommend", &body).json();
    let n_by_likeness = |answer: &Value| {
        let items = answer["items"].as_array().into_iter().flatten();
        items.filter(|item| item["sources"].to_string().contains("co_visitation")).count()
    };
    let plain = of(json!({ "n": 20 }));
    let seeded = of(json!({ "n": 20, "seed_items": ["i3", "nothing", "i13"] }));
    assert_eq!((n_by_likeness(&plain), ids(&seeded).len()), (0, 20), "{plain}");
    assert!(n_by_likeness(&seeded) > 5, "{seeded}");
    assert!(!ids(&seeded).iter().any(|id| id == "i3" || id == "i13"), "{seeded}");
    assert_eq!(seeded["missing_ids"], json!(["nothing"]));
    // Twice the same item is the same as once.
    let twice = of(json!({ "n": 20, "seed_items": ["i3", "i3", "i13"] }));
    assert_eq!(ids(&twice), ids(&seeded));
    let many: Vec<String> = (0..101).map(|i| format!("i{i}")).collect();
    refused(&server.post("/v1/recommend", &json!({ "seed_items": many })), 422, &["/seed_items"]);
    refused(&server.post("/v1/recommend", &json!({ "seed_items": [""] })), 422, &["/seed_items/0"]);
}

#[test]
fn the_pages_of_a_list_repeat_nothing_and_go_on_while_there_is_more() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let filter = json!({ "must_not": [{ "field": "category", "in": ["c1", "c2"] }] });
    let mut body = json!({ "user_id": "u1", "n": 50, "filter": filter });
    let page = |body: &Value| server.post("/v1/recommend", body).json();
    let first = page(&body);
    let (mut shown, mut sizes, mut next) = (BTreeSet::new(), Vec::new(), first.clone());
    loop {
        sizes.push(ids(&next).len());
        for id in ids(&next) {
            assert!(shown.insert(id.clone()), "{id} is there twice");
        }
        let Some(token) = next["next_page_token"].as_str() else { break };
        body["page_token"] = json!(token);
        next = page(&body);
        assert!(sizes.len() < 20, "the list does not end");
    }
    // Eight of ten categories of thirty items pass, all of which are ranked.
    assert_eq!(shown.len(), 240, "{sizes:?}");
    assert_eq!(sizes[..4], [50; 4], "{sizes:?}");

    // The second page again, with another n; by GET; and what is none.
    let token = first["next_page_token"].as_str().expect("there is a second page");
    let short = json!({ "user_id": "u1", "n": 5, "filter": filter, "page_token": token });
    assert_eq!(ids(&page(&short)).len(), 5);
    let get = server.get("/v1/recommend?user_id=u2&n=5").json();
    let token_of_get = get["next_page_token"].as_str().expect("there is a second page");
    let second = server.get(&format!("/v1/recommend?user_id=u2&n=5&page_token={token_of_get}"));
    assert!(ids(&second.json()).iter().all(|id| !ids(&get).contains(id)));
    let with = |token: &str| json!({ "user_id": "u1", "page_token": token });
    for token in ["", "x", token_of_get, &token[1..]] {
        let answer = server.post("/v1/recommend", &with(token));
        refused(&answer, 422, &["invalid_page_token", "/page_token"]);
    }
    refused(&server.get("/v1/popular?page_token=x"), 422, &["/page_token"]);
    // Another server on the same data takes the token.
    server.terminate();
    let again = project.serve();
    assert_eq!(ids(&again.post("/v1/recommend", &short).json()).len(), 5);
}

#[test]
fn a_boost_moves_a_category_up_or_down() {
    let server = Project::trained(&Shop::default()).serve();
    let ask = |boosts: Value| {
        let question = json!({ "user_id": "u1", "n": 20, "boosts": boosts, "dry_run": true });
        server.post("/v1/recommend", &question).json()
    };
    let of_category = |answer: &Value, category: usize| {
        let items = answer["items"].as_array().expect("items").iter();
        let number = |id: &str| id[1..].parse::<usize>().expect("the shop numbers its items");
        items
            .map(|item| number(item["id"].as_str().expect("an id")) % 10 == category)
            .collect::<Vec<_>>()
    };
    let plain = ask(json!([]));
    let first =
        plain["items"][0]["id"].as_str().expect("an id")[1..].parse::<usize>().expect("n") % 10;
    let boost = |factor: f64| json!([{ "field": "category", "in": [format!("c{first}"), "never"], "factor": factor }]);
    let (up, down) = (ask(boost(100.0)), ask(boost(0.0)));
    let n = of_category(&up, first).iter().take_while(|is_it| **is_it).count();
    assert!(n > 1 && of_category(&up, first)[n..].iter().all(|is_it| !is_it), "{up}");
    assert!(!of_category(&down, first)[0], "{down}");
    for (boosts, words) in [
        (json!([{ "field": "colour", "in": [], "factor": 2 }]), "/boosts/0/field"),
        (json!([{ "field": "category", "in": [], "factor": -1 }]), "/boosts/0/factor"),
        (json!([{ "field": "category", "factor": 2 }]), "/boosts/0"),
    ] {
        let refused = server.post("/v1/recommend", &json!({ "boosts": boosts }));
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert!(refused.body.contains(words), "{}", refused.body);
    }
}

#[test]
fn a_list_that_is_not_ranked_is_explained_by_its_sources_alone() {
    let server = Project::trained(&Shop::default()).serve();
    // A thread that has just ranked a list for a user makes the next one.
    server.post("/v1/recommend", &json!({ "user_id": "u1", "n": 50 })).json();
    for path in ["/v1/popular?n=20&explain=full", "/v1/items/i1/similar?n=20&explain=full"] {
        for _ in 0..8 {
            let answer = server.get(path).json();
            for item in answer["items"].as_array().expect("items") {
                assert_eq!(item["explanation"]["models"], json!([]), "{path}: {item}");
            }
        }
    }
}
