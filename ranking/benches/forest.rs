//! 1,000 candidates through 300 trees of 31 leaves: our two scorers, and LightGBM's C interface on
//! one thread.

use criterion::{Criterion, criterion_group, criterion_main};
use lightgbm3::Booster;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ranking::forest::Forest;
use ranking::groups::Groups;
use ranking::lightgbm::{LightGbmConfig, LightGbmModel, fit};

const N_ROWS: usize = 1_000;
const N_FEATURES: usize = 50;
const SEED: u64 = 7;

/// Rows whose labels depend on many features, so that trees are full.
fn groups(n_groups: usize) -> Groups {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut groups = Groups::new((0..N_FEATURES).map(|n| format!("feature_{n}")).collect());
    for _ in 0..n_groups {
        let rows: Vec<f32> = (0..20 * N_FEATURES)
            .map(|_| if rng.random_bool(0.05) { f32::NAN } else { rng.random_range(-1f32..1.0) })
            .collect();
        let label = |row: &[f32]| {
            let sum: f32 = row
                .iter()
                .filter(|value| !value.is_nan())
                .enumerate()
                .map(|(n, v)| v / (n + 1) as f32)
                .sum();
            f32::from(sum + rng.random_range(-0.5..0.5) > 1.0)
        };
        let mut labels: Vec<f32> = rows.chunks_exact(N_FEATURES).map(label).collect();
        labels[0] = 1.0;
        groups.push_group(&rows, &labels);
    }
    groups
}

fn model(train: &Groups) -> LightGbmModel {
    let config =
        LightGbmConfig { n_trees: 300, early_stopping_rounds: None, ..LightGbmConfig::default() };
    fit(train, None, &config, &mut |_| {}).expect("the groups are sound")
}

fn score(c: &mut Criterion) {
    let train = groups(1_000);
    let model = model(&train);
    let forest: Forest = model.forest().expect("the text is LightGBM's");
    let booster = Booster::from_string(&model.text).expect("the text is LightGBM's");
    let rows = &train.features[..N_ROWS * N_FEATURES];
    let columns: Vec<f32> = (0..N_FEATURES)
        .flat_map(|feature| rows.iter().skip(feature).step_by(N_FEATURES).copied())
        .collect();
    let mut out = vec![0.0; N_ROWS];
    let mut group = c.benchmark_group("score 1,000 rows, 50 features, 300 trees, 31 leaves");
    group.sample_size(20);
    group.bench_function("blocks", |b| {
        b.iter(|| forest.score_block(&columns, N_ROWS, None, &mut out))
    });
    group.bench_function("blocks, first 100 trees", |b| {
        b.iter(|| forest.score_block(&columns, N_ROWS, Some(100), &mut out));
    });
    group.bench_function("row by row", |b| {
        b.iter(|| rows.chunks_exact(N_FEATURES).map(|row| forest.score_exact(row)).sum::<f64>());
    });
    group.bench_function("LightGBM, one thread", |b| {
        b.iter(|| booster.raw_scores_with_params(rows, N_FEATURES as i32, true, "num_threads=1"));
    });
    group.finish();
}

criterion_group!(benches, score);
criterion_main!(benches);
