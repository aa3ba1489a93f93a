//! The forest as bytes of a release: little-endian, bounded, checked on opening as strictly as a
//! text.
//!
//! Magic, format version, output, features (count, then length and UTF-8 of each name), trees
//! (count, then for each the numbers of its leaves, boundaries and words of categories, and its
//! arrays). The release's manifest holds the checksum.

use bytemuck::Pod;

use super::tree::MAX_SET_WORDS;
use super::{Forest, InvalidTree, MAX_FEATURES, MAX_LEAVES, MAX_TREES, Output, RawTree};

const MAGIC: &[u8; 8] = b"CASCTREE";
const VERSION: u32 = 2;

/// Why bytes are no forest.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OpenForestError {
    /// Something else altogether.
    #[error("the file does not start as a forest does")]
    Magic,
    /// Written by another release of the program.
    #[error("the forest has format version {0}, but {VERSION} is known")]
    Version(u32),
    /// The file ends too early.
    #[error("the forest is cut off at byte {0}")]
    CutOff(usize),
    /// The file goes on behind the last tree.
    #[error("{0} bytes follow the forest")]
    TooLong(usize),
    /// A count is above what is taken.
    #[error("{found} {what} are more than {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u32,
        /// The most that are taken.
        most: usize,
    },
    /// The output is none that is known.
    #[error("the forest has output {0}, which is unknown")]
    Output(u32),
    /// A name is no UTF-8.
    #[error("the name of feature {0} is not UTF-8")]
    Name(usize),
    /// A tree is not sound.
    #[error("tree {tree} is not sound")]
    Tree {
        /// Its number.
        tree: usize,
        /// What is off.
        source: InvalidTree,
    },
}

impl Forest {
    /// The forest as bytes that [`Forest::from_bytes`] opens. The same forest gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let output = match self.output {
            Output::Rank => 0,
            Output::LogOdds => 1,
            Output::Value => 2,
        };
        for number in [VERSION, output, self.names.len() as u32] {
            put(&mut bytes, &[number.to_le()]);
        }
        for name in &self.names {
            put(&mut bytes, &[(name.len() as u32).to_le()]);
            bytes.extend_from_slice(name.as_bytes());
        }
        put(&mut bytes, &[(self.trees.len() as u32).to_le()]);
        for tree in 0..self.trees.len() {
            put_tree(&mut bytes, &self.raw_tree(tree));
        }
        bytes
    }

    /// Opens what [`Forest::to_bytes`] made.
    ///
    /// # Errors
    /// Names what is off; no bytes make it panic, loop or take more memory than a multiple of their
    /// length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OpenForestError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(MAGIC.len()).ok() != Some(MAGIC) {
            return Err(OpenForestError::Magic);
        }
        match reader.number()? {
            VERSION => {}
            version => return Err(OpenForestError::Version(version)),
        }
        let output = match reader.number()? {
            0 => Output::Rank,
            1 => Output::LogOdds,
            2 => Output::Value,
            output => return Err(OpenForestError::Output(output)),
        };
        let n_features = reader.count("features", MAX_FEATURES)?;
        let names =
            (0..n_features).map(|feature| reader.name(feature)).collect::<Result<Vec<_>, _>>()?;
        let n_trees = reader.count("trees", MAX_TREES)?;
        let trees = (0..n_trees).map(|_| reader.tree()).collect::<Result<Vec<_>, _>>()?;
        match bytes.len() - reader.at {
            0 => {}
            left => return Err(OpenForestError::TooLong(left)),
        }
        Self::build(names, output, &trees)
            .map_err(|(tree, source)| OpenForestError::Tree { tree, source })
    }

    /// A tree taken out of the arrays again.
    fn raw_tree(&self, number: usize) -> RawTree {
        let tree = self.trees[number];
        let nodes = tree.first_node..tree.first_node + tree.n_leaves - 1;
        let leaves = tree.first_leaf..tree.first_leaf + tree.n_leaves;
        let sets = tree.first_set..tree.first_set + tree.n_sets;
        let words = self.set_starts[sets.start]..self.set_starts[sets.end];
        let threshold = |node: usize| match self.decisions[node].is_categorical() {
            true => self.thresholds[node] - tree.first_set as f64,
            false => self.thresholds[node],
        };
        let boundaries =
            if sets.is_empty() { &[] } else { &self.set_starts[sets.start..=sets.end] };
        RawTree {
            split_feature: self.features[nodes.clone()].to_vec(),
            split_gain: self.gains[nodes.clone()].to_vec(),
            threshold: nodes.clone().map(threshold).collect(),
            decision_type: self.decisions[nodes.clone()]
                .iter()
                .map(|decision| decision.0)
                .collect(),
            left_child: self.left[nodes.clone()].to_vec(),
            right_child: self.right[nodes].to_vec(),
            leaf_value: self.leaf_values[leaves.clone()].to_vec(),
            leaf_count: self.leaf_counts[leaves].to_vec(),
            cat_boundaries: boundaries.iter().map(|&start| (start - words.start) as u32).collect(),
            cat_threshold: self.set_bits[words].to_vec(),
        }
    }
}

fn put<T: Pod>(bytes: &mut Vec<u8>, values: &[T]) {
    bytes.extend_from_slice(bytemuck::cast_slice(values));
}

fn put_tree(bytes: &mut Vec<u8>, tree: &RawTree) {
    let counts = [tree.leaf_value.len(), tree.cat_boundaries.len(), tree.cat_threshold.len()];
    counts.iter().for_each(|&count| put(bytes, &[(count as u32).to_le()]));
    tree.split_feature.iter().for_each(|value| put(bytes, &[value.to_le()]));
    tree.split_gain.iter().for_each(|value| put(bytes, &[value.to_bits().to_le()]));
    tree.threshold.iter().for_each(|value| put(bytes, &[value.to_bits().to_le()]));
    put(bytes, &tree.decision_type);
    tree.left_child.iter().for_each(|value| put(bytes, &[value.to_le()]));
    tree.right_child.iter().for_each(|value| put(bytes, &[value.to_le()]));
    tree.leaf_value.iter().for_each(|value| put(bytes, &[value.to_bits().to_le()]));
    tree.leaf_count.iter().for_each(|value| put(bytes, &[value.to_le()]));
    tree.cat_boundaries.iter().for_each(|value| put(bytes, &[value.to_le()]));
    tree.cat_threshold.iter().for_each(|value| put(bytes, &[value.to_le()]));
}

/// Reads forward, never past the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], OpenForestError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(OpenForestError::CutOff(self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn four_bytes(
        &mut self,
        count: usize,
    ) -> Result<impl Iterator<Item = [u8; 4]>, OpenForestError> {
        Ok(self
            .take(4 * count)?
            .chunks_exact(4)
            .map(|four| four.try_into().expect("chunks of four")))
    }

    fn unsigned(&mut self, count: usize) -> Result<Vec<u32>, OpenForestError> {
        Ok(self.four_bytes(count)?.map(u32::from_le_bytes).collect())
    }

    fn signed(&mut self, count: usize) -> Result<Vec<i32>, OpenForestError> {
        Ok(self.four_bytes(count)?.map(i32::from_le_bytes).collect())
    }

    fn floats(&mut self, count: usize) -> Result<Vec<f32>, OpenForestError> {
        Ok(self.four_bytes(count)?.map(f32::from_le_bytes).collect())
    }

    fn doubles(&mut self, count: usize) -> Result<Vec<f64>, OpenForestError> {
        let eight = self.take(8 * count)?.chunks_exact(8);
        Ok(eight
            .map(|eight| f64::from_le_bytes(eight.try_into().expect("chunks of eight")))
            .collect())
    }

    fn number(&mut self) -> Result<u32, OpenForestError> {
        Ok(self.unsigned(1)?[0])
    }

    fn count(&mut self, what: &'static str, most: usize) -> Result<usize, OpenForestError> {
        let found = self.number()?;
        if found as usize > most {
            Err(OpenForestError::TooMany { what, found, most })
        } else {
            Ok(found as usize)
        }
    }

    fn name(&mut self, feature: usize) -> Result<String, OpenForestError> {
        let len = self.number()? as usize;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| OpenForestError::Name(feature))
    }

    fn tree(&mut self) -> Result<RawTree, OpenForestError> {
        let n_leaves = self.count("leaves of a tree", MAX_LEAVES)?;
        let n_boundaries = self.count("sets of categories", MAX_LEAVES)?;
        let n_words = self.count("words of categories", MAX_SET_WORDS)?;
        let n_nodes = n_leaves.saturating_sub(1);
        Ok(RawTree {
            split_feature: self.unsigned(n_nodes)?,
            split_gain: self.floats(n_nodes)?,
            threshold: self.doubles(n_nodes)?,
            decision_type: self.take(n_nodes)?.to_vec(),
            left_child: self.signed(n_nodes)?,
            right_child: self.signed(n_nodes)?,
            leaf_value: self.doubles(n_leaves)?,
            leaf_count: self.unsigned(n_leaves)?,
            cat_boundaries: self.unsigned(n_boundaries)?,
            cat_threshold: self.unsigned(n_words)?,
        })
    }
}
