//! The items with the highest fading counts, kept up to date event by event.
//!
//! All counts of one half-life fade alike, so their order changes only where an event comes in. The logarithm of a
//! count, moved to time 0, is a key that does not fade and never falls: an item that was below the best when the
//! list was last cut can come back only by an event of its own.

use std::cmp::Ordering;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::event::EventTypeId;
use crate::ids::{ItemId, Scored, best_first};
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
    /// With the key of each, so that reading the list touches nothing else.
    members: FxHashMap<ItemId, f64>,
    floor: f64,
}

impl Default for List {
    fn default() -> Self {
        Self { members: FxHashMap::default(), floor: f64::NEG_INFINITY }
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
            self.lists.entry(list).or_default().offer(item, key, capacity);
        }
    }

    /// The `n` best of `list` as of `now`, best first, with their counts. Cost: O(capacity).
    pub fn best(&self, spec: &BoardSpec, list: u32, n: usize, now: Timestamp) -> Vec<Scored> {
        let Some(list) = self.lists.get(&list) else { return Vec::new() };
        let keyed = list.members.iter().map(|(item, key)| (*item, *key));
        best_by_key(keyed.collect(), spec, n, now)
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
        let keyed = items.filter_map(|item| Some((item, *self.keys.get(item.index())?)));
        let counted = keyed.filter(|(_, key)| *key > f64::NEG_INFINITY);
        best_by_key(counted.collect(), spec, n, now)
    }
}

/// The `n` items with the greatest keys, best first, with their counts as of `now`: keys do not fade, so counts are made of
/// those alone.
fn best_by_key(
    mut keyed: Vec<(ItemId, f64)>,
    spec: &BoardSpec,
    n: usize,
    now: Timestamp,
) -> Vec<Scored> {
    if n < keyed.len() {
        keyed.select_nth_unstable_by(n, by_key);
        keyed.truncate(n);
    }
    let at = now.0 as f64 / spec.half_life.0 as f64;
    let scored = |(item, key): (ItemId, f64)| Scored { item, score: (key - at).exp2() as f32 };
    let mut best: Vec<Scored> = keyed.into_iter().map(scored).collect();
    best.sort_unstable_by(best_first);
    best
}

fn by_key(a: &(ItemId, f64), b: &(ItemId, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

impl List {
    fn offer(&mut self, item: ItemId, key: f64, capacity: usize) {
        if key < self.floor
            || self.members.insert(item, key).is_some()
            || self.members.len() <= 2 * capacity
        {
            return;
        }
        let mut best: Vec<(ItemId, f64)> = self.members.drain().collect();
        best.select_nth_unstable_by(capacity - 1, by_key);
        best.truncate(capacity);
        self.floor = best[capacity - 1].1;
        self.members = best.into_iter().collect();
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
