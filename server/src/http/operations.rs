//! All routes in one table: who may call them, what they take and what they answer. The server is built from it, and so are
//! `/openapi.json` and `/docs`.

use std::collections::BTreeMap;

use actix_web::{Route, web};
use engine::keys::Scope;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::answer::{Answer, BatchAnswer};
use super::catalogue::{self, Entity, PutReport, UserEntity};
use super::erase::{self, Receipt};
use super::events::{self, Report, SentEvent};
use super::explain::{self, Explained};
use super::keys::Access;
use super::lists::{self, Rank, Similar};
use super::merge::{Merge, Merged};
use super::problem::Details;
use super::recommend::{self, Batch};
use super::request::{OF_LIST, OF_PLACEMENT, Request};
use super::{docs, health, merge, releases};

/// A method of a path.
pub(super) struct Operation {
    /// The method in capitals.
    pub(super) method: &'static str,
    /// The path as a pattern.
    pub(super) path: &'static str,
    /// Who may call it.
    pub(super) access: Access,
    /// What it does.
    pub(super) summary: &'static str,
    /// The parameters of its query.
    pub(super) query: &'static [&'static str],
    /// What its body is; `None`: it has none.
    pub(super) body: Option<Body>,
    /// What it answers.
    pub(super) answer: Form,
    /// What leads to it.
    pub(super) route: Route,
}

/// What a body is.
#[derive(Clone, Copy)]
pub(super) enum Body {
    /// One of these.
    One(Form),
    /// One, an array of them, or one a line.
    Many(Form),
}

/// The form of a JSON text.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// A type of this crate: its name, and what adds it and what it is made of.
    Type(fn() -> Schemas),
    /// Any object.
    Object,
    /// A text of this media type.
    Text(&'static str),
    /// Nothing.
    Nothing,
}

/// The name of a schema and those that it is made of.
pub(super) struct Schemas {
    name: String,
    all: Vec<(String, Value)>,
}

fn of<T: ToSchema>() -> Schemas {
    let mut parts = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut parts);
    let as_json = |schema| serde_json::to_value(schema).unwrap_or_default();
    let all = parts.into_iter().map(|(name, schema)| (name, as_json(schema))).collect();
    Schemas { name: T::name().into_owned(), all }
}

const READ: Access = Access::To(Scope::Read);
const PAGE: &[&str] = &["n", "page_token"];

/// Every operation of the server.
pub(super) fn operations() -> Vec<Operation> {
    let items = of_catalogue::<Entity>("/v1/items", "/v1/items/{id}", Access::ByMethod);
    let users = of_catalogue::<UserEntity>("/v1/users", "/v1/users/{id}", Access::To(Scope::Admin));
    let all = lists().into_iter().chain(changes()).chain(items).chain(users);
    all.chain(administration()).chain(of_the_server()).collect()
}

/// What answers with a list.
fn lists() -> [Operation; 9] {
    [
        get(
            "/v1/recommend",
            READ,
            "A list for a user",
            OF_PLACEMENT,
            web::get().to(recommend::get),
        ),
        post::<Request>(
            "/v1/recommend",
            READ,
            "A list for a user",
            web::post().to(recommend::post),
        ),
        Operation {
            answer: Form::Type(of::<BatchAnswer>),
            ..post::<Batch>(
                "/v1/recommend/batch",
                READ,
                "Several lists in one call, without repeats if asked",
                web::post().to(recommend::batch),
            )
        },
        get("/v1/popular", READ, "What is popular", OF_LIST, web::get().to(lists::popular)),
        get(
            "/v1/trending",
            READ,
            "What is popular lately",
            OF_LIST,
            web::get().to(lists::trending),
        ),
        get("/v1/latest", READ, "What is new", OF_LIST, web::get().to(lists::latest)),
        get(
            "/v1/items/{id}/similar",
            READ,
            "What goes with an item",
            OF_LIST,
            web::get().to(lists::similar_to_one),
        ),
        post::<Similar>(
            "/v1/similar",
            READ,
            "What goes with several items",
            web::post().to(lists::similar),
        ),
        post::<Rank>(
            "/v1/rank",
            READ,
            "The caller's own candidates, ranked",
            web::post().to(lists::rank),
        ),
    ]
}

/// What takes in events, and changes of the catalogue that items and users do not share.
fn changes() -> [Operation; 4] {
    [
        Operation {
            body: Some(Body::Many(Form::Type(of::<SentEvent>))),
            answer: Form::Type(of::<Report>),
            ..post::<SentEvent>(
                "/v1/events",
                Access::To(Scope::Events),
                "Take in what users did",
                web::post().to(events::post),
            )
        },
        Operation {
            answer: Form::Type(of::<Merged>),
            ..post::<Merge>(
                "/v1/users/{id}/merge",
                Access::To(Scope::Events),
                "A session or another user turns out to be this one",
                web::post().to(merge::post),
            )
        },
        Operation {
            answer: Form::Nothing,
            ..method(
                "DELETE",
                "/v1/items/{id}",
                Access::ByMethod,
                web::delete().to(catalogue::delete),
            )
        },
        Operation {
            summary: "Erase, with a receipt",
            answer: Form::Type(of::<Receipt>),
            ..method(
                "DELETE",
                "/v1/users/{id}",
                Access::To(Scope::Admin),
                web::delete().to(erase::delete),
            )
        },
    ]
}

/// What is for those who run the server.
fn administration() -> [Operation; 3] {
    [
        Operation {
            answer: Form::Type(of::<Explained<'_>>),
            ..get(
                "/v1/recommendations/{id}/explain",
                Access::Administration,
                "Why an item is where it is, or where it was lost",
                &["item_id"],
                web::get().to(explain::get),
            )
        },
        Operation {
            answer: Form::Object,
            ..get(
                "/v1/releases",
                Access::Administration,
                "The releases on the shelf",
                &[],
                web::get().to(releases::list),
            )
        },
        Operation {
            body: None,
            answer: Form::Object,
            ..post::<Request>(
                "/v1/releases/{id}/activate",
                Access::Administration,
                "Put a release into service",
                web::post().to(releases::activate),
            )
        },
    ]
}

/// What the server says of itself.
fn of_the_server() -> [Operation; 5] {
    [
        plain(
            "/health/live",
            Access::Open,
            "Whether the process answers",
            Form::Object,
            web::get().to(health::live),
        ),
        plain(
            "/health/ready",
            Access::Open,
            "Whether a release is loaded, verified and warm",
            Form::Object,
            web::get().to(health::ready),
        ),
        plain(
            "/metrics",
            READ,
            "What is counted",
            Form::Text("application/openmetrics-text"),
            web::get().to(health::metrics),
        ),
        plain(
            "/openapi.json",
            Access::Open,
            "This description",
            Form::Object,
            web::get().to(docs::openapi),
        ),
        plain(
            "/docs",
            Access::Open,
            "This description for people",
            Form::Text("text/html"),
            web::get().to(docs::page),
        ),
    ]
}

/// The routes of items or users, which are written as `T`, but `DELETE`.
fn of_catalogue<T: ToSchema>(
    many: &'static str,
    one: &'static str,
    access: Access,
) -> [Operation; 5] {
    let entity = Form::Type(of::<T>);
    [
        Operation {
            summary: "A page of all",
            query: PAGE,
            answer: Form::Object,
            ..method("GET", many, access, web::get().to(catalogue::list))
        },
        Operation {
            summary: "Put many at once",
            body: Some(Body::Many(entity)),
            answer: Form::Type(of::<PutReport>),
            ..method("POST", many, access, web::post().to(catalogue::post))
        },
        Operation {
            summary: "What is known",
            answer: entity,
            ..method("GET", one, access, web::get().to(catalogue::get))
        },
        Operation {
            summary: "Put the whole",
            body: Some(Body::One(entity)),
            answer: entity,
            ..method("PUT", one, access, web::put().to(catalogue::put))
        },
        Operation {
            summary: "Change what is named (RFC 7396)",
            body: Some(Body::One(Form::Object)),
            answer: entity,
            ..method("PATCH", one, access, web::patch().to(catalogue::patch))
        },
    ]
}

fn method(method: &'static str, path: &'static str, access: Access, route: Route) -> Operation {
    let (summary, body, answer) = ("Take it out of all lists", None, Form::Object);
    Operation { method, path, access, summary, query: &[], body, answer, route }
}

fn get(
    path: &'static str,
    access: Access,
    summary: &'static str,
    query: &'static [&'static str],
    route: Route,
) -> Operation {
    let answer = Form::Type(of::<Answer>);
    Operation { summary, query, answer, ..method("GET", path, access, route) }
}

fn post<T: ToSchema>(
    path: &'static str,
    access: Access,
    summary: &'static str,
    route: Route,
) -> Operation {
    let (body, answer) = (Some(Body::One(Form::Type(of::<T>))), Form::Type(of::<Answer>));
    Operation { summary, body, answer, ..method("POST", path, access, route) }
}

fn plain(
    path: &'static str,
    access: Access,
    summary: &'static str,
    answer: Form,
    route: Route,
) -> Operation {
    Operation { summary, answer, ..method("GET", path, access, route) }
}

impl Access {
    /// The scope that it takes, in words.
    pub(super) fn in_words(self, operation: &Operation) -> &'static str {
        match self {
            Self::Open => "none",
            Self::To(scope) => scope.name(),
            Self::ByMethod if operation.method == "GET" => Scope::Read.name(),
            Self::ByMethod | Self::Administration => Scope::Admin.name(),
        }
    }
}

/// Schemas by name, and a reference to each that was asked for.
#[derive(Default)]
struct Components(BTreeMap<String, Value>);

impl Components {
    fn schema(&mut self, form: Form) -> Option<(&'static str, Value)> {
        match form {
            Form::Nothing => None,
            Form::Text(media_type) => Some((media_type, json!({ "type": "string" }))),
            Form::Object => Some(("application/json", json!({ "type": "object" }))),
            Form::Type(schemas) => {
                let Schemas { name, all } = schemas();
                self.0.extend(all);
                let reference = format!("#/components/schemas/{name}");
                Some(("application/json", json!({ "$ref": reference })))
            }
        }
    }
}

/// The description of all operations. Source: OpenAPI 3.1.
pub(super) fn document() -> Value {
    let (mut components, mut paths) = (Components::default(), serde_json::Map::new());
    for operation in operations() {
        let described = describe(&operation, &mut components);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_ascii_lowercase()] = described;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cascade", "version": env!("CARGO_PKG_VERSION"),
            "description": "A multi-stage recommendation engine.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": components.0,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            },
        },
    })
}

fn describe(operation: &Operation, components: &mut Components) -> Value {
    let Operation { method, path, access, summary, query, body, answer, .. } = operation;
    let mut parameters: Vec<Value> = Vec::new();
    if path.contains("{id}") {
        parameters.push(json!({
            "name": "id", "in": "path", "required": true,
            "schema": { "type": "string", "minLength": 1, "maxLength": 256 },
        }));
    }
    parameters.extend(query.iter().map(|name| {
        json!({ "name": name, "in": "query", "required": *name == "item_id", "schema": parameter(name) })
    }));
    let (status, content) = match components.schema(*answer) {
        Some((media_type, schema)) => ("200", json!({ media_type: { "schema": schema } })),
        None => ("204", Value::Null),
    };
    let mut answered = json!({ "description": "Done" });
    if !content.is_null() {
        answered["content"] = content;
    }
    let (_, problem) = components.schema(Form::Type(of::<Details<'_>>)).unwrap_or_default();
    let problem = json!({
        "description": "Not done, and why",
        "content": { "application/problem+json": { "schema": problem } },
    });
    let name = path.trim_start_matches('/').replace(['/', '.'], "_").replace(['{', '}'], "");
    let mut described = json!({
        "operationId": format!("{}_{name}", method.to_ascii_lowercase()),
        "summary": summary,
        "parameters": parameters,
        "responses": { status: answered, "default": problem },
    });
    if *access != Access::Open {
        described["security"] = json!([{}, { "bearer": [] }, { "key": [] }]);
        described["description"] = json!(format!("Scope: {}.", access.in_words(operation)));
    }
    if let Some(body) = body {
        let content = match *body {
            Body::One(form) => components
                .schema(form)
                .map(|(media_type, schema)| json!({ media_type: { "schema": schema } })),
            Body::Many(form) => components.schema(form).map(|(media_type, schema)| {
                let many =
                    json!({ "oneOf": [schema.clone(), { "type": "array", "items": schema }] });
                json!({
                    media_type: { "schema": many },
                    "application/x-ndjson": { "schema": { "type": "string" } },
                })
            }),
        };
        described["requestBody"] = json!({ "required": true, "content": content });
    }
    described
}

/// The schema of a parameter in a query.
fn parameter(name: &str) -> Value {
    match name {
        "n" => json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
        "deadline_ms" => json!({ "type": "integer", "minimum": 1, "maximum": 60000 }),
        "dry_run" => json!({ "type": "boolean" }),
        "explain" => json!({ "type": "string", "enum": ["none", "reasons", "full"] }),
        "user_id" | "session_id" | "item_id" => {
            json!({ "type": "string", "minLength": 1, "maxLength": 256 })
        }
        _ => json!({ "type": "string" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(reference)) = fields.get("$ref") {
                        found.push(reference.clone());
                    }
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let mut names: Vec<String> = Vec::new();
        for path in document["paths"].as_object().unwrap().values() {
            let operations = path.as_object().unwrap().values();
            names.extend(operations.map(|it| it["operationId"].as_str().unwrap().to_owned()));
        }
        let n = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), n, "two operations have one name");
    }
}
