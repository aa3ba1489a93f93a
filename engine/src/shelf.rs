//! The shelf of trained releases: one folder each, and a file that names the active one.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::release::{Manifest, OpenReleaseError, Release, read_manifest};

/// The shelf in a data folder.
#[derive(Clone, Debug)]
pub struct Shelf {
    folder: PathBuf,
}

/// The file that names the active release, and behind it those that were active before, the latest first.
const ACTIVE: &str = "ACTIVE";

/// How many earlier activations are remembered for a rollback.
const MAX_EARLIER: usize = 50;

/// Name of a release, and its manifest or the reason why it cannot be read.
pub type Listed = (String, Result<Manifest, OpenReleaseError>);

/// Why a release cannot be activated or found.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// No release is active.
    #[error("no release is active in {}: train one with `cascade train`", folder.display())]
    NoneActive {
        /// The shelf.
        folder: PathBuf,
    },
    /// There is none of that name.
    #[error("there is no release {id:?} in {}; `cascade releases list` shows those there are", folder.display())]
    Unknown {
        /// The name.
        id: String,
        /// The shelf.
        folder: PathBuf,
    },
    /// No release was active before this one.
    #[error("no release was active before {active:?}: there is nothing to roll back to")]
    NothingBefore {
        /// The active one.
        active: String,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The release is damaged.
    #[error("release {id:?} is refused")]
    Refused {
        /// The name.
        id: String,
        /// Why.
        source: OpenReleaseError,
    },
}

impl Shelf {
    /// The shelf in `data_dir`, which need not exist yet.
    pub fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("releases") }
    }

    /// Where releases are written to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The releases, by name, each with its manifest or the reason why it cannot be read.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Listed>, ShelfError> {
        let fail = |source| ShelfError::Io { path: self.folder.clone(), source };
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(fail)?,
        };
        let mut releases = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() && !name.starts_with('.') {
                releases.push((name, read_manifest(&entry.path())));
            }
        }
        releases.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(releases)
    }

    /// Name of the active release.
    ///
    /// # Errors
    /// If there is none, or the file that names it cannot be read.
    pub fn active(&self) -> Result<String, ShelfError> {
        let first = self.activations()?.into_iter().next();
        first.ok_or_else(|| ShelfError::NoneActive { folder: self.folder.clone() })
    }

    fn activations(&self) -> Result<Vec<String>, ShelfError> {
        let path = self.folder.join(ACTIVE);
        match fs::read_to_string(&path) {
            Ok(text) => {
                Ok(text.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(ShelfError::Io { path, source }),
        }
    }

    /// Opens the release called `id`.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn open(&self, id: &str) -> Result<Release, ShelfError> {
        let path = self.path_of(id)?;
        Release::open(&path).map_err(|source| ShelfError::Refused { id: id.into(), source })
    }

    /// Folder of the release called `id`.
    ///
    /// # Errors
    /// If there is none.
    pub fn path_of(&self, id: &str) -> Result<PathBuf, ShelfError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        let path = self.folder.join(id);
        if id.is_empty() || !id.chars().all(plain) || !path.is_dir() {
            return Err(ShelfError::Unknown { id: id.into(), folder: self.folder.clone() });
        }
        Ok(path)
    }

    /// Makes the release called `id` the active one, after opening it whole.
    ///
    /// # Errors
    /// If it is damaged or there is none: the active one stays.
    pub fn activate(&self, id: &str) -> Result<(), ShelfError> {
        self.open(id)?;
        let mut activations = self.activations()?;
        if activations.first().map(String::as_str) != Some(id) {
            activations.insert(0, id.to_owned());
        }
        self.write(&activations)
    }

    /// Makes the release that was active before the active one; returns its name.
    ///
    /// # Errors
    /// If none was, or it is damaged: the active one stays.
    pub fn rollback(&self) -> Result<String, ShelfError> {
        let mut activations = self.activations()?;
        if activations.is_empty() {
            return Err(ShelfError::NoneActive { folder: self.folder.clone() });
        }
        let active = activations.remove(0);
        let Some(before) = activations.first().cloned() else {
            return Err(ShelfError::NothingBefore { active });
        };
        self.open(&before)?;
        self.write(&activations)?;
        Ok(before)
    }

    fn write(&self, activations: &[String]) -> Result<(), ShelfError> {
        // Several servers may write it at once, each to the same effect.
        let aside = self.folder.join(format!(".ACTIVE.{}", std::process::id()));
        let path = self.folder.join(ACTIVE);
        let text =
            activations.iter().take(MAX_EARLIER).map(|id| format!("{id}\n")).collect::<String>();
        let written = fs::File::create(&aside)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&aside, &path))
            .and_then(|()| fs::File::open(&self.folder)?.sync_all());
        written.map_err(|source| ShelfError::Io { path, source })
    }
}
