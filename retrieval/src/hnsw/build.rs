//! Construction by hnsw_rs, and the extraction of its graph into flat arrays.

use std::cmp::Reverse;
use std::sync::Arc;

use featurestore::ItemId;
use hnsw_rs::prelude::{Distance, Hnsw};
use rayon::ThreadPoolBuilder;

use super::layer::Layer;
use super::{HnswIndex, MAX_LAYERS, Shape};
use crate::codes::Codes;
use crate::kernels::{LANES, SquaredDistance, dispatch};
use crate::mapped::Array;
use crate::vectors::{Vectors, has_direction};

/// How a graph is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HnswConfig {
    /// Most neighbours of a node in the upper layers; the lowest allows twice as many: 2 to 128. More finds more, and costs
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
    /// Cost: 13 s for 41,000 vectors of 64 dimensions on two cores, more if many are alike; 4 KiB of memory for each meanwhile.
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
        let rows = directions(vectors, &items);
        let graph = construct(&rows, items.len(), config)?;
        Ok(extract(&graph, vectors, &items, &rows, config.m))
    }
}

/// The vectors of `items` at length 1, filled up with zeros: `[items.len(), stride]`.
fn directions(vectors: &Vectors, items: &[ItemId]) -> Vec<f32> {
    let stride = vectors.dim().next_multiple_of(LANES);
    let mut rows = Vec::with_capacity(items.len() * stride);
    for &item in items {
        let row = vectors.row(item);
        // In double precision the squares of the largest and smallest floats are still finite and above zero.
        let squared_norm: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
        let scale = squared_norm.sqrt().recip();
        rows.extend(row.iter().map(|&value| (f64::from(value) * scale) as f32));
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

/// The graph in flat arrays, its nodes numbered by falling level, with links back and to every node.
fn extract(
    graph: &Graph,
    vectors: &Vectors,
    items: &[ItemId],
    directions: &[f32],
    m: usize,
) -> HnswIndex {
    let points = points_by_falling_level(graph, items.len());
    let level = |point: &Point| usize::from(point.get_point_id().0);
    let n_layers = points.first().map_or(0, |point| level(point) + 1);
    let layer_sizes: Vec<usize> =
        (0..n_layers).map(|layer| points.partition_point(|point| level(point) >= layer)).collect();
    let row_of_node: Vec<usize> = points.iter().map(|point| point.get_origin_id()).collect();
    let node_items: Vec<ItemId> = row_of_node.iter().map(|&row| items[row]).collect();
    let shape = Shape { n_items: vectors.n_items(), dim: vectors.dim(), m, layer_sizes };
    let direction =
        |node: u32| &directions[row_of_node[node as usize] * shape.stride()..][..shape.stride()];
    let distance = |a: u32, b: u32| dispatch(SquaredDistance { a: direction(a), b: direction(b) });
    let mut layers = layers_of(&points, &row_of_node, &shape);
    layers.iter_mut().for_each(|layer| layer.link_back(distance));
    if let Some(base) = layers.first_mut() {
        base.link_all(distance);
    }
    let mut layers = layers.into_iter().map(Layer::into_rows);
    HnswIndex {
        base: Array::owned(layers.next().unwrap_or_default()),
        upper: Array::owned(layers.flatten().collect()),
        codes: Codes::new(node_items.iter().map(|item| vectors.row(*item)), shape.stride()),
        items: Array::owned(node_items.iter().map(|item| item.0).collect()),
        shape,
    }
}

/// The links of hnsw_rs, from the lowest layer on.
fn layers_of(points: &[Point], row_of_node: &[usize], shape: &Shape) -> Vec<Layer> {
    let mut node_of_row = vec![0; points.len()];
    for (node, &row) in row_of_node.iter().enumerate() {
        node_of_row[row] = node as u32;
    }
    let width = |layer: usize| if layer == 0 { 2 * shape.m } else { shape.m };
    let mut layers: Vec<Layer> =
        (0..shape.layer_sizes.len()).map(|layer| Layer::new(width(layer))).collect();
    for point in points {
        let neighbours = point.get_neighborhood_id();
        for ((layer, &size), links) in layers.iter_mut().zip(&shape.layer_sizes).zip(neighbours) {
            if layer.links.len() < size {
                let nodes = links.iter().map(|link| node_of_row[link.d_id]);
                layer.links.push(nodes.filter(|&node| (node as usize) < size).collect());
            }
        }
    }
    layers
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
