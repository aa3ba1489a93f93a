//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::{Path, PathBuf};

use featurestore::schema::{FeatureError, nearest_name};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {} (`cascade init` writes one from your files)", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("{}", .0)]
    Parse(Misplaced),
    /// A value is not possible.
    #[error("{}: `{key}` is {value}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Where in it.
        key: String,
        /// What stands there.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A feature cannot be computed.
    #[error("{} has a feature that cannot be computed", path.display())]
    Feature {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FeatureError,
    },
}

/// A place in a configuration file and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What stands there.
    pub value: String,
    /// What is wrong with it.
    pub message: String,
    /// The known name that is most like it.
    pub nearest: Option<String>,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, value, message, nearest } = self;
        write!(f, "{}:{line}:{column}: at `{value}`: {message}", path.display())?;
        match nearest {
            Some(name) => write!(f, "; did you mean `{name}`?"),
            None => Ok(()),
        }
    }
}

/// Where `error` is in `text`, and the name that was probably meant.
pub(super) fn misplaced(error: &toml::de::Error, text: &str, path: &Path) -> Misplaced {
    let span = error.span().unwrap_or(0..0);
    let before = &text[..span.start.min(text.len())];
    let value: String =
        text.get(span).unwrap_or("").lines().next().unwrap_or("").chars().take(60).collect();
    let message = error.message().to_owned();
    // serde lists the names that it knows between backticks, the unknown one first.
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = if message.starts_with("unknown") { names.next() } else { None };
    let nearest = unknown.and_then(|name| nearest_name(name, names));
    Misplaced {
        path: path.into(),
        line: before.matches('\n').count() + 1,
        column: before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1,
        value,
        message,
        nearest,
    }
}
