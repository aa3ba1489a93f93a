//! Rows of Parquet files, a batch at a time.
//!
//! Times of any unit become milliseconds since 1970. A float that is NaN is missing, since pandas writes missing numbers so.
//! The decoder is given damaged files too, and may panic on them: every call of it is caught.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType, FixedLenByteArray, Int96};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::{BadRow, Column, ReadError, Row, compression, mapping};
use crate::time::DAY_MS;
use crate::value::Value;

/// Rows that are decoded together.
const BATCH_ROWS: usize = 4_096;

/// The rows of a Parquet file.
pub(super) struct ParquetRows {
    path: PathBuf,
    file: Arc<str>,
    reader: SerializedFileReader<File>,
    leaves: Vec<Leaf>,
    columns: Arc<[Column]>,
    /// The row group that is read next.
    next_group: usize,
    /// One for each leaf, in the row group that is being read.
    readers: Vec<ColumnReader>,
    batch: Batch,
    /// Rows that were returned.
    n_returned: u64,
    is_done: bool,
}

/// Decoded rows, by column.
#[derive(Default)]
struct Batch {
    columns: Vec<std::vec::IntoIter<Value>>,
    n_left: usize,
    /// Values that cannot be had: their rows in the batch, and why.
    bad: Vec<BadValue>,
    n_taken: usize,
}

struct BadValue {
    row: usize,
    leaf: usize,
    reason: &'static str,
}

impl ParquetRows {
    /// Reads the schema of the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, ReadError> {
        let file = compression::plain_file(path)
            .map_err(|source| ReadError::Read { path: path.into(), source })?;
        let (reader, leaves) = guarded(path, || {
            let reader = SerializedFileReader::new(file)?;
            let schema = reader.metadata().file_metadata().schema_descr_ptr();
            let leaves = schema.columns().iter().map(|column| Leaf::new(column));
            let leaves = leaves.collect::<Result<Vec<Leaf>, _>>()?;
            Ok((reader, leaves))
        })?;
        let columns = columns(&leaves).map_err(|reason| format_error(path, reason))?;
        Ok(Self {
            path: path.into(),
            file: path.display().to_string().into(),
            reader,
            leaves,
            columns,
            next_group: 0,
            readers: Vec::new(),
            batch: Batch::default(),
            n_returned: 0,
            is_done: false,
        })
    }

    /// The columns of every row.
    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The next row.
    pub(super) fn next_row(&mut self) -> Result<Option<Result<Row, BadRow>>, ReadError> {
        while self.batch.n_left == 0 {
            if self.is_done {
                return Ok(None);
            }
            let filled = self.fill();
            self.is_done = !matches!(filled, Ok(true));
            filled?;
        }
        self.n_returned += 1;
        let batch = &mut self.batch;
        let values = batch.columns.iter_mut().map(|column| column.next().unwrap_or(Value::Null));
        let row = Row {
            file: Arc::clone(&self.file),
            line: self.n_returned,
            columns: Arc::clone(&self.columns),
            values: values.collect(),
        };
        let bad = batch.bad.iter().find(|bad| bad.row == batch.n_taken);
        let bad = bad.map(|bad| row.bad(&row.columns[bad.leaf].name, None, bad.reason));
        batch.n_left -= 1;
        batch.n_taken += 1;
        Ok(Some(bad.map_or(Ok(row), Err)))
    }

    /// Decodes the next rows, of the next row group if the present one is read. `false` at the end of the file.
    fn fill(&mut self) -> Result<bool, ReadError> {
        let path = self.path.clone();
        guarded(&path, || {
            self.batch = Batch::read(&mut self.readers, &self.leaves)?;
            if self.batch.n_left > 0 {
                return Ok(true);
            }
            if self.next_group == self.reader.num_row_groups() {
                return Ok(false);
            }
            let group = self.reader.get_row_group(self.next_group)?;
            let readers = (0..self.leaves.len()).map(|leaf| group.get_column_reader(leaf));
            self.readers = readers.collect::<Result<_, _>>()?;
            self.next_group += 1;
            Ok(true)
        })
    }
}

fn format_error(path: &Path, reason: String) -> ReadError {
    ReadError::Format { path: path.into(), format: "Parquet", reason }
}

/// Calls the decoder; its errors and panics become errors of the file at `path`.
fn guarded<T>(
    path: &Path,
    decode: impl FnOnce() -> Result<T, ParquetError>,
) -> Result<T, ReadError> {
    // What a panic leaves half-done is not looked at again: the error is the last thing that a file's reader returns.
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(decoded)) => Ok(decoded),
        Ok(Err(error)) => Err(format_error(path, error.to_string())),
        Err(_) => Err(format_error(path, "its content is damaged".into())),
    }
}

fn columns(leaves: &[Leaf]) -> Result<Arc<[Column]>, String> {
    let is_repeated = |(i, leaf): (usize, &Leaf)| leaves[..i].iter().any(|l| l.name == leaf.name);
    if let Some((_, leaf)) = leaves.iter().enumerate().find(|x| is_repeated(*x)) {
        return Err(format!("column {:?} is a list of groups, which no field can be", leaf.name));
    }
    let column = |leaf: &Leaf| Column {
        name: leaf.name.as_str().into(),
        is_time: matches!(leaf.meaning, Meaning::Time(_)),
    };
    Ok(leaves.iter().map(column).collect())
}

/// A column of scalars, or of lists of them.
struct Leaf {
    name: String,
    meaning: Meaning,
    max_def_level: i16,
    is_list: bool,
}

/// What the stored numbers stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meaning {
    Plain,
    /// Times in this unit.
    Time(Unit),
    /// Unsigned, stored as signed.
    Unsigned,
    /// To be divided by this power of ten.
    Decimal(i32),
    Uuid,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    Days,
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    fn to_millis(self, number: i64) -> Value {
        Value::Number(match self {
            Self::Days => number as f64 * DAY_MS as f64,
            Self::Millis => number as f64,
            Self::Micros => number.div_euclid(1_000) as f64,
            Self::Nanos => number.div_euclid(1_000_000) as f64,
        })
    }
}

impl Leaf {
    fn new(column: &ColumnDescriptor) -> Result<Self, ParquetError> {
        let parts = column.path().parts();
        if column.max_rep_level() > 1 {
            let name = &parts[0];
            return Err(ParquetError::NYI(format!("column {name:?} is a list of lists")));
        }
        let is_list = column.max_rep_level() == 1;
        let name = if is_list { parts[0].clone() } else { parts.join(".") };
        Ok(Self {
            name,
            meaning: Meaning::of(column),
            max_def_level: column.max_def_level(),
            is_list,
        })
    }
}

impl Meaning {
    fn of(column: &ColumnDescriptor) -> Self {
        let by_logical = match column.logical_type_ref() {
            Some(LogicalType::Timestamp(timestamp)) => Some(Self::Time(match timestamp.unit {
                TimeUnit::MILLIS => Unit::Millis,
                TimeUnit::MICROS => Unit::Micros,
                TimeUnit::NANOS => Unit::Nanos,
            })),
            Some(LogicalType::Date) => Some(Self::Time(Unit::Days)),
            Some(LogicalType::Decimal(decimal)) => Some(Self::Decimal(decimal.scale)),
            Some(LogicalType::Integer(integer)) if !integer.is_signed => Some(Self::Unsigned),
            Some(LogicalType::Uuid) => Some(Self::Uuid),
            _ => None,
        };
        by_logical.unwrap_or_else(|| match column.converted_type() {
            _ if column.physical_type() == Type::INT96 => Self::Time(Unit::Millis),
            ConvertedType::TIMESTAMP_MILLIS => Self::Time(Unit::Millis),
            ConvertedType::TIMESTAMP_MICROS => Self::Time(Unit::Micros),
            ConvertedType::DATE => Self::Time(Unit::Days),
            ConvertedType::DECIMAL => Self::Decimal(column.type_scale()),
            ConvertedType::UINT_32 | ConvertedType::UINT_64 => Self::Unsigned,
            _ => Self::Plain,
        })
    }

    fn int32(self, number: i32) -> Value {
        match self {
            Self::Unsigned => Value::Number(f64::from(number as u32)),
            _ => self.int64(i64::from(number)),
        }
    }

    fn int64(self, number: i64) -> Value {
        match self {
            Self::Time(unit) => unit.to_millis(number),
            Self::Decimal(scale) => Value::Number(number as f64 / 10f64.powi(scale)),
            Self::Unsigned if number < 0 => Value::Text((number as u64).to_string().into()),
            _ => mapping::whole_number(number),
        }
    }

    fn bytes(self, bytes: &[u8]) -> Result<Value, &'static str> {
        match self {
            Self::Decimal(scale) if bytes.len() <= 16 => {
                let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
                let start = if negative { -1i128 } else { 0 };
                let number = bytes.iter().fold(start, |all, byte| all << 8 | i128::from(*byte));
                Ok(Value::Number(number as f64 / 10f64.powi(scale)))
            }
            Self::Uuid if bytes.len() == 16 => Ok(Value::Text(uuid(bytes).into())),
            _ => match std::str::from_utf8(bytes) {
                Ok(text) if text.trim().is_empty() => Ok(Value::Null),
                Ok(text) => Ok(Value::Text(text.into())),
                Err(_) => Err("is not UTF-8"),
            },
        }
    }
}

fn uuid(bytes: &[u8]) -> String {
    let dash = |i| if matches!(i, 4 | 6 | 8 | 10) { "-" } else { "" };
    bytes.iter().enumerate().map(|(i, byte)| format!("{}{byte:02x}", dash(i))).collect()
}

fn float(number: f64) -> Value {
    if number.is_nan() { Value::Null } else { Value::Number(number) }
}

impl Batch {
    fn read(readers: &mut [ColumnReader], leaves: &[Leaf]) -> Result<Self, ParquetError> {
        let mut batch = Self::default();
        let mut n_rows = None;
        for (i, (reader, leaf)) in readers.iter_mut().zip(leaves).enumerate() {
            let mut bad = Vec::new();
            let values = decode(reader, leaf, &mut bad)?;
            let bad = bad.into_iter().map(|(row, reason)| BadValue { row, leaf: i, reason });
            batch.bad.extend(bad);
            if *n_rows.get_or_insert(values.len()) != values.len() {
                return Err(ParquetError::General("its columns differ in length".into()));
            }
            batch.columns.push(values.into_iter());
        }
        batch.n_left = n_rows.unwrap_or(0);
        Ok(batch)
    }
}

/// Values that cannot be had: their rows, and why.
type Bad = Vec<(usize, &'static str)>;

fn decode(
    reader: &mut ColumnReader,
    leaf: &Leaf,
    bad: &mut Bad,
) -> Result<Vec<Value>, ParquetError> {
    use ColumnReader::*;
    let meaning = leaf.meaning;
    match reader {
        BoolColumnReader(r) => decode_as(r, leaf, bad, |flag| Ok(Value::Bool(*flag))),
        Int32ColumnReader(r) => decode_as(r, leaf, bad, |number| Ok(meaning.int32(*number))),
        Int64ColumnReader(r) => decode_as(r, leaf, bad, |number| Ok(meaning.int64(*number))),
        Int96ColumnReader(r) => {
            decode_as(r, leaf, bad, |time: &Int96| Ok(Value::Number(time.to_millis() as f64)))
        }
        FloatColumnReader(r) => decode_as(r, leaf, bad, |number| Ok(float(f64::from(*number)))),
        DoubleColumnReader(r) => decode_as(r, leaf, bad, |number| Ok(float(*number))),
        ByteArrayColumnReader(r) => {
            decode_as(r, leaf, bad, |bytes: &ByteArray| meaning.bytes(bytes.data()))
        }
        FixedLenByteArrayColumnReader(r) => {
            decode_as(r, leaf, bad, |bytes: &FixedLenByteArray| meaning.bytes(bytes.data()))
        }
    }
}

/// The next [`BATCH_ROWS`] values of a column, fewer at the end of its row group.
fn decode_as<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    leaf: &Leaf,
    bad: &mut Bad,
    convert: impl Fn(&T::T) -> Result<Value, &'static str>,
) -> Result<Vec<Value>, ParquetError> {
    let (mut def_levels, mut rep_levels, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    let (n_rows, _, n_levels) = reader.read_records(
        BATCH_ROWS,
        Some(&mut def_levels),
        Some(&mut rep_levels),
        &mut stored,
    )?;
    let mut stored = stored.iter();
    let is_there = |level| leaf.max_def_level == 0 || def_levels[level] == leaf.max_def_level;
    let elements = (0..n_levels).map(|level| {
        let element = if is_there(level) { stored.next() } else { None };
        element.map_or(Ok(Value::Null), &convert)
    });
    if leaf.is_list {
        return Ok(lists(elements, &rep_levels, n_rows, bad));
    }
    let row = |(row, element)| settled(element, row, bad);
    Ok(elements.enumerate().map(row).collect())
}

/// `element`, or `Null` and a note if it cannot be had.
fn settled(element: Result<Value, &'static str>, row: usize, bad: &mut Bad) -> Value {
    element.unwrap_or_else(|reason| {
        bad.push((row, reason));
        Value::Null
    })
}

/// The elements of `n_rows` lists, each of which begins where the repetition level is 0.
fn lists(
    elements: impl Iterator<Item = Result<Value, &'static str>>,
    rep_levels: &[i16],
    n_rows: usize,
    bad: &mut Bad,
) -> Vec<Value> {
    let mut lists: Vec<Vec<Value>> = Vec::with_capacity(n_rows);
    for (element, rep_level) in elements.zip(rep_levels) {
        if *rep_level == 0 {
            lists.push(Vec::new());
        }
        let row = lists.len().saturating_sub(1);
        let element = settled(element, row, bad);
        if let Some(list) = lists.last_mut() {
            list.push(element);
        }
    }
    let list = |(row, list)| settled(mapping::list(list), row, bad);
    lists.into_iter().enumerate().map(list).collect()
}
