//! The names of everything in Redis.

use sha2::{Digest, Sha256};

use crate::plan::FeaturePlan;
use crate::record::RecordLayout;

use super::Wanted;

/// Hashes that the records of items are spread over, and those of field values as well.
const N_SHARDS: u32 = 64;

/// All hashes of records.
pub(super) const N_HASHES: usize = 2 * N_SHARDS as usize;

/// Bytes of the hash of a user's name that stand for it: two of a billion users have the same with probability 10^-11.
const HASH_BYTES: usize = 12;

/// The end of the key that says which generation there is.
pub(super) const LOADED: &str = "loaded";

/// The end of the key that is written when a hash was changed otherwise than through the shared log.
const MARK: &str = ":changed";

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
        self.hash(key.hash_number())
    }

    /// The hash with this number.
    pub(super) fn hash(&self, number: usize) -> String {
        match number.checked_sub(N_SHARDS as usize) {
            None => format!("{}{{i:{number}}}", self.values()),
            Some(shard) => format!("{}{{f:{shard}}}", self.values()),
        }
    }

    /// What is written when something was changed in the hash with this number otherwise than through the shared log.
    pub(super) fn mark(&self, number: usize) -> String {
        format!("{}{MARK}", self.hash(number))
    }

    /// The number of the hash whose mark is called `key`, if it is one of this generation.
    pub(super) fn marked(&self, key: &[u8]) -> Option<usize> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&self.values())?;
        let hash = key.strip_suffix(MARK)?.strip_prefix('{')?.strip_suffix('}')?;
        let (kind, shard) = hash.split_once(':')?;
        let first = match kind {
            "i" => 0,
            "f" => N_SHARDS,
            _ => return None,
        };
        let shard: u32 = shard.parse().ok()?;
        (shard < N_SHARDS).then_some((first + shard) as usize)
    }
}

impl Wanted {
    /// The number of the hash that it is in: first those of items.
    pub(super) fn hash_number(&self) -> usize {
        match self {
            Self::Item(item) => (item.0 % N_SHARDS) as usize,
            Self::Field(field, code) => {
                (N_SHARDS + code.wrapping_add(u32::from(*field)) % N_SHARDS) as usize
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ItemId;

    #[test]
    fn a_hash_is_found_by_the_name_of_its_mark() {
        let mut keys = Keys::new("shop", "0a1b2c3d");
        keys.generation = "abcdef".into();
        assert_eq!(keys.shard(&Wanted::Item(ItemId(130))), "shop:0a1b2c3d:abcdef:{i:2}");
        assert_eq!(keys.shard(&Wanted::Field(1, 63)), "shop:0a1b2c3d:abcdef:{f:0}");
        for key in [Wanted::Item(ItemId(130)), Wanted::Field(1, 63), Wanted::Field(0, u32::MAX)] {
            let mark = keys.mark(key.hash_number());
            assert!(mark.starts_with(&keys.shard(&key)), "{mark}");
            assert_eq!(keys.marked(mark.as_bytes()), Some(key.hash_number()), "{mark}");
        }
        let others = ["shop:0a1b2c3d:other:{i:2}:changed", "shop:0a1b2c3d:abcdef:{i:64}:changed"];
        for other in others.into_iter().chain(["shop:0a1b2c3d:abcdef:{i:2}", "\u{ff}", ""]) {
            assert_eq!(keys.marked(other.as_bytes()), None, "{other}");
        }
    }
}
