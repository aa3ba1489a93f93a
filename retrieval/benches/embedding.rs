//! Training and fold-in on preferences of the size of completejourney: 2,469 users, 68,000 items, 870,000 pairs.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use featurestore::{ItemId, UserId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use retrieval::ials::{FoldInScratch, Ials, IalsConfig, Preferences};

const N_USERS: u32 = 2_469;
const N_ITEMS: u32 = 68_000;
const N_PAIRS: usize = 870_000;

/// Users alike, items by a power law.
fn preferences() -> Preferences {
    let mut random = StdRng::seed_from_u64(7);
    let mut pair = || {
        let item = f64::from(N_ITEMS) * random.random::<f64>().powi(3);
        (
            UserId(random.random_range(0..N_USERS)),
            ItemId(item as u32),
            random.random_range(0.5..3.0),
        )
    };
    let pairs: Vec<_> = (0..N_PAIRS).map(|_| pair()).collect();
    Preferences::from_pairs(&pairs, N_USERS as usize, N_ITEMS as usize)
}

fn embedding(c: &mut Criterion) {
    let preferences = preferences();
    let config = IalsConfig { n_epochs: 1, ..IalsConfig::default() };
    let mut group = c.benchmark_group("embedding");
    group.sample_size(10);
    group.bench_function("one epoch of 64 dimensions", |b| {
        b.iter(|| black_box(Ials::fit(&preferences, &config).expect("it is regularised")));
    });
    let ials = Ials::fit(&preferences, &config).expect("it is regularised");
    let mut scratch = FoldInScratch::default();
    for n in [10, 200] {
        let history: Vec<(ItemId, f32)> = (0..n).map(|i| (ItemId(i * 37), 1.0)).collect();
        group.bench_function(BenchmarkId::new("fold-in", n), |b| {
            b.iter(|| black_box(ials.fold_in(&history, &mut scratch)));
        });
    }
}

criterion_group!(benches, embedding);
criterion_main!(benches);
