//! One of the servers that share a data folder keeps the entries of the shared log in the event log there.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use featurestore::log::{EventLog, FsyncPolicy, OpenLogError};
use featurestore::redis::{Follower, Stamp};

use super::{POLL, REST, Replica, ReplicaError, lock};
use crate::state::log_folder;

/// How often it is tried to become the one that keeps the log.
const KEEPER_REST: Duration = Duration::from_secs(1);

/// It is tried less often if opening a long log takes longer: while a disk is full, that goes on for as long.
const RESTS_OF_OPENING: u32 = 5;

impl Replica {
    pub(super) fn keep(&self) {
        let (mut last_error, mut opening) = (String::new(), Duration::ZERO);
        while !self.is_stopped() {
            if let Err(error) = self.keep_on(&mut opening) {
                if error != last_error {
                    eprintln!("the event log is not kept by this server: {error}");
                }
                last_error = error;
            }
            let until = Instant::now() + KEEPER_REST.max(opening * RESTS_OF_OPENING);
            while Instant::now() < until && !self.is_stopped() {
                thread::sleep(REST);
            }
        }
    }

    /// Appends to `log`, which ends at the entry `at`, those that Redis has lost and this server has taken in. Returns the last
    /// one.
    fn keep_lost(&self, log: &mut EventLog, at: Stamp) -> Result<Stamp, String> {
        let lost = lock(&self.unkept).behind(at);
        let behind = || ReplicaError::Behind { log: log_folder(&self.data_dir) }.to_string();
        let mut last = at;
        for entry in lost.ok_or_else(behind)? {
            log.append_followed(&entry.records, entry.stamp).map_err(|e| in_words(&e))?;
            last = entry.stamp;
        }
        Ok(last)
    }

    /// Keeps the log until something fails: another process keeps it, perhaps. `opening`: how long it took to open it.
    fn keep_on(&self, opening: &mut Duration) -> Result<(), String> {
        let (folder, began) = (log_folder(&self.data_dir), Instant::now());
        let (mut log, opened) = EventLog::open(&folder, self.fsync).map_err(|e| match e {
            OpenLogError::InUse { .. } => "another process does".to_owned(),
            e => in_words(&e),
        })?;
        *opening = began.elapsed();
        let mut at = opened.followed;
        if self.log.has_forgotten(at).map_err(|e| in_words(&e))? {
            at = self.keep_lost(&mut log, at)?;
        }
        let (mut follower, mut has_failed) = (Follower::new(self.log.clone()), false);
        loop {
            if has_failed && self.log.has_forgotten(at).map_err(|e| in_words(&e))? {
                at = self.keep_lost(&mut log, at)?;
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
                            at = self.keep_lost(&mut log, at)?;
                            if entry.stamp <= at {
                                continue;
                            }
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

/// What went wrong, and why.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(words, ": {cause}");
        source = cause.source();
    }
    words
}
