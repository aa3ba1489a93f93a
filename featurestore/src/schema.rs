//! What the data means: event types, fields, and the features that are computed from them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{EventNumbers, EventTypeId, MAX_EVENT_NUMBERS, NamedEvent, VALUE};
use crate::time::Span;
use crate::value::Value;

/// What an event type says about a preference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventType {
    /// How much one such event says to the retrieval models. 0: nothing.
    #[serde(default = "one")]
    pub weight: f32,
    /// Its gain level in the ranker, `0..=31`; the events with a level above 0 are what a list is judged by.
    #[serde(default)]
    pub label: u8,
}

fn one() -> f32 {
    1.0
}

/// The type of a field of items or users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// One or several of a limited set of texts.
    Category,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A point in time.
    Time,
    /// Numbers, the same count for every item.
    Vector,
    /// Free text: returned, never computed with.
    Text,
}

/// Event types and fields by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// What users do, by name. An [`EventTypeId`] is a position in the order of the names.
    pub events: BTreeMap<String, EventType>,
    /// Fields of items.
    pub item_fields: BTreeMap<String, FieldKind>,
    /// Fields of users.
    pub user_fields: BTreeMap<String, FieldKind>,
    /// Fields of events, numbers all of them: what came with an event beside its value.
    pub event_fields: BTreeMap<String, FieldKind>,
}

/// Most fields that events may have.
pub const MAX_EVENT_FIELDS: usize = MAX_EVENT_NUMBERS - 1;

/// What an event's value is called among its numbers.
pub const VALUE_NAME: &str = "value";

/// Most event types that a schema may have.
pub const MAX_EVENT_TYPES: usize = 64;

impl Schema {
    /// The event type called `name`.
    pub fn event_type(&self, name: &str) -> Option<EventTypeId> {
        self.events.keys().position(|known| known == name).map(|i| EventTypeId(i as u8))
    }

    /// The weight of each event type, by [`EventTypeId`].
    pub fn weights(&self) -> Vec<f32> {
        self.events.values().map(|event| event.weight).collect()
    }

    /// The gain level of each event type, by [`EventTypeId`].
    pub fn labels(&self) -> Vec<u8> {
        self.events.values().map(|event| event.label).collect()
    }

    /// Position of `name`, which is `value` or a field of events, among the numbers of an event.
    pub fn event_number(&self, name: &str) -> Option<u8> {
        if name == VALUE_NAME {
            return Some(VALUE);
        }
        self.event_fields.keys().position(|known| known == name).map(|i| VALUE + 1 + i as u8)
    }

    /// The numbers of `event`.
    pub fn numbers_of(&self, event: &NamedEvent) -> EventNumbers {
        let mut numbers = [f32::NAN; MAX_EVENT_NUMBERS];
        let fields = self.event_fields.keys().map(|name| event.properties.get(name.as_str()));
        let fields = fields.map(|property| property.and_then(Value::as_number));
        for (number, given) in numbers.iter_mut().zip(std::iter::once(event.value).chain(fields)) {
            // A number that 32 bits do not hold is as good as none.
            *number = given.map_or(f32::NAN, |given| given as f32);
            if number.is_infinite() {
                *number = f32::NAN;
            }
        }
        numbers
    }

    /// Names of the item fields of type `kind`, in order.
    pub fn item_fields_of(&self, kind: FieldKind) -> impl Iterator<Item = &str> {
        self.item_fields.iter().filter(move |(_, k)| **k == kind).map(|(name, _)| name.as_str())
    }
}

/// What a counter or a time is kept for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Each item.
    Item,
    /// Each user.
    User,
    /// Each pair of a user and an item.
    UserItem,
    /// Each pair of a user and a value of this item field.
    UserField(String),
    /// Each value of this item field.
    Field(String),
}

/// Which of the similarities between a candidate and the user's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    /// Over the whole history.
    Sum,
    /// To the most similar item of the history.
    Max,
    /// To the latest item of the history.
    Last,
}

/// What a similarity is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimilarityBy {
    /// What is done together, in order and time.
    CoVisitation,
    /// What is done by the same users.
    Cosine,
    /// The trained or imported vectors; `sum` is the product with the folded-in user.
    Embedding,
}

/// Which part of the local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimePart {
    /// Hour of the day, `0..24`.
    Hour,
    /// Day of the week, Monday is 0.
    Weekday,
    /// Day of the month, from 1.
    MonthDay,
}

/// Which constant of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestConstant {
    /// How many candidates were retrieved.
    Candidates,
    /// How many distinct items the user has a history with.
    HistoryItems,
}

/// A count that a rate is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// Where it is kept.
    pub scope: Scope,
    /// Which events count; `None`: all of them.
    pub event: Option<String>,
    /// `None`: it does not fade.
    pub half_life: Option<Span>,
    /// What is added up.
    pub sum: Summed,
}

/// What a count adds up of each event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Summed {
    /// 1.
    Events,
    /// Its number at this position; nothing if it is not given.
    Number(u8),
    /// 1 if its number at this position is given.
    Having(u8),
}

/// How a feature is computed.
#[expect(missing_docs, reason = "the sentence of a variant names its fields")]
#[derive(Clone, Debug, PartialEq)]
pub enum FeatureKind {
    /// A number field of the item or, if `of_user`, of the user.
    Number { field: String, of_user: bool },
    /// A category field, as its code.
    Category { field: String, of_user: bool },
    /// A boolean field, as 0 or 1.
    Boolean { field: String, of_user: bool },
    /// One component of a vector field of the item.
    Vector { field: String, component: usize },
    /// Days since the item's `field`, or since its publication or first event.
    ItemAge { field: Option<String> },
    /// Events, or one of their numbers, each fading with the half-life.
    DecayedCount { counted: Counted },
    /// The mean of one of the events' numbers, each fading with the half-life; missing without any.
    Mean { scope: Scope, event: Option<String>, half_life: Option<Span>, number: u8 },
    /// Distinct users who had the event: scope item only.
    DistinctUsers { event: Option<String> },
    /// `(top + prior * strength) / (bottom + strength)`.
    Rate { top: Counted, bottom: Counted, prior: f64, strength: f64 },
    /// Count per day over the short half-life, over the same for the long one.
    Trend { scope: Scope, event: Option<String>, short: Span, long: Span },
    /// Days since the last event.
    TimeSinceLast { scope: Scope, event: Option<String> },
    /// Mean days between occasions.
    TypicalGap { scope: Scope, event: Option<String> },
    /// Days since the last event over the typical gap.
    GapRatio { scope: Scope, event: Option<String> },
    /// Share of the user's events that were with items of the same value of `field`, each fading.
    InteractedWith { field: String, event: Option<String>, half_life: Option<Span> },
    /// Similarity to the user's history.
    Similarity { by: SimilarityBy, aggregate: Aggregate },
    /// Score of the source called so; missing if it did not propose the item.
    SourceScore { source: String },
    /// Rank in the source called so, from 1.
    SourceRank { source: String },
    /// How many sources proposed the item.
    SourceCount,
    /// Part of the local time of the request.
    LocalTime { part: TimePart, utc_offset_minutes: i32 },
    /// A constant of the request.
    Request { constant: RequestConstant },
}

/// A feature: its name and how it is computed, live and in replay alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Feature {
    /// Unique name.
    pub name: String,
    /// How it is computed.
    pub kind: FeatureKind,
}

impl Feature {
    /// Whether the ranker must treat its values as codes without an order.
    pub fn is_categorical(&self) -> bool {
        matches!(self.kind, FeatureKind::Category { .. })
    }
}

/// A feature as the configuration writes it; [`FeatureEntry::resolve`] makes a [`Feature`] of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureEntry {
    /// Unique name.
    pub name: String,
    /// One of [`KINDS`].
    pub kind: String,
    /// `item`, `user`, `user_item`, `user_field` or `field`; the latter two with `field`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Event type; left out: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Field of the item, or of the user for the kinds that read one with `of = "user"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// `item` (default) or `user`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Half-life of a count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_life: Option<Span>,
    /// Short half-life of a trend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short: Option<Span>,
    /// Long half-life of a trend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub long: Option<Span>,
    /// `count` (default), `value`, or a field of the events: what is added up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum: Option<String>,
    /// Numerator of a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top: Option<CountedEntry>,
    /// Denominator of a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bottom: Option<CountedEntry>,
    /// Rate of something without events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prior: Option<f64>,
    /// How many events the prior is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// `co_visitation`, `cosine` or `embedding`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<SimilarityBy>,
    /// `sum`, `max` or `last`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// Name of a retrieval source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// `hour`, `weekday` or `month_day`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<TimePart>,
    /// Minutes to add to UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utc_offset_minutes: Option<i32>,
    /// `candidates` or `history_items`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant: Option<RequestConstant>,
    /// Which component of a vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<usize>,
}

/// A count as the configuration writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CountedEntry {
    /// As in [`FeatureEntry::scope`].
    pub scope: String,
    /// As in [`FeatureEntry::field`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// As in [`FeatureEntry::event`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// As in [`FeatureEntry::half_life`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_life: Option<Span>,
    /// As in [`FeatureEntry::sum`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum: Option<String>,
}

/// The names of the kinds of features.
pub const KINDS: [&str; 20] = [
    "number",
    "category",
    "boolean",
    "vector",
    "item_age",
    "decayed_count",
    "mean",
    "distinct_users",
    "rate",
    "trend",
    "time_since_last",
    "typical_gap",
    "gap_ratio",
    "interacted_with",
    "similarity",
    "source_score",
    "source_rank",
    "source_count",
    "local_time",
    "request",
];

/// Why a feature of the configuration cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeatureError {
    /// A name that is not one of the known ones.
    #[error("feature {feature:?}: unknown {what} {value:?}{}", did_you_mean(nearest))]
    Unknown {
        /// Name of the feature.
        feature: String,
        /// What the name should be of.
        what: &'static str,
        /// The name.
        value: String,
        /// The known name that is most like it.
        nearest: Option<String>,
    },
    /// A key that the kind needs.
    #[error("feature {feature:?} of kind {kind:?} needs `{key}`")]
    Missing {
        /// Name of the feature.
        feature: String,
        /// Its kind.
        kind: String,
        /// The key.
        key: &'static str,
    },
    /// Two features of one name.
    #[error("feature {feature:?} is declared twice")]
    Twice {
        /// The name.
        feature: String,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

/// The known name that is most like `name`, if any is alike at all.
pub fn nearest_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}

impl FeatureEntry {
    /// The feature, with every name that it uses checked against `schema`.
    ///
    /// # Errors
    /// If the kind, a field, an event or a scope is unknown, or a key is missing.
    pub fn resolve(&self, schema: &Schema) -> Result<Feature, FeatureError> {
        let kind = Resolver { entry: self, schema }.kind()?;
        Ok(Feature { name: self.name.clone(), kind })
    }
}

struct Resolver<'a> {
    entry: &'a FeatureEntry,
    schema: &'a Schema,
}

impl Resolver<'_> {
    fn kind(&self) -> Result<FeatureKind, FeatureError> {
        let e = self.entry;
        Ok(match e.kind.as_str() {
            "number" => FeatureKind::Number { field: self.any_field()?, of_user: self.of_user() },
            "category" => {
                FeatureKind::Category { field: self.any_field()?, of_user: self.of_user() }
            }
            "boolean" => FeatureKind::Boolean { field: self.any_field()?, of_user: self.of_user() },
            "vector" => FeatureKind::Vector {
                field: self.item_field(&e.field)?,
                component: self.needed("component", e.component)?,
            },
            "item_age" => FeatureKind::ItemAge {
                field: e.field.is_some().then(|| self.item_field(&e.field)).transpose()?,
            },
            "decayed_count" => FeatureKind::DecayedCount {
                counted: Counted {
                    scope: self.own_scope()?,
                    event: self.event(&e.event)?,
                    half_life: e.half_life,
                    sum: self.summed(&e.sum)?,
                },
            },
            "mean" => FeatureKind::Mean {
                scope: self.own_scope()?,
                event: self.event(&e.event)?,
                half_life: e.half_life,
                number: self.number(&self.needed("sum", e.sum.clone())?)?,
            },
            "distinct_users" => FeatureKind::DistinctUsers { event: self.event(&e.event)? },
            "rate" => FeatureKind::Rate {
                top: self.counted("top", &e.top)?,
                bottom: self.counted("bottom", &e.bottom)?,
                prior: e.prior.unwrap_or(0.0),
                strength: e.strength.unwrap_or(1.0),
            },
            "trend" => FeatureKind::Trend {
                scope: self.own_scope()?,
                event: self.event(&e.event)?,
                short: self.needed("short", e.short)?,
                long: self.needed("long", e.long)?,
            },
            "time_since_last" => FeatureKind::TimeSinceLast {
                scope: self.own_scope()?,
                event: self.event(&e.event)?,
            },
            "typical_gap" => {
                FeatureKind::TypicalGap { scope: self.own_scope()?, event: self.event(&e.event)? }
            }
            "gap_ratio" => {
                FeatureKind::GapRatio { scope: self.own_scope()?, event: self.event(&e.event)? }
            }
            "interacted_with" => FeatureKind::InteractedWith {
                field: self.item_field(&e.field)?,
                event: self.event(&e.event)?,
                half_life: e.half_life,
            },
            "similarity" => FeatureKind::Similarity {
                by: self.needed("by", e.by)?,
                aggregate: self.needed("aggregate", e.aggregate)?,
            },
            "source_score" => {
                FeatureKind::SourceScore { source: self.needed("source", e.source.clone())? }
            }
            "source_rank" => {
                FeatureKind::SourceRank { source: self.needed("source", e.source.clone())? }
            }
            "source_count" => FeatureKind::SourceCount,
            "local_time" => FeatureKind::LocalTime {
                part: self.needed("part", e.part)?,
                utc_offset_minutes: e.utc_offset_minutes.unwrap_or(0),
            },
            "request" => FeatureKind::Request { constant: self.needed("constant", e.constant)? },
            other => return Err(self.unknown("kind", other, KINDS)),
        })
    }

    fn of_user(&self) -> bool {
        self.entry.of.as_deref() == Some("user")
    }

    fn needed<T>(&self, key: &'static str, value: Option<T>) -> Result<T, FeatureError> {
        value.ok_or_else(|| FeatureError::Missing {
            feature: self.entry.name.clone(),
            kind: self.entry.kind.clone(),
            key,
        })
    }

    fn unknown<'b>(
        &self,
        what: &'static str,
        value: &str,
        known: impl IntoIterator<Item = &'b str>,
    ) -> FeatureError {
        let nearest = nearest_name(value, known);
        FeatureError::Unknown {
            feature: self.entry.name.clone(),
            what,
            value: value.into(),
            nearest,
        }
    }

    fn item_field(&self, field: &Option<String>) -> Result<String, FeatureError> {
        let field = self.needed("field", field.clone())?;
        if self.schema.item_fields.contains_key(&field) {
            return Ok(field);
        }
        Err(self.unknown("item field", &field, self.schema.item_fields.keys().map(String::as_str)))
    }

    fn any_field(&self) -> Result<String, FeatureError> {
        if !self.of_user() {
            return self.item_field(&self.entry.field);
        }
        let field = self.needed("field", self.entry.field.clone())?;
        if self.schema.user_fields.contains_key(&field) {
            return Ok(field);
        }
        Err(self.unknown("user field", &field, self.schema.user_fields.keys().map(String::as_str)))
    }

    fn event(&self, event: &Option<String>) -> Result<Option<String>, FeatureError> {
        let Some(event) = event else { return Ok(None) };
        if self.schema.events.contains_key(event) {
            return Ok(Some(event.clone()));
        }
        Err(self.unknown("event", event, self.schema.events.keys().map(String::as_str)))
    }

    fn own_scope(&self) -> Result<Scope, FeatureError> {
        let scope = self.needed("scope", self.entry.scope.clone())?;
        self.scope(&scope, &self.entry.field)
    }

    fn scope(&self, scope: &str, field: &Option<String>) -> Result<Scope, FeatureError> {
        Ok(match scope {
            "item" => Scope::Item,
            "user" => Scope::User,
            "user_item" => Scope::UserItem,
            "user_field" => Scope::UserField(self.item_field(field)?),
            "field" => Scope::Field(self.item_field(field)?),
            other => {
                let known = ["item", "user", "user_item", "user_field", "field"];
                return Err(self.unknown("scope", other, known));
            }
        })
    }

    fn counted(
        &self,
        key: &'static str,
        entry: &Option<CountedEntry>,
    ) -> Result<Counted, FeatureError> {
        let entry = self.needed(key, entry.as_ref())?;
        Ok(Counted {
            scope: self.scope(&entry.scope, &entry.field)?,
            event: self.event(&entry.event)?,
            half_life: entry.half_life,
            sum: self.summed(&entry.sum)?,
        })
    }

    fn summed(&self, sum: &Option<String>) -> Result<Summed, FeatureError> {
        match sum.as_deref() {
            None | Some("count") => Ok(Summed::Events),
            Some(name) => Ok(Summed::Number(self.number(name)?)),
        }
    }

    fn number(&self, name: &str) -> Result<u8, FeatureError> {
        let known = self.schema.event_fields.keys().map(String::as_str);
        let number = self.schema.event_number(name);
        number.ok_or_else(|| self.unknown("sum", name, known.chain(["count", VALUE_NAME])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let events = [("purchase".to_owned(), EventType { weight: 4.0, label: 3 })].into();
        let item_fields = [("category".to_owned(), FieldKind::Category)].into();
        Schema { events, item_fields, ..Schema::default() }
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest() {
        let entry = FeatureEntry {
            name: "f".into(),
            kind: "decayed_count".into(),
            scope: Some("item".into()),
            event: Some("purchse".into()),
            ..Default::default()
        };
        let message = entry.resolve(&schema()).unwrap_err().to_string();
        assert_eq!(message, r#"feature "f": unknown event "purchse"; did you mean "purchase"?"#);
    }

    #[test]
    fn a_key_that_the_kind_needs_is_named() {
        let entry = FeatureEntry { name: "f".into(), kind: "trend".into(), ..Default::default() };
        let message = entry.resolve(&schema()).unwrap_err().to_string();
        assert_eq!(message, r#"feature "f" of kind "trend" needs `scope`"#);
    }
}
