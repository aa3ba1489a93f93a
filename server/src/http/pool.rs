//! The threads that do the work: those of the pipeline, a bounded number behind a bounded queue, and those that block.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use actix_web::http::StatusCode;
use actix_web::web;
use engine::pipeline::Scratch;
use tokio::sync::oneshot;

use super::problem::Problem;

type Job = Box<dyn FnOnce(&mut Scratch) + Send>;

/// Threads that take jobs from one queue, each with its own room for a request.
pub(super) struct Pool {
    queue: SyncSender<Job>,
}

/// Why a job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too many others were waiting: it was not begun.
    Full,
    /// It panicked.
    Panicked,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
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
        Ok(Self { queue })
    }

    /// Runs `job` on one of the threads. If the caller stops waiting before it has begun, it is not run.
    ///
    /// # Errors
    /// If the queue is full, or the job panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Scratch) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (reply, result) = oneshot::channel();
        let job = move |scratch: &mut Scratch| {
            if !reply.is_closed() {
                // A caller that has gone meanwhile misses nothing.
                let _ = reply.send(job(scratch));
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

/// Runs `work`, which may block, on a thread that is not of the pool.
///
/// # Errors
/// If it panics.
pub(super) async fn block<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let result = web::block(work).await;
    result.map_err(|_| Problem::internal("the request failed; the server goes on"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[actix_web::test]
    async fn a_panicking_job_leaves_its_thread_alive() {
        let pool = Pool::start(1, 4).unwrap();
        assert_eq!(pool.run(|_| panic!("on purpose")).await, Err::<(), _>(Refusal::Panicked));
        assert_eq!(pool.run(|_| 7).await, Ok(7));
    }

    #[actix_web::test]
    async fn a_job_is_refused_while_the_queue_is_full() {
        let pool = Arc::new(Pool::start(1, 1).unwrap());
        let (begun, has_begun) = channel();
        let (release, is_released) = channel();
        let busy = actix_web::rt::spawn({
            let pool = pool.clone();
            async move {
                let job = move |_: &mut Scratch| {
                    begun.send(()).unwrap();
                    is_released.recv().unwrap();
                };
                pool.run(job).await
            }
        });
        actix_web::rt::task::yield_now().await;
        has_begun.recv().unwrap();
        let waiting = actix_web::rt::spawn({
            let pool = pool.clone();
            async move { pool.run(|_| 1).await }
        });
        actix_web::rt::task::yield_now().await;
        assert_eq!(pool.run(|_| 2).await, Err(Refusal::Full));
        release.send(()).unwrap();
        assert_eq!(busy.await.unwrap(), Ok(()));
        assert_eq!(waiting.await.unwrap(), Ok(1));
    }
}
