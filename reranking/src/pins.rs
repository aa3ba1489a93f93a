//! Items in fixed places.

use featurestore::ItemId;
use rustc_hash::FxHashMap;

use crate::journal::Unmet;
use crate::rules::Pin;

/// Which item of the slate is pinned to each position of the list.
pub(crate) struct Pinned {
    /// `[n positions]`: the rank of the pinned item.
    pub(crate) at: Vec<Option<usize>>,
    /// `[n items]`, by rank.
    is_pinned: Vec<bool>,
}

impl Pinned {
    /// For a list of `n` positions of the items in `ranks`. A pin of an item that is not in the slate, or to a position
    /// that is taken or beyond the list, is not met: the item stays where it is.
    pub(crate) fn new(
        pins: &[Pin],
        ranks: &FxHashMap<ItemId, usize>,
        (n_items, n): (usize, usize),
        unmet: &mut Vec<Unmet>,
    ) -> Self {
        let mut pinned = Self { at: vec![None; n], is_pinned: vec![false; n_items] };
        for &Pin { item, position } in pins {
            let rank = ranks.get(&item).copied().filter(|&rank| !pinned.is_pinned[rank]);
            match (rank, pinned.at.get_mut(position)) {
                (Some(rank), Some(place @ None)) => {
                    *place = Some(rank);
                    pinned.is_pinned[rank] = true;
                }
                _ => unmet.push(Unmet::Pin { item, position }),
            }
        }
        pinned
    }

    pub(crate) fn contains(&self, rank: usize) -> bool {
        self.is_pinned[rank]
    }

    pub(crate) fn n_pinned(&self) -> usize {
        self.at.iter().flatten().count()
    }
}
