//! What the values of a column look like.

use std::hash::{Hash, Hasher};
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use crate::readers::{Column, Format, ReadError, TimeUnit, open_rows, printed, time_value};
use crate::schema::FieldKind;
use crate::value::Value;

/// Share of the values that have to be of a type for the column to be: the others will be bad rows, of which an import
/// takes 1 %.
const MOSTLY: f64 = 0.995;
/// With fewer distinct texts than this, a column is a category however often they repeat.
const FEW_TEXTS: usize = 5_000;
/// A category repeats at least that much of its values.
const REPEATING: f64 = 0.5;
/// Texts that are longer in the mean, in bytes, are read and not chosen from.
const LONG_TEXT: usize = 80;
/// Columns without a repeated text are names, if they have more values than this.
const FEW_VALUES: usize = 100;

/// A sample of a file's rows, by column.
pub(super) struct Table {
    names: Vec<Box<str>>,
    profiles: FxHashMap<Box<str>, Profile>,
}

impl Table {
    /// The first `n` rows of `path`. Bad rows are left out.
    pub(super) fn sample(path: &Path, format: Format, n: usize) -> Result<Self, ReadError> {
        let mut table = Self { names: Vec::new(), profiles: FxHashMap::default() };
        let rows = open_rows(path, format)?;
        for column in rows.columns().unwrap_or_default() {
            table.entry(column);
        }
        let mut n_rows = 0;
        for row in rows.take(n) {
            let Ok(row) = row? else { continue };
            n_rows += 1;
            for (column, value) in row.columns.iter().zip(&row.values) {
                table.entry(column).push(value);
            }
        }
        if n_rows == 0 {
            return Err(ReadError::NoRows { path: path.into() });
        }
        Ok(table)
    }

    fn entry(&mut self, column: &Column) -> &mut Profile {
        if !self.profiles.contains_key(&column.name) {
            self.names.push(column.name.clone());
        }
        let new = || Profile { is_time: column.is_time, ..Profile::default() };
        self.profiles.entry(column.name.clone()).or_insert_with(new)
    }

    /// The names of the columns, in the order of the file.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// What the values of the column called `name` look like.
    pub(super) fn profile(&self, name: &str) -> &Profile {
        &self.profiles[name]
    }
}

/// Counts over the values of one column.
#[derive(Default)]
pub(super) struct Profile {
    is_time: bool,
    n_values: usize,
    n_numbers: usize,
    n_whole: usize,
    n_times: usize,
    n_booleans: usize,
    n_lists: usize,
    n_vectors: usize,
    /// Texts that begin as codes do, with a zero.
    n_codes: usize,
    n_barred: usize,
    n_bytes: usize,
    largest: f64,
    /// The first length of a vector, and whether all have it.
    dim: Option<usize>,
    has_other_dims: bool,
    distinct: FxHashSet<u64>,
    example: String,
}

impl Profile {
    fn push(&mut self, value: &Value) {
        if *value == Value::Null {
            return;
        }
        if self.n_values == 0 {
            self.example = printed(value);
        }
        self.n_values += 1;
        match value {
            Value::Null => {}
            Value::Bool(flag) => {
                self.n_booleans += 1;
                self.see(flag);
            }
            Value::Number(number) => self.push_number(*number),
            Value::Text(text) => self.push_text(text),
            Value::Texts(texts) => {
                self.n_lists += 1;
                texts.iter().for_each(|text| self.see(text));
            }
            Value::Vector(numbers) => self.push_vector(numbers.len()),
        }
    }

    fn see(&mut self, value: &(impl Hash + ?Sized)) {
        let mut hasher = FxHasher::default();
        value.hash(&mut hasher);
        self.distinct.insert(hasher.finish());
    }

    fn push_number(&mut self, number: f64) {
        self.n_numbers += usize::from(number.is_finite());
        self.n_whole += usize::from(number.fract() == 0.0);
        self.n_booleans += usize::from(number == 0.0 || number == 1.0);
        let is_time = time_value(&Value::Number(number), TimeUnit::Auto).is_ok();
        self.n_times += usize::from(is_time);
        self.largest = self.largest.max(number.abs());
        self.see(&number.to_bits());
    }

    fn push_text(&mut self, text: &str) {
        self.n_bytes += text.len();
        let trimmed = text.trim();
        if let Ok(number) = trimmed.parse::<f64>() {
            let is_code = trimmed.len() > 1 && trimmed.starts_with('0') && !trimmed.contains('.');
            self.n_codes += usize::from(is_code);
            return self.push_number(number);
        }
        self.see(text);
        self.n_barred += usize::from(text.contains('|'));
        let lower = trimmed.to_ascii_lowercase();
        let is_boolean = ["true", "false", "t", "f", "yes", "no", "y", "n"].contains(&&*lower);
        self.n_booleans += usize::from(is_boolean);
        if trimmed.starts_with(|c: char| c.is_ascii_digit()) {
            let is_time = time_value(&Value::Text(text.into()), TimeUnit::Auto).is_ok();
            self.n_times += usize::from(is_time);
        }
        if trimmed.starts_with('[') && trimmed.ends_with(']') {
            self.push_vector(trimmed.split([',', ' ']).filter(|part| !part.is_empty()).count());
        }
    }

    fn push_vector(&mut self, dim: usize) {
        self.n_vectors += 1;
        self.has_other_dims |= *self.dim.get_or_insert(dim) != dim;
    }

    fn is_mostly(&self, n: usize) -> bool {
        self.n_values > 0 && n as f64 >= MOSTLY * self.n_values as f64
    }

    /// Whether any row has a value.
    pub(super) fn has_values(&self) -> bool {
        self.n_values > 0
    }

    /// Whether the values can be read as times.
    pub(super) fn is_mostly_times(&self) -> bool {
        self.is_time || self.is_mostly(self.n_times)
    }

    /// Whether the values can be read as numbers.
    pub(super) fn is_mostly_numbers(&self) -> bool {
        !self.is_time && self.is_mostly(self.n_numbers)
    }

    /// Whether the values can be read as true and false.
    pub(super) fn is_mostly_booleans(&self) -> bool {
        self.is_mostly(self.n_booleans) && self.distinct.len() <= 2
    }

    /// Whether many values are several, with bars between.
    pub(super) fn is_often_barred(&self) -> bool {
        self.n_barred * 10 >= self.n_values.max(1)
    }

    /// How many values differ.
    pub(super) fn n_distinct(&self) -> usize {
        self.distinct.len()
    }

    /// The first value.
    pub(super) fn example(&self) -> &str {
        &self.example
    }

    /// What the numbers of a column of times count, and why.
    pub(super) fn time_unit(&self) -> (TimeUnit, String) {
        if self.is_time {
            return (TimeUnit::Auto, "the file says what its times are".into());
        }
        if !self.is_mostly_numbers() {
            return (TimeUnit::Auto, format!("written out, as {}", self.example));
        }
        let (unit, name) = match self.largest {
            largest if largest < 1e5 => (TimeUnit::Days, "days"),
            largest if largest < 1e11 => (TimeUnit::Seconds, "seconds"),
            largest if largest < 1e14 => (TimeUnit::Milliseconds, "milliseconds"),
            largest if largest < 1e17 => (TimeUnit::Microseconds, "microseconds"),
            _ => (TimeUnit::Nanoseconds, "nanoseconds"),
        };
        (unit, format!("numbers up to {} are {name}", self.largest))
    }

    /// The type of the field whose column is called `name`, and why. `None` if it has no values.
    pub(super) fn field_kind(&self, name: &str) -> Option<(FieldKind, String)> {
        if !self.has_values() {
            return None;
        }
        let kind = self.list_kind().or_else(|| self.scalar_kind(name));
        Some(kind.unwrap_or_else(|| self.text_kind()))
    }

    fn list_kind(&self) -> Option<(FieldKind, String)> {
        let n_lists = self.n_lists + self.n_vectors;
        if !self.is_mostly(n_lists) {
            return None;
        }
        match self.dim.filter(|dim| *dim > 1 && self.n_lists == 0 && !self.has_other_dims) {
            Some(dim) => Some((FieldKind::Vector, format!("{dim} numbers each"))),
            None => Some((FieldKind::Category, "several values each".into())),
        }
    }

    fn scalar_kind(&self, name: &str) -> Option<(FieldKind, String)> {
        if self.is_mostly_booleans() && !self.is_time {
            return Some((FieldKind::Boolean, "only true and false, or 1 and 0".into()));
        }
        let is_number = self.is_mostly_numbers();
        let is_written_time = self.is_mostly_times() && !is_number;
        if is_written_time || is_number && is_named_time(name) && self.largest > 1e8 {
            return Some((FieldKind::Time, format!("times, as {}", self.example)));
        }
        let is_code = self.n_codes > 0 || is_named_code(name) && self.is_mostly(self.n_whole);
        if is_number && is_code {
            return Some(self.code_kind());
        }
        is_number.then(|| (FieldKind::Number, format!("numbers, up to {}", self.largest)))
    }

    fn code_kind(&self) -> (FieldKind, String) {
        let (n, n_distinct) = (self.n_values, self.distinct.len());
        if self.is_repeating() {
            (FieldKind::Category, format!("numbers that name something, {n_distinct} different"))
        } else {
            (FieldKind::Text, format!("numbers that name something, {n_distinct} in {n}"))
        }
    }

    fn text_kind(&self) -> (FieldKind, String) {
        let (n, n_distinct) = (self.n_values, self.distinct.len());
        let counts = format!("{n_distinct} different in {n}");
        let mean_bytes = self.n_bytes / n;
        if mean_bytes > LONG_TEXT {
            return (FieldKind::Text, format!("texts of {mean_bytes} bytes in the mean"));
        }
        let kind = if self.is_repeating() { FieldKind::Category } else { FieldKind::Text };
        (kind, counts)
    }

    /// Whether the values repeat as those of a category do.
    fn is_repeating(&self) -> bool {
        let (n, n_distinct) = (self.n_values, self.distinct.len());
        let is_unique = n_distinct == n && n > FEW_VALUES;
        !is_unique && (n_distinct < FEW_TEXTS || (n_distinct as f64) < REPEATING * n as f64)
    }
}

fn is_named_time(name: &str) -> bool {
    let name = name.to_lowercase();
    ["date", "time", "_at", "timestamp"].iter().any(|part| name.contains(part))
}

fn is_named_code(name: &str) -> bool {
    let name = name.to_lowercase();
    let ends = ["id", "code", "_no", "zip", "sku"];
    ends.iter().any(|end| name.ends_with(end))
}
