//! Co-visitation: which items are visited near each other.

use featurestore::{Interaction, ItemId, NO_SESSION, Span, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Accumulator, by_user, fit_rows, group_by_key, recency};
use crate::sparse::ItemRows;
use rayon::prelude::*;

/// Visits that are looked at on each side of one. Without it a robot's session of 100,000 events has 10^10 pairs.
const MAX_REACH: usize = 1_000;

/// Fits rows whose weights count how often, how close and how recently two items are visited by the same user.
///
/// A pair of visits, of different items, adds `sqrt(weight_a * weight_b) * 0.5^(age / half_life) * step_decay^(steps - 1)`.
/// Its age is that of the later visit. Steps are counted in places of the user's history: visits of one session that
/// follow each other share a place, others have one each; visits in the same place are 1 step apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoVisitation {
    /// The two visits are at most this far apart in time.
    pub window: Span,
    /// And at most so many steps.
    pub max_steps: usize,
    /// After this time a pair says half as much; `None`: pairs do not age.
    pub half_life: Option<Span>,
    /// Factor for every step after the first, in `(0, 1]`.
    pub step_decay: f32,
    /// Whether a row only has what came after its item. Visits of one session at the same time count both ways.
    pub directed: bool,
    /// `w / (degree_a * degree_b)^exponent`, a degree being an item's sum over its pairs, of those that leave `a` and
    /// those that enter `b` if directed. 0 favours popular neighbours, 0.5 does not.
    pub degree_exponent: f32,
    /// Two items are neighbours from so many pairs of visits on.
    pub min_count: u32,
    /// Neighbours that a row keeps.
    pub n_neighbours: usize,
}

impl Default for CoVisitation {
    fn default() -> Self {
        Self {
            window: Span::days(1),
            max_steps: 5,
            half_life: None,
            step_decay: 0.7,
            directed: false,
            degree_exponent: 0.5,
            min_count: 1,
            n_neighbours: 100,
        }
    }
}

/// One visit, in the order of (user, time).
struct Visit {
    time: Timestamp,
    user: u32,
    item: u32,
    place: u32,
    root_weight: f32,
    recency: f32,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    /// From an earlier visit to a later one.
    Out,
    /// From a later visit to an earlier one.
    In,
    Both,
}

impl CoVisitation {
    /// Fits the rows of the items `0..n_items` to interactions in the order of time, as of `now`.
    ///
    /// Interactions without a positive weight say nothing. Cost: O(pairs within the window), and twice that with a
    /// degree exponent; memory O(n_interactions).
    pub fn fit(&self, interactions: &[Interaction], n_items: usize, now: Timestamp) -> ItemRows {
        let visits = self.visits(interactions, n_items, now);
        let (offsets, occurrences) = group_by_key(n_items, visits.iter().map(|v| v.item as usize));
        let pairs = Pairs { settings: self, decay: self.decay(), visits, offsets, occurrences };
        let (out, into) = if self.directed {
            (Direction::Out, Direction::In)
        } else {
            (Direction::Both, Direction::Both)
        };
        let leaving = pairs.degree_factors(n_items, out);
        let entering =
            if self.directed { pairs.degree_factors(n_items, into) } else { leaving.clone() };
        fit_rows(n_items, self.n_neighbours, |item, accumulator, best| {
            pairs.collect(item, out, accumulator);
            accumulator.drain(|other, sum, count| {
                if count >= self.min_count {
                    best.offer(other, sum * leaving[item as usize] * entering[other as usize]);
                }
            });
        })
    }

    fn visits(&self, interactions: &[Interaction], n_items: usize, now: Timestamp) -> Vec<Visit> {
        let (_, ordered) = by_user(interactions, n_items);
        let mut visits: Vec<Visit> = Vec::with_capacity(ordered.len());
        let mut session = NO_SESSION;
        for interaction in ordered {
            let Interaction { user, item: ItemId(item), time, weight, .. } = interaction;
            let place = match visits.last() {
                Some(last) if last.user != user.0 => 0,
                Some(last) if session == interaction.session && session != NO_SESSION => last.place,
                Some(last) => last.place + 1,
                None => 0,
            };
            session = interaction.session;
            let recency = recency(time, now, self.half_life);
            let root_weight = weight.sqrt();
            visits.push(Visit { time, user: user.0, item, place, root_weight, recency });
        }
        visits
    }

    /// `step_decay^(steps - 1)` by the difference of places, `0..=max_steps` or as far as a walk can get.
    fn decay(&self) -> Vec<f32> {
        let n_steps = self.max_steps.min(MAX_REACH) as i32;
        (0..=n_steps).map(|steps| self.step_decay.powi((steps - 1).max(0))).collect()
    }
}

/// All pairs of visits, found from either end.
struct Pairs<'a> {
    settings: &'a CoVisitation,
    decay: Vec<f32>,
    visits: Vec<Visit>,
    /// `[n_items + 1]`, into `occurrences`, which are positions in `visits`.
    offsets: Vec<usize>,
    occurrences: Vec<u32>,
}

impl Pairs<'_> {
    /// Adds the pairs of `item` to the accumulator, under the other item.
    fn collect(&self, item: u32, direction: Direction, accumulator: &mut Accumulator) {
        self.for_each(item, direction, |other, weight| accumulator.add(other, weight));
    }

    /// `degree^-exponent` of every item; 0 for one without pairs.
    fn degree_factors(&self, n_items: usize, direction: Direction) -> Vec<f32> {
        let exponent = f64::from(self.settings.degree_exponent);
        if exponent == 0.0 {
            return vec![1.0; n_items];
        }
        let factor = |item| {
            let mut degree = 0.0;
            self.for_each(item, direction, |_, weight| degree += f64::from(weight));
            if degree > 0.0 { degree.powf(-exponent) as f32 } else { 0.0 }
        };
        (0..n_items as u32).into_par_iter().map(factor).collect()
    }

    /// Calls `read(other item, weight)` for the pairs of `item`, always in the same order.
    fn for_each(&self, item: u32, direction: Direction, mut read: impl FnMut(u32, f32)) {
        let range = self.offsets[item as usize]..self.offsets[item as usize + 1];
        for &occurrence in &self.occurrences[range] {
            let position = occurrence as usize;
            let first = position.saturating_sub(MAX_REACH);
            let last = (position + MAX_REACH + 1).min(self.visits.len());
            let behind = self.visits[first..position].iter().rev();
            let ahead = &self.visits[position + 1..last];
            self.walk(position, ahead.iter(), direction != Direction::In, &mut read);
            self.walk(position, behind, direction != Direction::Out, &mut read);
        }
    }

    /// Reads the pairs of one visit with `others`, which lead away from it, until they are out of reach.
    /// Unless the side is `whole`, only those of the same place and time.
    fn walk<'v>(
        &self,
        position: usize,
        others: impl Iterator<Item = &'v Visit>,
        whole: bool,
        read: &mut impl FnMut(u32, f32),
    ) {
        let visit = &self.visits[position];
        for other in others {
            let steps = visit.place.abs_diff(other.place) as usize;
            let apart_ms = (visit.time.0 - other.time.0).abs();
            let near = steps < self.decay.len() && apart_ms <= self.settings.window.0;
            if other.user != visit.user || !near || !(whole || (steps == 0 && apart_ms == 0)) {
                break;
            }
            if other.item != visit.item {
                // The later of the two is the more recent one.
                let recency = visit.recency.max(other.recency);
                let weight = visit.root_weight * other.root_weight * recency * self.decay[steps];
                read(other.item, weight);
            }
        }
    }
}
