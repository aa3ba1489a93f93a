//! One of several servers on one Redis. All take in the same entries of the shared log in its order; the features are in
//! Redis, the catalogue and the boards in the memory of each, and one of those that share a data folder keeps the entries in
//! the event log there, which releases are trained on.

mod external;
mod following;
mod keeping;
mod making;
mod remembered;

pub use external::ExternalCounts;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use featurestore::log::{EventIds, EventLog, FsyncPolicy, Outcome, Position, Record, ScanError};
use featurestore::redis::{
    Change, Entry, Follower, Nodes, RedisError, RedisSettings, RedisStore, SharedLog, Stamp,
};

use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::config::StoreConfig;
use crate::pipeline::Pipeline;
use crate::release::Release;
use crate::state::{
    Effect, Keeps, OpenStateError, State, WriteSnapshotError, log_folder, open_store,
    write_snapshot,
};

use making::{Making, note};
use remembered::{LatestChanges, Unkept};

/// How long an append waits until its entry has come back and is in the features.
const APPLY_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the activation of a release waits until everything is taken in that its state knows.
const ACTIVATE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a follower waits for an entry before it looks after other things.
const POLL: Duration = Duration::from_millis(250);

/// How long reading the features before the first request may take; what is not read by then, requests read.
const READ_AHEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it rests after a failure.
const REST: Duration = Duration::from_millis(50);

/// Why a server cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Redis does not do what it should.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// There is no state to serve from.
    #[error(transparent)]
    State(#[from] OpenStateError),
    /// The log cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// Entries are missing that others have.
    #[error(
        "the event log {} ends before what the shared log still holds: copy the log of another server, or let one that \
         shares its folder run", log.display()
    )]
    Behind {
        /// Folder of the log.
        log: PathBuf,
    },
    /// Redis was loaded from a longer log.
    #[error(
        "the event log {} has {n_own} records of its own, but what is in Redis was made from {n_loaded}: copy the longer \
         log here", log.display()
    )]
    OtherLog {
        /// Folder of the log.
        log: PathBuf,
        /// Its records.
        n_own: u64,
        /// Those that Redis knows.
        n_loaded: u64,
    },
    /// The server ends.
    #[error("the server ends")]
    Stopped,
    /// What was appended has not come back in time. It is in the shared log, and will be taken in.
    #[error(
        "the shared log took it, but it was not taken in within {APPLY_TIMEOUT:?}: send it again with the same event ids to be sure"
    )]
    Late,
    /// The system refuses a thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// The state in service.
struct Live {
    state: State,
    ids: EventIds,
}

/// What has become of entries.
#[derive(Default)]
struct Reached {
    stamp: Stamp,
    outcomes: BTreeMap<Stamp, Vec<Outcome>>,
    latest: LatestChanges,
}

/// What a server needs to take part.
pub struct Replica {
    data_dir: PathBuf,
    fsync: FsyncPolicy,
    settings: RedisSettings,
    nodes: Arc<Nodes>,
    log: Arc<SharedLog>,
    live: Mutex<Live>,
    /// Those of the state in service. It changes while `live` is held, and is read without.
    features: RwLock<Arc<RedisStore>>,
    /// Whether the features in Redis may lack something that the state knows: until it was looked at.
    is_behind: AtomicBool,
    reached: Mutex<Reached>,
    has_moved: Condvar,
    kept: Mutex<Option<(Stamp, Position)>>,
    unkept: Mutex<Unkept>,
    external: ExternalCounts,
    is_stopped: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Is told which release all servers should serve.
pub type ReleaseListener = dyn Fn(Option<&str>) + Send;

/// What a server wants to hear of the others.
pub struct Listeners {
    /// Is told of the release that all servers should serve, again and again until this one does. `None`: Redis says nothing
    /// of it any more.
    pub release: Box<ReleaseListener>,
    /// Is told of every user who was deleted, by all names that led to him, once the features have forgotten him.
    pub deleted: Box<dyn Fn(Vec<String>) + Send>,
}

/// Tells all servers of the Redis that `store` names to serve the release called `id`, which is on their shelves.
///
/// # Errors
/// If Redis does not answer.
pub fn announce_release(store: &StoreConfig, id: &str) -> Result<(), RedisError> {
    let nodes = Arc::new(Nodes::new(&store.urls())?);
    SharedLog::new(nodes, &store.prefix).set_release(id)
}

/// Removes from the shared log what the event log in `data_dir` has of it. A server that has it not will not start.
///
/// # Errors
/// If the event log cannot be read, or Redis does not answer.
pub fn forget_shared(data_dir: &Path, store: &StoreConfig) -> Result<(), ReplicaError> {
    let mut followed = 0;
    for record in EventLog::reader(&log_folder(data_dir), Position::START)? {
        if let Record::Followed { stamp, .. } = record? {
            followed = stamp.max(followed);
        }
    }
    let nodes = Arc::new(Nodes::new(&store.urls())?);
    Ok(SharedLog::new(nodes, &store.prefix).forget_until(followed)?)
}

impl Replica {
    /// The state in Redis and in memory, up to the end of the log in `data_dir`, for `release`; and its pipeline. If Redis
    /// does not have it, it is put there. Waits for Redis for as long as `may_wait` says.
    ///
    /// # Errors
    /// If the logs do not fit, or Redis fails.
    pub fn open(
        data_dir: &Path,
        store: &StoreConfig,
        fsync: FsyncPolicy,
        release: &Arc<Release>,
        may_wait: &dyn Fn(&RedisError) -> bool,
    ) -> Result<(Arc<Self>, Arc<Pipeline>), ReplicaError> {
        let nodes = Arc::new(Nodes::new(&store.urls())?);
        let log = Arc::new(SharedLog::new(nodes.clone(), &store.prefix));
        while let Err(error) = log.head(Instant::now() + Duration::from_secs(1)) {
            if !may_wait(&error) {
                return Err(error.into());
            }
            nodes.maintain();
            thread::sleep(REST);
        }
        let settings = RedisSettings {
            prefix: store.prefix.clone(),
            near_cache_bytes: u64::from(store.near_cache_mb) << 20,
        };
        let is_stopped = AtomicBool::new(false);
        let making = Making {
            data_dir,
            settings: &settings,
            nodes: &nodes,
            log: &log,
            is_stopped: &is_stopped,
        };
        let state = open_store(data_dir, release, Keeps::Catalogue)?.state;
        let features = Arc::new(making.features(release, &state, None)?);
        // As of the state: others may have written to the log meanwhile.
        let ids = EventLog::event_ids_until(&log_folder(data_dir), state.position())?;
        read_ahead(&features);
        let pipeline = pipeline_of(release, &state, &features);
        let stamp = state.followed();
        let latest = LatestChanges::since(stamp);
        let reached = Reached { stamp, latest, ..Reached::default() };
        let replica = Self {
            data_dir: data_dir.into(),
            fsync,
            settings,
            nodes,
            log,
            live: Mutex::new(Live { state, ids }),
            features: RwLock::new(features),
            is_behind: AtomicBool::new(true),
            reached: Mutex::new(reached),
            has_moved: Condvar::new(),
            kept: Mutex::new(None),
            unkept: Mutex::default(),
            external: ExternalCounts::default(),
            is_stopped,
            threads: Mutex::default(),
        };
        Ok((Arc::new(replica), pipeline))
    }

    /// Starts to follow the shared log, and to keep it.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(self: &Arc<Self>, listeners: Listeners) -> Result<(), ReplicaError> {
        let (follower, keeper, reader) = (self.clone(), self.clone(), self.clone());
        let named = |name: &str| thread::Builder::new().name(name.into());
        let follower = named("follower").spawn(move || follower.follow(&listeners));
        let keeper = named("log-keeper").spawn(move || keeper.keep());
        let reader = named("read-again").spawn(move || reader.read_again());
        let mut threads = lock(&self.threads);
        threads.push(follower.map_err(ReplicaError::Thread)?);
        threads.push(keeper.map_err(ReplicaError::Thread)?);
        threads.push(reader.map_err(ReplicaError::Thread)?);
        Ok(())
    }

    /// Reads the records in use again before they are stale, until the server ends.
    fn read_again(&self) {
        let mut last = Instant::now();
        while !self.is_stopped() {
            thread::sleep(POLL);
            let since = last.elapsed();
            last = Instant::now();
            self.features().read_again(since);
        }
    }

    /// Appends `records` to the shared log, and waits until this server has taken them in: then the next request knows them,
    /// here and everywhere. Events without an id get one. The outcomes are those of the events among them.
    ///
    /// # Errors
    /// If Redis does not answer, or not in time: the records may be taken in all the same.
    pub fn append(&self, mut records: Vec<Record>) -> Result<Vec<Outcome>, ReplicaError> {
        for record in &mut records {
            if let Record::Event(event) = record {
                event.event_id.get_or_insert_with(|| random_name(24).into());
            }
        }
        let after = lock(&self.reached).stamp;
        let stamp = self.log.append(&records, after)?;
        let reached = self.wait_for(stamp, Instant::now() + APPLY_TIMEOUT);
        let outcomes = reached.outcomes.get(&stamp).filter(|_| reached.stamp >= stamp);
        outcomes.cloned().ok_or(ReplicaError::Late)
    }

    /// Waits until everything is taken in that any server has acknowledged by now; `false` if that takes longer than `until`,
    /// or Redis does not answer.
    pub fn catch_up(&self, until: Instant) -> bool {
        match self.log.head(until) {
            Ok(head) => self.wait_for(head.stamp, until).stamp >= head.stamp,
            Err(_) => false,
        }
    }

    fn wait_for(&self, stamp: Stamp, until: Instant) -> MutexGuard<'_, Reached> {
        let mut reached = lock(&self.reached);
        while reached.stamp < stamp {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.has_moved.wait_timeout(reached, left);
            reached = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        reached
    }

    /// The features in service.
    pub fn features(&self) -> Arc<RedisStore> {
        self.features.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What became of the values that other jobs have written.
    pub fn external(&self) -> &ExternalCounts {
        &self.external
    }

    /// The last entry of the shared log that this server took in.
    pub fn reached(&self) -> Stamp {
        lock(&self.reached).stamp
    }

    /// Calls `look` with the state in service; nothing is taken in meanwhile.
    pub fn with_state<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&lock(&self.live).state)
    }

    /// The pipeline of `release`, and its state up to now. It is in service here when this returns.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn activate(
        &self,
        release: &Arc<Release>,
        warm_up: impl FnOnce(&Pipeline) -> bool,
        serve: impl FnOnce(Arc<Pipeline>),
    ) -> Result<bool, ReplicaError> {
        let log = log_folder(&self.data_dir);
        let in_service = {
            let live = lock(&self.live);
            live.state.fits(release, Keeps::Catalogue).then(|| self.features())
        };
        if let Some(features) = in_service.filter(|features| *features.plan_arc() == release.plan) {
            let live = lock(&self.live);
            live.state.check_items(release, &log)?;
            let pipeline = pipeline_of(release, &live.state, &features);
            drop(live);
            let is_warm = warm_up(&pipeline);
            if is_warm {
                serve(pipeline);
            }
            return Ok(is_warm);
        }
        let mut state = State::empty(release, Keeps::Catalogue);
        state.follow(EventLog::reader(&log, Position::START)?)?;
        state.check_items(release, &log)?;
        let mut ids = EventLog::event_ids_until(&log, state.position())?;
        let kept = [self.features().plan_name()];
        let features = Arc::new(self.making().features(release, &state, Some(&kept))?);
        read_ahead(&features);
        let pipeline = pipeline_of(release, &state, &features);
        if !warm_up(&pipeline) {
            return Ok(false);
        }
        // What came meanwhile is taken in before anything else does: most of it before the others have to wait. The follower
        // must have taken in what the new state knows, since it tells those who wait for it.
        let (mut follower, until) =
            (Follower::new(self.log.clone()), Instant::now() + ACTIVATE_TIMEOUT);
        while Instant::now() < until && !self.is_stopped() {
            let known = lock(&self.live).state.followed();
            self.take_in_until(known, &mut follower, &mut state, &mut ids, &features)?;
            let mut live = lock(&self.live);
            let known = live.state.followed();
            if known >= state.followed() {
                self.take_in_until(known, &mut follower, &mut state, &mut ids, &features)?;
                // Fields may have other positions in the new plan.
                lock(&self.reached).latest = LatestChanges::since(known);
                *live = Live { state, ids };
                *self.features.write().unwrap_or_else(PoisonError::into_inner) = features;
                // Before the follower goes on, since what it brings is not taken into the state of before any more.
                serve(pipeline);
                return Ok(true);
            }
            drop(live);
            thread::sleep(REST);
        }
        Err(ReplicaError::Late)
    }

    /// Takes the entries up to `last` into `state` and `features`, and none behind it.
    fn take_in_until(
        &self,
        last: Stamp,
        follower: &mut Follower,
        state: &mut State,
        ids: &mut EventIds,
        features: &RedisStore,
    ) -> Result<(), ReplicaError> {
        while state.followed() < last {
            let (mut noted, before) = (Vec::new(), state.followed());
            let entries = follower.next(before, Duration::ZERO)?;
            for entry in entries.iter().filter(|entry| entry.stamp <= last) {
                take_in(state, ids, entry, &mut noted, &mut Vec::new());
            }
            if state.followed() == before {
                return Err(ReplicaError::Behind { log: log_folder(&self.data_dir) });
            }
            features.apply(&noted)?;
            features.raise_applied(state.followed())?;
        }
        Ok(())
    }

    /// Tells all servers to serve the release called `id`.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn announce_release(&self, id: &str) -> Result<(), ReplicaError> {
        Ok(self.log.set_release(id)?)
    }

    /// The release that all servers should serve, if Redis says one.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn announced_release(&self) -> Result<Option<String>, ReplicaError> {
        Ok(self.log.head(Instant::now() + Duration::from_secs(1))?.release)
    }

    /// Tells all servers to serve the release called `id`, unless they were told to serve one before.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn announce_first_release(&self, id: &str) -> Result<(), ReplicaError> {
        Ok(self.log.set_first_release(id)?)
    }

    /// Ends the threads, and writes a snapshot if the log on the disk has everything that is in it.
    ///
    /// # Errors
    /// If the snapshot cannot be written.
    pub fn close(&self) -> Result<(), WriteSnapshotError> {
        self.is_stopped.store(true, Ordering::SeqCst);
        for thread in lock(&self.threads).drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        let mut live = lock(&self.live);
        match *lock(&self.kept) {
            Some((stamp, position)) if stamp == live.state.followed() => {
                live.state.written_at(position);
                write_snapshot(&self.data_dir, &live.state)
            }
            _ => Ok(()),
        }
    }

    /// Whether the features in Redis may lack something that the state knows.
    fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::SeqCst)
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    fn making(&self) -> Making<'_> {
        Making {
            data_dir: &self.data_dir,
            settings: &self.settings,
            nodes: &self.nodes,
            log: &self.log,
            is_stopped: &self.is_stopped,
        }
    }
}

/// Has `features` in memory before anybody asks for them.
fn read_ahead(features: &RedisStore) {
    match features.read_ahead(Instant::now() + READ_AHEAD_TIMEOUT) {
        Ok(n) => eprintln!("{n} records of items and field values were read from Redis"),
        Err(error) => {
            eprintln!("warning: the first requests will read the features from Redis: {error}");
        }
    }
}

/// Folds `entry` into `state`, but events whose ids are among `ids`; appends what counts to `noted`, and the names of users who
/// were deleted to `deleted`.
fn take_in(
    state: &mut State,
    ids: &mut EventIds,
    entry: &Entry,
    noted: &mut Vec<Change>,
    deleted: &mut Vec<Vec<String>>,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let counted: Vec<&Record> = entry
        .records
        .iter()
        .filter(|record| {
            let Record::Event(event) = record else { return true };
            let is_new = event.event_id.as_ref().is_none_or(|id| ids.insert(id));
            outcomes.push(if is_new { Outcome::Accepted } else { Outcome::Duplicate });
            is_new
        })
        .collect();
    state.apply_entry(counted.into_iter(), entry.stamp, |change| {
        if let Effect::Forget(_, names) = &change {
            deleted.push(names.clone());
        }
        noted.push(note(change, entry.stamp));
    });
    outcomes
}

fn pipeline_of(release: &Arc<Release>, state: &State, features: &Arc<RedisStore>) -> Arc<Pipeline> {
    let (release, store) = (release.clone(), state.store().clone());
    Arc::new(Pipeline::with_features(release, store, features.clone()))
}

/// So many random characters.
fn random_name(n: usize) -> String {
    const CHARACTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuv";
    let mut bytes = vec![0; n];
    OsRng.try_fill_bytes(&mut bytes).expect("the system has random numbers");
    bytes.iter().map(|byte| char::from(CHARACTERS[usize::from(byte & 31)])).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
