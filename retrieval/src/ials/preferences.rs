//! What users prefer, as a sparse matrix.

use featurestore::{Interaction, ItemId, Span, Timestamp, UserId};

/// Weighted preferences of users for items, each pair once: a sparse `[n_users, n_items]` matrix with positive weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Preferences {
    pub(super) by_user: SparseRows,
    n_items: usize,
}

/// How the interactions of a user with an item become one weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreferenceWeighting {
    /// Time after which an interaction counts half; `None` if all count alike.
    pub half_life: Option<Span>,
    /// When it is. Later interactions count as if they were of now.
    pub now: Timestamp,
    /// Takes ln(1 + sum) of the weights of a pair instead of their sum, so that repeats count for less and less.
    pub log1p: bool,
}

impl Preferences {
    /// The preferences that `interactions` show. A pair whose weight is not positive in the end is no preference.
    /// Cost: O(interactions), in any order of them; pairs in the order of their interactions sum up the same bits.
    ///
    /// Users and items must be below `n_users` and `n_items`.
    pub fn from_interactions(
        interactions: &[Interaction],
        n_users: usize,
        n_items: usize,
        weighting: PreferenceWeighting,
    ) -> Self {
        let pairs = interactions.iter().map(|interaction| {
            (interaction.user, interaction.item, weighting.weight_of(interaction))
        });
        Self::collect(
            pairs,
            n_users,
            n_items,
            |sum| if weighting.log1p { sum.ln_1p() } else { sum },
        )
    }

    /// The preferences that are given as weighted pairs; the weights of a pair that comes more than once are added up.
    /// A pair whose weight is not positive is no preference.
    ///
    /// Users and items must be below `n_users` and `n_items`.
    pub fn from_pairs(pairs: &[(UserId, ItemId, f32)], n_users: usize, n_items: usize) -> Self {
        let pairs = pairs.iter().map(|&(user, item, weight)| (user, item, f64::from(weight)));
        Self::collect(pairs, n_users, n_items, |sum| sum)
    }

    fn collect(
        pairs: impl Iterator<Item = (UserId, ItemId, f64)> + Clone,
        n_users: usize,
        n_items: usize,
        weight_of_sum: impl Fn(f64) -> f64,
    ) -> Self {
        let offsets = offsets_of(pairs.clone().map(|(user, ..)| user.index()), n_users);
        let mut next = offsets.clone();
        let mut entries = vec![(ItemId(0), 0.0); offsets[n_users]];
        for (user, item, weight) in pairs {
            assert!(item.index() < n_items, "an item of the interactions is one of `n_items`");
            entries[next[user.index()]] = (item, weight);
            next[user.index()] += 1;
        }
        let mut by_user = SparseRows::with_capacity(n_users, entries.len());
        for range in offsets.windows(2) {
            let row = &mut entries[range[0]..range[1]];
            row.sort_by_key(|&(item, _)| item);
            for repeats in row.chunk_by(|a, b| a.0 == b.0) {
                let weight = weight_of_sum(repeats.iter().map(|&(_, weight)| weight).sum()) as f32;
                if weight > 0.0 && weight.is_finite() {
                    by_user.push(repeats[0].0.0, weight);
                }
            }
            by_user.end_row();
        }
        Self { by_user, n_items }
    }

    /// Number of users, with and without a preference.
    pub fn n_users(&self) -> usize {
        self.by_user.n_rows()
    }

    /// Number of items, with and without a user who prefers them.
    pub fn n_items(&self) -> usize {
        self.n_items
    }

    /// Number of pairs.
    pub fn n_pairs(&self) -> usize {
        self.by_user.columns.len()
    }

    /// The preferences of `user`, in the order of the items.
    pub fn of_user(&self, user: UserId) -> impl ExactSizeIterator<Item = (ItemId, f32)> {
        self.by_user.row(user.index()).map(|(item, weight)| (ItemId(item), weight))
    }
}

impl PreferenceWeighting {
    fn weight_of(&self, interaction: &Interaction) -> f64 {
        let weight = f64::from(interaction.weight);
        let age_ms = (self.now.0 - interaction.time.0).max(0) as f64;
        self.half_life.map_or(weight, |half_life| weight * (-age_ms / half_life.0 as f64).exp2())
    }
}

/// A sparse matrix by rows, with the columns of each row rising.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SparseRows {
    offsets: Vec<usize>,
    columns: Vec<u32>,
    weights: Vec<f32>,
}

impl SparseRows {
    fn with_capacity(n_rows: usize, n_entries: usize) -> Self {
        let mut offsets = Vec::with_capacity(n_rows + 1);
        offsets.push(0);
        Self {
            offsets,
            columns: Vec::with_capacity(n_entries),
            weights: Vec::with_capacity(n_entries),
        }
    }

    fn push(&mut self, column: u32, weight: f32) {
        self.columns.push(column);
        self.weights.push(weight);
    }

    fn end_row(&mut self) {
        self.offsets.push(self.columns.len());
    }

    pub(super) fn n_rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(super) fn n_filled_rows(&self) -> usize {
        self.offsets.windows(2).filter(|range| range[0] < range[1]).count()
    }

    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> impl ExactSizeIterator<Item = (u32, f32)> {
        let range = self.offsets[row]..self.offsets[row + 1];
        self.columns[range.clone()].iter().copied().zip(self.weights[range].iter().copied())
    }

    /// Rows and columns exchanged. Cost: O(entries).
    pub(super) fn transposed(&self, n_columns: usize) -> Self {
        let offsets = offsets_of(self.columns.iter().map(|&column| column as usize), n_columns);
        let mut next = offsets.clone();
        let (mut columns, mut weights) =
            (vec![0; self.columns.len()], vec![0.0; self.columns.len()]);
        for row in 0..self.n_rows() {
            for (column, weight) in self.row(row) {
                let at = &mut next[column as usize];
                columns[*at] = row as u32;
                weights[*at] = weight;
                *at += 1;
            }
        }
        Self { offsets, columns, weights }
    }
}

/// Where the entries of each row begin if they are sorted by it, and where the last row ends.
fn offsets_of(rows: impl Iterator<Item = usize>, n_rows: usize) -> Vec<usize> {
    let mut offsets = vec![0; n_rows + 1];
    for row in rows {
        offsets[row + 1] += 1;
    }
    let mut end = 0;
    for offset in &mut offsets {
        end += *offset;
        *offset = end;
    }
    offsets
}

#[cfg(test)]
mod tests {
    use super::*;
    use featurestore::NO_SESSION;

    fn interaction(user: u32, item: u32, time: i64, weight: f32) -> Interaction {
        let (user, item) = (UserId(user), ItemId(item));
        Interaction { user, item, time: Timestamp(time), session: NO_SESSION, weight }
    }

    fn pairs(preferences: &Preferences, user: u32) -> Vec<(u32, f32)> {
        preferences.of_user(UserId(user)).map(|(item, weight)| (item.0, weight)).collect()
    }

    #[test]
    fn repeated_pairs_become_one_with_the_sum_of_their_decayed_weights() {
        let interactions =
            [interaction(1, 4, 0, 1.0), interaction(1, 2, 100, 3.0), interaction(1, 4, 100, 1.0)];
        let weighting =
            PreferenceWeighting { half_life: Some(Span(100)), now: Timestamp(100), log1p: false };
        let preferences = Preferences::from_interactions(&interactions, 3, 5, weighting);
        assert_eq!(pairs(&preferences, 0), []);
        assert_eq!(pairs(&preferences, 1), [(2, 3.0), (4, 1.5)]);
        let logarithmic = PreferenceWeighting { log1p: true, ..weighting };
        let preferences = Preferences::from_interactions(&interactions, 3, 5, logarithmic);
        assert_eq!(pairs(&preferences, 1), [(2, 4f32.ln()), (4, 2.5f32.ln())]);
    }

    #[test]
    fn a_weight_that_is_not_positive_is_no_preference() {
        let pairs = [(UserId(0), ItemId(0), -1.0), (UserId(0), ItemId(1), f32::NAN)];
        assert_eq!(Preferences::from_pairs(&pairs, 1, 2).n_pairs(), 0);
    }

    #[test]
    fn transposing_twice_changes_nothing() {
        let pairs = [(2, 1, 0.5), (0, 3, 1.5), (0, 0, 2.5), (2, 0, 3.5)];
        let pairs = pairs.map(|(user, item, weight)| (UserId(user), ItemId(item), weight));
        let rows = Preferences::from_pairs(&pairs, 4, 5).by_user;
        assert_eq!(rows.transposed(5).row(0).collect::<Vec<_>>(), [(0, 2.5), (2, 3.5)]);
        assert_eq!(rows.transposed(5).transposed(4), rows);
    }
}
