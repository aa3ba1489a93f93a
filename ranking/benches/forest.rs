//! 1,000 candidates through 300 trees of 31 leaves: our two scorers, and LightGBM's C interface on
//! one thread.

use criterion::{Criterion, criterion_group, criterion_main};
use lightgbm3::Booster;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ranking::groups::Groups;
use ranking::lightgbm::{LightGbmConfig, fit};
use ranking::model_text;

const N_ROWS: usize = 1_000;
const N_FEATURES: usize = 50;
const SEED: u64 = 7;

/// Features from here on hold categories, where a bench asks for some.
const FIRST_CATEGORICAL: usize = 42;

/// Rows whose labels depend on many features, so that trees are full.
fn groups(n_groups: usize, with_categories: bool) -> Groups {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut groups = Groups::new((0..N_FEATURES).map(|n| format!("feature_{n}")).collect());
    for _ in 0..n_groups {
        let value = |place: usize| match place % N_FEATURES {
            feature if with_categories && feature >= FIRST_CATEGORICAL => {
                rng.random_range(0..40) as f32
            }
            _ if rng.random_bool(0.05) => f32::NAN,
            _ => rng.random_range(-1f32..1.0),
        };
        let rows: Vec<f32> = (0..20 * N_FEATURES).map(value).collect();
        let mut labels: Vec<f32> =
            rows.chunks_exact(N_FEATURES).map(|row| label(row, &mut rng)).collect();
        labels[0] = 1.0;
        groups.push_group(&rows, &labels);
    }
    groups
}

fn label(row: &[f32], rng: &mut StdRng) -> f32 {
    let part = |(n, &value): (usize, &f32)| match value {
        value if value.is_nan() => 0.0,
        value if n >= FIRST_CATEGORICAL => ((value * 0.37).fract() - 0.5) * 0.3,
        value => value / (n + 1) as f32,
    };
    let sum: f32 = row.iter().enumerate().map(part).sum();
    f32::from(sum + rng.random_range(-0.5..0.5) > 1.0)
}

/// The model's text.
fn model(train: &Groups, categorical: Vec<usize>) -> String {
    let config = LightGbmConfig {
        n_trees: 300,
        early_stopping_rounds: None,
        categorical,
        ..LightGbmConfig::default()
    };
    fit(train, None, &config, &mut |_| {}).expect("the groups are sound").text
}

fn score(c: &mut Criterion) {
    let mut group = c.benchmark_group("score 1,000 rows, 50 features, 300 trees, 31 leaves");
    group.sample_size(20);
    let numbers = groups(1_000, false);
    let text = model(&numbers, Vec::new());
    let forest = model_text::parse(&text).expect("the text is LightGBM's");
    let booster = Booster::from_string(&text).expect("the text is LightGBM's");
    let (rows, columns) = first_rows(&numbers);
    let mut out = vec![0.0; N_ROWS];
    group.bench_function("blocks", |b| {
        b.iter(|| forest.score_block(&columns, N_ROWS, None, &mut out));
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
    let categories = groups(1_000, true);
    let text = model(&categories, (FIRST_CATEGORICAL..N_FEATURES).collect());
    let forest = model_text::parse(&text).expect("the text is LightGBM's");
    let (_, columns) = first_rows(&categories);
    group.bench_function("blocks, 8 features of 40 categories", |b| {
        b.iter(|| forest.score_block(&columns, N_ROWS, None, &mut out));
    });
    group.finish();
}

/// The rows to score, row-major and column-major.
fn first_rows(groups: &Groups) -> (&[f32], Vec<f32>) {
    let rows = &groups.features[..N_ROWS * N_FEATURES];
    let column = |feature| rows.iter().skip(feature).step_by(N_FEATURES).copied();
    (rows, (0..N_FEATURES).flat_map(column).collect())
}

criterion_group!(benches, score);
criterion_main!(benches);
