//! The pipeline on vectors that were trained elsewhere.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hand_made;

use std::path::Path;
use std::sync::Arc;

use engine::ask::empty_store;
use engine::config::Config;
use engine::pipeline::{Pipeline, Query, Scratch};
use featurestore::history::HistoryBuilder;
use featurestore::log::Record;
use featurestore::{History, ItemId, NamedEvent, Timestamp, UserId};
use retrieval::vectors::Vectors;

const CONFIG: &str = r#"
[events.view]
label = 1
[scenarios.home]
sources = [{ kind = "embedding", n = 10 }, { kind = "popular", n = 10 }]
[[features]]
name = "sum"
kind = "similarity"
by = "embedding"
aggregate = "sum"
[[features]]
name = "max"
kind = "similarity"
by = "embedding"
aggregate = "max"
[[features]]
name = "last"
kind = "similarity"
by = "embedding"
aggregate = "last"
"#;

/// Users `u` and `v` have seen items 0, 1 and 2, in this order.
fn history(config: &Config) -> History {
    let schema = config.schema();
    let mut builder = HistoryBuilder::new(&schema);
    for (time, user, item) in [(1, "u", "a"), (2, "v", "b"), (3, "v", "c")] {
        builder.push(&Record::Event(NamedEvent {
            kind: "view".into(),
            user: Some(user.into()),
            item: item.into(),
            time: Timestamp(time),
            ..NamedEvent::default()
        }));
    }
    builder.build()
}

#[test]
fn an_item_without_a_vector_is_not_proposed_by_it_and_its_similarities_are_missing() {
    let config = Config::parse(CONFIG, Path::new("cascade.toml")).unwrap();
    let history = history(&config);
    // Items 0 and 1 have a vector, and 2 has none.
    let vectors = Vectors::new(vec![3.0, 0.0, 0.0, 2.0, 0.0, 0.0], 2).unwrap();
    let release = Arc::new(hand_made::release(&config, &history, vectors, Timestamp(4)));
    let store = Arc::new(empty_store(&release, &history));
    history.events.iter().for_each(|event| store.apply(event));
    let pipeline = Pipeline::new(release.clone(), store);
    let query = Query::new(Some(UserId(0)), Timestamp(5), 3);
    let mut scratch = Scratch::default();
    pipeline.candidates(&release.scenarios["home"], &query, &mut scratch);
    let items = &scratch.candidates.items;
    assert_eq!(items.len(), 3);
    let at = |item| items.iter().position(|other| *other == ItemId(item)).unwrap();
    // The first source is the embedding, with the item's rank from 1.
    assert_eq!(scratch.candidates.ranks[at(0)], 1.0);
    assert!(scratch.candidates.ranks[at(2)].is_nan());
    let features = |item| [0, 1, 2].map(|feature| scratch.columns[feature * 3 + at(item)]);
    assert_eq!(features(0), [9.0, 1.0, 1.0]);
    assert_eq!(features(1), [0.0, 0.0, 0.0]);
    assert!(features(2).iter().all(|value| value.is_nan()), "{:?}", features(2));
}
