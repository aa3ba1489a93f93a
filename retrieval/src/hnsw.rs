//! The graph index: nearly the largest inner products, without looking at every item.
//!
//! hnsw_rs constructs the graph from the directions of the vectors; it is searched by inner product, in a flat layout of our own,
//! in memory or mapped from a file. A search goes by vectors of a byte a dimension, and what it has found is scored by the
//! vectors themselves. hnsw_rs knows distances only. The usual way out, one more dimension that makes all vectors
//! equally long, leaves the long ones, which are the answers, without links to them: on embeddings of 41,000 places it found .86
//! of the best 100 where directions find .97.
//! Sources: "Efficient and robust approximate nearest neighbor search using HNSW graphs", TPAMI 42(4), 2020;
//! "Understanding and improving proximity graph based maximum inner product search", AAAI 2020.

mod build;
mod layer;
mod search;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use build::{BuildIndexError, HnswConfig};
use featurestore::{ItemId, Scored};
pub use search::SearchScratch;

use crate::codes::Codes;
use crate::exact::{search_among, search_exact};
use crate::item_set::ItemSet;
use crate::kernels::LANES;
use crate::mapped::{Array, Flaw, Mapped, OpenError, write_sections};
use crate::vectors::Vectors;

const KIND: &[u8; 8] = b"hnsw    ";
const N_SECTIONS: usize = 6;

/// Fills a row of neighbours up to its width.
const NO_NEIGHBOUR: u32 = u32::MAX;

/// A layer more than hnsw_rs ever makes would be a damaged file.
const MAX_LAYERS: usize = 16;

/// A navigable graph over the items that have a vector.
///
/// Nodes are numbered by falling level, the entry point first, so that layer `l` holds the nodes `0..layer_sizes[l]`, and a row
/// of neighbours is found by multiplication.
#[derive(Debug)]
pub struct HnswIndex {
    shape: Shape,
    /// Neighbours in layer 0: `[n_nodes, 2 m]`, nearest first, filled up with `NO_NEIGHBOUR`.
    base: Array<u32>,
    /// Neighbours in the layers above, from layer 1 on: `[layer_sizes[l], m]` each.
    upper: Array<u32>,
    /// The item of each node: `[n_nodes]`.
    items: Array<u32>,
    /// The vector of each node: `[n_nodes, stride]`.
    codes: Codes,
}

/// The numbers that the arrays of an index must agree with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    /// Number of items that the index was built from, with and without a vector.
    n_items: usize,
    dim: usize,
    /// Most neighbours of a node in the layers above the lowest, which allows twice as many.
    m: usize,
    /// Number of nodes in each layer, from the lowest on, falling; empty if no item has a vector.
    layer_sizes: Vec<usize>,
}

impl Shape {
    fn n_nodes(&self) -> usize {
        self.layer_sizes.first().copied().unwrap_or(0)
    }

    /// Codes from one vector to the next.
    fn stride(&self) -> usize {
        self.dim.next_multiple_of(LANES)
    }

    fn to_numbers(&self) -> Vec<u64> {
        let fixed = [self.n_items, self.dim, self.m];
        fixed.iter().chain(&self.layer_sizes).map(|&n| n as u64).collect()
    }

    /// `None` if the numbers cannot be those of an index.
    fn from_numbers(numbers: &[u64]) -> Option<Self> {
        let numbers: Option<Vec<usize>> =
            numbers.iter().map(|&n| u32::try_from(n).ok().map(|n| n as usize)).collect();
        let numbers = numbers?;
        let (&[n_items, dim, m], layer_sizes) = numbers.split_first_chunk::<3>()?;
        let falls = layer_sizes.is_sorted_by(|lower, upper| lower >= upper);
        let is_filled = layer_sizes.last() != Some(&0);
        let fits =
            layer_sizes.len() <= MAX_LAYERS && layer_sizes.first().is_none_or(|&n| n <= n_items);
        (dim > 0 && m > 0 && falls && is_filled && fits).then(|| Self {
            n_items,
            dim,
            m,
            layer_sizes: layer_sizes.to_vec(),
        })
    }
}

impl HnswIndex {
    /// Opens a file that `save` wrote, by memory map. Every neighbour and item is checked, so that no search can leave the
    /// arrays. The codes are trusted: the release's checksums are about them. Cost: one pass over the graph.
    ///
    /// # Errors
    /// If the file cannot be read, is of another kind, or if its graph is not one.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let file = Arc::new(Mapped::open(path, KIND, N_SECTIONS)?);
        let shape = Shape::from_numbers(file.u64s(0)?)
            .ok_or_else(|| file.contradiction("its shape is not that of an index"))?;
        let index = Self {
            shape,
            base: Array::mapped(&file, 1)?,
            upper: Array::mapped(&file, 2)?,
            items: Array::mapped(&file, 3)?,
            codes: Codes::mapped(&file, 4)?,
        };
        index.check().map_err(|what| file.contradiction(what))?;
        Ok(index)
    }

    /// As `open`, if the index was built from vectors of the shape of `vectors`.
    fn open_for(path: &Path, vectors: &Vectors) -> Result<Self, OpenError> {
        let index = Self::open(path)?;
        if (index.shape.n_items, index.dim()) == (vectors.n_items(), vectors.dim()) {
            return Ok(index);
        }
        let flaw = Flaw::Content("it was built from vectors of another shape".to_owned());
        Err(OpenError::Malformed { path: path.to_owned(), flaw })
    }

    /// Writes the index to a file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let shape = self.shape.to_numbers();
        let [codes, scales] = self.codes.sections();
        let sections = [
            bytemuck::cast_slice(&shape),
            bytemuck::cast_slice(self.base.as_slice()),
            bytemuck::cast_slice(self.upper.as_slice()),
            bytemuck::cast_slice(self.items.as_slice()),
            codes,
            scales,
        ];
        write_sections(path, KIND, &sections)
    }

    /// Number of items that can be found: those that have a vector.
    pub fn n_nodes(&self) -> usize {
        self.shape.n_nodes()
    }

    /// Dimensions of a query.
    pub fn dim(&self) -> usize {
        self.shape.dim
    }

    /// What contradicts what, if anything does.
    fn check(&self) -> Result<(), &'static str> {
        let Shape { n_items, m, ref layer_sizes, .. } = self.shape;
        let n_nodes = self.n_nodes();
        let n_upper: usize = layer_sizes.iter().skip(1).sum();
        let lengths = [
            (self.base.as_slice().len(), n_nodes, 2 * m),
            (self.upper.as_slice().len(), n_upper, m),
            (self.items.as_slice().len(), n_nodes, 1),
            (self.codes.rows.as_slice().len(), n_nodes, self.shape.stride()),
            (self.codes.scales.as_slice().len(), n_nodes, 1),
        ];
        if lengths.iter().any(|&(len, rows, width)| rows.checked_mul(width) != Some(len)) {
            return Err("its arrays do not have the lengths that its shape says");
        }
        let is_node = |layer: usize| {
            move |&node: &u32| node == NO_NEIGHBOUR || (node as usize) < layer_sizes[layer]
        };
        let mut layers =
            std::iter::once(self.base.as_slice()).chain(self.upper_layers()).enumerate();
        if !layers.all(|(layer, rows)| rows.iter().all(is_node(layer))) {
            return Err("it has a neighbour that is not in its layer");
        }
        let mut is_taken = vec![false; n_items];
        let take = |&item: &u32| {
            is_taken.get_mut(item as usize).is_some_and(|taken| !std::mem::replace(taken, true))
        };
        if !self.items.as_slice().iter().all(take) {
            return Err("it has an item twice, or one that is not in the catalogue");
        }
        Ok(())
    }

    /// The rows of each layer above the lowest, from layer 1 on.
    fn upper_layers(&self) -> impl DoubleEndedIterator<Item = &[u32]> + ExactSizeIterator {
        let sizes = self.shape.layer_sizes.get(1..).unwrap_or(&[]);
        let mut rest = self.upper.as_slice();
        let layers: Vec<&[u32]> = sizes
            .iter()
            .map(|&size| rest.split_off(..size * self.shape.m).expect("the lengths were checked"))
            .collect();
        layers.into_iter()
    }
}

/// Number of items below which the exact scan serves. On the embedding of the grocery data, 68,000 items of 64 dimensions, a
/// scan for the best 250 takes 0.6 ms on one core; the graph finds .998 of them in 0.3 ms, but takes a minute to build.
pub const EXACT_BELOW: usize = 100_000;

/// Breadth of a search for each item that it is to find.
const EF_PER_ITEM: usize = 2;

/// Breadth of a search at least.
const MIN_EF: usize = 128;

/// What the inner product with an item by itself costs, in those of a scan of all of them. Of 100,000 items of 64 dimensions, three
/// tenths passing, one by one take 2.1 ms and all 3.7 ms; half of them passing, 4.3 ms and 3.3 ms (`cargo bench -p retrieval
/// --bench search -- passing`).
const SCATTERED: u64 = 3;

/// What a search looks at for each item of its breadth, if all pass, in items that are looked at one by one. By the same bench the
/// best 250 take 2.6 ms by the graph and 0.7 ms one by one if a fifth passes, 1.7 and 2.1 ms if three tenths do; if a hundredth
/// passes, 22 and 0.1 ms.
const NEAR: u64 = 16;

const EXACT_KIND: &[u8; 8] = b"exact   ";

/// How the items nearest to a user are found: by a scan of all of them while they are few, then by a graph.
#[derive(Debug)]
pub enum VectorIndex {
    /// Scan the vectors.
    Exact,
    /// Follow a graph.
    Hnsw(HnswIndex),
}

impl VectorIndex {
    /// An index of `vectors`: a graph if there are at least `EXACT_BELOW` of them.
    ///
    /// # Errors
    /// If the graph cannot be built as `config` says.
    pub fn build(vectors: &Vectors, config: &HnswConfig) -> Result<Self, BuildIndexError> {
        if vectors.n_items() < EXACT_BELOW {
            Ok(Self::Exact)
        } else {
            HnswIndex::build(vectors, config).map(Self::Hnsw)
        }
    }

    /// Writes the index to a file, which is nearly empty for a scan.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        match self {
            Self::Exact => write_sections(path, EXACT_KIND, &[]),
            Self::Hnsw(index) => index.save(path),
        }
    }

    /// Opens a file that `save` wrote, by memory map. `vectors` are those that the index was built from.
    ///
    /// # Errors
    /// If the file cannot be read, is of another kind, is not a graph, or was built from vectors of another shape.
    pub fn open(path: &Path, vectors: &Vectors) -> Result<Self, OpenError> {
        match Mapped::open(path, EXACT_KIND, 0) {
            Ok(_) => Ok(Self::Exact),
            Err(OpenError::Malformed { flaw: Flaw::Kind { .. }, .. }) => {
                HnswIndex::open_for(path, vectors).map(Self::Hnsw)
            }
            Err(error) => Err(error),
        }
    }

    /// As [`search`](Self::search), among `items` only: one by one where that costs less than to look for them among all.
    pub fn search_among(
        &self,
        vectors: &Vectors,
        query: &[f32],
        n: usize,
        items: &ItemSet,
        scratch: &mut SearchScratch,
    ) -> Vec<Scored> {
        let (n_passing, n_items) = (items.len() as u64, items.n_items() as u64);
        let scans = match self {
            Self::Exact => n_passing * SCATTERED <= n_items,
            // A search goes on until it has found `ef` that pass: it looks at about `NEAR ef / share` others.
            Self::Hnsw(_) => {
                n_passing.saturating_mul(n_passing) <= NEAR * breadth(n) as u64 * n_items
            }
        };
        match scans {
            true => search_among(vectors, query, n, items.iter()),
            false => self.search(vectors, query, n, |item| items.contains(item), scratch),
        }
    }

    /// The `n` items with the largest inner products with `query` among those that `accept` lets pass, best first; by a
    /// graph nearly those. `vectors` are those that the index was built from.
    /// Empty if `query` has a value that is not finite.
    pub fn search(
        &self,
        vectors: &Vectors,
        query: &[f32],
        n: usize,
        accept: impl Fn(ItemId) -> bool,
        scratch: &mut SearchScratch,
    ) -> Vec<Scored> {
        match self {
            Self::Exact => search_exact(vectors, query, n, accept),
            Self::Hnsw(index) => index.search(vectors, query, n, breadth(n), accept, scratch),
        }
    }
}

/// Breadth of a search for `n` items.
fn breadth(n: usize) -> usize {
    n.saturating_mul(EF_PER_ITEM).max(MIN_EF)
}

/// Share of the `n` items of `vectors` with the largest inner products that `search` finds, in `[0, 1]`: a mean over
/// `queries`, 1 if there are none. An item that scores as much as the `n`-th one counts as found, whichever of the two it
/// is. Cost: an exact scan and a search for each query.
pub fn recall_against_exact<'a>(
    vectors: &Vectors,
    queries: impl IntoIterator<Item = &'a [f32]>,
    n: usize,
    mut search: impl FnMut(&[f32]) -> Vec<Scored>,
) -> f64 {
    let (mut n_found, mut n_wanted) = (0, 0);
    for query in queries {
        let exact = search_exact(vectors, query, n, |_| true);
        let Some(last) = exact.last() else { continue };
        n_found += search(query).iter().filter(|scored| scored.score >= last.score).count();
        n_wanted += exact.len();
    }
    if n_wanted == 0 { 1.0 } else { n_found as f64 / n_wanted as f64 }
}
