//! What the engine scores with.

use crate::forest::Forest;
use crate::linear::Linear;

/// A fitted model of either kind.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are a few rankers in a release, and none is moved about"
)]
pub enum Ranker {
    /// Trees.
    Forest(Forest),
    /// The baseline.
    Linear(Linear),
}

impl Ranker {
    /// Names of the features, in the order of the columns.
    pub fn names(&self) -> &[String] {
        match self {
            Self::Forest(forest) => forest.names(),
            Self::Linear(linear) => linear.names(),
        }
    }

    /// How many trees a score sums; 0 for the linear model.
    pub fn n_trees(&self) -> usize {
        match self {
            Self::Forest(forest) => forest.n_trees(),
            Self::Linear(_) => 0,
        }
    }

    /// Scores `n_rows` candidates into `out`, which is emptied first.
    ///
    /// `columns` is `[n_features, n_rows]`, one feature after the other; NaN is missing.
    ///
    /// # Panics
    /// If `columns` has another length.
    pub fn score(&self, columns: &[f32], n_rows: usize, out: &mut Vec<f32>) {
        self.score_in_time(columns, n_rows, &Hurry { share: 1.0, is_late: &|| false }, out);
    }

    /// As [`score`](Self::score), but by a part of the trees when time is over. Whether it was by
    /// all of them.
    ///
    /// # Panics
    /// If `columns` has another length.
    pub fn score_in_time(
        &self,
        columns: &[f32],
        n_rows: usize,
        hurry: &Hurry<'_>,
        out: &mut Vec<f32>,
    ) -> bool {
        out.clear();
        out.resize(n_rows, 0.0);
        match self {
            Self::Forest(forest) => {
                let first = (forest.n_trees() as f64 * hurry.share).ceil() as usize;
                forest.score_in_time(columns, n_rows, first, hurry.is_late, out)
            }
            Self::Linear(linear) => {
                linear.score_block(columns, n_rows, out);
                true
            }
        }
    }
}

/// What is done when time is over while candidates are scored.
pub struct Hurry<'a> {
    /// Part of the trees that are asked then, the first ones.
    pub share: f64,
    /// Whether it is over. Asked now and then.
    pub is_late: &'a dyn Fn() -> bool,
}
