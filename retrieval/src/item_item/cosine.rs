//! Cosine between items: which items the same users have.

use featurestore::{Interaction, Span, Timestamp};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{by_user, fit_rows, group_by_key, recency};
use crate::sparse::ItemRows;

/// Fits the cosine between the columns of the matrix users x items, whose entries are `ln(1 + decayed count)`.
///
/// `cosine(a, b) = <a, b> / (|a| * |b| + shrink)`: shrinkage keeps down pairs that few users support.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CosineItems {
    /// After this time an interaction counts half; `None`: interactions do not age.
    pub half_life: Option<Span>,
    /// Added to the denominator.
    pub shrink: f32,
    /// Distinct items that count for a user, the latest ones: a user with n items costs O(n^2).
    pub max_history: usize,
    /// Neighbours that a row keeps.
    pub n_neighbours: usize,
}

impl Default for CosineItems {
    fn default() -> Self {
        Self { half_life: None, shrink: 10.0, max_history: 500, n_neighbours: 100 }
    }
}

/// Entries `(item or user, weight)` in compressed rows.
struct Matrix {
    offsets: Vec<usize>,
    entries: Vec<(u32, f32)>,
}

impl Matrix {
    fn row(&self, index: usize) -> &[(u32, f32)] {
        &self.entries[self.offsets[index]..self.offsets[index + 1]]
    }

    fn transposed(&self, n_columns: usize) -> Self {
        let columns = self.entries.iter().map(|&(column, _)| column as usize);
        let (offsets, positions) = group_by_key(n_columns, columns);
        let n_rows = self.offsets.len() - 1;
        let rows: Vec<u32> = (0..n_rows)
            .flat_map(|row| std::iter::repeat_n(row as u32, self.row(row).len()))
            .collect();
        let entry = |&position: &u32| (rows[position as usize], self.entries[position as usize].1);
        Self { offsets, entries: positions.iter().map(entry).collect() }
    }
}

impl CosineItems {
    /// Fits the rows of the items `0..n_items` to interactions in the order of time, as of `now`.
    ///
    /// Interactions without a positive weight say nothing. Cost: O(sum over users of their items squared).
    pub fn fit(&self, interactions: &[Interaction], n_items: usize, now: Timestamp) -> ItemRows {
        let users = self.user_rows(interactions, n_items, now);
        let items = users.transposed(n_items);
        let norms: Vec<f32> = (0..n_items).map(|item| norm(items.row(item))).collect();
        fit_rows(n_items, self.n_neighbours, |item, accumulator, best| {
            for &(user, weight) in items.row(item as usize) {
                for &(other, other_weight) in users.row(user as usize) {
                    accumulator.add(other, weight * other_weight);
                }
            }
            accumulator.drain(|other, dot, _| {
                if other != item {
                    let lengths = norms[item as usize] * norms[other as usize];
                    best.offer(other, dot / (lengths + self.shrink));
                }
            });
        })
    }

    fn user_rows(&self, interactions: &[Interaction], n_items: usize, now: Timestamp) -> Matrix {
        let (bounds, ordered) = by_user(interactions, n_items);
        let rows: Vec<Vec<(u32, f32)>> = bounds
            .par_windows(2)
            .map(|user| self.user_row(&ordered[user[0]..user[1]], now))
            .collect();
        let mut offsets = vec![0];
        let mut end = 0;
        for row in &rows {
            end += row.len();
            offsets.push(end);
        }
        Matrix { offsets, entries: rows.concat() }
    }

    /// The latest distinct items of one user's `history`, by id.
    fn user_row(&self, history: &[Interaction], now: Timestamp) -> Vec<(u32, f32)> {
        let mut visits: Vec<(u32, usize)> =
            history.iter().enumerate().map(|(at, visit)| (visit.item.0, at)).collect();
        visits.sort_unstable();
        let mut items: Vec<(usize, u32, f32)> = visits
            .chunk_by(|a, b| a.0 == b.0)
            .map(|same| {
                let counts = same.iter().map(|&(_, at)| {
                    history[at].weight * recency(history[at].time, now, self.half_life)
                });
                (same[same.len() - 1].1, same[0].0, counts.sum::<f32>().ln_1p())
            })
            .collect();
        items.sort_unstable_by_key(|&(last, ..)| std::cmp::Reverse(last));
        items.truncate(self.max_history);
        items.sort_unstable_by_key(|&(_, item, _)| item);
        items.into_iter().map(|(_, item, weight)| (item, weight)).collect()
    }
}

fn norm(column: &[(u32, f32)]) -> f32 {
    column.iter().map(|&(_, weight)| f64::from(weight).powi(2)).sum::<f64>().sqrt() as f32
}
