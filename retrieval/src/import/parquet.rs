//! Parquet: a column of ids, and a column of lists of floats.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::Type as PhysicalType;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};

use super::{
    Collector, FileFlaw, ImportError, MAX_DIM, MAX_ROWS, NamedVectors, RowFlaw, file_error,
    read_error,
};

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 1_024;

/// Reads vectors from the Parquet file `path`: ids from the column `ids`, of strings or integers, and vectors from the column
/// `vectors`, of lists of floats or doubles.
///
/// # Errors
/// If the file cannot be read or decoded, has no such columns, or a row has no valid id of its own or no vector like the others.
pub fn read_parquet(path: &Path, ids: &str, vectors: &str) -> Result<NamedVectors, ImportError> {
    let file = File::open(path).map_err(|source| read_error(path, source))?;
    // The decoder panics on some damaged files: to the caller that is one more way of being damaged.
    let decode = || read_open_file(file, path, ids, vectors);
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        Err(file_error(path, FileFlaw::Parquet("the decoder gave up".to_owned())))
    })
}

fn read_open_file(
    file: File,
    path: &Path,
    ids: &str,
    vectors: &str,
) -> Result<NamedVectors, ImportError> {
    let damaged = |error: ParquetError| file_error(path, FileFlaw::Parquet(error.to_string()));
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let id_column = column_of(schema, ids, "strings or integers", is_id)
        .map_err(|flaw| file_error(path, flaw))?;
    let vector_column = column_of(schema, vectors, "lists of floats or doubles", is_vector)
        .map_err(|flaw| file_error(path, flaw))?;
    let mut rows = Collector::new(path);
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(damaged)?;
        let mut columns = Columns::open(&*group, id_column, vector_column).map_err(damaged)?;
        while columns.read_batch(&mut rows, damaged)? {}
    }
    rows.finish()
}

fn is_id(column: &ColumnDescPtr) -> bool {
    use PhysicalType::{BYTE_ARRAY, INT32, INT64};
    column.max_rep_level() == 0 && matches!(column.physical_type(), BYTE_ARRAY | INT32 | INT64)
}

fn is_vector(column: &ColumnDescPtr) -> bool {
    use PhysicalType::{DOUBLE, FLOAT};
    column.max_rep_level() == 1 && matches!(column.physical_type(), FLOAT | DOUBLE)
}

/// Position of the leaf below the column `name` of the schema, if it is as `is_wanted` wants it.
fn column_of(
    schema: &SchemaDescriptor,
    name: &str,
    wanted: &'static str,
    is_wanted: impl Fn(&ColumnDescPtr) -> bool,
) -> Result<usize, FileFlaw> {
    let root = |column: &ColumnDescPtr| column.path().parts().first().cloned().unwrap_or_default();
    let columns = schema.columns();
    columns.iter().position(|column| root(column) == name && is_wanted(column)).ok_or_else(|| {
        let columns =
            columns.iter().map(|column| format!("{}: {}", column.path(), column.physical_type()));
        FileFlaw::Column { name: name.to_owned(), wanted, columns: columns.collect() }
    })
}

/// The two columns of a row group.
struct Columns {
    ids: ColumnReader,
    vectors: ColumnReader,
    id_level: i16,
    vector_level: i16,
}

impl Columns {
    fn open(group: &dyn RowGroupReader, ids: usize, vectors: usize) -> Result<Self, ParquetError> {
        let level = |column: usize| group.metadata().column(column).column_descr().max_def_level();
        Ok(Self {
            ids: group.get_column_reader(ids)?,
            vectors: group.get_column_reader(vectors)?,
            id_level: level(ids),
            vector_level: level(vectors),
        })
    }

    /// Adds the next rows to `rows`; whether there were any.
    fn read_batch(
        &mut self,
        rows: &mut Collector<'_>,
        damaged: impl Fn(ParquetError) -> ImportError,
    ) -> Result<bool, ImportError> {
        let ids = read_ids(&mut self.ids, self.id_level).map_err(&damaged)?;
        let vectors = match &mut self.vectors {
            ColumnReader::FloatColumnReader(reader) => {
                read_lists(reader, self.vector_level, |&value| value)
            }
            ColumnReader::DoubleColumnReader(reader) => {
                read_lists(reader, self.vector_level, |&value| value as f32)
            }
            _ => Err(ParquetError::General("a column changed its type".to_owned())),
        };
        let vectors = vectors.map_err(&damaged)?;
        if ids.len() != vectors.len() {
            return Err(damaged(ParquetError::General("its columns differ in length".to_owned())));
        }
        let is_last = ids.is_empty();
        for (id, vector) in ids.into_iter().zip(vectors) {
            add_row(rows, id, vector)?;
        }
        Ok(!is_last)
    }
}

fn add_row(
    rows: &mut Collector<'_>,
    id: Option<String>,
    vector: Option<Vec<f32>>,
) -> Result<(), ImportError> {
    let row = rows.rows.len();
    let row_error = |flaw| ImportError::Row { path: rows.path.to_owned(), row, flaw };
    let id = id.ok_or_else(|| row_error(RowFlaw::Id))?;
    let vector = vector.ok_or_else(|| row_error(RowFlaw::Missing))?;
    if row == MAX_ROWS || vector.len() > MAX_DIM {
        return Err(file_error(rows.path, FileFlaw::Size));
    }
    rows.push(id, vector)
}

/// The next ids; `None` for those that are missing or not UTF-8.
fn read_ids(reader: &mut ColumnReader, level: i16) -> Result<Vec<Option<String>>, ParquetError> {
    let text = |id: &ByteArray| String::from_utf8(id.data().to_vec()).ok();
    match reader {
        ColumnReader::ByteArrayColumnReader(reader) => read_values(reader, level, text),
        ColumnReader::Int32ColumnReader(reader) => {
            read_values(reader, level, |id| Some(id.to_string()))
        }
        ColumnReader::Int64ColumnReader(reader) => {
            read_values(reader, level, |id| Some(id.to_string()))
        }
        _ => Err(ParquetError::General("a column changed its type".to_owned())),
    }
}

fn read_values<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    level: i16,
    convert: impl Fn(&T::T) -> Option<String>,
) -> Result<Vec<Option<String>>, ParquetError> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    let (n_records, ..) = reader.read_records(BATCH_ROWS, Some(&mut levels), None, &mut values)?;
    // A column that cannot be null has no levels.
    levels.resize(n_records, level);
    let mut values = values.iter();
    let is_there = levels.into_iter().map(|found| found == level);
    Ok(is_there
        .map(|is_there| if is_there { values.next().and_then(&convert) } else { None })
        .collect())
}

/// The next lists; `None` for those that are missing, empty, or have a missing value.
fn read_lists<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    level: i16,
    convert: impl Fn(&T::T) -> f32,
) -> Result<Vec<Option<Vec<f32>>>, ParquetError> {
    let (mut levels, mut repeats, mut values) = (Vec::new(), Vec::new(), Vec::new());
    reader.read_records(BATCH_ROWS, Some(&mut levels), Some(&mut repeats), &mut values)?;
    // A list whose levels are all full has no levels stored if nothing in it can be null or empty.
    levels.resize(repeats.len(), level);
    let mut values = values.iter();
    let mut lists: Vec<Option<Vec<f32>>> = Vec::new();
    for (found, repeat) in levels.into_iter().zip(repeats) {
        if repeat == 0 {
            lists.push(Some(Vec::new()));
        }
        let value = if found == level { values.next().map(&convert) } else { None };
        match (lists.last_mut(), value) {
            (Some(Some(list)), Some(value)) => list.push(value),
            (Some(list), None) => *list = None,
            (Some(None) | None, _) => {}
        }
    }
    Ok(lists)
}
