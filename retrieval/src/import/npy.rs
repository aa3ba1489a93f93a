//! NumPy's own format: a text header, then the values.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use super::{
    Collector, FileFlaw, ImportError, MAX_DIM, MAX_ROWS, NamedVectors, file_error, read_error,
};

/// Longest header that is accepted; NumPy writes 118 bytes for two dimensions.
const MAX_HEADER_BYTES: usize = 4_096;

/// Reads vectors from the `.npy` file `vectors`: two-dimensional, little-endian f4 or f8, in C order. The text file `ids` has the
/// id of each row, one a line.
///
/// # Errors
/// If a file cannot be read, the array is of another form, or a row has no valid id of its own or a value that is not finite.
pub fn read_npy(vectors: &Path, ids: &Path) -> Result<NamedVectors, ImportError> {
    let file = File::open(vectors).map_err(|source| read_error(vectors, source))?;
    let n_bytes = file.metadata().map_err(|source| read_error(vectors, source))?.len();
    let mut file = BufReader::new(file);
    let header = Header::read(&mut file).map_err(|flaw| file_error(vectors, flaw))?;
    let row_bytes = header.dim * header.value_bytes;
    let expected = header.n_bytes + (header.n_rows * row_bytes) as u64;
    if n_bytes != expected {
        return Err(file_error(vectors, FileFlaw::Length { expected, found: n_bytes }));
    }
    let ids = fs::read_to_string(ids).map_err(|source| read_error(ids, source))?;
    let n_ids = ids.lines().count();
    if n_ids != header.n_rows {
        return Err(file_error(vectors, FileFlaw::IdCount { n_ids, n_rows: header.n_rows }));
    }
    let mut rows = Collector::new(vectors);
    let mut bytes = vec![0; row_bytes];
    for id in ids.lines() {
        file.read_exact(&mut bytes).map_err(|source| read_error(vectors, source))?;
        rows.push(id.to_owned(), header.values(&bytes))?;
    }
    rows.finish()
}

/// What precedes the values.
struct Header {
    /// Where the values begin.
    n_bytes: u64,
    n_rows: usize,
    dim: usize,
    /// 4 or 8.
    value_bytes: usize,
}

impl Header {
    fn read(file: &mut impl Read) -> Result<Self, FileFlaw> {
        let mut start = [0; 8];
        file.read_exact(&mut start).map_err(|_| FileFlaw::Npy("it is too short"))?;
        if &start[..6] != b"\x93NUMPY" {
            return Err(FileFlaw::Npy("it does not start with \\x93NUMPY"));
        }
        // Version 1 has a length of two bytes; 2 and 3 have four.
        let mut length = [0; 4];
        let n_length_bytes = if start[6] == 1 { 2 } else { 4 };
        file.read_exact(&mut length[..n_length_bytes])
            .map_err(|_| FileFlaw::Npy("it is too short"))?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEADER_BYTES {
            return Err(FileFlaw::Npy("its header is too long"));
        }
        let mut text = vec![0; length];
        file.read_exact(&mut text).map_err(|_| FileFlaw::Npy("it is too short"))?;
        let text = str::from_utf8(&text).map_err(|_| FileFlaw::Npy("its header is not text"))?;
        Self::parse(text, (start.len() + n_length_bytes + length) as u64)
    }

    fn parse(text: &str, n_bytes: u64) -> Result<Self, FileFlaw> {
        let value_bytes = match value_of(text, "descr").and_then(quoted) {
            Some("<f4") => 4,
            Some("<f8") => 8,
            _ => return Err(FileFlaw::Npy("its descr is neither '<f4' nor '<f8'")),
        };
        if !value_of(text, "fortran_order").is_some_and(|value| value.starts_with("False")) {
            return Err(FileFlaw::Npy("its fortran_order is not False"));
        }
        let shape = value_of(text, "shape").and_then(two_numbers);
        let (n_rows, dim) = shape.ok_or(FileFlaw::Npy("its shape does not have two dimensions"))?;
        if n_rows > MAX_ROWS || !(1..=MAX_DIM).contains(&dim) {
            return Err(FileFlaw::Size);
        }
        Ok(Self { n_bytes, n_rows, dim, value_bytes })
    }

    fn values(&self, bytes: &[u8]) -> Vec<f32> {
        match self.value_bytes {
            4 => bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
            _ => {
                bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value) as f32).collect()
            }
        }
    }
}

/// What follows `'key':` in the header.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("'{key}'"))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

fn quoted(value: &str) -> Option<&str> {
    Some(value.strip_prefix('\'')?.split_once('\'')?.0)
}

/// The numbers of `(a, b)`.
fn two_numbers(value: &str) -> Option<(usize, usize)> {
    let (inside, _) = value.strip_prefix('(')?.split_once(')')?;
    let (a, b) = inside.split_once(',')?;
    Some((a.trim().parse().ok()?, b.trim().parse().ok()?))
}
