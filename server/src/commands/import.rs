//! `cascade import`: files into the event log and the catalogue.

use std::path::PathBuf;

use anyhow::Context;
use engine::config::Config;
use featurestore::log::{EventLog, FsyncPolicy};
use featurestore::readers::{Content, Format, Import as Importer, Imported, Input};
use serde_json::json;

use super::init::{movielens_toml, write_config};
use super::{Global, Outcome, UsageError};
use crate::workspace::Workspace;

/// Append files to the event log and the catalogue.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Files of events.
    #[arg(long, num_args = 1..)]
    events: Vec<PathBuf>,
    /// Files of items.
    #[arg(long, num_args = 1..)]
    items: Vec<PathBuf>,
    /// Files of users.
    #[arg(long, num_args = 1..)]
    users: Vec<PathBuf>,
    /// How the files are written: auto, csv, jsonl, parquet or movielens.
    #[arg(long, default_value = "auto")]
    format: String,
    /// The largest share of bad rows that is skipped; past it nothing is imported.
    #[arg(long, default_value = "1%")]
    max_bad: String,
}

impl Import {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        if self.format == "movielens" && !global.config.exists() {
            write_config(&global.config, &movielens_toml()?)?;
            eprintln!("wrote {}, since there was none", global.config.display());
        }
        let workspace = Workspace::new(Config::read(&global.config)?);
        let imported = import(&workspace, &self.inputs(&workspace.config)?, self.max_bad()?)?;
        report(&imported, global.json);
        Ok(Outcome::Done)
    }

    fn max_bad(&self) -> anyhow::Result<f64> {
        let (text, per) = match self.max_bad.strip_suffix('%') {
            Some(text) => (text, 100.0),
            None => (self.max_bad.as_str(), 1.0),
        };
        let share = text.trim().parse::<f64>().map(|number| number / per);
        match share {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
            _ => Err(UsageError(format!(
                "--max-bad {:?} is not a share, as 1% or 0.01",
                self.max_bad
            ))
            .into()),
        }
    }

    fn inputs(&self, config: &Config) -> anyhow::Result<Vec<Input>> {
        if self.events.len() + self.items.len() + self.users.len() == 0 {
            let usage = "nothing to import: give files by --events, --items or --users";
            return Err(UsageError(usage.into()).into());
        }
        let is_movielens = self.format == "movielens";
        let format = if is_movielens { Format::Auto } else { self.format.parse()? };
        let missing = |kind: &str| {
            UsageError(format!(
                "the configuration has no [import.{kind}], which says which column is what; \
                 `cascade init` infers it"
            ))
        };
        let import = &config.import;
        let mut inputs = Vec::new();
        // The catalogue first, so that its items are there when their events come.
        let mut add = |paths: &[PathBuf], content: &dyn Fn() -> Result<Content, UsageError>| {
            for path in paths {
                let content = if is_movielens { Content::MovieLens } else { content()? };
                inputs.push(Input { path: path.clone(), format, content });
            }
            Ok::<(), UsageError>(())
        };
        add(&self.users, &|| {
            import.users.clone().map(Content::Users).ok_or_else(|| missing("users"))
        })?;
        add(&self.items, &|| {
            import.items.clone().map(Content::Items).ok_or_else(|| missing("items"))
        })?;
        add(&self.events, &|| {
            import.events.clone().map(Content::Events).ok_or_else(|| missing("events"))
        })?;
        Ok(inputs)
    }
}

/// Appends `inputs` to the log of `workspace`.
pub(crate) fn import(
    workspace: &Workspace,
    inputs: &[Input],
    max_bad: f64,
) -> anyhow::Result<Imported> {
    let folder = workspace.log_dir();
    let opened = EventLog::open(&folder, FsyncPolicy::Never);
    let (mut log, opened) =
        opened.with_context(|| format!("the event log in {}", folder.display()))?;
    if opened.cut_bytes > 0 {
        eprintln!(
            "warning: {} bytes of an unfinished write at the end of the log were cut",
            opened.cut_bytes
        );
    }
    Ok(Importer { max_bad }.run(inputs, &mut log)?)
}

/// Prints what was imported.
pub(crate) fn report(imported: &Imported, json: bool) {
    for bad in &imported.bad {
        eprintln!("skipped: {bad}");
    }
    let Imported { n_rows, n_accepted, n_duplicate, n_bad, .. } = imported;
    if json {
        let bad: Vec<String> = imported.bad.iter().map(ToString::to_string).collect();
        let object = json!({
            "rows": n_rows, "accepted": n_accepted, "duplicate": n_duplicate, "rejected": n_bad, "errors": bad,
        });
        println!("{object}");
    } else {
        println!(
            "imported {n_accepted} of {n_rows} rows; {n_duplicate} were there before, {n_bad} are bad"
        );
    }
}
