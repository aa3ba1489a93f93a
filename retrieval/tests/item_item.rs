//! Item-item rows as their users see them: fitting, saving, and scoring a history.

use std::collections::BTreeMap;

use featurestore::{Interaction, ItemId, NO_SESSION, Scored, Span, Timestamp, UserId, best_first};
use proptest::collection::vec;
use proptest::prelude::*;
use retrieval::item_item::{CoVisitation, CosineItems, ScoreScratch, score_history};
use retrieval::sparse::ItemRows;

const N_ITEMS: usize = 12;
const NOW: Timestamp = Timestamp(1_000);
type Pairs = BTreeMap<(u32, u32), f64>;

fn interaction(user: u32, item: u32, time: i64, session: u32) -> Interaction {
    let (user, item, time) = (UserId(user), ItemId(item), Timestamp(time));
    Interaction { user, item, time, session, weight: 1.0 }
}

fn log() -> impl Strategy<Value = Vec<Interaction>> {
    let session = prop_oneof![Just(NO_SESSION), 0u32..3];
    let any = (0u32..4, 0..N_ITEMS as u32, 0i64..60, session, prop_oneof![Just(1f32), Just(4f32)]);
    vec(any, 0..60).prop_map(|rows| {
        let mut log: Vec<Interaction> = rows
            .into_iter()
            .map(|(user, item, time, session, weight)| Interaction {
                weight,
                ..interaction(user, item, time * 10, session)
            })
            .collect();
        log.sort_by_key(|i| i.time);
        log
    })
}

fn pairs(rows: &ItemRows) -> Pairs {
    let row = |a: u32| {
        let (neighbours, weights) = rows.row(ItemId(a));
        neighbours.iter().zip(weights).map(move |(&b, &w)| ((a, b), f64::from(w)))
    };
    (0..rows.n_items() as u32).flat_map(row).collect()
}

fn bytes(rows: &ItemRows) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows");
    rows.save(&path).expect("a file");
    std::fs::read(path).expect("the file")
}

fn close(found: &Pairs, expected: &Pairs) -> bool {
    found.keys().eq(expected.keys())
        && found.iter().all(|(key, w)| (w - expected[key]).abs() < 1e-4 * expected[key])
}

fn histories(log: &[Interaction]) -> Vec<Vec<Interaction>> {
    let user = |u: u32| log.iter().filter(|i| i.user.0 == u).copied().collect();
    (0..4).map(user).collect()
}

/// The definition, pair by pair.
fn slow_co_visitation(settings: &CoVisitation, log: &[Interaction]) -> Pairs {
    let (mut sums, mut counts) = (Pairs::new(), BTreeMap::<(u32, u32), u32>::new());
    for history in histories(log) {
        let mut place = 0usize;
        let places: Vec<usize> = (0..history.len())
            .map(|i| {
                let session = history[i].session;
                let new = i > 0 && (session == NO_SESSION || session != history[i - 1].session);
                place += usize::from(new);
                place
            })
            .collect();
        for j in 0..history.len() {
            for i in 0..j {
                let (a, b) = (history[i], history[j]);
                let steps = places[j] - places[i];
                let apart = b.time.0 - a.time.0;
                if a.item == b.item || apart > settings.window.0 || steps > settings.max_steps {
                    continue;
                }
                let age = (NOW.0 - b.time.0) as f64;
                let recency = settings.half_life.map_or(1.0, |h| 0.5f64.powf(age / h.0 as f64));
                let decay = f64::from(settings.step_decay).powi(steps.max(1) as i32 - 1);
                let weight = f64::from(a.weight * b.weight).sqrt() * recency * decay;
                let both = !settings.directed || (steps == 0 && apart == 0);
                let back = both.then_some((b.item.0, a.item.0));
                for key in [(a.item.0, b.item.0)].into_iter().chain(back) {
                    *sums.entry(key).or_default() += weight;
                    *counts.entry(key).or_default() += 1;
                }
            }
        }
    }
    let degree = |is_end: &dyn Fn((u32, u32)) -> bool| {
        sums.iter().filter(|(key, _)| is_end(**key)).map(|(_, w)| w).sum::<f64>()
    };
    let exponent = f64::from(settings.degree_exponent);
    let normed = |(key, weight): (&(u32, u32), &f64)| {
        let degrees = degree(&|other| other.0 == key.0) * degree(&|other| other.1 == key.1);
        (*key, weight / degrees.powf(exponent))
    };
    sums.iter().filter(|(key, _)| counts[*key] >= settings.min_count).map(normed).collect()
}

fn slow_cosine(settings: &CosineItems, log: &[Interaction]) -> Pairs {
    let mut rows: Vec<BTreeMap<u32, f64>> = Vec::new();
    for history in histories(log) {
        let mut latest: Vec<u32> = Vec::new();
        for visit in history.iter().rev() {
            if !latest.contains(&visit.item.0) {
                latest.push(visit.item.0);
            }
        }
        latest.truncate(settings.max_history);
        let count = |item: u32| {
            let visits = history.iter().filter(|i| i.item.0 == item);
            let decayed = visits.map(|i| {
                let age = (NOW.0 - i.time.0) as f64;
                let recency = settings.half_life.map_or(1.0, |h| 0.5f64.powf(age / h.0 as f64));
                f64::from(i.weight) * recency
            });
            decayed.sum::<f64>().ln_1p()
        };
        rows.push(latest.into_iter().map(|item| (item, count(item))).collect());
    }
    let dot = |a: u32, b: u32| {
        rows.iter().filter_map(|row| Some(row.get(&a)? * row.get(&b)?)).sum::<f64>()
    };
    let norm = |a: u32| dot(a, a).sqrt();
    let mut pairs = Pairs::new();
    for a in 0..N_ITEMS as u32 {
        for b in (0..N_ITEMS as u32).filter(|&b| b != a && dot(a, b) > 0.0) {
            pairs.insert((a, b), dot(a, b) / (norm(a) * norm(b) + f64::from(settings.shrink)));
        }
    }
    pairs
}

proptest! {
    #[test]
    fn co_visitation_equals_its_definition(
        log in log(),
        directed in any::<bool>(),
        max_steps in 0usize..5,
        min_count in 1u32..3,
        degree_exponent in prop_oneof![Just(0f32), Just(0.5f32)],
        half_life in prop_oneof![Just(None), Just(Some(Span(100)))],
    ) {
        let settings = CoVisitation {
            window: Span(200), max_steps, half_life, directed, degree_exponent, min_count,
            ..CoVisitation::default()
        };
        let found = pairs(&settings.fit(&log, N_ITEMS, NOW));
        let expected = slow_co_visitation(&settings, &log);
        prop_assert!(close(&found, &expected), "{found:?} is not {expected:?}");
    }

    #[test]
    fn cosine_equals_its_definition(
        log in log(),
        max_history in 1usize..6,
        half_life in prop_oneof![Just(None), Just(Some(Span(100)))],
    ) {
        let settings = CosineItems { half_life, max_history, ..CosineItems::default() };
        let found = pairs(&settings.fit(&log, N_ITEMS, NOW));
        let expected = slow_cosine(&settings, &log);
        prop_assert!(close(&found, &expected), "{found:?} is not {expected:?}");
    }

    #[test]
    fn pruning_keeps_the_best_neighbours(log in log(), n_neighbours in 0usize..4) {
        let all = CosineItems::default().fit(&log, N_ITEMS, NOW);
        let pruned = CosineItems { n_neighbours, ..CosineItems::default() }.fit(&log, N_ITEMS, NOW);
        for item in (0..N_ITEMS as u32).map(ItemId) {
            let (ids, weights) = all.row(item);
            let n = n_neighbours.min(ids.len());
            prop_assert_eq!(pruned.row(item), (&ids[..n], &weights[..n]));
        }
    }

    #[test]
    fn rows_are_the_same_bytes_on_any_number_of_threads_and_after_reopening(log in log()) {
        let on_threads = |n: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            let fit = || (
                bytes(&CoVisitation::default().fit(&log, N_ITEMS, NOW)),
                bytes(&CosineItems::default().fit(&log, N_ITEMS, NOW)),
            );
            pool.install(fit)
        };
        let fitted = on_threads(1);
        prop_assert_eq!(&fitted, &on_threads(3));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(&path, &fitted.0).unwrap();
        prop_assert_eq!(bytes(&ItemRows::open(&path).unwrap()), fitted.0);
    }

    #[test]
    fn a_history_is_scored_as_by_a_loop_over_pairs(
        log in log(),
        histories in vec(vec((0..N_ITEMS as u32 + 3, -1f32..2.0), 0..6), 1..4),
        n in 0usize..8,
    ) {
        let rows = CosineItems::default().fit(&log, N_ITEMS, NOW);
        let pairs = pairs(&rows);
        let mut scratch = ScoreScratch::default();
        for history in &histories {
            let entries: Vec<_> = history.iter().map(|&(item, w)| (ItemId(item), w)).collect();
            score_history(&rows, &entries, &mut scratch);
            let mut reached = Vec::new();
            for b in 0..N_ITEMS as u32 + 3 {
                let of = |&(a, w): &(u32, f32)| pairs.get(&(a, b)).map(|&s| w * s as f32);
                let parts: Vec<f32> = history.iter().filter_map(of).collect();
                let item = ItemId(b);
                prop_assert_eq!(scratch.sum(item), parts.iter().sum::<f32>());
                prop_assert_eq!(scratch.max(item), parts.iter().copied().reduce(f32::max).unwrap_or(0.0));
                prop_assert_eq!(scratch.last(item), history.first().and_then(of).unwrap_or(0.0));
                if !parts.is_empty() && b % 3 != 0 {
                    reached.push(Scored { item, score: scratch.sum(item) });
                }
            }
            reached.sort_by(best_first);
            reached.truncate(n);
            prop_assert_eq!(scratch.best(n, |item| item.0 % 3 != 0), reached);
        }
    }
}

#[test]
fn a_basket_is_one_step_wide_and_has_no_direction() {
    let log = [(0, 10), (1, 10), (2, 10), (3, 20)]
        .map(|(item, time)| interaction(0, item, time, if time == 10 { 5 } else { 6 }));
    let settings = CoVisitation {
        directed: true,
        degree_exponent: 0.0,
        max_steps: 1,
        ..CoVisitation::default()
    };
    let rows = settings.fit(&log, 4, NOW);
    assert_eq!(rows.row(ItemId(0)), (&[1, 2, 3][..], &[1.0, 1.0, 1.0][..]));
    assert_eq!(rows.row(ItemId(2)), (&[0, 1, 3][..], &[1.0, 1.0, 1.0][..]));
    assert_eq!(rows.row(ItemId(3)), (&[][..], &[][..]));
}

#[test]
fn an_empty_log_gives_empty_rows() {
    let rows = CoVisitation::default().fit(&[], 3, NOW);
    assert_eq!((rows.n_items(), rows.n_pairs()), (3, 0));
    assert_eq!(CosineItems::default().fit(&[], 0, NOW).n_items(), 0);
}
