//! Files into the log: all of their rows but the bad ones, or nothing.

use std::path::{Path, PathBuf};

use super::{
    BadRow, ColumnMap, Format, ItemMap, ReadError, Row, Rows, UserMap, event_from_row,
    item_from_row, movielens, open_rows, user_from_row,
};
use crate::log::{AppendError, EventLog, Outcome, Record, Staged};

/// How many bad rows are listed; the others are counted.
pub const MAX_BAD_LISTED: usize = 20;

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Events.
    Events(ColumnMap),
    /// Items.
    Items(ItemMap),
    /// Users.
    Users(UserMap),
    /// Any of the files of the MovieLens data sets, told by its content.
    MovieLens,
}

/// A file to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it is.
    pub path: PathBuf,
    /// How it is written; not looked at for MovieLens.
    pub format: Format,
    /// What it holds.
    pub content: Content,
}

/// How files are imported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Import {
    /// The largest share of a file's rows that may be bad, in `[0, 1]`.
    pub max_bad: f64,
}

impl Default for Import {
    /// One bad row in a hundred.
    fn default() -> Self {
        Self { max_bad: 0.01 }
    }
}

/// What was imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rows in the files, without headers.
    pub n_rows: usize,
    /// Rows that are in the log now.
    pub n_accepted: usize,
    /// Events whose id was seen before.
    pub n_duplicate: usize,
    /// Rows that were left out.
    pub n_bad: usize,
    /// The first [`MAX_BAD_LISTED`] of them.
    pub bad: Vec<BadRow>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file has too many bad rows.
    #[error(
        "{} has {n_bad} bad rows of {n_rows}, more than {}%; nothing was imported:{}",
        path.display(), max_bad * 100.0, listed(bad, *n_bad)
    )]
    TooManyBad {
        /// The file.
        path: PathBuf,
        /// How many rows are bad.
        n_bad: usize,
        /// How many rows it has.
        n_rows: usize,
        /// The share that may be bad.
        max_bad: f64,
        /// The first [`MAX_BAD_LISTED`] of them.
        bad: Vec<BadRow>,
    },
    /// The log cannot be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

fn listed(bad: &[BadRow], n_bad: usize) -> String {
    let mut text: String = bad.iter().map(|row| format!("\n  {row}")).collect();
    if n_bad > bad.len() {
        text.push_str(&format!("\n  and {} more", n_bad - bad.len()));
    }
    text
}

impl Import {
    /// Appends the rows of `inputs` to `log`, in their order; all files or nothing, also after a crash. Cost: one pass over
    /// the files and one write of as many bytes beside the log; memory of a few rows.
    ///
    /// # Errors
    /// If a file cannot be read, has no rows, lacks a column, or has too many bad rows; or if the log cannot be written.
    pub fn run(&self, inputs: &[Input], log: &mut EventLog) -> Result<Imported, ImportError> {
        let mut staged = log.stage()?;
        let mut total = Imported::default();
        for input in inputs {
            let counts = stage_file(input, &mut staged)?;
            self.judge(&input.path, &counts)?;
            total.add(counts);
        }
        staged.commit()?;
        Ok(total)
    }

    fn judge(&self, path: &Path, counts: &Imported) -> Result<(), ImportError> {
        let Imported { n_rows, n_bad, .. } = *counts;
        let path = path.to_path_buf();
        if n_rows == 0 {
            return Err(ReadError::NoRows { path }.into());
        }
        if n_bad as f64 > self.max_bad * n_rows as f64 {
            let (max_bad, bad) = (self.max_bad, counts.bad.clone());
            return Err(ImportError::TooManyBad { path, n_bad, n_rows, max_bad, bad });
        }
        Ok(())
    }
}

impl Imported {
    fn add(&mut self, other: Self) {
        self.n_rows += other.n_rows;
        self.n_accepted += other.n_accepted;
        self.n_duplicate += other.n_duplicate;
        self.n_bad += other.n_bad;
        let room = MAX_BAD_LISTED - self.bad.len();
        self.bad.extend(other.bad.into_iter().take(room));
    }

    fn push(
        &mut self,
        record: Result<Record, BadRow>,
        staged: &mut Staged,
    ) -> Result<(), AppendError> {
        self.n_rows += 1;
        match record {
            Ok(record) => match staged.push(&record)? {
                Outcome::Accepted => self.n_accepted += 1,
                Outcome::Duplicate => self.n_duplicate += 1,
            },
            Err(bad) => {
                self.n_bad += 1;
                if self.bad.len() < MAX_BAD_LISTED {
                    self.bad.push(bad);
                }
            }
        }
        Ok(())
    }
}

fn stage_file(input: &Input, staged: &mut Staged) -> Result<Imported, ImportError> {
    let mut counts = Imported::default();
    if input.content == Content::MovieLens {
        for record in movielens::open(&input.path)? {
            counts.push(record?, staged)?;
        }
        return Ok(counts);
    }
    let rows = open_rows(&input.path, input.format)?;
    check_columns(input, &rows)?;
    for row in rows {
        counts.push(row?.and_then(|row| record(&row, &input.content)), staged)?;
    }
    Ok(counts)
}

/// That the columns that are asked for are there, if all rows have the same.
fn check_columns(input: &Input, rows: &Rows) -> Result<(), ReadError> {
    let Some(columns) = rows.columns() else { return Ok(()) };
    let mut wanted: Box<dyn Iterator<Item = &str>> = match &input.content {
        Content::Events(map) => Box::new(map.columns()),
        Content::Items(map) => Box::new(map.columns()),
        Content::Users(map) => Box::new(map.columns()),
        Content::MovieLens => return Ok(()),
    };
    match wanted.find(|name| columns.iter().all(|column| *column.name != **name)) {
        None => Ok(()),
        Some(missing) => Err(ReadError::NoColumn {
            path: input.path.clone(),
            column: missing.into(),
            columns: columns.iter().map(|column| column.name.to_string()).collect(),
        }),
    }
}

fn record(row: &Row, content: &Content) -> Result<Record, BadRow> {
    match content {
        Content::Events(map) => event_from_row(row, map).map(Record::Event),
        Content::Items(map) => item_from_row(row, map).map(Record::Item),
        Content::Users(map) => user_from_row(row, map).map(Record::User),
        Content::MovieLens => unreachable!("MovieLens files have readers of their own"),
    }
}
