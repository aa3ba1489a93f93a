//! The names of everything in Redis.

use sha2::{Digest, Sha256};

use crate::plan::FeaturePlan;
use crate::record::RecordLayout;

use super::Wanted;

/// Hashes that the records of items are spread over, and those of field values as well.
const N_SHARDS: u32 = 64;

/// Bytes of the hash of a user's name that stand for it: two of a billion users have the same with probability 10^-11.
const HASH_BYTES: usize = 12;

/// The end of the key that says which generation there is.
pub(super) const LOADED: &str = "loaded";

/// What the keys of one plan's values begin with.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) prefix: String,
    pub(super) fingerprint: String,
    /// Of the values that are read; empty if there are none.
    pub(super) generation: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, fingerprint: &str) -> Self {
        let (prefix, fingerprint) = (prefix.to_owned(), fingerprint.to_owned());
        Self { prefix, fingerprint, generation: String::new() }
    }

    /// What is said of the generation.
    pub(super) fn loaded(&self) -> String {
        format!("{}{LOADED}", self.of_plan())
    }

    /// Held by the server that makes a generation.
    pub(super) fn loading(&self) -> String {
        format!("{}loading", self.of_plan())
    }

    /// The stamp up to which everything is in the values.
    pub(super) fn applied(&self) -> String {
        format!("{}applied", self.values())
    }

    /// A pattern that what is said of the generations of all plans matches.
    pub(super) fn all_loaded(&self) -> String {
        format!("{}:*:{LOADED}", self.prefix)
    }

    /// A pattern that the values of all plans and generations match.
    pub(super) fn all_values(&self) -> String {
        format!("{}:*:*:*", self.prefix)
    }

    /// What the values of this generation begin with.
    pub(super) fn values(&self) -> String {
        format!("{}:{}:{}:", self.prefix, self.fingerprint, self.generation)
    }

    /// What the values of this plan begin with.
    pub(super) fn of_plan(&self) -> String {
        self.of(&self.fingerprint)
    }

    /// What the values of a plan begin with.
    pub(super) fn of(&self, plan: &str) -> String {
        format!("{}:{plan}:", self.prefix)
    }

    /// The latest events of a user, and what was folded of those before.
    pub(super) fn user(&self, name: &str) -> (String, String) {
        let digest = Sha256::digest(name.as_bytes());
        let hash: String = digest[..HASH_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
        let start = format!("{}{{u:{hash}}}", self.values());
        (format!("{start}:t"), format!("{start}:b"))
    }

    /// The hash that a record is in.
    pub(super) fn shard(&self, key: &Wanted) -> String {
        match key {
            Wanted::Item(item) => format!("{}{{i:{}}}", self.values(), item.0 % N_SHARDS),
            Wanted::Field(field, code) => {
                format!("{}{{f:{}}}", self.values(), (code + u32::from(*field)) % N_SHARDS)
            }
        }
    }
}

impl Wanted {
    /// Its name within the hash: `item u32`, or `position u8 | code u32`, little-endian.
    pub(super) fn field(&self) -> Vec<u8> {
        match self {
            Self::Item(item) => item.0.to_le_bytes().to_vec(),
            Self::Field(field, code) => {
                let mut bytes = vec![*field];
                bytes.extend(code.to_le_bytes());
                bytes
            }
        }
    }

    pub(super) fn layout<'p>(&self, plan: &'p FeaturePlan) -> &'p RecordLayout {
        match self {
            Self::Item(_) => &plan.item,
            Self::Field(field, _) => &plan.fields[usize::from(*field)].1,
        }
    }
}
