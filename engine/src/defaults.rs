//! What is used where the configuration says nothing: sources and features that follow from the schema.

use featurestore::schema::{
    Aggregate, CountedEntry, FeatureEntry, FieldKind, RequestConstant, SimilarityBy, TimePart,
    VALUE_NAME,
};
use featurestore::{Schema, Span};
use retrieval::sources::{SourceEntry, SourceKind};

use crate::config::has_kind;

/// Most category fields that get sources and counts of their own: those that come first by name.
const MAX_CATEGORY_FIELDS: usize = 6;

/// The default sources: what the user repeats, what goes with it, what is popular, what is new.
pub(crate) fn sources(schema: &Schema) -> Vec<SourceEntry> {
    let entry = |kind, n| SourceEntry { kind, n, ..SourceEntry::default() };
    let popular = |days, n| SourceEntry {
        half_life: Some(Span::days(days)),
        ..entry(SourceKind::Popular, n)
    };
    let mut sources = vec![
        SourceEntry { half_life: Some(Span::days(60)), ..entry(SourceKind::OwnHistory, 400) },
        entry(SourceKind::Embedding, 250),
        SourceEntry { by: Some(SimilarityBy::CoVisitation), ..entry(SourceKind::ItemItem, 200) },
        SourceEntry { by: Some(SimilarityBy::Cosine), ..entry(SourceKind::ItemItem, 200) },
        SourceEntry { half_life: Some(Span::days(1)), ..entry(SourceKind::Trending, 100) },
        popular(7, 200),
        popular(60, 100),
        entry(SourceKind::NewItems, 20),
    ];
    let category = schema.item_fields_of(FieldKind::Category).take(MAX_CATEGORY_FIELDS);
    sources.extend(category.map(|field| SourceEntry {
        field: Some(field.to_owned()),
        half_life: Some(Span::days(14)),
        ..entry(SourceKind::PopularInField, 60)
    }));
    sources
}

/// The default features. `has_values`: whether events may have values.
pub(crate) fn features(
    schema: &Schema,
    has_values: bool,
    sources: &[SourceEntry],
) -> Vec<FeatureEntry> {
    let mut features = Vec::new();
    item_features(&mut features);
    user_features(&mut features);
    pair_features(&mut features);
    let categories = schema.item_fields_of(FieldKind::Category).take(MAX_CATEGORY_FIELDS);
    for field in categories {
        field_features(field, &mut features);
    }
    value_features(schema, &mut features);
    let value = has_values.then_some(VALUE_NAME);
    for number in value.into_iter().chain(schema.event_fields.keys().map(String::as_str)) {
        mean_features(number, &mut features);
    }
    source_features(sources, &mut features);
    request_features(&mut features);
    if schema.events.len() > 1 {
        for event in schema.events.keys() {
            event_features(event, &mut features);
        }
    }
    features
}

fn entry(name: impl Into<String>, kind: &str) -> FeatureEntry {
    FeatureEntry { name: name.into(), kind: kind.into(), ..FeatureEntry::default() }
}

fn count(scope: &str, half_life_days: Option<i64>) -> CountedEntry {
    CountedEntry {
        scope: scope.into(),
        half_life: half_life_days.map(Span::days),
        ..CountedEntry::default()
    }
}

fn decayed(scope: &str, days: i64) -> FeatureEntry {
    FeatureEntry {
        scope: Some(scope.into()),
        half_life: Some(Span::days(days)),
        ..entry(format!("{scope}_count_{days}d"), "decayed_count")
    }
}

fn scoped(scope: &str, kind: &str) -> FeatureEntry {
    FeatureEntry { scope: Some(scope.into()), ..entry(format!("{scope}_{kind}"), kind) }
}

fn item_features(features: &mut Vec<FeatureEntry>) {
    features.extend([1, 7, 30, 120].map(|days| decayed("item", days)));
    features.push(FeatureEntry {
        short: Some(Span::days(7)),
        long: Some(Span::days(30)),
        ..scoped("item", "trend")
    });
    features.push(entry("item_users", "distinct_users"));
    features.push(scoped("item", "time_since_last"));
    features.push(entry("item_age", "item_age"));
    features
        .push(FeatureEntry { scope: Some("item".into()), ..entry("item_count", "decayed_count") });
}

fn user_features(features: &mut Vec<FeatureEntry>) {
    features.extend([7, 30, 120].map(|days| decayed("user", days)));
    features
        .extend(["time_since_last", "typical_gap", "gap_ratio"].map(|kind| scoped("user", kind)));
    features.push(FeatureEntry {
        constant: Some(RequestConstant::HistoryItems),
        ..entry("user_history_items", "request")
    });
}

fn pair_features(features: &mut Vec<FeatureEntry>) {
    features.extend([7, 30, 60, 120].map(|days| decayed("user_item", days)));
    features.push(FeatureEntry {
        scope: Some("user_item".into()),
        ..entry("user_item_count", "decayed_count")
    });
    features.extend(
        ["time_since_last", "typical_gap", "gap_ratio"].map(|kind| scoped("user_item", kind)),
    );
    features.push(FeatureEntry {
        top: Some(count("user_item", Some(60))),
        bottom: Some(count("user", Some(60))),
        strength: Some(5.0),
        ..entry("user_item_share_60d", "rate")
    });
    // How much of what the whole population does with the item is this user's.
    features.push(FeatureEntry {
        top: Some(count("user_item", None)),
        bottom: Some(count("item", None)),
        strength: Some(20.0),
        ..entry("user_item_of_item", "rate")
    });
}

fn field_features(field: &str, features: &mut Vec<FeatureEntry>) {
    let on = |mut entry: FeatureEntry, name: String| {
        entry.name = name;
        entry.field = Some(field.into());
        entry
    };
    for days in [14, 120] {
        features.push(on(decayed("user_field", days), format!("user_{field}_count_{days}d")));
    }
    for kind in ["time_since_last", "gap_ratio"] {
        features.push(on(scoped("user_field", kind), format!("user_{field}_{kind}")));
    }
    features.push(FeatureEntry {
        field: Some(field.into()),
        half_life: Some(Span::days(120)),
        ..entry(format!("user_{field}_share"), "interacted_with")
    });
    features.push(on(decayed("field", 30), format!("{field}_count_30d")));
    // How much of what the user does within the field's value is done with this item.
    features.push(FeatureEntry {
        top: Some(count("user_item", Some(120))),
        bottom: Some(CountedEntry { field: Some(field.into()), ..count("user_field", Some(120)) }),
        strength: Some(1.0),
        ..entry(format!("user_item_share_of_{field}"), "rate")
    });
    features.push(FeatureEntry {
        top: Some(count("item", Some(30))),
        bottom: Some(CountedEntry { field: Some(field.into()), ..count("field", Some(30)) }),
        strength: Some(5.0),
        ..entry(format!("item_share_of_{field}"), "rate")
    });
}

fn value_features(schema: &Schema, features: &mut Vec<FeatureEntry>) {
    let of = |fields: &std::collections::BTreeMap<String, FieldKind>, owner: &str| {
        let entries = fields.iter().filter_map(|(field, kind)| {
            let kind = match (kind, owner) {
                (FieldKind::Number, _) => "number",
                (FieldKind::Boolean, _) => "boolean",
                (FieldKind::Time, "item") => "item_age",
                (FieldKind::Category, "user") => "category",
                _ => return None,
            };
            Some(FeatureEntry {
                field: Some(field.clone()),
                of: (owner == "user").then(|| owner.into()),
                ..entry(format!("{owner}_{field}"), kind)
            })
        });
        entries.collect::<Vec<_>>()
    };
    features.extend(of(&schema.item_fields, "item"));
    features.extend(of(&schema.user_fields, "user"));
}

/// What comes with the events of the item, lately and for long, and with those of the user: prices, discounts, ratings.
fn mean_features(number: &str, features: &mut Vec<FeatureEntry>) {
    let mean = |scope: &str, days: i64| FeatureEntry {
        scope: Some(scope.into()),
        half_life: Some(Span::days(days)),
        sum: Some(number.into()),
        ..entry(format!("{scope}_{number}_mean_{days}d"), "mean")
    };
    features.extend(
        [("item", 3), ("item", 60), ("user_item", 120), ("user", 60)].map(|(s, d)| mean(s, d)),
    );
}

fn source_features(sources: &[SourceEntry], features: &mut Vec<FeatureEntry>) {
    for source in sources {
        let name = source.name();
        features.push(FeatureEntry {
            source: Some(name.clone()),
            ..entry(format!("rank_{name}"), "source_rank")
        });
    }
    features.push(entry("source_count", "source_count"));
    let mut similar = |by, name: &str| {
        for (aggregate, suffix) in
            [(Aggregate::Sum, "sum"), (Aggregate::Max, "max"), (Aggregate::Last, "last")]
        {
            features.push(FeatureEntry {
                by: Some(by),
                aggregate: Some(aggregate),
                ..entry(format!("{name}_{suffix}"), "similarity")
            });
        }
    };
    if has_kind(sources, SourceKind::Embedding) {
        similar(SimilarityBy::Embedding, "embedding");
    }
    if sources.iter().any(|source| source.by == Some(SimilarityBy::CoVisitation)) {
        similar(SimilarityBy::CoVisitation, "co_visitation");
    }
    if sources.iter().any(|source| source.by == Some(SimilarityBy::Cosine)) {
        similar(SimilarityBy::Cosine, "cosine");
    }
}

fn request_features(features: &mut Vec<FeatureEntry>) {
    for (part, name) in [(TimePart::Hour, "hour"), (TimePart::Weekday, "weekday")] {
        features.push(FeatureEntry { part: Some(part), ..entry(name, "local_time") });
    }
}

/// With several event types, each has counts of its own.
fn event_features(event: &str, features: &mut Vec<FeatureEntry>) {
    for (scope, days) in [("item", 7), ("item", 60), ("user_item", 30), ("user", 30)] {
        let mut feature = decayed(scope, days);
        feature.name = format!("{scope}_{event}_{days}d");
        feature.event = Some(event.into());
        features.push(feature);
    }
    features.push(FeatureEntry {
        top: Some(CountedEntry { event: Some(event.into()), ..count("item", Some(60)) }),
        bottom: Some(count("item", Some(60))),
        strength: Some(5.0),
        ..entry(format!("item_{event}_rate"), "rate")
    });
}
