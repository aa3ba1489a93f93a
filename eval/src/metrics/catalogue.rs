//! Beyond accuracy: how much of the catalogue is shown, how evenly, how varied and how new a list is.

use featurestore::ItemId;

/// How often each item of the catalogue was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// Number of showings: `[n_items]`.
    counts: Vec<u64>,
}

impl Exposure {
    /// Nothing shown yet of a catalogue of `n_items`.
    pub fn new(n_items: usize) -> Self {
        Self { counts: vec![0; n_items] }
    }

    /// Counts a list as shown: cut it at k first. Items outside of the catalogue are not counted.
    pub fn add(&mut self, shown: &[ItemId]) {
        for item in shown {
            if let Some(count) = self.counts.get_mut(item.index()) {
                *count += 1;
            }
        }
    }

    /// Share of the catalogue that was shown, in `[0, 1]`. `None` of an empty catalogue. Cost: O(n_items).
    pub fn coverage(&self) -> Option<f64> {
        let n_shown = self.counts.iter().filter(|&&count| count > 0).count();
        (!self.counts.is_empty()).then(|| n_shown as f64 / self.counts.len() as f64)
    }

    /// Gini coefficient of the showings over all items of the catalogue, in `[0, 1]`: 0 if all are shown equally
    /// often, `1 - 1 / n_items` if one item has it all. `None` if nothing was shown. Cost: O(n log n) in `n_items`.
    pub fn gini(&self) -> Option<f64> {
        let mut ascending = self.counts.clone();
        ascending.sort_unstable();
        let n = ascending.len() as f64;
        let total: f64 = ascending.iter().map(|&count| count as f64).sum();
        let weighted: f64 = ascending
            .iter()
            .enumerate()
            .map(|(at, &count)| (2.0 * (at + 1) as f64 - n - 1.0) * count as f64)
            .sum();
        (total > 0.0).then(|| weighted / (n * total))
    }
}

/// Mean distance between two items of a list, each pair counting once. `None` below two items.
///
/// The range is that of `distance`, which must be symmetric. Cost: O(len^2) distances.
pub fn intra_list_diversity(
    shown: &[ItemId],
    distance: impl Fn(ItemId, ItemId) -> f64,
) -> Option<f64> {
    let pairs =
        shown.iter().enumerate().flat_map(|(at, &a)| shown[at + 1..].iter().map(move |&b| (a, b)));
    let total: f64 = pairs.map(|(a, b)| distance(a, b)).sum();
    let n_pairs = shown.len() * shown.len().saturating_sub(1) / 2;
    (n_pairs > 0).then(|| total / n_pairs as f64)
}

/// Mean self-information of a list's items in bits, `-log2(users of the item / all users)`: rare items are news.
///
/// `users` counts an item's users before the moment: `[n_items]`. An item without any counts as if it had one, since
/// it would make every mean infinite. `None` of an empty list or without users. Cost: O(len).
pub fn novelty(shown: &[ItemId], users: &[u64], n_users: u64) -> Option<f64> {
    let information = |item: &ItemId| {
        let of_item = users.get(item.index()).copied().unwrap_or(0).max(1);
        (n_users as f64 / of_item as f64).log2()
    };
    let total: f64 = shown.iter().map(information).sum();
    (!shown.is_empty() && n_users > 0).then(|| total / shown.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exposure(counts: &[u64]) -> Exposure {
        Exposure { counts: counts.to_vec() }
    }

    #[test]
    fn coverage_counts_items_and_not_showings() {
        let mut shown = Exposure::new(4);
        shown.add(&[ItemId(1), ItemId(2), ItemId(9)]);
        shown.add(&[ItemId(2)]);
        assert_eq!(shown, exposure(&[0, 1, 2, 0]));
        assert_eq!(shown.coverage(), Some(0.5));
        assert_eq!(Exposure::new(0).coverage(), None);
    }

    #[test]
    fn gini_is_that_worked_by_hand() {
        assert_eq!(exposure(&[5, 5, 5]).gini(), Some(0.0));
        assert_eq!(exposure(&[0, 0, 0, 8]).gini(), Some(0.75));
        // Mean absolute difference of 1, 2, 3, twice over the mean: (8 / 9) / (2 * 2).
        assert!((exposure(&[3, 1, 2]).gini().unwrap() - 2.0 / 9.0).abs() < 1e-12);
        assert_eq!(exposure(&[0, 0]).gini(), None);
    }

    #[test]
    fn diversity_is_the_mean_over_pairs() {
        let apart = |a: ItemId, b: ItemId| f64::from(a.0.abs_diff(b.0));
        // Distances 1, 3 and 2.
        assert_eq!(intra_list_diversity(&[ItemId(0), ItemId(1), ItemId(3)], apart), Some(2.0));
        assert_eq!(intra_list_diversity(&[ItemId(0)], apart), None);
        assert_eq!(intra_list_diversity(&[], apart), None);
    }

    #[test]
    fn novelty_is_measured_in_bits() {
        // 8 of 16 users: 1 bit; 1 of 16: 4 bits; nobody: as one user.
        assert_eq!(novelty(&[ItemId(0), ItemId(1)], &[8, 1, 0], 16), Some(2.5));
        assert_eq!(novelty(&[ItemId(2)], &[8, 1, 0], 16), Some(4.0));
        assert_eq!(novelty(&[], &[8], 16), None);
    }

    proptest! {
        #[test]
        fn gini_is_half_the_relative_mean_difference(counts in proptest::collection::vec(0u64..50, 1..40)) {
            let total: u64 = counts.iter().sum();
            let differences: u64 = counts.iter().flat_map(|a| counts.iter().map(|b| a.abs_diff(*b))).sum();
            let by_pairs = differences as f64 / (2.0 * counts.len() as f64 * total as f64);
            match exposure(&counts).gini() {
                Some(gini) => prop_assert!((gini - by_pairs).abs() < 1e-12),
                None => prop_assert_eq!(total, 0),
            }
        }
    }
}
