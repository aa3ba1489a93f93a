//! Files as their user has them: in every format, and broken in every way.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use featurestore::log::{EventLog, FsyncPolicy, ItemRecord, Position, Record};
use featurestore::readers::{
    BadRow, ColumnMap, Content, Format, Import, ImportError, Imported, Input, ItemMap, ReadError,
    Row, TimeUnit, UserMap, event_from_row, field_value, id_text, item_from_row, movielens,
    open_rows, user_from_row,
};
use featurestore::schema::FieldKind;
use featurestore::{Fields, NamedEvent, Timestamp, Value};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DoubleType, FloatType, Int32Type, Int64Type, Int96,
    Int96Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn log(&self) -> EventLog {
        EventLog::open(&self.0.path().join("log"), FsyncPolicy::Never).unwrap().0
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// All good rows and all bad ones of a file.
fn rows(path: &Path) -> (Vec<Row>, Vec<BadRow>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for row in open_rows(path, Format::Auto).unwrap() {
        match row.unwrap() {
            Ok(row) => good.push(row),
            Err(row) => bad.push(row),
        }
    }
    (good, bad)
}

/// The rows of a file that has no bad ones, as their values.
fn values(path: &Path) -> Vec<Vec<Value>> {
    let (good, bad) = rows(path);
    assert_eq!(bad, []);
    good.into_iter().map(|row| row.values).collect()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn csv_is_read_with_any_separator_ending_quoting_and_compression() {
    let folder = Folder::new();
    let expected = vec![
        vec![text("a, \"b\""), Value::Null, text("1")],
        vec![text("two\nlines"), text("x"), text("2")],
    ];
    for separator in [",", ";", "\t", "|"] {
        for end in ["\n", "\r\n"] {
            let lines = ["\u{feff}name,y z,\"n\"", "\"a, \"\"b\"\"\",,1", "", "\"two\nlines\",x,2"];
            // The comma within quotes is content: it stays.
            let content =
                lines.join(end).replace(',', separator).replace(&format!("a{separator} "), "a, ");
            let files = [
                folder.file("plain", &content),
                folder.file("gz.csv", gzip(content.as_bytes())),
                folder.file("zst.csv", zstd::encode_all(content.as_bytes(), 1).unwrap()),
            ];
            for path in files {
                assert_eq!(values(&path), expected, "{separator:?} {end:?}");
                let (good, _) = rows(&path);
                assert_eq!(good[0].get("n"), Some(&text("1")));
                assert_eq!((good[0].line, good[1].line), (2, 4));
            }
        }
    }
}

#[test]
fn a_quote_in_the_middle_of_a_field_is_content() {
    let folder = Folder::new();
    let path = folder.file("a.csv", "size,n\n5\" pipe,1\n");
    assert_eq!(values(&path), [[text("5\" pipe"), text("1")]]);
}

#[test]
fn a_broken_quote_costs_its_own_row_alone() {
    let folder = Folder::new();
    let mut content = String::from("a,b\n1,2\n\"3,4\n");
    for i in 0..1_000 {
        content.push_str(&format!("{i},x\n"));
    }
    content.push_str("\"5\"6,7\n8,\"9\n");
    let path = folder.file("broken.csv", &content);
    let (good, bad) = rows(&path);
    assert_eq!(good.len(), 1_001);
    let told: Vec<String> =
        bad.iter().map(|row| row.to_string().rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(
        told,
        [
            "broken.csv:3: a quote is not closed within 100 lines",
            "broken.csv:1004: there is text between a closing quote and the separator",
            "broken.csv:1005: a quote is not closed",
        ]
    );
}

#[test]
fn bad_rows_of_csv_are_told_by_line_column_and_reason() {
    let folder = Folder::new();
    let mut content = b"a,b\n1,\xff\xfe\n1\n1,2,3\n".to_vec();
    content.extend(std::iter::repeat_n(b'x', 2 << 20));
    content.extend(b"\n4,5\n");
    let path = folder.file("bad.csv", content);
    let (good, bad) = rows(&path);
    assert_eq!(good.len(), 1);
    assert_eq!(good[0].line, 6);
    let reasons: Vec<(u64, &str)> = bad.iter().map(|row| (row.line, &*row.reason)).collect();
    assert_eq!(
        reasons,
        [
            (2, "is not UTF-8"),
            (3, "the row has 1 fields, the header has 2"),
            (4, "the row has 3 fields, the header has 2"),
            (5, "the line is longer than 1048576 bytes"),
        ]
    );
    assert_eq!(bad[0].column.as_deref(), Some("b"));
}

#[test]
fn files_without_rows_or_header_are_refused_by_name() {
    let folder = Folder::new();
    for (name, content) in [("empty.csv", ""), ("blank.csv", "\n \n"), ("empty.jsonl", "\n")] {
        let path = folder.file(name, content);
        let error = open_rows(&path, Format::Auto).err().unwrap().to_string();
        assert!(error.ends_with(&format!("{name} has no rows")), "{error}");
    }
    let header = |content: &str| {
        let path = folder.file("h.csv", content);
        open_rows(&path, Format::Auto).err().unwrap().to_string()
    };
    assert!(header("a,b,a\n1,2,3\n").contains("two columns are called \"a\""));
    assert!(header("a,,c\n1,2,3\n").contains("a column has no name"));
    assert!(header("[{\"a\":1}]").contains("one JSON array"));
    let path = folder.file("utf16.csv", b"\xff\xfea\0,\0b\0\n\0");
    assert!(open_rows(&path, Format::Auto).err().unwrap().to_string().contains("UTF-16"));
    let missing = folder.0.path().join("missing.csv");
    assert!(matches!(open_rows(&missing, Format::Auto), Err(ReadError::Read { .. })));
}

#[test]
fn a_compressed_file_cut_in_half_is_an_error_and_not_an_end() {
    let folder = Folder::new();
    let content: String = (0..10_000).map(|i| format!("{i},{}\n", i * 7)).collect();
    let content = format!("a,b\n{content}");
    for bytes in [gzip(content.as_bytes()), zstd::encode_all(content.as_bytes(), 1).unwrap()] {
        let path = folder.file("half", &bytes[..bytes.len() / 2]);
        let read =
            open_rows(&path, Format::Auto).and_then(|rows| rows.collect::<Result<Vec<_>, _>>());
        assert!(matches!(read, Err(ReadError::Read { .. })));
    }
}

#[test]
fn json_lines_keep_types_and_flatten_objects() {
    let folder = Folder::new();
    let path = folder.file(
        "a.jsonl",
        concat!(
            "{\"id\": 12345678901234567890, \"n\": 1.5, \"flag\": true, \"none\": null, \"empty\": \"\"}\n",
            "{\"id\": \"x\", \"fields\": {\"color\": \"red\"}, \"geo\": {\"lat\": 1}, \"v\": [1, 2.5], \"tags\": [\"a\", null, \"b\"]}\n",
        ),
    );
    let (good, bad) = rows(&path);
    assert_eq!(bad, []);
    assert_eq!(good[0].get("id"), Some(&text("12345678901234567890")));
    assert_eq!(good[0].get("n"), Some(&Value::Number(1.5)));
    assert_eq!(good[0].get("flag"), Some(&Value::Bool(true)));
    assert_eq!((good[0].get("none"), good[0].get("empty")), (None, None));
    assert_eq!(good[1].get("color"), Some(&text("red")));
    assert_eq!(good[1].get("geo.lat"), Some(&Value::Number(1.0)));
    assert_eq!(good[1].get("v"), Some(&Value::Vector(vec![1.0, 2.5])));
    assert_eq!(good[1].get("tags"), Some(&Value::Texts(vec!["a".into(), "b".into()])));
}

#[test]
fn bad_json_lines_are_told_and_the_next_is_read() {
    let folder = Folder::new();
    let deep = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    let nested = format!("{}1{}", "{\"a\":".repeat(20), "}".repeat(20));
    let lines = [
        "{\"a\": NaN}",
        "{\"a\": 1",
        "[1]",
        "{\"a\": 1e999}",
        "{\"a\": [[1], [2]]}",
        "{\"a\": [{}]}",
        &deep,
        &nested,
        "{\"a\": 1}",
    ];
    let path = folder.file("bad.jsonl", lines.join("\n"));
    let (good, bad) = rows(&path);
    assert_eq!((good.len(), bad.len()), (1, 8));
    assert_eq!(bad.iter().map(|row| row.line).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert!(bad[1].reason.starts_with("is not a JSON object"), "{}", bad[1]);
    assert_eq!(bad[4].column.as_deref(), Some("a"));
}

fn event_columns() -> ColumnMap {
    ColumnMap {
        user: Some("user".into()),
        item: "item".into(),
        session: Some("session".into()),
        time: "time".into(),
        kind: Some("type".into()),
        default_kind: Some("view".into()),
        value: Some("price".into()),
        event_id: Some("id".into()),
        properties: vec!["device".into()],
        ..ColumnMap::default()
    }
}

/// The events of a CSV file with this content, or what is wrong.
fn events(content: &str) -> Vec<Result<NamedEvent, String>> {
    let folder = Folder::new();
    let path = folder.file("events.csv", content);
    let event = |row: Result<Result<Row, BadRow>, ReadError>| {
        event_from_row(&row.unwrap().unwrap(), &event_columns())
            .map_err(|bad| bad.to_string().rsplit('/').next().unwrap().to_owned())
    };
    open_rows(&path, Format::Auto).unwrap().map(event).collect()
}

#[test]
fn an_event_takes_its_parts_from_the_columns_that_the_map_names() {
    let found = events(
        "id,user,session,item,time,type,price,device\n\
         e1,u,s,i,2017-12-04 00:00:00 UTC,buy,1.5,phone\n\
         ,,s,i,1512345600,,,\n",
    );
    let time = Timestamp(1_512_345_600_000);
    let first = NamedEvent {
        event_id: Some("e1".into()),
        kind: "buy".into(),
        user: Some("u".into()),
        session: Some("s".into()),
        item: "i".into(),
        time,
        value: Some(1.5),
        properties: Fields::from([("device".into(), text("phone"))]),
        ..NamedEvent::default()
    };
    let second = NamedEvent {
        kind: "view".into(),
        session: Some("s".into()),
        item: "i".into(),
        time,
        ..NamedEvent::default()
    };
    assert_eq!(found, [Ok(first), Ok(second)]);
}

#[test]
fn a_bad_event_names_its_column_and_value() {
    let long = "x".repeat(257);
    let content = format!(
        "id,user,session,item,time,type,price,device\n\
         ,u,,i,1,,abc,\n,u,,i,1,,NaN,\n,u,,i,1,,inf,\n,u,,,1,,,\n,u,,i,,,,\n,,,i,1,,,\n\
         ,u,,i,yesterday,,,\n,u\u{1},,i,1,,,\n,u,,{long},1,,,\n"
    );
    let told: Vec<String> = events(&content).into_iter().map(Result::unwrap_err).collect();
    assert_eq!(told[0], "events.csv:2, column price: \"abc\" is not a number");
    assert_eq!(told[1], "events.csv:3, column price: \"NaN\" is not a finite number");
    assert_eq!(told[2], "events.csv:4, column price: \"inf\" is not a finite number");
    assert_eq!(told[3], "events.csv:5, column item: is missing");
    assert_eq!(told[4], "events.csv:6, column time: is missing");
    assert_eq!(told[5], "events.csv:7, column user: is missing, so nobody did it");
    assert!(told[6].starts_with("events.csv:8, column time: \"yesterday\" is not a time"));
    assert_eq!(told[7], "events.csv:9, column user: \"u\\u{1}\" has a control character in it");
    assert!(told[8].ends_with("is longer than 256 bytes"));
    assert!(told[8].len() < 200, "a long value is cut in the message");
}

#[test]
fn ids_print_as_they_are_written() {
    for (value, id) in [
        (Value::Number(1_364.0), "1364"),
        (Value::Number(-0.0), "0"),
        (Value::Number(1.5), "1.5"),
        (text("007"), "007"),
    ] {
        assert_eq!(id_text(&value).unwrap().as_ref(), id);
    }
    assert!(id_text(&Value::Number(f64::NAN)).is_err());
    assert!(id_text(&Value::Vector(vec![1.0])).is_err());
}

#[test]
fn a_unit_holds_for_all_numbers_of_its_column() {
    assert_eq!(TimeUnit::Days.time(1.0), Some(Timestamp(86_400_000)));
    assert_eq!(TimeUnit::Seconds.time(1.5), Some(Timestamp(1_500)));
    assert_eq!(TimeUnit::Milliseconds.time(5.0), Some(Timestamp(5)));
    assert_eq!(TimeUnit::Microseconds.time(5e6), Some(Timestamp(5_000)));
    assert_eq!(TimeUnit::Nanoseconds.time(1.5e18), Some(Timestamp(1_500_000_000_000)));
    assert_eq!(TimeUnit::Seconds.time(f64::NAN), None);
    assert_eq!(TimeUnit::Seconds.time(1e18), None);
}

#[test]
fn field_values_are_of_their_type_or_refused() {
    use FieldKind::{Boolean, Category, Number, Time, Vector};
    let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|t| (*t).into()).collect());
    for (value, kind, expected) in [
        (text("1.5"), Number, Value::Number(1.5)),
        (Value::Bool(true), Number, Value::Number(1.0)),
        (Value::Number(3.0), Category, text("3")),
        (texts(&["a", "b"]), Category, texts(&["a", "b"])),
        (Value::Vector(vec![1.0, 2.0]), Category, texts(&["1", "2"])),
        (text("Yes"), Boolean, Value::Bool(true)),
        (Value::Number(0.0), Boolean, Value::Bool(false)),
        (text("2017-12-04"), Time, text("2017-12-04T00:00:00Z")),
        (text("[0.5, -1]"), Vector, Value::Vector(vec![0.5, -1.0])),
        (text("0.5 -1"), Vector, Value::Vector(vec![0.5, -1.0])),
        (Value::Number(2.0), FieldKind::Text, text("2")),
    ] {
        assert_eq!(field_value(&value, kind), Ok(expected), "{value:?} as {kind:?}");
    }
    for (value, kind) in [
        (text("cheap"), Number),
        (text("NaN"), Number),
        (text("maybe"), Boolean),
        (Value::Number(2.0), Boolean),
        (text("soon"), Time),
        (text("[0.5, x]"), Vector),
        (text("[nan]"), Vector),
        (text("[]"), Vector),
    ] {
        assert!(field_value(&value, kind).is_err(), "{value:?} as {kind:?}");
    }
}

#[test]
fn items_and_users_take_fields_of_the_types_that_the_map_says() {
    let folder = Folder::new();
    let path = folder.file(
        "items.csv",
        "sku,price,genres,since,until,off\n1,2.5,Drama|War,1971-01-01,2030-01-01,true\n2,,,,,\n",
    );
    let map = ItemMap {
        id: "sku".into(),
        published_at: Some("since".into()),
        expires_at: Some("until".into()),
        hidden: Some("off".into()),
        separator: Some('|'),
        fields: BTreeMap::from([
            ("price".into(), FieldKind::Number),
            ("genres".into(), FieldKind::Category),
            ("since".into(), FieldKind::Time),
        ]),
    };
    let (good, _) = rows(&path);
    let items: Vec<ItemRecord> = good.iter().map(|row| item_from_row(row, &map).unwrap()).collect();
    assert_eq!(
        items[0],
        ItemRecord {
            id: "1".into(),
            fields: Fields::from([
                ("price".into(), Value::Number(2.5)),
                ("genres".into(), Value::Texts(vec!["Drama".into(), "War".into()])),
                ("since".into(), text("1971-01-01T00:00:00Z")),
            ]),
            published_at: Some(Timestamp::parse("1971-01-01").unwrap()),
            expires_at: Some(Timestamp::parse("2030-01-01").unwrap()),
            hidden: true,
        }
    );
    assert_eq!(items[1], ItemRecord { id: "2".into(), ..ItemRecord::default() });
    let map = UserMap {
        id: "sku".into(),
        fields: BTreeMap::from([("price".into(), FieldKind::Number)]),
        ..UserMap::default()
    };
    assert_eq!(user_from_row(&good[0], &map).unwrap().fields["price"], Value::Number(2.5));
}

const PARQUET_SCHEMA: &str = "message schema {
    REQUIRED INT64 id;
    OPTIONAL BYTE_ARRAY name (UTF8);
    OPTIONAL INT64 at_ms (TIMESTAMP(MILLIS,true));
    OPTIONAL INT64 at_us (TIMESTAMP(MICROS,true));
    OPTIONAL INT64 at_ns (TIMESTAMP(NANOS,false));
    OPTIONAL INT96 at_96;
    OPTIONAL INT32 day (DATE);
    OPTIONAL DOUBLE price;
    OPTIONAL BOOLEAN flag;
    OPTIONAL INT32 cents (DECIMAL(9,2));
    OPTIONAL group vector (LIST) { REPEATED group list { OPTIONAL FLOAT element; } }
    OPTIONAL group tags (LIST) { REPEATED group list { OPTIONAL BYTE_ARRAY element (UTF8); } }
}";

type Levels<'a> = (Option<&'a [i16]>, Option<&'a [i16]>);

fn column<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, fs::File>,
    values: &[T::T],
    (def, rep): Levels,
) {
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(values, def, rep).unwrap();
    column.close().unwrap();
}

/// Writes three rows: one full, one with nulls, one with other values.
fn write_parquet(path: &Path) {
    let schema = Arc::new(parse_message_type(PARQUET_SCHEMA).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer =
        SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let g = &mut group;
    let some: Levels = (Some(&[1, 0, 1]), None);
    // The first of January 1971, before times in milliseconds are told from seconds by size.
    let ms = 31_536_000_000i64;
    column::<Int64Type>(g, &[1, 9_007_199_254_740_993, 3], (None, None));
    column::<ByteArrayType>(g, &[ByteArray::from("one"), ByteArray::from("one")], some);
    column::<Int64Type>(g, &[ms, -1], some);
    column::<Int64Type>(g, &[ms * 1_000, -1], some);
    column::<Int64Type>(g, &[ms * 1_000_000, -1], some);
    let mut day_0 = Int96::new();
    day_0.set_data(0, 0, 2_440_588 + 365);
    column::<Int96Type>(g, &[day_0, day_0], some);
    column::<Int32Type>(g, &[365, -1], some);
    column::<DoubleType>(g, &[1.5, f64::NAN], some);
    column::<BoolType>(g, &[true, false], some);
    column::<Int32Type>(g, &[199, -5], some);
    // [0.5, null, 1.5], null, []
    column::<FloatType>(g, &[0.5, 1.5], (Some(&[3, 2, 3, 0, 1]), Some(&[0, 1, 1, 0, 0])));
    let tags = ["a", "b", "c"].map(ByteArray::from);
    column::<ByteArrayType>(g, &tags, (Some(&[3, 3, 0, 3]), Some(&[0, 1, 0, 0])));
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn parquet_is_read_with_every_type_and_its_unit() {
    let folder = Folder::new();
    let path = folder.0.path().join("a.parquet");
    write_parquet(&path);
    let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|t| (*t).into()).collect());
    let time = || Value::Number(31_536_000_000.0);
    let number = Value::Number;
    let expected = vec![
        vec![
            number(1.0),
            text("one"),
            time(),
            time(),
            time(),
            time(),
            time(),
            number(1.5),
            Value::Bool(true),
            number(1.99),
            Value::Vector(vec![0.5, 1.5]),
            texts(&["a", "b"]),
        ],
        [vec![text("9007199254740993")], vec![Value::Null; 11]].concat(),
        vec![
            number(3.0),
            text("one"),
            number(-1.0),
            number(-1.0),
            number(-1.0),
            time(),
            number(-86_400_000.0),
            Value::Null,
            Value::Bool(false),
            number(-0.05),
            Value::Null,
            texts(&["c"]),
        ],
    ];
    assert_eq!(values(&path), expected);
    let packed = folder.file("a.parquet.gz", gzip(&fs::read(&path).unwrap()));
    assert_eq!(values(&packed), expected, "also within gzip");
    let (good, _) = rows(&path);
    for column in ["at_ms", "at_us", "at_ns", "at_96", "day"] {
        let map = ColumnMap {
            user: Some("name".into()),
            item: "id".into(),
            time: column.into(),
            default_kind: Some("view".into()),
            ..ColumnMap::default()
        };
        let event = event_from_row(&good[0], &map).unwrap();
        assert_eq!(event.time, Timestamp(31_536_000_000), "{column}");
        assert_eq!(&*event.item, "1");
    }
}

#[test]
fn a_damaged_parquet_file_is_an_error_that_names_it() {
    let folder = Folder::new();
    let whole = folder.0.path().join("whole.parquet");
    write_parquet(&whole);
    let whole = fs::read(whole).unwrap();
    let read = |bytes: &[u8]| -> Result<usize, String> {
        let path = folder.file("damaged.parquet", bytes);
        let rows = open_rows(&path, Format::Parquet).map_err(|error| error.to_string())?;
        let rows: Result<Vec<_>, ReadError> = rows.collect();
        rows.map(|rows| rows.len()).map_err(|error| error.to_string())
    };
    let error = read(&whole[..whole.len() / 2]).unwrap_err();
    assert!(error.contains("damaged.parquet cannot be read as Parquet"), "{error}");
    let mut seed = 7u64;
    let mut n_refused = 0;
    for _ in 0..200 {
        let mut bytes = whole.clone();
        for _ in 0..1 + seed % 3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] ^= 1 << (seed >> 60 & 7);
        }
        if seed.is_multiple_of(5) {
            bytes.truncate((seed >> 40) as usize % bytes.len());
        }
        if let Err(error) = read(&bytes) {
            assert!(error.contains("damaged.parquet"), "{error}");
            n_refused += 1;
        }
    }
    assert!(n_refused > 50, "{n_refused}");
}

fn import(
    folder: &Folder,
    name: &str,
    content: &str,
    max_bad: f64,
) -> Result<Imported, ImportError> {
    let input = Input {
        path: folder.file(name, content),
        format: Format::Auto,
        content: Content::Events(event_columns()),
    };
    Import { max_bad }.run(&[input], &mut folder.log())
}

const HEADER: &str = "id,user,session,item,time,type,price,device\n";

fn n_records(folder: &Folder) -> usize {
    folder.log().scan(Position::START).unwrap().map(Result::unwrap).count()
}

#[test]
fn an_import_leaves_out_a_few_bad_rows_and_counts_duplicates() {
    let folder = Folder::new();
    let mut content = HEADER.to_owned();
    for i in 0..200 {
        content.push_str(&format!("e{},u,s,i{i},{i},view,1,\n", i % 150));
    }
    content.push_str(",u,s,i,1,view,dear,\n");
    let imported = import(&folder, "a.csv", &content, 0.01).unwrap();
    let Imported { n_rows, n_accepted, n_duplicate, n_bad, bad } = imported;
    assert_eq!((n_rows, n_accepted, n_duplicate, n_bad), (201, 150, 50, 1));
    assert_eq!(bad[0].line, 202);
    assert_eq!(n_records(&folder), 150);
    let again = import(&folder, "a.csv", &content, 0.01).unwrap();
    assert_eq!((again.n_accepted, again.n_duplicate), (0, 200));
    assert_eq!(n_records(&folder), 150);
}

#[test]
fn past_the_share_of_bad_rows_nothing_is_imported_and_the_first_are_listed() {
    let folder = Folder::new();
    let mut content = HEADER.to_owned();
    for i in 0..100 {
        let price = if i % 2 == 0 { "dear" } else { "1" };
        content.push_str(&format!(",u,s,i,{i},view,{price},\n"));
    }
    let error = import(&folder, "a.csv", &content, 0.01).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("a.csv has 50 bad rows of 100, more than 1%"), "{message}");
    assert!(message.contains("a.csv:2, column price: \"dear\" is not a number"), "{message}");
    assert!(message.ends_with("and 30 more"), "{message}");
    assert_eq!(n_records(&folder), 0);
    assert_eq!(import(&folder, "a.csv", &content, 0.5).unwrap().n_accepted, 50);
}

#[test]
fn an_import_of_several_files_is_all_or_nothing() {
    let folder = Folder::new();
    let input = |name: &str, content: &str| Input {
        path: folder.file(name, content),
        format: Format::Auto,
        content: Content::Events(event_columns()),
    };
    let good = input("good.csv", &format!("{HEADER},u,s,i,1,view,1,\n"));
    let empty = input("header.csv", HEADER);
    let error = Import::default().run(&[good.clone(), empty], &mut folder.log()).unwrap_err();
    assert!(error.to_string().ends_with("header.csv has no rows"), "{error}");
    assert_eq!(n_records(&folder), 0);
    let other = input("other.csv", "id,user,session,item,tyme,type,price,device\n1,,,,,,,\n");
    let error = Import::default().run(&[good.clone(), other], &mut folder.log()).unwrap_err();
    let told = "no column \"time\" (did you mean \"tyme\"?)";
    assert!(error.to_string().contains(told), "{error}");
    assert_eq!(n_records(&folder), 0);
    Import::default().run(&[good], &mut folder.log()).unwrap();
    assert_eq!(n_records(&folder), 1);
}

fn movielens_records(content: &[u8]) -> Vec<Record> {
    let folder = Folder::new();
    let path = folder.file("u", content);
    movielens::open(&path).unwrap().map(|record| record.unwrap().unwrap()).collect()
}

#[test]
fn movielens_files_are_told_by_their_content() {
    let rated = |kind: &str, value: f64| {
        Record::Event(NamedEvent {
            kind: kind.into(),
            user: Some("1".into()),
            item: "31".into(),
            time: Timestamp(1_260_759_144_000),
            value: Some(value),
            ..NamedEvent::default()
        })
    };
    let both = [rated("like", 4.0), rated("rate", 3.5)];
    let header = "userId,movieId,rating,timestamp\n";
    let csv = format!("{header}1,31,4.0,1260759144\n1,31,3.5,1260759144\n");
    assert_eq!(movielens_records(csv.as_bytes()), both);
    assert_eq!(movielens_records(&gzip(csv.as_bytes())), both);
    assert_eq!(movielens_records(b"1\t31\t4\t1260759144\n1\t31\t3.5\t1260759144\n"), both);

    let item = |id: &str, title: &str, year: f64, genres: &[&str]| {
        let genres = genres.iter().map(|genre| (*genre).into()).collect();
        Record::Item(ItemRecord {
            id: id.into(),
            fields: Fields::from([
                ("title".into(), text(title)),
                ("year".into(), Value::Number(year)),
                ("genres".into(), Value::Texts(genres)),
            ]),
            ..ItemRecord::default()
        })
    };
    let movies = "movieId,title,genres\n11,\"American President, The (1995)\",Comedy|Drama\n";
    let expected = item("11", "American President, The (1995)", 1995.0, &["Comedy", "Drama"]);
    assert_eq!(movielens_records(movies.as_bytes()), [expected]);
    let mut flags = ["0"; 19];
    (flags[1], flags[18]) = ("1", "1");
    let line = format!("543|Mis\u{e9}rables (1995)|01-Jan-1995||http://x|{}\n", flags.join("|"));
    let latin_1: Vec<u8> = line.chars().map(|c| c as u8).collect();
    let expected = item("543", "Mis\u{e9}rables (1995)", 1995.0, &["Action", "Western"]);
    assert_eq!(movielens_records(&latin_1), [expected]);

    let Record::User(user) = &movielens_records(b"1|24|M|technician|85711\n")[0] else { panic!() };
    assert_eq!(user.fields["age"], Value::Number(24.0));
    assert_eq!(user.fields["occupation"], text("technician"));
    let known: Vec<String> = movielens::schema().user_fields.into_keys().collect();
    assert!(user.fields.keys().all(|field| known.iter().any(|name| **name == **field)));
}

#[test]
fn what_is_no_movielens_file_is_refused() {
    let folder = Folder::new();
    let path = folder.file("tags.csv", "userId,movieId,tag,timestamp\n1,2,x,3\n");
    let error = movielens::open(&path).err().unwrap().to_string();
    assert!(error.contains("none of ratings.csv"), "{error}");
}
