//! What an answer leaves out when its time does not suffice, and how it is known beforehand that it does not.
//!
//! Fewer candidates, old or no features, fewer trees, the order of the sources, a list that was computed before, what is
//! popular: each step costs less than the one before, and each is named in the answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Query;

/// A step down the ladder that an answer took to keep its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Degraded {
    /// Not all sources were asked, or not all that they propose was ranked.
    FewerCandidates,
    /// What is known of the user or of items is what was known a while ago.
    StaleFeatures,
    /// Nothing was known of the user or of some items, since the feature store did not answer in time.
    DefaultFeatures,
    /// Only the first trees of the ranker were asked.
    FewerTrees,
    /// The candidates are in the order of their sources.
    Unranked,
    /// The list was not made as diverse as the placement wants it.
    Undiversified,
    /// The list was computed before.
    Precomputed,
    /// The list is what is popular.
    Popular,
}

impl Degraded {
    /// Its name in answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::FewerCandidates => "fewer_candidates",
            Self::StaleFeatures => "stale_features",
            Self::DefaultFeatures => "default_features",
            Self::FewerTrees => "fewer_trees",
            Self::Unranked => "unranked",
            Self::Undiversified => "undiversified",
            Self::Precomputed => "precomputed",
            Self::Popular => "popular",
        }
    }
}

/// A new observation counts so much, its inverse.
const SMOOTHING: u64 = 16;

/// An observation is believed up to so many times what was expected: a machine that was stopped for a second is not slow.
const MOST_TIMES: u64 = 8;

/// What something takes, as it was lately. 0: it was not measured yet.
#[derive(Debug, Default)]
pub(super) struct Cost(AtomicU64);

impl Cost {
    /// Of `n` of them.
    pub(super) fn of(&self, n: usize) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed).saturating_mul(n as u64))
    }

    /// Notes that `n` of them took `took`.
    pub(super) fn observe(&self, took: Duration, n: usize) {
        if n == 0 {
            return;
        }
        let (known, seen) = (self.0.load(Ordering::Relaxed), took.as_nanos() as u64 / n as u64);
        let next = match known {
            0 => seen,
            _ => (known * (SMOOTHING - 1) + seen.min(known * MOST_TIMES)).div_ceil(SMOOTHING),
        };
        self.0.store(next.max(1), Ordering::Relaxed);
    }

    /// What was too dear is tried again some time: it gets cheaper while nobody looks.
    pub(super) fn forget_some(&self) {
        let known = self.0.load(Ordering::Relaxed);
        self.0.store(known - known / SMOOTHING, Ordering::Relaxed);
    }
}

/// What one candidate costs.
#[derive(Debug, Default)]
pub(super) struct Costs {
    /// To read and compute its features.
    pub(super) features: Cost,
    /// To ask all trees.
    pub(super) trees: Cost,
}

/// When a stage must be done that has `budget_ms`, and all after it `after_ms`: within its budget, and so that the others
/// keep their share of what is left until the deadline.
pub(super) fn stage_until(query: &Query, budget_ms: u32, after_ms: u32) -> Option<Instant> {
    let (now, share) =
        (Instant::now(), f64::from(budget_ms) / f64::from(budget_ms + after_ms).max(1.0));
    let left = query.deadline?.saturating_duration_since(now).mul_f64(share);
    Some(now + left.min(Duration::from_millis(budget_ms.into())))
}

/// What is left until `until`; `None`: as much as it takes.
pub(super) fn left(until: Option<Instant>) -> Option<Duration> {
    until.map(|until| until.saturating_duration_since(Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_follows_what_is_seen_and_is_not_shocked() {
        let cost = Cost::default();
        cost.observe(Duration::from_micros(100), 100);
        assert_eq!(cost.of(10), Duration::from_micros(10));
        cost.observe(Duration::from_secs(1), 1);
        let shocked = cost.of(1);
        assert!(shocked > Duration::from_micros(1) && shocked < Duration::from_micros(2));
        for _ in 0..200 {
            cost.forget_some();
        }
        assert!(cost.of(1) < Duration::from_nanos(100));
        for _ in 0..200 {
            cost.observe(Duration::from_micros(3), 1);
        }
        assert!(cost.of(1) > Duration::from_nanos(2_900), "{:?}", cost.of(1));
    }
}
