//! Lists that are not a placement's: what is popular, trending or new, what goes with some items, and the caller's own
//! candidates in the order of the ranker. They are answered as `/v1/recommend` is.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use engine::filter::Filter;
use engine::pipeline::Listing;
use featurestore::Fields;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::answer::Origin;
use super::body;
use super::ids::check_ids;
use super::problem::{Fault, Problem};
use super::recommend::answer;
use super::request::{Explain, MAX_N, MAX_SEEDS, OF_LIST, Request};
use super::state::Engine;

/// `GET /v1/popular`.
pub(super) async fn popular(
    engine: web::Data<Engine>,
    http: HttpRequest,
) -> Result<HttpResponse, Problem> {
    listing(&engine, &http, Listing::Popular).await
}

/// `GET /v1/trending`.
pub(super) async fn trending(
    engine: web::Data<Engine>,
    http: HttpRequest,
) -> Result<HttpResponse, Problem> {
    listing(&engine, &http, Listing::Trending).await
}

/// `GET /v1/latest`.
pub(super) async fn latest(
    engine: web::Data<Engine>,
    http: HttpRequest,
) -> Result<HttpResponse, Problem> {
    listing(&engine, &http, Listing::Latest).await
}

async fn listing(
    engine: &web::Data<Engine>,
    http: &HttpRequest,
    listing: Listing,
) -> Result<HttpResponse, Problem> {
    let request = Request::from_query(http, OF_LIST)?;
    answer(engine, http, request, Origin::Listing(listing)).await
}

/// `GET /v1/items/{id}/similar`.
pub(super) async fn similar_to_one(
    engine: web::Data<Engine>,
    http: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let request = Request::from_query(&http, OF_LIST)?;
    answer_similar(&engine, &http, request, vec![id.into_inner()]).await
}

/// The body of `POST /v1/similar`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Similar {
    item_ids: Vec<String>,
    user_id: Option<String>,
    session_id: Option<String>,
    n: Option<usize>,
    #[schema(value_type = Option<Object>)]
    filter: Option<Arc<Filter>>,
    exclude_ids: Vec<String>,
    return_fields: Vec<String>,
    explain: Option<Explain>,
    dry_run: bool,
}

/// `POST /v1/similar`.
pub(super) async fn similar(
    engine: web::Data<Engine>,
    http: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(payload, engine.config.server.max_body_bytes).await?;
    let sent: Similar = body::parse_json(&body)?;
    let otherwise = Request::default();
    let request = Request {
        user_id: sent.user_id,
        session_id: sent.session_id,
        n: sent.n.unwrap_or(otherwise.n),
        filter: sent.filter,
        exclude_ids: sent.exclude_ids,
        return_fields: sent.return_fields,
        explain: sent.explain.unwrap_or(otherwise.explain),
        dry_run: sent.dry_run,
        ..otherwise
    };
    answer_similar(&engine, &http, request, sent.item_ids).await
}

async fn answer_similar(
    engine: &web::Data<Engine>,
    http: &HttpRequest,
    request: Request,
    ids: Vec<String>,
) -> Result<HttpResponse, Problem> {
    check_named(&ids, "/item_ids", MAX_SEEDS)?;
    answer(engine, http, request, Origin::Similar(ids)).await
}

/// The body of `POST /v1/rank`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Rank {
    #[schema(value_type = Vec<Given>)]
    items: Vec<Box<RawValue>>,
    user_id: Option<String>,
    session_id: Option<String>,
    scenario: Option<String>,
    return_fields: Vec<String>,
    explain: Option<Explain>,
    deadline_ms: Option<u64>,
    dry_run: bool,
}

/// One of the caller's candidates.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Given {
    id: String,
    #[serde(default)]
    #[schema(value_type = Object)]
    fields: Fields,
}

/// `POST /v1/rank`.
pub(super) async fn rank(
    engine: web::Data<Engine>,
    http: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(payload, engine.config.server.max_body_bytes).await?;
    let sent: Rank = body::parse_json(&body)?;
    let (mut ids, mut given) = (Vec::with_capacity(sent.items.len()), Vec::new());
    for (i, item) in sent.items.iter().enumerate() {
        let at = |problem: Problem| problem.within(&format!("/items/{i}"));
        let item = body::parse_json(item.get().as_bytes());
        let Given { id, fields } = item.map_err(|error| at(error.into()))?;
        ids.push(id);
        given.push(fields);
    }
    check_named(&ids, "/items", MAX_N)?;
    let request = Request {
        user_id: sent.user_id,
        session_id: sent.session_id,
        scenario: sent.scenario,
        n: ids.len(),
        return_fields: sent.return_fields,
        explain: sent.explain.unwrap_or(Explain::None),
        deadline_ms: sent.deadline_ms,
        dry_run: sent.dry_run,
        ..Request::default()
    };
    answer(&engine, &http, request, Origin::Given(ids, given)).await
}

/// Checks that the ids at `pointer` are ids, at least one and at most `most`.
fn check_named(ids: &[String], pointer: &str, most: usize) -> Result<(), Problem> {
    let mut faults = Vec::new();
    if (1..=most).contains(&ids.len()) {
        check_ids(ids, pointer, &mut faults);
    } else {
        let message = format!("has {} entries, must have 1 to {most}", ids.len());
        faults.push(Fault::new(pointer, message));
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(Problem::unprocessable("invalid_request", faults)),
    }
}
