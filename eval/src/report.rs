//! What an evaluation found: the object that `--json` prints, a table for the terminal, and a page.

mod html;
mod numbers;
mod plots;
mod svg;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cohorts::CohortMean;
use crate::intervals::{Interval, PairedDifference};
use crate::metrics::Metric;
use crate::reliability::ReliabilityBin;
use crate::sources::SourceRecall;
use crate::waterfall::Waterfall;

/// Everything that a run found. Its JSON is what `evaluate --json` prints and what `report.json` holds.
///
/// The fields down to `seed` are the outside contract; the rest is left out of the JSON where it is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the protocol: `temporal`, `lightgcn` or `leave-one-out`.
    pub protocol: String,
    /// Number of query groups that have a relevant item: what the means are about.
    pub n_groups: usize,
    /// The models, the one under test first.
    pub models: Vec<ModelReport>,
    /// Where relevant items are lost on their way through the model under test.
    pub waterfall: Waterfall,
    /// What the run was asked for, as it was asked.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Seed of the run and of the intervals.
    pub seed: u64,
    /// Number of users that have a query group.
    #[serde(default)]
    pub n_users: usize,
    /// Query groups without a relevant item, which count in no mean.
    #[serde(default)]
    pub n_without_relevant: usize,
    /// Query groups with relevant items that the model under test answered with an empty list: they count as 0.
    #[serde(default)]
    pub n_empty: usize,
    /// The time that the query groups span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<TestSpan>,
    /// The model under test against each baseline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<Comparison>,
    /// The model under test among cold, warm and hot users and items.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cohorts: Vec<CohortTable>,
    /// What each source of the model under test is worth.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceRecall>,
    /// Recall of retrieval by the number of candidates, ascending in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recall_curve: Vec<CurvePoint>,
    /// How much the ranker relies on its features: the first ones, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<FeatureImportance>,
    /// Predicted against observed rates over all candidates of all query groups, where the ranker has a calibration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reliability: Vec<ReliabilityBin>,
    /// Expected calibration error of these bins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration_error: Option<f64>,
    /// What a reader must know to trust the figures, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What was measured of one model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Name of the model.
    pub name: String,
    /// Mean and 95 % interval by the metric's name.
    pub metrics: BTreeMap<String, Interval>,
    /// Wall time of answering all query groups, in seconds.
    pub seconds: f64,
    /// Most memory in use, in bytes; 0 where it was not measured.
    pub peak_bytes: u64,
    /// Measures of all lists together, which have no interval: `coverage@10`, `gini@10`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub catalogue: BTreeMap<String, f64>,
}

/// First and last moment of the test, as RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestSpan {
    /// Time of the first query group.
    pub from: String,
    /// Time of the last query group.
    pub until: String,
}

/// The model under test against one other, in one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the model that it is compared with.
    pub baseline: String,
    /// Name of the metric.
    pub metric: String,
    /// Model under test less baseline.
    #[serde(flatten)]
    pub paired: PairedDifference,
    /// The p-value after Holm's correction for all comparisons of this metric.
    pub p_holm: f64,
}

impl Comparison {
    /// What the interval says of the model under test, in a word or three.
    fn verdict(&self) -> &'static str {
        match (self.paired.excludes_zero(), self.paired.difference.mean > 0.0) {
            (true, true) => "better",
            (true, false) => "worse",
            (false, _) => "no difference shown",
        }
    }
}

/// A metric by cohort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CohortTable {
    /// What the cohorts are cohorts of: `users` or `items`.
    pub of: String,
    /// Name of the metric.
    pub metric: String,
    /// The cohorts, coldest first.
    pub rows: Vec<CohortMean>,
}

/// Recall among the first `k` candidates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Number of candidates, above 0.
    pub k: usize,
    /// Share of the relevant items that are among them, in `[0, 1]`.
    pub recall: f64,
}

/// How much the ranker relies on a feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureImportance {
    /// Name of the feature.
    pub feature: String,
    /// Its share of the gain of all splits, in `[0, 1]`.
    pub share: f64,
}

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct WriteReportError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system says.
    pub source: std::io::Error,
}

impl Report {
    /// The report as one JSON object over several lines, its keys in a fixed order.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has string keys and no failing type")
    }

    /// The report as plain text for a terminal of `width` columns, metrics that do not fit beside the others following
    /// below them.
    pub fn text(&self, width: usize) -> String {
        table::text(self, width)
    }

    /// The report as a page that needs nothing else: no script, no font, no image, no network.
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// Writes `report.json` and `report.html` into `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// If the folder cannot be made or a file not be written.
    pub fn write(&self, folder: &Path) -> Result<(), WriteReportError> {
        let failed = |path: &Path, source| WriteReportError { path: path.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
        for (name, text) in [("report.json", self.json()), ("report.html", self.html())] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|source| failed(&path, source))?;
        }
        Ok(())
    }

    /// Metrics of any model, in the order in which they are shown.
    fn metrics(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.models.iter().flat_map(|model| model.metrics.keys()).map(String::as_str).collect();
        names.sort_by_key(|name| display_order(name));
        names.dedup();
        names
    }

    /// The metric that the report is headed by: that of the first comparison, else ndcg@10, else the first.
    fn headline(&self) -> Option<&str> {
        let metrics = self.metrics();
        let compared = self.comparisons.first().map(|comparison| comparison.metric.as_str());
        let usual = metrics.iter().copied().find(|metric| *metric == "ndcg@10");
        compared.or(usual).or(metrics.first().copied())
    }

    /// The model that the report is about.
    fn under_test(&self) -> Option<&ModelReport> {
        self.models.first()
    }
}

/// Orders metrics as [`Measure::ALL`] does, then by k; other names follow alphabetically.
///
/// [`Measure::ALL`]: crate::metrics::Measure::ALL
fn display_order(name: &str) -> (bool, Option<Metric>, &str) {
    let metric = name.parse().ok();
    (metric.is_none(), metric, name)
}
