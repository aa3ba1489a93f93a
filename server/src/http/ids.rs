//! Ids: what a user, an item, a session or an event may be called, and what answers are called.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use featurestore::Timestamp;

use super::problem::Fault;

/// Longest id in bytes.
pub(super) const MAX_ID_BYTES: usize = 256;

/// Checks an id.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("an id must not be empty".into());
    }
    if id.len() > MAX_ID_BYTES {
        return Err(format!("an id has at most {MAX_ID_BYTES} bytes, this one has {}", id.len()));
    }
    if id.contains(char::REPLACEMENT_CHARACTER) {
        // In a path it stands for bytes that are no text: different ids would become one.
        return Err("an id must be UTF-8, without the character U+FFFD".into());
    }
    match id.chars().any(char::is_control) {
        true => Err("an id must not have control characters".into()),
        false => Ok(()),
    }
}

/// Adds what is wrong with the id at `pointer`, if it is there.
pub(super) fn check_optional_id(id: Option<&str>, pointer: &str, faults: &mut Vec<Fault>) {
    if let Some(Err(reason)) = id.map(check_id) {
        faults.push(Fault::new(pointer, reason));
    }
}

/// Adds what is wrong with each of the ids in the array at `pointer`.
pub(super) fn check_ids(ids: &[String], pointer: &str, faults: &mut Vec<Fault>) {
    for (i, id) in ids.iter().enumerate() {
        if let Err(reason) = check_id(id) {
            faults.push(Fault::new(format!("{pointer}/{i}"), reason));
        }
    }
}

/// Makes names for answers, of which no two are the same.
#[derive(Default)]
pub(super) struct RecommendationIds {
    counter: AtomicU64,
    /// Differs from process to process.
    keys: RandomState,
}

impl RecommendationIds {
    /// A new name, and the seed of the answer's exploration, which is the first half of the name: so an answer can be
    /// made again. In the other half is its time, by which it is found.
    pub(super) fn next(&self, now: Timestamp) -> (String, u64) {
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        let half = |half: u8| self.keys.hash_one((n, now, half));
        let (first, second) = (half(0), half(1));
        (format!("{first:016x}{:012x}{:04x}", now.0 & TIME_BITS, second & 0xffff), first)
    }
}

/// Of the time of an answer, so much is in its name: milliseconds until the year 10889.
const TIME_BITS: i64 = (1 << 48) - 1;

/// The time of the answer called `id`, if that is such a name.
pub(super) fn time_of(id: &str) -> Option<Timestamp> {
    let is_name = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digits = id.get(16..28).filter(|_| is_name)?;
    i64::from_str_radix(digits, 16).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_answers_differ_and_hold_their_seed() {
        let ids = RecommendationIds::default();
        let (first, seed) = ids.next(Timestamp(1));
        let (second, _) = ids.next(Timestamp(1));
        assert_ne!(first, second);
        assert_eq!(u64::from_str_radix(&first[..16], 16), Ok(seed));
        assert_eq!(first.len(), 32);
        assert_eq!(time_of(&first), Some(Timestamp(1)));
        for id in ["", "x", &"\u{e9}".repeat(16), &"g".repeat(32)] {
            assert_eq!(time_of(id), None, "{id}");
        }
    }

    #[test]
    fn an_id_has_1_to_256_bytes_and_no_control_characters() {
        for id in ["a", "a/b c", "\u{e9}", "{x}", &"x".repeat(256)] {
            assert_eq!(check_id(id), Ok(()), "{id}");
        }
        for id in ["", "a\n", "\u{0}session", "\u{85}", &"x".repeat(257), &"\u{e9}".repeat(129)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }
}
