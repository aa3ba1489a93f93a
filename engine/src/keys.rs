//! API keys: who may do what. The configuration has their digests, never the keys themselves.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A key as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Whose it is.
    pub name: String,
    /// What it is known by.
    pub sha256: KeyDigest,
    /// What it is good for. No scope includes another.
    pub scopes: BTreeSet<Scope>,
    /// Requests a second that it may make on average; without it, as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<NonZeroU32>,
    /// Requests that it may make at once; left out: as many as in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU32>,
}

/// What a key may be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Lists, items and metrics.
    Read,
    /// Sending events.
    Events,
    /// Changing items, users and releases, and reading of users.
    Admin,
}

impl Scope {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Events => "events",
            Self::Admin => "admin",
        }
    }
}

/// The SHA-256 of a key. Keys are long and random, so that nobody finds one by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyDigest([u8; 32]);

/// Text that is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 has 64 hexadecimal digits")]
pub struct ParseDigestError;

impl TryFrom<String> for KeyDigest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, ParseDigestError> {
        let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex {
            return Err(ParseDigestError);
        }
        let mut digest = [0; 32];
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| ParseDigestError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseDigestError)?;
        }
        Ok(Self(digest))
    }
}

impl From<KeyDigest> for String {
    fn from(digest: KeyDigest) -> Self {
        digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl KeyDigest {
    /// That of `key`.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Whether both are the same. Takes the same time wherever they differ.
    fn matches(&self, other: &Self) -> bool {
        let different =
            self.0.iter().zip(&other.0).fold(0, |bits, (a, b)| black_box(bits | (a ^ b)));
        different == 0
    }
}

/// Which of `keys` is `key`, if it is one. All of them are compared, in constant time each.
pub fn find(keys: &[ApiKey], key: &[u8]) -> Option<usize> {
    let digest = KeyDigest::of(key);
    let matching = |found, (i, key): (usize, &ApiKey)| {
        if key.sha256.matches(&digest) { Some(i) } else { found }
    };
    keys.iter().enumerate().fold(None, matching)
}

/// What is wrong with `keys`, if anything is: the place, what stands there, and why.
pub(crate) fn fault(keys: &[ApiKey]) -> Option<(String, String, &'static str)> {
    for (i, key) in keys.iter().enumerate() {
        let at = |field: &str| format!("server.keys[{i}].{field}");
        let before = &keys[..i];
        if key.name.is_empty() {
            return Some((at("name"), "\"\"".into(), "must not be empty"));
        }
        if before.iter().any(|other| other.name == key.name) {
            return Some((at("name"), format!("{:?}", key.name), "is there twice"));
        }
        if before.iter().any(|other| other.sha256 == key.sha256) {
            return Some((at("sha256"), String::from(key.sha256), "is there twice"));
        }
        if key.scopes.is_empty() {
            return Some((at("scopes"), "[]".into(), "must not be empty"));
        }
        if let Some(burst) = key.burst.filter(|_| key.per_second.is_none()) {
            return Some((at("burst"), burst.to_string(), "needs `per_second`"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf abc | sha256sum`.
    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn key(name: &str, key: &str, scope: Scope) -> ApiKey {
        let sha256 = KeyDigest::of(key.as_bytes());
        let scopes = [scope].into();
        ApiKey { name: name.into(), sha256, scopes, per_second: None, burst: None }
    }

    #[test]
    fn a_digest_is_that_of_other_programs() {
        assert_eq!(KeyDigest::try_from(OF_ABC.to_owned()), Ok(KeyDigest::of(b"abc")));
        assert_eq!(String::from(KeyDigest::of(b"abc")), OF_ABC);
        for text in ["", &OF_ABC[1..], &OF_ABC.replace('b', "g"), &"\u{e9}".repeat(32)] {
            assert_eq!(KeyDigest::try_from(text.to_owned()), Err(ParseDigestError), "{text}");
        }
    }

    #[test]
    fn a_key_is_found_by_all_of_it() {
        let keys = [key("a", "abc", Scope::Read), key("b", "abd", Scope::Admin)];
        assert_eq!((find(&keys, b"abc"), find(&keys, b"abd")), (Some(0), Some(1)));
        for other in [&b""[..], b"ab", b"abcd", OF_ABC.as_bytes()] {
            assert_eq!(find(&keys, other), None);
        }
    }

    #[test]
    fn what_is_wrong_with_keys_is_placed() {
        let place = |keys: &[ApiKey]| fault(keys).map(|(place, ..)| place);
        let a = key("a", "abc", Scope::Read);
        assert_eq!(place(std::slice::from_ref(&a)), None);
        let twice = [a.clone(), key("a", "abd", Scope::Read)];
        assert_eq!(place(&twice).as_deref(), Some("server.keys[1].name"));
        let same = [a.clone(), key("b", "abc", Scope::Read)];
        assert_eq!(place(&same).as_deref(), Some("server.keys[1].sha256"));
        let none = ApiKey { scopes: BTreeSet::new(), ..a };
        assert_eq!(place(&[none]).as_deref(), Some("server.keys[0].scopes"));
    }
}
