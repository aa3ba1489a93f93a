//! Nothing is random twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use tests::{Project, Shop};

/// Trains in a fresh copy of `project`; returns the files of the release by name.
fn train(project: &Project, n_threads: &str) -> BTreeMap<String, Vec<u8>> {
    let copy = project.copy();
    let trained = copy.run(["train", "--json", "--threads", n_threads]);
    assert!(matches!(trained.status, Some(0 | 3)), "{trained}");
    let release = trained.json()["release"].as_str().expect("a release has a name").to_owned();
    let folder = copy.path("cascade-data/releases").join(&release);
    let mut files = BTreeMap::from([("(name)".to_owned(), release.into_bytes())]);
    for entry in fs::read_dir(folder).expect("the release is a folder") {
        let entry = entry.expect("a folder can be listed");
        let bytes = fs::read(entry.path()).expect("a release can be read");
        files.insert(entry.file_name().to_string_lossy().into_owned(), bytes);
    }
    files
}

fn differing(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let names = a.keys().chain(b.keys()).cloned();
    names.filter(|name| a.get(name) != b.get(name)).collect()
}

/// Enough items for a graph instead of an exact scan.
fn large_shop() -> Shop {
    Shop { n_items: 100_500, n_users: 100, ..Shop::default() }
}

#[test]
fn one_thread_gives_the_same_release_byte_for_byte() {
    let project = Project::imported(&large_shop());
    let [a, b] = [(); 2].map(|()| train(&project, "1"));
    assert!(a["graph.bin"].len() > 100_500, "the index has no graph");
    assert_eq!(differing(&a, &b), BTreeSet::new());
}

#[test]
fn several_threads_give_the_same_release_but_for_the_graph_which_is_as_good() {
    let project = Project::imported(&large_shop());
    let [a, b] = [(); 2].map(|()| train(&project, "2"));
    // What depends on the graph's checksum: the manifest, and the name that is made of it.
    let may_differ = ["graph.bin", "manifest.json", "(name)"].map(str::to_owned).into();
    let differing = differing(&a, &b);
    assert!(differing.is_subset(&may_differ), "{differing:?}");
    let recall = |files: &BTreeMap<String, Vec<u8>>| {
        let manifest: serde_json::Value =
            serde_json::from_slice(&files["manifest.json"]).expect("it is JSON");
        manifest["metrics"]["index_recall"]
            .as_f64()
            .expect("the index is measured when it is built")
    };
    assert!((recall(&a) - recall(&b)).abs() <= 0.002, "{} and {}", recall(&a), recall(&b));
}

#[test]
fn the_number_of_threads_changes_nothing_but_the_graph() {
    let project = Project::imported(&Shop::default());
    let (one, two) = (train(&project, "1"), train(&project, "2"));
    let may_differ = ["graph.bin", "manifest.json", "(name)"].map(str::to_owned).into();
    let differing = differing(&one, &two);
    assert!(differing.is_subset(&may_differ), "{differing:?}");
}
