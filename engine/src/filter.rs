//! What a request allows: conditions on the fields of items, as a bitmap over all of them.

use std::collections::BTreeMap;

use featurestore::entities::Column;
use featurestore::schema::{FieldKind, nearest_name};
use featurestore::{Entities, Timestamp, Value};
use retrieval::item_set::ItemSet;
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

/// Most conditions of one filter.
pub const MAX_CONDITIONS: usize = 64;

/// Most values of one condition.
pub const MAX_VALUES: usize = 1_000;

/// The times between which an item may be shown, beside its fields.
const PUBLISHED_AT: &str = "published_at";
const EXPIRES_AT: &str = "expires_at";

/// Conditions on the fields of items: every one of `must`, none of `must_not`, and at least one of `should`, if there are
/// any. A value that is missing meets `exists = false` alone.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// All of them hold.
    pub must: Vec<Condition>,
    /// One of them holds.
    pub should: Vec<Condition>,
    /// None of them holds.
    pub must_not: Vec<Condition>,
}

/// A condition on one field: `in`, or `gte` and `lte`, or `exists`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// A field of the items, `published_at` or `expires_at`.
    pub field: String,
    /// One of its values is one of these.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub any_of: Option<Vec<Value>>,
    /// It is at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gte: Option<Value>,
    /// It is at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lte: Option<Value>,
    /// Whether it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterFault {
    /// Place in the filter, as a JSON pointer.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

impl Filter {
    /// Whether it lets everything pass.
    pub fn is_empty(&self) -> bool {
        self.must.is_empty() && self.should.is_empty() && self.must_not.is_empty()
    }

    fn groups(&self) -> [(&'static str, &[Condition]); 3] {
        [("must", &self.must), ("should", &self.should), ("must_not", &self.must_not)]
    }

    /// Everything that is wrong with it, for items with these `fields`.
    pub fn faults(&self, fields: &BTreeMap<String, FieldKind>) -> Vec<FilterFault> {
        let n: usize = self.groups().iter().map(|(_, conditions)| conditions.len()).sum();
        if n > MAX_CONDITIONS {
            let message = format!("has {n} conditions, at most {MAX_CONDITIONS} are taken");
            return vec![FilterFault { pointer: String::new(), message }];
        }
        let mut faults = Vec::new();
        for (group, conditions) in self.groups() {
            for (i, condition) in conditions.iter().enumerate() {
                if let Err((key, message)) = condition.check(fields) {
                    let pointer = format!("/{group}/{i}/{key}");
                    faults.push(FilterFault { pointer, message });
                }
            }
        }
        faults
    }

    /// The items that it lets pass. Conditions on unknown fields hold for none. Cost: a few nanoseconds for each item and
    /// condition.
    pub fn passing(&self, items: &Entities) -> ItemSet {
        let n = items.len();
        let holding = |condition: &Condition| condition.holding(items);
        let mut passing = ItemSet::from_fn(n, |_| true);
        if !self.should.is_empty() {
            let none = ItemSet::from_fn(n, |_| false);
            passing = self.should.iter().fold(none, |any, c| any.or(&holding(c)));
        }
        passing = self.must.iter().fold(passing, |all, c| all.and(&holding(c)));
        self.must_not.iter().fold(passing, |rest, c| rest.without(&holding(c)))
    }
}

impl Condition {
    /// The key that is wrong, and how.
    fn check(&self, fields: &BTreeMap<String, FieldKind>) -> Result<(), (String, String)> {
        let kind = match self.field.as_str() {
            PUBLISHED_AT | EXPIRES_AT => FieldKind::Time,
            name => *fields.get(name).ok_or_else(|| {
                let known = fields.keys().map(String::as_str).chain([PUBLISHED_AT, EXPIRES_AT]);
                let hint = nearest_name(name, known);
                let hint = hint.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                ("field".to_owned(), format!("the items have no field {name:?}{hint}"))
            })?,
        };
        let ranged = self.gte.is_some() || self.lte.is_some();
        let n_tests =
            u8::from(self.any_of.is_some()) + u8::from(ranged) + u8::from(self.exists.is_some());
        if n_tests != 1 {
            let message = "needs `in`, or `gte` and `lte`, or `exists`: one of the three";
            return Err((String::new(), message.to_owned()));
        }
        if let Some(values) = &self.any_of {
            if values.len() > MAX_VALUES {
                let n = values.len();
                return Err((
                    "in".into(),
                    format!("has {n} values, at most {MAX_VALUES} are taken"),
                ));
            }
            let bad = values.iter().position(|value| !is_of(kind, value));
            if let Some(i) = bad {
                return Err((format!("in/{i}"), is_not(kind, &self.field)));
            }
        }
        for (key, bound) in [("gte", &self.gte), ("lte", &self.lte)] {
            let Some(bound) = bound else { continue };
            if !matches!(kind, FieldKind::Number | FieldKind::Time) {
                let message = format!("{:?} has no order: it is a {}", self.field, named(kind));
                return Err((key.into(), message));
            }
            if bound_of(kind, bound).is_none() {
                return Err((key.into(), is_not(kind, &self.field)));
            }
        }
        Ok(())
    }

    /// The items for which it holds.
    fn holding(&self, items: &Entities) -> ItemSet {
        let n = items.len();
        let times = |time: &dyn Fn(u32) -> Option<Timestamp>| {
            let number = |id: usize| time(id as u32).map_or(f64::NAN, |time| time.0 as f64);
            self.of_numbers(n, FieldKind::Time, number)
        };
        match self.field.as_str() {
            PUBLISHED_AT => return times(&|id| items.published(id)),
            EXPIRES_AT => return times(&|id| items.expires(id)),
            _ => {}
        }
        let Some(position) = items.field(&self.field) else {
            return ItemSet::from_fn(n, |_| false);
        };
        match items.column(position) {
            column @ Column::Category { values, .. } => {
                let wanted =
                    self.any_of.iter().flatten().filter_map(|v| values.0.get(&text_of(v)?));
                let wanted: FxHashSet<u32> = wanted.collect();
                self.of_categories(n, column, &wanted)
            }
            Column::Number(numbers) => {
                let number = |id: usize| numbers.get(id).copied().unwrap_or(f64::NAN);
                self.of_numbers(n, items.kind(position), number)
            }
            Column::Vector(vectors) => {
                self.of_others(n, |id| vectors.get(id).is_some_and(|v| !v.is_empty()), |_| false)
            }
            Column::Text(texts) => {
                let wanted: FxHashSet<String> =
                    self.any_of.iter().flatten().filter_map(text_of).collect();
                let is_there = |id: usize| texts.get(id).is_some_and(|text| !text.is_empty());
                self.of_others(n, is_there, |id| wanted.contains(&*texts[id]))
            }
        }
    }

    fn of_categories(&self, n: usize, column: &Column, wanted: &FxHashSet<u32>) -> ItemSet {
        let Column::Category { first, more, .. } = column else { unreachable!("it has codes") };
        if let Some(exists) = self.exists {
            return ItemSet::from_fn(n, |id| {
                (first[id] != featurestore::entities::NO_CODE) == exists
            });
        }
        let mut holding = match (wanted.len(), wanted.iter().next()) {
            (1, Some(one)) => ItemSet::from_fn(n, |id| first[id] == *one),
            _ => ItemSet::from_fn(n, |id| wanted.contains(&first[id])),
        };
        let further = more.iter().filter(|(_, codes)| codes.iter().any(|c| wanted.contains(c)));
        further.for_each(|(id, _)| holding.insert(featurestore::ItemId(*id)));
        holding
    }

    fn of_numbers(&self, n: usize, kind: FieldKind, number: impl Fn(usize) -> f64) -> ItemSet {
        if let Some(exists) = self.exists {
            return ItemSet::from_fn(n, |id| number(id).is_nan() != exists);
        }
        if let Some(values) = &self.any_of {
            // By their bits, of which 0 has two forms.
            let bits = |number: f64| (number + 0.0).to_bits();
            let wanted = values.iter().filter_map(|value| bound_of(kind, value));
            let wanted: FxHashSet<u64> = wanted.map(bits).collect();
            return ItemSet::from_fn(n, |id| wanted.contains(&bits(number(id))));
        }
        let bound = |bound: &Option<Value>, open: f64| {
            bound.as_ref().and_then(|bound| bound_of(kind, bound)).unwrap_or(open)
        };
        let (least, most) = (bound(&self.gte, f64::NEG_INFINITY), bound(&self.lte, f64::INFINITY));
        ItemSet::from_fn(n, |id| (least..=most).contains(&number(id)))
    }

    fn of_others(
        &self,
        n: usize,
        is_there: impl Fn(usize) -> bool,
        is_wanted: impl Fn(usize) -> bool,
    ) -> ItemSet {
        match (self.exists, &self.any_of) {
            (Some(exists), _) => ItemSet::from_fn(n, |id| is_there(id) == exists),
            (None, Some(_)) => ItemSet::from_fn(n, |id| is_there(id) && is_wanted(id)),
            (None, None) => ItemSet::from_fn(n, |_| false),
        }
    }
}

fn named(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Category => "category",
        FieldKind::Number => "number",
        FieldKind::Boolean => "boolean",
        FieldKind::Time => "time",
        FieldKind::Vector => "vector, of which a filter sees only whether it `exists`",
        FieldKind::Text => "text",
    }
}

fn is_not(kind: FieldKind, field: &str) -> String {
    format!("is not a value of {field:?}, which is a {}", named(kind))
}

fn is_of(kind: FieldKind, value: &Value) -> bool {
    match kind {
        FieldKind::Category | FieldKind::Text => text_of(value).is_some(),
        FieldKind::Number | FieldKind::Boolean | FieldKind::Time => bound_of(kind, value).is_some(),
        FieldKind::Vector => false,
    }
}

/// `value` as the text of a category.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Texts(_) | Value::Vector(_) => None,
    }
}

/// `value` as columns of numbers, booleans and times hold it.
fn bound_of(kind: FieldKind, value: &Value) -> Option<f64> {
    match (kind, value) {
        (FieldKind::Boolean, Value::Bool(flag)) => Some(f64::from(u8::from(*flag))),
        (FieldKind::Number, Value::Number(number)) => Some(*number),
        (FieldKind::Time, Value::Text(text)) => Timestamp::parse(text).ok().map(|t| t.0 as f64),
        (FieldKind::Time, Value::Number(ms)) => Some(*ms),
        _ => None,
    }
}
