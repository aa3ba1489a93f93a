//! `cascade precompute`: the nightly lists.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use engine::config::Config;

use engine::pipeline::Pipeline;
use engine::precompute::{Job, precompute};
use engine::state::Watched;
use engine::stored_lists;
use featurestore::Timestamp;
use featurestore::history::SESSION_USER;
use indicatif::ProgressBar;
use serde_json::json;

use super::{Global, Outcome};
use crate::workspace::Workspace;

/// Compute the lists of all users through the same pipeline.
#[derive(Debug, clap::Args)]
pub(crate) struct Precompute {
    /// A file with one user id a line; left out: all users.
    #[arg(long)]
    users: Option<PathBuf>,
    /// Where to write the lists: a name that ends in .parquet or .jsonl.
    #[arg(long, required_unless_present = "to_store")]
    out: Option<PathBuf>,
    /// Write them into the data folder, where a server takes them from when it has no time to compute one.
    #[arg(long, conflicts_with = "out")]
    to_store: bool,
    /// Items per list.
    #[arg(long, default_value_t = 50)]
    n: usize,
    /// The placement; left out: the main one.
    #[arg(long)]
    scenario: Option<String>,
    /// The time that the lists are computed for; left out: that of the last event.
    #[arg(long)]
    at: Option<String>,
}

impl Precompute {
    /// The lists of all users into `out`, with what is usual for the rest.
    pub(crate) fn new(out: PathBuf) -> Self {
        Self { users: None, out: Some(out), to_store: false, n: 50, scenario: None, at: None }
    }

    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let workspace = Workspace::new(Config::read(&global.config)?);
        let release = Arc::new(workspace.shelf.open(&workspace.shelf.active()?)?);
        let mut watched = Watched::open(&workspace.config.data_dir, &release)?;
        let pipeline = Pipeline::new(release, watched.state().store().clone());
        let job = self.job(&pipeline)?;
        let out = self.out(&workspace, &job)?;
        let bar = ProgressBar::new(job.users.len() as u64);
        let started = Instant::now();
        let progress = |done: usize| bar.set_position(done as u64);
        let n_threads = global.n_threads();
        let made = precompute(&pipeline, &mut watched, &job, &out, n_threads, &progress)?;
        bar.finish_and_clear();
        let per_second = made.computed as f64 / started.elapsed().as_secs_f64();
        if global.json {
            let object = json!({
                "users": job.users.len(), "computed": made.computed, "resumed": made.resumed,
                "items": made.n_items, "bytes": made.bytes, "users_per_second": per_second,
            });
            println!("{object}");
        } else {
            println!(
                "{}: lists of {} users, {} items, {} bytes ({:.1} an item); {} users computed now, {:.0} users/s",
                out.display(),
                job.users.len(),
                made.n_items,
                made.bytes,
                made.bytes as f64 / made.n_items.max(1) as f64,
                made.computed,
                per_second
            );
        }
        Ok(Outcome::Done)
    }

    fn out(&self, workspace: &Workspace, job: &Job) -> anyhow::Result<PathBuf> {
        let Some(out) = &self.out else {
            let path = stored_lists::path(&workspace.config.data_dir, &job.scenario);
            let folder = path.parent().expect("it is in a folder");
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            return Ok(path);
        };
        Ok(out.clone())
    }

    fn job(&self, pipeline: &Pipeline) -> anyhow::Result<Job> {
        let (latest, n_events) = pipeline.store().view(|view| (view.latest(), view.n_events()));
        let release = pipeline.release();
        let now = self.at.as_deref().map_or(Ok(latest), Timestamp::parse).context("--at")?;
        let main = release.config.main_scenario();
        Ok(Job {
            release: release.manifest.id.clone(),
            scenario: self.scenario.clone().unwrap_or_else(|| main.to_owned()),
            now,
            n: self.n,
            n_events,
            users: self.user_names(pipeline)?,
        })
    }

    fn user_names(&self, pipeline: &Pipeline) -> anyhow::Result<Vec<String>> {
        let Some(path) = &self.users else {
            return Ok(pipeline.store().view(|view| {
                let users = view.users();
                // Neither those who were deleted, nor the names of those who stand for another.
                let ids = (0..users.len() as u32).filter(|id| !users.is_gone(*id));
                let names = ids.filter(|id| users.resolve(*id) == *id);
                let names = names.filter_map(|id| users.names().name(id));
                names.filter(|name| !name.starts_with(SESSION_USER)).map(str::to_owned).collect()
            }));
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}
