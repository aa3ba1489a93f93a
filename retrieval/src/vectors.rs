//! One vector for each item.

use std::io;
use std::path::Path;
use std::sync::Arc;

use featurestore::ItemId;

use crate::kernels::{Dot, ROWS_AHEAD, dispatch, prefetch};
use crate::mapped::{Array, Mapped, OpenError, write_sections};

const KIND: &[u8; 8] = b"vectors ";

/// Vectors of the items of a release: `[n_items, dim]`, row-major, finite. A row of zeros is an item without a vector.
/// A clone shares them.
#[derive(Clone, Debug)]
pub struct Vectors {
    rows: Array<f32>,
    n_items: usize,
    dim: usize,
}

/// Why an array cannot be the vectors of items.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VectorsError {
    /// The array is not made of whole rows.
    #[error("{n_values} values are not made of rows of {dim}")]
    Shape {
        /// Length of the array.
        n_values: usize,
        /// Length of a row.
        dim: usize,
    },
    /// A value is NaN or infinite.
    #[error("the vector of item {} has a value that is not finite", item.0)]
    NotFinite {
        /// The first item with such a value.
        item: ItemId,
    },
}

impl Vectors {
    /// The vectors in `rows`: `[n_items, dim]`, row-major.
    ///
    /// # Errors
    /// If `rows` is not made of rows of `dim`, or has a value that is NaN or infinite.
    pub fn new(rows: Vec<f32>, dim: usize) -> Result<Self, VectorsError> {
        if dim == 0 || !rows.len().is_multiple_of(dim) {
            return Err(VectorsError::Shape { n_values: rows.len(), dim });
        }
        if let Some(at) = rows.iter().position(|value| !value.is_finite()) {
            return Err(VectorsError::NotFinite { item: ItemId((at / dim) as u32) });
        }
        Ok(Self { n_items: rows.len() / dim, rows: Array::owned(rows), dim })
    }

    /// Opens a file that `save` wrote, by memory map. Its values are trusted: the release's checksums are about them.
    ///
    /// # Errors
    /// If the file cannot be read, is of another kind, or its shape does not fit its length.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let file = Arc::new(Mapped::open(path, KIND, 2)?);
        let &[n_items, dim] = file.u64s(0)? else {
            return Err(file.contradiction("its shape is not made of two numbers"));
        };
        let rows = Array::<f32>::mapped(&file, 1)?;
        if dim == 0 || n_items.checked_mul(dim) != Some(rows.as_slice().len() as u64) {
            return Err(file.contradiction(format!("its vectors are not {n_items} x {dim}")));
        }
        Ok(Self { rows, n_items: n_items as usize, dim: dim as usize })
    }

    /// Writes the vectors to a file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let shape = [self.n_items as u64, self.dim as u64];
        write_sections(
            path,
            KIND,
            &[bytemuck::cast_slice(&shape), bytemuck::cast_slice(self.as_slice())],
        )
    }

    /// Number of rows, with and without a vector.
    pub fn n_items(&self) -> usize {
        self.n_items
    }

    /// Length of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All rows: `[n_items, dim]`, row-major.
    pub fn as_slice(&self) -> &[f32] {
        self.rows.as_slice()
    }

    /// The row of `item`, which must be one of `n_items`; zeros if it has no vector.
    pub fn row(&self, item: ItemId) -> &[f32] {
        &self.as_slice()[item.index() * self.dim..][..self.dim]
    }

    /// The vector of `item`; `None` if it has none, or is newer than the vectors.
    pub fn get(&self, item: ItemId) -> Option<&[f32]> {
        (item.index() < self.n_items).then(|| self.row(item)).filter(|row| has_direction(row))
    }

    /// Calls `look` with the position and the vector of each of `items`, in their order; `None` for those that [`get`](Self::get)
    /// has none of. Cost: rows that are not in the cache are loaded while others are looked at.
    pub fn look_at<'a>(&'a self, items: &[ItemId], mut look: impl FnMut(usize, Option<&'a [f32]>)) {
        let rows = self.as_slice();
        let row = |item: ItemId| {
            (item.index() < self.n_items).then(|| &rows[item.index() * self.dim..][..self.dim])
        };
        for (i, &item) in items.iter().enumerate() {
            if let Some(ahead) = items.get(i + ROWS_AHEAD).and_then(|item| row(*item)) {
                prefetch(ahead);
            }
            look(i, row(item).filter(|row| has_direction(row)));
        }
    }

    /// All rows with their items.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ItemId, &[f32])> {
        self.as_slice().chunks_exact(self.dim).enumerate().map(|(i, row)| (ItemId(i as u32), row))
    }
}

/// Whether `row` is a vector, and not the zeros of an item without one.
pub(crate) fn has_direction(row: &[f32]) -> bool {
    row.iter().any(|&value| value != 0.0)
}

/// The inner product of two rows of one length. The same bits on every machine.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "an inner product is of two rows of one length");
    dispatch(Dot { a, b })
}

/// The cosine of two rows of one length, as [`Direction::cosine`] has it.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    Direction::new(a).cosine(&Direction::new(b))
}

/// A row with its square: for many cosines of it.
#[derive(Clone, Copy, Debug)]
pub struct Direction<'a> {
    row: &'a [f32],
    square: f64,
}

impl<'a> Direction<'a> {
    /// That of `row`.
    pub fn new(row: &'a [f32]) -> Self {
        Self { row, square: f64::from(dot(row, row)) }
    }

    /// The cosine of two rows of one length, in `[-1, 1]`; NaN if one is zero, or so short that its square is.
    pub fn cosine(&self, other: &Direction<'_>) -> f32 {
        // Of an item that nearly nothing is known of the vector is nearly zero: the product of two squares would be zero in
        // single precision, and the quotient infinite.
        let norms = (self.square * other.square).sqrt();
        match norms > 0.0 {
            true => (f64::from(dot(self.row, other.row)) / norms).clamp(-1.0, 1.0) as f32,
            false => f32::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_finite_is_refused_with_its_item() {
        let error = Vectors::new(vec![0.0, 1.0, f32::NAN, 0.0], 2).unwrap_err();
        assert_eq!(error, VectorsError::NotFinite { item: ItemId(1) });
        assert!(Vectors::new(vec![f32::INFINITY], 1).is_err());
    }

    #[test]
    fn an_array_that_is_not_made_of_rows_is_refused() {
        let error = Vectors::new(vec![0.0; 5], 2).unwrap_err();
        assert_eq!(error, VectorsError::Shape { n_values: 5, dim: 2 });
        assert!(Vectors::new(vec![], 0).is_err());
    }

    #[test]
    fn an_item_has_no_vector_if_its_row_is_zero_or_missing() {
        let vectors = Vectors::new(vec![1.0, 2.0, 0.0, 0.0], 2).unwrap();
        assert_eq!(vectors.get(ItemId(0)), Some(&[1.0, 2.0][..]));
        assert_eq!(vectors.get(ItemId(1)), None);
        assert_eq!(vectors.get(ItemId(2)), None);
    }

    #[test]
    fn saving_and_opening_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors");
        let vectors = Vectors::new((0..35).map(|i| i as f32).collect(), 7).unwrap();
        vectors.save(&path).unwrap();
        let opened = Vectors::open(&path).unwrap();
        assert_eq!((opened.n_items(), opened.dim()), (5, 7));
        assert_eq!(opened.as_slice(), vectors.as_slice());
    }

    #[test]
    fn a_cosine_is_never_infinite() {
        assert_eq!(cosine(&[3.0, 4.0], &[4.0, 3.0]), 0.96);
        assert!((cosine(&[1e-15, 0.0], &[2e-15, 0.0]) - 1.0).abs() < 1e-6);
        assert!(cosine(&[0.0, 0.0], &[1.0, 2.0]).is_nan());
        assert!(cosine(&[1e-30, 1e-30], &[1.0, 2.0]).is_nan());
    }
}
