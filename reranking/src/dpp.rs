//! A determinantal point process, greedily: an item gains by what the items before it do not span together.

use std::collections::VecDeque;

use crate::similarity::Similarity;

/// What an item adds is not taken for smaller than this: below, `f32` cannot tell it from nothing.
const SMALLEST_GAIN: f32 = 1e-4;

/// Greedy search for the list with the largest determinant of the kernel `q_i * S_ij * q_j`, where `S` is the similarity
/// and the quality is `q_i = exp(theta * relevance_i)` with `theta = (1 - diversity) / (2 * diversity)`.
///
/// The determinant grows by `q_i^2 * d_i^2`, `d_i^2` being what remains of `S_ii` given the items chosen so far. Only its
/// logarithm is compared, scaled by `diversity`: `(1 - diversity) * relevance_i + diversity * ln(d_i^2)`. So nothing
/// overflows as diversity goes to 0. `d_i^2` is kept by an incremental Cholesky factorisation of `S` over the last
/// `window` items; the item that leaves the window is rotated out of the factor. Cost: O(n * (dim + window)) for each
/// choice. Source: "Fast greedy MAP inference for determinantal point process to improve recommendation diversity",
/// NeurIPS 2018.
pub(crate) struct Dpp<'a> {
    diversity: f32,
    relevance: &'a [f32],
    similarity: Similarity<'a>,
    window: usize,
    /// The last chosen items. One that adds nothing to the others has no column in the factor.
    chosen: VecDeque<usize>,
    factor: Vec<Column>,
    /// `d_i^2`.
    gains: Vec<f32>,
}

/// A column of the factor: the item that was eliminated, and its entry in the row of each item.
struct Column {
    rank: usize,
    entries: Vec<f32>,
}

impl<'a> Dpp<'a> {
    pub(crate) fn new(
        diversity: f32,
        window: usize,
        relevance: &'a [f32],
        similarity: Similarity<'a>,
    ) -> Self {
        Self {
            diversity,
            relevance,
            similarity,
            window,
            chosen: VecDeque::new(),
            factor: Vec::new(),
            gains: vec![1.0; relevance.len()],
        }
    }

    pub(crate) fn value(&self, rank: usize) -> f32 {
        let novelty = self.gains[rank].max(SMALLEST_GAIN).ln();
        (1.0 - self.diversity) * self.relevance[rank] + self.diversity * novelty
    }

    pub(crate) fn choose(&mut self, rank: usize) {
        if self.chosen.len() == self.window.max(1) {
            self.forget_first();
        }
        self.chosen.push_back(rank);
        self.eliminate(rank);
    }

    /// Adds the column of the item at `rank` to the factor, unless the others already span it.
    fn eliminate(&mut self, rank: usize) {
        if self.gains[rank] <= SMALLEST_GAIN {
            return;
        }
        let mut entries = self.similarity.row(rank, self.relevance.len());
        for column in &self.factor {
            let at_rank = column.entries[rank];
            subtract_scaled(&mut entries, &column.entries, at_rank);
        }
        let pivot = self.gains[rank].sqrt();
        for (entry, gain) in entries.iter_mut().zip(&mut self.gains) {
            *entry /= pivot;
            *gain = (*gain - *entry * *entry).max(0.0);
        }
        // Exactly, whatever the rounding: rotations rely on the pivot.
        entries[rank] = pivot;
        self.gains[rank] = 0.0;
        self.factor.push(Column { rank, entries });
    }

    /// Takes the oldest chosen item out of the window, and gives back what only it had taken from the others.
    fn forget_first(&mut self) {
        let Some(oldest) = self.chosen.pop_front() else { return };
        let Some(at) = self.factor.iter().position(|column| column.rank == oldest) else { return };
        let mut removed = self.factor.remove(at).entries;
        for Column { rank, entries } in &mut self.factor[at..] {
            rotate(entries, &mut removed, *rank);
        }
        for (gain, entry) in self.gains.iter_mut().zip(&removed) {
            *gain += entry * entry;
        }
        // What the removed item alone had spanned must come into the factor now.
        for rank in self.chosen.clone() {
            if self.factor.iter().all(|column| column.rank != rank) {
                self.eliminate(rank);
            }
        }
    }
}

fn subtract_scaled(entries: &mut [f32], column: &[f32], scale: f32) {
    entries.iter_mut().zip(column).for_each(|(entry, other)| *entry -= scale * other);
}

/// Rotates two columns so that `removed` becomes 0 at `pivot`. The products of rows stay the same.
fn rotate(column: &mut [f32], removed: &mut [f32], pivot: usize) {
    let length = column[pivot].hypot(removed[pivot]);
    let (cos, sin) = (column[pivot] / length, removed[pivot] / length);
    for (kept, gone) in column.iter_mut().zip(removed) {
        (*kept, *gone) = (cos * *kept + sin * *gone, cos * *gone - sin * *kept);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::slate::{CategoryColumn, Vectors};

    const DIM: usize = 12;

    fn unit_vectors(n: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f32>> {
        let vector = vec(-1f32..1.0, DIM).prop_map(|mut vector| {
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-3);
            vector.iter_mut().for_each(|x| *x /= norm);
            vector
        });
        vec(vector, n).prop_map(|vectors| vectors.concat())
    }

    /// Determinant by elimination, in `f64`.
    fn determinant(mut matrix: Vec<Vec<f64>>) -> f64 {
        let mut product = 1.0;
        for pivot in 0..matrix.len() {
            product *= matrix[pivot][pivot];
            let (above, below) = matrix.split_at_mut(pivot + 1);
            let above = &above[pivot];
            for row in below {
                let factor = row[pivot] / above[pivot];
                row.iter_mut().zip(above).for_each(|(x, y)| *x -= factor * y);
            }
        }
        product
    }

    fn kernel(similarity: Similarity<'_>, ranks: &[usize], n: usize) -> Vec<Vec<f64>> {
        let row = |&a: &usize| {
            let row = similarity.row(a, n);
            ranks.iter().map(|&b| f64::from(row[b])).collect()
        };
        ranks.iter().map(row).collect()
    }

    proptest! {
        #[test]
        fn values_equal_the_growth_of_the_determinant(
            values in unit_vectors(2..9), diversity in 0.05f32..1.0, window in 1usize..9,
        ) {
            let n = values.len() / DIM;
            let similarity = Similarity::Vectors(Vectors { values: &values, dim: DIM });
            let relevance: Vec<f32> = (0..n).map(|i| 1.0 / (i as f32 + 1.0)).collect();
            let mut dpp = Dpp::new(diversity, window, &relevance, similarity);
            let mut chosen: Vec<usize> = Vec::new();
            for _ in 0..n {
                let recent = &chosen[chosen.len().saturating_sub(window)..];
                let before = determinant(kernel(similarity, recent, n));
                let mut best = (f32::NEG_INFINITY, 0);
                for rank in (0..n).filter(|rank| !chosen.contains(rank)) {
                    let with: Vec<usize> = recent.iter().copied().chain([rank]).collect();
                    let growth = (determinant(kernel(similarity, &with, n)) / before).ln() as f32;
                    let expected = (1.0 - diversity) * relevance[rank] + diversity * growth;
                    let found = dpp.value(rank);
                    if growth > -6.0 {
                        prop_assert!((found - expected).abs() < 5e-3, "{found} is not {expected}");
                    }
                    best = if found > best.0 { (found, rank) } else { best };
                }
                dpp.choose(best.1);
                chosen.push(best.1);
            }
        }

        #[test]
        fn items_that_are_equal_never_make_it_nan(
            codes in vec(0u32..3, 1..30), picks in vec(any::<prop::sample::Index>(), 0..60), window in 1usize..12,
        ) {
            let relevance = vec![0.5; codes.len()];
            let columns = [CategoryColumn { field: "c", codes: &codes }];
            let mut dpp = Dpp::new(0.5, window, &relevance, Similarity::Categories(&columns));
            let mut recent: VecDeque<u32> = VecDeque::new();
            for pick in picks {
                let rank = pick.index(codes.len());
                dpp.choose(rank);
                recent.push_back(codes[rank]);
                if recent.len() > window {
                    recent.pop_front();
                }
                for (rank, code) in codes.iter().enumerate() {
                    let expected = if recent.contains(code) { 0.0 } else { 1.0 };
                    prop_assert!((dpp.gains[rank] - expected).abs() < 1e-3);
                }
            }
        }
    }
}
