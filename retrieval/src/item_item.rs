//! Item-item models: trainers of sparse rows, and the scores that a history gives to its items' neighbours.
//!
//! Both trainers compute one row at a time with a dense accumulator, so that they need no memory for pairs, and the
//! result is the same for any number of threads.

use std::sync::{Mutex, PoisonError};

use featurestore::{Interaction, ItemId, Scored, Span, Timestamp, keep_best};
use rayon::prelude::*;

use crate::sparse::{ItemRows, RowsBuilder};

mod co_visitation;
mod cosine;
mod history;

pub use co_visitation::CoVisitation;
pub use cosine::CosineItems;
pub use history::{ScoreScratch, score_history};

/// Rows that one task computes: enough to make handing out tasks cheap, few enough to balance popular items.
const ROWS_PER_TASK: usize = 64;

/// Sums over the neighbours of one item: dense, cleared by reading.
struct Accumulator {
    /// `[n_items]`: sum and number of the addends.
    cells: Vec<(f32, u32)>,
    touched: Vec<u32>,
}

impl Accumulator {
    fn new(n_items: usize) -> Self {
        Self { cells: vec![(0.0, 0); n_items], touched: Vec::new() }
    }

    #[inline]
    fn add(&mut self, item: u32, value: f32) {
        let (sum, count) = &mut self.cells[item as usize];
        if *count == 0 {
            self.touched.push(item);
        }
        *sum += value;
        *count = count.saturating_add(1);
    }

    /// Calls `read(item, sum, number of addends)` for every item that was added to, and starts anew.
    fn drain(&mut self, mut read: impl FnMut(u32, f32, u32)) {
        for item in self.touched.drain(..) {
            let (sum, count) = std::mem::take(&mut self.cells[item as usize]);
            read(item, sum, count);
        }
    }
}

/// The best neighbours of one item so far.
struct BestNeighbours {
    kept: Vec<Scored>,
    n: usize,
    /// Weight of the worst of `n` neighbours: what is below cannot come in any more.
    floor: f32,
}

impl BestNeighbours {
    fn new(n: usize) -> Self {
        Self { kept: Vec::new(), n, floor: f32::MIN_POSITIVE }
    }

    /// Takes in `item`, if its weight is finite, positive and large enough. Cost: O(1) on average.
    #[inline]
    fn offer(&mut self, item: u32, weight: f32) {
        if weight >= self.floor && weight.is_finite() {
            self.kept.push(Scored { item: ItemId(item), score: weight });
            if self.kept.len() > 4 * self.n {
                keep_best(&mut self.kept, self.n);
                self.floor = self.kept.last().map_or(f32::INFINITY, |worst| worst.score);
            }
        }
    }

    /// Hands the neighbours to `rows`, best first, and starts anew.
    fn finish(&mut self, rows: &mut RowsBuilder) {
        keep_best(&mut self.kept, self.n);
        rows.push(&self.kept);
        self.kept.clear();
        self.floor = f32::MIN_POSITIVE;
    }
}

/// Computes the row of every item on the current pool, and keeps its `n_neighbours` best.
/// `row(item, accumulator, best)` finds the accumulator empty and leaves it so.
fn fit_rows(
    n_items: usize,
    n_neighbours: usize,
    row: impl Fn(u32, &mut Accumulator, &mut BestNeighbours) + Sync,
) -> ItemRows {
    let idle: Mutex<Vec<Accumulator>> = Mutex::default();
    let idle = || idle.lock().unwrap_or_else(PoisonError::into_inner);
    let fit_task = |first: usize| {
        let reused = idle().pop();
        let mut accumulator = reused.unwrap_or_else(|| Accumulator::new(n_items));
        let mut best = BestNeighbours::new(n_neighbours);
        let mut rows = RowsBuilder::default();
        for item in first..(first + ROWS_PER_TASK).min(n_items) {
            row(item as u32, &mut accumulator, &mut best);
            best.finish(&mut rows);
        }
        idle().push(accumulator);
        rows
    };
    let tasks = (0..n_items.div_ceil(ROWS_PER_TASK)).into_par_iter();
    let fitted: Vec<RowsBuilder> = tasks.map(|task| fit_task(task * ROWS_PER_TASK)).collect();
    let mut all = RowsBuilder::default();
    fitted.iter().for_each(|rows| all.append(rows));
    all.build()
}

/// Where each key's values lie after a stable sort by key: `[n_keys + 1]` offsets and `[n]` positions in the input.
fn group_by_key(
    n_keys: usize,
    keys: impl Iterator<Item = usize> + Clone,
) -> (Vec<usize>, Vec<u32>) {
    let mut offsets = vec![0usize; n_keys + 1];
    keys.clone().for_each(|key| offsets[key + 1] += 1);
    (0..n_keys).for_each(|key| offsets[key + 1] += offsets[key]);
    let mut next = offsets.clone();
    let mut positions = vec![0u32; offsets[n_keys]];
    for (position, key) in keys.enumerate() {
        positions[next[key]] = u32::try_from(position).expect("fewer than 2^32 interactions");
        next[key] += 1;
    }
    (offsets, positions)
}

/// Interactions that say something, by user and in the order of time.
fn by_user(interactions: &[Interaction], n_items: usize) -> (Vec<usize>, Vec<Interaction>) {
    let telling = |i: &&Interaction| i.weight.is_finite() && i.weight > 0.0;
    let kept: Vec<&Interaction> = interactions.iter().filter(telling).collect();
    assert!(kept.iter().all(|i| i.item.index() < n_items), "an item is not among the {n_items}");
    assert!(kept.is_sorted_by_key(|i| i.time), "the interactions are not in the order of time");
    let n_users = kept.iter().map(|i| i.user.index() + 1).max().unwrap_or(0);
    let (offsets, positions) = group_by_key(n_users, kept.iter().map(|i| i.user.index()));
    (offsets, positions.iter().map(|&position| *kept[position as usize]).collect())
}

/// `0.5^(age / half_life)`; 1 without a half-life, and for what is not older than `now`.
fn recency(time: Timestamp, now: Timestamp, half_life: Option<Span>) -> f32 {
    let Some(half_life) = half_life else { return 1.0 };
    let age_s = now.seconds_since(time).max(0.0);
    (-age_s / half_life.seconds()).exp2() as f32
}
