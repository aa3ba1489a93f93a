//! Quality of scores rather than of lists: do positives score higher, and are probabilities true?

use std::cmp::Ordering;

/// A score, or a probability where a function asks for one, and what really happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Labelled {
    /// Score or probability: larger says more of a positive.
    pub score: f64,
    /// Whether it was a positive.
    pub positive: bool,
}

/// Area under the ROC curve, in `[0, 1]`: how often a positive scores higher than a negative; a tie counts half.
///
/// A NaN score counts as minus infinity, as in every order of the product. `None` unless there are both positives and
/// negatives. Cost: O(n log n).
pub fn auc(labelled: &[Labelled]) -> Option<f64> {
    let mut sorted = labelled.to_vec();
    sorted.sort_unstable_by(by_score);
    let n_positive = sorted.iter().filter(|row| row.positive).count();
    let pairs = n_positive as f64 * (sorted.len() - n_positive) as f64;
    let (mut negatives_below, mut won) = (0.0, 0.0);
    for tied in sorted.chunk_by(|a, b| by_score(a, b) == Ordering::Equal) {
        let positives = tied.iter().filter(|row| row.positive).count() as f64;
        let negatives = tied.len() as f64 - positives;
        won += positives * (negatives_below + negatives / 2.0);
        negatives_below += negatives;
    }
    (pairs > 0.0).then(|| won / pairs)
}

/// Probabilities are kept this far from 0 and 1, so that one certain mistake does not make a mean infinite. The value
/// is scikit-learn's for double precision.
const CLOSEST_TO_CERTAIN: f64 = f64::EPSILON;

/// Mean log loss in nats of probabilities in `[0, 1]`. `None` if there are none. Cost: O(n).
pub fn log_loss(labelled: &[Labelled]) -> Option<f64> {
    let loss = |row: &Labelled| {
        let p = row.score.clamp(CLOSEST_TO_CERTAIN, 1.0 - CLOSEST_TO_CERTAIN);
        -(if row.positive { p } else { 1.0 - p }).ln()
    };
    let total: f64 = labelled.iter().map(loss).sum();
    (!labelled.is_empty()).then(|| total / labelled.len() as f64)
}

/// Lowest first; NaN counts as minus infinity and -0 as 0.
fn by_score(a: &Labelled, b: &Labelled) -> Ordering {
    let key = |row: &Labelled| if row.score.is_nan() { f64::NEG_INFINITY } else { row.score + 0.0 };
    key(a).total_cmp(&key(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labelled(rows: &[(f64, bool)]) -> Vec<Labelled> {
        rows.iter().map(|&(score, positive)| Labelled { score, positive }).collect()
    }

    /// Few distinct scores, so that ties are frequent.
    fn rows() -> impl Strategy<Value = Vec<Labelled>> {
        let score =
            prop_oneof![Just(f64::NAN), Just(-0.0), (0u8..5).prop_map(|n| f64::from(n) / 4.0)];
        let row = (score, any::<bool>());
        proptest::collection::vec(
            row.prop_map(|(score, positive)| Labelled { score, positive }),
            0..60,
        )
    }

    fn auc_by_pairs(labelled: &[Labelled]) -> Option<f64> {
        let won: Vec<f64> = labelled
            .iter()
            .filter(|row| row.positive)
            .flat_map(|positive| {
                labelled
                    .iter()
                    .filter(|row| !row.positive)
                    .map(move |negative| (positive, negative))
            })
            .map(|(positive, negative)| match by_score(positive, negative) {
                Ordering::Greater => 1.0,
                Ordering::Equal => 0.5,
                Ordering::Less => 0.0,
            })
            .collect();
        (!won.is_empty()).then(|| won.iter().sum::<f64>() / won.len() as f64)
    }

    #[test]
    fn auc_counts_a_tie_as_half_a_win() {
        // Pairs: .8 over .4 and over .2 win, .4 ties .4, .4 over .2 wins.
        let rows = labelled(&[(0.8, true), (0.4, true), (0.4, false), (0.2, false)]);
        assert_eq!(auc(&rows), Some(3.5 / 4.0));
        assert_eq!(auc(&labelled(&[(0.8, true)])), None);
    }

    #[test]
    fn log_loss_is_that_worked_by_hand_and_finite_when_certainly_wrong() {
        let rows = labelled(&[(0.8, true), (0.4, false)]);
        assert_eq!(log_loss(&rows), Some(-(0.8f64.ln() + 0.6f64.ln()) / 2.0));
        assert!(log_loss(&labelled(&[(0.0, true), (1.0, false)])).unwrap().is_finite());
        assert_eq!(log_loss(&[]), None);
    }

    proptest! {
        #[test]
        fn auc_is_the_share_of_pairs_in_the_right_order(rows in rows()) {
            let (fast, slow) = (auc(&rows), auc_by_pairs(&rows));
            prop_assert_eq!(fast.is_some(), slow.is_some());
            prop_assert!((fast.unwrap_or(0.0) - slow.unwrap_or(0.0)).abs() < 1e-12);
        }
    }
}
