//! What value models weigh: for each event type a forest, and what its scores mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use featurestore::event::EventTypeId;
use featurestore::history::questions;
use featurestore::{Question, Timestamp};
use ranking::calibration::Calibration;
use ranking::groups::{Groups, NegativeSampling};
use ranking::lightgbm::{self, LightGbmConfig};
use ranking::ranker::Ranker;
use ranking::value::Objective;

use super::{MAX_HELD_OUT, MIN_QUESTIONS, Progress, TrainError, Trainer, Windows, thin};
use crate::ask::{Asked, ask_in_replay};
use crate::calibrate::{self, held_out_outcomes};
use crate::release::Release;

/// Rows that all objectives share, and the labels of each: whether its event happened.
struct Rows {
    /// With the labels of no objective.
    groups: Groups,
    /// `[n_objectives][n_rows]`
    labels: Vec<Vec<f32>>,
}

impl Rows {
    /// The rows with the labels of an objective; an error if too few of them are positive.
    fn of(&mut self, i: usize, event: &str, what: &'static str) -> Result<&Groups, TrainError> {
        self.groups.labels.clone_from(&self.labels[i]);
        let n = self.groups.labels.iter().filter(|label| **label > 0.0).count();
        if n < MIN_QUESTIONS {
            return Err(TrainError::RareObjective { event: event.to_owned(), what, n });
        }
        Ok(&self.groups)
    }
}

impl Trainer<'_> {
    /// Fits an objective for each event type that a scenario's value model weighs, on what `base` retrieves. The
    /// questions are the visits, or single events, in which any of them happened.
    pub(super) fn fit_objectives(
        &self,
        base: &Arc<Release>,
        windows: &Windows,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<BTreeMap<String, Objective>, TrainError> {
        let (schema, events) = (self.config.schema(), self.config.objectives());
        let kind = |event| schema.event_type(event).expect("the configuration was checked");
        let kinds: Vec<EventTypeId> = events.iter().map(|event| kind(event)).collect();
        if kinds.is_empty() {
            return Ok(BTreeMap::new());
        }
        let most = self.config.training.max_questions;
        let learn = self.questions_about(&kinds, windows.labels, windows.early_stop, most);
        let held_out = self.questions_about(&kinds, windows.early_stop, windows.gate, MAX_HELD_OUT);
        progress(Progress::Stage(format!("replay: {} questions", learn.len() + held_out.len())));
        let mut learnt = self.objective_rows(base, &learn, &kinds, self.sampling());
        let all = NegativeSampling::all();
        let mut validation = self.objective_rows(base, &held_out, &kinds, all);
        let mut objectives = BTreeMap::new();
        for (i, event) in events.into_iter().enumerate() {
            let learnt = learnt.of(i, event, "to learn from")?;
            let validation = validation.of(i, event, "to stop early by")?;
            progress(Progress::Stage(format!("objective {event}: {} rows", learnt.n_rows())));
            let ranker = self.fit_objective(base, learnt, validation, progress)?;
            let mut questions: Vec<Question> =
                held_out.iter().map(|question| question.about(kinds[i])).collect();
            thin(&mut questions, calibrate::MAX_QUESTIONS);
            let (history, n_threads) = (self.history, self.n_threads);
            let outcomes = held_out_outcomes(base, &ranker, history, &questions, n_threads);
            // A sigmoid rises everywhere: it leaves no two candidates equal whose scores are not.
            let calibration = Calibration::fit_platt(&outcomes)?;
            objectives.insert(event.to_owned(), Objective { ranker, calibration });
        }
        Ok(objectives)
    }

    fn fit_objective(
        &self,
        base: &Release,
        learnt: &Groups,
        validation: &Groups,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Ranker, TrainError> {
        let config = LightGbmConfig {
            objective: lightgbm::Objective::Binary,
            ..self.ranker_config(&base.layout)
        };
        let model = lightgbm::fit(learnt, Some(validation), &config, &mut |iteration| {
            progress(Progress::Done(iteration.n_trees as usize, config.n_trees as usize));
        })?;
        Ok(Ranker::Forest(model.forest()?))
    }

    /// The questions in which an event of one of `kinds` happened, at most `most` of them.
    fn questions_about(
        &self,
        kinds: &[EventTypeId],
        from: Timestamp,
        until: Timestamp,
        most: usize,
    ) -> Vec<Question> {
        let mut labels = vec![0; self.config.events.len()];
        kinds.iter().for_each(|kind| labels[usize::from(kind.0)] = 1);
        let mut questions = questions(self.history, &labels, self.group_by(), from, until);
        thin(&mut questions, most);
        questions
    }

    fn objective_rows(
        &self,
        base: &Arc<Release>,
        questions: &[Question],
        kinds: &[EventTypeId],
        sampling: NegativeSampling,
    ) -> Rows {
        let answer = |asked: &mut Asked<'_>| {
            let sample = self.sample(asked, None, sampling);
            let labels = kinds.iter().map(|kind| {
                let had = asked.question.about(*kind).relevant;
                let label = |item| f32::from(u8::from(had.iter().any(|(other, _)| other == item)));
                sample.items.iter().map(label).collect::<Vec<f32>>()
            });
            (labels.collect::<Vec<_>>(), sample.features, sample.weights)
        };
        let answers = ask_in_replay(base, self.history, questions, 0, self.n_threads, answer);
        let names = base.features.iter().map(|feature| feature.name.clone()).collect();
        let mut rows = Rows { groups: Groups::new(names), labels: vec![Vec::new(); kinds.len()] };
        for (labels, features, weights) in answers {
            rows.groups.push_weighted_group(&features, &labels[0], &weights);
            rows.labels.iter_mut().zip(labels).for_each(|(all, labels)| all.extend(labels));
        }
        rows
    }
}
