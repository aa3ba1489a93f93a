//! Open-loop load: requests are sent at times that were drawn before, whatever becomes of those before them, and a latency
//! is counted from the time at which a request should have been sent. So a server that stalls cannot hide it by being asked
//! less meanwhile. Source: Tene, "How NOT to Measure Latency".

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use actix_web::rt;
use anyhow::Context;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use super::connection::Connection;

/// What is not answered by then has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that was not used for so long is not used again: a server closes such ones, this one after 75 s.
const MAX_IDLE: Duration = Duration::from_secs(15);

/// Latencies are told apart to three digits, up to so many microseconds.
const LONGEST_US: u64 = 60_000_000;
const DIGITS: u8 = 3;

/// What is asked, and how often.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// Where the server is.
    pub(super) url: String,
    /// The API key, if it needs one.
    pub(super) key: Option<String>,
    /// Who asks, one after the other; none: nobody is named.
    pub(super) users: Vec<String>,
    /// Items that are wanted.
    pub(super) n: usize,
    /// What an answer that comes later is not worth, and what is told to the server.
    pub(super) deadline: Duration,
    /// Requests a second, on average.
    pub(super) rate: f64,
    /// For how long.
    pub(super) span: Duration,
    /// Connections at most.
    pub(super) connections: u32,
    /// Start of the random sequence of arrivals.
    pub(super) seed: u64,
}

/// What became of the requests.
#[derive(Debug)]
pub(super) struct Measured {
    /// Latencies of answers, in microseconds.
    pub(super) answered: Histogram<u64>,
    /// Of refusals (429 and 503).
    pub(super) refused: Histogram<u64>,
    /// Of refusals, from the time at which they were sent: how late that was is not the server's.
    pub(super) refused_after_sending: Histogram<u64>,
    /// How much later than they should have been requests were sent, in microseconds.
    pub(super) late: Histogram<u64>,
    /// What the answers say that the stages took, in microseconds: retrieve, rank, rerank.
    pub(super) stages: [Histogram<u64>; 3],
    /// Requests that were sent.
    pub(super) n_sent: u64,
    /// Answers within the deadline.
    pub(super) n_good: u64,
    /// Answers that took a step down the ladder.
    pub(super) n_degraded: u64,
    /// Requests without an answer, or with an error.
    pub(super) n_failed: u64,
    /// How long it took.
    pub(super) span: Duration,
}

impl Measured {
    fn new() -> Self {
        let histogram =
            || Histogram::new_with_max(LONGEST_US, DIGITS).expect("the bounds are sensible");
        Self {
            answered: histogram(),
            refused: histogram(),
            refused_after_sending: histogram(),
            late: histogram(),
            stages: [histogram(), histogram(), histogram()],
            n_sent: 0,
            n_good: 0,
            n_degraded: 0,
            n_failed: 0,
            span: Duration::ZERO,
        }
    }

    /// Answers within the deadline a second.
    pub(super) fn goodput(&self) -> f64 {
        self.n_good as f64 / self.span.as_secs_f64()
    }

    /// A part of those that were sent.
    pub(super) fn share(&self, n: u64) -> f64 {
        n as f64 / self.n_sent.max(1) as f64
    }
}

/// What is read of an answer.
#[derive(Deserialize)]
struct Answer {
    degraded: Vec<serde::de::IgnoredAny>,
    timing_ms: TimingMs,
}

#[derive(Deserialize)]
struct TimingMs {
    retrieve: f64,
    rank: f64,
    rerank: f64,
}

/// Sends `load` and waits for all answers.
///
/// # Errors
/// If no thread can be started.
pub(super) fn run(load: &Load) -> anyhow::Result<Measured> {
    let (send, mut arrivals) = mpsc::unbounded_channel();
    let plan = load.clone();
    // A thread of its own sleeps more exactly than a timer of the runtime, which counts in milliseconds.
    let clock = thread::Builder::new().name("arrivals".into()).spawn(move || {
        let mut random = StdRng::seed_from_u64(plan.seed);
        let started = Instant::now();
        let mut at = started;
        loop {
            at += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / plan.rate);
            if at - started > plan.span {
                break;
            }
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if send.send(at).is_err() {
                break;
            }
        }
    });
    let clock = clock.context("cannot start a thread")?;
    let (load, measured) = (Rc::new(load.clone()), Rc::new(RefCell::new(Measured::new())));
    let started = Instant::now();
    rt::System::new().block_on(async {
        let connections = Rc::new(Connections::new(load.connections));
        let mut tasks = Vec::new();
        while let Some(at) = arrivals.recv().await {
            let (connections, measured, load) =
                (connections.clone(), measured.clone(), load.clone());
            let i = measured.borrow().n_sent as usize;
            measured.borrow_mut().n_sent += 1;
            tasks.push(rt::spawn(async move { ask(&connections, &load, i, at, &measured).await }));
        }
        for task in tasks {
            // A task that panicked has said so; its request counts as sent and not as answered.
            let _ = task.await;
        }
    });
    // It has sent everything.
    let _ = clock.join();
    let mut measured = Rc::into_inner(measured).context("all tasks have ended")?.into_inner();
    measured.span = started.elapsed().max(load.span);
    Ok(measured)
}

struct Connections {
    /// Those that wait for the next request, and since when; the latest last.
    idle: RefCell<Vec<(Instant, Connection)>>,
    /// For those that may be open.
    room: Semaphore,
}

impl Connections {
    fn new(n: u32) -> Self {
        Self { idle: RefCell::default(), room: Semaphore::new(n as usize) }
    }

    /// One that is open, if there is one.
    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let n_old = idle.partition_point(|(since, _)| since.elapsed() >= MAX_IDLE);
        idle.drain(..n_old);
        idle.pop().map(|(_, connection)| connection)
    }

    /// The status and the body of the answer to `question`, over a connection that is free.
    async fn ask(&self, load: &Load, question: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
        let _permit = self.room.acquire().await?;
        let mut connection = match self.idle() {
            Some(connection) => connection,
            None => Connection::open(&load.url, load.key.as_deref(), PATIENCE).await?,
        };
        // What has failed is not used again.
        let (status, body) = connection.post("/v1/recommend", question).await?;
        let answer = (status, body.to_vec());
        self.idle.borrow_mut().push((Instant::now(), connection));
        Ok(answer)
    }
}

async fn ask(
    connections: &Connections,
    load: &Load,
    i: usize,
    at: Instant,
    measured: &RefCell<Measured>,
) {
    let mut body =
        json!({ "n": load.n, "deadline_ms": load.deadline.as_millis() as u64, "dry_run": true });
    if !load.users.is_empty() {
        body["user_id"] = load.users[i % load.users.len()].as_str().into();
    }
    let late = at.elapsed();
    let answer = connections.ask(load, body.to_string().as_bytes()).await;
    let took = at.elapsed();
    let us = microseconds(took);
    let mut measured = measured.borrow_mut();
    measured.late.saturating_record(microseconds(late));
    match answer {
        Ok((200, body)) => match serde_json::from_slice::<Answer>(&body) {
            Ok(answer) => {
                measured.answered.saturating_record(us);
                measured.n_good += u64::from(took <= load.deadline);
                measured.n_degraded += u64::from(!answer.degraded.is_empty());
                let TimingMs { retrieve, rank, rerank } = answer.timing_ms;
                for (stage, ms) in measured.stages.iter_mut().zip([retrieve, rank, rerank]) {
                    stage.saturating_record((ms * 1e3) as u64);
                }
            }
            Err(_) => measured.n_failed += 1,
        },
        Ok((429 | 503, _)) => {
            measured.refused.saturating_record(us);
            measured.refused_after_sending.saturating_record(microseconds(took - late));
        }
        _ => measured.n_failed += 1,
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(LONGEST_US)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[actix_web::test]
    async fn a_connection_that_the_server_may_have_closed_is_not_used() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 1_000]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        });
        let load = Load {
            url: url.clone(),
            key: None,
            users: Vec::new(),
            n: 1,
            deadline: PATIENCE,
            rate: 1.0,
            span: PATIENCE,
            connections: 1,
            seed: 7,
        };
        let connections = Connections::new(1);
        let closed = Connection::open(&url, None, PATIENCE).await.unwrap();
        connections.idle.borrow_mut().push((Instant::now() - MAX_IDLE, closed));
        let (status, body) = connections.ask(&load, b"{}").await.unwrap();
        assert_eq!((status, &*body), (200, &b"{}"[..]));
        assert_eq!(connections.idle.borrow().len(), 1);
        server.join().unwrap();
    }
}
