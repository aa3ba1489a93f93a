//! How the features come into Redis: made from the event log, or brought up to what a server knows from the shared log.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use featurestore::Schema;
use featurestore::log::{EventLog, Position};
use featurestore::redis::{
    Change, Generation, Nodes, Noted, RedisSettings, RedisStore, SharedLog, Stamp,
};

use super::{REST, ReplicaError, random_name};
use crate::release::Release;
use crate::state::{Effect, State, fingerprint, log_folder};

/// How long a server that starts waits for others to fold what it knows.
const FOLDING: Duration = Duration::from_secs(3);

/// What features are made with.
pub(super) struct Making<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) settings: &'a RedisSettings,
    pub(super) nodes: &'a Arc<Nodes>,
    pub(super) log: &'a Arc<SharedLog>,
    pub(super) is_stopped: &'a AtomicBool,
}

impl Making<'_> {
    /// The features of `release` as of `state`, which are put into Redis if they are not there.
    pub(super) fn features(
        &self,
        release: &Arc<Release>,
        state: &State,
        keep: Option<&[String]>,
    ) -> Result<RedisStore, ReplicaError> {
        let log = log_folder(self.data_dir);
        if self.log.has_forgotten(state.followed())? {
            return Err(ReplicaError::Behind { log });
        }
        let (plan, store) = (release.plan.clone(), state.store().clone());
        let features =
            RedisStore::new(plan, &plan_name(release), store, self.nodes.clone(), self.settings);
        let schema = release.config.schema();
        loop {
            match features.generation()? {
                Some(generation) if generation.n_own == state.n_own() => {
                    features.use_generation(&generation);
                    // Another server folds what this one knows already from the log. But all servers may have died when an
                    // event was in the log and not in Redis, and one that makes them may know less than this one.
                    let until = Instant::now() + FOLDING;
                    loop {
                        if features.applied()? >= state.followed() {
                            return Ok(features);
                        }
                        if Instant::now() >= until || self.is_stopped.load(Ordering::SeqCst) {
                            break;
                        }
                        thread::sleep(REST);
                    }
                }
                Some(generation) if generation.n_own > state.n_own() => {
                    let (n_own, n_loaded) = (state.n_own(), generation.n_own);
                    return Err(ReplicaError::OtherLog { log, n_own, n_loaded });
                }
                _ => {}
            }
            self.load(&features, &schema, keep)?;
        }
    }

    /// Puts what the log says into Redis, or waits while another server does.
    pub(super) fn load(
        &self,
        features: &RedisStore,
        schema: &Schema,
        keep: Option<&[String]>,
    ) -> Result<(), ReplicaError> {
        let changes = |note_one: &mut dyn FnMut(Change)| {
            let mut state = State::for_catalogue(schema, features.plan_arc());
            let records = EventLog::reader(&log_folder(self.data_dir), Position::START)?;
            state.follow_noting(records, |change| note_one(note(change, 0)))?;
            let (n_own, stamp) = (state.n_own(), state.followed());
            Ok::<_, ReplicaError>(Generation { name: random_name(6), n_own, stamp })
        };
        let before = features.generation()?.map(|generation| generation.name);
        loop {
            if let Some(claim) = features.claim(random_name(16))? {
                let loaded = features.load(&claim, changes, keep);
                let released = features.release(claim);
                if loaded?.is_some() {
                    return Ok(released?);
                }
            }
            if self.is_stopped.load(Ordering::SeqCst) {
                return Err(ReplicaError::Stopped);
            }
            thread::sleep(REST);
            match features.generation()? {
                Some(generation) if Some(&generation.name) != before.as_ref() => {
                    features.use_generation(&generation);
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}

/// `change` as the features take it, with the entry that it came with.
pub(super) fn note(change: Effect<'_>, stamp: Stamp) -> Change {
    let (event, items) = match change {
        Effect::Event(event, items) => (event, items),
        Effect::Forget(user, _) => return Change::Forget { stamp, user },
        Effect::Merge { from, into } => return Change::Merge { stamp, from, into },
    };
    let fields = 0..items.n_fields().min(usize::from(u8::MAX));
    let codes = fields.flat_map(|field| {
        items.column(field).codes(event.item.0).map(move |code| (field as u8, code))
    });
    Change::Event(Noted { stamp, event: *event, codes: codes.collect() })
}

/// The name of a plan in keys.
fn plan_name(release: &Release) -> String {
    fingerprint(release)[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}
