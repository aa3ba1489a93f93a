//! The folders are the architecture: who may know whom, and what each crate is built on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each crate, and the crates of the workspace that it uses. The three stages do not know each other.
const ARROWS: [(&str, &[&str]); 7] = [
    ("featurestore", &[]),
    ("retrieval", &["featurestore"]),
    ("ranking", &["featurestore"]),
    ("reranking", &["featurestore"]),
    ("engine", &["featurestore", "retrieval", "ranking", "reranking"]),
    ("eval", &["featurestore", "retrieval", "ranking", "reranking", "engine"]),
    ("server", &["featurestore", "retrieval", "ranking", "reranking", "engine", "eval"]),
];

/// The same as ARCHITECTURE.md draws it.
const PICTURE: &str = "\
    featurestore --> retrieval --.
                 --> ranking   ---> engine --> eval --> server (the binary `cascade`)
                 --> reranking --'
";

/// What the product is built on: the crate, where its code must name it, and whether no other crate may.
const BUILT_ON: [(&str, &str, bool); 4] = [
    ("hnsw_rs", "retrieval", true),
    ("lightgbm3_sys", "ranking", true),
    ("actix_web", "server", true),
    ("serde", "engine", false),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

fn manifest(folder: &Path) -> toml::Table {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names of the dependencies in one section of a manifest.
fn dependencies(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let table = manifest.get(section).and_then(toml::Value::as_table);
    table.map(|table| table.keys().cloned().collect()).unwrap_or_default()
}

fn members() -> BTreeMap<String, toml::Table> {
    let root = root();
    let workspace = manifest(&root);
    let members = workspace["workspace"]["members"].as_array().expect("there are members");
    let names = members.iter().map(|name| name.as_str().expect("members are names").to_owned());
    names.map(|name| (name.clone(), manifest(&root.join(name)))).collect()
}

/// The source files of a crate, its tests and benches left out.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a crate has sources") {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
    files
}

fn names_crate(folder: &Path, krate: &str) -> bool {
    let uses = [format!("{krate}::"), format!("use {krate} ")];
    sources(folder).iter().any(|path| {
        let text = fs::read_to_string(path).expect("a source file is text");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.into_iter().any(|line| uses.iter().any(|name| line.contains(name)))
    })
}

#[test]
fn the_arrows_between_crates_are_those_of_the_design() {
    let members = members();
    let known: BTreeSet<&str> = members.keys().map(String::as_str).collect();
    let mut expected: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    expected.insert("tests");
    assert_eq!(known, expected);
    for (name, uses) in ARROWS {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let found = dependencies(&members[name], section);
            let found: BTreeSet<&str> =
                found.iter().map(String::as_str).filter(|it| known.contains(it)).collect();
            let allowed: BTreeSet<&str> = uses.iter().copied().collect();
            assert!(
                found.is_subset(&allowed),
                "{section} of {name} has {found:?}, the design {allowed:?}"
            );
            if section == "dependencies" && name != "server" && name != "eval" {
                assert_eq!(found, allowed, "{section} of {name}");
            }
        }
    }
}

#[test]
fn the_map_shows_these_arrows() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("there is a map");
    assert!(map.contains(PICTURE), "ARCHITECTURE.md does not show\n{PICTURE}");
}

#[test]
fn every_crate_lies_in_the_folder_of_its_name_and_obeys_the_lints_of_the_workspace() {
    for (folder, manifest) in members() {
        assert_eq!(manifest["package"]["name"].as_str(), Some(&*folder));
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(
            lints.and_then(toml::Value::as_bool),
            Some(true),
            "{folder} has no [lints] workspace = true"
        );
        for file in ["src/lib.rs", "src/main.rs"].map(|file| root().join(&folder).join(file)) {
            let text = fs::read_to_string(&file).unwrap_or_else(|_| "//!".into());
            assert!(
                text.starts_with("//!"),
                "{} does not say what the crate is for",
                file.display()
            );
        }
    }
}

#[test]
fn the_crates_that_the_product_is_built_on_are_used_where_they_belong() {
    let root = root();
    for (krate, owner, alone) in BUILT_ON {
        for (name, _) in ARROWS {
            let used = names_crate(&root.join(name).join("src"), krate);
            assert!(used || name != owner, "{name} does not use {krate}");
            assert!(
                !used || name == owner || !alone,
                "{name} uses {krate}, which belongs to {owner}"
            );
        }
    }
}

#[test]
fn every_dependency_is_used() {
    let (root, members) = (root(), members());
    for (name, manifest) in &members {
        // Between the crates of the workspace the arrows say what may be used.
        let outside = dependencies(manifest, "dependencies")
            .into_iter()
            .filter(|it| !members.contains_key(it));
        for dependency in outside {
            let used = names_crate(&root.join(name).join("src"), &dependency.replace('-', "_"));
            assert!(used, "{name} does not use {dependency}");
        }
    }
}

#[test]
fn no_error_tells_its_cause_itself() {
    // Whoever prints an error prints its causes behind it: a message that holds its cause would tell it twice.
    for path in ARROWS.iter().flat_map(|(krate, _)| sources(&root().join(krate).join("src"))) {
        let code = fs::read_to_string(&path).expect("a source file is text");
        for attribute in code.split("#[error(").skip(1) {
            let Some((message, behind)) = attribute.split_once(")]\n") else { continue };
            let variant = behind.lines().next().unwrap_or_default();
            let has_cause = ["#[from]", "#[source]"].iter().any(|it| variant.contains(it));
            let told = message.contains("{source") || has_cause && message.contains("{0");
            assert!(!told, "{}: {message}", path.display());
        }
    }
}

#[test]
fn every_version_of_a_dependency_is_written_once() {
    for (name, manifest) in members() {
        for section in ["dependencies", "dev-dependencies"] {
            let table =
                manifest.get(section).and_then(toml::Value::as_table).cloned().unwrap_or_default();
            for (dependency, entry) in table {
                let inherited = entry.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                assert!(
                    inherited,
                    "{dependency} of {name} is not taken from [workspace.dependencies]"
                );
            }
        }
    }
}
