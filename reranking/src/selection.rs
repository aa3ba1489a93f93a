//! Filling the list from the top: pins in their places, and between them the best candidate that the caps and the bound
//! on displacement allow.

use crate::caps::Caps;
use crate::displacement::Displacement;
use crate::journal::Rule;
use crate::objective::Objective;
use crate::pins::Pinned;

/// The filling of one list.
pub(crate) struct Selection<'a, 'c> {
    pub(crate) pinned: &'a Pinned,
    pub(crate) caps: &'a mut Caps<'c>,
    pub(crate) objective: Objective<'a>,
    pub(crate) displacement: Option<Displacement>,
}

/// A filled list.
pub(crate) struct Selected {
    /// Ranks of all items of the slate: first those of the list, then the others in the order they had.
    pub(crate) order: Vec<usize>,
    /// By rank, the rule that decided about the item, should it have moved.
    pub(crate) decided_by: Vec<Rule>,
}

/// A candidate that a rule held back.
struct Refused {
    rank: usize,
    value: f32,
    rule: Rule,
}

impl Selection<'_, '_> {
    /// Fills the positions of `pinned` from `order`, the ranks of all items, best first.
    /// Cost: O(positions * items), and that of the objective.
    pub(crate) fn fill(mut self, order: &[usize]) -> Selected {
        let mut decided_by = vec![self.usual_rule(); order.len()];
        for (position, rank) in self.pinned.at.iter().enumerate() {
            if let &Some(rank) = rank {
                self.caps.place(position, rank);
                decided_by[rank] = Rule::Pins;
            }
        }
        let free = order.iter().copied().filter(|&rank| !self.pinned.contains(rank));
        let mut remaining: Vec<usize> = free.collect();
        let mut list = Vec::with_capacity(order.len());
        let mut slot = 0;
        for position in 0..self.pinned.at.len() {
            let rank = self.pinned.at[position].unwrap_or_else(|| {
                let at = self.next(position, slot, &remaining, &mut decided_by);
                slot += 1;
                remaining.remove(at)
            });
            self.caps.place(position, rank);
            self.objective.choose(rank);
            list.push(rank);
        }
        list.append(&mut remaining);
        Selected { order: list, decided_by }
    }

    /// What moves an item that nothing held back.
    fn usual_rule(&self) -> Rule {
        if !self.objective.is_order() {
            Rule::Diversity
        } else if !self.caps.is_empty() {
            Rule::Caps
        } else if self.displacement.is_some() {
            Rule::Displacement
        } else {
            Rule::Pins
        }
    }

    /// Place among `remaining` of the item for `position`, which is the free position number `slot`.
    fn next(
        &mut self,
        position: usize,
        slot: usize,
        remaining: &[usize],
        decided_by: &mut [Rule],
    ) -> usize {
        if let Some(at) = self.due(slot, remaining) {
            decided_by[remaining[at]] = Rule::Displacement;
            return at;
        }
        self.caps.consider(position);
        let mut refused = Vec::new();
        let Some((at, best)) = self.best_allowed(slot, remaining, &mut refused) else {
            return self.least_excess(position, slot, remaining);
        };
        for Refused { rank, rule, .. } in refused.into_iter().filter(|r| r.value >= best) {
            decided_by[rank] = rule;
        }
        at
    }

    /// Place of the item that may not wait any longer.
    fn due(&self, slot: usize, remaining: &[usize]) -> Option<usize> {
        let rank = self.displacement.as_ref()?.due(slot)?;
        remaining.iter().position(|&other| other == rank)
    }

    fn best_allowed(
        &self,
        slot: usize,
        remaining: &[usize],
        refused: &mut Vec<Refused>,
    ) -> Option<(usize, f32)> {
        let mut best: Option<(usize, f32)> = None;
        for (at, &rank) in remaining.iter().enumerate() {
            let value = self.objective.value(rank);
            if let Some(rule) = self.refusal(slot, rank) {
                refused.push(Refused { rank, value, rule });
            } else if best.is_none_or(|(_, most)| value > most) {
                best = Some((at, value));
                if self.objective.is_order() {
                    break;
                }
            }
        }
        best
    }

    fn refusal(&self, slot: usize, rank: usize) -> Option<Rule> {
        if self.is_early(slot, rank) {
            Some(Rule::Displacement)
        } else if !self.caps.allows(rank) {
            Some(Rule::Caps)
        } else {
            None
        }
    }

    fn is_early(&self, slot: usize, rank: usize) -> bool {
        self.displacement.as_ref().is_some_and(|bound| !bound.allows(slot, rank))
    }

    /// Where no candidate keeps the caps: of those that exceed them least, the best.
    fn least_excess(&self, position: usize, slot: usize, remaining: &[usize]) -> usize {
        let mut least = (usize::MAX, f32::NEG_INFINITY, 0);
        for (at, &rank) in remaining.iter().enumerate() {
            if self.is_early(slot, rank) {
                continue;
            }
            let (excess, value) = (self.caps.excess(position, rank), self.objective.value(rank));
            if excess < least.0 || (excess == least.0 && value > least.1) {
                least = (excess, value, at);
            }
        }
        least.2
    }
}
