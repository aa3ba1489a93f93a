//! The shelf of releases over HTTP.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use engine::release::{DataSpan, Manifest, OpenReleaseError};
use serde::Serialize;
use serde_json::json;

use super::problem::Problem;
use super::state::Engine;
use crate::causes::with_causes;

/// One release of the list.
#[derive(Serialize)]
struct Listed {
    id: String,
    active: bool,
    #[serde(flatten)]
    content: Content,
}

/// What a release says of itself, or why it cannot.
#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Manifest { data: DataSpan, n_features: usize, seed: u64, metrics: BTreeMap<String, f64> },
    Damaged { error: String },
}

impl From<Result<Manifest, OpenReleaseError>> for Content {
    fn from(manifest: Result<Manifest, OpenReleaseError>) -> Self {
        match manifest {
            Ok(Manifest { data, features, seed, metrics, .. }) => {
                Self::Manifest { data, n_features: features.len(), seed, metrics }
            }
            Err(error) => Self::Damaged { error: with_causes(&error) },
        }
    }
}

/// `GET /v1/releases`: those on the shelf, by name.
pub(super) async fn list(engine: web::Data<Engine>) -> Result<HttpResponse, Problem> {
    let listed = engine.block(|engine| engine.releases()).await?;
    let (active, releases) = listed.map_err(|error| Problem::internal(with_causes(&error)))?;
    let listed = |(id, manifest): (String, Result<_, _>)| Listed {
        active: id == active,
        id,
        content: manifest.into(),
    };
    let releases: Vec<Listed> = releases.into_iter().map(listed).collect();
    Ok(HttpResponse::Ok().json(json!({ "active": active, "releases": releases })))
}

/// `POST /v1/releases/{id}/activate`: puts a release into service.
pub(super) async fn activate(
    engine: web::Data<Engine>,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = id.into_inner();
    let previous = engine.pipeline()?.release().manifest.id.clone();
    let activated = id.clone();
    engine.block(move |engine| engine.activate(&id)).await??;
    Ok(HttpResponse::Ok().json(json!({ "active": activated, "previous": previous })))
}
