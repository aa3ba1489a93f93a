//! One tree as it was read, and what must hold before it is scored.

/// The most leaves of a tree.
pub const MAX_LEAVES: usize = 65_536;

/// The most words of 32 categories in the sets of a tree. Far below 2^26, so that neither the largest
/// `i32` nor what stands for no category is found in a set.
pub(super) const MAX_SET_WORDS: usize = 1 << 22;

/// A tree as LightGBM writes it. Node 0 is the root; a child `c >= 0` is a node, a child `c < 0` is
/// leaf `!c`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RawTree {
    /// `[n_leaves - 1]`, the feature that each node looks at.
    pub(crate) split_feature: Vec<u32>,
    /// `[n_leaves - 1]`, by how much each split lowered the loss of the training.
    pub(crate) split_gain: Vec<f32>,
    /// `[n_leaves - 1]`: up to this value left; for a categorical node the number of its set.
    pub(crate) threshold: Vec<f64>,
    /// `[n_leaves - 1]`, a [`Decision`].
    pub(crate) decision_type: Vec<u8>,
    /// `[n_leaves - 1]`
    pub(crate) left_child: Vec<i32>,
    /// `[n_leaves - 1]`
    pub(crate) right_child: Vec<i32>,
    /// `[n_leaves]`
    pub(crate) leaf_value: Vec<f64>,
    /// `[n_leaves]`, training rows of each leaf.
    pub(crate) leaf_count: Vec<u32>,
    /// `[n_sets + 1]`, where each set of categories starts in `cat_threshold`; empty without a
    /// categorical node.
    pub(crate) cat_boundaries: Vec<u32>,
    /// Sets of categories as bits: those in it go left.
    pub(crate) cat_threshold: Vec<u32>,
}

/// Why a tree cannot be scored. The keys are those of LightGBM's text.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum InvalidTree {
    /// A key has another number of values than it must have.
    #[error("{key} has {found} values, but {expected} are needed")]
    Length {
        /// The key.
        key: &'static str,
        /// How many are needed.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A value is outside its range.
    #[error("{key}[{place}] is {value}, but must be {allowed}")]
    Value {
        /// The key.
        key: &'static str,
        /// The place in it.
        place: usize,
        /// What stands there.
        value: f64,
        /// What may stand there.
        allowed: &'static str,
    },
    /// Two parents share a child, or a node is its own ancestor.
    #[error("{key}[{place}] leads to {child}, which another node leads to")]
    Shared {
        /// The key.
        key: &'static str,
        /// The node.
        place: usize,
        /// The child.
        child: i32,
    },
}

impl InvalidTree {
    /// The key of LightGBM's text that is off.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Length { key, .. } | Self::Value { key, .. } | Self::Shared { key, .. } => key,
        }
    }
}

/// What a missing value is, to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Nothing: NaN counts as 0.
    None,
    /// 0 and NaN.
    Zero,
    /// NaN.
    Nan,
}

/// How a node decides: LightGBM's `decision_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision(pub(crate) u8);

impl Decision {
    const CATEGORICAL: u8 = 1;
    const DEFAULT_LEFT: u8 = 2;

    pub(crate) fn is_categorical(self) -> bool {
        self.0 & Self::CATEGORICAL != 0
    }

    /// Whether a missing value goes left.
    pub(crate) fn default_left(self) -> bool {
        self.0 & Self::DEFAULT_LEFT != 0
    }

    pub(crate) fn missing(self) -> Missing {
        match self.0 >> 2 & 3 {
            0 => Missing::None,
            1 => Missing::Zero,
            _ => Missing::Nan,
        }
    }
}

/// A tree whose every node and leaf is reached once, in an order that scoring likes.
pub(crate) struct Layout {
    /// Nodes from the root, parents before children, left before right.
    pub(crate) nodes: Vec<usize>,
    /// Leaves from left to right.
    pub(crate) leaves: Vec<usize>,
    /// For each of `nodes`: where its leaves start, where those of its right child start, where
    /// they end.
    pub(crate) spans: Vec<[u32; 3]>,
}

impl RawTree {
    /// Checks everything that scoring relies on. Cost: O(leaves).
    ///
    /// # Errors
    /// Names the key and the place of the first thing that is off.
    pub(crate) fn check(&self, n_features: usize) -> Result<Layout, InvalidTree> {
        self.check_lengths()?;
        let (features, decisions) = (&self.split_feature, &self.decision_type);
        let number = |feature: f64| feature < n_features as f64;
        all("leaf_value", self.leaf_value.iter().copied(), f64::is_finite, "finite")?;
        all("split_gain", self.split_gain.iter().map(|&g| g.into()), f64::is_finite, "finite")?;
        // Infinite thresholds are sound: they part what is missing from all that is there.
        all("threshold", self.threshold.iter().copied(), |value| !value.is_nan(), "a number")?;
        all(
            "split_feature",
            features.iter().map(|&f| f.into()),
            number,
            "the number of a feature",
        )?;
        all("decision_type", decisions.iter().map(|&d| d.into()), |d| d < 12.0, "0 to 11")?;
        self.check_categories()?;
        self.walk()
    }

    fn check_lengths(&self) -> Result<(), InvalidTree> {
        let n_leaves = self.leaf_value.len();
        if !(1..=MAX_LEAVES).contains(&n_leaves) {
            let value = n_leaves as f64;
            return Err(InvalidTree::Value {
                key: "num_leaves",
                place: 0,
                value,
                allowed: "1 to 65536",
            });
        }
        for (key, expected, found) in [
            ("split_feature", n_leaves - 1, self.split_feature.len()),
            ("split_gain", n_leaves - 1, self.split_gain.len()),
            ("threshold", n_leaves - 1, self.threshold.len()),
            ("decision_type", n_leaves - 1, self.decision_type.len()),
            ("left_child", n_leaves - 1, self.left_child.len()),
            ("right_child", n_leaves - 1, self.right_child.len()),
            ("leaf_count", n_leaves, self.leaf_count.len()),
        ] {
            if expected != found {
                return Err(InvalidTree::Length { key, expected, found });
            }
        }
        Ok(())
    }

    fn check_categories(&self) -> Result<(), InvalidTree> {
        for (key, found, most, allowed) in [
            ("cat_boundaries", self.cat_boundaries.len(), MAX_LEAVES, "at most 65536 numbers"),
            ("cat_threshold", self.cat_threshold.len(), MAX_SET_WORDS, "at most 2^22 numbers"),
        ] {
            if found > most {
                return Err(InvalidTree::Value { key, place: found, value: found as f64, allowed });
            }
        }
        let n_sets = self.cat_boundaries.len().saturating_sub(1);
        let falls = self.cat_boundaries.windows(2).position(|pair| pair[0] > pair[1]);
        if let Some(place) =
            falls.map(|set| set + 1).or((self.cat_boundaries.first() > Some(&0)).then_some(0))
        {
            let value = f64::from(self.cat_boundaries[place]);
            return Err(InvalidTree::Value {
                key: "cat_boundaries",
                place,
                value,
                allowed: "rising from 0",
            });
        }
        let (expected, found) =
            (self.cat_boundaries.last().map_or(0, |&end| end as usize), self.cat_threshold.len());
        if expected != found {
            return Err(InvalidTree::Length { key: "cat_threshold", expected, found });
        }
        let is_set = |value: f64| value.fract() == 0.0 && (0.0..n_sets as f64).contains(&value);
        let off = (0..self.threshold.len()).find(|&node| {
            Decision(self.decision_type[node]).is_categorical() && !is_set(self.threshold[node])
        });
        match off {
            Some(place) => Err(InvalidTree::Value {
                key: "threshold",
                place,
                value: self.threshold[place],
                allowed: "the number of a set of categories",
            }),
            None => Ok(()),
        }
    }

    /// Visits the tree from the root, left before right, and refuses to come anywhere twice.
    fn walk(&self) -> Result<Layout, InvalidTree> {
        let n_nodes = self.split_feature.len();
        let mut layout = Layout { nodes: Vec::new(), leaves: Vec::new(), spans: Vec::new() };
        let mut seen = Seen { nodes: vec![false; n_nodes], leaves: vec![false; n_nodes + 1] };
        let root = Edge { child: if n_nodes == 0 { !0 } else { 0 }, key: "left_child", parent: 0 };
        let mut stack = Vec::from([Step::Follow(root)]);
        while let Some(step) = stack.pop() {
            let n_leaves = layout.leaves.len() as u32;
            match step {
                Step::Between(place) => layout.spans[place][1] = n_leaves,
                Step::Leave(place) => layout.spans[place][2] = n_leaves,
                Step::Follow(edge) => match seen.follow(edge)? {
                    End::Leaf(leaf) => layout.leaves.push(leaf),
                    End::Node(node) => {
                        stack.extend(self.steps(node, layout.nodes.len()));
                        layout.nodes.push(node);
                        layout.spans.push([n_leaves; 3]);
                    }
                },
            }
        }
        match layout.nodes.len() {
            found if found == n_nodes => Ok(layout),
            // As many are reached as have a parent, so what is left over leads in a circle.
            found => Err(InvalidTree::Length { key: "left_child", expected: n_nodes, found }),
        }
    }

    /// What is to be done in a node, the last first; `place` is where it stands in the layout.
    fn steps(&self, node: usize, place: usize) -> [Step; 4] {
        let edge = |key, child| Step::Follow(Edge { child, key, parent: node });
        [
            Step::Leave(place),
            edge("right_child", self.right_child[node]),
            Step::Between(place),
            edge("left_child", self.left_child[node]),
        ]
    }
}

/// What is left to do in a walk.
enum Step {
    Follow(Edge),
    Between(usize),
    Leave(usize),
}

/// The way from a node to its child.
struct Edge {
    child: i32,
    key: &'static str,
    parent: usize,
}

/// Where an edge leads.
enum End {
    Node(usize),
    Leaf(usize),
}

/// What a walk has come to.
struct Seen {
    nodes: Vec<bool>,
    leaves: Vec<bool>,
}

impl Seen {
    /// Refuses an edge out of the tree, or to where another one has led.
    fn follow(&mut self, edge: Edge) -> Result<End, InvalidTree> {
        let Edge { child, key, parent: place } = edge;
        let (seen, end) = match usize::try_from(child) {
            Ok(node) => (self.nodes.get_mut(node), End::Node(node)),
            Err(_) => (self.leaves.get_mut(!child as usize), End::Leaf(!child as usize)),
        };
        let allowed = "a node or leaf of the tree";
        let seen = seen.ok_or(InvalidTree::Value { key, place, value: child.into(), allowed })?;
        if std::mem::replace(seen, true) {
            return Err(InvalidTree::Shared { key, place, child });
        }
        Ok(end)
    }
}

/// Refuses the first of a key's values that is not what it may be.
fn all(
    key: &'static str,
    values: impl Iterator<Item = f64>,
    is_allowed: impl Fn(f64) -> bool,
    allowed: &'static str,
) -> Result<(), InvalidTree> {
    match values.enumerate().find(|&(_, value)| !is_allowed(value)) {
        Some((place, value)) => Err(InvalidTree::Value { key, place, value, allowed }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root (leaves 0, 1 on the left by node 1; leaf 2 on the right).
    fn tree() -> RawTree {
        RawTree {
            split_feature: vec![0, 1],
            split_gain: vec![8.0, 2.0],
            threshold: vec![0.5, 1.5],
            decision_type: vec![8, 10],
            left_child: vec![1, !0],
            right_child: vec![!2, !1],
            leaf_value: vec![1.0, 2.0, 3.0],
            leaf_count: vec![10, 20, 30],
            ..RawTree::default()
        }
    }

    #[test]
    fn a_sound_tree_is_laid_out_from_left_to_right() {
        let layout = tree().check(2).unwrap();
        assert_eq!((layout.nodes, layout.leaves), (vec![0, 1], vec![0, 1, 2]));
        assert_eq!(layout.spans, [[0, 2, 3], [0, 1, 2]]);
        let stump = RawTree { leaf_value: vec![0.25], leaf_count: vec![9], ..RawTree::default() };
        assert_eq!(stump.check(1).unwrap().leaves, [0]);
    }

    #[test]
    fn what_is_off_is_named() {
        let broken = |change: fn(&mut RawTree)| {
            let mut tree = tree();
            change(&mut tree);
            tree.check(2).err().map(|error| error.key())
        };
        assert_eq!(broken(|tree| tree.left_child[1] = 0), Some("left_child"), "a circle");
        assert_eq!(
            broken(|tree| tree.left_child[0] = !0),
            Some("left_child"),
            "a leaf with two parents"
        );
        assert_eq!(broken(|tree| tree.right_child[0] = 2), Some("right_child"), "no such node");
        assert_eq!(
            broken(|tree| tree.right_child[0] = i32::MIN),
            Some("right_child"),
            "no such leaf"
        );
        assert_eq!(broken(|tree| tree.split_feature[0] = 2), Some("split_feature"));
        assert_eq!(broken(|tree| tree.split_gain[1] = f32::NAN), Some("split_gain"));
        assert_eq!(broken(|tree| tree.split_gain.clear()), Some("split_gain"));
        assert_eq!(broken(|tree| tree.threshold[0] = f64::NAN), Some("threshold"));
        assert_eq!(broken(|tree| tree.leaf_value[0] = f64::INFINITY), Some("leaf_value"));
        assert_eq!(broken(|tree| tree.decision_type[0] = 12), Some("decision_type"));
        assert_eq!(
            broken(|tree| tree.decision_type[0] = 1),
            Some("threshold"),
            "no set of categories"
        );
        assert_eq!(broken(|tree| tree.cat_boundaries = vec![0, 1]), Some("cat_threshold"));
        assert_eq!(broken(|tree| tree.cat_boundaries = vec![1, 0]), Some("cat_boundaries"));
        assert_eq!(broken(|tree| tree.leaf_count.clear()), Some("leaf_count"));
        assert_eq!(broken(|tree| tree.leaf_value.clear()), Some("num_leaves"));
    }

    #[test]
    fn a_circle_beside_the_tree_is_refused() {
        let mut tree = tree();
        tree.left_child[0] = !0;
        tree.left_child[1] = 1;
        assert_eq!(
            tree.check(2).err(),
            Some(InvalidTree::Length { key: "left_child", expected: 2, found: 1 })
        );
    }
}
