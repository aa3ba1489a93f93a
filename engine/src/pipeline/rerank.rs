//! The last stage, from a hundred to tens: the rules of the placement.

use std::borrow::Cow;

use featurestore::store::UserView;
use featurestore::{ItemId, Scored};
use reranking::{HideServed, Lookup, RerankConfig, Reranked, rerank};
use rustc_hash::FxHashMap;

use super::ladder::left;
use super::{Degraded, Pipeline, Query, Scratch};
use crate::release::ScenarioPlan;
use crate::slate::SlateColumns;

impl Pipeline {
    /// A hundred to tens: the rules of the scenario.
    pub(super) fn rerank(
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
}
