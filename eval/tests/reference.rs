//! The metrics equal those of pytrec_eval, ranx and SciPy.
//!
//! The interpreter that has them is named by `CASCADE_REFERENCE_PYTHON`, and else is `.tools/reference/bin/python`,
//! which `scripts/setup --tests` makes. Without one the test says so and passes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use eval::intervals::{Observation, UserSum};
use eval::metrics::ranking::graded_ndcg_at_k;
use eval::metrics::scores::{Labelled, auc};
use eval::metrics::{Measure, Metric};
use eval::significance::paired_t;
use featurestore::{ItemId, Scored, UserId, best_first};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::{Value, json};

const TOLERANCE: f64 = 1e-9;
const KS: [usize; 4] = [1, 5, 10, 20];

/// A question with a list: scored with many ties, some lists short or empty.
struct Group {
    ranked: Vec<Scored>,
    gains: FxHashMap<ItemId, f64>,
}

impl Group {
    fn random(random: &mut StdRng) -> Self {
        let n_items = random.random_range(0..40);
        let mut ranked: Vec<Scored> = (0..n_items)
            .map(|_| Scored {
                item: ItemId(random.random_range(0..60)),
                score: f32::from(random.random_range(0..8u8)) / 8.0,
            })
            .collect();
        ranked.sort_by_key(|scored| scored.item);
        ranked.dedup_by_key(|scored| scored.item);
        ranked.sort_by(best_first);
        let n_relevant = random.random_range(1..30);
        let gains = (0..n_relevant)
            .map(|_| (ItemId(random.random_range(0..60)), f64::from(random.random_range(1..4u8))))
            .collect();
        Self { ranked, gains }
    }

    fn items(&self) -> Vec<ItemId> {
        self.ranked.iter().map(|scored| scored.item).collect()
    }

    fn relevant(&self) -> FxHashSet<ItemId> {
        self.gains.keys().copied().collect()
    }

    fn to_json(&self) -> Value {
        let tied: Vec<(u32, f32)> =
            self.ranked.iter().map(|scored| (scored.item.0, scored.score)).collect();
        let gains = self.gains.iter().map(|(item, gain)| (item.0.to_string(), *gain as i64));
        let gains: FxHashMap<String, i64> = gains.collect();
        json!({ "ranked": self.items(), "tied": tied, "gains": gains })
    }

    /// The metric that a reference names `name`.
    fn value(&self, name: &str) -> f64 {
        let items = self.items();
        let value = match name.strip_prefix("graded ndcg@") {
            Some(k) => graded_ndcg_at_k(&items, &self.gains, k.parse().expect("a number")),
            None => {
                let metric: Metric = name.parse().expect("references name metrics as eval does");
                metric.compute(&items, &self.relevant())
            }
        };
        value.expect("every group has a relevant item")
    }
}

fn interpreter() -> Option<PathBuf> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate lies in the workspace");
    let named = std::env::var_os("CASCADE_REFERENCE_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| root.join(".tools/reference/bin/python"));
    python.exists().then_some(python)
}

/// Past the test harness, which shows what is printed only if a test fails.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

fn ask(python: &Path, question: &Value) -> Value {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("groups.json");
    std::fs::write(&file, question.to_string()).expect("it can be written to");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference.py");
    let ran = Command::new(python).arg(script).arg(&file).output().expect("the interpreter starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).expect("the script prints JSON")
}

/// How many values of `reference` differ from ours, of how many.
fn differing(reference: &Value, groups: &[Group]) -> (usize, usize) {
    let (mut n_differ, mut n_compared) = (0, 0);
    for (name, values) in reference.as_object().expect("metrics by name") {
        let values = values.as_array().expect("a value of each group");
        assert_eq!(values.len(), groups.len(), "{name}");
        for (value, group) in values.iter().zip(groups) {
            let theirs = value.as_f64().expect("a number");
            let close = (theirs - group.value(name)).abs() <= TOLERANCE;
            n_differ += usize::from(!close);
            n_compared += 1;
        }
    }
    (n_differ, n_compared)
}

fn assert_close(name: &str, ours: f64, theirs: &Value) {
    let theirs = theirs.as_f64().expect("a number");
    assert!((ours - theirs).abs() <= TOLERANCE, "{name}: {ours} is not {theirs}");
}

#[test]
fn metrics_equal_those_of_other_implementations() {
    let Some(python) = interpreter() else {
        say(
            "SKIPPED: no CASCADE_REFERENCE_PYTHON and no .tools/reference: metrics are compared with nobody else's",
        );
        return;
    };
    let mut random = StdRng::seed_from_u64(7);
    let groups: Vec<Group> = (0..300).map(|_| Group::random(&mut random)).collect();
    let labelled: Vec<Labelled> = (0..500)
        .map(|_| Labelled {
            score: f64::from(random.random_range(0..20u8)),
            positive: random.random_bool(0.3),
        })
        .collect();
    let pairs: Vec<(f64, f64)> =
        (0..200).map(|_| (random.random::<f64>() + 0.05, random.random())).collect();
    let found = ask(
        &python,
        &json!({
            "ks": KS,
            "groups": groups.iter().map(Group::to_json).collect::<Vec<_>>(),
            "labelled": labelled.iter().map(|row| (row.score, row.positive)).collect::<Vec<_>>(),
            "pairs": pairs,
        }),
    );

    let n_metrics = KS.len() * (Measure::ALL.len() + 1);
    assert_eq!(differing(&found["pytrec_eval"], &groups), (0, n_metrics * groups.len()));
    match &found["ranx"] {
        Value::Null => {
            say("SKIPPED: ranx is not installed: metrics are compared with pytrec_eval only")
        }
        ranx => assert_eq!(differing(ranx, &groups), (0, KS.len() * 7 * groups.len())),
    }
    // Were ties left to the references, they would break them in another way, and the values would differ.
    let (n_differ, _) = differing(&found["pytrec_eval, tied"], &groups);
    assert!(n_differ > groups.len(), "only {n_differ} values feel the ties");

    let differences = pairs
        .iter()
        .enumerate()
        .map(|(user, (a, b))| Observation { user: UserId(user as u32), value: a - b });
    let test = paired_t(&UserSum::of(&differences.collect::<Vec<_>>()));
    assert_close("auc", auc(&labelled).unwrap(), &found["scipy"]["auc"]);
    assert_close("t", test.t, &found["scipy"]["t"]);
    assert_close("p", test.p_value, &found["scipy"]["p"]);
}
