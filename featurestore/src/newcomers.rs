//! Who was first to do something with the items that a release has no vector of: what gives them one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{ItemId, UserId};

/// So many distinct users of an item are noted, the first ones.
pub const MAX_FIRST_USERS: usize = 32;

/// So many items are watched; when there are more, those that were numbered last.
pub const MAX_NEWCOMERS: usize = 5_000;

/// The first users of the items that a release has no vector of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomers {
    /// Whether the release has a vector of an item; it has none of later ones. `None`: there is no release, and nobody is
    /// noted.
    #[serde(skip)]
    settled: Option<Vec<bool>>,
    first_users: BTreeMap<ItemId, Vec<UserId>>,
}

impl Newcomers {
    /// Notes from now on who does something with items that are not `settled`: those that are not true in it, or later.
    pub fn watch(&mut self, settled: Vec<bool>) {
        self.first_users.retain(|item, _| !settled.get(item.index()).is_some_and(|it| *it));
        self.settled = Some(settled);
    }

    /// Notes that `user` has done something with `item`.
    pub(crate) fn note(&mut self, item: ItemId, user: UserId) {
        let Some(settled) = &self.settled else { return };
        if settled.get(item.index()).is_some_and(|it| *it) {
            return;
        }
        let users = self.first_users.entry(item).or_default();
        if users.len() < MAX_FIRST_USERS && !users.contains(&user) {
            users.push(user);
        }
        if self.first_users.len() > MAX_NEWCOMERS {
            self.first_users.pop_first();
        }
    }

    /// The items that somebody has done something with, and who was first, by item.
    pub fn iter(&self) -> impl Iterator<Item = (ItemId, &[UserId])> {
        self.first_users.iter().map(|(item, users)| (*item, users.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(newcomers: &Newcomers) -> Vec<(u32, usize)> {
        newcomers.iter().map(|(item, users)| (item.0, users.len())).collect()
    }

    #[test]
    fn the_first_distinct_users_of_items_without_a_vector_are_noted() {
        let mut newcomers = Newcomers::default();
        newcomers.note(ItemId(1), UserId(0));
        assert_eq!(noted(&newcomers), [], "nobody asked for it");
        newcomers.watch(vec![true, false]);
        for user in 0..100 {
            for item in [0, 1, 2] {
                newcomers.note(ItemId(item), UserId(user / 2));
            }
        }
        assert_eq!(noted(&newcomers), [(1, MAX_FIRST_USERS), (2, MAX_FIRST_USERS)]);
        newcomers.watch(vec![true, true]);
        assert_eq!(noted(&newcomers), [(2, MAX_FIRST_USERS)]);
    }

    #[test]
    fn the_latest_items_are_watched() {
        let mut newcomers = Newcomers::default();
        newcomers.watch(Vec::new());
        (0..MAX_NEWCOMERS as u32 + 3).for_each(|item| newcomers.note(ItemId(item), UserId(0)));
        assert_eq!(noted(&newcomers)[0], (3, 1));
        assert_eq!(newcomers.iter().count(), MAX_NEWCOMERS);
    }
}
