//! The temporal protocol: the questions of a part of the log, each asked of the pipeline as of its own moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use engine::ask::{Asked, ask_in_replay};
use engine::pipeline::{Scratch, Timing};
use engine::release::Release;
use featurestore::{History, ItemId, Question, Scored, UserId, best_first, keep_best};
use ranking::linear::Linear;
use ranking::ranker::Ranker;
use retrieval::merge::Candidates;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::baselines::baseline_lists;
use crate::cohorts::{Member, cohorts, means_by_cohort};
use crate::intervals::{Bootstrap, Interval, Observation, PairedDifference};
use crate::metrics::catalogue::{Exposure, intra_list_diversity, novelty};
use crate::metrics::scores::{Labelled, auc, log_loss};
use crate::metrics::{Measure, Metric};
use crate::reliability::{Tally, expected_calibration_error};
use crate::report::{
    CohortTable, Comparison, CurvePoint, FeatureImportance, ModelReport, Report, TestSpan,
};
use crate::significance::holm;
use crate::sources::SourceTally;
use crate::waterfall::Waterfall;

/// The metric that models are compared by.
pub const HEADLINE: Metric = Metric { measure: Measure::Ndcg, k: 10 };

/// How a run is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Cut-offs.
    pub k: Vec<usize>,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
    /// Threads that answer.
    pub n_threads: usize,
    /// The part of the usual candidates that is looked at, from 0 to 1.
    pub share: f32,
}

impl Settings {
    /// Items that lists must have.
    fn n_items(&self) -> usize {
        self.k.iter().copied().max().unwrap_or(0).max(HEADLINE.k)
    }
}

/// Numbers of candidates at which the recall of retrieval is reported.
const CURVE: [usize; 7] = [10, 20, 50, 100, 200, 500, 1_000];

/// Bins of the ranker's probabilities in the report.
const RELIABILITY_BINS: usize = 10;

/// Features that the report names: those below move nothing that one could see.
const MAX_FEATURES: usize = 30;

/// What one question was answered with.
struct Group {
    shown: Vec<ItemId>,
    fused: Vec<ItemId>,
    linear: Option<Vec<ItemId>>,
    sources: Vec<Vec<ItemId>>,
    seen: Vec<ItemId>,
    waterfall: Waterfall,
    found_by: Vec<Vec<usize>>,
    found_at: Vec<usize>,
    auc: Option<f64>,
    log_loss: Option<f64>,
    diversity: Option<f64>,
    n_history: u64,
    timing: Timing,
}

/// Lists of every model for the same questions.
pub struct Run<'a> {
    questions: &'a [Question],
    relevant: Vec<FxHashSet<ItemId>>,
    groups: Vec<Group>,
    lists: Vec<(String, Vec<Vec<ItemId>>)>,
    seconds: BTreeMap<String, f64>,
    source_names: Vec<String>,
    probabilities: Tally,
    features: Vec<FeatureImportance>,
    history: &'a History,
    settings: Settings,
}

/// Asks `questions` of `release` in replay, and of the baselines. `linear`: the linear ranker to measure beside it.
pub fn run<'a>(
    release: &Arc<Release>,
    linear: Option<&Linear>,
    history: &'a History,
    questions: &'a [Question],
    settings: &Settings,
) -> Run<'a> {
    let n = settings.n_items();
    let probabilities = Mutex::new(Tally::default());
    let started = Instant::now();
    let groups = ask_in_replay(release, history, questions, n, settings.n_threads, |asked| {
        asked.query.share = settings.share;
        ask_one(asked, linear, n, &probabilities)
    });
    let replayed = started.elapsed().as_secs_f64();
    let scenario = &release.scenarios[release.config.main_scenario()];
    let hides = scenario.hide_seen.is_some();
    let labels = release.config.schema().labels();
    let position: FxHashMap<usize, usize> =
        questions.iter().enumerate().map(|(i, question)| (question.first_event, i)).collect();
    let started = Instant::now();
    let counted = baseline_lists(history, questions, &labels, n, |question, item| {
        hides && groups[position[&question.first_event]].seen.contains(&item)
    });
    let counting = started.elapsed().as_secs_f64();
    let mut run = Run {
        questions,
        relevant: questions
            .iter()
            .map(|q| q.relevant.iter().map(|(item, _)| *item).collect())
            .collect(),
        lists: Vec::new(),
        seconds: BTreeMap::new(),
        source_names: scenario.sources.iter().map(|source| source.name.clone()).collect(),
        probabilities: probabilities.into_inner().unwrap_or_else(PoisonError::into_inner),
        features: release.ranker.as_ref().map(importance).unwrap_or_default(),
        groups,
        history,
        settings: settings.clone(),
    };
    run.add("pipeline", replayed, |group| group.shown.clone());
    run.add_best_source();
    for name in ["popular_7d", "own_frequency", "own_frequency_60d"] {
        let list = |lists: &crate::baselines::BaselineLists| {
            let named = lists.named().into_iter().find(|(known, _)| *known == name);
            named.map(|(_, list)| list.to_vec()).unwrap_or_default()
        };
        run.lists.push((name.to_owned(), counted.iter().map(list).collect()));
        run.seconds.insert(name.to_owned(), counting);
    }
    run.add("fused", 0.0, |group| group.fused.clone());
    if linear.is_some() {
        run.add("linear", 0.0, |group| group.linear.clone().unwrap_or_default());
    }
    run
}

/// The features of `ranker` by their share of the gain of all splits, largest first; none if it has no trees.
fn importance(ranker: &Ranker) -> Vec<FeatureImportance> {
    let Ranker::Forest(forest) = ranker else { return Vec::new() };
    let gains = forest.gain_by_feature();
    let all: f64 = gains.iter().sum();
    let features = forest.names().iter().zip(&gains).filter(|(_, gain)| **gain > 0.0);
    let mut features: Vec<FeatureImportance> = features
        .map(|(name, gain)| FeatureImportance { feature: name.clone(), share: gain / all })
        .collect();
    features.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.feature.cmp(&b.feature)));
    features.truncate(MAX_FEATURES);
    features
}

fn ask_one(
    asked: &mut Asked<'_>,
    linear: Option<&Linear>,
    n: usize,
    probabilities: &Mutex<Tally>,
) -> Group {
    let answer = asked.pipeline.recommend(asked.scenario, &asked.query, asked.scratch);
    let scratch = &*asked.scratch;
    let candidates = &scratch.candidates;
    let relevant = &asked.question.relevant;
    let at: FxHashMap<ItemId, usize> =
        candidates.items.iter().enumerate().map(|(i, item)| (*item, i)).collect();
    let found: Vec<usize> = relevant.iter().filter_map(|(item, _)| at.get(item).copied()).collect();
    let shown: Vec<ItemId> = answer.slate.shown.iter().map(|shown| shown.item).collect();
    let is_relevant = |item: &ItemId| relevant.iter().any(|(known, _)| known == item);
    let fused = candidates.fused();
    let fused_ranks = fused_ranks(candidates, &fused);
    let by = |scores: &[f32]| {
        let scored = candidates.items.iter().zip(scores);
        let mut list: Vec<Scored> =
            scored.map(|(item, score)| Scored { item: *item, score: *score }).collect();
        keep_best(&mut list, n);
        list.into_iter().map(|scored| scored.item).collect::<Vec<ItemId>>()
    };
    let linear = linear.map(|linear| {
        let mut scores = vec![0.0; candidates.items.len()];
        linear.score_block(&scratch.columns, candidates.items.len(), &mut scores);
        by(&scores)
    });
    let labelled: Vec<Labelled> = candidates
        .items
        .iter()
        .zip(&scratch.scores)
        .map(|(item, score)| Labelled { score: f64::from(*score), positive: is_relevant(item) })
        .collect();
    let release = asked.pipeline.release();
    // What candidates are worth is no probability of being relevant.
    let calibration = release.calibration.as_ref().filter(|_| asked.scenario.value.is_none());
    let predicted: Option<Vec<Labelled>> = calibration.map(|calibration| {
        let probability = |row: &Labelled| Labelled { score: calibration.apply(row.score), ..*row };
        labelled.iter().map(probability).collect()
    });
    if let Some(predicted) = &predicted {
        probabilities.lock().unwrap_or_else(PoisonError::into_inner).add(predicted);
    }
    let models = &release.models;
    let distance = |a: ItemId, b: ItemId| {
        let known = a.index() < models.n_items() && b.index() < models.n_items();
        // Items without a vector are unlike every other.
        let cosine = if known { f64::from(models.cosine_of(a, b)) } else { f64::NAN };
        if cosine.is_nan() { 1.0 } else { 1.0 - cosine }
    };
    Group {
        fused: by(&fused),
        linear,
        sources: asked.pipeline.source_lists(asked.scenario, n, scratch),
        seen: scratch.refused.iter().copied().collect(),
        waterfall: waterfall(scratch, &shown, relevant.len(), found.len(), &is_relevant),
        found_by: found.iter().map(|i| candidates.sources_of(*i).collect()).collect(),
        found_at: found.iter().map(|i| fused_ranks[*i]).collect(),
        auc: auc(&labelled),
        log_loss: predicted.and_then(|predicted| log_loss(&predicted)),
        diversity: intra_list_diversity(&shown[..shown.len().min(HEADLINE.k)], distance),
        n_history: asked.pipeline.store().read_user(asked.query.user).state.recent.len() as u64,
        timing: answer.timing,
        shown,
    }
}

/// Where the relevant items of a question were lost, of which retrieval found `n_found`.
fn waterfall(
    scratch: &Scratch,
    shown: &[ItemId],
    n_relevant: usize,
    n_found: usize,
    is_relevant: &dyn Fn(&ItemId) -> bool,
) -> Waterfall {
    let count = |items: &mut dyn Iterator<Item = ItemId>| {
        items.filter(|item| is_relevant(item)).count() as u64
    };
    // What the filters keep out inside of retrieval is lost there, not in the sources.
    let filtered = count(&mut scratch.refused.iter().copied());
    Waterfall {
        relevant: n_relevant as u64,
        retrieved: n_found as u64 + filtered,
        after_filter: n_found as u64,
        top_ranked: count(&mut scratch.ranked.iter().map(|scored| scored.item)),
        shown: count(&mut shown.iter().copied()),
    }
}

/// Rank of each candidate, from 0, by its fused score.
fn fused_ranks(candidates: &Candidates, fused: &[f32]) -> Vec<usize> {
    let scored = |i: usize| Scored { item: candidates.items[i], score: fused[i] };
    let mut order: Vec<usize> = (0..fused.len()).collect();
    order.sort_by(|a, b| best_first(&scored(*a), &scored(*b)));
    let mut ranks = vec![0; fused.len()];
    order.iter().enumerate().for_each(|(rank, i)| ranks[*i] = rank);
    ranks
}

impl Run<'_> {
    fn add(&mut self, name: &str, seconds: f64, list: impl Fn(&Group) -> Vec<ItemId>) {
        self.lists.push((name.to_owned(), self.groups.iter().map(list).collect()));
        self.seconds.insert(name.to_owned(), seconds);
    }

    /// The single source whose lists are best on these very questions: a baseline that is chosen in its own favour.
    fn add_best_source(&mut self) {
        let mut best: Option<(f64, Vec<Vec<ItemId>>)> = None;
        for source in 0..self.source_names.len() {
            let lists: Vec<Vec<ItemId>> =
                self.groups.iter().map(|group| group.sources[source].clone()).collect();
            let mean = mean(&self.values(HEADLINE, &lists));
            if best.as_ref().is_none_or(|(known, _)| mean > *known) {
                best = Some((mean, lists));
            }
        }
        self.lists
            .push(("best_source".to_owned(), best.map(|(_, lists)| lists).unwrap_or_default()));
        self.seconds.insert("best_source".to_owned(), 0.0);
    }

    /// Each source alone by the headline metric, in the order of the scenario.
    pub fn source_means(&self) -> Vec<(String, f64)> {
        let of = |(source, name): (usize, &String)| {
            let lists: Vec<Vec<ItemId>> =
                self.groups.iter().map(|group| group.sources[source].clone()).collect();
            (name.clone(), mean(&self.values(HEADLINE, &lists)))
        };
        self.source_names.iter().enumerate().map(of).collect()
    }

    fn observation(&self, group: usize, value: f64) -> Observation {
        Observation { user: self.user(group), value }
    }

    fn user(&self, group: usize) -> UserId {
        self.questions[group].user
    }

    fn values(&self, metric: Metric, lists: &[Vec<ItemId>]) -> Vec<Observation> {
        let values = lists.iter().zip(&self.relevant).enumerate();
        values
            .filter_map(|(i, (list, relevant))| {
                Some(self.observation(i, metric.compute(list, relevant)?))
            })
            .collect()
    }

    fn lists_of(&self, model: &str) -> &[Vec<ItemId>] {
        self.lists.iter().find(|(name, _)| name == model).map_or(&[], |(_, lists)| lists)
    }

    /// Mean and interval of `metric` for `model`.
    pub fn mean(&self, model: &str, metric: Metric) -> Option<Interval> {
        self.settings.bootstrap.mean(&self.values(metric, self.lists_of(model)))
    }

    /// The pipeline less `model` by the headline metric, paired over users.
    pub fn pipeline_less(&self, model: &str) -> Option<PairedDifference> {
        let pipeline = self.values(HEADLINE, self.lists_of("pipeline"));
        self.settings.bootstrap.difference(&pipeline, &self.values(HEADLINE, self.lists_of(model)))
    }

    /// The pipeline of `self` less that of `other`, which was asked the same questions.
    pub fn less_pipeline_of(&self, other: &Run<'_>) -> Option<PairedDifference> {
        let values = |run: &Run<'_>| run.values(HEADLINE, run.lists_of("pipeline"));
        self.settings.bootstrap.difference(&values(self), &values(other))
    }

    /// Percentiles 50 and 99 in milliseconds of the stages and of the whole request.
    pub fn latencies(&self) -> Vec<(&'static str, f64, f64)> {
        let of = |name, duration: &dyn Fn(&Timing) -> std::time::Duration| {
            let mut ms: Vec<f64> = self
                .groups
                .iter()
                .map(|group| duration(&group.timing).as_secs_f64() * 1e3)
                .collect();
            ms.sort_by(f64::total_cmp);
            let at =
                |share: f64| ms.get((ms.len() as f64 * share) as usize).copied().unwrap_or(0.0);
            (name, at(0.5), at(0.99))
        };
        vec![
            of("retrieve", &|t| t.retrieve),
            of("rank", &|t| t.rank),
            of("rerank", &|t| t.rerank),
            of("total", &Timing::total),
        ]
    }

    /// Everything that was found.
    pub fn report(&self, protocol: &str, notes: Vec<String>) -> Report {
        let mut waterfall = Waterfall::default();
        self.groups.iter().for_each(|group| waterfall += group.waterfall);
        let time = |question: Option<&Question>| question.map(|q| q.time.to_string());
        let users: FxHashSet<UserId> =
            self.questions.iter().map(|question| question.user).collect();
        let reliability = self.probabilities.bins(RELIABILITY_BINS);
        let mut report = Report {
            protocol: protocol.to_owned(),
            n_groups: self.groups.len(),
            models: self.lists.iter().map(|(name, lists)| self.model(name, lists)).collect(),
            waterfall,
            seed: self.settings.bootstrap.seed,
            n_users: users.len(),
            n_empty: self.groups.iter().filter(|group| group.shown.is_empty()).count(),
            span: time(self.questions.first())
                .zip(time(self.questions.last()))
                .map(|(from, until)| TestSpan { from, until }),
            comparisons: self.comparisons(),
            cohorts: vec![self.user_cohorts(), self.item_cohorts()],
            sources: self.source_recalls(),
            recall_curve: self.recall_curve(waterfall.relevant),
            features: self.features.clone(),
            calibration_error: expected_calibration_error(&reliability),
            reliability,
            notes,
            ..Report::default()
        };
        let means = self.source_means();
        let means = means.iter().map(|(name, mean)| format!("{name} {mean:.4}"));
        let means = means.collect::<Vec<_>>().join(", ");
        report.notes.push(format!("Each source alone, ndcg@10: {means}."));
        report
    }

    fn model(&self, name: &str, lists: &[Vec<ItemId>]) -> ModelReport {
        let measures = [
            Measure::Ndcg,
            Measure::RecallPerRelevant,
            Measure::RecallPerReachable,
            Measure::Precision,
            Measure::HitRate,
            Measure::ReciprocalRank,
            Measure::AveragePrecisionPerReachable,
        ];
        let mut metrics = BTreeMap::new();
        for k in &self.settings.k {
            for measure in measures {
                let metric = Metric { measure, k: *k };
                if let Some(interval) = self.settings.bootstrap.mean(&self.values(metric, lists)) {
                    metrics.insert(metric.to_string(), interval);
                }
            }
        }
        if name == "pipeline" {
            self.add_beyond_accuracy(lists, &mut metrics);
        }
        let mut exposure = Exposure::new(self.history.items.len());
        lists.iter().for_each(|list| exposure.add(&list[..list.len().min(HEADLINE.k)]));
        let named = [("coverage", exposure.coverage()), ("gini", exposure.gini())];
        let catalogue = named
            .into_iter()
            .filter_map(|(measure, value)| Some((format!("{measure}@{}", HEADLINE.k), value?)));
        ModelReport {
            name: name.to_owned(),
            metrics,
            seconds: self.seconds.get(name).copied().unwrap_or(0.0),
            peak_bytes: peak_bytes(),
            catalogue: catalogue.collect(),
        }
    }

    fn add_beyond_accuracy(&self, lists: &[Vec<ItemId>], metrics: &mut BTreeMap<String, Interval>) {
        let k = HEADLINE.k;
        let (users, n_users) = self.users_by_item();
        let mut add = |name: String, value: &dyn Fn(usize, &Group) -> Option<f64>| {
            let groups = self.groups.iter().enumerate();
            let values: Vec<Observation> = groups
                .filter_map(|(i, group)| Some(self.observation(i, value(i, group)?)))
                .collect();
            if let Some(interval) = self.settings.bootstrap.mean(&values) {
                metrics.insert(name, interval);
            }
        };
        add("auc/candidates".into(), &|_, group| group.auc);
        add("log_loss/candidates".into(), &|_, group| group.log_loss);
        add(format!("diversity@{k}"), &|_, group| group.diversity);
        add(format!("novelty@{k}"), &|i, _| {
            let list = &lists[i][..lists[i].len().min(k)];
            novelty(list, &users, n_users)
        });
    }

    /// Distinct users of each item before the test, and of all items.
    fn users_by_item(&self) -> (Vec<u64>, u64) {
        let mut users = vec![0; self.history.items.len()];
        let until = self.questions.first().map_or(0, |question| question.first_event);
        let events = &self.history.events[..until];
        let pairs: FxHashSet<(UserId, ItemId)> = events.iter().map(|e| (e.user, e.item)).collect();
        pairs.iter().for_each(|(_, item)| users[item.index()] += 1);
        let all: FxHashSet<UserId> = events.iter().map(|event| event.user).collect();
        (users, all.len() as u64)
    }

    fn comparisons(&self) -> Vec<Comparison> {
        let others = self.lists.iter().map(|(name, _)| name).filter(|name| *name != "pipeline");
        let mut found: Vec<(String, PairedDifference)> =
            others.filter_map(|name| Some((name.clone(), self.pipeline_less(name)?))).collect();
        let p_values: Vec<f64> = found.iter().map(|(_, paired)| paired.p_value).collect();
        let corrected = holm(&p_values);
        let comparison = |((baseline, paired), p_holm)| Comparison {
            baseline,
            metric: HEADLINE.to_string(),
            paired,
            p_holm,
        };
        found.drain(..).zip(corrected).map(comparison).collect()
    }

    fn user_cohorts(&self) -> CohortTable {
        let counts: Vec<u64> = self.groups.iter().map(|group| group.n_history).collect();
        let lists = self.lists_of("pipeline");
        let member = |(i, cohort): (usize, _)| {
            let observation = self.observation(i, HEADLINE.compute(&lists[i], &self.relevant[i])?);
            Some(Member { id: self.user(i).0, cohort, observation })
        };
        let members: Vec<Member> =
            cohorts(&counts).into_iter().enumerate().filter_map(member).collect();
        let rows = means_by_cohort(&self.settings.bootstrap, &members);
        CohortTable { of: "users".to_owned(), metric: HEADLINE.to_string(), rows }
    }

    /// Hit rate of the relevant items by how many users they had before the test. The cohorts are those of the whole
    /// catalogue: a popular item is relevant in many questions, and does not become less hot by it.
    fn item_cohorts(&self) -> CohortTable {
        let cohorts = cohorts(&self.users_by_item().0);
        let mut members = Vec::new();
        for (i, relevant) in self.questions.iter().enumerate() {
            let shown = &self.groups[i].shown;
            let shown = &shown[..shown.len().min(HEADLINE.k)];
            for (item, _) in &relevant.relevant {
                let found = f64::from(u8::from(shown.contains(item)));
                let (cohort, observation) = (cohorts[item.index()], self.observation(i, found));
                members.push(Member { id: item.0, cohort, observation });
            }
        }
        let rows = means_by_cohort(&self.settings.bootstrap, &members);
        CohortTable { of: "items".to_owned(), metric: format!("found@{}", HEADLINE.k), rows }
    }

    fn source_recalls(&self) -> Vec<crate::sources::SourceRecall> {
        let mut tally = SourceTally::new(self.source_names.clone());
        for group in &self.groups {
            group.found_by.iter().for_each(|sources| tally.add(sources));
            for _ in group.found_by.len() as u64..group.waterfall.relevant {
                tally.add(&[]);
            }
        }
        tally.recalls()
    }

    fn recall_curve(&self, relevant: u64) -> Vec<CurvePoint> {
        let found = |k: usize| {
            let ranks = self.groups.iter().flat_map(|group| &group.found_at);
            ranks.filter(|rank| **rank < k).count() as f64
        };
        CURVE.map(|k| CurvePoint { k, recall: found(k) / relevant.max(1) as f64 }).to_vec()
    }
}

fn mean(values: &[Observation]) -> f64 {
    values.iter().map(|observation| observation.value).sum::<f64>() / values.len().max(1) as f64
}

/// The most memory that this process has had, 0 where the system does not tell.
pub fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
