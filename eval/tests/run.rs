//! A release that is trained on a small shop, asked the questions of the shop's last days.

use std::sync::LazyLock;

use engine::config::Config;
use engine::training::{Fitted, Trainer};
use eval::intervals::Bootstrap;
use eval::report::Report;
use eval::run::{Settings, run};
use featurestore::history::HistoryBuilder;
use featurestore::log::Record;
use featurestore::time::DAY_MS;
use featurestore::{History, ItemId, NamedEvent, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustc_hash::FxHashSet;

const CONFIG: &str = "
    [events.buy]
    label = 1
    [training]
    dim = 8
    embedding_epochs = 2
    [training.ranker]
    n_trees = 30
    min_data_in_leaf = 5
";
const N_DAYS: i64 = 50;
const N_USERS: usize = 60;
const N_ITEMS: usize = 200;

/// Every user buys one thing a day: half of them one of the user's own three, a quarter what all buy, else anything.
fn history(config: &Config) -> History {
    let (schema, mut random) = (config.schema(), StdRng::seed_from_u64(7));
    let mut builder = HistoryBuilder::new(&schema);
    for day in 0..N_DAYS {
        for user in 0..N_USERS {
            let item = match random.random_range(0..4) {
                0 | 1 => 10 + 3 * user + random.random_range(0..3),
                2 => random.random_range(0..10),
                _ => random.random_range(0..N_ITEMS),
            };
            builder.push(&Record::Event(NamedEvent {
                kind: "buy".into(),
                user: Some(format!("u{user}").into()),
                item: format!("i{item}").into(),
                time: Timestamp(day * DAY_MS + 1_000 * user as i64),
                ..NamedEvent::default()
            }));
        }
    }
    builder.build()
}

struct Evaluated {
    history: History,
    fitted: Fitted,
    report: Report,
}

/// Trained and evaluated once, for all tests.
static EVALUATED: LazyLock<Evaluated> = LazyLock::new(|| {
    let config = Config::parse(CONFIG, "cascade.toml".as_ref()).expect("it is sound");
    let history = history(&config);
    let until = Timestamp(N_DAYS * DAY_MS);
    let trainer = Trainer { config: &config, history: &history, until, n_threads: 2 };
    let fitted = trainer.fit(&|_| {}).expect("there is enough to train on");
    let bootstrap = Bootstrap { resamples: 100, seed: 7 };
    let settings = Settings { k: vec![10], bootstrap, n_threads: 2, share: 1.0 };
    let answered = run(&fitted.judged, None, &history, &fitted.questions, &settings);
    let report = answered.report("temporal", Vec::new());
    Evaluated { history, fitted, report }
});

#[test]
fn probabilities_say_more_than_how_often_a_candidate_is_relevant() {
    let report = &EVALUATED.report;
    let n: usize = report.reliability.iter().map(|bin| bin.n).sum();
    let relevant: f64 = report.reliability.iter().map(|bin| bin.observed * bin.n as f64).sum();
    assert_eq!(relevant.round() as u64, report.waterfall.after_filter);
    let rate = relevant / n as f64;
    let of_the_rate = -(rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln());
    let log_loss = report.models[0].metrics["log_loss/candidates"];
    assert!(log_loss.mean < 0.95 * of_the_rate, "{log_loss:?}, {of_the_rate}");
    assert!(log_loss.low <= log_loss.mean && log_loss.mean <= log_loss.high);
    let error = report.calibration_error.unwrap();
    assert!(error < rate / 2.0, "{error}, {rate}");
}

#[test]
fn the_features_of_the_report_have_nearly_all_of_the_gain_most_first() {
    let features = &EVALUATED.report.features;
    assert!(features.is_sorted_by(|a, b| a.share >= b.share) && features.len() <= 30);
    let shown: f64 = features.iter().map(|feature| feature.share).sum();
    assert!((0.9..1.0 + 1e-9).contains(&shown), "{shown}");
}

#[test]
fn an_item_that_is_relevant_in_many_questions_is_one_item_of_its_cohort() {
    let Evaluated { history, fitted, report } = &*EVALUATED;
    let relevant = fitted.questions.iter().flat_map(|question| &question.relevant);
    let distinct: FxHashSet<ItemId> = relevant.clone().map(|(item, _)| *item).collect();
    assert!(distinct.len() < relevant.count());
    let of = |name: &str| {
        let table = report.cohorts.iter().find(|table| table.of == name).unwrap();
        table.rows.iter().map(|row| row.n).collect::<Vec<usize>>()
    };
    assert_eq!(of("items").iter().sum::<usize>(), distinct.len());
    let hot = *of("items").last().unwrap();
    assert!(hot <= history.items.len() / 5, "{hot} of {} items are hot", history.items.len());
    assert!(of("users").iter().all(|n| *n <= report.n_users));
}
