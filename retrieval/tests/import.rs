//! Embeddings from NumPy and Parquet files, good and damaged.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use retrieval::import::{FileFlaw, ImportError, RowFlaw, read_npy, read_parquet};
use tempfile::TempDir;

/// An `.npy` file, as NumPy 2 writes it, and its ids.
struct Npy {
    folder: TempDir,
}

impl Npy {
    fn new(descr: &str, shape: &str, values: &[u8], ids: &str) -> Self {
        let npy = Self { folder: tempfile::tempdir().unwrap() };
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        let header = format!("{header:<117}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(values);
        fs::write(npy.vectors(), bytes).unwrap();
        fs::write(npy.ids(), ids).unwrap();
        npy
    }

    fn vectors(&self) -> PathBuf {
        self.folder.path().join("vectors.npy")
    }

    fn ids(&self) -> PathBuf {
        self.folder.path().join("ids.txt")
    }

    fn read(&self) -> Result<Vec<(String, Vec<f32>)>, ImportError> {
        read_npy(&self.vectors(), &self.ids())
    }
}

fn f4(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn two_rows() -> Vec<(String, Vec<f32>)> {
    vec![("a".to_owned(), vec![1.0, 2.0, 3.0]), ("b".to_owned(), vec![4.0, 5.0, 6.0])]
}

fn file_flaw(error: ImportError) -> FileFlaw {
    match error {
        ImportError::File { flaw, .. } => flaw,
        other => panic!("{other}"),
    }
}

fn row_flaw(error: ImportError) -> (usize, RowFlaw) {
    match error {
        ImportError::Row { row, flaw, .. } => (row, flaw),
        other => panic!("{other}"),
    }
}

#[test]
fn single_and_double_precision_arrays_are_read() {
    let values = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(Npy::new("<f4", "(2, 3)", &f4(&values), "a\nb\n").read().unwrap(), two_rows());
    let doubles: Vec<u8> =
        values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect();
    assert_eq!(Npy::new("<f8", "(2, 3)", &doubles, "a\r\nb").read().unwrap(), two_rows());
}

#[test]
fn an_array_of_another_form_is_refused() {
    let values = f4(&[0.0; 6]);
    for (descr, shape) in
        [(">f4", "(2, 3)"), ("<i4", "(2, 3)"), ("<f4", "(6,)"), ("<f4", "(1, 2, 3)")]
    {
        let flaw = file_flaw(Npy::new(descr, shape, &values, "a\nb\n").read().unwrap_err());
        assert!(matches!(flaw, FileFlaw::Npy(_)), "{descr} {shape}: {flaw}");
    }
    let longer = file_flaw(Npy::new("<f4", "(2, 4)", &values, "a\nb\n").read().unwrap_err());
    assert_eq!(longer, FileFlaw::Length { expected: 160, found: 152 });
    let huge = file_flaw(Npy::new("<f4", "(99999999999, 4096)", &values, "").read().unwrap_err());
    assert_eq!(huge, FileFlaw::Size);
}

#[test]
fn a_bad_row_is_named() {
    let values = f4(&[1.0, 2.0, 3.0, f32::NAN]);
    let error = Npy::new("<f4", "(2, 2)", &values, "a\nb\n").read().unwrap_err();
    let flaw = RowFlaw::NotFinite { id: "b".to_owned(), column: 1, value: "NaN".to_owned() };
    assert_eq!(row_flaw(error), (1, flaw));
    let repeated = Npy::new("<f4", "(2, 2)", &f4(&[0.0; 4]), "a\na\n").read().unwrap_err();
    assert_eq!(row_flaw(repeated), (1, RowFlaw::Repeated("a".to_owned())));
    let nameless = Npy::new("<f4", "(2, 2)", &f4(&[0.0; 4]), "\nb\n").read().unwrap_err();
    assert_eq!(row_flaw(nameless), (0, RowFlaw::Id));
    let one_id = Npy::new("<f4", "(2, 2)", &f4(&[0.0; 4]), "a\n").read().unwrap_err();
    assert_eq!(file_flaw(one_id), FileFlaw::IdCount { n_ids: 1, n_rows: 2 });
}

/// Writes ids and lists of doubles; a list of `None` is null.
fn write_parquet(path: &Path, rows: &[(&str, Option<Vec<f64>>)]) {
    let schema = "message items {
        required binary name (UTF8);
        optional group vector (LIST) { repeated group list { optional double element; } }
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer =
        SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, properties).unwrap();
    for rows in rows.chunks(2) {
        let mut group = writer.next_row_group().unwrap();
        let names: Vec<ByteArray> = rows.iter().map(|(name, _)| ByteArray::from(*name)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&names, None, None).unwrap();
        column.close().unwrap();
        let (mut values, mut levels, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
        for (_, vector) in rows {
            match vector {
                None => (levels.push(0), repeats.push(0)),
                Some(vector) if vector.is_empty() => (levels.push(1), repeats.push(0)),
                Some(vector) => {
                    levels.extend(vector.iter().map(|_| 3));
                    repeats.extend((0..vector.len()).map(|i| i16::from(i > 0)));
                    (values.extend(vector), ())
                }
            };
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&values, Some(&levels), Some(&repeats)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn parquet_file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.parquet");
    (folder, path)
}

#[test]
fn lists_are_read_from_all_row_groups() {
    let (_folder, path) = parquet_file();
    let names: Vec<String> = (0..5).map(|i| format!("item {i}")).collect();
    let rows: Vec<(&str, Option<Vec<f64>>)> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (name.as_str(), Some(vec![i as f64, 0.5])))
        .collect();
    write_parquet(&path, &rows);
    let read = read_parquet(&path, "name", "vector").unwrap();
    assert_eq!(read.len(), 5);
    assert_eq!(read[4], ("item 4".to_owned(), vec![4.0, 0.5]));
}

#[test]
fn integer_ids_and_required_lists_of_floats_are_read() {
    let (_folder, path) = parquet_file();
    let schema = "message items {
        required int64 id;
        required group vector (LIST) { repeated group list { required float element; } }
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer =
        SerializedFileWriter::new(fs::File::create(&path).unwrap(), schema, Arc::default())
            .unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[7, -8], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let (levels, repeats) = ([1, 1, 1, 1], [0, 1, 0, 1]);
    column
        .typed::<FloatType>()
        .write_batch(&[1.0, 2.0, 3.0, 4.0], Some(&levels), Some(&repeats))
        .unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    let read = read_parquet(&path, "id", "vector").unwrap();
    assert_eq!(read, [("7".to_owned(), vec![1.0, 2.0]), ("-8".to_owned(), vec![3.0, 4.0])]);
}

#[test]
fn a_row_without_a_vector_like_the_others_is_named() {
    let (_folder, path) = parquet_file();
    write_parquet(&path, &[("a", Some(vec![1.0, 2.0])), ("b", Some(vec![3.0, 4.0])), ("c", None)]);
    let missing = read_parquet(&path, "name", "vector").unwrap_err();
    assert_eq!(row_flaw(missing), (2, RowFlaw::Missing));
    write_parquet(&path, &[("a", Some(vec![1.0, 2.0])), ("b", Some(vec![3.0]))]);
    let shorter = read_parquet(&path, "name", "vector").unwrap_err();
    assert_eq!(row_flaw(shorter), (1, RowFlaw::Dim { expected: 2, found: 1 }));
    write_parquet(&path, &[("a", Some(vec![1e300]))]);
    let too_large = read_parquet(&path, "name", "vector").unwrap_err();
    let flaw = RowFlaw::NotFinite { id: "a".to_owned(), column: 0, value: "inf".to_owned() };
    assert_eq!(row_flaw(too_large), (0, flaw));
}

#[test]
fn a_missing_column_is_named_with_those_that_there_are() {
    let (_folder, path) = parquet_file();
    write_parquet(&path, &[("a", Some(vec![1.0, 2.0]))]);
    let error = read_parquet(&path, "name", "embedding").unwrap_err().to_string();
    assert!(error.contains("\"embedding\"") && error.contains("vector.list.element"), "{error}");
}

/// Changes up to three bytes, and sometimes the length.
fn damage(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        bytes[at] = random.random();
    }
    if random.random_ratio(1, 4) {
        bytes.truncate(random.random_range(0..bytes.len()));
    }
}

#[test]
fn damaged_files_are_errors_or_rows_but_never_panics() {
    let mut random = StdRng::seed_from_u64(1);
    let npy = Npy::new("<f4", "(2, 3)", &f4(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "a\nb\n");
    let (_folder, path) = parquet_file();
    write_parquet(
        &path,
        &[("a", Some(vec![1.0, 2.0])), ("b", Some(vec![3.0, 4.0])), ("c", Some(vec![5.0, 6.0]))],
    );
    let intact = [&npy.vectors(), &path].map(|path| fs::read(path).unwrap());
    let mut n_refused = 0;
    for _ in 0..400 {
        let mut bytes = intact[0].clone();
        damage(&mut bytes, &mut random);
        fs::write(npy.vectors(), bytes).unwrap();
        n_refused += usize::from(npy.read().is_err());
        let mut bytes = intact[1].clone();
        damage(&mut bytes, &mut random);
        fs::write(&path, bytes).unwrap();
        n_refused += usize::from(read_parquet(&path, "name", "vector").is_err());
    }
    println!("{n_refused} of 800 damaged files were refused");
}
