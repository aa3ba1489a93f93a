//! The one place where the stages meet: retrieve, rank, re-rank. The server, the nightly batch and the evaluation all
//! call [`Pipeline::recommend`]; lists that are not made for a placement are in `lists`.

mod explain;
mod features;
mod ladder;
mod lists;
mod newer;

pub use explain::{Fate, ModelExplanation, Proposal, Ranked};
pub use ladder::Degraded;
pub use lists::Listing;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use featurestore::plan::{FeaturePlan, FeatureScratch};
use featurestore::store::UserView;
use featurestore::{
    EmbeddedStore, FeatureStore, Freshness, ItemId, Scored, Timestamp, UserId, keep_best,
};
use ranking::ranker::Hurry;
use ranking::value::ValueModel;
use reranking::{BoostedValues, HideServed, Lookup, RerankConfig, Reranked, Rules, rerank};
use retrieval::item_set::ItemSet;
use retrieval::merge::{Candidates, SourceList, merge};
use retrieval::sources::{Ask, SourceScratch};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::filter::Filter;
use crate::release::{Release, ScenarioPlan};
use crate::slate::SlateColumns;
use features::RequestFeatures;
use ladder::{Costs, left, stage_until};
use newer::Newer;

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
    /// Whether nothing was known about the user.
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

/// Fewer candidates than this many times the items that are wanted are not worth ranking.
const LEAST_TIMES: usize = 2;

/// Part of the ranker's trees that is asked when time is short.
const FEWER_TREES: f64 = 0.2;

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
        let cold_user = user.state.recent.is_empty() && freshness != Freshness::Default;
        scratch.user = Some(user);
        Answer { slate, proposed, degraded, cold_user, timing }
    }

    /// What is known of the user of `query`. A store that hangs costs half of the budget of the first stage.
    fn read_user(&self, scenario: &ScenarioPlan, query: &Query) -> (UserView, Freshness) {
        let until = store_deadline(query, scenario.budget.retrieve_ms);
        self.features.read_user(query.user, until)
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

    fn has_seen(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        user: &UserView,
        item: ItemId,
    ) -> bool {
        let Some(rule) = &scenario.hide_seen else { return false };
        let plan = self.features.plan();
        let Some(record) = user.state.items.get(item, &plan.user_item) else { return false };
        rule.hides(plan.last_by_type(record), query.now)
    }

    /// Millions to a thousand: asks every source, merges what they propose, and filters it. Returns how many each proposed,
    /// and whether that is all: sources that are left at `until` are not asked.
    fn retrieve(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        user: &UserView,
        until: Option<Instant>,
        scratch: &mut Scratch,
    ) -> (Vec<usize>, bool) {
        self.read_refused(scenario, query, user, scratch);
        let Scratch { refused, passing, sources, candidates, .. } = scratch;
        let (lists, is_whole) = match passing {
            Some(set) => {
                let accept = |item: ItemId| set.contains(item);
                let ask = Ask { among: Some(set), until, ..self.ask(query, user, &accept) };
                let (lists, is_whole) = propose(scenario, &ask, sources);
                *candidates = among(set, &lists, scenario.candidates, query.n);
                (lists, is_whole)
            }
            None => {
                let accept = |item: ItemId| !refused.contains(&item);
                let ask = Ask { until, ..self.ask(query, user, &accept) };
                let (mut lists, mut is_whole) = propose(scenario, &ask, sources);
                *candidates = merge(&lists, scenario.candidates);
                let available = self.available(&candidates.items, query.now);
                let n_dropped = candidates.retain(|i| available[i]);
                // Rarely is much of what the sources know hidden: then only, they are asked item by item.
                if n_dropped > 0 && (candidates.len() < query.n || candidates.len() < n_dropped) {
                    let accept = |item: ItemId| accept(item) && self.is_available(item, query.now);
                    let ask = Ask { until, ..self.ask(query, user, &accept) };
                    (lists, is_whole) = propose(scenario, &ask, sources);
                    *candidates = merge(&lists, scenario.candidates);
                }
                (lists, is_whole)
            }
        };
        (lists.iter().map(|list| list.items.len()).collect(), is_whole)
    }

    fn ask<'a>(
        &'a self,
        query: &'a Query,
        user: &'a UserView,
        accept: &'a dyn Fn(ItemId) -> bool,
    ) -> Ask<'a> {
        Ask {
            models: &self.release.models,
            store: &self.store,
            delta: self.delta(),
            plan: self.features.plan(),
            user_id: query.user,
            user,
            seeds: &query.seeds,
            weights: &self.release.weights,
            now: query.now,
            accept,
            among: None,
            until: None,
        }
    }

    /// Whether `item` may be shown at all at `now`.
    fn is_available(&self, item: ItemId, now: Timestamp) -> bool {
        self.store.view(|view| view.items().is_available(item.0, now))
    }

    /// Which of `items` may be shown at all at `now`.
    fn available(&self, items: &[ItemId], now: Timestamp) -> Vec<bool> {
        self.store
            .view(|view| items.iter().map(|item| view.items().is_available(item.0, now)).collect())
    }

    /// The items that the request or the user's history keeps out, and those that its filter lets pass.
    fn read_refused(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        user: &UserView,
        scratch: &mut Scratch,
    ) {
        let refused = &mut scratch.refused;
        refused.clear();
        refused.extend(query.exclude.iter().chain(&query.seeds));
        if let Some(rule) = &scenario.hide_seen {
            let plan = self.features.plan();
            let seen = user.state.items.iter(&plan.user_item);
            let seen = seen.filter(|(_, record)| rule.hides(plan.last_by_type(record), query.now));
            refused.extend(seen.map(|(item, _)| item));
        }
        scratch.passing = query.filter.as_ref().map(|filter| {
            let mut set = self.store.view(|view| {
                let (items, passing) = (view.items(), filter.passing(view.items()));
                let is_shown = |id: usize| {
                    passing.contains(ItemId(id as u32)) && items.is_available(id as u32, query.now)
                };
                ItemSet::from_fn(items.len(), is_shown)
            });
            refused.iter().for_each(|item| set.remove(*item));
            set
        });
    }

    /// A thousand to a hundred: features and the ranker's score; when time is short, of fewer candidates, by fewer trees, or
    /// not at all.
    #[expect(clippy::too_many_arguments, reason = "it is one of three steps of one function")]
    fn rank(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        user: &UserView,
        until: Option<Instant>,
        freshness: &mut Freshness,
        scratch: &mut Scratch,
        degraded: &mut Vec<Degraded>,
    ) {
        let has_ranker = self.release.ranker.is_some();
        let affordable = if has_ranker { self.affordable(query, until, scratch) } else { 0 };
        let Some(ranker) = self.release.ranker.as_ref().filter(|_| affordable > 0) else {
            let fused = scratch.candidates.fused();
            rank_by(&scratch.candidates.items, &fused, scenario.top, &mut scratch.ranked);
            scratch.scores.clear();
            degraded.extend(has_ranker.then_some(Degraded::Unranked));
            return;
        };
        if affordable < scratch.candidates.len() {
            keep_first(&mut scratch.candidates, affordable);
            degraded.push(Degraded::FewerCandidates);
        }
        let (n, started) = (scratch.candidates.len(), Instant::now());
        let of_items = self.compute_features(scenario, query, user, scratch);
        *freshness = of_items.max(*freshness);
        let computed = Instant::now();
        self.costs.features.observe(computed - started, n);
        // What is expected to take too long is not begun; what takes longer than expected is not ended.
        let is_tight = left(until).is_some_and(|left| left < self.costs.trees.of(n));
        let is_late = || is_tight || left(until).is_some_and(|left| left.is_zero());
        let hurry = Hurry { share: FEWER_TREES, is_late: &is_late };
        let is_whole = match &scenario.value {
            Some(value) => self.score_value(value, n, &hurry, scratch),
            None => ranker.score_in_time(&scratch.columns, n, &hurry, &mut scratch.scores),
        };
        rank_by(&scratch.candidates.items, &scratch.scores, scenario.top, &mut scratch.ranked);
        match is_whole {
            true => self.costs.trees.observe(computed.elapsed(), n),
            false => degraded.push(Degraded::FewerTrees),
        }
        if is_tight {
            self.costs.trees.forget_some();
        }
    }

    /// How many of the candidates can be ranked until `until`, with as few trees as it takes; 0: none.
    fn affordable(&self, query: &Query, until: Option<Instant>, scratch: &Scratch) -> usize {
        let n = scratch.candidates.len();
        let Some(left) = left(until) else { return n.max(1) };
        let each = self.costs.features.of(1) + self.costs.trees.of(1).mul_f64(FEWER_TREES);
        let affordable = match each.as_nanos() {
            _ if left.is_zero() => 0,
            0 => n,
            each => usize::try_from(left.as_nanos() / each).unwrap_or(n),
        };
        if affordable >= n {
            return n.max(1);
        }
        self.costs.features.forget_some();
        self.costs.trees.forget_some();
        if affordable < query.n.saturating_mul(LEAST_TIMES).min(n) { 0 } else { affordable }
    }

    /// Scores the `n` candidates by what they are worth. Whether all trees were asked.
    fn score_value(
        &self,
        value: &ValueModel,
        n: usize,
        hurry: &Hurry<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        let Scratch { columns, scores, probabilities, .. } = scratch;
        probabilities.clear();
        let mut is_whole = true;
        for (event, _) in &value.weights {
            let objective = &self.release.objectives[event];
            is_whole &= objective.append_probabilities(columns, n, hurry, scores, probabilities);
        }
        value.combine(probabilities, n, scores);
        is_whole
    }

    /// A hundred to tens: the rules of the scenario.
    fn rerank(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        user: &UserView,
        scratch: &Scratch,
        degraded: &mut Vec<Degraded>,
    ) -> Reranked {
        let ranked = &scratch.ranked;
        let mut rules = Cow::Borrowed(&self.rules[&scenario.name]);
        if rules.diversity != scenario.rerank.diversity {
            rules.to_mut().diversity = scenario.rerank.diversity;
        }
        if !query.boosts.is_empty() {
            let asked = RerankConfig { boosts: query.boosts.clone(), ..RerankConfig::default() };
            let resolved = self.store.view(|view| {
                let code = |field: &str, value: &str| view.items().code(field, value);
                asked.resolve(Lookup { item: &|_| None, code: &code }).0
            });
            rules.to_mut().boosts.extend(resolved.boosts);
        }
        if rules.diversity > 0.0 && left(query.deadline).is_some_and(|left| left.is_zero()) {
            rules.to_mut().diversity = 0.0;
            degraded.push(Degraded::Undiversified);
        }
        let accept = |item: ItemId| match &scratch.passing {
            Some(set) => set.contains(item),
            None => !scratch.refused.contains(&item),
        };
        let mut columns =
            SlateColumns::read(&self.release, &self.store, &rules, query.now, ranked, accept);
        if let Some(rule) = &rules.hide_served {
            columns.served = self.served_counts(rule, query, user, ranked);
        }
        columns.slate(ranked, query.now, |slate| rerank(slate, &rules, query.n, query.seed))
    }

    /// How often each of `ranked` was shown to the user since he last did something with it, each time fading.
    fn served_counts(
        &self,
        rule: &HideServed,
        query: &Query,
        user: &UserView,
        ranked: &[Scored],
    ) -> Vec<f32> {
        let mut counts: FxHashMap<ItemId, f32> = FxHashMap::default();
        let plan = self.features.plan();
        for (item, time) in &query.served {
            let record = user.state.items.get(*item, &plan.user_item);
            let chosen = record.is_some_and(|record| plan.last_time(record) >= time.0 as f64);
            if !chosen {
                let age = query.now.seconds_since(*time).max(0.0);
                *counts.entry(*item).or_default() +=
                    (-age / rule.half_life.seconds()).exp2() as f32;
            }
        }
        ranked.iter().map(|scored| counts.get(&scored.item).copied().unwrap_or(0.0)).collect()
    }

    fn compute_features(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        user: &UserView,
        scratch: &mut Scratch,
    ) -> Freshness {
        let n = scratch.candidates.items.len();
        scratch.columns.clear();
        scratch.columns.resize(self.release.features.len() * n, f32::NAN);
        if n == 0 {
            return Freshness::Fresh;
        }
        let Scratch { sources, features, candidates, columns, .. } = scratch;
        let until = store_deadline(query, scenario.budget.rank_ms);
        let freshness = self.features.read_items(&candidates.items, until, &mut features.items);
        for (item, field, value) in &query.numbers {
            let at = candidates.items.iter().position(|other| other == item);
            // What no feature reads was not read.
            let read = features.items.numbers.get_mut(*field);
            if let Some(number) = read.zip(at).and_then(|(read, at)| read.get_mut(at)) {
                *number = *value;
            }
        }
        self.features.plan().compute(user, &candidates.items, query.now, features, columns);
        let context =
            RequestFeatures { release: &self.release, scenario, candidates, sources, user, query };
        for (i, feature) in self.release.features.iter().enumerate() {
            context.column(&feature.kind, &mut columns[i * n..(i + 1) * n]);
        }
        freshness
    }
}

/// When the feature store must have answered: at half of the stage's budget, and of what is left until the deadline.
fn store_deadline(query: &Query, budget_ms: u32) -> Option<Instant> {
    let now = Instant::now();
    let left = query.deadline?.saturating_duration_since(now);
    Some(now + left.min(Duration::from_millis(budget_ms.into())) / 2)
}

fn degraded_by(freshness: Freshness) -> Option<Degraded> {
    match freshness {
        Freshness::Fresh => None,
        Freshness::Stale => Some(Degraded::StaleFeatures),
        Freshness::Default => Some(Degraded::DefaultFeatures),
    }
}

/// What the sources of `scenario` propose, in their order, and whether that is all: those that are left when time is over are
/// not asked, once any has proposed something, and the one that is being asked is cut short.
fn propose(
    scenario: &ScenarioPlan,
    ask: &Ask<'_>,
    scratch: &mut SourceScratch,
) -> (Vec<SourceList>, bool) {
    ask.prepare(scratch);
    scratch.take_cut();
    let (mut lists, mut n_items) = (Vec::with_capacity(scenario.sources.len()), 0);
    for source in &scenario.sources {
        if n_items > 0 && left(ask.until).is_some_and(|left| left.is_zero()) {
            break;
        }
        let list = ask.list(source, scratch);
        n_items += list.items.len();
        lists.push(list);
    }
    let is_whole = lists.len() == scenario.sources.len() && !scratch.take_cut();
    lists.resize_with(scenario.sources.len(), SourceList::default);
    (lists, is_whole)
}

/// Keeps the `n` candidates that the sources together put first.
fn keep_first(candidates: &mut Candidates, n: usize) {
    let fused = candidates.fused();
    let mut best: Vec<Scored> = (0..candidates.len() as u32)
        .map(|i| Scored { item: ItemId(i), score: fused[i as usize] })
        .collect();
    keep_best(&mut best, n);
    let kept: FxHashSet<u32> = best.into_iter().map(|scored| scored.item.0).collect();
    candidates.retain(|i| kept.contains(&(i as u32)));
}

/// At most `limit` of the items in `set`: all of them, if they are no more; else what `lists` propose, and if that is not
/// enough for a list of `n`, further ones in the order of the catalogue.
fn among(set: &ItemSet, lists: &[SourceList], limit: usize, n: usize) -> Candidates {
    if set.len() <= limit {
        return Candidates::given(set.iter().collect(), lists);
    }
    let merged = merge(lists, limit);
    let n_missing = n.min(limit).saturating_sub(merged.len());
    if n_missing == 0 {
        return merged;
    }
    let known: FxHashSet<ItemId> = merged.items.iter().copied().collect();
    let more = set.iter().filter(|item| !known.contains(item)).take(n_missing);
    Candidates::given(merged.items.iter().copied().chain(more).collect(), lists)
}

/// The best `top` of `items` by their `scores`.
fn rank_by(items: &[ItemId], scores: &[f32], top: usize, ranked: &mut Vec<Scored>) {
    ranked.clear();
    ranked.extend(
        items.iter().zip(scores).map(|(item, score)| Scored { item: *item, score: *score }),
    );
    keep_best(ranked, top);
}
