//! Bodies and queries: read within limits, parsed with the place of every mistake.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Payload};
use actix_web::{HttpRequest, rt, web};
use featurestore::schema::nearest_name;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};

use super::problem::{Fault, Problem};

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

/// Parses one JSON value.
///
/// # Errors
/// If it is not JSON, or not a `T`.
pub(super) fn parse_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut deserializer);
    let value = value.map_err(|error| json_error(pointer(error.path()), error.inner()))?;
    deserializer.end().map_err(|error| json_error(String::new(), &error))?;
    Ok(value)
}

fn json_error(pointer: String, error: &serde_json::Error) -> JsonError {
    let is_syntax = error.classify() != Category::Data;
    let message = with_nearest(error.to_string());
    JsonError { is_syntax, fault: Fault::new(if is_syntax { "" } else { &pointer }, message) }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        match error.is_syntax {
            true => malformed(format!("the body is not JSON: {}", error.fault.message)),
            false => Self::unprocessable("invalid_request", vec![error.fault]),
        }
    }
}

/// Parses the query of a request.
///
/// # Errors
/// If a parameter is unknown, missing or of the wrong type.
pub(super) fn parse_query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    let query = web::Query::<T>::from_query(request.query_string());
    query.map(web::Query::into_inner).map_err(|error| {
        let message = error.to_string();
        let message = message.strip_prefix("Query deserialize error: ").unwrap_or(&message);
        let fault = Fault::new("", with_nearest(message.to_owned()));
        Problem::unprocessable("invalid_request", vec![fault])
    })
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
            format!("/{}", key.replace('~', "~0").replace('/', "~1"))
        }
        Segment::Unknown => String::new(),
    };
    path.iter().map(segment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_pointer_escapes_slashes_and_tildes() {
        let error = error(r#"{"a/b~c": 1}"#);
        assert_eq!(error.fault.pointer, "/a~1b~0c");
    }
}
