//! What each rule did to the slate.

use featurestore::{ItemId, Scored};
use serde::Serialize;

/// The rules, in the order in which they apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A factor on some categories.
    Boosts,
    /// The gain of newly published items.
    Freshness,
    /// The loss of what was shown and not chosen.
    HideServed,
    /// Items in fixed places, and what made way for them.
    Pins,
    /// The choice of items unlike those before them.
    Diversity,
    /// Limits on equal categories near each other.
    Caps,
    /// The bound on what the other rules may move.
    Displacement,
    /// Newcomers in random places, and what made way for them.
    Explore,
}

/// A rule changed the place of an item, `from` and `to` being counted from 0 and at least one of them in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    /// The item.
    pub item: ItemId,
    /// The rule.
    pub rule: Rule,
    /// Place before the rule.
    pub from: usize,
    /// Place after it.
    pub to: usize,
}

/// An item of the slate's head that is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The item.
    pub item: ItemId,
    /// The rule that last pushed it out of the list.
    pub rule: Rule,
    /// Its rank in the slate, from 0.
    pub from_rank: usize,
}

/// What a rule asked for and did not get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmet {
    /// Within the window of the cap that ends at `position`, `count` items share the value of `item`. No candidate
    /// kept the cap, or a pin, exploration or the bound on displacement decided.
    Cap {
        /// Field of the cap.
        field: String,
        /// The item.
        item: ItemId,
        /// Where it is shown.
        position: usize,
        /// Items with its value.
        count: usize,
    },
    /// The item is not in the slate, or the list ends before the position.
    Pin {
        /// The pinned item.
        item: ItemId,
        /// The position asked for.
        position: usize,
    },
    /// The slate lacks what the rule looks at, so it did nothing.
    NoColumn {
        /// The rule.
        rule: Rule,
        /// The field; empty for diversity, which takes vectors or any category.
        field: String,
    },
    /// Fewer newcomers than slots.
    Explore {
        /// The slots asked for.
        slots: usize,
        /// The slots that were filled.
        filled: usize,
    },
}

/// Follows the places of the slate's items from rule to rule.
pub(crate) struct Journal<'a> {
    items: &'a [Scored],
    /// Positions that are shown.
    n: usize,
    /// Place of each item of the slate.
    places: Vec<usize>,
    /// The rule that last pushed each item of the slate out of the list.
    pushed_out_by: Vec<Option<Rule>>,
    pub(crate) moves: Vec<Move>,
    pub(crate) unmet: Vec<Unmet>,
}

impl<'a> Journal<'a> {
    pub(crate) fn new(items: &'a [Scored], n: usize) -> Self {
        Self {
            items,
            n,
            places: (0..items.len()).collect(),
            pushed_out_by: vec![None; items.len()],
            moves: Vec::new(),
            unmet: Vec::new(),
        }
    }

    /// Notes what changed its place. `order` names the rank and the new place of each item of the slate.
    pub(crate) fn record(
        &mut self,
        order: impl Iterator<Item = (usize, usize)>,
        rule_of: impl Fn(usize) -> Rule,
    ) {
        for (rank, to) in order {
            let from = std::mem::replace(&mut self.places[rank], to);
            if from == to || from.min(to) >= self.n {
                continue;
            }
            let rule = rule_of(rank);
            self.moves.push(Move { item: self.items[rank].item, rule, from, to });
            if to >= self.n {
                self.pushed_out_by[rank] = Some(rule);
            }
        }
    }

    /// The items of the slate's head that ended beyond the list.
    pub(crate) fn dropped(&self) -> Vec<Dropped> {
        let n_head = self.n.min(self.items.len());
        let lost = (0..n_head).filter(|&rank| self.places[rank] >= self.n);
        let dropped = lost.filter_map(|from_rank| {
            let rule = self.pushed_out_by[from_rank]?;
            Some(Dropped { item: self.items[from_rank].item, rule, from_rank })
        });
        dropped.collect()
    }
}
