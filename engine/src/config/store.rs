//! `[store]`: where the state lives.

use serde::{Deserialize, Serialize};

/// Where the state lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// The kind of store.
    pub kind: StoreKind,
    /// Where Redis is: one URL, or several nodes of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Urls>,
    /// What the names of all keys begin with.
    pub prefix: String,
    /// Most megabytes of the near cache in the memory of each server.
    pub near_cache_mb: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        let (kind, prefix) = (StoreKind::default(), "cascade".into());
        Self { kind, url: None, prefix, near_cache_mb: 256 }
    }
}

/// One URL or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Urls {
    /// That of a Redis which is alone.
    One(String),
    /// Those of nodes of a cluster.
    Several(Vec<String>),
}

impl StoreConfig {
    /// Where Redis is.
    pub fn urls(&self) -> Vec<String> {
        match &self.url {
            None => Vec::new(),
            Some(Urls::One(url)) => vec![url.clone()],
            Some(Urls::Several(urls)) => urls.clone(),
        }
    }

    /// Why it cannot be used, if so: the key, what stands there, and the reason.
    pub(super) fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let n_urls = self.urls().len();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        match self.kind {
            StoreKind::Embedded if n_urls > 0 => {
                Some(("url", n_urls.to_string(), "is for kind = \"redis\" alone"))
            }
            StoreKind::Redis if n_urls == 0 => {
                Some(("url", "missing".into(), "say where Redis is: \"redis://127.0.0.1:6379\""))
            }
            _ if self.prefix.is_empty() || !self.prefix.bytes().all(is_name) => Some((
                "prefix",
                self.prefix.clone(),
                "must be of letters, digits, `_`, `-` and `.`",
            )),
            _ if !(1..=1_000_000).contains(&self.near_cache_mb) => {
                let found = self.near_cache_mb.to_string();
                Some(("near_cache_mb", found, "must be from 1 to 1000000"))
            }
            _ => None,
        }
    }
}

/// The kinds of stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// In the memory of the server.
    #[default]
    Embedded,
    /// In Redis, shared by several servers.
    Redis,
}
