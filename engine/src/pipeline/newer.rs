//! Items that the release has no vector of: each gets one by its fields at once, and a better one when somebody has done
//! something with it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use featurestore::newcomers::MAX_NEWCOMERS;
use featurestore::{Freshness, ItemId, UserId};
use retrieval::ials::FoldInScratch;
use retrieval::sources::{Delta, HistoryWeights, delta_of, preference};

use super::Pipeline;

/// So many items are given a vector by their users at once: a tenth of a second of work, about.
const MAX_AT_ONCE: usize = 100;

/// The vectors of items that the release has none of.
pub(super) struct Newer(RwLock<Known>);

struct Known {
    /// How often the catalogue had changed when it was looked at.
    n_changes: u64,
    by_fields: Delta,
    /// By how many users, and what they give.
    by_users: BTreeMap<ItemId, (usize, Option<Vec<f32>>)>,
    /// One for each item, by users if there is one.
    all: Arc<Delta>,
}

impl Newer {
    /// Nothing was looked at.
    pub(super) fn new() -> Self {
        Self(RwLock::new(Known {
            n_changes: u64::MAX,
            by_fields: Delta::default(),
            by_users: BTreeMap::new(),
            all: Arc::default(),
        }))
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn join(&mut self) {
        let by_fields = self.by_fields.iter().map(|(item, vector)| (*item, vector));
        let mut all: BTreeMap<ItemId, &Vec<f32>> = by_fields.collect();
        let by_users = self.by_users.iter();
        all.extend(by_users.filter_map(|(item, (_, vector))| Some((*item, vector.as_ref()?))));
        self.all = Arc::new(all.into_iter().map(|(item, vector)| (item, vector.clone())).collect());
    }
}

impl Pipeline {
    /// The items that the release has no vector of, with the ones they have now. Those by fields are made anew when the
    /// catalogue has changed.
    pub(super) fn delta(&self) -> Arc<Delta> {
        let n_changes = self.store.view(|view| view.items().n_changes());
        let known = self.newer.read();
        if known.n_changes == n_changes {
            return known.all.clone();
        }
        drop(known);
        let by_fields = delta_of(&self.release.models, &self.store);
        let mut known = self.newer.write();
        // A change in between has it read once more.
        (known.n_changes, known.by_fields) = (n_changes, by_fields);
        known.join();
        known.all.clone()
    }

    /// Gives items that the release has no vector of one by the users who were first to do something with them, if there
    /// are more of those than at the last call: about a millisecond for each, so call it now and then, beside requests.
    /// Returns how many items got one.
    pub fn learn_newer(&self) -> usize {
        let waiting: Vec<(ItemId, Vec<UserId>)> = {
            let known = self.newer.read();
            let is_new = |item: &ItemId, n: usize| {
                known.by_users.get(item).is_none_or(|(n_known, _)| *n_known != n)
            };
            self.store.view(|view| {
                let newcomers = view.newcomers().iter();
                let waiting = newcomers.filter(|(item, users)| is_new(item, users.len()));
                waiting.take(MAX_AT_ONCE).map(|(item, users)| (item, users.to_vec())).collect()
            })
        };
        let (mut history, mut scratch) = (HistoryWeights::default(), FoldInScratch::default());
        let mut learnt = Vec::with_capacity(waiting.len());
        for (item, users) in waiting {
            match self.vector_by(item, &users, &mut history, &mut scratch) {
                Some(vector) => learnt.push((item, (users.len(), vector))),
                // The store does not answer: another time.
                None => break,
            }
        }
        let n = learnt.len();
        if n > 0 {
            let mut known = self.newer.write();
            known.by_users.extend(learnt);
            while known.by_users.len() > MAX_NEWCOMERS {
                known.by_users.pop_first();
            }
            known.join();
        }
        n
    }

    /// The vector that `users` give `item`, if they do; `None` if the feature store does not tell what is known of them.
    fn vector_by(
        &self,
        item: ItemId,
        users: &[UserId],
        history: &mut HistoryWeights,
        scratch: &mut FoldInScratch,
    ) -> Option<Option<Vec<f32>>> {
        let (models, plan) = (&self.release.models, self.features.plan());
        let weights = &self.release.weights;
        let mut observed = Vec::with_capacity(users.len());
        for user in users {
            let (view, freshness) = self.features.read_user(Some(*user), None);
            if freshness != Freshness::Fresh {
                return None;
            }
            history.read(&view.state, plan, weights, |item| item.index() < models.n_items());
            let vector = models.embedding.user(Some(*user), &history.all, scratch);
            let record = view.state.items.get(item, &plan.user_item);
            let weight = record.map_or(0.0, |record| preference(record, plan, weights));
            observed.extend(vector.filter(|_| weight > 0.0).map(|vector| (vector, weight)));
        }
        let fields = models.field_vectors.as_ref();
        let prior = fields.and_then(|it| self.store.view(|view| it.vector(view.items(), item.0)));
        Some(models.embedding.item(prior.as_deref(), &observed, scratch))
    }
}
