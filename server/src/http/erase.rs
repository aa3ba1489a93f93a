//! `DELETE /v1/users/{id}`: what is known of a user is erased, and a receipt says what that was.

use actix_web::{HttpResponse, web};
use engine::state::log_folder;
use featurestore::history::user_name;
use featurestore::log::{EventLog, Position, Record, ScanError};
use featurestore::{EmbeddedStore, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::catalogue::{Kind, checked};
use super::problem::Problem;
use super::request::Request;
use super::state::Engine;
use crate::causes::with_causes;

/// What was erased.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Receipt {
    erased: Erased,
    /// Releases whose data ends after the user's first event.
    releases_trained_on: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Erased {
    /// Events in the log, which the next compaction takes out.
    events: usize,
    impressions: usize,
    /// Items that the user was known to have something to do with.
    features: usize,
    /// Lists that were computed before.
    lists: usize,
}

/// What the log tells of a user.
#[derive(Clone, Copy, Default)]
struct Trace {
    n_events: usize,
    first: Option<Timestamp>,
}

/// The events of the user who is called by all of `names` in the log of `engine`, without those before an earlier erasure of
/// whoever was called so then. Cost: a pass over the log.
fn trace(engine: &Engine, names: &[String]) -> Result<Trace, ScanError> {
    // What was said under each name, and the name that stands for it.
    let mut traces = vec![Trace::default(); names.len()];
    let mut stands_for: Vec<usize> = (0..names.len()).collect();
    let place = |name: &str| names.iter().position(|known| known == name);
    for record in EventLog::reader(&log_folder(&engine.config.data_dir), Position::START)? {
        match record? {
            Record::Event(event) => {
                let Some(i) = user_name(&event).and_then(|name| place(&name)) else { continue };
                traces[i].n_events += 1;
                let first = traces[i].first.map_or(event.time, |first| first.min(event.time));
                traces[i].first = Some(first);
            }
            Record::MergeUser { from, into } => {
                let (Some(from), Some(into)) = (place(&from), place(&into)) else { continue };
                let (from, into) = (stands_for[from], stands_for[into]);
                let merged = stands_for.iter_mut().filter(|name| **name == from);
                merged.for_each(|name| *name = into);
            }
            Record::DeleteUser { id } => {
                let Some(deleted) = place(&id).map(|i| stands_for[i]) else { continue };
                for (i, name) in stands_for.iter_mut().enumerate() {
                    if *name == deleted {
                        (traces[i], *name) = (Trace::default(), i);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(Trace {
        n_events: traces.iter().map(|trace| trace.n_events).sum(),
        first: traces.iter().filter_map(|trace| trace.first).min(),
    })
}

/// `DELETE /v1/users/{id}`.
pub(super) async fn delete(
    engine: web::Data<Engine>,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = checked(id)?;
    // It reads the whole log and all impressions: one at a time, so that threads are left for others.
    let _one_at_a_time = engine.rare.acquire().await;
    let receipt = engine.block(move |engine| erase(engine, &id)).await??;
    Ok(HttpResponse::Ok().json(receipt))
}

/// Users who were merged are one, and erased as one: the names that lead to the one called `id`, the one's own first.
fn names_of(store: &EmbeddedStore, id: &str) -> Vec<String> {
    store.view(|view| {
        let user = view.users().find(id);
        let names = user.map(|user| view.users().names_of(user)).unwrap_or_else(|| vec![id]);
        names.into_iter().map(String::from).collect()
    })
}

fn erase(engine: &Engine, id: &str) -> Result<Receipt, Problem> {
    let pipeline = engine.pipeline()?;
    let failed = |error: &dyn std::error::Error| Problem::internal(with_causes(error));
    if !Kind::Users.is_known(pipeline.store(), id) {
        // Who was only shown something, or whose erasure was cut short.
        let names = [id.to_owned()];
        let (impressions, lists) = engine.erase_files_of(&names).map_err(|e| failed(&e))?;
        if impressions + lists == 0 {
            return Err(Kind::Users.not_found(id));
        }
        let erased = Erased { events: 0, impressions, features: 0, lists };
        return Ok(Receipt { erased, releases_trained_on: Vec::new() });
    }
    let user = Request::user_named(&pipeline, Some(id.to_owned()));
    let names = names_of(pipeline.store(), id);
    let trace = trace(engine, &names).map_err(|e| failed(&e))?;
    let n_features = user.map_or(0, |user| pipeline.n_known_items(user));
    // Once before, to count it: after the change every server does it by itself; and once after, for what came in between.
    let (n_impressions, n_lists) = engine.erase_files_of(&names).map_err(|e| failed(&e))?;
    // Somebody may have been merged into the user meanwhile, and is erased with the rest.
    let delete = |store: &EmbeddedStore| {
        let names = names_of(store, id);
        Ok((vec![Kind::Users.delete(names.first().map_or(id, String::as_str))], names))
    };
    let names = engine.change(delete)?;
    let (n_later, _) = engine.erase_files_of(&names).map_err(|e| failed(&e))?;
    let (_, releases) = engine.releases().map_err(|e| failed(&e))?;
    let trained_on = releases.into_iter().filter_map(|(name, manifest)| {
        let until = manifest.ok()?.data.until;
        trace.first.is_some_and(|first| first < until).then_some(name)
    });
    Ok(Receipt {
        erased: Erased {
            events: trace.n_events,
            impressions: n_impressions + n_later,
            features: n_features,
            lists: n_lists,
        },
        releases_trained_on: trained_on.collect(),
    })
}
