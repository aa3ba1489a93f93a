//! Gradient-boosted trees as they are served.
//!
//! A forest is read from LightGBM's text ([`crate::model_text`]) or from bytes of its own, and is
//! checked in both cases, so that scoring cannot leave its arrays or run in circles. One row is
//! scored exactly as LightGBM does it, to the bit; the server scores blocks of rows, with the same
//! decisions and the same sums.

mod block;
mod bytes;
mod tree;

pub use bytes::OpenForestError;
pub(crate) use tree::{Decision, Missing, RawTree};
pub use tree::{InvalidTree, MAX_LEAVES};

/// Up to this size a value is 0 to LightGBM, which keeps it as an `f32`.
const ZERO: f64 = 1e-35_f32 as f64;

/// The most features of a forest.
pub const MAX_FEATURES: usize = 65_536;

/// The most trees of a forest.
pub const MAX_TREES: usize = 100_000;

/// What the sum of a row's leaves means: LightGBM's objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// `lambdarank`: an order within one request.
    Rank,
    /// `binary`: the log-odds of the positive class.
    LogOdds,
    /// `regression`: the value itself.
    Value,
}

/// A sum of trees, in flat arrays. Nodes of a tree stand parent before child, leaves from left to
/// right.
#[derive(Clone, Debug, PartialEq)]
pub struct Forest {
    names: Vec<String>,
    output: Output,
    /// `[n_trees]`
    trees: Vec<Tree>,
    /// `[n_nodes]`, the feature each node looks at.
    features: Vec<u32>,
    /// `[n_nodes]`, by how much each split lowered the loss of the training.
    gains: Vec<f32>,
    /// `[n_nodes]`, up to this value left; the number of its set, counted through the forest, for a
    /// categorical node.
    thresholds: Vec<f64>,
    /// `[n_nodes]`
    decisions: Vec<Decision>,
    /// `[n_nodes]`, child `c >= 0` is node `c` of the tree, `c < 0` its leaf `!c`.
    left: Vec<i32>,
    /// `[n_nodes]`
    right: Vec<i32>,
    /// `[n_nodes]`, mean of the leaves below, weighted by training rows.
    means: Vec<f64>,
    /// `[n_leaves]`
    leaf_values: Vec<f64>,
    /// `[n_leaves]`, training rows.
    leaf_counts: Vec<u32>,
    /// `[n_sets + 1]`, where each set of categories starts in `set_bits`.
    set_starts: Vec<usize>,
    /// Sets of categories, as bits.
    set_bits: Vec<u32>,
    /// What the block scorer derives from the above.
    tests: Vec<block::Test>,
}

/// Where a tree stands in the arrays.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tree {
    first_node: usize,
    first_leaf: usize,
    n_leaves: usize,
    first_set: usize,
    n_sets: usize,
    /// Nodes on the longest way down.
    depth: u32,
}

impl Forest {
    /// Lays the trees out, once each is checked. The error comes with the number of its tree.
    pub(crate) fn build(
        names: Vec<String>,
        output: Output,
        trees: &[RawTree],
    ) -> Result<Self, (usize, InvalidTree)> {
        let mut forest = Self {
            names,
            output,
            trees: Vec::with_capacity(trees.len()),
            features: Vec::new(),
            gains: Vec::new(),
            thresholds: Vec::new(),
            decisions: Vec::new(),
            left: Vec::new(),
            right: Vec::new(),
            means: Vec::new(),
            leaf_values: Vec::new(),
            leaf_counts: Vec::new(),
            set_starts: vec![0],
            set_bits: Vec::new(),
            tests: Vec::new(),
        };
        for (number, tree) in trees.iter().enumerate() {
            forest.push(tree).map_err(|error| (number, error))?;
        }
        Ok(forest)
    }

    fn push(&mut self, raw: &RawTree) -> Result<(), InvalidTree> {
        let layout = raw.check(self.names.len())?;
        let mut tree = Tree {
            first_node: self.features.len(),
            first_leaf: self.leaf_values.len(),
            n_leaves: layout.leaves.len(),
            first_set: self.set_starts.len() - 1,
            n_sets: raw.cat_boundaries.len().saturating_sub(1),
            depth: 0,
        };
        self.leaf_values.extend(layout.leaves.iter().map(|&leaf| raw.leaf_value[leaf]));
        self.leaf_counts.extend(layout.leaves.iter().map(|&leaf| raw.leaf_count[leaf]));
        for &node in &layout.nodes {
            let decision = Decision(raw.decision_type[node]);
            let set = if decision.is_categorical() { tree.first_set as f64 } else { 0.0 };
            self.features.push(raw.split_feature[node]);
            self.gains.push(raw.split_gain[node]);
            self.thresholds.push(raw.threshold[node] + set);
            self.decisions.push(decision);
        }
        self.push_children(raw, &layout);
        self.push_means(&tree, &layout);
        let first_word = self.set_bits.len();
        let ends = raw.cat_boundaries.iter().skip(1);
        self.set_starts.extend(ends.map(|&end| first_word + end as usize));
        self.set_bits.extend_from_slice(&raw.cat_threshold);
        tree.depth = self.depth(&tree);
        self.push_tests(&tree, &layout.spans);
        self.trees.push(tree);
        Ok(())
    }

    /// Children under their new numbers.
    fn push_children(&mut self, raw: &RawTree, layout: &tree::Layout) {
        let mut node_number = vec![0i32; layout.nodes.len()];
        let mut leaf_number = vec![0i32; layout.leaves.len()];
        layout
            .nodes
            .iter()
            .enumerate()
            .for_each(|(number, &node)| node_number[node] = number as i32);
        layout
            .leaves
            .iter()
            .enumerate()
            .for_each(|(number, &leaf)| leaf_number[leaf] = !(number as i32));
        let renumber = |child: i32| {
            if child >= 0 { node_number[child as usize] } else { leaf_number[!child as usize] }
        };
        for &node in &layout.nodes {
            self.left.push(renumber(raw.left_child[node]));
            self.right.push(renumber(raw.right_child[node]));
        }
    }

    /// Leaves without a count weigh as if they had one row.
    fn push_means(&mut self, tree: &Tree, layout: &tree::Layout) {
        for &[start, _, end] in &layout.spans {
            let leaves = tree.first_leaf + start as usize..tree.first_leaf + end as usize;
            let (mut sum, mut count) = (0.0, 0.0);
            for leaf in leaves {
                let n = f64::from(self.leaf_counts[leaf].max(1));
                sum += n * self.leaf_values[leaf];
                count += n;
            }
            self.means.push(sum / count);
        }
    }

    fn depth(&self, tree: &Tree) -> u32 {
        let n_nodes = tree.n_leaves - 1;
        let mut depths = vec![1u32; n_nodes];
        for node in 0..n_nodes {
            let below = depths[node] + 1;
            for child in [self.left[tree.first_node + node], self.right[tree.first_node + node]] {
                if let Ok(child) = usize::try_from(child) {
                    depths[child] = below;
                }
            }
        }
        depths.into_iter().max().unwrap_or(0)
    }

    /// Names of the features, in the order of the columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What the scores mean.
    pub fn output(&self) -> Output {
        self.output
    }

    /// How many trees are summed.
    pub fn n_trees(&self) -> usize {
        self.trees.len()
    }

    /// By how much all splits of each feature lowered the loss of the training, `[n_features]`; 0 for
    /// one that no tree looks at. Cost: O(nodes).
    pub fn gain_by_feature(&self) -> Vec<f64> {
        let mut gains = vec![0.0; self.names.len()];
        for (&feature, &gain) in self.features.iter().zip(&self.gains) {
            gains[feature as usize] += f64::from(gain);
        }
        gains
    }

    /// Gives the features other names, in the same order.
    ///
    /// # Panics
    /// If their number differs.
    pub fn rename(&mut self, names: Vec<String>) {
        assert_eq!(names.len(), self.names.len(), "one name for each feature");
        self.names = names;
    }

    /// The score of one row of `n_features` values, NaN being missing: bit for bit LightGBM's raw
    /// score.
    ///
    /// Cost: one walk for each tree.
    ///
    /// # Panics
    /// If the row has another length.
    pub fn score_exact(&self, row: &[f32]) -> f64 {
        assert_eq!(row.len(), self.names.len(), "one value for each feature");
        self.trees
            .iter()
            .map(|tree| self.leaf_values[tree.first_leaf + self.leaf(tree, |f| row[f])])
            .sum()
    }

    /// What each feature added to the score of one row, `[n_features + 1]`; the last is the mean
    /// score, and all of them sum to the row's score within rounding.
    ///
    /// A step down the tree changes the mean of the leaves below, and that change goes to the
    /// feature that was looked at. Source: "Interpreting random forests", A. Saabas, 2014. Cost:
    /// one walk for each tree.
    ///
    /// # Panics
    /// If the row has another length.
    pub fn contributions(&self, row: &[f32]) -> Vec<f64> {
        assert_eq!(row.len(), self.names.len(), "one value for each feature");
        let mut parts = vec![0.0; row.len() + 1];
        for tree in &self.trees {
            let (mut child, mut mean) =
                if tree.n_leaves == 1 { (!0, 0.0) } else { (0, self.means[tree.first_node]) };
            parts[row.len()] += if child < 0 { self.leaf_values[tree.first_leaf] } else { mean };
            while child >= 0 {
                let node = tree.first_node + child as usize;
                let feature = self.features[node] as usize;
                child = if self.goes_left(node, row[feature]) {
                    self.left[node]
                } else {
                    self.right[node]
                };
                let below = match child >= 0 {
                    true => self.means[tree.first_node + child as usize],
                    false => self.leaf_values[tree.first_leaf + !child as usize],
                };
                parts[feature] += below - mean;
                mean = below;
            }
        }
        parts
    }

    /// The leaf of a tree that a row comes to; `value` gives the row's features.
    fn leaf(&self, tree: &Tree, value: impl Fn(usize) -> f32) -> usize {
        let mut child = if tree.n_leaves == 1 { !0 } else { 0 };
        while child >= 0 {
            let node = tree.first_node + child as usize;
            let left = self.goes_left(node, value(self.features[node] as usize));
            child = if left { self.left[node] } else { self.right[node] };
        }
        !child as usize
    }

    /// LightGBM's decision, with what it does to a dense row before: nearly nothing becomes 0.
    fn goes_left(&self, node: usize, value: f32) -> bool {
        let decision = self.decisions[node];
        if decision.is_categorical() {
            return holds(self.set(node), value);
        }
        let mut value = f64::from(value);
        let missing = decision.missing();
        if value.abs() <= ZERO || (value.is_nan() && missing != Missing::Nan) {
            value = 0.0;
        }
        match missing {
            Missing::Zero if value == 0.0 => decision.default_left(),
            Missing::Nan if value.is_nan() => decision.default_left(),
            _ => value <= self.thresholds[node],
        }
    }

    /// The bits of a node's set of categories.
    #[inline(always)]
    fn set(&self, node: usize) -> &[u32] {
        let set = self.thresholds[node] as usize;
        &self.set_bits[self.set_starts[set]..self.set_starts[set + 1]]
    }
}

/// The category that a value is. `u32::MAX`, which no set is large enough for, if it is none: NaN or
/// below 0. As in C++, the fraction is cut off, so that -0.5 is category 0.
#[inline(always)]
fn category(value: f32) -> u32 {
    if value > -1.0 { value as i32 as u32 } else { u32::MAX }
}

/// Whether a value's category is in a set.
#[inline(always)]
fn holds(set: &[u32], value: f32) -> bool {
    let category = category(value);
    let word = set.get(category as usize / 32).copied().unwrap_or(0);
    (word >> (category % 32)) & 1 == 1
}
