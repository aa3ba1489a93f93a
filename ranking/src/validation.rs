//! What early stopping looks at. LightGBM's own metrics add up in an order that depends on the
//! number of threads, so that the last bit, and with it the iteration that is kept, would too.

use std::cmp::Ordering;

use crate::groups::Groups;

/// Mean NDCG@k with gains `2^label - 1` over the groups that have a positive; 0 if none has.
///
/// `scores` is `[n_rows]`; ties keep the order of the rows, as in LightGBM.
pub(crate) fn ndcg(groups: &Groups, scores: &[f64], k: usize) -> f64 {
    let of_group = |range: std::ops::Range<usize>| {
        group_ndcg(&groups.labels[range.clone()], &scores[range], k)
    };
    let values: Vec<f64> = groups.ranges().filter_map(of_group).collect();
    values.iter().sum::<f64>() / (values.len() as f64).max(1.0)
}

/// `None` for a group without a positive, which any order ranks perfectly.
fn group_ndcg(labels: &[f32], scores: &[f64], k: usize) -> Option<f64> {
    let mut shown: Vec<usize> = (0..labels.len()).collect();
    shown.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal));
    let mut ideal: Vec<f32> = labels.to_vec();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let best = dcg(ideal.into_iter().take(k));
    (best > 0.0).then(|| dcg(shown.iter().take(k).map(|&row| labels[row])) / best)
}

fn dcg(labels: impl Iterator<Item = f32>) -> f64 {
    let gain = |(position, label): (usize, f32)| {
        (f64::from(label).exp2() - 1.0) / (position as f64 + 2.0).log2()
    };
    labels.enumerate().map(gain).sum()
}

/// Weighted mean of the logarithmic loss; a label above 0 is positive. `probabilities` is
/// `[n_rows]`.
pub(crate) fn log_loss(groups: &Groups, probabilities: &[f64]) -> f64 {
    // LightGBM's bound, so that a certain but wrong row costs much instead of everything.
    const SMALLEST: f64 = 1e-15;
    let (mut loss, mut weights) = (0.0, 0.0);
    for ((&p, &label), &weight) in probabilities.iter().zip(&groups.labels).zip(&groups.weights) {
        let right = if label > 0.0 { p } else { 1.0 - p };
        loss -= right.max(SMALLEST).ln() * f64::from(weight);
        weights += f64::from(weight);
    }
    loss / weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Groups {
        let mut groups = Groups::new(vec!["a".into()]);
        groups.push_group(&[0.0; 3], &[0.0, 2.0, 1.0]);
        groups.push_group(&[0.0; 2], &[0.0, 0.0]);
        groups
    }

    #[test]
    fn ndcg_is_that_worked_by_hand() {
        // Shown: labels 1, 2, 0. DCG@2 = 1 + 3 / log2(3); ideal = 3 + 1 / log2(3).
        let expected = (1.0 + 3.0 / 3f64.log2()) / (3.0 + 1.0 / 3f64.log2());
        assert!((ndcg(&groups(), &[0.1, 0.2, 0.3, 5.0, 6.0], 2) - expected).abs() < 1e-12);
        assert_eq!(ndcg(&groups(), &[0.0, 2.0, 1.0, 0.0, 0.0], 10), 1.0);
    }

    #[test]
    fn log_loss_is_that_worked_by_hand() {
        let mut groups = groups();
        groups.weights = vec![1.0, 3.0, 1.0, 1.0, 1.0];
        let loss = log_loss(&groups, &[0.5, 0.5, 0.0, 0.0, 0.0]);
        assert!((loss - (4.0 * 2f64.ln() - 1e-15f64.ln()) / 7.0).abs() < 1e-12);
    }
}
