//! `[server]`: how the HTTP server behaves.

use featurestore::Span;
use serde::{Deserialize, Serialize};

use crate::keys::ApiKey;

/// How the HTTP server behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: String,
    /// Address and port of the routes of administration, if they have one of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<String>,
    /// When the event log is flushed.
    pub fsync: Fsync,
    /// Threads that run the pipeline; 0: one for each core.
    pub workers: usize,
    /// Requests that may wait for a thread; further ones are refused with 429.
    pub queue: usize,
    /// Largest body of a request for a list, or of one item or user, in bytes.
    pub max_body_bytes: usize,
    /// Largest body of `/v1/events`, and of many items or users, in bytes.
    pub max_events_bytes: usize,
    /// Impressions are kept for so long.
    pub keep_impressions: Span,
    /// Who may do what; without any, only this machine is listened to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<ApiKey>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            admin_listen: None,
            fsync: Fsync::default(),
            workers: 0,
            queue: 256,
            max_body_bytes: 64 * 1024,
            max_events_bytes: 4 * 1024 * 1024,
            keep_impressions: Span::days(30),
            keys: Vec::new(),
        }
    }
}

/// When the event log is flushed to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Before an event is acknowledged.
    Always,
    /// Every second: a power cut may lose the last one.
    #[default]
    Interval,
    /// When the system sees fit.
    Never,
}
