//! `cascade init`: a commented configuration, inferred from files.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use engine::config::Config;
use featurestore::infer::{Files, infer};
use featurestore::readers::{Format, movielens};
use serde_json::json;

use super::{Global, Outcome};

/// Read files, infer columns, event types and fields, and write a commented cascade.toml.
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// What users did.
    #[arg(long)]
    events: PathBuf,
    /// The catalogue.
    #[arg(long)]
    items: Option<PathBuf>,
    /// What is known about users.
    #[arg(long)]
    users: Option<PathBuf>,
    /// How the files are written: auto, csv, jsonl, parquet or movielens.
    #[arg(long, default_value = "auto")]
    format: String,
    /// Replace a configuration that is there already.
    #[arg(long)]
    force: bool,
}

impl Init {
    pub(crate) fn run(&self, global: &Global) -> anyhow::Result<Outcome> {
        let path = &global.config;
        if path.exists() && !self.force {
            bail!("{} is there already; --force replaces it", path.display());
        }
        let text = match self.format.as_str() {
            "movielens" => movielens_toml()?,
            _ => self.inferred()?,
        };
        write_config(path, &text)?;
        if global.json {
            println!("{}", json!({ "config": path }));
        } else {
            println!(
                "wrote {}: read it, then `cascade check` and `cascade import`",
                path.display()
            );
        }
        Ok(Outcome::Done)
    }

    fn inferred(&self) -> anyhow::Result<String> {
        let format: Format = self.format.parse()?;
        let (events, items, users) = (self.events.clone(), self.items.clone(), self.users.clone());
        Ok(infer(&Files { events, items, users, format })?.to_toml())
    }
}

/// The configuration of a MovieLens data set: its columns are known.
pub(crate) fn movielens_toml() -> anyhow::Result<String> {
    let schema = movielens::schema();
    let mut text = String::from(
        "# Cascade on a MovieLens data set. A rating of 4 or more is a `like`, which a good list leads to; any other\n\
         # says that the film was seen.\n\ndata_dir = \"cascade-data\"\n",
    );
    for (name, event) in &schema.events {
        text.push_str(&format!("\n[events.{name}]\n{}", toml::to_string(event)?));
    }
    text.push_str(&format!("\n[items.fields]\n{}", toml::to_string(&schema.item_fields)?));
    text.push_str(&format!("\n[users.fields]\n{}", toml::to_string(&schema.user_fields)?));
    text.push_str(
        "\n# A film is rated once: one that was rated is not shown again.\n[scenarios.home.rerank]\n\
         hide_seen = { events = [\"like\", \"rate\"] }\n",
    );
    Ok(text)
}

/// Writes a configuration, after it was read back as one.
pub(crate) fn write_config(path: &Path, text: &str) -> anyhow::Result<()> {
    Config::parse(text, path)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
