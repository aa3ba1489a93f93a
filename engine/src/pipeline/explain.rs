//! Why an item is where it is, or the stage that lost it.

use std::cmp::Ordering;

use featurestore::{ItemId, Scored};
use ranking::ranker::Ranker;
use reranking::{Rule, Shown};

use super::rank::by_score_and_tie;
use super::{Answer, Pipeline, Query, Refused, Scratch};
use crate::release::ScenarioPlan;

/// What became of an item in an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It is shown.
    Shown(Shown),
    /// A rule of the last stage pushed it out of the list.
    Dropped {
        /// The rule.
        rule: Rule,
    },
    /// It was ranked, and others were shown before the list was full.
    Outranked,
    /// It was ranked, but not among the first, which alone are re-ranked.
    BelowTop {
        /// How many are re-ranked.
        top: usize,
    },
    /// It was kept out before it could be a candidate.
    Refused(Refused),
    /// Sources proposed it, but beyond their share of the candidates.
    NotMerged,
    /// No source proposed it.
    NotRetrieved,
}

/// What a source did for an item.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Name of the source.
    pub source: String,
    /// Rank in its list, from 1; `None`: it did not propose the item.
    pub rank: Option<usize>,
    /// Its score.
    pub score: Option<f32>,
}

/// What a model made of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelExplanation {
    /// `ranker`, or the event whose probability it is about.
    pub model: String,
    /// What its probability counts for in the score; 1 for the ranker.
    pub weight: f64,
    /// Its score by all trees: `base` and all contributions together.
    pub score: f64,
    /// The mean score of its training.
    pub base: f64,
    /// For each feature its name, its value (NaN: missing) and what it added; those that added most first.
    pub features: Vec<(String, f32, f64)>,
}

/// How a candidate was ranked.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// From 1.
    pub rank: usize,
    /// Of so many candidates.
    pub of: usize,
    /// What it was ranked by.
    pub score: f32,
    /// What the models made of it; empty if they were not asked.
    pub models: Vec<ModelExplanation>,
}

impl Pipeline {
    /// What each source of `scenario` did for `item`. Call it right after the answer in `scratch` was made.
    pub fn proposals(
        &self,
        scenario: &ScenarioPlan,
        item: ItemId,
        scratch: &Scratch,
    ) -> Vec<Proposal> {
        let candidates = &scratch.candidates;
        let (n, place) = (candidates.len(), candidates.items.iter().position(|it| *it == item));
        let of_source = |(i, source): (usize, &retrieval::sources::Source)| {
            let known = place.map(|place| i * n + place).filter(|_| i < candidates.n_sources);
            let rank = known.map(|at| candidates.ranks[at]).filter(|rank| !rank.is_nan());
            Proposal {
                source: source.name.clone(),
                rank: rank.map(|rank| rank as usize),
                score: known.filter(|_| rank.is_some()).map(|at| candidates.scores[at]),
            }
        };
        scenario.sources.iter().enumerate().map(of_source).collect()
    }

    /// How `item` was ranked in the answer that was made last with `scratch`; `None` if it was no candidate.
    pub fn ranked(
        &self,
        scenario: &ScenarioPlan,
        item: ItemId,
        scratch: &Scratch,
    ) -> Option<Ranked> {
        let candidates = &scratch.candidates;
        let place = candidates.items.iter().position(|it| *it == item)?;
        let by_models = !scratch.scores.is_empty();
        let fused = candidates.fused();
        let scores = if by_models { &scratch.scores } else { &fused };
        let rated = |i: usize| (Scored { item: candidates.items[i], score: scores[i] }, fused[i]);
        let this = rated(place);
        let before = |i: &usize| by_score_and_tie(&rated(*i), &this) == Ordering::Less;
        let n_before = (0..candidates.len()).filter(before).count();
        let models = if by_models { self.by_models(scenario, place, scratch) } else { Vec::new() };
        // A list of a single source has that one's scores.
        let ranked = scratch.ranked.iter().find(|scored| scored.item == item);
        let score = ranked.map_or(this.0.score, |scored| scored.score);
        Some(Ranked { rank: n_before + 1, of: candidates.len(), score, models })
    }

    fn by_models(
        &self,
        scenario: &ScenarioPlan,
        place: usize,
        scratch: &Scratch,
    ) -> Vec<ModelExplanation> {
        let n = scratch.candidates.len();
        let row: Vec<f32> =
            (0..self.release.features.len()).map(|i| scratch.columns[i * n + place]).collect();
        match &scenario.value {
            Some(value) => {
                let of = |(event, weight): &(String, f64)| {
                    explain(&self.release.objectives[event].ranker, event, *weight, &row)
                };
                value.weights.iter().filter_map(of).collect()
            }
            None => {
                let ranker = self.release.ranker.as_ref();
                ranker.and_then(|ranker| explain(ranker, "ranker", 1.0, &row)).into_iter().collect()
            }
        }
    }

    /// What became of `item` in `answer`, which a placement made last with `scratch`.
    pub fn fate(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        item: ItemId,
        answer: &Answer,
        scratch: &Scratch,
    ) -> Fate {
        match self.fate_in_list(scenario, query, item, answer, scratch) {
            Fate::NotRetrieved if self.proposes(scenario, query, item) => Fate::NotMerged,
            fate => fate,
        }
    }

    /// What became of `item` in `answer`, a list that is not a placement's and was made last with `scratch`.
    pub fn fate_in_list(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        item: ItemId,
        answer: &Answer,
        scratch: &Scratch,
    ) -> Fate {
        if let Some(shown) = answer.slate.shown.iter().find(|shown| shown.item == item) {
            return Fate::Shown(*shown);
        }
        if let Some(refused) = self.refusal(scenario, query, item) {
            return Fate::Refused(refused);
        }
        if let Some(dropped) = answer.slate.dropped.iter().find(|dropped| dropped.item == item) {
            return Fate::Dropped { rule: dropped.rule };
        }
        if scratch.ranked.iter().any(|scored| scored.item == item) {
            return Fate::Outranked;
        }
        if scratch.candidates.items.contains(&item) {
            return Fate::BelowTop { top: scenario.top };
        }
        Fate::NotRetrieved
    }

    /// Whether any source of `scenario` has `item` in its list, within its share or not.
    fn proposes(&self, scenario: &ScenarioPlan, query: &Query, item: ItemId) -> bool {
        let (user, _) = self.read_user(scenario, query);
        let (mut scratch, accept) = (Scratch::default(), |it: ItemId| {
            !query.exclude.contains(&it) && self.is_available(it, query.now)
        });
        let ask = self.ask(query, &user, &accept);
        let (lists, _) = super::retrieve::propose(scenario, &ask, &mut scratch.sources);
        lists.iter().any(|list| list.items.iter().any(|scored| scored.item == item))
    }
}

/// What `ranker` makes of `row`; `None` for one that is no sum of trees.
fn explain(ranker: &Ranker, model: &str, weight: f64, row: &[f32]) -> Option<ModelExplanation> {
    let Ranker::Forest(forest) = ranker else { return None };
    let mut parts = forest.contributions(row);
    let base = parts.pop().unwrap_or_default();
    let named = forest.names().iter().zip(row).zip(&parts);
    let mut features: Vec<(String, f32, f64)> =
        named.map(|((name, value), part)| (name.clone(), *value, *part)).collect();
    features.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()));
    Some(ModelExplanation {
        model: model.to_owned(),
        weight,
        score: base + parts.iter().sum::<f64>(),
        base,
        features,
    })
}
