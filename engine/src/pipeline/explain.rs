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

/// Says why items are where they are in the answer that was made last with a scratch.
pub struct Explainer<'a> {
    pipeline: &'a Pipeline,
    scenario: &'a ScenarioPlan,
    scratch: &'a Scratch,
    /// The candidates by their order in the scratch: what each was ranked by, and what decides between equals.
    rated: Vec<(Scored, f32)>,
}

impl Pipeline {
    /// Of the answer for `scenario` that was made last with `scratch`.
    pub fn explainer<'a>(
        &'a self,
        scenario: &'a ScenarioPlan,
        scratch: &'a Scratch,
    ) -> Explainer<'a> {
        let candidates = &scratch.candidates;
        let fused = candidates.fused();
        let scores = if scratch.scores.is_empty() { &fused } else { &scratch.scores };
        let scored =
            candidates.items.iter().zip(scores).map(|(&item, &score)| Scored { item, score });
        let rated = scored.zip(fused.iter().copied()).collect();
        Explainer { pipeline: self, scenario, scratch, rated }
    }
}

impl Explainer<'_> {
    /// How many candidates there were.
    pub fn n_candidates(&self) -> usize {
        self.rated.len()
    }

    /// What each source of the scenario did for `item`.
    pub fn proposals(&self, item: ItemId) -> Vec<Proposal> {
        let candidates = &self.scratch.candidates;
        let (n, place) = (candidates.len(), self.place(item));
        let of_source = |(i, source): (usize, &retrieval::sources::Source)| {
            let known = place.map(|place| i * n + place).filter(|_| i < candidates.n_sources);
            let rank = known.map(|at| candidates.ranks[at]).filter(|rank| !rank.is_nan());
            Proposal {
                source: source.name.clone(),
                rank: rank.map(|rank| rank as usize),
                score: known.filter(|_| rank.is_some()).map(|at| candidates.scores[at]),
            }
        };
        self.scenario.sources.iter().enumerate().map(of_source).collect()
    }

    /// How `item` was ranked; `None` if it was no candidate.
    pub fn ranked(&self, item: ItemId) -> Option<Ranked> {
        let place = self.place(item)?;
        let this = &self.rated[place];
        let before = |it: &&(Scored, f32)| by_score_and_tie(it, this) == Ordering::Less;
        let n_before = self.rated.iter().filter(before).count();
        let by_models = !self.scratch.scores.is_empty();
        let models = if by_models { self.by_models(place) } else { Vec::new() };
        // A list of a single source has that one's scores.
        let ranked = self.scratch.ranked.iter().find(|scored| scored.item == item);
        let score = ranked.unwrap_or(&this.0).score;
        Some(Ranked { rank: n_before + 1, of: self.rated.len(), score, models })
    }

    /// What became of `item` in `answer`, which was made for `query`: [`Fate::NotRetrieved`] for all that are no candidates.
    pub fn fate(&self, query: &Query, answer: &Answer, item: ItemId) -> Fate {
        if let Some(shown) = answer.slate.shown.iter().find(|shown| shown.item == item) {
            return Fate::Shown(*shown);
        }
        if let Some(refused) = self.pipeline.refusal(self.scenario, query, item) {
            return Fate::Refused(refused);
        }
        if let Some(dropped) = answer.slate.dropped.iter().find(|dropped| dropped.item == item) {
            return Fate::Dropped { rule: dropped.rule };
        }
        if self.scratch.ranked.iter().any(|scored| scored.item == item) {
            return Fate::Outranked;
        }
        if self.place(item).is_some() {
            return Fate::BelowTop { top: self.scenario.top };
        }
        Fate::NotRetrieved
    }

    /// As [`Explainer::fate`], in the answer of a placement: its sources are asked again whether they have `item` at all.
    pub fn fate_in_placement(&self, query: &Query, answer: &Answer, item: ItemId) -> Fate {
        match self.fate(query, answer, item) {
            Fate::NotRetrieved if self.is_proposed(query, item) => Fate::NotMerged,
            fate => fate,
        }
    }

    /// Whether any source has `item` in its list, within its share or not.
    fn is_proposed(&self, query: &Query, item: ItemId) -> bool {
        let (pipeline, scenario) = (self.pipeline, self.scenario);
        let (user, _) = pipeline.read_user(scenario, query);
        let (mut scratch, accept) = (Scratch::default(), |it: ItemId| {
            !query.exclude.contains(&it) && pipeline.is_available(it, query.now)
        });
        let ask = pipeline.ask(query, &user, &accept);
        let (lists, _) = super::retrieve::propose(scenario, &ask, &mut scratch.sources);
        lists.iter().any(|list| list.items.iter().any(|scored| scored.item == item))
    }

    /// Of `item` among the candidates.
    fn place(&self, item: ItemId) -> Option<usize> {
        self.rated.iter().position(|(scored, _)| scored.item == item)
    }

    fn by_models(&self, place: usize) -> Vec<ModelExplanation> {
        let release = &self.pipeline.release;
        let (n, columns) = (self.rated.len(), &self.scratch.columns);
        let row: Vec<f32> = (0..release.features.len()).map(|i| columns[i * n + place]).collect();
        match &self.scenario.value {
            Some(value) => {
                let of = |(event, weight): &(String, f64)| {
                    explain(&release.objectives[event].ranker, event, *weight, &row)
                };
                value.weights.iter().filter_map(of).collect()
            }
            None => {
                let ranker = release.ranker.as_ref();
                ranker.and_then(|ranker| explain(ranker, "ranker", 1.0, &row)).into_iter().collect()
            }
        }
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
