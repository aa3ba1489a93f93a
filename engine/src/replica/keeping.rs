//! One of the servers that share a data folder keeps the entries of the shared log in the event log there.

use std::fmt::Write;
use std::thread;
use std::time::Duration;

use featurestore::log::{EventLog, FsyncPolicy, OpenLogError};
use featurestore::redis::Follower;

use super::{POLL, REST, Replica, ReplicaError, lock};
use crate::state::log_folder;

/// How often it is tried to become the one that keeps the log.
const KEEPER_REST: Duration = Duration::from_secs(1);

impl Replica {
    pub(super) fn keep(&self) {
        let mut last_error = String::new();
        while !self.is_stopped() {
            if let Err(error) = self.keep_on() {
                if error != last_error {
                    eprintln!("the event log is not kept by this server: {error}");
                }
                last_error = error;
            }
            thread::sleep(if self.is_stopped() { Duration::ZERO } else { KEEPER_REST });
        }
    }

    /// Keeps the log until something fails: another process keeps it, perhaps.
    fn keep_on(&self) -> Result<(), String> {
        let folder = log_folder(&self.data_dir);
        let in_words = |e: &dyn std::error::Error| {
            let mut words = e.to_string();
            let mut source = e.source();
            while let Some(cause) = source {
                let _ = write!(words, ": {cause}");
                source = cause.source();
            }
            words
        };
        let (mut log, opened) = EventLog::open(&folder, self.fsync).map_err(|e| match e {
            OpenLogError::InUse { .. } => "another process does".to_owned(),
            e => in_words(&e),
        })?;
        let mut at = opened.followed;
        if self.log.has_forgotten(at).map_err(|e| in_words(&e))? {
            return Err(ReplicaError::Behind { log: folder }.to_string());
        }
        let (mut follower, mut has_failed) = (Follower::new(self.log.clone()), false);
        loop {
            if has_failed && self.log.has_forgotten(at).map_err(|e| in_words(&e))? {
                return Err(ReplicaError::Behind { log: folder }.to_string());
            }
            has_failed = false;
            *lock(&self.kept) = Some((at, log.position()));
            let is_last = self.is_stopped();
            let wait = if is_last { Duration::ZERO } else { POLL };
            match follower.next(at, wait) {
                Ok(entries) => {
                    for entry in entries {
                        // An empty one may stand for those that Redis has lost.
                        if entry.records.is_empty()
                            && self.log.has_forgotten(at).map_err(|e| in_words(&e))?
                        {
                            return Err(ReplicaError::Behind { log: folder }.to_string());
                        }
                        log.append_followed(&entry.records, entry.stamp)
                            .map_err(|e| in_words(&e))?;
                        at = entry.stamp;
                    }
                }
                Err(_) => {
                    has_failed = !is_last;
                    thread::sleep(if is_last { Duration::ZERO } else { REST });
                }
            }
            if is_last || self.fsync != FsyncPolicy::Never {
                log.sync().map_err(|e| in_words(&e))?;
            }
            if is_last {
                *lock(&self.kept) = Some((at, log.position()));
                return Ok(());
            }
        }
    }
}
