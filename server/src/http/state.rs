//! What the routes share: the release in service, the live state, the log that feeds it.

mod activation;
mod shown;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use actix_web::http::StatusCode;
use anyhow::{Context, bail};
use engine::clock::Clock;
use engine::config::{Config, Fsync, StoreKind};
use engine::pipeline::Pipeline;
use engine::release::{Manifest, OpenReleaseError, Release};
use engine::replica::{Listeners, Replica, ReplicaError};
use engine::shelf::{Shelf, ShelfError};
use engine::state::{
    Keeps, OpenedState, State, compact_log, log_folder, open_store, write_snapshot,
};
use engine::stored_lists::StoredLists;
use featurestore::log::{
    AppendError, DEFAULT_FSYNC_INTERVAL, EventLog, FsyncPolicy, Outcome, Record,
};
use featurestore::redis::RedisError;
use featurestore::{EmbeddedStore, NamedEvent, Schema};
use tokio::sync::Semaphore;

use super::ids::RecommendationIds;
use super::impressions::ImpressionLog;
use super::intake::Intake;
use super::keys::Limits;
use super::metrics::Metrics;
use super::pages::PageTokens;
use super::pool::{MAX_BLOCKING, Pool, block_within};
use super::problem::Problem;
use super::served::Served;
use crate::causes::with_causes;

/// How often it is looked whether there are new lists, or another release was activated.
const LOOK_AT_FILES: Duration = Duration::from_secs(2);

/// How often it is looked whether somebody has done something with items that the release has no vector of.
const LEARN_EVERY: Duration = Duration::from_millis(500);

/// How long a change of the catalogue waits for what other servers have changed before.
pub(super) const CATCH_UP: Duration = Duration::from_secs(1);

/// What the server is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The release is being loaded, verified and warmed up.
    Loading,
    /// Requests are answered.
    Ready,
    /// Requests in flight are answered, and then the server ends.
    Draining,
}

/// The log and the state that it was folded into. Both change under one lock, so that the state is folded in the order
/// of the log.
struct Ingest {
    log: EventLog,
    state: State,
}

/// What the routes share.
pub(super) struct Engine {
    /// The configuration that the server was started with.
    pub(super) config: Config,
    /// Its event types and fields.
    pub(super) schema: Schema,
    /// The time that it is.
    pub(super) clock: Clock,
    /// How many requests keys may make.
    pub(super) limits: Limits,
    /// Where the routes of administration are answered; not set: wherever all others are.
    pub(super) admin: OnceLock<SocketAddr>,
    /// The threads that run the pipeline.
    pub(super) pool: Pool,
    /// What is counted.
    pub(super) metrics: Metrics,
    /// What was shown.
    pub(super) impressions: ImpressionLog,
    /// What users were shown lately.
    pub(super) served: Served,
    /// How lists go on.
    pub(super) pages: PageTokens,
    /// Names for answers.
    pub(super) recommendation_ids: RecommendationIds,
    shelf: Shelf,
    phase: RwLock<Phase>,
    active: RwLock<Option<Arc<Pipeline>>>,
    /// Takes events in.
    pub(super) intake: Intake,
    ingest: Mutex<Option<Ingest>>,
    /// Takes the place of `ingest` if there are other servers.
    replica: OnceLock<Arc<Replica>>,
    /// Held while a release is activated.
    activation: Mutex<()>,
    /// For requests that read much of what is on the disk.
    pub(super) rare: Semaphore,
    /// Room for requests that block.
    blocking: Arc<Semaphore>,
    /// Held while the catalogue is read, changed and written to the shared log.
    changing: Mutex<()>,
    syncer: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
    /// By placement, with the time at which their file was written.
    lists: RwLock<BTreeMap<String, (SystemTime, Arc<StoredLists>)>>,
}

/// Why events or changes of the catalogue were not taken in: none of them was.
#[derive(Debug, thiserror::Error)]
pub(super) enum IngestError {
    /// There is no state yet, or no more.
    #[error("the server is not ready")]
    NotReady,
    /// The log refused them.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The shared log did not take them, as far as is known.
    #[error(transparent)]
    Shared(#[from] ReplicaError),
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Self {
        let detail = with_causes(&error);
        match error {
            IngestError::NotReady => Self::not_ready(detail),
            IngestError::Shared(_) => {
                let code = "shared_log_unavailable";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
            }
            IngestError::Append(AppendError::Write { .. } | AppendError::Failed { .. }) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "log_not_writable", detail)
            }
            IngestError::Append(AppendError::TooLong { .. }) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            }
        }
    }
}

impl Engine {
    /// Starts the threads that a server needs; no release is loaded yet.
    ///
    /// # Errors
    /// If the system refuses a thread, or the folder of the impressions cannot be made.
    pub(super) fn start(config: &Config, clock: Clock) -> anyhow::Result<Self> {
        let (server, metrics) = (&config.server, Metrics::new());
        let impressions = ImpressionLog::start(
            &config.data_dir.join("impressions"),
            server.keep_impressions,
            metrics.impressions_dropped.clone(),
        )?;
        let pages = PageTokens::open(&config.data_dir).with_context(|| {
            format!("cannot keep the key of page tokens in {}", config.data_dir.display())
        })?;
        Ok(Self {
            schema: config.schema(),
            limits: Limits::new(&server.keys),
            admin: OnceLock::new(),
            pages,
            clock,
            pool: Pool::start(server.workers, server.queue).context("cannot start the workers")?,
            metrics,
            impressions,
            served: Served::new(),
            recommendation_ids: RecommendationIds::default(),
            shelf: Shelf::new(&config.data_dir),
            phase: RwLock::new(Phase::Loading),
            active: RwLock::new(None),
            intake: Intake::new(),
            ingest: Mutex::new(None),
            replica: OnceLock::new(),
            activation: Mutex::new(()),
            rare: Semaphore::new(1),
            blocking: Arc::new(Semaphore::new(MAX_BLOCKING)),
            changing: Mutex::new(()),
            syncer: Mutex::new(None),
            lists: RwLock::default(),
            config: config.clone(),
        })
    }

    /// Runs `work`, which may block, on a thread that is not of the pool.
    ///
    /// # Errors
    /// If [`MAX_BLOCKING`] are running, or `work` panics.
    pub(super) async fn block<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let engine = self.clone();
        block_within(self.blocking.clone(), move || work(&engine)).await
    }

    /// Opens the log and the active release, brings the state up to date, and warms up.
    ///
    /// # Errors
    /// If there is no active release, it is damaged or of another log, or the log is damaged or in use.
    pub(super) fn load(self: &Arc<Self>) -> anyhow::Result<()> {
        self.intake.start(self)?;
        self.check_log()?;
        let id = self.shelf.active()?;
        let release = Arc::new(self.shelf.open(&id)?);
        match self.config.store.kind {
            StoreKind::Embedded => self.load_alone(&id, release)?,
            StoreKind::Redis => self.load_together(&release)?,
        }
        self.impressions.remove_old(self.clock.now());
        if let Some(pipeline) = self.active() {
            self.recall_served(&pipeline);
        }
        self.repeat("stored-lists", LOOK_AT_FILES, Self::read_lists)?;
        if self.replica().is_none() {
            let known = Mutex::new(id);
            self.repeat("shelf", LOOK_AT_FILES, move |engine| engine.follow_shelf(&known))?;
        }
        self.repeat("newer-items", LEARN_EVERY, |engine| {
            engine.active().map(|pipeline| pipeline.learn_newer());
        })?;
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Loading {
            *phase = Phase::Ready;
        }
        Ok(())
    }

    fn load_alone(self: &Arc<Self>, id: &str, release: Arc<Release>) -> anyhow::Result<()> {
        let (log, opened) = self.open_log(&release)?;
        if let Some(refused) = &opened.refused {
            eprintln!("the state is folded from the whole log: {}", with_causes(refused));
        }
        eprintln!("release {id}: {} records of the log were folded", opened.n_records);
        let pipeline = Arc::new(Pipeline::new(release, opened.state.store().clone()));
        self.warm_up(&pipeline)?;
        *self.lock_ingest() = Some(Ingest { log, state: opened.state });
        self.swap(pipeline);
        self.start_syncer()
    }

    /// Takes part with the other servers of the same Redis.
    fn load_together(self: &Arc<Self>, release: &Arc<Release>) -> anyhow::Result<()> {
        let config = &self.config;
        let has_said = std::cell::Cell::new(false);
        let may_wait = |error: &RedisError| {
            if !has_said.replace(true) {
                eprintln!("waiting for Redis: {error}");
            }
            self.phase() == Phase::Loading
        };
        let (replica, pipeline) =
            Replica::open(&config.data_dir, &config.store, self.fsync(), release, &may_wait)?;
        self.warm_up(&pipeline)?;
        self.swap(pipeline);
        replica.announce_first_release(&release.manifest.id)?;
        let (engine, other) = (Arc::downgrade(self), Arc::downgrade(self));
        let refused = Arc::new(Mutex::new(String::new()));
        let release = move |id: Option<&str>| match (engine.upgrade(), id) {
            (Some(engine), Some(id)) => engine.follow_release(id, &refused),
            (Some(engine), None) => engine.repeat_release(),
            _ => {}
        };
        // The follower, which tells of them, must go on meanwhile.
        let (tell, deleted_users) = std::sync::mpsc::channel::<Vec<String>>();
        std::thread::spawn(move || {
            for names in deleted_users {
                let Some(engine) = other.upgrade() else { return };
                if let Err(error) = engine.erase_files_of(&names) {
                    eprintln!("error: files still tell of a user who was deleted: {error}");
                }
            }
        });
        let deleted = move |names: Vec<String>| {
            // Nobody listens once the server ends.
            let _ = tell.send(names);
        };
        replica.start(Listeners { release: Box::new(release), deleted: Box::new(deleted) })?;
        self.replica.get_or_init(|| replica);
        Ok(())
    }

    /// Waits until everything is taken in that any server has acknowledged by now. `false` if that takes too long.
    pub(super) fn catch_up(&self, until: Instant) -> bool {
        self.replica.get().is_none_or(|replica| replica.catch_up(until))
    }

    /// The other servers' part of this one, if there are others.
    pub(super) fn replica(&self) -> Option<&Arc<Replica>> {
        self.replica.get()
    }

    fn fsync(&self) -> FsyncPolicy {
        match self.config.server.fsync {
            Fsync::Always => FsyncPolicy::Always,
            Fsync::Interval => FsyncPolicy::Interval(DEFAULT_FSYNC_INTERVAL),
            Fsync::Never => FsyncPolicy::Never,
        }
    }

    fn check_log(&self) -> anyhow::Result<()> {
        let folder = log_folder(&self.config.data_dir);
        if !folder.is_dir() {
            bail!(
                "there is no event log in {}: import one with `cascade import`",
                folder.display()
            );
        }
        Ok(())
    }

    /// Opens the log, and folds the state of it while it is checked.
    fn open_log(&self, release: &Release) -> anyhow::Result<(EventLog, OpenedState)> {
        let data_dir = &self.config.data_dir;
        let open = || {
            let fold = || open_store(data_dir, release, Keeps::Everything);
            EventLog::open_beside(&log_folder(data_dir), self.fsync(), fold)
        };
        let (mut log, opened, mut state) = open()?;
        if opened.cut_bytes > 0 {
            eprintln!("{} bytes of an incomplete record were cut from the log", opened.cut_bytes);
        }
        if opened.n_deleted_users > 0 {
            drop((log, state));
            let compacted = compact_log(data_dir)?;
            let (users, records) = (compacted.n_users, compacted.n_records);
            eprintln!(
                "{records} records of deleted users, under {users} names, were taken out of the log"
            );
            (log, _, state) = open()?;
        }
        Ok((log, state?))
    }

    /// What the server is doing.
    pub(super) fn phase(&self) -> Phase {
        self.phase.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on the server says that it is not ready.
    pub(super) fn drain(&self) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = Phase::Draining;
    }

    /// The release in service with its state, if one is loaded.
    pub(super) fn active(&self) -> Option<Arc<Pipeline>> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The release in service with its state.
    ///
    /// # Errors
    /// If none is loaded yet.
    pub(super) fn pipeline(&self) -> Result<Arc<Pipeline>, Problem> {
        self.active().ok_or_else(|| Problem::not_ready("no release is loaded yet"))
    }

    /// Appends `events` to the log and folds them into the state. When this returns, they are as durable as the policy
    /// says, and the next request knows them. To be called by the intake.
    ///
    /// # Errors
    /// If the log refuses them; none of them counts then.
    pub(super) fn ingest(&self, events: &[NamedEvent]) -> Result<Vec<Outcome>, IngestError> {
        if let Some(replica) = self.replica.get() {
            let records: Vec<Record> = events.iter().cloned().map(Record::Event).collect();
            return if records.is_empty() { Ok(Vec::new()) } else { Ok(replica.append(records)?) };
        }
        let mut ingest = self.lock_ingest();
        let Some(Ingest { log, state }) = &mut *ingest else { return Err(IngestError::NotReady) };
        let outcomes = log.append_events(events)?;
        let accepted = events.iter().zip(&outcomes).filter(|(_, o)| **o == Outcome::Accepted);
        state.apply_events(accepted.map(|(event, _)| event), log.position());
        Ok(outcomes)
    }

    /// Counts events that were sent, and how old they are.
    pub(super) fn count_events(&self, events: &[NamedEvent], outcomes: &[Outcome]) {
        let now = self.clock.now();
        let mut counts = BTreeMap::<(&str, &'static str), u64>::new();
        for (event, outcome) in events.iter().zip(outcomes) {
            let outcome = match outcome {
                Outcome::Accepted => {
                    self.metrics.observe_lag(event.time, now);
                    "accepted"
                }
                Outcome::Duplicate => "duplicate",
            };
            *counts.entry((&event.kind, outcome)).or_default() += 1;
        }
        for ((kind, outcome), n) in counts {
            self.metrics.count_events(kind, outcome, n);
        }
    }

    /// Appends the records that `change` makes of the catalogue as it is now to the log, and folds them into the state,
    /// before anything else is taken in. They are as durable as events are, and the next request knows them.
    ///
    /// # Errors
    /// If `change` refuses, or the log; nothing has changed then.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&EmbeddedStore) -> Result<(Vec<Record>, T), Problem>,
    ) -> Result<T, Problem> {
        if let Some(replica) = self.replica.get() {
            // Two servers that change the same thing at once do so one after the other, in any order.
            let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.catch_up(Instant::now() + CATCH_UP) {
                return Err(IngestError::from(ReplicaError::Late).into());
            }
            let (records, result) = change(self.pipeline()?.store())?;
            if !records.is_empty() {
                replica.append(records).map_err(IngestError::from)?;
            }
            return Ok(result);
        }
        let mut ingest = self.lock_ingest();
        let Some(Ingest { log, state }) = &mut *ingest else {
            return Err(IngestError::NotReady.into());
        };
        let (records, result) = change(state.store())?;
        log.append(&records).map_err(IngestError::from)?;
        state.apply_records(&records, log.position());
        Ok(result)
    }

    /// The releases on the shelf, and the name of the active one.
    ///
    /// # Errors
    /// If the shelf cannot be read.
    #[expect(clippy::type_complexity, reason = "it is what the shelf lists")]
    pub(super) fn releases(
        &self,
    ) -> Result<(String, Vec<(String, Result<Manifest, OpenReleaseError>)>), ShelfError> {
        Ok((self.shelf.active()?, self.shelf.list()?))
    }

    /// Forces the log to the disk, writes what waits of the impressions, and writes the snapshot.
    ///
    /// # Errors
    /// If any of them fails.
    pub(super) fn close(&self) -> anyhow::Result<()> {
        let syncer = self.syncer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, syncer)) = syncer {
            drop(stop);
            syncer.join().map_err(|_| anyhow::anyhow!("the thread that syncs the log panicked"))?;
        }
        self.impressions.close();
        if let Some(replica) = self.replica.get() {
            replica.close()?;
        }
        let Some(mut ingest) = self.lock_ingest().take() else { return Ok(()) };
        ingest.log.sync().context("the log was not synced")?;
        write_snapshot(&self.config.data_dir, &ingest.state)?;
        Ok(())
    }

    fn swap(&self, pipeline: Arc<Pipeline>) {
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Some(pipeline);
    }

    fn log_folder(&self) -> PathBuf {
        log_folder(&self.config.data_dir)
    }

    fn lock_ingest(&self) -> MutexGuard<'_, Option<Ingest>> {
        // A panic while events were applied would leave a state that is not the log's: nothing is answered from it.
        self.ingest.lock().expect("no holder of this lock panics")
    }

    /// Does `work` again and again on a thread of its own, with a `pause` after each time, as long as the engine is there.
    fn repeat(
        self: &Arc<Self>,
        name: &str,
        pause: Duration,
        work: impl Fn(&Self) + Send + 'static,
    ) -> anyhow::Result<()> {
        let engine = Arc::downgrade(self);
        let repeat = move || {
            while let Some(engine) = engine.upgrade() {
                work(&engine);
                drop(engine);
                std::thread::sleep(pause);
            }
        };
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(repeat).context("cannot start a thread")?;
        Ok(())
    }

    /// Starts the thread that syncs the log when no further append does it.
    fn start_syncer(self: &Arc<Self>) -> anyhow::Result<()> {
        if self.config.server.fsync != Fsync::Interval {
            return Ok(());
        }
        let (stop, stopped) = channel();
        let engine = self.clone();
        let syncer = std::thread::Builder::new()
            .name("log-sync".into())
            .spawn(move || engine.sync_until(&stopped))
            .context("cannot start a thread")?;
        *self.syncer.lock().unwrap_or_else(PoisonError::into_inner) = Some((stop, syncer));
        Ok(())
    }

    fn sync_until(&self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(DEFAULT_FSYNC_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if let Some(ingest) = &mut *self.lock_ingest()
                && let Err(error) = ingest.log.sync()
            {
                eprintln!("error: {}", with_causes(&error));
                return;
            }
        }
    }
}
