//! `cascade compact`: what deleted users have done is taken out of the event log.

use anyhow::Context;
use engine::config::{Config, StoreKind};
use engine::replica::forget_shared;
use engine::state::compact_log;
use serde_json::json;

use super::{Global, Outcome};

/// Take what deleted users have done out of the event log; no server may use it meanwhile.
#[derive(Debug, clap::Args)]
pub(crate) struct Compact {}

impl Compact {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let config = Config::read(&global.config)?;
        let compacted = compact_log(&config.data_dir).context("the event log is as it was")?;
        if config.store.kind == StoreKind::Redis {
            forget_shared(&config.data_dir, &config.store)
                .context("the shared log in Redis still has its latest entries")?;
        }
        if global.json {
            println!("{}", json!({ "users": compacted.n_users, "records": compacted.n_records }));
        } else {
            let (users, records) = (compacted.n_users, compacted.n_records);
            println!(
                "{records} records of deleted users, under {users} names, were taken out of the event log"
            );
        }
        Ok(Outcome::Done)
    }
}
