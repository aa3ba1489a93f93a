//! Scores made comparable, so that factors and diversity mean the same for every ranker.

use featurestore::Scored;

/// Relevance of each item, in `(0, 1)`: the sigmoid of its standardised score. NaN for a NaN score.
///
/// The scores of rankers have neither zero nor unit, so they are first shifted and scaled to mean 0 and deviation 1 over
/// the slate. Not min-max: it gives the last item 0, which no factor lifts, and one outlier presses all others together.
/// Infinite scores become 0 and 1, and equal scores all 0.5.
pub(crate) fn standardised(items: &[Scored]) -> Vec<f32> {
    let finite = || items.iter().map(|s| f64::from(s.score)).filter(|score| score.is_finite());
    let n = finite().count().max(1) as f64;
    let mean = finite().sum::<f64>() / n;
    let variance = finite().map(|score| (score - mean).powi(2)).sum::<f64>() / n;
    let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
    let relevance = |score: f32| 1.0 / (1.0 + (-(f64::from(score) - mean) / deviation).exp());
    items.iter().map(|s| relevance(s.score) as f32).collect()
}

/// Sorts ranks by relevance, largest first, NaN last; what is equal keeps its order.
pub(crate) fn sort(order: &mut [usize], relevance: &[f32]) {
    order.sort_by(|&a, &b| key(relevance[b]).total_cmp(&key(relevance[a])));
}

/// A value to compare by: NaN is worse than all others.
pub(crate) fn key(value: f32) -> f32 {
    if value.is_nan() { f32::NEG_INFINITY } else { value }
}

#[cfg(test)]
mod tests {
    use featurestore::ItemId;

    use super::*;

    fn relevance(scores: &[f32]) -> Vec<f32> {
        let items: Vec<Scored> =
            scores.iter().map(|&score| Scored { item: ItemId(0), score }).collect();
        standardised(&items)
    }

    #[test]
    fn relevance_depends_on_neither_zero_nor_unit_of_the_scores() {
        let (small, large) = (relevance(&[3.0, 2.0, 0.0]), relevance(&[700.0, 600.0, 400.0]));
        assert!(small.iter().zip(&large).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!(small.is_sorted_by(|a, b| a > b) && small[2] > 0.0);
    }

    #[test]
    fn scores_that_are_not_finite_do_not_spoil_the_others() {
        let mixed = relevance(&[f32::INFINITY, 1.0, -1.0, f32::NEG_INFINITY, f32::NAN]);
        assert_eq!((mixed[0], mixed[3]), (1.0, 0.0));
        assert_eq!(mixed[1..3], relevance(&[1.0, -1.0]));
        assert!(mixed[4].is_nan());
        assert_eq!(relevance(&[2.0, 2.0]), [0.5, 0.5]);
    }
}
