//! All rules, one after the other.

use featurestore::ItemId;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::boosts;
use crate::caps::Caps;
use crate::displacement::Displacement;
use crate::explore::Exploration;
use crate::freshness;
use crate::journal::{Dropped, Journal, Move, Rule, Unmet};
use crate::objective::Objective;
use crate::pins::Pinned;
use crate::propensity::Propensity;
use crate::relevance;
use crate::rules::Rules;
use crate::selection::{Selected, Selection};
use crate::served;
use crate::slate::Slate;

/// The list that is shown, and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Reranked {
    /// From the top.
    pub shown: Vec<Shown>,
    /// Every change of place, rule by rule.
    pub moves: Vec<Move>,
    /// Items of the slate's head that are not shown.
    pub dropped: Vec<Dropped>,
    /// What rules asked for and did not get.
    pub unmet: Vec<Unmet>,
}

/// An item in its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    /// The item.
    pub item: ItemId,
    /// The ranker's score, untouched by the rules; NaN for a newcomer that was not ranked.
    pub score: f32,
    /// From 0.
    pub position: usize,
    /// How likely it was to be shown here.
    pub propensity: Propensity,
    /// Its rank in the slate, from 0; `None` for a newcomer that was not ranked.
    pub from_rank: Option<usize>,
}

/// The `n` items to show of a slate, or as many as there are. The same arguments give the same list.
///
/// Cost: O(n * items) and that of diversity, O(n * items * (dim + window)); `benches` has it in microseconds.
///
/// # Panics
/// If a column of the slate is not as long as its items.
pub fn rerank(slate: &Slate<'_>, rules: &Rules, n: usize, seed: u64) -> Reranked {
    slate.assert_aligned();
    let mut journal = Journal::new(slate.items, n);
    let (order, relevance) = by_relevance(slate, rules, &mut journal);
    let n_list = n.min(order.len());
    let needs_ranks = !rules.pins.is_empty() || rules.explore.is_some();
    let ranks = if needs_ranks { slate.ranks() } else { FxHashMap::default() };
    let pinned = Pinned::new(&rules.pins, &ranks, (order.len(), n_list), &mut journal.unmet);
    let mut caps = Caps::new(&rules.caps, slate, n_list, &mut journal.unmet);

    let objective = Objective::of(rules, slate, &relevance, &mut journal.unmet);
    let displacement =
        Displacement::new(rules.max_displacement, order.len(), |rank| pinned.contains(rank));
    let selection = Selection { pinned: &pinned, caps: &mut caps, objective, displacement };
    let selected = selection.fill(&order);
    journal.record(places(&selected.order), |rank| selected.decided_by[rank]);

    let list = List { slate, selected: &selected, pinned: &pinned, n };
    let n_slots = rules.explore.as_ref().map_or(0, |explore| explore.slots);
    let entries = match n_slots {
        0 => list.as_selected(),
        _ => list.explored(n_slots, &caps, &ranks, seed, &mut journal),
    };
    let items: Vec<_> = entries.iter().map(|entry| (entry.item, entry.rank)).collect();
    journal.unmet.extend(caps.exceeded(&items));
    let shown = entries.iter().enumerate().map(|(position, entry)| entry.shown(slate, position));
    let (shown, dropped) = (shown.collect(), journal.dropped());
    Reranked { shown, moves: journal.moves, dropped, unmet: journal.unmet }
}

/// Ranks in the order of relevance, and the relevance by rank, after boosts and freshness.
fn by_relevance(
    slate: &Slate<'_>,
    rules: &Rules,
    journal: &mut Journal<'_>,
) -> (Vec<usize>, Vec<f32>) {
    let mut order: Vec<usize> = (0..slate.items.len()).collect();
    let mut relevance = relevance::standardised(slate.items);
    if !rules.boosts.is_empty() {
        boosts::apply(&rules.boosts, slate, &mut relevance, &mut journal.unmet);
        relevance::sort(&mut order, &relevance);
        journal.record(places(&order), |_| Rule::Boosts);
    }
    if let Some(freshness) = &rules.freshness {
        freshness::apply(freshness, slate, &mut relevance, &mut journal.unmet);
        relevance::sort(&mut order, &relevance);
        journal.record(places(&order), |_| Rule::Freshness);
    }
    if let Some(rule) = &rules.hide_served {
        served::apply(rule, slate, &mut relevance);
        relevance::sort(&mut order, &relevance);
        journal.record(places(&order), |_| Rule::HideServed);
    }
    (order, relevance)
}

fn places(order: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    order.iter().enumerate().map(|(place, &rank)| (rank, place))
}

/// An item of the list, with its rank if it is in the slate.
struct Entry {
    item: ItemId,
    rank: Option<usize>,
    propensity: Propensity,
}

impl Entry {
    fn shown(&self, slate: &Slate<'_>, position: usize) -> Shown {
        let Self { item, rank, propensity } = *self;
        let score = rank.map_or(f32::NAN, |rank| slate.items[rank].score);
        Shown { item, score, position, propensity, from_rank: rank }
    }
}

/// The selected list, on its way to the shown one.
struct List<'a> {
    slate: &'a Slate<'a>,
    selected: &'a Selected,
    pinned: &'a Pinned,
    /// Positions asked for.
    n: usize,
}

impl List<'_> {
    fn base(&self) -> &[usize] {
        &self.selected.order[..self.pinned.at.len()]
    }

    fn as_selected(&self) -> Vec<Entry> {
        self.base().iter().map(|&rank| self.entry(rank, Propensity::CERTAIN)).collect()
    }

    fn entry(&self, rank: usize, propensity: Propensity) -> Entry {
        Entry { item: self.slate.items[rank].item, rank: Some(rank), propensity }
    }

    /// The list with newcomers in some of its places; what was there moves down.
    fn explored(
        &self,
        n_wanted: usize,
        caps: &Caps<'_>,
        ranks: &FxHashMap<ItemId, usize>,
        seed: u64,
        journal: &mut Journal<'_>,
    ) -> Vec<Entry> {
        let pool = self.pool(caps, ranks);
        let n_pinned = self.pinned.n_pinned();
        let n_slots = n_wanted.min(pool.len()).min(self.n - n_pinned);
        if n_slots < n_wanted {
            journal.unmet.push(Unmet::Explore { slots: n_wanted, filled: n_slots });
        }
        let n_shown = self.n.min(self.base().len() + n_slots);
        let exploration = Exploration::draw(n_slots, n_shown - n_pinned, &pool, seed);
        let entries = self.interleaved(&exploration, n_shown, ranks);
        self.record(&entries, journal);
        entries
    }

    /// The newcomers that may be shown, by id: not those in the list already, nor those that could exceed a cap
    /// somewhere. A pool that depended on the drawn positions would make propensities hard to tell.
    fn pool(&self, caps: &Caps<'_>, ranks: &FxHashMap<ItemId, usize>) -> Vec<ItemId> {
        let listed: FxHashSet<usize> = self.base().iter().copied().collect();
        let fits = caps.fitting_anywhere(self.base());
        let may_show = |item: &ItemId| match ranks.get(item) {
            Some(&rank) => !listed.contains(&rank) && fits(rank),
            None => true,
        };
        let mut pool: Vec<ItemId> = self.slate.newcomers.iter().copied().filter(may_show).collect();
        pool.sort_unstable();
        pool.dedup();
        pool
    }

    fn interleaved(
        &self,
        exploration: &Exploration,
        n_shown: usize,
        ranks: &FxHashMap<ItemId, usize>,
    ) -> Vec<Entry> {
        let free = self.base().iter().copied().filter(|&rank| !self.pinned.contains(rank));
        let mut others = free.enumerate();
        let mut entries = Vec::with_capacity(n_shown);
        let mut slot = 0;
        for position in 0..n_shown {
            if let Some(&Some(rank)) = self.pinned.at.get(position) {
                entries.push(self.entry(rank, Propensity::CERTAIN));
                continue;
            }
            let newcomer = exploration.at(slot).map(|item| Entry {
                item,
                rank: ranks.get(&item).copied(),
                propensity: exploration.newcomer_propensity(),
            });
            let entry = newcomer.or_else(|| {
                let (index, rank) = others.next()?;
                Some(self.entry(rank, exploration.other_propensity(index, slot)))
            });
            entries.extend(entry);
            slot += 1;
        }
        entries
    }

    /// Notes the places in `entries`, and those that everything else of the slate has after them.
    fn record(&self, entries: &[Entry], journal: &mut Journal<'_>) {
        let listed: FxHashSet<usize> = entries.iter().filter_map(|entry| entry.rank).collect();
        let in_list = entries.iter().enumerate().filter_map(|(to, entry)| Some((entry.rank?, to)));
        let others = self.selected.order.iter().filter(|rank| !listed.contains(rank));
        let behind = others.enumerate().map(|(i, &rank)| (rank, entries.len() + i));
        journal.record(in_list.chain(behind), |_| Rule::Explore);
    }
}
