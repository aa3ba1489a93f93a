//! Who may call a route: those whose key has its scope, or everybody on this machine if there are no keys.

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, web};
use engine::keys::{Scope, scopes_of};

use super::problem::Problem;
use super::state::Engine;

const API_KEY: &str = "x-api-key";

/// What a key must be good for to call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing; no key is needed.
    Open,
    /// One scope, whatever the method.
    To(Scope),
    /// Reading to GET, administration for everything else.
    ByMethod,
}

impl Access {
    fn scope(self, method: &Method) -> Option<Scope> {
        match self {
            Self::Open => None,
            Self::To(scope) => Some(scope),
            Self::ByMethod if method == Method::GET => Some(Scope::Read),
            Self::ByMethod => Some(Scope::Admin),
        }
    }
}

/// Wraps the routes to which `access` leads. A request that has none is answered before its body is read.
pub(super) async fn require(
    access: Access,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    match refusal(access, &request) {
        Some(problem) => Ok(request.error_response(problem)),
        None => next.call(request).await,
    }
}

fn refusal(access: Access, request: &ServiceRequest) -> Option<Problem> {
    let scope = access.scope(request.method())?;
    let unauthorized =
        |detail: &str| Some(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail));
    let Some(engine) = request.app_data::<web::Data<Engine>>() else {
        return Some(Problem::internal("the server has no keys to compare with"));
    };
    let keys = &engine.config.server.keys;
    if keys.is_empty() {
        return None;
    }
    let Some(key) = key_of(request.headers()) else {
        return unauthorized("a key is needed, as `Authorization: Bearer` or as `X-API-Key`");
    };
    let Some(scopes) = scopes_of(keys, key) else { return unauthorized("the key is not known") };
    if scopes.contains(&scope) {
        return None;
    }
    let detail = format!("the key does not have the scope `{}`", scope.name());
    Some(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
}

/// The key in `headers`.
fn key_of(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = || {
        let (scheme, key) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    };
    bearer().or_else(|| Some(headers.get(API_KEY)?.as_bytes().trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn key(name: &'static str, value: &'static str) -> Option<Vec<u8>> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        key_of(&headers).map(<[u8]>::to_vec)
    }

    #[test]
    fn a_key_is_a_bearer_token_or_a_header_of_its_own() {
        assert_eq!(key("authorization", "Bearer abc").as_deref(), Some(&b"abc"[..]));
        assert_eq!(key("authorization", "bearer  abc ").as_deref(), Some(&b"abc"[..]));
        assert_eq!(key("x-api-key", "abc").as_deref(), Some(&b"abc"[..]));
        for value in ["Basic abc", "Bearer", "abc", ""] {
            assert_eq!(key("authorization", value), None, "{value}");
        }
    }

    #[test]
    fn reading_does_not_need_the_scope_of_changing() {
        let scope = |method| Access::ByMethod.scope(&method);
        assert_eq!(scope(Method::GET), Some(Scope::Read));
        for method in [Method::PUT, Method::POST, Method::PATCH, Method::DELETE, Method::HEAD] {
            assert_eq!(scope(method), Some(Scope::Admin));
        }
    }
}
