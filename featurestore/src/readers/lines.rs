//! A text file as lines, with a limit on their length.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compression::Input;
use super::{BadRow, MAX_ROW_BYTES, ReadError};

/// A line without its end.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: u64,
    /// `None` if it is longer than a row may be.
    pub(super) bytes: Option<Vec<u8>>,
}

/// The lines of a file.
pub(super) struct Lines {
    path: PathBuf,
    file: Arc<str>,
    input: Input,
    n_read: u64,
    /// Lines that were read and given back.
    ahead: VecDeque<Line>,
}

impl Lines {
    /// The lines of `input`, the content of `path`. A byte order mark is skipped.
    pub(super) fn new(path: &Path, input: Input) -> Self {
        let file = path.display().to_string().into();
        Self { path: path.into(), file, input, n_read: 0, ahead: VecDeque::new() }
    }

    /// The file, as it was named.
    pub(super) fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// The next line.
    pub(super) fn next(&mut self) -> Result<Option<Line>, ReadError> {
        if let Some(line) = self.ahead.pop_front() {
            return Ok(Some(line));
        }
        self.read().map_err(|source| ReadError::Read { path: self.path.clone(), source })
    }

    /// Lets `lines` come again, before all others.
    pub(super) fn give_back(&mut self, lines: Vec<Line>) {
        for line in lines.into_iter().rev() {
            self.ahead.push_front(line);
        }
    }

    fn read(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        self.input.by_ref().take(MAX_ROW_BYTES as u64 + 1).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.n_read += 1;
        let number = self.n_read;
        let is_whole = bytes.last() == Some(&b'\n') || bytes.len() <= MAX_ROW_BYTES;
        if !is_whole {
            skip_line(&mut self.input)?;
            return Ok(Some(Line { number, bytes: None }));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        if number == 1 && bytes.starts_with(b"\xEF\xBB\xBF") {
            bytes.drain(..3);
        }
        Ok(Some(Line { number, bytes: Some(bytes) }))
    }

    /// That the line `number` is a bad row.
    pub(super) fn bad(&self, number: u64, reason: impl Into<String>) -> BadRow {
        let (file, reason) = (self.file.to_string(), reason.into());
        BadRow { file, line: number, column: None, value: None, reason }
    }
}

fn skip_line(input: &mut Input) -> io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        let (n, is_end) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(i) => (i + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        input.consume(n);
        if is_end {
            return Ok(());
        }
    }
}
