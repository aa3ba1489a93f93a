//! Entries of the shared log that are written by other jobs: values of fields of items and users, as JSON.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;

use crate::history::SESSION_USER;
use crate::ids::MAX_ID_BYTES;
use crate::log::Record;
use crate::value::{Fields, Value};

/// Longest such entry in bytes: whatever it says fits into a record of the log.
pub(super) const MAX_SET_BYTES: usize = 256 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    #[serde(default)]
    items: Vec<Changed>,
    #[serde(default)]
    users: Vec<Changed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed {
    id: Box<str>,
    fields: BTreeMap<Box<str>, Json>,
}

/// What `bytes` set, and how many values in them cannot be read: those become missing. Bytes that are something else set
/// nothing, and count as one such value.
pub(super) fn read_set(bytes: &[u8]) -> (Vec<Record>, u64) {
    // serde would take the values of an array for those of the fields, in their order.
    let is_object = bytes.trim_ascii_start().starts_with(b"{") && bytes.len() <= MAX_SET_BYTES;
    let set = is_object.then(|| serde_json::from_slice::<Set>(bytes).ok());
    let Some(Set { items, users }) = set.flatten() else { return (Vec::new(), 1) };
    let (mut records, mut n_unreadable) = (Vec::new(), 0);
    let mut push = |changed: Changed, record: fn(Box<str>, Fields) -> Record| {
        let Changed { id, fields } = changed;
        if id.is_empty() || id.len() > MAX_ID_BYTES || id.starts_with(SESSION_USER) {
            n_unreadable += fields.len().max(1) as u64;
            return;
        }
        let mut value = |json: Json| {
            let value = serde_json::from_value::<Value>(json).ok();
            n_unreadable += u64::from(value.is_none());
            value.unwrap_or(Value::Null)
        };
        let fields = fields.into_iter().map(|(name, json)| (name, value(json))).collect();
        records.push(record(id, fields));
    };
    items.into_iter().for_each(|it| push(it, |id, fields| Record::SetItemFields { id, fields }));
    users.into_iter().for_each(|it| push(it, |id, fields| Record::SetUserFields { id, fields }));
    (records, n_unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{MAX_RECORD_BYTES, encode_records};
    use proptest::prelude::*;

    #[test]
    fn values_are_read_and_those_of_no_type_become_missing() {
        let json = br#"{"items": [{"id": "a", "fields": {"margin": 0.5, "x": {"y": 1}, "z": null}}],
            "users": [{"id": "u", "fields": {"kind": ["b", "c"]}}, {"id": "", "fields": {"k": 1}}]}"#;
        let (records, n_unreadable) = read_set(json);
        let fields = [("margin", Value::Number(0.5)), ("x", Value::Null), ("z", Value::Null)];
        let fields = fields.map(|(name, value)| (name.into(), value)).into();
        let kind = Value::Texts(vec!["b".into(), "c".into()]);
        let user = Record::SetUserFields { id: "u".into(), fields: [("kind".into(), kind)].into() };
        assert_eq!(records, [Record::SetItemFields { id: "a".into(), fields }, user]);
        assert_eq!(n_unreadable, 2);
    }

    #[test]
    fn whatever_else_an_entry_holds_counts_and_sets_nothing() {
        let long = format!(
            r#"{{"items": [{{"id": "a", "fields": {{"b": [{}1]}}}}]}}"#,
            "1,".repeat(MAX_SET_BYTES)
        );
        for bytes in
            [&b""[..], b"[]", b"{\"item\": []}", b"\xff", b"{\"items\": [1]}", long.as_bytes()]
        {
            assert_eq!(read_set(bytes), (Vec::new(), 1));
        }
    }

    #[test]
    fn the_longest_entry_fits_into_records() {
        let numbers = "1,".repeat((MAX_SET_BYTES - 100) / 2);
        let json = format!(r#"{{"items": [{{"id": "a", "fields": {{"b": [{numbers}1]}}}}]}}"#);
        let (records, n_unreadable) = read_set(json.as_bytes());
        assert_eq!((records.len(), n_unreadable), (1, 0));
        assert!(encode_records(&records).is_ok_and(|bytes| bytes.len() <= MAX_RECORD_BYTES));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (records, _) = read_set(&bytes);
            prop_assert!(encode_records(&records).is_ok());
        }
    }
}
