//! The log that all servers of one Redis share: a stream, in whose order every one of them takes in events and changes of
//! the catalogue. Each keeps it in a log on its own disk as well, so the stream holds the latest entries only.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ::redis::Value;

use super::apply::text_of;
use super::error::{RedisError, refused, sent};
use super::nodes::{Command, Nodes, asking};
use super::packed::Stamp;
use super::set::read_set;
use super::wire::Wire;
use crate::log::{DecodeError, Record, decode_records, encode_records};

/// Entries that the stream keeps, about: a server that was away for longer needs a copy of another's log.
pub(super) const STREAM_ENTRIES: u64 = 1_000_000;

/// Bytes of records that the stream keeps, about.
pub(super) const STREAM_BYTES: u64 = 256 << 20;

/// So many entries too many are removed together.
const TRIMMED: u64 = 16;

/// Entries of one read, fewer after one that gave more than so many bytes.
const MAX_READ: usize = 256;
const MAX_READ_BYTES: usize = 8 << 20;

/// How long an append may take.
const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it rests while the log moves to another node.
const MOVING_REST: Duration = Duration::from_millis(20);

/// How much longer than asked for a blocking read may take.
const READ_GRACE: Duration = Duration::from_secs(1);

/// `KEYS`: the stream, its head, the last entry that was removed, and how many bytes it has. `ARGV`: how many entries to keep,
/// the records, an id that the new one must be greater than: after a loss of the stream and a step back of the clock it would
/// not be; how many are removed together, and how many bytes to keep. An id has a number of 16 bits beside its milliseconds, which a clock that was set back would
/// use up.
const APPEND: &str = "\
if ARGV[3] ~= '0-0' and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], ARGV[3], 'r', '')
  redis.call('SET', KEYS[3], ARGV[3])
  redis.call('DEL', KEYS[4])
end
local id = '*'
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local ms, n = string.match(last and last[1] or '0-0', '(%d+)-(%d+)')
if tonumber(n) > 60000 then id = string.format('%.0f-0', tonumber(ms) + 1) end
id = redis.call('XADD', KEYS[1], id, 'r', ARGV[2])
redis.call('SET', KEYS[2], id)
local bytes = redis.call('INCRBY', KEYS[4], #ARGV[2])
local keep, many, n = tonumber(ARGV[1]), tonumber(ARGV[4]), redis.call('XLEN', KEYS[1])
if n > keep + many or (bytes > tonumber(ARGV[5]) and n > many) then
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', many + 1)
  for i = 1, many do
    if first[i][2][1] == 'r' then bytes = bytes - #first[i][2][2] end
  end
  redis.call('SET', KEYS[4], math.max(bytes, 0))
  redis.call('SET', KEYS[3], first[many][1])
  redis.call('XTRIM', KEYS[1], 'MINID', first[many + 1][1])
end
return id";

/// `KEYS`: the stream, the last entry that was removed, and how many bytes it has. `ARGV`: the last one to remove, and the next
/// possible id. Of what stays, which is little, the bytes are not counted any more.
const FORGET: &str = "\
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
redis.call('DEL', KEYS[3])
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
    bytes: String,
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
        let (head, release) = (key("head"), key("release"));
        let (forgotten, bytes) = (key("forgotten"), key("bytes"));
        Self { nodes, stream: start, head, release, forgotten, bytes }
    }

    /// Appends `records` as one entry behind `after`. It is as durable as Redis keeps it.
    ///
    /// # Errors
    /// If Redis does not answer: the records may be in the log, and may be appended again if they have event ids.
    pub fn append(&self, records: &[Record], after: Stamp) -> Result<Stamp, RedisError> {
        let bytes = encode_records(records)
            .map_err(|n| RedisError::Refused(format!("a record of {n} bytes is too long")))?;
        let mut cmd = ::redis::cmd("EVAL");
        cmd.arg(APPEND).arg(4);
        cmd.arg(&self.stream).arg(&self.head).arg(&self.forgotten).arg(&self.bytes);
        cmd.arg(STREAM_ENTRIES).arg(bytes).arg(id_of(after)).arg(TRIMMED).arg(STREAM_BYTES);
        let command = Command::new(&self.stream, &cmd);
        let until = Instant::now() + APPEND_TIMEOUT;
        let value = loop {
            match self.nodes.run_one(command.clone(), until) {
                // It was not run: while its keys are on their way to another node, none of both does.
                Err(RedisError::Moved) if Instant::now() + MOVING_REST < until => {
                    thread::sleep(MOVING_REST);
                }
                result => break result?,
            }
        };
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
        cmd.arg(FORGET).arg(3).arg(&self.stream).arg(&self.forgotten).arg(&self.bytes);
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
    connection: Option<(Wire, Arc<str>)>,
    /// Where the node that should have the stream says that it is.
    elsewhere: Option<Arc<str>>,
    /// Entries of the next read.
    n_read: usize,
}

impl Follower {
    /// Not connected yet.
    pub fn new(log: Arc<SharedLog>) -> Self {
        Self { log, connection: None, elsewhere: None, n_read: MAX_READ }
    }

    /// The entries behind `after`, in their order; waits for the first one, at most so long.
    ///
    /// # Errors
    /// If Redis does not answer; the next call connects anew.
    pub fn next(&mut self, after: Stamp, wait: Duration) -> Result<Vec<Entry>, RedisError> {
        let mut result = self.read(after, wait);
        if let Err(RedisError::Elsewhere { node, has_moved }) = result {
            if has_moved {
                self.log.nodes.ask_topology(Instant::now() + APPEND_TIMEOUT);
            }
            (self.connection, self.elsewhere) = (None, Some(node));
            result = self.read(after, wait);
        }
        if result.is_err() {
            (self.connection, self.elsewhere) = (None, None);
            // It may have been too much for the time.
            self.n_read = (self.n_read / 4).max(1);
        }
        result
    }

    fn read(&mut self, after: Stamp, wait: Duration) -> Result<Vec<Entry>, RedisError> {
        let stream = &self.log.stream;
        let nodes = &self.log.nodes;
        let (connection, node) = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let until = Instant::now() + APPEND_TIMEOUT;
                none.insert(match &self.elsewhere {
                    Some(node) => (nodes.connect(node, until)?, node.clone()),
                    None => nodes.connection_for(stream, until)?,
                })
            }
        };
        let mut cmd = ::redis::cmd("XREAD");
        cmd.arg("COUNT").arg(self.n_read);
        if !wait.is_zero() {
            cmd.arg("BLOCK").arg(wait.as_millis().max(1) as u64);
        }
        cmd.arg("STREAMS").arg(stream).arg(id_of(after));
        let until = Instant::now() + wait + READ_GRACE;
        if self.elsewhere.is_some() {
            sent(connection.call(&asking(), until), node)?;
        }
        let value = connection.call(&cmd.get_packed_command(), until);
        let value = match sent(value, node)? {
            Value::ServerError(error) => return Err(refused(error.into(), node)),
            value => value,
        };
        self.n_read = match bytes_of(&value) {
            n if n > MAX_READ_BYTES => (self.n_read / 4).max(1),
            _ => (self.n_read * 2).min(MAX_READ),
        };
        entries_of(&value, stream)
    }
}

/// How many bytes of texts are in `value`.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(bytes_of).sum(),
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
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
