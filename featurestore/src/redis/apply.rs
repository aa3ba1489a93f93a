//! Events are folded into the values in Redis.
//!
//! A value is read with its stamp, the events that it does not know are folded into it, and it is written if its stamp
//! is still the one that was read. Items and field values are written before users: so a user whose stamp says that an
//! event is known says the same of everything else that the event changes. Several servers may do this at once with the
//! same events, and any of them may die at any point: each event is folded once into each value, in the order of the log.

use std::hash::Hash;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ::redis::Value;
use rustc_hash::{FxHashMap, FxHashSet};

use super::claim::Claim;
use super::error::RedisError;
use super::keys::{Keys, LOADED};
use super::near::{Doubts, Known};
use super::nodes::Command;
use super::packed::{Change, Noted, Stamp, Tail, pack_base, pack_record};
use super::{Generation, RedisStore, Wanted};
use crate::handover::hand_over;
use crate::ids::{ItemId, UserId};
use crate::plan::FeaturePlan;
use crate::store::{UserState, fold_item};

/// So many events of a user are kept one by one; then they are folded. A user costs a few bytes an event until then.
const MAX_TAIL: usize = 512;

/// How often values are read anew that somebody else has written meanwhile.
const MAX_TRIES: usize = 20;

/// How long one round trip may take while events are folded, and how much longer for each value in it.
pub(super) const ROUND_TRIP: Duration = Duration::from_secs(1);
const EACH: Duration = Duration::from_micros(500);
/// How long while a generation is made.
const BULK_ROUND_TRIP: Duration = Duration::from_secs(30);

/// How much a thread that makes a generation gives way. Those of the pipeline do by 5.
const NICENESS: i32 = 10;

/// Commands of one pipeline while a generation is made.
const BULK_COMMANDS: usize = 1_000;

/// `KEYS`: a hash. `ARGV`: for each field its name, the stamp that it must have, and its new value. Answers how many had
/// another stamp, and were left alone.
const WRITE_RECORDS: &str = "\
local failed = 0
for i = 1, #ARGV, 3 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  local stamp = old and string.sub(old, 2, 9) or string.rep('\\0', 8)
  if stamp == ARGV[i + 1] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  else
    failed = failed + 1
  end
end
return failed";

/// `KEYS`: the two values of a user. `ARGV`: the stamp that the first must have, its new value, and that of the second if
/// it changes.
const WRITE_USER: &str = "\
local stamp = redis.call('GETRANGE', KEYS[1], 1, 8)
if stamp == '' then stamp = string.rep('\\0', 8) end
if stamp ~= ARGV[1] then return 1 end
redis.call('SET', KEYS[1], ARGV[2])
if #ARGV == 3 then redis.call('SET', KEYS[2], ARGV[3]) end
return 0";

/// `KEYS`: a number. `ARGV`: what it becomes if it is less. Numbers of Lua do not tell stamps apart: they are compared as texts.
const RAISE: &str = "\
local old, new = redis.call('GET', KEYS[1]) or '0', ARGV[1]
if #old < #new or (#old == #new and old < new) then redis.call('SET', KEYS[1], new) end
return 0";

/// When Redis must have answered to `n` values, which are read or written together.
fn until_of(n: usize) -> Instant {
    Instant::now() + ROUND_TRIP + EACH * u32::try_from(n).unwrap_or(u32::MAX)
}

/// A value that events are folded into.
struct Folding<T> {
    /// The stamp that it had when it was read.
    read: Stamp,
    /// That of the last event that was folded into it; `None` if none was.
    folded: Option<Stamp>,
    value: T,
}

impl<T> Folding<T> {
    fn new(read: Stamp, value: T) -> Self {
        Self { read, folded: None, value }
    }
}

struct UserValue {
    state: UserState,
    tail: Tail,
    /// Whether the state was folded together, so that the tail begins anew.
    is_folded: bool,
}

/// Values on their way from Redis and back.
#[derive(Default)]
struct Working {
    users: FxHashMap<UserId, Folding<UserValue>>,
    records: FxHashMap<Wanted, Folding<Vec<f64>>>,
    /// Users that were merged into others, which are written before them.
    emptied: FxHashSet<UserId>,
}

impl Working {
    fn user(&mut self, user: UserId, plan: &FeaturePlan) -> &mut Folding<UserValue> {
        self.users.entry(user).or_insert_with(|| {
            let state = UserState::empty(plan);
            Folding::new(0, UserValue { state, tail: Tail::default(), is_folded: false })
        })
    }

    fn record(&mut self, key: Wanted, plan: &FeaturePlan) -> &mut Folding<Vec<f64>> {
        self.records.entry(key).or_insert_with(|| {
            let mut record = Vec::new();
            key.layout(plan).push_empty(&mut record);
            Folding::new(0, record)
        })
    }

    /// Folds `change` into every value that does not know it. `codes`: the values that an item has of the field at a position.
    fn fold(
        &mut self,
        change: &Change,
        plan: &FeaturePlan,
        codes: &dyn Fn(ItemId, usize) -> Vec<u32>,
    ) {
        match change {
            Change::Event(noted) => self.fold_event(noted, plan),
            Change::Merge { stamp, from, into } => {
                let source = self.user(*from, plan).value.state.clone();
                let target = self.user(*into, plan);
                // It is written before the source is emptied: once it knows of this, the source is not looked at any more.
                if target.read < *stamp || *stamp == 0 {
                    target.value.state.take_over(&source, *into, plan, |item, field| {
                        codes(item, field).into_iter()
                    });
                    target.value.tail = Tail::default();
                    target.value.is_folded = true;
                    target.folded = Some(*stamp);
                }
                self.forget(*from, *stamp, plan);
                self.emptied.insert(*from);
            }
            Change::Forget { stamp, user } => self.forget(*user, *stamp, plan),
        }
    }

    fn forget(&mut self, user: UserId, stamp: Stamp, plan: &FeaturePlan) {
        let user = self.user(user, plan);
        if user.read < stamp || stamp == 0 {
            let (state, tail) = (UserState::empty(plan), Tail::default());
            user.value = UserValue { state, tail, is_folded: true };
            user.folded = Some(stamp);
        }
    }

    fn fold_event(&mut self, noted: &Noted, plan: &FeaturePlan) {
        let event = &noted.event;
        if self.user(event.user, plan).read >= noted.stamp && noted.stamp > 0 {
            return;
        }
        let pair = self.users[&event.user].value.state.items.get(event.item, &plan.user_item);
        let pair: Option<Vec<f64>> = pair.map(<[f64]>::to_vec);
        let item = self.record(Wanted::Item(event.item), plan);
        if item.read < noted.stamp || noted.stamp == 0 {
            fold_item(&mut item.value, event, pair.as_deref(), plan);
            item.folded = Some(noted.stamp);
        }
        for (i, (field, layout)) in plan.fields.iter().enumerate() {
            for code in noted.codes_of(*field) {
                let record = self.record(Wanted::Field(i as u8, code), plan);
                if record.read < noted.stamp || noted.stamp == 0 {
                    layout.fold(&mut record.value, event, |_| false);
                    record.folded = Some(noted.stamp);
                }
            }
        }
        let user = self.user(event.user, plan);
        user.value.state.apply(event, plan, |field| noted.codes_of(field));
        user.value.tail.push(noted, plan);
        user.folded = Some(noted.stamp);
        if user.value.tail.len() > MAX_TAIL {
            user.value.tail = Tail::default();
            user.value.is_folded = true;
        }
    }
}

impl UserValue {
    /// The bytes of the two values; those of the second only if it changes.
    fn pack(&self, stamp: Stamp) -> Result<(Vec<u8>, Option<Vec<u8>>), RedisError> {
        match self.is_folded {
            false => Ok((self.tail.pack(stamp), None)),
            // What is folded is the whole state, so the tail behind it is empty.
            true => Ok((Tail::default().pack(stamp), Some(pack_base(&self.state)?))),
        }
    }
}

/// Does `work` on a thread that gives way to those that answer requests; threads that it starts do the same.
fn giving_way<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // Of this thread alone, on Linux. Where it is refused, answers take longer meanwhile.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            work()
        });
        worker.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

impl RedisStore {
    /// Folds `changes`, which are in the order of the shared log, into every value that does not know them yet. When this
    /// returns they are in all of them; that they are is said by [`raise_applied`](Self::raise_applied).
    ///
    /// # Errors
    /// If Redis does not answer; some values know the changes then, and the call may be repeated.
    pub fn apply(&self, changes: &[Change]) -> Result<(), RedisError> {
        if changes.is_empty() {
            return Ok(());
        }
        for _ in 0..MAX_TRIES {
            let doubts = self.near.doubts();
            let mut working = self.read_values(changes)?;
            let codes = |item, field| self.codes_of(item, field);
            changes.iter().for_each(|change| working.fold(change, &self.plan, &codes));
            if self.write_records(&working)? && self.write_users(&working)? {
                self.keep_near(working, &doubts);
                let forgotten = changes.iter().filter(|change| !matches!(change, Change::Event(_)));
                forgotten.flat_map(Change::users).for_each(|user| self.near.forget_user(user));
                return Ok(());
            }
        }
        Err(RedisError::Refused(format!(
            "others wrote the same values {MAX_TRIES} times in between"
        )))
    }

    /// The values that `item` has of the field at a position, as the catalogue is now.
    fn codes_of(&self, item: ItemId, field: usize) -> Vec<u32> {
        self.catalogue.view(|view| view.items().column(field).codes(item.0).collect())
    }

    fn read_values(&self, changes: &[Change]) -> Result<Working, RedisError> {
        let mut working = Working::default();
        let (mut users, mut records) = (Vec::new(), Vec::new());
        for change in changes {
            users.extend(change.users());
            let Change::Event(noted) = change else { continue };
            records.push(Wanted::Item(noted.event.item));
            for (i, (field, _)) in self.plan.fields.iter().enumerate() {
                records.extend(noted.codes_of(*field).map(|code| Wanted::Field(i as u8, code)));
            }
        }
        users.sort_unstable();
        users.dedup();
        distinct(&mut records);
        let keys = self.keys();
        let names: Vec<String> = self.catalogue.view(|view| {
            let name = |user: &UserId| view.users().names().name(user.0).unwrap_or_default().into();
            users.iter().map(name).collect()
        });
        let mut commands: Vec<Command> = names
            .iter()
            .map(|name| {
                let (tail, base) = keys.user(name);
                Command::new(&tail, ::redis::cmd("MGET").arg(&tail).arg(&base))
            })
            .collect();
        let mut reads = self.reads(&records);
        commands.append(&mut reads.commands);
        let until = until_of(names.len() + records.len());
        let mut results = self.nodes.run(&commands, until);
        let of_records = results.split_off(names.len());
        for ((user, name), result) in users.iter().zip(&names).zip(results) {
            let (stamp, state, tail) = self.unpack_user(*user, &keys.user(name).0, result?)?;
            let value = UserValue { state, tail, is_folded: false };
            working.users.insert(*user, Folding::new(stamp, value));
        }
        let fetched = self.records_read(&records, reads, of_records, until);
        for (key, known) in records.iter().zip(fetched) {
            let Known { stamp, record, .. } = known?;
            working.records.insert(*key, Folding::new(stamp, record));
        }
        Ok(working)
    }

    /// Whether all were written.
    fn write_records(&self, working: &Working) -> Result<bool, RedisError> {
        let keys = self.keys();
        let mut shards: FxHashMap<String, ::redis::Cmd> = FxHashMap::default();
        for (key, record) in &working.records {
            let Some(stamp) = record.folded else { continue };
            let shard = keys.shard(key);
            let cmd = shards.entry(shard.clone()).or_insert_with(|| {
                let mut cmd = ::redis::cmd("EVAL");
                cmd.arg(WRITE_RECORDS).arg(1).arg(shard);
                cmd
            });
            let value = pack_record(stamp, &record.value);
            cmd.arg(key.field()).arg(&record.read.to_le_bytes()).arg(value);
        }
        let commands = shards.iter().map(|(shard, cmd)| Command::new(shard, cmd));
        self.all_zero(&commands.collect::<Vec<_>>())
    }

    /// Whether all were written.
    fn write_users(&self, working: &Working) -> Result<bool, RedisError> {
        let keys = self.keys();
        let (mut commands, mut last) = (Vec::new(), Vec::new());
        for (user, folding) in &working.users {
            let Some(stamp) = folding.folded else { continue };
            let (tail, base) = self.user_keys(&keys, *user);
            let (new_tail, new_base) = folding.value.pack(stamp)?;
            let mut cmd = ::redis::cmd("EVAL");
            cmd.arg(WRITE_USER).arg(2).arg(&tail).arg(base);
            cmd.arg(&folding.read.to_le_bytes()).arg(new_tail).arg(new_base);
            let is_last = working.emptied.contains(user);
            let commands = if is_last { &mut last } else { &mut commands };
            commands.push(Command::new(&tail, &cmd));
        }
        Ok(self.all_zero(&commands)? && self.all_zero(&last)?)
    }

    fn user_keys(&self, keys: &Keys, user: UserId) -> (String, String) {
        self.catalogue.view(|view| keys.user(view.users().names().name(user.0).unwrap_or_default()))
    }

    fn all_zero(&self, commands: &[Command]) -> Result<bool, RedisError> {
        let mut all = true;
        for result in self.nodes.run(commands, until_of(commands.len())) {
            all &= matches!(result?, Value::Int(0));
        }
        Ok(all)
    }

    /// Says in Redis that the values know every event up to `stamp`: a server that starts, or comes back to Redis, folds what
    /// is behind it.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn raise_applied(&self, stamp: Stamp) -> Result<(), RedisError> {
        let key = self.keys().applied();
        let mut cmd = ::redis::cmd("EVAL");
        cmd.arg(RAISE).arg(1).arg(&key).arg(stamp);
        let command = Command::new(&key, &cmd);
        self.nodes.run_one(command, Instant::now() + ROUND_TRIP).map(|_| ())
    }

    /// What was written is what the next request reads.
    fn keep_near(&self, working: Working, doubts: &Doubts) {
        self.near.insert(working.records.into_iter().map(|(key, record)| {
            let stamp = record.folded.unwrap_or(record.read);
            let doubts = doubts[key.hash_number()];
            (key, Arc::new(Known { stamp, record: record.value, doubts }))
        }));
    }

    /// The stamp up to which the values know every event.
    ///
    /// # Errors
    /// If Redis does not tell.
    pub fn applied(&self) -> Result<Stamp, RedisError> {
        let key = self.keys().applied();
        let command = Command::new(&key, ::redis::cmd("GET").arg(&key));
        let value = self.nodes.run_one(command, Instant::now() + ROUND_TRIP)?;
        Ok(text_of(&value).and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// What is in Redis for this plan, if it was made whole.
    ///
    /// # Errors
    /// If Redis does not tell.
    pub fn generation(&self) -> Result<Option<Generation>, RedisError> {
        self.generation_by(Instant::now() + ROUND_TRIP)
    }

    /// The same, by `until`.
    pub(super) fn generation_by(&self, until: Instant) -> Result<Option<Generation>, RedisError> {
        let key = self.keys().loaded();
        let command = Command::new(&key, ::redis::cmd("GET").arg(&key));
        let value = self.nodes.run_one(command, until)?;
        Ok(text_of(&value).and_then(|text| Generation::parse(&text)))
    }

    /// Says that there is no whole generation, since a value in it cannot be read: it is made anew.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn discard(&self) -> Result<(), RedisError> {
        let key = self.keys().loaded();
        let command = Command::new(&key, ::redis::cmd("DEL").arg(&key));
        self.nodes.run_one(command, Instant::now() + ROUND_TRIP).map(|_| ())
    }

    /// Folds what `changes` gives to its argument, writes it as the generation that `changes` returns, has it read from now on,
    /// and removes the values of its other generations, and those of all plans that are not in `keep`, if it says so. `None`:
    /// `claim` was lost meanwhile, and nothing of it is there. Cost: all of it in memory.
    ///
    /// # Errors
    /// If `changes` fails, or Redis does not answer; what was written then is not read by anybody, and goes at the latest when
    /// the next one is made.
    pub fn load<E>(
        &self,
        claim: &Claim,
        changes: impl FnOnce(&mut dyn FnMut(Change)) -> Result<Generation, E> + Send,
        keep: Option<&[String]>,
    ) -> Result<Option<Generation>, E>
    where
        E: From<RedisError> + Send,
    {
        self.holding(claim, || giving_way(|| self.make(claim, changes, keep)))
    }

    fn make<E>(
        &self,
        claim: &Claim,
        changes: impl FnOnce(&mut dyn FnMut(Change)) -> Result<Generation, E> + Send,
        keep: Option<&[String]>,
    ) -> Result<Option<Generation>, E>
    where
        E: From<RedisError> + Send,
    {
        let (working, generation) = self.fold_beside(changes)?;
        let generation = generation?;
        let keys = Keys { generation: generation.name.clone(), ..self.keys() };
        let written = self.write_values(&working, &generation, &keys);
        let written = written.and_then(|()| self.renew(claim));
        if !matches!(written, Ok(true)) {
            // Redis may be full: it should not stay so for the sake of what nobody reads. If it does not answer, the next
            // one removes them.
            let _ = self.remove(&[keys.all_values()], |key| key.starts_with(&keys.values()));
        }
        if !written? {
            return Ok(None);
        }
        // Without an answer it may have been said all the same: from here on the values stay.
        let loaded = keys.loaded();
        let set = ::redis::cmd("SET").arg(&loaded).arg(generation.to_string()).clone();
        self.nodes.run_one(Command::new(&loaded, &set), Instant::now() + ROUND_TRIP)?;
        self.use_generation(&generation);
        self.remove_others(keep)?;
        Ok(Some(generation))
    }

    /// Folds what `changes` hands over on a thread of its own, and returns what it returns.
    fn fold_beside<R: Send>(
        &self,
        changes: impl FnOnce(&mut dyn FnMut(Change)) -> R + Send,
    ) -> Result<(Working, R), RedisError> {
        let mut working = Working::default();
        let codes = |item, field| self.codes_of(item, field);
        let give = move |give: &mut dyn FnMut(Change, usize)| {
            changes(&mut |change| give(change.unstamped(), size_of::<Change>()))
        };
        let fold = |change: Change| working.fold(&change, &self.plan, &codes);
        let returned =
            hand_over("log-changes", give, fold).map_err(|e| RedisError::Thread(Arc::new(e)))?;
        Ok((working, returned))
    }

    /// Writes the values of `generation`, which have `keys`.
    fn write_values(
        &self,
        working: &Working,
        generation: &Generation,
        keys: &Keys,
    ) -> Result<(), RedisError> {
        let mut commands = Vec::new();
        for (key, record) in &working.records {
            let shard = keys.shard(key);
            let mut cmd = ::redis::cmd("HSET");
            cmd.arg(&shard).arg(key.field()).arg(pack_record(generation.stamp, &record.value));
            commands.push(Command::new(&shard, &cmd));
            self.flush(&mut commands, BULK_COMMANDS)?;
        }
        for (user, folding) in &working.users {
            let (tail, base) = self.user_keys(keys, *user);
            let (new_tail, new_base) = folding.value.pack(generation.stamp)?;
            commands.push(Command::new(&tail, ::redis::cmd("SET").arg(&tail).arg(new_tail)));
            if let Some(value) = new_base {
                commands.push(Command::new(&base, ::redis::cmd("SET").arg(&base).arg(value)));
            }
            self.flush(&mut commands, BULK_COMMANDS)?;
        }
        let applied = keys.applied();
        let set = ::redis::cmd("SET").arg(&applied).arg(generation.stamp).clone();
        commands.push(Command::new(&applied, &set));
        self.flush(&mut commands, 1)
    }

    fn flush(&self, commands: &mut Vec<Command>, at_least: usize) -> Result<(), RedisError> {
        if commands.len() < at_least {
            return Ok(());
        }
        for result in self.nodes.run(commands, Instant::now() + BULK_ROUND_TRIP) {
            result?;
        }
        commands.clear();
        Ok(())
    }

    /// Removes the values of other generations, and of plans that are not in `keep`: first what says that they are there.
    fn remove_others(&self, keep: Option<&[String]>) -> Result<(), RedisError> {
        let keys = self.keys();
        let is_kept = |key: &str| match key.strip_prefix(&keys.of_plan()) {
            Some(rest) => rest == LOADED || key.starts_with(&keys.values()),
            None => keep.is_none_or(|keep| keep.iter().any(|plan| key.starts_with(&keys.of(plan)))),
        };
        self.remove(&[keys.all_loaded(), keys.all_values()], |key| !is_kept(key))
    }

    /// Removes the keys that match one of `patterns` and are to go.
    fn remove(
        &self,
        patterns: &[String],
        is_to_go: impl Fn(&str) -> bool,
    ) -> Result<(), RedisError> {
        let until = Instant::now() + BULK_ROUND_TRIP;
        for pattern in patterns {
            for node in self.nodes.masters(until) {
                self.nodes.scan(&node, pattern, |found| {
                    let gone = found.iter().filter(|key| is_to_go(key));
                    let unlink = |key: &String| Command::new(key, ::redis::cmd("UNLINK").arg(key));
                    self.flush(&mut gone.map(unlink).collect(), 1)
                })?;
            }
        }
        Ok(())
    }
}

impl Generation {
    /// Reads what its `Display` writes.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (name, n_own, stamp) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { name: name.into(), n_own: n_own.parse().ok()?, stamp: stamp.parse().ok()? })
    }
}

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.name, self.n_own, self.stamp)
    }
}

/// A string that Redis answered with.
pub(super) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

fn distinct<T: Copy + Eq + Hash>(values: &mut Vec<T>) {
    let mut seen = rustc_hash::FxHashSet::default();
    values.retain(|value| seen.insert(*value));
}
