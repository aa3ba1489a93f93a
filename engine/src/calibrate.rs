//! The ranker's scores as probabilities: fitted on every candidate of held-out questions, none of them sampled.

use std::sync::Arc;

use featurestore::{History, Question};
use ranking::calibration::{CalibrateError, Calibration, Outcome};
use ranking::ranker::Ranker;

use crate::ask::{Asked, ask_in_replay};
use crate::release::Release;

/// Questions to fit on, which have some 500,000 candidates.
pub(crate) const MAX_QUESTIONS: usize = 500;

/// Fewest relevant candidates for a rising line; of fewer a sigmoid is made, which has two parameters.
/// Source: "Predicting good probabilities with supervised learning", ICML 2005, section 5.
const ENOUGH_FOR_ISOTONIC: usize = 1_000;

/// Fits how probable it is that a candidate with a certain score is relevant.
///
/// # Errors
/// If no candidate is relevant, or each one is.
pub(crate) fn fit(mut outcomes: Vec<Outcome>) -> Result<Calibration, CalibrateError> {
    let n_relevant = outcomes.iter().filter(|outcome| outcome.happened).count();
    if n_relevant < ENOUGH_FOR_ISOTONIC {
        return Calibration::fit_platt(&outcomes);
    }
    // As if one more row of each kind had been seen where it is expected least: else what has not happened yet would be
    // impossible, and the first time that it does happen would be infinitely surprising.
    let scores = outcomes.iter().map(|outcome| outcome.score);
    let (lowest, highest) =
        (scores.clone().fold(f64::INFINITY, f64::min), scores.fold(f64::NEG_INFINITY, f64::max));
    outcomes.push(Outcome { score: lowest, happened: true, weight: 1.0 });
    outcomes.push(Outcome { score: highest, happened: false, weight: 1.0 });
    Calibration::fit_isotonic(&outcomes)
}

/// What came of every candidate that `base` retrieves for `questions`, with the score of `ranker`. Neither may have learnt
/// from them.
pub(crate) fn held_out_outcomes(
    base: &Arc<Release>,
    ranker: &Ranker,
    history: &History,
    questions: &[Question],
    n_threads: usize,
) -> Vec<Outcome> {
    let outcomes =
        ask_in_replay(base, history, questions, 0, n_threads, |asked| outcomes(asked, ranker));
    outcomes.into_iter().flatten().collect()
}

/// The score of each candidate of a question, and whether it was relevant.
fn outcomes(asked: &mut Asked<'_>, ranker: &Ranker) -> Vec<Outcome> {
    asked.pipeline.candidates(asked.scenario, &asked.query, asked.scratch);
    let items = &asked.scratch.candidates.items;
    let mut scores = Vec::new();
    ranker.score(&asked.scratch.columns, items.len(), &mut scores);
    let outcome = |(item, score): (_, &f32)| Outcome {
        score: f64::from(*score),
        happened: asked.question.relevant.iter().any(|(relevant, _)| relevant == item),
        weight: 1.0,
    };
    items.iter().zip(&scores).map(outcome).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` candidates with scores from 0 to 1, relevant with the square of their score as the rate.
    fn squares(n: usize) -> Vec<Outcome> {
        let outcome = |i: usize| {
            let score = i as f64 / n as f64;
            // Multiples of the golden ratio are spread evenly over the fractions.
            let draw = (i as f64 * 0.618_033_988_749_895).fract();
            Outcome { score, happened: draw < score * score, weight: 1.0 }
        };
        (0..n).map(outcome).collect()
    }

    #[test]
    fn many_outcomes_give_their_own_rates() {
        let calibration = fit(squares(60_000)).unwrap();
        assert!(matches!(calibration, Calibration::Isotonic(_)));
        for score in [0.2, 0.5, 0.8] {
            let p = calibration.apply(score);
            assert!((p - score * score).abs() < 0.03, "{p} at {score}");
        }
    }

    #[test]
    fn nothing_is_impossible_and_nothing_certain() {
        let mut outcomes = squares(30_000);
        // Below the first half nothing is relevant, above the last part everything.
        outcomes.iter_mut().for_each(|outcome| match outcome.score {
            score if score < 0.5 => outcome.happened = false,
            score if score > 0.9 => outcome.happened = true,
            _ => {}
        });
        let calibration = fit(outcomes).unwrap();
        assert!(matches!(calibration, Calibration::Isotonic(_)));
        let (low, high) = (calibration.apply(0.1), calibration.apply(0.95));
        assert!((1e-6..1e-3).contains(&low), "{low}");
        assert!((0.999..1.0).contains(&high), "{high}");
    }

    #[test]
    fn few_outcomes_give_a_sigmoid() {
        assert!(matches!(fit(squares(300)), Ok(Calibration::Platt(_))));
        assert_eq!(fit(Vec::new()), Err(CalibrateError::Empty));
    }
}
