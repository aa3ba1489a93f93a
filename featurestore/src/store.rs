//! The embedded store: everything that is known now, in memory, rebuilt from a snapshot and the event log.
//!
//! Three operations: read a user, read a batch of items, apply an event. Events are applied live as they come, and by
//! replay as they came; the state is the same to the bit. What a pipeline reads while it answers is [`FeatureStore`]; the
//! other implementation of it is [`crate::redis::RedisStore`].

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::board::{Board, WHOLE};
use crate::entities::{Column, Entities};
use crate::event::{Event, EventTypeId, MAX_EVENT_NUMBERS, NO_SESSION};
use crate::ids::{ItemId, Scored, UserId};
use crate::newcomers::Newcomers;
use crate::plan::{FeaturePlan, ItemRows, push_merged};
use crate::record::{RecordTable, Slot, SlotOp};
use crate::schema::{Schema, Summed};
use crate::time::Timestamp;

/// How many of a user's latest events are kept one by one.
pub const RECENT_EVENTS: usize = 256;

/// One of a user's latest events.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    /// When.
    pub time: Timestamp,
    /// With which item.
    pub item: ItemId,
    /// What.
    pub kind: EventTypeId,
    /// In which session.
    pub session: u32,
}

/// What is known of one user.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UserState {
    /// Record of scope user.
    pub record: Vec<f64>,
    /// Records of the items that the user has a history with.
    pub items: RecordTable<ItemId>,
    /// Records of the field values, for each of [`FeaturePlan::user_fields`].
    pub fields: Vec<RecordTable<u32>>,
    /// The latest [`RECENT_EVENTS`] events by time, the latest last.
    pub recent: VecDeque<Recent>,
}

impl UserState {
    /// Nothing is known.
    pub fn empty(plan: &FeaturePlan) -> Self {
        let mut record = Vec::with_capacity(plan.user.width());
        plan.user.push_empty(&mut record);
        let fields = plan.user_fields.iter().map(|_| RecordTable::default()).collect();
        Self { record, items: RecordTable::default(), fields, recent: VecDeque::new() }
    }

    /// About how many bytes it takes.
    pub(crate) fn n_bytes(&self) -> usize {
        let tables =
            self.items.n_bytes() + self.fields.iter().map(RecordTable::n_bytes).sum::<usize>();
        tables + self.record.len() * 8 + self.recent.len() * size_of::<Recent>()
    }

    /// Whether it has the shape that `plan` gives it.
    pub(crate) fn fits(&self, plan: &FeaturePlan) -> bool {
        self.record.len() == plan.user.width()
            && self.items.fits(&plan.user_item)
            && self.fields.len() == plan.user_fields.len()
            && self.fields.iter().zip(&plan.user_fields).all(|(table, (_, l))| table.fits(l))
    }

    /// Folds `event` into it. `codes`: the values that its item has of the field at a position.
    pub(crate) fn apply<C: Iterator<Item = u32>>(
        &mut self,
        event: &Event,
        plan: &FeaturePlan,
        codes: impl Fn(usize) -> C,
    ) {
        plan.user.fold(&mut self.record, event, |_| false);
        let record = self.items.get_or_insert(event.item, &plan.user_item);
        plan.user_item.fold(record, event, |_| false);
        for ((field, layout), table) in plan.user_fields.iter().zip(&mut self.fields) {
            for code in codes(*field) {
                layout.fold(table.get_or_insert(code, layout), event, |_| false);
            }
        }
        self.remember(event);
    }

    /// Folds the latest events of `other` into it, as those of `user`. The numbers that came with them are not known any more.
    /// Of the events before these is known when the last of each type was with which item, so that what was seen stays so.
    /// `codes`: the values that an item has of the field at a position.
    pub(crate) fn take_over<C: Iterator<Item = u32>>(
        &mut self,
        other: &Self,
        user: UserId,
        plan: &FeaturePlan,
        codes: impl Fn(ItemId, usize) -> C,
    ) {
        for (item, record) in other.items.iter(&plan.user_item) {
            plan.take_over_last(self.items.get_or_insert(item, &plan.user_item), record);
        }
        for Recent { time, item, kind, session } in &other.recent {
            let numbers = [f32::NAN; MAX_EVENT_NUMBERS];
            let event =
                Event { time: *time, user, item: *item, session: *session, kind: *kind, numbers };
            self.apply(&event, plan, |field| codes(*item, field));
        }
    }

    fn remember(&mut self, event: &Event) {
        let Event { time, item, kind, session, .. } = *event;
        let later = self.recent.iter().rev().take_while(|other| other.time > time).count();
        self.recent.insert(self.recent.len() - later, Recent { time, item, kind, session });
        if self.recent.len() > RECENT_EVENTS {
            self.recent.pop_front();
        }
    }
}

/// What a store answers about one user.
#[derive(Clone, Debug)]
pub struct UserView {
    /// Folded from the user's events.
    pub state: Arc<UserState>,
    /// The user's fields by position: numbers, codes of categories; NaN if missing.
    pub numbers: Vec<f64>,
}

impl UserView {
    /// Folds into it that the user has turned to `items` at `now`, to the first of them last, by events of type `kind`.
    /// `catalogue`: the items, with the fields that `plan` was made for.
    pub fn turn_to(
        &mut self,
        items: &[ItemId],
        kind: EventTypeId,
        now: Timestamp,
        plan: &FeaturePlan,
        catalogue: &Entities,
    ) {
        let state = Arc::make_mut(&mut self.state);
        for item in items.iter().rev() {
            let event = Event {
                time: now,
                user: UserId::default(),
                item: *item,
                session: NO_SESSION,
                kind,
                numbers: [f32::NAN; MAX_EVENT_NUMBERS],
            };
            state.apply(&event, plan, |field| catalogue.column(field).codes(item.0));
        }
    }
}

/// How up to date what was read is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// It knows every event that was acknowledged.
    #[default]
    Fresh,
    /// It is what was known a while ago: the store did not answer in time.
    Stale,
    /// Nothing is known, since the store did not answer in time: features have their defaults.
    Default,
}

/// What a pipeline reads of users and items while it answers. `until`: when it must have an answer, of whatever freshness;
/// `None`: it takes the time that it takes.
pub trait FeatureStore: Send + Sync {
    /// What the store remembers.
    fn plan(&self) -> &FeaturePlan;

    /// What is known of `user`; nothing, if `None` or not seen before.
    fn read_user(&self, user: Option<UserId>, until: Option<Instant>) -> (UserView, Freshness);

    /// Reads what features need to know of `items`, which are distinct.
    fn read_items(
        &self,
        items: &[ItemId],
        until: Option<Instant>,
        rows: &mut ItemRows,
    ) -> Freshness;
}

impl FeatureStore for EmbeddedStore {
    fn plan(&self) -> &FeaturePlan {
        self.plan()
    }

    fn read_user(&self, user: Option<UserId>, _until: Option<Instant>) -> (UserView, Freshness) {
        (self.read_user(user), Freshness::Fresh)
    }

    fn read_items(
        &self,
        items: &[ItemId],
        _until: Option<Instant>,
        rows: &mut ItemRows,
    ) -> Freshness {
        self.read_items(items, rows);
        Freshness::Fresh
    }
}

/// When an item first appeared.
const FIRST: Slot = Slot { event: None, op: SlotOp::First };

/// Everything that is folded from the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    items: Entities,
    users: Entities,
    item_records: Vec<f64>,
    field_records: Vec<Vec<f64>>,
    user_states: Vec<Arc<UserState>>,
    boards: Vec<Board>,
    /// Items by the time of their publication or first event.
    newest: BTreeSet<(Timestamp, ItemId)>,
    newcomers: Newcomers,
    n_events: u64,
    latest: Timestamp,
}

/// The store in memory. Reads share it, an event takes it alone for about a microsecond.
pub struct EmbeddedStore {
    plan: Arc<FeaturePlan>,
    labels: Vec<u8>,
    state: RwLock<State>,
}

impl EmbeddedStore {
    /// No events yet; `items` and `users` as the catalogue knows them.
    pub fn new(plan: Arc<FeaturePlan>, schema: &Schema, items: Entities, users: Entities) -> Self {
        let state = State {
            item_records: Vec::new(),
            field_records: plan.fields.iter().map(|_| Vec::new()).collect(),
            user_states: Vec::new(),
            boards: plan.boards.iter().map(|_| Board::default()).collect(),
            newest: (0..items.len() as u32)
                .filter_map(|id| Some((items.published(id)?, ItemId(id))))
                .collect(),
            items,
            users,
            newcomers: Newcomers::default(),
            n_events: 0,
            latest: Timestamp::MIN,
        };
        Self { plan, labels: schema.labels(), state: RwLock::new(state) }
    }

    /// What the store remembers.
    pub fn plan(&self) -> &FeaturePlan {
        &self.plan
    }

    /// Folds `event` into the state. Its ids must come from this store. Cost: about 1 us.
    pub fn apply(&self, event: &Event) {
        self.write().apply(event, &self.plan);
    }

    /// What is known of `user`; nothing, if `None` or not seen before.
    pub fn read_user(&self, user: Option<UserId>) -> UserView {
        let state = self.read();
        let known = user.and_then(|user| state.user_states.get(user.index()));
        UserView {
            state: known.cloned().unwrap_or_else(|| Arc::new(UserState::empty(&self.plan))),
            numbers: user.map(|user| state.users.numbers(user.0)).unwrap_or_default(),
        }
    }

    /// Reads what features need to know of `items`. Cost: about 100 ns an item.
    pub fn read_items(&self, items: &[ItemId], rows: &mut ItemRows) {
        self.read().read_items(items, &self.plan, rows);
    }

    /// Lets `look` see items, users and boards; nothing is applied meanwhile.
    pub fn view<R>(&self, look: impl FnOnce(&View<'_>) -> R) -> R {
        look(&View { state: &self.read(), plan: &self.plan })
    }

    /// The dense ids of a user and an item that an event is about. They are numbered if they are new; a user who was deleted
    /// is one of whom nothing is known.
    pub fn intern(&self, user: &str, item: &str) -> (UserId, ItemId) {
        let known = self.view(|view| {
            let user = view.users().find(user).filter(|user| !view.users().is_gone(*user))?;
            Some((UserId(user), ItemId(view.items().names().get(item)?)))
        });
        if let Some(known) = known {
            return known;
        }
        let mut state = self.write();
        let item = ItemId(state.items.intern(item));
        let user = state.users.intern(user);
        let user = state.users.resolve(user);
        state.users.revive(user);
        (UserId(user), item)
    }

    /// Changes the catalogue. `change` gets items and users.
    pub fn put<R>(&self, change: impl FnOnce(&mut Entities, &mut Entities) -> R) -> R {
        let mut state = self.write();
        let State { items, users, newest, item_records, .. } = &mut *state;
        let result = change(items, users);
        let layout = &self.plan.item;
        for (id, before) in items.take_published() {
            let (item, start) = (ItemId(id), id as usize * layout.width());
            let record = item_records.get(start..start + layout.width());
            let first = record.and_then(|record| layout.find(FIRST, record));
            let first = first.filter(|time| !time.is_nan()).map(|time| Timestamp(time as i64));
            // Without a time of publication, an item is as new as its first event.
            let was = if before == Timestamp::MIN { first } else { Some(before) };
            was.map(|time| newest.remove(&(time, item)));
            newest.extend(items.published(id).or(first).map(|time| (time, item)));
        }
        result
    }

    /// Notes from now on who is first to do something with items that are not `settled`: [`Newcomers::watch`].
    pub fn watch_newcomers(&self, settled: Vec<bool>) {
        self.write().newcomers.watch(settled);
    }

    /// Folds the latest events of `from`, which are kept one by one, into what is known of `into`, and forgets `from`.
    /// Counts of items and boards have them already.
    pub fn merge(&self, from: UserId, into: UserId) {
        let mut state = self.write();
        let State { user_states, items, .. } = &mut *state;
        let most = from.index().max(into.index());
        if from == into || !self.plan.keeps_users {
            return;
        }
        if user_states.len() <= most {
            user_states.resize_with(most + 1, || Arc::new(UserState::empty(&self.plan)));
        }
        let empty = Arc::new(UserState::empty(&self.plan));
        let merged = std::mem::replace(&mut user_states[from.index()], empty);
        let codes = |item: ItemId, field: usize| items.column(field).codes(item.0);
        Arc::make_mut(&mut user_states[into.index()]).take_over(&merged, into, &self.plan, codes);
    }

    /// Forgets what was folded of the events of `user`; counts of items and boards stay.
    pub fn forget(&self, user: UserId) {
        let mut state = self.write();
        if let Some(known) = state.user_states.get_mut(user.index()) {
            *known = Arc::new(UserState::empty(&self.plan));
        }
    }

    /// The gain level of each event type.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no holder of this lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no holder of this lock panics")
    }

    /// The state as bytes. Source of the encoding: postcard.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SnapshotError> {
        postcard::to_stdvec(&*self.read()).map_err(|e| SnapshotError(e.to_string()))
    }

    /// The store whose state is `bytes`, which [`to_bytes`](Self::to_bytes) made under the same plan and schema.
    ///
    /// # Errors
    /// If they are not such bytes.
    pub fn from_bytes(
        plan: Arc<FeaturePlan>,
        schema: &Schema,
        bytes: &[u8],
    ) -> Result<Self, SnapshotError> {
        let state = postcard::from_bytes(bytes).map_err(|e| SnapshotError(e.to_string()))?;
        Ok(Self { plan, labels: schema.labels(), state: RwLock::new(state) })
    }
}

/// A state that cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state of the store cannot be encoded or decoded: {0}")]
pub struct SnapshotError(String);

impl State {
    fn apply(&mut self, event: &Event, plan: &FeaturePlan) {
        self.make_room(event, plan);
        self.apply_to_item(event, plan);
        self.newcomers.note(event.item, event.user);
        if plan.keeps_users {
            let user = Arc::make_mut(&mut self.user_states[event.user.index()]);
            user.apply(event, plan, |field| self.items.column(field).codes(event.item.0));
        }
        self.n_events += 1;
        self.latest = self.latest.max(event.time);
    }

    fn make_room(&mut self, event: &Event, plan: &FeaturePlan) {
        while self.item_records.len() < (event.item.index() + 1) * plan.item.width() {
            plan.item.push_empty(&mut self.item_records);
        }
        if plan.keeps_users && self.user_states.len() <= event.user.index() {
            self.user_states
                .resize_with(event.user.index() + 1, || Arc::new(UserState::empty(plan)));
        }
    }

    fn apply_to_item(&mut self, event: &Event, plan: &FeaturePlan) {
        let known = self.user_states.get(event.user.index());
        let pair = known.and_then(|user| user.items.get(event.item, &plan.user_item));
        let width = plan.item.width();
        let record = &mut self.item_records[event.item.index() * width..][..width];
        let first_before = plan.item.find(FIRST, record);
        fold_item(record, event, pair, plan);
        let (record, first) = (&*record, plan.item.find(FIRST, record));
        for ((spec, slot), board) in plan.boards.iter().zip(&mut self.boards) {
            if spec.event.is_some_and(|kind| kind != event.kind) {
                continue;
            }
            let count = plan.item.read(record, *slot, Timestamp(record[0] as i64));
            match spec.field {
                None => board.update(spec, event.item, count, record[0], std::iter::once(WHOLE)),
                Some(field) => {
                    let codes = self.items.column(field).codes(event.item.0);
                    board.update(spec, event.item, count, record[0], codes);
                }
            }
        }
        if self.items.published(event.item.0).is_none() && first != first_before {
            let at = |time: Option<f64>| (Timestamp(time.unwrap_or(0.0) as i64), event.item);
            self.newest.remove(&at(first_before));
            self.newest.insert(at(first));
        }
        self.apply_to_field_values(event, plan);
    }

    fn apply_to_field_values(&mut self, event: &Event, plan: &FeaturePlan) {
        for ((field, layout), records) in plan.fields.iter().zip(&mut self.field_records) {
            for code in self.items.column(*field).codes(event.item.0) {
                while records.len() < (code as usize + 1) * layout.width() {
                    layout.push_empty(records);
                }
                let start = code as usize * layout.width();
                layout.fold(&mut records[start..start + layout.width()], event, |_| false);
            }
        }
    }

    fn read_items(&self, items: &[ItemId], plan: &FeaturePlan, rows: &mut ItemRows) {
        rows.n = items.len();
        let width = plan.item.width();
        let records = rows.item.reset(&plan.item);
        for item in items {
            match self.item_records.get(item.index() * width..(item.index() + 1) * width) {
                Some(record) => records.extend_from_slice(record),
                None => plan.item.push_empty(records),
            }
        }
        rows.fields.resize_with(plan.fields.len(), Default::default);
        for (i, (field, layout)) in plan.fields.iter().enumerate() {
            let (column, records) = (self.items.column(*field), &self.field_records[i]);
            let out = rows.fields[i].reset(layout);
            for item in items {
                let of_code = |code: u32| {
                    records
                        .get(code as usize * layout.width()..(code as usize + 1) * layout.width())
                };
                push_merged(layout, column.codes(item.0).map(of_code), out);
            }
        }
        read_fields(&self.items, items, plan, rows);
    }
}

/// Folds `event` into the record of its item. `pair`: the record of its user and item before it, if there is one.
pub(crate) fn fold_item(
    record: &mut [f64],
    event: &Event,
    pair: Option<&[f64]>,
    plan: &FeaturePlan,
) {
    let first_of_user = |kind: Option<EventTypeId>| {
        let Some(pair) = pair else { return true };
        let op = SlotOp::Count { sum: Summed::Events };
        kind.is_some() && plan.user_item.find(Slot { event: kind, op }, pair) == Some(0.0)
    };
    plan.item.fold(record, event, first_of_user);
}

/// Reads what `entities` says of `items`.
pub(crate) fn read_fields(
    entities: &Entities,
    items: &[ItemId],
    plan: &FeaturePlan,
    rows: &mut ItemRows,
) {
    rows.codes.resize_with(plan.user_fields.len(), Default::default);
    for ((offsets, codes), (field, _)) in rows.codes.iter_mut().zip(&plan.user_fields) {
        offsets.clear();
        codes.clear();
        offsets.push(0);
        for item in items {
            codes.extend(entities.column(*field).codes(item.0));
            offsets.push(codes.len() as u32);
        }
    }
    let n_fields = entities.n_fields();
    rows.numbers.resize_with(n_fields, Vec::new);
    rows.vectors.resize_with(n_fields, Vec::new);
    for position in plan.item_fields_read() {
        let column = entities.column(position);
        if let Column::Vector(vectors) = column {
            let vector = |item: &ItemId| vectors.get(item.index()).cloned().unwrap_or_default();
            rows.vectors[position] = items.iter().map(vector).collect();
        } else {
            rows.numbers[position].clear();
            rows.numbers[position].extend(items.iter().map(|item| column.number_or_code(item.0)));
        }
    }
    let published = |item: &ItemId| entities.published(item.0).map_or(f64::NAN, |t| t.0 as f64);
    rows.published.clear();
    rows.published.extend(items.iter().map(published));
}

/// A consistent look at the catalogue and the boards.
pub struct View<'a> {
    state: &'a State,
    plan: &'a FeaturePlan,
}

impl View<'_> {
    /// The items.
    pub fn items(&self) -> &Entities {
        &self.state.items
    }

    /// The users.
    pub fn users(&self) -> &Entities {
        &self.state.users
    }

    /// How many events were applied.
    pub fn n_events(&self) -> u64 {
        self.state.n_events
    }

    /// Time of the latest event.
    pub fn latest(&self) -> Timestamp {
        self.state.latest
    }

    /// Who was first to do something with items that the release has no vector of.
    pub fn newcomers(&self) -> &Newcomers {
        &self.state.newcomers
    }

    /// The `n` best items of a board; `value`: of the list of this field value.
    pub fn best(&self, board: usize, value: Option<u32>, n: usize, now: Timestamp) -> Vec<Scored> {
        let spec = &self.plan.boards[board].0;
        self.state.boards[board].best(spec, value.unwrap_or(WHOLE), n, now)
    }

    /// Whether a board has counted items that are not in its list any more.
    pub fn is_cut(&self, board: usize) -> bool {
        self.state.boards[board].is_cut(WHOLE)
    }

    /// The `n` best of `items` by what a board counts.
    pub fn best_of(
        &self,
        board: usize,
        items: impl Iterator<Item = ItemId>,
        n: usize,
        now: Timestamp,
    ) -> Vec<Scored> {
        self.state.boards[board].best_of(&self.plan.boards[board].0, items, n, now)
    }

    /// The `n` items that were published or first seen last before `now`, scored by minus their age in days.
    pub fn newest(&self, n: usize, now: Timestamp) -> Vec<Scored> {
        self.newest_of(n, now, |_| true)
    }

    /// The `n` newest of the items that `accept` lets pass. Cost: O(items looked at).
    pub fn newest_of(
        &self,
        n: usize,
        now: Timestamp,
        accept: impl Fn(ItemId) -> bool,
    ) -> Vec<Scored> {
        let until = (now, ItemId(u32::MAX));
        let latest = self.state.newest.range(..=until).rev();
        let latest = latest.filter(|(_, item)| accept(*item)).take(n);
        latest
            .map(|(time, item)| Scored {
                item: *item,
                score: -(now.seconds_since(*time) / 86_400.0) as f32,
            })
            .collect()
    }

    /// Whether `item` had an event.
    pub fn has_events(&self, item: ItemId) -> bool {
        let start = item.index() * self.plan.item.width();
        self.state.item_records.get(start).is_some_and(|reference| !reference.is_nan())
    }
}
