//! The near cache: records of items and field values that were read or written lately, bounded in bytes.
//!
//! It is kept up to date by the shared log: whoever follows it puts what it has folded here, at once. If Redis tells that a
//! hash was changed otherwise, the records that were read from it before are in doubt. A record also goes stale by itself,
//! after a while that differs from record to record. Those that are in doubt or stale are read anew, and used only if Redis
//! does not answer.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use rustc_hash::{FxBuildHasher, FxHashSet};

use super::Wanted;
use super::keys::N_HASHES;
use super::packed::Stamp;
use crate::ids::UserId;
use crate::store::UserState;

/// After this, give or take a fifth, a record is read anew.
const FRESH_FOR: Duration = Duration::from_secs(60);

/// After this a record that nobody asked for is forgotten.
const IDLE_FOR: Duration = Duration::from_secs(3_600);

/// Part of the cache that is for users, who are asked for only if Redis does not answer.
const FOR_USERS: u64 = 4;

/// Bytes that an entry takes besides its numbers, about.
const ENTRY_BYTES: usize = 160;

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

#[derive(Clone)]
struct Entry {
    known: Arc<Known>,
    fresh_until: Instant,
}

pub(super) struct NearCache {
    /// For each hash, how often what was read from it came into doubt.
    doubts: [AtomicU64; N_HASHES],
    records: Cache<Wanted, Entry, FxBuildHasher>,
    users: Cache<UserId, Arc<UserState>, FxBuildHasher>,
    in_flight: Mutex<FxHashSet<Wanted>>,
    landed: Condvar,
}

impl NearCache {
    /// Keeps at most `max_bytes`.
    pub(super) fn new(max_bytes: u64) -> Self {
        let of_users = max_bytes / FOR_USERS;
        let weight = |n: usize| u32::try_from(n + ENTRY_BYTES).unwrap_or(u32::MAX);
        Self {
            doubts: [const { AtomicU64::new(0) }; N_HASHES],
            records: Cache::builder()
                .max_capacity(max_bytes - of_users)
                .weigher(move |_: &Wanted, entry: &Entry| weight(entry.known.record.len() * 8))
                .time_to_idle(IDLE_FOR)
                .build_with_hasher(FxBuildHasher),
            users: Cache::builder()
                .max_capacity(of_users)
                .weigher(move |_: &UserId, state: &Arc<UserState>| weight(state.n_bytes()))
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

    /// The record of `key`, if it was read when there had been so many doubts or later, and is not stale at `now`.
    pub(super) fn fresh(&self, key: &Wanted, doubts: &Doubts, now: Instant) -> Option<Arc<Known>> {
        let entry = self.records.get(key)?;
        let is_sure = entry.known.doubts >= doubts[key.hash_number()];
        (is_sure && now < entry.fresh_until).then_some(entry.known)
    }

    /// The record of `key`, however old.
    pub(super) fn any(&self, key: &Wanted) -> Option<Arc<Known>> {
        self.records.get(key).map(|entry| entry.known)
    }

    /// Keeps `known` unless what is there knows more.
    pub(super) fn insert(&self, key: Wanted, known: Arc<Known>) {
        let spread = (FxBuildHasher.hash_one(key) >> 40) % 400;
        let fresh_for = FRESH_FOR.mul_f64(0.8 + spread as f64 / 1e3);
        let entry = Entry { known, fresh_until: Instant::now() + fresh_for };
        self.records.entry(key).and_upsert_with(|old| match old {
            Some(old) if old.value().known.stamp > entry.known.stamp => old.into_value(),
            _ => entry,
        });
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

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.records.invalidate_all();
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
            left.retain(|key| self.fresh(key, doubts, now).is_none());
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

    fn known(stamp: Stamp, doubts: u64) -> Arc<Known> {
        Arc::new(Known { stamp, record: vec![stamp as f64], doubts })
    }

    #[test]
    fn a_record_that_knows_less_does_not_replace_one_that_knows_more() {
        let (cache, key) = (NearCache::new(1 << 20), Wanted::Item(ItemId(3)));
        for (stamp, expected) in [(5, 5), (4, 5), (6, 6)] {
            cache.insert(key, known(stamp, 0));
            assert_eq!(cache.fresh(&key, &cache.doubts(), Instant::now()).unwrap().stamp, expected);
        }
        cache.clear();
        assert!(cache.any(&key).is_none());
    }

    #[test]
    fn a_record_is_in_doubt_when_its_hash_was_changed_after_it_was_read() {
        let cache = NearCache::new(1 << 20);
        let (doubted, other) = (Wanted::Item(ItemId(3)), Wanted::Item(ItemId(4)));
        let is_fresh = |key: &Wanted| cache.fresh(key, &cache.doubts(), Instant::now()).is_some();
        cache.insert(other, known(1, 0));
        cache.doubt(doubted.hash_number());
        // It was read before it was changed, and has come only now.
        cache.insert(doubted, known(1, 0));
        assert!(!is_fresh(&doubted) && cache.any(&doubted).is_some());
        assert!(is_fresh(&other));
        cache.insert(doubted, known(1, 1));
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
                mine.iter().for_each(|key| cache.insert(*key, known(1, 0)));
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
    fn the_cache_is_bounded_in_bytes() {
        let cache = NearCache::new(100_000);
        for i in 0..10_000 {
            let known = Known { stamp: 1, record: vec![0.0; 20], doubts: 0 };
            cache.insert(Wanted::Item(ItemId(i)), Arc::new(known));
        }
        cache.records.run_pending_tasks();
        assert!(cache.records.weighted_size() <= 100_000 && cache.records.entry_count() > 100);
    }
}
