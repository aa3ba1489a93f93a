//! Scoring many rows at once: the fast path of the server.
//!
//! Rows are scored in blocks of 64, tree by tree. A tree of up to 64 leaves is not walked: each of
//! its nodes is put to all rows of the block, and where the answer is "right", the leaves below its
//! left child are struck out of the row's bits. The leaf of a row is the first one left. That has
//! no branch that depends on the data, and all it does is compare and mask columns, which compilers
//! turn into vector instructions. Larger trees are walked, eight rows side by side.
//!
//! Source: "QuickScorer: a fast algorithm to rank documents with additive ensembles of regression
//! trees", SIGIR 2015; rows side by side as in "RapidScorer: fast tree ensemble evaluation by
//! maximizing compactness in data level parallelization", KDD 2018.

use super::{Forest, Missing, Tree, ZERO, holds};

/// Rows of a block.
const BLOCK: usize = 64;

/// Rows that are walked side by side, so that one waits for memory while another computes.
const ABREAST: usize = 8;

/// One feature of a block of rows.
type Lanes = [f32; BLOCK];

/// A node as blocks see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Test {
    feature: u32,
    /// The node's threshold, rounded down to what an `f32` can be without changing a decision.
    cut: f32,
    kind: Kind,
    /// The node's place in the forest.
    node: u32,
    /// Bits of the leaves that are left over when the answer is "right"; all of them in trees of
    /// over 64 leaves.
    keep: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Left up to the cut; NaN goes right.
    NanRight,
    /// Left up to the cut; NaN goes left.
    NanLeft,
    /// Left if it is in a set of categories.
    Set,
    /// Zero is missing too. Models that we train have no such node.
    Zero,
}

/// Sets of up to so many words are put to a block word by word; in larger ones, each row looks up the
/// word of its own category.
const MOST_WORDS: usize = 32;

/// Bits of leaves: 32 of them where they suffice, since twice as many rows then fit into a vector.
trait LeafBits: Copy {
    const ALL: Self;
    fn from_keep(keep: u64) -> Self;
    fn strike(&mut self, is_left: bool, keep: Self);
    fn first(self) -> usize;
}

impl LeafBits for u32 {
    const ALL: Self = Self::MAX;

    #[inline(always)]
    fn from_keep(keep: u64) -> Self {
        keep as Self
    }

    #[inline(always)]
    fn strike(&mut self, is_left: bool, keep: Self) {
        *self &= if is_left { Self::MAX } else { keep };
    }

    #[inline(always)]
    fn first(self) -> usize {
        self.trailing_zeros() as usize
    }
}

impl LeafBits for u64 {
    const ALL: Self = Self::MAX;

    #[inline(always)]
    fn from_keep(keep: u64) -> Self {
        keep
    }

    #[inline(always)]
    fn strike(&mut self, is_left: bool, keep: Self) {
        *self &= if is_left { Self::MAX } else { keep };
    }

    #[inline(always)]
    fn first(self) -> usize {
        self.trailing_zeros() as usize
    }
}

/// The largest `f32` up to `threshold`, and moved to the edge of what counts as 0 if it lies there:
/// `x <= cut` is then LightGBM's decision for every `f32` x, its rounding of small values to 0
/// included.
fn cut(threshold: f64) -> f32 {
    let edge = ZERO as f32;
    if threshold.abs() <= ZERO {
        return if threshold >= 0.0 { edge } else { (-edge).next_down() };
    }
    let nearest = threshold as f32;
    if f64::from(nearest) > threshold { nearest.next_down() } else { nearest }
}

impl Forest {
    /// Derives the tests of a tree's nodes; `spans` as in [`super::tree::Layout`].
    ///
    /// Leaves can be struck out in any order. Tests of one kind stand together, so that no branch is
    /// to be foretold from one node to the next. Walks need the order of the nodes.
    pub(super) fn push_tests(&mut self, tree: &Tree, spans: &[[u32; 3]]) {
        let is_struck = tree.n_leaves <= 64;
        for (node, &[start, middle, _]) in (tree.first_node..).zip(spans) {
            let keep = if is_struck { !(((1 << (middle - start)) - 1) << start) } else { u64::MAX };
            self.tests.push(Test {
                feature: self.features[node],
                cut: cut(self.thresholds[node]),
                kind: self.kind(node),
                node: u32::try_from(node).expect("a forest in memory has fewer than 2^32 nodes"),
                keep,
            });
        }
        if is_struck {
            self.tests[tree.first_node..].sort_by_key(|test| (test.kind, test.feature));
        }
    }

    fn kind(&self, node: usize) -> Kind {
        let decision = self.decisions[node];
        match decision.missing() {
            _ if decision.is_categorical() => Kind::Set,
            Missing::Zero => Kind::Zero,
            Missing::None if 0.0 <= self.thresholds[node] => Kind::NanLeft,
            Missing::Nan if decision.default_left() => Kind::NanLeft,
            Missing::None | Missing::Nan => Kind::NanRight,
        }
    }

    /// Scores of many rows, `[n_rows]`, into `out`: those of [`Forest::score_exact`], rounded to
    /// `f32`.
    ///
    /// `columns` is `[n_features, n_rows]`, one feature after the other; NaN is missing.
    /// `max_trees` stops after the first so many trees, which are the ones that matter most. Cost:
    /// rows x nodes compares, eight to sixteen at once.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn score_block(
        &self,
        columns: &[f32],
        n_rows: usize,
        max_trees: Option<usize>,
        out: &mut [f32],
    ) {
        self.score_in_time(columns, n_rows, max_trees.unwrap_or(usize::MAX), &|| true, out);
    }

    /// As [`score_block`](Self::score_block) with all trees, as long as `is_late` does not say that
    /// time is over; then with the `first` ones, for all rows, so that they can be compared. Whether
    /// all trees were asked. It is looked at before each block of 64 rows.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn score_in_time(
        &self,
        columns: &[f32],
        n_rows: usize,
        first: usize,
        is_late: &dyn Fn() -> bool,
        out: &mut [f32],
    ) -> bool {
        assert_eq!(
            columns.len(),
            self.names.len() * n_rows,
            "one column of n_rows values for each feature"
        );
        assert_eq!(out.len(), n_rows, "room for one score for each row");
        let (first, rest) = self.trees.split_at(first.min(self.trees.len()));
        let mut block = vec![[0.0; BLOCK]; self.names.len()];
        let mut by_first = vec![0.0; n_rows];
        let mut is_whole = true;
        let chunks = out.chunks_mut(BLOCK).zip(by_first.chunks_mut(BLOCK));
        for (number, (out, by_first)) in chunks.enumerate() {
            for (feature, lanes) in block.iter_mut().enumerate() {
                lanes[..out.len()]
                    .copy_from_slice(&columns[feature * n_rows + number * BLOCK..][..out.len()]);
            }
            let mut sums = [0.0; BLOCK];
            self.add_sums(first, &block, &mut sums);
            by_first.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
            is_whole = is_whole && !is_late();
            if is_whole {
                self.add_sums(rest, &block, &mut sums);
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
            }
        }
        if !is_whole {
            out.copy_from_slice(&by_first);
        }
        is_whole
    }

    /// Adds the trees' parts of a block to `sums`, by the widest vectors that this machine has.
    fn add_sums(&self, trees: &[Tree], block: &[Lanes], sums: &mut [f64; BLOCK]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                // SAFETY: the machine was just asked for both features.
                return unsafe { self.add_sums_avx512(trees, block, sums) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the machine was just asked for the feature.
                return unsafe { self.add_sums_avx2(trees, block, sums) };
            }
        }
        self.add_sums_portable(trees, block, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn add_sums_avx512(&self, trees: &[Tree], block: &[Lanes], sums: &mut [f64; BLOCK]) {
        self.add_sums_portable(trees, block, sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn add_sums_avx2(&self, trees: &[Tree], block: &[Lanes], sums: &mut [f64; BLOCK]) {
        self.add_sums_portable(trees, block, sums);
    }

    /// The one implementation; the others compile it for more instructions.
    #[inline(always)]
    fn add_sums_portable(&self, trees: &[Tree], block: &[Lanes], sums: &mut [f64; BLOCK]) {
        for tree in trees {
            match tree.n_leaves {
                ..=32 => self.add_struck::<u32>(tree, block, sums),
                33..=64 => self.add_struck::<u64>(tree, block, sums),
                _ => self.add_walked(tree, block, sums),
            }
        }
    }

    /// Adds a tree by striking leaves out.
    #[inline(always)]
    fn add_struck<B: LeafBits>(&self, tree: &Tree, block: &[Lanes], sums: &mut [f64; BLOCK]) {
        let mut bits = [B::ALL; BLOCK];
        let tests = &self.tests[tree.first_node..][..tree.n_leaves - 1];
        for tests in tests.chunk_by(|a, b| a.kind == b.kind) {
            let kind = tests[0].kind;
            for test in tests {
                let lanes = &block[test.feature as usize];
                match kind {
                    Kind::NanRight => strike(&mut bits, lanes, test, |value| value <= test.cut),
                    #[expect(
                        clippy::neg_cmp_op_on_partial_ord,
                        reason = "NaN is not above the cut either, and goes left"
                    )]
                    Kind::NanLeft => strike(&mut bits, lanes, test, |value| !(value > test.cut)),
                    Kind::Set => strike_set(&mut bits, lanes, test, self.set(test.node as usize)),
                    Kind::Zero => strike(&mut bits, lanes, test, |value| {
                        self.goes_left(test.node as usize, value)
                    }),
                }
            }
        }
        let leaves = &self.leaf_values[tree.first_leaf..][..tree.n_leaves];
        sums.iter_mut().zip(bits).for_each(|(sum, bits)| *sum += leaves[bits.first()]);
    }

    /// Adds a tree by walking down it with several rows abreast; a row that has come to its leaf
    /// waits there.
    #[inline(always)]
    fn add_walked(&self, tree: &Tree, block: &[Lanes], sums: &mut [f64; BLOCK]) {
        for first in (0..BLOCK).step_by(ABREAST) {
            let mut children = [0i32; ABREAST];
            for _ in 0..tree.depth {
                for (lane, child) in children.iter_mut().enumerate() {
                    if *child >= 0 {
                        *child = self
                            .step(tree.first_node + *child as usize, |f| block[f][first + lane]);
                    }
                }
            }
            for (sum, child) in sums[first..].iter_mut().zip(children) {
                *sum += self.leaf_values[tree.first_leaf + !child as usize];
            }
        }
    }

    /// The child that a row goes to.
    #[inline(always)]
    fn step(&self, node: usize, value: impl Fn(usize) -> f32) -> i32 {
        let test = &self.tests[node];
        let value = value(test.feature as usize);
        let is_left = match test.kind {
            Kind::NanRight => value <= test.cut,
            Kind::NanLeft => value <= test.cut || value.is_nan(),
            Kind::Set | Kind::Zero => self.goes_left(node, value),
        };
        if is_left { self.left[node] } else { self.right[node] }
    }
}

/// Strikes out leaves of the rows that do not go left.
#[inline(always)]
fn strike<B: LeafBits>(
    bits: &mut [B; BLOCK],
    lanes: &Lanes,
    test: &Test,
    is_left: impl Fn(f32) -> bool,
) {
    let keep = B::from_keep(test.keep);
    bits.iter_mut().zip(lanes).for_each(|(bits, &value)| bits.strike(is_left(value), keep));
}

/// As [`strike`], left being a set of categories.
#[inline(always)]
fn strike_set<B: LeafBits>(bits: &mut [B; BLOCK], lanes: &Lanes, test: &Test, set: &[u32]) {
    if set.len() > MOST_WORDS {
        return strike(bits, lanes, test, |value| holds(set, value));
    }
    let (mut categories, mut found) = ([0u32; BLOCK], [0u32; BLOCK]);
    categories.iter_mut().zip(lanes).for_each(|(to, &value)| *to = small_category(value));
    for (number, &word) in (0u32..).zip(set) {
        for (found, category) in found.iter_mut().zip(categories) {
            *found |= if category / 32 == number { word >> (category % 32) } else { 0 };
        }
    }
    let keep = B::from_keep(test.keep);
    bits.iter_mut().zip(found).for_each(|(bits, found)| bits.strike(found & 1 == 1, keep));
}

/// As [`super::category`] for those that sets of up to [`MOST_WORDS`] can hold, and a larger number for
/// all else. Conversion by `as` keeps to the range of its type, which vectors have no instruction for.
#[inline(always)]
fn small_category(value: f32) -> u32 {
    const LIMIT: f32 = 32.0 * MOST_WORDS as f32;
    // From here on a float's last bits are an integer's.
    const INTEGERS: f32 = 8_388_608.0;
    let is_small = (value > -1.0) & (value < LIMIT);
    let whole = if is_small { value.trunc() } else { LIMIT };
    (whole + INTEGERS).to_bits() - INTEGERS.to_bits()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Output, RawTree};
    use super::*;

    proptest! {
        #[test]
        fn the_cut_decides_as_the_threshold_does(threshold in any::<f64>(), bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let near = threshold as f32;
            for value in [value, near, near.next_up(), near.next_down()] {
                assert_cut_decides(value, threshold);
            }
        }

        #[test]
        fn every_width_of_vectors_gives_the_same_sums(seed in any::<u64>()) {
            let mut random = Random(seed);
            let trees: Vec<RawTree> = [1, 2, 31, 32, 33, 64, 65, 300]
                .iter()
                .map(|&n_leaves| random_tree(n_leaves, &mut random))
                .collect();
            let names = (0..N_FEATURES).map(|n| n.to_string()).collect();
            let forest = Forest::build(names, Output::Rank, &trees).unwrap();
            let block: Vec<Lanes> =
                (0..N_FEATURES).map(|_| std::array::from_fn(|_| random.value())).collect();
            let summed = |add: &dyn Fn(&mut [f64; BLOCK])| {
                let mut sums = [0.0; BLOCK];
                add(&mut sums);
                sums
            };
            let trees = &forest.trees;
            let portable = summed(&|sums| forest.add_sums_portable(trees, &block, sums));
            for (lane, sum) in portable.into_iter().enumerate() {
                let row: Vec<f32> = block.iter().map(|lanes| lanes[lane]).collect();
                prop_assert_eq!(forest.score_exact(&row), sum);
            }
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the machine was just asked for the feature.
                    let avx2 = summed(&|sums| unsafe { forest.add_sums_avx2(trees, &block, sums) });
                    prop_assert_eq!(avx2, portable);
                }
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                    let avx512 = summed(&|sums| {
                        // SAFETY: the machine was just asked for both features.
                        unsafe { forest.add_sums_avx512(trees, &block, sums) }
                    });
                    prop_assert_eq!(avx512, portable);
                }
            }
        }

        /// However late it gets, all rows are scored by the same trees.
        #[test]
        fn rows_are_scored_by_all_trees_or_all_by_the_first(seed in any::<u64>(), late_after in 0usize..6) {
            let mut random = Random(seed);
            let trees: Vec<RawTree> = (0..7).map(|_| random_tree(20, &mut random)).collect();
            let names = (0..N_FEATURES).map(|n| n.to_string()).collect();
            let forest = Forest::build(names, Output::Rank, &trees).unwrap();
            let n_rows = 4 * BLOCK + 3;
            let columns: Vec<f32> = (0..N_FEATURES * n_rows).map(|_| random.value()).collect();
            let scored = |max_trees| {
                let mut out = vec![0.0; n_rows];
                forest.score_block(&columns, n_rows, max_trees, &mut out);
                out
            };
            let asked = std::cell::Cell::new(0);
            let is_late = || asked.replace(asked.get() + 1) >= late_after;
            let mut out = vec![0.0; n_rows];
            let is_whole = forest.score_in_time(&columns, n_rows, 2, &is_late, &mut out);
            prop_assert_eq!(is_whole, late_after >= 5);
            prop_assert_eq!(out, scored(if is_whole { None } else { Some(2) }));
        }
    }

    #[test]
    fn small_categories_are_those_of_conversion() {
        let edges = [0.0, -0.0, -0.5, 0.99, 1.0, 63.5, 1_023.0, 1_023.99, -1e-40];
        assert!(edges.iter().all(|&value| small_category(value) == value as u32));
        let none = [-1.0, 1_024.0, 1e30, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        assert!(none.iter().all(|&value| small_category(value) == 1_024));
    }

    #[test]
    fn the_cut_near_zero_takes_all_that_counts_as_zero() {
        let edge = ZERO as f32;
        for threshold in [0.0, -0.0, 1e-40, -1e-40, 1e-36, -1e-36, ZERO, -ZERO] {
            for value in [0.0, edge, -edge, edge.next_up(), (-edge).next_down(), 1e-40, -1e-40] {
                assert_cut_decides(value, threshold);
            }
        }
    }

    fn assert_cut_decides(value: f32, threshold: f64) {
        if !value.is_nan() {
            let exact = if f64::from(value.abs()) <= ZERO { 0.0 } else { f64::from(value) };
            assert_eq!(value <= cut(threshold), exact <= threshold, "{value:e} {threshold:e}");
        }
    }

    const N_FEATURES: usize = 5;

    /// A small generator, so that a failing case is a seed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % n
        }

        fn value(&mut self) -> f32 {
            match self.below(8) {
                0 => f32::NAN,
                1 => 0.0,
                2 => [f32::INFINITY, f32::NEG_INFINITY, 1e-36, -1e-36][self.below(4)],
                _ => self.below(41) as f32 - 20.0,
            }
        }
    }

    /// Splits leaves at random, as LightGBM numbers them, with nodes of every kind.
    fn random_tree(n_leaves: usize, random: &mut Random) -> RawTree {
        let mut tree = RawTree { leaf_value: vec![0.0], leaf_count: vec![1], ..RawTree::default() };
        tree.cat_boundaries = vec![0, 1, 1];
        tree.cat_threshold = vec![0b1010_0110];
        for node in 0..n_leaves - 1 {
            let leaf = !(random.below(node + 1) as i32);
            let parents = tree.left_child.iter_mut().chain(&mut tree.right_child);
            parents.filter(|child| **child == leaf).for_each(|child| *child = node as i32);
            tree.left_child.push(leaf);
            tree.right_child.push(!(node as i32 + 1));
            tree.split_feature.push(random.below(N_FEATURES) as u32);
            tree.split_gain.push(1.0);
            tree.decision_type.push([0, 1, 2, 4, 6, 8, 10][random.below(7)]);
            let is_set = tree.decision_type[node] == 1;
            let number = random.value();
            let threshold = if number.is_nan() { -0.5 } else { f64::from(number) };
            tree.threshold.push(if is_set { random.below(2) as f64 } else { threshold });
            tree.leaf_value.push(0.0);
            tree.leaf_count.push(1);
        }
        tree.leaf_value.iter_mut().for_each(|leaf| *leaf = random.below(1_000) as f64 / 999.0);
        tree
    }
}
