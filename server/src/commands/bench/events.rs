//! `cascade bench events`: how many events a server takes in, and how soon they are visible.

use std::time::{Duration, Instant};

use actix_web::rt;
use anyhow::{Context, bail, ensure};
use clap::value_parser;
use engine::config::Config;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::{Connection, MAX_CONNECTIONS, read_json};
use super::{machine, ms, result};
use crate::commands::{Global, Outcome};

/// What is not answered by then has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many events a server takes in a second, and how soon they are visible. It adds events to the log: use it on a copy.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Where the server is; left out: where the configuration has it listen.
    #[arg(long)]
    url: Option<String>,
    /// Another server on the same Redis, which is asked whether it knows the events; left out: the same.
    #[arg(long)]
    ask: Option<String>,
    /// Events in one request; may be given several times.
    #[arg(long, default_values_t = [1, 1_000])]
    batch: Vec<usize>,
    /// Requests at once.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=MAX_CONNECTIONS))]
    connections: u32,
    /// For how long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Events that are looked for in the next answer.
    #[arg(long, default_value_t = 500)]
    visible: usize,
    /// API key, if the server wants one: it needs the scopes `events` and `read`.
    #[arg(long)]
    key: Option<String>,
}

/// Where to, and as whom.
#[derive(Clone)]
struct Target {
    url: String,
    ask: String,
    key: Option<String>,
    /// What events are about.
    kind: String,
    items: Vec<String>,
    /// Differs from run to run.
    run: String,
}

#[derive(Serialize)]
struct Event<'a> {
    event_id: String,
    r#type: &'a str,
    item_id: &'a str,
    user_id: String,
}

#[derive(Deserialize)]
struct Report {
    accepted: u64,
}

impl Events {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let config = Config::read(&global.config)?;
        let url = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", config.server.listen),
        };
        let kind = config.events.keys().next().context("there are no [events]")?.clone();
        let mut results = Vec::new();
        rt::System::new().block_on(self.measure(url, kind, &mut results))?;
        if global.json {
            println!("{}", json!({ "machine": machine(), "results": results }));
        } else {
            for result in &results {
                let value = result["value"].as_f64().unwrap_or_default();
                println!(
                    "{}: {value:.1} {}",
                    result["name"].as_str().unwrap_or_default(),
                    result["unit"].as_str().unwrap_or_default()
                );
            }
        }
        Ok(Outcome::Done)
    }

    async fn measure(
        &self,
        url: String,
        kind: String,
        results: &mut Vec<Value>,
    ) -> anyhow::Result<()> {
        let run = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let ask = self.ask.as_deref().unwrap_or(&url).trim_end_matches('/').to_owned();
        let key = self.key.clone();
        let mut target =
            Target { url, ask, key, kind, items: Vec::new(), run: format!("bench-{run}") };
        target.items = target.known_items().await?;
        for batch in &self.batch {
            let per_second = self.ingest(&target, *batch).await?;
            results.push(result(&format!("events@batches_of_{batch}"), per_second, "1/s"));
        }
        target.settle().await?;
        let (sent, asked) = target.visible(self.visible).await?;
        for (name, histogram) in [("acknowledged", &sent), ("visible", &asked)] {
            for (name_of, quantile) in [("p50", 0.5), ("p99", 0.99)] {
                results.push(result(&format!("{name}_{name_of}"), ms(histogram, quantile), "ms"));
            }
        }
        Ok(())
    }

    /// Events a second in batches of `batch`.
    async fn ingest(&self, target: &Target, batch: usize) -> anyhow::Result<f64> {
        let (started, span) = (Instant::now(), Duration::from_secs_f64(self.seconds));
        let post = |connection: u32| {
            let target = target.clone();
            rt::spawn(async move {
                let mut n = 0;
                let mut server = target.connect(&target.url).await?;
                for round in 0.. {
                    if started.elapsed() >= span {
                        break;
                    }
                    let first = format!("{batch}-{connection}-{round}");
                    n += target.send(&mut server, &first, batch).await?;
                }
                anyhow::Ok(n)
            })
        };
        let tasks: Vec<_> = (0..self.connections).map(post).collect();
        let mut n = 0;
        for task in tasks {
            n += task.await.context("a task failed")??;
        }
        Ok(n as f64 / started.elapsed().as_secs_f64())
    }
}

impl Target {
    async fn connect(&self, url: &str) -> anyhow::Result<Connection> {
        Connection::open(url, self.key.as_deref(), PATIENCE).await
    }

    async fn known_items(&self) -> anyhow::Result<Vec<String>> {
        let mut server = self.connect(&self.url).await?;
        let answer: Value = read_json(server.get("/v1/items?n=1000").await?)?;
        let items = answer["items"].as_array().context("no items")?;
        let ids = items.iter().filter_map(|item| item["id"].as_str().map(str::to_owned));
        let ids: Vec<String> = ids.collect();
        if ids.is_empty() {
            bail!("{} knows no items", self.url);
        }
        Ok(ids)
    }

    /// Sends `n` events; returns how many were accepted.
    async fn send(&self, server: &mut Connection, name: &str, n: usize) -> anyhow::Result<u64> {
        let event = |i: usize| Event {
            event_id: format!("{}-{name}-{i}", self.run),
            r#type: &self.kind,
            item_id: &self.items[(i * 7 + name.len()) % self.items.len()],
            user_id: format!("{}-{}", self.run, i % 100),
        };
        let body: Vec<Event<'_>> = (0..n).map(event).collect();
        let report: Report =
            read_json(server.post("/v1/events", &serde_json::to_vec(&body)?).await?)?;
        Ok(report.accepted)
    }

    /// Waits until the server that is asked has taken in everything that was sent: as long as it has not, it says so.
    async fn settle(&self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut server = self.connect(&self.ask).await?;
        let question = serde_json::to_vec(&json!({ "n": 1, "dry_run": true }))?;
        loop {
            let answer: Value = read_json(server.post("/v1/recommend", &question).await?)?;
            if answer["degraded"] == json!([]) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{} does not catch up: {answer}", self.ask);
            rt::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends an event of a new user and asks for a list, `n` times, one after the other. How long it takes until an event is
    /// acknowledged, and until an answer knows of it, from when the event was sent.
    async fn visible(&self, n: usize) -> anyhow::Result<(Histogram<u64>, Histogram<u64>)> {
        let (mut sent, mut asked) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
        let mut server = self.connect(&self.url).await?;
        let mut other = self.connect(&self.ask).await?;
        for i in 0..n {
            let user = format!("{}-seen-{i}", self.run);
            let event = json!({
                "type": self.kind, "user_id": user, "item_id": self.items[i % self.items.len()],
            });
            let question = json!({ "user_id": user, "n": 10, "dry_run": true });
            let (event, question) = (serde_json::to_vec(&event)?, serde_json::to_vec(&question)?);
            let started = Instant::now();
            read_json::<Report>(server.post("/v1/events", &event).await?)?;
            sent.record(started.elapsed().as_micros() as u64)?;
            let answer: Value = read_json(other.post("/v1/recommend", &question).await?)?;
            asked.record(started.elapsed().as_micros() as u64)?;
            let is_cold = answer["items"][0]["reasons"].to_string().contains("cold_user");
            ensure!(!is_cold, "the next answer does not know the event: {answer}");
        }
        Ok((sent, asked))
    }
}
