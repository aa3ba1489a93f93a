//! The folder that a configuration points at: the event log, the releases, the state.

use std::path::PathBuf;

use anyhow::Context;
use engine::config::{Config, StoreKind};
use engine::replica::announce_release;
use engine::shelf::Shelf;
use engine::state::log_folder;
use featurestore::history::{History, HistoryBuilder};
use featurestore::log::{EventLog, Position};
use featurestore::{Schema, Timestamp};

/// An opened configuration with the places that it names.
pub(crate) struct Workspace {
    /// The checked configuration.
    pub(crate) config: Config,
    /// Events, users and items as the configuration types them.
    pub(crate) schema: Schema,
    /// The trained releases.
    pub(crate) shelf: Shelf,
}

impl Workspace {
    /// Opens the workspace of a configuration.
    pub(crate) fn new(config: Config) -> Self {
        let (schema, shelf) = (config.schema(), Shelf::new(&config.data_dir));
        Self { config, schema, shelf }
    }

    /// Folder of the event log.
    pub(crate) fn log_dir(&self) -> PathBuf {
        log_folder(&self.config.data_dir)
    }

    /// Reads the whole event log.
    pub(crate) fn history(&self) -> anyhow::Result<History> {
        let folder = self.log_dir();
        let reader = EventLog::reader(&folder, Position::START)
            .with_context(|| format!("the event log in {} cannot be opened", folder.display()))?;
        let mut builder = HistoryBuilder::new(&self.schema);
        for record in reader {
            builder.push(&record?);
        }
        let history = builder.build();
        for (kind, n) in &history.unknown_types {
            eprintln!(
                "warning: {n} events of type {kind:?} are left out: there is no [events.{kind}]"
            );
        }
        if history.n_anonymous > 0 {
            eprintln!(
                "warning: {} events with neither user nor session are left out",
                history.n_anonymous
            );
        }
        Ok(history)
    }
}

/// Tells the servers that share a Redis, if there is one, that the release called `id` is active now. They are told again
/// when it is activated again, so a Redis that does not answer is a warning only.
pub(crate) fn announce(config: &Config, id: &str) {
    if config.store.kind == StoreKind::Redis
        && let Err(error) = announce_release(&config.store, id)
    {
        eprintln!("warning: servers that run now do not hear of release {id}: {error}");
    }
}

/// A point in the data: a time, or a share of the span of its events as `80%`.
pub(crate) fn point_in(history: &History, text: &str) -> anyhow::Result<Timestamp> {
    let Some(percent) = text.strip_suffix('%') else { return Ok(Timestamp::parse(text)?) };
    let share: f64 = percent.trim().parse().with_context(|| format!("{text:?} is not a share"))?;
    anyhow::ensure!((0.0..=100.0).contains(&share), "{text} is not from 0% to 100%");
    let (first, last) = history.span().context("the event log is empty")?;
    Ok(Timestamp(first.0 + ((last.0 - first.0) as f64 * share / 100.0) as i64))
}
