//! Best-first search of the flat graph.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use featurestore::{ItemId, Scored, keep_best};

use super::{HnswIndex, NO_NEIGHBOUR};
use crate::codes::QueryCodes;
use crate::kernels::{Kernel, Simd, dispatch, prefetch};
use crate::vectors::{Vectors, dot};

/// Memory of a search, kept from one to the next by each thread. It fits every index.
#[derive(Debug, Default)]
pub struct SearchScratch {
    query: QueryCodes,
    visited: Visited,
    /// Nodes whose neighbours are still to be looked at.
    open: BinaryHeap<Ranked>,
    /// The best `ef` nodes so far by their codes, the worst of them on top.
    best: BinaryHeap<Reverse<Ranked>>,
    /// Neighbours of one node that were not visited before.
    fresh: Vec<u32>,
    /// The items of the best nodes.
    found: Vec<ItemId>,
    /// When a search ends with what it has found; `None`: when it has found what there is.
    pub until: Option<Instant>,
    /// Whether a search ended so since this was last set to false.
    pub is_cut: bool,
}

/// After so many nodes whose neighbours were looked at, a search looks at the clock.
const STEPS_PER_LOOK: usize = 64;

impl HnswIndex {
    /// The `n` items with the largest inner products with `query` among those that `accept` lets pass, nearly: best first,
    /// fewer if there are not so many. `vectors` are those that the index was built from.
    ///
    /// `ef` is the breadth of the search, at least `n`: more finds more of them, and takes longer.
    /// Empty if `query` has a value that is not finite. Cost: about `2 m ef` inner products of codes and `ef` of
    /// vectors, most of them waiting for memory; if `accept` lets a share `p` pass, about `1 / p` times that, and never more than
    /// for the whole graph.
    pub fn search(
        &self,
        vectors: &Vectors,
        query: &[f32],
        n: usize,
        ef: usize,
        accept: impl Fn(ItemId) -> bool,
        scratch: &mut SearchScratch,
    ) -> Vec<Scored> {
        assert_eq!(query.len(), self.dim(), "a query has as many dimensions as the items");
        if n == 0 || self.n_nodes() == 0 || query.iter().any(|value| !value.is_finite()) {
            return Vec::new();
        }
        scratch.query.set(query, self.shape.stride());
        let ef = ef.max(n).min(self.n_nodes());
        let items = self.items.as_slice();
        let accept = |node: u32| accept(ItemId(items[node as usize]));
        dispatch(Descent { graph: self.graph(), ef, accept, scratch });
        let item = |Reverse(ranked): Reverse<Ranked>| ItemId(items[ranked.node() as usize]);
        scratch.found.clear();
        scratch.found.extend(scratch.best.drain().map(item));
        let mut found = Vec::with_capacity(scratch.found.len());
        vectors.look_at(&scratch.found, |i, vector| {
            let score = vector.map_or(0.0, |vector| dot(query, vector));
            found.push(Scored { item: scratch.found[i], score });
        });
        keep_best(&mut found, n);
        found
    }

    fn graph(&self) -> Graph<'_> {
        Graph {
            base: self.base.as_slice(),
            upper: self.upper_layers().collect(),
            codes: self.codes.rows.as_slice(),
            scales: self.codes.scales.as_slice(),
            m: self.shape.m,
            stride: self.shape.stride(),
        }
    }
}

/// The arrays of an index, as a search sees them.
struct Graph<'a> {
    base: &'a [u32],
    upper: Vec<&'a [u32]>,
    codes: &'a [i8],
    scales: &'a [f32],
    m: usize,
    stride: usize,
}

impl<'a> Graph<'a> {
    #[inline(always)]
    fn codes(&self, node: u32) -> &'a [i8] {
        &self.codes[node as usize * self.stride..][..self.stride]
    }

    /// `node` with its inner product with `query`, but for the query's scale.
    #[inline(always)]
    fn ranked<V: Simd>(&self, query: &QueryCodes, node: u32) -> Ranked {
        let product = query.dot::<V>(self.codes(node)) as f32;
        Ranked::new(product * self.scales[node as usize], node)
    }
}

/// The neighbours of `node` in a layer whose rows have `width` places.
#[inline(always)]
fn neighbours(layer: &[u32], width: usize, node: u32) -> impl Iterator<Item = u32> {
    let row = &layer[node as usize * width..][..width];
    row.iter().copied().take_while(|&node| node != NO_NEIGHBOUR)
}

/// A search from the top of the graph to its lowest layer, which leaves its results in `scratch.best`.
struct Descent<'a, A> {
    graph: Graph<'a>,
    ef: usize,
    accept: A,
    scratch: &'a mut SearchScratch,
}

impl<A: Fn(u32) -> bool> Kernel for Descent<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<V: Simd>(self) {
        let Self { graph, ef, accept, scratch } = self;
        let start = climb::<V>(&graph, &scratch.query);
        search_base::<V>(&graph, start, ef, accept, scratch);
    }
}

/// The node that greedy steps through the upper layers lead to.
#[inline(always)]
fn climb<V: Simd>(graph: &Graph<'_>, query: &QueryCodes) -> Ranked {
    let mut best = graph.ranked::<V>(query, 0);
    for layer in graph.upper.iter().rev() {
        loop {
            let before = best;
            for node in neighbours(layer, graph.m, before.node()) {
                best = best.max(graph.ranked::<V>(query, node));
            }
            if best == before {
                break;
            }
        }
    }
    best
}

/// Follows the best open node of the lowest layer until none can be among the best `ef`.
#[inline(always)]
fn search_base<V: Simd>(
    graph: &Graph<'_>,
    start: Ranked,
    ef: usize,
    accept: impl Fn(u32) -> bool,
    scratch: &mut SearchScratch,
) {
    let SearchScratch { query, visited, open, best, fresh, until, is_cut, .. } = scratch;
    let n_nodes = graph.scales.len();
    visited.start(n_nodes);
    visited.visit(start.node());
    open.clear();
    best.clear();
    open.push(start);
    let mut worst = Ranked::WORST;
    if accept(start.node()) {
        worst = keep(best, start, ef);
    }
    let mut n_steps = 0;
    while let Some(next) = open.pop() {
        if next < worst {
            break;
        }
        n_steps += 1;
        if n_steps % STEPS_PER_LOOK == 0 && until.is_some_and(|until| until <= Instant::now()) {
            *is_cut = true;
            break;
        }
        fresh.clear();
        for node in neighbours(graph.base, 2 * graph.m, next.node()) {
            if visited.visit(node) {
                prefetch(graph.codes(node));
                prefetch(&graph.scales[node as usize..][..1]);
                fresh.push(node);
            }
        }
        for &node in fresh.iter() {
            let ranked = graph.ranked::<V>(query, node);
            if ranked > worst {
                open.push(ranked);
                if accept(node) {
                    worst = keep(best, ranked, ef);
                }
            }
        }
        if let Some(next) = open.peek() {
            prefetch(&graph.base[next.node() as usize * 2 * graph.m..][..2 * graph.m]);
        }
    }
}

/// Adds `ranked` to the best `ef`, and gives what a node must surpass from now on.
fn keep(best: &mut BinaryHeap<Reverse<Ranked>>, ranked: Ranked, ef: usize) -> Ranked {
    if best.len() < ef {
        best.push(Reverse(ranked));
    } else if let Some(mut worst) = best.peek_mut() {
        *worst = Reverse(ranked);
    }
    match best.peek() {
        Some(&Reverse(worst)) if best.len() == ef => worst,
        _ => Ranked::WORST,
    }
}

/// A node with its score, in one number that orders by the score, then by falling node. NaN is the worst score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked(u64);

impl Ranked {
    /// Below every node.
    const WORST: Self = Self(0);

    #[inline(always)]
    fn new(score: f32, node: u32) -> Self {
        let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
        // The bits of floats order like integers, except that negative ones order backwards and above the others.
        let bits = score.to_bits();
        let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        Self(u64::from(ordered) << 32 | u64::from(!node))
    }

    #[inline(always)]
    fn node(self) -> u32 {
        !(self.0 as u32)
    }
}

/// The nodes that a search has seen, a bit for each: of 100,000 nodes they fit into the nearest cache, where a mark of a byte
/// each was waited for a quarter of the time.
#[derive(Debug, Default)]
struct Visited(Vec<u64>);

impl Visited {
    /// Begins a search of `n_nodes` nodes, none of them seen. Cost: 125 KB to clear for a million nodes.
    fn start(&mut self, n_nodes: usize) {
        self.0.clear();
        self.0.resize(n_nodes.div_ceil(u64::BITS as usize), 0);
    }

    /// Whether `node` is seen for the first time.
    #[inline(always)]
    fn visit(&mut self, node: u32) -> bool {
        let (word, bit) = (&mut self.0[(node / u64::BITS) as usize], 1 << (node % u64::BITS));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranked_orders_by_score_then_by_falling_node(
            a in (proptest::num::f32::NORMAL | proptest::num::f32::ZERO | proptest::num::f32::INFINITE, 0u32..9),
            b in (proptest::num::f32::NORMAL | proptest::num::f32::ZERO | proptest::num::f32::INFINITE, 0u32..9),
        ) {
            let order = a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
            prop_assert_eq!(Ranked::new(a.0, a.1).cmp(&Ranked::new(b.0, b.1)), order);
            prop_assert_eq!(Ranked::new(a.0, a.1).node(), a.1);
        }
    }

    #[test]
    fn marks_of_an_earlier_search_do_not_count() {
        let mut visited = Visited::default();
        for n_nodes in [2, 65, 200, 3] {
            visited.start(n_nodes);
            let last = n_nodes as u32 - 1;
            assert!(visited.visit(last) && visited.visit(0));
            assert!(!visited.visit(last) && !visited.visit(0));
        }
    }
}
