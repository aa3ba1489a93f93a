//! A release from a history: retrieval on the past, a ranker on what came after it, and everything refitted up to now.
//!
//! ```text
//! ---- retrieval for training ----|---- labels ----|-- early stop --|---- gate ----| until
//! --------------------- retrieval of the judged release -----------|              |
//! --------------------- retrieval of the served release --------------------------|
//! ```

mod objectives;

use std::collections::BTreeMap;
use std::sync::Arc;

use featurestore::history::{GroupBy, questions};
use featurestore::{History, ItemId, NO_SESSION, Question, Span, Timestamp};
use ranking::calibration::{CalibrateError, Calibration};
use ranking::groups::{Groups, NegativeSampling, sample_rows};
use ranking::lightgbm::{self, FitError, LightGbmConfig};
use ranking::linear::{Linear, LinearConfig};
use ranking::ranker::Ranker;
use retrieval::embedding::EmbeddingConfig;
use retrieval::hnsw::HnswConfig;
use retrieval::ials::IalsConfig;
use retrieval::models::{FitModelsError, Models, ModelsConfig};
use rustc_hash::FxHashMap;

use crate::ask::{Asked, ask_in_replay};
use crate::calibrate;
use crate::config::{Config, Training};
use crate::embedding_import::EmbeddingImportError;
use crate::release::{DataSpan, FORMAT, Layout, Manifest, Release, names_digest};

/// Where the parts of the training data begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// The ranker learns from here on; retrieval for training is fitted on what was before.
    pub labels: Timestamp,
    /// The ranker's number of trees is chosen from here on.
    pub early_stop: Timestamp,
    /// The gate judges from here on.
    pub gate: Timestamp,
    /// No event from here on is used.
    pub until: Timestamp,
}

/// Why nothing was trained.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// There are no events.
    #[error(
        "the event log has no events before {until}: import some with `cascade import --events FILE`"
    )]
    NoEvents {
        /// The end of the data.
        until: Timestamp,
    },
    /// No event type has a label.
    #[error(
        "no event type has a `label` above 0, so nothing says what a good list is: set `label = 1` under [events.NAME]"
    )]
    NoLabels,
    /// Not enough events.
    #[error(
        "{n_events} events with {n_questions} questions are too few to train and judge a ranker: {reason}"
    )]
    TooFew {
        /// How many events there are.
        n_events: usize,
        /// How many questions they answer.
        n_questions: usize,
        /// What there is too little of.
        reason: String,
    },
    /// Vectors that were trained elsewhere could not be imported.
    #[error(transparent)]
    EmbeddingImport(#[from] EmbeddingImportError),
    /// An event that a value model weighs is too rare to be learnt.
    #[error(
        "a scenario's `value` weighs {event:?}, but of the candidates {what} only {n} had that event, at least \
         {MIN_QUESTIONS} are needed: leave it out of `value`, or import more events"
    )]
    RareObjective {
        /// The type of event.
        event: String,
        /// Of which candidates.
        what: &'static str,
        /// How many had it.
        n: usize,
    },
    /// Retrieval could not be fitted.
    #[error(transparent)]
    Models(#[from] FitModelsError),
    /// The ranker could not be fitted.
    #[error(transparent)]
    Ranker(#[from] FitError),
    /// What LightGBM wrote could not be read.
    #[error(transparent)]
    RankerText(#[from] ranking::model_text::ParseModelError),
    /// The baseline could not be fitted.
    #[error(transparent)]
    Linear(#[from] ranking::linear::FitLinearError),
    /// The ranker's scores could not be made probabilities.
    #[error("the ranker's scores cannot be turned into probabilities")]
    Calibrate(#[from] CalibrateError),
}

/// What happens during training, for progress bars.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// A stage began.
    Stage(String),
    /// So much of the stage is done.
    Done(usize, usize),
}

/// A release that was trained on everything before the gate, to be judged on what came after.
pub struct Fitted {
    /// The release to judge.
    pub judged: Arc<Release>,
    /// The same retrieval with the linear baseline instead of the forest.
    pub linear: Linear,
    /// The parts of the data.
    pub windows: Windows,
    /// The questions of the gate.
    pub questions: Vec<Question>,
    embedding: EmbeddingConfig,
    ranker_text: String,
    metrics: BTreeMap<String, f64>,
}

/// Trains with `config` on the events of `history` before `until`.
pub struct Trainer<'a> {
    /// The checked configuration.
    pub config: &'a Config,
    /// The data; events from `until` on are not looked at.
    pub history: &'a History,
    /// End of the data.
    pub until: Timestamp,
    /// Threads to use.
    pub n_threads: usize,
}

/// Fewest questions from which a ranker is trained or judged.
pub const MIN_QUESTIONS: usize = 30;

/// Questions that the pilot ranker learns from.
const PILOT_QUESTIONS: usize = 2_000;

/// Most questions that the number of trees is chosen by: with all of their candidates, so that the choice is made by
/// what is shown, they are a million rows.
const MAX_HELD_OUT: usize = 1_000;

impl Trainer<'_> {
    /// Fits retrieval and ranker on everything before the gate.
    ///
    /// # Errors
    /// If there is too little data, or a model cannot be fitted.
    pub fn fit(&self, progress: &(dyn Fn(Progress) + Sync)) -> Result<Fitted, TrainError> {
        let windows = self.windows()?;
        let embedding = self.embedding(progress)?;
        let layout = Layout::new(self.config);
        let base = Arc::new(Release {
            manifest: self.manifest(windows.labels, &layout, BTreeMap::new()),
            config: self.config.clone(),
            models: self.fit_models(windows.labels, "to learn from", &embedding, None, progress)?,
            layout,
            ranker: None,
            ranker_text: None,
            calibration: None,
            objectives: BTreeMap::new(),
        });
        let pilot = self.pilot(&base, &windows, progress)?;
        let (train, validation) = self.groups(&base, &pilot, &windows, progress)?;
        progress(Progress::Stage(format!(
            "ranker: {} rows of {} questions, {} features",
            train.n_rows(),
            train.n_groups(),
            train.n_features
        )));
        let linear = Linear::fit(&train, &LinearConfig::default())?;
        let ranker_config = self.ranker_config(&base.layout);
        let model = lightgbm::fit(&train, Some(&validation), &ranker_config, &mut |iteration| {
            progress(Progress::Done(iteration.n_trees as usize, ranker_config.n_trees as usize));
        })?;
        let mut metrics = BTreeMap::from([
            ("ranker_trees".to_owned(), f64::from(model.n_trees)),
            ("ranker_rows".to_owned(), train.n_rows() as f64),
            ("ranker_questions".to_owned(), train.n_groups() as f64),
        ]);
        drop((train, validation));
        let ranker = Ranker::Forest(model.forest()?);
        let calibration = self.calibrate(&base, &ranker, &windows, progress)?;
        let objectives = self.fit_objectives(&base, &windows, progress)?;
        metrics.extend(objectives.iter().map(|(event, objective)| {
            (format!("objective_{event}_trees"), objective.ranker.n_trees() as f64)
        }));
        let judged = Release {
            manifest: self.manifest(windows.gate, &base.layout, BTreeMap::new()),
            config: self.config.clone(),
            layout: base.layout.clone(),
            models: self.fit_models(windows.gate, "to be judged", &embedding, None, progress)?,
            ranker: Some(ranker),
            ranker_text: None,
            calibration: Some(calibration),
            objectives,
        };
        let questions = self.questions(windows.gate, windows.until);
        Ok(Fitted {
            judged: Arc::new(judged),
            linear,
            windows,
            questions,
            embedding,
            ranker_text: model.text,
            metrics,
        })
    }

    /// The release to serve: the judged ranker with retrieval refitted on all events before `until`.
    ///
    /// # Errors
    /// If a model cannot be fitted.
    pub fn finish(
        &self,
        fitted: Fitted,
        gate: BTreeMap<String, f64>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Release, TrainError> {
        let mut metrics = fitted.metrics;
        metrics.extend(gate);
        let index = HnswConfig { n_threads: self.n_threads, ..HnswConfig::default() };
        let (until, embedding) = (fitted.windows.until, &fitted.embedding);
        let mut models = self.fit_models(until, "to serve", embedding, Some(index), progress)?;
        progress(Progress::Stage("retrieval to serve: vectors from fields".into()));
        models.fit_field_vectors(&self.history.items);
        metrics.extend(models.index_recall.map(|recall| ("index_recall".to_owned(), recall)));
        let ranker = match &fitted.judged.ranker {
            Some(Ranker::Forest(forest)) => Some(Ranker::Forest(forest.clone())),
            _ => None,
        };
        Ok(Release {
            manifest: self.manifest(self.until, &fitted.judged.layout, metrics),
            config: self.config.clone(),
            layout: fitted.judged.layout.clone(),
            models,
            ranker,
            ranker_text: Some(fitted.ranker_text),
            calibration: fitted.judged.calibration.clone(),
            objectives: fitted.judged.objectives.clone(),
        })
    }

    /// What one question is made of: as configured, else sessions if the data has them.
    pub fn group_by(&self) -> GroupBy {
        let has_sessions = || self.history.events.iter().any(|event| event.session != NO_SESSION);
        let default = || if has_sessions() { GroupBy::Session } else { GroupBy::Event };
        self.config.evaluation.group_by.unwrap_or_else(default)
    }

    /// The questions that the events from `from` until `until` answer.
    pub fn questions(&self, from: Timestamp, until: Timestamp) -> Vec<Question> {
        questions(self.history, &self.config.schema().labels(), self.group_by(), from, until)
    }

    fn windows(&self) -> Result<Windows, TrainError> {
        let n_events = self.history.first_at(self.until);
        if n_events == 0 {
            return Err(TrainError::NoEvents { until: self.until });
        }
        if self.config.events.values().all(|event| event.label == 0) {
            return Err(TrainError::NoLabels);
        }
        let all = self.questions(Timestamp::MIN, self.until);
        let Training { gate, early_stop, labels, min_questions, .. } = self.config.training;
        let cut =
            |until: Timestamp, span: Span| self.window_start(&all, until, span, min_questions);
        let end = Timestamp(self.history.events[n_events - 1].time.0 + 1).min(self.until);
        let gate = cut(end, gate);
        let early_stop = cut(gate, early_stop);
        let labels = cut(early_stop, labels);
        for (what, from, until) in [
            ("to judge", gate, end),
            ("to stop early", early_stop, gate),
            ("to learn", labels, early_stop),
        ] {
            let n = all
                .iter()
                .filter(|question| from <= question.time && question.time < until)
                .count();
            if n < MIN_QUESTIONS {
                let reason = format!("{n} questions {what}, at least {MIN_QUESTIONS} are needed");
                return Err(TrainError::TooFew { n_events, n_questions: all.len(), reason });
            }
        }
        Ok(Windows { labels, early_stop, gate, until: self.until })
    }

    /// Start of the part that ends at `until`: `span` before, or as much earlier as it takes to hold `wanted`
    /// questions, but not more than a sixth of all questions.
    fn window_start(
        &self,
        all: &[Question],
        until: Timestamp,
        span: Span,
        wanted: usize,
    ) -> Timestamp {
        let end = all.partition_point(|question| question.time < until);
        let most = all.len() / 6;
        let by_count =
            |n: usize| all.get(end.saturating_sub(n)).map_or(until, |question| question.time);
        by_count(most).max(by_count(wanted).min(until.minus(span)))
    }

    /// How the embedding is made: from the files that the configuration names, else by training.
    fn embedding(
        &self,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<EmbeddingConfig, TrainError> {
        let training = &self.config.training;
        if let Some(import) = &training.embedding_import {
            progress(Progress::Stage("reading the vectors to import".into()));
            return Ok(EmbeddingConfig::Imported(import.read(self.history)?));
        }
        Ok(EmbeddingConfig::Trained(IalsConfig {
            dim: training.dim,
            n_epochs: training.embedding_epochs,
            alpha0: training.embedding_alpha,
            lambda: training.embedding_lambda,
            seed: training.seed,
            ..IalsConfig::default()
        }))
    }

    fn fit_models(
        &self,
        until: Timestamp,
        why: &str,
        embedding: &EmbeddingConfig,
        index: Option<HnswConfig>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Models, TrainError> {
        let interactions = self.history.interactions(until, &self.config.schema());
        let (n_users, n_items) = (self.history.users.len(), self.history.items.len());
        let stage = |name: &str| progress(Progress::Stage(format!("retrieval {why}: {name}")));
        let config = ModelsConfig {
            embedding: embedding.clone(),
            index,
            co_visitation: self.config.training.co_visitation.clone(),
            cosine: self.config.training.cosine.clone(),
        };
        Ok(Models::fit(&interactions, n_users, n_items, until, &config, stage)?)
    }

    fn manifest(
        &self,
        until: Timestamp,
        layout: &Layout,
        metrics: BTreeMap<String, f64>,
    ) -> Manifest {
        let items = self.history.items.names();
        Manifest {
            format: FORMAT,
            id: String::new(),
            data: DataSpan {
                from: self.history.span().map_or(until, |(from, _)| from),
                until,
                n_events: self.history.first_at(until),
                n_items: items.len(),
                n_users: self.history.users.len(),
                items_digest: names_digest(items, items.len()),
            },
            features: layout.features.iter().map(|feature| feature.name.clone()).collect(),
            seed: self.config.training.seed,
            metrics,
            files: BTreeMap::new(),
        }
    }

    fn ranker_config(&self, layout: &Layout) -> LightGbmConfig {
        let categorical = layout.features.iter().enumerate();
        LightGbmConfig {
            categorical: categorical.filter(|(_, f)| f.is_categorical()).map(|(i, _)| i).collect(),
            n_threads: self.n_threads as u32,
            seed: self.config.training.seed,
            ..self.config.training.ranker.clone()
        }
    }

    /// Query groups to learn from and to stop early by, from what retrieval really proposed at each moment.
    fn groups(
        &self,
        base: &Arc<Release>,
        pilot: &Ranker,
        windows: &Windows,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(Groups, Groups), TrainError> {
        let mut train = self.questions(windows.labels, windows.early_stop);
        let mut validation = self.questions(windows.early_stop, windows.gate);
        thin(&mut train, self.config.training.max_questions);
        thin(&mut validation, MAX_HELD_OUT);
        let n_train = train.len();
        train.append(&mut validation);
        progress(Progress::Stage(format!("replay: {} questions", train.len())));
        let mut samples = ask_in_replay(base, self.history, &train, 0, self.n_threads, |asked| {
            let learning = asked.question.time < windows.early_stop;
            let sampling = if learning { self.sampling() } else { NegativeSampling::all() };
            self.sample(asked, Some(pilot), sampling)
        });
        let held_out = samples.split_off(n_train);
        Ok((
            self.join(base, samples, "to learn from")?,
            self.join(base, held_out, "to stop early by")?,
        ))
    }

    /// The groups of `samples`, one of each question, that have rows; an error if they are too few.
    fn join(&self, base: &Release, samples: Vec<Sample>, what: &str) -> Result<Groups, TrainError> {
        let n_questions = samples.len();
        let names = base.features.iter().map(|feature| feature.name.clone()).collect();
        let mut groups = Groups::new(names);
        for Sample { features, labels, weights, .. } in samples {
            groups.push_weighted_group(&features, &labels, &weights);
        }
        let n = groups.n_groups();
        if n < MIN_QUESTIONS {
            let n_events = self.history.events.len();
            let reason = format!("retrieval found an answer to only {n} of them {what}");
            return Err(TrainError::TooFew { n_events, n_questions, reason });
        }
        Ok(groups)
    }

    /// What the scores of `ranker` mean, by the questions that its trees were chosen by.
    fn calibrate(
        &self,
        base: &Arc<Release>,
        ranker: &Ranker,
        windows: &Windows,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Calibration, TrainError> {
        let mut questions = self.questions(windows.early_stop, windows.gate);
        thin(&mut questions, calibrate::MAX_QUESTIONS);
        progress(Progress::Stage(format!("calibration: {} questions", questions.len())));
        let n_threads = self.n_threads;
        let outcomes =
            calibrate::held_out_outcomes(base, ranker, self.history, &questions, n_threads);
        Ok(calibrate::fit(outcomes)?)
    }

    /// The sampling of the negatives that a ranker learns from.
    fn sampling(&self) -> NegativeSampling {
        let Training { negatives, hard_share, .. } = self.config.training;
        NegativeSampling {
            per_positive: negatives as u32,
            hard_share,
            ..NegativeSampling::default()
        }
    }

    /// A small ranker, only good enough to tell which negatives are hard.
    fn pilot(
        &self,
        base: &Arc<Release>,
        windows: &Windows,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Ranker, TrainError> {
        let mut questions = self.questions(windows.labels, windows.early_stop);
        thin(&mut questions, PILOT_QUESTIONS);
        progress(Progress::Stage(format!("pilot ranker: {} questions", questions.len())));
        let samples = ask_in_replay(base, self.history, &questions, 0, self.n_threads, |asked| {
            self.sample(asked, None, self.sampling())
        });
        let groups = self.join(base, samples, "to learn from")?;
        let config = LightGbmConfig {
            n_trees: 60,
            learning_rate: 0.1,
            early_stopping_rounds: None,
            ..self.ranker_config(&base.layout)
        };
        Ok(Ranker::Forest(lightgbm::fit(&groups, None, &config, &mut |_| {})?.forest()?))
    }

    /// The sampled rows of one question; none if no candidate is relevant. Negatives are hard that `pilot` ranks high,
    /// or without one, the fused sources.
    fn sample(
        &self,
        asked: &mut Asked<'_>,
        pilot: Option<&Ranker>,
        sampling: NegativeSampling,
    ) -> Sample {
        asked.pipeline.candidates(asked.scenario, &asked.query, asked.scratch);
        let candidates = &asked.scratch.candidates;
        let gains: FxHashMap<ItemId, u8> = asked.question.relevant.iter().copied().collect();
        let label = |item: &ItemId| f32::from(gains.get(item).copied().unwrap_or(0));
        let labels: Vec<f32> = candidates.items.iter().map(label).collect();
        let mut scores = Vec::new();
        match pilot {
            Some(pilot) => pilot.score(&asked.scratch.columns, labels.len(), &mut scores),
            None => scores = candidates.fused(),
        }
        let kept = sample_rows(&labels, &ranks(&scores), &sampling, asked.query.seed);
        let (n, columns) = (candidates.items.len(), &asked.scratch.columns);
        let n_features = columns.len() / n.max(1);
        let row = |i: usize| (0..n_features).map(move |feature| columns[feature * n + i]);
        Sample {
            items: kept.iter().map(|s| candidates.items[s.row]).collect(),
            features: kept.iter().flat_map(|s| row(s.row)).collect(),
            labels: kept.iter().map(|s| labels[s.row]).collect(),
            weights: kept.iter().map(|s| s.weight).collect(),
        }
    }
}

/// Rows of one question.
struct Sample {
    items: Vec<ItemId>,
    /// `[n_rows, n_features]`, row-major.
    features: Vec<f32>,
    /// `[n_rows]`, gain levels.
    labels: Vec<f32>,
    /// `[n_rows]`, how many candidates each row stands for.
    weights: Vec<f32>,
}

/// Rank of each candidate, from 0, in the order of the scores; ties go to the earlier one.
fn ranks(scores: &[f32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut ranks = vec![0; scores.len()];
    for (rank, i) in order.into_iter().enumerate() {
        ranks[i] = rank as u32;
    }
    ranks
}

/// Keeps `n` of `questions`, evenly spread over time.
fn thin(questions: &mut Vec<Question>, n: usize) {
    let all = questions.len();
    if all > n {
        let mut i = 0;
        questions.retain(|_| {
            i += 1;
            // True for exactly n of the `all` indices.
            i * n / all != (i - 1) * n / all
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featurestore::UserId;

    #[test]
    fn thinning_keeps_exactly_so_many_spread_over_time() {
        let question = |i| Question {
            user: UserId(0),
            time: Timestamp(i),
            first_event: i as usize,
            relevant: Vec::new(),
            kinds: Vec::new(),
        };
        let mut questions: Vec<Question> = (0..100).map(question).collect();
        thin(&mut questions, 7);
        assert_eq!(questions.len(), 7);
        let gaps: Vec<i64> = questions.windows(2).map(|w| w[1].time.0 - w[0].time.0).collect();
        assert!(gaps.iter().all(|gap| (14..=15).contains(gap)), "{gaps:?}");
    }

    #[test]
    fn the_best_score_has_rank_0() {
        assert_eq!(ranks(&[0.1, 0.3, 0.2, 0.3]), [3, 0, 2, 1]);
    }
}
