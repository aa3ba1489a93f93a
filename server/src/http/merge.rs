//! `POST /v1/users/{id}/merge`: an anonymous session, or another user, turns out to be this one.

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use featurestore::history::SESSION_USER;
use featurestore::log::Record;
use featurestore::{Entities, UserId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body;
use super::catalogue::checked;
use super::ids::check_id;
use super::problem::{Fault, Problem};
use super::state::{CATCH_UP, Engine};

/// Who turns out to be the user: one of the two.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Merge {
    /// A session without a user.
    session_id: Option<String>,
    /// Another user.
    user_id: Option<String>,
}

/// What was merged.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Merged {
    user_id: String,
    /// Items that the other had something to do with.
    merged_items: usize,
}

/// `POST /v1/users/{id}/merge`.
pub(super) async fn post(
    engine: web::Data<Engine>,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let into = checked(id)?;
    let body = body::read(payload, engine.config.server.max_body_bytes).await?;
    let from = match body::parse_json(&body)? {
        Merge { session_id: Some(session), user_id: None } => {
            check("/session_id", &session)?;
            format!("{SESSION_USER}{session}")
        }
        Merge { session_id: None, user_id: Some(user) } => {
            check("/user_id", &user)?;
            user
        }
        _ => {
            let fault = Fault::new("", "needs either `session_id` or `user_id`");
            return Err(Problem::unprocessable("invalid_request", vec![fault]));
        }
    };
    let merged = engine.block(move |engine| merge(engine, &from, into)).await??;
    Ok(HttpResponse::Ok().json(merged))
}

fn check(pointer: &str, id: &str) -> Result<(), Problem> {
    let wrong =
        |reason| Problem::unprocessable("invalid_request", vec![Fault::new(pointer, reason)]);
    check_id(id).map_err(wrong)
}

/// The user that `from` stands for already, if that is somebody else than `into`: two known users are not made one by a device
/// that both have used.
fn other_user<'a>(users: &'a Entities, from: &str, into: &str) -> Option<&'a str> {
    let user = users.find(from)?;
    let stands_for = users.names().name(user)?;
    let is_other = stands_for != from && users.find(into) != Some(user) && !users.is_gone(user);
    is_other.then_some(stands_for)
}

fn already_merged(from: &str, other: &str) -> Problem {
    let from = from.trim_start_matches(SESSION_USER);
    let detail = format!(
        "{from:?} was merged into user {other:?} before; to make {other:?} and this user one, merge {other:?}"
    );
    Problem::new(StatusCode::CONFLICT, "already_merged", detail)
}

fn merge(engine: &Engine, from: &str, into: String) -> Result<Merged, Problem> {
    engine.catch_up(Instant::now() + CATCH_UP);
    let pipeline = engine.pipeline()?;
    let (known, target) = pipeline.store().view(|view| {
        let find = |name: &str| view.users().find(name).map(UserId);
        (find(from), find(&into))
    });
    // A session that has done nothing yet is merged all the same: what it does later is the user's.
    let merged_items = match known {
        Some(user) if Some(user) != target => pipeline.n_known_items(user),
        _ => 0,
    };
    let record = Record::MergeUser { from: from.into(), into: into.as_str().into() };
    engine.change(|store| {
        store.view(|view| match other_user(view.users(), from, &into) {
            Some(other) => Err(already_merged(from, other)),
            None => Ok(()),
        })?;
        Ok((vec![record], ()))
    })?;
    for (item, time) in engine.served.of(from) {
        engine.served.note(&into, &[item], time);
    }
    engine.served.forget(from);
    Ok(Merged { user_id: into, merged_items })
}
