//! Ranking quality of one list. Means over query groups and their intervals are in [`crate::intervals`].
//!
//! In all of these, `ranked` is the list as shown, best first, each item at most once, and `relevant` holds the group's
//! held-out positives. `None` if nothing is relevant or `k` is 0, so that a mean cannot count the group as 0; an empty
//! list of a group with relevant items is worth 0.

use featurestore::ItemId;
use rustc_hash::{FxHashMap, FxHashSet};

/// NDCG@k of one query group, with binary gains, in `[0, 1]`.
///
/// The ideal list is cut at `min(k, relevant.len())`. Cost: O(k) look-ups.
/// Source: "Cumulated gain-based evaluation of IR techniques", TOIS 20(4), 2002.
pub fn ndcg_at_k(ranked: &[ItemId], relevant: &FxHashSet<ItemId>, k: usize) -> Option<f64> {
    let ideal: f64 = (0..k.min(relevant.len())).map(discount).sum();
    let gain: f64 = hits(ranked, relevant, k).map(discount).sum();
    (ideal > 0.0).then(|| gain / ideal)
}

/// NDCG@k of one query group, each relevant item having its own gain, in `[0, 1]`.
///
/// Gains are finite and not negative; they are taken as they are: give `2^grade - 1` for the exponential form. The
/// ideal list is the best `k` gains. `None` if no gain is positive. Cost: O(k + n log n) in the number n of gains.
pub fn graded_ndcg_at_k(
    ranked: &[ItemId],
    gains: &FxHashMap<ItemId, f64>,
    k: usize,
) -> Option<f64> {
    let discounted = |(position, gain): (usize, f64)| gain * discount(position);
    let mut best: Vec<f64> = gains.values().copied().collect();
    best.sort_unstable_by(|a, b| b.total_cmp(a));
    let ideal: f64 = best.into_iter().take(k).enumerate().map(discounted).sum();
    let shown = ranked.iter().take(k).map(|item| gains.get(item).copied().unwrap_or(0.0));
    let gain: f64 = shown.enumerate().map(discounted).sum();
    (ideal > 0.0).then(|| gain / ideal)
}

/// Recall@k with all relevant items below the line, `recall@k/n`: it cannot reach 1 where more than `k` are relevant.
pub fn recall_at_k_per_relevant(
    ranked: &[ItemId],
    relevant: &FxHashSet<ItemId>,
    k: usize,
) -> Option<f64> {
    share(hits(ranked, relevant, k).count() as f64, relevant, k, relevant.len())
}

/// Recall@k with the most hits that `k` places can hold below the line, `recall@k/min`.
pub fn recall_at_k_per_reachable(
    ranked: &[ItemId],
    relevant: &FxHashSet<ItemId>,
    k: usize,
) -> Option<f64> {
    share(hits(ranked, relevant, k).count() as f64, relevant, k, k.min(relevant.len()))
}

/// Precision@k: hits over `k`, also where the list is shorter.
pub fn precision_at_k(ranked: &[ItemId], relevant: &FxHashSet<ItemId>, k: usize) -> Option<f64> {
    share(hits(ranked, relevant, k).count() as f64, relevant, k, k)
}

/// Whether a hit is among the first `k`: 0 or 1.
pub fn hit_rate_at_k(ranked: &[ItemId], relevant: &FxHashSet<ItemId>, k: usize) -> Option<f64> {
    share(hits(ranked, relevant, k).take(1).count() as f64, relevant, k, 1)
}

/// One over the position of the first hit, counted from 1; 0 if there is none among the first `k`. Its mean is MRR@k.
pub fn reciprocal_rank_at_k(
    ranked: &[ItemId],
    relevant: &FxHashSet<ItemId>,
    k: usize,
) -> Option<f64> {
    let first = hits(ranked, relevant, k).next();
    share(first.map_or(0.0, |position| 1.0 / (position + 1) as f64), relevant, k, 1)
}

/// Average precision over the most hits that `k` places can hold. Its mean is `map@k/min`.
pub fn average_precision_at_k_per_reachable(
    ranked: &[ItemId],
    relevant: &FxHashSet<ItemId>,
    k: usize,
) -> Option<f64> {
    share(precision_at_hits(ranked, relevant, k), relevant, k, k.min(relevant.len()))
}

/// Average precision over all relevant items. Its mean is `map@k/n`, trec_eval's `map_cut_k`.
pub fn average_precision_at_k_per_relevant(
    ranked: &[ItemId],
    relevant: &FxHashSet<ItemId>,
    k: usize,
) -> Option<f64> {
    share(precision_at_hits(ranked, relevant, k), relevant, k, relevant.len())
}

/// What a hit at `position` is worth; position 0 is the top.
fn discount(position: usize) -> f64 {
    1.0 / (position as f64 + 2.0).log2()
}

/// Positions of the hits among the first `k`, from 0.
fn hits(ranked: &[ItemId], relevant: &FxHashSet<ItemId>, k: usize) -> impl Iterator<Item = usize> {
    let places = ranked.iter().take(k).enumerate();
    places.filter(|(_, item)| relevant.contains(item)).map(|(position, _)| position)
}

/// Sum of the precisions at the positions of the hits.
fn precision_at_hits(ranked: &[ItemId], relevant: &FxHashSet<ItemId>, k: usize) -> f64 {
    let numbered = hits(ranked, relevant, k).enumerate();
    numbered.map(|(earlier, position)| (earlier + 1) as f64 / (position + 1) as f64).sum()
}

/// `amount / whole` of a group that counts.
fn share(amount: f64, relevant: &FxHashSet<ItemId>, k: usize, whole: usize) -> Option<f64> {
    (k > 0 && !relevant.is_empty()).then(|| amount / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Measure, Metric};
    use proptest::prelude::*;
    use proptest::sample::subsequence;

    fn items(ids: impl IntoIterator<Item = u32>) -> FxHashSet<ItemId> {
        ids.into_iter().map(ItemId).collect()
    }

    /// A list of up to 30 of 40 items, and some relevant ones.
    fn group() -> impl Strategy<Value = (Vec<ItemId>, FxHashSet<ItemId>)> {
        let all: Vec<u32> = (0..40).collect();
        let ranked = subsequence(all.clone(), 0..30).prop_shuffle();
        (ranked, subsequence(all, 0..12)).prop_map(|(ranked, relevant)| {
            (ranked.into_iter().map(ItemId).collect(), items(relevant))
        })
    }

    #[test]
    fn ndcg_ignores_relevant_items_below_the_cut() {
        let shown = [ItemId(1), ItemId(2), ItemId(3)];
        assert_eq!(ndcg_at_k(&shown, &items([3]), 2), Some(0.0));
    }

    #[test]
    fn graded_ndcg_is_that_worked_by_hand() {
        let gains = FxHashMap::from_iter([(ItemId(1), 3.0), (ItemId(2), 1.0), (ItemId(3), 7.0)]);
        let shown = [ItemId(2), ItemId(9), ItemId(1)];
        let expected = (1.0 + 3.0 / 2.0) / (7.0 + 3.0 / 3f64.log2() + 1.0 / 2.0);
        let value = graded_ndcg_at_k(&shown, &gains, 3).unwrap();
        assert!((value - expected).abs() < 1e-12);
    }

    #[test]
    fn the_two_recalls_part_where_more_are_relevant_than_places() {
        let shown = [ItemId(1), ItemId(2)];
        assert_eq!(recall_at_k_per_relevant(&shown, &items([1, 2, 3, 4]), 2), Some(0.5));
        assert_eq!(recall_at_k_per_reachable(&shown, &items([1, 2, 3, 4]), 2), Some(1.0));
    }

    #[test]
    fn precision_divides_by_k_although_the_list_is_shorter() {
        assert_eq!(precision_at_k(&[ItemId(1)], &items([1]), 4), Some(0.25));
    }

    #[test]
    fn an_empty_list_counts_as_nothing_found() {
        for measure in Measure::ALL {
            assert_eq!(Metric { measure, k: 10 }.compute(&[], &items([1])), Some(0.0));
        }
    }

    proptest! {
        #[test]
        fn a_metric_lies_between_0_and_1_and_is_undefined_only_without_relevant_items(
            (ranked, relevant) in group(),
            k in 1usize..35,
        ) {
            for measure in Measure::ALL {
                match (Metric { measure, k }).compute(&ranked, &relevant) {
                    Some(value) => prop_assert!((0.0..=1.0 + 1e-12).contains(&value)),
                    None => prop_assert!(relevant.is_empty()),
                }
                prop_assert_eq!((Metric { measure, k: 0 }).compute(&ranked, &relevant), None);
            }
        }

        #[test]
        fn a_list_with_all_relevant_items_first_is_ideal((ranked, relevant) in group(), k in 1usize..35) {
            prop_assume!(!relevant.is_empty());
            let mut ideal: Vec<ItemId> = relevant.iter().copied().collect();
            ideal.extend(ranked.iter().filter(|item| !relevant.contains(item)));
            for measure in [
                Measure::Ndcg,
                Measure::RecallPerReachable,
                Measure::HitRate,
                Measure::ReciprocalRank,
                Measure::AveragePrecisionPerReachable,
            ] {
                let value = Metric { measure, k }.compute(&ideal, &relevant).unwrap();
                prop_assert!((value - 1.0).abs() < 1e-12, "{:?}: {}", measure, value);
            }
        }

        #[test]
        fn moving_a_hit_up_by_a_place_lowers_no_metric((ranked, relevant) in group(), k in 1usize..35) {
            for place in 1..ranked.len() {
                let (above, below) = (ranked[place - 1], ranked[place]);
                if relevant.contains(&above) || !relevant.contains(&below) {
                    continue;
                }
                let mut better = ranked.clone();
                better.swap(place - 1, place);
                for measure in Measure::ALL {
                    let of = |list: &[ItemId]| (Metric { measure, k }).compute(list, &relevant).unwrap();
                    prop_assert!(of(&better) >= of(&ranked) - 1e-12, "{:?}", measure);
                }
            }
        }

        #[test]
        fn binary_gains_make_graded_ndcg_the_binary_one((ranked, relevant) in group(), k in 1usize..35) {
            let gains = relevant.iter().map(|&item| (item, 1.0)).collect();
            let graded = graded_ndcg_at_k(&ranked, &gains, k);
            let binary = ndcg_at_k(&ranked, &relevant, k);
            prop_assert_eq!(graded.is_some(), binary.is_some());
            prop_assert!((graded.unwrap_or(0.0) - binary.unwrap_or(0.0)).abs() < 1e-12);
        }
    }
}
