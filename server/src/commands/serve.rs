//! `cascade serve`: the active release over HTTP.

use std::io::Write;

use anyhow::Context;
use clap::ValueEnum;
use engine::clock::Clock;
use engine::config::Config;
use featurestore::Timestamp;
use serde_json::json;

use super::{Global, Outcome};
use crate::http;
use crate::workspace::Workspace;

/// Serve the active release over HTTP and take in events.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Address and port; port 0 takes a free one. Left out: as configured.
    #[arg(long)]
    listen: Option<String>,
    /// The time that it is: that of the system, or of the data, going on from its last event.
    #[arg(long, value_enum, default_value_t = ClockKind::Wall)]
    clock: ClockKind,
}

/// Which clock is served by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClockKind {
    /// That of the system.
    Wall,
    /// As if the last event had just happened: for data from the past.
    Data,
}

impl Serve {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let workspace = Workspace::new(Config::read(&global.config)?);
        let announce = |url: &str, admin: Option<&str>| announce(url, admin, global.json);
        serve(&workspace, self.listen.as_deref(), self.clock, announce)?;
        Ok(Outcome::Done)
    }
}

/// Serves until told to end.
pub(crate) fn serve(
    workspace: &Workspace,
    listen: Option<&str>,
    clock: ClockKind,
    listening: impl FnOnce(&str, Option<&str>),
) -> anyhow::Result<()> {
    let clock = match clock {
        ClockKind::Wall => Clock::default(),
        ClockKind::Data => {
            let (_, last) = workspace.history()?.span().context("the event log is empty")?;
            Clock::starting_at(Timestamp(last.0 + 1))
        }
    };
    let listen = listen.unwrap_or(&workspace.config.server.listen);
    http::serve(&workspace.config, listen, clock, listening)
}

/// Prints the address, so that a program that waits for it sees it at once.
fn announce(url: &str, admin: Option<&str>, as_json: bool) {
    match (as_json, admin) {
        (true, None) => println!("{}", json!({ "listening": url })),
        (true, Some(admin)) => println!("{}", json!({ "listening": url, "admin": admin })),
        (false, None) => println!("listening on {url}"),
        (false, Some(admin)) => println!("listening on {url}, administration on {admin}"),
    }
    // Nobody may be reading any more; the server goes on all the same.
    let _ = std::io::stdout().flush();
}
