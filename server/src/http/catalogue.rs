//! `/v1/items` and `/v1/users`: what is known about them besides what was done.
//!
//! Every change is a record of the event log and then a change of the live state, so that it is as durable as an event
//! and holds from the next request on.

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use featurestore::entities::Entities;
use featurestore::history::SESSION_USER;
use featurestore::log::{ItemRecord, Record, UserRecord};
use featurestore::readers::field_value;
use featurestore::store::View;
use featurestore::{EmbeddedStore, Fields, Schema, Timestamp, Value};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use utoipa::ToSchema;

use super::body::{self, Moment, QueryParameters, escaped, unknown};
use super::ids::check_id;
use super::problem::{Fault, Problem};
use super::state::{CATCH_UP, Engine};

/// Most items or users of one call.
const MAX_PUT: usize = 10_000;

/// Longest item or user of a call with many, in bytes of its JSON.
const MAX_ENTITY_BYTES: usize = 64 * 1024;

/// Most items or users of one page.
const MAX_PAGE: usize = 1_000;

/// Items or users of one page if nothing else is asked for.
const DEFAULT_PAGE: usize = 100;

/// What a catalogue is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Items,
    Users,
}

/// An item or a user, as it is sent and answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Entity {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    id: Option<Box<str>>,
    #[schema(value_type = Object)]
    fields: Fields,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>, inline)]
    published_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Moment>, inline)]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden: Option<bool>,
}

/// The parts of an [`Entity`] that a user has: how users are described.
#[derive(ToSchema)]
pub(super) struct UserEntity {
    #[expect(dead_code, reason = "it is only described")]
    id: Option<String>,
    #[schema(value_type = Object)]
    #[expect(dead_code, reason = "it is only described")]
    fields: Fields,
}

impl Kind {
    /// That of the route that `http` took.
    fn of(http: &HttpRequest) -> Self {
        let pattern = http.match_pattern();
        let is_users = pattern.is_some_and(|pattern| pattern.starts_with("/v1/users"));
        if is_users { Self::Users } else { Self::Items }
    }

    fn one(self) -> &'static str {
        match self {
            Self::Items => "item",
            Self::Users => "user",
        }
    }

    fn many(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Users => "users",
        }
    }

    fn entities<'a>(self, view: &'a View<'_>) -> &'a Entities {
        match self {
            Self::Items => view.items(),
            Self::Users => view.users(),
        }
    }

    pub(super) fn delete(self, id: &str) -> Record {
        match self {
            Self::Items => Record::DeleteItem { id: id.into() },
            Self::Users => Record::DeleteUser { id: id.into() },
        }
    }

    /// The record that puts `entity`, which was checked.
    fn put(self, id: &str, entity: Entity) -> Record {
        let Entity { fields, published_at, expires_at, hidden, .. } = entity;
        let (id, hidden) = (id.into(), hidden.unwrap_or(false));
        match self {
            Self::Items => {
                Record::Item(ItemRecord { id, fields, published_at, expires_at, hidden })
            }
            Self::Users => Record::User(UserRecord { id, fields }),
        }
    }

    /// The record that sets `fields`, which were checked.
    fn set(self, id: &str, fields: Fields) -> Record {
        match self {
            Self::Items => Record::SetItemFields { id: id.into(), fields },
            Self::Users => Record::SetUserFields { id: id.into(), fields },
        }
    }

    /// Whether anything is known of the one called `id`, which was not deleted.
    pub(super) fn is_known(self, store: &EmbeddedStore, id: &str) -> bool {
        self.read(store, id).is_some()
    }

    /// What is known of the one called `id`; `None` if nobody knows it, or it was deleted.
    fn read(self, store: &EmbeddedStore, id: &str) -> Option<Entity> {
        store.view(|view| {
            let entities = self.entities(view);
            // Of users who are one, what is known of the one that they are.
            self.describe(entities, entities.find(id)?)
        })
    }

    /// What is known of the one with this number, if it is to be told.
    fn describe(self, entities: &Entities, number: u32) -> Option<Entity> {
        let name = entities.names().name(number)?;
        // A session without a user is known under a name that nobody outside has given.
        if entities.is_gone(number) || name.starts_with(SESSION_USER) {
            return None;
        }
        let entity = Entity {
            id: Some(name.into()),
            fields: entities.fields_of(number),
            ..Entity::default()
        };
        Some(match self {
            Self::Users => entity,
            Self::Items => Entity {
                published_at: entities.published(number),
                expires_at: entities.expires(number),
                hidden: Some(entities.is_hidden(number)),
                ..entity
            },
        })
    }

    /// `entity` with its fields as `schema` has them.
    ///
    /// # Errors
    /// With everything that is wrong.
    fn check(self, mut entity: Entity, schema: &Schema) -> Result<Entity, Vec<Fault>> {
        let kinds = match self {
            Self::Items => &schema.item_fields,
            Self::Users => &schema.user_fields,
        };
        let mut faults = Vec::new();
        for (name, value) in &mut entity.fields {
            let pointer = format!("/fields/{}", escaped(name));
            let Some(kind) = kinds.get(&**name) else {
                let message = unknown("field", name, kinds.keys().map(String::as_str));
                faults.push(Fault::new(pointer, message));
                continue;
            };
            if *value != Value::Null {
                match field_value(value, *kind) {
                    Ok(read) => *value = read,
                    Err(reason) => faults.push(Fault::new(pointer, reason)),
                }
            }
        }
        entity.fields.retain(|_, value| *value != Value::Null);
        let of_items = [
            ("/published_at", entity.published_at.is_some()),
            ("/expires_at", entity.expires_at.is_some()),
            ("/hidden", entity.hidden.is_some()),
        ];
        let misplaced =
            of_items.into_iter().filter(|(_, is_there)| self == Self::Users && *is_there);
        faults.extend(misplaced.map(|(pointer, _)| Fault::new(pointer, "is for items only")));
        if faults.is_empty() { Ok(entity) } else { Err(faults) }
    }

    pub(super) fn not_found(self, id: &str) -> Problem {
        let code = match self {
            Self::Items => "unknown_item",
            Self::Users => "unknown_user",
        };
        let detail = format!("there is no {} called {id:?}", self.one());
        Problem::new(StatusCode::NOT_FOUND, code, detail)
    }
}

fn invalid(faults: Vec<Fault>) -> Problem {
    Problem::unprocessable("invalid_request", faults)
}

/// The id in the path.
pub(super) fn checked(id: web::Path<String>) -> Result<String, Problem> {
    let id = id.into_inner();
    check_id(&id).map_err(|reason| invalid(vec![Fault::new("/id", reason)]))?;
    Ok(id)
}

/// What a route about one item or user is sent: which one, and the body.
async fn sent<T: DeserializeOwned>(
    engine: &Engine,
    http: &HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<(Kind, String, T), Problem> {
    let id = checked(id)?;
    let body = body::read(payload, engine.config.server.max_body_bytes).await?;
    Ok((Kind::of(http), id, body::parse_json(&body)?))
}

/// `GET /v1/items/{id}`.
pub(super) async fn get(
    engine: web::Data<Engine>,
    http: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let (kind, id) = (Kind::of(&http), checked(id)?);
    let read = move |engine: &Engine| {
        engine.catch_up(Instant::now() + CATCH_UP);
        kind.read(engine.pipeline()?.store(), &id).ok_or_else(|| kind.not_found(&id))
    };
    Ok(HttpResponse::Ok().json(engine.block(read).await??))
}

/// `PUT /v1/items/{id}`: the item is as the body says, in the place of what was known.
pub(super) async fn put(
    engine: web::Data<Engine>,
    http: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let (kind, id, entity): (_, _, Entity) = sent(&engine, &http, id, payload).await?;
    replace(engine, kind, id, move |_| Ok(entity)).await
}

/// `PATCH /v1/items/{id}`: what the body names changes, and what it sets to null is forgotten (RFC 7396).
pub(super) async fn patch(
    engine: web::Data<Engine>,
    http: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let (kind, id, patch): (_, _, Map<String, serde_json::Value>) =
        sent(&engine, &http, id, payload).await?;
    if patch.keys().eq(["fields"])
        && let Some(serde_json::Value::Object(fields)) = patch.get("fields")
    {
        let fields = serde_json::Value::Object(fields.clone());
        return set_fields(engine, kind, id, &fields).await;
    }
    replace(engine, kind, id, move |known| {
        let known = known.ok_or(None)?;
        let mut merged = serde_json::to_value(known).unwrap_or_default();
        merge(&mut merged, patch);
        let merged = merged.to_string();
        body::parse_json(merged.as_bytes()).map_err(|error| Some(error.into()))
    })
    .await
}

/// Sets `fields`, a JSON object, and leaves the others: two that do so at once on two servers do not undo each other.
async fn set_fields(
    engine: web::Data<Engine>,
    kind: Kind,
    id: String,
    fields: &serde_json::Value,
) -> Result<HttpResponse, Problem> {
    let schema = engine.pipeline()?.release().config.schema();
    let entity: Entity = body::parse_json(json!({ "fields": fields }).to_string().as_bytes())?;
    let removed = entity.fields.iter().filter(|(_, value)| **value == Value::Null);
    let removed: Fields = removed.map(|(name, _)| (name.clone(), Value::Null)).collect();
    let mut fields = kind.check(entity, &schema).map_err(invalid)?.fields;
    fields.extend(removed);
    let set = move |engine: &Engine| {
        engine.change(|store| match kind.is_known(store, &id) {
            true => Ok((vec![kind.set(&id, fields)], ())),
            false => Err(kind.not_found(&id)),
        })?;
        Ok::<_, Problem>(kind.read(engine.pipeline()?.store(), &id))
    };
    Ok(HttpResponse::Ok().json(engine.block(set).await??))
}

/// Puts what `change` makes of what is known under `id`; `None` is an error because nothing is.
async fn replace(
    engine: web::Data<Engine>,
    kind: Kind,
    id: String,
    change: impl FnOnce(Option<Entity>) -> Result<Entity, Option<Problem>> + Send + 'static,
) -> Result<HttpResponse, Problem> {
    let schema = engine.pipeline()?.release().config.schema();
    let put = move |engine: &Engine| {
        let known = engine.change(|store| {
            let entity = change(kind.read(store, &id));
            let entity = entity.map_err(|why| why.unwrap_or_else(|| kind.not_found(&id)))?;
            if entity.id.as_ref().is_some_and(|other| **other != *id) {
                return Err(invalid(vec![Fault::new("/id", "is not the one in the path")]));
            }
            let entity = kind.check(entity, &schema).map_err(invalid)?;
            Ok((vec![kind.put(&id, entity)], ()))
        });
        known.map(|()| engine.active().and_then(|pipeline| kind.read(pipeline.store(), &id)))
    };
    Ok(HttpResponse::Ok().json(engine.block(put).await??))
}

/// Changes `target` by a merge patch. Source: RFC 7396, "JSON Merge Patch".
fn merge(target: &mut serde_json::Value, patch: Map<String, serde_json::Value>) {
    if !target.is_object() {
        *target = serde_json::Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        match value {
            serde_json::Value::Null => drop(target.remove(&key)),
            serde_json::Value::Object(patch) => {
                merge(target.entry(key).or_insert(json!({})), patch)
            }
            value => drop(target.insert(key, value)),
        }
    }
}

/// `DELETE /v1/items/{id}`; users are [erased](super::erase).
pub(super) async fn delete(
    engine: web::Data<Engine>,
    http: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let (kind, id) = (Kind::of(&http), checked(id)?);
    let delete = move |engine: &Engine| {
        engine.change(|store| match kind.read(store, &id) {
            Some(_) => Ok((vec![kind.delete(&id)], ())),
            None => Err(kind.not_found(&id)),
        })
    };
    engine.block(delete).await??;
    Ok(HttpResponse::NoContent().finish())
}

/// Where a page goes on.
fn page(http: &HttpRequest) -> Result<(usize, u32), Problem> {
    let mut query = QueryParameters::read(http, &["n", "page_token"])?;
    let n = query.take("n", "a whole number").unwrap_or(DEFAULT_PAGE);
    let token: Option<String> = query.take("page_token", "a token");
    query.finish()?;
    if !(1..=MAX_PAGE).contains(&n) {
        let message = format!("is {n}, must be from 1 to {MAX_PAGE}");
        return Err(invalid(vec![Fault::new("/n", message)]));
    }
    let start = token.map_or(Ok(0), |token| u32::from_str_radix(&token, 16));
    let not_a_token = |_| invalid(vec![Fault::new("/page_token", "is not one that was answered")]);
    Ok((n, start.map_err(not_a_token)?))
}

/// `GET /v1/items`: a page of them, in the order in which they were first heard of.
pub(super) async fn list(
    engine: web::Data<Engine>,
    http: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let (kind, (n, start)) = (Kind::of(&http), page(&http)?);
    let pipeline = engine.pipeline()?;
    let (page, next) = engine
        .block(move |engine| {
            engine.catch_up(Instant::now() + CATCH_UP);
            pipeline.store().view(|view| {
                let entities = kind.entities(view);
                let (end, mut next, mut page) = (entities.len() as u32, start, Vec::new());
                while page.len() < n && next < end {
                    page.extend(kind.describe(entities, next));
                    next += 1;
                }
                (page, (next < end).then(|| format!("{next:x}")))
            })
        })
        .await?;
    Ok(HttpResponse::Ok().json(json!({ kind.many(): page, "next_page_token": next })))
}

/// What became of the items or users of one call.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PutReport {
    accepted: usize,
    rejected: usize,
    errors: Vec<NotPut>,
}

/// Why an item or a user was not taken.
#[derive(Debug, Serialize, ToSchema)]
struct NotPut {
    index: usize,
    #[schema(value_type = String)]
    code: &'static str,
    message: String,
}

/// `POST /v1/items`: many at once, each as `PUT` would take it.
pub(super) async fn post(
    engine: web::Data<Engine>,
    http: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let (kind, is_ndjson) = (Kind::of(&http), body::is_ndjson(&http));
    let schema = engine.pipeline()?.release().config.schema();
    let body = body::read(payload, engine.config.server.max_events_bytes).await?;
    let report = engine.block(move |engine| {
        let what = format!("an {0} or an array of {0}s", kind.one());
        let what = if kind == Kind::Users { what.replacen("an", "a", 1) } else { what };
        let sent = body::objects(&body, is_ndjson, &what)?;
        if sent.len() > MAX_PUT {
            let detail = format!("{} {} in one call, at most {MAX_PUT}", sent.len(), kind.many());
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many", detail));
        }
        let (mut records, mut errors) = (Vec::with_capacity(sent.len()), Vec::new());
        for (index, json) in sent.into_iter().enumerate() {
            match read_record(json, kind, &schema) {
                Ok(record) => records.push(record),
                Err((code, message)) => errors.push(NotPut { index, code, message }),
            }
        }
        let accepted = records.len();
        engine.change(|_| Ok((records, ())))?;
        Ok(PutReport { accepted, rejected: errors.len(), errors })
    });
    Ok(HttpResponse::Ok().json(report.await??))
}

/// The record that puts what is written in `json`, or the code and the words for why not.
fn read_record(json: &[u8], kind: Kind, schema: &Schema) -> Result<Record, (&'static str, String)> {
    if json.len() > MAX_ENTITY_BYTES {
        let message = format!("{} bytes, at most {MAX_ENTITY_BYTES} are taken", json.len());
        return Err(("too_large", message));
    }
    let in_words = |Fault { pointer, message }: &Fault| match pointer.as_str() {
        "" => message.clone(),
        pointer => format!("{pointer}: {message}"),
    };
    let entity: Entity = body::parse_json(json).map_err(|error| {
        let code = if error.is_syntax { "malformed" } else { "invalid" };
        (code, in_words(&error.fault))
    })?;
    let Some(id) = entity.id.clone() else { return Err(("missing_id", "id is missing".into())) };
    check_id(&id).map_err(|reason| ("invalid_id", reason))?;
    let entity = kind.check(entity, schema).map_err(|faults| {
        ("invalid", faults.iter().map(in_words).collect::<Vec<_>>().join("; "))
    })?;
    Ok(kind.put(&id, entity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use featurestore::schema::FieldKind;

    fn read(json: &str) -> Result<Record, (&'static str, String)> {
        let fields = [("colour", FieldKind::Category), ("price", FieldKind::Number)];
        let item_fields = fields.map(|(name, kind)| (name.to_owned(), kind)).into();
        let schema = Schema { item_fields, ..Schema::default() };
        read_record(json.as_bytes(), Kind::Items, &schema)
    }

    #[test]
    fn an_item_is_read_with_its_fields_as_the_schema_has_them() {
        let json = r#"{"id": "a/b", "fields": {"price": "2.5", "colour": null}, "hidden": true,
            "published_at": 1700000000000}"#;
        let expected = ItemRecord {
            id: "a/b".into(),
            fields: [("price".into(), Value::Number(2.5))].into(),
            published_at: Some(Timestamp(1_700_000_000_000)),
            expires_at: None,
            hidden: true,
        };
        assert_eq!(read(json), Ok(Record::Item(expected)));
    }

    #[test]
    fn what_is_wrong_with_an_item_has_a_code_and_a_place() {
        for (json, code, place) in [
            ("{", "malformed", ""),
            ("[]", "invalid", ""),
            ("{}", "missing_id", "id"),
            (r#"{"id": ""}"#, "invalid_id", ""),
            (r#"{"id": "a", "colour": "red"}"#, "invalid", "/colour"),
            (r#"{"id": "a", "fields": {"color": "red"}}"#, "invalid", "did you mean \"colour\"?"),
            (r#"{"id": "a", "fields": {"price": "much"}}"#, "invalid", "/fields/price"),
            (r#"{"id": "a", "expires_at": "soon"}"#, "invalid", "/expires_at"),
        ] {
            let (found, message) = read(json).unwrap_err();
            assert!(found == code && message.contains(place), "{json}: {found}: {message}");
        }
    }

    #[test]
    fn a_merge_patch_changes_what_it_names_and_removes_what_is_null() {
        let mut target = json!({ "a": 1, "b": { "c": 1, "d": 2 } });
        let patch = json!({ "a": null, "b": { "c": 3 }, "e": { "f": null, "g": 4 } });
        let Some(patch) = patch.as_object() else { unreachable!("it is one") };
        merge(&mut target, patch.clone());
        assert_eq!(target, json!({ "b": { "c": 3, "d": 2 }, "e": { "g": 4 } }));
    }
}
