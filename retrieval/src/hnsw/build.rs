//! Construction by hnsw_rs, and the extraction of its graph into flat arrays.

use std::cmp::Reverse;
use std::sync::Arc;

use featurestore::ItemId;
use hnsw_rs::prelude::{Distance, Hnsw};
use rayon::ThreadPoolBuilder;

use super::{HnswIndex, MAX_LAYERS, NO_NEIGHBOUR, Shape};
use crate::kernels::{LANES, SquaredDistance, dispatch};
use crate::mapped::Array;
use crate::vectors::{Vectors, has_direction};

/// How a graph is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HnswConfig {
    /// Most neighbours of a node in the upper layers, half of those in the lowest: 2 to 128. More finds more, and costs
    /// memory.
    pub m: usize,
    /// Breadth of the searches that find the neighbours of a new node. More gives a better graph, and takes longer.
    pub ef_construction: usize,
    /// Threads that insert. On one the same vectors always give the same graph; on several they race.
    pub n_threads: usize,
}

impl Default for HnswConfig {
    fn default() -> Self {
        Self { m: 16, ef_construction: 200, n_threads: 1 }
    }
}

/// Why a graph cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildIndexError {
    /// `m` is out of range.
    #[error("m is {m}, but must be 2 to 128")]
    Degree {
        /// The value.
        m: usize,
    },
    /// A breadth of zero, or no thread.
    #[error("ef_construction and n_threads must be at least 1")]
    Zero,
    /// The threads cannot be started.
    #[error("cannot start the threads that insert")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// Nodes that are inserted one after the other before the threads start: hnsw_rs leaves nodes that race for the first place
/// without any neighbour.
const N_BEFORE_THREADS: usize = 256;

type Graph = Hnsw<'static, f32, Squared>;
type Point = Arc<hnsw_rs::hnsw::Point<'static, f32>>;

impl HnswIndex {
    /// A graph over the items of `vectors` that have one.
    ///
    /// Cost: about 25 s for a million vectors of 64 dimensions on one core for each 10 of `ef_construction`; in memory four
    /// times the size of the finished index.
    ///
    /// # Errors
    /// If `config` is out of range, or its threads cannot be started.
    pub fn build(vectors: &Vectors, config: &HnswConfig) -> Result<Self, BuildIndexError> {
        if !(2..=128).contains(&config.m) {
            return Err(BuildIndexError::Degree { m: config.m });
        }
        if config.ef_construction == 0 || config.n_threads == 0 {
            return Err(BuildIndexError::Zero);
        }
        let items: Vec<ItemId> =
            vectors.iter().filter(|(_, row)| has_direction(row)).map(|(item, _)| item).collect();
        let rows = lengthen(vectors, &items);
        let graph = construct(&rows, items.len(), config)?;
        Ok(extract(&graph, vectors, &items, config.m))
    }
}

/// The vectors of `items`, scaled and with one more dimension, so that all of them have length 1, filled up with zeros:
/// `[items.len(), a multiple of LANES]`.
fn lengthen(vectors: &Vectors, items: &[ItemId]) -> Vec<f32> {
    let squared_norm = |item: &ItemId| -> f64 {
        vectors.row(*item).iter().map(|&value| f64::from(value).powi(2)).sum()
    };
    let longest = items.iter().map(squared_norm).fold(f64::MIN_POSITIVE, f64::max);
    let scale = longest.sqrt().recip();
    let stride = (vectors.dim() + 1).next_multiple_of(LANES);
    let mut rows = Vec::with_capacity(items.len() * stride);
    for item in items {
        rows.extend(vectors.row(*item).iter().map(|&value| (f64::from(value) * scale) as f32));
        rows.push((1.0 - squared_norm(item) / longest).max(0.0).sqrt() as f32);
        rows.resize(rows.len().next_multiple_of(stride), 0.0);
    }
    rows
}

/// The graph of `n_rows` rows of one length.
fn construct(rows: &[f32], n_rows: usize, config: &HnswConfig) -> Result<Graph, BuildIndexError> {
    let HnswConfig { m, ef_construction, n_threads } = *config;
    let graph = Hnsw::new(m, n_rows, MAX_LAYERS, ef_construction, Squared);
    let stride = rows.len() / n_rows.max(1);
    let mut rows: Vec<(&[f32], usize)> =
        rows.chunks_exact(stride.max(1)).enumerate().map(|(row, vector)| (vector, row)).collect();
    let n_first = if n_threads == 1 { rows.len() } else { rows.len().min(N_BEFORE_THREADS) };
    let raced = rows.split_off(n_first);
    rows.into_iter().for_each(|row| graph.insert_slice(row));
    if !raced.is_empty() {
        let threads = ThreadPoolBuilder::new().num_threads(n_threads).build()?;
        threads.install(|| graph.parallel_insert_slice(&raced));
    }
    Ok(graph)
}

/// Squared Euclidean distance: hnsw_rs only compares distances, and needs no root.
struct Squared;

impl Distance<f32> for Squared {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        dispatch(SquaredDistance { a, b })
    }
}

/// The graph in flat arrays, its nodes numbered by falling level.
fn extract(graph: &Graph, vectors: &Vectors, items: &[ItemId], m: usize) -> HnswIndex {
    let points = points_by_falling_level(graph, items.len());
    let level = |point: &Point| usize::from(point.get_point_id().0);
    let n_layers = points.first().map_or(0, |point| level(point) + 1);
    let layer_sizes: Vec<usize> =
        (0..n_layers).map(|layer| points.partition_point(|point| level(point) >= layer)).collect();
    let mut node_of_row = vec![0; items.len()];
    for (node, point) in points.iter().enumerate() {
        node_of_row[point.get_origin_id()] = node as u32;
    }
    let mut layers: Vec<Vec<u32>> = vec![Vec::new(); n_layers];
    for point in &points {
        let neighbours = point.get_neighborhood_id();
        for (layer, rows) in layers.iter_mut().enumerate().take(level(point) + 1) {
            let width = if layer == 0 { 2 * m } else { m };
            let nodes = neighbours[layer].iter().map(|neighbour| node_of_row[neighbour.d_id]);
            push_row(rows, nodes.filter(|&node| (node as usize) < layer_sizes[layer]), width);
        }
    }
    let node_items: Vec<ItemId> = points.iter().map(|point| items[point.get_origin_id()]).collect();
    let shape = Shape { n_items: vectors.n_items(), dim: vectors.dim(), m, layer_sizes };
    let mut layers = layers.into_iter();
    HnswIndex {
        base: Array::owned(layers.next().unwrap_or_default()),
        upper: Array::owned(layers.flatten().collect()),
        vectors: Array::owned(padded_rows(vectors, &node_items, shape.stride())),
        items: Array::owned(node_items.iter().map(|item| item.0).collect()),
        shape,
    }
}

/// All points, the highest level first, and in the order of their rows within a level.
fn points_by_falling_level(graph: &Graph, n_points: usize) -> Vec<Point> {
    if n_points == 0 {
        return Vec::new();
    }
    let points = graph.get_point_indexation();
    let levels = 0..=usize::from(graph.get_max_level_observed());
    let mut points: Vec<Point> =
        levels.flat_map(|level| points.get_layer_iterator(level)).collect();
    points.sort_by_key(|point| (Reverse(point.get_point_id().0), point.get_origin_id()));
    points
}

/// Appends a row of `nodes`, filled up to `width`.
fn push_row(rows: &mut Vec<u32>, nodes: impl Iterator<Item = u32>, width: usize) {
    let end = rows.len() + width;
    rows.extend(nodes.take(width));
    rows.resize(end, NO_NEIGHBOUR);
}

/// The vectors of `items`, each filled up to `stride` with zeros.
fn padded_rows(vectors: &Vectors, items: &[ItemId], stride: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(items.len() * stride);
    for &item in items {
        rows.extend_from_slice(vectors.row(item));
        rows.resize(rows.len().next_multiple_of(stride), 0.0);
    }
    rows
}
