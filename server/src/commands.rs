//! The commands, one file each.

mod bench;
mod check;
mod compact;
mod demo;
mod evaluate;
mod generate;
mod import;
mod init;
mod precompute;
mod releases;
mod serve;
mod train;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use engine::config::ConfigError;

/// A multi-stage recommendation engine: from an event log and a catalogue to lists over HTTP.
#[derive(Debug, Parser)]
#[command(name = "cascade", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The configuration file.
    #[arg(long, global = true, default_value = "cascade.toml")]
    pub(crate) config: PathBuf,
    /// Print one JSON object for machines.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Threads to use; left out: one for each core.
    #[arg(long, global = true)]
    threads: Option<usize>,
}

impl Global {
    /// Threads to use.
    pub(crate) fn n_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(cores).max(1)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Import a real data set, train, print the evaluation, precompute, serve, and print lines to try.
    Demo(demo::Demo),
    /// Read files, infer columns, event types and fields, and write a commented cascade.toml.
    Init(init::Init),
    /// Validate the configuration and the data without training.
    Check(check::Check),
    /// Append files to the event log and the catalogue.
    Import(import::Import),
    /// Build a release; it is activated if it passes the gate.
    Train(train::Train),
    /// Serve the active release over HTTP and take in events.
    Serve(serve::Serve),
    /// Compute the lists of all users through the same pipeline.
    Precompute(precompute::Precompute),
    /// Replay a temporal split through the pipeline and report its quality.
    Evaluate(evaluate::Evaluate),
    /// The shelf of trained releases.
    Releases(releases::Releases),
    /// Take what deleted users have done out of the event log; no server may use it meanwhile.
    Compact(compact::Compact),
    /// Measure how fast a running server is.
    Bench(bench::Bench),
    /// Replay the log and compare with the live store, feature by feature.
    VerifyFeatures(verify::Verify),
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything was done.
    Done,
    /// What was checked is not as it should be.
    Failed,
    /// The gate refused the new release; the active one stays.
    Refused,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Failed => Self::from(1),
            Outcome::Refused => Self::from(3),
        }
    }
}

/// A wrong use of the command line, as against something that failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// 2 for wrong usage or configuration, else 1.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    let usage = error.chain().any(|cause| cause.is::<ConfigError>() || cause.is::<UsageError>());
    ExitCode::from(if usage { 2 } else { 1 })
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    let Arguments { global, command } = arguments;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(global.n_threads()).build()?;
    pool.install(|| match command {
        Command::Demo(demo) => demo.run(&global),
        Command::Init(init) => init.run(&global),
        Command::Check(check) => check.run(&global),
        Command::Import(import) => import.run(&global),
        Command::Train(train) => train.run(&global),
        Command::Serve(serve) => serve.run(&global),
        Command::Precompute(precompute) => precompute.run(&global),
        Command::Evaluate(evaluate) => evaluate.run(&global),
        Command::Releases(releases) => releases.run(&global),
        Command::Compact(compact) => compact.run(&global),
        Command::Bench(bench) => bench.run(&global),
        Command::VerifyFeatures(verify) => verify.run(&global),
    })
}
