//! Rows of floats in a byte a value: a quarter of the memory, for a first look at many of them.
//!
//! The products are of integers, so that every instruction set gives the same ones.

use std::sync::Arc;

use crate::kernels::Simd;
use crate::mapped::{Array, Mapped, OpenError};

/// Largest code of a row.
const MAX_CODE: f32 = 127.0;

/// Rows in codes from -127 to 127, each row with its own scale: a value is about its code times the scale.
#[derive(Debug)]
pub(crate) struct Codes {
    /// `[n_rows, stride]`, row-major.
    pub(crate) rows: Array<i8>,
    /// `[n_rows]`, not negative.
    pub(crate) scales: Array<f32>,
}

impl Codes {
    /// Those of `rows`, each filled up to `stride` with zeros. Their values must be finite.
    pub(crate) fn new<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, stride: usize) -> Self {
        let mut codes = Vec::with_capacity(rows.len() * stride);
        let mut scales = Vec::with_capacity(rows.len());
        for row in rows {
            let scale = largest(row) / MAX_CODE;
            codes.extend(row.iter().map(|value| (value / scale).round() as i8));
            codes.resize(codes.len().next_multiple_of(stride), 0);
            scales.push(scale);
        }
        Self { rows: Array::owned(codes), scales: Array::owned(scales) }
    }

    /// Those whose [`sections`](Self::sections) are in `file` from `first` on.
    ///
    /// # Errors
    /// If they are not there.
    pub(crate) fn mapped(file: &Arc<Mapped>, first: usize) -> Result<Self, OpenError> {
        Ok(Self { rows: Array::mapped(file, first)?, scales: Array::mapped(file, first + 1)? })
    }

    /// What is written to a file.
    pub(crate) fn sections(&self) -> [&[u8]; 2] {
        [bytemuck::cast_slice(self.rows.as_slice()), bytemuck::cast_slice(self.scales.as_slice())]
    }
}

/// A query in codes, finer than those of rows. Its scale is left out: it is the same for all products.
#[derive(Debug, Default)]
pub(crate) struct QueryCodes(Vec<i16>);

impl QueryCodes {
    /// Replaces it by the codes of `query`, filled up to `stride`, a multiple of `LANES`, with zeros.
    pub(crate) fn set(&mut self, query: &[f32], stride: usize) {
        // The sum of all products must fit into 32 bits.
        let max = i32::MAX as usize / (stride * usize::from(i8::MIN.unsigned_abs()));
        let max = max.min(i16::MAX as usize) as f32;
        let scale = largest(query) / max;
        self.0.clear();
        self.0.extend(query.iter().map(|value| (value / scale).clamp(-max, max).round() as i16));
        self.0.resize(stride, 0);
    }

    /// The inner product with a row of codes, for use inside a kernel.
    #[inline(always)]
    pub(crate) fn dot<V: Simd>(&self, row: &[i8]) -> i32 {
        V::dot_integers(&self.0, row)
    }
}

fn largest(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |max: f32, value| max.max(value.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Kernel, LANES, run_with_each};
    use proptest::prelude::*;

    struct Product<'a>(&'a QueryCodes, &'a [i8]);

    impl Kernel for Product<'_> {
        type Output = i32;

        #[inline(always)]
        fn run<V: Simd>(self) -> i32 {
            self.0.dot::<V>(self.1)
        }
    }

    proptest! {
        #[test]
        fn a_product_of_codes_is_nearly_that_of_the_values(
            pairs in proptest::collection::vec((-10f32..10.0, -10f32..10.0), 1..300),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let stride = a.len().next_multiple_of(LANES);
            let rows = Codes::new([b.as_slice()].into_iter(), stride);
            let mut query = QueryCodes::default();
            query.set(&a, stride);
            let products = run_with_each(|| Product(&query, rows.rows.as_slice()));
            prop_assert!(products.iter().all(|product| *product == products[0]), "{products:?}");
            let (row_scale, n) = (f64::from(rows.scales.as_slice()[0]), pairs.len());
            let query_scale = f64::from(largest(&a)) / f64::from(*query.0.iter().max_by_key(|code| code.unsigned_abs()).unwrap()).abs();
            let product: f64 = pairs.iter().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            // Either code is off by half a step.
            let off = n as f64 * 10.0 * (row_scale + query_scale) * 0.51;
            let found = f64::from(products[0]) * row_scale * query_scale;
            prop_assert!((found - product).abs() <= off, "{found}, {product}, {off}");
        }
    }

    #[test]
    fn the_largest_products_fit() {
        for stride in [16, 64, 1_024, 1 << 20] {
            let mut query = QueryCodes::default();
            query.set(&vec![-1.0; stride], stride);
            let product = i64::from(query.0[0]) * i64::from(i8::MIN) * stride as i64;
            assert!(query.0[0] < 0);
            let row = vec![i8::MIN; stride];
            for found in run_with_each(|| Product(&query, &row)) {
                assert_eq!(i64::from(found), product);
            }
        }
    }

    #[test]
    fn rows_and_queries_of_zeros_have_codes_of_zeros() {
        let rows = Codes::new([[0.0; 3].as_slice()].into_iter(), LANES);
        let mut query = QueryCodes::default();
        query.set(&[0.0; 3], LANES);
        assert_eq!((rows.rows.as_slice(), rows.scales.as_slice()), (&[0; LANES][..], &[0.0][..]));
        assert_eq!(run_with_each(|| Product(&query, &[127; LANES]))[0], 0);
    }
}
