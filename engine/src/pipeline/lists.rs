//! Lists that are not made for a placement: what one source proposes, what goes with some items, and the caller's own
//! candidates. They come from the same sources, features and ranker as those of [`Pipeline::recommend`].

use std::time::Instant;

use featurestore::schema::SimilarityBy;
use featurestore::{ItemId, Scored, Timestamp};
use reranking::{RerankConfig, Reranked, Rules, rerank};
use retrieval::merge::{Candidates, merge};
use retrieval::sources::{Ask, Source, SourceEntry, SourceKind};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use super::ladder::stage_until;
use super::rank::rank_by;
use super::retrieve::{propose, propose_prepared};
use super::{Answer, Degraded, Pipeline, Query, Scratch, Timing, degraded_by, is_cold};
use crate::config::Budget;
use crate::release::ScenarioPlan;
use crate::slate::SlateColumns;

/// How far down the lists are read that are fused into what goes with some items, if fewer are wanted.
const SIMILAR_DEPTH: usize = 100;

/// A list that one source makes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Listing {
    /// What many do something with.
    Popular,
    /// What many do something with lately.
    Trending,
    /// What is new.
    Latest,
}

impl Listing {
    /// Its name in requests and impressions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Popular => "popular",
            Self::Trending => "trending",
            Self::Latest => "latest",
        }
    }

    /// What makes it.
    pub fn source(self) -> SourceKind {
        match self {
            Self::Popular => SourceKind::Popular,
            Self::Trending => SourceKind::Trending,
            Self::Latest => SourceKind::NewItems,
        }
    }
}

impl Pipeline {
    /// The plan of a list of `n` items by the first such source: that of the main placement, or else of another one.
    /// `None` if no placement has one; the newest items are there always.
    pub fn listing(&self, listing: Listing, n: usize) -> Option<ScenarioPlan> {
        let kind = listing.source();
        let placements = std::iter::once(self.main()).chain(self.release.scenarios.values());
        let known = placements.flat_map(|plan| &plan.sources).find(|source| source.kind == kind);
        let entry = SourceEntry { kind, n, ..SourceEntry::default() };
        let by_models = || (kind == SourceKind::NewItems).then(|| Source::without_counts(&entry));
        let mut source = known.cloned().or_else(|| by_models().flatten())?;
        source.n = n;
        Some(self.unranked(vec![source], n))
    }

    /// A list that costs next to nothing, for a question whose time is over: `stored`, which was computed before, or else
    /// what is popular, without what may not be shown to the user of `query`.
    pub fn late(
        &self,
        scenario: &ScenarioPlan,
        query: &Query,
        stored: &[ItemId],
        scratch: &mut Scratch,
    ) -> Answer {
        let listings = [Listing::Popular, Listing::Trending, Listing::Latest];
        let plan = listings.into_iter().find_map(|listing| self.listing(listing, query.n));
        // `hide_seen` is that of the placement.
        let plan = plan.map(|plan| ScenarioPlan { hide_seen: scenario.hide_seen.clone(), ..plan });
        let plan = plan.as_ref().unwrap_or(scenario);
        // Its time is over: it takes as much as it takes.
        let mut answer = self.list_until(plan, &[], query, None, scratch);
        let mut step = Degraded::Popular;
        let Scratch { ranked, refused, passing, candidates, .. } = scratch;
        let available = self.available(stored, query.now);
        let allowed = stored.iter().zip(available).filter(|(item, is_available)| {
            *is_available
                && match &passing {
                    Some(set) => set.contains(**item),
                    None => !refused.contains(*item),
                }
        });
        let stored: Vec<ItemId> = allowed.map(|(item, _)| *item).collect();
        let mut items: Vec<ItemId> = ranked.iter().map(|scored| scored.item).collect();
        if stored.len() >= items.len().min(query.n) {
            (items, step) = (stored, Degraded::Precomputed);
        }
        if let Some(set) = passing.as_ref().filter(|_| items.len() < query.n) {
            let known: FxHashSet<ItemId> = items.iter().copied().collect();
            let n_missing = query.n - items.len();
            items.extend(set.iter().filter(|item| !known.contains(item)).take(n_missing));
        }
        ranked.clear();
        let scored = |(i, item)| Scored { item, score: -(i as f32) };
        ranked.extend(items.into_iter().enumerate().map(scored));
        // What made them is not a source of the placement.
        *candidates = Candidates::default();
        answer.slate = as_ranked(ranked, query.n, query.now);
        answer.proposed = vec![0; scenario.sources.len()];
        answer.degraded.push(step);
        answer
    }

    /// The plan of a list of `n` items that go with others, by every similarity that the release has.
    pub fn similar(&self, n: usize) -> ScenarioPlan {
        let (depth, item_item) = (n.max(SIMILAR_DEPTH), SourceKind::ItemItem);
        let entries = [
            (item_item, Some(SimilarityBy::CoVisitation)),
            (item_item, Some(SimilarityBy::Cosine)),
            (SourceKind::Embedding, None),
        ];
        let entry = |(kind, by)| SourceEntry { kind, by, n: depth, ..SourceEntry::default() };
        let sources = entries.into_iter().map(entry);
        self.unranked(sources.filter_map(|entry| Source::without_counts(&entry)).collect(), n)
    }

    fn main(&self) -> &ScenarioPlan {
        &self.release.scenarios[self.release.config.main_scenario()]
    }

    /// The main placement with other sources, and without rules.
    fn unranked(&self, sources: Vec<Source>, n: usize) -> ScenarioPlan {
        let candidates = sources.iter().map(|source| source.n).sum();
        let rerank = RerankConfig::default();
        ScenarioPlan { sources, candidates, top: n, value: None, rerank, ..self.main().clone() }
    }

    /// The items that the sources of `plan` propose to one who has done nothing but look at `items`, in the order of the
    /// sources: neither ranked nor re-ranked. A single source gives its own scores, several are fused. None of `items` is
    /// among them, nor what may not be shown to the user of `query`. When time is short, fewer sources are asked, or less.
    pub fn list(
        &self,
        plan: &ScenarioPlan,
        items: &[ItemId],
        query: &Query,
        scratch: &mut Scratch,
    ) -> Answer {
        let Budget { retrieve_ms, rank_ms, rerank_ms, .. } = &plan.budget;
        // There is no ranker to leave time for.
        let until = stage_until(query, retrieve_ms + rank_ms, *rerank_ms);
        self.list_until(plan, items, query, until, scratch)
    }

    fn list_until(
        &self,
        plan: &ScenarioPlan,
        items: &[ItemId],
        query: &Query,
        until: Option<Instant>,
        scratch: &mut Scratch,
    ) -> Answer {
        let started = Instant::now();
        let (user, freshness) = self.read_user(plan, query);
        self.read_refused(plan, query, &user, scratch);
        // Those of an earlier request are no scores of these candidates.
        scratch.scores.clear();
        let Scratch { sources, candidates, ranked, refused, passing, .. } = scratch;
        refused.extend(items);
        if let Some(set) = passing {
            items.iter().for_each(|item| set.remove(*item));
        }
        let passing = passing.as_ref();
        let accept = |item: ItemId| match passing {
            Some(set) => set.contains(item),
            None => !refused.contains(&item) && self.is_available(item, query.now),
        };
        // An imported vector of the user says nothing about what goes with `items`.
        let ask = Ask { user_id: None, among: passing, until, ..self.ask(query, &user, &accept) };
        ask.prepare_from(items, sources);
        let (lists, is_whole) = propose_prepared(plan, &ask, sources);
        *candidates = merge(&lists, plan.candidates);
        let fused = candidates.fused();
        let scores = if candidates.n_sources == 1 { &candidates.scores } else { &fused };
        rank_by(&candidates.items, scores, &fused, plan.top, ranked);
        let cold_user = is_cold(&user, query, freshness);
        let slate = as_ranked(ranked, query.n, query.now);
        scratch.user = Some(user);
        Answer {
            slate,
            proposed: lists.iter().map(|list| list.items.len()).collect(),
            degraded: (!is_whole)
                .then_some(Degraded::FewerCandidates)
                .into_iter()
                .chain(degraded_by(freshness))
                .collect(),
            cold_user,
            timing: Timing { retrieve: started.elapsed(), ..Timing::default() },
        }
    }

    /// `items`, each at most once, in the order of the ranker: scored as they would be for `scenario`, whether or not its
    /// sources propose them. Those that may not be shown at all are left out; what the user has seen is not.
    pub fn rank_given(
        &self,
        scenario: &ScenarioPlan,
        items: &[ItemId],
        query: &Query,
        scratch: &mut Scratch,
    ) -> Answer {
        let started = Instant::now();
        let budget = &scenario.budget;
        let until = stage_until(query, budget.retrieve_ms, budget.rank_ms + budget.rerank_ms);
        let (user, mut freshness) = self.read_user(scenario, query);
        // What the placement would not show takes no place in the lists of its sources, there or here; it is scored all the same.
        self.read_refused(scenario, query, &user, scratch);
        scratch.passing = None;
        let refused = std::mem::take(&mut scratch.refused);
        let accept = |item: ItemId| !refused.contains(&item);
        let ask = Ask { until, ..self.ask(query, &user, &accept) };
        let (lists, is_whole) = propose(scenario, &ask, &mut scratch.sources);
        // None of the given items is lost by it.
        scratch.refused = refused;
        scratch.refused.clear();
        scratch.candidates = Candidates::given(items.to_vec(), &lists);
        let available = self.available(items, query.now);
        scratch.candidates.retain(|i| available[i]);
        let retrieved = Instant::now();
        let until = stage_until(query, budget.rank_ms, budget.rerank_ms);
        let mut degraded = Vec::new();
        degraded.extend((!is_whole).then_some(Degraded::FewerCandidates));
        self.rank(scenario, query, &user, until, &mut freshness, scratch, &mut degraded);
        degraded.extend(degraded_by(freshness));
        let cold_user = is_cold(&user, query, freshness);
        scratch.user = Some(user);
        Answer {
            slate: as_ranked(&scratch.ranked, query.n, query.now),
            proposed: lists.iter().map(|list| list.items.len()).collect(),
            degraded,
            cold_user,
            timing: Timing {
                retrieve: retrieved - started,
                rank: retrieved.elapsed(),
                ..Timing::default()
            },
        }
    }
}

/// The best `n` of `ranked`, by no rule.
fn as_ranked(ranked: &[Scored], n: usize, now: Timestamp) -> Reranked {
    SlateColumns::default().slate(ranked, now, |slate| rerank(slate, &Rules::default(), n, 0))
}
