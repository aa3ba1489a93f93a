//! Cohorts of users and of items by how much is known about them, and the means within each.

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use crate::intervals::{Bootstrap, Interval, Observation};

/// How much is known: of a user by the length of the history, of an item by the number of its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cohort {
    /// Nothing: a new user, a new item.
    Cold,
    /// Something.
    Warm,
    /// The most: the fifth with the highest counts of those that are not cold.
    Hot,
}

impl Cohort {
    /// As a report prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Hot => "hot",
        }
    }
}

/// The part of the counts above 0 that is hot: the 20 % of the common 80/20 split of head and tail.
pub const HOT_SHARE: f64 = 0.2;

/// The cohort of each count, in the order given: of query groups by their user's number of earlier events, of all items
/// by their number of users.
///
/// Equal counts are in the same cohort, and at most [`HOT_SHARE`] of the counts above 0 are hot: if ties cross the
/// border, they are warm. Cost: O(n log n).
pub fn cohorts(counts: &[u64]) -> Vec<Cohort> {
    let mut known: Vec<u64> = counts.iter().copied().filter(|&count| count > 0).collect();
    known.sort_unstable_by(|a, b| b.cmp(a));
    let n_hot = (known.len() as f64 * HOT_SHARE) as usize;
    // The largest count that is not hot.
    let border = known.get(n_hot).copied().unwrap_or(0);
    let cohort = |&count: &u64| match count {
        0 => Cohort::Cold,
        _ if count > border => Cohort::Hot,
        _ => Cohort::Warm,
    };
    counts.iter().map(cohort).collect()
}

/// What was observed of a user or an item: of a query group, or of a relevant item whose value is 1 if it was found and
/// 0 if not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// Number of the user or item.
    pub id: u32,
    /// Its cohort at that moment.
    pub cohort: Cohort,
    /// The observation.
    pub observation: Observation,
}

/// A measure within one cohort.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CohortMean {
    /// The cohort.
    pub cohort: Cohort,
    /// How many users or items it has, each counted once however often it was observed.
    pub n: usize,
    /// Mean of the observations.
    #[serde(flatten)]
    pub interval: Interval,
}

/// Means of what was observed of `members` by cohort, coldest first; a cohort without members is left out.
pub fn means_by_cohort(bootstrap: &Bootstrap, members: &[Member]) -> Vec<CohortMean> {
    let mean_of = |cohort| {
        let within = || members.iter().filter(|member| member.cohort == cohort);
        let observations: Vec<Observation> = within().map(|member| member.observation).collect();
        let distinct: FxHashSet<u32> = within().map(|member| member.id).collect();
        Some(CohortMean { cohort, n: distinct.len(), interval: bootstrap.mean(&observations)? })
    };
    [Cohort::Cold, Cohort::Warm, Cohort::Hot].into_iter().filter_map(mean_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use featurestore::UserId;
    use proptest::prelude::*;

    #[test]
    fn a_fifth_of_those_with_a_history_is_hot() {
        use Cohort::{Cold, Hot, Warm};
        assert_eq!(cohorts(&[0, 9, 3, 4, 2, 1, 0]), [Cold, Hot, Warm, Warm, Warm, Warm, Cold]);
        assert_eq!(cohorts(&[1, 1, 1, 1, 1]), [Warm; 5]);
        assert_eq!(cohorts(&[]), []);
    }

    #[test]
    fn means_are_taken_within_each_cohort_and_its_members_counted_once() {
        let member = |id, cohort, value| Member {
            id,
            cohort,
            observation: Observation { user: UserId(id), value },
        };
        let members = [
            member(1, Cohort::Hot, 0.5),
            member(2, Cohort::Cold, 1.0),
            member(3, Cohort::Hot, 0.0),
            member(1, Cohort::Hot, 1.0),
        ];
        let means = means_by_cohort(&Bootstrap::default(), &members);
        let summary: Vec<_> =
            means.iter().map(|row| (row.cohort, row.n, row.interval.mean)).collect();
        assert_eq!(summary, [(Cohort::Cold, 1, 1.0), (Cohort::Hot, 2, 0.5)]);
    }

    proptest! {
        #[test]
        fn a_higher_count_is_never_colder_and_few_are_hot(counts in proptest::collection::vec(0u64..30, 0..80)) {
            let labels = cohorts(&counts);
            let mut both: Vec<(u64, Cohort)> = counts.iter().copied().zip(labels.iter().copied()).collect();
            both.sort();
            prop_assert!(both.is_sorted_by(|a, b| a.1 <= b.1 && (a.0 != b.0 || a.1 == b.1)));
            let n_hot = labels.iter().filter(|&&label| label == Cohort::Hot).count();
            let n_known = counts.iter().filter(|&&count| count > 0).count();
            prop_assert!(n_hot as f64 <= HOT_SHARE * n_known as f64);
        }
    }
}
