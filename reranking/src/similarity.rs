//! How alike two items of the slate are.

use crate::slate::{CategoryColumn, MISSING, Slate, Vectors};

/// Similarities in `[0, 1]`, of which an item has 1 with itself. They form a positive semidefinite matrix.
#[derive(Clone, Copy)]
pub(crate) enum Similarity<'a> {
    /// `(1 + cosine) / 2`: opposite vectors are least alike; a determinant of cosines would take them for equal.
    Vectors(Vectors<'a>),
    /// Share of the fields with equal values; a missing value equals nothing.
    Categories(&'a [CategoryColumn<'a>]),
}

impl<'a> Similarity<'a> {
    /// By vectors, or else by categories; `None` if the slate has neither.
    pub(crate) fn of(slate: &Slate<'a>) -> Option<Self> {
        match slate.vectors {
            Some(vectors) => Some(Self::Vectors(vectors)),
            None if slate.columns.is_empty() => None,
            None => Some(Self::Categories(slate.columns)),
        }
    }

    /// Similarity of the item at `rank` to each of the `n` items. A NaN vector is like no other.
    pub(crate) fn row(&self, rank: usize, n: usize) -> Vec<f32> {
        let mut row = vec![0.0; n];
        match self {
            Self::Vectors(vectors) => vectors.fill(rank, &mut row),
            Self::Categories(columns) => columns.iter().for_each(|column| {
                let code = column.codes[rank];
                let share = 1.0 / columns.len() as f32;
                for (sum, &other) in row.iter_mut().zip(column.codes) {
                    *sum += if other == code && code != MISSING { share } else { 0.0 };
                }
            }),
        }
        row[rank] = 1.0;
        row
    }
}

impl Vectors<'_> {
    fn fill(&self, rank: usize, row: &mut [f32]) {
        let one = &self.values[rank * self.dim..][..self.dim];
        for (out, other) in row.iter_mut().zip(self.values.chunks_exact(self.dim.max(1))) {
            let similarity = 0.5 + 0.5 * dot(one, other);
            *out = if similarity.is_nan() { 0.0 } else { similarity.clamp(0.0, 1.0) };
        }
    }
}

/// In eight sums, which the compiler turns into vector instructions; one sum would have to keep its order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (a, b) in a.zip(b) {
        for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f32>() + rest
}
