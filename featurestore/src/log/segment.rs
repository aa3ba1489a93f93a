//! The files of a log: their names, and what each begins with.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::ScanError;

/// What every segment begins with: a name, then the version of the format.
const HEADER: [u8; HEADER_BYTES as usize] = *b"CASCLOG\0\x01\0\0\0";
/// Bytes before the first record.
pub(super) const HEADER_BYTES: u64 = 12;
const MAGIC_BYTES: usize = 8;

/// The path of segment `number` in the log at `dir`.
pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// The bytes of an empty segment.
pub(super) fn header() -> &'static [u8] {
    &HEADER
}

/// Whether `file` holds less than a header, as a crash right after its creation leaves it.
pub(super) fn is_unfinished(file: &mut File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.take(HEADER_BYTES).read_to_end(&mut start)?;
    Ok(start.len() < HEADER.len() && HEADER.starts_with(&start))
}

/// Reads the header of `file`, which lies at `path`.
///
/// # Errors
/// If it is not that of a log, or of another version of the format.
pub(super) fn check_header(file: &mut File, path: &Path) -> Result<(), ScanError> {
    let mut start = Vec::new();
    let read = file.take(HEADER_BYTES).read_to_end(&mut start);
    read.map_err(|source| ScanError::Read { path: path.into(), source })?;
    if start == HEADER {
        return Ok(());
    }
    match start.split_first_chunk::<MAGIC_BYTES>() {
        Some((magic, version)) if magic[..] == HEADER[..MAGIC_BYTES] && version.len() == 4 => {
            let found = version.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte));
            Err(ScanError::Version { path: path.into(), found })
        }
        _ => Err(ScanError::NotALog { path: path.into() }),
    }
}

/// Number of the last segment at `dir`; `None` if there is no segment.
///
/// # Errors
/// If the folder cannot be read, or a segment between is missing.
pub(super) fn last(dir: &Path) -> Result<Option<u32>, ScanError> {
    let error = |source| ScanError::Read { path: dir.into(), source };
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
        numbers.extend(number.and_then(|digits| digits.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    match (0..).zip(&numbers).find(|(expected, found)| expected != *found) {
        Some((missing, _)) => Err(ScanError::Missing { path: path(dir, missing) }),
        None => Ok(numbers.last().copied()),
    }
}
