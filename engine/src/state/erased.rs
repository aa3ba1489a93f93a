//! Who was erased since a state was read, for those who work with it for long.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use featurestore::log::{EventLog, ScanError};

use super::{Effect, Keeps, OpenStateError, OpenedState, State, log_folder, open_store};
use crate::release::Release;

/// A state, and the log that it was read from.
pub struct Watched {
    state: State,
    log: PathBuf,
    /// Of the log's folder: a log that is compacted gets another one, and positions change.
    inode: Option<u64>,
    erased: BTreeSet<String>,
}

/// Why it is not known who was erased.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Records have changed places.
    #[error("the event log {} was compacted meanwhile: begin again", log.display())]
    Compacted {
        /// Folder of the log.
        log: PathBuf,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
}

impl Watched {
    /// The state for `release`, as [`open_store`] reads it.
    ///
    /// # Errors
    /// As [`open_store`].
    pub fn open(data_dir: &Path, release: &Release) -> Result<Self, OpenStateError> {
        let log = log_folder(data_dir);
        let inode = inode_of(&log);
        let OpenedState { state, .. } = open_store(data_dir, release, Keeps::Everything)?;
        Ok(Self { state, log, inode, erased: BTreeSet::new() })
    }

    /// The state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The names of all users who were erased since the state was opened. The state has what is in the log by now afterwards.
    ///
    /// # Errors
    /// If the log cannot be read, or was compacted.
    pub fn erased(&mut self) -> Result<&BTreeSet<String>, WatchError> {
        let records = EventLog::reader(&self.log, self.state.position())?;
        let erased = &mut self.erased;
        let followed = self.state.follow_noting(records, |effect| {
            if let Effect::Forget(_, names) = effect {
                erased.extend(names);
            }
        });
        // It is looked at afterwards, so that what was read is of the log that positions are of.
        if self.inode.is_none() || inode_of(&self.log) != self.inode {
            return Err(WatchError::Compacted { log: self.log.clone() });
        }
        followed?;
        Ok(&self.erased)
    }
}

fn inode_of(folder: &Path) -> Option<u64> {
    fs::metadata(folder).ok().map(|metadata| metadata.ino())
}
