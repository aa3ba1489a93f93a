//! Means with 95 % intervals, the user being the unit.
//!
//! A user's query groups resemble each other, so they are not independent observations: the bootstrap draws users, each
//! with all of their groups, and a mean is a ratio of sums (total of the values over number of groups).

use featurestore::UserId;
use serde::{Deserialize, Serialize};

use crate::significance::paired_t;

/// The value of a measure in one query group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Whose group it is.
    pub user: UserId,
    /// The value: finite.
    pub value: f64,
}

/// A mean with the bounds of its 95 % interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean over query groups.
    pub mean: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

/// By how much one model beats another on the same query groups.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Mean of the differences, candidate less baseline.
    pub difference: Interval,
    /// Two-sided p-value of a paired t-test over users: a cross-check, and what Holm's correction works on.
    pub p_value: f64,
    /// How many users the difference is about.
    pub n_users: usize,
}

/// Users below which no interval excludes 0. If nothing differs, all of 5 users still lean to the same side in 2 of
/// 32 cases, which is more than 5 %; all of 6 do so in 2 of 64.
pub const MIN_USERS: usize = 6;

impl PairedDifference {
    /// Whether 0 lies outside of the interval, and there are enough users to say so.
    pub fn excludes_zero(&self) -> bool {
        let Interval { low, high, .. } = self.difference;
        self.n_users >= MIN_USERS && (low > 0.0 || high < 0.0)
    }
}

/// How intervals are made: a percentile bootstrap over users.
///
/// Source: "An Introduction to the Bootstrap" (Efron and Tibshirani, 1993), chapters 13 and 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// How often users are drawn: 1,000 place the bounds of a 95 % interval within a few percent of its width.
    pub resamples: usize,
    /// Seed of the draws. The same seed draws the same users for every measure of the same groups.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1_000, seed: 7 }
    }
}

impl Bootstrap {
    /// Mean of the observations with its 95 % interval. `None` without observations or resamples.
    ///
    /// The result does not depend on the order of the observations but for rounding. With a single user the interval
    /// is a point: there is nothing to draw from. Cost: O(n log n + resamples * users).
    pub fn mean(&self, observations: &[Observation]) -> Option<Interval> {
        let users = UserSum::of(observations);
        if users.is_empty() || self.resamples == 0 {
            return None;
        }
        let mut means = self.resampled_means(&users);
        means.sort_unstable_by(f64::total_cmp);
        let [low, high] = [0.025, 0.975].map(|share| quantile(&means, share));
        Some(Interval { mean: ratio(users.iter().copied()), low, high })
    }

    /// Paired difference `candidate - baseline`, the same users being drawn for both. `None` without observations.
    ///
    /// # Panics
    /// If the two are not about the same query groups in the same order.
    pub fn difference(
        &self,
        candidate: &[Observation],
        baseline: &[Observation],
    ) -> Option<PairedDifference> {
        assert_eq!(candidate.len(), baseline.len(), "a pair is one query group in both models");
        let differences: Vec<Observation> = candidate
            .iter()
            .zip(baseline)
            .map(|(a, b)| {
                assert_eq!(a.user, b.user, "a pair is one query group in both models");
                Observation { user: a.user, value: a.value - b.value }
            })
            .collect();
        let difference = self.mean(&differences)?;
        let users = UserSum::of(&differences);
        Some(PairedDifference {
            difference,
            p_value: paired_t(&users).p_value,
            n_users: users.len(),
        })
    }

    /// Means of the resamples, in the order of drawing: `[resamples]`.
    fn resampled_means(&self, users: &[UserSum]) -> Vec<f64> {
        let mut random = SplitMix64 { state: self.seed };
        let resample = |_| ratio((0..users.len()).map(|_| users[random.below(users.len())]));
        (0..self.resamples).map(resample).collect()
    }
}

/// A user's query groups, summed up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UserSum {
    /// Sum of the values.
    pub sum: f64,
    /// Number of the groups, above 0.
    pub n: f64,
}

impl UserSum {
    /// One sum for each user, in the order of the users. Cost: O(n log n).
    pub fn of(observations: &[Observation]) -> Vec<Self> {
        let mut by_user = observations.to_vec();
        by_user.sort_by_key(|observation| observation.user);
        let groups = by_user.chunk_by(|a, b| a.user == b.user);
        groups
            .map(|group| Self { sum: group.iter().map(|o| o.value).sum(), n: group.len() as f64 })
            .collect()
    }
}

/// Total of the values over number of the groups.
pub(crate) fn ratio(users: impl Iterator<Item = UserSum>) -> f64 {
    let (sum, n) = users.fold((0.0, 0.0), |(sum, n), user| (sum + user.sum, n + user.n));
    sum / n
}

/// The value below which `share` of the ascending `sorted` lie, between two of them by linear interpolation.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// A small generator whose sequence is part of the report: a crate's may change with its version.
///
/// Source: "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..n`. Its bias is at most n / 2^64: nothing that a thousand resamples could show.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn observations(rows: &[(u32, f64)]) -> Vec<Observation> {
        rows.iter().map(|&(user, value)| Observation { user: UserId(user), value }).collect()
    }

    /// Normal values by Box and Muller.
    fn normal(random: &mut SplitMix64) -> f64 {
        let mut uniform = || (random.next() >> 11) as f64 / (1u64 << 53) as f64;
        (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()
    }

    /// 60 users with 1 to 5 groups each, alike within a user, around a true mean of 0.
    fn clustered(random: &mut SplitMix64) -> Vec<Observation> {
        let mut all = Vec::new();
        for user in 0..60 {
            let of_user = normal(random);
            for _ in 0..=random.below(5) {
                let value = of_user + 0.5 * normal(random);
                all.push(Observation { user: UserId(user), value });
            }
        }
        all
    }

    #[test]
    fn the_mean_weighs_groups_and_not_users() {
        let rows = observations(&[(1, 1.0), (2, 0.0), (1, 0.5), (1, 0.3)]);
        assert_eq!(
            UserSum::of(&rows),
            [UserSum { sum: 1.8, n: 3.0 }, UserSum { sum: 0.0, n: 1.0 }]
        );
        assert_eq!(Bootstrap::default().mean(&rows).unwrap().mean, 1.8 / 4.0);
    }

    #[test]
    fn splitmix_gives_the_published_sequence() {
        let mut random = SplitMix64 { state: 1_234_567 };
        let drawn = [(); 3].map(|()| random.next());
        let published =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(drawn, published);
    }

    #[test]
    fn a_quantile_interpolates_between_neighbours() {
        let sorted = [1.0, 2.0, 4.0, 8.0, 16.0];
        assert_eq!(
            [0.0, 0.25, 0.375, 1.0].map(|share| quantile(&sorted, share)),
            [1.0, 2.0, 3.0, 16.0]
        );
    }

    #[test]
    fn the_interval_of_three_users_is_that_of_all_their_resamples() {
        // The 27 resamples of the means 0, 3 and 6 put 1/27 on 0 and on 6: both lie outside of the 2.5 % tails' edges.
        let rows = observations(&[(0, 0.0), (1, 3.0), (2, 6.0)]);
        let interval = Bootstrap { resamples: 20_000, seed: 1 }.mean(&rows).unwrap();
        assert_eq!(interval, Interval { mean: 3.0, low: 0.0, high: 6.0 });
    }

    #[test]
    fn nothing_observed_has_no_interval_and_one_user_a_point() {
        assert_eq!(Bootstrap::default().mean(&[]), None);
        let rows = observations(&[(4, 0.25), (4, 0.75)]);
        let point = Interval { mean: 0.5, low: 0.5, high: 0.5 };
        assert_eq!(Bootstrap::default().mean(&rows), Some(point));
    }

    #[test]
    fn a_95_percent_interval_holds_the_truth_in_about_95_percent_of_samples() {
        let mut random = SplitMix64 { state: 11 };
        let holds = |interval: Interval| interval.low <= 0.0 && 0.0 <= interval.high;
        let n_held = (0..1_000u64)
            .filter(|&seed| {
                let bootstrap = Bootstrap { resamples: 400, seed };
                holds(bootstrap.mean(&clustered(&mut random)).unwrap())
            })
            .count();
        // Three standard errors of 1,000 trials are .021; the percentile interval of 60 users is a little narrow.
        assert!((915..=971).contains(&n_held), "{n_held} of 1,000");
    }

    #[test]
    fn treating_groups_as_users_would_be_too_sure_of_itself() {
        let rows = clustered(&mut SplitMix64 { state: 5 });
        let split: Vec<Observation> = (0..)
            .zip(&rows)
            .map(|(at, row)| Observation { user: UserId(at), value: row.value })
            .collect();
        let width = |rows: &[Observation]| {
            let interval = Bootstrap::default().mean(rows).unwrap();
            interval.high - interval.low
        };
        assert!(width(&split) < 0.8 * width(&rows));
    }

    #[test]
    fn a_paired_difference_sees_what_two_intervals_hide() {
        let mut random = SplitMix64 { state: 3 };
        let baseline = clustered(&mut random);
        let candidate: Vec<Observation> = baseline
            .iter()
            .map(|row| Observation { value: row.value + 0.05 + 0.05 * normal(&mut random), ..*row })
            .collect();
        let bootstrap = Bootstrap::default();
        let of = |rows| bootstrap.mean(rows).unwrap();
        assert!(of(&candidate).low < of(&baseline).high);
        let paired = bootstrap.difference(&candidate, &baseline).unwrap();
        assert!(paired.excludes_zero() && paired.p_value < 0.001);
        let same = bootstrap.difference(&baseline, &baseline).unwrap();
        assert!(!same.excludes_zero() && same.p_value == 1.0);
    }

    #[test]
    fn five_users_never_suffice_to_exclude_zero() {
        let difference = Interval { mean: 0.2, low: 0.1, high: 0.3 };
        let of = |n_users| PairedDifference { difference, p_value: 0.0, n_users };
        assert!(!of(5).excludes_zero() && of(6).excludes_zero());
    }

    proptest! {
        #[test]
        fn the_interval_is_the_same_for_any_order_of_groups(
            rows in proptest::collection::vec((0u32..9, 0u8..5), 1..50),
            seed in any::<u64>(),
        ) {
            let rows: Vec<(u32, f64)> = rows.into_iter().map(|(user, n)| (user, f64::from(n) / 4.0)).collect();
            let reversed: Vec<(u32, f64)> = rows.iter().rev().copied().collect();
            let of = |rows| Bootstrap { resamples: 50, seed }.mean(&observations(rows)).unwrap();
            let interval = of(&rows);
            prop_assert_eq!(interval, of(&reversed));
            prop_assert!(interval.low <= interval.high && (0.0..=1.0).contains(&interval.mean));
        }
    }
}
