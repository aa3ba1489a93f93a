//! Scores to probabilities, which can be compared and added across objectives.
//!
//! Fit it on rows that were not trained on and not sampled. A calibration never turns an order around.

use serde::{Deserialize, Serialize};

/// A rising function from scores to probabilities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calibration {
    /// A sigmoid: right for few rows.
    Platt(Platt),
    /// A rising line through blocks of rows: right for thousands of positives.
    Isotonic(Isotonic),
}

/// `1 / (1 + exp(-(slope * score + intercept)))`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "(f64, f64)", into = "(f64, f64)")]
pub struct Platt {
    slope: f64,
    intercept: f64,
}

/// Straight lines between knots; level outside of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(f64, f64)>", into = "Vec<(f64, f64)>")]
pub struct Isotonic {
    /// Scores, strictly rising, and the probability at each, not falling.
    knots: Vec<(f64, f64)>,
}

/// One row to calibrate on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The ranker's score.
    pub score: f64,
    /// Whether the event happened.
    pub happened: bool,
    /// How much the row counts, above 0.
    pub weight: f64,
}

/// Why there is no calibration.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum CalibrateError {
    /// No rows.
    #[error("there are no outcomes to calibrate on")]
    Empty,
    /// All rows agree, so that the score says nothing.
    #[error("all {0} outcomes are the same")]
    OneSided(usize),
    /// A score or weight is no number.
    #[error(
        "outcome {row} has score {score} and weight {weight}: both must be finite, one above 0"
    )]
    Outcome {
        /// The row.
        row: usize,
        /// Its score.
        score: f64,
        /// Its weight.
        weight: f64,
    },
}

/// What was kept is no calibration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a calibration must be finite, rising, and have knots within 0 and 1")]
pub struct InvalidCalibration;

impl TryFrom<(f64, f64)> for Platt {
    type Error = InvalidCalibration;

    fn try_from((slope, intercept): (f64, f64)) -> Result<Self, InvalidCalibration> {
        let is_valid = slope >= 0.0 && slope.is_finite() && intercept.is_finite();
        if is_valid { Ok(Self { slope, intercept }) } else { Err(InvalidCalibration) }
    }
}

impl From<Platt> for (f64, f64) {
    fn from(platt: Platt) -> Self {
        (platt.slope, platt.intercept)
    }
}

impl TryFrom<Vec<(f64, f64)>> for Isotonic {
    type Error = InvalidCalibration;

    fn try_from(knots: Vec<(f64, f64)>) -> Result<Self, InvalidCalibration> {
        let rises = knots.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let is_within =
            knots.iter().all(|&(score, p)| score.is_finite() && (0.0..=1.0).contains(&p));
        if rises && is_within && !knots.is_empty() {
            Ok(Self { knots })
        } else {
            Err(InvalidCalibration)
        }
    }
}

impl From<Isotonic> for Vec<(f64, f64)> {
    fn from(isotonic: Isotonic) -> Self {
        isotonic.knots
    }
}

impl Calibration {
    /// Fits a sigmoid. Its slope is not let below 0, so that the order stays.
    ///
    /// Targets are drawn in a little from 0 and 1, as if one more row of each kind had been seen.
    /// Source: "A note on Platt's probabilistic outputs for support vector machines", Machine
    /// Learning 68(3), 2007. Cost: O(rows) for each of some ten steps.
    ///
    /// # Errors
    /// No rows, rows that all agree, or a bad score or weight.
    pub fn fit_platt(outcomes: &[Outcome]) -> Result<Self, CalibrateError> {
        check(outcomes)?;
        Ok(Self::Platt(Platt::fit(outcomes)))
    }

    /// Fits the rising function with the smallest squared error, by pooling adjacent violators.
    ///
    /// Between the blocks it is a straight line. Source: "Transforming classifier scores into
    /// accurate multiclass probability estimates", KDD 2002. Cost: O(n log n).
    ///
    /// # Errors
    /// No rows, rows that all agree, or a bad score or weight.
    pub fn fit_isotonic(outcomes: &[Outcome]) -> Result<Self, CalibrateError> {
        check(outcomes)?;
        Ok(Self::Isotonic(Isotonic::fit(outcomes)))
    }

    /// The probability at a score, in `[0, 1]`. A NaN score counts as minus infinity, as it does in
    /// ranking.
    pub fn apply(&self, score: f64) -> f64 {
        let score = if score.is_nan() { f64::NEG_INFINITY } else { score };
        match self {
            Self::Platt(platt) => platt.apply(score),
            Self::Isotonic(isotonic) => isotonic.apply(score),
        }
    }
}

fn check(outcomes: &[Outcome]) -> Result<(), CalibrateError> {
    let is_bad = |o: &Outcome| !(o.score.is_finite() && o.weight > 0.0 && o.weight.is_finite());
    if let Some(row) = outcomes.iter().position(is_bad) {
        let Outcome { score, weight, .. } = outcomes[row];
        return Err(CalibrateError::Outcome { row, score, weight });
    }
    match outcomes.iter().filter(|outcome| outcome.happened).count() {
        _ if outcomes.is_empty() => Err(CalibrateError::Empty),
        n if n == 0 || n == outcomes.len() => Err(CalibrateError::OneSided(n.max(outcomes.len()))),
        _ => Ok(()),
    }
}

fn weight_of(outcomes: &[Outcome], happened: bool) -> f64 {
    outcomes
        .iter()
        .filter(|outcome| outcome.happened == happened)
        .map(|outcome| outcome.weight)
        .sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Platt {
    /// Newton's method on standardised scores, so that their scale does not matter.
    fn fit(outcomes: &[Outcome]) -> Self {
        const MOST_STEPS: u32 = 100;
        let (positive, negative) = (weight_of(outcomes, true), weight_of(outcomes, false));
        let targets = [1.0 / (negative + 2.0), (positive + 1.0) / (positive + 2.0)];
        let (mean, deviation) = moments(outcomes);
        let rows = Rows { outcomes, targets, mean, deviation };
        let base = Self { slope: 0.0, intercept: ((positive + 1.0) / (negative + 1.0)).ln() };
        let (mut platt, mut loss) = (base, rows.loss(&base));
        for _ in 0..MOST_STEPS {
            let (slope, intercept) = rows.newton_step(&platt);
            let moved = |halving: i32| {
                let scale = 0.5f64.powi(halving);
                Self {
                    slope: platt.slope + scale * slope,
                    intercept: platt.intercept + scale * intercept,
                }
            };
            let Some(next) = (0..30).map(moved).find(|next| rows.loss(next) < loss) else { break };
            let gain = loss - rows.loss(&next);
            (platt, loss) = (next, rows.loss(&next));
            if gain <= 1e-12 * loss {
                break;
            }
        }
        // A falling sigmoid would turn the order around: then the score says nothing.
        let fitted = if platt.slope > 0.0 { platt } else { base };
        let slope = fitted.slope / deviation;
        Self { slope, intercept: fitted.intercept - slope * mean }
    }

    fn apply(&self, score: f64) -> f64 {
        // A slope of 0 times an infinite score is not a number.
        if self.slope == 0.0 {
            sigmoid(self.intercept)
        } else {
            sigmoid(self.slope.mul_add(score, self.intercept))
        }
    }
}

/// Weighted mean and deviation of the scores; a deviation of 1 if there is none.
fn moments(outcomes: &[Outcome]) -> (f64, f64) {
    let weights: f64 = outcomes.iter().map(|outcome| outcome.weight).sum();
    let mean = outcomes.iter().map(|outcome| outcome.weight * outcome.score).sum::<f64>() / weights;
    let square = |outcome: &Outcome| outcome.weight * (outcome.score - mean).powi(2);
    let deviation = (outcomes.iter().map(square).sum::<f64>() / weights).sqrt();
    (mean, if deviation > 1e-12 * mean.abs() { deviation } else { 1.0 })
}

/// What a sigmoid is fitted to.
struct Rows<'a> {
    outcomes: &'a [Outcome],
    /// Targets of rows that did not happen, and that did.
    targets: [f64; 2],
    mean: f64,
    deviation: f64,
}

impl Rows<'_> {
    /// Standardised score, target and weight of each row.
    fn iter(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        let row = |o: &Outcome| {
            (
                (o.score - self.mean) / self.deviation,
                self.targets[usize::from(o.happened)],
                o.weight,
            )
        };
        self.outcomes.iter().map(row)
    }

    fn loss(&self, platt: &Platt) -> f64 {
        let loss = |(score, target, weight): (f64, f64, f64)| {
            let x = platt.slope * score + platt.intercept;
            weight * (x.max(0.0) + (-x.abs()).exp().ln_1p() - target * x)
        };
        self.iter().map(loss).sum()
    }

    fn newton_step(&self, platt: &Platt) -> (f64, f64) {
        // A ridge far below any curvature keeps the equations solvable.
        let (mut gradient, mut hessian) = ((0.0, 0.0), (1e-12, 0.0, 1e-12));
        for (score, target, weight) in self.iter() {
            let p = sigmoid(platt.slope * score + platt.intercept);
            let (error, curvature) = (weight * (target - p), weight * p * (1.0 - p));
            gradient = (gradient.0 + error * score, gradient.1 + error);
            hessian.0 += curvature * score * score;
            hessian.1 += curvature * score;
            hessian.2 += curvature;
        }
        let determinant = hessian.0 * hessian.2 - hessian.1 * hessian.1;
        let slope = (hessian.2 * gradient.0 - hessian.1 * gradient.1) / determinant;
        let intercept = (hessian.0 * gradient.1 - hessian.1 * gradient.0) / determinant;
        (slope, intercept)
    }
}

/// Rows whose probabilities were pooled.
struct Block {
    lowest: f64,
    highest: f64,
    weight: f64,
    positive: f64,
}

impl Block {
    fn probability(&self) -> f64 {
        (self.positive / self.weight).clamp(0.0, 1.0)
    }

    fn absorb(&mut self, next: &Self) {
        self.highest = next.highest;
        self.weight += next.weight;
        self.positive += next.positive;
    }
}

impl Isotonic {
    fn fit(outcomes: &[Outcome]) -> Self {
        let mut sorted = outcomes.to_vec();
        sorted.sort_by(|a, b| a.score.total_cmp(&b.score));
        let mut blocks: Vec<Block> = Vec::new();
        for outcome in sorted {
            // Adding zero makes -0.0 the same score as 0.0.
            let score = outcome.score + 0.0;
            let positive = if outcome.happened { outcome.weight } else { 0.0 };
            let block = Block { lowest: score, highest: score, weight: outcome.weight, positive };
            match blocks.last_mut() {
                Some(last) if last.lowest == score => last.absorb(&block),
                _ => {
                    pool(&mut blocks);
                    blocks.push(block);
                }
            }
        }
        pool(&mut blocks);
        let ends = |block: &Block| {
            [(block.lowest, block.probability()), (block.highest, block.probability())]
        };
        let mut knots: Vec<(f64, f64)> = blocks.iter().flat_map(ends).collect();
        knots.dedup();
        Self { knots }
    }

    fn apply(&self, score: f64) -> f64 {
        let above = self.knots.partition_point(|&(knot, _)| knot <= score);
        match (above.checked_sub(1).map(|below| self.knots[below]), self.knots.get(above)) {
            (None, Some(&(_, p))) | (Some((_, p)), None) => p,
            (Some((x0, p0)), Some(&(x1, p1))) => {
                // Divided apart, so that a wide gap does not overflow; kept within, so that
                // rounding does not fall.
                let part = (score / 2.0 - x0 / 2.0) / (x1 / 2.0 - x0 / 2.0);
                (p0 + part * (p1 - p0)).clamp(p0, p1)
            }
            (None, None) => unreachable!("there is at least one knot"),
        }
    }
}

/// Pools the last block with those before it, while they are not below it.
fn pool(blocks: &mut Vec<Block>) {
    while let [.., before, last] = &mut blocks[..] {
        if before.probability() < last.probability() {
            return;
        }
        before.absorb(last);
        blocks.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(score: f64, happened: bool) -> Outcome {
        Outcome { score, happened, weight: 1.0 }
    }

    #[test]
    fn isotonic_pools_what_falls() {
        let outcomes =
            [(1.0, false), (2.0, true), (3.0, false), (4.0, true)].map(|(s, h)| outcome(s, h));
        let Calibration::Isotonic(isotonic) = Calibration::fit_isotonic(&outcomes).unwrap() else {
            panic!()
        };
        assert_eq!(isotonic.knots, [(1.0, 0.0), (2.0, 0.5), (3.0, 0.5), (4.0, 1.0)]);
        assert_eq!([-9.0, 1.5, 2.5, 9.0].map(|score| isotonic.apply(score)), [0.0, 0.25, 0.5, 1.0]);
    }

    #[test]
    fn platt_finds_the_sigmoid_that_made_the_outcomes() {
        let outcomes: Vec<Outcome> = (-40..=40)
            .flat_map(|step| {
                let score = f64::from(step) / 10.0;
                let p = sigmoid(1.5 * score - 1.0);
                [(true, p), (false, 1.0 - p)].map(|(happened, p)| Outcome {
                    score,
                    happened,
                    weight: 1e4 * p,
                })
            })
            .collect();
        let Calibration::Platt(platt) = Calibration::fit_platt(&outcomes).unwrap() else {
            panic!()
        };
        assert!(
            (platt.slope - 1.5).abs() < 1e-3 && (platt.intercept + 1.0).abs() < 1e-3,
            "{platt:?}"
        );
    }

    #[test]
    fn a_score_that_is_wrong_way_round_becomes_the_base_rate() {
        let outcomes =
            [(1.0, true), (2.0, true), (3.0, false), (4.0, false)].map(|(s, h)| outcome(s, h));
        let platt = Calibration::fit_platt(&outcomes).unwrap();
        assert_eq!(platt.apply(-100.0), platt.apply(f64::INFINITY));
        assert!((platt.apply(0.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_calibrated_is_refused() {
        assert_eq!(Calibration::fit_platt(&[]), Err(CalibrateError::Empty));
        assert_eq!(
            Calibration::fit_isotonic(&[outcome(1.0, true)]),
            Err(CalibrateError::OneSided(1))
        );
        let bad = [outcome(1.0, true), outcome(f64::NAN, false)];
        assert!(matches!(
            Calibration::fit_platt(&bad),
            Err(CalibrateError::Outcome { row: 1, .. })
        ));
        assert!(
            serde_json::from_str::<Calibration>(r#"{"isotonic":[[0.0,0.5],[1.0,0.25]]}"#).is_err()
        );
        assert!(serde_json::from_str::<Calibration>(r#"{"platt":[-1.0,0.0]}"#).is_err());
    }
}
