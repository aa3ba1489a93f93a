//! Which node of Redis has which slot, and which slot a key has.

use std::sync::Arc;

use ::redis::Value;

/// Slots of a cluster. Source: the specification of Redis Cluster.
pub(super) const N_SLOTS: u16 = 16_384;

/// The slot of `key`: that of the part in braces, if there is one.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tag.map(|(tag, _)| tag).filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes()) % N_SLOTS
}

/// Who serves which slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Topology {
    pub(super) is_cluster: bool,
    /// How often the ranges were other than before.
    pub(super) version: u64,
    /// First slot, last slot, and the node that serves them.
    pub(super) ranges: Vec<(u16, u16, Arc<str>)>,
}

impl Topology {
    /// The node that serves `slot`.
    pub(super) fn node_of(&self, slot: u16) -> Option<&Arc<str>> {
        let range = self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        range.map(|(_, _, node)| node)
    }

    /// Whether every slot has a node.
    pub(super) fn serves_all(&self) -> bool {
        let n_slots = |(first, last, _): &(u16, u16, Arc<str>)| u32::from(last - first) + 1;
        self.ranges.iter().map(n_slots).sum::<u32>() >= u32::from(N_SLOTS)
    }
}

/// One entry of `CLUSTER SLOTS`: first slot, last slot, and the host and port of their master first. An empty host is that
/// of the node that was asked.
pub(super) fn range_of(range: &Value, asked: &str) -> Option<(u16, u16, Arc<str>)> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
        return None;
    };
    let (host, Value::Int(port)) = (master.first()?, master.get(1)?) else { return None };
    let host = match host {
        Value::BulkString(host) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) if !host.is_empty() => host.clone(),
        _ => asked.rsplit_once(':')?.0.to_owned(),
    };
    let slot = |slot: &i64| u16::try_from(*slot).ok().filter(|slot| *slot < N_SLOTS);
    Some((slot(first)?, slot(last)?, format!("{host}:{port}").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_one_tag_have_one_slot() {
        // The values are those of the specification's own example and of `CLUSTER KEYSLOT`.
        assert_eq!(slot_of("123456789"), 12_739);
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        assert_eq!(slot_of("foo{}{bar}"), slot_of("foo{}{bar}"));
        assert_ne!(slot_of("{a}x"), slot_of("{b}x"));
    }
}
