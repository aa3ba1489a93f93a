//! Rows of CSV files: RFC 4180, with any of four separators.
//!
//! A quote that is not closed must not swallow the rest of the file: a row may go over a limited number of lines, and after a
//! bad row reading goes on with the line after the one in which it began.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::compression::Input;
use super::lines::{Line, Lines};
use super::{BadRow, Column, MAX_ROW_BYTES, ReadError, Row};
use crate::value::Value;

/// Most lines that one row may go over.
const MAX_ROW_LINES: usize = 100;
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Lines that the separator is told from.
const N_SNIFFED: usize = 10;

/// The rows of a CSV file.
pub(super) struct CsvRows {
    lines: Lines,
    separator: u8,
    columns: Arc<[Column]>,
}

impl CsvRows {
    /// Reads the header of `input`, the content of `path`.
    pub(super) fn new(path: &Path, input: Input) -> Result<Self, ReadError> {
        let mut lines = Lines::new(path, input);
        let separator = sniff(&mut lines)?;
        let error = |reason| ReadError::Header { path: path.into(), reason };
        let names = match next_fields(&mut lines, separator)? {
            None => return Err(ReadError::NoRows { path: path.into() }),
            Some(Err(bad)) => return Err(error(bad.reason)),
            Some(Ok((_, names))) => names,
        };
        let columns = columns(names).map_err(error)?;
        Ok(Self { lines, separator, columns })
    }

    /// The columns of every row.
    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The next row.
    pub(super) fn next_row(&mut self) -> Result<Option<Result<Row, BadRow>>, ReadError> {
        let Some(fields) = next_fields(&mut self.lines, self.separator)? else { return Ok(None) };
        Ok(Some(fields.and_then(|(line, values)| self.row(line, values))))
    }

    fn row(&self, line: u64, values: Vec<Value>) -> Result<Row, BadRow> {
        let (n, expected) = (values.len(), self.columns.len());
        if n != expected {
            let reason = format!("the row has {n} fields, the header has {expected}");
            return Err(self.lines.bad(line, reason));
        }
        let (file, columns) = (Arc::clone(self.lines.file()), Arc::clone(&self.columns));
        let row = Row { file, line, columns, values };
        match row.values.iter().position(is_replaced) {
            Some(i) => Err(row.bad(&row.columns[i].name, Some(&row.values[i]), "is not UTF-8")),
            None => Ok(row),
        }
    }
}

/// Whether bytes that are not UTF-8 were replaced in `value`.
fn is_replaced(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text.contains(char::REPLACEMENT_CHARACTER))
}

fn columns(names: Vec<Value>) -> Result<Arc<[Column]>, String> {
    let mut seen = HashSet::new();
    let column = |value| {
        let Value::Text(name) = value else { return Err("a column has no name".to_owned()) };
        let name: Box<str> = name.trim().into();
        if !seen.insert(name.clone()) {
            return Err(format!("two columns are called {name:?}"));
        }
        Ok(Column { name, is_time: false })
    };
    names.into_iter().map(column).collect()
}

/// The separator that occurs in the header, equally often in the lines after it, and most often. A comma if none does.
fn sniff(lines: &mut Lines) -> Result<u8, ReadError> {
    let mut head = Vec::new();
    while head.len() < N_SNIFFED
        && let Some(line) = lines.next()?
    {
        head.push(line);
    }
    let is_filled = |line: &&[u8]| !line.trim_ascii().is_empty();
    let texts = head.iter().filter_map(|line| line.bytes.as_deref());
    let texts: Vec<&[u8]> = texts.filter(is_filled).collect();
    let merit = |separator: &u8| {
        let in_header = texts.first().map_or(0, |header| n_separators(header, *separator));
        let is_alike = |line: &&&[u8]| n_separators(line, *separator) == in_header;
        (in_header > 0, texts.iter().filter(is_alike).count(), in_header)
    };
    // Of equals `max_by_key` takes the last, so the first choice stands last.
    let best = SEPARATORS.iter().rev().max_by_key(|separator| merit(separator));
    let separator = best.copied().unwrap_or(b',');
    lines.give_back(head);
    Ok(separator)
}

fn n_separators(line: &[u8], separator: u8) -> usize {
    let mut is_quoted = false;
    let counts = |byte: &&u8| {
        is_quoted ^= **byte == b'"';
        **byte == separator && !is_quoted
    };
    line.iter().filter(counts).count()
}

type Fields = (u64, Vec<Value>);

/// The fields of the next row that is not blank, and the line in which it begins.
fn next_fields(
    lines: &mut Lines,
    separator: u8,
) -> Result<Option<Result<Fields, BadRow>>, ReadError> {
    while let Some(line) = lines.next()? {
        let Some(bytes) = line.bytes else {
            let reason = format!("the line is longer than {MAX_ROW_BYTES} bytes");
            return Ok(Some(Err(lines.bad(line.number, reason))));
        };
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let text = text(bytes);
        return Ok(Some(match split(&text, separator) {
            Ok(fields) => Ok((line.number, fields)),
            Err(Quote::Open) => join_lines(lines, line.number, text, separator)?,
            Err(Quote::Broken) => Err(lines.bad(line.number, BROKEN_QUOTE)),
        }));
    }
    Ok(None)
}

const BROKEN_QUOTE: &str = "there is text between a closing quote and the separator";

/// The fields of a row that began in line `number` with `start`, in which a quote is open.
fn join_lines(
    lines: &mut Lines,
    number: u64,
    start: String,
    separator: u8,
) -> Result<Result<Fields, BadRow>, ReadError> {
    let mut joined = start;
    let mut taken: Vec<Line> = Vec::new();
    let reason = loop {
        if taken.len() + 1 >= MAX_ROW_LINES || joined.len() > MAX_ROW_BYTES {
            break format!("a quote is not closed within {} lines", taken.len() + 1);
        }
        let Some(line) = lines.next()? else { break "a quote is not closed".into() };
        let Some(bytes) = line.bytes.clone() else {
            taken.push(line);
            break "a quote is not closed before a line that is too long".into();
        };
        let has_quote = bytes.contains(&b'"');
        taken.push(line);
        joined.push('\n');
        joined.push_str(&text(bytes));
        if !has_quote {
            continue;
        }
        match split(&joined, separator) {
            Ok(fields) => return Ok(Ok((number, fields))),
            Err(Quote::Open) => {}
            Err(Quote::Broken) => break BROKEN_QUOTE.into(),
        }
    };
    lines.give_back(taken);
    Ok(Err(lines.bad(number, reason)))
}

/// `bytes` as text; what is not UTF-8 becomes replacement characters, which make the row a bad one.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Why a line is not a whole row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    /// It ends within a quoted field.
    Open,
    /// A quoted field goes on behind its closing quote.
    Broken,
}

/// The fields of `row`. An empty field, and one of spaces, is `Null`.
fn split(row: &str, separator: u8) -> Result<Vec<Value>, Quote> {
    let mut fields = Vec::new();
    let mut rest = Some(row);
    while let Some(text) = rest {
        let field;
        (field, rest) = match text.strip_prefix('"') {
            Some(quoted) => split_quoted(quoted, separator)?,
            None => match text.as_bytes().iter().position(|byte| *byte == separator) {
                Some(i) => (value(&text[..i]), Some(&text[i + 1..])),
                None => (value(text), None),
            },
        };
        fields.push(field);
    }
    Ok(fields)
}

/// The field that `text` begins with, behind its opening quote, and what is behind the separator.
fn split_quoted(text: &str, separator: u8) -> Result<(Value, Option<&str>), Quote> {
    let mut start = 0;
    let end = loop {
        let end = start + text[start..].find('"').ok_or(Quote::Open)?;
        if text.as_bytes().get(end + 1) != Some(&b'"') {
            break end;
        }
        start = end + 2;
    };
    let field = value(&text[..end].replace("\"\"", "\""));
    match text.as_bytes().get(end + 1) {
        None => Ok((field, None)),
        Some(byte) if *byte == separator => Ok((field, Some(&text[end + 2..]))),
        Some(_) => Err(Quote::Broken),
    }
}

fn value(text: &str) -> Value {
    if text.trim_ascii().is_empty() { Value::Null } else { Value::Text(text.into()) }
}
