//! `cascade releases`: the shelf of trained releases.

use anyhow::Context;
use clap::Subcommand;
use engine::config::Config;
use engine::shelf::{Listed, Shelf};
use serde_json::json;

use super::{Global, Outcome};
use crate::causes::with_causes;
use crate::workspace::announce;

/// The shelf of trained releases.
#[derive(Debug, clap::Args)]
pub(crate) struct Releases {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// All releases, the active one marked.
    List,
    /// What a release says of itself.
    Show {
        /// Name of the release; left out: the active one.
        id: Option<String>,
    },
    /// Check a release and make it the active one.
    Activate {
        /// Name of the release.
        id: String,
    },
    /// Make the release active that was before.
    Rollback,
    /// What differs between two releases.
    Diff {
        /// Name of a release.
        a: String,
        /// Name of another.
        b: String,
    },
}

impl Releases {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let config = Config::read(&global.config)?;
        let shelf = Shelf::new(&config.data_dir);
        match &self.action {
            Action::List => list(&shelf, global.json),
            Action::Show { id } => show(&shelf, id.as_deref()),
            Action::Activate { id } => {
                shelf.activate(id)?;
                announce(&config, id);
                report(global.json, id)
            }
            Action::Rollback => {
                let id = shelf.rollback()?;
                announce(&config, &id);
                report(global.json, &id)
            }
            Action::Diff { a, b } => diff(&shelf, a, b, global.json),
        }
    }
}

fn report(json: bool, active: &str) -> anyhow::Result<Outcome> {
    if json {
        println!("{}", json!({ "active": active }));
    } else {
        println!("active: {active}");
    }
    Ok(Outcome::Done)
}

fn list(shelf: &Shelf, json: bool) -> anyhow::Result<Outcome> {
    let active = shelf.active().ok();
    let releases = shelf.list()?;
    if json {
        let entry = |(id, manifest): &Listed| match manifest {
            Ok(manifest) => {
                json!({ "id": id, "active": active.as_ref() == Some(id), "manifest": manifest })
            }
            Err(error) => json!({ "id": id, "active": false, "error": with_causes(error) }),
        };
        println!("{}", json!({ "releases": releases.iter().map(entry).collect::<Vec<_>>() }));
        return Ok(Outcome::Done);
    }
    if releases.is_empty() {
        println!("no releases yet: train one with `cascade train`");
    }
    for (id, manifest) in &releases {
        let mark = if active.as_ref() == Some(id) { '*' } else { ' ' };
        match manifest {
            Ok(manifest) => {
                let metric = manifest.metrics.get("gate_ndcg@10").copied().unwrap_or(f64::NAN);
                println!("{mark} {id}  until {}  gate ndcg@10 {metric:.4}", manifest.data.until);
            }
            Err(error) => println!("! {id}  {}", with_causes(error)),
        }
    }
    Ok(Outcome::Done)
}

fn show(shelf: &Shelf, id: Option<&str>) -> anyhow::Result<Outcome> {
    let id = id.map_or_else(|| shelf.active(), |id| Ok(id.to_owned()))?;
    let release = shelf.open(&id)?;
    println!("{}", serde_json::to_string_pretty(&release.manifest)?);
    Ok(Outcome::Done)
}

fn diff(shelf: &Shelf, a: &str, b: &str, json: bool) -> anyhow::Result<Outcome> {
    let flat = |id: &str| -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
        let release = shelf.open(id)?;
        let mut flat = serde_json::Map::new();
        flatten("manifest", &serde_json::to_value(&release.manifest)?, &mut flat);
        flatten("config", &serde_json::to_value(release.portable_config())?, &mut flat);
        Ok(flat)
    };
    let (left, right) =
        (flat(a).context("the first release")?, flat(b).context("the second release")?);
    let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
    let changed = keys.filter(|key| left.get(*key) != right.get(*key));
    let mut differences = serde_json::Map::new();
    for key in changed {
        differences.insert(key.clone(), json!([left.get(key), right.get(key)]));
    }
    if json {
        println!("{}", json!({ "differences": differences }));
    } else {
        for (key, pair) in &differences {
            println!("{key}: {} -> {}", pair[0], pair[1]);
        }
    }
    Ok(Outcome::Done)
}

/// Values by their path, so that two documents can be compared line by line.
fn flatten(
    path: &str,
    value: &serde_json::Value,
    flat: &mut serde_json::Map<String, serde_json::Value>,
) {
    match value {
        serde_json::Value::Object(map) => {
            map.iter().for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, flat));
        }
        serde_json::Value::Array(values) => {
            for (i, value) in values.iter().enumerate() {
                flatten(&format!("{path}[{i}]"), value, flat);
            }
        }
        other => drop(flat.insert(path.to_owned(), other.clone())),
    }
}
