//! The files of the MovieLens data sets, told by their content: `ratings.csv` and `movies.csv` (ml-latest, ml-20m, ml-25m, ml-32m), and
//! `u.data`, `u.item` and `u.user` (ml-100k).
//!
//! A rating of [`LIKED`] or more is an event of type [`LIKE`], a lower one of type [`RATE`]; its value is the rating.

use std::path::Path;

use super::compression::{self, Input};
use super::csv::CsvRows;
use super::lines::Lines;
use super::{BadRow, ColumnMap, ReadError, Row, event_from_row, id_text};
use crate::event::NamedEvent;
use crate::log::{ItemRecord, Record, UserRecord};
use crate::schema::{EventType, FieldKind, Schema};
use crate::time::Timestamp;
use crate::value::{Fields, Value};

/// Ratings from this on say that the user likes the item.
pub const LIKED: f64 = 4.0;
/// The event type of ratings from [`LIKED`] on.
pub const LIKE: &str = "like";
/// The event type of ratings below [`LIKED`].
pub const RATE: &str = "rate";

/// The columns behind the five first of `u.item`, from its `u.genre`.
const GENRES: [&str; 19] = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
];
const N_ITEM_COLUMNS: usize = 5 + GENRES.len();
const N_USER_COLUMNS: usize = 5;
const N_RATING_COLUMNS: usize = 4;

/// What the records mean. That somebody rated an item at all says that it was watched.
pub fn schema() -> Schema {
    let event_type = |weight, label| EventType { weight, label };
    let fields = |fields: &[(&str, FieldKind)]| {
        fields.iter().map(|(name, kind)| (name.to_string(), *kind)).collect()
    };
    Schema {
        events: [(LIKE, event_type(1.0, 1)), (RATE, event_type(0.25, 0))]
            .map(|(name, event_type)| (name.to_owned(), event_type))
            .into(),
        item_fields: fields(&[
            ("title", FieldKind::Text),
            ("year", FieldKind::Number),
            ("genres", FieldKind::Category),
        ]),
        user_fields: fields(&[
            ("age", FieldKind::Number),
            ("gender", FieldKind::Category),
            ("occupation", FieldKind::Category),
        ]),
        ..Schema::default()
    }
}

/// The records of one file, in its order. A `ReadError` is the last thing that comes.
pub struct MovieLens {
    rows: Rows,
    has_failed: bool,
}

enum Rows {
    Ratings(CsvRows, Box<ColumnMap>),
    Movies(CsvRows),
    Plain(Lines, Table),
}

/// A table without a header.
#[derive(Clone, Copy)]
enum Table {
    Data,
    Item,
    User,
}

impl Table {
    /// The table whose rows look like `line`.
    fn of(line: &[u8]) -> Option<Self> {
        let n_columns = |separator| line.split(|byte| *byte == separator).count();
        if n_columns(b'\t') == N_RATING_COLUMNS {
            return Some(Self::Data);
        }
        match n_columns(b'|') {
            N_ITEM_COLUMNS => Some(Self::Item),
            N_USER_COLUMNS => Some(Self::User),
            _ => None,
        }
    }

    fn separator(self) -> char {
        match self {
            Self::Data => '\t',
            Self::Item | Self::User => '|',
        }
    }

    fn n_columns(self) -> usize {
        match self {
            Self::Data => N_RATING_COLUMNS,
            Self::Item => N_ITEM_COLUMNS,
            Self::User => N_USER_COLUMNS,
        }
    }
}

/// Opens `path`, compressed or not.
///
/// # Errors
/// If it cannot be read, or is none of the files.
pub fn open(path: &Path) -> Result<MovieLens, ReadError> {
    let input = compression::open(path)?;
    let rows = match first_line(path)? {
        line if line.starts_with(b"userId,movieId,rating,timestamp") => {
            Rows::Ratings(CsvRows::new(path, input)?, rating_columns())
        }
        line if line.starts_with(b"movieId,title,genres") => {
            Rows::Movies(CsvRows::new(path, input)?)
        }
        line => Rows::Plain(Lines::new(path, input), table(path, &line)?),
    };
    Ok(MovieLens { rows, has_failed: false })
}

fn first_line(path: &Path) -> Result<Vec<u8>, ReadError> {
    let input: Input = compression::open(path)?;
    let line = Lines::new(path, input).next()?.and_then(|line| line.bytes);
    line.ok_or_else(|| ReadError::NoRows { path: path.into() })
}

fn table(path: &Path, line: &[u8]) -> Result<Table, ReadError> {
    Table::of(line).ok_or_else(|| ReadError::Format {
        path: path.into(),
        format: "MovieLens",
        reason: "it is none of ratings.csv, movies.csv, u.data, u.item and u.user".into(),
    })
}

fn rating_columns() -> Box<ColumnMap> {
    Box::new(ColumnMap {
        user: Some("userId".into()),
        item: "movieId".into(),
        time: "timestamp".into(),
        value: Some("rating".into()),
        default_kind: Some(RATE.into()),
        ..ColumnMap::default()
    })
}

impl Iterator for MovieLens {
    type Item = Result<Result<Record, BadRow>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let record = match &mut self.rows {
            Rows::Ratings(rows, map) => {
                let row = rows.next_row();
                row.map(|row| row.map(|row| row.and_then(|row| rating(&row, map))))
            }
            Rows::Movies(rows) => {
                rows.next_row().map(|row| row.map(|row| row.and_then(|row| movie(&row))))
            }
            Rows::Plain(lines, table) => next_plain(lines, *table),
        };
        self.has_failed = record.is_err();
        record.transpose()
    }
}

fn rating(row: &Row, map: &ColumnMap) -> Result<Record, BadRow> {
    event_from_row(row, map).map(by_liking)
}

fn by_liking(event: NamedEvent) -> Record {
    let is_liked = event.value.is_some_and(|value| value >= LIKED);
    Record::Event(NamedEvent { kind: if is_liked { LIKE } else { RATE }.into(), ..event })
}

fn movie(row: &Row) -> Result<Record, BadRow> {
    let id = row.get("movieId").ok_or_else(|| row.bad("movieId", None, "is missing"))?;
    let id = id_text(id).map_err(|reason| row.bad("movieId", Some(id), reason))?;
    let text = |column| match row.get(column) {
        Some(Value::Text(text)) => &**text,
        _ => "",
    };
    let genres = text("genres").split('|').filter(|genre| *genre != "(no genres listed)");
    let title = text("title");
    let year = title.trim_end().strip_suffix(')').and_then(|title| title.rsplit('(').next());
    Ok(item(id, title, year, genres))
}

fn item<'a>(
    id: Box<str>,
    title: &str,
    year: Option<&str>,
    genres: impl Iterator<Item = &'a str>,
) -> Record {
    let genres: Vec<Box<str>> = genres.filter(|g| !g.is_empty()).map(Box::from).collect();
    // Some titles end in the years of a series, as in (1994-1998): its first year counts.
    let year = year.and_then(|year| year.get(..4)?.parse::<u16>().ok());
    let mut fields = Fields::new();
    if !title.is_empty() {
        fields.insert("title".into(), Value::Text(title.into()));
    }
    if let Some(year) = year {
        fields.insert("year".into(), Value::Number(f64::from(year)));
    }
    if !genres.is_empty() {
        fields.insert("genres".into(), Value::Texts(genres));
    }
    Record::Item(ItemRecord { id, fields, ..ItemRecord::default() })
}

fn next_plain(
    lines: &mut Lines,
    table: Table,
) -> Result<Option<Result<Record, BadRow>>, ReadError> {
    while let Some(line) = lines.next()? {
        let bytes = line.bytes.unwrap_or_default();
        if !bytes.trim_ascii().is_empty() {
            // The files are in Latin-1, in which each byte is the character of its number.
            let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
            let record = plain_record(&text, table);
            return Ok(Some(record.map_err(|reason| lines.bad(line.number, reason))));
        }
    }
    Ok(None)
}

fn plain_record(line: &str, table: Table) -> Result<Record, String> {
    let columns: Vec<&str> = line.split(table.separator()).map(str::trim).collect();
    let (n, expected) = (columns.len(), table.n_columns());
    if n != expected {
        return Err(format!("the row has {n} fields, it should have {expected}"));
    }
    match table {
        Table::Data => plain_rating(&columns),
        Table::Item => plain_item(&columns),
        Table::User => plain_user(&columns),
    }
}

fn id(text: &str) -> Result<Box<str>, String> {
    let value = Value::Text(text.into());
    id_text(&value).map_err(|reason| format!("{text:?} {reason}"))
}

fn plain_rating(columns: &[&str]) -> Result<Record, String> {
    let rating: f64 = columns[2].parse().map_err(|_| format!("{:?} is no rating", columns[2]))?;
    if !rating.is_finite() {
        return Err(format!("{:?} is no rating", columns[2]));
    }
    let seconds: f64 = columns[3].parse().map_err(|_| format!("{:?} is no time", columns[3]))?;
    let time = Timestamp::from_number(seconds);
    Ok(by_liking(NamedEvent {
        user: Some(id(columns[0])?),
        item: id(columns[1])?,
        value: Some(rating),
        time: time.ok_or_else(|| format!("{:?} is no time", columns[3]))?,
        ..NamedEvent::default()
    }))
}

fn plain_item(columns: &[&str]) -> Result<Record, String> {
    let flags = columns[5..].iter().zip(GENRES);
    let genres = flags.filter(|(flag, genre)| **flag == "1" && *genre != "unknown");
    // A release date as in 01-Jan-1995.
    let year = columns[2].rsplit('-').next();
    Ok(item(id(columns[0])?, columns[1], year, genres.map(|(_, genre)| genre)))
}

fn plain_user(columns: &[&str]) -> Result<Record, String> {
    let age: f64 = columns[1].parse().map_err(|_| format!("{:?} is no age", columns[1]))?;
    let text = |text: &str| Value::Text(text.into());
    let fields = Fields::from([
        ("age".into(), Value::Number(age)),
        ("gender".into(), text(columns[2])),
        ("occupation".into(), text(columns[3])),
    ]);
    Ok(Record::User(UserRecord { id: id(columns[0])?, fields }))
}
