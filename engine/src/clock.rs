//! The time that it is. A data set from the past is served as if its last event had just happened.

use std::time::{SystemTime, UNIX_EPOCH};

use featurestore::Timestamp;

/// Tells the time, possibly moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    offset_ms: i64,
}

impl Clock {
    /// A clock that shows `time` now and goes on from there.
    pub fn starting_at(time: Timestamp) -> Self {
        Self { offset_ms: time.0 - wall_ms() }
    }

    /// The time that it is.
    pub fn now(&self) -> Timestamp {
        Timestamp(wall_ms() + self.offset_ms)
    }
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 is set wrong; the start of the epoch is as good as any time then.
    since.map_or(0, |since| since.as_millis() as i64)
}
