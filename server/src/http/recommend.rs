//! `/v1/recommend`: what to show to a user, for one placement or for several at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use engine::pipeline::{Pipeline, Scratch};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::answer::{Answered, BatchAnswer, Origin, Question};
use super::body;
use super::observer::{add_timing, arrival};
use super::pages::Page;
use super::pool::{Class, Wish};
use super::problem::{Fault, Problem};
use super::request::{OF_PLACEMENT, Request};
use super::state::Engine;

/// Most requests of one batch.
const MAX_BATCH: usize = 32;

/// `POST /v1/recommend`.
pub(super) async fn post(
    engine: web::Data<Engine>,
    http: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(payload, engine.config.server.max_body_bytes).await?;
    answer(&engine, &http, body::parse_json(&body)?, Origin::Placement).await
}

/// `GET /v1/recommend`.
pub(super) async fn get(
    engine: web::Data<Engine>,
    http: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let request = Request::from_query(&http, OF_PLACEMENT)?;
    answer(&engine, &http, request, Origin::Placement).await
}

/// Answers `request` with items from `origin`.
///
/// # Errors
/// If it is not possible, or too many others wait.
pub(super) async fn answer(
    engine: &web::Data<Engine>,
    http: &HttpRequest,
    request: Request,
    origin: Origin,
) -> Result<HttpResponse, Problem> {
    request.check()?;
    let dry_run = request.dry_run;
    let pipeline = engine.pipeline()?;
    let (question, page) = question(engine, request, origin, arrival(http), pipeline)?;
    let shared = engine.clone();
    let wish = Wish { class: class_of(http), until: question.arrived + question.time() };
    let job = move |scratch: &mut Scratch, share| question.answer(scratch, share, &shared.metrics);
    let mut answered = engine.pool.run(wish, job).await??;
    answered.answer.set_next_page(next_page(engine, page.as_ref(), &answered));
    let Answered { answer, impression, shown, .. } = answered;
    let mut response = HttpResponse::Ok().json(&answer);
    add_timing(&mut response, &answer.server_timing());
    if !dry_run {
        engine.note_shown(impression, &shown);
    }
    Ok(response)
}

/// What a browser fetches before anybody has asked for it can wait. Source: Fetch Standard, `Sec-Purpose`.
fn class_of(http: &HttpRequest) -> Class {
    let purpose = http.headers().get("sec-purpose").and_then(|value| value.to_str().ok());
    match purpose {
        Some(purpose) if purpose.starts_with("prefetch") => Class::Low,
        _ => Class::User,
    }
}

/// The question that `request` asks, and the page that it is about. Lists that are not a placement's have no pages.
///
/// # Errors
/// If the release has no such placement or field, or the token is none.
fn question(
    engine: &web::Data<Engine>,
    request: Request,
    origin: Origin,
    arrived: Instant,
    pipeline: Arc<Pipeline>,
) -> Result<(Question, Option<Page>), Problem> {
    if matches!(origin, Origin::Placement | Origin::Given(..)) {
        request.scenario(pipeline.release())?;
    }
    request.check_fields(pipeline.release())?;
    let now = engine.clock.now();
    let (recommendation_id, mut seed) = engine.recommendation_ids.next(now);
    let (mut leave_out, mut page) = (Vec::new(), None);
    if matches!(origin, Origin::Placement) {
        let asked = engine.pages.page(&request, seed)?;
        (seed, leave_out) = (asked.seed, asked.shown.clone());
        page = Some(asked);
    }
    let question = Question {
        request,
        origin,
        leave_out,
        pipeline,
        recommendation_id,
        seed,
        now,
        arrived,
        engine: engine.clone(),
    };
    Ok((question, page))
}

/// The token of the page behind `page`, if there is more to show.
fn next_page(engine: &Engine, page: Option<&Page>, answered: &Answered) -> Option<String> {
    page.filter(|_| answered.has_more).and_then(|page| engine.pages.next(page, &answered.shown))
}

/// The body of `POST /v1/recommend/batch`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    #[schema(value_type = Vec<Request>)]
    requests: Vec<Box<RawValue>>,
    /// Whether an item may be in one of the answers only.
    #[serde(default)]
    distinct: bool,
}

/// `POST /v1/recommend/batch`: several placements in one call, answered one after the other by one thread.
pub(super) async fn batch(
    engine: web::Data<Engine>,
    http: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(payload, engine.config.server.max_body_bytes).await?;
    let Batch { requests, distinct } = body::parse_json(&body)?;
    if requests.len() > MAX_BATCH {
        let detail = format!("{} requests in one call, at most {MAX_BATCH}", requests.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_requests", detail));
    }
    if requests.is_empty() {
        let fault = Fault::new("/requests", "must not be empty");
        return Err(Problem::unprocessable("invalid_request", vec![fault]));
    }
    let (mut questions, mut pages) = (Vec::with_capacity(requests.len()), Vec::new());
    // One for all of them: no answer mixes releases.
    let pipeline = engine.pipeline()?;
    for (i, request) in requests.iter().enumerate() {
        let at = |problem: Problem| problem.within(&format!("/requests/{i}"));
        let parsed = body::parse_json(request.get().as_bytes());
        let request: Request = parsed.map_err(|error| at(error.into()))?;
        request.check().map_err(at)?;
        let (arrived, pipeline) = (Instant::now(), pipeline.clone());
        let asked = question(&engine, request, Origin::Placement, arrived, pipeline).map_err(at)?;
        questions.push(asked.0);
        pages.push(asked.1);
    }
    let dry_runs: Vec<bool> = questions.iter().map(|question| question.request.dry_run).collect();
    let shared = engine.clone();
    let time = questions.iter().map(Question::time).sum::<Duration>();
    let wish = Wish { class: Class::Low, until: arrival(&http) + time };
    let questions: Vec<(usize, Question)> = questions.into_iter().enumerate().collect();
    let mut shown_before = Vec::new();
    let answer = move |(i, mut question): (usize, Question), scratch: &mut Scratch, share| {
        // Each has its own time, which begins when those before it are done.
        question.arrived = Instant::now();
        if distinct {
            question.leave_out.extend_from_slice(&shown_before);
        }
        let answered = question.answer(scratch, share, &shared.metrics);
        let answered = answered.map_err(|problem| problem.within(&format!("/requests/{i}")))?;
        shown_before.extend(answered.shown.iter().copied());
        Ok::<Answered, Problem>(answered)
    };
    let answered = engine.pool.run_in_turn(wish, questions, answer).await??;
    let mut responses = Vec::with_capacity(answered.len());
    for ((mut answered, page), dry_run) in answered.into_iter().zip(pages).zip(dry_runs) {
        answered.answer.set_next_page(next_page(&engine, page.as_ref(), &answered));
        let Answered { answer, impression, shown, .. } = answered;
        responses.push(answer);
        if !dry_run {
            engine.note_shown(impression, &shown);
        }
    }
    Ok(HttpResponse::Ok().json(BatchAnswer { responses }))
}
