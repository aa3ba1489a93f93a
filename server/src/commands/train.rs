//! `cascade train`: fit a release, judge it, shelve it, and activate it if it is better.

use anyhow::Context;
use engine::config::Config;
use engine::training::Trainer;
use eval::gate::{Verdict, judge};
use featurestore::Timestamp;
use serde_json::json;

use super::{Global, Outcome};
use crate::causes::with_causes;
use crate::progress::Stages;
use crate::workspace::{Workspace, announce, point_in};

/// Build a release; it is activated if it passes the gate.
#[derive(Debug, clap::Args)]
pub(crate) struct Train {
    /// Use no event from this time on (or from this share of the time span, as 80%); left out: use all.
    #[arg(long)]
    until: Option<String>,
}

impl Train {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let workspace = Workspace::new(Config::read(&global.config)?);
        let trained = train(&workspace, self.until.as_deref(), global.n_threads())?;
        if global.json {
            println!("{}", json!({ "release": trained.id, "verdict": trained.verdict }));
        } else {
            println!("{}", trained.verdict);
        }
        Ok(if trained.verdict.passed { Outcome::Done } else { Outcome::Refused })
    }
}

/// A release on the shelf with the gate's verdict on it.
pub(crate) struct Trained {
    /// Name of the release.
    pub(crate) id: String,
    /// Whether it is better, and by how much.
    pub(crate) verdict: Verdict,
}

/// Trains on the log of `workspace` and activates the release if it passes.
pub(crate) fn train(
    workspace: &Workspace,
    until: Option<&str>,
    n_threads: usize,
) -> anyhow::Result<Trained> {
    let stages = Stages::new();
    stages.start("reading the event log");
    let history = workspace.history()?;
    let end = history.span().map_or(Timestamp::MAX, |(_, last)| Timestamp(last.0 + 1));
    let until = until.map_or(Ok(end), |text| point_in(&history, text)).context("--until")?;
    let trainer = Trainer { config: &workspace.config, history: &history, until, n_threads };
    let tell = |progress| stages.tell(progress);
    let fitted = trainer.fit(&tell)?;
    stages.start("gate");
    let active = workspace.shelf.active().ok().map(|id| workspace.shelf.open(&id)).transpose();
    let active = active.unwrap_or_else(|error| {
        eprintln!("warning: the active release is not compared with: {}", with_causes(&error));
        None
    });
    let verdict = judge(&fitted, active, &history, n_threads);
    let mut release = trainer.finish(fitted, verdict.metrics(), &tell)?;
    stages.start("writing the release");
    release.save(workspace.shelf.folder(), history.items.names())?;
    let id = release.manifest.id.clone();
    if verdict.passed {
        workspace.shelf.activate(&id)?;
        announce(&workspace.config, &id);
    }
    stages.finish();
    Ok(Trained { id, verdict })
}
