//! The log that all servers of one Redis share: a stream, in whose order every one of them takes in events and changes of
//! the catalogue. Each keeps it in a log on its own disk as well, so the stream holds the latest entries only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{Connection, Value};

use super::apply::text_of;
use super::nodes::{Command, Nodes, RedisError};
use super::packed::Stamp;
use super::set::read_set;
use crate::log::{Record, decode_records, encode_records};

/// Entries that the stream keeps, about: a server that was away for longer needs a copy of another's log.
pub(super) const STREAM_ENTRIES: u64 = 1_000_000;

/// Entries of one read.
const MAX_READ: usize = 256;

/// How long an append may take.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// How much longer than asked for a blocking read may take.
const READ_GRACE: Duration = Duration::from_secs(1);

/// `KEYS`: the stream, its head. `ARGV`: how many entries to keep, the records, and an id that the new one must be greater
/// than: after a loss of the stream and a step back of the clock it would not be.
const APPEND: &str = "\
if ARGV[3] ~= '0-0' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], ARGV[3], 'r', '')
end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'r', ARGV[2])
redis.call('SET', KEYS[2], id)
return id";

/// What was appended together.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its place.
    pub stamp: Stamp,
    /// The records.
    pub records: Vec<Record>,
    /// Values in it that could not be read, and are not among the records.
    pub n_unreadable: u64,
}

/// The shared log, and the name of the release that all servers should serve.
pub struct SharedLog {
    nodes: Arc<Nodes>,
    stream: String,
    head: String,
    release: String,
}

impl SharedLog {
    /// The log whose keys begin with `prefix`.
    pub fn new(nodes: Arc<Nodes>, prefix: &str) -> Self {
        // One tag: they are read and written together.
        let start = format!("{prefix}:{{log}}");
        let (head, release) = (format!("{start}:head"), format!("{start}:release"));
        Self { nodes, stream: start, head, release }
    }

    /// Appends `records` as one entry behind `after`. It is as durable as Redis keeps it.
    ///
    /// # Errors
    /// If Redis does not answer: the records may be in the log, and may be appended again if they have event ids.
    pub fn append(&self, records: &[Record], after: Stamp) -> Result<Stamp, RedisError> {
        let bytes = encode_records(records)
            .map_err(|n| RedisError::Refused(format!("a record of {n} bytes is too long")))?;
        let mut cmd = ::redis::cmd("EVAL");
        cmd.arg(APPEND).arg(2).arg(&self.stream).arg(&self.head);
        cmd.arg(STREAM_ENTRIES).arg(bytes).arg(id_of(after));
        let command = Command::new(&self.stream, &cmd);
        let value = self.nodes.run_one(command, Instant::now() + APPEND_TIMEOUT)?;
        text_of(&value)
            .and_then(|id| stamp_of(&id))
            .ok_or_else(|| RedisError::Malformed(format!("{value:?} is not the id of an entry")))
    }

    /// The place of the last entry, and the name of the release to serve, if one is set.
    ///
    /// # Errors
    /// If Redis does not answer by `until`.
    pub fn head(&self, until: Instant) -> Result<(Stamp, Option<String>), RedisError> {
        let mut cmd = ::redis::cmd("MGET");
        cmd.arg(&self.head).arg(&self.release);
        let value = self.nodes.run_one(Command::new(&self.head, &cmd), until)?;
        let Value::Array(values) = value else {
            return Err(RedisError::Malformed(format!("{} and {}", self.head, self.release)));
        };
        let text = |i: usize| values.get(i).and_then(text_of);
        Ok((text(0).and_then(|id| stamp_of(&id)).unwrap_or(0), text(1)))
    }

    /// Says which release all servers should serve.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn set_release(&self, id: &str) -> Result<(), RedisError> {
        let command = Command::new(&self.release, ::redis::cmd("SET").arg(&self.release).arg(id));
        self.nodes.run_one(command, Instant::now() + APPEND_TIMEOUT).map(|_| ())
    }

    /// As [`set_release`](Self::set_release), if none is said yet.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn set_first_release(&self, id: &str) -> Result<(), RedisError> {
        let mut cmd = ::redis::cmd("SET");
        cmd.arg(&self.release).arg(id).arg("NX");
        let command = Command::new(&self.release, &cmd);
        self.nodes.run_one(command, Instant::now() + APPEND_TIMEOUT).map(|_| ())
    }

    /// Removes the entries up to `stamp`.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn forget_until(&self, stamp: Stamp) -> Result<(), RedisError> {
        let mut cmd = ::redis::cmd("XTRIM");
        cmd.arg(&self.stream).arg("MINID").arg(id_of(stamp + 1));
        let command = Command::new(&self.stream, &cmd);
        self.nodes.run_one(command, Instant::now() + APPEND_TIMEOUT).map(|_| ())
    }

    /// Whether entries behind `stamp` are not in the stream any more.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn has_forgotten(&self, stamp: Stamp) -> Result<bool, RedisError> {
        let mut cmd = ::redis::cmd("XINFO");
        cmd.arg("STREAM").arg(&self.stream);
        let command = Command::new(&self.stream, &cmd);
        let value = match self.nodes.run_one(command, Instant::now() + APPEND_TIMEOUT) {
            // There is no stream yet.
            Err(RedisError::Refused(_)) => return Ok(false),
            value => value?,
        };
        let Value::Array(pairs) = value else { return Ok(false) };
        let deleted = pairs
            .chunks(2)
            .find(|pair| text_of(&pair[0]).is_some_and(|name| name == "max-deleted-entry-id"));
        let deleted = deleted.and_then(|pair| stamp_of(&text_of(pair.get(1)?)?));
        Ok(deleted.is_some_and(|deleted| deleted > stamp))
    }
}

/// Reads the shared log, on a connection of its own.
pub struct Follower {
    log: Arc<SharedLog>,
    connection: Option<Connection>,
}

impl Follower {
    /// Not connected yet.
    pub fn new(log: Arc<SharedLog>) -> Self {
        Self { log, connection: None }
    }

    /// The entries behind `after`, in their order; waits for the first one, at most so long.
    ///
    /// # Errors
    /// If Redis does not answer; the next call connects anew.
    pub fn next(&mut self, after: Stamp, wait: Duration) -> Result<Vec<Entry>, RedisError> {
        let result = self.read(after, wait);
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    fn read(&mut self, after: Stamp, wait: Duration) -> Result<Vec<Entry>, RedisError> {
        let stream = &self.log.stream;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.log.nodes.connection_for(stream, APPEND_TIMEOUT)?),
        };
        let failed = |e: ::redis::RedisError| RedisError::Node {
            node: stream.clone(),
            reason: e.to_string(),
        };
        connection.set_read_timeout(Some(wait + READ_GRACE)).map_err(failed)?;
        connection.set_write_timeout(Some(READ_GRACE)).map_err(failed)?;
        let mut cmd = ::redis::cmd("XREAD");
        cmd.arg("COUNT").arg(MAX_READ);
        if !wait.is_zero() {
            cmd.arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        }
        cmd.arg("STREAMS").arg(stream).arg(id_of(after));
        let value: Value = cmd.query(connection).map_err(failed)?;
        entries_of(&value)
            .ok_or_else(|| RedisError::Malformed(format!("{stream} is not a shared log")))
    }
}

/// The entries in the answer to `XREAD` of one stream.
fn entries_of(value: &Value) -> Option<Vec<Entry>> {
    let Value::Array(streams) = value else { return Some(Vec::new()) };
    let Value::Array(stream) = streams.first()? else { return None };
    let Value::Array(entries) = stream.get(1)? else { return None };
    let entry = |entry: &Value| {
        let Value::Array(parts) = entry else { return None };
        let [id, Value::Array(fields)] = parts.as_slice() else { return None };
        let [Value::BulkString(name), Value::BulkString(bytes), ..] = fields.as_slice() else {
            return None;
        };
        let (records, n_unreadable) = match name.as_slice() {
            b"r" => (decode_records(bytes)?, 0),
            b"set" => read_set(bytes),
            _ => (Vec::new(), 1),
        };
        Some(Entry { stamp: stamp_of(&text_of(id)?)?, records, n_unreadable })
    };
    entries.iter().map(entry).collect()
}

/// The stamp of the entry with `id`, `milliseconds-number`.
fn stamp_of(id: &str) -> Option<Stamp> {
    let (ms, number) = id.split_once('-')?;
    let (ms, number) = (ms.parse::<u64>().ok()?, number.parse::<u16>().ok()?);
    ms.checked_shl(16).filter(|shifted| shifted >> 16 == ms).map(|ms| ms | u64::from(number))
}

fn id_of(stamp: Stamp) -> String {
    format!("{}-{}", stamp >> 16, stamp & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_the_id_of_an_entry_as_a_number() {
        for id in ["0-0", "0-1", "1732543210123-0", "1732543210123-65535"] {
            assert_eq!(id_of(stamp_of(id).unwrap()), id);
        }
        for id in ["", "5", "5-65536", "5-x", "99999999999999999-0"] {
            assert_eq!(stamp_of(id), None, "{id}");
        }
        assert!(stamp_of("2-0") > stamp_of("1-65535"));
    }
}
