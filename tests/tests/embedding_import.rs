//! Vectors that were trained elsewhere, in place of the trained embedding.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{Project, Shop};

const DIM: usize = 8;
/// Has no vector.
const UNKNOWN: usize = 17;

/// A vector for each item, made of its number alone.
fn vector(item: usize) -> [f32; DIM] {
    let angle = |d: usize| ((item * (2 * d + 3) + d) % 97) as f32 / 97.0;
    std::array::from_fn(|d| (std::f32::consts::TAU * angle(d)).sin())
}

/// The items with the largest inner products with `query`.
fn nearest(query: &[f32], n: usize) -> BTreeSet<String> {
    let score = |item: usize| vector(item).iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
    let mut items: Vec<usize> =
        (0..Shop::default().n_items).filter(|item| *item != UNKNOWN).collect();
    items.sort_by(|a, b| score(*b).total_cmp(&score(*a)));
    items.into_iter().take(n).map(|item| format!("i{item}")).collect()
}

/// Writes vectors as NumPy does, and their ids one a line.
fn write_npy(project: &Project, name: &str, rows: &[(String, [f32; DIM])]) {
    let shape = format!("({}, {DIM})", rows.len());
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(rows.iter().flat_map(|(_, row)| row.iter().flat_map(|value| value.to_le_bytes())));
    project.write(format!("{name}.npy"), bytes);
    project.write(
        format!("{name}.txt"),
        rows.iter().map(|(id, _)| format!("{id}\n")).collect::<String>(),
    );
}

/// A shop whose items have vectors, and user `u3` too; the scenario `near` shows what the embedding proposes.
fn project() -> Project {
    let project = Project::imported(&Shop::default());
    let items = (0..Shop::default().n_items).filter(|item| *item != UNKNOWN);
    let items: Vec<_> = items.map(|item| (format!("i{item}"), vector(item))).collect();
    write_npy(&project, "items", &items);
    write_npy(&project, "users", &[("u3".to_owned(), vector(42).map(|value| -value))]);
    for (key, file) in [
        ("items", "items.npy"),
        ("item_ids", "items.txt"),
        ("users", "users.npy"),
        ("user_ids", "users.txt"),
    ] {
        project.configure(&format!("training.embedding_import.{key}"), file);
    }
    let embedding: toml::Table = "kind = \"embedding\"\nn = 10".parse().expect("it is TOML");
    project.configure("scenarios.near.sources", vec![toml::Value::from(embedding)]);
    project.configure("scenarios.home", toml::Table::new());
    project
}

fn shown(answer: &Value) -> BTreeSet<String> {
    let items = answer["items"].as_array().unwrap_or_else(|| panic!("no items in {answer}"));
    items.iter().map(|item| item["id"].as_str().expect("an item has an id").to_owned()).collect()
}

#[test]
fn the_embedding_source_proposes_the_items_that_are_nearest_by_imported_vectors() {
    let project = project();
    let checked = project.run(["check"]).done();
    assert!(
        checked.stdout.contains("299 of 300 items have an imported vector of 8 values"),
        "{checked}"
    );
    project.run(["train"]).done();
    // The release holds what it needs: nothing else looks at the files.
    for file in ["items.npy", "items.txt", "users.npy", "users.txt"] {
        std::fs::remove_file(project.path(file)).expect("it was written");
    }
    let server = project.serve();
    let near = |user: &str| {
        let body = json!({ "user_id": user, "n": 10, "scenario": "near" });
        let answer = server.post("/v1/recommend", &body).json();
        shown(&answer)
    };
    let bought = |item: usize| {
        let event =
            json!([{ "type": "purchase", "user_id": "newcomer", "item_id": format!("i{item}") }]);
        assert_eq!(server.post("/v1/events", &event).json()["accepted"], 1);
    };
    assert_eq!(near("newcomer"), BTreeSet::new(), "nothing is known that would give a vector");
    bought(UNKNOWN);
    assert_eq!(near("newcomer"), BTreeSet::new(), "an item without a vector says nothing");
    bought(5);
    assert_eq!(near("newcomer"), nearest(&vector(5), 10));
    bought(8);
    let mean: Vec<f32> = vector(5).iter().zip(vector(8)).map(|(a, b)| (a + b) / 2.0).collect();
    assert_eq!(near("newcomer"), nearest(&mean, 10));
    assert_eq!(near("u3"), nearest(&vector(42).map(|value| -value), 10));
}

#[test]
fn vectors_that_cannot_be_used_are_refused_with_file_row_and_value() {
    let project = project();
    let mut vectors = vec![("i1".to_owned(), vector(1)), ("i2".to_owned(), vector(2))];
    vectors[1].1[3] = f32::NAN;
    write_npy(&project, "items", &vectors);
    let words = ["items.npy", "row 1", "value 3", "\"i2\"", "NaN", "leave the row out"];
    project.run(["train"]).refused(&words);
    write_npy(&project, "items", &[("j1".to_owned(), vector(1))]);
    let words = ["items.npy", "row 0", "no item \"j1\"", "cascade import"];
    project.run(["train"]).refused(&words);
    project.configure("training.embedding_import.items", "items.csv");
    let words =
        ["cascade.toml", "training.embedding_import.items", "items.csv", ".npy or .parquet"];
    project.run(["train"]).refused(&words);
}
