//! The snapshot: the state as a file, so that a server need not fold the whole log when it starts.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use featurestore::log::{CompactError, Compacted, OpenLogError, Position, ScanError, compact};
use featurestore::store::SnapshotError;
use featurestore::{EmbeddedStore, Names};
use sha2::{Digest, Sha256};

use super::{DIGEST_BYTES, Keeps, State, log_folder};
use crate::release::Release;

/// The format of snapshots; one of another format is not used.
pub const SNAPSHOT_FORMAT: u32 = 6;

const SNAPSHOT: &str = "snapshot.bin";

const MAGIC: &[u8; 8] = b"CASCSNAP";

/// Why a snapshot is not used. The state is folded from the whole log then, which takes longer and gives the same.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotRefused {
    /// There is none: no server has ended yet.
    #[error("there is no {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a snapshot of this format, or not as it was written.
    #[error("{} is not a whole snapshot of format {SNAPSHOT_FORMAT}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It was made for a release that remembers other things.
    #[error("{} was made for another plan", path.display())]
    OtherPlan {
        /// The file.
        path: PathBuf,
    },
    /// The state in it cannot be decoded.
    #[error("{} holds no state", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SnapshotError,
    },
    /// The log does not go on where the snapshot ends.
    #[error("the snapshot does not fit the log")]
    OtherLog(#[source] ScanError),
}

/// Why a snapshot was not written. The one that was there before still is.
#[derive(Debug, thiserror::Error)]
pub enum WriteSnapshotError {
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The state cannot be encoded.
    #[error(transparent)]
    Encode(#[from] SnapshotError),
}

/// The state of the snapshot in `data_dir`, without what the log says after it.
///
/// # Errors
/// If there is no whole snapshot that was made for the plan of `release`.
pub fn read_snapshot(
    data_dir: &Path,
    release: &Release,
    keeps: Keeps,
) -> Result<State, SnapshotRefused> {
    let path = data_dir.join(SNAPSHOT);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SnapshotRefused::Missing { path });
        }
        Err(source) => return Err(SnapshotRefused::Read { path, source }),
    };
    let Some(parts) = Parts::split(&bytes) else { return Err(SnapshotRefused::Damaged { path }) };
    let mut state = State::empty(release, keeps);
    if parts.fingerprint != state.fingerprint {
        return Err(SnapshotRefused::OtherPlan { path });
    }
    let store = EmbeddedStore::from_bytes(keeps.plan(release), &state.schema, parts.store)
        .map_err(|source| SnapshotRefused::Decode { path, source })?;
    store.watch_newcomers(release.models.settled());
    state.store = Arc::new(store);
    state.sessions = parts.sessions;
    state.position = parts.position;
    (state.followed, state.n_own) = (parts.followed, parts.n_own);
    Ok(state)
}

/// Writes `state` as the snapshot in `data_dir`: beside first, then renamed.
///
/// # Errors
/// If it cannot be encoded or written.
pub fn write_snapshot(data_dir: &Path, state: &State) -> Result<(), WriteSnapshotError> {
    let path = data_dir.join(SNAPSHOT);
    let bytes = state.to_bytes()?;
    let aside = path.with_extension("writing");
    let written = fs::File::create(&aside)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&aside, &path))
        .and_then(|()| fs::File::open(data_dir)?.sync_all());
    written.map_err(|source| WriteSnapshotError::Write { path, source })
}

/// Takes what was said of deleted users out of the log in `data_dir`. The snapshot goes too, which may tell of them: the next
/// server folds the whole log.
///
/// # Errors
/// If the log is in use or damaged, or a file cannot be written.
pub fn compact_log(data_dir: &Path) -> Result<Compacted, CompactError> {
    let path = data_dir.join(SNAPSHOT);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(OpenLogError::Write { path, source }.into())
        }
        _ => compact(&log_folder(data_dir)),
    }
}

impl State {
    /// `magic | format u32 | fingerprint | segment u32 | offset u64 | followed u64 | own u64 | n sessions u32 | (length u32 | name)* | store |
    /// sha256 of everything before`, little-endian.
    fn to_bytes(&self) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(SNAPSHOT_FORMAT.to_le_bytes());
        bytes.extend(self.fingerprint);
        bytes.extend(self.position.segment.to_le_bytes());
        bytes.extend(self.position.offset.to_le_bytes());
        bytes.extend(self.followed.to_le_bytes());
        bytes.extend(self.n_own.to_le_bytes());
        bytes.extend((self.sessions.len() as u32).to_le_bytes());
        for session in self.sessions.iter() {
            bytes.extend((session.len() as u32).to_le_bytes());
            bytes.extend(session.as_bytes());
        }
        bytes.extend(self.store.to_bytes()?);
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        Ok(bytes)
    }
}

/// What a snapshot holds.
struct Parts<'a> {
    fingerprint: [u8; DIGEST_BYTES],
    position: Position,
    followed: u64,
    n_own: u64,
    sessions: Names,
    store: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` if `bytes` are not a whole snapshot.
    fn split(bytes: &'a [u8]) -> Option<Self> {
        let (content, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST_BYTES)?)?;
        let mut rest = content.strip_prefix(MAGIC)?;
        if u32::from_le_bytes(take(&mut rest)?) != SNAPSHOT_FORMAT
            || Sha256::digest(content).as_slice() != digest
        {
            return None;
        }
        let fingerprint = take(&mut rest)?;
        let segment = u32::from_le_bytes(take(&mut rest)?);
        let offset = u64::from_le_bytes(take(&mut rest)?);
        let followed = u64::from_le_bytes(take(&mut rest)?);
        let n_own = u64::from_le_bytes(take(&mut rest)?);
        let mut sessions = Names::default();
        for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
            let length = u32::from_le_bytes(take(&mut rest)?);
            let name = rest.split_off(..length as usize)?;
            sessions.intern(std::str::from_utf8(name).ok()?);
        }
        let position = Position { segment, offset };
        Some(Self { fingerprint, position, followed, n_own, sessions, store: rest })
    }
}

/// The next `N` bytes of `rest`.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    rest.split_off(..N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::filled;
    use super::*;

    #[test]
    fn a_snapshot_comes_back_as_it_was_written() {
        let state = filled();
        let bytes = state.to_bytes().unwrap();
        let parts = Parts::split(&bytes).unwrap();
        assert_eq!(parts.fingerprint, [7; DIGEST_BYTES]);
        assert_eq!(parts.position, Position { segment: 2, offset: 99 });
        assert_eq!(parts.sessions.iter().collect::<Vec<_>>(), ["s"]);
        assert_eq!(parts.store, state.store.to_bytes().unwrap());
    }

    #[test]
    fn a_snapshot_with_any_byte_changed_or_missing_is_refused() {
        let bytes = filled().to_bytes().unwrap();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            assert!(Parts::split(&changed).is_none(), "byte {i}");
            assert!(Parts::split(&bytes[..i]).is_none(), "cut at {i}");
        }
    }
}
