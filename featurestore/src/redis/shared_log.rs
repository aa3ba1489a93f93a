//! The log that all servers of one Redis share: a stream, in whose order every one of them takes in events and changes of
//! the catalogue. Each keeps it in a log on its own disk as well, so the stream holds the latest entries only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{Connection, Value};

use super::apply::text_of;
use super::nodes::{Command, Nodes, RedisError};
use super::packed::Stamp;
use super::set::read_set;
use crate::log::{DecodeError, Record, decode_records, encode_records};

/// Entries that the stream keeps, about: a server that was away for longer needs a copy of another's log.
pub(super) const STREAM_ENTRIES: u64 = 1_000_000;

/// So many entries too many are removed together.
const TRIMMED: u64 = 16;

/// Entries of one read.
const MAX_READ: usize = 256;

/// How long an append may take.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// How much longer than asked for a blocking read may take.
const READ_GRACE: Duration = Duration::from_secs(1);

/// `KEYS`: the stream, its head, and the last entry that was removed. `ARGV`: how many entries to keep, the records, an id
/// that the new one must be greater than: after a loss of the stream and a step back of the clock it would not be; and how
/// many are removed together. An id has a number of 16 bits beside its milliseconds, which a clock that was set back would
/// use up.
const APPEND: &str = "\
if ARGV[3] ~= '0-0' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], ARGV[3], 'r', '')
  redis.call('SET', KEYS[3], ARGV[3])
end
local id = '*'
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local ms, n = string.match(last and last[1] or '0-0', '(%d+)-(%d+)')
if tonumber(n) > 60000 then id = string.format('%.0f-0', tonumber(ms) + 1) end
id = redis.call('XADD', KEYS[1], id, 'r', ARGV[2])
redis.call('SET', KEYS[2], id)
local keep, many = tonumber(ARGV[1]), tonumber(ARGV[4])
if redis.call('XLEN', KEYS[1]) > keep + many then
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', many + 1)
  redis.call('SET', KEYS[3], first[many][1])
  redis.call('XTRIM', KEYS[1], 'MINID', first[many + 1][1])
end
return id";

/// `KEYS`: the stream, and the last entry that was removed. `ARGV`: the last one to remove, and the next possible id.
const FORGET: &str = "\
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1])
return 0";

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
    forgotten: String,
}

/// What the shared log says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The last entry; 0: there is none.
    pub stamp: Stamp,
    /// The last entry that is not in the stream any more; 0: there is none.
    pub forgotten: Stamp,
    /// The release that all servers should serve.
    pub release: Option<String>,
}

impl SharedLog {
    /// The log whose keys begin with `prefix`.
    pub fn new(nodes: Arc<Nodes>, prefix: &str) -> Self {
        // One tag: they are read and written together.
        let start = format!("{prefix}:{{log}}");
        let key = |name: &str| format!("{start}:{name}");
        let (head, release, forgotten) = (key("head"), key("release"), key("forgotten"));
        Self { nodes, stream: start, head, release, forgotten }
    }

    /// Appends `records` as one entry behind `after`. It is as durable as Redis keeps it.
    ///
    /// # Errors
    /// If Redis does not answer: the records may be in the log, and may be appended again if they have event ids.
    pub fn append(&self, records: &[Record], after: Stamp) -> Result<Stamp, RedisError> {
        let bytes = encode_records(records)
            .map_err(|n| RedisError::Refused(format!("a record of {n} bytes is too long")))?;
        let mut cmd = ::redis::cmd("EVAL");
        cmd.arg(APPEND).arg(3).arg(&self.stream).arg(&self.head).arg(&self.forgotten);
        cmd.arg(STREAM_ENTRIES).arg(bytes).arg(id_of(after)).arg(TRIMMED);
        let command = Command::new(&self.stream, &cmd);
        let value = self.nodes.run_one(command, Instant::now() + APPEND_TIMEOUT)?;
        text_of(&value)
            .and_then(|id| stamp_of(&id))
            .ok_or_else(|| RedisError::Malformed(format!("{value:?} is not the id of an entry")))
    }

    /// Where it ends and begins, and the release to serve.
    ///
    /// # Errors
    /// If Redis does not answer by `until`.
    pub fn head(&self, until: Instant) -> Result<Head, RedisError> {
        let mut cmd = ::redis::cmd("MGET");
        cmd.arg(&self.head).arg(&self.forgotten).arg(&self.release);
        let value = self.nodes.run_one(Command::new(&self.head, &cmd), until)?;
        let Value::Array(values) = value else {
            return Err(RedisError::Malformed(format!("{} and {}", self.head, self.release)));
        };
        let text = |i: usize| values.get(i).and_then(text_of);
        let stamp = |i: usize| text(i).and_then(|id| stamp_of(&id)).unwrap_or(0);
        Ok(Head { stamp: stamp(0), forgotten: stamp(1), release: text(2) })
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
        if self.has_forgotten(stamp)? {
            return Ok(());
        }
        let mut cmd = ::redis::cmd("EVAL");
        cmd.arg(FORGET).arg(2).arg(&self.stream).arg(&self.forgotten);
        cmd.arg(id_of(stamp)).arg(id_of(stamp + 1));
        let command = Command::new(&self.stream, &cmd);
        self.nodes.run_one(command, Instant::now() + APPEND_TIMEOUT).map(|_| ())
    }

    /// Whether entries behind `stamp` are not in the stream any more.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn has_forgotten(&self, stamp: Stamp) -> Result<bool, RedisError> {
        Ok(self.head(Instant::now() + APPEND_TIMEOUT)?.forgotten > stamp)
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
        entries_of(&value, stream)
    }
}

/// The entries in the answer to `XREAD` of one stream. What somebody else has written there and cannot be read counts, and
/// says nothing; what another version of Cascade has written is not passed over.
fn entries_of(value: &Value, stream: &str) -> Result<Vec<Entry>, RedisError> {
    let malformed = || RedisError::Malformed(format!("{stream} is not a shared log"));
    let Value::Array(streams) = value else { return Ok(Vec::new()) };
    let entries = match streams.first() {
        Some(Value::Array(stream)) => stream.get(1),
        _ => None,
    };
    let Some(Value::Array(entries)) = entries else { return Err(malformed()) };
    let entry = |entry: &Value| {
        let Value::Array(parts) = entry else { return Err(malformed()) };
        let [id, Value::Array(fields)] = parts.as_slice() else { return Err(malformed()) };
        let id = text_of(id).ok_or_else(malformed)?;
        let stamp = stamp_of(&id).ok_or_else(|| {
            RedisError::Malformed(format!("{id:?} in {stream} is not an id that fits"))
        })?;
        let (records, n_unreadable) = match fields.as_slice() {
            [Value::BulkString(name), Value::BulkString(bytes), ..] if name == b"set" => {
                read_set(bytes)
            }
            [Value::BulkString(name), Value::BulkString(bytes), ..] if name == b"r" => {
                match decode_records(bytes) {
                    Ok(records) => (records, 0),
                    Err(DecodeError::Broken) => (Vec::new(), 1),
                    Err(error @ DecodeError::Unknown) => {
                        let what = format!("entry {id} of {stream}: {error}: update this server");
                        return Err(RedisError::Malformed(what));
                    }
                }
            }
            _ => (Vec::new(), 1),
        };
        Ok(Entry { stamp, records, n_unreadable })
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
