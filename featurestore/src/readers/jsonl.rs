//! Rows of JSON Lines files. Nested objects become columns with dotted names, except that what is under `fields` and
//! `properties`, as in the HTTP API, keeps its own name.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::compression::Input;
use super::lines::Lines;
use super::{BadRow, Column, MAX_ROW_BYTES, ReadError, Row, mapping};
use crate::value::Value;

/// Most levels of nested objects.
const MAX_DEPTH: usize = 8;
/// Most values in one row.
const MAX_VALUES: usize = 10_000;
/// Objects whose members are columns under their own names.
const TRANSPARENT: [&str; 2] = ["fields", "properties"];

/// The rows of a JSON Lines file.
pub(super) struct JsonRows {
    lines: Lines,
    /// Those of the last row: rows mostly have the same.
    columns: Arc<[Column]>,
}

impl JsonRows {
    /// The rows of `input`, the content of `path`.
    pub(super) fn new(path: &Path, input: Input) -> Self {
        Self { lines: Lines::new(path, input), columns: Arc::new([]) }
    }

    /// The next row.
    pub(super) fn next_row(&mut self) -> Result<Option<Result<Row, BadRow>>, ReadError> {
        while let Some(line) = self.lines.next()? {
            let Some(bytes) = line.bytes else {
                let reason = format!("the line is longer than {MAX_ROW_BYTES} bytes");
                return Ok(Some(Err(self.lines.bad(line.number, reason))));
            };
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some(self.row(line.number, &bytes)));
            }
        }
        Ok(None)
    }

    fn row(&mut self, line: u64, bytes: &[u8]) -> Result<Row, BadRow> {
        let object: Map<String, Json> =
            serde_json::from_slice(bytes).map_err(|e| self.lines.bad(line, reason(&e)))?;
        let mut cells = Vec::new();
        flatten("", object, 1, &mut cells).map_err(|(column, reason)| {
            let column = Some(column);
            BadRow { column, ..self.lines.bad(line, reason) }
        })?;
        let is_as_before = cells.len() == self.columns.len()
            && cells.iter().zip(&*self.columns).all(|((name, _), column)| **name == *column.name);
        if !is_as_before {
            let column =
                |(name, _): &(String, Value)| Column { name: name.as_str().into(), is_time: false };
            self.columns = cells.iter().map(column).collect();
        }
        let values = cells.into_iter().map(|(_, value)| value).collect();
        let (file, columns) = (Arc::clone(self.lines.file()), Arc::clone(&self.columns));
        Ok(Row { file, line, columns, values })
    }
}

/// What is wrong, with the column of the line: the line within the row is always 1 and would mislead.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("is not a JSON object: {what} at character {}", error.column())
}

type Wrong = (String, String);

fn flatten(
    prefix: &str,
    object: Map<String, Json>,
    depth: usize,
    cells: &mut Vec<(String, Value)>,
) -> Result<(), Wrong> {
    for (key, json) in object {
        let name = format!("{prefix}{key}");
        if cells.len() >= MAX_VALUES {
            return Err((name, format!("there are more than {MAX_VALUES} values in the row")));
        }
        match json {
            Json::Object(_) if depth >= MAX_DEPTH => {
                return Err((name, format!("is nested deeper than {MAX_DEPTH} levels")));
            }
            Json::Object(inner) if depth == 1 && TRANSPARENT.contains(&key.as_str()) => {
                flatten("", inner, depth + 1, cells)?;
            }
            Json::Object(inner) => flatten(&format!("{name}."), inner, depth + 1, cells)?,
            scalar_or_list => {
                let value = value(scalar_or_list).map_err(|reason| (name.clone(), reason))?;
                cells.push((name, value));
            }
        }
    }
    Ok(())
}

fn value(json: Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(flag),
        Json::Number(number) => mapping::number(&number)?,
        Json::String(text) if text.trim().is_empty() => Value::Null,
        Json::String(text) => Value::Text(text.into()),
        Json::Array(elements) => list(elements)?,
        Json::Object(_) => return Err("is a list of objects, which no field can be".into()),
    })
}

/// Numbers become a vector, anything else a list of texts; elements that are null are left out.
fn list(elements: Vec<Json>) -> Result<Value, String> {
    let values: Vec<Value> = elements.into_iter().map(value).collect::<Result<_, _>>()?;
    Ok(mapping::list(values)?)
}
