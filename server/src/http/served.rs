//! What each user was shown lately: for placements whose rule `hide_served` has it make way. It is kept in memory, and read
//! from the impression log at the start.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::pipeline::Pipeline;
use featurestore::{ItemId, Timestamp};
use moka::sync::Cache;

use super::impressions::Impression;

/// So many of the items that a user was shown are remembered, the latest ones.
const PER_USER: usize = 500;

/// Most bytes of all of them.
const MAX_BYTES: u64 = 64 << 20;

/// About what one item, and what one user costs.
const ITEM_BYTES: usize = 16;
const USER_BYTES: usize = 200;

/// Who was not there for so long is forgotten.
const IDLE_FOR: Duration = Duration::from_secs(14 * 86_400);

type Shown = Arc<Mutex<Vec<(ItemId, Timestamp)>>>;

/// What users were shown.
pub(super) struct Served {
    of_user: Cache<String, Shown>,
}

impl Served {
    /// Nobody was shown anything.
    pub(super) fn new() -> Self {
        // A user is weighed as if all places were taken: what is in them changes.
        let weight = u32::try_from(USER_BYTES + PER_USER * ITEM_BYTES).unwrap_or(u32::MAX);
        let of_user = Cache::builder()
            .max_capacity(MAX_BYTES)
            .weigher(move |_: &String, _: &Shown| weight)
            .time_to_idle(IDLE_FOR)
            .build();
        Self { of_user }
    }

    /// Notes that `items` were shown to `user`.
    pub(super) fn note(&self, user: &str, items: &[ItemId], now: Timestamp) {
        let shown = self.of_user.get_with_by_ref(user, Shown::default);
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.extend(items.iter().map(|item| (*item, now)));
        let n_old = shown.len().saturating_sub(PER_USER);
        shown.drain(..n_old);
    }

    /// What `user` was shown, the latest last.
    pub(super) fn of(&self, user: &str) -> Vec<(ItemId, Timestamp)> {
        let shown = self.of_user.get(user);
        shown.map_or_else(Vec::new, |shown| {
            shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
        })
    }

    /// Forgets `user`.
    pub(super) fn forget(&self, user: &str) {
        self.of_user.invalidate(user);
    }

    /// Notes `impression`, which was logged before. Items are found in the store of `pipeline`.
    pub(super) fn recall(&self, impression: &Impression, pipeline: &Pipeline) {
        let Some(user) = impression.user() else { return };
        let user = &user;
        let items: Vec<ItemId> = pipeline.store().view(|view| {
            let names = view.items().names();
            impression.items.iter().filter_map(|it| names.get(&it.id).map(ItemId)).collect()
        });
        self.note(user, &items, impression.time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_items_of_a_user_are_remembered() {
        let served = Served::new();
        for i in 0..60 {
            let items: Vec<ItemId> = (0..10).map(|k| ItemId(i * 10 + k)).collect();
            served.note("u", &items, Timestamp(i.into()));
        }
        let shown = served.of("u");
        assert_eq!(shown.len(), PER_USER);
        assert_eq!(shown.first(), Some(&(ItemId(100), Timestamp(10))));
        assert_eq!(shown.last(), Some(&(ItemId(599), Timestamp(59))));
        served.forget("u");
        assert!(served.of("u").is_empty() && served.of("v").is_empty());
    }
}
