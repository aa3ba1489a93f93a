//! From the columns of a row to events, items and users.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BadRow, Row};
use crate::event::NamedEvent;
use crate::ids::MAX_ID_BYTES;
use crate::log::{ItemRecord, UserRecord};
use crate::schema::FieldKind;
use crate::time::{DAY_MS, Timestamp};
use crate::value::{Fields, Value};

/// Largest size up to which a float holds every whole number.
const EXACT: u64 = 1 << 53;
/// Characters of a value that a bad row shows.
const PRINTED_CHARS: usize = 80;

/// What numbers in a time column count, since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeUnit {
    /// Seconds, milliseconds or microseconds, by the size of each number.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// Days.
    #[serde(rename = "d")]
    Days,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
}

impl TimeUnit {
    /// The time of `number`; `None` if it is not finite or out of range.
    pub fn time(self, number: f64) -> Option<Timestamp> {
        let ms = match self {
            Self::Auto => return Timestamp::from_number(number),
            Self::Days => number * DAY_MS as f64,
            Self::Seconds => number * 1e3,
            Self::Milliseconds => number,
            Self::Microseconds => number / 1e3,
            Self::Nanoseconds => number / 1e6,
        };
        (ms.abs() < 1e15).then(|| Timestamp(ms.round() as i64))
    }
}

/// Which columns of a file of events hold what: `[import.events]` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnMap {
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// To what.
    pub item: String,
    /// The visit or basket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// When.
    pub time: String,
    /// The unit of the times that are numbers.
    #[serde(default)]
    pub time_unit: TimeUnit,
    /// The event type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The event type of rows that do not have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_kind: Option<String>,
    /// An amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What makes the event count once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Columns that are kept as properties.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub properties: Vec<String>,
}

impl ColumnMap {
    /// Every column that is named.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let optional = [&self.user, &self.session, &self.kind, &self.value, &self.event_id];
        let optional = optional.into_iter().flatten();
        optional.chain([&self.item, &self.time]).chain(&self.properties).map(String::as_str)
    }
}

/// Which columns of a file of items hold what: `[import.items]` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemMap {
    /// The item's id.
    pub id: String,
    /// From when on it may be recommended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_at: Option<String>,
    /// Until when it may be recommended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Whether it is kept from being recommended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
    /// What separates the values of a category with several, such as `|`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<char>,
    /// The fields and their types, by column. Left out in the configuration, where `[items.fields]` says it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, FieldKind>,
}

impl ItemMap {
    /// Every column that is named.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        let optional = [&self.published_at, &self.expires_at, &self.hidden].into_iter().flatten();
        optional.chain([&self.id]).chain(self.fields.keys()).map(String::as_str)
    }
}

/// Which columns of a file of users hold what: `[import.users]` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserMap {
    /// The user's id.
    pub id: String,
    /// What separates the values of a category with several, such as `|`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<char>,
    /// The fields and their types, by column. Left out in the configuration, where `[users.fields]` says it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, FieldKind>,
}

impl UserMap {
    /// Every column that is named.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        [&self.id].into_iter().chain(self.fields.keys()).map(String::as_str)
    }
}

/// Which columns of which files hold what: `[import]` in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportMaps {
    /// Of files of events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<ColumnMap>,
    /// Of files of items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemMap>,
    /// Of files of users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<UserMap>,
}

/// The event in `row`. Values that are missing are absent.
///
/// # Errors
/// If item or time is missing, user and session both are, there is no type, or a value is not what it should be.
pub fn event_from_row(row: &Row, map: &ColumnMap) -> Result<NamedEvent, BadRow> {
    let optional_id =
        |column: &Option<String>| column.as_ref().map_or(Ok(None), |c| optional(row, c, id_text));
    let (user, session) = (optional_id(&map.user)?, optional_id(&map.session)?);
    if user.is_none() && session.is_none() {
        let column = map.user.as_ref().or(map.session.as_ref());
        let column = column.map_or("user", String::as_str);
        return Err(row.bad(column, None, "is missing, so nobody did it"));
    }
    let kind = optional_id(&map.kind)?.or_else(|| map.default_kind.as_deref().map(Box::from));
    let kind = kind.ok_or_else(|| {
        row.bad(map.kind.as_deref().unwrap_or("type"), None, "is missing, and there is no default")
    })?;
    let value = map.value.as_ref().map_or(Ok(None), |c| optional(row, c, finite))?;
    Ok(NamedEvent {
        event_id: optional_id(&map.event_id)?,
        kind,
        user,
        session,
        item: required(row, &map.item, id_text)?,
        time: time(row, &map.time, map.time_unit)?
            .ok_or_else(|| row.bad(&map.time, None, "is missing"))?,
        value,
        properties: properties(row, &map.properties),
        ..NamedEvent::default()
    })
}

fn properties(row: &Row, columns: &[String]) -> Fields {
    let property = |column: &String| Some((column.as_str().into(), row.get(column)?.clone()));
    columns.iter().filter_map(property).collect()
}

/// The item in `row`. Values that are missing are absent.
///
/// # Errors
/// If the id is missing, or a value is not of its type.
pub fn item_from_row(row: &Row, map: &ItemMap) -> Result<ItemRecord, BadRow> {
    let optional_time = |column: &Option<String>| {
        column.as_ref().map_or(Ok(None), |column| time(row, column, TimeUnit::Auto))
    };
    let hidden = map.hidden.as_ref().map_or(Ok(None), |c| optional(row, c, boolean))?;
    Ok(ItemRecord {
        id: required(row, &map.id, id_text)?,
        fields: fields(row, &map.fields, map.separator)?,
        published_at: optional_time(&map.published_at)?,
        expires_at: optional_time(&map.expires_at)?,
        hidden: hidden.unwrap_or(false),
    })
}

/// The user in `row`. Values that are missing are absent.
///
/// # Errors
/// If the id is missing, or a value is not of its type.
pub fn user_from_row(row: &Row, map: &UserMap) -> Result<UserRecord, BadRow> {
    let id = required(row, &map.id, id_text)?;
    Ok(UserRecord { id, fields: fields(row, &map.fields, map.separator)? })
}

fn fields(
    row: &Row,
    kinds: &BTreeMap<String, FieldKind>,
    separator: Option<char>,
) -> Result<Fields, BadRow> {
    let mut fields = Fields::new();
    for (name, kind) in kinds {
        let value = match kind {
            FieldKind::Time => {
                // Written out, since a number of milliseconds before 1973 would be taken for seconds.
                time(row, name, TimeUnit::Auto)?.map(|time| Value::Text(time.to_string().into()))
            }
            FieldKind::Category => optional(row, name, |value| categories(value, separator))?,
            _ => optional(row, name, |value| field_value(value, *kind))?,
        };
        fields.extend(value.map(|value| (name.as_str().into(), value)));
    }
    Ok(fields)
}

/// What is wrong with a value, to be read behind it.
type Reason = &'static str;

fn optional<T>(
    row: &Row,
    column: &str,
    read: impl FnOnce(&Value) -> Result<T, Reason>,
) -> Result<Option<T>, BadRow> {
    let Some(value) = row.get(column) else { return Ok(None) };
    read(value).map(Some).map_err(|reason| row.bad(column, Some(value), reason))
}

fn required<T>(
    row: &Row,
    column: &str,
    read: impl FnOnce(&Value) -> Result<T, Reason>,
) -> Result<T, BadRow> {
    optional(row, column, read)?.ok_or_else(|| row.bad(column, None, "is missing"))
}

fn time(row: &Row, column: &str, unit: TimeUnit) -> Result<Option<Timestamp>, BadRow> {
    let Some((described, value)) = row.column(column) else { return Ok(None) };
    let unit = if described.is_time { TimeUnit::Milliseconds } else { unit };
    let time = time_value(value, unit).map_err(|reason| row.bad(column, Some(value), reason))?;
    Ok(Some(time))
}

pub(crate) fn time_value(value: &Value, unit: TimeUnit) -> Result<Timestamp, Reason> {
    let time = match value {
        Value::Number(number) => unit.time(*number),
        Value::Text(text) => match text.trim().parse() {
            Ok(number) => unit.time(number),
            Err(_) => Timestamp::parse(text.trim().trim_end_matches(" UTC")).ok(),
        },
        _ => None,
    };
    time.ok_or("is not a time (RFC 3339, a date, or a number since 1970)")
}

/// `value` as an id: text as it is, whole numbers without a point.
///
/// # Errors
/// The reason, if it has control characters, is too long, or is neither text nor a number.
pub fn id_text(value: &Value) -> Result<Box<str>, &'static str> {
    let text: Box<str> = match value {
        Value::Text(text) => text.clone(),
        Value::Number(number) if number.is_finite() => number_text(*number).into(),
        _ => return Err("is not an id"),
    };
    if text.len() > MAX_ID_BYTES {
        return Err("is longer than 256 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character in it");
    }
    Ok(text)
}

/// `value` as the value of a field of type `kind`; of times, those that [`Timestamp::parse`] reads.
///
/// # Errors
/// The reason, if it is not of that type.
pub fn field_value(value: &Value, kind: FieldKind) -> Result<Value, &'static str> {
    match kind {
        FieldKind::Category => categories(value, None),
        FieldKind::Number => finite(value).map(Value::Number),
        FieldKind::Boolean => boolean(value).map(Value::Bool),
        FieldKind::Time => {
            let time = time_value(value, TimeUnit::Auto)?;
            Ok(Value::Text(time.to_string().into()))
        }
        FieldKind::Vector => vector(value),
        FieldKind::Text => Ok(Value::Text(printed_whole(value).into())),
    }
}

fn finite(value: &Value) -> Result<f64, Reason> {
    let not_a_number = "is not a number";
    let number = match value {
        Value::Text(text) => text.trim().parse().map_err(|_| not_a_number)?,
        other => other.as_number().ok_or(not_a_number)?,
    };
    if number.is_finite() { Ok(number) } else { Err("is not a finite number") }
}

fn boolean(value: &Value) -> Result<bool, Reason> {
    let text = match value {
        Value::Bool(flag) => return Ok(*flag),
        Value::Number(number) => number_text(*number),
        Value::Text(text) => text.trim().to_ascii_lowercase(),
        _ => String::new(),
    };
    match text.as_str() {
        "1" | "true" | "t" | "yes" | "y" => Ok(true),
        "0" | "false" | "f" | "no" | "n" => Ok(false),
        _ => Err("is neither true nor false"),
    }
}

fn categories(value: &Value, separator: Option<char>) -> Result<Value, Reason> {
    match (value, separator) {
        (Value::Text(text), Some(separator)) if text.contains(separator) => {
            let parts = text.split(separator).map(str::trim).filter(|part| !part.is_empty());
            Ok(Value::Texts(parts.map(Box::from).collect()))
        }
        (Value::Text(_) | Value::Texts(_), _) => Ok(value.clone()),
        (Value::Vector(numbers), _) => {
            let texts = numbers.iter().map(|number| number_text(f64::from(*number)).into());
            Ok(Value::Texts(texts.collect()))
        }
        (Value::Number(_) | Value::Bool(_), _) => Ok(Value::Text(printed_whole(value).into())),
        (Value::Null, _) => Err("is missing"),
    }
}

/// A vector as such, or as text: `[0.1, 0.2]`, or numbers between spaces, commas or semicolons.
fn vector(value: &Value) -> Result<Value, Reason> {
    let not_a_vector = "is not a vector of finite numbers";
    let numbers: Vec<f32> = match value {
        Value::Vector(numbers) => numbers.clone(),
        Value::Text(text) => {
            let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
            let parts = inner.split([',', ';', ' ', '\n']).filter(|part| !part.is_empty());
            parts.map(str::parse).collect::<Result<_, _>>().map_err(|_| not_a_vector)?
        }
        _ => return Err(not_a_vector),
    };
    if numbers.is_empty() || numbers.iter().any(|number| !number.is_finite()) {
        return Err(not_a_vector);
    }
    Ok(Value::Vector(numbers))
}

/// A number of a JSON file. Whole numbers that a float does not hold exactly, as large ids are, stay text.
pub(super) fn number(number: &serde_json::Number) -> Result<Value, String> {
    let float = number.as_f64().filter(|float| float.is_finite());
    let float = float.ok_or_else(|| format!("{number} is not a finite number"))?;
    let size = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    if size.is_some_and(|size| size > EXACT) {
        return Ok(Value::Text(number.to_string().into()));
    }
    Ok(Value::Number(float))
}

/// A whole number of a file. Those that a float does not hold exactly stay text.
pub(super) fn whole_number(number: i64) -> Value {
    if number.unsigned_abs() > EXACT {
        Value::Text(number.to_string().into())
    } else {
        Value::Number(number as f64)
    }
}

/// A list: of numbers a vector, of anything else texts. Nulls are left out; an empty list is `Null`.
pub(super) fn list(values: Vec<Value>) -> Result<Value, &'static str> {
    let values: Vec<Value> = values.into_iter().filter(|value| *value != Value::Null).collect();
    if values.is_empty() {
        return Ok(Value::Null);
    }
    if let Some(numbers) = values.iter().map(as_component).collect() {
        return Ok(Value::Vector(numbers));
    }
    let text = |value: &Value| match value {
        Value::Texts(_) | Value::Vector(_) => Err("is a list of lists"),
        scalar => Ok(printed_whole(scalar).into()),
    };
    values.iter().map(text).collect::<Result<_, _>>().map(Value::Texts)
}

fn as_component(value: &Value) -> Option<f32> {
    match value {
        Value::Number(number) => Some(*number as f32),
        _ => None,
    }
}

fn number_text(number: f64) -> String {
    // Adding zero turns -0.0 into 0.0.
    format!("{}", number + 0.0)
}

fn printed_whole(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number_text(*number),
        Value::Text(text) => text.to_string(),
        Value::Texts(texts) => texts.join("|"),
        Value::Vector(numbers) => format!("{numbers:?}"),
    }
}

/// The beginning of `value`, for a message.
pub(crate) fn printed(value: &Value) -> String {
    let text = printed_whole(value);
    match text.char_indices().nth(PRINTED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
