//! Has a feature moved? The population stability index of two samples.

/// From here on a feature counts as drifted: the limit that credit scoring, where the index comes from, acts upon.
/// Source: "Credit Risk Scorecards" (Siddiqi, 2006).
pub const PSI_LIMIT: f64 = 0.2;

/// Population stability index of `now` against `before`: 0 if they are distributed alike, about 1 if they hardly meet.
///
/// The bins are `n_bins` quantiles of the present values of `before`; missing values (NaN) are a bin of their own, so
/// that a feature that ceases to be filled counts as drifted. Half a value is added to each bin, since an empty one
/// would make the index infinite. `None` if a sample is empty. Cost: O(n log n).
pub fn population_stability(before: &[f64], now: &[f64], n_bins: usize) -> Option<f64> {
    if before.is_empty() || now.is_empty() {
        return None;
    }
    let edges = quantile_edges(before, n_bins);
    let (was, is) = (shares(before, &edges), shares(now, &edges));
    Some(was.iter().zip(&is).map(|(was, is)| (is - was) * (is / was).ln()).sum())
}

/// Distinct inner edges, ascending: at most `n_bins - 1`. A value equal to an edge lies above it.
fn quantile_edges(values: &[f64], n_bins: usize) -> Vec<f64> {
    let mut present: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    present.sort_unstable_by(f64::total_cmp);
    let edge = |bin: usize| present.get(present.len() * bin / n_bins).copied();
    let mut edges: Vec<f64> = (1..n_bins).filter_map(edge).collect();
    edges.dedup();
    edges
}

/// Share of the values in each bin, the last one holding the missing: `[edges + 2]`.
fn shares(values: &[f64], edges: &[f64]) -> Vec<f64> {
    let mut counts = vec![0.5; edges.len() + 2];
    let missing = edges.len() + 1;
    for value in values {
        let bin =
            if value.is_nan() { missing } else { edges.partition_point(|edge| edge <= value) };
        counts[bin] += 1.0;
    }
    let total: f64 = counts.iter().sum();
    counts.into_iter().map(|count| count / total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(from: i32, to: i32) -> Vec<f64> {
        (from..to).map(f64::from).collect()
    }

    #[test]
    fn the_index_is_that_worked_by_hand() {
        // Two bins at the edge 2, and none missing: (2.5, 2.5, .5) / 5.5 against (.5, 4.5, .5) / 5.5.
        let expected = (2.0 / 5.5) * (2.5f64 / 0.5).ln() + (2.0 / 5.5) * (4.5f64 / 2.5).ln();
        let index = population_stability(&[0.0, 1.0, 2.0, 3.0], &[2.0, 2.0, 9.0, 3.0], 2).unwrap();
        assert!((index - expected).abs() < 1e-12);
    }

    #[test]
    fn equal_samples_have_not_drifted_and_a_shift_has() {
        assert_eq!(population_stability(&ramp(0, 100), &ramp(0, 100), 10), Some(0.0));
        let shifted = population_stability(&ramp(0, 1_000), &ramp(300, 1_300), 10).unwrap();
        assert!(shifted > PSI_LIMIT);
        assert_eq!(population_stability(&[], &[1.0], 10), None);
    }

    #[test]
    fn a_feature_that_ceases_to_be_filled_has_drifted() {
        let mut half: Vec<f64> = ramp(0, 100);
        half.iter_mut().step_by(2).for_each(|value| *value = f64::NAN);
        assert!(population_stability(&ramp(0, 100), &half, 10).unwrap() > PSI_LIMIT);
        assert!(population_stability(&[f64::NAN; 9], &[f64::NAN; 9], 10).unwrap() == 0.0);
    }
}
