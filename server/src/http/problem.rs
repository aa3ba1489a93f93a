//! Errors as every route answers them: RFC 9457 problem details.

use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    faults: Vec<Fault>,
    /// After how many seconds another try may do better.
    retry_after: u64,
}

/// What is wrong with one part of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Fault {
    /// JSON pointer to the part.
    pub(super) pointer: String,
    /// What is wrong with it.
    pub(super) message: String,
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
pub(super) struct Details<'a> {
    #[schema(value_type = String)]
    r#type: &'static str,
    #[schema(value_type = String)]
    title: &'static str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[schema(value_type = Vec<Fault>)]
    errors: &'a [Fault],
    request_id: &'a str,
}

impl Problem {
    /// One with the given status, a code for programs and words for people.
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), faults: Vec::new(), retry_after: 1 }
    }

    /// The same; another try may do better after so many seconds.
    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after: seconds, ..self }
    }

    /// The request can be read, but is not possible.
    pub(super) fn unprocessable(code: &'static str, faults: Vec<Fault>) -> Self {
        let places = faults.iter().map(|Fault { pointer, message }| match pointer.as_str() {
            "" => message.clone(),
            pointer => format!("{pointer}: {message}"),
        });
        let detail = places.collect::<Vec<_>>().join("; ");
        Self { faults, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail) }
    }

    /// The same about a part of a request that lies at `pointer`.
    pub(super) fn within(self, pointer: &str) -> Self {
        let at = |fault: Fault| Fault { pointer: format!("{pointer}{}", fault.pointer), ..fault };
        match self.faults.is_empty() {
            true => Self { detail: format!("{pointer}: {}", self.detail), ..self },
            false => Self {
                status: self.status,
                ..Self::unprocessable(self.code, self.faults.into_iter().map(at).collect())
            },
        }
    }

    /// The server cannot answer yet, or not any more.
    pub(super) fn not_ready(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", reason)
    }

    /// Something that should not have happened.
    pub(super) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// What the framework answered with `status` before a handler saw the request.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
            StatusCode::PAYLOAD_TOO_LARGE => "too_large",
            StatusCode::REQUEST_TIMEOUT => "timeout",
            status if status.is_client_error() => "malformed",
            _ => "internal",
        };
        Self::new(status, code, title(status))
    }

    /// The response, which names the request.
    pub(super) fn respond(&self, request_id: &str) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.insert_header((header::CONTENT_TYPE, "application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.insert_header((header::RETRY_AFTER, self.retry_after));
        }
        response.json(Details {
            r#type: "about:blank",
            title: title(self.status),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            errors: &self.faults,
            request_id,
        })
    }
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

impl Fault {
    /// What is wrong at `pointer`.
    pub(super) fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.status, self.code, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    /// Without a body: the observer around all routes gives it one, which names the request.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status)
    }
}
