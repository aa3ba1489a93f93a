//! The threads that do the work: those of the pipeline, a bounded number behind a bounded queue, and those that block.
//!
//! A job is admitted only if it can be expected to be done in time: so under overload the threads work on what will be of
//! use, and the rest is told at once.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use actix_web::http::StatusCode;
use actix_web::{rt, web};
use engine::cost::Cost;
use engine::pipeline::Scratch;
use tokio::sync::{Semaphore, oneshot};

use super::problem::Problem;

type Job = Box<dyn FnOnce(&mut Scratch) + Send>;

/// Of the time that a job has, so much may go by until it can be expected to be done: the rest is for what was misjudged, and
/// for the answer's way.
const USER_SHARE: f64 = 0.66;

/// While a job that is admitted can be expected to be done within the first part of its time, the jobs look at all candidates;
/// from there to the second part, short of where none is admitted any more, they look at fewer and fewer, down to [`LEAST_SHARE`]: a
/// shorter look for all is better than none for some.
const EASY: f64 = 0.55;
const TIGHT: f64 = 0.6;

/// The part of the usual candidates that a job looks at when as many wait as may.
const LEAST_SHARE: f64 = 0.25;

/// Threads of the pipeline give way to those that take requests in and refuse them.
const NICENESS: i32 = 5;

/// How long a thread that takes requests in rests when it had to refuse some.
const REST: Duration = Duration::from_millis(1);

/// Of the time that a job of the lower class has, so much may be spent on waiting, its inverse.
const LOW_SHARE: u32 = 4;

/// Threads that take jobs from one queue, each with its own room for a request.
pub(super) struct Pool {
    queue: SyncSender<Job>,
    load: Arc<Load>,
}

/// Which jobs are refused first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Somebody waits for it.
    User,
    /// Several at once, or what may be wanted later: refused before those of users are.
    Low,
}

/// What a job asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Who waits for it.
    pub(super) class: Class,
    /// When it must be done.
    pub(super) until: Instant,
}

thread_local! {
    /// Whether this thread is about to rest.
    static RESTS: Cell<bool> = const { Cell::new(false) };
}

/// Has this thread, which takes requests in, sleep for a moment when it has seen to all that have come. While more are refused
/// than are answered, each one that comes would wake it, and so interrupt a thread of the pipeline for two changes of context and
/// little work; after the rest, those that have come meanwhile are seen to at once.
fn rest() {
    if !RESTS.replace(true) {
        rt::spawn(async {
            thread::sleep(REST);
            RESTS.set(false);
        });
    }
}

/// How busy the threads are.
#[derive(Debug, Default)]
struct Load {
    n_threads: usize,
    /// Jobs that were admitted and are not done.
    n_admitted: AtomicUsize,
    /// How long a job of a user takes lately.
    job: Cost,
}

impl Load {
    /// How long a job that is admitted now waits for a thread.
    fn expected_wait(&self) -> Duration {
        // Those that are running are half done on average.
        let twice = (2 * self.n_admitted.load(Ordering::Relaxed)).saturating_sub(self.n_threads);
        if twice <= self.n_threads {
            return Duration::ZERO;
        }
        self.job.of(twice) / (2 * self.n_threads as u32)
    }

    /// The part of the usual candidates that a job looks at which begins now, of those that had `time` when they came.
    fn share(&self, time: Duration) -> f32 {
        let wait = self.expected_wait();
        if wait.is_zero() {
            return 1.0;
        }
        let part = (wait + self.job.of(1)).as_secs_f64() / time.as_secs_f64();
        let hurry = ((part - EASY) / (TIGHT - EASY)).clamp(0.0, 1.0);
        (1.0 - hurry * (1.0 - LEAST_SHARE)) as f32
    }

    /// Whether `wish` can be expected to come true. A free thread is worth a try in any case.
    fn admits(&self, wish: Wish) -> bool {
        let (wait, left) =
            (self.expected_wait(), wish.until.saturating_duration_since(Instant::now()));
        let job = self.job.of(1);
        match wish.class {
            _ if wait.is_zero() => true,
            Class::User => wait + job <= left.mul_f64(USER_SHARE),
            Class::Low => wait <= left / LOW_SHARE,
        }
    }
}

/// Jobs that were admitted together, as many of them as are neither done nor dropped.
struct Admitted {
    load: Arc<Load>,
    n: usize,
    /// How long each had.
    time: Duration,
}

impl Admitted {
    fn new(load: &Arc<Load>, n: usize, wish: Wish) -> Self {
        load.n_admitted.fetch_add(n, Ordering::Relaxed);
        let time = wish.until.saturating_duration_since(Instant::now()) / n.max(1) as u32;
        Self { load: load.clone(), n, time }
    }

    /// The part of the usual candidates that the next of them looks at.
    fn share(&self) -> f32 {
        self.load.share(self.time)
    }

    /// One of them is done.
    fn is_done(&mut self) {
        if self.n > 0 {
            self.n -= 1;
            self.load.n_admitted.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.load.n_admitted.fetch_sub(self.n, Ordering::Relaxed);
    }
}

/// Why a job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It would be done too late, since others are waiting: it was not begun.
    Late,
    /// Too many others were waiting: it was not begun.
    Full,
    /// It panicked.
    Panicked,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Late => {
                let detail =
                    "so many requests are waiting that this one would be answered too late";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail)
            }
            Refusal::Full => {
                let detail = "too many requests are waiting";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail)
            }
            Refusal::Panicked => Self::internal("the request failed; the server goes on"),
        }
    }
}

impl Pool {
    /// Starts `n_threads`, 0: one for each core. At most `n_waiting` jobs wait for one of them. The threads end when
    /// the pool is dropped.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(n_threads: usize, n_waiting: usize) -> io::Result<Self> {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let n_threads = if n_threads == 0 { cores() } else { n_threads };
        let (queue, jobs) = sync_channel(n_waiting);
        let jobs = Arc::new(Mutex::new(jobs));
        for i in 0..n_threads {
            let jobs = jobs.clone();
            thread::Builder::new().name(format!("pipeline-{i}")).spawn(move || work(&jobs))?;
        }
        Ok(Self { queue, load: Arc::new(Load { n_threads, ..Load::default() }) })
    }

    /// Runs `job` on one of the threads, which tells it what part of the usual candidates to look at. If the caller stops
    /// waiting before it has begun, it is not run.
    ///
    /// # Errors
    /// If the job cannot be done in time, the queue is full, or the job panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        wish: Wish,
        job: impl FnOnce(&mut Scratch, f32) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.submit(wish, 1, move |scratch, admitted| job(scratch, admitted.share())).await
    }

    /// Runs a job for each of `questions` on one of the threads, one after the other, until one fails. They count as so many.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(super) async fn run_in_turn<Q: Send + 'static, T: Send + 'static, E: Send + 'static>(
        &self,
        wish: Wish,
        questions: Vec<Q>,
        mut job: impl FnMut(Q, &mut Scratch, f32) -> Result<T, E> + Send + 'static,
    ) -> Result<Result<Vec<T>, E>, Refusal> {
        let n_jobs = questions.len();
        let all = move |scratch: &mut Scratch, admitted: &mut Admitted| {
            let one = |question| {
                let result = job(question, scratch, admitted.share());
                admitted.is_done();
                result
            };
            questions.into_iter().map(one).collect()
        };
        self.submit(wish, n_jobs, all).await
    }

    async fn submit<T: Send + 'static>(
        &self,
        wish: Wish,
        n_jobs: usize,
        job: impl FnOnce(&mut Scratch, &mut Admitted) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        if !self.load.admits(wish) {
            rest();
            return Err(Refusal::Late);
        }
        let is_free = self.load.expected_wait().is_zero();
        let (reply, result) = oneshot::channel();
        let mut admitted = Admitted::new(&self.load, n_jobs, wish);
        let job = move |scratch: &mut Scratch| {
            if !reply.is_closed() {
                let (started, known) = (Instant::now(), admitted.load.job.of(1));
                // What begins late goes down the ladder and costs less: if that counted, more would be admitted, and all of
                // it would begin late. A look at fewer candidates counts: it is what jobs cost while many wait. What is of the
                // lower class is of any length: it says nothing about what users wait for.
                let is_whole = is_free || started + known < wish.until;
                let done = job(scratch, &mut admitted);
                if wish.class == Class::User && is_whole {
                    admitted.load.job.observe(started.elapsed(), 1);
                }
                drop(admitted);
                // A caller that has gone meanwhile misses nothing.
                let _ = reply.send(done);
            }
        };
        match self.queue.try_send(Box::new(job)) {
            Ok(()) => result.await.map_err(|_| Refusal::Panicked),
            Err(TrySendError::Full(_)) => Err(Refusal::Full),
            Err(TrySendError::Disconnected(_)) => Err(Refusal::Panicked),
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    let mut scratch = Scratch::default();
    // Of this thread alone, on Linux. Where it is refused, refusals take longer.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    loop {
        // The lock is held while waiting: the others wait for it instead of for the channel.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if catch_unwind(AssertUnwindSafe(|| job(&mut scratch))).is_err() {
            // Whatever the job left behind is not trusted.
            scratch = Scratch::default();
        }
    }
}

/// Most requests at once that write, or read what is not in memory: while a disk or a Redis hangs, they wait.
pub(super) const MAX_BLOCKING: usize = 512;

/// Runs `work`, which may block, on a thread that is not of the pool. `room`: for how many more there is room.
///
/// # Errors
/// If there is none, or `work` panics.
pub(super) async fn block_within<T: Send + 'static>(
    room: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let permit = room.try_acquire_owned().map_err(|_| Refusal::Full)?;
    // The room is free again when the work is done, whether or not somebody still waits for it.
    let result = web::block(move || (work(), permit)).await;
    result.map(|(result, _)| result).map_err(|_| Refusal::Panicked.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// By a user who waits for so many seconds.
    fn wish(seconds: u64) -> Wish {
        Wish { class: Class::User, until: Instant::now() + Duration::from_secs(seconds) }
    }

    #[actix_web::test]
    async fn a_panicking_job_leaves_its_thread_alive() {
        let pool = Pool::start(1, 4).unwrap();
        let panicked = pool.run(wish(9), |_, _| panic!("on purpose")).await;
        assert_eq!(panicked, Err::<(), _>(Refusal::Panicked));
        assert_eq!(pool.run(wish(9), |_, _| 7).await, Ok(7));
        assert_eq!(pool.load.n_admitted.load(Ordering::Relaxed), 0);
    }

    #[actix_web::test]
    async fn a_job_is_refused_while_the_queue_is_full() {
        let pool = Arc::new(Pool::start(1, 1).unwrap());
        let (begun, has_begun) = channel();
        let (release, is_released) = channel();
        let busy = actix_web::rt::spawn({
            let pool = pool.clone();
            async move {
                let job = move |_: &mut Scratch, _: f32| {
                    begun.send(()).unwrap();
                    is_released.recv().unwrap();
                };
                pool.run(wish(9), job).await
            }
        });
        actix_web::rt::task::yield_now().await;
        has_begun.recv().unwrap();
        let waiting = actix_web::rt::spawn({
            let pool = pool.clone();
            async move { pool.run(wish(9), |_, _| 1).await }
        });
        actix_web::rt::task::yield_now().await;
        assert_eq!(pool.run(wish(9), |_, _| 2).await, Err(Refusal::Full));
        release.send(()).unwrap();
        assert_eq!(busy.await.unwrap(), Ok(()));
        assert_eq!(waiting.await.unwrap(), Ok(1));
    }

    #[actix_web::test]
    async fn jobs_that_are_admitted_together_count_until_each_is_done() {
        let pool = Pool::start(1, 1).unwrap();
        let load = pool.load.clone();
        let count = move |question: usize, _: &mut Scratch, _: f32| match question {
            9 => Err(load.n_admitted.load(Ordering::Relaxed)),
            _ => Ok(load.n_admitted.load(Ordering::Relaxed)),
        };
        let counted = pool.run_in_turn(wish(9), vec![0, 1, 2, 3], count.clone()).await;
        assert_eq!(counted, Ok(Ok(vec![4, 3, 2, 1])));
        // The third fails: the fourth is not asked, and does not count any more.
        let failed = pool.run_in_turn(wish(9), vec![0, 1, 9, 3], count).await;
        assert_eq!(failed, Ok(Err(2)));
        assert_eq!(pool.load.n_admitted.load(Ordering::Relaxed), 0);
    }

    #[actix_web::test]
    async fn so_many_may_block_at_once_and_no_more() {
        let room = Arc::new(Semaphore::new(1));
        let (end, may_end) = channel::<()>();
        let blocked =
            actix_web::rt::spawn(block_within(room.clone(), move || may_end.recv().is_ok()));
        actix_web::rt::task::yield_now().await;
        let refused = block_within(room.clone(), || ()).await.unwrap_err();
        assert_eq!(actix_web::ResponseError::status_code(&refused), 429);
        end.send(()).unwrap();
        assert!(blocked.await.unwrap().unwrap());
        assert!(block_within(room.clone(), || panic!("on purpose")).await.is_err());
        assert!(block_within(room, || true).await.unwrap());
    }

    #[test]
    fn what_would_be_late_is_refused_and_what_nobody_waits_for_before() {
        let load = Load { n_threads: 2, ..Load::default() };
        load.job.observe(Duration::from_millis(10), 1);
        let admits = |n_admitted: usize, class: Class, ms: u64| {
            load.n_admitted.store(n_admitted, Ordering::Relaxed);
            load.admits(Wish { class, until: Instant::now() + Duration::from_millis(ms) })
        };
        // A thread is free: even what cannot be in time gets an answer, down the ladder.
        assert!(admits(1, Class::User, 1) && admits(1, Class::Low, 1));
        // Four wait or run on two threads: 15 ms of waiting, 10 ms of work, 13 ms for what was misjudged.
        assert!(admits(4, Class::User, 40) && !admits(4, Class::User, 37));
        assert!(!admits(4, Class::Low, 26) && admits(4, Class::Low, 70));
    }

    #[test]
    fn the_more_wait_the_fewer_candidates_are_looked_at() {
        let load = Load { n_threads: 1, ..Load::default() };
        load.job.observe(Duration::from_millis(10), 1);
        let share = |n_admitted: usize, ms: u64| {
            load.n_admitted.store(n_admitted, Ordering::Relaxed);
            load.share(Duration::from_millis(ms))
        };
        // The one that runs is half done: behind five, the next is done after 55 ms.
        assert!((share(5, 95) - 0.566).abs() < 2e-3, "{}", share(5, 95));
        assert!((0..5).all(|n_admitted| share(n_admitted, 93) == 1.0));
        assert!((6..20).all(|n_admitted| share(n_admitted, 93) == 0.25));
        // Who is alone has all of it, however short the time is.
        assert_eq!((share(1, 0), share(2, 0)), (1.0, 0.25));
    }
}
