//! Embeddings that were trained elsewhere, from NumPy or Parquet files.

mod npy;
mod parquet;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use featurestore::ids::MAX_ID_BYTES;

pub use npy::read_npy;
pub use parquet::read_parquet;

/// Longest vector that is accepted.
pub const MAX_DIM: usize = 4_096;

/// Most vectors that are accepted.
pub const MAX_ROWS: usize = 1 << 28;

/// Vectors by their string ids, in the order of the file: one at least, each id once, all vectors of one length and finite.
pub type NamedVectors = Vec<(String, Vec<f32>)>;

/// Why embeddings cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {flaw}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: FileFlaw,
    },
    /// One row cannot be used.
    #[error("{}, row {row}: {flaw}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Position of the row, from 0.
        row: usize,
        /// What is wrong with it.
        flaw: RowFlaw,
    },
}

/// What is wrong with a file of embeddings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileFlaw {
    /// It does not have the form of a NumPy array, or of one that is read here.
    #[error("not a two-dimensional NumPy array of little-endian f4 or f8 in C order: {0}")]
    Npy(&'static str),
    /// It ends too early or too late.
    #[error("its header says {expected} bytes, but it has {found}")]
    Length {
        /// Bytes that the header promises.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// There is not one id for each row.
    #[error("it has {n_rows} rows, but its file of ids has {n_ids} lines: each row needs one")]
    IdCount {
        /// Lines of the file of ids.
        n_ids: usize,
        /// Rows of the array.
        n_rows: usize,
    },
    /// It cannot be decoded as Parquet.
    #[error("not a valid Parquet file: {0}")]
    Parquet(String),
    /// It has no such column, or it is of another type.
    #[error("it has no column {name:?} of {wanted}; its columns are {columns:?}")]
    Column {
        /// The column asked for.
        name: String,
        /// The types that it may have.
        wanted: &'static str,
        /// The columns of the file.
        columns: Vec<String>,
    },
    /// It has no rows, or more or longer ones than are accepted.
    #[error("it must have 1 to {MAX_ROWS} rows of 1 to {MAX_DIM} values")]
    Size,
}

/// What is wrong with one row.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFlaw {
    /// Its id is missing, empty or too long.
    #[error("its id must have 1 to {MAX_ID_BYTES} bytes of UTF-8")]
    Id,
    /// Its id was there before.
    #[error("its id {0:?} was there before: leave one of the two out")]
    Repeated(String),
    /// Its vector, or a value of it, is missing.
    #[error("its vector or a value of it is missing: leave the row out if there is none")]
    Missing,
    /// Its vector has another length than that of the first row.
    #[error("its vector has {found} values, but the first one has {expected}: all must be as long")]
    Dim {
        /// Length of the first row.
        expected: usize,
        /// Length of this row.
        found: usize,
    },
    /// A value is NaN, infinite, or too large for single precision.
    #[error(
        "value {column} of the vector of {id:?} is {value}, and must be finite in single precision: leave the row out \
         if there is no vector"
    )]
    NotFinite {
        /// The row's id.
        id: String,
        /// Position of the value, from 0.
        column: usize,
        /// What it is, in words.
        value: String,
    },
}

/// Puts ids and vectors together, and checks them row by row.
struct Collector<'a> {
    path: &'a Path,
    rows: NamedVectors,
    names: HashSet<String>,
}

impl<'a> Collector<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, rows: Vec::new(), names: HashSet::new() }
    }

    fn push(&mut self, name: String, vector: Vec<f32>) -> Result<(), ImportError> {
        let row = self.rows.len();
        self.check(&name, &vector).map_err(|flaw| ImportError::Row {
            path: self.path.to_owned(),
            row,
            flaw,
        })?;
        self.names.insert(name.clone());
        self.rows.push((name, vector));
        Ok(())
    }

    /// The rows, of which there must be one at least.
    fn finish(self) -> Result<NamedVectors, ImportError> {
        if self.rows.is_empty() {
            return Err(file_error(self.path, FileFlaw::Size));
        }
        Ok(self.rows)
    }

    fn check(&self, name: &str, vector: &[f32]) -> Result<(), RowFlaw> {
        if name.is_empty() || name.len() > MAX_ID_BYTES {
            return Err(RowFlaw::Id);
        }
        if self.names.contains(name) {
            return Err(RowFlaw::Repeated(name.to_owned()));
        }
        let expected = self.rows.first().map_or(vector.len(), |(_, first)| first.len());
        if vector.len() != expected {
            return Err(RowFlaw::Dim { expected, found: vector.len() });
        }
        match vector.iter().position(|value| !value.is_finite()) {
            Some(column) => {
                let (id, value) = (name.to_owned(), vector[column].to_string());
                Err(RowFlaw::NotFinite { id, column, value })
            }
            None => Ok(()),
        }
    }
}

fn read_error(path: &Path, source: io::Error) -> ImportError {
    ImportError::Read { path: path.to_owned(), source }
}

fn file_error(path: &Path, flaw: FileFlaw) -> ImportError {
    ImportError::File { path: path.to_owned(), flaw }
}
