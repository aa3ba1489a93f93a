//! One score from several objectives, such as click, basket and purchase.

use serde::{Deserialize, Serialize};

use crate::calibration::Calibration;
use crate::ranker::{Hurry, Ranker};

/// How probable an event is: a ranker of its own, and what its scores mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// Orders candidates by how probable the event is.
    pub ranker: Ranker,
    /// Turns its scores into probabilities.
    pub calibration: Calibration,
}

impl Objective {
    /// Appends the probability of each of `n_rows` candidates to `out`. `columns` and `hurry` are as in
    /// [`Ranker::score_in_time`], and so is what is returned; `scores` is room for the scores.
    pub fn append_probabilities(
        &self,
        columns: &[f32],
        n_rows: usize,
        hurry: &Hurry<'_>,
        scores: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) -> bool {
        let is_whole = self.ranker.score_in_time(columns, n_rows, hurry, scores);
        out.extend(scores.iter().map(|score| self.calibration.apply(f64::from(*score)) as f32));
        is_whole
    }
}

/// How much each objective is worth. The weights stay out of the labels, so that they can change
/// without training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueModel {
    /// Name of the objective, and what its event is worth.
    pub weights: Vec<(String, f64)>,
}

impl ValueModel {
    /// `value = sum of weight * probability` of each row, into `out`, which is emptied first.
    ///
    /// `probabilities` is `[n_objectives, n_rows]`, calibrated, in the order of `weights`.
    ///
    /// # Panics
    /// If `probabilities` has another length.
    pub fn combine(&self, probabilities: &[f32], n_rows: usize, out: &mut Vec<f32>) {
        assert_eq!(
            probabilities.len(),
            self.weights.len() * n_rows,
            "one probability for each objective and row"
        );
        let weighted = |row: usize| {
            let parts = self.weights.iter().enumerate();
            parts
                .map(|(objective, (_, weight))| {
                    weight * f64::from(probabilities[objective * n_rows + row])
                })
                .sum::<f64>()
        };
        out.clear();
        out.extend((0..n_rows).map(|row| weighted(row) as f32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rare_dear_event_can_outweigh_a_likely_cheap_one() {
        let model = ValueModel { weights: vec![("click".into(), 1.0), ("purchase".into(), 20.0)] };
        let mut out = vec![7.0];
        model.combine(&[0.5, 0.25, /* purchase */ 0.0, 0.125], 2, &mut out);
        assert_eq!(out, [0.5, 2.75]);
    }
}
