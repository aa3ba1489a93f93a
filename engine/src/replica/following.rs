//! A server takes in the entries of the shared log as they come, folds them into the features, and looks whether those are
//! still there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use featurestore::redis::{Change, Follower, RedisError, RedisStore};

use super::{
    Listeners, Live, POLL, REST, ReleaseListener, Replica, ReplicaError, lock, read_ahead, take_in,
};
use crate::state::{State, log_folder};

/// Entries whose outcomes are remembered for those who appended them.
const MAX_OUTCOMES: usize = 10_000;

/// Most events that are folded into Redis together.
const MAX_FOLDED: usize = 4_000;

impl Replica {
    pub(super) fn follow(&self, listeners: &Listeners) {
        let (mut follower, mut looked_at) = (Follower::new(self.log.clone()), None::<Instant>);
        let mut last_error = String::new();
        while !self.is_stopped() {
            let is_due = looked_at.is_none_or(|at| at.elapsed() >= POLL);
            let looked = if is_due { self.look_after(&listeners.release) } else { Ok(()) };
            if is_due {
                // After a failure it is looked again at once: entries may have gone meanwhile.
                looked_at = looked.is_ok().then(Instant::now);
            }
            let result = looked.and_then(|()| match self.is_behind() {
                true => Ok(()),
                false => self.follow_on(&mut follower, &listeners.deleted),
            });
            if self.is_stopped() {
                return;
            }
            if result.is_ok() && self.is_behind() {
                looked_at = None;
                thread::sleep(REST);
            }
            if let Err(error) = result {
                let error = error.to_string();
                if error != last_error {
                    eprintln!("error: the shared log is not followed for now: {error}");
                }
                last_error = error;
                looked_at = None;
                thread::sleep(REST);
            } else if !last_error.is_empty() {
                eprintln!("the shared log is followed again");
                last_error.clear();
            }
        }
    }

    /// Takes in the next entries.
    fn follow_on(
        &self,
        follower: &mut Follower,
        on_deleted: &dyn Fn(Vec<String>),
    ) -> Result<(), ReplicaError> {
        let after = lock(&self.live).state.followed();
        let entries = follower.next(after, POLL)?;
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let (mut noted, mut deleted, mut last) = (Vec::new(), Vec::new(), None);
            let features = {
                let mut live = lock(&self.live);
                let Live { state, ids } = &mut *live;
                while noted.len() < MAX_FOLDED
                    && let Some(entry) = entries.next()
                {
                    // Another release may have been put into service meanwhile, with all of this.
                    if entry.stamp > state.followed() {
                        self.external.count(&entry, state);
                        let before = state.followed();
                        let outcomes = take_in(state, ids, &entry, &mut noted, &mut deleted);
                        lock(&self.reached).outcomes.insert(entry.stamp, outcomes);
                        last = Some(entry.stamp);
                        let kept = lock(&self.kept).map_or(0, |(kept, _)| kept);
                        lock(&self.unkept).push(before, entry, kept);
                    }
                }
                lock(&self.reached).latest.extend(&noted);
                self.features()
            };
            let Some(last) = last else { continue };
            let is_folded = self.fold(&features, &noted)?;
            let mut reached = lock(&self.reached);
            reached.stamp = last;
            while reached.outcomes.len() > MAX_OUTCOMES {
                reached.outcomes.pop_first();
            }
            drop(reached);
            self.has_moved.notify_all();
            deleted.into_iter().for_each(on_deleted);
            // Nobody who appended waits for this.
            if is_folded {
                features.raise_applied(last)?;
            }
        }
        Ok(())
    }

    /// Folds `noted`, which are in the state, into `features`, unless others were put into service: then `false`. Whatever
    /// happens meanwhile, they must come there: so it fails only if the server ends.
    fn fold(&self, features: &Arc<RedisStore>, noted: &[Change]) -> Result<bool, ReplicaError> {
        let mut last_error = String::new();
        while !self.is_stopped() {
            // Another release was put into service, with features that know all that is in the state.
            if !Arc::ptr_eq(&self.features(), features) {
                return Ok(false);
            }
            // Nothing is folded over a gap. What closes it brings `noted` along.
            let result = match self.is_behind() {
                true => self.renew_generation(),
                false => features.apply(noted).map_err(ReplicaError::from),
            };
            match result {
                Ok(()) if !self.is_behind() => return Ok(true),
                Ok(()) => {}
                Err(error) => {
                    let words = error.to_string();
                    if words != last_error {
                        eprintln!("error: events do not come into Redis for now: {words}");
                    }
                    last_error = words;
                    self.nodes.maintain();
                    let _ = features.hear_of_changes();
                    // Redis may have lost something, and what cannot be read is made anew.
                    self.is_behind.store(true, Ordering::SeqCst);
                    if matches!(error, ReplicaError::Redis(RedisError::Malformed(_))) {
                        // If it fails, what is there is still malformed the next time.
                        let _ = features.discard();
                    }
                }
            }
            thread::sleep(REST);
        }
        Err(ReplicaError::Stopped)
    }

    /// Looks for a release to serve, and whether what is in Redis is still what is thought to be there.
    fn look_after(&self, on_release: &ReleaseListener) -> Result<(), ReplicaError> {
        self.nodes.maintain();
        // A node that does not answer now says later what has changed, and nothing of it is thought to be known then.
        let _ = self.features().hear_of_changes();
        let head = self.log.head(Instant::now() + Duration::from_secs(1))?;
        if head.forgotten > self.with_state(State::followed) {
            return Err(ReplicaError::Behind { log: log_folder(&self.data_dir) });
        }
        on_release(head.release.as_deref());
        self.renew_generation()
    }

    /// Uses the generation that is in Redis; if there is none any more, Redis has lost its data, and gets it again.
    fn renew_generation(&self) -> Result<(), ReplicaError> {
        let features = self.features();
        match features.generation()? {
            Some(generation) if generation.name == features.generation_name() => {
                if !self.is_behind() {
                    return Ok(());
                }
            }
            Some(generation) => {
                self.is_behind.store(true, Ordering::SeqCst);
                features.use_generation(&generation);
            }
            None => {
                self.is_behind.store(true, Ordering::SeqCst);
                eprintln!("Redis has lost the features: they are made again from the log");
                let schema = self.with_state(|state| state.schema().clone());
                self.making().load(&features, &schema, None)?;
                read_ahead(&features);
            }
        }
        let is_whole = {
            let live = lock(&self.live);
            if !Arc::ptr_eq(&self.features(), &features) {
                return Ok(());
            }
            let (known, applied) = (live.state.followed(), features.applied()?);
            let missing = lock(&self.reached).latest.behind(applied);
            if let Some(missing) = missing.as_ref().filter(|_| applied < known) {
                features.apply(missing)?;
                features.raise_applied(known)?;
            }
            missing.is_some()
        };
        if !is_whole {
            // The log on the disk has it, or will have it in a moment.
            let schema = self.with_state(|state| state.schema().clone());
            return self.making().load(&features, &schema, None);
        }
        self.is_behind.store(false, Ordering::SeqCst);
        Ok(())
    }
}
