//! Numbers that come with events, and the features that are made of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use featurestore::plan::{FeatureScratch, PlanBuilder};
use featurestore::schema::{EventType, FeatureEntry, FieldKind};
use featurestore::time::DAY_MS;
use featurestore::value::Value;
use featurestore::{EmbeddedStore, Entities, Event, NO_SESSION, NamedEvent, Schema, Timestamp};

fn schema() -> Schema {
    let buy = EventType { weight: 1.0, label: 1 };
    Schema {
        events: [("buy".to_owned(), buy)].into(),
        event_fields: ["discount", "pieces"]
            .map(|name| (name.to_owned(), FieldKind::Number))
            .into(),
        ..Schema::default()
    }
}

/// A purchase of the item `a` by the user `u`.
fn bought(day: i64, value: f64, properties: &[(&str, Value)]) -> NamedEvent {
    NamedEvent {
        kind: "buy".into(),
        user: Some("u".into()),
        item: "a".into(),
        time: Timestamp(day * DAY_MS),
        value: Some(value),
        properties: properties.iter().map(|(name, v)| ((*name).into(), v.clone())).collect(),
        ..NamedEvent::default()
    }
}

/// The features that `entries` declare (in TOML), of the item `a` for the user `u` on `day`.
fn features(entries: &str, events: &[NamedEvent], day: i64) -> Vec<f32> {
    let schema = schema();
    let table: toml::Table = entries.parse().unwrap();
    let entries: Vec<FeatureEntry> = table["features"].clone().try_into().unwrap();
    let mut plan = PlanBuilder::new(&schema);
    for (column, entry) in entries.iter().enumerate() {
        assert!(plan.feature(column, &entry.resolve(&schema).unwrap()));
    }
    let none = Entities::new(&schema.item_fields);
    let store = EmbeddedStore::new(Arc::new(plan.build()), &schema, none.clone(), none);
    for event in events {
        let (user, item) = store.intern("u", &event.item);
        store.apply(&Event {
            time: event.time,
            user,
            item,
            session: NO_SESSION,
            kind: schema.event_type(&event.kind).unwrap(),
            numbers: schema.numbers_of(event),
        });
    }
    let (user, item) = store.intern("u", "a");
    let mut scratch = FeatureScratch::default();
    store.read_items(&[item], &mut scratch.items);
    let mut columns = vec![0.0; entries.len()];
    let (user, now) = (store.read_user(Some(user)), Timestamp(day * DAY_MS));
    store.plan().compute(&user, &[item], now, &mut scratch, &mut columns);
    columns
}

#[test]
fn a_mean_is_over_the_events_that_have_the_number() {
    let events = [
        bought(0, 10.0, &[("discount", Value::Number(1.0))]),
        bought(2, 20.0, &[]),
        bought(4, 30.0, &[("discount", Value::Number(4.0)), ("other", Value::Number(9.0))]),
    ];
    let entries = r#"features = [
        { name = "plain", kind = "mean", scope = "item", sum = "discount" },
        { name = "fading", kind = "mean", scope = "user_item", sum = "discount", half_life = "4d" },
        { name = "value", kind = "mean", scope = "user", sum = "value" },
        { name = "never given", kind = "mean", scope = "item", sum = "pieces" },
    ]"#;
    let found = features(entries, &events, 4);
    // Faded over four days, 1 weighs half as much as 4: (0.5 * 1 + 4) / 1.5.
    assert_eq!(found[..3], [2.5, 3.0, 20.0]);
    assert!(found[3].is_nan(), "without any number the mean is missing");
    assert!(features(entries, &[], 4).iter().all(|mean| mean.is_nan()), "nor without events");
}

#[test]
fn sums_and_rates_add_up_the_numbers() {
    let events = [
        bought(0, 8.0, &[("discount", Value::Number(2.0)), ("pieces", Value::Text("3".into()))]),
        bought(1, 2.0, &[("discount", Value::Number(f64::MAX)), ("pieces", Value::Null)]),
    ];
    let entries = r#"features = [
        { name = "pieces", kind = "decayed_count", scope = "item", sum = "pieces" },
        { name = "count", kind = "decayed_count", scope = "item", sum = "count" },
        { name = "share", kind = "rate", strength = 0,
          top = { scope = "item", sum = "discount" }, bottom = { scope = "item", sum = "value" } },
    ]"#;
    // The discount that 32 bits do not hold is as good as none.
    assert_eq!(features(entries, &events, 1), [3.0, 2.0, 0.2]);
}

#[test]
fn an_unknown_number_is_answered_with_the_nearest() {
    let entry = |kind: &str| FeatureEntry {
        name: "f".into(),
        kind: kind.into(),
        scope: Some("item".into()),
        sum: Some("discuont".into()),
        ..FeatureEntry::default()
    };
    for kind in ["mean", "decayed_count"] {
        let message = entry(kind).resolve(&schema()).unwrap_err().to_string();
        assert_eq!(message, r#"feature "f": unknown sum "discuont"; did you mean "discount"?"#);
    }
}
