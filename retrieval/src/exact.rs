//! The exact scan: inner products with every item.

use featurestore::{ItemId, Scored, best_first, keep_best};

use crate::kernels::{Products, dispatch};
use crate::vectors::{Vectors, dot, has_direction};

/// Rows whose products are computed before they are compared: 64 KiB of vectors at 64 dimensions, and products in L1.
const BLOCK_ROWS: usize = 256;

/// The `n` items with the largest inner products with `query` among those that `accept` lets pass, best first.
/// Items without a vector are left out.
///
/// Empty if `query` has a value that is not finite. Cost: one pass over `vectors`, at about the speed of memory; `accept` is
/// asked about those items only that would be among the best.
pub fn search_exact(
    vectors: &Vectors,
    query: &[f32],
    n: usize,
    accept: impl Fn(ItemId) -> bool,
) -> Vec<Scored> {
    assert_eq!(query.len(), vectors.dim(), "a query has as many dimensions as the items");
    if n == 0 || query.iter().any(|value| !value.is_finite()) {
        return Vec::new();
    }
    let mut best = BestList::new(n);
    let mut products = [0.0; BLOCK_ROWS];
    for (block, rows) in vectors.as_slice().chunks(BLOCK_ROWS * vectors.dim()).enumerate() {
        let products = &mut products[..rows.len() / vectors.dim()];
        dispatch(Products { query, rows, products });
        for (row, &score) in products.iter().enumerate() {
            let item = ItemId((block * BLOCK_ROWS + row) as u32);
            if best.has_room_for(score) && is_candidate(vectors, item, score) && accept(item) {
                best.push(Scored { item, score });
            }
        }
    }
    best.into_sorted()
}

/// As [`search_exact`], among `items` only. Cost: an inner product for each, and four bytes; those that lie apart are loaded ahead.
pub fn search_among(
    vectors: &Vectors,
    query: &[f32],
    n: usize,
    items: impl Iterator<Item = ItemId>,
) -> Vec<Scored> {
    assert_eq!(query.len(), vectors.dim(), "a query has as many dimensions as the items");
    if n == 0 || query.iter().any(|value| !value.is_finite()) {
        return Vec::new();
    }
    let (mut best, items) = (BestList::new(n), items.collect::<Vec<ItemId>>());
    vectors.look_at(&items, |i, vector| {
        let Some(vector) = vector else { return };
        let score = dot(query, vector);
        if best.has_room_for(score) {
            best.push(Scored { item: items[i], score });
        }
    });
    best.into_sorted()
}

/// Whether `item` has a vector. Only a product of zero can come from a row of zeros.
fn is_candidate(vectors: &Vectors, item: ItemId, score: f32) -> bool {
    score != 0.0 || has_direction(vectors.row(item))
}

/// The best of the items pushed so far, and at most as many again that may yet turn out not to be among them.
struct BestList {
    n: usize,
    /// Score of the `n`-th best item when the list was last cut. An item must be better: equal ones come in the order
    /// of their ids, so that a later one loses the tie.
    threshold: f32,
    items: Vec<Scored>,
}

impl BestList {
    fn new(n: usize) -> Self {
        Self { n, threshold: f32::NEG_INFINITY, items: Vec::new() }
    }

    fn has_room_for(&self, score: f32) -> bool {
        score > self.threshold
    }

    /// Cost: O(1) amortised.
    fn push(&mut self, scored: Scored) {
        self.items.push(scored);
        if self.items.len() == self.n.saturating_mul(2) {
            self.items.select_nth_unstable_by(self.n - 1, best_first);
            self.items.truncate(self.n);
            self.threshold = self.items[self.n - 1].score;
        }
    }

    fn into_sorted(mut self) -> Vec<Scored> {
        keep_best(&mut self.items, self.n);
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_scan_finds_the_head_of_the_sorted_list(
            values in proptest::collection::vec(-2i8..=2, 3 * 50..3 * 700),
            n in 0usize..60,
        ) {
            let rows: Vec<f32> = values.chunks_exact(3).flatten().map(|&v| f32::from(v)).collect();
            let vectors = Vectors::new(rows, 3).unwrap();
            let query = [1.0, -0.5, 0.25];
            let accept = |item: ItemId| item.0 % 3 != 1;
            let mut expected: Vec<Scored> = vectors
                .iter()
                .filter(|&(item, row)| has_direction(row) && accept(item))
                .map(|(item, row)| Scored { item, score: dot(&query, row) })
                .collect();
            keep_best(&mut expected, n);
            let passing = vectors.iter().map(|(item, _)| item).filter(|item| accept(*item));
            let among: Vec<Scored> = search_among(&vectors, &query, n, passing);
            prop_assert_eq!(&among, &expected);
            prop_assert_eq!(search_exact(&vectors, &query, n, accept), expected);
        }
    }

    #[test]
    fn a_query_that_is_not_finite_finds_nothing() {
        let vectors = Vectors::new(vec![1.0, 2.0], 2).unwrap();
        assert!(search_exact(&vectors, &[f32::NAN, 0.0], 1, |_| true).is_empty());
        assert!(search_exact(&vectors, &[f32::INFINITY, 0.0], 1, |_| true).is_empty());
    }
}
