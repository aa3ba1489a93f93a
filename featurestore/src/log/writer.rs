//! The one writer of a log.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustc_hash::FxHashSet;

use super::frame::{self, RecordRef};
use super::{
    EventIds, FsyncPolicy, N_EVENT_IDS, Outcome, Position, Record, Records, ScanError, compact,
    event_ids, segment, staged,
};
use crate::event::NamedEvent;

/// A segment that has reached this many bytes is closed, and the next append begins a new one.
pub const SEGMENT_BYTES: u64 = 256 << 20;

/// Why a log cannot be opened for writing.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// The operating system refused.
    #[error("cannot write the event log {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process writes to it.
    #[error("the event log {} is in use by another process: end it, or send events to the server by `POST /v1/events`", dir.display())]
    InUse {
        /// The log's folder.
        dir: PathBuf,
    },
    /// It cannot be read, or is damaged.
    #[error(transparent)]
    Scan(#[from] ScanError),
}

/// Why records were not appended: none of them is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The operating system refused, the disk being full perhaps. Appending may be tried again.
    #[error("cannot write the event log {}", path.display())]
    Write {
        /// The segment.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record is longer than [`super::MAX_RECORD_BYTES`].
    #[error(
        "record {index} has {n_bytes} bytes, more than the {} of the longest",
        super::MAX_RECORD_BYTES
    )]
    TooLong {
        /// Its position among those given.
        index: usize,
        /// Its length.
        n_bytes: usize,
    },
    /// An earlier failure could not be undone, or left open what is on the disk. The log must be opened anew.
    #[error("the event log {} takes no more records after an earlier failure: open it anew", dir.display())]
    Failed {
        /// The log's folder.
        dir: PathBuf,
    },
}

/// What opening a log found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Records in the log.
    pub n_records: u64,
    /// Bytes of a torn tail that were cut from the last segment.
    pub cut_bytes: u64,
    /// The last entry of a shared log that is in it, 0 for none.
    pub followed: u64,
    /// Users that were deleted, of whom the log still tells: [`compact`](super::compact) it.
    pub n_deleted_users: u64,
}

/// A log that is open for writing, by this process alone.
#[derive(Debug)]
pub struct EventLog {
    dir: PathBuf,
    policy: FsyncPolicy,
    ids: EventIds,
    /// The segment that is appended to.
    segment: u32,
    file: File,
    /// Its length in bytes, all of it acknowledged.
    length: u64,
    synced_at: Instant,
    is_dirty: bool,
    has_failed: bool,
    /// Held while the log is open.
    _lock: File,
}

impl EventLog {
    /// Opens the log in the folder `dir`, which is made if it is not there. Cost: reads the whole log, to check it and to
    /// know its event ids again.
    ///
    /// # Errors
    /// If another process has it open, or it is damaged elsewhere than at its end.
    pub fn open(dir: &Path, policy: FsyncPolicy) -> Result<(Self, Opened), OpenLogError> {
        Self::open_remembering(dir, policy, N_EVENT_IDS)
    }

    /// As [`Self::open`], remembering at least the last `n_event_ids` event ids.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_remembering(
        dir: &Path,
        policy: FsyncPolicy,
        n_event_ids: usize,
    ) -> Result<(Self, Opened), OpenLogError> {
        let prepared = Prepared::new(dir)?;
        let checked = check(dir, n_event_ids)?;
        prepared.open(dir, policy, checked)
    }

    /// As [`Self::open`], while `beside` runs, which may read the log.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_beside<T>(
        dir: &Path,
        policy: FsyncPolicy,
        beside: impl FnOnce() -> T,
    ) -> Result<(Self, Opened, T), OpenLogError> {
        let prepared = Prepared::new(dir)?;
        let (checked, result) = thread::scope(|scope| {
            let checker = thread::Builder::new().name("log-checker".into());
            let checker = checker.spawn_scoped(scope, || check(dir, N_EVENT_IDS));
            let checker = checker.map_err(|e| write_error(dir, e))?;
            let result = beside();
            let checked = checker.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            Ok::<_, OpenLogError>((checked, result))
        })?;
        let (log, opened) = prepared.open(dir, policy, checked)?;
        Ok((log, opened, result))
    }

    /// The event ids that the log at `dir` remembers at `until`, whether or not somebody writes to it. Cost: reads the log up
    /// to there.
    ///
    /// # Errors
    /// If there is no log, or it is damaged.
    pub fn event_ids_until(dir: &Path, until: Position) -> Result<EventIds, ScanError> {
        let (mut ids, mut records) =
            (EventIds::new(N_EVENT_IDS), Self::reader(dir, Position::START)?);
        while let Some(record) = records.next() {
            let record = record?;
            if records.reached() > until {
                break;
            }
            if let Record::Event(NamedEvent { event_id: Some(id), .. }) = &record {
                ids.insert(id);
            }
        }
        Ok(ids)
    }

    /// The records of the log at `dir` from `from` to the last complete one, whether or not somebody writes to it.
    ///
    /// # Errors
    /// If there is no log, or it does not reach to `from`.
    pub fn reader(dir: &Path, from: Position) -> Result<Records, ScanError> {
        Records::open(dir, from, None)
    }

    /// The records from `from` to the end.
    ///
    /// # Errors
    /// If the log does not reach to `from`.
    pub fn scan(&self, from: Position) -> Result<Records, ScanError> {
        Records::open(&self.dir, from, Some(self.position()))
    }

    /// The end of the log: where the next record will be.
    pub fn position(&self) -> Position {
        Position { segment: self.segment, offset: self.length }
    }

    /// The folder of the log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The event ids seen lately.
    pub fn event_ids(&self) -> &EventIds {
        &self.ids
    }

    /// Appends `records`, all or none; an event whose id was seen before is left out. When this returns, they are as
    /// durable as the policy says. Cost: one write, and one sync under [`FsyncPolicy::Always`]: appending many together
    /// is a group commit.
    ///
    /// # Errors
    /// If a record is too long or cannot be written; the log is then as before.
    pub fn append(&mut self, records: &[Record]) -> Result<Vec<Outcome>, AppendError> {
        self.append_all(records.iter().map(RecordRef::from))
    }

    /// As [`Self::append`], of events alone.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_events(&mut self, events: &[NamedEvent]) -> Result<Vec<Outcome>, AppendError> {
        self.append_all(events.iter().map(RecordRef::Event))
    }

    /// As [`Self::append`], and behind them that they are the entry `stamp` of a shared log.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_followed(
        &mut self,
        records: &[Record],
        stamp: u64,
    ) -> Result<Vec<Outcome>, AppendError> {
        let mut batch = Batch::default();
        for record in records {
            batch.push(&record.into(), &self.ids)?;
        }
        let n = batch.outcomes.iter().filter(|outcome| **outcome == Outcome::Accepted).count();
        let outcomes = batch.outcomes.clone();
        batch.push(&RecordRef::Followed { stamp, n: n as u32 }, &self.ids)?;
        self.write(&batch.bytes)?;
        self.remember(batch.new_ids);
        Ok(outcomes)
    }

    fn append_all<'a>(
        &mut self,
        records: impl Iterator<Item = RecordRef<'a>>,
    ) -> Result<Vec<Outcome>, AppendError> {
        let mut batch = Batch::default();
        for record in records {
            batch.push(&record, &self.ids)?;
        }
        self.write(&batch.bytes)?;
        self.remember(batch.new_ids);
        Ok(batch.outcomes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), AppendError> {
        self.check_not_failed()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if self.length >= SEGMENT_BYTES {
            self.begin_segment()?;
        }
        if let Err(source) = self.file.write_all(bytes) {
            self.roll_back();
            return Err(self.append_error(source));
        }
        self.is_dirty = true;
        if let Err(source) = self.sync_if_due() {
            self.roll_back();
            // After a failed sync nobody knows what is on the disk: a later one may succeed without having written it.
            self.has_failed = true;
            return Err(self.append_error(source));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync_if_due(&mut self) -> io::Result<()> {
        match self.policy {
            FsyncPolicy::Always => self.sync_file(),
            FsyncPolicy::Interval(interval) if self.synced_at.elapsed() >= interval => {
                self.sync_file()
            }
            FsyncPolicy::Interval(_) | FsyncPolicy::Never => Ok(()),
        }
    }

    fn sync_file(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.file.sync_data()?;
            self.is_dirty = false;
        }
        self.synced_at = Instant::now();
        Ok(())
    }

    /// Forces what was appended to the disk, under every policy. Does nothing if it is there already.
    ///
    /// # Errors
    /// If that fails; the log then takes no more records until it is opened anew.
    pub fn sync(&mut self) -> Result<(), AppendError> {
        self.check_not_failed()?;
        self.sync_file().map_err(|source| {
            self.has_failed = true;
            self.append_error(source)
        })
    }

    /// Takes back what a failed write may have left behind the last acknowledged record.
    fn roll_back(&mut self) {
        self.has_failed |= self.file.set_len(self.length).is_err();
    }

    /// Closes the segment, on the disk, and begins the next one.
    fn begin_segment(&mut self) -> Result<(), AppendError> {
        self.sync()?;
        let path = segment::path(&self.dir, self.segment + 1);
        let file = create_segment(&path).map_err(|source| AppendError::Write { path, source })?;
        self.move_to(self.segment + 1, file, segment::HEADER_BYTES);
        Ok(())
    }

    pub(super) fn move_to(&mut self, segment: u32, file: File, length: u64) {
        (self.segment, self.file, self.length) = (segment, file, length);
        self.is_dirty = false;
    }

    pub(super) fn remember(&mut self, hashes: impl IntoIterator<Item = u128>) {
        for hash in hashes {
            self.ids.insert_hash(hash);
        }
    }

    pub(super) fn fail(&mut self) {
        self.has_failed = true;
    }

    pub(super) fn check_not_failed(&self) -> Result<(), AppendError> {
        if self.has_failed { Err(AppendError::Failed { dir: self.dir.clone() }) } else { Ok(()) }
    }

    fn append_error(&self, source: io::Error) -> AppendError {
        AppendError::Write { path: segment::path(&self.dir, self.segment), source }
    }
}

/// A log that is locked, and whose last segment has its header. What is torn at its end is still there.
struct Prepared {
    lock: File,
    unfinished_bytes: u64,
}

impl Prepared {
    fn new(dir: &Path) -> Result<Self, OpenLogError> {
        std::fs::create_dir_all(dir).map_err(|e| write_error(dir, e))?;
        let lock = lock(dir)?;
        staged::remove_abandoned(dir).map_err(|e| write_error(dir, e))?;
        compact::remove_abandoned(dir).map_err(|e| write_error(dir, e))?;
        let unfinished_bytes = finish_last_segment(dir)?;
        Ok(Self { lock, unfinished_bytes })
    }

    /// Cuts off what is torn, and opens the log for what comes after `checked`.
    fn open(
        self,
        dir: &Path,
        policy: FsyncPolicy,
        checked: (EventIds, Position, Opened),
    ) -> Result<(EventLog, Opened), OpenLogError> {
        let (ids, end, mut opened) = checked;
        opened.cut_bytes += self.unfinished_bytes;
        let path = segment::path(dir, end.segment);
        let file = open_end(&path, end.offset).map_err(|e| write_error(&path, e))?;
        let log = EventLog {
            dir: dir.into(),
            policy,
            ids,
            segment: end.segment,
            file,
            length: end.offset,
            synced_at: Instant::now(),
            is_dirty: false,
            has_failed: false,
            _lock: self.lock,
        };
        Ok((log, opened))
    }
}

/// Records on their way into the log.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) outcomes: Vec<Outcome>,
    /// Hashes of the event ids among them, in their order.
    pub(super) new_ids: Vec<u128>,
    seen: FxHashSet<u128>,
}

impl Batch {
    /// Adds `record`, unless its id is among `known` or came before.
    pub(super) fn push(&mut self, record: &RecordRef, known: &EventIds) -> Result<(), AppendError> {
        let hash = record.event_id().map(event_ids::hash);
        if hash.is_some_and(|hash| known.contains_hash(hash) || self.seen.contains(&hash)) {
            self.outcomes.push(Outcome::Duplicate);
            return Ok(());
        }
        frame::encode(record, &mut self.bytes).map_err(|too_long| AppendError::TooLong {
            index: self.outcomes.len(),
            n_bytes: too_long.0,
        })?;
        self.seen.extend(hash);
        self.new_ids.extend(hash);
        self.outcomes.push(Outcome::Accepted);
        Ok(())
    }
}

pub(super) fn write_error(path: &Path, source: io::Error) -> OpenLogError {
    OpenLogError::Write { path: path.into(), source }
}

/// Takes the lock of the log at `dir`. It is given back when the file is closed, at the latest by the end of the process.
pub(super) fn lock(dir: &Path) -> Result<File, OpenLogError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| write_error(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenLogError::InUse { dir: dir.into() }),
        Err(TryLockError::Error(source)) => Err(write_error(&path, source)),
    }
}

/// Makes sure that there is a segment, and that the last one has its header. Returns the bytes of an incomplete header.
fn finish_last_segment(dir: &Path) -> Result<u64, OpenLogError> {
    let last = segment::last(dir)?;
    let path = segment::path(dir, last.unwrap_or(0));
    let mut n_bytes = 0;
    if last.is_some() {
        let mut file = File::open(&path).map_err(|e| write_error(&path, e))?;
        n_bytes = file.metadata().map_err(|e| write_error(&path, e))?.len();
        if !segment::is_unfinished(&mut file).map_err(|e| write_error(&path, e))? {
            return Ok(0);
        }
        std::fs::remove_file(&path).map_err(|e| write_error(&path, e))?;
    }
    create_segment(&path).map_err(|e| write_error(&path, e))?;
    Ok(n_bytes)
}

/// Reads the whole log: its event ids, its end, and what was found.
fn check(dir: &Path, n_event_ids: usize) -> Result<(EventIds, Position, Opened), ScanError> {
    let mut ids = EventIds::new(n_event_ids);
    let mut records = Records::open(dir, Position::START, None)?;
    let (mut n_records, mut followed, mut n_deleted_users) = (0, 0, 0);
    while let Some(payload) = records.advance()? {
        n_records += 1;
        followed = peek_followed(payload).unwrap_or(followed).max(followed);
        n_deleted_users += u64::from(tells_of_deleted(payload));
        if let Some(event_id) = peek_event_id(payload) {
            ids.insert(event_id);
        }
    }
    let cut_bytes = records.n_torn_bytes();
    let opened = Opened { n_records, cut_bytes, followed, n_deleted_users };
    Ok((ids, records.reached(), opened))
}

/// The entry of a shared log that a record's bytes are a mark of.
fn peek_followed(payload: &[u8]) -> Option<u64> {
    const VARIANT: u32 = 5;
    match postcard::take_from_bytes::<(u32, u64)>(payload) {
        Ok(((VARIANT, stamp), _)) => Some(stamp),
        _ => None,
    }
}

/// The event id at the start of a record's bytes, without reading the rest.
fn peek_event_id(payload: &[u8]) -> Option<&str> {
    match postcard::take_from_bytes::<(u32, Option<&str>)>(payload) {
        Ok(((0, event_id), _)) => event_id,
        _ => None,
    }
}

/// Whether a record deletes a user by name.
fn tells_of_deleted(payload: &[u8]) -> bool {
    const VARIANT: u32 = 4;
    match postcard::take_from_bytes::<(u32, &str)>(payload) {
        Ok(((VARIANT, id), _)) => !compact::is_erased(id),
        _ => false,
    }
}

fn create_segment(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).create_new(true).open(path)?;
    let written = file.write_all(segment::header()).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| sync_folder_of(path)) {
        std::fs::remove_file(path)?;
        return Err(error);
    }
    Ok(file)
}

/// Opens the segment at `path` for appending at `end`, without what is behind it.
pub(super) fn open_end(path: &Path, end: u64) -> io::Result<File> {
    let file = OpenOptions::new().append(true).open(path)?;
    if file.metadata()?.len() > end {
        file.set_len(end)?;
    }
    // What a killed process has written may not be on the disk yet: its events count as known from now on.
    file.sync_all()?;
    sync_folder_of(path)?;
    Ok(file)
}

/// Forces the names of the files in `path`'s folder to the disk.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_id_is_read_without_the_rest() {
        let event = |event_id: Option<&str>| {
            let event_id = event_id.map(Box::from);
            Record::Event(NamedEvent { event_id, item: "i".into(), ..NamedEvent::default() })
        };
        let peek = |record: &Record| {
            peek_event_id(&postcard::to_stdvec(record).unwrap()).map(str::to_owned)
        };
        assert_eq!(peek(&event(Some("e1"))).as_deref(), Some("e1"));
        assert_eq!(peek(&event(None)), None);
        assert_eq!(peek(&Record::DeleteUser { id: "u".into() }), None);
        let mark = postcard::to_stdvec(&Record::Followed { stamp: 7 << 40, n: 3 }).unwrap();
        assert_eq!((peek_followed(&mark), peek_event_id(&mark)), (Some(7 << 40), None));
        let user = postcard::to_stdvec(&Record::DeleteUser { id: "u".into() }).unwrap();
        assert_eq!(peek_followed(&user), None);
        assert!(tells_of_deleted(&user) && !tells_of_deleted(&mark));
    }
}
