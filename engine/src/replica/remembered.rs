//! What a server remembers of the latest entries of the shared log, in case that Redis loses them.

use std::collections::VecDeque;

use featurestore::redis::{Change, Entry, Stamp};

/// So many records are remembered: some 200 bytes each.
const MAX_UNKEPT: usize = 50_000;

/// So many changes are remembered: some 100 bytes each.
const MAX_LATEST: usize = 100_000;

/// What the latest entries have changed in features, in case that Redis loses it.
#[derive(Default)]
pub(super) struct LatestChanges {
    /// The last entry that is not among them, nor are any before it.
    after: Stamp,
    changes: VecDeque<Change>,
}

impl LatestChanges {
    /// Those of the entries behind `after`, of which there are none yet.
    pub(super) fn since(after: Stamp) -> Self {
        Self { after, changes: VecDeque::new() }
    }

    /// Adds those of further entries, and forgets the oldest if there are more than [`MAX_LATEST`].
    pub(super) fn extend(&mut self, changes: &[Change]) {
        self.changes.extend(changes.iter().cloned());
        while self.changes.len() > MAX_LATEST {
            let Some(stamp) = self.changes.pop_front().map(|change| change.stamp()) else { return };
            self.after = stamp;
        }
        // An entry is among them as a whole, or not at all.
        while self.changes.front().is_some_and(|change| change.stamp() <= self.after) {
            self.changes.pop_front();
        }
    }

    /// Those of all entries behind `stamp`; `None` if some of these are forgotten.
    pub(super) fn behind(&self, stamp: Stamp) -> Option<Vec<Change>> {
        let first = self.changes.partition_point(|change| change.stamp() <= stamp);
        (self.after <= stamp).then(|| self.changes.range(first..).cloned().collect())
    }
}

/// Entries that the one who keeps the log may not have written yet, in case that Redis loses them: those who do not keep it
/// now may have to in a moment.
#[derive(Default)]
pub(super) struct Unkept {
    /// The last entry that is not among them, nor are any before it.
    after: Stamp,
    entries: VecDeque<Entry>,
    n_records: usize,
}

impl Unkept {
    /// Adds `entry`, which comes behind `before`; forgets those up to `kept`, and the oldest if there are more records than
    /// [`MAX_UNKEPT`].
    pub(super) fn push(&mut self, before: Stamp, entry: Entry, kept: Stamp) {
        if self.entries.is_empty() {
            self.after = before;
        }
        self.n_records += entry.records.len();
        self.entries.push_back(entry);
        let is_gone = |oldest: &Entry, n: usize| oldest.stamp <= kept || n > MAX_UNKEPT;
        while self.entries.front().is_some_and(|oldest| is_gone(oldest, self.n_records))
            && let Some(oldest) = self.entries.pop_front()
        {
            self.n_records -= oldest.records.len();
            self.after = oldest.stamp;
        }
    }

    /// All entries behind `stamp` that were taken in; `None` if some of these are forgotten.
    pub(super) fn behind(&self, stamp: Stamp) -> Option<Vec<Entry>> {
        let first = self.entries.partition_point(|entry| entry.stamp <= stamp);
        let is_known = self.after <= stamp && !self.entries.is_empty();
        is_known.then(|| self.entries.range(first..).cloned().collect())
    }
}
