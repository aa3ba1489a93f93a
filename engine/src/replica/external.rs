//! What becomes of the values of fields that other jobs write into the shared log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use featurestore::entities::Entities;
use featurestore::log::Record;
use featurestore::readers::field_value;
use featurestore::redis::Entry;
use featurestore::schema::FieldKind;
use featurestore::{Fields, Value};

use crate::state::State;

/// Values by what became of them, since the server began to follow the log.
#[derive(Debug, Default)]
pub struct ExternalCounts {
    /// They hold from now on.
    pub taken: AtomicU64,
    /// They were said to be missing.
    pub missing: AtomicU64,
    /// Nobody knows the item, the user or the field.
    pub unknown: AtomicU64,
    /// They are not of the type of their field, or nothing that could be read: they are missing from now on.
    pub malformed: AtomicU64,
}

impl ExternalCounts {
    /// Counts the values in `entry`, which is about to be folded into `state`.
    pub(super) fn count(&self, entry: &Entry, state: &State) {
        add(&self.malformed, entry.n_unreadable);
        let schema = state.schema();
        for record in &entry.records {
            state.store().view(|view| match record {
                Record::SetItemFields { id, fields } => {
                    self.count_fields(view.items(), &schema.item_fields, id, fields);
                }
                Record::SetUserFields { id, fields } => {
                    self.count_fields(view.users(), &schema.user_fields, id, fields);
                }
                _ => {}
            });
        }
    }

    fn count_fields(
        &self,
        entities: &Entities,
        kinds: &BTreeMap<String, FieldKind>,
        id: &str,
        fields: &Fields,
    ) {
        let is_known = entities.find(id).is_some_and(|id| !entities.is_gone(id));
        for (name, value) in fields {
            let count = match kinds.get(&**name).filter(|_| is_known) {
                None => &self.unknown,
                Some(_) if *value == Value::Null => &self.missing,
                Some(kind) if field_value(value, *kind).is_err() => &self.malformed,
                Some(_) => &self.taken,
            };
            add(count, 1);
        }
    }
}

fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Ordering::Relaxed);
}
