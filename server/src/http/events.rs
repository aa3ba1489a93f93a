//! `/v1/events`: what users did.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use featurestore::log::Outcome;
use featurestore::time::DAY_MS;
use featurestore::{Fields, NamedEvent, Schema, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{self, JsonError, Moment, unknown};
use super::ids::check_id;
use super::problem::{Fault, Problem};
use super::state::Engine;

/// Most events of one call.
const MAX_EVENTS: usize = 10_000;

/// A body of so many bytes is read where it came in, a longer one on a thread that is for that.
const MAX_BYTES_READ_AT_ONCE: usize = 8 * 1024;

/// Longest event in bytes of its JSON.
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// An event may be so much later than the server's clock: clocks differ, and time zones are mistaken.
const MAX_FUTURE_MS: i64 = DAY_MS;

/// The label of events whose type is not known.
const UNKNOWN_TYPE: &str = "unknown";

/// An event as it is sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SentEvent {
    #[schema(value_type = Option<String>)]
    event_id: Option<Box<str>>,
    #[schema(value_type = Option<String>)]
    r#type: Option<Box<str>>,
    #[schema(value_type = Option<String>)]
    user_id: Option<Box<str>>,
    #[schema(value_type = Option<String>)]
    session_id: Option<Box<str>>,
    #[schema(value_type = Option<String>)]
    item_id: Option<Box<str>>,
    #[schema(value_type = Option<Moment>, inline)]
    timestamp: Option<Timestamp>,
    value: Option<f64>,
    #[schema(value_type = Option<String>)]
    recommendation_id: Option<Box<str>>,
    position: Option<u32>,
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Fields,
}

/// What became of the events of one call.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Report {
    accepted: usize,
    duplicate: usize,
    rejected: usize,
    errors: Vec<Rejected>,
}

/// Why an event was not taken.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct Rejected {
    index: usize,
    #[schema(value_type = String)]
    code: &'static str,
    message: String,
    /// Its type, if that is known.
    #[serde(skip)]
    kind: Option<Box<str>>,
}

/// What was sent in one call, as far as it can be taken.
struct Read {
    events: Vec<NamedEvent>,
    errors: Vec<Rejected>,
}

/// `POST /v1/events`.
pub(super) async fn post(
    engine: web::Data<Engine>,
    http: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(payload, engine.config.server.max_events_bytes).await?;
    let (n_bytes, is_ndjson) = (body.len(), body::is_ndjson(&http));
    let Read { events, errors } = match n_bytes {
        ..=MAX_BYTES_READ_AT_ONCE => read_events(&engine, &body, is_ndjson)?,
        _ => engine.block(move |engine| read_events(engine, &body, is_ndjson)).await??,
    };
    for rejected in &errors {
        let kind = rejected.kind.as_deref().unwrap_or(UNKNOWN_TYPE);
        engine.metrics.count_events(kind, "rejected", 1);
    }
    let outcomes = engine.intake.take_in(events, n_bytes).await?;
    let accepted = outcomes.iter().filter(|outcome| **outcome == Outcome::Accepted).count();
    let duplicate = outcomes.len() - accepted;
    let report = Report { accepted, duplicate, rejected: errors.len(), errors };
    Ok(HttpResponse::Ok().json(report))
}

fn read_events(engine: &Engine, body: &[u8], is_ndjson: bool) -> Result<Read, Problem> {
    let sent = body::objects(body, is_ndjson, "an event or an array of events")?;
    if sent.len() > MAX_EVENTS {
        let detail = format!("{} events in one call, at most {MAX_EVENTS} are taken", sent.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_events", detail));
    }
    let (mut events, mut errors) = (Vec::with_capacity(sent.len()), Vec::new());
    let now = engine.clock.now();
    for (index, json) in sent.into_iter().enumerate() {
        match read_event(json, &engine.schema, now) {
            Ok(event) => events.push(event),
            Err(rejected) => errors.push(Rejected { index, ..rejected }),
        }
    }
    Ok(Read { events, errors })
}

fn reject(code: &'static str, message: impl Into<String>) -> Rejected {
    Rejected { index: 0, code, message: message.into(), kind: None }
}

fn read_event(json: &[u8], schema: &Schema, now: Timestamp) -> Result<NamedEvent, Rejected> {
    if json.len() > MAX_EVENT_BYTES {
        let message = format!("{} bytes, at most {MAX_EVENT_BYTES} are taken", json.len());
        return Err(reject("too_large", message));
    }
    let sent: SentEvent = body::parse_json(json).map_err(not_an_event)?;
    let Some(kind) = sent.r#type.clone() else {
        return Err(reject("missing_type", "type is missing"));
    };
    if schema.event_type(&kind).is_none() {
        let message = unknown("event type", &kind, schema.events.keys().map(String::as_str));
        return Err(reject("unknown_event_type", message));
    }
    let checked = check_ids(&sent).and_then(|()| check_numbers(&sent, now));
    checked.map_err(|rejected| Rejected { kind: Some(kind.clone()), ..rejected })?;
    Ok(NamedEvent {
        event_id: sent.event_id,
        kind,
        user: sent.user_id,
        session: sent.session_id,
        item: sent.item_id.unwrap_or_default(),
        time: sent.timestamp.unwrap_or(now),
        value: sent.value,
        recommendation_id: sent.recommendation_id,
        position: sent.position,
        properties: sent.properties,
    })
}

fn not_an_event(error: JsonError) -> Rejected {
    let Fault { pointer, message } = error.fault;
    match (error.is_syntax, pointer.as_str()) {
        (true, _) => reject("malformed", message),
        (false, "/timestamp") => reject("invalid_timestamp", message),
        (false, "") => reject("invalid_event", message),
        (false, _) => reject("invalid_event", format!("{pointer}: {message}")),
    }
}

fn check_ids(sent: &SentEvent) -> Result<(), Rejected> {
    if sent.item_id.is_none() {
        return Err(reject("missing_id", "item_id is missing"));
    }
    if sent.user_id.is_none() && sent.session_id.is_none() {
        return Err(reject("missing_id", "user_id or session_id is needed"));
    }
    let ids = [
        ("event_id", &sent.event_id),
        ("user_id", &sent.user_id),
        ("session_id", &sent.session_id),
        ("item_id", &sent.item_id),
        ("recommendation_id", &sent.recommendation_id),
    ];
    for (name, id) in ids {
        if let Some(Err(reason)) = id.as_deref().map(check_id) {
            return Err(reject("invalid_id", format!("{name}: {reason}")));
        }
    }
    Ok(())
}

fn check_numbers(sent: &SentEvent, now: Timestamp) -> Result<(), Rejected> {
    if let Some(time) = sent.timestamp.filter(|time| time.0 > now.0 + MAX_FUTURE_MS) {
        let message = format!("{time} is more than a day after the server's clock, {now}");
        return Err(reject("invalid_timestamp", message));
    }
    match sent.value {
        // The state keeps values in single precision.
        Some(value) if !(value as f32).is_finite() => {
            Err(reject("invalid_value", format!("{value} is too large")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featurestore::schema::EventType;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);

    fn read(json: &str) -> Result<NamedEvent, &'static str> {
        let purchase = ("purchase".to_owned(), EventType { weight: 1.0, label: 1 });
        let schema = Schema { events: [purchase].into(), ..Schema::default() };
        read_event(json.as_bytes(), &schema, NOW).map_err(|rejected| rejected.code)
    }

    #[test]
    fn an_event_is_read_with_the_time_that_it_is_by_default() {
        let event = read(r#"{"type": "purchase", "user_id": "u", "item_id": "a/b"}"#).unwrap();
        assert_eq!((&*event.item, event.time, event.value), ("a/b", NOW, None));
        let json = r#"{"type": "purchase", "session_id": "s", "item_id": "i", "event_id": "e",
            "timestamp": "2023-11-14T00:00:00Z", "value": 2.5, "position": 3,
            "recommendation_id": "r", "properties": {"colour": "red", "tags": ["a", "b"]}}"#;
        let event = read(json).unwrap();
        assert_eq!((event.time.0, event.position), (1_699_920_000_000, Some(3)));
        assert_eq!(event.properties.len(), 2);
        let json = r#"{"type":"purchase","user_id":"u","item_id":"i","timestamp":1699920000000}"#;
        assert_eq!(read(json).unwrap().time, event.time);
    }

    #[test]
    fn what_is_wrong_with_an_event_has_a_code() {
        let with = |rest: &str| format!(r#"{{"type": "purchase", "item_id": "i", {rest}}}"#);
        for (json, code) in [
            ("{", "malformed"),
            ("7", "invalid_event"),
            ("{}", "missing_type"),
            (r#"{"type": "purchse"}"#, "unknown_event_type"),
            (r#"{"type": "purchase", "user_id": "u"}"#, "missing_id"),
            (r#"{"type": "purchase", "item_id": "i"}"#, "missing_id"),
            (&with(r#""user_id": """#), "invalid_id"),
            (&with(r#""user_id": "u", "event_id": "\u0001""#), "invalid_id"),
            (&with(r#""user_id": 7"#), "invalid_event"),
            (&with(r#""user_id": "u", "color": "red""#), "invalid_event"),
            (&with(r#""user_id": "u", "user_id": "v""#), "invalid_event"),
            (&with(r#""user_id": "u", "timestamp": "soon""#), "invalid_timestamp"),
            (&with(r#""user_id": "u", "timestamp": 1700086400001"#), "invalid_timestamp"),
            (&with(r#""user_id": "u", "timestamp": NaN"#), "malformed"),
            (&with(r#""user_id": "u", "value": 1e39"#), "invalid_value"),
            (&with(r#""user_id": "u", "value": 1e400"#), "malformed"),
            (&with(r#""user_id": "u", "position": -1"#), "invalid_event"),
            (&with(r#""user_id": "u", "properties": {"a": {"b": 1}}"#), "invalid_event"),
        ] {
            assert_eq!(read(json).unwrap_err(), code, "{json}");
        }
        let long =
            with(&format!(r#""user_id": "u", "properties": {{"a": "{}"}}"#, "x".repeat(70_000)));
        assert_eq!(read(&long).unwrap_err(), "too_large");
    }

    #[test]
    fn the_nearest_type_is_proposed() {
        let purchase = ("purchase".to_owned(), EventType { weight: 1.0, label: 1 });
        let schema = Schema { events: [purchase].into(), ..Schema::default() };
        let rejected = read_event(br#"{"type": "purchse"}"#, &schema, NOW).unwrap_err();
        assert!(rejected.message.ends_with(r#"did you mean "purchase"?"#), "{}", rejected.message);
    }
}
