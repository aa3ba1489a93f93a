//! The second stage, from a thousand to a hundred: features, and the ranker's scores.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use featurestore::store::UserView;
use featurestore::{Freshness, ItemId, Scored, best_first, keep_best};
use ranking::ranker::Hurry;
use ranking::value::ValueModel;
use retrieval::merge::Candidates;
use rustc_hash::FxHashSet;

use super::features::RequestFeatures;
use super::ladder::left;
use super::{Degraded, Pipeline, Query, Scratch};
use crate::release::ScenarioPlan;

/// Fewer candidates than this many times the items that are wanted are not worth ranking.
pub(super) const LEAST_TIMES: usize = 2;

/// Part of the ranker's trees that is asked when time is short.
const FEWER_TREES: f64 = 0.2;

impl Pipeline {
    /// Features and the ranker's score of the candidates; when time is short, of fewer candidates, by fewer trees, or
    /// not at all.
    #[expect(clippy::too_many_arguments, reason = "it is one of three steps of one function")]
    pub(super) fn rank(
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
            rank_by(&scratch.candidates.items, &fused, &fused, scenario.top, &mut scratch.ranked);
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
        // Where the ranker sees no difference, as among items of which a user knows nothing, the sources do.
        let Scratch { candidates, scores, ranked, .. } = scratch;
        rank_by(&candidates.items, scores, &candidates.fused(), scenario.top, ranked);
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

    pub(super) fn compute_features(
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
pub(super) fn store_deadline(query: &Query, budget_ms: u32) -> Option<Instant> {
    let now = Instant::now();
    let left = query.deadline?.saturating_duration_since(now);
    Some(now + left.min(Duration::from_millis(budget_ms.into())) / 2)
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

/// The best `top` of `items` by their `scores`, and equal ones by `ties`.
pub(super) fn rank_by(
    items: &[ItemId],
    scores: &[f32],
    ties: &[f32],
    top: usize,
    ranked: &mut Vec<Scored>,
) {
    let scored =
        items.iter().zip(scores).map(|(item, score)| Scored { item: *item, score: *score });
    let mut order: Vec<(Scored, f32)> = scored.zip(ties.iter().copied()).collect();
    if (1..order.len()).contains(&top) {
        order.select_nth_unstable_by(top - 1, by_score_and_tie);
    }
    order.truncate(top);
    order.sort_unstable_by(by_score_and_tie);
    ranked.clear();
    ranked.extend(order.into_iter().map(|(scored, _)| scored));
}

/// The order of items with what decides among equal scores: the best first.
pub(super) fn by_score_and_tie((a, tie_a): &(Scored, f32), (b, tie_b): &(Scored, f32)) -> Ordering {
    let by_tie = if a.score == b.score { tie_b.total_cmp(tie_a) } else { Ordering::Equal };
    by_tie.then_with(|| best_first(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_are_in_the_order_of_the_sources() {
        let (items, mut ranked) = ([3, 1, 2, 0].map(ItemId), Vec::new());
        for top in [4, 3, 2, 1, 0] {
            rank_by(&items, &[1.0, 1.0, 2.0, 1.0], &[0.5, 0.2, 0.0, 0.5], top, &mut ranked);
            let order: Vec<u32> = ranked.iter().map(|scored| scored.item.0).collect();
            assert_eq!(order, [2, 0, 3, 1][..top]);
        }
    }
}
