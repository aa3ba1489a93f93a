//! API keys: who may call what.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::{Answer, Project, Server, Shop};

/// Keys with their digests, as `sha256sum` has them.
const READER: (&str, &str) =
    ("key-of-the-shop", "d0ddc66349f3b4f5e52d479167db0408480e105b7813f91ffc99be06f9c63ffb");
const FEEDER: (&str, &str) =
    ("key-of-the-feed", "374a246fe4df7086e0420105c400f5ce1ffd32d1cd0c61d1f6bfb86343426359");
const KEEPER: (&str, &str) =
    ("key-of-the-keeper", "67a1f2ed8568a47fb69b19cfa323cbbd69344f7a6e14b0dfffa01a2f576430a5");

fn add_keys(project: &Project) {
    let key = |name: &str, (_, sha256): (&str, &str), scope: &str| {
        let text = format!("name = {name:?}\nsha256 = {sha256:?}\nscopes = [{scope:?}]\n");
        toml::Value::Table(text.parse().expect("it is TOML"))
    };
    let keys = vec![
        key("shop", READER, "read"),
        key("feed", FEEDER, "events"),
        key("keeper", KEEPER, "admin"),
    ];
    project.configure("server.keys", keys);
}

fn code(answer: &Answer) -> String {
    assert_eq!(answer.content_type, "application/problem+json", "{}", answer.body);
    let problem: Value = serde_json::from_str(&answer.body).expect("a problem is JSON");
    assert!(problem["request_id"].is_string(), "{problem}");
    problem["code"].as_str().expect("a code is text").to_owned()
}

/// The routes with bodies that they take, and the key that each needs.
fn routes() -> Vec<(&'static str, &'static str, Option<Value>, &'static str)> {
    let event = json!([{ "type": "view", "user_id": "u1", "item_id": "i1" }]);
    let similar = json!({ "item_ids": ["i1"] });
    vec![
        ("POST", "/v1/recommend", Some(json!({})), READER.0),
        ("GET", "/v1/recommend", None, READER.0),
        ("POST", "/v1/recommend/batch", Some(json!({ "requests": [{}] })), READER.0),
        ("GET", "/v1/popular", None, READER.0),
        ("GET", "/v1/trending", None, READER.0),
        ("GET", "/v1/latest", None, READER.0),
        ("GET", "/v1/items/i1/similar", None, READER.0),
        ("POST", "/v1/similar", Some(similar), READER.0),
        ("POST", "/v1/rank", Some(json!({ "items": [{ "id": "i1" }] })), READER.0),
        ("GET", "/v1/items", None, READER.0),
        ("GET", "/v1/items/i1", None, READER.0),
        ("GET", "/metrics", None, READER.0),
        ("POST", "/v1/events", Some(event), FEEDER.0),
        ("POST", "/v1/items", Some(json!([])), KEEPER.0),
        ("PUT", "/v1/items/i1", Some(json!({})), KEEPER.0),
        ("PATCH", "/v1/items/i1", Some(json!({})), KEEPER.0),
        ("DELETE", "/v1/items/i1", None, KEEPER.0),
        ("POST", "/v1/users", Some(json!([])), KEEPER.0),
        ("GET", "/v1/users", None, KEEPER.0),
        ("GET", "/v1/users/u1", None, KEEPER.0),
        ("PUT", "/v1/users/u1", Some(json!({})), KEEPER.0),
        ("PATCH", "/v1/users/u1", Some(json!({})), KEEPER.0),
        ("DELETE", "/v1/users/u1", None, KEEPER.0),
        ("GET", "/v1/releases", None, KEEPER.0),
    ]
}

#[test]
fn every_route_is_called_with_its_key_and_with_no_other() {
    let project = Project::trained(&Shop::default());
    add_keys(&project);
    let server = project.serve();
    for (method, path, body, needed) in routes() {
        let send = |headers: &[(&str, &str)]| server.send(method, path, headers, body.as_ref());
        let without = send(&[]);
        assert_eq!((without.status, &*code(&without)), (401, "unauthorized"), "{method} {path}");
        for wrong in ["key-of-nobody", "", READER.1, "key-of-the-sho", "key-of-the-shopp"] {
            let answer = send(&[("x-api-key", wrong)]);
            assert_eq!(answer.status, 401, "{wrong:?} for {method} {path}");
        }
        for (key, _) in [READER, FEEDER, KEEPER] {
            if key != needed {
                let answer = send(&[("x-api-key", key)]);
                assert_eq!((answer.status, &*code(&answer)), (403, "forbidden"), "{method} {path}");
            }
        }
        let answer = send(&[("authorization", &format!("Bearer {needed}"))]);
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.body);
    }
    let id = server.send("GET", "/v1/releases", &[("x-api-key", KEEPER.0)], None).json();
    let path = format!("/v1/releases/{}/activate", id["active"].as_str().expect("one is active"));
    assert_eq!(server.send("POST", &path, &[("x-api-key", READER.0)], None).status, 403);
    assert_eq!(server.send("POST", &path, &[("x-api-key", KEEPER.0)], None).status, 200);
    // The same routes, written differently.
    for path in
        ["/v1/%72eleases", "//v1/releases", "/v1/./releases", "/v1/releases/", "/V1/releases"]
    {
        let answer = server.send("GET", path, &[("x-api-key", READER.0)], None);
        assert!(matches!(answer.status, 403 | 404), "{path}: {}", answer.body);
    }
    assert_eq!(server.get("/health/live").status, 200);
    assert_eq!(server.get("/health/ready").status, 200);
    assert_eq!(server.get("/v1/nothing").status, 404);
}

#[test]
fn an_address_that_others_can_reach_needs_keys() {
    let project = Project::trained(&Shop::default());
    project.run(["serve", "--listen", "0.0.0.0:0"]).refused(&["loopback", "[[server.keys]]"]);
    add_keys(&project);
    let server = project.serve_at("0.0.0.0:0");
    assert_eq!(server.get("/v1/popular").status, 401);
    assert_eq!(server.send("GET", "/v1/popular", &[("x-api-key", READER.0)], None).status, 200);
}

fn holds(folder: &Path, words: &[&str]) -> Option<String> {
    for entry in fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("the folder can be listed").path();
        if path.is_dir() {
            if let Some(found) = holds(&path, words) {
                return Some(found);
            }
            continue;
        }
        let bytes = fs::read(&path).expect("a file can be read");
        let found =
            words.iter().find(|word| bytes.windows(word.len()).any(|part| part == word.as_bytes()));
        if let Some(word) = found {
            return Some(format!("{word} is in {}", path.display()));
        }
    }
    None
}

fn use_keys(server: &Server) {
    for (method, path, body, key) in routes() {
        server.send(method, path, &[("x-api-key", key)], body.as_ref());
        server.send(method, path, &[("authorization", &format!("Bearer {key}"))], None);
    }
}

#[test]
fn keys_are_written_nowhere_and_their_digests_in_the_configuration_alone() {
    let project = Project::imported(&Shop::default());
    add_keys(&project);
    project.run(["train"]).done();
    let server = project.serve();
    use_keys(&server);
    let metrics = server.send("GET", "/metrics", &[("x-api-key", READER.0)], None).body;
    let (status, stderr) = server.terminate();
    assert_eq!(status, Some(0), "{stderr}");
    let secrets = [READER.0, FEEDER.0, KEEPER.0, READER.1, FEEDER.1, KEEPER.1];
    for secret in secrets {
        assert!(!stderr.contains(secret) && !metrics.contains(secret), "{secret}");
    }
    assert_eq!(holds(&project.path("cascade-data"), &secrets), None);
}

#[test]
fn keys_that_cannot_be_are_refused_with_their_place() {
    let project = Project::imported(&Shop::default());
    let with = |keys: &str| {
        let table: toml::Table = format!("keys = [{keys}]").parse().expect("it is TOML");
        project.configure("server.keys", table["keys"].clone());
        project.run(["check"])
    };
    let digest = READER.1;
    let key = |sha256: &str, scopes: &str| {
        format!("{{ name = \"a\", sha256 = \"{sha256}\", scopes = [{scopes}] }}")
    };
    with(&key("key-of-the-shop", "\"read\"")).refused(&["cascade.toml", "64 hexadecimal digits"]);
    with(&key(digest, "\"raed\"")).refused(&["cascade.toml", "raed", "did you mean `read`?"]);
    with(&key(digest, "")).refused(&["server.keys[0].scopes"]);
    let twice = format!("{0}, {0}", key(digest, "\"read\""));
    with(&twice).refused(&["server.keys[1].name", "twice"]);
    with(&key(digest, "\"read\", \"events\"")).done();
}

#[test]
fn administration_is_answered_at_its_own_address_alone() {
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    assert_eq!(server.admin, None);
    assert_eq!(server.get("/v1/releases").status, 200);
    drop(server);
    project.configure("server.admin_listen", "127.0.0.1:0");
    let server = project.serve();
    assert_eq!(server.get_admin("/v1/releases").status, 200);
    assert_eq!(server.get_admin("/v1/popular").status, 200);
    for path in ["/v1/releases", "/v1/recommendations/x/explain?item_id=i1"] {
        let answer = server.get(path);
        assert_eq!((answer.status, &*code(&answer)), (404, "not_found"), "{path}");
    }
    assert_eq!(server.post("/v1/releases/x/activate", &json!({})).status, 404);
    // Others can reach the first address: administration goes to this machine unasked.
    drop(server);
    add_keys(&project);
    project.configure("server.admin_listen", "0.0.0.0:0");
    let server = project.serve_at("0.0.0.0:0");
    let admin = server.admin.as_ref().expect("it has its own");
    assert!(admin.starts_with("http://0.0.0.0:"), "{admin}");
}

#[test]
fn a_key_that_makes_too_many_requests_is_told_when_to_come_again() {
    let project = Project::trained(&Shop::default());
    let key = format!(
        "name = \"shop\"\nsha256 = {:?}\nscopes = [\"read\"]\nper_second = 1\nburst = 5\n",
        READER.1
    );
    let key = toml::Value::Table(key.parse().expect("it is TOML"));
    project.configure("server.keys", vec![key]);
    let server = project.serve();
    let ask = || server.send("GET", "/v1/popular", &[("x-api-key", READER.0)], None);
    let answers: Vec<Answer> = (0..20).map(|_| ask()).collect();
    let n_answered = answers.iter().filter(|answer| answer.status == 200).count();
    assert!((5..20).contains(&n_answered), "{n_answered}");
    let refused = answers.iter().find(|answer| answer.status != 200).expect("there are some");
    assert_eq!((refused.status, &*code(refused)), (429, "rate_limited"));
    // Nobody else is kept waiting.
    assert_eq!(server.get("/health/ready").status, 200);
}
