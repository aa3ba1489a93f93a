//! `cascade bench`: how fast is it?

mod load;
mod serve;

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
}

impl Bench {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        match &self.what {
            What::Serve(serve) => serve.run(global),
        }
    }
}
