//! Bodies and queries: read within limits, parsed with the place of every mistake.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::web::{Bytes, Payload};
use actix_web::{HttpRequest, rt, web};
use featurestore::schema::nearest_name;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use serde_json::value::RawValue;
use serde_path_to_error::{Path, Segment};
use utoipa::ToSchema;

use super::problem::{Fault, Problem};

/// A time as it is sent; answers have it in RFC 3339.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what `Timestamp` reads")]
pub(super) enum Moment {
    /// RFC 3339.
    Text(String),
    /// Milliseconds since 1970.
    Milliseconds(i64),
}

/// Time within which a body must have arrived. A client that sends byte by byte is cut off then.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// Reads the body of a request, at most `max_bytes` of it.
///
/// # Errors
/// If it is larger, takes too long, or the connection breaks.
pub(super) async fn read(payload: Payload, max_bytes: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {max_bytes} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    };
    let timeout = |_| {
        let detail = format!("the body did not arrive within {} s", READ_DEADLINE.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail)
    };
    let reading = payload.to_bytes_limited(max_bytes);
    let body = rt::time::timeout(READ_DEADLINE, reading).await.map_err(timeout)?;
    let body = body.map_err(|_| too_large())?;
    body.map_err(|error| malformed(format!("the body cannot be read: {error}")))
}

fn malformed(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
}

/// What is wrong with a piece of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JsonError {
    /// Whether it is not JSON at all; else it is not what was expected.
    pub(super) is_syntax: bool,
    /// Where, and what.
    pub(super) fault: Fault,
}

/// Parses one JSON object.
///
/// # Errors
/// If it is not JSON, not an object, or not a `T`.
pub(super) fn parse_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, JsonError> {
    // serde would take the values of an array for those of the fields, in their order.
    if json.trim_ascii_start().starts_with(b"[") {
        serde_json::from_slice::<IgnoredAny>(json).map_err(|e| json_error(String::new(), &e))?;
        let fault = Fault::new("", "an object is expected, not an array");
        return Err(JsonError { is_syntax: false, fault });
    }
    if let Ok(value) = serde_json::from_slice(json) {
        return Ok(value);
    }
    // Once more, to know where the mistake is, which takes longer to follow.
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut deserializer);
    let value = value.map_err(|error| json_error(pointer(error.path()), error.inner()))?;
    deserializer.end().map_err(|error| json_error(String::new(), &error))?;
    Ok(value)
}

fn json_error(pointer: String, error: &serde_json::Error) -> JsonError {
    let is_syntax = error.classify() != Category::Data;
    let message = error.to_string();
    let message = if is_syntax { message } else { with_nearest(in_words(&message)) };
    JsonError { is_syntax, fault: Fault::new(if is_syntax { "" } else { &pointer }, message) }
}

/// What serde says is wrong with a value, without its names of types, and without line and column: a pointer tells the place.
fn in_words(message: &str) -> String {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.into() };
    let expected = match expected {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        name if name.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{found}, expected {expected}")
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        match error.is_syntax {
            true => malformed(format!("the body is not JSON: {}", error.fault.message)),
            false => Self::unprocessable("invalid_request", vec![error.fault]),
        }
    }
}

/// Whether the body of `http` has one object a line.
pub(super) fn is_ndjson(http: &HttpRequest) -> bool {
    let content_type = http.headers().get(header::CONTENT_TYPE);
    let essence = content_type.and_then(|value| value.to_str().ok()?.split(';').next());
    let is = |name: &str| essence.is_some_and(|it| it.trim().eq_ignore_ascii_case(name));
    is("application/x-ndjson") || is("application/jsonl")
}

/// The objects of a body that has many: the lines of NDJSON, the entries of an array, or the one object that there is.
/// `what` is expected.
///
/// # Errors
/// If it is not JSON, or neither an object nor an array. Whether each of several is an object is not looked at.
pub(super) fn objects<'a>(
    body: &'a [u8],
    is_ndjson: bool,
    what: &str,
) -> Result<Vec<&'a [u8]>, Problem> {
    if is_ndjson {
        let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        return Ok(lines.filter(|line| !line.is_empty()).collect());
    }
    let not_json = |error: serde_json::Error| malformed(format!("the body is not JSON: {error}"));
    match body.trim_ascii_start().first() {
        Some(b'[') => {
            let values: Vec<&RawValue> = serde_json::from_slice(body).map_err(not_json)?;
            Ok(values.into_iter().map(|value| value.get().as_bytes()).collect())
        }
        Some(b'{') => {
            let value: &RawValue = serde_json::from_slice(body).map_err(not_json)?;
            Ok(vec![value.get().as_bytes()])
        }
        _ => {
            serde_json::from_slice::<&RawValue>(body).map_err(not_json)?;
            let fault = Fault::new("", format!("{what} is expected"));
            Err(Problem::unprocessable("invalid_request", vec![fault]))
        }
    }
}

/// The parameters of a query string, each at most once.
pub(super) struct QueryParameters {
    values: BTreeMap<String, String>,
    faults: Vec<Fault>,
}

impl QueryParameters {
    /// Reads those of `request`, which may only be `known` ones.
    ///
    /// # Errors
    /// If the query is not one.
    pub(super) fn read(request: &HttpRequest, known: &[&str]) -> Result<Self, Problem> {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        let pairs =
            pairs.map_err(|error| malformed(format!("the query cannot be read: {error}")))?;
        let (mut values, mut faults) = (BTreeMap::new(), Vec::new());
        for (name, value) in pairs.into_inner() {
            if !known.contains(&name.as_str()) {
                let message = unknown("parameter", &name, known.iter().copied());
                faults.push(Fault::new(format!("/{}", escaped(&name)), message));
            } else if values.insert(name.clone(), value).is_some() {
                faults.push(Fault::new(format!("/{name}"), "is given twice"));
            }
        }
        Ok(Self { values, faults })
    }

    /// The parameter called `name`, if it is there and can be read. `what`: what it should be.
    pub(super) fn take<T: FromStr>(&mut self, name: &str, what: &str) -> Option<T> {
        let value = self.values.remove(name)?;
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.faults
                .push(Fault::new(format!("/{name}"), format!("is {value:?}, must be {what}")));
        }
        parsed
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// With everything that was wrong.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(Problem::unprocessable("invalid_request", self.faults)),
        }
    }
}

/// Says that there is no `what` called `name`, and which one was probably meant.
pub(super) fn unknown<'a>(
    what: &str,
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    match nearest_name(name, known) {
        Some(nearest) => format!("unknown {what} {name:?}; did you mean {nearest:?}?"),
        None => format!("unknown {what} {name:?}"),
    }
}

/// Adds the known name that was probably meant to an error about an unknown one.
fn with_nearest(message: String) -> String {
    // serde puts the names between backticks, the unknown one first.
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = if message.starts_with("unknown") { names.next() } else { None };
    match unknown.and_then(|name| nearest_name(name, names)) {
        Some(nearest) => format!("{message}; did you mean `{nearest}`?"),
        None => message,
    }
}

/// The JSON pointer (RFC 6901) of a place.
fn pointer(path: &Path) -> String {
    let segment = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } | Segment::Enum { variant: key } => {
            format!("/{}", escaped(key))
        }
        Segment::Unknown => String::new(),
    };
    path.iter().map(segment).collect()
}

/// `key` as a part of a JSON pointer.
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        #[serde(default)]
        counts: Vec<u32>,
    }

    fn error(json: &str) -> JsonError {
        parse_json::<Thing>(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn an_unknown_field_is_named_with_its_place_and_the_nearest() {
        let JsonError { is_syntax, fault } = error(r#"{"conuts": []}"#);
        assert!(!is_syntax);
        assert_eq!(fault.pointer, "/conuts");
        assert!(fault.message.starts_with("unknown field `conuts`"), "{}", fault.message);
        assert!(fault.message.ends_with("did you mean `counts`?"), "{}", fault.message);
    }

    #[test]
    fn a_wrong_type_is_placed() {
        assert_eq!(
            error(r#"{"counts": [-1]}"#).fault.message,
            "invalid value: integer `-1`, expected a whole number from 0 on"
        );
        assert_eq!(error("7").fault.message, "invalid type: integer `7`, expected an object");
        assert_eq!(error(r#"{"counts": [1, "x"]}"#).fault.pointer, "/counts/1");
        assert_eq!(error(r#"{"counts": [-1]}"#).fault.pointer, "/counts/0");
    }

    #[test]
    fn what_is_not_json_is_told_apart() {
        let deep = "[".repeat(10_000);
        for json in ["", "{", "{\"counts\": [1e400]}", "{\"counts\": [NaN]}", "{} {}", &deep] {
            assert!(error(json).is_syntax || json == deep, "{json}");
        }
    }

    #[test]
    fn a_body_of_many_is_an_array_an_object_or_lines() {
        let values = |body| objects(body, false, "something");
        assert_eq!(values(b" [{}, 1]").unwrap().len(), 2);
        assert_eq!(values(b"{\"a\": 1}").unwrap().len(), 1);
        for body in [&b""[..], b"[", b"[{}", b"{} {}", b"7", b"\"x\"", b"\xff"] {
            assert!(values(body).is_err(), "{body:?}");
        }
        assert_eq!(objects(b"{}\r\n\n  {\n", true, "").unwrap(), [&b"{}"[..], b"{"]);
    }

    #[test]
    fn a_query_is_read_by_name_and_everything_wrong_is_told() {
        let read = |uri: &str| {
            let request = TestRequest::with_uri(uri).to_http_request();
            let mut query = QueryParameters::read(&request, &["n", "user_id"]).unwrap();
            let n: Option<usize> = query.take("n", "a whole number");
            (n, query.take::<String>("user_id", "an id"), query.finish())
        };
        assert_eq!(read("/?n=3&user_id=a%2Fb"), (Some(3), Some("a/b".to_owned()), Ok(())));
        assert_eq!(read("/"), (None, None, Ok(())));
        let problem = read("/?n=x&n=y&usr_id=1").2.unwrap_err().to_string();
        for part in ["/n: is given twice", "/n: is \"y\", must be a whole", "mean \"user_id\"?"] {
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn a_pointer_escapes_slashes_and_tildes() {
        let error = error(r#"{"a/b~c": 1}"#);
        assert_eq!(error.fault.pointer, "/a~1b~0c");
    }
}
