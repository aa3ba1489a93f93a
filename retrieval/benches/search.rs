//! Nearest items of 100,000: the flat graph, the exact scan, and hnsw_rs itself, at the same breadth.
//! The recall of each is printed before.

use std::hint::black_box;
use std::sync::OnceLock;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use featurestore::{ItemId, Scored};
use hnsw_rs::prelude::{DistL2, Hnsw};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use retrieval::exact::{search_among, search_exact};
use retrieval::hnsw::{HnswConfig, HnswIndex, SearchScratch, recall_against_exact};
use retrieval::item_set::ItemSet;
use retrieval::vectors::{Vectors, dot};

const N_ITEMS: usize = 100_000;
const DIM: usize = 64;
const N_QUERIES: usize = 64;
const CONFIG: HnswConfig = HnswConfig { m: 16, ef_construction: 200, n_threads: 2 };

/// Unit vectors around 1,000 centres, as embeddings are, rather than evenly spread.
fn unit_vectors(n: usize, random: &mut StdRng, centres: &[f32]) -> Vec<f32> {
    let mut rows = Vec::with_capacity(n * DIM);
    for _ in 0..n {
        let centre = random.random_range(0..centres.len() / DIM) * DIM;
        let row: Vec<f32> = centres[centre..centre + DIM]
            .iter()
            .map(|x| x + random.random_range(-1.0f32..1.0))
            .collect();
        let norm = dot(&row, &row).sqrt();
        rows.extend(row.iter().map(|x| x / norm));
    }
    rows
}

struct Fixture {
    vectors: Vectors,
    index: HnswIndex,
    queries: Vec<f32>,
}

impl Fixture {
    /// That of all benches: it takes minutes to build.
    fn shared() -> &'static Self {
        static FIXTURE: OnceLock<Fixture> = OnceLock::new();
        FIXTURE.get_or_init(Self::new)
    }

    fn new() -> Self {
        let mut random = StdRng::seed_from_u64(7);
        let centres: Vec<f32> = (0..1_000 * DIM).map(|_| random.random_range(-1.0..1.0)).collect();
        let rows = unit_vectors(N_ITEMS, &mut random, &centres);
        let queries = unit_vectors(N_QUERIES, &mut random, &centres);
        let vectors = Vectors::new(rows, DIM).expect("the values are finite");
        let index = HnswIndex::build(&vectors, &CONFIG).expect("the configuration is valid");
        Self { vectors, index, queries }
    }

    /// The same items in the index of hnsw_rs.
    fn reference(&self) -> Hnsw<'_, f32, DistL2> {
        let reference = Hnsw::new(CONFIG.m, N_ITEMS, 16, CONFIG.ef_construction, DistL2 {});
        let numbered: Vec<(&[f32], usize)> =
            self.vectors.iter().map(|(item, row)| (row, item.index())).collect();
        reference.parallel_insert_slice(&numbered);
        reference
    }

    fn queries(&self) -> impl Iterator<Item = &[f32]> + Clone {
        self.queries.chunks_exact(DIM)
    }

    fn search_reference(
        &self,
        reference: &Hnsw<'_, f32, DistL2>,
        query: &[f32],
        n: usize,
        ef: usize,
    ) -> Vec<Scored> {
        let found = reference.search(query, n, ef);
        let item = |d_id: usize| ItemId(d_id as u32);
        let score = |d_id: usize| dot(query, self.vectors.row(item(d_id)));
        found.iter().map(|f| Scored { item: item(f.d_id), score: score(f.d_id) }).collect()
    }
}

fn search(c: &mut Criterion) {
    let fixture = Fixture::shared();
    let (Fixture { vectors, index, .. }, reference) = (fixture, fixture.reference());
    let mut scratch = SearchScratch::default();
    let mut group = c.benchmark_group("search");
    group.sample_size(20);
    for (n, ef) in [(10, 64), (100, 200), (1_000, 2_000)] {
        let flat = recall_against_exact(vectors, fixture.queries(), n, |query| {
            index.search(vectors, query, n, ef, |_| true, &mut scratch)
        });
        let of_reference = recall_against_exact(vectors, fixture.queries(), n, |query| {
            fixture.search_reference(&reference, query, n, ef)
        });
        println!("top {n}, ef {ef}: recall {flat:.4}, hnsw_rs {of_reference:.4}");
        let mut queries = fixture.queries().cycle();
        let mut next = || queries.next().expect("a cycle has no end");
        group.bench_function(BenchmarkId::new("flat", n), |b| {
            b.iter(|| black_box(index.search(vectors, next(), n, ef, |_| true, &mut scratch)));
        });
        group.bench_function(BenchmarkId::new("exact", n), |b| {
            b.iter(|| black_box(search_exact(vectors, next(), n, |_| true)));
        });
        group.bench_function(BenchmarkId::new("hnsw_rs", n), |b| {
            b.iter(|| black_box(reference.search(next(), n, ef)));
        });
    }
}

/// Where looking at the items that pass a filter one by one overtakes the search that skips the others: the switch of
/// `VectorIndex::search_among` is read off here.
fn passing(c: &mut Criterion) {
    let fixture = Fixture::shared();
    let Fixture { vectors, index, .. } = fixture;
    let mut scratch = SearchScratch::default();
    let mut queries = fixture.queries().cycle();
    let mut next = || queries.next().expect("a cycle has no end");
    let mut group = c.benchmark_group("passing, top 250");
    group.sample_size(20);
    for per_mille in [1, 10, 50, 100, 200, 300, 500] {
        // Which items pass has nothing to do with where they lie.
        let passes =
            |id: usize| id.wrapping_mul(0x9e37_79b9) >> 7 & 0x3ff < per_mille * 1_024 / 1_000 + 1;
        let set = ItemSet::from_fn(N_ITEMS, passes);
        let accept = |item: ItemId| set.contains(item);
        let share = format!("{:.3}", set.len() as f64 / N_ITEMS as f64);
        group.bench_function(BenchmarkId::new("graph", &share), |b| {
            b.iter(|| black_box(index.search(vectors, next(), 250, 500, accept, &mut scratch)));
        });
        group.bench_function(BenchmarkId::new("scan of all", &share), |b| {
            b.iter(|| black_box(search_exact(vectors, next(), 250, accept)));
        });
        group.bench_function(BenchmarkId::new("one by one", &share), |b| {
            b.iter(|| black_box(search_among(vectors, next(), 250, set.iter())));
        });
    }
}

/// Where the graph overtakes the scan: `EXACT_BELOW` is read off here.
fn crossover(c: &mut Criterion) {
    let mut random = StdRng::seed_from_u64(8);
    let centres: Vec<f32> = (0..1_000 * DIM).map(|_| random.random_range(-1.0..1.0)).collect();
    let queries = unit_vectors(N_QUERIES, &mut random, &centres);
    let mut group = c.benchmark_group("crossover");
    group.sample_size(20);
    for n_items in [5_000, 10_000, 20_000, 40_000] {
        let rows = unit_vectors(n_items, &mut random, &centres);
        let vectors = Vectors::new(rows, DIM).expect("the values are finite");
        let index = HnswIndex::build(&vectors, &CONFIG).expect("the configuration is valid");
        let mut scratch = SearchScratch::default();
        let mut queries = queries.chunks_exact(DIM).cycle();
        let mut next = || queries.next().expect("a cycle has no end");
        group.bench_function(BenchmarkId::new("flat top 500", n_items), |b| {
            b.iter(|| {
                black_box(index.search(&vectors, next(), 500, 1_000, |_| true, &mut scratch))
            });
        });
        group.bench_function(BenchmarkId::new("exact top 500", n_items), |b| {
            b.iter(|| black_box(search_exact(&vectors, next(), 500, |_| true)));
        });
    }
}

criterion_group!(benches, passing, search, crossover);
criterion_main!(benches);
