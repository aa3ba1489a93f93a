//! What the server says of its routes is true of them, and nothing that is sent to them makes it fail.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tests::{Project, Shop};

#[test]
fn the_routes_are_described_for_programs_and_for_people() {
    let server = Project::trained(&Shop::default()).serve();
    let document: Value = server.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    // A user is neither hidden nor published.
    let put = |one: &str| {
        let body = &document["paths"][one]["put"]["requestBody"]["content"]["application/json"];
        let name = body["schema"]["$ref"].as_str().expect("it is described by its name");
        let schema = document.pointer(name.trim_start_matches('#')).expect("it is there");
        schema["properties"].as_object().expect("an object").keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(put("/v1/users/{id}"), ["fields", "id"]);
    assert!(put("/v1/items/{id}").contains(&"hidden".to_owned()));
    let page = server.get("/docs");
    assert!(page.content_type.starts_with("text/html"), "{}", page.content_type);
    for (path, operations) in document["paths"].as_object().expect("there are paths") {
        assert!(page.body.contains(&format!("</b> {path}</h2>")), "{path} is not in the page");
        for method in operations.as_object().expect("there are operations").keys() {
            let path = path.replace("{id}", "i1");
            let body = json!({});
            let body = (method != "get").then_some(&body);
            let status = server.send(&method.to_ascii_uppercase(), &path, &[], body).status;
            let is_route = status != 405 && (status != 404 || path.contains("/i1"));
            assert!(is_route, "{method} {path} is answered {status}");
        }
    }
}

#[test]
fn nothing_that_a_fuzzer_sends_makes_the_server_fail() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/reference/bin/python3");
    if !python.exists() {
        eprintln!("SKIPPED: there is no schemathesis; `scripts/setup --tests` gets it");
        return;
    }
    let project = Project::trained(&Shop::default());
    let server = project.serve();
    // Not by its script, whose first line names the checkout that installed it, which may be gone.
    let ran = Command::new(python)
        .current_dir(project.path("."))
        .args(["-m", "schemathesis.cli"])
        .args(["run", &format!("{}/openapi.json", server.url)])
        .args(["--checks", "not_a_server_error", "--max-examples", "30", "--seed", "7"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}");
    let passed = said.lines().find(|line| line.contains("generated,"));
    assert!(passed.is_some_and(|line| line.contains("passed")), "{said}");
    assert_eq!(server.get("/health/ready").status, 200);
    let metrics = server.get("/metrics").body;
    let failed = metrics.lines().find(|line| {
        line.starts_with("cascade_http_requests_total")
            && line.contains("status=\"5")
            && !line.contains("/health/ready")
    });
    assert_eq!(failed, None);
}
