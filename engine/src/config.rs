//! One `cascade.toml`: read, checked, and filled up with defaults that follow from the data's schema.

mod error;
mod server;
mod store;
mod training;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use featurestore::Schema;
use featurestore::history::GroupBy;
use featurestore::readers::ImportMaps;
use featurestore::schema::{
    EventType, Feature, FeatureEntry, FeatureError, FieldKind, MAX_EVENT_FIELDS, MAX_EVENT_TYPES,
    VALUE_NAME, nearest_name,
};
use reranking::{KnownFields, RerankConfig};
use retrieval::sources::{SourceEntry, SourceKind};
use serde::{Deserialize, Serialize};

use crate::defaults;
use crate::keys;

pub use error::{ConfigError, Misplaced};
pub use server::{Fsync, ServerConfig};
pub use store::{StoreConfig, StoreKind, Urls};
pub use training::Training;

use error::misplaced;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of the event log, the releases and the snapshots; relative to the configuration file.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// Where the state lives.
    #[serde(default)]
    pub store: StoreConfig,
    /// What users do.
    #[serde(default)]
    pub events: BTreeMap<String, EventType>,
    /// What comes with events beside their values: numbers all of them.
    #[serde(default)]
    pub event_fields: BTreeMap<String, FieldKind>,
    /// Fields of items.
    #[serde(default)]
    pub items: EntityConfig,
    /// Fields of users.
    #[serde(default)]
    pub users: EntityConfig,
    /// How files are read: which column is what.
    #[serde(default)]
    pub import: ImportMaps,
    /// Inputs of the ranker; left out: derived from events and fields.
    #[serde(default)]
    pub features: Vec<FeatureEntry>,
    /// Placements by name; left out: one called `home`.
    #[serde(default)]
    pub scenarios: BTreeMap<String, Scenario>,
    /// How a release is trained.
    #[serde(default)]
    pub training: Training,
    /// How a release is judged.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// How the HTTP server behaves.
    #[serde(default)]
    pub server: ServerConfig,
}

fn default_data_dir() -> PathBuf {
    "cascade-data".into()
}

/// Fields of items or users.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntityConfig {
    /// Type of each field.
    #[serde(default)]
    pub fields: BTreeMap<String, FieldKind>,
}

/// A named placement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What proposes candidates; left out: a default set.
    pub sources: Vec<SourceEntry>,
    /// Most candidates that are ranked.
    pub candidates: usize,
    /// How many of the ranked ones are re-ranked.
    pub top: usize,
    /// Time that a request and its stages may take.
    pub budget: Budget,
    /// What an event of each type is worth; left out: candidates are ordered by the ranker.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub value: BTreeMap<String, f64>,
    /// Rules of the last stage.
    pub rerank: RerankConfig,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            candidates: 1_000,
            top: 100,
            budget: Budget::default(),
            value: BTreeMap::new(),
            rerank: RerankConfig::default(),
        }
    }
}

/// Milliseconds that a request and its stages may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// All stages together.
    pub total_ms: u32,
    /// Retrieval and filters.
    pub retrieve_ms: u32,
    /// Features and scores.
    pub rank_ms: u32,
    /// Rules and diversity.
    pub rerank_ms: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { total_ms: 80, retrieve_ms: 20, rank_ms: 50, rerank_ms: 10 }
    }
}

/// How a release is judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// What one question is made of; left out: sessions if the data has them, else single events.
    pub group_by: Option<GroupBy>,
    /// Cut-offs.
    pub k: Vec<usize>,
    /// Resamples of an interval.
    pub resamples: usize,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { group_by: None, k: vec![5, 10, 20], resamples: 1_000 }
    }
}

impl Config {
    /// Reads and checks the configuration in the file at `path`; relative paths in it are taken from its folder.
    ///
    /// # Errors
    /// If the file cannot be read, has an unknown key or a wrong type, or a value is not possible: with the place.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let mut config = Self::parse(&text, path)?;
        if let Some(folder) = path.parent() {
            config.data_dir = folder.join(&config.data_dir);
            if let Some(import) = &mut config.training.embedding_import {
                import.resolve(folder);
            }
        }
        Ok(config)
    }

    /// The configuration written in `text`; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let placed = |error| ConfigError::Parse(misplaced(&error, text, path));
        let mut config: Self = toml::from_str(text).map_err(placed)?;
        let tables: toml::Table = toml::from_str(text).map_err(placed)?;
        if let Some(toml::Value::Table(written)) = tables.get("training") {
            config.training = Training::over_defaults(written);
        }
        config.fill_up();
        config.check(path)?;
        Ok(config)
    }

    /// Event types and fields.
    pub fn schema(&self) -> Schema {
        Schema {
            events: self.events.clone(),
            item_fields: self.items.fields.clone(),
            user_fields: self.users.fields.clone(),
            event_fields: self.event_fields.clone(),
        }
    }

    /// The inputs of the ranker in the order of its columns.
    ///
    /// # Errors
    /// If a declared feature cannot be computed.
    pub fn resolved_features(&self) -> Result<Vec<Feature>, FeatureError> {
        let schema = self.schema();
        self.features.iter().map(|entry| entry.resolve(&schema)).collect()
    }

    /// The sources of all scenarios, each once, in the order of their names in the configuration.
    pub fn sources(&self) -> Vec<SourceEntry> {
        let mut sources: Vec<SourceEntry> = Vec::new();
        for entry in self.scenarios.values().flat_map(|scenario| &scenario.sources) {
            if !sources.iter().any(|known| known.name() == entry.name()) {
                sources.push(entry.clone());
            }
        }
        sources
    }

    /// The event types that a scenario's value model weighs, in the order of their names.
    pub fn objectives(&self) -> BTreeSet<&str> {
        self.scenarios
            .values()
            .flat_map(|scenario| scenario.value.keys())
            .map(String::as_str)
            .collect()
    }

    /// The scenario that the ranker is trained on and that a request without one gets: `home`, or else the first.
    pub fn main_scenario(&self) -> &str {
        let first = self.scenarios.keys().next().expect("there is always a scenario");
        if self.scenarios.contains_key("home") { "home" } else { first }
    }

    fn fill_up(&mut self) {
        // The columns of a file are called as the fields are, unless the import says otherwise.
        if let Some(map) = self.import.events.as_mut() {
            let fields = self.event_fields.keys().filter(|name| !map.properties.contains(name));
            let fields: Vec<String> = fields.cloned().collect();
            map.properties.extend(fields);
        }
        if let Some(map) = self.import.items.as_mut().filter(|map| map.fields.is_empty()) {
            map.fields = self.items.fields.clone();
        }
        if let Some(map) = self.import.users.as_mut().filter(|map| map.fields.is_empty()) {
            map.fields = self.users.fields.clone();
        }
        if self.scenarios.is_empty() {
            self.scenarios.insert("home".into(), Scenario::default());
        }
        let schema = self.schema();
        for scenario in self.scenarios.values_mut() {
            if scenario.sources.is_empty() {
                scenario.sources = defaults::sources(&schema);
            }
        }
        if self.features.is_empty() {
            // Events that come over HTTP or in a known format may have values; only a map of columns says that none has.
            let has_values = self.import.events.as_ref().is_none_or(|map| map.value.is_some());
            self.features = defaults::features(&schema, has_values, &self.sources());
        }
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let value = |key: &str, value: String, reason: &str| ConfigError::Value {
            path: path.into(),
            key: key.into(),
            value,
            reason: reason.into(),
        };
        if self.events.len() > MAX_EVENT_TYPES {
            return Err(value("events", self.events.len().to_string(), "at most 64 types"));
        }
        for (name, event) in &self.events {
            if !(0.0..=1e6).contains(&event.weight) {
                let key = format!("events.{name}.weight");
                return Err(value(&key, event.weight.to_string(), "must be from 0 to 1e6"));
            }
            if event.label > 31 {
                let key = format!("events.{name}.label");
                return Err(value(&key, event.label.to_string(), "must be from 0 to 31"));
            }
        }
        if let Some((key, found, reason)) = self.store.fault() {
            return Err(value(&format!("store.{key}"), found, reason));
        }
        if self.event_fields.len() > MAX_EVENT_FIELDS {
            let n = self.event_fields.len().to_string();
            return Err(value("event_fields", n, "at most 7 fields"));
        }
        for (name, kind) in &self.event_fields {
            let key = format!("event_fields.{name}");
            if name == VALUE_NAME {
                return Err(value(&key, name.clone(), "every event has a `value`: leave it out"));
            }
            if *kind != FieldKind::Number {
                let kind = format!("{kind:?}").to_lowercase();
                return Err(value(&key, kind, "must be \"number\""));
            }
        }
        if !(4..=10).contains(&self.training.negatives) {
            let negatives = self.training.negatives.to_string();
            return Err(value("training.negatives", negatives, "must be from 4 to 10"));
        }
        if !(0.0..=1.0).contains(&self.training.hard_share) {
            let share = self.training.hard_share.to_string();
            return Err(value("training.hard_share", share, "must be from 0 to 1"));
        }
        if !(1..=1_024).contains(&self.training.dim) {
            return Err(value(
                "training.dim",
                self.training.dim.to_string(),
                "must be from 1 to 1024",
            ));
        }
        if let Some(import) = &self.training.embedding_import {
            import.check().map_err(|(key, file, reason)| {
                let key = format!("training.embedding_import.{key}");
                value(&key, format!("{:?}", file.display().to_string()), reason)
            })?;
        }
        if let Some((key, found, reason)) = keys::fault(&self.server.keys) {
            return Err(value(&key, found, reason));
        }
        self.check_scenarios(&value)?;
        self.check_features(path)
    }

    fn check_scenarios(
        &self,
        value: &dyn Fn(&str, String, &str) -> ConfigError,
    ) -> Result<(), ConfigError> {
        let schema = self.schema();
        let of_kind = |kind| schema.item_fields_of(kind).collect::<Vec<_>>();
        let events: Vec<&str> = schema.events.keys().map(String::as_str).collect();
        let known = KnownFields {
            categories: &of_kind(FieldKind::Category),
            times: &of_kind(FieldKind::Time),
            events: &events,
        };
        for (name, scenario) in &self.scenarios {
            if scenario.candidates == 0 || scenario.candidates > 100_000 {
                let key = format!("scenarios.{name}.candidates");
                return Err(value(
                    &key,
                    scenario.candidates.to_string(),
                    "must be from 1 to 100000",
                ));
            }
            for source in &scenario.sources {
                let key = format!("scenarios.{name}.sources");
                source.check(&schema).map_err(|reason| value(&key, source.name(), &reason))?;
            }
            for (event, weight) in &scenario.value {
                let key = format!("scenarios.{name}.value.{event}");
                if !events.contains(&event.as_str()) {
                    let nearest = nearest_name(event, events.iter().copied())
                        .map_or_else(String::new, |nearest| format!("; did you mean {nearest:?}?"));
                    let reason = format!("there is no [events.{event}]{nearest}");
                    return Err(value(&key, weight.to_string(), &reason));
                }
                if *weight == 0.0 || !(-1e6..=1e6).contains(weight) {
                    let reason =
                        "must be from -1e6 to 1e6 and not 0: leave out what is worth nothing";
                    return Err(value(&key, weight.to_string(), reason));
                }
            }
            let rerank = scenario.rerank.validate(&known);
            let key = format!("scenarios.{name}.rerank");
            rerank.map_err(|reason| value(&key, "not possible".into(), &reason.to_string()))?;
        }
        Ok(())
    }

    fn check_features(&self, path: &Path) -> Result<(), ConfigError> {
        let fail = |source| ConfigError::Feature { path: path.into(), source };
        let features = self.resolved_features().map_err(fail)?;
        let mut names: Vec<&str> = features.iter().map(|feature| feature.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(fail(FeatureError::Twice { feature: pair[0].to_owned() })),
            None => Ok(()),
        }
    }
}

/// Whether `sources` has one of the kind.
pub(crate) fn has_kind(sources: &[SourceEntry], kind: SourceKind) -> bool {
    sources.iter().any(|source| source.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Config::parse(text, Path::new("cascade.toml")).unwrap_err().to_string()
    }

    #[test]
    fn a_misspelt_key_is_placed_and_answered_with_the_nearest() {
        let message = error("data_dir = \"x\"\n[scenarios.home]\ncandidats = 5\n");
        assert!(
            message.starts_with("cascade.toml:3:1: at `candidats`: unknown field"),
            "{message}"
        );
        assert!(message.ends_with("did you mean `candidates`?"), "{message}");
    }

    #[test]
    fn a_wrong_type_is_placed() {
        let message = error("[events.view]\nweight = \"much\"\n");
        assert!(message.starts_with("cascade.toml:2:10: at `\"much\"`"), "{message}");
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let message = error("[training]\nnegatives = 1\n");
        assert_eq!(message, "cascade.toml: `training.negatives` is 1: must be from 4 to 10");
    }

    #[test]
    fn a_field_of_events_is_a_number_and_is_read_from_its_column() {
        let error = |fields: &str| Config::parse(fields, Path::new("c")).unwrap_err().to_string();
        assert_eq!(
            error("[event_fields]\ncolour = \"category\"\n"),
            "c: `event_fields.colour` is category: must be \"number\""
        );
        assert_eq!(
            error("[event_fields]\nvalue = \"number\"\n"),
            "c: `event_fields.value` is value: every event has a `value`: leave it out"
        );
        let many = (0..8).map(|i| format!("f{i} = \"number\"\n")).collect::<String>();
        assert_eq!(
            error(&format!("[event_fields]\n{many}")),
            "c: `event_fields` is 8: at most 7 fields"
        );
        let text =
            "[event_fields]\npieces = \"number\"\n[import.events]\nitem = \"i\"\ntime = \"t\"\n";
        let config = Config::parse(text, Path::new("c")).unwrap();
        assert_eq!(config.import.events.as_ref().unwrap().properties, ["pieces"]);
        let means = config.features.iter().filter(|feature| feature.kind == "mean");
        let sums: Vec<_> = means.map(|feature| feature.sum.as_deref()).collect();
        assert_eq!(sums, [Some("pieces"); 4], "no column holds a value");
    }

    #[test]
    fn what_a_value_model_weighs_must_be_an_event_and_worth_something() {
        let of = |weights: &str| {
            error(&format!("[events.view]\n[events.purchase]\n[scenarios.home.value]\n{weights}"))
        };
        assert_eq!(
            of("purchas = 2"),
            "cascade.toml: `scenarios.home.value.purchas` is 2: there is no [events.purchas]; did you mean \"purchase\"?"
        );
        for weight in ["0", "nan", "inf", "-2e6"] {
            let message = of(&format!("view = {weight}"));
            assert!(message.contains("`scenarios.home.value.view` is"), "{message}");
        }
    }

    #[test]
    fn the_objectives_are_what_any_scenario_weighs() {
        let text = "[events.a]\n[events.b]\n[events.c]\n[scenarios.x]\nvalue = { c = 1, a = -0.5 }\n\
                    [scenarios.y]\nvalue = { a = 2.0 }\n[scenarios.z]\n";
        let config = Config::parse(text, Path::new("cascade.toml")).unwrap();
        assert_eq!(config.objectives().into_iter().collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn an_import_of_vectors_is_checked_before_the_files_are_read() {
        let of = |keys: &str| error(&format!("[training.embedding_import]\n{keys}"));
        let key = |key: &str, value: &str, reason: &str| {
            format!("cascade.toml: `training.embedding_import.{key}` is {value:?}: {reason}")
        };
        let message = of("items = \"v.csv\"");
        assert_eq!(message, key("items", "v.csv", "must end in .npy or .parquet"));
        let message = of("items = \"v.npy\"");
        assert!(message.starts_with(&key("items", "v.npy", "needs a text file")), "{message}");
        let message = of("items = \"v.parquet\"\nitem_ids = \"v.txt\"");
        assert!(message.starts_with(&key("items", "v.parquet", "has its ids in")), "{message}");
        let message = of("items = \"v.parquet\"\nuser_ids = \"u.txt\"");
        assert!(
            message.starts_with(&key("user_ids", "u.txt", "there are no `users`")),
            "{message}"
        );
    }

    #[test]
    fn a_key_of_a_table_of_training_leaves_the_other_keys_at_their_defaults() {
        let text = "[training.ranker]\nn_leaves = 15\n[training]\nco_visitation.max_steps = 2\n\
                    [training.cosine]\nshrink = 3\n";
        let training = Config::parse(text, Path::new("cascade.toml")).unwrap().training;
        let mut expected = Training::default();
        expected.ranker.n_leaves = 15;
        expected.co_visitation.max_steps = 2;
        expected.cosine.shrink = 3.0;
        assert_eq!(training, expected);
    }

    #[test]
    fn a_misspelt_key_or_a_wrong_type_in_a_table_of_training_is_placed() {
        let message = error("[training.ranker]\nn_leafs = 5\n");
        assert!(message.starts_with("cascade.toml:2:1: at `n_leafs`: unknown field"), "{message}");
        assert!(message.ends_with("did you mean `n_leaves`?"), "{message}");
        let message = error("[training.co_visitation]\nwindow = 5\n");
        assert!(message.starts_with("cascade.toml:2:10: at `5`"), "{message}");
    }

    #[test]
    fn a_configuration_is_read_as_it_was_written() {
        let text = "[training.ranker]\nn_leaves = 15\nlambda_l2 = 2\n[events.view]\n";
        let config = Config::parse(text, Path::new("cascade.toml")).unwrap();
        let written = toml::to_string_pretty(&config).unwrap();
        assert_eq!(Config::parse(&written, Path::new("cascade.toml")).unwrap(), config);
    }

    #[test]
    fn an_empty_configuration_has_a_scenario_with_sources() {
        let config = Config::parse("", Path::new("cascade.toml")).unwrap();
        assert!(!config.scenarios["home"].sources.is_empty());
    }
}
