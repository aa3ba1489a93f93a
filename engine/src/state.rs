//! The live state: the event log folded in the log's own order, and the snapshot that saves folding all of it again.
//!
//! Whoever folds the same log up to the same position for the same plan has the same state to the bit: the server as
//! events come, and `cascade verify-features` afterwards.

mod erased;
mod snapshot;

pub use erased::{WatchError, Watched};
pub use snapshot::{
    SNAPSHOT_FORMAT, SnapshotRefused, WriteSnapshotError, compact_log, read_snapshot,
    write_snapshot,
};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use featurestore::history::{put_record, user_name};
use featurestore::log::{EventLog, Position, Record, Records, ScanError};
use featurestore::{
    EmbeddedStore, Entities, Event, FeaturePlan, NO_SESSION, NamedEvent, Names, Schema, UserId,
};
use sha2::{Digest, Sha256};

use crate::release::{Release, names_digest};

/// Bytes of what identifies a plan.
const DIGEST_BYTES: usize = 32;

/// Where the event log lies in a data folder.
pub fn log_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

/// What a record changes in the features.
pub enum Effect<'a> {
    /// An event counts, as of this catalogue.
    Event(&'a Event, &'a Entities),
    /// What `from` did lately is what `into` did.
    Merge {
        /// Of whom nothing is known afterwards.
        from: UserId,
        /// Who did it.
        into: UserId,
    },
    /// What is known of this user is forgotten, who was called so.
    Forget(UserId, Vec<String>),
}

/// What a state remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// All that the release needs.
    Everything,
    /// The catalogue and the boards; what features need is in Redis.
    Catalogue,
}

impl Keeps {
    fn plan(self, release: &Release) -> Arc<FeaturePlan> {
        match self {
            Self::Everything => release.plan.clone(),
            Self::Catalogue => Arc::new(release.plan.for_boards()),
        }
    }
}

/// What the log says up to a position, in a store that remembers what one release needs.
pub struct State {
    store: Arc<EmbeddedStore>,
    schema: Schema,
    sessions: Names,
    position: Position,
    /// The last entry of a shared log that is in it, 0 for none.
    followed: u64,
    /// How many of its records did not come by a shared log.
    n_own: u64,
    fingerprint: [u8; DIGEST_BYTES],
}

/// Why there is no state to serve from.
#[derive(Debug, thiserror::Error)]
pub enum OpenStateError {
    /// The log cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The items of the log are not those that the release numbers.
    #[error(
        "release {release:?} was trained on another log: the first {n_items} items of {} are not its items",
        log.display()
    )]
    OtherLog {
        /// The release.
        release: String,
        /// How many items it numbers.
        n_items: usize,
        /// Folder of the log.
        log: PathBuf,
    },
}

/// A state, and how it came to be.
pub struct OpenedState {
    /// The state, up to the last complete record of the log.
    pub state: State,
    /// How many records were folded.
    pub n_records: u64,
    /// Why the snapshot was not used, if there is one and it was not.
    pub refused: Option<SnapshotRefused>,
}

/// The state for `release`: from the snapshot in `data_dir` and the log's tail, or from the whole log if there is no
/// snapshot that fits. Cost: about 2 us for each record that is folded.
///
/// # Errors
/// If the log cannot be read, or the release was trained on another log.
pub fn open_store(
    data_dir: &Path,
    release: &Release,
    keeps: Keeps,
) -> Result<OpenedState, OpenStateError> {
    let log = log_folder(data_dir);
    let from_snapshot = read_snapshot(data_dir, release, keeps).and_then(|mut state| {
        let records = EventLog::reader(&log, state.position);
        let n_records = records.and_then(|records| state.follow(records));
        n_records.map(|n_records| (state, n_records)).map_err(SnapshotRefused::OtherLog)
    });
    let (state, n_records, refused) = match from_snapshot {
        Ok((state, n_records)) => (state, n_records, None),
        Err(refused) => {
            let mut state = State::empty(release, keeps);
            let n_records = state.follow(EventLog::reader(&log, Position::START)?)?;
            let is_there = !matches!(refused, SnapshotRefused::Missing { .. });
            (state, n_records, is_there.then_some(refused))
        }
    };
    state.check_items(release, &log)?;
    Ok(OpenedState { state, n_records, refused })
}

/// What identifies the state that `release` needs: two releases with the same one can share a store.
pub fn fingerprint(release: &Release) -> [u8; DIGEST_BYTES] {
    digest_of(&release.plan, &release.config.schema())
}

fn digest_of(plan: &FeaturePlan, schema: &Schema) -> [u8; DIGEST_BYTES] {
    // The plan's debug text names every slot, board and field that a state has room for.
    let text = format!("{plan:?} {schema:?} {SNAPSHOT_FORMAT:?}");
    Sha256::digest(text.as_bytes()).into()
}

impl State {
    /// Before the first record of the log, made for `release`.
    pub fn empty(release: &Release, keeps: Keeps) -> Self {
        let state = Self::of_plan(release.config.schema(), keeps.plan(release));
        state.store.watch_newcomers(release.models.settled());
        state
    }

    fn of_plan(schema: Schema, plan: Arc<FeaturePlan>) -> Self {
        let (items, users) =
            (Entities::new(&schema.item_fields), Entities::new(&schema.user_fields));
        Self {
            fingerprint: digest_of(&plan, &schema),
            store: Arc::new(EmbeddedStore::new(plan, &schema, items, users)),
            schema,
            sessions: Names::default(),
            position: Position::START,
            followed: 0,
            n_own: 0,
        }
    }

    /// Before the first record, with the catalogue and the boards of a release of which these are schema and plan.
    pub fn for_catalogue(schema: &Schema, plan: &FeaturePlan) -> Self {
        Self::of_plan(schema.clone(), Arc::new(plan.for_boards()))
    }

    /// The event types and fields that it knows.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The names of sessions and their numbers.
    pub fn sessions(&self) -> &Names {
        &self.sessions
    }

    /// The store; it is read while records are applied.
    pub fn store(&self) -> &Arc<EmbeddedStore> {
        &self.store
    }

    /// Up to where the log is in the state.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The last entry of a shared log that is in it, 0 for none.
    pub fn followed(&self) -> u64 {
        self.followed
    }

    /// How many of its records did not come by a shared log.
    pub fn n_own(&self) -> u64 {
        self.n_own
    }

    /// Whether `release` can be served from this state.
    pub fn fits(&self, release: &Release, keeps: Keeps) -> bool {
        self.fingerprint == digest_of(&keeps.plan(release), &release.config.schema())
    }

    /// Folds the records of the entry `stamp` of a shared log, and shows `note` what that changes in features.
    pub fn apply_entry<'r>(
        &mut self,
        records: impl Iterator<Item = &'r Record>,
        stamp: u64,
        mut note: impl FnMut(Effect<'_>),
    ) {
        for record in records {
            self.apply_noting(record, &mut note);
        }
        self.followed = stamp;
    }

    /// Notes that the log is in it up to `position`: what was folded of a shared log was written to it.
    pub fn written_at(&mut self, position: Position) {
        self.position = position;
    }

    /// Folds all of `records`, which start where the state ends. Returns how many there were.
    ///
    /// # Errors
    /// If the log is damaged; the records before the damage are folded.
    pub fn follow(&mut self, records: Records) -> Result<u64, ScanError> {
        let mut n_records = 0;
        records.for_each_ahead(|record, reached| {
            self.apply_logged(record);
            self.position = reached;
            n_records += 1;
        })?;
        Ok(n_records)
    }

    /// Folds all of `records`, and shows `note` what that changes in features.
    ///
    /// # Errors
    /// As [`follow`](Self::follow).
    pub fn follow_noting(
        &mut self,
        records: Records,
        mut note: impl FnMut(Effect<'_>),
    ) -> Result<(), ScanError> {
        records.for_each_ahead(|record, reached| {
            match record {
                record @ Record::Followed { .. } => self.apply_logged(record),
                record => {
                    self.apply_noting(record, &mut note);
                    self.n_own += 1;
                }
            }
            self.position = reached;
        })
    }

    /// Folds those of `records` that lie before `until`. Returns how many there were.
    ///
    /// # Errors
    /// As [`follow`](Self::follow).
    pub fn follow_until(
        &mut self,
        mut records: Records,
        until: Position,
    ) -> Result<u64, ScanError> {
        let mut n_records = 0;
        while self.position < until
            && let Some(record) = records.next()
        {
            self.apply_logged(&record?);
            self.position = records.reached();
            n_records += 1;
        }
        Ok(n_records)
    }

    /// Folds `events`, which were appended to the log just now, so that it ends at `position`.
    pub fn apply_events<'a>(
        &mut self,
        events: impl Iterator<Item = &'a NamedEvent>,
        position: Position,
    ) {
        for event in events {
            self.apply_event(event);
            self.n_own += 1;
        }
        self.position = position;
    }

    /// Folds `records`, which were appended to the log just now, so that it ends at `position`.
    pub fn apply_records(&mut self, records: &[Record], position: Position) {
        for record in records {
            self.apply_logged(record);
        }
        self.position = position;
    }

    /// Folds a record of the log, where those that came by a shared log are followed by what says so.
    fn apply_logged(&mut self, record: &Record) {
        match record {
            Record::Followed { stamp, n } => {
                self.followed = self.followed.max(*stamp);
                self.n_own = self.n_own.saturating_sub(u64::from(*n));
            }
            record => {
                self.apply(record);
                self.n_own += 1;
            }
        }
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Event(event) => {
                self.apply_event(event);
            }
            other => {
                let (merged, deleted) = (self.merged_by(other), self.deleted_by(other));
                self.store.put(|items, users| put_record(items, users, other));
                if let Some((from, into)) = merged {
                    self.store.merge(from, into);
                }
                if let Some((user, _)) = deleted {
                    self.store.forget(user);
                }
            }
        }
    }

    fn apply_noting(&mut self, record: &Record, note: &mut impl FnMut(Effect<'_>)) {
        match record {
            Record::Event(event) => {
                if let Some(event) = self.apply_event(event) {
                    self.store.view(|view| note(Effect::Event(&event, view.items())));
                }
            }
            other => {
                let (merged, deleted) = (self.merged_by(other), self.deleted_by(other));
                self.apply(other);
                if let Some((from, into)) = merged {
                    note(Effect::Merge { from, into });
                }
                if let Some((user, names)) = deleted {
                    note(Effect::Forget(user, names));
                }
            }
        }
    }

    /// The two users whom `record` makes one, as they are before it.
    fn merged_by(&self, record: &Record) -> Option<(UserId, UserId)> {
        let Record::MergeUser { from, into } = record else { return None };
        let user = |users: &mut Entities, name: &str| {
            let id = users.intern(name);
            UserId(users.resolve(id))
        };
        let (from, into) = self.store.put(|_, users| (user(users, from), user(users, into)));
        (from != into).then_some((from, into))
    }

    /// The user whom `record` deletes, and the names that lead to him before it.
    fn deleted_by(&self, record: &Record) -> Option<(UserId, Vec<String>)> {
        let Record::DeleteUser { id } = record else { return None };
        self.store.view(|view| {
            let user = view.users().find(id)?;
            let names = view.users().names_of(user).into_iter().map(String::from).collect();
            Some((UserId(user), names))
        })
    }

    /// Folds `event`; what was folded, unless it is left out.
    fn apply_event(&mut self, event: &NamedEvent) -> Option<Event> {
        let user = user_name(event)?;
        // Ids are numbered also for events that are left out, as the history does that releases are trained on.
        let (user, item) = self.store.intern(&user, &event.item);
        let kind = self.schema.event_type(&event.kind)?;
        let session = event.session.as_ref().map_or(NO_SESSION, |name| self.sessions.intern(name));
        let numbers = self.schema.numbers_of(event);
        let event = Event { time: event.time, user, item, session, kind, numbers };
        self.store.apply(&event);
        Some(event)
    }

    /// Checks that the items of the log in the folder `log` are those that `release` numbers.
    ///
    /// # Errors
    /// If they are not.
    pub fn check_items(&self, release: &Release, log: &Path) -> Result<(), OpenStateError> {
        let data = &release.manifest.data;
        let digest = self.store.view(|view| names_digest(view.items().names(), data.n_items));
        if digest == data.items_digest {
            return Ok(());
        }
        let (release, n_items) = (release.manifest.id.clone(), data.n_items);
        Err(OpenStateError::OtherLog { release, n_items, log: log.into() })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Config;
    use crate::release::Layout;
    use featurestore::Timestamp;

    fn state() -> State {
        let config =
            Config::parse("[events.buy]\nweight = 1.0\nlabel = 1\n", Path::new("c")).unwrap();
        let (schema, layout) = (config.schema(), Layout::new(&config));
        let (items, users) =
            (Entities::new(&schema.item_fields), Entities::new(&schema.user_fields));
        State {
            store: Arc::new(EmbeddedStore::new(layout.plan.clone(), &schema, items, users)),
            schema,
            sessions: Names::default(),
            position: Position::START,
            followed: 0,
            n_own: 0,
            fingerprint: [7; DIGEST_BYTES],
        }
    }

    fn event(kind: &str, user: Option<&str>, session: &str, item: &str) -> NamedEvent {
        NamedEvent {
            kind: kind.into(),
            user: user.map(Into::into),
            session: Some(session.into()),
            item: item.into(),
            time: Timestamp(1_000),
            ..NamedEvent::default()
        }
    }

    /// After two events.
    pub(super) fn filled() -> State {
        let mut state = state();
        let events = [event("buy", Some("u"), "s", "a"), event("jump", None, "t", "b")];
        state.apply_events(events.iter(), Position { segment: 2, offset: 99 });
        state
    }

    #[test]
    fn an_event_of_an_unknown_type_numbers_its_ids_and_changes_nothing_else() {
        let store = filled().store().clone();
        let (names, n_events) = store.view(|view| (view.items().len(), view.n_events()));
        assert_eq!((names, n_events), (2, 1));
    }
}
