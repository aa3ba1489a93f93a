//! The features that come from events and fields: what a store must remember for them, and how they are read.
//!
//! A plan is compiled once from the schema and the declared features. It says which slots the records of each scope
//! have; a store folds events into those; [`FeatureRows`] holds what was read for one user and a batch of items.

use crate::board::BoardSpec;
use crate::event::EventTypeId;
use crate::ids::ItemId;
use crate::record::{RecordLayout, Slot, SlotId, SlotOp};
use crate::schema::{Counted, Feature, FeatureKind, Schema, Scope, Summed};
use crate::store::UserView;
use crate::time::{DAY_MS, Span, Timestamp};

/// Which block of records a number is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Item,
    User,
    UserItem,
    UserField(usize),
    Field(usize),
}

/// A number in a record of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number {
    block: Block,
    slot: SlotId,
}

/// How one feature is computed from what was read.
#[derive(Clone, Debug, PartialEq)]
enum Formula {
    Count(Number),
    Rate { top: Number, bottom: Number, prior: f64, strength: f64 },
    Trend { short: Number, long: Number, per_day: f64 },
    DaysSince(Number),
    Gap { first: Number, last: Number, occasions: Number },
    GapRatio { first: Number, last: Number, occasions: Number },
    Share { part: Number, whole: Number },
    ItemField { position: usize, scale: Scale },
    ItemVector { position: usize, component: usize },
    UserField { position: usize, scale: Scale },
    AgeDays { first: Number },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Code,
    Number,
    DaysSince,
}

/// What a store must remember and how features are read from it.
#[derive(Clone, Debug, PartialEq)]
pub struct FeaturePlan {
    /// Records of items.
    pub item: RecordLayout,
    /// Records of users.
    pub user: RecordLayout,
    /// Records of pairs of a user and an item.
    pub user_item: RecordLayout,
    /// Records of pairs of a user and a value of the item field at this position.
    pub user_fields: Vec<(usize, RecordLayout)>,
    /// Records of the values of the item field at this position.
    pub fields: Vec<(usize, RecordLayout)>,
    /// The lists of best items that are kept.
    pub boards: Vec<(BoardSpec, SlotId)>,
    /// Whether what is known of users is remembered.
    pub keeps_users: bool,
    features: Vec<(usize, Formula)>,
    n_event_types: usize,
}

impl Default for FeaturePlan {
    fn default() -> Self {
        Self {
            item: RecordLayout::default(),
            user: RecordLayout::default(),
            user_item: RecordLayout::default(),
            user_fields: Vec::new(),
            fields: Vec::new(),
            boards: Vec::new(),
            keeps_users: true,
            features: Vec::new(),
            n_event_types: 0,
        }
    }
}

/// Where the counts of each event type begin in a record of scope user x item: [`PlanBuilder::new`] lays them out
/// behind the reference time and the time of the last event.
const PAIR_TYPES: usize = 2;

/// Builds a [`FeaturePlan`] from features and from what retrieval sources need.
pub struct PlanBuilder<'a> {
    schema: &'a Schema,
    item_fields: Vec<&'a str>,
    user_fields: Vec<&'a str>,
    plan: FeaturePlan,
}

impl<'a> PlanBuilder<'a> {
    /// Nothing is remembered yet.
    pub fn new(schema: &'a Schema) -> Self {
        let n_event_types = schema.events.len();
        let mut plan = FeaturePlan { n_event_types, ..FeaturePlan::default() };
        // What every engine needs: when an item first appeared, and how much a user did with it.
        plan.item.slot(Slot { event: None, op: SlotOp::First });
        plan.user.slot(Slot { event: None, op: SlotOp::Last });
        plan.user_item.slot(Slot { event: None, op: SlotOp::Last });
        for kind in 0..schema.events.len() {
            let event = Some(EventTypeId(kind as u8));
            plan.user_item.slot(Slot { event, op: SlotOp::Count { sum: Summed::Events } });
            plan.user_item.slot(Slot { event, op: SlotOp::Last });
        }
        let item_fields = schema.item_fields.keys().map(String::as_str).collect();
        let user_fields = schema.user_fields.keys().map(String::as_str).collect();
        Self { schema, item_fields, user_fields, plan }
    }

    /// Adds `feature` as column `column` of the ranker's input. Features that do not come from events and fields are
    /// left to retrieval and the request: `false`.
    pub fn feature(&mut self, column: usize, feature: &Feature) -> bool {
        let Some(formula) = self.formula(&feature.kind) else { return false };
        self.plan.features.push((column, formula));
        true
    }

    /// Has a fading count kept for each pair of a user and an item.
    pub fn user_item_count(&mut self, event: Option<&str>, half_life: Option<Span>) -> SlotId {
        let event = event.and_then(|name| self.schema.event_type(name));
        self.plan.user_item.slot(Slot { event, op: count_op(half_life, Summed::Events) })
    }

    /// Has a list of best items kept; `field`: for each value of this category field. The position among the boards.
    pub fn board(&mut self, event: Option<&str>, half_life: Span, field: Option<&str>) -> usize {
        let event = event.and_then(|name| self.schema.event_type(name));
        let field = field.and_then(|name| self.item_fields.iter().position(|known| *known == name));
        let spec = BoardSpec { event, half_life, field };
        if let Some(known) = self.plan.boards.iter().position(|(other, _)| *other == spec) {
            return known;
        }
        let slot =
            self.plan.item.slot(Slot { event, op: count_op(Some(half_life), Summed::Events) });
        self.plan.boards.push((spec, slot));
        self.plan.boards.len() - 1
    }

    /// Has a fading count kept for each pair of a user and a value of `field`. Its position among the user's fields.
    pub fn user_field_count(
        &mut self,
        field: &str,
        half_life: Option<Span>,
    ) -> Option<(usize, SlotId)> {
        let number = self.number(
            &Scope::UserField(field.into()),
            &None,
            count_op(half_life, Summed::Events),
        )?;
        match number.block {
            Block::UserField(position) => Some((position, number.slot)),
            _ => None,
        }
    }

    /// The plan.
    pub fn build(self) -> FeaturePlan {
        self.plan
    }

    fn layout(&mut self, scope: &Scope) -> Option<(Block, &mut RecordLayout)> {
        let plan = &mut self.plan;
        let fields = &self.item_fields;
        let of_field = |layouts: &mut Vec<(usize, RecordLayout)>, field: &str| {
            let field = fields.iter().position(|known| *known == field)?;
            Some(layouts.iter().position(|(known, _)| *known == field).unwrap_or_else(|| {
                layouts.push((field, RecordLayout::default()));
                layouts.len() - 1
            }))
        };
        Some(match scope {
            Scope::Item => (Block::Item, &mut plan.item),
            Scope::User => (Block::User, &mut plan.user),
            Scope::UserItem => (Block::UserItem, &mut plan.user_item),
            Scope::UserField(field) => {
                let i = of_field(&mut plan.user_fields, field)?;
                (Block::UserField(i), &mut plan.user_fields[i].1)
            }
            Scope::Field(field) => {
                let i = of_field(&mut plan.fields, field)?;
                (Block::Field(i), &mut plan.fields[i].1)
            }
        })
    }

    fn number(&mut self, scope: &Scope, event: &Option<String>, op: SlotOp) -> Option<Number> {
        let event = event.as_ref().and_then(|name| self.schema.event_type(name));
        let (block, layout) = self.layout(scope)?;
        Some(Number { block, slot: layout.slot(Slot { event, op }) })
    }

    fn counted(&mut self, counted: &Counted) -> Option<Number> {
        self.number(&counted.scope, &counted.event, count_op(counted.half_life, counted.sum))
    }

    fn gap(&mut self, scope: &Scope, event: &Option<String>) -> Option<[Number; 3]> {
        Some([
            self.number(scope, event, SlotOp::First)?,
            self.number(scope, event, SlotOp::Last)?,
            self.number(scope, event, SlotOp::Occasions)?,
        ])
    }

    fn field(&self, field: &str, of_user: bool, scale: Scale) -> Option<Formula> {
        let fields = if of_user { &self.user_fields } else { &self.item_fields };
        let position = fields.iter().position(|known| *known == field)?;
        Some(match of_user {
            true => Formula::UserField { position, scale },
            false => Formula::ItemField { position, scale },
        })
    }

    fn formula(&mut self, kind: &FeatureKind) -> Option<Formula> {
        match kind {
            FeatureKind::Number { field, of_user } | FeatureKind::Boolean { field, of_user } => {
                self.field(field, *of_user, Scale::Number)
            }
            FeatureKind::Category { field, of_user } => self.field(field, *of_user, Scale::Code),
            FeatureKind::Vector { field, component } => {
                let position = self.item_fields.iter().position(|known| known == field)?;
                Some(Formula::ItemVector { position, component: *component })
            }
            FeatureKind::ItemAge { field: Some(field) } => {
                self.field(field, false, Scale::DaysSince)
            }
            FeatureKind::ItemAge { field: None } => {
                Some(Formula::AgeDays { first: self.number(&Scope::Item, &None, SlotOp::First)? })
            }
            FeatureKind::DecayedCount { counted } => Some(Formula::Count(self.counted(counted)?)),
            FeatureKind::Mean { scope, event, half_life, number } => {
                let mut sum = |of| self.number(scope, event, count_op(*half_life, of));
                let top = sum(Summed::Number(*number))?;
                let bottom = sum(Summed::Having(*number))?;
                Some(Formula::Rate { top, bottom, prior: 0.0, strength: 0.0 })
            }
            FeatureKind::DistinctUsers { event } => {
                Some(Formula::Count(self.number(&Scope::Item, event, SlotOp::DistinctUsers)?))
            }
            FeatureKind::Rate { top, bottom, prior, strength } => Some(Formula::Rate {
                top: self.counted(top)?,
                bottom: self.counted(bottom)?,
                prior: *prior,
                strength: *strength,
            }),
            FeatureKind::Trend { scope, event, short, long } => Some(Formula::Trend {
                short: self.number(scope, event, count_op(Some(*short), Summed::Events))?,
                long: self.number(scope, event, count_op(Some(*long), Summed::Events))?,
                per_day: long.0 as f64 / short.0 as f64,
            }),
            FeatureKind::TimeSinceLast { scope, event } => {
                Some(Formula::DaysSince(self.number(scope, event, SlotOp::Last)?))
            }
            FeatureKind::TypicalGap { scope, event } => {
                let [first, last, occasions] = self.gap(scope, event)?;
                Some(Formula::Gap { first, last, occasions })
            }
            FeatureKind::GapRatio { scope, event } => {
                let [first, last, occasions] = self.gap(scope, event)?;
                Some(Formula::GapRatio { first, last, occasions })
            }
            FeatureKind::InteractedWith { field, event, half_life } => {
                let op = count_op(*half_life, Summed::Events);
                Some(Formula::Share {
                    part: self.number(&Scope::UserField(field.clone()), event, op)?,
                    whole: self.number(&Scope::User, event, op)?,
                })
            }
            FeatureKind::Similarity { .. }
            | FeatureKind::SourceScore { .. }
            | FeatureKind::SourceRank { .. }
            | FeatureKind::SourceCount
            | FeatureKind::LocalTime { .. }
            | FeatureKind::Request { .. } => None,
        }
    }
}

fn count_op(half_life: Option<Span>, sum: Summed) -> SlotOp {
    match half_life {
        Some(half_life) => SlotOp::Decayed { half_life, sum },
        None => SlotOp::Count { sum },
    }
}

/// Records of a batch of items, `[n, width]`, row-major.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    values: Vec<f64>,
    width: usize,
}

impl Rows {
    /// An empty batch of records laid out by `layout`.
    pub fn reset(&mut self, layout: &RecordLayout) -> &mut Vec<f64> {
        self.width = layout.width();
        self.values.clear();
        &mut self.values
    }

    /// The record of the item at `i`.
    #[inline]
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.width..(i + 1) * self.width]
    }
}

/// What was read from a store for one batch of items: the input of every feature that comes from events and fields.
#[derive(Clone, Debug, Default)]
pub struct ItemRows {
    /// Records of the items.
    pub item: Rows,
    /// Records of their field values, for each of [`FeaturePlan::fields`].
    pub fields: Vec<Rows>,
    /// Codes of the items' values, for each of [`FeaturePlan::user_fields`]: offsets of each item, then codes.
    pub codes: Vec<(Vec<u32>, Vec<u32>)>,
    /// Values of the item fields that features read, by field position; others are empty.
    pub numbers: Vec<Vec<f64>>,
    /// Vectors of the item fields that features read, by field position; others are empty.
    pub vectors: Vec<Vec<Box<[f32]>>>,
    /// Times of publication, NaN if not given.
    pub published: Vec<f64>,
    /// How many items.
    pub n: usize,
}

/// Room for the computation of features, kept from request to request.
#[derive(Clone, Debug, Default)]
pub struct FeatureScratch {
    /// What the store read for the items.
    pub items: ItemRows,
    user: Rows,
    user_item: Rows,
    user_fields: Vec<Rows>,
}

impl FeaturePlan {
    /// What the catalogue and the boards need, without users and features: what a server keeps in memory whose features
    /// are elsewhere. The boards have the same positions.
    pub fn for_boards(&self) -> Self {
        let mut item = RecordLayout::default();
        item.slot(Slot { event: None, op: SlotOp::First });
        let slots = self.boards.iter().map(|(_, slot)| item.slot(self.item.slot_at(*slot)));
        let slots: Vec<SlotId> = slots.collect();
        let specs = self.boards.iter().map(|(spec, _)| spec.clone());
        let boards = specs.zip(slots).collect();
        Self { item, boards, keeps_users: false, ..Self::default() }
    }

    /// Nothing is remembered yet of `n` types of events.
    #[cfg(test)]
    pub(crate) fn with_event_types(n: usize) -> Self {
        Self { n_event_types: n, ..Self::default() }
    }

    /// How many types of events there are.
    pub(crate) fn n_event_types(&self) -> usize {
        self.n_event_types
    }

    /// Whether the records of items count their users, so that the user must be known before an event is folded.
    pub fn counts_users(&self) -> bool {
        self.item.has(|slot| slot.op == SlotOp::DistinctUsers)
    }

    /// For each event type the number of events in a record of scope user x item.
    pub fn counts_by_type<'r>(&self, record: &'r [f64]) -> impl Iterator<Item = f64> + 'r {
        record[PAIR_TYPES..].chunks(2).take(self.n_event_types).map(|slots| slots[0])
    }

    /// For each event type the time of the last event in a record of scope user x item, NaN if there was none.
    pub fn last_by_type<'r>(&self, record: &'r [f64]) -> impl Iterator<Item = f64> + 'r {
        record[PAIR_TYPES..].chunks(2).take(self.n_event_types).map(|slots| slots[1])
    }

    /// Has `into` know for each event type the time of the last event in `from`, if that is later. Both are records of scope
    /// user x item.
    pub(crate) fn take_over_last(&self, into: &mut [f64], from: &[f64]) {
        let last = |kind: usize| PAIR_TYPES + 2 * kind + 1;
        for slot in (0..self.n_event_types).map(last) {
            // What is missing is NaN, which `max` leaves out.
            into[slot] = into[slot].max(from[slot]);
        }
    }

    /// Time of the last event in a record of scope user x item.
    pub fn last_time(&self, record: &[f64]) -> f64 {
        record[1]
    }

    /// Positions of the item fields whose values features read.
    pub fn item_fields_read(&self) -> impl Iterator<Item = usize> {
        self.features.iter().filter_map(|(_, formula)| match formula {
            Formula::ItemField { position, .. } | Formula::ItemVector { position, .. } => {
                Some(*position)
            }
            _ => None,
        })
    }

    /// Computes the features of `items` for `user` as of `now` into their columns of `columns`, column-major
    /// `[n_features, n_items]`. `scratch.items` must have been read for the same items.
    /// Cost: about 10 ns for each number.
    pub fn compute(
        &self,
        user: &UserView,
        items: &[ItemId],
        now: Timestamp,
        scratch: &mut FeatureScratch,
        columns: &mut [f32],
    ) {
        assert_eq!(scratch.items.n, items.len(), "the store was read for other items");
        self.gather(user, items, scratch);
        for (column, formula) in &self.features {
            let out = &mut columns[column * items.len()..(column + 1) * items.len()];
            self.column(formula, user, now, scratch, out);
        }
    }

    /// Copies the user's records for each item beside each other.
    fn gather(&self, user: &UserView, items: &[ItemId], scratch: &mut FeatureScratch) {
        let state = &user.state;
        scratch.user.reset(&self.user).extend_from_slice(&state.record);
        let rows = scratch.user_item.reset(&self.user_item);
        for item in items {
            match state.items.get(*item, &self.user_item) {
                Some(record) => rows.extend_from_slice(record),
                None => self.user_item.push_empty(rows),
            }
        }
        scratch.user_fields.resize_with(self.user_fields.len(), Rows::default);
        let tables = self.user_fields.iter().zip(&state.fields).zip(&scratch.items.codes);
        for (i, (((_, layout), table), (offsets, codes))) in tables.enumerate() {
            let rows = scratch.user_fields[i].reset(layout);
            for span in offsets.windows(2) {
                let codes = &codes[span[0] as usize..span[1] as usize];
                push_merged(layout, codes.iter().map(|code| table.get(*code, layout)), rows);
            }
        }
    }

    fn rows<'s>(&self, block: Block, scratch: &'s FeatureScratch) -> (&'s Rows, bool) {
        match block {
            Block::Item => (&scratch.items.item, false),
            Block::User => (&scratch.user, true),
            Block::UserItem => (&scratch.user_item, false),
            Block::UserField(i) => (&scratch.user_fields[i], false),
            Block::Field(i) => (&scratch.items.fields[i], false),
        }
    }

    fn layout_of(&self, block: Block) -> &RecordLayout {
        match block {
            Block::Item => &self.item,
            Block::User => &self.user,
            Block::UserItem => &self.user_item,
            Block::UserField(i) => &self.user_fields[i].1,
            Block::Field(i) => &self.fields[i].1,
        }
    }

    fn column(
        &self,
        formula: &Formula,
        user: &UserView,
        now: Timestamp,
        scratch: &FeatureScratch,
        out: &mut [f32],
    ) {
        // Every number is read through this: the slot of `number` in the record of item `i`.
        let reader = |number: &Number| {
            let (rows, shared) = self.rows(number.block, scratch);
            let (layout, slot) = (self.layout_of(number.block), number.slot);
            move |i: usize| layout.read(rows.row(if shared { 0 } else { i }), slot, now)
        };
        let days_since = |time: f64| (now.0 as f64 - time) / DAY_MS as f64;
        match formula {
            Formula::Count(count) => fill(out, reader(count)),
            Formula::Rate { top, bottom, prior, strength } => {
                let (top, bottom) = (reader(top), reader(bottom));
                fill(out, |i| (top(i) + prior * strength) / (bottom(i) + strength));
            }
            Formula::Trend { short, long, per_day } => {
                let (short, long) = (reader(short), reader(long));
                fill(out, |i| match long(i) {
                    0.0 => f64::NAN,
                    long => short(i) / long * per_day,
                });
            }
            Formula::DaysSince(last) => {
                let last = reader(last);
                fill(out, |i| days_since(last(i)));
            }
            Formula::Gap { first, last, occasions } => {
                let (first, last, occasions) = (reader(first), reader(last), reader(occasions));
                fill(out, |i| gap_days(first(i), last(i), occasions(i)));
            }
            Formula::GapRatio { first, last, occasions } => {
                let (first, last, occasions) = (reader(first), reader(last), reader(occasions));
                fill(out, |i| days_since(last(i)) / gap_days(first(i), last(i), occasions(i)));
            }
            Formula::Share { part, whole } => {
                let (part, whole) = (reader(part), reader(whole));
                fill(out, |i| match whole(i) {
                    0.0 => f64::NAN,
                    whole => part(i) / whole,
                });
            }
            Formula::ItemField { position, scale } => {
                let numbers = &scratch.items.numbers[*position];
                fill(out, |i| scaled(numbers[i], *scale, now));
            }
            Formula::ItemVector { position, component } => {
                let vectors = &scratch.items.vectors[*position];
                fill(out, |i| vectors[i].get(*component).map_or(f64::NAN, |x| f64::from(*x)));
            }
            Formula::UserField { position, scale } => {
                let number = user.numbers.get(*position).copied().unwrap_or(f64::NAN);
                fill(out, |_| scaled(number, *scale, now));
            }
            Formula::AgeDays { first } => {
                let (first, published) = (reader(first), &scratch.items.published);
                fill(out, |i| {
                    days_since(if published[i].is_nan() { first(i) } else { published[i] })
                });
            }
        }
    }
}

/// Appends the merged record of the field values that one item has; missing if it has none.
pub(crate) fn push_merged<'r>(
    layout: &RecordLayout,
    records: impl Iterator<Item = Option<&'r [f64]>>,
    rows: &mut Vec<f64>,
) {
    let start = rows.len();
    for record in records {
        if rows.len() == start {
            match record {
                Some(record) => rows.extend_from_slice(record),
                None => layout.push_empty(rows),
            }
        } else if let Some(record) = record {
            layout.merge(&mut rows[start..], record);
        }
    }
    if rows.len() == start {
        layout.push_missing(rows);
    }
}

fn fill(out: &mut [f32], value: impl Fn(usize) -> f64) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = value(i) as f32;
    }
}

fn gap_days(first: f64, last: f64, occasions: f64) -> f64 {
    if occasions < 2.0 { f64::NAN } else { (last - first) / (occasions - 1.0) / DAY_MS as f64 }
}

fn scaled(number: f64, scale: Scale, now: Timestamp) -> f64 {
    match scale {
        Scale::Code | Scale::Number => number,
        Scale::DaysSince => (now.0 as f64 - number) / DAY_MS as f64,
    }
}
