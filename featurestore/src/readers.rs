//! Data files as rows, and rows as records of the log.
//!
//! CSV, JSON Lines and Parquet, each also compressed by gzip or zstd, told apart by content. A row that cannot be read is a
//! [`BadRow`] with its place; the rows after it are read. A file that cannot be read on is a [`ReadError`].

mod compression;
mod csv;
mod import;
mod jsonl;
mod lines;
mod mapping;
pub mod movielens;
mod parquet;

pub use import::{Content, Import, ImportError, Imported, Input, MAX_BAD_LISTED};
pub use mapping::{
    ColumnMap, ImportMaps, ItemMap, TimeUnit, UserMap, event_from_row, field_value, id_text,
    item_from_row, user_from_row,
};
pub(crate) use mapping::{printed, time_value};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::schema::nearest_name;
use crate::value::Value;

/// Longest row of a text file, in bytes.
pub const MAX_ROW_BYTES: usize = 1 << 20;

/// How a file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Told by its content.
    #[default]
    Auto,
    /// A header, then rows; separated by comma, semicolon, tab or `|`.
    Csv,
    /// One JSON object a line.
    JsonL,
    /// Apache Parquet.
    Parquet,
}

impl FromStr for Format {
    type Err = ParseFormatError;

    fn from_str(text: &str) -> Result<Self, ParseFormatError> {
        match text {
            "auto" => Ok(Self::Auto),
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::JsonL),
            "parquet" => Ok(Self::Parquet),
            _ => Err(ParseFormatError { text: text.into() }),
        }
    }
}

/// Text that is not a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a format: auto, csv, jsonl or parquet")]
pub struct ParseFormatError {
    text: String,
}

/// A column of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name; of a nested field, the names on the way to it, joined by dots.
    pub name: Box<str>,
    /// Its numbers are milliseconds since 1970, whatever the file's own unit is. Parquet says so of its times.
    pub is_time: bool,
}

/// A row of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Line in the file, or row in a Parquet file, from 1.
    pub line: u64,
    /// Names of the values.
    pub columns: Arc<[Column]>,
    /// A value for each column; `Null` where there is none.
    pub values: Vec<Value>,
}

impl Row {
    /// The value called `column`, if the row has one.
    pub fn get(&self, column: &str) -> Option<&Value> {
        self.column(column).map(|(_, value)| value)
    }

    fn column(&self, name: &str) -> Option<(&Column, &Value)> {
        let i = self.columns.iter().position(|column| *column.name == *name)?;
        let value = self.values.get(i).filter(|value| **value != Value::Null)?;
        Some((&self.columns[i], value))
    }

    /// That `value`, called `column`, makes the row a bad one.
    pub fn bad(&self, column: &str, value: Option<&Value>, reason: impl Into<String>) -> BadRow {
        BadRow {
            file: self.file.to_string(),
            line: self.line,
            column: Some(column.into()),
            value: value.map(mapping::printed),
            reason: reason.into(),
        }
    }
}

/// A row that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadRow {
    /// The file, as it was named.
    pub file: String,
    /// Line in the file, or row in a Parquet file, from 1.
    pub line: u64,
    /// The column, if it is one.
    pub column: Option<String>,
    /// The beginning of the value, if there is one.
    pub value: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        if let Some(column) = &self.column {
            write!(f, ", column {column}")?;
        }
        f.write_str(": ")?;
        if let Some(value) = &self.value {
            write!(f, "{value:?} ")?;
        }
        f.write_str(&self.reason)
    }
}

/// Why a file cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused, or a compressed file is damaged.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("{} has no rows", path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// Its first line cannot be a header.
    #[error("{} has no usable header: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is not what it should be.
    #[error("{} cannot be read as {format}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it was taken for.
        format: &'static str,
        /// Why it is none.
        reason: String,
    },
    /// A column that is needed is not there.
    #[error("{} has no column {column:?}{}; its columns are: {}", path.display(), nearest(column, columns), columns.join(", "))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Those that it has.
        columns: Vec<String>,
    },
}

fn nearest(column: &str, columns: &[String]) -> String {
    let nearest = nearest_name(column, columns.iter().map(String::as_str));
    nearest.map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

/// The rows of a file, in its order. A `ReadError` is the last thing that comes.
pub struct Rows {
    kind: Kind,
    has_failed: bool,
}

enum Kind {
    Csv(csv::CsvRows),
    JsonL(jsonl::JsonRows),
    Parquet(Box<parquet::ParquetRows>),
}

/// Opens `path`, compressed or not. Cost: memory of a few rows, or of one batch of them for Parquet.
///
/// # Errors
/// If it cannot be read, is not of its format, or has no usable header.
pub fn open_rows(path: &Path, format: Format) -> Result<Rows, ReadError> {
    let mut input = compression::open(path)?;
    let format = match format {
        Format::Auto => detect(path, &mut input)?,
        format => format,
    };
    let kind = match format {
        Format::JsonL => Kind::JsonL(jsonl::JsonRows::new(path, input)),
        Format::Parquet => Kind::Parquet(Box::new(parquet::ParquetRows::open(path)?)),
        Format::Auto | Format::Csv => Kind::Csv(csv::CsvRows::new(path, input)?),
    };
    Ok(Rows { kind, has_failed: false })
}

/// The format of `input` by its first bytes.
fn detect(path: &Path, input: &mut compression::Input) -> Result<Format, ReadError> {
    let start = input.fill_buf().map_err(|source| ReadError::Read { path: path.into(), source })?;
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    let format = |name, reason: &str| ReadError::Format {
        path: path.into(),
        format: name,
        reason: reason.into(),
    };
    match (start, first) {
        (_, None) => Err(ReadError::NoRows { path: path.into() }),
        ([b'P', b'A', b'R', b'1', ..], _) => Ok(Format::Parquet),
        ([0xFF, 0xFE, ..] | [0xFE, 0xFF, ..], _) => {
            Err(format("text", "it is UTF-16, save it as UTF-8"))
        }
        (_, Some(b'{')) => Ok(Format::JsonL),
        (_, Some(b'[')) => {
            Err(format("JSON Lines", "it is one JSON array, write one object a line"))
        }
        _ => Ok(Format::Csv),
    }
}

impl Rows {
    /// The columns of every row; `None` if each row has its own, as in JSON Lines.
    pub fn columns(&self) -> Option<&[Column]> {
        match &self.kind {
            Kind::Csv(rows) => Some(rows.columns()),
            Kind::Parquet(rows) => Some(rows.columns()),
            Kind::JsonL(_) => None,
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Result<Row, BadRow>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let row = match &mut self.kind {
            Kind::Csv(rows) => rows.next_row(),
            Kind::JsonL(rows) => rows.next_row(),
            Kind::Parquet(rows) => rows.next_row(),
        };
        self.has_failed = row.is_err();
        row.transpose()
    }
}
