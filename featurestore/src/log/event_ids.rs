//! Which event ids were seen lately.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

use rustc_hash::FxHasher;

/// How many event ids are remembered at least: as many as one table of 2^22 places takes before it grows.
/// Two of them, when full, take 143 MB.
pub const N_EVENT_IDS: usize = 3_500_000;

/// The event ids that were seen lately: at least the last `n`, at most the last `2 n`.
///
/// Ids are kept as 128-bit hashes: among 7 million, two different ones are taken for the same with probability 10^-25.
/// Two generations take turns: when the younger has `n` ids, the older is forgotten. So memory is bounded, nothing is
/// deleted one by one, and the state depends on the sequence of ids alone.
#[derive(Clone, Debug)]
pub struct EventIds {
    n: usize,
    younger: HashSet<u128, BuildHasherDefault<FxHasher>>,
    older: HashSet<u128, BuildHasherDefault<FxHasher>>,
}

impl EventIds {
    /// Remembers none yet, and later at least the last `n`.
    pub fn new(n: usize) -> Self {
        Self { n: n.max(1), younger: HashSet::default(), older: HashSet::default() }
    }

    /// Whether `event_id` was seen.
    pub fn contains(&self, event_id: &str) -> bool {
        self.contains_hash(hash(event_id))
    }

    /// Remembers `event_id`. Returns whether it is new.
    pub fn insert(&mut self, event_id: &str) -> bool {
        self.insert_hash(hash(event_id))
    }

    pub(super) fn contains_hash(&self, hash: u128) -> bool {
        self.younger.contains(&hash) || self.older.contains(&hash)
    }

    pub(super) fn insert_hash(&mut self, hash: u128) -> bool {
        if self.contains_hash(hash) {
            return false;
        }
        if self.younger.len() == self.n {
            std::mem::swap(&mut self.younger, &mut self.older);
            self.younger.clear();
        }
        self.younger.insert(hash)
    }
}

/// 128 bits of `event_id`, the same in every process: two SipHashes, apart by a prefix.
pub(super) fn hash(event_id: &str) -> u128 {
    let half = |prefix: u8| {
        let mut hasher = DefaultHasher::new();
        prefix.hash(&mut hasher);
        event_id.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_n_ids_are_remembered_and_memory_is_bounded() {
        let mut ids = EventIds::new(100);
        for i in 0..10_000u32 {
            assert!(ids.insert(&i.to_string()));
            let oldest = i.saturating_sub(99);
            assert!((oldest..=i).all(|j| ids.contains(&j.to_string())));
            assert!(ids.younger.len() + ids.older.len() <= 200);
        }
        assert!(!ids.insert("9999"));
        assert!(ids.insert("1"));
    }
}
