//! Are probabilities true? Predicted against observed rates, bin by bin.

use serde::{Deserialize, Serialize};

use crate::metrics::scores::Labelled;

/// Predictions of similar size, and what came of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// How many predictions there are, above 0.
    pub n: usize,
    /// Mean of the probabilities.
    pub predicted: f64,
    /// Share of positives.
    pub observed: f64,
}

/// About `n_bins` bins of equal size, lowest probabilities first; equal probabilities share a bin.
///
/// Sizes and not widths are equal, since the probabilities of a recommender crowd near 0. Empty without predictions
/// or bins. Cost: O(n log n).
pub fn reliability(labelled: &[Labelled], n_bins: usize) -> Vec<ReliabilityBin> {
    let mut sorted = labelled.to_vec();
    sorted.sort_unstable_by(|a, b| a.score.total_cmp(&b.score));
    let mut bins = Vec::with_capacity(n_bins);
    let mut start = 0;
    for bin in 1..=n_bins {
        let mut end = sorted.len() * bin / n_bins;
        while end > 0 && end < sorted.len() && sorted[end].score == sorted[end - 1].score {
            end += 1;
        }
        if start < end {
            bins.push(bin_of(&sorted[start..end]));
            start = end;
        }
    }
    bins
}

/// Expected calibration error: mean distance of predicted from observed rate, weighted by size. `None` without bins.
///
/// Source: "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015.
pub fn expected_calibration_error(bins: &[ReliabilityBin]) -> Option<f64> {
    let n: usize = bins.iter().map(|bin| bin.n).sum();
    let total: f64 =
        bins.iter().map(|bin| bin.n as f64 * (bin.predicted - bin.observed).abs()).sum();
    (n > 0).then(|| total / n as f64)
}

fn bin_of(rows: &[Labelled]) -> ReliabilityBin {
    let n = rows.len();
    let positives = rows.iter().filter(|row| row.positive).count();
    let predicted = rows.iter().map(|row| row.score).sum::<f64>() / n as f64;
    ReliabilityBin { n, predicted, observed: positives as f64 / n as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labelled(rows: &[(f64, bool)]) -> Vec<Labelled> {
        rows.iter().map(|&(score, positive)| Labelled { score, positive }).collect()
    }

    #[test]
    fn bins_are_those_worked_by_hand() {
        let rows = labelled(&[(0.75, true), (0.25, false), (0.125, false), (0.75, false)]);
        let bins = reliability(&rows, 2);
        let low = ReliabilityBin { n: 2, predicted: 0.1875, observed: 0.0 };
        let high = ReliabilityBin { n: 2, predicted: 0.75, observed: 0.5 };
        assert_eq!(bins, [low, high]);
        assert_eq!(expected_calibration_error(&bins), Some((0.1875 + 0.25) / 2.0));
        assert_eq!(expected_calibration_error(&reliability(&[], 10)), None);
    }

    proptest! {
        #[test]
        fn bins_hold_every_prediction_once_and_ascend(
            rows in proptest::collection::vec((0u8..12, any::<bool>()), 0..80),
            n_bins in 0usize..12,
        ) {
            let rows: Vec<(f64, bool)> = rows.into_iter().map(|(p, label)| (f64::from(p) / 11.0, label)).collect();
            let bins = reliability(&labelled(&rows), n_bins);
            let n: usize = bins.iter().map(|bin| bin.n).sum();
            prop_assert_eq!(n, if n_bins == 0 { 0 } else { rows.len() });
            prop_assert!(bins.len() <= n_bins);
            prop_assert!(bins.is_sorted_by(|a, b| a.predicted < b.predicted));
        }
    }
}
