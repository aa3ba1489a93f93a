//! What `/metrics` tells, by the names of the outside contract. No label holds an id.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::pipeline::Timing;
use engine::release::{Release, ScenarioPlan};
use engine::replica::{ExternalCounts, Replica};
use featurestore::Timestamp;
use featurestore::redis::Counts;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteStatus {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Step {
    step: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Filter {
    filter: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeOutcome {
    r#type: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReleaseName {
    release: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of the server.
pub(super) struct Metrics {
    registry: Registry,
    http_requests: Family<RouteStatus, Counter>,
    http_request_duration: Histograms<Route>,
    stage_duration: Histograms<Stage>,
    stage_deadline_exceeded: Family<Stage, Counter>,
    degraded: Family<Step, Counter>,
    candidates: Histograms<Source>,
    filtered: Family<Filter, Counter>,
    result_items: Histogram,
    empty_results: Counter,
    events: Family<TypeOutcome, Counter>,
    event_lag: Histogram,
    release_info: Family<ReleaseName, Gauge>,
    release_age: Gauge<f64, AtomicU64>,
    /// Only for releases with an approximate index.
    index_recall: Family<ReleaseName, Gauge<f64, AtomicU64>>,
    feature_cache_hits: Counter,
    feature_cache_misses: Counter,
    feature_cache_invalidations: Counter,
    feature_store_failures: Counter,
    feature_malformed: Counter,
    external_values: Family<Outcome, Counter>,
    /// Impressions that were not written since the queue was full, or the disk refused.
    pub(super) impressions_dropped: Counter,
}

/// From 100 us to 13 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

/// From 1 to 16,384.
fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 15))
}

/// From 10 ms to 11 days.
fn lags() -> Histogram {
    Histogram::new(exponential_buckets(0.01, 10.0, 9))
}

impl Metrics {
    /// Nothing has happened yet.
    pub(super) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("cascade"),
            http_requests: Family::default(),
            http_request_duration: Family::new_with_constructor(seconds),
            stage_duration: Family::new_with_constructor(seconds),
            stage_deadline_exceeded: Family::default(),
            degraded: Family::default(),
            candidates: Family::new_with_constructor(counts),
            filtered: Family::default(),
            result_items: counts(),
            empty_results: Counter::default(),
            events: Family::default(),
            event_lag: lags(),
            release_info: Family::default(),
            release_age: Gauge::default(),
            index_recall: Family::default(),
            feature_cache_hits: Counter::default(),
            feature_cache_misses: Counter::default(),
            feature_cache_invalidations: Counter::default(),
            feature_store_failures: Counter::default(),
            feature_malformed: Counter::default(),
            external_values: Family::default(),
            impressions_dropped: Counter::default(),
        };
        metrics.register_requests();
        metrics.register_stages();
        metrics.register_state();
        metrics.register_features();
        metrics
    }

    fn register_requests(&mut self) {
        let registry = &mut self.registry;
        let requests = self.http_requests.clone();
        registry.register("http_requests", "HTTP requests", requests);
        let duration = self.http_request_duration.clone();
        registry.register("http_request_duration_seconds", "Time to answer a request", duration);
        let items = self.result_items.clone();
        registry.register("result_items", "Items in an answer", items);
        let empty = self.empty_results.clone();
        registry.register("empty_results", "Answers without an item", empty);
        let dropped = self.impressions_dropped.clone();
        registry.register("impressions_dropped", "Impressions that were not logged", dropped);
    }

    fn register_stages(&mut self) {
        let registry = &mut self.registry;
        let duration = self.stage_duration.clone();
        registry.register("stage_duration_seconds", "Time in a stage of the pipeline", duration);
        let exceeded = self.stage_deadline_exceeded.clone();
        let help = "Requests in which a stage took longer than its budget";
        registry.register("stage_deadline_exceeded", help, exceeded);
        let degraded = self.degraded.clone();
        registry.register("degraded", "Answers that took a step down the ladder", degraded);
        let candidates = self.candidates.clone();
        registry.register("candidates", "Candidates that a source proposed", candidates);
        let filtered = self.filtered.clone();
        registry.register("filtered", "Items that a rule kept out of an answer", filtered);
    }

    fn register_state(&mut self) {
        let registry = &mut self.registry;
        registry.register("events", "Events by what became of them", self.events.clone());
        let lag = self.event_lag.clone();
        registry.register("event_lag_seconds", "From an event's time until it was applied", lag);
        let info = self.release_info.clone();
        registry.register("release_info", "The release in service", info);
        let help = "Time since the end of the data that the release in service was trained on";
        registry.register("release_age_seconds", help, self.release_age.clone());
        let help =
            "Share of the nearest items that the release's index finds, measured in training";
        registry.register("index_recall", help, self.index_recall.clone());
    }

    fn register_features(&mut self) {
        let of_store = [
            ("feature_cache_hits", "Records that the near cache had", &self.feature_cache_hits),
            (
                "feature_cache_misses",
                "Records that the near cache lacked",
                &self.feature_cache_misses,
            ),
            (
                "feature_cache_invalidations",
                "Hashes of records that others have changed in Redis",
                &self.feature_cache_invalidations,
            ),
            (
                "feature_store_failures",
                "Reads that the feature store did not answer in time",
                &self.feature_store_failures,
            ),
            (
                "feature_malformed",
                "Values in the feature store that could not be read",
                &self.feature_malformed,
            ),
        ];
        for (name, help, counter) in of_store {
            self.registry.register(name, help, counter.clone());
        }
        let help = "Values of fields that other jobs have written into the shared log";
        self.registry.register("external_values", help, self.external_values.clone());
    }

    /// Counts an HTTP request. `route`: a pattern, never a path.
    pub(super) fn count_request(&self, route: &'static str, status: u16, duration: Duration) {
        self.http_requests.get_or_create(&RouteStatus { route, status }).inc();
        let label = Route { route };
        self.http_request_duration.get_or_create(&label).observe(duration.as_secs_f64());
    }

    /// Counts what happened in one run of the pipeline.
    pub(super) fn count_stages(&self, scenario: &ScenarioPlan, timing: &Timing) {
        let budget = &scenario.budget;
        let stages = [
            ("retrieve", timing.retrieve, budget.retrieve_ms),
            ("rank", timing.rank, budget.rank_ms),
            ("rerank", timing.rerank, budget.rerank_ms),
        ];
        for (stage, took, budget_ms) in stages {
            let label = Stage { stage };
            self.stage_duration.get_or_create(&label).observe(took.as_secs_f64());
            let exceeded = self.stage_deadline_exceeded.get_or_create(&label);
            exceeded.inc_by(u64::from(took > Duration::from_millis(budget_ms.into())));
        }
    }

    /// Counts how many candidates a source proposed.
    pub(super) fn count_candidates(&self, source: &str, n: usize) {
        let label = Source { source: source.to_owned() };
        self.candidates.get_or_create(&label).observe(n as f64);
    }

    /// Counts a step down the ladder.
    pub(super) fn count_degraded(&self, step: &'static str) {
        self.degraded.get_or_create(&Step { step }).inc();
    }

    /// Counts an item that was kept out.
    pub(super) fn count_filtered(&self, filter: &'static str) {
        self.filtered.get_or_create(&Filter { filter }).inc();
    }

    /// Counts the items of an answer.
    pub(super) fn count_result(&self, n_items: usize) {
        self.result_items.observe(n_items as f64);
        self.empty_results.inc_by(u64::from(n_items == 0));
    }

    /// Counts `n` events. `kind`: a known type.
    pub(super) fn count_events(&self, kind: &str, outcome: &'static str, n: u64) {
        let label = TypeOutcome { r#type: kind.to_owned(), outcome };
        self.events.get_or_create(&label).inc_by(n);
    }

    /// Notes how old an event was when it was applied.
    pub(super) fn observe_lag(&self, time: Timestamp, now: Timestamp) {
        self.event_lag.observe(now.seconds_since(time).max(0.0));
    }

    /// Everything in the OpenMetrics text format. `now` and `release`: to tell the release's age. `replica`: if features are
    /// in Redis.
    pub(super) fn encode(
        &self,
        release: Option<&Release>,
        replica: Option<&Replica>,
        now: Timestamp,
    ) -> String {
        if let Some(replica) = replica {
            self.take_over(replica.features().counts(), replica.external());
        }
        self.release_info.clear();
        self.index_recall.clear();
        if let Some(release) = release {
            let label = ReleaseName { release: release.manifest.id.clone() };
            if let Some(recall) = release.manifest.metrics.get("index_recall") {
                self.index_recall.get_or_create(&label).set(*recall);
            }
            self.release_info.get_or_create(&label).set(1);
            self.release_age.set(now.seconds_since(release.manifest.data.until));
        }
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("a string takes any text");
        out
    }

    /// Shows what the feature store and the follower of the shared log have counted.
    fn take_over(&self, counts: &Counts, external: &ExternalCounts) {
        let outcomes = [
            ("taken", &external.taken),
            ("missing", &external.missing),
            ("unknown", &external.unknown),
            ("malformed", &external.malformed),
        ];
        let by_outcome = outcomes.map(|(outcome, count)| {
            (self.external_values.get_or_create_owned(&Outcome { outcome }), count)
        });
        let of_store = [
            (self.feature_cache_hits.clone(), &counts.hits),
            (self.feature_cache_misses.clone(), &counts.misses),
            (self.feature_cache_invalidations.clone(), &counts.invalidations),
            (self.feature_store_failures.clone(), &counts.failures),
            (self.feature_malformed.clone(), &counts.malformed),
        ];
        for (counter, count) in of_store.into_iter().chain(by_outcome) {
            // A new store, after another release was activated, counts from 0: what the scraper takes for a restart.
            counter.inner().store(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_names_of_the_contract() {
        let metrics = Metrics::new();
        metrics.count_request("/v1/events", 200, Duration::from_millis(3));
        metrics.count_events("view", "accepted", 1);
        metrics.count_degraded("unranked");
        metrics.count_candidates("embedding", 600);
        metrics.count_filtered("caps");
        metrics.count_result(0);
        let text = metrics.encode(None, None, Timestamp(0));
        for line in [
            "cascade_http_requests_total{route=\"/v1/events\",status=\"200\"} 1",
            "cascade_http_request_duration_seconds_count{route=\"/v1/events\"} 1",
            "cascade_events_total{type=\"view\",outcome=\"accepted\"} 1",
            "cascade_degraded_total{step=\"unranked\"} 1",
            "cascade_candidates_count{source=\"embedding\"} 1",
            "cascade_filtered_total{filter=\"caps\"} 1",
            "cascade_empty_results_total 1",
            "cascade_result_items_count 1",
            "cascade_event_lag_seconds_count 0",
            "cascade_impressions_dropped_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
