//! The feature store in Redis: what is known of users and the records of items live there, shared by all servers; the
//! catalogue, its numbers and the boards are in the memory of each.
//!
//! Events come to all servers in one order, that of the [shared log](SharedLog). Each server folds each of them into
//! Redis; the stamp of a value says which it knows already, and a value is written only if it is still the one that was
//! read. So it does not matter who comes first, who comes twice and who dies in between: [`RedisStore::apply`].
//!
//! A request reads its user in one call, and the items that the near cache lacks in one batch. Keys and bytes are described
//! in `docs/redis.md`.

mod addresses;
mod ahead;
mod apply;
mod breaker;
mod claim;
mod error;
mod hearing;
mod keys;
mod near;
mod nodes;
mod packed;
mod session;
mod set;
mod shared_log;
mod topology;
mod wire;

pub use claim::Claim;
pub use error::RedisError;
pub use nodes::Nodes;
pub use packed::{Change, Noted, Stamp};
pub use shared_log::{Entry, Follower, Head, SharedLog};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ::redis::Value;
use rustc_hash::FxHashMap;

use crate::ids::{ItemId, UserId};
use crate::plan::{FeaturePlan, ItemRows, push_merged};
use crate::store::{EmbeddedStore, FeatureStore, Freshness, UserState, UserView, read_fields};
use ahead::Turn;
use hearing::Hearing;
use keys::Keys;
use near::{Doubts, Known, NearCache};
use nodes::Command;
use packed::{Tail, unpack_base, unpack_record};

/// How long a read takes at most that has no deadline of its own.
const PATIENT: Duration = Duration::from_secs(5);

/// How the feature store uses Redis.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Before every key.
    pub prefix: String,
    /// Most bytes of the near cache.
    pub near_cache_bytes: u64,
}

/// Values of one release's plan, made from one log: what keys begin with says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its random name.
    pub name: String,
    /// Records of the log that did not come through the shared log and are in it.
    pub n_own: u64,
    /// The entry of the shared log up to which it was made from a log.
    pub stamp: Stamp,
}

/// What happened in the store since it was made.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records that the near cache had.
    pub hits: AtomicU64,
    /// Records that it lacked.
    pub misses: AtomicU64,
    /// Reads that Redis did not answer, or not in time.
    pub failures: AtomicU64,
    /// Values that were not of the form that they must have.
    pub malformed: AtomicU64,
    /// Hashes of records that were changed otherwise than through the shared log, as Redis told it.
    pub invalidations: AtomicU64,
}

/// The feature store in Redis.
pub struct RedisStore {
    plan: Arc<FeaturePlan>,
    /// Names, fields and boards.
    catalogue: Arc<EmbeddedStore>,
    nodes: Arc<Nodes>,
    keys: RwLock<Keys>,
    near: NearCache,
    hearing: Mutex<Hearing>,
    /// Of reading again what is in use.
    turn: Mutex<Turn>,
    counts: Counts,
}

impl RedisStore {
    /// The values of `plan` and `fingerprint`, a name for the plan, for the things that `catalogue` numbers. They are read
    /// once there is a generation.
    pub fn new(
        plan: Arc<FeaturePlan>,
        fingerprint: &str,
        catalogue: Arc<EmbeddedStore>,
        nodes: Arc<Nodes>,
        settings: &RedisSettings,
    ) -> Self {
        let keys = Keys::new(&settings.prefix, fingerprint);
        Self {
            plan,
            catalogue,
            nodes,
            keys: RwLock::new(keys.clone()),
            near: NearCache::new(settings.near_cache_bytes),
            hearing: Mutex::new(Hearing::new(keys)),
            turn: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// What happened since it was made.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What it remembers.
    pub fn plan_arc(&self) -> &Arc<FeaturePlan> {
        &self.plan
    }

    /// The name of the plan in keys.
    pub fn plan_name(&self) -> String {
        self.keys().fingerprint
    }

    /// The catalogue that it numbers its values by.
    pub fn catalogue(&self) -> &Arc<EmbeddedStore> {
        &self.catalogue
    }

    fn keys(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the values of `generation` from now on.
    pub fn use_generation(&self, generation: &Generation) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.generation != generation.name {
            keys.generation.clone_from(&generation.name);
            // What is being read of the other comes too late.
            self.near.outdate();
        }
    }

    /// The name of the generation that is read; empty if there is none yet.
    pub fn generation_name(&self) -> String {
        self.keys().generation
    }

    fn fetch_user(
        &self,
        user: UserId,
        until: Instant,
    ) -> Result<(Stamp, UserState, Tail), RedisError> {
        let keys = self.keys();
        let name = self.catalogue.view(|view| view.users().names().name(user.0).map(String::from));
        let Some(name) = name else {
            return Ok((0, UserState::empty(&self.plan), Tail::default()));
        };
        let (tail, base) = keys.user(&name);
        let command = Command::new(&tail, ::redis::cmd("MGET").arg(&tail).arg(&base));
        let value = self.nodes.run_one(command, until)?;
        if value == Value::Array(vec![Value::Nil, Value::Nil]) {
            // That there is no value does not say that nothing is known.
            self.is_there(&keys, until)?;
        }
        self.unpack_user(user, &tail, value)
    }

    /// Whether the generation that `keys` are of is the one in Redis still.
    fn is_there(&self, keys: &Keys, until: Instant) -> Result<(), RedisError> {
        match self.generation_by(until)?.is_some_and(|it| it.name == keys.generation) {
            true => Ok(()),
            false => Err(RedisError::Lost),
        }
    }

    fn unpack_user(
        &self,
        user: UserId,
        key: &str,
        value: Value,
    ) -> Result<(Stamp, UserState, Tail), RedisError> {
        let what = || format!("the value of {key}");
        let malformed = || RedisError::Malformed(format!("{} is not two strings", what()));
        let Value::Array(values) = value else { return Err(malformed()) };
        let [tail, base] = values.as_slice() else { return Err(malformed()) };
        let mut state = match base {
            Value::BulkString(bytes) => unpack_base(bytes, &self.plan, &what)?,
            _ => UserState::empty(&self.plan),
        };
        match tail {
            Value::BulkString(bytes) => {
                let (stamp, tail) = Tail::unpack(bytes, user, &self.plan, &mut state, &what)?;
                Ok((stamp, state, tail))
            }
            _ => Ok((0, state, Tail::default())),
        }
    }

    /// Records of items or field values, in the order of `wanted`; `None` for those that could not be had.
    fn records(&self, wanted: &[Wanted], until: Instant) -> (Vec<Option<Arc<Known>>>, Freshness) {
        let (doubts, now) = (self.near.doubts(), Instant::now());
        let mut found = self.near.fresh(wanted, &doubts, now);
        let missing: Vec<usize> = (0..wanted.len()).filter(|i| found[*i].is_none()).collect();
        self.counts.hits.fetch_add((wanted.len() - missing.len()) as u64, Ordering::Relaxed);
        self.counts.misses.fetch_add(missing.len() as u64, Ordering::Relaxed);
        if missing.is_empty() {
            return (found, Freshness::Fresh);
        }
        let keys: Vec<Wanted> = missing.iter().map(|i| wanted[*i]).collect();
        // The cache may be too small to keep what was fetched until it is looked at.
        let mine = self.bring(&keys, &doubts, until);
        let mut freshness = Freshness::Fresh;
        let brought = self.near.fresh(&keys, &doubts, now);
        for (i, brought) in missing.into_iter().zip(brought) {
            let fetched = mine.get(&wanted[i]).cloned();
            found[i] = fetched.or(brought).or_else(|| {
                let old = self.near.any(&wanted[i]);
                let is = if old.is_some() { Freshness::Stale } else { Freshness::Default };
                freshness = freshness.max(is);
                old
            });
        }
        (found, freshness)
    }

    /// Reads `keys` into the near cache, but those that somebody else reads already, who is waited for. Those read here.
    fn bring(
        &self,
        keys: &[Wanted],
        doubts: &Doubts,
        until: Instant,
    ) -> FxHashMap<Wanted, Arc<Known>> {
        let mut mine = FxHashMap::default();
        self.near.fetch_once(keys, doubts, until, |keys| {
            let fetched = self.fetch_records(keys, until);
            let known = keys.iter().zip(fetched);
            let known = known.filter_map(|(key, known)| Some((*key, Arc::new(known.ok()?))));
            let known: Vec<(Wanted, Arc<Known>)> = known.collect();
            self.near.insert(known.iter().cloned());
            mine.extend(known);
        });
        mine
    }

    /// Reads records from Redis: one command for each shard. Failures are counted.
    fn fetch_records(&self, wanted: &[Wanted], until: Instant) -> Vec<Result<Known, RedisError>> {
        let reads = self.reads(wanted);
        let results = self.nodes.run(&reads.commands, until);
        self.records_read(wanted, reads, results, until)
    }

    /// What reads `wanted` from Redis.
    fn reads(&self, wanted: &[Wanted]) -> Reads {
        // In this order: another generation casts doubt on what is read of this one.
        let doubts = self.near.doubts();
        let keys = self.keys();
        let mut shards: Vec<(String, Vec<usize>)> = Vec::new();
        for (i, key) in wanted.iter().enumerate() {
            let shard = keys.shard(key);
            match shards.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, of_shard)) => of_shard.push(i),
                None => shards.push((shard, vec![i])),
            }
        }
        let command = |(shard, of_shard): &(String, Vec<usize>)| {
            let mut cmd = ::redis::cmd("HMGET");
            cmd.arg(shard);
            of_shard.iter().for_each(|i| {
                cmd.arg(wanted[*i].field());
            });
            Command::new(shard, &cmd)
        };
        let commands = shards.iter().map(command).collect();
        Reads { doubts, keys, shards, commands }
    }

    /// What `results` of `reads` say of `wanted`. Failures are counted.
    fn records_read(
        &self,
        wanted: &[Wanted],
        reads: Reads,
        results: Vec<Result<Value, RedisError>>,
        until: Instant,
    ) -> Vec<Result<Known, RedisError>> {
        let Reads { doubts, keys, shards, .. } = reads;
        // That there are no values does not say that nothing is known.
        let is_empty = |result: &Result<Value, RedisError>| match result {
            Ok(Value::Array(values)) => values.iter().all(|value| *value == Value::Nil),
            _ => false,
        };
        let is_there = match results.iter().any(is_empty) {
            true => self.is_there(&keys, until),
            false => Ok(()),
        };
        let mut found: Vec<Option<Result<Known, RedisError>>> =
            wanted.iter().map(|_| None).collect();
        let mut has_failed = false;
        for ((shard, of_shard), result) in shards.iter().zip(results) {
            let result = match is_empty(&result) {
                true => is_there.clone().and(result),
                false => result,
            };
            let values = match result {
                Ok(Value::Array(values)) if values.len() == of_shard.len() => Ok(values),
                Ok(_) => Err(RedisError::Malformed(format!("{shard} is not a hash"))),
                Err(error) => Err(error),
            };
            has_failed |= values.is_err();
            for (place, i) in of_shard.iter().enumerate() {
                let known = match &values {
                    Ok(values) => self.known(&wanted[*i], shard, &values[place], &doubts),
                    Err(error) => Err(error.clone()),
                };
                if let (Ok(_), Err(RedisError::Malformed(_))) = (&values, &known) {
                    self.counts.malformed.fetch_add(1, Ordering::Relaxed);
                }
                found[*i] = Some(known);
            }
        }
        if has_failed {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
        let missing = || RedisError::Malformed("a shard was not asked".into());
        found.into_iter().map(|known| known.unwrap_or_else(|| Err(missing()))).collect()
    }

    fn known(
        &self,
        key: &Wanted,
        shard: &str,
        value: &Value,
        doubts: &Doubts,
    ) -> Result<Known, RedisError> {
        let (layout, doubts) = (key.layout(&self.plan), doubts[key.hash_number()]);
        let Value::BulkString(bytes) = value else {
            let mut record = Vec::new();
            layout.push_empty(&mut record);
            return Ok(Known { stamp: 0, record, doubts });
        };
        let what = || format!("the value of {key:?} in {shard}");
        let (stamp, record) = unpack_record(bytes, layout.width(), &what)?;
        Ok(Known { stamp, record, doubts })
    }
}

/// How records are read from Redis.
struct Reads {
    /// Of before.
    doubts: Doubts,
    keys: Keys,
    /// Each with the positions of its records.
    shards: Vec<(String, Vec<usize>)>,
    /// One for each shard.
    commands: Vec<Command>,
}

/// A record that is wanted: that of an item, or of the value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    Item(ItemId),
    /// Position in [`FeaturePlan::fields`], and the code of the value.
    Field(u8, u32),
}

impl FeatureStore for RedisStore {
    fn plan(&self) -> &FeaturePlan {
        &self.plan
    }

    fn read_user(&self, user: Option<UserId>, until: Option<Instant>) -> (UserView, Freshness) {
        let until = until.unwrap_or_else(|| Instant::now() + PATIENT);
        let Some(user) = user else {
            let state = Arc::new(UserState::empty(&self.plan));
            return (UserView { state, numbers: Vec::new() }, Freshness::Fresh);
        };
        let (state, freshness) = match self.fetch_user(user, until) {
            Ok((_, state, _)) => {
                let state = Arc::new(state);
                self.near.remember_user(user, state.clone());
                (state, Freshness::Fresh)
            }
            Err(error) => {
                let count = match error {
                    RedisError::Malformed(_) => &self.counts.malformed,
                    _ => &self.counts.failures,
                };
                count.fetch_add(1, Ordering::Relaxed);
                match self.near.user(user) {
                    Some(state) => (state, Freshness::Stale),
                    None => (Arc::new(UserState::empty(&self.plan)), Freshness::Default),
                }
            }
        };
        let numbers = self.catalogue.view(|view| view.users().numbers(user.0));
        (UserView { state, numbers }, freshness)
    }

    fn read_items(
        &self,
        items: &[ItemId],
        until: Option<Instant>,
        rows: &mut ItemRows,
    ) -> Freshness {
        let until = until.unwrap_or_else(|| Instant::now() + PATIENT);
        let mut wanted: Vec<Wanted> = items.iter().map(|item| Wanted::Item(*item)).collect();
        // Positions of the values of each field, those of one item after those of another, and for each item how many it has.
        let mut codes: Vec<(Vec<usize>, Vec<usize>)> = Vec::with_capacity(self.plan.fields.len());
        self.catalogue.view(|view| {
            for (i, (field, _)) in self.plan.fields.iter().enumerate() {
                let column = view.items().column(*field);
                let mut positions = rustc_hash::FxHashMap::default();
                let (mut of_items, mut counts) = (Vec::new(), Vec::with_capacity(items.len()));
                for item in items {
                    let before = of_items.len();
                    of_items.extend(column.codes(item.0).map(|code| {
                        *positions.entry(code).or_insert_with(|| {
                            wanted.push(Wanted::Field(i as u8, code));
                            wanted.len() - 1
                        })
                    }));
                    counts.push(of_items.len() - before);
                }
                codes.push((of_items, counts));
            }
            read_fields(view.items(), items, &self.plan, rows);
        });
        let (records, freshness) = self.records(&wanted, until);
        rows.n = items.len();
        let out = rows.item.reset(&self.plan.item);
        for record in &records[..items.len()] {
            match record {
                Some(known) => out.extend_from_slice(&known.record),
                None => self.plan.item.push_empty(out),
            }
        }
        rows.fields.resize_with(self.plan.fields.len(), Default::default);
        for ((rows, (_, layout)), (codes, counts)) in
            rows.fields.iter_mut().zip(&self.plan.fields).zip(&codes)
        {
            let (out, mut codes) = (rows.reset(layout), codes.as_slice());
            for n in counts {
                let of_item;
                (of_item, codes) = codes.split_at(*n);
                let of_code = |i: &usize| records[*i].as_deref().map(|known| &known.record[..]);
                push_merged(layout, of_item.iter().map(of_code), out);
            }
        }
        freshness
    }
}
