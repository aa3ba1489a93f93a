//! What an answer leaves out when its time does not suffice, and how it is known beforehand that it does not.
//!
//! Fewer candidates, old or no features, fewer trees, the order of the sources, a list that was computed before, what is
//! popular: each step costs less than the one before, and each is named in the answer.

use std::time::{Duration, Instant};

use super::Query;
use crate::cost::Cost;

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
    /// Some items do not say why they are there, though they were asked to.
    Unexplained,
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
            Self::Unexplained => "unexplained",
            Self::Precomputed => "precomputed",
            Self::Popular => "popular",
        }
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
