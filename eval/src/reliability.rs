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

/// Buckets for each unit of log-odds: the probabilities of one bucket lie within 1.6 % of each other.
const BUCKETS_PER_UNIT: f64 = 64.0;

/// Log-odds beyond this, which are chances of one in 26 billion, share the outermost bucket.
const MOST_LOG_ODDS: f64 = 24.0;

/// What a probability of 1 is in a bucket's sum. With integers, a sum does not depend on the order of its rows.
const ONE: f64 = (1_u64 << 52) as f64;

/// Predictions and what came of them, in narrow buckets of log-odds: the memory that it takes does not depend on their
/// number, which for a thousand candidates of each question is large.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Lowest probabilities first.
    buckets: Vec<Bucket>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bucket {
    n: u64,
    n_positive: u64,
    /// Sum of the probabilities, in parts of [`ONE`].
    predicted: u128,
}

impl Default for Tally {
    fn default() -> Self {
        let n_buckets = (2.0 * MOST_LOG_ODDS * BUCKETS_PER_UNIT) as usize + 1;
        Self { buckets: vec![Bucket::default(); n_buckets] }
    }
}

impl Tally {
    /// Counts predictions in: their scores are probabilities in `[0, 1]`. Cost: O(1) for each.
    pub fn add(&mut self, predictions: &[Labelled]) {
        for Labelled { score, positive } in predictions {
            let log_odds = (score / (1.0 - score)).ln().clamp(-MOST_LOG_ODDS, MOST_LOG_ODDS);
            let place = ((log_odds + MOST_LOG_ODDS) * BUCKETS_PER_UNIT) as usize;
            let bucket = &mut self.buckets[place];
            bucket.n += 1;
            bucket.n_positive += u64::from(*positive);
            bucket.predicted += (score * ONE) as u128;
        }
    }

    /// At most `n_bins` bins that expect about equally many positives, lowest probabilities first; what shares a bucket
    /// shares a bin.
    ///
    /// Neither widths nor sizes are equal, since the probabilities of a recommender crowd near 0: all but one of equal
    /// bins would hold what is next to impossible. Empty without predictions or bins. Cost: O(buckets).
    pub fn bins(&self, n_bins: usize) -> Vec<ReliabilityBin> {
        let all: u128 = self.buckets.iter().map(|bucket| bucket.predicted).sum();
        let (mut bins, mut open, n_bins) = (Vec::new(), Bucket::default(), n_bins as u128);
        let (mut expected, mut wanted) = (0, 1);
        for bucket in self.buckets.iter().filter(|bucket| bucket.n > 0 && n_bins > 0) {
            open.absorb(bucket);
            expected += bucket.predicted;
            if expected * n_bins >= all * wanted {
                bins.push(std::mem::take(&mut open).bin());
                wanted = (expected * n_bins).checked_div(all).unwrap_or(0) + 1;
            }
        }
        bins
    }
}

impl Bucket {
    fn absorb(&mut self, other: &Self) {
        self.n += other.n;
        self.n_positive += other.n_positive;
        self.predicted += other.predicted;
    }

    fn bin(self) -> ReliabilityBin {
        let n = self.n as f64;
        let predicted = self.predicted as f64 / ONE / n;
        ReliabilityBin { n: self.n as usize, predicted, observed: self.n_positive as f64 / n }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labelled(rows: &[(f64, bool)]) -> Vec<Labelled> {
        rows.iter().map(|&(score, positive)| Labelled { score, positive }).collect()
    }

    fn tally(rows: &[Labelled]) -> Tally {
        let mut tally = Tally::default();
        tally.add(rows);
        tally
    }

    #[test]
    fn bins_are_those_worked_by_hand() {
        // Each of the two expects one positive.
        let low = [(0.125, false), (0.25, false), (0.25, true), (0.375, false)];
        let rows = [&low[..], &[(0.5, true), (0.5, true)]].concat();
        let bins = tally(&labelled(&rows)).bins(2);
        let low = ReliabilityBin { n: 4, predicted: 0.25, observed: 0.25 };
        let high = ReliabilityBin { n: 2, predicted: 0.5, observed: 1.0 };
        assert_eq!(bins, [low, high]);
        assert_eq!(expected_calibration_error(&bins), Some(2.0 * 0.5 / 6.0));
        assert_eq!(expected_calibration_error(&tally(&[]).bins(10)), None);
    }

    #[test]
    fn certain_and_impossible_predictions_are_counted_in() {
        let bins = tally(&labelled(&[(0.0, false), (1.0, true), (1e-300, true)])).bins(2);
        assert_eq!(bins, [ReliabilityBin { n: 3, predicted: 1.0 / 3.0, observed: 2.0 / 3.0 }]);
        let bins = tally(&labelled(&[(0.0, false), (0.0, true)])).bins(2);
        assert_eq!(bins, [ReliabilityBin { n: 2, predicted: 0.0, observed: 0.5 }]);
    }

    #[test]
    fn the_order_of_the_predictions_changes_nothing() {
        let rows: Vec<(f64, bool)> =
            (1u32..500).map(|i| (1.0 / f64::from(i), i % 7 == 0)).collect();
        let reversed: Vec<(f64, bool)> = rows.iter().rev().copied().collect();
        assert_eq!(tally(&labelled(&rows)), tally(&labelled(&reversed)));
    }

    proptest! {
        #[test]
        fn bins_hold_every_prediction_once_and_ascend(
            rows in proptest::collection::vec((0u8..12, any::<bool>()), 0..80),
            n_bins in 0usize..12,
        ) {
            let rows: Vec<(f64, bool)> = rows.into_iter().map(|(p, label)| (f64::from(p) / 11.0, label)).collect();
            let bins = tally(&labelled(&rows)).bins(n_bins);
            let n: usize = bins.iter().map(|bin| bin.n).sum();
            prop_assert_eq!(n, if n_bins == 0 { 0 } else { rows.len() });
            prop_assert!(bins.len() <= n_bins);
            prop_assert!(bins.is_sorted_by(|a, b| a.predicted < b.predicted));
        }
    }
}
