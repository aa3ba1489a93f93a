//! What the ranker hands over: items, and the columns that the rules look at.

use featurestore::{ItemId, Scored, Timestamp};
use rustc_hash::FxHashMap;

/// The code of an item that has no value in a category column.
pub const MISSING: u32 = u32::MAX;

/// Ranked items and their columns. The columns are aligned with the items.
#[derive(Clone, Copy, Debug)]
pub struct Slate<'a> {
    /// Best first, each item at most once.
    pub items: &'a [Scored],
    /// Category fields: those that caps and boosts name, and those that make items alike where there are no vectors.
    pub columns: &'a [CategoryColumn<'a>],
    /// What diversity compares; without them, the share of equal categories.
    pub vectors: Option<Vectors<'a>>,
    /// `[n]`: when each item was published, for freshness; `Timestamp::MIN` where that is unknown.
    pub published: Option<&'a [Timestamp]>,
    /// `[n]`: how often each item was shown to the user and not chosen, each time fading.
    pub served: Option<&'a [f32]>,
    /// What exploration may show, in the slate or not, in any order; the filters have seen it.
    pub newcomers: &'a [ItemId],
    /// The time of the request.
    pub now: Timestamp,
}

/// One category field of the items.
#[derive(Clone, Copy, Debug)]
pub struct CategoryColumn<'a> {
    /// Its name.
    pub field: &'a str,
    /// `[n]`: the code of each item's value, or [`MISSING`].
    pub codes: &'a [u32],
}

/// Vectors of the items.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    /// `[n, dim]`, row-major, L2-normalised; zeros where an item has none.
    pub values: &'a [f32],
    /// Length of a row.
    pub dim: usize,
}

impl<'a> Slate<'a> {
    pub(crate) fn codes(&self, field: &str) -> Option<&'a [u32]> {
        self.columns.iter().find(|column| column.field == field).map(|column| column.codes)
    }

    /// The rank of every item, from 0.
    pub(crate) fn ranks(&self) -> FxHashMap<ItemId, usize> {
        self.items.iter().enumerate().map(|(rank, scored)| (scored.item, rank)).collect()
    }

    /// # Panics
    /// If a column is not as long as the slate.
    pub(crate) fn assert_aligned(&self) {
        let n = self.items.len();
        for column in self.columns {
            assert_eq!(column.codes.len(), n, "column {} of a slate of {n}", column.field);
        }
        let values = self.vectors.map_or(0, |vectors| vectors.values.len());
        assert_eq!(
            values,
            self.vectors.map_or(0, |vectors| n * vectors.dim),
            "vectors of {n} items"
        );
        assert_eq!(self.published.map_or(n, <[_]>::len), n, "times of a slate of {n}");
        assert_eq!(self.served.map_or(n, <[_]>::len), n, "counts of a slate of {n}");
    }
}
