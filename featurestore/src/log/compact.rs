//! What was said of deleted users is taken out of a log.
//!
//! A record of a user, up to the one that deletes it, is replaced by one that says nothing: so ids are numbered as before,
//! and a release that was trained on the log still fits it. So are the values of category fields: one that a deleted user
//! was the first to have is said of the stand-in, as it is if others have it too, and as a made-up one if not. The new log is
//! written beside and changes places with the old one in one step.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::writer::{OpenLogError, lock, sync_folder_of, write_error};
use super::{
    AppendError, EventLog, FsyncPolicy, ItemRecord, Position, Record, ScanError, UserRecord,
};
use crate::entities::category_texts;
use crate::history::user_name;
use crate::readers::field_value;
use crate::schema::FieldKind;
use crate::value::{Fields, Value};

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
    let Deletions { users: deleted, n_compactions } = deletions(dir)?;
    if deleted.is_empty() {
        return Ok(Compacted::default());
    }
    let beside = beside(dir);
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| OpenLogError::Write { path, source }
    };
    remove(&beside).map_err(fail(&beside))?;
    let replacing = Replacing::new(n_compactions, shared_values(dir, &deleted)?);
    let n_records = write_without(dir, &beside, &deleted, replacing)?;
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

/// What a log says of deletions.
struct Deletions {
    /// For each user that was deleted, and for those that were merged into one, the number of the last record that says so.
    users: HashMap<String, usize>,
    /// How often the log has been compacted already.
    n_compactions: u64,
}

fn deletions(dir: &Path) -> Result<Deletions, ScanError> {
    let (mut deleted, mut merged) = (HashMap::new(), HashMap::<String, Vec<String>>::new());
    let mut n_compactions = 0;
    // As `Entities::merge` and `delete` do: a name that stands for another is merged as that, until that one is deleted.
    let mut stands_for = HashMap::<String, String>::new();
    for (i, record) in EventLog::reader(dir, Position::START)?.enumerate() {
        match record? {
            Record::DeleteUser { id } if is_erased(&id) => {
                n_compactions = n_compactions.max(compaction_of(&id) + 1);
            }
            Record::DeleteUser { id } => {
                let mut names = vec![resolve(&stands_for, &id)];
                while let Some(name) = names.pop() {
                    names.extend(merged.remove(&name).into_iter().flatten());
                    stands_for.remove(&name);
                    deleted.insert(name, i);
                }
            }
            Record::MergeUser { from, into } => {
                let (from, into) = (resolve(&stands_for, &from), resolve(&stands_for, &into));
                if from != into {
                    merged.entry(into.clone()).or_default().push(from.clone());
                    stands_for.insert(from, into);
                }
            }
            _ => {}
        }
    }
    Ok(Deletions { users: deleted, n_compactions })
}

/// Which compaction gave a deleted user the name `id`. Those of before compactions were numbered count as the first.
fn compaction_of(id: &str) -> u64 {
    let numbers = id.strip_prefix(ERASED).and_then(|numbers| numbers.split_once('-'));
    numbers.and_then(|(compaction, _)| compaction.parse().ok()).unwrap_or(0)
}

/// A field and a value of it that users are in a category by.
type Category = (Box<str>, String);

/// The values of fields that are in a record of one in `deleted` that will be taken out, and in one that stays too.
fn shared_values(
    dir: &Path,
    deleted: &HashMap<String, usize>,
) -> Result<HashSet<Category>, ScanError> {
    let mut of_deleted = HashSet::new();
    for (i, record) in EventLog::reader(dir, Position::START)?.enumerate() {
        let record = record?;
        if taken_out(i, &record, deleted).is_some() {
            of_deleted.extend(categories_of(&record));
        }
    }
    let mut shared = HashSet::new();
    if of_deleted.is_empty() {
        return Ok(shared);
    }
    for (i, record) in EventLog::reader(dir, Position::START)?.enumerate() {
        let record = record?;
        if taken_out(i, &record, deleted).is_none() {
            shared.extend(categories_of(&record).filter(|value| of_deleted.contains(value)));
        }
    }
    Ok(shared)
}

/// What the fields of a user's record say, as fields of categories would take it.
fn categories_of(record: &Record) -> impl Iterator<Item = Category> {
    let (fields, is_typed) = match record {
        Record::User(user) => (Some(&user.fields), true),
        Record::SetUserFields { fields, .. } => (Some(fields), false),
        _ => (None, true),
    };
    fields.into_iter().flatten().flat_map(move |(field, value)| {
        let value = match is_typed {
            true => value.clone(),
            false => field_value(value, FieldKind::Category).unwrap_or(Value::Null),
        };
        let texts: Vec<String> = category_texts(&value).collect();
        texts.into_iter().map(|text| (field.clone(), text))
    })
}

/// The user in `deleted` whom the record at `i` is about, if it is from before the deletion.
fn taken_out(i: usize, record: &Record, deleted: &HashMap<String, usize>) -> Option<String> {
    user_of(record).filter(|user| deleted.get(user).is_some_and(|last| i <= *last))
}

/// The name that `name` stands for: its own, or that of the one that it was merged into.
fn resolve(stands_for: &HashMap<String, String>, name: &str) -> String {
    let mut name = name;
    while let Some(into) = stands_for.get(name) {
        name = into;
    }
    name.to_owned()
}

/// Writes the log at `to`; returns how many records were replaced.
fn write_without(
    dir: &Path,
    to: &Path,
    deleted: &HashMap<String, usize>,
    mut replacing: Replacing,
) -> Result<usize, CompactError> {
    let (mut log, _) = EventLog::open(to, FsyncPolicy::Never)?;
    let (mut batch, mut n_replaced) = (Vec::with_capacity(BATCH), 0);
    for (i, record) in EventLog::reader(dir, Position::START)?.enumerate() {
        let record = record?;
        let user = taken_out(i, &record, deleted);
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

/// What the new log has numbered.
struct Replacing {
    /// How often the log was compacted before: the names of then stay.
    n_compactions: u64,
    items: HashSet<Box<str>>,
    /// Values that users have who stay.
    shared: HashSet<Category>,
    /// Values that stand-ins have had.
    values: HashSet<Category>,
    /// Deleted users who are known at this place of the log: fields are set of no others.
    known: HashSet<String>,
    /// The names that stand for deleted users.
    stand_ins: HashMap<String, Box<str>>,
    /// How many records the latest ones became.
    became: VecDeque<u32>,
}

/// So many records come with one entry of a shared log at most.
const LATEST: usize = 100_000;

impl Replacing {
    fn new(n_compactions: u64, shared: HashSet<Category>) -> Self {
        Self {
            n_compactions,
            items: HashSet::new(),
            shared,
            values: HashSet::new(),
            known: HashSet::new(),
            stand_ins: HashMap::new(),
            became: VecDeque::new(),
        }
    }

    /// The fields of `record`, of a deleted `user`, as far as they have values that no stand-in had so far.
    fn new_values(&mut self, record: &Record, user: &str) -> Fields {
        match record {
            Record::DeleteUser { .. } => {
                self.known.remove(user);
            }
            Record::SetUserFields { .. } if !self.known.contains(user) => return Fields::new(),
            Record::SetUserFields { .. } => {}
            _ => {
                self.known.insert(user.to_owned());
            }
        }
        let mut fields = BTreeMap::<Box<str>, Vec<Box<str>>>::new();
        for category in categories_of(record) {
            if self.values.contains(&category) {
                continue;
            }
            let stand_in: Box<str> = match self.shared.contains(&category) {
                true => category.1.as_str().into(),
                false => format!("{ERASED}{}-{}", self.n_compactions, self.values.len()).into(),
            };
            fields.entry(category.0.clone()).or_default().push(stand_in);
            self.values.insert(category);
        }
        fields.into_iter().map(|(field, texts)| (field, Value::Texts(texts))).collect()
    }

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
                let fields = self.new_values(&record, user);
                let (n_before, n) = (self.n_compactions, self.stand_ins.len());
                let stand_in = self.stand_ins.entry(user.to_owned());
                let id = stand_in.or_insert_with(|| format!("{ERASED}{n_before}-{n}").into());
                if !fields.is_empty() {
                    out.push(Record::User(UserRecord { id: id.clone(), fields }));
                }
                out.push(Record::DeleteUser { id: id.clone() });
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

    /// The users' names, and the codes of their countries, as a server would number them.
    fn numbered(dir: &Path) -> (Vec<String>, Vec<Vec<u32>>) {
        let schema = Schema {
            events: [("buy".to_owned(), EventType { weight: 1.0, label: 1 })].into(),
            user_fields: [("country".to_owned(), FieldKind::Category)].into(),
            ..Schema::default()
        };
        let mut builder = HistoryBuilder::new(&schema);
        for record in EventLog::reader(dir, Position::START).unwrap() {
            builder.push(&record.unwrap());
        }
        let users = builder.build().users;
        let country = users.field("country").unwrap();
        let names: Vec<String> = users.names().iter().map(str::to_owned).collect();
        let codes = (0..names.len() as u32).map(|id| users.column(country).codes(id).collect());
        (names, codes.collect())
    }

    fn from(user: &str, country: &str) -> Record {
        let fields = [("country".into(), Value::Text(country.into()))].into();
        Record::User(UserRecord { id: user.into(), fields })
    }

    #[test]
    fn numbers_of_users_and_of_their_categories_stay_however_often_a_log_is_compacted() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("log");
        let set = |id: &str, country: &str| Record::SetUserFields {
            id: id.into(),
            fields: [("country".into(), Value::Text(country.into()))].into(),
        };
        let delete = |id: &str| Record::DeleteUser { id: id.into() };
        let rounds: [&[Record]; 3] = [
            &[
                set("first", "of nobody: ignored"),
                from("first", "only hers"),
                set("first", "DE"),
                from("a", "DE"),
                from("b", "FR"),
                delete("first"),
            ],
            &[from("second", "FR"), from("c", "Italy"), set("second", "ES"), delete("second")],
            &[from("third", "PT"), from("d", "PT"), from("e", "ES"), delete("c"), delete("third")],
        ];
        for records in rounds {
            let (mut log, _) = EventLog::open(&dir, FsyncPolicy::Never).unwrap();
            log.append(records).unwrap();
            drop(log);
            let (names, codes) = numbered(&dir);
            compact(&dir).unwrap();
            let (names_after, codes_after) = numbered(&dir);
            assert_eq!(codes_after, codes);
            assert_eq!(names_after.len(), names.len());
            for (after, before) in names_after.iter().zip(&names) {
                assert!(after == before || is_erased(after), "{after:?} was {before:?}");
            }
        }
        let (_, codes) = numbered(&dir);
        let known: Vec<&Vec<u32>> = codes.iter().filter(|codes| !codes.is_empty()).collect();
        assert_eq!(known, [&vec![1], &vec![2], &vec![5], &vec![6]], "DE, FR, PT and, anew, ES");
        let text = std::fs::read(dir.join("00000000.log")).unwrap();
        for gone in [&b"only hers"[..], b"first", b"second", b"Italy"] {
            assert!(!text.windows(gone.len()).any(|bytes| bytes == gone));
        }
    }

    #[test]
    fn who_was_merged_by_a_name_that_stands_for_another_is_gone_too() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("log");
        let merge =
            |from: &str, into: &str| Record::MergeUser { from: from.into(), into: into.into() };
        let records = [
            event("first-name", "x", 1),
            merge("second-name", "first-name"),
            // It stands for the first one, who becomes the third.
            merge("second-name", "third-name"),
            Record::DeleteUser { id: "third-name".into() },
        ];
        let (mut log, _) = EventLog::open(&dir, FsyncPolicy::Never).unwrap();
        log.append(&records).unwrap();
        drop(log);
        assert_eq!(compact(&dir).unwrap(), Compacted { n_users: 3, n_records: 4 });
        let text = std::fs::read(dir.join("00000000.log")).unwrap();
        assert!(!text.windows(5).any(|bytes| bytes == b"-name"));
    }

    #[test]
    fn who_was_merged_into_one_that_was_deleted_is_not_deleted_with_it_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("log");
        let delete = |id: &str| Record::DeleteUser { id: id.into() };
        let records = [
            Record::MergeUser { from: "session".into(), into: "user".into() },
            delete("user"),
            event("session", "x", 1),
            event("user", "y", 2),
            delete("user"),
        ];
        let (mut log, _) = EventLog::open(&dir, FsyncPolicy::Never).unwrap();
        log.append(&records).unwrap();
        drop(log);
        assert_eq!(compact(&dir).unwrap(), Compacted { n_users: 2, n_records: 4 });
        let left = EventLog::reader(&dir, Position::START).unwrap().map(Result::unwrap);
        let events: Vec<Record> = left.filter(|it| matches!(it, Record::Event(_))).collect();
        assert_eq!(events, [event("session", "x", 1)]);
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
