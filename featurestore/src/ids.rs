//! Dense ids inside, string ids outside, and the one order that stages sort by.

use std::cmp::Ordering;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

/// Dense position of an item, `0..n_items`, in the order in which items first appear in the log.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ItemId(pub u32);

/// Dense position of a user, `0..n_users`, in the order in which users first appear in the log.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct UserId(pub u32);

impl ItemId {
    /// As an index into a column.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl UserId {
    /// As an index into a column.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An item with a score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The item.
    pub item: ItemId,
    /// Its score: larger is better.
    pub score: f32,
}

/// Best first: higher score, then lower item id; a NaN score counts as minus infinity.
/// The only order that stages sort by.
pub fn best_first(a: &Scored, b: &Scored) -> Ordering {
    let key = |s: &Scored| if s.score.is_nan() { f32::NEG_INFINITY } else { s.score };
    // Adding zero turns -0.0 into 0.0, which `total_cmp` would order apart.
    (key(b) + 0.0).total_cmp(&(key(a) + 0.0)).then(a.item.cmp(&b.item))
}

/// Keeps the `n` best of `scored`, best first. Cost: O(len + n log n).
pub fn keep_best(scored: &mut Vec<Scored>, n: usize) {
    if n == 0 {
        scored.clear();
    } else if scored.len() > n {
        scored.select_nth_unstable_by(n - 1, best_first);
        scored.truncate(n);
    }
    scored.sort_unstable_by(best_first);
}

/// Longest string id that is accepted, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// The string ids of one kind of thing, numbered in the order in which they were first seen. Takes the bytes of the names, and
/// about 20 bytes for each.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// All names, one after the other.
    text: String,
    /// Where each ends.
    ends: Vec<usize>,
    /// Their numbers by their hashes.
    by_hash: HashTable<Hashed>,
}

#[derive(Clone, Copy, Debug)]
struct Hashed {
    hash: u32,
    id: u32,
}

impl Hashed {
    /// The hash by which the table places it: both ends of it matter there.
    fn spread(hash: u32) -> u64 {
        u64::from(hash) << 32 | u64::from(hash)
    }
}

impl Names {
    /// The number of `name`, which is the next free one if it is new.
    pub fn intern(&mut self, name: &str) -> u32 {
        let hash = hash(name);
        if let Some(id) = self.find(hash, name) {
            return id;
        }
        let id = u32::try_from(self.ends.len()).expect("fewer than 2^32 names fit into memory");
        self.text.push_str(name);
        self.ends.push(self.text.len());
        let place = |known: &Hashed| Hashed::spread(known.hash);
        self.by_hash.insert_unique(Hashed::spread(hash), Hashed { hash, id }, place);
        id
    }

    /// The number of `name`, if it was seen.
    pub fn get(&self, name: &str) -> Option<u32> {
        self.find(hash(name), name)
    }

    fn find(&self, hash: u32, name: &str) -> Option<u32> {
        let is_it = |known: &Hashed| known.hash == hash && self.name(known.id) == Some(name);
        self.by_hash.find(Hashed::spread(hash), is_it).map(|known| known.id)
    }

    /// The name numbered `id`.
    pub fn name(&self, id: u32) -> Option<&str> {
        let i = id as usize;
        let start = if i == 0 { 0 } else { *self.ends.get(i - 1)? };
        Some(&self.text[start..*self.ends.get(i)?])
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no name yet.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All names, in the order of their numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.ends.len()).map(|i| self.name(i as u32).unwrap_or_default())
    }
}

fn hash(name: &str) -> u32 {
    // The upper half is the better one.
    (FxBuildHasher.hash_one(name) >> 32) as u32
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<T: IntoIterator<Item = &'a str>>(names: T) -> Self {
        let mut all = Self::default();
        for name in names {
            all.intern(name);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored() -> impl Strategy<Value = Scored> {
        let score = prop_oneof![Just(f32::NAN), Just(-0.0), Just(0.0), -2f32..2.0];
        (0u32..40, score).prop_map(|(item, score)| Scored { item: ItemId(item), score })
    }

    proptest! {
        #[test]
        fn the_best_are_the_head_of_the_sorted_list(
            slate in proptest::collection::vec(scored(), 0..60),
            n in 0usize..70,
        ) {
            let mut sorted = slate.clone();
            sorted.sort_by(best_first);
            sorted.truncate(n);
            let mut kept = slate;
            keep_best(&mut kept, n);
            let items = |list: &[Scored]| list.iter().map(|s| s.item).collect::<Vec<_>>();
            prop_assert_eq!(items(&kept), items(&sorted));
        }
    }

    #[test]
    fn a_nan_score_sorts_last_and_ties_break_on_the_item() {
        let mut slate = [(3, f32::NAN), (2, 1.0), (1, 1.0), (0, 2.0)]
            .map(|(item, score)| Scored { item: ItemId(item), score });
        slate.sort_by(best_first);
        assert_eq!(slate.map(|s| s.item.0), [0, 1, 2, 3]);
    }

    #[test]
    fn names_are_numbered_by_first_appearance() {
        let names: Names = ["b", "", "a", "b", ""].into_iter().collect();
        assert_eq!((names.get("b"), names.get("a"), names.get("c")), (Some(0), Some(2), None));
        assert_eq!(names.iter().collect::<Vec<_>>(), ["b", "", "a"]);
        assert_eq!((names.name(1), names.name(3)), (Some(""), None));
    }

    #[test]
    fn each_of_many_names_is_found() {
        let name = |i: u32| format!("user-{}", i.wrapping_mul(2_654_435_761));
        let mut names = Names::default();
        assert!((0..100_000).all(|i| names.intern(&name(i)) == i));
        assert!((0..100_000).all(|i| names.intern(&name(i)) == i));
        assert!((0..100_000).all(|i| names.name(i) == Some(&name(i))));
        assert!((100_000..200_000).all(|i| names.get(&name(i)).is_none()));
        assert_eq!(names.len(), 100_000);
    }
}
