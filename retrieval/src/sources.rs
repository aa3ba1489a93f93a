//! What proposes candidates: each source answers a user's state with a list of items, best first.

use std::sync::Arc;
use std::time::Instant;

use featurestore::board::BOARD_ITEMS;
use featurestore::plan::PlanBuilder;
use featurestore::record::SlotId;
use featurestore::schema::{FieldKind, SimilarityBy, nearest_name};
use featurestore::store::{UserState, UserView};
use featurestore::{
    EmbeddedStore, FeaturePlan, ItemId, Schema, Scored, Span, Timestamp, UserId, keep_best,
};
use serde::{Deserialize, Serialize};

use crate::hnsw::SearchScratch;
use crate::ials::FoldInScratch;
use crate::item_item::{ScoreScratch, score_history};
use crate::item_set::ItemSet;
use crate::merge::SourceList;
use crate::models::Models;
use crate::vectors::dot;

/// The kinds of sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// Items whose vectors fit the user's, which is made of the live history or was imported.
    #[default]
    Embedding,
    /// Items that go with those of the user's history.
    ItemItem,
    /// Items that the user has a history with, by fading count.
    OwnHistory,
    /// Items by fading count of all users.
    Popular,
    /// The same; by convention with a short half-life.
    Trending,
    /// Items by fading count within the values of a category field that the user has most to do with.
    PopularInField,
    /// Items that were published or first seen last.
    NewItems,
}

/// A source as the configuration writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEntry {
    /// What it is.
    pub kind: SourceKind,
    /// How many items it may propose.
    pub n: usize,
    /// What features and reports call it; left out: made of the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Half-life of its counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_life: Option<Span>,
    /// Event type that it counts; left out: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Category field of `popular_in_field`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What `item_item` goes by: `co_visitation` (default) or `cosine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<SimilarityBy>,
}

/// Most items that one source may propose.
pub const MAX_SOURCE_ITEMS: usize = 10_000;

/// Half-life of counts whose source does not say one.
const DEFAULT_HALF_LIFE: Span = Span::days(7);

impl SourceEntry {
    /// Its name: the given one, or its kind with what tells it apart.
    pub fn name(&self) -> String {
        let half_life = || self.half_life.unwrap_or(DEFAULT_HALF_LIFE);
        match (&self.name, self.kind) {
            (Some(name), _) => name.clone(),
            (None, SourceKind::Embedding) => "embedding".into(),
            (None, SourceKind::ItemItem) if self.by == Some(SimilarityBy::Cosine) => {
                "cosine".into()
            }
            (None, SourceKind::ItemItem) => "co_visitation".into(),
            (None, SourceKind::OwnHistory) => format!("own_history_{}", half_life()),
            (None, SourceKind::Popular) => format!("popular_{}", half_life()),
            (None, SourceKind::Trending) => format!("trending_{}", half_life()),
            (None, SourceKind::PopularInField) => {
                format!("popular_in_{}", self.field.as_deref().unwrap_or("field"))
            }
            (None, SourceKind::NewItems) => "new_items".into(),
        }
    }

    /// Checks the names and limits that it uses.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, schema: &Schema) -> Result<(), String> {
        if self.n == 0 || self.n > MAX_SOURCE_ITEMS {
            return Err(format!("n is {}, must be from 1 to {MAX_SOURCE_ITEMS}", self.n));
        }
        if let Some(event) = self.event.as_ref().filter(|name| !schema.events.contains_key(*name)) {
            return Err(unknown("event", event, schema.events.keys().map(String::as_str)));
        }
        match (&self.field, self.kind) {
            (None, SourceKind::PopularInField) => Err("popular_in_field needs `field`".into()),
            (Some(field), _) if schema.item_fields.get(field) != Some(&FieldKind::Category) => {
                Err(unknown("category field", field, schema.item_fields_of(FieldKind::Category)))
            }
            _ => Ok(()),
        }
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match nearest_name(name, known) {
        Some(nearest) => format!("unknown {what} {name:?}; did you mean {nearest:?}?"),
        None => format!("unknown {what} {name:?}"),
    }
}

/// A source with what it reads.
#[derive(Clone, Debug)]
pub struct Source {
    /// What features and reports call it.
    pub name: String,
    /// What it is.
    pub kind: SourceKind,
    /// Half-life of its counts, if one was given.
    pub half_life: Option<Span>,
    /// How many items it may propose.
    pub n: usize,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Embedding,
    CoVisitation,
    Cosine,
    OwnHistory(SlotId),
    Board(usize),
    FieldBoard { board: usize, user_field: usize, count: SlotId },
    Newest,
}

/// Of how many of the user's most frequent field values the popular items are proposed.
const FIELD_VALUES: usize = 8;

impl Source {
    /// The source that `entry` describes; what it reads is registered in `plan`. `None` if its field is unknown.
    pub fn new(entry: &SourceEntry, plan: &mut PlanBuilder<'_>) -> Option<Self> {
        let half_life = entry.half_life.unwrap_or(DEFAULT_HALF_LIFE);
        let event = entry.event.as_deref();
        let how = match entry.kind {
            SourceKind::Embedding | SourceKind::ItemItem | SourceKind::NewItems => {
                return Self::without_counts(entry);
            }
            SourceKind::OwnHistory => How::OwnHistory(plan.user_item_count(event, Some(half_life))),
            SourceKind::Popular | SourceKind::Trending => {
                How::Board(plan.board(event, half_life, None))
            }
            SourceKind::PopularInField => {
                let field = entry.field.as_deref()?;
                let (user_field, count) = plan.user_field_count(field, Some(Span::days(120)))?;
                How::FieldBoard {
                    board: plan.board(event, half_life, Some(field)),
                    user_field,
                    count,
                }
            }
        };
        Some(Self::reading(how, entry))
    }

    /// The source that `entry` describes, if it reads no counts, so that it can be asked of every store.
    pub fn without_counts(entry: &SourceEntry) -> Option<Self> {
        let how = match entry.kind {
            SourceKind::Embedding => How::Embedding,
            SourceKind::ItemItem if entry.by == Some(SimilarityBy::Cosine) => How::Cosine,
            SourceKind::ItemItem => How::CoVisitation,
            SourceKind::NewItems => How::Newest,
            SourceKind::OwnHistory
            | SourceKind::Popular
            | SourceKind::Trending
            | SourceKind::PopularInField => return None,
        };
        Some(Self::reading(how, entry))
    }

    fn reading(how: How, entry: &SourceEntry) -> Self {
        let &SourceEntry { kind, half_life, n, .. } = entry;
        Self { name: entry.name(), kind, half_life, n, how }
    }
}

/// The user's history as the similarities take it, from the live state.
#[derive(Clone, Debug, Default)]
pub struct HistoryWeights {
    /// Distinct items of the latest events, the latest first, weighing less the further back they are.
    pub latest: Vec<(ItemId, f32)>,
    /// All distinct items with the logarithm of their weighted count: what the embedding is trained on.
    pub all: Vec<(ItemId, f32)>,
}

/// Most distinct items of a history that a user is folded in from, the latest ones.
pub const MAX_FOLD_IN_ITEMS: usize = 512;
/// Most distinct latest items that item-item similarities are summed over.
pub const MAX_LATEST_ITEMS: usize = 100;
/// Steps back in the history after which an item weighs half.
const LATEST_HALF_STEPS: f32 = 10.0;

impl HistoryWeights {
    /// Reads the history in `state`. `weights`: of each event type. Items for which `known` is false (newer than the
    /// models) are left out.
    pub fn read(
        &mut self,
        state: &UserState,
        plan: &FeaturePlan,
        weights: &[f32],
        known: impl Fn(ItemId) -> bool,
    ) {
        self.latest.clear();
        for recent in state.recent.iter().rev() {
            let weight = weights[usize::from(recent.kind.0)];
            if self.latest.len() == MAX_LATEST_ITEMS {
                break;
            }
            if weight > 0.0
                && known(recent.item)
                && !self.latest.iter().any(|(item, _)| *item == recent.item)
            {
                let steps = self.latest.len() as f32;
                self.latest.push((recent.item, weight / (1.0 + steps / LATEST_HALF_STEPS)));
            }
        }
        self.read_all(state, plan, weights, known);
    }

    fn read_all(
        &mut self,
        state: &UserState,
        plan: &FeaturePlan,
        weights: &[f32],
        known: impl Fn(ItemId) -> bool,
    ) {
        self.all.clear();
        let mut dated: Vec<(f64, ItemId, f32)> = Vec::with_capacity(state.items.len());
        for (item, record) in state.items.iter(&plan.user_item).filter(|(item, _)| known(*item)) {
            let weight = preference(record, plan, weights);
            if weight > 0.0 {
                dated.push((plan.last_time(record), item, weight));
            }
        }
        if dated.len() > MAX_FOLD_IN_ITEMS {
            dated.select_nth_unstable_by(MAX_FOLD_IN_ITEMS, |a, b| {
                b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
            });
            dated.truncate(MAX_FOLD_IN_ITEMS);
        }
        dated.sort_unstable_by_key(|(_, item, _)| *item);
        self.all.extend(dated.into_iter().map(|(_, item, weight)| (item, weight)));
    }
}

/// How much a user prefers an item, by the record of the two: the logarithm of the weighted count of events, as the
/// embedding is trained. `weights`: of each event type.
pub fn preference(record: &[f64], plan: &FeaturePlan, weights: &[f32]) -> f32 {
    let counts = plan.counts_by_type(record).zip(weights);
    counts.map(|(n, weight)| n * f64::from(*weight)).sum::<f64>().ln_1p() as f32
}

/// What the similarities between one user's history and all items are kept in, from request to request.
#[derive(Default)]
pub struct SourceScratch {
    /// The history they are measured from.
    pub history: HistoryWeights,
    /// By co-visitation.
    pub co_visitation: ScoreScratch,
    /// By cosine.
    pub cosine: ScoreScratch,
    /// The vector of the user; empty if nothing is known that would give one.
    pub user_vector: Vec<f32>,
    /// Items newer than the models.
    pub delta: Arc<Delta>,
    fold_in: FoldInScratch,
    index: SearchScratch,
}

impl SourceScratch {
    /// The vector of an item that the models have none of.
    fn newer(&self, item: ItemId) -> Option<&[f32]> {
        let at = self.delta.binary_search_by_key(&item, |(item, _)| *item).ok()?;
        Some(&self.delta[at].1)
    }

    /// Whether a list was cut short since this was last asked, since time was over.
    pub fn take_cut(&mut self) -> bool {
        std::mem::take(&mut self.index.is_cut)
    }
}

/// What sources are asked with.
pub struct Ask<'a> {
    /// Trained models.
    pub models: &'a Models,
    /// The catalogue and the boards.
    pub store: &'a EmbeddedStore,
    /// The items that the models do not know: [`delta_of`] them.
    pub delta: Arc<Delta>,
    /// What the user's records consist of.
    pub plan: &'a FeaturePlan,
    /// Who asks, if it is known.
    pub user_id: Option<UserId>,
    /// What is known of the user.
    pub user: &'a UserView,
    /// Weight of each event type.
    pub weights: &'a [f32],
    /// The time that it is.
    pub now: Timestamp,
    /// Whether an item may be proposed at all. It may read the store: it is not called while the store is read.
    pub accept: &'a dyn Fn(ItemId) -> bool,
    /// The items that may be proposed, if a filter has told: then `accept` lets just these pass.
    pub among: Option<&'a ItemSet>,
    /// When a source ends with what it has found; `None`: when it has found what there is.
    pub until: Option<Instant>,
    /// The part of its `n` that a source proposes, from 0 to 1: less costs less time.
    pub share: f32,
    /// So many a source proposes in any case, unless its `n` is less.
    pub least: usize,
}

/// Items newer than the models, by id, with the vectors that their fields give them.
pub type Delta = Vec<(ItemId, Vec<f32>)>;

/// The latest items of `store` that `models` do not know. Cost: O(items * fields * dim).
pub fn delta_of(models: &Models, store: &EmbeddedStore) -> Delta {
    let Some(fields) = &models.field_vectors else { return Delta::new() };
    store.view(|view| {
        let items = view.items();
        let n = items.len() as u32;
        let first = (models.n_items() as u32).max(n.saturating_sub(MAX_DELTA));
        let vector = |id: u32| Some((ItemId(id), fields.vector(items, id)?));
        (first..n).filter_map(vector).collect()
    })
}

/// So many of the items that are newer than the models are scanned, the latest ones: train anew before there are more.
const MAX_DELTA: u32 = 5_000;

/// Up to so many items, those that pass a filter are looked at one by one; of more, those that the lists begin with.
const FEW_PASSING: usize = 50_000;

impl Ask<'_> {
    /// Measures the similarities of the user's history to all items, for sources and features alike.
    pub fn prepare(&self, scratch: &mut SourceScratch) {
        let known = |item: ItemId| item.index() < self.models.n_items();
        scratch.history.read(&self.user.state, self.plan, self.weights, known);
        self.measure(scratch);
        scratch.delta.clone_from(&self.delta);
    }

    /// Measures the similarities of `items` to all items, as if the user had done nothing else. Each comes at most once.
    /// Those that are newer than the models count only if all are, and then the first of them that has a vector.
    pub fn prepare_from(&self, items: &[ItemId], scratch: &mut SourceScratch) {
        let HistoryWeights { latest, all } = &mut scratch.history;
        let known = items.iter().filter(|item| item.index() < self.models.n_items());
        latest.clear();
        latest.extend(known.map(|item| (*item, 1.0)));
        all.clone_from(latest);
        all.sort_unstable_by_key(|(item, _)| *item);
        self.measure(scratch);
        scratch.delta.clone_from(&self.delta);
        if scratch.user_vector.is_empty() {
            let newer = items.iter().find_map(|item| scratch.newer(*item).map(<[f32]>::to_vec));
            scratch.user_vector.extend(newer.into_iter().flatten());
        }
    }

    fn measure(&self, scratch: &mut SourceScratch) {
        score_history(
            &self.models.co_visitation,
            &scratch.history.latest,
            &mut scratch.co_visitation,
        );
        score_history(&self.models.cosine, &scratch.history.latest, &mut scratch.cosine);
        scratch.user_vector.clear();
        let SourceScratch { history, fold_in, .. } = scratch;
        let vector = self.models.embedding.user(self.user_id, &history.all, fold_in);
        scratch.user_vector.extend(vector.into_iter().flatten());
    }

    /// How many of at most `n` are asked for.
    pub fn part_of(&self, n: usize) -> usize {
        let part = (n as f32 * self.share).ceil() as usize;
        part.max(self.least).min(n)
    }

    /// The list of `source`, best first, at most its `n` items, none of which `accept` refuses. If time was over before it
    /// was complete, [`take_cut`](SourceScratch::take_cut) says so.
    pub fn list(&self, source: &Source, scratch: &mut SourceScratch) -> SourceList {
        let (accept, n) = (self.accept, self.part_of(source.n));
        let items = match source.how {
            How::CoVisitation => scratch.co_visitation.best(n, accept),
            How::Cosine => scratch.cosine.best(n, accept),
            How::Embedding => self.nearest(n, scratch),
            How::OwnHistory(slot) => self.own_history(n, slot),
            How::Board(board) => match self.few() {
                Some(few) => self.store.view(|view| view.best_of(board, few.iter(), n, self.now)),
                None => self.best_of_board(board, n, &mut scratch.index.is_cut),
            },
            How::FieldBoard { board, user_field, count } => {
                self.popular_in_field(n, board, user_field, count)
            }
            How::Newest => match self.among {
                Some(set) => {
                    self.store.view(|view| view.newest_of(n, self.now, |item| set.contains(item)))
                }
                None => self.accepted(n, &mut scratch.index.is_cut, |n| {
                    self.store.view(|view| view.newest(n, self.now))
                }),
            },
        };
        SourceList { items, quota: n }
    }

    fn best_of_board(&self, board: usize, n: usize, is_cut: &mut bool) -> Vec<Scored> {
        let in_list = |n| self.store.view(|view| view.best(board, None, n, self.now));
        let best = self.accepted(n, is_cut, in_list);
        let is_enough = *is_cut || best.len() >= n.min(BOARD_ITEMS);
        if is_enough || !self.store.view(|view| view.is_cut(board)) {
            return best;
        }
        // Rarely is so much of the list kept out that the items behind its end are wanted: then all are looked at.
        self.accepted(n, is_cut, |n| {
            self.store.view(|view| {
                let all = (0..view.items().len() as u32).map(ItemId);
                view.best_of(board, all, n, self.now)
            })
        })
    }

    /// The items that may be proposed, if they are few.
    fn few(&self) -> Option<&ItemSet> {
        self.among.filter(|set| set.len() <= FEW_PASSING)
    }

    /// Asks for more until `n` are accepted, there are no more, or time is over.
    fn accepted(
        &self,
        n: usize,
        is_cut: &mut bool,
        list: impl Fn(usize) -> Vec<Scored>,
    ) -> Vec<Scored> {
        let mut asked = n;
        loop {
            let mut items = list(asked);
            let exhausted = items.len() < asked;
            items.retain(|scored| (self.accept)(scored.item));
            let is_late = self.until.is_some_and(|until| until <= Instant::now());
            if items.len() >= n || exhausted || is_late {
                *is_cut |= items.len() < n && !exhausted;
                items.truncate(n);
                return items;
            }
            asked *= 4;
        }
    }

    fn nearest(&self, n: usize, scratch: &mut SourceScratch) -> Vec<Scored> {
        if scratch.user_vector.is_empty() {
            return Vec::new();
        }
        let SourceScratch { user_vector, index: room, delta, .. } = scratch;
        let (index, vectors) = (&self.models.index, self.models.vectors());
        room.until = self.until;
        let mut nearest = match self.among {
            Some(set) => index.search_among(vectors, user_vector, n, set, room),
            None => index.search(vectors, user_vector, n, self.accept, room),
        };
        let newer = delta.iter().filter(|(item, _)| (self.accept)(*item));
        let before = nearest.len();
        nearest
            .extend(newer.map(|(item, row)| Scored { item: *item, score: dot(user_vector, row) }));
        if nearest.len() > before {
            keep_best(&mut nearest, n);
        }
        nearest
    }

    fn own_history(&self, n: usize, slot: SlotId) -> Vec<Scored> {
        let plan = self.plan;
        let records = self.user.state.items.iter(&plan.user_item);
        let score = |record| plan.user_item.read(record, slot, self.now) as f32;
        let mut items: Vec<Scored> = records
            .filter(|(item, _)| (self.accept)(*item))
            .map(|(item, record)| Scored { item, score: score(record) })
            .filter(|scored| scored.score > 0.0)
            .collect();
        keep_best(&mut items, n);
        items
    }

    fn popular_in_field(
        &self,
        n: usize,
        board: usize,
        user_field: usize,
        count: SlotId,
    ) -> Vec<Scored> {
        let (_, layout) = &self.plan.user_fields[user_field];
        let records = self.user.state.fields[user_field].iter(layout);
        let mut values: Vec<(u32, f64)> =
            records.map(|(code, record)| (code, layout.read(record, count, self.now))).collect();
        values.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        values.truncate(FIELD_VALUES);
        let per_value = (2 * n).div_ceil(values.len().max(1));
        let field = self.plan.user_fields[user_field].0;
        let mut items: Vec<Scored> = self.store.view(|view| {
            let lists = values.iter().map(|(code, weight)| {
                let weight = *weight as f32;
                let column = view.items().column(field);
                let has_value = |item: &ItemId| column.codes(item.0).any(|other| other == *code);
                let best = match self.few() {
                    Some(few) => {
                        let items = few.iter().filter(has_value);
                        view.best_of(board, items, per_value, self.now)
                    }
                    None => view.best(board, Some(*code), per_value, self.now),
                };
                best.into_iter()
                    .map(move |scored| Scored { score: scored.score * weight, ..scored })
            });
            lists.flatten().collect()
        });
        items.retain(|scored| (self.accept)(scored.item));
        // An item with several values of the field comes once, by its best.
        items.sort_unstable_by(|a, b| a.item.cmp(&b.item).then(featurestore::best_first(a, b)));
        items.dedup_by_key(|scored| scored.item);
        keep_best(&mut items, n);
        items
    }
}
