//! A configuration from files: which column is what, which event types there are, and of which type the fields are.

mod columns;
mod event_types;
mod profile;
mod written;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use rustc_hash::{FxHashSet, FxHasher};

use crate::event::NamedEvent;
use crate::readers::{
    ColumnMap, Format, ImportMaps, ItemMap, ReadError, Row, TimeUnit, UserMap, event_from_row,
    open_rows,
};
use crate::schema::{EventType, FieldKind, MAX_EVENT_FIELDS, MAX_EVENT_TYPES, Schema, VALUE_NAME};

use columns::Role;
use profile::Table;

/// Rows that columns are judged by.
pub const SAMPLE_ROWS: usize = 100_000;

/// Events that are counted and searched for repeats: 20 million pairs take 400 MB.
const COUNTED_EVENTS: usize = 20_000_000;

/// Repeats below this share of an event type's events are taken for noise: what was done once need not be shown again.
const RARE_REPEATS: f64 = 0.02;

/// The files of a new user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// What users did.
    pub events: PathBuf,
    /// The catalogue.
    pub items: Option<PathBuf>,
    /// What is known about users.
    pub users: Option<PathBuf>,
    /// How all of them are written.
    pub format: Format,
}

/// Why nothing can be inferred.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A column that is needed cannot be told.
    #[error(
        "{} has no column that is known as {role}; its columns are: {}. Rename the one that is, to {expected:?} for example",
        path.display(), columns.join(", ")
    )]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        role: &'static str,
        /// A name that would be known.
        expected: &'static str,
        /// Those that there are.
        columns: Vec<String>,
    },
    /// Several columns could be it.
    #[error(
        "{} has several columns that may be {role}: {}. Rename or leave out all but one",
        path.display(), columns.join(", ")
    )]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        role: &'static str,
        /// Those that may be it.
        columns: Vec<String>,
    },
    /// The column of times does not hold times.
    #[error("{}, column {column}: {value:?} is not a time", path.display())]
    NotATime {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// One of its values.
        value: String,
    },
    /// None of the rows is an event.
    #[error("no row of {} can be read as an event; the first: {first}", path.display())]
    NoEvents {
        /// The file.
        path: PathBuf,
        /// What is wrong with the first row.
        first: String,
    },
    /// There are more event types than a schema may have.
    #[error("{}, column {column} has more than {MAX_EVENT_TYPES} event types", path.display())]
    TooManyTypes {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
}

/// What files say about a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Inferred {
    /// Which column is what.
    pub import: ImportMaps,
    /// Event types and fields.
    pub schema: Schema,
    /// Event types that are hardly ever repeated with the same item.
    pub hide_seen: Vec<String>,
    /// Events that were counted.
    pub n_events: usize,
    /// Rows among them that are bad.
    pub n_bad: usize,
    /// Share of the events that repeat an earlier one of the same user, item and type.
    pub repeat_share: f64,
    /// Why, by the path of the key in the configuration.
    reasons: BTreeMap<String, String>,
    /// What is worth knowing beside the keys: columns that are not used, for example.
    notes: Vec<String>,
}

/// Infers a configuration from `files`. Cost: reads the events twice, or 20 million of them, and 100,000 items and users.
///
/// # Errors
/// If a file cannot be read, or a column that is needed cannot be told.
pub fn infer(files: &Files) -> Result<Inferred, InferError> {
    let mut why = Why::default();
    let (events, event_fields) = infer_events(&files.events, files.format, &mut why)?;
    let counts = Counts::of(&files.events, files.format, &events)?;
    let mut schema = Schema { event_fields, ..Schema::default() };
    for (name, count) in &counts.by_type {
        let (event_type, reason) = event_types::known(name);
        let reason =
            format!("{reason}; {} events, {} repeated", count.n, percent(count.repeat_share()));
        why.say(&format!("events.{name}"), reason);
        schema.events.insert(name.clone(), event_type);
    }
    let hide_seen = counts.hardly_repeated(&schema.events, &mut why);
    let items = match &files.items {
        None => None,
        Some(path) => Some(infer_items(path, files.format, &events.item, &mut why)?),
    };
    let users = match &files.users {
        None => None,
        Some(path) => Some(infer_users(path, files.format, events.user.as_deref(), &mut why)?),
    };
    schema.item_fields = items.as_ref().map(|map| map.fields.clone()).unwrap_or_default();
    schema.user_fields = users.as_ref().map(|map| map.fields.clone()).unwrap_or_default();
    Ok(Inferred {
        import: ImportMaps { events: Some(events), items, users },
        schema,
        hide_seen,
        n_events: counts.n_events,
        n_bad: counts.n_bad,
        repeat_share: counts.repeat_share(),
        reasons: why.reasons,
        notes: why.notes,
    })
}

/// The reasons that become comments.
#[derive(Default)]
struct Why {
    reasons: BTreeMap<String, String>,
    notes: Vec<String>,
}

impl Why {
    fn say(&mut self, key: &str, reason: impl Into<String>) {
        self.reasons.insert(key.into(), reason.into());
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// Which column is what, and which of the others are fields of the events.
fn infer_events(
    path: &Path,
    format: Format,
    why: &mut Why,
) -> Result<(ColumnMap, BTreeMap<String, FieldKind>), InferError> {
    let table = Table::sample(path, format, SAMPLE_ROWS)?;
    let mut find = |role: &Role, key: &str| {
        let column = columns::find(role, &table)?;
        why.say(&format!("import.events.{key}"), column.reason());
        Some(column.name)
    };
    let session = find(&columns::SESSION, "session");
    let value = find(&columns::VALUE, "value");
    let event_id = find(&columns::EVENT_ID, "event_id");
    let kind = find(&columns::KIND, "kind");
    let item = columns::need(&columns::ITEM, &table, path)?;
    why.say("import.events.item", item.reason());
    let user = match columns::need(&columns::USER, &table, path) {
        Ok(user) => Some(user),
        // Visits alone do: a session stands for its user.
        Err(InferError::NoColumn { .. }) if session.is_some() => None,
        Err(error) => return Err(error),
    };
    if let Some(user) = &user {
        why.say("import.events.user", user.reason());
    }
    let (time, time_unit) = infer_time(&table, path, why)?;
    let default_kind = kind.is_none().then(|| {
        let (name, reason) = event_types::unnamed(&table);
        why.say("import.events.default_kind", reason);
        name.to_owned()
    });
    let map = ColumnMap {
        user: user.map(|user| user.name),
        item: item.name,
        session,
        time,
        time_unit,
        kind,
        default_kind,
        value,
        event_id,
        properties: Vec::new(),
    };
    let used: FxHashSet<&str> = map.columns().collect();
    let (fields, unused) = event_fields(&table, &used, why);
    note_unused(&unused, why);
    Ok((map, fields))
}

/// The columns that are not `used` and hold numbers, as fields of the events, and those that are left.
fn event_fields<'a>(
    table: &'a Table,
    used: &FxHashSet<&str>,
    why: &mut Why,
) -> (BTreeMap<String, FieldKind>, Vec<&'a str>) {
    let (mut fields, mut unused) = (BTreeMap::new(), Vec::new());
    for name in table.names().filter(|name| !used.contains(name)) {
        match table.profile(name).field_kind(name) {
            Some((FieldKind::Number, reason))
                if fields.len() < MAX_EVENT_FIELDS
                    && name != VALUE_NAME
                    && !columns::is_calendar(name) =>
            {
                why.say(&format!("event_fields.{name}"), reason);
                fields.insert(name.to_owned(), FieldKind::Number);
            }
            _ => unused.push(name),
        }
    }
    (fields, unused)
}

fn note_unused(unused: &[&str], why: &mut Why) {
    if !unused.is_empty() {
        let names = unused.join(", ");
        why.notes.push(format!("not imported, name them in properties to keep them: {names}"));
    }
}

/// The column of times and the unit of its numbers.
fn infer_time(table: &Table, path: &Path, why: &mut Why) -> Result<(String, TimeUnit), InferError> {
    let candidates = columns::all(&columns::TIME, table);
    let Some(first) = candidates.first() else {
        return Err(columns::missing(&columns::TIME, table, path));
    };
    let Some(time) = columns::find(&columns::TIME, table) else {
        let value = table.profile(&first.name).example().to_owned();
        return Err(InferError::NotATime { path: path.into(), column: first.name.clone(), value });
    };
    let (unit, reason) = table.profile(&time.name).time_unit();
    why.say("import.events.time", time.reason());
    why.say("import.events.time_unit", reason);
    Ok((time.name, unit))
}

/// How often event types occur, and how often the same user does the same again to the same item.
#[derive(Default)]
struct Counts {
    by_type: BTreeMap<String, Count>,
    n_events: usize,
    n_bad: usize,
    first_bad: Option<String>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    n: usize,
    n_repeats: usize,
}

impl Count {
    fn repeat_share(self) -> f64 {
        self.n_repeats as f64 / self.n.max(1) as f64
    }
}

impl Counts {
    fn of(path: &Path, format: Format, map: &ColumnMap) -> Result<Self, InferError> {
        let mut counts = Self::default();
        let mut seen = FxHashSet::default();
        for row in open_rows(path, format)?.take(COUNTED_EVENTS) {
            match row?.and_then(|row: Row| event_from_row(&row, map)) {
                Ok(event) => counts.push(&event, &mut seen),
                Err(bad) => {
                    counts.n_bad += 1;
                    counts.first_bad.get_or_insert_with(|| bad.to_string());
                }
            }
            if counts.by_type.len() > MAX_EVENT_TYPES {
                let column = map.kind.clone().unwrap_or_default();
                return Err(InferError::TooManyTypes { path: path.into(), column });
            }
        }
        match counts.first_bad.take() {
            Some(first) if counts.n_events == 0 => {
                Err(InferError::NoEvents { path: path.into(), first })
            }
            _ => Ok(counts),
        }
    }
}

impl Counts {
    fn push(&mut self, event: &NamedEvent, seen: &mut FxHashSet<u64>) {
        self.n_events += 1;
        let who = event.user.as_ref().or(event.session.as_ref());
        let mut hasher = FxHasher::default();
        (who, &event.item, &event.kind).hash(&mut hasher);
        if !self.by_type.contains_key(&*event.kind) {
            self.by_type.insert(event.kind.to_string(), Count::default());
        }
        let count = self.by_type.get_mut(&*event.kind).expect("it was put in just before");
        count.n += 1;
        count.n_repeats += usize::from(!seen.insert(hasher.finish()));
    }

    fn repeat_share(&self) -> f64 {
        let n_repeats: usize = self.by_type.values().map(|count| count.n_repeats).sum();
        n_repeats as f64 / self.n_events.max(1) as f64
    }

    /// The event types that count most, if the same user hardly ever does them to the same item again.
    fn hardly_repeated(&self, types: &BTreeMap<String, EventType>, why: &mut Why) -> Vec<String> {
        let most = types.values().map(|event_type| event_type.label).max().unwrap_or(0);
        let is_rare = |name: &&String| {
            most > 0
                && types[*name].label == most
                && self.by_type[*name].repeat_share() < RARE_REPEATS
        };
        let rare: Vec<String> = types.keys().filter(is_rare).cloned().collect();
        let shares: Vec<String> = rare
            .iter()
            .map(|name| format!("{} {name}", percent(self.by_type[name].repeat_share())))
            .collect();
        let reason = format!("the same again with the same item is rare: {}", shares.join(", "));
        why.say("scenarios.home.rerank.hide_seen", reason);
        rare
    }
}

fn infer_items(
    path: &Path,
    format: Format,
    event_item: &str,
    why: &mut Why,
) -> Result<ItemMap, InferError> {
    let table = Table::sample(path, format, SAMPLE_ROWS)?;
    let id = columns::need_id(&columns::ITEM, event_item, &table, path)?;
    why.say("import.items.id", id.reason());
    let mut find = |role: &Role, key: &str| {
        let column = columns::find(role, &table)?;
        why.say(&format!("import.items.{key}"), column.reason());
        Some(column.name)
    };
    let published_at = find(&columns::PUBLISHED_AT, "published_at");
    let expires_at = find(&columns::EXPIRES_AT, "expires_at");
    let hidden = find(&columns::HIDDEN, "hidden");
    let skipped = [Some(&id.name), hidden.as_ref()];
    let fields = infer_fields(&table, &skipped, "items", why);
    let separator = infer_separator(&table, &fields, "items", why);
    Ok(ItemMap { id: id.name, published_at, expires_at, hidden, separator, fields })
}

fn infer_users(
    path: &Path,
    format: Format,
    event_user: Option<&str>,
    why: &mut Why,
) -> Result<UserMap, InferError> {
    let table = Table::sample(path, format, SAMPLE_ROWS)?;
    let id = columns::need_id(&columns::USER, event_user.unwrap_or("user_id"), &table, path)?;
    why.say("import.users.id", id.reason());
    let fields = infer_fields(&table, &[Some(&id.name)], "users", why);
    let separator = infer_separator(&table, &fields, "users", why);
    Ok(UserMap { id: id.name, separator, fields })
}

fn infer_fields(
    table: &Table,
    skipped: &[Option<&String>],
    section: &str,
    why: &mut Why,
) -> BTreeMap<String, FieldKind> {
    let mut fields = BTreeMap::new();
    for name in table.names().filter(|name| !skipped.iter().flatten().any(|s| *s == name)) {
        let Some((kind, reason)) = table.profile(name).field_kind(name) else {
            why.notes.push(format!("{section}: {name} is left out, since it has no values"));
            continue;
        };
        why.say(&format!("{section}.fields.{name}"), reason);
        fields.insert(name.to_owned(), kind);
    }
    fields
}

fn infer_separator(
    table: &Table,
    fields: &BTreeMap<String, FieldKind>,
    section: &str,
    why: &mut Why,
) -> Option<char> {
    let is_list = |(name, kind): &(&String, &FieldKind)| {
        **kind == FieldKind::Category && table.profile(name).is_often_barred()
    };
    let (name, _) = fields.iter().find(is_list)?;
    why.say(&format!("import.{section}.separator"), format!("{name} has several values in one"));
    Some('|')
}
