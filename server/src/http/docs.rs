//! What the server says of itself: `/openapi.json` for programs, `/docs` for people.

use std::fmt::Write;
use std::sync::LazyLock;

use actix_web::HttpResponse;
use serde_json::Value;

use super::operations::{document, operations};

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
static PAGE: LazyLock<String> = LazyLock::new(|| written(&DOCUMENT));

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
h2{font-size:1.1rem;margin:2rem 0 .3rem;font-family:ui-monospace,monospace}h2 b{color:#0a5}\
table{border-collapse:collapse}td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}\
code,pre{font-family:ui-monospace,monospace;font-size:.9em}pre{background:#f4f4f4;padding:.7rem;overflow:auto}\
summary{cursor:pointer}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}pre{background:#262626}}";

/// `GET /openapi.json`.
pub(super) async fn openapi() -> HttpResponse {
    HttpResponse::Ok().json(&*DOCUMENT)
}

/// `GET /docs`.
pub(super) async fn page() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(PAGE.as_str())
}

/// A page that needs nothing from anywhere else.
fn written(document: &Value) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Cascade</title><style>{STYLE}</style>\
         <h1>Cascade {}</h1><p>The routes of this server. The same for programs: <a href=\"/openapi.json\">\
         /openapi.json</a>. Errors are <code>application/problem+json</code> (RFC 9457).</p>",
        env!("CARGO_PKG_VERSION")
    );
    for operation in operations() {
        let described = &document["paths"][operation.path][operation.method.to_ascii_lowercase()];
        let scope = operation.access.in_words(&operation);
        // A text takes all that is written to it.
        let _ = write!(
            html,
            "<h2><b>{}</b> {}</h2><p>{}. Scope of the key: {scope}.</p>",
            operation.method,
            escaped(operation.path),
            escaped(operation.summary)
        );
        if !operation.query.is_empty() {
            let parameters: Vec<String> =
                operation.query.iter().map(|name| format!("<code>{name}</code>")).collect();
            let _ = write!(html, "<p>Query: {}.</p>", parameters.join(", "));
        }
        let body = &described["requestBody"]["content"]["application/json"]["schema"];
        let body = body["oneOf"].get(0).unwrap_or(body);
        write_schema(&mut html, "Body", body, document);
        let answer = &described["responses"]["200"]["content"]["application/json"]["schema"];
        write_schema(&mut html, "Answer", answer, document);
    }
    html.push_str("</html>");
    html
}

fn write_schema(html: &mut String, title: &str, schema: &Value, document: &Value) {
    let pointer = schema["$ref"].as_str().map(|reference| reference.trim_start_matches('#'));
    let Some(schema) = pointer.and_then(|pointer| document.pointer(pointer)) else { return };
    let _ = write!(html, "<details><summary>{title}</summary><table>");
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let kind = field["type"].as_str().map(str::to_owned).unwrap_or_else(|| {
            let of = field["type"].as_array().map(|kinds| {
                kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")
            });
            of.unwrap_or_else(|| "object".into())
        });
        let words = field["description"].as_str().unwrap_or_default();
        let _ = write!(
            html,
            "<tr><td><code>{}</code><td>{}<td>{}",
            escaped(name),
            escaped(&kind),
            escaped(words)
        );
    }
    html.push_str("</table></details>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
