//! Many records that enter the log together, however many they are.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::frame::RecordRef;
use super::writer::{Batch, open_end, sync_folder_of};
use super::{AppendError, EventLog, Outcome, Record, segment};

/// Records that are written beside the log, as a segment of their own, which enters it by being renamed: all of them,
/// also after a crash, or none. Dropped without [`Staged::commit`], they are forgotten.
///
/// Nothing else can be appended meanwhile. Memory: the hashes of the event ids.
pub struct Staged<'a> {
    log: &'a mut EventLog,
    path: PathBuf,
    file: BufWriter<File>,
    batch: Batch,
    /// Bytes in the file.
    length: u64,
    n_records: usize,
    is_committed: bool,
}

fn staged_path(dir: &Path) -> PathBuf {
    dir.join("import.tmp")
}

/// Removes what a process that died left behind.
pub(super) fn remove_abandoned(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(staged_path(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl EventLog {
    /// Begins an import of any size.
    ///
    /// # Errors
    /// If no file can be written beside the log.
    pub fn stage(&mut self) -> Result<Staged<'_>, AppendError> {
        self.check_not_failed()?;
        let path = staged_path(self.dir());
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        let file = file.and_then(|mut file| file.write_all(segment::header()).map(|()| file));
        let file = file.map_err(|source| AppendError::Write { path: path.clone(), source })?;
        Ok(Staged {
            log: self,
            path,
            file: BufWriter::with_capacity(1 << 20, file),
            batch: Batch::default(),
            length: segment::HEADER_BYTES,
            n_records: 0,
            is_committed: false,
        })
    }
}

impl Staged<'_> {
    /// Adds `record`, unless it is an event whose id was seen before.
    ///
    /// # Errors
    /// If it is too long, and then the others are not affected; or if it cannot be written.
    pub fn push(&mut self, record: &Record) -> Result<Outcome, AppendError> {
        self.batch.push(&RecordRef::from(record), self.log.event_ids())?;
        let written = self.file.write_all(&self.batch.bytes);
        written.map_err(|source| AppendError::Write { path: self.path.clone(), source })?;
        self.length += self.batch.bytes.len() as u64;
        self.batch.bytes.clear();
        let outcome = self.batch.outcomes.pop();
        let outcome = outcome.expect("a batch has an outcome for each record pushed");
        self.n_records += usize::from(outcome == Outcome::Accepted);
        Ok(outcome)
    }

    /// How many records were added.
    pub fn n_records(&self) -> usize {
        self.n_records
    }

    /// Lets the records enter the log, forced to the disk.
    ///
    /// # Errors
    /// If that fails: then none of them is in the log.
    pub fn commit(mut self) -> Result<(), AppendError> {
        if self.n_records == 0 {
            return Ok(());
        }
        self.log.sync()?;
        let end = self.log.position();
        // The next segment, or the present one if it is empty.
        let number = end.segment + u32::from(end.offset > segment::HEADER_BYTES);
        let path = segment::path(self.log.dir(), number);
        let error = |source| AppendError::Write { path: path.clone(), source };
        let file = self.finish().map_err(error)?;
        let entered = std::fs::rename(&self.path, &path).and_then(|()| sync_folder_of(&path));
        if let Err(source) = entered {
            // Whether it is in the log after a crash is open.
            self.log.fail();
            return Err(error(source));
        }
        self.is_committed = true;
        self.log.move_to(number, file, self.length);
        self.log.remember(std::mem::take(&mut self.batch.new_ids));
        Ok(())
    }

    /// Forces the file to the disk, and opens it as the writer of the log has its segment.
    fn finish(&mut self) -> io::Result<File> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        open_end(&self.path, self.length)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            // If it cannot be removed now, the next opening of the log does it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
