//! Files of JSON Lines from which lines can be taken, also while others append to them.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

/// Whether `line` was overwritten, or the part of it that was there then.
pub(crate) fn is_blank(line: &[u8]) -> bool {
    line.first().is_none_or(u8::is_ascii_whitespace)
}

/// Whether a line, which may be torn, has `name` in it.
pub fn contains(line: &[u8], name: &[u8]) -> bool {
    !name.is_empty() && line.windows(name.len()).any(|part| part == name)
}

/// Overwrites the lines of the file at `path` of which `is_gone` says so with blanks, in their places; returns how many there
/// were. A reader passes over lines that are blank or begin so: one that was being written meanwhile may have gone on. A file
/// that is not there has none.
///
/// # Errors
/// If the file cannot be read or written. Some of the lines may be gone then.
pub fn blank_lines(path: &Path, mut is_gone: impl FnMut(&[u8]) -> bool) -> io::Result<usize> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let (mut writer, mut reader) = (file.try_clone()?, BufReader::new(file));
    let (mut gone, mut line, mut start) = (Vec::new(), Vec::new(), 0);
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line)?;
        if n == 0 {
            break;
        }
        let text = line.trim_ascii();
        if !text.is_empty() && is_gone(text) {
            gone.push((start, line.trim_ascii_end().len()));
        }
        start += n as u64;
    }
    for (start, length) in &gone {
        writer.seek(SeekFrom::Start(*start))?;
        writer.write_all(&vec![b' '; *length])?;
    }
    writer.sync_all()?;
    Ok(gone.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_out_and_nothing_else_moves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        assert_eq!(blank_lines(&path, |_| true).unwrap(), 0);
        std::fs::write(&path, "keep 1\ngo 1\nkeep 2\n\ngo, torn").unwrap();
        // Another one has it open, and goes on.
        let mut appender = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(blank_lines(&path, |line| line.starts_with(b"go")).unwrap(), 2);
        appender.write_all(b"\nkeep 3\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "keep 1\n    \nkeep 2\n\n        \nkeep 3\n");
        assert_eq!(blank_lines(&path, |line| line.starts_with(b"go")).unwrap(), 0);
    }
}
