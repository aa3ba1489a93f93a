//! `cascade bench serve`: a running server under open-loop load.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use actix_web::rt;
use anyhow::{Context, bail};
use clap::value_parser;
use engine::config::Config;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connection::{Connection, MAX_CONNECTIONS, read_json};
use super::load::{Load, Measured, PATIENCE, run};
use super::{machine, ms, result};
use crate::commands::{Global, Outcome, UsageError};

/// Of the requests that are offered, so many must be answered in time if the server keeps up, and so many without a step down
/// the ladder.
const KEEPS_UP: f64 = 0.99;

/// The search for the highest rate ends when it is known to this part.
const PRECISION: f64 = 0.1;

/// Rates that are tried at most.
const MAX_TRIES: usize = 24;

/// A running server under load: arrivals on a schedule, latencies from the scheduled time.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Where the server is; left out: where the configuration has it listen.
    #[arg(long)]
    url: Option<String>,
    /// Requests a second; may be given several times. Left out: the highest rate that the server keeps up with is looked
    /// for, and then measured at half of it.
    #[arg(long)]
    rate: Vec<f64>,
    /// For how long each rate is kept up.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// A file with one user id a line; left out: the first users that the server knows.
    #[arg(long)]
    users: Option<PathBuf>,
    /// Items that are wanted.
    #[arg(long, default_value_t = 50)]
    n: usize,
    /// How late an answer may be.
    #[arg(long, default_value_t = 50)]
    deadline_ms: u64,
    /// Connections at most.
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(1..=MAX_CONNECTIONS))]
    connections: u32,
    /// API key, if the server wants one.
    #[arg(long)]
    key: Option<String>,
    /// Start of the random sequence of arrivals.
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

impl Serve {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        if let Some(rate) = self.rate.iter().find(|rate| !(**rate > 0.0 && rate.is_finite())) {
            bail!(UsageError(format!("--rate {rate} is not a number of requests a second")));
        }
        if !(self.seconds > 0.0 && self.seconds <= 86_400.0) {
            bail!(UsageError(format!("--seconds {} is not from 0 to 86400", self.seconds)));
        }
        let mut load = self.load(global)?;
        let results = RefCell::new(Vec::new());
        let mut measure = |load: &Load| -> anyhow::Result<bool> {
            let measured = run(load)?;
            if !global.json {
                tell(load, &measured);
            }
            report(load, &measured, &mut results.borrow_mut());
            if measured.answered.is_empty() && measured.refused.is_empty() {
                bail!("{} does not answer", load.url);
            }
            let is_whole = measured.share(measured.n_degraded) <= 1.0 - KEEPS_UP;
            Ok(is_whole && measured.share(measured.n_good) >= KEEPS_UP)
        };
        if self.rate.is_empty() {
            let highest = highest(&mut load, &mut measure)?;
            load.rate = highest / 2.0;
            measure(&load)?;
            results.borrow_mut().push(result("highest_rate", highest, "1/s"));
            if !global.json {
                println!("the server keeps up with {highest:.0} requests a second");
            }
        }
        for rate in &self.rate {
            load.rate = *rate;
            measure(&load)?;
        }
        if global.json {
            println!("{}", json!({ "machine": machine(), "results": results.into_inner() }));
        }
        Ok(Outcome::Done)
    }

    fn load(&self, global: &Global) -> anyhow::Result<Load> {
        let url = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", Config::read(&global.config)?.server.listen),
        };
        let users = match &self.users {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.with_context(|| format!("cannot read {}", path.display()))?;
                text.lines().map(str::to_owned).collect()
            }
            None => known_users(&url, self.key.as_deref())?,
        };
        Ok(Load {
            url,
            key: self.key.clone(),
            users,
            n: self.n,
            deadline: Duration::from_millis(self.deadline_ms),
            rate: 10.0,
            span: Duration::from_secs_f64(self.seconds),
            connections: self.connections,
            seed: self.seed,
        })
    }
}

/// The highest rate that `measure` says is kept up with, to [`PRECISION`].
fn highest(
    load: &mut Load,
    measure: &mut impl FnMut(&Load) -> anyhow::Result<bool>,
) -> anyhow::Result<f64> {
    let (mut low, mut high) = (0.0_f64, None);
    for _ in 0..MAX_TRIES {
        load.rate = match high {
            None => (2.0 * low).max(25.0),
            Some(high) => (low + high) / 2.0,
        };
        if measure(load)? {
            low = load.rate;
        } else {
            high = Some(load.rate);
        }
        if high.is_some_and(|high| high - low <= PRECISION * high) {
            break;
        }
    }
    Ok(low)
}

/// The first users that the server tells of.
fn known_users(url: &str, key: Option<&str>) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct User {
        id: String,
    }
    #[derive(Deserialize)]
    struct Users {
        users: Vec<User>,
    }
    let users: Users = rt::System::new().block_on(async {
        let mut server = Connection::open(url, key, PATIENCE).await?;
        read_json(server.get("/v1/users?n=1000").await?)
            .with_context(|| format!("{url} does not name its users: give a key or --users"))
    })?;
    Ok(users.users.into_iter().map(|user| user.id).collect())
}

fn tell(load: &Load, measured: &Measured) {
    let Measured { answered, refused, refused_after_sending, late, stages, .. } = measured;
    println!(
        "{:.0}/s: goodput {:.0}/s; p50 {:.1} ms, p90 {:.1}, p99 {:.1}, p99.9 {:.1}; p99 of retrieve {:.1}, rank {:.1}, \
         rerank {:.1}; degraded {:.2} %, refused {:.2} % (p99 {:.1} ms, {:.1} from sending), failed {}; \
         sent too late by: p99 {:.1} ms",
        load.rate,
        measured.goodput(),
        ms(answered, 0.5),
        ms(answered, 0.9),
        ms(answered, 0.99),
        ms(answered, 0.999),
        ms(&stages[0], 0.99),
        ms(&stages[1], 0.99),
        ms(&stages[2], 0.99),
        100.0 * measured.share(measured.n_degraded),
        100.0 * measured.share(refused.len()),
        ms(refused, 0.99),
        ms(refused_after_sending, 0.99),
        measured.n_failed,
        ms(late, 0.99),
    );
}

fn report(load: &Load, measured: &Measured, results: &mut Vec<Value>) {
    let Measured { answered, refused, refused_after_sending, late, stages, .. } = measured;
    let mut add = |name: &str, value: f64, unit: &str| {
        results.push(result(&format!("{name}@{:.0}/s", load.rate), value, unit));
    };
    for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
        add(name, ms(answered, quantile), "ms");
    }
    for (name, stage) in ["retrieve", "rank", "rerank"].into_iter().zip(stages) {
        add(&format!("{name}_p99"), ms(stage, 0.99), "ms");
    }
    add("goodput", measured.goodput(), "1/s");
    add("degraded", measured.share(measured.n_degraded), "share");
    add("refused", measured.share(refused.len()), "share");
    add("refused_p99", ms(refused, 0.99), "ms");
    add("refused_p99_from_sending", ms(refused_after_sending, 0.99), "ms");
    add("sent_late_p99", ms(late, 0.99), "ms");
    add("failed", measured.n_failed as f64, "requests");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rate_is_found_to_a_tenth() {
        for limit in [30.0, 440.0, 7_000.0] {
            let mut load = Load {
                url: String::new(),
                key: None,
                users: Vec::new(),
                n: 1,
                deadline: Duration::ZERO,
                rate: 1.0,
                span: Duration::ZERO,
                connections: 1,
                seed: 0,
            };
            let found = highest(&mut load, &mut |load| Ok(load.rate <= limit)).unwrap();
            assert!(found <= limit && found >= 0.88 * limit, "{found} of {limit}");
        }
    }
}
