//! Measures of ranking quality by name. A name carries its definition where definitions differ.

pub mod catalogue;
pub mod ranking;
pub mod scores;

use std::fmt;
use std::str::FromStr;

use featurestore::ItemId;
use rustc_hash::FxHashSet;

/// What a metric measures of the head of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// Normalised discounted cumulative gain, binary gains: `ndcg@k`.
    Ndcg,
    /// Hits over relevant items: `recall@k/n`.
    RecallPerRelevant,
    /// Hits over the most hits there can be: `recall@k/min`.
    RecallPerReachable,
    /// Hits over k: `precision@k`.
    Precision,
    /// Whether there is a hit: `hr@k`.
    HitRate,
    /// One over the position of the first hit: `mrr@k`.
    ReciprocalRank,
    /// Sum of the precisions at the hits over the most hits there can be: `map@k/min`.
    AveragePrecisionPerReachable,
    /// Sum of the precisions at the hits over relevant items, as trec_eval's `map_cut_k`: `map@k/n`.
    AveragePrecisionPerRelevant,
}

impl Measure {
    /// All measures, in the order in which a report shows them.
    pub const ALL: [Self; 8] = [
        Self::Ndcg,
        Self::RecallPerRelevant,
        Self::RecallPerReachable,
        Self::Precision,
        Self::HitRate,
        Self::ReciprocalRank,
        Self::AveragePrecisionPerReachable,
        Self::AveragePrecisionPerRelevant,
    ];

    /// What stands before and after `@k` in a metric's name.
    fn affixes(self) -> (&'static str, &'static str) {
        match self {
            Self::Ndcg => ("ndcg", ""),
            Self::RecallPerRelevant => ("recall", "/n"),
            Self::RecallPerReachable => ("recall", "/min"),
            Self::Precision => ("precision", ""),
            Self::HitRate => ("hr", ""),
            Self::ReciprocalRank => ("mrr", ""),
            Self::AveragePrecisionPerReachable => ("map", "/min"),
            Self::AveragePrecisionPerRelevant => ("map", "/n"),
        }
    }

    /// The name with `k` in its place: `recall@20/n`, or `recall@k/n` for any k.
    pub(crate) fn name_at(self, k: impl fmt::Display) -> String {
        let (before, after) = self.affixes();
        format!("{before}@{k}{after}")
    }

    /// The definition in one line, for a reader who knows the words hit and relevant.
    pub fn definition(self) -> &'static str {
        match self {
            Self::Ndcg => {
                "sum of 1 / log2(position + 1) over the hits, divided by that of an ideal list cut at min(k, relevant)"
            }
            Self::RecallPerRelevant => "hits divided by relevant items",
            Self::RecallPerReachable => "hits divided by min(k, relevant)",
            Self::Precision => "hits divided by k",
            Self::HitRate => "1 if there is a hit, else 0",
            Self::ReciprocalRank => "1 / position of the first hit, 0 without one",
            Self::AveragePrecisionPerReachable => {
                "sum of the precisions at the hits, divided by min(k, relevant)"
            }
            Self::AveragePrecisionPerRelevant => {
                "sum of the precisions at the hits, divided by relevant items"
            }
        }
    }
}

/// A measure of the first `k` places of a list. Written and read as a name: `ndcg@10`, `recall@20/min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metric {
    /// What is measured.
    pub measure: Measure,
    /// How many places of the list count. 0 leaves every list undefined.
    pub k: usize,
}

impl Metric {
    /// The metric of one query group, in `[0, 1]`.
    ///
    /// `ranked` is the list as shown, best first, each item at most once; `relevant` holds the group's held-out
    /// positives. `None` if `relevant` is empty or `k` is 0: such a group counts in no mean. An empty list of a group
    /// that has relevant items counts as 0. Cost: O(k) look-ups.
    pub fn compute(self, ranked: &[ItemId], relevant: &FxHashSet<ItemId>) -> Option<f64> {
        let of = match self.measure {
            Measure::Ndcg => ranking::ndcg_at_k,
            Measure::RecallPerRelevant => ranking::recall_at_k_per_relevant,
            Measure::RecallPerReachable => ranking::recall_at_k_per_reachable,
            Measure::Precision => ranking::precision_at_k,
            Measure::HitRate => ranking::hit_rate_at_k,
            Measure::ReciprocalRank => ranking::reciprocal_rank_at_k,
            Measure::AveragePrecisionPerReachable => ranking::average_precision_at_k_per_reachable,
            Measure::AveragePrecisionPerRelevant => ranking::average_precision_at_k_per_relevant,
        };
        of(ranked, relevant, self.k)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.measure.name_at(self.k))
    }
}

/// Why a name is not that of a metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMetricError {
    /// Nothing measures under this name.
    #[error("no metric is named `{name}`: there are {}", names_at("k"))]
    Unknown {
        /// The name as given.
        name: String,
    },
    /// A measure that has several definitions was named without one.
    #[error("`{name}` has several definitions: say {}", choices.join(" or "))]
    Ambiguous {
        /// The name as given.
        name: String,
        /// The names that say which.
        choices: Vec<String>,
    },
    /// What follows the `@` does not count places.
    #[error("`{name}` needs a whole number above 0 after the @")]
    Places {
        /// The name as given.
        name: String,
    },
}

/// The names of all measures at `k`, with commas between them.
fn names_at(k: &str) -> String {
    Measure::ALL.map(|measure| measure.name_at(k)).join(", ")
}

impl FromStr for Metric {
    type Err = ParseMetricError;

    fn from_str(name: &str) -> Result<Self, ParseMetricError> {
        let unknown = || ParseMetricError::Unknown { name: name.to_owned() };
        let (before, rest) = name.split_once('@').ok_or_else(unknown)?;
        let (k, after) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let measure = measure_named(before, after)
            .ok_or_else(|| ambiguous_or_unknown(name, before, k, after))?;
        match k.parse() {
            Ok(k) if k > 0 => Ok(Self { measure, k }),
            _ => Err(ParseMetricError::Places { name: name.to_owned() }),
        }
    }
}

fn measure_named(before: &str, after: &str) -> Option<Measure> {
    Measure::ALL.into_iter().find(|measure| measure.affixes() == (before, after))
}

fn ambiguous_or_unknown(name: &str, before: &str, k: &str, after: &str) -> ParseMetricError {
    let same_start = |measure: &Measure| measure.affixes().0 == before && after.is_empty();
    let choices: Vec<String> =
        Measure::ALL.into_iter().filter(same_start).map(|measure| measure.name_at(k)).collect();
    match choices.is_empty() {
        true => ParseMetricError::Unknown { name: name.to_owned() },
        false => ParseMetricError::Ambiguous { name: name.to_owned(), choices },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_the_metric_that_wrote_it() {
        for measure in Measure::ALL {
            let metric = Metric { measure, k: 20 };
            assert_eq!(metric.to_string().parse(), Ok(metric));
        }
        let written = Measure::ALL.map(|measure| Metric { measure, k: 10 }.to_string());
        assert_eq!(written.join(", "), names_at("10"));
    }

    #[test]
    fn a_recall_without_its_denominator_is_refused_with_the_choices() {
        let error = "recall@20".parse::<Metric>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`recall@20` has several definitions: say recall@20/n or recall@20/min"
        );
    }

    #[test]
    fn a_name_that_is_no_metric_is_refused() {
        for name in ["", "ndcg", "ndgc@10", "ndcg@10/n", "recall@20/max"] {
            let refused = ParseMetricError::Unknown { name: name.to_owned() };
            assert_eq!(name.parse::<Metric>(), Err(refused));
        }
        for name in ["ndcg@0", "ndcg@ten", "recall@-1/n"] {
            let refused = ParseMetricError::Places { name: name.to_owned() };
            assert_eq!(name.parse::<Metric>(), Err(refused));
        }
    }

    #[test]
    fn all_metrics_of_one_group_are_those_worked_by_hand() {
        // Hits at positions 2 and 4; five relevant items, k = 4.
        let ranked = [9, 1, 8, 2, 3].map(ItemId);
        let relevant = [1, 2, 3, 4, 5].map(ItemId).into_iter().collect();
        let ideal = 1.0 + 1.0 / 3f64.log2() + 0.5 + 1.0 / 5f64.log2();
        let by_hand = [
            (1.0 / 3f64.log2() + 1.0 / 5f64.log2()) / ideal,
            2.0 / 5.0,
            2.0 / 4.0,
            2.0 / 4.0,
            1.0,
            1.0 / 2.0,
            (1.0 / 2.0 + 2.0 / 4.0) / 4.0,
            (1.0 / 2.0 + 2.0 / 4.0) / 5.0,
        ];
        for (measure, expected) in Measure::ALL.into_iter().zip(by_hand) {
            let value = Metric { measure, k: 4 }.compute(&ranked, &relevant).unwrap();
            assert!((value - expected).abs() < 1e-12, "{measure:?}: {value} is not {expected}");
        }
    }
}
