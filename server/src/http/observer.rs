//! What happens around every route: the request gets a name, its time is taken, an error gets its body.

use std::time::Instant;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, web};

use super::keys::{self, Access};
use super::problem::Problem;
use super::state::Engine;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Longest name that a caller may give to a request.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The route of requests that no route takes.
pub(super) const UNMATCHED: &str = "unmatched";

/// When a request arrived.
#[derive(Clone, Copy)]
struct Arrival(Instant);

/// When `request` arrived.
pub(super) fn arrival(request: &HttpRequest) -> Instant {
    request.extensions().get::<Arrival>().map_or_else(Instant::now, |arrival| arrival.0)
}

/// Wraps a route, a pattern that paths match, to which `access` leads. A request that has none is answered before its body
/// is read.
pub(super) async fn observe(
    engine: web::Data<Engine>,
    route: &'static str,
    access: Access,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let arrived = Instant::now();
    request.extensions_mut().insert(Arrival(arrived));
    let given = request_id(request.headers());
    let request_id = given.unwrap_or_else(|| engine.recommendation_ids.next(engine.clock.now()).0);
    let response = match keys::refusal(&engine, access, &request) {
        Some(problem) => request.error_response(problem),
        None => next.call(request).await?,
    };
    let mut response = with_problem(response, &request_id);
    let took = arrived.elapsed();
    engine.metrics.count_request(route, response.status().as_u16(), took);
    let timing = format!("total;dur={}.{:03}", took.as_millis(), took.as_micros() % 1_000);
    add_header(response.response_mut(), REQUEST_ID, &request_id);
    add_header(response.response_mut(), SERVER_TIMING, &timing);
    Ok(response)
}

/// Adds to the timing of the stages that a response tells about.
pub(super) fn add_timing(response: &mut HttpResponse, timing: &str) {
    add_header(response, SERVER_TIMING, timing);
}

fn add_header(response: &mut HttpResponse, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().append(name, value);
    }
}

/// The name that the caller gave to the request, if it is one.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(&REQUEST_ID)?.to_str().ok()?;
    let is_printable = id.bytes().all(|byte| byte.is_ascii_graphic());
    (is_printable && (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())).then(|| id.to_owned())
}

/// Gives errors the body that they all have.
fn with_problem(response: ServiceResponse, request_id: &str) -> ServiceResponse {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let known = response.response().error().and_then(|error| error.as_error::<Problem>().cloned());
    let problem = known.unwrap_or_else(|| Problem::of_status(status));
    let mut body = problem.respond(request_id);
    for (name, value) in response.headers() {
        if !body.headers().contains_key(name) && name != actix_web::http::header::CONTENT_LENGTH {
            body.headers_mut().append(name.clone(), value.clone());
        }
    }
    response.into_response(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_str(value).unwrap());
        request_id(&headers)
    }

    #[test]
    fn the_name_of_a_request_is_taken_if_it_is_short_and_printable() {
        assert_eq!(id_of("abc-123"), Some("abc-123".to_owned()));
        for value in ["", "a b", "\u{e9}", &"x".repeat(129)] {
            assert_eq!(id_of(value), None, "{value:?}");
        }
    }
}
