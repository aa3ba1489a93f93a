//! Events of several requests go into the log together: whatever waits is appended with one write, and one sync under
//! `fsync = "always"`, or as one entry of the shared log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use featurestore::NamedEvent;
use featurestore::log::Outcome;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::pool::{MAX_BLOCKING, Refusal};
use super::problem::Problem;
use super::state::Engine;

/// Events that came in more bytes than this do not go into the log with those of other requests.
const MAX_GROUP_BYTES: usize = 1 << 20;

/// So many bytes of events may wait.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// What has waited for longer, while a log does not take anything, is refused.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// If events came so lately, more are on their way.
const BUSY: Duration = Duration::from_micros(50);

/// What became of each event of a request.
type Taken = Result<Vec<Outcome>, Problem>;

/// The events of a request.
struct Job {
    events: Vec<NamedEvent>,
    /// The bytes that they came in.
    n_bytes: usize,
    /// Not begun after that.
    until: Instant,
    done: oneshot::Sender<Taken>,
    /// Room for them while they wait.
    _room: OwnedSemaphorePermit,
}

/// Where requests put their events.
pub(super) struct Intake {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    /// Until the thread is started.
    waiting: Mutex<Option<mpsc::Receiver<Job>>>,
}

impl Intake {
    pub(super) fn new() -> Self {
        let (jobs, waiting) = mpsc::channel(MAX_BLOCKING);
        let room = Arc::new(Semaphore::new(MAX_WAITING_BYTES));
        Self { jobs, room, waiting: Mutex::new(Some(waiting)) }
    }

    /// Takes in what is put here, as long as `engine` is there.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(&self, engine: &Arc<Engine>) -> anyhow::Result<()> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(waiting) = waiting else { return Ok(()) };
        let (engine, thread) =
            (Arc::downgrade(engine), thread::Builder::new().name("intake".into()));
        thread.spawn(move || take_in_all(&engine, waiting)).context("cannot start a thread")?;
        Ok(())
    }

    /// Has `events` taken in and counted, which came in `n_bytes`.
    ///
    /// # Errors
    /// If the log refuses them, or too many wait. A shared log may have them all the same if it did not answer.
    pub(super) async fn take_in(&self, events: Vec<NamedEvent>, n_bytes: usize) -> Taken {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let n_permits = n_bytes.min(MAX_WAITING_BYTES) as u32;
        let room = self.room.clone().try_acquire_many_owned(n_permits);
        let _room = room.map_err(|_| Refusal::Full)?;
        let (done, taken) = oneshot::channel();
        let until = Instant::now() + MAX_WAIT;
        let refused = |error| match error {
            TrySendError::Full(_) => Refusal::Full,
            TrySendError::Closed(_) => Refusal::Panicked,
        };
        self.jobs.try_send(Job { events, n_bytes, until, done, _room }).map_err(refused)?;
        taken.await.map_err(|_| Refusal::Panicked)?
    }
}

fn take_in_all(engine: &Weak<Engine>, mut waiting: mpsc::Receiver<Job>) {
    let (mut jobs, mut done_at) = (Vec::new(), Instant::now() - BUSY);
    loop {
        // To wake this thread for each of those that follow so closely would cost the one that takes requests in more than
        // looking costs here; and those that come meanwhile go together.
        while jobs.is_empty() && done_at.elapsed() < BUSY {
            thread::yield_now();
            take_waiting(&mut waiting, &mut jobs);
        }
        if jobs.is_empty() && waiting.blocking_recv_many(&mut jobs, MAX_BLOCKING) == 0 {
            return;
        }
        let Some(engine) = engine.upgrade() else { return };
        for group in groups(std::mem::take(&mut jobs)) {
            take_in_group(&engine, group);
        }
        done_at = Instant::now();
    }
}

/// Moves what waits into `jobs`.
fn take_waiting(waiting: &mut mpsc::Receiver<Job>, jobs: &mut Vec<Job>) {
    while jobs.len() < MAX_BLOCKING
        && let Ok(job) = waiting.try_recv()
    {
        jobs.push(job);
    }
}

/// `jobs` in their order, as many together as may go into the log together.
fn groups(jobs: Vec<Job>) -> Vec<Vec<Job>> {
    let (mut groups, mut room) = (Vec::<Vec<Job>>::new(), 0);
    for job in jobs {
        match groups.last_mut().filter(|_| job.n_bytes <= room) {
            Some(group) => {
                room -= job.n_bytes;
                group.push(job);
            }
            None => {
                room = MAX_GROUP_BYTES.saturating_sub(job.n_bytes);
                groups.push(vec![job]);
            }
        }
    }
    groups
}

fn take_in_group(engine: &Engine, group: Vec<Job>) {
    let (mut events, mut requests) = (Vec::new(), Vec::with_capacity(group.len()));
    for job in group {
        if Instant::now() >= job.until {
            // A caller that has gone meanwhile misses nothing, here and below.
            let _ = job.done.send(Err(Refusal::Late.into()));
        } else {
            requests.push((job.events.len(), job.done));
            events.extend(job.events);
        }
    }
    let append = || -> Taken {
        let outcomes = engine.ingest(&events)?;
        engine.count_events(&events, &outcomes);
        Ok(outcomes)
    };
    let taken = catch_unwind(AssertUnwindSafe(append)).unwrap_or(Err(Refusal::Panicked.into()));
    let outcomes = &mut taken.iter().flatten().copied();
    for (n, done) in requests {
        let of_request = outcomes.take(n).collect();
        let _ = done.send(taken.as_ref().map(|_| of_request).map_err(Problem::clone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_requests_go_together_and_large_ones_alone() {
        let room = Arc::new(Semaphore::new(MAX_WAITING_BYTES));
        let job = |n_bytes| Job {
            events: Vec::new(),
            n_bytes,
            until: Instant::now(),
            done: oneshot::channel().0,
            _room: room.clone().try_acquire_owned().expect("there is room"),
        };
        let half = MAX_GROUP_BYTES / 2;
        let jobs = [10, half, half, 1, 2 * MAX_GROUP_BYTES, 5, 0].map(job);
        let groups = groups(jobs.into());
        let sizes: Vec<Vec<usize>> =
            groups.iter().map(|group| group.iter().map(|job| job.n_bytes).collect()).collect();
        let expected = [vec![10, half], vec![half, 1], vec![2 * MAX_GROUP_BYTES], vec![5, 0]];
        assert_eq!(sizes, expected);
    }
}
