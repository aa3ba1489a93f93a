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

    /// How many trees a score sums; 0 for the linear model. What the degradation ladder takes a
    /// part of.
    pub fn n_trees(&self) -> usize {
        match self {
            Self::Forest(forest) => forest.n_trees(),
            Self::Linear(_) => 0,
        }
    }

    /// Scores `n_rows` candidates into `out`, which is emptied first.
    ///
    /// `columns` is `[n_features, n_rows]`, one feature after the other; NaN is missing.
    /// `max_trees` stops a forest early.
    ///
    /// # Panics
    /// If `columns` has another length.
    pub fn score(
        &self,
        columns: &[f32],
        n_rows: usize,
        max_trees: Option<usize>,
        out: &mut Vec<f32>,
    ) {
        out.clear();
        out.resize(n_rows, 0.0);
        match self {
            Self::Forest(forest) => forest.score_block(columns, n_rows, max_trees, out),
            Self::Linear(linear) => linear.score_block(columns, n_rows, out),
        }
    }
}
