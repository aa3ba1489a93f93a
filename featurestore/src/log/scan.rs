//! Reading a log from a position on.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::frame::{Broken, Frames, Step};
use super::{Position, Record, segment};
use crate::handover::hand_over;

/// Why a log cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The operating system refused.
    #[error("cannot read the event log {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A segment between others, or before them, is not there.
    #[error("the event log's segment {} is missing: restore it from a copy", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A segment does not begin as one.
    #[error("{} is not a segment of an event log: restore it from a copy", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// The segment was written in a format that this version does not know.
    #[error("{} has format version {found}, this program reads version 1", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A record is damaged, and it is not the end of the log.
    #[error(
        "the event log {} is damaged at byte {offset}: {reason}. Restore the file from a copy, or give up what follows \
         in it with: truncate --size={offset} {}", path.display(), path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged record starts, in bytes.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such position: the log is shorter, or another one.
    #[error("the event log {} has no byte {}", path.display(), position.offset)]
    Beyond {
        /// The segment.
        path: PathBuf,
        /// The position asked for.
        position: Position,
    },
}

/// The records of a log from a position on, in its order. It ends at the last complete record; after an error there is
/// nothing more. Cost: one sequential read, in memory of at most one record.
pub struct Records {
    dir: PathBuf,
    segment: u32,
    frames: Frames,
    payload: Vec<u8>,
    /// Up to here, which is where a writer stands; a reader without the lock goes as far as there are records.
    until: Option<Position>,
    /// A tail that is no complete record, in bytes.
    n_torn_bytes: u64,
    is_done: bool,
}

impl Records {
    /// Reads the log at `dir` from `from`, up to `until` or the last complete record.
    ///
    /// # Errors
    /// If the segment cannot be read, or does not reach to `from`.
    pub(super) fn open(
        dir: &Path,
        from: Position,
        until: Option<Position>,
    ) -> Result<Self, ScanError> {
        let frames = open_segment(dir, from, until)?;
        let (dir, segment) = (dir.into(), from.segment);
        let payload = Vec::new();
        Ok(Self { dir, segment, frames, payload, until, n_torn_bytes: 0, is_done: false })
    }

    /// The place after the last record that was returned.
    pub fn reached(&self) -> Position {
        Position { segment: self.segment, offset: self.frames.offset() }
    }

    /// Hands all of them to `each`, with the place after each. They are read and decoded on a thread of their own, some
    /// megabytes ahead at most.
    ///
    /// # Errors
    /// If the log is damaged, or the system refuses the thread; `each` has had the records before.
    pub fn for_each_ahead(
        mut self,
        mut each: impl FnMut(&Record, Position),
    ) -> Result<(), ScanError> {
        let path = self.dir.clone();
        let read = move |give: &mut dyn FnMut((Record, Position), usize)| {
            while let Some(record) = self.next() {
                give((record?, self.reached()), self.payload.len());
            }
            Ok(())
        };
        let read = hand_over("log-reader", read, |(record, reached)| each(&record, reached));
        read.map_err(|source| ScanError::Read { path, source })?
    }

    /// Bytes after the last complete record. Known only at the end.
    pub(super) fn n_torn_bytes(&self) -> u64 {
        self.n_torn_bytes
    }

    /// Goes to the next record and returns its bytes; `None` at the end.
    pub(super) fn advance(&mut self) -> Result<Option<&[u8]>, ScanError> {
        while !self.is_done {
            let step = self.frames.next(&mut self.payload).map_err(|e| self.read_error(e))?;
            match step {
                Step::Record => return Ok(Some(&self.payload)),
                Step::End => self.is_done = !self.go_on()?,
                Step::Broken(broken) => self.end_torn(broken)?,
            }
        }
        Ok(None)
    }

    /// Goes on to what was appended meanwhile, or to the next segment. `false` if there is neither.
    fn go_on(&mut self) -> Result<bool, ScanError> {
        if self.until.is_some_and(|until| self.segment >= until.segment) {
            return Ok(false);
        }
        // In this order: a segment does not grow any more once there is a next one.
        let has_next = segment::path(&self.dir, self.segment + 1).exists();
        if self.frames.extend_to_growth().map_err(|e| self.read_error(e))? {
            return Ok(true);
        }
        if has_next {
            let start = Position { segment: self.segment + 1, ..Position::START };
            self.frames = open_segment(&self.dir, start, self.until)?;
            self.segment += 1;
        }
        Ok(has_next)
    }

    /// Ends here if what is broken is the tail of the log; else it is damage.
    fn end_torn(&mut self, broken: Broken) -> Result<(), ScanError> {
        let is_last = !segment::path(&self.dir, self.segment + 1).exists();
        let may_be_torn = is_last && self.until.is_none();
        let has_later = self.frames.has_later_frame().map_err(|e| self.read_error(e))?;
        if !may_be_torn || has_later {
            return Err(self.damaged(self.frames.offset(), broken.to_string()));
        }
        self.n_torn_bytes = self.frames.end() - self.frames.offset();
        self.is_done = true;
        Ok(())
    }

    fn damaged(&self, offset: u64, reason: String) -> ScanError {
        ScanError::Damaged { path: segment::path(&self.dir, self.segment), offset, reason }
    }

    fn read_error(&self, source: io::Error) -> ScanError {
        ScanError::Read { path: segment::path(&self.dir, self.segment), source }
    }

    fn next_record(&mut self) -> Result<Option<Record>, ScanError> {
        let start = self.reached();
        let segment = self.segment;
        let Some(payload) = self.advance()? else { return Ok(None) };
        match postcard::take_from_bytes(payload) {
            Ok((record, [])) => Ok(Some(record)),
            _ => {
                // A record that was the first of its segment starts after the header.
                let offset =
                    if self.segment == segment { start.offset } else { segment::HEADER_BYTES };
                Err(self.damaged(offset, "the record is of an unknown kind".into()))
            }
        }
    }
}

impl Iterator for Records {
    type Item = Result<Record, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.next_record();
        self.is_done |= record.is_err();
        record.transpose()
    }
}

fn open_segment(dir: &Path, from: Position, until: Option<Position>) -> Result<Frames, ScanError> {
    let path = segment::path(dir, from.segment);
    let error = |source| ScanError::Read { path: path.clone(), source };
    let mut file = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ScanError::Missing { path: path.clone() },
        _ => error(source),
    })?;
    segment::check_header(&mut file, &path)?;
    let length = file.metadata().map_err(error)?.len();
    let end = until.filter(|u| u.segment == from.segment).map_or(length, |u| u.offset);
    if from.offset < segment::HEADER_BYTES || from.offset > length {
        return Err(ScanError::Beyond { path, position: from });
    }
    Frames::new(file, from.offset, end).map_err(error)
}
