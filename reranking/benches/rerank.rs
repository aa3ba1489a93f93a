//! Re-ranking a hundred items to fifty, rule by rule and all together.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use featurestore::{ItemId, Scored, Span, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reranking::{
    Cap, CategoryColumn, Explore, ExploreFrom, Freshness, Method, Rules, Slate, Vectors, rerank,
};

const DIM: usize = 64;
const N_SHOWN: usize = 50;
const SEED: u64 = 7;

struct Fixture {
    items: Vec<Scored>,
    codes: Vec<u32>,
    vectors: Vec<f32>,
    published: Vec<Timestamp>,
    newcomers: Vec<ItemId>,
}

impl Fixture {
    /// Falling scores, 20 categories, and vectors near that of the category.
    fn new(n: usize) -> Self {
        let mut random = StdRng::seed_from_u64(SEED);
        let codes: Vec<u32> = (0..n).map(|_| random.random_range(0..20)).collect();
        let centres: Vec<f32> = (0..20 * DIM).map(|_| random.random_range(-1.0..1.0)).collect();
        let mut vectors = Vec::new();
        for &code in &codes {
            let centre = &centres[code as usize * DIM..][..DIM];
            let near: Vec<f32> =
                centre.iter().map(|x| x + random.random_range(-0.5..0.5)).collect();
            let norm = near.iter().map(|x| x * x).sum::<f32>().sqrt();
            vectors.extend(near.iter().map(|x| x / norm));
        }
        Self {
            items: (0..n).map(|i| Scored { item: ItemId(i as u32), score: -(i as f32) }).collect(),
            codes,
            vectors,
            published: (0..n)
                .map(|_| Timestamp(random.random_range(0..Span::days(30).0)))
                .collect(),
            newcomers: (0..100).map(|i| ItemId(10_000 + i)).collect(),
        }
    }
}

fn settings() -> Vec<(&'static str, Rules)> {
    let caps = vec![Cap { field: "category".into(), at_most: 3, within: 10 }];
    let freshness =
        Some(Freshness { field: "published_at".into(), half_life: Span::days(3), boost: 0.1 });
    let explore = Some(Explore { slots: 1, from: ExploreFrom::NewItems });
    let off = Rules::default();
    let diverse = Rules { diversity: 0.2, ..Rules::default() };
    let all = Rules { caps: caps.clone(), freshness, explore, ..diverse.clone() };
    vec![
        ("off", off.clone()),
        ("caps", Rules { caps, ..off }),
        ("mmr", Rules { method: Method::Mmr, ..diverse.clone() }),
        ("dpp", diverse.clone()),
        ("dpp, whole list", Rules { diversity_window: usize::MAX, ..diverse }),
        ("all, as in the guide", all),
    ]
}

fn to_fifty(c: &mut Criterion) {
    for n in [100, 500] {
        let fixture = Fixture::new(n);
        let columns = [CategoryColumn { field: "category", codes: &fixture.codes }];
        let slate = Slate {
            items: &fixture.items,
            columns: &columns,
            vectors: Some(Vectors { values: &fixture.vectors, dim: DIM }),
            published: Some(&fixture.published),
            served: None,
            newcomers: &fixture.newcomers,
            now: Timestamp(Span::days(30).0),
        };
        let mut group = c.benchmark_group(format!("{n} to {N_SHOWN}"));
        for (name, rules) in settings() {
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| rerank(&slate, &rules, N_SHOWN, SEED));
            });
        }
    }
}

criterion_group!(benches, to_fifty);
criterion_main!(benches);
