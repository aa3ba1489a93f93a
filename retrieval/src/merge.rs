//! Merging what the sources propose into one list of candidates, with every source's score and rank beside it.

use featurestore::{ItemId, Scored};
use rustc_hash::FxHashMap;

/// Constant of reciprocal rank fusion. Source: "Reciprocal rank fusion outperforms Condorcet and individual rank
/// learning methods", SIGIR 2009.
const FUSION_OFFSET: f32 = 60.0;

/// What one source proposes.
#[derive(Clone, Debug, Default)]
pub struct SourceList {
    /// Its items, best first. Of an item that occurs twice, the first occurrence counts.
    pub items: Vec<Scored>,
    /// Only this many of them become candidates by this source; the others still lend score and rank.
    pub quota: usize,
}

/// Items to be ranked, each once, with the columns that the sources give.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    /// The candidates.
    pub items: Vec<ItemId>,
    /// Score in each source: `[n_sources, n]`, a source's scores lying together. NaN: the source did not propose it.
    pub scores: Vec<f32>,
    /// Rank in each source, from 1, laid out as `scores`. NaN: the source did not propose it.
    pub ranks: Vec<f32>,
    /// How many sources there are, also those that proposed nothing.
    pub n_sources: usize,
}

/// The union of `lists`, one for each source and in the order of the sources, cut at `limit` candidates.
///
/// Candidates are taken in turn: the first of every source, the second of every source, and so on, each source up to
/// its quota. An item that several sources propose is one candidate with all their scores and ranks, those beyond a
/// quota included. Cost: O(items in all lists).
pub fn merge(lists: &[SourceList], limit: usize) -> Candidates {
    let (items, places) = take_in_turn(lists, limit);
    Candidates::placed(items, &places, lists)
}

/// The items that become candidates, and the place of each.
fn take_in_turn(lists: &[SourceList], limit: usize) -> (Vec<ItemId>, FxHashMap<ItemId, usize>) {
    let within_quota = |list: &SourceList| list.quota.min(list.items.len());
    let n_most = lists.iter().map(within_quota).sum::<usize>().min(limit);
    let mut items = Vec::with_capacity(n_most);
    let mut places = FxHashMap::with_capacity_and_hasher(n_most, Default::default());
    let n_turns = lists.iter().map(within_quota).max().unwrap_or(0);
    for turn in 0..n_turns {
        for list in lists.iter().filter(|list| turn < within_quota(list)) {
            if items.len() == limit {
                return (items, places);
            }
            let item = list.items[turn].item;
            places.entry(item).or_insert_with(|| {
                items.push(item);
                items.len() - 1
            });
        }
    }
    (items, places)
}

impl Candidates {
    /// `items` as candidates, in their order, whether or not one of `lists` proposes them. Each comes at most once.
    pub fn given(items: Vec<ItemId>, lists: &[SourceList]) -> Self {
        let places = items.iter().enumerate().map(|(place, item)| (*item, place)).collect();
        Self::placed(items, &places, lists)
    }

    /// `items`, each in its place, with the scores and ranks that `lists` give them.
    fn placed(items: Vec<ItemId>, places: &FxHashMap<ItemId, usize>, lists: &[SourceList]) -> Self {
        let missing = vec![f32::NAN; lists.len() * items.len()];
        let mut candidates =
            Self { items, scores: missing.clone(), ranks: missing, n_sources: lists.len() };
        let n = candidates.len();
        for (source, list) in lists.iter().enumerate() {
            for (position, proposed) in list.items.iter().enumerate() {
                let Some(place) = places.get(&proposed.item) else { continue };
                let at = source * n + place;
                if candidates.ranks[at].is_nan() {
                    candidates.scores[at] = proposed.score;
                    candidates.ranks[at] = (position + 1) as f32;
                }
            }
        }
        candidates
    }

    /// How many candidates there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The scores that `source` gave, `[n]`.
    pub fn scores_of(&self, source: usize) -> &[f32] {
        &self.scores[source * self.len()..][..self.len()]
    }

    /// The ranks that `source` gave, `[n]`.
    pub fn ranks_of(&self, source: usize) -> &[f32] {
        &self.ranks[source * self.len()..][..self.len()]
    }

    /// The sources that proposed the candidate at `index`.
    pub fn sources_of(&self, index: usize) -> impl Iterator<Item = usize> {
        (0..self.n_sources).filter(move |&source| !self.ranks_of(source)[index].is_nan())
    }

    /// Reciprocal rank fusion of every candidate, `[n]`: the sum of `1 / (60 + rank)` over its sources. The score to
    /// sort by where there is no ranker.
    pub fn fused(&self) -> Vec<f32> {
        let mut fused = vec![0.0; self.len()];
        for source in 0..self.n_sources {
            for (sum, &rank) in fused.iter_mut().zip(self.ranks_of(source)) {
                *sum += if rank.is_nan() { 0.0 } else { 1.0 / (FUSION_OFFSET + rank) };
            }
        }
        fused
    }

    /// Keeps the candidates whose index `keep` lets through, in their order; returns how many it dropped.
    /// `keep` is called once for each index.
    pub fn retain(&mut self, keep: impl FnMut(usize) -> bool) -> usize {
        let n = self.len();
        let kept: Vec<bool> = (0..n).map(keep).collect();
        let mut index = 0;
        let mut next_is_kept = || {
            index += 1;
            kept[(index - 1) % n]
        };
        // A column after the other, each as long as `kept`.
        self.scores.retain(|_| next_is_kept());
        self.ranks.retain(|_| next_is_kept());
        self.items.retain(|_| next_is_kept());
        n - self.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn list() -> impl Strategy<Value = SourceList> {
        let scored = (0u32..30, -1f32..1.0);
        (vec(scored, 0..25), 0usize..30).prop_map(|(items, quota)| SourceList {
            items: items
                .into_iter()
                .map(|(item, score)| Scored { item: ItemId(item), score })
                .collect(),
            quota,
        })
    }

    /// Every item's (score, rank) in the list, by its first occurrence.
    fn proposals(list: &SourceList) -> HashMap<ItemId, (f32, f32)> {
        let ranked = list.items.iter().enumerate().rev();
        ranked.map(|(at, s)| (s.item, (s.score, at as f32 + 1.0))).collect()
    }

    /// All items that a source may nominate, by (position, source), each at its first place.
    fn union(lists: &[SourceList]) -> Vec<ItemId> {
        let mut nominated: Vec<(usize, usize, ItemId)> = Vec::new();
        for (source, list) in lists.iter().enumerate() {
            let head = list.items.iter().take(list.quota).enumerate();
            nominated.extend(head.map(|(at, scored)| (at, source, scored.item)));
        }
        nominated.sort();
        let mut items = Vec::new();
        for (_, _, item) in nominated {
            if !items.contains(&item) {
                items.push(item);
            }
        }
        items
    }

    proptest! {
        #[test]
        fn merging_equals_the_union_by_turns(lists in vec(list(), 0..5), limit in 0usize..40) {
            let merged = merge(&lists, limit);
            let mut expected = union(&lists);
            expected.truncate(limit);
            prop_assert_eq!(&merged.items, &expected);
            for (source, list) in lists.iter().enumerate() {
                let proposals = proposals(list);
                for (i, item) in merged.items.iter().enumerate() {
                    let found = (merged.scores_of(source)[i], merged.ranks_of(source)[i]);
                    match proposals.get(item) {
                        Some(&proposed) => prop_assert_eq!(found, proposed),
                        None => prop_assert!(found.0.is_nan() && found.1.is_nan()),
                    }
                    let named = merged.sources_of(i).any(|s| s == source);
                    prop_assert_eq!(named, proposals.contains_key(item));
                }
            }
        }

        #[test]
        fn retaining_keeps_the_columns_aligned(lists in vec(list(), 0..5), salt in 0u32..7) {
            let all = merge(&lists, usize::MAX);
            let keep = |item: ItemId| !(item.0 + salt).is_multiple_of(3);
            let mut kept = all.clone();
            let dropped = kept.retain(|i| keep(all.items[i]));
            prop_assert_eq!(kept.len() + dropped, all.len());
            prop_assert!(kept.items.iter().all(|&item| keep(item)));
            for (i, &item) in kept.items.iter().enumerate() {
                let before = all.items.iter().position(|&other| other == item).unwrap();
                for source in 0..all.n_sources {
                    let bits = |ranks: &[f32], i: usize| ranks[i].to_bits();
                    prop_assert_eq!(
                        bits(kept.ranks_of(source), i), bits(all.ranks_of(source), before)
                    );
                    prop_assert_eq!(
                        bits(kept.scores_of(source), i), bits(all.scores_of(source), before)
                    );
                }
            }
        }
    }

    #[test]
    fn given_items_are_candidates_also_where_nothing_proposes_them() {
        let scored = |item, score| Scored { item: ItemId(item), score };
        let list = SourceList { items: vec![scored(7, 3.0), scored(8, 2.0)], quota: 1 };
        let given = Candidates::given(vec![ItemId(9), ItemId(8)], &[list]);
        assert_eq!(given.items, [ItemId(9), ItemId(8)]);
        assert!(given.scores[0].is_nan() && given.ranks[0].is_nan());
        assert_eq!((given.scores[1], given.ranks[1]), (2.0, 2.0));
    }

    #[test]
    fn fusion_adds_up_the_reciprocal_ranks() {
        let list = |items: &[u32]| SourceList {
            items: items.iter().map(|&i| Scored { item: ItemId(i), score: 1.0 }).collect(),
            quota: 10,
        };
        let merged = merge(&[list(&[7, 8]), list(&[8])], 10);
        assert_eq!(merged.items, [ItemId(7), ItemId(8)]);
        assert_eq!(merged.fused(), [1.0 / 61.0, 1.0 / 62.0 + 1.0 / 61.0]);
    }
}
