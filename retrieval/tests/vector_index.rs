//! The graph index against the exact scan, against hnsw_rs, and against damaged files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use featurestore::{ItemId, Scored};
use hnsw_rs::prelude::{DistL2, Hnsw};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use retrieval::exact::search_exact;
use retrieval::hnsw::{HnswConfig, HnswIndex, SearchScratch, VectorIndex, recall_against_exact};
use retrieval::vectors::{Vectors, dot};

const DIM: usize = 32;
const CONFIG: HnswConfig = HnswConfig { m: 16, ef_construction: 100, n_threads: 2 };

fn gaussian_rows(n: usize, seed: u64) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut value = || (0..6).map(|_| random.random_range(-1.0f32..1.0)).sum::<f32>();
    (0..n * DIM).map(|_| value()).collect()
}

fn normalise(rows: &mut [f32], dim: usize) {
    for row in rows.chunks_exact_mut(dim) {
        let norm = dot(row, row).sqrt();
        row.iter_mut().for_each(|value| *value /= norm);
    }
}

fn unit_vectors(n: usize, seed: u64) -> Vectors {
    let mut rows = gaussian_rows(n, seed);
    normalise(&mut rows, DIM);
    Vectors::new(rows, DIM).unwrap()
}

/// Lengths from about 0.1 to 10, as those of popular and rare items.
fn uneven_vectors(n: usize, seed: u64) -> Vectors {
    let mut rows = gaussian_rows(n, seed);
    normalise(&mut rows, DIM);
    let mut random = StdRng::seed_from_u64(seed);
    for row in rows.chunks_exact_mut(DIM) {
        let length = random.random_range(-1.0f32..1.0).powi(3) * 2.3;
        row.iter_mut().for_each(|value| *value *= length.exp());
    }
    Vectors::new(rows, DIM).unwrap()
}

fn recall(index: &HnswIndex, vectors: &Vectors, queries: &[f32], n: usize, ef: usize) -> f64 {
    let mut scratch = SearchScratch::default();
    let queries = queries.chunks_exact(vectors.dim());
    recall_against_exact(vectors, queries, n, |query| {
        index.search(vectors, query, n, ef, |_| true, &mut scratch)
    })
}

#[test]
fn the_graph_finds_nearly_all_of_the_nearest_unit_vectors() {
    let vectors = unit_vectors(10_000, 1);
    let index = HnswIndex::build(&vectors, &CONFIG).unwrap();
    let found = recall(&index, &vectors, &gaussian_rows(100, 2), 100, 400);
    println!("recall of unit vectors: {found:.4}");
    assert!(found > 0.95, "{found}");
}

#[test]
fn the_graph_finds_nearly_all_of_the_largest_inner_products_of_uneven_vectors() {
    let vectors = uneven_vectors(10_000, 3);
    let index = HnswIndex::build(&vectors, &CONFIG).unwrap();
    let found = recall(&index, &vectors, &gaussian_rows(100, 4), 100, 400);
    println!("recall of uneven vectors: {found:.4}");
    assert!(found > 0.90, "{found}");
}

/// The folder of the word vectors, which are data of the project, and not kept in its repository.
fn words_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/glove-60k")
}

/// Rows of 50 values, as 1/4096, in a file of little-endian 16-bit integers that gzip has packed.
fn read_words(file: &str) -> Vec<f32> {
    let unpacked = Command::new("gzip").arg("-dc").arg(words_folder().join(file)).output().unwrap();
    assert!(unpacked.status.success(), "gzip cannot unpack {file}");
    unpacked
        .stdout
        .as_chunks()
        .0
        .iter()
        .map(|&v| f32::from(i16::from_le_bytes(v)) / 4096.0)
        .collect()
}

#[test]
fn the_graph_finds_nearly_all_of_the_nearest_words() {
    if !words_folder().is_dir() {
        eprintln!("SKIPPED: there are no word vectors in {}", words_folder().display());
        return;
    }
    let (mut words, queries) = (read_words("base.i16.gz"), read_words("query.i16.gz"));
    let queries = &queries[..200 * 50];
    let by_product = Vectors::new(words.clone(), 50).unwrap();
    let index = HnswIndex::build(&by_product, &CONFIG).unwrap();
    let of_products = recall(&index, &by_product, queries, 100, 400);
    normalise(&mut words, 50);
    let by_cosine = Vectors::new(words, 50).unwrap();
    let index = HnswIndex::build(&by_cosine, &CONFIG).unwrap();
    let of_cosines = recall(&index, &by_cosine, queries, 100, 400);
    println!("recall of words: by inner product {of_products:.4}, by cosine {of_cosines:.4}");
    assert!(of_products > 0.95 && of_cosines > 0.95, "{of_products} {of_cosines}");
}

#[test]
fn the_flat_search_finds_what_hnsw_rs_finds() {
    let vectors = unit_vectors(5_000, 5);
    let config = HnswConfig { n_threads: 1, ..CONFIG };
    let index = HnswIndex::build(&vectors, &config).unwrap();
    let reference = Hnsw::new(config.m, 5_000, 16, config.ef_construction, DistL2 {});
    for (item, row) in vectors.iter() {
        reference.insert_slice((row, item.index()));
    }
    let mut queries = gaussian_rows(400, 6);
    normalise(&mut queries, DIM);
    for (n, ef) in [(10, 20), (100, 120)] {
        let flat = recall(&index, &vectors, &queries, n, ef);
        let of_reference = recall_against_exact(&vectors, queries.chunks_exact(DIM), n, |query| {
            let item = |d_id: usize| ItemId(d_id as u32);
            let score = |d_id: usize| dot(query, vectors.row(item(d_id)));
            let found = reference.search(query, n, ef);
            found.iter().map(|f| Scored { item: item(f.d_id), score: score(f.d_id) }).collect()
        });
        println!("top {n}, ef {ef}: recall {flat:.4}, hnsw_rs {of_reference:.4}");
        assert!(flat > of_reference - 0.005, "{flat} {of_reference}");
    }
}

#[test]
fn one_thread_gives_the_same_bytes_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let config = HnswConfig { n_threads: 1, ..CONFIG };
    let bytes = ["a", "b"].map(|name| {
        let path = folder.path().join(name);
        HnswIndex::build(&uneven_vectors(2_000, 7), &config).unwrap().save(&path).unwrap();
        std::fs::read(path).unwrap()
    });
    assert!(bytes[0] == bytes[1]);
}

#[test]
fn saving_and_opening_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = uneven_vectors(2_000, 8);
    let graph = VectorIndex::Hnsw(HnswIndex::build(&vectors, &CONFIG).unwrap());
    let few = uneven_vectors(50, 8);
    let scan = VectorIndex::build(&few, &CONFIG).unwrap();
    assert!(matches!(scan, VectorIndex::Exact));
    for (name, index, vectors) in [("graph", graph, &vectors), ("scan", scan, &few)] {
        let path = folder.path().join(name);
        index.save(&path).unwrap();
        let opened = VectorIndex::open(&path, vectors).unwrap();
        let mut scratch = SearchScratch::default();
        for query in gaussian_rows(20, 9).chunks_exact(DIM) {
            let before = index.search(vectors, query, 30, |_| true, &mut scratch);
            assert_eq!(opened.search(vectors, query, 30, |_| true, &mut scratch), before);
        }
    }
    let other = unit_vectors(2_001, 1);
    assert!(VectorIndex::open(&folder.path().join("graph"), &other).is_err());
}

#[test]
fn a_damaged_file_is_refused_or_searched_without_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let vectors = uneven_vectors(300, 10);
    HnswIndex::build(&vectors, &CONFIG).unwrap().save(&path).unwrap();
    let intact = std::fs::read(&path).unwrap();
    let mut random = StdRng::seed_from_u64(11);
    let mut n_refused = 0;
    for _ in 0..500 {
        let mut bytes = intact.clone();
        for _ in 0..random.random_range(1..4) {
            let at = if random.random() {
                random.random_range(0..256)
            } else {
                random.random_range(0..bytes.len())
            };
            bytes[at] = random.random();
        }
        if random.random_ratio(1, 5) {
            bytes.truncate(random.random_range(0..bytes.len()));
        }
        std::fs::write(&path, bytes).unwrap();
        match VectorIndex::open(&path, &vectors) {
            Err(_) => n_refused += 1,
            Ok(index) => {
                let found = index.search(
                    &vectors,
                    vectors.row(ItemId(0)),
                    50,
                    |_| true,
                    &mut SearchScratch::default(),
                );
                assert!(found.iter().all(|scored| scored.item.index() < 300));
            }
        }
    }
    println!("{n_refused} of 500 damaged files were refused");
    assert!(n_refused > 250);
}

#[test]
fn items_without_a_vector_are_never_found() {
    let mut rows = gaussian_rows(1_000, 12);
    rows[100 * DIM..200 * DIM].fill(0.0);
    let vectors = Vectors::new(rows, DIM).unwrap();
    let index = HnswIndex::build(&vectors, &CONFIG).unwrap();
    assert_eq!(index.n_nodes(), 900);
    let found =
        index.search(&vectors, &[-1.0; DIM], 2_000, 10, |_| true, &mut SearchScratch::default());
    assert!(found.iter().all(|scored| !(100..200).contains(&scored.item.0)));
}

#[test]
fn a_search_that_makes_no_sense_finds_nothing() {
    let vectors = unit_vectors(100, 13);
    let index = HnswIndex::build(&vectors, &CONFIG).unwrap();
    let mut scratch = SearchScratch::default();
    assert!(index.search(&vectors, &[f32::NAN; DIM], 10, 20, |_| true, &mut scratch).is_empty());
    assert!(index.search(&vectors, &[1.0; DIM], 0, 20, |_| true, &mut scratch).is_empty());
    assert!(index.search(&vectors, &[1.0; DIM], 10, 20, |_| false, &mut scratch).is_empty());
    let none = Vectors::new(vec![], DIM).unwrap();
    let empty = HnswIndex::build(&none, &CONFIG).unwrap();
    assert!(empty.search(&none, &[1.0; DIM], 10, 20, |_| true, &mut scratch).is_empty());
}

#[test]
fn a_configuration_out_of_range_is_refused() {
    let vectors = unit_vectors(10, 14);
    for config in [
        HnswConfig { m: 1, ..CONFIG },
        HnswConfig { m: 300, ..CONFIG },
        HnswConfig { ef_construction: 0, ..CONFIG },
        HnswConfig { n_threads: 0, ..CONFIG },
    ] {
        assert!(HnswIndex::build(&vectors, &config).is_err(), "{config:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_widest_search_is_the_exact_scan(n_items in 1usize..600, seed in 0u64..1_000, n in 1usize..700) {
        let vectors = uneven_vectors(n_items, seed);
        let index = HnswIndex::build(&vectors, &CONFIG).unwrap();
        let query = &gaussian_rows(1, seed + 1)[..];
        let accept = |item: ItemId| !item.0.is_multiple_of(3);
        let found = index.search(&vectors, query, n, n_items, accept, &mut SearchScratch::default());
        prop_assert_eq!(found, search_exact(&vectors, query, n, accept));
    }

    #[test]
    fn no_item_is_found_twice(seed in 0u64..1_000, ef in 1usize..300) {
        let vectors = unit_vectors(200, seed);
        let index = HnswIndex::build(&vectors, &CONFIG).unwrap();
        let found = index.search(&vectors, &[1.0; DIM], 50, ef, |_| true, &mut SearchScratch::default());
        let distinct: HashSet<ItemId> = found.iter().map(|scored| scored.item).collect();
        prop_assert_eq!((distinct.len(), found.len()), (50, 50));
    }
}

#[test]
fn a_search_whose_time_is_over_ends_with_what_it_has_found() {
    let vectors = unit_vectors(10_000, 1);
    let index = HnswIndex::build(&vectors, &CONFIG).unwrap();
    let query = &gaussian_rows(1, 2);
    let found = |until: Option<Instant>| {
        let mut scratch = SearchScratch::default();
        scratch.until = until;
        let found = index.search(&vectors, query, 100, 2_000, |_| true, &mut scratch);
        (found, scratch.is_cut)
    };
    let all = found(None).0;
    assert_eq!(found(Some(Instant::now() + Duration::from_secs(3_600))), (all.clone(), false));
    let (some, is_cut) = found(Some(Instant::now()));
    assert!(is_cut && some.len() == 100 && some[99].score < all[99].score, "{}", some.len());
}
