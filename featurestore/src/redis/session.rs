//! Connections of one caller, and what Redis says over them unasked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{PushKind, Value};
use rustc_hash::FxHashMap;

use super::error::{RedisError, sent};
use super::wire::Wire;

/// How long it takes at most to read what has come.
const GRACE: Duration = Duration::from_millis(1);

/// Connections to nodes, for one call at a time.
#[derive(Default)]
pub(super) struct Session {
    connections: FxHashMap<Arc<str>, Wire>,
    tracking: Option<Tracking>,
}

/// What is changed in Redis, as Redis tells it (client tracking).
struct Tracking {
    /// Makes a new connection be told.
    command: Vec<u8>,
    heard: Vec<Changed>,
    is_refused: bool,
}

/// What may be other than it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changed {
    /// Whatever is in a key.
    Key(Vec<u8>),
    /// Anything: all was removed, or Redis could not tell for a while.
    Any,
}

impl Session {
    /// A session that is told, once, when a key is changed that was read in it.
    pub(super) fn tracking() -> Self {
        let command = ::redis::cmd("CLIENT").arg("TRACKING").arg("ON").get_packed_command();
        let tracking = Tracking { command, heard: Vec::new(), is_refused: false };
        Self { connections: FxHashMap::default(), tracking: Some(tracking) }
    }

    pub(super) fn is_tracking(&self) -> bool {
        self.tracking.is_some()
    }

    /// What was heard since the last call.
    pub(super) fn take_heard(&mut self) -> Vec<Changed> {
        self.tracking
            .as_mut()
            .map(|tracking| std::mem::take(&mut tracking.heard))
            .unwrap_or_default()
    }

    pub(super) fn connection(&mut self, node: &str) -> Option<&mut Wire> {
        self.connections.get_mut(node)
    }

    pub(super) fn forget(&mut self, node: &str) {
        self.connections.remove(node);
    }

    /// Takes a new connection to `node`. If the session tracks and the node refuses that, it goes without.
    ///
    /// # Errors
    /// If the session tracks, and the node does not answer by `until`.
    pub(super) fn insert(
        &mut self,
        node: &Arc<str>,
        mut connection: Wire,
        until: Instant,
    ) -> Result<&mut Wire, RedisError> {
        if let Some(tracking) = &mut self.tracking {
            sent(connection.send(&tracking.command, until), node)?;
            if let Value::ServerError(error) = tracking.receive(&mut connection, node, until)? {
                tracking.refuse(node, &::redis::RedisError::from(error).to_string());
            }
            // Nobody told what was changed before.
            tracking.heard.push(Changed::Any);
        }
        Ok(self.connections.entry(node.clone()).insert_entry(connection).into_mut())
    }

    /// The next reply of `node`, if there is a connection.
    ///
    /// # Errors
    /// If there is none by `until`.
    pub(super) fn receive(
        &mut self,
        node: &str,
        until: Instant,
    ) -> Option<Result<Value, RedisError>> {
        let connection = self.connections.get_mut(node)?;
        Some(match &mut self.tracking {
            Some(tracking) => tracking.receive(connection, node, until),
            None => receive(connection, node, until),
        })
    }
}

impl Tracking {
    /// The next reply; what comes before it is heard.
    fn receive(
        &mut self,
        connection: &mut Wire,
        node: &str,
        until: Instant,
    ) -> Result<Value, RedisError> {
        loop {
            match receive(connection, node, until)? {
                Value::Push { kind: PushKind::Invalidate, data } => self.hear(data),
                Value::Push { .. } => {}
                reply => return Ok(reply),
            }
        }
    }

    fn refuse(&mut self, node: &str, reason: &str) {
        if !std::mem::replace(&mut self.is_refused, true) {
            eprintln!(
                "warning: Redis at {node} refuses CLIENT TRACKING: what is changed there otherwise than through the shared \
                 log is seen after 12 minutes at most: {reason}"
            );
        }
    }

    fn hear(&mut self, data: Vec<Value>) {
        for value in data {
            match value {
                Value::Array(keys) => self.heard.extend(keys.into_iter().map(|key| match key {
                    Value::BulkString(name) => Changed::Key(name),
                    _ => Changed::Any,
                })),
                // All keys were removed.
                _ => self.heard.push(Changed::Any),
            }
        }
    }
}

fn receive(connection: &mut Wire, node: &str, until: Instant) -> Result<Value, RedisError> {
    // Another node may have used up the time: what has come by now is taken.
    sent(connection.receive(until.max(Instant::now() + GRACE)), node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_list_of_names_may_be_anything() {
        let mut tracking = Tracking { command: Vec::new(), heard: Vec::new(), is_refused: false };
        let name = |name: &str| Value::BulkString(name.into());
        tracking.hear(vec![Value::Array(vec![name("a"), name("b"), Value::Int(3)])]);
        tracking.hear(vec![Value::Nil]);
        let key = |name: &str| Changed::Key(name.into());
        assert_eq!(tracking.heard, [key("a"), key("b"), Changed::Any, Changed::Any]);
    }
}
