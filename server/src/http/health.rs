//! Whether the server lives and is ready, and what it counts.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::problem::Problem;
use super::state::{Engine, Phase};

/// `GET /health/live`: the process answers.
pub(super) async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "live" }))
}

/// `GET /health/ready`: a release is loaded, verified and warm, and the server is not ending.
pub(super) async fn ready(engine: web::Data<Engine>) -> Result<HttpResponse, Problem> {
    match engine.phase() {
        Phase::Loading => Err(Problem::not_ready("the release is being loaded")),
        Phase::Draining => Err(Problem::not_ready("the server is ending")),
        Phase::Ready => {
            let release = engine.pipeline()?.release().manifest.id.clone();
            Ok(HttpResponse::Ok().json(json!({ "status": "ready", "release": release })))
        }
    }
}

/// `GET /metrics`, in the OpenMetrics text format.
pub(super) async fn metrics(engine: web::Data<Engine>) -> HttpResponse {
    let pipeline = engine.active();
    let release = pipeline.as_ref().map(|pipeline| &**pipeline.release());
    let replica = engine.replica().map(|replica| &**replica);
    let text = engine.metrics.encode(release, replica, engine.clock.now());
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    HttpResponse::Ok().content_type(content_type).body(text)
}
