//! LightGBM's text format, read by ourselves.
//!
//! LightGBM's own reader trusts its input: with three bytes changed it aborts, runs in circles or
//! reads and writes outside its arrays. This one is bounded by the length of the text, checks
//! everything, and names the line and the key that is off. It knows one tree for each iteration,
//! constant leaves, and the objectives lambdarank, binary and regression.

use std::collections::HashMap;
use std::str::FromStr;

use crate::forest::{Forest, InvalidTree, MAX_FEATURES, MAX_TREES, Output, RawTree};

/// The longest text that is read.
const MAX_TEXT_BYTES: usize = 1 << 30;

/// Why a text is no model that can be served. Lines count from 1.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ParseModelError {
    /// The text is longer than any model.
    #[error("{0} bytes are too long for a model")]
    TooLong(usize),
    /// The text does not start as a model of trees does.
    #[error("line 1: a model of trees starts with a line \"tree\"")]
    NoModel,
    /// The text ends within a tree or before the last one.
    #[error("line {line}: the text ends before \"end of trees\"")]
    CutOff {
        /// The last line.
        line: usize,
    },
    /// A line that has no place here.
    #[error("line {line}: {found:?} is not expected here")]
    Unexpected {
        /// The line.
        line: usize,
        /// How it starts.
        found: String,
    },
    /// A key stands twice.
    #[error("line {line}: {key} stands here a second time")]
    Twice {
        /// The line.
        line: usize,
        /// The key.
        key: String,
    },
    /// A key is missing.
    #[error("line {line}: the part that starts here has no {key}")]
    Missing {
        /// Where the header or tree starts.
        line: usize,
        /// The key.
        key: &'static str,
    },
    /// A value cannot be read or served.
    #[error("line {line}: {key} is {found:?}, but must be {expected}")]
    Value {
        /// The line.
        line: usize,
        /// The key.
        key: &'static str,
        /// How it starts.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// There are not as many of something as the text says elsewhere.
    #[error("line {line}: {key} gives {found}, but {expected} are needed")]
    Count {
        /// The line.
        line: usize,
        /// The key.
        key: &'static str,
        /// How many are needed.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A tree is not sound.
    #[error("line {line}: tree {tree} is not sound")]
    Tree {
        /// The line of the key that is off.
        line: usize,
        /// The tree.
        tree: usize,
        /// What is off.
        source: InvalidTree,
    },
}

/// Reads a model.
///
/// # Errors
/// Names the line and the key of the first thing that is off. No text makes it panic or loop.
pub fn parse(text: &str) -> Result<Forest, ParseModelError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(ParseModelError::TooLong(text.len()));
    }
    let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    if lines.next().is_none_or(|(_, line)| line != "tree") {
        return Err(ParseModelError::NoModel);
    }
    let (header, mut heading) = Section::read(1, &mut lines)?;
    let (names, output, n_trees) = read_header(&header)?;
    let (mut trees, mut sections) = (Vec::new(), Vec::new());
    while heading.text != "end of trees" {
        let line = heading.line;
        let number = heading.text.strip_prefix("Tree=").and_then(|number| number.parse().ok());
        if number != Some(trees.len()) || trees.len() == n_trees {
            return Err(ParseModelError::Unexpected { line, found: start_of(heading.text) });
        }
        let (section, next) = Section::read(line, &mut lines)?;
        heading = next;
        trees.push(read_tree(&section)?);
        sections.push(section);
    }
    if trees.len() != n_trees {
        let (line, key) = (header.line_of("tree_sizes"), "tree_sizes");
        return Err(ParseModelError::Count { line, key, expected: trees.len(), found: n_trees });
    }
    let unsound = |(tree, source): (usize, InvalidTree)| {
        let line = sections[tree].line_of(source.key());
        ParseModelError::Tree { line, tree, source }
    };
    Forest::build(names, output, &trees).map_err(unsound)
}

/// The line that ends a section: the name of the next tree, or the end of them.
struct Heading<'a> {
    line: usize,
    text: &'a str,
}

/// Lines `key=value` under a heading.
struct Section<'a> {
    line: usize,
    values: HashMap<&'a str, (usize, &'a str)>,
}

impl<'a> Section<'a> {
    /// Reads up to the next heading.
    fn read(
        line: usize,
        lines: &mut impl Iterator<Item = (usize, &'a str)>,
    ) -> Result<(Self, Heading<'a>), ParseModelError> {
        let mut section = Section { line, values: HashMap::new() };
        let mut last = line;
        for (line, text) in lines {
            last = line;
            if text == "end of trees" || text.starts_with("Tree=") {
                return Ok((section, Heading { line, text }));
            }
            if text.is_empty() {
                continue;
            }
            // A key without a value, such as `average_output`, counts as one with an empty value.
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            if section.values.insert(key, (line, value)).is_some() {
                return Err(ParseModelError::Twice { line, key: start_of(key) });
            }
        }
        Err(ParseModelError::CutOff { line: last })
    }

    /// The line of a key, or of the section if it has none.
    fn line_of(&self, key: &str) -> usize {
        self.values.get(key).map_or(self.line, |&(line, _)| line)
    }

    fn value(&self, key: &'static str) -> Result<&'a str, ParseModelError> {
        let value = self.values.get(key).map(|&(_, value)| value);
        value.ok_or(ParseModelError::Missing { line: self.line, key })
    }

    fn off(&self, key: &'static str, found: &str, expected: &'static str) -> ParseModelError {
        ParseModelError::Value { line: self.line_of(key), key, found: start_of(found), expected }
    }

    fn number<T: FromStr>(&self, key: &'static str) -> Result<T, ParseModelError> {
        let value = self.value(key)?;
        value.parse().map_err(|_| self.off(key, value, "a number"))
    }

    /// A value that must be what it is, for lack of any other that can be served.
    fn exactly(&self, key: &'static str, expected: &'static str) -> Result<(), ParseModelError> {
        let value = self.value(key)?;
        if value == expected { Ok(()) } else { Err(self.off(key, value, expected)) }
    }

    /// Numbers with blanks between.
    fn numbers<T: FromStr>(&self, key: &'static str) -> Result<Vec<T>, ParseModelError> {
        let number =
            |found: &str| found.parse().map_err(|_| self.off(key, found, "a number of its kind"));
        self.value(key)?.split_ascii_whitespace().map(number).collect()
    }

    fn count(
        &self,
        key: &'static str,
        found: usize,
        expected: usize,
    ) -> Result<(), ParseModelError> {
        let line = self.line_of(key);
        if found == expected {
            Ok(())
        } else {
            Err(ParseModelError::Count { line, key, expected, found })
        }
    }
}

/// Enough of a text for a message.
fn start_of(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Names of the features, meaning of the score, number of trees.
fn read_header(header: &Section<'_>) -> Result<(Vec<String>, Output, usize), ParseModelError> {
    let version = header.value("version")?;
    if !["v3", "v4"].contains(&version) {
        return Err(header.off("version", version, "v3 or v4"));
    }
    header.exactly("num_class", "1")?;
    header.exactly("num_tree_per_iteration", "1")?;
    if header.values.contains_key("average_output") {
        return Err(header.off("average_output", "there", "absent, since averages are not served"));
    }
    let objective = header.value("objective")?;
    let output = match objective {
        "lambdarank" => Output::Rank,
        "binary sigmoid:1" => Output::LogOdds,
        "regression" => Output::Value,
        _ => {
            return Err(header.off(
                "objective",
                objective,
                "lambdarank, binary sigmoid:1 or regression",
            ));
        }
    };
    let last_feature: usize = header.number("max_feature_idx")?;
    if last_feature >= MAX_FEATURES {
        return Err(header.off("max_feature_idx", &last_feature.to_string(), "below 65536"));
    }
    let names: Vec<String> = header.value("feature_names")?.split(' ').map(String::from).collect();
    header.count("feature_names", names.len(), last_feature + 1)?;
    let n_trees = header.numbers::<u64>("tree_sizes")?.len();
    if n_trees > MAX_TREES {
        return Err(header.off(
            "tree_sizes",
            &n_trees.to_string(),
            "the sizes of at most 100000 trees",
        ));
    }
    Ok((names, output, n_trees))
}

/// A tree as it stands there. Whether it is sound is seen when the forest is built.
fn read_tree(section: &Section<'_>) -> Result<RawTree, ParseModelError> {
    if section.values.contains_key("is_linear") {
        section.exactly("is_linear", "0")?;
    }
    let mut tree = RawTree { leaf_value: section.numbers("leaf_value")?, ..RawTree::default() };
    section.count("leaf_value", tree.leaf_value.len(), section.number("num_leaves")?)?;
    tree.leaf_count = match section.value("leaf_count") {
        // LightGBM gives a tree without a split a count of 0 or none at all.
        Ok("") | Err(_) => vec![0; tree.leaf_value.len()],
        Ok(_) => section.numbers("leaf_count")?,
    };
    if tree.leaf_value.len() > 1 {
        tree.split_feature = section.numbers("split_feature")?;
        tree.split_gain = section.numbers("split_gain")?;
        tree.threshold = section.numbers("threshold")?;
        tree.decision_type = section.numbers("decision_type")?;
        tree.left_child = section.numbers("left_child")?;
        tree.right_child = section.numbers("right_child")?;
    }
    let n_sets: usize = section.number("num_cat")?;
    if n_sets > 0 {
        tree.cat_boundaries = section.numbers("cat_boundaries")?;
        tree.cat_threshold = section.numbers("cat_threshold")?;
        section.count("cat_boundaries", tree.cat_boundaries.len(), n_sets.saturating_add(1))?;
    }
    Ok(tree)
}
