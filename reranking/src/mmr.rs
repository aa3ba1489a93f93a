//! Maximal marginal relevance: an item loses by the item before it that is most like it.

use std::collections::VecDeque;

use crate::similarity::Similarity;

/// `(1 - diversity) * relevance - diversity * max similarity` to the last items chosen.
/// Source: "The use of MMR, diversity-based reranking for reordering documents and producing summaries", SIGIR 1998.
pub(crate) struct Mmr<'a> {
    diversity: f32,
    relevance: &'a [f32],
    similarity: Similarity<'a>,
    window: usize,
    /// Similarities of the last `window` chosen items to all others.
    rows: VecDeque<Vec<f32>>,
    /// Their maximum.
    closest: Vec<f32>,
}

impl<'a> Mmr<'a> {
    pub(crate) fn new(
        diversity: f32,
        window: usize,
        relevance: &'a [f32],
        similarity: Similarity<'a>,
    ) -> Self {
        let closest = vec![0.0; relevance.len()];
        Self { diversity, relevance, similarity, window, rows: VecDeque::new(), closest }
    }

    pub(crate) fn value(&self, rank: usize) -> f32 {
        (1.0 - self.diversity) * self.relevance[rank] - self.diversity * self.closest[rank]
    }

    /// Cost: O(n * dim), and O(n * window) once the window is full.
    pub(crate) fn choose(&mut self, rank: usize) {
        if self.rows.len() == self.window.max(1) {
            self.rows.pop_front();
            self.closest.fill(0.0);
            self.rows.iter().for_each(|row| take_max(&mut self.closest, row));
        }
        let row = self.similarity.row(rank, self.relevance.len());
        take_max(&mut self.closest, &row);
        self.rows.push_back(row);
    }
}

fn take_max(closest: &mut [f32], row: &[f32]) {
    closest.iter_mut().zip(row).for_each(|(max, &similarity)| *max = max.max(similarity));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slate::CategoryColumn;

    #[test]
    fn an_item_loses_by_its_likest_neighbour_until_that_leaves_the_window() {
        let column = [CategoryColumn { field: "c", codes: &[1, 1, 2, 3] }];
        let relevance = [0.9, 0.8, 0.5, 0.1];
        let mut mmr = Mmr::new(0.5, 1, &relevance, Similarity::Categories(&column));
        mmr.choose(0);
        assert_eq!((mmr.value(1), mmr.value(2)), (0.4 - 0.5, 0.25));
        mmr.choose(2);
        assert_eq!((mmr.value(1), mmr.value(3)), (0.4, 0.05));
    }
}
