//! The items with the highest fading counts, kept up to date event by event.
//!
//! All counts of one half-life fade alike, so their order changes only where an event comes in. The logarithm of a
//! count, moved to time 0, is a key that does not fade and never falls: an item that was below the best when the
//! list was last cut can come back only by an event of its own.

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use crate::event::EventTypeId;
use crate::ids::{ItemId, Scored, keep_best};
use crate::time::{Span, Timestamp};

/// What a board counts.
#[derive(Clone, Debug, PartialEq)]
pub struct BoardSpec {
    /// Which events count; `None`: all of them.
    pub event: Option<EventTypeId>,
    /// Time in which a count halves.
    pub half_life: Span,
    /// Position of the category field whose every value has a list of its own; `None`: one list.
    pub field: Option<usize>,
}

/// How many items a list without a field can answer with.
pub const BOARD_ITEMS: usize = 2_000;
/// How many items the list of one field value can answer with.
pub const FIELD_BOARD_ITEMS: usize = 200;

/// The best items by one fading count.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Board {
    keys: Vec<f64>,
    lists: FxHashMap<u32, List>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct List {
    members: FxHashSet<ItemId>,
    floor: f64,
}

impl Default for List {
    fn default() -> Self {
        Self { members: FxHashSet::default(), floor: f64::NEG_INFINITY }
    }
}

/// The list of a board without a field.
pub const WHOLE: u32 = u32::MAX;

impl Board {
    /// Takes note that the count of `item` is `count` at `time`. `lists`: the field values that it has.
    pub fn update(
        &mut self,
        spec: &BoardSpec,
        item: ItemId,
        count: f64,
        time: f64,
        lists: impl Iterator<Item = u32>,
    ) {
        if count <= 0.0 {
            return;
        }
        if self.keys.len() <= item.index() {
            self.keys.resize(item.index() + 1, f64::NEG_INFINITY);
        }
        let key = count.log2() + time / spec.half_life.0 as f64;
        self.keys[item.index()] = key;
        let capacity = if spec.field.is_some() { FIELD_BOARD_ITEMS } else { BOARD_ITEMS };
        for list in lists {
            self.lists.entry(list).or_default().offer(item, key, capacity, &self.keys);
        }
    }

    /// The `n` best of `list` as of `now`, best first, with their counts. Cost: O(capacity).
    pub fn best(&self, spec: &BoardSpec, list: u32, n: usize, now: Timestamp) -> Vec<Scored> {
        let Some(list) = self.lists.get(&list) else { return Vec::new() };
        let at = now.0 as f64 / spec.half_life.0 as f64;
        let count = |item: &ItemId| (self.keys[item.index()] - at).exp2() as f32;
        let mut best: Vec<Scored> =
            list.members.iter().map(|item| Scored { item: *item, score: count(item) }).collect();
        keep_best(&mut best, n);
        best
    }

    /// Whether there are items that were counted and are not in `list`.
    pub fn is_cut(&self, list: u32) -> bool {
        self.lists.get(&list).is_some_and(|list| list.floor > f64::NEG_INFINITY)
    }

    /// The `n` best of `items` as of `now`, whether or not a list has them; those that were never counted are left out.
    /// Cost: O(items).
    pub fn best_of(
        &self,
        spec: &BoardSpec,
        items: impl Iterator<Item = ItemId>,
        n: usize,
        now: Timestamp,
    ) -> Vec<Scored> {
        let at = now.0 as f64 / spec.half_life.0 as f64;
        let counted = items.filter_map(|item| Some((item, *self.keys.get(item.index())?)));
        let counted = counted.filter(|(_, key)| *key > f64::NEG_INFINITY);
        let mut best: Vec<Scored> =
            counted.map(|(item, key)| Scored { item, score: (key - at).exp2() as f32 }).collect();
        keep_best(&mut best, n);
        best
    }
}

impl List {
    fn offer(&mut self, item: ItemId, key: f64, capacity: usize, keys: &[f64]) {
        if key < self.floor || !self.members.insert(item) || self.members.len() <= 2 * capacity {
            return;
        }
        let mut by_key: Vec<ItemId> = self.members.iter().copied().collect();
        by_key.select_nth_unstable_by(capacity - 1, |a, b| {
            keys[b.index()].total_cmp(&keys[a.index()]).then(a.cmp(b))
        });
        by_key.truncate(capacity);
        self.floor = keys[by_key[capacity - 1].index()];
        self.members = by_key.into_iter().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_board_is_the_sorted_list_of_all_counts(
            events in proptest::collection::vec((0u32..60, 0i64..1_000), 1..400),
        ) {
            let spec = BoardSpec { event: None, half_life: Span(100), field: Some(0) };
            let (mut board, mut counts) = (Board::default(), vec![(0.0f64, 0.0f64); 60]);
            let mut now = 0;
            for (item, step) in events {
                now += step % 7;
                let (count, time) = &mut counts[item as usize];
                *count = *count * (-((now as f64 - *time) / 100.0)).exp2() + 1.0;
                *time = now as f64;
                board.update(&spec, ItemId(item), *count, now as f64, std::iter::once(3));
            }
            let at = |(count, time): (f64, f64)| count * (-((now as f64 - time) / 100.0)).exp2();
            let mut expected: Vec<f64> = counts.into_iter().map(at).filter(|c| *c > 0.0).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            let best = board.best(&spec, 3, 10, Timestamp(now));
            prop_assert_eq!(best.len(), expected.len().min(10));
            for (scored, count) in best.iter().zip(&expected) {
                prop_assert!((f64::from(scored.score) - count).abs() < 1e-5 * count);
            }
        }
    }

    #[test]
    fn an_item_that_was_cut_comes_back_by_its_own_events() {
        let spec = BoardSpec { event: None, half_life: Span(1_000_000), field: Some(0) };
        let mut board = Board::default();
        for item in 0..1_000 {
            board.update(&spec, ItemId(item), 2.0, 0.0, std::iter::once(0));
        }
        board.update(&spec, ItemId(999), 3.0, 1.0, std::iter::once(0));
        assert_eq!(board.best(&spec, 0, 1, Timestamp(1))[0].item, ItemId(999));
    }
}
