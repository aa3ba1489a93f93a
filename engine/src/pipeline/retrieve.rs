//! The first stage, from millions to a thousand: every source is asked, what they propose is merged, and what may not be shown
//! is kept out.

use std::time::Instant;

use featurestore::store::UserView;
use featurestore::{ItemId, Timestamp};
use retrieval::item_set::ItemSet;
use retrieval::merge::{Candidates, SourceList, merge};
use retrieval::sources::{Ask, SourceScratch};
use rustc_hash::FxHashSet;

use super::ladder::left;
use super::rank::LEAST_TIMES;
use super::{Pipeline, Query, Scratch};
use crate::release::ScenarioPlan;

impl Pipeline {
    /// Millions to a thousand: asks every source, merges what they propose, and filters it. Returns how many each proposed,
    /// and whether that is all: sources that are left at `until` are not asked.
    pub(super) fn retrieve(
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
                let ask = Ask { among: Some(set), until, ..self.ask_part(query, user, &accept) };
                let (lists, is_whole) = propose(scenario, &ask, sources);
                *candidates = among(set, &lists, ask.part_of(scenario.candidates), query.n);
                (lists, is_whole)
            }
            None => {
                let accept = |item: ItemId| !refused.contains(&item);
                let ask = Ask { until, ..self.ask_part(query, user, &accept) };
                let limit = ask.part_of(scenario.candidates);
                let (mut lists, mut is_whole) = propose(scenario, &ask, sources);
                *candidates = merge(&lists, limit);
                let available = self.available(&candidates.items, query.now);
                let n_dropped = candidates.retain(|i| available[i]);
                // Rarely is much of what the sources know hidden: then only, they are asked item by item.
                if n_dropped > 0 && (candidates.len() < query.n || candidates.len() < n_dropped) {
                    let accept = |item: ItemId| accept(item) && self.is_available(item, query.now);
                    let ask = Ask { until, ..self.ask_part(query, user, &accept) };
                    (lists, is_whole) = propose(scenario, &ask, sources);
                    *candidates = merge(&lists, limit);
                }
                (lists, is_whole)
            }
        };
        (lists.iter().map(|list| list.items.len()).collect(), is_whole)
    }

    /// What the sources are asked with, for as many candidates as `query` has time for.
    fn ask_part<'a>(
        &'a self,
        query: &Query,
        user: &'a UserView,
        accept: &'a dyn Fn(ItemId) -> bool,
    ) -> Ask<'a> {
        let least = query.n.saturating_mul(LEAST_TIMES);
        Ask { share: query.share, least, ..self.ask(query, user, accept) }
    }

    pub(super) fn ask<'a>(
        &'a self,
        query: &Query,
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
            weights: &self.release.weights,
            now: query.now,
            accept,
            among: None,
            until: None,
            share: 1.0,
            least: 0,
        }
    }

    /// Whether `item` may be shown at all at `now`.
    pub(super) fn is_available(&self, item: ItemId, now: Timestamp) -> bool {
        self.store.view(|view| view.items().is_available(item.0, now))
    }

    /// Which of `items` may be shown at all at `now`.
    pub(super) fn available(&self, items: &[ItemId], now: Timestamp) -> Vec<bool> {
        self.store
            .view(|view| items.iter().map(|item| view.items().is_available(item.0, now)).collect())
    }

    /// The items that the request or the user's history keeps out, and those that its filter lets pass.
    pub(super) fn read_refused(
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

    pub(super) fn has_seen(
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
}

/// What the sources of `scenario` propose, in their order, and whether that is all: those that are left when time is over are
/// not asked, once any has proposed something, and the one that is being asked is cut short.
pub(super) fn propose(
    scenario: &ScenarioPlan,
    ask: &Ask<'_>,
    scratch: &mut SourceScratch,
) -> (Vec<SourceList>, bool) {
    ask.prepare(scratch);
    propose_prepared(scenario, ask, scratch)
}

/// The same, once `scratch` is prepared.
pub(super) fn propose_prepared(
    scenario: &ScenarioPlan,
    ask: &Ask<'_>,
    scratch: &mut SourceScratch,
) -> (Vec<SourceList>, bool) {
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
