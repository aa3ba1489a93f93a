//! What a history says about its items' neighbours: the serving side of every item-item model.

use featurestore::{ItemId, Scored, keep_best};

use crate::sparse::ItemRows;

/// Dense sums over all items, kept from one request to the next. Clearing them is O(1): a cell counts only if it bears
/// the epoch of the present history.
#[derive(Debug, Default)]
pub struct ScoreScratch {
    cells: Vec<Cell>,
    /// The items reached, and then room: one more than there are cells, so that a write is never out of bounds.
    reached: Vec<u32>,
    n_reached: usize,
    epoch: u32,
}

/// One item's scores: 16 bytes, so that reaching it costs one cache line.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    epoch: u32,
    sum: f32,
    max: f32,
    last: f32,
}

impl Cell {
    const NOTHING: Self = Self { epoch: 0, sum: 0.0, max: f32::NEG_INFINITY, last: 0.0 };
}

impl ScoreScratch {
    /// Sum of the similarities of `item` to the history; 0 if none reached it.
    pub fn sum(&self, item: ItemId) -> f32 {
        self.cell(item).map_or(0.0, |cell| cell.sum)
    }

    /// Largest similarity of `item` to an item of the history; 0 if none reached it.
    pub fn max(&self, item: ItemId) -> f32 {
        self.cell(item).map_or(0.0, |cell| cell.max)
    }

    /// Similarity of `item` to the most recent item of the history; 0 if it is no neighbour of it.
    pub fn last(&self, item: ItemId) -> f32 {
        self.cell(item).map_or(0.0, |cell| cell.last)
    }

    /// How many items the history reached.
    pub fn n_reached(&self) -> usize {
        self.n_reached
    }

    /// The `n` reached items that `accept` lets through with the largest sums, best first.
    /// Cost: O(n_reached + n log n), and one call of `accept` for each item reached.
    pub fn best(&self, n: usize, accept: impl Fn(ItemId) -> bool) -> Vec<Scored> {
        let scored = self.reached[..self.n_reached]
            .iter()
            .map(|&item| Scored { item: ItemId(item), score: self.cells[item as usize].sum });
        let mut best: Vec<Scored> = scored.filter(|scored| accept(scored.item)).collect();
        keep_best(&mut best, n);
        best
    }

    fn cell(&self, item: ItemId) -> Option<&Cell> {
        self.cells.get(item.index()).filter(|cell| cell.epoch == self.epoch && self.epoch > 0)
    }

    fn start(&mut self, n_items: usize) {
        self.n_reached = 0;
        if self.cells.len() < n_items {
            self.cells.resize(n_items, Cell::default());
            self.reached.resize(n_items + 1, 0);
        }
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.cells.fill(Cell::default());
            self.epoch = 1;
        }
    }

    /// Adds `similarity` to `item`. Without a branch on whether the item is new, which half of them are.
    #[inline]
    fn add(&mut self, item: u32, similarity: f32, is_last: bool) {
        let cell = &mut self.cells[item as usize];
        let is_new = cell.epoch != self.epoch;
        self.reached[self.n_reached] = item;
        self.n_reached += usize::from(is_new);
        let before = if is_new { Cell::NOTHING } else { *cell };
        *cell = Cell {
            epoch: self.epoch,
            sum: before.sum + similarity,
            max: before.max.max(similarity),
            last: if is_last { similarity } else { before.last },
        };
    }
}

/// Replaces what `scratch` holds by the similarities to `history` of every item that its rows reach.
///
/// `history` is most recent first; the weight of an entry, by position, recency and event type, multiplies its row.
/// Items beyond the rows, newer than the release, are ignored. Cost: O(neighbours of the history), 20,000 in about
/// 40 us while the cells are in the cache.
pub fn score_history(rows: &ItemRows, history: &[(ItemId, f32)], scratch: &mut ScoreScratch) {
    let columns = rows.columns();
    scratch.start(columns.n_items());
    for (position, &(item, weight)) in history.iter().enumerate() {
        let (neighbours, similarities) = columns.row(item);
        for (&other, similarity) in neighbours.iter().zip(similarities) {
            scratch.add(other, weight * similarity, position == 0);
        }
    }
}
