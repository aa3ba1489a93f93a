//! Sparse item-item rows: for each item its best neighbours, in memory or mapped from a release.

use std::io;
use std::path::Path;

use featurestore::{ItemId, Scored, best_first};

use crate::mapped::{Mapped, OpenError, write_sections};

const KIND: &[u8; 8] = b"itemrows";
const N_SECTIONS: usize = 3;

/// For each item its neighbours and their weights, best first (higher weight, then lower id). Never changes.
///
/// Weights are finite and may be negative. Compressed rows: item `i` owns the range `offsets[i]..offsets[i + 1]` of the
/// other two columns.
#[derive(Debug)]
pub struct ItemRows {
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Owned(RowsBuilder),
    Mapped(Mapped),
}

/// The columns of the rows: `offsets` is `[n_items + 1]`, the other two `[n_pairs]`.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    offsets: &'a [u64],
    neighbours: &'a [u32],
    weights: &'a [f32],
}

impl ItemRows {
    /// How many items have a row, if only an empty one.
    pub fn n_items(&self) -> usize {
        self.columns().n_items()
    }

    /// How many neighbours all rows have together.
    pub fn n_pairs(&self) -> usize {
        self.columns().neighbours.len()
    }

    /// The neighbours of `item` and their weights, best first; empty for an item beyond the rows.
    pub fn row(&self, item: ItemId) -> (&[u32], &[f32]) {
        self.columns().row(item)
    }

    /// Writes the rows as one file, and waits until it is on the disk.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let Columns { offsets, neighbours, weights } = self.columns();
        let sections: [&[u8]; N_SECTIONS] = [
            bytemuck::cast_slice(offsets),
            bytemuck::cast_slice(neighbours),
            bytemuck::cast_slice(weights),
        ];
        write_sections(path, KIND, &sections)
    }

    /// Maps the rows that `save` wrote. Cost: O(n_pairs), since every id and weight is checked once.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged: offsets that fall or leave the columns, an unknown neighbour, a weight
    /// that is not finite, a row that is not best first.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let mapped = Mapped::open(path, KIND, N_SECTIONS)?;
        let columns = Columns {
            offsets: mapped.u64s(0)?,
            neighbours: mapped.u32s(1)?,
            weights: mapped.f32s(2)?,
        };
        match columns.flaw() {
            Some(flaw) => Err(mapped.contradiction(flaw)),
            None => Ok(Self { storage: Storage::Mapped(mapped) }),
        }
    }

    /// The columns, looked up once for many rows.
    pub(crate) fn columns(&self) -> Columns<'_> {
        let checked = "the sections were checked when the file was opened";
        match &self.storage {
            Storage::Owned(rows) => Columns {
                offsets: &rows.offsets,
                neighbours: &rows.neighbours,
                weights: &rows.weights,
            },
            Storage::Mapped(file) => Columns {
                offsets: file.u64s(0).expect(checked),
                neighbours: file.u32s(1).expect(checked),
                weights: file.f32s(2).expect(checked),
            },
        }
    }
}

impl<'a> Columns<'a> {
    pub(crate) fn n_items(self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn row(self, item: ItemId) -> (&'a [u32], &'a [f32]) {
        if item.index() >= self.n_items() {
            return (&[], &[]);
        }
        let range = self.offsets[item.index()] as usize..self.offsets[item.index() + 1] as usize;
        (&self.neighbours[range.clone()], &self.weights[range])
    }

    /// What is wrong with the columns, if anything.
    fn flaw(self) -> Option<String> {
        let n_pairs = self.neighbours.len();
        if self.weights.len() != n_pairs {
            return Some(format!("{n_pairs} neighbours, but {} weights", self.weights.len()));
        }
        if self.offsets.first() != Some(&0) || self.offsets.last() != Some(&(n_pairs as u64)) {
            return Some(format!("the offsets do not span the {n_pairs} neighbours"));
        }
        if !self.offsets.is_sorted() {
            return Some("the offsets fall".to_owned());
        }
        let n_items = self.n_items();
        if let Some(id) = self.neighbours.iter().find(|&&id| id as usize >= n_items) {
            return Some(format!("neighbour {id} is not among the {n_items} items"));
        }
        if let Some(weight) = self.weights.iter().find(|weight| !weight.is_finite()) {
            return Some(format!("a weight is {weight}"));
        }
        let unsorted = (0..n_items as u32).find(|&item| !self.is_best_first(ItemId(item)));
        unsorted.map(|item| format!("the neighbours of item {item} are not best first"))
    }

    /// Whether the row of `item` is best first and free of equal entries.
    fn is_best_first(self, item: ItemId) -> bool {
        let (neighbours, weights) = self.row(item);
        let entry = |i: usize| Scored { item: ItemId(neighbours[i]), score: weights[i] };
        (1..neighbours.len()).all(|i| best_first(&entry(i - 1), &entry(i)).is_lt())
    }
}

/// Rows under construction, in the order of the items.
#[derive(Debug)]
pub(crate) struct RowsBuilder {
    offsets: Vec<u64>,
    neighbours: Vec<u32>,
    weights: Vec<f32>,
}

impl Default for RowsBuilder {
    fn default() -> Self {
        Self { offsets: vec![0], neighbours: Vec::new(), weights: Vec::new() }
    }
}

impl RowsBuilder {
    /// Adds the row of the next item, which is best first and finite.
    pub(crate) fn push(&mut self, row: &[Scored]) {
        self.neighbours.extend(row.iter().map(|neighbour| neighbour.item.0));
        self.weights.extend(row.iter().map(|neighbour| neighbour.score));
        self.offsets.push(self.neighbours.len() as u64);
    }

    /// Adds the rows of `next`, whose items follow.
    pub(crate) fn append(&mut self, next: &Self) {
        let base = self.neighbours.len() as u64;
        self.offsets.extend(next.offsets[1..].iter().map(|offset| base + offset));
        self.neighbours.extend(&next.neighbours);
        self.weights.extend(&next.weights);
    }

    pub(crate) fn build(self) -> ItemRows {
        ItemRows { storage: Storage::Owned(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(offsets: &[u64], neighbours: &[u32], weights: &[f32]) -> Result<ItemRows, OpenError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let sections: [&[u8]; N_SECTIONS] = [
            bytemuck::cast_slice(offsets),
            bytemuck::cast_slice(neighbours),
            bytemuck::cast_slice(weights),
        ];
        write_sections(&path, KIND, &sections).unwrap();
        ItemRows::open(&path)
    }

    #[test]
    fn rows_that_contradict_themselves_are_refused() {
        assert!(saved(&[0, 2, 3], &[1, 0, 0], &[2.0, -1.0, 1.0]).is_ok());
        for (offsets, neighbours, weights, flaw) in [
            (&[0u64, 2, 3][..], &[1u32, 0, 0][..], &[2.0f32, 1.0][..], "but 2 weights"),
            (&[], &[], &[], "do not span"),
            (&[1, 2, 3], &[1, 0, 0], &[2.0, 1.0, 1.0], "do not span"),
            (&[0, 2, 4], &[1, 0, 0], &[2.0, 1.0, 1.0], "do not span"),
            (&[0, 5, 3], &[1, 0, 0], &[2.0, 1.0, 1.0], "fall"),
            (&[0, 2, 3], &[2, 0, 0], &[2.0, 1.0, 1.0], "neighbour 2"),
            (&[0, 2, 3], &[1, 0, 0], &[2.0, f32::NAN, 1.0], "NaN"),
            (&[0, 2, 3], &[1, 0, 0], &[1.0, 2.0, 1.0], "not best first"),
            (&[0, 2, 3], &[0, 0, 0], &[1.0, 1.0, 1.0], "not best first"),
        ] {
            let error = saved(offsets, neighbours, weights).unwrap_err();
            let text =
                std::error::Error::source(&error).map_or(error.to_string(), |e| e.to_string());
            assert!(text.contains(flaw), "{text:?} does not say {flaw:?}");
        }
    }
}
