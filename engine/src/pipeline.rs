//! The one place where the stages meet: retrieve, rank, re-rank. The server, the nightly batch and the evaluation all
//! call [`Pipeline::recommend`]; lists that are not made for a placement are in `lists`.

mod explain;
mod features;
mod ladder;
mod lists;
mod newer;
mod rank;
mod rerank;
mod retrieve;

pub use explain::{Explainer, Fate, ModelExplanation, Proposal, Ranked};
pub use ladder::Degraded;
pub use lists::Listing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use featurestore::plan::{FeaturePlan, FeatureScratch};
use featurestore::store::UserView;
use featurestore::{
    EmbeddedStore, FeatureStore, Freshness, ItemId, Scored, Timestamp, UserId, keep_best,
};
use reranking::{BoostedValues, Lookup, Reranked, Rules};
use retrieval::item_set::ItemSet;
use retrieval::merge::Candidates;
use retrieval::sources::SourceScratch;
use rustc_hash::FxHashSet;

use crate::filter::Filter;
use crate::release::{Release, ScenarioPlan};
use ladder::{Costs, stage_until};
use newer::Newer;
use rank::store_deadline;

/// A question to the engine.
#[derive(Clone, Debug)]
pub struct Query {
    /// Who asks; `None`: nothing is known about the user.
    pub user: Option<UserId>,
    /// The time that it is.
    pub now: Timestamp,
    /// How many items are wanted.
    pub n: usize,
    /// Items that the list starts from, each once, as if the user had turned to them just now. They are not shown.
    pub seeds: Vec<ItemId>,
    /// Items that must not be shown.
    pub exclude: Vec<ItemId>,
    /// What is allowed besides; `None`: everything.
    pub filter: Option<Arc<Filter>>,
    /// Categories that gain or lose, beside those of the placement.
    pub boosts: Vec<BoostedValues>,
    /// What the user was shown lately, and when.
    pub served: Vec<(ItemId, Timestamp)>,
    /// Numbers that hold instead of those of the catalogue: of which item, position of the field, value.
    pub numbers: Vec<(ItemId, usize, f64)>,
    /// Start of the random sequence of exploration.
    pub seed: u64,
    /// When the answer must be there; `None`: take the time that it takes.
    pub deadline: Option<Instant>,
    /// The part of the usual candidates that is looked at, from 0 to 1: all, unless others wait for the same threads. A list
    /// of given items, or of similar or popular ones, is as it always is.
    pub share: f32,
}

impl Query {
    /// `n` items for `user` as of `now`, and nothing else is asked.
    pub fn new(user: Option<UserId>, now: Timestamp, n: usize) -> Self {
        Self {
            user,
            now,
            n,
            seeds: Vec::new(),
            exclude: Vec::new(),
            filter: None,
            boosts: Vec::new(),
            served: Vec::new(),
            numbers: Vec::new(),
            seed: 0,
            deadline: None,
            share: 1.0,
        }
    }
}

/// Why an item was kept out by the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refused {
    /// It is hidden, expired or not published yet.
    Unavailable,
    /// The request excludes it.
    Excluded,
    /// The request's filter does not let it pass.
    Filtered,
    /// The user has seen it.
    Seen,
}

/// How long each stage took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Reading the user, sources, merging, filters.
    pub retrieve: Duration,
    /// Features and scores.
    pub rank: Duration,
    /// Rules and diversity.
    pub rerank: Duration,
}

impl Timing {
    /// All stages together.
    pub fn total(&self) -> Duration {
        self.retrieve + self.rank + self.rerank
    }
}

/// The answer to a [`Query`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// What to show, best first, and what the rules moved or dropped.
    pub slate: Reranked,
    /// How many candidates each source proposed, in the order of the scenario's sources.
    pub proposed: Vec<usize>,
    /// Steps down the ladder.
    pub degraded: Vec<Degraded>,
    /// Whether nothing was known about the user but the seeds.
    pub cold_user: bool,
    /// How long each stage took.
    pub timing: Timing,
}

/// Room for one request, kept from request to request. After a request it holds what each stage made.
#[derive(Default)]
pub struct Scratch {
    sources: SourceScratch,
    features: FeatureScratch,
    /// The candidates of the last request.
    pub candidates: Candidates,
    /// Their features, column-major `[n_features, n_candidates]`.
    pub columns: Vec<f32>,
    /// Their scores, in the order of the candidates; empty if they were not ranked.
    pub scores: Vec<f32>,
    /// Probabilities of the events that a value model weighs, `[n_objectives, n_candidates]`.
    probabilities: Vec<f32>,
    /// The ranked candidates of the last request, best first, cut at the scenario's `top`.
    pub ranked: Vec<Scored>,
    /// Items that the request or the user's history kept out of the last request.
    pub refused: FxHashSet<ItemId>,
    /// What was known of the user of the last request.
    pub user: Option<UserView>,
    /// What the last request allowed, if it had a filter: available, and not refused.
    passing: Option<ItemSet>,
}

/// A release with the state that it answers from.
pub struct Pipeline {
    release: Arc<Release>,
    /// Catalogue and boards.
    store: Arc<EmbeddedStore>,
    /// Users, and the records of items.
    features: Arc<dyn FeatureStore>,
    /// The rules of each scenario, in the store's ids.
    rules: BTreeMap<String, Rules>,
    costs: Costs,
    newer: Newer,
}

impl Pipeline {
    /// Answers with `release` from the state in `store`, which must have been made for the release's plan.
    pub fn new(release: Arc<Release>, store: Arc<EmbeddedStore>) -> Self {
        Self::with_features(release, store.clone(), store)
    }

    /// Answers with `release` from the catalogue and the boards in `store`, and from `features`, which must have been made
    /// for the release's plan and number things as `store` does.
    pub fn with_features(
        release: Arc<Release>,
        store: Arc<EmbeddedStore>,
        features: Arc<dyn FeatureStore>,
    ) -> Self {
        store.watch_newcomers(release.models.settled());
        let resolve = |scenario: &ScenarioPlan| {
            store.view(|view| {
                let items = view.items();
                let item = |name: &str| items.names().get(name).map(ItemId);
                let code = |field: &str, value: &str| items.code(field, value);
                scenario.rerank.resolve(Lookup { item: &item, code: &code }).0
            })
        };
        let rules =
            release.scenarios.iter().map(|(name, plan)| (name.clone(), resolve(plan))).collect();
        Self { release, store, features, rules, costs: Costs::default(), newer: Newer::new() }
    }

    /// The release that answers.
    pub fn release(&self) -> &Arc<Release> {
        &self.release
    }

    /// The catalogue and the boards that it answers from.
    pub fn store(&self) -> &Arc<EmbeddedStore> {
        &self.store
    }

    /// What is remembered of users and items.
    pub fn plan(&self) -> &FeaturePlan {
        self.features.plan()
    }

    /// How many items are known that `user` had an event with.
    pub fn n_known_items(&self, user: UserId) -> usize {
        self.features.read_user(Some(user), None).0.state.items.len()
    }

    /// The items to show. `scenario`: one of the release's. When the deadline has passed already, [`late`](Self::late) is
    /// what is left.
    pub fn recommend(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        scratch: &mut Scratch,
    ) -> Answer {
        let started = Instant::now();
        let budget = &scenario.budget;
        let until = stage_until(query, budget.retrieve_ms, budget.rank_ms + budget.rerank_ms);
        let (user, mut freshness) = self.read_user(scenario, query);
        let (proposed, is_whole) = self.retrieve(scenario, query, &user, until, scratch);
        let retrieved = Instant::now();
        let until = stage_until(query, budget.rank_ms, budget.rerank_ms);
        let mut degraded = Vec::new();
        let is_whole = is_whole && query.share >= 1.0;
        degraded.extend((!is_whole).then_some(Degraded::FewerCandidates));
        self.rank(scenario, query, &user, until, &mut freshness, scratch, &mut degraded);
        degraded.extend(degraded_by(freshness));
        let ranked = Instant::now();
        let slate = self.rerank(scenario, query, &user, scratch, &mut degraded);
        let timing = Timing {
            retrieve: retrieved - started,
            rank: ranked - retrieved,
            rerank: ranked.elapsed(),
        };
        degraded.sort_unstable();
        degraded.dedup();
        let cold_user = is_cold(&user, query, freshness);
        scratch.user = Some(user);
        Answer { slate, proposed, degraded, cold_user, timing }
    }

    /// What is known of the user of `query`, who has turned to its seeds. A store that hangs costs half of the budget of the
    /// first stage.
    fn read_user(&self, scenario: &ScenarioPlan, query: &Query) -> (UserView, Freshness) {
        let until = store_deadline(query, scenario.budget.retrieve_ms);
        let (mut user, freshness) = self.features.read_user(query.user, until);
        if !query.seeds.is_empty() {
            let (plan, kind) = (self.features.plan(), self.release.heaviest_event());
            self.store.view(|view| {
                user.turn_to(&query.seeds, kind, query.now, plan, view.items());
            });
        }
        (user, freshness)
    }

    /// The candidates of `query` with their features, as the ranker is trained on them.
    pub fn candidates(&self, scenario: &ScenarioPlan, query: &Query, scratch: &mut Scratch) {
        let (user, _) = self.read_user(scenario, query);
        self.retrieve(scenario, query, &user, None, scratch);
        self.compute_features(scenario, query, &user, scratch);
    }

    /// The best `n` items of each source alone, in the order of the scenario's sources: what a single source would
    /// have answered. Call it right after the candidates were retrieved for the same query.
    pub fn source_lists(
        &self,
        scenario: &ScenarioPlan,
        n: usize,
        scratch: &Scratch,
    ) -> Vec<Vec<ItemId>> {
        let candidates = &scratch.candidates;
        let list = |source: usize| {
            let ranks =
                &candidates.ranks[source * candidates.items.len()..][..candidates.items.len()];
            let proposed = ranks.iter().zip(&candidates.items).filter(|(rank, _)| !rank.is_nan());
            let mut items: Vec<Scored> =
                proposed.map(|(rank, item)| Scored { item: *item, score: -rank }).collect();
            keep_best(&mut items, n);
            items.into_iter().map(|scored| scored.item).collect()
        };
        (0..scenario.sources.len()).map(list).collect()
    }

    /// Why `item` may not be shown to the user of `query`, if it may not.
    pub fn refusal(&self, scenario: &ScenarioPlan, query: &Query, item: ItemId) -> Option<Refused> {
        let (user, _) = self.read_user(scenario, query);
        if query.exclude.contains(&item) || query.seeds.contains(&item) {
            return Some(Refused::Excluded);
        }
        if self.has_seen(scenario, query, &user, item) {
            return Some(Refused::Seen);
        }
        if !self.is_available(item, query.now) {
            return Some(Refused::Unavailable);
        }
        let filter = query.filter.as_ref()?;
        let passes = self.store.view(|view| filter.passing(view.items()).contains(item));
        (!passes).then_some(Refused::Filtered)
    }
}

/// Whether nothing is known of the user of `query` but its seeds.
fn is_cold(user: &UserView, query: &Query, freshness: Freshness) -> bool {
    user.state.recent.len() == query.seeds.len() && freshness != Freshness::Default
}

fn degraded_by(freshness: Freshness) -> Option<Degraded> {
    match freshness {
        Freshness::Fresh => None,
        Freshness::Stale => Some(Degraded::StaleFeatures),
        Freshness::Default => Some(Degraded::DefaultFeatures),
    }
}
