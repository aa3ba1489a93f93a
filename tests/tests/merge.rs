//! An anonymous session turns out to be a known user.

use serde_json::{Value, json};
use tests::{Project, Redis, Server, Shop, scored};

fn list(server: &Server, question: &Value) -> Vec<(String, String)> {
    scored(&server.post("/v1/recommend", question).json())
}

fn is_cold(server: &Server, question: &Value) -> bool {
    let answer = server.post("/v1/recommend", question).json();
    answer["items"][0]["reasons"].to_string().contains("cold_user")
}

/// What happens to a server: a session looks around, buys, and turns out to be `who`, and goes on.
fn live(server: &Server, who: &str) {
    let event = |session: Value, user: Value, item: &str, time: u64| {
        json!({
            "type": "purchase", "session_id": session, "user_id": user, "item_id": item,
            "timestamp": 1_716_900_000_000_u64 + time * 1_000,
        })
    };
    for (i, item) in ["i11", "i21", "i31"].iter().enumerate() {
        let sent = event("visit".into(), Value::Null, item, i as u64);
        assert_eq!(server.post("/v1/events", &sent).json()["accepted"], 1);
    }
    let merged = server.post(&format!("/v1/users/{who}/merge"), &json!({ "session_id": "visit" }));
    assert_eq!(merged.json(), json!({ "user_id": who, "merged_items": 3 }));
    let later = event("visit".into(), Value::Null, "i41", 10);
    assert_eq!(server.post("/v1/events", &later).json()["accepted"], 1);
}

#[test]
fn what_a_session_did_is_what_the_user_did_from_the_next_request_on() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    let of_user = json!({ "user_id": "newcomer", "n": 20, "dry_run": true });
    let of_session = json!({ "session_id": "visit", "n": 20, "dry_run": true });
    assert!(is_cold(&server, &of_user));
    live(&server, "newcomer");
    assert!(!is_cold(&server, &of_user));
    assert_eq!(list(&server, &of_user), list(&server, &of_session), "they are one");
    // The same events of the user itself give the same list, on a server of its own.
    let twin = Project::trained(&Shop::default()).serve();
    for (i, item) in ["i11", "i21", "i31", "i41"].iter().enumerate() {
        let time = 1_716_900_000_000_u64 + [0, 1, 2, 10][i] * 1_000;
        let event = json!({
            "type": "purchase", "session_id": "visit", "user_id": "newcomer", "item_id": item, "timestamp": time,
        });
        assert_eq!(twin.post("/v1/events", &event).json()["accepted"], 1);
    }
    let ids = |list: Vec<(String, String)>| list.into_iter().map(|it| it.0).collect::<Vec<_>>();
    assert_eq!(ids(list(&server, &of_user)), ids(list(&twin, &of_user)));
    for (body, words) in [
        (json!({}), "needs either"),
        (json!({ "session_id": "a", "user_id": "b" }), "needs either"),
        (json!({ "session_id": "" }), "/session_id"),
    ] {
        let refused = server.post("/v1/users/newcomer/merge", &body);
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert!(refused.body.contains(words), "{}", refused.body);
    }
    // Nobody becomes a circle, and it is all in the log.
    server.post("/v1/users/newcomer/merge", &json!({ "user_id": "newcomer" })).json();
    server.post("/v1/users/u1/merge", &json!({ "user_id": "newcomer" })).json();
    server.post("/v1/users/newcomer/merge", &json!({ "user_id": "u1" })).json();
    // What stands for somebody is not made somebody else: not the session, and not the user.
    for who in [json!({ "session_id": "visit" }), json!({ "user_id": "newcomer" })] {
        let refused = server.post("/v1/users/u7/merge", &who);
        assert_eq!(refused.status, 409, "{}", refused.body);
        assert!(refused.body.contains("already_merged"), "{}", refused.body);
    }
    let before = list(&server, &of_session);
    assert_eq!(server.terminate().0, Some(0));
    project.run(["verify-features"]).done();
    let server = project.serve();
    assert_eq!(ids(list(&server, &of_session)), ids(before));
    assert_eq!(server.delete("/v1/users/u1").status, 200);
    assert!(is_cold(&server, &of_session));
}

#[test]
fn servers_on_one_redis_merge_as_one_alone_does() {
    let Some(redis) = Redis::start() else { return };
    let alone = Project::trained(&Shop::default());
    let together = alone.copy();
    together.configure("store.kind", "redis");
    together.configure("store.url", redis.url());
    let (alone, a, b) = (alone.serve(), together.serve(), together.serve());
    let ask = |who: &str| json!({ "user_id": who, "n": 20, "dry_run": true });
    live(&alone, "newcomer");
    live(&b, "newcomer");
    // That was somebody who is known, after all.
    for server in [&alone, &a] {
        server.post("/v1/users/u2/merge", &json!({ "user_id": "newcomer" })).json();
    }
    for who in ["newcomer", "u1", "u2"] {
        let expected = list(&alone, &ask(who));
        assert_eq!(list(&a, &ask(who)), expected, "{who}");
        assert_eq!(list(&b, &ask(who)), expected, "{who}");
    }
    // Redis loses everything: it is made again from the log.
    redis.ask("FLUSHALL");
    std::thread::sleep(std::time::Duration::from_secs(2));
    for who in ["u1", "u2"] {
        assert_eq!(list(&b, &ask(who)), list(&alone, &ask(who)), "{who} after a loss");
    }
}
