//! A release: everything that is served together. A folder that describes itself and is never written to again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use featurestore::readers::ImportMaps;
use featurestore::schema::Feature;
use featurestore::{EventTypeId, FeaturePlan, Names, PlanBuilder, Timestamp};
use ranking::calibration::Calibration;
use ranking::forest::{Forest, OpenForestError};
use ranking::ranker::Ranker;
use ranking::value::{Objective, ValueModel};
use reranking::RerankConfig;
use retrieval::mapped::OpenError;
use retrieval::models::Models;
use retrieval::sources::Source;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{Budget, Config, ConfigError, Scenario};
use crate::embedding_import::EmbeddingImport;
use crate::seen::SeenRule;

/// The format of the folder; one that this program does not know is refused.
pub const FORMAT: u32 = 3;

/// Largest manifest that is read, in bytes.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

const MANIFEST: &str = "manifest.json";
const CONFIG: &str = "config.toml";
const RANKER: &str = "ranker.forest";
const RANKER_TEXT: &str = "ranker.txt";
const CALIBRATION: &str = "calibration.json";
const ITEMS: &str = "items.json";

/// What a release says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of the folder.
    pub format: u32,
    /// Name of the release: made of its content, so that the same content has the same name.
    pub id: String,
    /// The data that it was trained on.
    pub data: DataSpan,
    /// The inputs of the ranker, in the order of its columns.
    pub features: Vec<String>,
    /// Start of every random sequence of the training.
    pub seed: u64,
    /// Figures from the training and the gate, by name.
    pub metrics: BTreeMap<String, f64>,
    /// Every other file of the folder.
    pub files: BTreeMap<String, FileEntry>,
}

/// The data that a release was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpan {
    /// Time of the first event.
    pub from: Timestamp,
    /// No event from here on was used.
    pub until: Timestamp,
    /// How many events.
    pub n_events: usize,
    /// How many items had a number.
    pub n_items: usize,
    /// How many users had a number.
    pub n_users: usize,
    /// Digest of the names of the items in the order of their numbers.
    pub items_digest: String,
}

/// Size and checksum of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// In bytes.
    pub bytes: u64,
    /// In hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// The name that follows from everything else in the manifest: the end of the data, and a digest.
    fn content_id(&self) -> String {
        let unnamed = Self { id: String::new(), ..self.clone() };
        let unnamed =
            serde_json::to_vec(&unnamed).expect("a manifest has string keys and no failing type");
        let day = self.data.until.to_string();
        let day = day.split('T').next().unwrap_or_default();
        format!("{day}-{}", &hex(&Sha256::digest(&unnamed))[..12])
    }
}

/// A placement, with everything that it needs resolved.
#[derive(Clone, Debug)]
pub struct ScenarioPlan {
    /// What the configuration calls it.
    pub name: String,
    /// What proposes candidates.
    pub sources: Vec<Source>,
    /// Most candidates that are ranked.
    pub candidates: usize,
    /// How many of the ranked ones are re-ranked.
    pub top: usize,
    /// Time that a request and its stages may take.
    pub budget: Budget,
    /// What the release's objectives are worth; `None`: candidates are ordered by the ranker.
    pub value: Option<ValueModel>,
    /// Rules of the last stage.
    pub rerank: RerankConfig,
    /// Which items a user has seen enough of.
    pub hide_seen: Option<SeenRule>,
}

/// The parts of a release that follow from its configuration alone.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The inputs of the ranker, in the order of its columns.
    pub features: Vec<Feature>,
    /// What the store must remember.
    pub plan: Arc<FeaturePlan>,
    /// Placements by name.
    pub scenarios: BTreeMap<String, ScenarioPlan>,
    /// Weight of each event type.
    pub weights: Vec<f32>,
}

impl Layout {
    /// Resolves a checked configuration.
    pub fn new(config: &Config) -> Self {
        let schema = config.schema();
        let features =
            config.resolved_features().expect("a configuration was checked when it was read");
        let mut builder = PlanBuilder::new(&schema);
        for (column, feature) in features.iter().enumerate() {
            builder.feature(column, feature);
        }
        let mut scenarios = BTreeMap::new();
        for (name, scenario) in &config.scenarios {
            scenarios.insert(name.clone(), scenario_plan(name, scenario, &mut builder, config));
        }
        Self { features, plan: Arc::new(builder.build()), scenarios, weights: schema.weights() }
    }
}

fn scenario_plan(
    name: &str,
    scenario: &Scenario,
    builder: &mut PlanBuilder<'_>,
    config: &Config,
) -> ScenarioPlan {
    let entries = scenario.sources.iter();
    ScenarioPlan {
        name: name.to_owned(),
        sources: entries.filter_map(|entry| Source::new(entry, builder)).collect(),
        candidates: scenario.candidates,
        top: scenario.top,
        budget: scenario.budget,
        value: (!scenario.value.is_empty())
            .then(|| ValueModel { weights: scenario.value.clone().into_iter().collect() }),
        rerank: scenario.rerank.clone(),
        hide_seen: scenario
            .rerank
            .hide_seen
            .as_ref()
            .map(|rule| SeenRule::new(rule, &config.schema())),
    }
}

/// Everything that is served together.
pub struct Release {
    /// What it says of itself.
    pub manifest: Manifest,
    /// The configuration that it was trained under.
    pub config: Config,
    /// What follows from the configuration.
    pub layout: Layout,
    /// Embeddings, their index, and item-item rows.
    pub models: Models,
    /// The trained ranker; without one, candidates stay in the order of their sources.
    pub ranker: Option<Ranker>,
    /// The text of the trained forest as LightGBM wrote it, kept for audits.
    pub ranker_text: Option<String>,
    /// What turns the ranker's scores into probabilities of being relevant; a trained ranker has one.
    pub calibration: Option<Calibration>,
    /// What value models weigh, by event type. A release with a ranker has all that its configuration names.
    pub objectives: BTreeMap<String, Objective>,
}

impl std::ops::Deref for Release {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

/// Why a release cannot be served. The server keeps the one in service in every case.
#[derive(Debug, thiserror::Error)]
pub enum OpenReleaseError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{} is not a manifest: {reason}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The format is not known.
    #[error("{} has format {found}, this program reads format {FORMAT}: train anew", path.display())]
    Format {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file is not the one that was written.
    #[error("{} has {what} {found}, but the manifest says {expected}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// `size` or `sha256`.
        what: &'static str,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// A file is missing in the manifest, or has a name that none may have.
    #[error("{}: {reason}", path.display())]
    File {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The configuration is not possible.
    #[error(transparent)]
    Config(#[from] Box<ConfigError>),
    /// A model of retrieval is not one.
    #[error(transparent)]
    Models(#[from] OpenError),
    /// The ranker is not one.
    #[error("{} is no ranker", path.display())]
    Ranker {
        /// The file.
        path: PathBuf,
        /// Why.
        source: OpenForestError,
    },
    /// The calibration is not one.
    #[error("{} is no calibration", path.display())]
    Calibration {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Why a release cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the release to {}", path.display())]
pub struct WriteReleaseError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Release {
    /// The type of event that says most of what a user likes: the first of those of the highest weight.
    pub fn heaviest_event(&self) -> EventTypeId {
        let kinds = self.weights.iter().enumerate();
        let heaviest = kinds.rev().max_by(|a, b| a.1.total_cmp(b.1));
        EventTypeId(heaviest.map_or(0, |(kind, _)| kind as u8))
    }

    /// Writes the release into a new folder `folder/ID` and returns it: beside first, then renamed. One of the same
    /// content that is there already is kept.
    ///
    /// # Errors
    /// If a file cannot be written; nothing is left behind then.
    pub fn save(
        &mut self,
        folder: &Path,
        item_names: &Names,
    ) -> Result<PathBuf, WriteReleaseError> {
        let aside = folder.join(format!(".writing-{}", std::process::id()));
        let fail = |source| WriteReleaseError { path: aside.clone(), source };
        let _ = fs::remove_dir_all(&aside);
        let written =
            fs::create_dir_all(&aside).and_then(|()| self.write_files(&aside, item_names));
        let result = written.and_then(|()| {
            let path = folder.join(&self.manifest.id);
            if path.exists() {
                fs::remove_dir_all(&aside)?;
            } else {
                fs::rename(&aside, &path)?;
                fs::File::open(folder)?.sync_all()?;
            }
            Ok(path)
        });
        result.map_err(|source| {
            let _ = fs::remove_dir_all(&aside);
            fail(source)
        })
    }

    fn write_files(&mut self, folder: &Path, item_names: &Names) -> io::Result<()> {
        self.models.save(folder)?;
        let config = toml::to_string_pretty(&self.portable_config()).map_err(io::Error::other)?;
        write_file(&folder.join(CONFIG), config.as_bytes())?;
        let names: Vec<&str> = item_names.iter().collect();
        write_file(&folder.join(ITEMS), &serde_json::to_vec(&names)?)?;
        if let Some(Ranker::Forest(forest)) = &self.ranker {
            write_file(&folder.join(RANKER), &forest.to_bytes())?;
        }
        if let Some(text) = &self.ranker_text {
            write_file(&folder.join(RANKER_TEXT), text.as_bytes())?;
        }
        if let Some(calibration) = &self.calibration {
            write_file(&folder.join(CALIBRATION), &serde_json::to_vec(calibration)?)?;
        }
        for (i, objective) in self.objectives.values().enumerate() {
            let (forest, calibration) = objective_files(i);
            if let Ranker::Forest(ranker) = &objective.ranker {
                write_file(&folder.join(forest), &ranker.to_bytes())?;
            }
            let objective = serde_json::to_vec(&objective.calibration)?;
            write_file(&folder.join(calibration), &objective)?;
        }
        self.manifest.files = list_files(folder)?;
        self.manifest.id = self.manifest.content_id();
        write_file(&folder.join(MANIFEST), &serde_json::to_vec_pretty(&self.manifest)?)
    }

    /// The configuration without the paths of the machine that it is on, and without keys.
    pub fn portable_config(&self) -> Config {
        let mut config = self.config.clone();
        let import = &mut config.training.embedding_import;
        *import = import.as_ref().map(EmbeddingImport::portable);
        config.server.keys.clear();
        Config { data_dir: "cascade-data".into(), import: ImportMaps::default(), ..config }
    }

    /// Opens the release in `folder`: every file is checked against the manifest, then mapped.
    ///
    /// # Errors
    /// If anything is missing, unknown, or not as it was written.
    pub fn open(folder: &Path) -> Result<Self, OpenReleaseError> {
        let manifest = read_manifest(folder)?;
        for (name, entry) in &manifest.files {
            check_file(folder, name, entry)?;
        }
        let file = |reason: String| OpenReleaseError::File { path: folder.into(), reason };
        for name in [CONFIG, ITEMS] {
            if !manifest.files.contains_key(name) {
                return Err(file(format!("the manifest has no {name}")));
            }
        }
        let config = Config::read(&folder.join(CONFIG)).map_err(Box::new)?;
        let layout = Layout::new(&config);
        let names: Vec<&str> =
            layout.features.iter().map(|feature| feature.name.as_str()).collect();
        if names != manifest.features {
            return Err(file("the features of config.toml are not those of the manifest".into()));
        }
        let models = Models::open(folder)?;
        let (ranker, calibration) = match manifest.files.contains_key(RANKER) {
            true => {
                let ranker = Ranker::Forest(open_forest(&folder.join(RANKER), &names)?);
                (Some(ranker), Some(open_calibration(&folder.join(CALIBRATION))?))
            }
            false => (None, None),
        };
        let mut objectives = BTreeMap::new();
        for (i, event) in config.objectives().into_iter().enumerate().filter(|_| ranker.is_some()) {
            let (forest, calibration) = objective_files(i);
            let ranker = Ranker::Forest(open_forest(&folder.join(forest), &names)?);
            let calibration = open_calibration(&folder.join(calibration))?;
            objectives.insert(event.to_owned(), Objective { ranker, calibration });
        }
        Ok(Self {
            manifest,
            config,
            layout,
            models,
            ranker,
            ranker_text: None,
            calibration,
            objectives,
        })
    }
}

/// Files of the objective in place `i` by name: its forest, and its calibration. An event type may have a name that no
/// file may have.
fn objective_files(i: usize) -> (String, String) {
    (format!("objective-{i}.forest"), format!("objective-{i}.json"))
}

fn open_forest(path: &Path, features: &[&str]) -> Result<Forest, OpenReleaseError> {
    let path = path.to_owned();
    let bytes =
        fs::read(&path).map_err(|source| OpenReleaseError::Read { path: path.clone(), source })?;
    match Forest::from_bytes(&bytes) {
        Ok(forest) if forest.names() == features => Ok(forest),
        Ok(_) => {
            let reason = "its features are not those of the manifest".into();
            Err(OpenReleaseError::File { path, reason })
        }
        Err(source) => Err(OpenReleaseError::Ranker { path, source }),
    }
}

fn open_calibration(path: &Path) -> Result<Calibration, OpenReleaseError> {
    let path = path.to_owned();
    let bytes =
        fs::read(&path).map_err(|source| OpenReleaseError::Read { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| OpenReleaseError::Calibration { path, source })
}

/// Reads the manifest of the release in `folder`, and nothing else of it.
///
/// # Errors
/// If it cannot be read or is not one.
pub fn read_manifest(folder: &Path) -> Result<Manifest, OpenReleaseError> {
    let path = folder.join(MANIFEST);
    let read = |source| OpenReleaseError::Read { path: path.clone(), source };
    let invalid = |reason: String| OpenReleaseError::Manifest { path: path.clone(), reason };
    let bytes = fs::metadata(&path).map_err(read)?.len();
    if bytes > MAX_MANIFEST_BYTES {
        return Err(invalid(format!("{bytes} bytes are more than {MAX_MANIFEST_BYTES}")));
    }
    let text = fs::read(&path).map_err(read)?;
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format: Format = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
    if format.format != FORMAT {
        return Err(OpenReleaseError::Format { path: folder.into(), found: format.format });
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
    let written = serde_json::to_vec_pretty(&manifest).map_err(|e| invalid(e.to_string()))?;
    if written != text || manifest.content_id() != manifest.id {
        return Err(invalid("it is not as it was written".into()));
    }
    Ok(manifest)
}

fn check_file(folder: &Path, name: &str, entry: &FileEntry) -> Result<(), OpenReleaseError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c);
    let path = folder.join(name);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
        let reason = format!("{name:?} is not a name that a file of a release may have");
        return Err(OpenReleaseError::File { path: folder.into(), reason });
    }
    let read = |source| OpenReleaseError::Read { path: path.clone(), source };
    let metadata = fs::symlink_metadata(&path).map_err(read)?;
    let changed = |what, found: String, expected: String| {
        Err(OpenReleaseError::Changed { path: path.clone(), what, found, expected })
    };
    if !metadata.is_file() || metadata.len() != entry.bytes {
        return changed("size", metadata.len().to_string(), entry.bytes.to_string());
    }
    let sha256 = sha256_of(&path).map_err(read)?;
    if sha256 != entry.sha256 {
        return changed("sha256", sha256, entry.sha256.clone());
    }
    Ok(())
}

fn list_files(folder: &Path) -> io::Result<BTreeMap<String, FileEntry>> {
    let mut files = BTreeMap::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        let entry = FileEntry { bytes: file.metadata()?.len(), sha256: sha256_of(&file.path())? };
        files.insert(name, entry);
    }
    Ok(files)
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut DigestWriter(&mut digest))?;
    Ok(hex(&digest.finalize()))
}

struct DigestWriter<'a>(&'a mut Sha256);

impl Write for DigestWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Digest of the first `n` names in the order of their numbers.
pub fn names_digest(names: &Names, n: usize) -> String {
    let mut digest = Sha256::new();
    for name in names.iter().take(n) {
        digest.update((name.len() as u32).to_le_bytes());
        digest.update(name.as_bytes());
    }
    hex(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ranking::calibration::Outcome;

    #[test]
    fn a_calibration_comes_back_as_it_was_written_or_is_refused() {
        let outcome = |i: u32| Outcome {
            score: f64::from((i as f32).sqrt() - 3.0),
            happened: i % 7 > i % 5,
            weight: 1.0,
        };
        let outcomes: Vec<Outcome> = (0..60).map(outcome).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CALIBRATION);
        for calibration in [Calibration::fit_platt(&outcomes), Calibration::fit_isotonic(&outcomes)]
        {
            let calibration = calibration.unwrap();
            write_file(&path, &serde_json::to_vec(&calibration).unwrap()).unwrap();
            assert_eq!(open_calibration(&path).unwrap(), calibration);
        }
        write_file(&path, br#"{"isotonic":[[0.0,0.5],[1.0,0.25]]}"#).unwrap();
        let error = open_calibration(&path).unwrap_err();
        assert!(error.to_string().ends_with("calibration.json is no calibration"), "{error}");
    }
}
