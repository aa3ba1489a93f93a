//! What was said of deleted users is taken out of a log.
//!
//! A record of a user, up to the one that deletes it, is replaced by one that says nothing: so ids are numbered as before,
//! and a release that was trained on the log still fits it. The new log is written beside and changes places with the old
//! one in one step.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::writer::{OpenLogError, lock, sync_folder_of, write_error};
use super::{AppendError, EventLog, FsyncPolicy, ItemRecord, Position, Record, ScanError};
use crate::history::user_name;

/// Begins the names of users that stand for deleted ones. Ids from outside cannot hold it.
const ERASED: &str = "\u{0}\u{0}erased-";

/// The extension of the other log.
const BESIDE: &str = "compacted";

/// Records that are appended together.
const BATCH: usize = 1_000;

/// Why a log was not compacted. It is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenLogError),
    /// It cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The new one cannot be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// What was taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Deleted users that the log does not name any more.
    pub n_users: usize,
    /// Their records.
    pub n_records: usize,
}

/// Whether `id` is a user whose deletion has been compacted already.
pub(super) fn is_erased(id: &str) -> bool {
    id.starts_with(ERASED)
}

/// Takes out of the log in the folder `dir` what was said of users before they were deleted. Positions in it change. Nobody
/// else may write to it meanwhile.
///
/// # Errors
/// If it is in use, damaged, or the new one cannot be written.
pub fn compact(dir: &Path) -> Result<Compacted, CompactError> {
    let _locked = lock(dir)?;
    let deleted = deletions(dir)?;
    if deleted.is_empty() {
        return Ok(Compacted::default());
    }
    let beside = beside(dir);
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| OpenLogError::Write { path, source }
    };
    remove(&beside).map_err(fail(&beside))?;
    let n_records = write_without(dir, &beside, &deleted)?;
    renameat_with(CWD, &beside, CWD, dir, RenameFlags::EXCHANGE)
        .map_err(|e| write_error(dir, e.into()))?;
    sync_folder_of(dir).map_err(fail(dir))?;
    remove(&beside).map_err(fail(&beside))?;
    Ok(Compacted { n_users: deleted.len(), n_records })
}

/// Where a new log is written, and where the old one is until it is removed.
fn beside(dir: &Path) -> PathBuf {
    dir.with_extension(BESIDE)
}

/// Removes what a compaction of the log in the folder `dir` that was killed has left, which may tell of deleted users.
pub(super) fn remove_abandoned(dir: &Path) -> io::Result<()> {
    match dir.extension().is_some_and(|extension| extension == BESIDE) {
        true => Ok(()),
        false => remove(&beside(dir)),
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// For each user that was deleted, and for those that were merged into one, the number of the last record that says so.
fn deletions(dir: &Path) -> Result<HashMap<String, usize>, ScanError> {
    let (mut deleted, mut merged) = (HashMap::new(), HashMap::<String, Vec<String>>::new());
    for (i, record) in EventLog::reader(dir, Position::START)?.enumerate() {
        match record? {
            Record::DeleteUser { id } if !is_erased(&id) => {
                let mut names = vec![String::from(id)];
                while let Some(name) = names.pop() {
                    names.extend(merged.remove(&name).into_iter().flatten());
                    deleted.insert(name, i);
                }
            }
            Record::MergeUser { from, into } => {
                merged.entry(into.into()).or_default().push(from.into());
            }
            _ => {}
        }
    }
    Ok(deleted)
}

/// Writes the log at `to`; returns how many records were replaced.
fn write_without(
    dir: &Path,
    to: &Path,
    deleted: &HashMap<String, usize>,
) -> Result<usize, CompactError> {
    let (mut log, _) = EventLog::open(to, FsyncPolicy::Never)?;
    let mut replacing = Replacing::default();
    let (mut batch, mut n_replaced) = (Vec::with_capacity(BATCH), 0);
    for (i, record) in EventLog::reader(dir, Position::START)?.enumerate() {
        let record = record?;
        let user = user_of(&record);
        let user = user.filter(|user| deleted.get(user).is_some_and(|last| i <= *last));
        n_replaced += usize::from(user.is_some());
        replacing.push(record, user.as_deref(), &mut batch);
        if batch.len() >= BATCH {
            log.append(&batch)?;
            batch.clear();
        }
    }
    log.append(&batch)?;
    log.sync()?;
    File::open(to).and_then(|folder| folder.sync_all()).map_err(|e| write_error(to, e))?;
    Ok(n_replaced)
}

/// The user that `record` is about, as the state names it.
fn user_of(record: &Record) -> Option<String> {
    match record {
        Record::Event(event) => user_name(event),
        Record::User(user) => Some(user.id.to_string()),
        Record::DeleteUser { id } | Record::SetUserFields { id, .. } => Some(id.to_string()),
        Record::MergeUser { from, .. } => Some(from.to_string()),
        Record::Item(_)
        | Record::DeleteItem { .. }
        | Record::SetItemFields { .. }
        | Record::Followed { .. } => None,
    }
}

/// Which ids the new log has numbered.
#[derive(Default)]
struct Replacing {
    items: HashSet<Box<str>>,
    /// The names that stand for deleted users.
    stand_ins: HashMap<String, Box<str>>,
    /// How many records the latest ones became.
    became: VecDeque<u32>,
}

/// So many records come with one entry of a shared log at most.
const LATEST: usize = 100_000;

impl Replacing {
    /// Appends to `out` what becomes of `record`. `user`: a deleted one that it is about.
    fn push(&mut self, record: Record, user: Option<&str>, out: &mut Vec<Record>) {
        let before = out.len();
        match (record, user) {
            (Record::Followed { stamp, n }, _) => {
                let latest = self.became.iter().rev().take(n as usize).sum();
                out.push(Record::Followed { stamp, n: latest });
                return;
            }
            (record, Some(user)) => {
                let n = self.stand_ins.len();
                let stand_in = self.stand_ins.entry(user.to_owned());
                let id = stand_in.or_insert_with(|| format!("{ERASED}{n}").into()).clone();
                out.push(Record::DeleteUser { id });
                if let Record::Event(event) = record
                    && self.items.insert(event.item.clone())
                {
                    out.push(Record::Item(ItemRecord { id: event.item, ..ItemRecord::default() }));
                }
            }
            (record, None) => {
                match &record {
                    Record::Event(event) if !self.items.contains(&event.item) => {
                        self.items.insert(event.item.clone());
                    }
                    Record::Item(ItemRecord { id, .. }) | Record::DeleteItem { id } => {
                        self.items.insert(id.clone());
                    }
                    _ => {}
                }
                out.push(record);
            }
        }
        self.became.push_back((out.len() - before) as u32);
        if self.became.len() > LATEST {
            self.became.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NamedEvent;
    use crate::history::HistoryBuilder;
    use crate::log::UserRecord;
    use crate::schema::{EventType, Schema};
    use crate::time::Timestamp;

    fn event(user: &str, item: &str, time: i64) -> Record {
        Record::Event(NamedEvent {
            event_id: Some(format!("{user}-{time}").into()),
            kind: "buy".into(),
            user: Some(user.into()),
            item: item.into(),
            time: Timestamp(time),
            ..NamedEvent::default()
        })
    }

    #[test]
    fn what_a_deleted_user_did_in_a_merged_session_is_gone_too() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("log");
        let of_session = Record::Event(NamedEvent {
            session: Some("secret-visit".into()),
            item: "x".into(),
            ..NamedEvent::default()
        });
        let merge = Record::MergeUser { from: "\0secret-visit".into(), into: "gone".into() };
        let (mut log, _) = EventLog::open(&dir, FsyncPolicy::Never).unwrap();
        log.append(&[of_session, merge, Record::DeleteUser { id: "gone".into() }]).unwrap();
        drop(log);
        assert_eq!(compact(&dir).unwrap(), Compacted { n_users: 2, n_records: 3 });
        let text = std::fs::read(dir.join("00000000.log")).unwrap();
        for name in [&b"gone"[..], b"secret-visit"] {
            assert!(!text.windows(name.len()).any(|bytes| bytes == name));
        }
    }

    #[test]
    fn a_deleted_user_is_gone_and_everything_else_is_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("log");
        let records = [
            event("a", "x", 1),
            event("gone", "y", 2),
            Record::User(UserRecord { id: "gone".into(), ..UserRecord::default() }),
            event("a", "z", 3),
            event("gone", "z", 4),
            Record::Followed { stamp: 9, n: 3 },
            Record::DeleteUser { id: "gone".into() },
            event("b", "x", 5),
            event("gone", "x", 6),
        ];
        let (mut log, _) = EventLog::open(&dir, FsyncPolicy::Never).unwrap();
        log.append(&records).unwrap();
        assert!(matches!(compact(&dir), Err(CompactError::Open(OpenLogError::InUse { .. }))));
        drop(log);
        let schema = Schema {
            events: [("buy".to_owned(), EventType { weight: 1.0, label: 1 })].into(),
            ..Schema::default()
        };
        let history = || {
            let mut builder = HistoryBuilder::new(&schema);
            for record in EventLog::reader(&dir, Position::START).unwrap() {
                builder.push(&record.unwrap());
            }
            builder.build()
        };
        let before = history();
        assert_eq!(EventLog::open(&dir, FsyncPolicy::Never).unwrap().1.n_deleted_users, 1);
        assert_eq!(compact(&dir).unwrap(), Compacted { n_users: 1, n_records: 4 });
        let after = history();
        let items = |history: &crate::History| -> Vec<String> {
            history.items.names().iter().map(str::to_owned).collect()
        };
        assert_eq!(items(&after), items(&before));
        let events: Vec<_> = after.events.iter().map(|e| (e.item, e.time)).collect();
        assert_eq!(events, before.events.iter().map(|e| (e.item, e.time)).collect::<Vec<_>>());
        assert_eq!(after.users.names().get("b"), before.users.names().get("b"));
        let opened = EventLog::open(&dir, FsyncPolicy::Never).unwrap().1;
        assert_eq!((opened.n_deleted_users, opened.followed), (0, 9));
        let text = std::fs::read(dir.join("00000000.log")).unwrap();
        let n = text.windows(4).filter(|bytes| *bytes == b"gone").count();
        // Its id, and the event's id, in what came after.
        assert_eq!(n, 2);
        assert_eq!(compact(&dir).unwrap(), Compacted::default());
        // One that was killed has left the old log beside.
        let left = beside(&dir);
        std::fs::create_dir(&left).unwrap();
        EventLog::open(&dir, FsyncPolicy::Never).unwrap();
        assert!(!left.exists());
    }
}
