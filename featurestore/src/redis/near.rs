//! The near cache: records of items and field values that were read or written lately, bounded in bytes.
//!
//! It is kept up to date by the shared log: whoever follows it puts what it has folded here, at once. If Redis tells that a
//! hash was changed otherwise, the records that were read from it before are in doubt. A record also goes stale by itself,
//! after a while that differs from record to record. Those that are in doubt or stale are read anew, and used only if Redis
//! does not answer. What is in use is read again before it is stale (`super::ahead`).
//!
//! Requests look up a thousand records each. So these are in a plain table, which one lock opens for all of them, and moka
//! only says which have to go: those that were not in use when it was their turn to be read again go first.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use super::Wanted;
use super::keys::N_HASHES;
use super::packed::Stamp;
use crate::ids::UserId;
use crate::store::UserState;

/// After this, or up to a half more, a record is stale, in case that somebody changed it and left no mark. A request that wants
/// it waits until it is read anew: so it is not short.
pub(super) const FRESH_AT_LEAST: Duration = Duration::from_secs(480);

/// After this what is known of a user that nobody asked for is forgotten.
const IDLE_FOR: Duration = Duration::from_secs(3_600);

/// Part of the cache that is for users, who are asked for only if Redis does not answer.
const FOR_USERS: u64 = 4;

/// Bytes that an entry takes besides its numbers, about.
const ENTRY_BYTES: usize = 256;

/// A record as Redis had it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) stamp: Stamp,
    pub(super) record: Vec<f64>,
    /// How often its hash had been doubted before it was read.
    pub(super) doubts: u64,
}

/// For each hash how often it was doubted.
pub(super) type Doubts = [u64; N_HASHES];

struct Entry {
    known: Arc<Known>,
    fresh_until: Instant,
    /// Whether it was asked for since it was last read again, or its turn came.
    is_in_use: AtomicBool,
}

type Table = FxHashMap<Wanted, Entry>;

pub(super) struct NearCache {
    /// For each hash, how often what was read from it came into doubt.
    doubts: [AtomicU64; N_HASHES],
    /// For each hash, how often it had been doubted when everything was outdated last.
    outdated: [AtomicU64; N_HASHES],
    table: Arc<RwLock<Table>>,
    /// The bytes of the records in the table: those that are in it longest have to go first. It is never called while the
    /// table is locked, since it may lock the table itself.
    sizes: Cache<Wanted, u32, FxBuildHasher>,
    users: Cache<UserId, Arc<UserState>, FxBuildHasher>,
    in_flight: Mutex<FxHashSet<Wanted>>,
    landed: Condvar,
}

impl NearCache {
    /// Keeps at most `max_bytes`.
    pub(super) fn new(max_bytes: u64) -> Self {
        let of_users = max_bytes / FOR_USERS;
        let table: Arc<RwLock<Table>> = Arc::default();
        let has_gone = {
            let table = table.clone();
            move |key: Arc<Wanted>, _: u32, cause: RemovalCause| {
                if cause != RemovalCause::Replaced {
                    write(&table).remove(&*key);
                }
            }
        };
        Self {
            doubts: [const { AtomicU64::new(0) }; N_HASHES],
            outdated: [const { AtomicU64::new(0) }; N_HASHES],
            table,
            sizes: Cache::builder()
                .max_capacity(max_bytes - of_users)
                .weigher(|_: &Wanted, n_bytes: &u32| *n_bytes)
                .eviction_policy(EvictionPolicy::lru())
                .eviction_listener(has_gone)
                .build_with_hasher(FxBuildHasher),
            users: Cache::builder()
                .max_capacity(of_users)
                .weigher(move |_: &UserId, state: &Arc<UserState>| weight_of(state.n_bytes()))
                .time_to_idle(IDLE_FOR)
                .build_with_hasher(FxBuildHasher),
            in_flight: Mutex::default(),
            landed: Condvar::new(),
        }
    }

    /// How often each hash was doubted: to be asked before any is read.
    pub(super) fn doubts(&self) -> Doubts {
        std::array::from_fn(|hash| self.doubts[hash].load(Ordering::SeqCst))
    }

    /// What was read from the hash with this number may be other by now.
    pub(super) fn doubt(&self, hash: usize) {
        self.doubts[hash].fetch_add(1, Ordering::SeqCst);
    }

    /// Whatever was read may be other by now.
    pub(super) fn doubt_all(&self) {
        (0..N_HASHES).for_each(|hash| self.doubt(hash));
    }

    /// Which of `keys` are known, in their order: the records that were read when there had been so many doubts or later, and
    /// are not stale at `now`.
    pub(super) fn fresh(
        &self,
        keys: &[Wanted],
        doubts: &Doubts,
        now: Instant,
    ) -> Vec<Option<Arc<Known>>> {
        let table = read(&self.table);
        let one = |key: &Wanted| {
            let entry = table.get(key)?;
            // It is written once, not by every request.
            if !entry.is_in_use.load(Ordering::Relaxed) {
                entry.is_in_use.store(true, Ordering::Relaxed);
            }
            let is_sure = entry.known.doubts >= doubts[key.hash_number()];
            (is_sure && now < entry.fresh_until).then(|| entry.known.clone())
        };
        keys.iter().map(one).collect()
    }

    /// Those of `keys` that were asked for since this was last called for them.
    pub(super) fn take_in_use(&self, keys: &[Wanted]) -> Vec<Wanted> {
        let table = read(&self.table);
        let is_in_use = |key: &&Wanted| {
            table.get(key).is_some_and(|entry| entry.is_in_use.swap(false, Ordering::Relaxed))
        };
        keys.iter().filter(is_in_use).copied().collect()
    }

    /// Has `keys` count as asked for again.
    pub(super) fn put_in_use<'k>(&self, keys: impl Iterator<Item = &'k Wanted>) {
        let table = read(&self.table);
        keys.filter_map(|key| table.get(key)).for_each(|entry| {
            entry.is_in_use.store(true, Ordering::Relaxed);
        });
    }

    /// Bytes of records that are kept at most.
    pub(super) fn room(&self) -> u64 {
        self.sizes.policy().max_capacity().unwrap_or(u64::MAX)
    }

    /// The record of `key`, however old.
    pub(super) fn any(&self, key: &Wanted) -> Option<Arc<Known>> {
        read(&self.table).get(key).map(|entry| entry.known.clone())
    }

    /// Keeps what is known, but where what is there knows more. Of what was outdated, anything else knows more.
    pub(super) fn insert(&self, known: impl IntoIterator<Item = (Wanted, Arc<Known>)>) {
        let (now, mut sizes) = (Instant::now(), Vec::new());
        let mut table = write(&self.table);
        for (key, known) in known {
            let spread = (FxBuildHasher.hash_one(key) >> 40) % 500;
            let fresh_until = now + FRESH_AT_LEAST.mul_f64(1.0 + spread as f64 / 1e3);
            let old = table.get(&key);
            let outdated = self.outdated[key.hash_number()].load(Ordering::SeqCst);
            let age = |known: &Known| (known.doubts >= outdated, known.stamp);
            if old.is_none_or(|old| age(&old.known) <= age(&known)) {
                let is_in_use = old.is_some_and(|old| old.is_in_use.load(Ordering::Relaxed));
                sizes.push((key, weight_of(known.record.len() * 8)));
                table.insert(key, Entry { known, fresh_until, is_in_use: is_in_use.into() });
            }
        }
        drop(table);
        // In this order: what is not kept has to go from the table after it has come there.
        sizes.into_iter().for_each(|(key, n_bytes)| self.sizes.insert(key, n_bytes));
    }

    pub(super) fn remember_user(&self, user: UserId, state: Arc<UserState>) {
        self.users.insert(user, state);
    }

    /// What was last known of `user`.
    pub(super) fn user(&self, user: UserId) -> Option<Arc<UserState>> {
        self.users.get(&user)
    }

    /// Forgets what was known of `user`.
    pub(super) fn forget_user(&self, user: UserId) {
        self.users.invalidate(&user);
    }

    /// What was read is of values that are read no more: of records, it stands in for what cannot be read until it is replaced by
    /// what can be; of users, it is forgotten.
    pub(super) fn outdate(&self) {
        self.doubt_all();
        for (outdated, doubts) in self.outdated.iter().zip(self.doubts()) {
            outdated.store(doubts, Ordering::SeqCst);
        }
        self.users.invalidate_all();
    }

    /// Has `fetch` bring `keys`, each while nobody else does: what another brings is waited for, and fetched here if that
    /// one failed, or has come into doubt. Ends at `until`.
    pub(super) fn fetch_once(
        &self,
        keys: &[Wanted],
        doubts: &Doubts,
        until: Instant,
        mut fetch: impl FnMut(&[Wanted]),
    ) {
        let mut left = keys.to_vec();
        while !left.is_empty() {
            left = self.fetch_free(&left, until, &mut fetch);
            let now = Instant::now();
            let mut known = self.fresh(&left, doubts, now).into_iter();
            left.retain(|_| known.next().flatten().is_none());
            if now >= until {
                return;
            }
        }
    }

    /// Has `fetch` bring those of `keys` that nobody else is fetching, waits for the others until `until`, and returns these.
    fn fetch_free(
        &self,
        keys: &[Wanted],
        until: Instant,
        fetch: &mut impl FnMut(&[Wanted]),
    ) -> Vec<Wanted> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let (mine, others): (Vec<Wanted>, Vec<Wanted>) =
            keys.iter().partition(|key| in_flight.insert(**key));
        drop(in_flight);
        let landing = Landing { cache: self, keys: &mine };
        if !mine.is_empty() {
            fetch(&mine);
        }
        drop(landing);
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        while others.iter().any(|key| in_flight.contains(key)) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.landed.wait_timeout(in_flight, left);
            in_flight = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        others
    }
}

/// Bytes of an entry with `n` bytes of numbers.
pub(super) fn weight_of(n: usize) -> u32 {
    u32::try_from(n + ENTRY_BYTES).unwrap_or(u32::MAX)
}

fn read(table: &RwLock<Table>) -> RwLockReadGuard<'_, Table> {
    table.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(table: &RwLock<Table>) -> RwLockWriteGuard<'_, Table> {
    table.write().unwrap_or_else(PoisonError::into_inner)
}

/// Keys that are being fetched, until this is dropped.
struct Landing<'a> {
    cache: &'a NearCache,
    keys: &'a [Wanted],
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.cache.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys.iter().for_each(|key| {
            in_flight.remove(key);
        });
        self.cache.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ItemId;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn put(cache: &NearCache, key: Wanted, stamp: Stamp, doubts: u64) {
        let known = Known { stamp, record: vec![stamp as f64], doubts };
        cache.insert([(key, Arc::new(known))]);
    }

    fn fresh(cache: &NearCache, key: Wanted) -> Option<Arc<Known>> {
        cache.fresh(&[key], &cache.doubts(), Instant::now()).remove(0)
    }

    #[test]
    fn a_record_that_knows_less_does_not_replace_one_that_knows_more() {
        let (cache, key) = (NearCache::new(1 << 20), Wanted::Item(ItemId(3)));
        for (stamp, expected) in [(5, 5), (4, 5), (6, 6)] {
            put(&cache, key, stamp, 0);
            assert_eq!(fresh(&cache, key).unwrap().stamp, expected);
        }
        cache.outdate();
        assert!(fresh(&cache, key).is_none() && cache.any(&key).unwrap().stamp == 6);
        // Read before, it has come only now.
        put(&cache, key, 7, 0);
        assert!(fresh(&cache, key).is_none() && cache.any(&key).unwrap().stamp == 7);
        // What is made anew may begin with less.
        for (stamp, expected) in [(2, 2), (1, 2), (3, 3)] {
            put(&cache, key, stamp, 1);
            assert_eq!(fresh(&cache, key).unwrap().stamp, expected);
        }
        put(&cache, key, 9, 0);
        assert_eq!(fresh(&cache, key).unwrap().stamp, 3);
    }

    #[test]
    fn a_record_is_in_doubt_when_its_hash_was_changed_after_it_was_read() {
        let cache = NearCache::new(1 << 20);
        let (doubted, other) = (Wanted::Item(ItemId(3)), Wanted::Item(ItemId(4)));
        let is_fresh = |key: &Wanted| fresh(&cache, *key).is_some();
        put(&cache, other, 1, 0);
        cache.doubt(doubted.hash_number());
        // It was read before it was changed, and has come only now.
        put(&cache, doubted, 1, 0);
        assert!(!is_fresh(&doubted) && cache.any(&doubted).is_some());
        assert!(is_fresh(&other));
        put(&cache, doubted, 1, 1);
        assert!(is_fresh(&doubted));
        cache.doubt_all();
        assert!(!is_fresh(&doubted) && !is_fresh(&other));
    }

    #[test]
    fn a_key_is_fetched_once_however_many_ask() {
        let (cache, n_fetches) = (NearCache::new(1 << 20), AtomicUsize::new(0));
        let keys: Vec<Wanted> = (0..50).map(|i| Wanted::Item(ItemId(i))).collect();
        let until = Instant::now() + Duration::from_secs(10);
        let ask = || {
            cache.fetch_once(&keys, &cache.doubts(), until, |mine| {
                n_fetches.fetch_add(mine.len(), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(50));
                mine.iter().for_each(|key| put(&cache, *key, 1, 0));
            });
            keys.iter().all(|key| cache.any(key).is_some())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        });
        // A thread that comes when the first has landed fetches anew: it did not look into the cache here.
        assert!(n_fetches.load(Ordering::SeqCst) < 8 * keys.len());
    }

    #[test]
    fn a_key_whose_fetch_failed_is_fetched_by_one_of_those_who_waited_after_the_other() {
        let cache = NearCache::new(1 << 20);
        let (n_now, n_most, n_fetches) =
            (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let until = Instant::now() + Duration::from_secs(60);
        let ask = || {
            cache.fetch_once(&[Wanted::Item(ItemId(3))], &cache.doubts(), until, |_| {
                n_most.fetch_max(n_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
                n_now.fetch_sub(1, Ordering::SeqCst);
                n_fetches.fetch_add(1, Ordering::SeqCst);
            });
        };
        std::thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(ask)));
        });
        assert_eq!((n_most.into_inner(), n_fetches.into_inner()), (1, 8));
    }

    #[test]
    fn what_was_asked_for_is_in_use_until_its_turn_comes() {
        let cache = NearCache::new(1 << 20);
        let keys: Vec<Wanted> = (0..3).map(|i| Wanted::Item(ItemId(i))).collect();
        keys[..2].iter().for_each(|key| put(&cache, *key, 1, 0));
        assert_eq!(cache.take_in_use(&keys), []);
        cache.fresh(&keys[1..], &cache.doubts(), Instant::now());
        // Events change it meanwhile.
        put(&cache, keys[1], 2, 0);
        assert_eq!(cache.take_in_use(&keys), keys[1..2]);
        assert_eq!(cache.take_in_use(&keys), []);
        // What could not be read, and what is not there.
        cache.put_in_use(keys[1..].iter());
        assert_eq!(cache.take_in_use(&keys), keys[1..2]);
    }

    #[test]
    fn the_cache_is_bounded_in_bytes() {
        let cache = NearCache::new(100_000);
        let all: Vec<Wanted> = (0..10_000).map(|i| Wanted::Item(ItemId(i))).collect();
        for key in &all {
            let known = Known { stamp: 1, record: vec![0.0; 20], doubts: 0 };
            cache.insert([(*key, Arc::new(known))]);
        }
        cache.sizes.run_pending_tasks();
        let known = cache.fresh(&all, &cache.doubts(), Instant::now());
        let n_known = known.iter().flatten().count();
        // A fourth is for users.
        assert!(n_known > 100 && n_known * (20 * 8 + ENTRY_BYTES) <= 75_000, "{n_known}");
        // What came last is there.
        assert!(known[10_000 - n_known..].iter().all(Option::is_some));
        assert_eq!(read(&cache.table).len(), n_known);
    }
}
