//! The durable event log: what was told, in the order in which it was acknowledged.
//!
//! A log is a folder of segments, `00000000.log`, `00000001.log` and so on. A segment is a header and then records, each
//! with its length and checksum (`log/frame.rs`). One process at a time may write; any number may read meanwhile.
//!
//! What a crash can leave behind is an incomplete or damaged record at the very end of the last segment: a torn tail,
//! whose record was never acknowledged under [`FsyncPolicy::Always`]. Opening cuts it and says so. Damage anywhere else
//! is an error that names the place, and nothing is read past it.

mod compact;
mod event_ids;
mod frame;
mod scan;
mod segment;
mod staged;
mod writer;

pub use compact::{CompactError, Compacted, compact};
pub use event_ids::{EventIds, N_EVENT_IDS};
pub use frame::{DecodeError, MAX_RECORD_BYTES, decode_records, encode_records};
pub use scan::{Records, ScanError};
pub use staged::Staged;
pub use writer::{AppendError, EventLog, OpenLogError, Opened, SEGMENT_BYTES};

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::NamedEvent;
use crate::time::{Span, Timestamp};
use crate::value::Fields;

/// One entry of the log.
///
/// The order of the variants and of their fields is the format on disk: a change of it is a new format version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A user did something.
    Event(NamedEvent),
    /// An item is new, or replaces the one with its id.
    Item(ItemRecord),
    /// A user is new, or replaces the one with its id.
    User(UserRecord),
    /// An item is gone.
    DeleteItem {
        /// Of which item.
        id: Box<str>,
    },
    /// A user is gone.
    DeleteUser {
        /// Of which user.
        id: Box<str>,
    },
    /// The records before it are those of an entry of the log that several servers share.
    Followed {
        /// The entry; all before it are in this log too.
        stamp: u64,
        /// How many records it gave.
        n: u32,
    },
    /// Two users are one from now on: what `from` did lately is what `into` did, and what is said of `from` from here on is
    /// said of `into`.
    MergeUser {
        /// The id of a user, or [what stands for a session](crate::history::SESSION_USER).
        from: Box<str>,
        /// The id of a user.
        into: Box<str>,
    },
    /// Some fields of an item have other values. Nothing happens if the item is not known.
    SetItemFields {
        /// Of which item.
        id: Box<str>,
        /// The fields that change; [`Value::Null`](crate::Value::Null): missing from now on.
        fields: Fields,
    },
    /// Some fields of a user have other values. Nothing happens if the user is not known.
    SetUserFields {
        /// Of which user.
        id: Box<str>,
        /// As those of an item.
        fields: Fields,
    },
}

/// An item of the catalogue, whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ItemRecord {
    /// Its name.
    pub id: Box<str>,
    /// What is known about it.
    pub fields: Fields,
    /// Before this it is not recommended.
    #[serde(default)]
    pub published_at: Option<Timestamp>,
    /// From this on it is not recommended.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// It is not recommended until it is put again without this mark.
    #[serde(default)]
    pub hidden: bool,
}

/// A user, whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Its name.
    pub id: Box<str>,
    /// What is known about it.
    pub fields: Fields,
}

/// A place between two records. Snapshots remember one, and the log is read on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Number of the segment.
    pub segment: u32,
    /// Bytes from the start of the segment.
    pub offset: u64,
}

impl Position {
    /// Before the first record.
    pub const START: Self = Self { segment: 0, offset: segment::HEADER_BYTES };
}

/// What became of an event that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log.
    Accepted,
    /// Its id was seen before: it is not in the log a second time.
    Duplicate,
}

/// When appended records are forced to the disk, against a loss of power. Against the death of the process alone they
/// are safe as soon as they are acknowledged, under every policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FsyncPolicy {
    /// Before each acknowledgement.
    Always,
    /// At most this long after it, if appends go on or somebody calls [`EventLog::sync`] as often.
    Interval(Duration),
    /// When the operating system sees fit.
    Never,
}

/// The interval of `interval` when none is written.
pub const DEFAULT_FSYNC_INTERVAL: Duration = Duration::from_secs(1);

impl FromStr for FsyncPolicy {
    type Err = ParsePolicyError;

    /// Reads `always`, `interval` (of one second), `never`, or an interval such as `200ms`.
    fn from_str(text: &str) -> Result<Self, ParsePolicyError> {
        match text {
            "always" => Ok(Self::Always),
            "interval" => Ok(Self::Interval(DEFAULT_FSYNC_INTERVAL)),
            "never" => Ok(Self::Never),
            _ => {
                let span = text.parse::<Span>();
                let span = span.map_err(|_| ParsePolicyError { text: text.into() })?;
                Ok(Self::Interval(Duration::from_millis(span.0.unsigned_abs())))
            }
        }
    }
}

impl fmt::Display for FsyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(interval) => {
                Span(i64::try_from(interval.as_millis()).unwrap_or(i64::MAX)).fmt(f)
            }
            Self::Never => f.write_str("never"),
        }
    }
}

impl TryFrom<String> for FsyncPolicy {
    type Error = ParsePolicyError;

    fn try_from(text: String) -> Result<Self, ParsePolicyError> {
        text.parse()
    }
}

impl From<FsyncPolicy> for String {
    fn from(policy: FsyncPolicy) -> Self {
        policy.to_string()
    }
}

/// Text that is not an fsync policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an fsync policy: always, interval, never, or an interval such as 200ms")]
pub struct ParsePolicyError {
    text: String,
}
