//! Items and users over HTTP: what is put is durable and holds from the next request on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::{Answer, Project, Server, Shop, ids};

/// Every list of the server that could hold the item.
fn lists(server: &Server, item: &str) -> Vec<(&'static str, Vec<String>)> {
    let batch = json!({ "requests": [{ "user_id": "u1", "n": 300 }] });
    let batch = server.post("/v1/recommend/batch", &batch).json();
    let post = |path: &str, body: Value| ids(&server.post(path, &body).json());
    let get = |path: &str| ids(&server.get(path).json());
    vec![
        ("recommend", post("/v1/recommend", json!({ "user_id": "u1", "n": 300 }))),
        ("recommend to nobody", get("/v1/recommend?n=300")),
        ("batch", ids(&batch["responses"][0])),
        ("popular", get("/v1/popular?n=300")),
        ("trending", get("/v1/trending?n=300")),
        ("latest", get("/v1/latest?n=300")),
        ("similar", post("/v1/similar", json!({ "item_ids": similar_to(item), "n": 300 }))),
        ("rank", post("/v1/rank", json!({ "items": [{ "id": item }, { "id": "i3" }] }))),
    ]
}

/// Enough items that one of them has `item` among what goes with it.
fn similar_to(item: &str) -> Vec<String> {
    (0..100).map(|i| format!("i{i}")).filter(|other| other != item).collect()
}

fn refused(answer: &Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.content_type, "application/problem+json");
    for word in words {
        assert!(answer.body.contains(word), "{word:?} is not in {}", answer.body);
    }
}

#[test]
fn a_hidden_item_is_in_no_list_from_the_next_request_on() {
    let project = Project::trained(&Shop::default());
    let mut server = project.serve();
    let top = server.post("/v1/recommend", &json!({ "user_id": "u1", "n": 1 })).json();
    let item = ids(&top).remove(0);
    for (list, shown) in lists(&server, &item) {
        assert!(shown.contains(&item), "{item} is not in {list}: {shown:?}");
    }
    let path = format!("/v1/items/{item}");
    let hidden = server.patch(&path, &json!({ "hidden": true })).json();
    assert_eq!(hidden["hidden"], true, "{hidden}");
    assert!(hidden["fields"]["category"].is_string(), "a patch keeps the rest: {hidden}");
    let in_no_list = |server: &Server| {
        for (list, shown) in lists(server, &item) {
            assert!(!shown.is_empty() && !shown.contains(&item), "{item} is in {list}: {shown:?}");
        }
    };
    in_no_list(&server);
    // An event does not bring it back, and neither does another server.
    let bought = json!([{ "type": "purchase", "user_id": "u1", "item_id": item }]);
    assert_eq!(server.post("/v1/events", &bought).json()["accepted"], 1);
    in_no_list(&server);
    server.kill();
    let server = project.serve();
    in_no_list(&server);
    let (status, stderr) = server.terminate();
    assert_eq!(status, Some(0), "{stderr}");
    let server = project.serve();
    in_no_list(&server);
    assert_eq!(server.patch(&path, &json!({ "hidden": false })).json()["hidden"], false);
    for (list, shown) in lists(&server, &item) {
        assert!(shown.contains(&item), "{item} is not back in {list}");
    }
    assert_eq!(server.delete(&path).status, 204);
    in_no_list(&server);
}

#[test]
fn an_item_is_shown_from_its_publication_until_its_expiry() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let latest = || ids(&server.get("/v1/latest?n=3").json());
    let put = |body: Value| server.put("/v1/items/fresh", &body).json();
    // The clock goes on from the end of May 2024.
    put(json!({ "published_at": "2024-05-20T00:00:00Z" }));
    assert!(latest().contains(&"fresh".to_owned()), "{:?}", latest());
    put(json!({ "published_at": "2030-01-01T00:00:00Z" }));
    assert!(!latest().contains(&"fresh".to_owned()));
    put(json!({ "published_at": "2024-05-20T00:00:00Z", "expires_at": "2024-05-20T01:00:00Z" }));
    assert!(!latest().contains(&"fresh".to_owned()));
}

#[test]
fn an_item_that_is_published_after_its_first_event_is_new_once() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let latest = || ids(&server.get("/v1/latest?n=300").json());
    let before = latest();
    let publish = |at: Value| server.patch("/v1/items/i17", &json!({ "published_at": at })).json();
    publish(json!("2024-05-20T00:00:00Z"));
    let published = latest();
    assert_eq!((published.len(), &*published[0]), (300, "i17"));
    publish(Value::Null);
    assert_eq!(latest(), before);
}

#[test]
fn an_item_is_put_read_patched_and_deleted_under_any_id() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    for (id, path) in [
        ("plain", "/v1/items/plain"),
        ("a/b c", "/v1/items/a%2Fb%20c"),
        ("100%+\u{e9}?", "/v1/items/100%25%2B%C3%A9%3F"),
        ("similar/x", "/v1/items/similar%2Fx"),
    ] {
        refused(&server.get(path), 404, &["unknown_item"]);
        refused(&server.patch(path, &json!({})), 404, &["unknown_item"]);
        refused(&server.delete(path), 404, &["unknown_item"]);
        let body =
            json!({ "fields": { "category": "c1", "price": 2.5 }, "expires_at": 4102444800000u64 });
        let put = server.put(path, &body).json();
        let expected = json!({
            "id": id, "fields": { "category": "c1", "price": 2.5 },
            "expires_at": "2100-01-01T00:00:00Z", "hidden": false,
        });
        assert_eq!(put, expected);
        assert_eq!(server.get(path).json(), expected);
        let patch =
            json!({ "fields": { "price": null, "category": ["c1", "c2"] }, "expires_at": null });
        let patched = server.patch(path, &patch).json();
        let expected = json!({ "id": id, "fields": { "category": ["c1", "c2"] }, "hidden": false });
        assert_eq!(patched, expected);
        let replaced = server.put(path, &json!({ "id": id })).json();
        assert_eq!(replaced, json!({ "id": id, "fields": {}, "hidden": false }));
        assert_eq!(server.delete(path).status, 204);
        refused(&server.get(path), 404, &["unknown_item"]);
        assert_eq!(server.put(path, &json!({})).status, 200, "what was deleted can be put again");
    }
}

#[test]
fn many_items_are_put_at_once_and_listed_in_pages() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let many = json!([
        { "id": "x1", "fields": { "category": "c1" } },
        { "id": "x2", "fields": { "categry": "c1" } },
        { "fields": {} },
        { "id": "x3", "hidden": true },
        7,
    ]);
    let report = server.post("/v1/items", &many).json();
    assert_eq!((&report["accepted"], &report["rejected"]), (&json!(2), &json!(3)), "{report}");
    let errors: Vec<_> = report["errors"].as_array().into_iter().flatten().collect();
    let places: Vec<_> = errors.iter().map(|error| (&error["index"], &error["code"])).collect();
    let (one, two, four) = (json!(1), json!(2), json!(4));
    let (invalid, missing) = (json!("invalid"), json!("missing_id"));
    assert_eq!(places, [(&one, &invalid), (&two, &missing), (&four, &invalid)], "{report}");
    assert!(errors[0]["message"].to_string().contains("category"), "{report}");
    let lines = "{\"id\": \"x4\"}\n{\"id\": \"x5\"}\n";
    let report = server.post_text("/v1/items", "application/x-ndjson", lines).json();
    assert_eq!(report["accepted"], 2, "{report}");
    server.delete("/v1/items/x4");

    let (mut seen, mut path) = (Vec::new(), "/v1/items?n=70".to_owned());
    loop {
        let page = server.get(&path).json();
        seen.extend(ids(&page));
        assert!(ids(&page).len() <= 70);
        let Some(token) = page["next_page_token"].as_str() else { break };
        path = format!("/v1/items?n=70&page_token={token}");
    }
    let all: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
    assert_eq!((seen.len(), all.len()), (303, 303), "300 of the shop, x1, x3 and x5");
    assert!(all.contains("x3") && !all.contains("x4") && !all.contains("x2"));
}

#[test]
fn users_have_fields_and_no_availability() {
    let project = Project::imported(&Shop::default());
    project.configure("users.fields.country", "category");
    project.run(["train"]).done();
    let server = project.serve();
    let put = server.put("/v1/users/anna", &json!({ "fields": { "country": "de" } })).json();
    assert_eq!(put, json!({ "id": "anna", "fields": { "country": "de" } }));
    refused(&server.put("/v1/users/anna", &json!({ "hidden": true })), 422, &["/hidden"]);
    let report = server.post("/v1/users", &json!([{ "id": "ben" }, {}])).json();
    assert_eq!((&report["accepted"], &report["rejected"]), (&json!(1), &json!(1)), "{report}");
    let event = json!({ "type": "view", "session_id": "visit", "item_id": "i1" });
    assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
    let page = server.get("/v1/users?n=1000").json();
    let users: Vec<_> = page["users"].as_array().into_iter().flatten().collect();
    let n_of_shop = Shop::default().n_users;
    assert_eq!(users.len(), n_of_shop + 2, "a session is no user");
    assert_eq!(page["next_page_token"], Value::Null);
    assert_eq!(server.delete("/v1/users/anna").status, 200);
    refused(&server.get("/v1/users/anna"), 404, &["unknown_user"]);
    assert_eq!(server.get("/v1/users/u1").json()["id"], "u1");
}

#[test]
fn what_cannot_be_put_is_refused_with_its_place() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let put = |body: Value| server.put("/v1/items/i1", &body);
    let before = server.get("/v1/items/i1").json();
    refused(&put(json!({ "fields": { "prce": 1 } })), 422, &["/fields/prce", "did you mean"]);
    refused(&put(json!({ "fields": { "price": "much" } })), 422, &["/fields/price"]);
    refused(&put(json!({ "feilds": {} })), 422, &["/feilds", "did you mean"]);
    refused(&put(json!({ "id": "i2" })), 422, &["/id"]);
    refused(&put(json!({ "expires_at": "soon" })), 422, &["/expires_at"]);
    refused(&put(json!([])), 422, &["an object is expected"]);
    refused(&server.patch("/v1/items/i1", &json!({ "fields": 7 })), 422, &["/fields"]);
    refused(&server.put("/v1/items/%00", &json!({})), 422, &["/id"]);
    refused(&server.put("/v1/items/a%FF", &json!({})), 422, &["/id", "UTF-8"]);
    refused(&server.post("/v1/items", &json!("i1")), 422, &["an item or an array of items"]);
    refused(&server.post("/v1/users", &json!("u1")), 422, &["a user or an array of users"]);
    refused(&server.get("/v1/items?n=0"), 422, &["/n"]);
    refused(&server.get("/v1/items?page_token=zz"), 422, &["/page_token"]);
    assert_eq!(server.get("/v1/items/i1").json(), before);
}

#[test]
fn a_replay_finds_the_features_of_a_changed_catalogue_bit_equal() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    for step in 0..100 {
        let (user, item) = (step * 7 % 40, step * 31 % 300);
        let path = format!("/v1/items/i{item}");
        let fields = json!({ "fields": { "category": format!("c{}", step % 12) } });
        assert_eq!(server.patch(&path, &fields).status, 200);
        let event = json!([{ "type": "purchase", "user_id": format!("u{user}"), "item_id": format!("i{item}") }]);
        assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
        if step % 10 == 0 {
            server.delete(&format!("/v1/items/i{}", item + 1));
        }
    }
    let (status, stderr) = server.terminate();
    assert_eq!(status, Some(0), "{stderr}");
    let verified = project.run(["verify-features", "--json"]).done().json();
    assert_eq!(verified["different"], json!([]), "{verified}");
}

#[test]
fn an_item_newer_than_the_release_is_proposed_by_its_fields_at_once() {
    let server = Project::trained(&Shop::default()).serve();
    let ask = |user: &str| {
        let question = json!({ "user_id": user, "n": 200, "explain": "full", "dry_run": true });
        server.post("/v1/recommend", &question).json()
    };
    let categories = |answer: &Value| {
        let items = answer["items"].as_array().expect("items").iter().take(10);
        let category =
            |id: &str| id[1..].parse::<usize>().expect("the shop numbers its items") % 10;
        items.map(|item| category(item["id"].as_str().expect("an id"))).collect::<Vec<_>>()
    };
    // One of the user's favourite categories, and one that the user does not care for.
    let liked = categories(&ask("u1"));
    let favourite = liked[0];
    let other = (0..10).find(|category| !liked.contains(category)).expect("nobody likes all");
    let put = |id: &str, category: usize| {
        let item = json!({ "fields": { "category": format!("c{category}"), "price": 5.0 } });
        server.put(&format!("/v1/items/{id}"), &item).json();
    };
    put("new-liked", favourite);
    put("new-other", other);
    put("new-unknown", 77);
    let answer = ask("u1");
    let found = |id: &str| {
        let items = answer["items"].as_array().expect("items");
        items.iter().position(|item| item["id"] == id)
    };
    let place = found("new-liked").unwrap_or_else(|| panic!("it is not proposed: {answer}"));
    let sources = &answer["items"][place]["explanation"]["sources"];
    let by_embedding =
        sources.as_array().expect("sources").iter().find(|s| s["source"] == "embedding");
    assert!(by_embedding.is_some_and(|it| it["rank"].is_number()), "{sources}");
    assert!(found("new-other").is_none_or(|other| other > place), "{place}");
    assert_eq!(found("new-unknown"), None, "nothing is known of it");
    server.patch("/v1/items/new-liked", &json!({ "hidden": true })).json();
    let hidden = ask("u1");
    assert!(!hidden.to_string().contains("new-liked"));
}

#[test]
fn an_item_newer_than_the_release_is_proposed_to_those_who_are_like_its_first_users() {
    let server = Project::trained(&Shop::default()).serve();
    let ask = |user: &str| {
        let question = json!({ "user_id": user, "n": 200, "explain": "full", "dry_run": true });
        server.post("/v1/recommend", &question).json()
    };
    let favourite = |user: &str| {
        let shown = ids(&ask(user));
        shown[0][1..].parse::<usize>().expect("the shop numbers its items") % 10
    };
    let users: Vec<(String, usize)> =
        (0..100).map(|i| format!("u{i}")).map(|user| (user.clone(), favourite(&user))).collect();
    let liked = users[0].1;
    // Its fields say nothing.
    server.put("/v1/items/new", &json!({ "fields": { "price": 5.0 } })).json();
    let like_it = users[1..].iter().filter(|(_, favourite)| *favourite == liked).take(8);
    for (user, _) in like_it {
        let event = json!({ "type": "purchase", "user_id": user, "item_id": "new" });
        assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
    }
    let score = |user: &str| {
        let answer = ask(user);
        let mut items = answer["items"].as_array().expect("items").iter();
        let item = items.find(|item| item["id"] == "new")?;
        let sources = item["explanation"]["sources"].as_array().expect("sources");
        sources.iter().find(|source| source["source"] == "embedding")?["score"].as_f64()
    };
    let until = Instant::now() + Duration::from_secs(10);
    let by_embedding = loop {
        if let Some(score) = score(&users[0].0) {
            break score;
        }
        assert!(Instant::now() < until, "it is not proposed by the embedding");
        std::thread::sleep(Duration::from_millis(100));
    };
    let others = users.iter().filter(|(_, favourite)| *favourite != liked).take(10);
    let others: Vec<f64> = others.filter_map(|(user, _)| score(user)).collect();
    let above = others.iter().filter(|score| **score < by_embedding).count();
    assert!(2 * above >= others.len(), "{by_embedding} of {others:?}");
}
