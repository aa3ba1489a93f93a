//! Tests of differences: a paired t-test over users, and a correction for several comparisons at once.

use std::f64::consts::PI;

use crate::intervals::{UserSum, ratio};

/// Result of a t-test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TTest {
    /// Mean over its standard error; 0 of differences that are all 0.
    pub t: f64,
    /// Degrees of freedom.
    pub degrees: f64,
    /// Two-sided p-value, in `[0, 1]`.
    pub p_value: f64,
}

/// Paired t-test over users, given each user's sum of differences.
///
/// The mean is a ratio of sums, so its standard error is that of the delta method; with one group for each user this is
/// the classic paired t-test. The p-value of fewer than two users is 1. Cost: O(users).
/// Source: "Applying the delta method in metric analytics", KDD 2018.
pub fn paired_t(users: &[UserSum]) -> TTest {
    let n_users = users.len() as f64;
    let n_groups: f64 = users.iter().map(|user| user.n).sum();
    if users.len() < 2 {
        return TTest { t: 0.0, degrees: 0.0, p_value: 1.0 };
    }
    let mean = ratio(users.iter().copied());
    let squares: f64 = users.iter().map(|user| (user.sum - mean * user.n).powi(2)).sum();
    let error = (squares * n_users / (n_users - 1.0)).sqrt() / n_groups;
    let t = if mean == 0.0 { 0.0 } else { mean / error };
    let degrees = n_users - 1.0;
    TTest { t, degrees, p_value: student_two_sided(t, degrees) }
}

/// Holm's step-down correction: p-values that hold for all comparisons together, in the order given.
///
/// Compare them with .05 as they are. Cost: O(n log n).
/// Source: "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6(2), 1979.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut corrected = vec![0.0; p_values.len()];
    let mut largest = 0.0f64;
    for (rank, at) in order.into_iter().enumerate() {
        let hypotheses_left = (p_values.len() - rank) as f64;
        largest = largest.max((p_values[at] * hypotheses_left).min(1.0));
        corrected[at] = largest;
    }
    corrected
}

/// Probability that Student's t with `degrees` degrees of freedom is at least `|t|` away from 0.
fn student_two_sided(t: f64, degrees: f64) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    incomplete_beta(degrees / (degrees + t * t), degrees / 2.0, 0.5)
}

/// Regularised incomplete beta function I_x(a, b), for x in `[0, 1]`.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let log_front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln();
    // The fraction converges fast on this side of the mean only.
    if x < (a + 1.0) / (a + b + 2.0) {
        log_front.exp() * beta_fraction(x, a, b) / a
    } else {
        1.0 - log_front.exp() * beta_fraction(1.0 - x, b, a) / b
    }
}

/// The continued fraction of the incomplete beta function, by Lentz's method.
///
/// Source: "Handbook of Mathematical Functions" (Abramowitz and Stegun), 26.5.8.
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    let away_from_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    // It needs O(sqrt(max(a, b))) steps: 10,000 suffice for more users than there are people.
    for m in (1..10_000).map(f64::from) {
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            fraction *= d * c;
        }
        if (fraction - before).abs() <= 1e-15 * fraction.abs() {
            break;
        }
    }
    fraction
}

/// Logarithm of the gamma function of `x` > 0.
///
/// Stirling's series, good to 1e-15 from 10 on, after stepping up to there. Source: Abramowitz and Stegun, 6.1.41.
fn ln_gamma(x: f64) -> f64 {
    let (mut z, mut steps) = (x, 0.0);
    while z < 10.0 {
        steps += z.ln();
        z += 1.0;
    }
    let inverse = 1.0 / (z * z);
    let series = 1.0 / 12.0
        - inverse
            * (1.0 / 360.0
                - inverse * (1.0 / 1_260.0 - inverse * (1.0 / 1_680.0 - inverse / 1_188.0)));
    (z - 0.5) * z.ln() - z + (2.0 * PI).ln() / 2.0 + series / z - steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_group_each(differences: &[f64]) -> Vec<UserSum> {
        differences.iter().map(|&sum| UserSum { sum, n: 1.0 }).collect()
    }

    fn assert_close(value: f64, expected: f64) {
        assert!((value - expected).abs() <= 1e-9 * expected.abs(), "{value} is not {expected}");
    }

    #[test]
    fn the_t_test_is_that_worked_by_hand() {
        // Mean 3, sample variance 2.5: t = 3 / sqrt(2.5 / 5) on 4 degrees of freedom.
        let test = paired_t(&one_group_each(&[1.0, 2.0, 3.0, 4.0, 5.0]));
        assert_close(test.t, 3.0 / 0.5f64.sqrt());
        assert_eq!(test.degrees, 4.0);
    }

    #[test]
    fn p_values_are_those_of_the_closed_forms() {
        // One degree of freedom is Cauchy, two have an algebraic form.
        for t in [0.1, 1.0, 2.5, 40.0] {
            assert_close(student_two_sided(t, 1.0), 1.0 - 2.0 * f64::atan(t) / PI);
            assert_close(student_two_sided(t, 2.0), 1.0 - t / (2.0 + t * t).sqrt());
        }
        // Computed by SciPy 1.17: 2 * scipy.stats.t.sf(t, degrees).
        assert_close(student_two_sided(1.5, 7.0), 0.177_298_486_989_97);
        assert_close(student_two_sided(3.3, 2_468.0), 0.000_980_599_347_799_436);
        assert_close(student_two_sided(0.01, 11_840.0), 0.992_021_455_849_627_5);
        assert_close(student_two_sided(12.0, 2_468.0), 2.761_166_440_441_243e-32);
    }

    #[test]
    fn equal_lists_differ_by_nothing_and_a_constant_lead_is_certain() {
        assert_eq!(paired_t(&one_group_each(&[0.0, 0.0])).p_value, 1.0);
        assert_eq!(paired_t(&one_group_each(&[0.5, 0.5])).p_value, 0.0);
        assert_eq!(paired_t(&one_group_each(&[0.5])).p_value, 1.0);
    }

    #[test]
    fn holm_multiplies_by_the_hypotheses_left_and_never_falls() {
        // Worked by hand: .01 * 4, .02 * 3, then .03 * 2 and .04 * 1 cannot fall below .06.
        let corrected = holm(&[0.04, 0.01, 0.03, 0.02]);
        for (value, expected) in corrected.into_iter().zip([0.06, 0.04, 0.06, 0.06]) {
            assert_close(value, expected);
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert_eq!(holm(&[]), [0.0; 0]);
    }
}
