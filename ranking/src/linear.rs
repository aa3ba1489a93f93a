//! The baseline: logistic regression on standardised features.

use serde::{Deserialize, Serialize};

use crate::groups::{Groups, InvalidGroups};

/// Standardised values are kept within this many deviations, so that an outlier or an infinity is a
/// large value, no more.
const MOST_DEVIATIONS: f64 = 10.0;

/// How to fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinearConfig {
    /// Penalty of the squared coefficients, as if so many rows spoke for 0; above 0.
    pub l2: f64,
    /// Newton steps at most; five to ten are enough.
    pub max_steps: u32,
    /// Times the weight of every positive row.
    pub positive_weight: f64,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self { l2: 1.0, max_steps: 30, positive_weight: 1.0 }
    }
}

/// A linear score: the log-odds that the label is above 0.
///
/// A missing value counts as the feature's mean, without an indicator: features that know why they
/// are missing say so in a column of their own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Linear {
    names: Vec<String>,
    terms: Vec<Term>,
    intercept: f64,
}

/// What one feature adds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Term {
    mean: f64,
    /// 1 over the deviation; 0 for a feature that never changes.
    scale: f64,
    coefficient: f64,
}

/// The model as it is kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    names: Vec<String>,
    terms: Vec<Term>,
    intercept: f64,
}

/// Why there is no model.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum FitLinearError {
    /// The groups to train on are not sound.
    #[error("the training groups cannot be used")]
    Groups(#[from] InvalidGroups),
    /// A setting is out of its range.
    #[error("{name} is {value}, but must be {allowed}")]
    Setting {
        /// The field of [`LinearConfig`].
        name: &'static str,
        /// What it is.
        value: f64,
        /// What it may be.
        allowed: &'static str,
    },
}

/// Why what was kept is no model.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OpenLinearError {
    /// There are not as many terms as names.
    #[error("{names} names have {terms} terms")]
    Length {
        /// Names.
        names: usize,
        /// Terms.
        terms: usize,
    },
    /// A number is infinite.
    #[error("feature {0:?} has a number that is not finite")]
    Infinite(String),
}

impl TryFrom<Stored> for Linear {
    type Error = OpenLinearError;

    fn try_from(stored: Stored) -> Result<Self, OpenLinearError> {
        let Stored { names, terms, intercept } = stored;
        if names.len() != terms.len() {
            return Err(OpenLinearError::Length { names: names.len(), terms: terms.len() });
        }
        let is_finite = |term: &Term| {
            [term.mean, term.scale, term.coefficient].iter().all(|number| number.is_finite())
        };
        match terms.iter().position(|term| !is_finite(term)) {
            Some(feature) => Err(OpenLinearError::Infinite(names[feature].clone())),
            None if !intercept.is_finite() => Err(OpenLinearError::Infinite("intercept".into())),
            None => Ok(Self { names, terms, intercept }),
        }
    }
}

impl From<Linear> for Stored {
    fn from(linear: Linear) -> Self {
        Self { names: linear.names, terms: linear.terms, intercept: linear.intercept }
    }
}

impl Term {
    fn standardised(&self, value: f32) -> f64 {
        if value.is_nan() {
            return 0.0;
        }
        // A constant feature has a scale of 0, and infinity times 0 is not a number.
        let deviations = (f64::from(value) - self.mean) * self.scale;
        if deviations.is_nan() { 0.0 } else { deviations.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS) }
    }
}

impl Linear {
    /// Fits by Newton's method with halved steps, on one thread: the same groups give the same
    /// model.
    ///
    /// Cost: O(rows x features^2) for each of some eight steps.
    ///
    /// # Errors
    /// Bad groups or settings.
    pub fn fit(train: &Groups, config: &LinearConfig) -> Result<Self, FitLinearError> {
        train.check()?;
        for (name, value) in [("l2", config.l2), ("positive_weight", config.positive_weight)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(FitLinearError::Setting { name, value, allowed: "above 0 and finite" });
            }
        }
        let mut linear = Self {
            names: train.names.clone(),
            terms: (0..train.n_features).map(|feature| term(train, feature)).collect(),
            intercept: 0.0,
        };
        let mut objective = linear.objective(train, config);
        for _ in 0..config.max_steps {
            let step = linear.newton_step(train, config);
            let Some((next, better)) = linear.search(&step, objective, train, config) else {
                break;
            };
            let gain = objective - better;
            (linear, objective) = (next, better);
            if gain <= 1e-9 * objective.abs() {
                break;
            }
        }
        Ok(linear)
    }

    /// Names of the features, in the order of the columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Log-odds of many rows, `[n_rows]`, into `out`. `columns` is `[n_features, n_rows]`, one
    /// feature after the other; NaN is missing.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn score_block(&self, columns: &[f32], n_rows: usize, out: &mut [f32]) {
        assert_eq!(
            columns.len(),
            self.names.len() * n_rows,
            "one column of n_rows values for each feature"
        );
        assert_eq!(out.len(), n_rows, "room for one score for each row");
        let mut sums = vec![self.intercept; n_rows];
        if n_rows > 0 {
            for (term, column) in self.terms.iter().zip(columns.chunks_exact(n_rows)) {
                let parts = column.iter().map(|&value| term.coefficient * term.standardised(value));
                sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            }
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
    }

    fn score(&self, row: &[f32]) -> f64 {
        let parts = self
            .terms
            .iter()
            .zip(row)
            .map(|(term, &value)| term.coefficient * term.standardised(value));
        self.intercept + parts.sum::<f64>()
    }

    /// The penalised loss that fitting makes small.
    fn objective(&self, train: &Groups, config: &LinearConfig) -> f64 {
        let loss = |row: usize| {
            let (weight, target) = weight_and_target(train, row, config);
            let score = self.score(train.row(row));
            // ln(1 + e^score) - target * score, without overflow.
            weight * (score.max(0.0) + (-score.abs()).exp().ln_1p() - target * score)
        };
        let penalty: f64 = self.terms.iter().map(|term| term.coefficient.powi(2)).sum();
        (0..train.n_rows()).map(loss).sum::<f64>() + 0.5 * config.l2 * penalty
    }

    /// Where Newton's method goes: one number for each feature, the last for the intercept.
    fn newton_step(&self, train: &Groups, config: &LinearConfig) -> Vec<f64> {
        let n = self.terms.len() + 1;
        let (mut gradient, mut hessian) = (vec![0.0; n], vec![0.0; n * n]);
        let mut values = vec![1.0; n];
        for row in 0..train.n_rows() {
            for ((value, term), &feature) in values.iter_mut().zip(&self.terms).zip(train.row(row))
            {
                *value = term.standardised(feature);
            }
            let (weight, target) = weight_and_target(train, row, config);
            let p = 1.0 / (1.0 + (-self.score(train.row(row))).exp());
            let curvature = weight * p * (1.0 - p);
            for (i, &value) in values.iter().enumerate() {
                gradient[i] += weight * (target - p) * value;
                let scaled = curvature * value;
                let cells = hessian[i * n..=i * n + i].iter_mut().zip(&values);
                cells.for_each(|(cell, other)| *cell += scaled * other);
            }
        }
        for (i, term) in self.terms.iter().enumerate() {
            gradient[i] -= config.l2 * term.coefficient;
            hessian[i * n + i] += config.l2;
        }
        // The intercept has no penalty, but its curvature vanishes when all rows are certain.
        hessian[n * n - 1] += 1e-9;
        solve(&mut hessian, gradient)
    }

    /// The first of the halved steps that makes the objective smaller, if one does.
    fn search(
        &self,
        step: &[f64],
        objective: f64,
        train: &Groups,
        config: &LinearConfig,
    ) -> Option<(Self, f64)> {
        const HALVINGS: i32 = 20;
        let moved = |halving: i32| {
            let mut next = self.clone();
            let scale = 0.5f64.powi(halving);
            next.terms
                .iter_mut()
                .zip(step)
                .for_each(|(term, step)| term.coefficient += scale * step);
            next.intercept += scale * step[self.terms.len()];
            let value = next.objective(train, config);
            (next, value)
        };
        (0..HALVINGS).map(moved).find(|(_, value)| *value < objective)
    }
}

fn weight_and_target(train: &Groups, row: usize, config: &LinearConfig) -> (f64, f64) {
    let weight = f64::from(train.weights[row]);
    if train.labels[row] > 0.0 { (weight * config.positive_weight, 1.0) } else { (weight, 0.0) }
}

/// Mean and deviation of the finite values of a feature.
fn term(train: &Groups, feature: usize) -> Term {
    let values = || {
        (0..train.n_rows())
            .map(|row| f64::from(train.row(row)[feature]))
            .filter(|value| value.is_finite())
    };
    let n = (values().count() as f64).max(1.0);
    let mean = values().sum::<f64>() / n;
    let deviation = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
    // Below this, the deviation is rounding of the mean.
    let scale = if deviation > 1e-12 * mean.abs() { 1.0 / deviation } else { 0.0 };
    Term { mean, scale: if scale.is_finite() { scale } else { 0.0 }, coefficient: 0.0 }
}

/// Solves `matrix * x = right` by Cholesky's method. `matrix` is `[n, n]`, symmetric and positive
/// definite, of which the lower triangle is read and overwritten.
fn solve(matrix: &mut [f64], mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| matrix[i * n + k] * matrix[j * n + k]).sum();
            let rest = matrix[i * n + j] - dot;
            // Rounding can leave a pivot at or below 0, where a direction has no curvature: it is
            // then not moved along.
            matrix[i * n + j] =
                if i == j { rest.max(1e-300).sqrt() } else { rest / matrix[j * n + j] };
        }
    }
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| matrix[i * n + k] * right[k]).sum();
        right[i] = (right[i] - dot) / matrix[i * n + i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| matrix[k * n + i] * right[k]).sum();
        right[i] = (right[i] - dot) / matrix[i * n + i];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Groups {
        let mut groups = Groups::new(vec!["signal".into(), "constant".into(), "gaps".into()]);
        for n in 0..400u32 {
            let noise = (n.wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0;
            let rows = [noise, 3.0, f32::NAN, 1.0 + noise, 3.0, f32::INFINITY];
            groups.push_group(&rows, &if n % 10 == 0 { [1.0, 0.0] } else { [0.0, 1.0] });
        }
        groups
    }

    #[test]
    fn a_fit_leaves_no_gradient() {
        let (train, config) = (groups(), LinearConfig::default());
        let linear = Linear::fit(&train, &config).unwrap();
        assert!(linear.newton_step(&train, &config).iter().all(|step| step.abs() < 1e-4));
        assert!(linear.terms[0].coefficient > 0.5);
        assert_eq!(linear.terms[1].coefficient, 0.0);
    }

    #[test]
    fn blocks_score_as_rows_do_with_gaps_as_means() {
        let train = groups();
        let linear = Linear::fit(&train, &LinearConfig::default()).unwrap();
        let mut out = vec![0.0; train.n_rows()];
        linear.score_block(&train.columns(), train.n_rows(), &mut out);
        for (row, &score) in out.iter().enumerate() {
            assert_eq!(score, linear.score(train.row(row)) as f32);
        }
        let row = |value| linear.score(&[value, 3.0, 0.0]);
        assert!((row(f32::NAN) - row(linear.terms[0].mean as f32)).abs() < 1e-6);
        assert!(row(f32::INFINITY).is_finite());
    }

    #[test]
    fn a_model_survives_being_kept_and_damage_is_refused() {
        let linear = Linear::fit(&groups(), &LinearConfig::default()).unwrap();
        let text = serde_json::to_string(&linear).unwrap();
        assert_eq!(serde_json::from_str::<Linear>(&text).unwrap(), linear);
        assert!(
            serde_json::from_str::<Linear>(&text.replace("\"gaps\"", "\"gaps\",\"x\"")).is_err()
        );
    }

    #[test]
    fn equations_are_solved() {
        let x = solve(&mut [4.0, 0.0, 2.0, 3.0], vec![8.0, 7.0]);
        assert!((x[0] - 1.25).abs() < 1e-12 && (x[1] - 1.5).abs() < 1e-12, "{x:?}");
    }
}
