//! What can go wrong with Redis.

use std::io;
use std::sync::Arc;

use ::redis::{ErrorKind, ServerErrorKind};

use super::breaker::FAILURES_TO_OPEN;

/// Why a command has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisError {
    /// A URL cannot be used.
    #[error("{url:?} is not a Redis URL that can be used: {reason}")]
    Url {
        /// The URL, without its password.
        url: String,
        /// Why.
        reason: String,
    },
    /// A node cannot be reached, or did not answer in time.
    #[error("Redis at {node}: {reason}")]
    Node {
        /// Host and port.
        node: String,
        /// Why.
        reason: String,
    },
    /// A node failed so often that it is left alone for a while.
    #[error(
        "Redis at {node} failed {FAILURES_TO_OPEN} times in a row and is left alone for a while"
    )]
    Open {
        /// Host and port.
        node: String,
    },
    /// Nobody serves the key's slot.
    #[error("no node of the Redis cluster serves slot {slot}")]
    Unserved {
        /// The slot.
        slot: u16,
    },
    /// The values that are read are not in Redis any more.
    #[error("Redis has lost the features, or has others by now")]
    Lost,
    /// None of the nodes has answered yet.
    #[error("no Redis answers at {0}")]
    Unreachable(String),
    /// The node does not have the key, or not as a whole, and does not say who does.
    #[error("Redis says that the key is with another node")]
    Moved,
    /// The key is with another node.
    #[error("Redis says that the key is with {node}")]
    Elsewhere {
        /// Host and port.
        node: Arc<str>,
        /// Whether all of its slot is, and not just on its way there.
        has_moved: bool,
    },
    /// The system refuses a thread.
    #[error("the system refuses a thread")]
    Thread(#[source] Arc<io::Error>),
    /// Redis refused the command.
    #[error("Redis refused a command: {0}")]
    Refused(String),
    /// A value is not of the form that it must have.
    #[error("{0}")]
    Malformed(String),
}

/// What `node` means by `error`.
pub(super) fn refused(error: ::redis::RedisError, node: &str) -> RedisError {
    if let Some((address, _)) = error.redirect_node() {
        let has_moved = error.kind() == ErrorKind::Server(ServerErrorKind::Moved);
        return RedisError::Elsewhere { node: beside(address, node), has_moved };
    }
    let text = error.to_string();
    let is_elsewhere =
        ["READONLY", "CLUSTERDOWN", "TRYAGAIN", "ReadOnly", "ClusterDown", "TryAgain"];
    if is_elsewhere.iter().any(|word| text.starts_with(word)) {
        RedisError::Moved
    } else if text.contains("WRONGTYPE") {
        // Somebody has put something else where a value should be.
        RedisError::Malformed(text)
    } else {
        RedisError::Refused(text)
    }
}

/// The address that `node` calls `address`: without a host, it is on the same one.
fn beside(address: &str, node: &str) -> Arc<str> {
    match (address.rsplit_once(':'), node.rsplit_once(':')) {
        (Some(("" | "?", port)), Some((host, _))) => format!("{host}:{port}").into(),
        _ => address.into(),
    }
}

/// What came of talking to `node`.
pub(super) fn sent<T>(result: ::redis::RedisResult<T>, node: &str) -> Result<T, RedisError> {
    result.map_err(|e| RedisError::Node { node: node.into(), reason: e.to_string() })
}

/// A call to `node` that has used up its time.
pub(super) fn late(node: &str) -> RedisError {
    let reason = io::Error::from(io::ErrorKind::TimedOut).to_string();
    RedisError::Node { node: node.into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_names_no_host_means_its_own() {
        assert_eq!(&*beside(":7001", "shop.example:7000"), "shop.example:7001");
        assert_eq!(&*beside("?:7001", "[::1]:7000"), "[::1]:7001");
        assert_eq!(&*beside("10.0.0.7:7001", "shop.example:7000"), "10.0.0.7:7001");
    }
}
