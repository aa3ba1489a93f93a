//! What is remembered of a stream of events: a few numbers per item, user, pair or field value.
//!
//! A record is a row of `f64`: the reference time of its fading counts, then one number per slot. Events fold into it
//! in any order, and two records of disjoint streams merge into the record of both.

use std::hash::Hash;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::event::{Event, EventTypeId};
use crate::schema::Summed;
use crate::time::{Span, Timestamp};

/// One remembered number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot {
    /// Which events count; `None`: all of them.
    pub event: Option<EventTypeId>,
    /// What is remembered of them.
    pub op: SlotOp,
}

/// What is remembered of the events of a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SlotOp {
    /// Their number or the sum of one of their numbers, each halved with every `half_life` that passes.
    Decayed {
        /// Time in which a count halves.
        half_life: Span,
        /// What is added up.
        sum: Summed,
    },
    /// Their number or the sum of one of their numbers.
    Count {
        /// What is added up.
        sum: Summed,
    },
    /// Time of the earliest.
    First,
    /// Time of the latest.
    Last,
    /// How many moments they happened at; events at the time of the first or the last one so far share its moment.
    Occasions,
    /// How many users they are of.
    DistinctUsers,
}

/// The slots of the records of one scope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecordLayout {
    slots: Vec<Slot>,
    /// Its slots for occasions.
    occasions: Vec<Occasions>,
}

/// The place of a slot for occasions, and of the first and the last time of the same events.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Occasions {
    slot: usize,
    first: Option<usize>,
    last: Option<usize>,
}

/// Position of a slot in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId(usize);

impl RecordLayout {
    /// The position of `slot`, which is added if it is new.
    pub fn slot(&mut self, slot: Slot) -> SlotId {
        let known = self.slots.iter().position(|other| *other == slot);
        SlotId(
            1 + known.unwrap_or_else(|| {
                self.slots.push(slot);
                self.occasions = self.find_occasions();
                self.slots.len() - 1
            }),
        )
    }

    fn find_occasions(&self) -> Vec<Occasions> {
        let at = |op: SlotOp, event| self.slots.iter().position(|s| s.op == op && s.event == event);
        let all = self.slots.iter().enumerate().filter(|(_, slot)| slot.op == SlotOp::Occasions);
        let one = |(slot, Slot { event, .. }): (usize, &Slot)| Occasions {
            slot,
            first: at(SlotOp::First, *event),
            last: at(SlotOp::Last, *event),
        };
        all.map(one).collect()
    }

    /// What is remembered at `id`.
    pub(crate) fn slot_at(&self, id: SlotId) -> Slot {
        self.slots[id.0 - 1]
    }

    /// Whether one of the slots is such.
    pub(crate) fn has(&self, is_such: impl Fn(&Slot) -> bool) -> bool {
        self.slots.iter().any(is_such)
    }

    /// Numbers per record.
    pub fn width(&self) -> usize {
        1 + self.slots.len()
    }

    /// Appends the record of an empty stream to `records`.
    pub fn push_empty(&self, records: &mut Vec<f64>) {
        records.push(f64::NAN);
        records.extend(self.slots.iter().map(|slot| match slot.op {
            SlotOp::First | SlotOp::Last => f64::NAN,
            _ => 0.0,
        }));
    }

    /// Appends the record of something that is not known at all: every number is missing.
    pub fn push_missing(&self, records: &mut Vec<f64>) {
        records.resize(records.len() + self.width(), f64::NAN);
    }

    /// Folds `event` into every slot but occasions.
    fn apply_one(
        &self,
        record: &mut [f64],
        event: &Event,
        first_of_user: impl Fn(Option<EventTypeId>) -> bool,
    ) {
        let time = event.time.0 as f64;
        let reference = if record[0].is_nan() { time } else { record[0].max(time) };
        self.fade(record, reference);
        for (slot, value) in self.slots.iter().zip(&mut record[1..]) {
            if slot.event.is_some_and(|kind| kind != event.kind) {
                continue;
            }
            match slot.op {
                SlotOp::Decayed { half_life, sum } => {
                    *value += amount_of(event, sum) * faded(reference - time, half_life);
                }
                SlotOp::Count { sum } => *value += amount_of(event, sum),
                SlotOp::First => *value = value.min(time),
                SlotOp::Last => *value = value.max(time),
                SlotOp::Occasions => {}
                SlotOp::DistinctUsers => *value += f64::from(u8::from(first_of_user(slot.event))),
            }
        }
    }

    /// Counts the moment of `event` in the slots for occasions; before the others change.
    fn count_occasion(&self, record: &mut [f64], event: &Event) {
        let time = event.time.0 as f64;
        for Occasions { slot, first, last } in &self.occasions {
            if self.slots[*slot].event.is_some_and(|kind| kind != event.kind) {
                continue;
            }
            let seen = |at: &Option<usize>| at.is_some_and(|i| record[1 + i] == time);
            if !seen(first) && !seen(last) {
                record[1 + slot] += 1.0;
            }
        }
    }

    /// Folds `event` into `record`. `first_of_user(kind)`: whether it is the user's first one of this kind here.
    pub fn fold(
        &self,
        record: &mut [f64],
        event: &Event,
        first_of_user: impl Fn(Option<EventTypeId>) -> bool,
    ) {
        self.count_occasion(record, event);
        self.apply_one(record, event, first_of_user);
    }

    /// Moves the reference time of `record` forward.
    fn fade(&self, record: &mut [f64], reference: f64) {
        let passed = reference - record[0];
        record[0] = reference;
        // Also false for a record without a reference time yet.
        if passed > 0.0 {
            for (slot, value) in self.slots.iter().zip(&mut record[1..]) {
                if let SlotOp::Decayed { half_life, .. } = slot.op
                    && *value != 0.0
                {
                    *value *= faded(passed, half_life);
                }
            }
        }
    }

    /// Merges `other`, the record of another stream, into `record`.
    pub fn merge(&self, record: &mut [f64], other: &[f64]) {
        if other[0].is_nan() {
            return;
        }
        let reference = record[0].max(other[0]);
        self.fade(record, reference);
        for ((slot, value), theirs) in self.slots.iter().zip(&mut record[1..]).zip(&other[1..]) {
            match slot.op {
                SlotOp::Decayed { half_life, .. } => {
                    *value += theirs * faded(reference - other[0], half_life);
                }
                SlotOp::Count { .. } | SlotOp::DistinctUsers => *value += theirs,
                SlotOp::First => *value = value.min(*theirs),
                SlotOp::Last | SlotOp::Occasions => *value = value.max(*theirs),
            }
        }
    }

    /// The number as it is remembered in `slot`, if the layout has that slot.
    pub fn find(&self, slot: Slot, record: &[f64]) -> Option<f64> {
        self.slots.iter().position(|known| *known == slot).map(|i| record[1 + i])
    }

    /// The number in `slot` as of `now`: a count, or a time in milliseconds since 1970 (NaN if there was no event).
    #[inline]
    pub fn read(&self, record: &[f64], slot: SlotId, now: Timestamp) -> f64 {
        let value = record[slot.0];
        match self.slots[slot.0 - 1].op {
            SlotOp::Decayed { half_life, .. } if value != 0.0 => {
                value * faded(now.0 as f64 - record[0], half_life)
            }
            _ => value,
        }
    }
}

/// What is left of 1 after `passed_ms`.
#[inline]
fn faded(passed_ms: f64, half_life: Span) -> f64 {
    if passed_ms == 0.0 { 1.0 } else { (-passed_ms / half_life.0 as f64).exp2() }
}

fn amount_of(event: &Event, sum: Summed) -> f64 {
    match sum {
        Summed::Events => 1.0,
        Summed::Number(i) => match event.numbers[usize::from(i)] {
            number if number.is_finite() => f64::from(number),
            _ => 0.0,
        },
        Summed::Having(i) => f64::from(u8::from(event.numbers[usize::from(i)].is_finite())),
    }
}

/// Records by key, in the order in which the keys first came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "StoredTable<K>", into = "StoredTable<K>")]
pub struct RecordTable<K: Copy + Eq + Hash> {
    positions: FxHashMap<K, u32>,
    keys: Vec<K>,
    records: Vec<f64>,
}

/// A table without its index, as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredTable<K> {
    keys: Vec<K>,
    records: Vec<f64>,
}

impl<K: Copy + Eq + Hash> From<StoredTable<K>> for RecordTable<K> {
    fn from(stored: StoredTable<K>) -> Self {
        let positions = stored.keys.iter().enumerate().map(|(i, key)| (*key, i as u32)).collect();
        Self { positions, keys: stored.keys, records: stored.records }
    }
}

impl<K: Copy + Eq + Hash> From<RecordTable<K>> for StoredTable<K> {
    fn from(table: RecordTable<K>) -> Self {
        Self { keys: table.keys, records: table.records }
    }
}

impl<K: Copy + Eq + Hash> RecordTable<K> {
    /// The record of `key`, if there was an event.
    #[inline]
    pub fn get(&self, key: K, layout: &RecordLayout) -> Option<&[f64]> {
        let start = *self.positions.get(&key)? as usize * layout.width();
        Some(&self.records[start..start + layout.width()])
    }

    /// The record of `key`, an empty one if it is new.
    pub fn get_or_insert(&mut self, key: K, layout: &RecordLayout) -> &mut [f64] {
        let position = *self.positions.entry(key).or_insert_with(|| {
            self.keys.push(key);
            layout.push_empty(&mut self.records);
            self.keys.len() as u32 - 1
        });
        let start = position as usize * layout.width();
        &mut self.records[start..start + layout.width()]
    }

    /// All keys with their records.
    pub fn iter<'a>(&'a self, layout: &RecordLayout) -> impl Iterator<Item = (K, &'a [f64])> {
        self.keys.iter().copied().zip(self.records.chunks_exact(layout.width()))
    }

    /// About how many bytes it takes.
    pub(crate) fn n_bytes(&self) -> usize {
        self.records.len() * 8 + self.keys.len() * 2 * (size_of::<K>() + 8)
    }

    /// Whether its records are of `layout`.
    pub(crate) fn fits(&self, layout: &RecordLayout) -> bool {
        self.records.len() == self.keys.len() * layout.width()
            && self.positions.len() == self.keys.len()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{MAX_EVENT_NUMBERS, NO_SESSION, VALUE};
    use crate::ids::{ItemId, UserId};
    use crate::time::DAY_MS;
    use proptest::prelude::*;

    fn event(day: i64, value: f32) -> Event {
        Event {
            time: Timestamp(day * DAY_MS),
            user: UserId(0),
            item: ItemId(0),
            session: NO_SESSION,
            kind: EventTypeId(0),
            numbers: [value; MAX_EVENT_NUMBERS],
        }
    }

    fn layout() -> (RecordLayout, Vec<SlotId>) {
        let ops = [
            SlotOp::Decayed { half_life: Span::days(2), sum: Summed::Events },
            SlotOp::Decayed { half_life: Span::days(3), sum: Summed::Number(VALUE) },
            SlotOp::Count { sum: Summed::Events },
            SlotOp::First,
            SlotOp::Last,
        ];
        let mut layout = RecordLayout::default();
        let slots = ops.map(|op| layout.slot(Slot { event: None, op })).to_vec();
        (layout, slots)
    }

    fn record_of(layout: &RecordLayout, events: &[Event]) -> Vec<f64> {
        let mut record = Vec::new();
        layout.push_empty(&mut record);
        events.iter().for_each(|event| layout.fold(&mut record, event, |_| true));
        record
    }

    fn read_all(layout: &RecordLayout, slots: &[SlotId], record: &[f64]) -> Vec<f64> {
        slots.iter().map(|slot| layout.read(record, *slot, Timestamp(100 * DAY_MS))).collect()
    }

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.iter()
            .zip(b)
            .all(|(a, b)| (a - b).abs() <= 1e-9 * a.abs().max(1e-30) || a.is_nan() && b.is_nan())
    }

    #[test]
    fn a_count_halves_with_its_half_life() {
        let (layout, slots) = layout();
        let record = record_of(&layout, &[event(0, 1.0), event(2, 1.0)]);
        assert_eq!(layout.read(&record, slots[0], Timestamp(2 * DAY_MS)), 1.5);
        assert_eq!(layout.read(&record, slots[0], Timestamp(4 * DAY_MS)), 0.75);
    }

    #[test]
    fn occasions_count_moments_not_events() {
        let mut layout = RecordLayout::default();
        for op in [SlotOp::First, SlotOp::Last] {
            layout.slot(Slot { event: None, op });
        }
        let slot = layout.slot(Slot { event: None, op: SlotOp::Occasions });
        let record =
            record_of(&layout, &[event(0, 1.0), event(0, 1.0), event(3, 1.0), event(3, 1.0)]);
        assert_eq!(layout.read(&record, slot, Timestamp(0)), 2.0);
    }

    proptest! {
        #[test]
        fn the_order_of_events_does_not_matter(days in proptest::collection::vec((0i64..90, 0f32..9.0), 1..40)) {
            let (layout, slots) = layout();
            let events: Vec<Event> = days.iter().map(|(day, value)| event(*day, *value)).collect();
            let mut sorted = events.clone();
            sorted.sort_by_key(|e| e.time);
            let (a, b) = (record_of(&layout, &events), record_of(&layout, &sorted));
            prop_assert!(close(&read_all(&layout, &slots, &a), &read_all(&layout, &slots, &b)));
        }

        #[test]
        fn merging_two_records_is_folding_both_streams(
            days in proptest::collection::vec((0i64..90, 0f32..9.0), 0..40),
            cut in 0usize..40,
        ) {
            let (layout, slots) = layout();
            let events: Vec<Event> = days.iter().map(|(day, value)| event(*day, *value)).collect();
            let cut = cut.min(events.len());
            let mut merged = record_of(&layout, &events[..cut]);
            layout.merge(&mut merged, &record_of(&layout, &events[cut..]));
            let whole = record_of(&layout, &events);
            prop_assert!(close(&read_all(&layout, &slots, &merged), &read_all(&layout, &slots, &whole)));
        }
    }
}
