//! Items or users: their names and the values of their fields, in typed columns.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::ids::Names;
use crate::readers::field_value;
use crate::schema::FieldKind;
use crate::time::Timestamp;
use crate::value::{Fields, Value};

/// The code of a category field without a value.
pub const NO_CODE: u32 = u32::MAX;

/// The values of one field, by dense id. What was not set is missing, never zero.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Column {
    /// Codes into `values`. Most items have one value; `more` has the further ones of those that have several.
    Category {
        /// First value of each, [`NO_CODE`] if there is none.
        first: Vec<u32>,
        /// Further values.
        more: FxHashMap<u32, Box<[u32]>>,
        /// The texts, numbered.
        values: NameList,
    },
    /// Numbers, booleans as 0 and 1, and times as milliseconds since 1970. NaN if missing.
    Number(Vec<f64>),
    /// Vectors of one length, empty if missing.
    Vector(Vec<Box<[f32]>>),
    /// Texts, empty if missing.
    Text(Vec<Box<str>>),
}

/// Names that are stored as a plain list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct NameList(pub Names);

impl From<Vec<String>> for NameList {
    fn from(names: Vec<String>) -> Self {
        Self(names.iter().map(String::as_str).collect())
    }
}

impl From<NameList> for Vec<String> {
    fn from(names: NameList) -> Self {
        names.0.iter().map(str::to_owned).collect()
    }
}

impl Column {
    fn new(kind: FieldKind) -> Self {
        match kind {
            FieldKind::Category => Self::Category {
                first: Vec::new(),
                more: FxHashMap::default(),
                values: NameList::default(),
            },
            FieldKind::Number | FieldKind::Boolean | FieldKind::Time => Self::Number(Vec::new()),
            FieldKind::Vector => Self::Vector(Vec::new()),
            FieldKind::Text => Self::Text(Vec::new()),
        }
    }

    fn grow(&mut self, n: usize) {
        match self {
            Self::Category { first, .. } => first.resize(n, NO_CODE),
            Self::Number(numbers) => numbers.resize(n, f64::NAN),
            Self::Vector(vectors) => vectors.resize(n, Box::default()),
            Self::Text(texts) => texts.resize(n, Box::default()),
        }
    }

    /// Sets the value of `id`; one that does not fit the column's type makes it missing.
    fn set(&mut self, id: u32, kind: FieldKind, value: &Value) {
        let i = id as usize;
        match self {
            Self::Category { first, more, values } => {
                let mut codes =
                    category_texts(value).map(|text| values.0.intern(&text)).collect::<Vec<_>>();
                codes.dedup();
                first[i] = codes.first().copied().unwrap_or(NO_CODE);
                if codes.len() > 1 {
                    more.insert(id, codes[1..].into());
                } else {
                    more.remove(&id);
                }
            }
            Self::Number(numbers) => numbers[i] = number_of(kind, value),
            Self::Vector(vectors) => {
                vectors[i] = match value {
                    Value::Vector(vector) => vector.as_slice().into(),
                    _ => Box::default(),
                }
            }
            Self::Text(texts) => {
                texts[i] = category_texts(value).collect::<Vec<_>>().join("|").into();
            }
        }
    }

    /// The codes of a category field: none, one or several.
    pub fn codes(&self, id: u32) -> impl Iterator<Item = u32> + '_ {
        let (first, more): (_, &[u32]) = match self {
            Self::Category { first, more, .. } => (
                first.get(id as usize).copied().filter(|code| *code != NO_CODE),
                more.get(&id).map_or(&[], |codes| codes),
            ),
            _ => (None, &[]),
        };
        first.into_iter().chain(more.iter().copied())
    }

    /// How many values a category field has had: their codes are below that.
    pub fn n_values(&self) -> usize {
        match self {
            Self::Category { values, .. } => values.0.len(),
            _ => 0,
        }
    }

    /// The number, NaN if there is none.
    pub fn number(&self, id: u32) -> f64 {
        match self {
            Self::Number(numbers) => numbers.get(id as usize).copied().unwrap_or(f64::NAN),
            _ => f64::NAN,
        }
    }

    /// The number, or the code of the first category; NaN if there is none.
    pub fn number_or_code(&self, id: u32) -> f64 {
        match self {
            Self::Category { .. } => self.codes(id).next().map_or(f64::NAN, f64::from),
            _ => self.number(id),
        }
    }

    /// The value as it would be put.
    pub fn value(&self, id: u32, kind: FieldKind) -> Value {
        match self {
            Self::Category { values, .. } => {
                let texts = self.codes(id).filter_map(|code| values.0.name(code)).map(Box::from);
                let mut texts: Vec<Box<str>> = texts.collect();
                match texts.len() {
                    0 => Value::Null,
                    1 => Value::Text(texts.remove(0)),
                    _ => Value::Texts(texts),
                }
            }
            Self::Number(_) => match (self.number(id), kind) {
                (number, _) if number.is_nan() => Value::Null,
                (number, FieldKind::Boolean) => Value::Bool(number != 0.0),
                (number, FieldKind::Time) => {
                    Value::Text(Timestamp(number as i64).to_string().into())
                }
                (number, _) => Value::Number(number),
            },
            Self::Vector(vectors) => match vectors.get(id as usize) {
                Some(vector) if !vector.is_empty() => Value::Vector(vector.to_vec()),
                _ => Value::Null,
            },
            Self::Text(texts) => match texts.get(id as usize) {
                Some(text) if !text.is_empty() => Value::Text(text.clone()),
                _ => Value::Null,
            },
        }
    }
}

pub(crate) fn category_texts(value: &Value) -> impl Iterator<Item = String> + '_ {
    let (one, several): (Option<String>, &[Box<str>]) = match value {
        Value::Text(text) if !text.is_empty() => (Some(text.to_string()), &[]),
        Value::Number(number) => (Some(number.to_string()), &[]),
        Value::Bool(flag) => (Some(flag.to_string()), &[]),
        Value::Texts(texts) => (None, texts),
        _ => (None, &[]),
    };
    one.into_iter().chain(several.iter().map(|text| text.to_string()))
}

/// `value` as the number of a field of this type; NaN if it is none.
pub fn number_of(kind: FieldKind, value: &Value) -> f64 {
    let number = match (kind, value) {
        (FieldKind::Time, Value::Text(text)) => {
            Timestamp::parse(text).ok().map(|time| time.0 as f64)
        }
        (FieldKind::Time, Value::Number(number)) => {
            Timestamp::from_number(*number).map(|time| time.0 as f64)
        }
        (FieldKind::Boolean, Value::Text(text)) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => Some(1.0),
            "false" | "no" | "0" => Some(0.0),
            _ => None,
        },
        _ => value.as_number(),
    };
    number.filter(|number| number.is_finite()).unwrap_or(f64::NAN)
}

/// Items or users by dense id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Entities {
    names: NameList,
    fields: Vec<(String, FieldKind)>,
    columns: Vec<Column>,
    published: Vec<Timestamp>,
    expires: Vec<Timestamp>,
    hidden: Vec<bool>,
    /// Whether it was deleted, and not put again.
    gone: Vec<bool>,
    /// For those that stand for another, which one.
    merged: FxHashMap<u32, u32>,
    /// Those whose publication was set since [`take_published`](Self::take_published), with the time before.
    #[serde(skip)]
    newly_published: Vec<(u32, Timestamp)>,
    /// How often names or fields have changed since it was made or read.
    #[serde(skip)]
    n_changes: u64,
}

impl Entities {
    /// None yet, with these fields.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a String, &'a FieldKind)>) -> Self {
        let fields: Vec<(String, FieldKind)> =
            fields.into_iter().map(|(name, kind)| (name.clone(), *kind)).collect();
        let columns = fields.iter().map(|(_, kind)| Column::new(*kind)).collect();
        Self { fields, columns, ..Self::default() }
    }

    /// The dense id of the one called `name`, or of the one that it was merged into.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.names.0.get(name).map(|id| self.resolve(id))
    }

    /// `id`, or the one that it was merged into.
    pub fn resolve(&self, id: u32) -> u32 {
        let mut id = id;
        while let Some(into) = self.merged.get(&id) {
            id = *into;
        }
        id
    }

    /// The names that lead to `id`: its own, and those of the ones that were merged into it.
    pub fn names_of(&self, id: u32) -> Vec<&str> {
        let ids = std::iter::once(id).chain(self.merged_into(id));
        ids.filter_map(|id| self.names.0.name(id)).collect()
    }

    /// Those that stand for `id`.
    pub(crate) fn merged_into(&self, id: u32) -> impl Iterator<Item = u32> {
        self.merged.keys().copied().filter(move |from| self.resolve(*from) == id)
    }

    /// Has `from` stand for `into` from now on, which may stand for another. Nothing happens if they are one already.
    pub fn merge(&mut self, from: u32, into: u32) {
        let (from, into) = (self.resolve(from), self.resolve(into));
        if from != into {
            self.merged.insert(from, into);
        }
        self.revive(into);
    }

    /// One that was deleted and is heard of again is known again, with nothing that was known before.
    pub fn revive(&mut self, id: u32) {
        self.gone[id as usize] = false;
    }

    /// The dense id of `name`, the next free one if it is new.
    pub fn intern(&mut self, name: &str) -> u32 {
        let id = self.names.0.intern(name);
        if id as usize >= self.published.len() {
            self.n_changes += 1;
            let n = id as usize + 1;
            self.columns.iter_mut().for_each(|column| column.grow(n));
            self.published.resize(n, Timestamp::MIN);
            self.expires.resize(n, Timestamp::MAX);
            self.hidden.resize(n, false);
            self.gone.resize(n, false);
        }
        id
    }

    /// Puts the fields of `id`: those given are set, the others become missing. Names that the schema does not have
    /// are ignored.
    pub fn put(&mut self, id: u32, fields: &Fields) {
        for ((name, kind), column) in self.fields.iter().zip(&mut self.columns) {
            column.set(id, *kind, fields.get(name.as_str()).unwrap_or(&Value::Null));
        }
        self.gone[id as usize] = false;
        self.n_changes += 1;
    }

    /// Sets those of the fields of the one called `name` that are given, if it is known and was not deleted. A value that is
    /// not of its field's type makes it missing; names that the schema does not have are ignored.
    pub fn set(&mut self, name: &str, fields: &Fields) {
        let Some(id) = self.find(name).filter(|id| !self.is_gone(*id)) else { return };
        for (name, value) in fields {
            if let Some(position) = self.field(name) {
                let kind = self.fields[position].1;
                let value = field_value(value, kind).unwrap_or(Value::Null);
                self.columns[position].set(id, kind, &value);
            }
        }
        self.n_changes += 1;
    }

    /// How often names or fields have changed: as long as it is the same, so are they.
    pub fn n_changes(&self) -> u64 {
        self.n_changes
    }

    /// Forgets the fields of `id`, which is not available until it is put again. Those that stand for it are deleted with it, and
    /// stand for themselves from now on. Its number stays its own.
    pub fn delete(&mut self, id: u32) {
        self.put(id, &Fields::new());
        self.gone[id as usize] = true;
        let merged: Vec<u32> = self.merged_into(id).collect();
        for from in merged {
            self.merged.remove(&from);
            self.gone[from as usize] = true;
        }
    }

    /// Sets from when until when `id` may be shown, and whether at all.
    pub fn put_availability(
        &mut self,
        id: u32,
        published: Option<Timestamp>,
        expires: Option<Timestamp>,
        hidden: bool,
    ) {
        let i = id as usize;
        self.newly_published.push((id, self.published[i]));
        self.published[i] = published.unwrap_or(Timestamp::MIN);
        self.expires[i] = expires.unwrap_or(Timestamp::MAX);
        self.hidden[i] = hidden;
    }

    /// Those whose publication was set since the last call, with the time before, `Timestamp::MIN` for none.
    pub(crate) fn take_published(&mut self) -> Vec<(u32, Timestamp)> {
        std::mem::take(&mut self.newly_published)
    }

    /// Whether `id` may be shown at `now`.
    pub fn is_available(&self, id: u32, now: Timestamp) -> bool {
        let i = id as usize;
        i < self.hidden.len()
            && !self.hidden[i]
            && !self.gone[i]
            && self.published[i] <= now
            && now < self.expires[i]
    }

    /// When `id` was published, if that was given.
    pub fn published(&self, id: u32) -> Option<Timestamp> {
        self.published.get(id as usize).copied().filter(|time| *time != Timestamp::MIN)
    }

    /// From when on `id` is not shown any more, if that was given.
    pub fn expires(&self, id: u32) -> Option<Timestamp> {
        self.expires.get(id as usize).copied().filter(|time| *time != Timestamp::MAX)
    }

    /// Whether `id` was put as hidden.
    pub fn is_hidden(&self, id: u32) -> bool {
        self.hidden.get(id as usize).is_some_and(|hidden| *hidden)
    }

    /// Whether `id` was deleted, and not put again.
    pub fn is_gone(&self, id: u32) -> bool {
        self.gone.get(id as usize).is_some_and(|gone| *gone)
    }

    /// Names and their dense ids.
    pub fn names(&self) -> &Names {
        &self.names.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Position of the field called `name`.
    pub fn field(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|(known, _)| known == name)
    }

    /// The name of the field at `position`.
    pub fn field_name(&self, position: usize) -> &str {
        &self.fields[position].0
    }

    /// The type of the field at `position`.
    pub fn kind(&self, position: usize) -> FieldKind {
        self.fields[position].1
    }

    /// The values of the field at `position`.
    pub fn column(&self, position: usize) -> &Column {
        &self.columns[position]
    }

    /// The code of `value` in the category field called `field`, if something has it.
    pub fn code(&self, field: &str, value: &str) -> Option<u32> {
        match &self.columns[self.field(field)?] {
            Column::Category { values, .. } => values.0.get(value),
            _ => None,
        }
    }

    /// How many fields there are.
    pub fn n_fields(&self) -> usize {
        self.fields.len()
    }

    /// For each field the number or the code of `id`, NaN if there is none.
    pub fn numbers(&self, id: u32) -> Vec<f64> {
        self.columns.iter().map(|column| column.number_or_code(id)).collect()
    }

    /// All values of `id` that are not missing.
    pub fn fields_of(&self, id: u32) -> Fields {
        let values = self.fields.iter().zip(&self.columns);
        values
            .map(|((name, kind), column)| (name.as_str().into(), column.value(id, *kind)))
            .filter(|(_, value)| *value != Value::Null)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entities() -> Entities {
        let fields = [
            ("genres".to_owned(), FieldKind::Category),
            ("price".to_owned(), FieldKind::Number),
            ("since".to_owned(), FieldKind::Time),
        ];
        Entities::new(fields.iter().map(|(name, kind)| (name, kind)))
    }

    #[test]
    fn fields_are_set_one_by_one_and_what_does_not_fit_becomes_missing() {
        let mut items = entities();
        let id = items.intern("a");
        let two = |price: Value| -> Fields {
            [("price".into(), price), ("genres".into(), Value::Text("x".into()))].into()
        };
        items.put(id, &two(Value::Number(2.5)));
        items.set(
            "a",
            &[("price".into(), Value::Text("3".into())), ("no".into(), Value::Null)].into(),
        );
        assert_eq!(items.fields_of(id), two(Value::Number(3.0)));
        items.set("a", &[("price".into(), Value::Text("much".into()))].into());
        assert!(items.column(1).number(id).is_nan());
        items.set("b", &two(Value::Number(1.0)));
        assert_eq!(items.len(), 1, "one that is not known stays so");
        items.delete(id);
        items.set("a", &two(Value::Number(1.0)));
        assert_eq!(items.fields_of(id), Fields::new());
    }

    #[test]
    fn fields_come_back_as_they_were_put() {
        let mut items = entities();
        let id = items.intern("a");
        let fields: Fields = [
            ("genres".into(), Value::Texts(vec!["x".into(), "y".into()])),
            ("price".into(), Value::Number(2.5)),
            ("since".into(), Value::Text("2020-01-02T00:00:00Z".into())),
        ]
        .into();
        items.put(id, &fields);
        assert_eq!(items.fields_of(id), fields);
        items.put(id, &Fields::new());
        assert_eq!(items.fields_of(id), Fields::new(), "what is not given is missing");
    }

    #[test]
    fn an_item_is_available_between_its_publication_and_its_expiry() {
        let mut items = entities();
        let id = items.intern("a");
        items.put_availability(id, Some(Timestamp(10)), Some(Timestamp(20)), false);
        let shown = [9, 10, 19, 20].map(|t| items.is_available(id, Timestamp(t)));
        assert_eq!(shown, [false, true, true, false]);
        items.put_availability(id, None, None, true);
        assert!(!items.is_available(id, Timestamp(15)));
    }

    #[test]
    fn those_who_were_merged_into_a_deleted_one_stand_for_themselves() {
        let mut users = entities();
        let [first, second, last, other] = ["a", "b", "c", "d"].map(|name| users.intern(name));
        users.merge(first, second);
        users.merge(second, last);
        users.merge(other, last);
        assert_eq!(users.find("a"), Some(last));
        users.delete(last);
        let found = ["a", "b", "c", "d"].map(|name| users.find(name));
        assert_eq!(found, [first, second, last, other].map(Some));
        assert!([first, second, last, other].map(|id| users.is_gone(id)) == [true; 4]);
        assert_eq!(users.names_of(last), ["c"]);
    }

    #[test]
    fn what_was_deleted_is_gone_until_it_is_put_again() {
        let mut items = entities();
        let id = items.intern("a");
        items.put(id, &[("price".into(), Value::Number(2.5))].into());
        items.delete(id);
        assert!(items.is_gone(id) && !items.is_available(id, Timestamp(0)));
        assert_eq!((items.fields_of(id), items.intern("a")), (Fields::new(), id));
        items.put(id, &Fields::new());
        assert!(!items.is_gone(id) && items.is_available(id, Timestamp(0)));
    }
}
