//! `cascade bench`: how fast is it?

mod connection;
mod events;
mod load;
mod serve;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Global, Outcome};

/// Measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A running server under load: arrivals on a schedule, latencies from the scheduled time.
    Serve(serve::Serve),
    /// How many events a server takes in a second, and how soon they are visible.
    Events(events::Events),
}

impl Bench {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        match &self.what {
            What::Serve(serve) => serve.run(global),
            What::Events(events) => events.run(global),
        }
    }
}

/// A quantile of latencies in microseconds, in milliseconds.
fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

fn result(name: &str, value: f64, unit: &str) -> Value {
    let none: Option<f64> = None;
    json!({
        "name": name, "value": value, "unit": unit, "reference": none, "reference_value": none, "ratio": none,
    })
}

/// What this runs on, for the reader of a figure.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{cores} x {}", model.map_or(std::env::consts::ARCH, |(_, name)| name))
}
