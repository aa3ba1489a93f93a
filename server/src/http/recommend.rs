//! `/v1/recommend`: what to show to a user.

use actix_web::{HttpRequest, HttpResponse, web};

use super::answer::Question;
use super::body;
use super::observer::{add_timing, arrival};
use super::problem::Problem;
use super::request::Request;
use super::state::Engine;

/// `POST /v1/recommend`.
pub(super) async fn post(
    engine: web::Data<Engine>,
    http: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(payload, engine.config.server.max_body_bytes).await?;
    recommend(&engine, &http, body::parse_json(&body)?).await
}

/// `GET /v1/recommend`.
pub(super) async fn get(
    engine: web::Data<Engine>,
    http: HttpRequest,
) -> Result<HttpResponse, Problem> {
    recommend(&engine, &http, Request::from_query(&http)?).await
}

async fn recommend(
    engine: &web::Data<Engine>,
    http: &HttpRequest,
    request: Request,
) -> Result<HttpResponse, Problem> {
    request.check()?;
    let (now, dry_run) = (engine.clock.now(), request.dry_run);
    let (recommendation_id, seed) = engine.recommendation_ids.next(now);
    let (pipeline, arrived) = (engine.pipeline()?, arrival(http));
    let question = Question { request, pipeline, recommendation_id, seed, now, arrived };
    let shared = engine.clone();
    let answered = engine.pool.run(move |scratch| question.answer(scratch, &shared.metrics)).await;
    let (answer, impression) = answered??;
    let mut response = HttpResponse::Ok().json(&answer);
    add_timing(&mut response, &answer.server_timing());
    if !dry_run {
        engine.impressions.offer(impression);
    }
    Ok(response)
}
