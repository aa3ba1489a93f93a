//! `cascade evaluate`: the quality of the pipeline on a temporal split.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use engine::config::Config;
use engine::release::Release;
use engine::training::Trainer;
use eval::intervals::Bootstrap;
use eval::report::Report;
use eval::run::{Settings, run};
use featurestore::Timestamp;
use serde_json::json;

use super::{Global, Outcome, UsageError};
use crate::progress::Stages;
use crate::workspace::{Workspace, point_in};

/// Replay a temporal split through the pipeline and report its quality.
#[derive(Debug, clap::Args)]
pub(crate) struct Evaluate {
    /// Test on everything from this time on (or from this share of the time span, as 80%). Left out: from where the
    /// active release's data ends, or else the last tenth of the time span.
    #[arg(long)]
    from: Option<String>,
    /// Cut-offs.
    #[arg(long, value_delimiter = ',')]
    k: Vec<usize>,
    /// Look at this part of the usual candidates only, as a server does when too many ask.
    #[arg(long, default_value_t = 1.0)]
    share: f32,
    /// Write report.json and report.html into this folder.
    #[arg(long)]
    report: Option<PathBuf>,
}

impl Evaluate {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let workspace = Workspace::new(Config::read(&global.config)?);
        if !(self.share > 0.0 && self.share <= 1.0) {
            bail!(UsageError(format!("--share {} is not above 0 and at most 1", self.share)));
        }
        let from = self.from.as_deref();
        let report = evaluate(&workspace, from, &self.k, self.share, global.n_threads())?;
        if let Some(folder) = &self.report {
            report.write(folder)?;
            eprintln!("wrote {}", folder.join("report.html").display());
        }
        if global.json {
            println!("{}", report.json());
        } else {
            println!("{}", report.text(terminal_width()));
        }
        Ok(Outcome::Done)
    }
}

/// Width of the terminal as its shell exports it.
pub(crate) fn terminal_width() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(120)
}

/// Evaluates on the events from `from` on, with a release that has seen nothing of them, looking at `share` of the usual
/// candidates.
pub(crate) fn evaluate(
    workspace: &Workspace,
    from: Option<&str>,
    k: &[usize],
    share: f32,
    n_threads: usize,
) -> anyhow::Result<Report> {
    let stages = Stages::new();
    stages.start("reading the event log");
    let history = workspace.history()?;
    let active = workspace.shelf.active().ok().map(|id| workspace.shelf.open(&id)).transpose()?;
    let (_, last) = history.span().context("the event log is empty: nothing to evaluate on")?;
    let from = match (from, &active) {
        (Some(text), _) => point_in(&history, text).context("--from")?,
        (None, Some(release)) if release.manifest.data.until <= last => release.manifest.data.until,
        _ => point_in(&history, "90%")?,
    };
    let config = &workspace.config;
    let trainer = Trainer { config, history: &history, until: from, n_threads };
    let release = release_until(active, &trainer, &stages)?;
    stages.start("asking the questions of the test");
    let questions = trainer.questions(from, Timestamp::MAX);
    anyhow::ensure!(!questions.is_empty(), "no event from {from} on answers a question");
    let k = if k.is_empty() { config.evaluation.k.clone() } else { k.to_vec() };
    let bootstrap =
        Bootstrap { resamples: config.evaluation.resamples, seed: config.training.seed };
    let settings = Settings { k: k.clone(), bootstrap, n_threads, share };
    let answered = run(&release, None, &history, &questions, &settings);
    stages.start("intervals and report");
    let mut report = answered.report("temporal", notes(&release, from, &answered.latencies()));
    let settings = json!({
        "from": from, "k": k, "release": release.manifest.id, "trained_until": release.manifest.data.until,
        "group_by": trainer.group_by(), "share": share, "threads": n_threads, "resamples": config.evaluation.resamples,
    });
    report.settings = settings.as_object().cloned().unwrap_or_default();
    stages.finish();
    Ok(report)
}

/// The active release if it has seen nothing of the test, else one that is trained for it.
fn release_until(
    active: Option<Release>,
    trainer: &Trainer<'_>,
    stages: &Stages,
) -> anyhow::Result<Arc<Release>> {
    let from = trainer.until;
    if let Some(release) = active {
        if release.manifest.data.until <= from {
            return Ok(Arc::new(release));
        }
        let (id, until) = (&release.manifest.id, release.manifest.data.until);
        eprintln!(
            "the active release {id} has seen events until {until}: training one until {from}"
        );
    }
    let tell = |progress| stages.tell(progress);
    let fitted = trainer.fit(&tell)?;
    Ok(Arc::new(trainer.finish(fitted, Default::default(), &tell)?))
}

fn notes(release: &Release, from: Timestamp, latencies: &[(&str, f64, f64)]) -> Vec<String> {
    let latency = |(stage, p50, p99): &(&str, f64, f64)| format!("{stage} {p50:.2} / {p99:.2} ms");
    let latencies = latencies.iter().map(latency).collect::<Vec<_>>().join(", ");
    vec![
        format!(
            "The test begins at {from}; the release was trained on the {} events before {}. Every question is asked \
             as of its own moment, after the events before it and before any of its own.",
            release.manifest.data.n_events, release.manifest.data.until
        ),
        "best_source is the single source whose lists are best on this very test.".to_owned(),
        format!("Stages, p50 / p99, in replay beside the other threads: {latencies}."),
    ]
}
