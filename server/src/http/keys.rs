//! Who may call a route: those whose key has its scope, or everybody on this machine if there are no keys.

use actix_web::dev::ServiceRequest;
use actix_web::http::header::{self, HeaderMap};
use actix_web::http::{Method, StatusCode};
use engine::keys::{ApiKey, Scope, find};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

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
    /// Reading to GET, changes by `admin` for everything else.
    ByMethod,
    /// `admin`, and at the address of administration alone, if there is one.
    Administration,
}

impl Access {
    fn scope(self, method: &Method) -> Option<Scope> {
        match self {
            Self::Open => None,
            Self::To(scope) => Some(scope),
            Self::Administration => Some(Scope::Admin),
            Self::ByMethod if method == Method::GET => Some(Scope::Read),
            Self::ByMethod => Some(Scope::Admin),
        }
    }
}

/// Why `request` may not go where `access` leads; `None`: it may.
pub(super) fn refusal(
    engine: &Engine,
    access: Access,
    request: &ServiceRequest,
) -> Option<Problem> {
    let scope = access.scope(request.method())?;
    let unauthorized =
        |detail: &str| Some(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail));
    let address = request.app_config().local_addr();
    if access == Access::Administration && engine.admin.get().is_some_and(|it| *it != address) {
        return Some(Problem::of_status(StatusCode::NOT_FOUND));
    }
    let keys = &engine.config.server.keys;
    if keys.is_empty() {
        return None;
    }
    let Some(key) = key_of(request.headers()) else {
        return unauthorized("a key is needed, as `Authorization: Bearer` or as `X-API-Key`");
    };
    let Some(i) = find(keys, key) else { return unauthorized("the key is not known") };
    if keys[i].scopes.contains(&scope) {
        return engine.limits.refusal(i);
    }
    let detail = format!("the key does not have the scope `{}`", scope.name());
    Some(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
}

/// How many requests keys may make.
pub(super) struct Limits {
    /// For each key; `None`: as many as there are.
    of_key: Vec<Option<DefaultDirectRateLimiter>>,
    clock: DefaultClock,
}

impl Limits {
    /// Those of `keys`.
    pub(super) fn new(keys: &[ApiKey]) -> Self {
        let limit = |key: &ApiKey| {
            let per_second = key.per_second?;
            let quota = Quota::per_second(per_second);
            Some(RateLimiter::direct(quota.allow_burst(key.burst.unwrap_or(per_second))))
        };
        Self { of_key: keys.iter().map(limit).collect(), clock: DefaultClock::default() }
    }

    /// Counts a request of the key numbered `i`, and refuses it if it is one too many.
    fn refusal(&self, i: usize) -> Option<Problem> {
        let early = self.of_key[i].as_ref()?.check().err()?;
        let seconds = early.wait_time_from(self.clock.now()).as_secs_f64().ceil() as u64;
        let detail = "the key makes more requests than it may";
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail);
        Some(problem.retry_after(seconds.max(1)))
    }
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
