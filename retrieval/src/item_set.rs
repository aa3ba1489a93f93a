//! A set of items, as a bitmap over their dense ids.

use featurestore::ItemId;

/// A set of items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemSet {
    bits: Vec<u64>,
    n_items: usize,
    len: usize,
}

impl ItemSet {
    /// The items among `0..n_items` for which `is_in` holds. Cost: `n_items` calls.
    pub fn from_fn(n_items: usize, is_in: impl Fn(usize) -> bool) -> Self {
        let word = |start: usize| {
            let ids = start..(start + 64).min(n_items);
            ids.fold(0, |word, id| word | u64::from(is_in(id)) << (id - start))
        };
        Self::of((0..n_items).step_by(64).map(word).collect(), n_items)
    }

    fn of(bits: Vec<u64>, n_items: usize) -> Self {
        let len = bits.iter().map(|word| word.count_ones() as usize).sum();
        Self { bits, n_items, len }
    }

    /// Adds `item`, if it is among those that the set was made for.
    pub fn insert(&mut self, item: ItemId) {
        if item.index() < self.n_items && !self.contains(item) {
            self.bits[item.index() / 64] |= 1 << (item.index() % 64);
            self.len += 1;
        }
    }

    /// Takes `item` out.
    pub fn remove(&mut self, item: ItemId) {
        if self.contains(item) {
            self.bits[item.index() / 64] &= !(1 << (item.index() % 64));
            self.len -= 1;
        }
    }

    /// What is in both.
    pub fn and(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & b)
    }

    /// What is in either; items beyond the smaller of the two are left out.
    pub fn or(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a | b)
    }

    /// What is not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & !b)
    }

    fn combine(&self, other: &Self, word: impl Fn(u64, u64) -> u64) -> Self {
        let words = self.bits.iter().zip(&other.bits).map(|(a, b)| word(*a, *b));
        Self::of(words.collect(), self.n_items.min(other.n_items))
    }

    /// Whether `item` is in it.
    #[inline]
    pub fn contains(&self, item: ItemId) -> bool {
        let word = self.bits.get(item.index() / 64).copied().unwrap_or(0);
        word >> (item.index() % 64) & 1 == 1
    }

    /// The items, by rising id. Cost: O(items that there could be / 64 + items).
    pub fn iter(&self) -> impl Iterator<Item = ItemId> + '_ {
        self.bits.iter().enumerate().flat_map(|(i, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(ItemId(i as u32 * 64 + bit))
            })
        })
    }

    /// How many items are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many items could be in it.
    pub fn n_items(&self) -> usize {
        self.n_items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn items(set: &ItemSet) -> BTreeSet<u32> {
        set.iter().map(|item| item.0).collect()
    }

    proptest! {
        #[test]
        fn a_bitmap_is_a_set(
            n in 0usize..200,
            a in proptest::collection::btree_set(0u32..200, 0..60),
            b in proptest::collection::btree_set(0u32..200, 0..60),
        ) {
            let set = |of: &BTreeSet<u32>| ItemSet::from_fn(n, |id| of.contains(&(id as u32)));
            let within = |of: &BTreeSet<u32>| -> BTreeSet<u32> {
                of.iter().copied().filter(|id| (*id as usize) < n).collect()
            };
            let (bits_a, bits_b, a, b) = (set(&a), set(&b), within(&a), within(&b));
            prop_assert_eq!(items(&bits_a), a.clone());
            prop_assert_eq!(bits_a.len(), a.len());
            prop_assert_eq!(items(&bits_a.and(&bits_b)), &a & &b);
            prop_assert_eq!(items(&bits_a.or(&bits_b)), &a | &b);
            prop_assert_eq!(items(&bits_a.without(&bits_b)), &a - &b);
            let mut changed = bits_a.clone();
            b.iter().for_each(|id| changed.insert(ItemId(*id)));
            a.iter().for_each(|id| changed.remove(ItemId(*id)));
            changed.insert(ItemId(5_000));
            prop_assert_eq!(items(&changed), &b - &a);
            prop_assert_eq!(changed.len(), (&b - &a).len());
            prop_assert!((0..300).all(|id| changed.contains(ItemId(id)) == (&b - &a).contains(&id)));
        }
    }
}
