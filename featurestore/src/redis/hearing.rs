//! What is changed in Redis otherwise than through the shared log: whoever does that leaves a mark beside the hash, and Redis
//! tells the servers that the mark was written (client tracking).
//!
//! The hashes themselves are not tracked: each event changes some of them, and an invalidation names a hash, which has the
//! records of a 64th of all items. What an event changes comes from the shared log, item by item.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::RedisStore;
use super::error::RedisError;
use super::keys::{Keys, N_HASHES};
use super::nodes::Command;
use super::session::{Changed, Session};

/// How long a node may take to tell.
const TIMEOUT: Duration = Duration::from_millis(100);

/// How often marks are read at once, at most: once to be connected and learn who has which, once more to be told of all.
const MAX_READS: usize = 3;

/// The session in which Redis tells of marks.
pub(super) struct Hearing {
    /// What it was made for.
    keys: Keys,
    session: Session,
    /// The hashes of whose marks Redis tells the next change.
    is_told_of: [bool; N_HASHES],
    /// That of the topology when they were read last.
    version: u64,
}

impl Hearing {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, session: Session::tracking(), is_told_of: [false; N_HASHES], version: 0 }
    }
}

impl RedisStore {
    /// Has Redis tell what was changed otherwise than through the shared log, and has it read anew. To be called now and then.
    ///
    /// # Errors
    /// If a node does not answer at once. Everything is read anew when it does; what the others tell is heeded.
    pub fn hear_of_changes(&self) -> Result<(), RedisError> {
        let keys = self.keys();
        let mut hearing = self.hearing.lock().unwrap_or_else(PoisonError::into_inner);
        if hearing.keys.generation != keys.generation {
            *hearing = Hearing::new(keys);
        }
        for _ in 0..MAX_READS {
            self.read_marks(&mut hearing)?;
            // What was told is told again only if it is read again. After a new connection that is everything.
            let is_told_of_all = !hearing.is_told_of.contains(&false);
            if is_told_of_all && hearing.version == self.nodes.topology_version() {
                break;
            }
        }
        Ok(())
    }

    /// Reads all marks, and what Redis tells meanwhile.
    fn read_marks(&self, hearing: &mut Hearing) -> Result<(), RedisError> {
        let version = self.nodes.topology_version();
        if std::mem::replace(&mut hearing.version, version) != version {
            // Who served a hash before tells nothing of it any more.
            hearing.is_told_of = [false; N_HASHES];
        }
        // Each time all of them are read, so that a hash that is elsewhere now is noticed.
        let read = |hash| {
            let mark = hearing.keys.mark(hash);
            Command::new(&mark, ::redis::cmd("EXISTS").arg(&mark))
        };
        let reads: Vec<Command> = (0..N_HASHES).map(read).collect();
        let results = self.nodes.run_in(&mut hearing.session, &reads, Instant::now() + TIMEOUT);
        let mut heard = Ok(());
        for (hash, result) in results.into_iter().enumerate() {
            match result {
                // Nobody told what has happened until now.
                Ok(_) if !hearing.is_told_of[hash] => {
                    hearing.is_told_of[hash] = true;
                    self.near.doubt(hash);
                }
                Ok(_) => {}
                Err(error) => heard = Err(error),
            }
        }
        // After that: what has been told is not told again.
        self.heed(hearing);
        heard
    }

    fn heed(&self, hearing: &mut Hearing) {
        for changed in hearing.session.take_heard() {
            match changed {
                Changed::Key(name) => {
                    let Some(hash) = hearing.keys.marked(&name) else { continue };
                    hearing.is_told_of[hash] = false;
                    self.near.doubt(hash);
                    self.counts.invalidations.fetch_add(1, Ordering::Relaxed);
                }
                Changed::Any => {
                    hearing.is_told_of = [false; N_HASHES];
                    self.near.doubt_all();
                }
            }
        }
    }
}
