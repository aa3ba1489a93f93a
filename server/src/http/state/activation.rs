//! Which release is served: one is activated over HTTP, on the shelf, or by another server.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::StatusCode;
use engine::pipeline::{Pipeline, Query, Scratch};
use engine::release::Release;
use engine::replica::ReplicaError;
use engine::shelf::ShelfError;
use engine::state::{Keeps, OpenStateError, State};
use featurestore::UserId;
use featurestore::log::{Position, ScanError};

use super::{Engine, Ingest};
use crate::causes::with_causes;
use crate::http::problem::Problem;

/// After this, a release that other servers serve and this one could not is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Users for whom a release is asked before it serves, so that its files are in memory and it is known to answer.
const WARM_UP_USERS: u32 = 32;

/// What an activation does with the shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shelving {
    /// The release is the active one from now on.
    Noted,
    /// The shelf said so already, and may say something else by now.
    Left,
}

/// Why a release was not activated. The one in service stays.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum ActivateError {
    /// It is not there, or damaged.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// It does not fit the log.
    #[error(transparent)]
    State(#[from] OpenStateError),
    /// The other servers, or what they share, stand in the way.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// It does not answer.
    #[error("release {0:?} failed when it was warmed up")]
    SelfTest(String),
    /// The server has none in service yet, or is ending.
    #[error("the server is not ready")]
    NotReady,
}

impl From<ScanError> for ActivateError {
    fn from(error: ScanError) -> Self {
        Self::State(error.into())
    }
}

impl From<ActivateError> for Problem {
    fn from(error: ActivateError) -> Self {
        let detail = with_causes(&error);
        match error {
            ActivateError::Shelf(ShelfError::Unknown { .. }) => {
                Self::new(StatusCode::NOT_FOUND, "unknown_release", detail)
            }
            ActivateError::NotReady
            | ActivateError::Replica(
                ReplicaError::Redis(_) | ReplicaError::Late | ReplicaError::Stopped,
            ) => Self::not_ready(detail),
            ActivateError::Shelf(ShelfError::Io { .. }) => Self::internal(detail),
            _ => Self::new(StatusCode::CONFLICT, "release_refused", detail),
        }
    }
}

impl Engine {
    /// Serves the release that another server was told to serve. `tried`: the one that is being tried; one that is refused is
    /// tried again after a while.
    pub(super) fn follow_release(self: &Arc<Self>, id: &str, tried: &Arc<Mutex<String>>) {
        let serves = self.active().is_some_and(|active| active.release().manifest.id == id);
        let mut now_tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
        if serves || *now_tried == id {
            return;
        }
        // The follower, which this is called by, must go on meanwhile.
        now_tried.clear();
        now_tried.push_str(id);
        let (engine, id, tried) = (self.clone(), id.to_owned(), tried.clone());
        std::thread::spawn(move || {
            if let Err(error) = engine.follow_announced(&id) {
                eprintln!("error: release {id} is not served: {}", with_causes(&error));
                std::thread::sleep(TRY_AGAIN);
            }
            let mut tried = tried.lock().unwrap_or_else(PoisonError::into_inner);
            if *tried == id {
                tried.clear();
            }
        });
    }

    /// Says to the other servers which release this one serves, since Redis has lost it.
    pub(super) fn repeat_release(&self) {
        let replica = self.replica().zip(self.active());
        let said = replica.map(|(replica, pipeline)| {
            replica.announce_first_release(&pipeline.release().manifest.id)
        });
        if let Some(Err(error)) = said {
            eprintln!("error: the other servers are not told of the release: {error}");
        }
    }

    /// Serves the release that the shelf names as active, if that has changed since `known`: `cascade releases activate` does
    /// so beside a server.
    pub(super) fn follow_shelf(&self, known: &Mutex<String>) {
        let Ok(id) = self.shelf.active() else { return };
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == id {
            return;
        }
        known.clone_from(&id);
        if self.active().is_none_or(|active| active.release().manifest.id == id) {
            return;
        }
        let one_at_a_time = self.activation.lock().unwrap_or_else(PoisonError::into_inner);
        let served = self.put_into_service(&id, Shelving::Left);
        drop(one_at_a_time);
        match served {
            Ok(()) => eprintln!("release {id} is served, which is active now"),
            Err(error) => {
                eprintln!("error: release {id} is active, and not served: {}", with_causes(&error));
                std::thread::sleep(TRY_AGAIN);
                known.clear();
            }
        }
    }

    /// Puts the release called `id` into service: opened, checked and warmed up first, then swapped in at once.
    ///
    /// # Errors
    /// If anything is wrong with it; the one in service stays.
    pub(in crate::http) fn activate(&self, id: &str) -> Result<(), ActivateError> {
        // Until the others are told, what they were told before is not followed.
        let _one_at_a_time = self.activation.lock().unwrap_or_else(PoisonError::into_inner);
        self.put_into_service(id, Shelving::Noted)?;
        if let Some(replica) = self.replica.get() {
            replica.announce_release(id)?;
        }
        Ok(())
    }

    /// Serves the release called `id` if that is still the one that all servers should serve.
    fn follow_announced(&self, id: &str) -> Result<(), ActivateError> {
        let _one_at_a_time = self.activation.lock().unwrap_or_else(PoisonError::into_inner);
        let announced =
            self.replica.get().map(|replica| replica.announced_release()).transpose()?;
        if announced.flatten().as_deref() != Some(id) {
            return Ok(());
        }
        self.put_into_service(id, Shelving::Noted)?;
        eprintln!("release {id} is served, as the other servers do");
        Ok(())
    }

    /// To be called while no other activation goes on.
    fn put_into_service(&self, id: &str, shelving: Shelving) -> Result<(), ActivateError> {
        let release = Arc::new(self.shelf.open(id)?);
        if let Some(replica) = self.replica.get() {
            let (before, mut refused) = (self.shelf.active().ok(), None);
            let is_ready = |pipeline: &Pipeline| {
                let noted =
                    self.warm_up(pipeline).and_then(|()| Ok(self.note_active(id, shelving)?));
                noted.map_err(|error| refused = Some(error)).is_ok()
            };
            return match replica.activate(&release, is_ready, |pipeline| self.swap(pipeline)) {
                Ok(true) => Ok(()),
                Ok(false) => Err(refused.unwrap_or(ActivateError::NotReady)),
                Err(error) => {
                    if let Some(before) = before.filter(|before| before != id) {
                        self.note_active(&before, shelving)?;
                    }
                    Err(error.into())
                }
            };
        }
        let shared = self.shared_store(&release)?;
        match shared {
            Some(pipeline) => {
                self.warm_up(&pipeline)?;
                self.note_active(id, shelving)?;
                self.swap(pipeline);
            }
            None => self.activate_with_new_state(&release, shelving)?,
        }
        Ok(())
    }

    fn note_active(&self, id: &str, shelving: Shelving) -> Result<(), ShelfError> {
        match shelving {
            Shelving::Noted => self.shelf.activate(id),
            Shelving::Left => Ok(()),
        }
    }

    /// `release` with the state in service, if that remembers what it needs.
    fn shared_store(&self, release: &Arc<Release>) -> Result<Option<Arc<Pipeline>>, ActivateError> {
        let ingest = self.lock_ingest();
        let Some(Ingest { state, .. }) = &*ingest else { return Err(ActivateError::NotReady) };
        if !state.fits(release, Keeps::Everything) {
            return Ok(None);
        }
        state.check_items(release, &self.log_folder())?;
        Ok(Some(Arc::new(Pipeline::new(release.clone(), state.store().clone()))))
    }

    /// Folds the log anew for `release`, most of it while events go on coming in.
    fn activate_with_new_state(
        &self,
        release: &Arc<Release>,
        shelving: Shelving,
    ) -> Result<(), ActivateError> {
        let mut state = State::empty(release, Keeps::Everything);
        let records = match &*self.lock_ingest() {
            Some(ingest) => ingest.log.scan(Position::START)?,
            None => return Err(ActivateError::NotReady),
        };
        state.follow(records)?;
        state.check_items(release, &self.log_folder())?;
        let pipeline = Arc::new(Pipeline::new(release.clone(), state.store().clone()));
        self.warm_up(&pipeline)?;
        self.note_active(&release.manifest.id, shelving)?;
        let mut ingest = self.lock_ingest();
        let Some(ingest) = &mut *ingest else { return Err(ActivateError::NotReady) };
        state.follow(ingest.log.scan(state.position())?)?;
        ingest.state = state;
        self.swap(pipeline);
        Ok(())
    }

    /// Says which placements of the configuration are not those of `release`, which are served.
    fn warn_of_placements(&self, release: &Release) {
        let (ours, of_release) = (&self.config.scenarios, &release.config.scenarios);
        let names = ours.keys().chain(of_release.keys().filter(|name| !ours.contains_key(*name)));
        for name in names.filter(|name| ours.get(*name) != of_release.get(*name)) {
            eprintln!(
                "warning: [scenarios.{name}] is not as in the configuration, but as release {} was trained with it; \
                 `cascade train` makes one with what it says now",
                release.manifest.id
            );
        }
    }

    /// Asks `pipeline` for lists of nobody and of some users, in every placement.
    pub(super) fn warm_up(&self, pipeline: &Pipeline) -> Result<(), ActivateError> {
        self.warn_of_placements(pipeline.release());
        let n_users = pipeline.store().view(|view| view.users().len()) as u32;
        let step = n_users.div_ceil(WARM_UP_USERS).max(1) as usize;
        let users = (0..n_users).step_by(step).map(|user| Some(UserId(user)));
        let users: Vec<Option<UserId>> = std::iter::once(None).chain(users).collect();
        let now = self.clock.now();
        let ask = || {
            let mut scratch = Scratch::default();
            for scenario in pipeline.release().scenarios.values() {
                for user in &users {
                    pipeline.recommend(scenario, &Query::new(*user, now, 10), &mut scratch);
                }
            }
        };
        let failed = |_| ActivateError::SelfTest(pipeline.release().manifest.id.clone());
        catch_unwind(AssertUnwindSafe(ask)).map_err(failed)
    }
}
