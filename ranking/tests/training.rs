//! Training: the same model on any number of threads, stopped in time, and as good as LightGBM's
//! own.

use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use lightgbm3::{Booster, Dataset};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ranking::groups::{Groups, InvalidGroups};
use ranking::lightgbm::{FitError, Iteration, LightGbmConfig, Objective, fit};
use ranking::linear::{Linear, LinearConfig};

/// Requests whose positives have more of feature 0 and the right category in feature 2.
fn groups(n_groups: usize, seed: u64) -> Groups {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut groups =
        Groups::new(["signal", "noise", "category", "gaps"].map(String::from).to_vec());
    for _ in 0..n_groups {
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let (signal, category) = (rng.random_range(-1f32..1.0), rng.random_range(0..9));
            let gap = if rng.random_bool(0.3) { f32::NAN } else { rng.random_range(-1f32..1.0) };
            rows.extend([signal, rng.random_range(-1f32..1.0), category as f32, gap]);
            let score =
                signal + if category == 4 { 1.0 } else { 0.0 } + rng.random_range(-0.5..0.5);
            labels.push(f32::from(score > 1.0) + f32::from(score > 1.5));
        }
        labels[0] = labels[0].max(1.0);
        groups.push_group(&rows, &labels);
    }
    groups
}

fn config(objective: Objective) -> LightGbmConfig {
    LightGbmConfig {
        objective,
        n_trees: 120,
        learning_rate: 0.2,
        categorical: vec![2],
        early_stopping_rounds: Some(10),
        n_threads: 1,
        ..LightGbmConfig::default()
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() -> Result<(), Box<dyn Error>> {
    let (train, validation) = (groups(600, 1), groups(100, 2));
    for objective in [Objective::LambdaRank, Objective::Binary] {
        let on = |n_threads| {
            let config = LightGbmConfig { n_threads, positive_weight: 3.0, ..config(objective) };
            fit(&train, Some(&validation), &config, &mut |_| {})
        };
        let one = on(1)?;
        assert_eq!(one, on(2)?);
        assert_eq!(one, on(1)?);
        assert!(!one.text.contains("num_threads"));
        let other = LightGbmConfig { seed: 8, ..config(objective) };
        assert_ne!(one.text, fit(&train, Some(&validation), &other, &mut |_| {})?.text);
    }
    Ok(())
}

/// Sparse features are bundled, and bundles have histograms of another kind.
#[test]
fn sparse_features_give_the_same_bytes_on_any_number_of_threads() -> Result<(), Box<dyn Error>> {
    let mut rng = StdRng::seed_from_u64(9);
    let mut sparse = Groups::new((0..60).map(|n| format!("sparse {n}")).collect());
    for _ in 0..600 {
        let value = |_| if rng.random_bool(0.04) { rng.random_range(-1f32..1.0) } else { 0.0 };
        let rows: Vec<f32> = (0..20 * 60).map(value).collect();
        let mut labels: Vec<f32> =
            rows.chunks(60).map(|row| f32::from(row.iter().sum::<f32>() > 0.5)).collect();
        labels[0] = 1.0;
        sparse.push_group(&rows, &labels);
    }
    let on = |n_threads| {
        let config =
            LightGbmConfig { n_threads, categorical: Vec::new(), ..config(Objective::LambdaRank) };
        fit(&sparse, None, &config, &mut |_| {})
    };
    assert_eq!(on(1)?, on(2)?);
    Ok(())
}

#[test]
fn training_stops_early_and_keeps_the_best_iteration() -> Result<(), Box<dyn Error>> {
    for objective in [Objective::LambdaRank, Objective::Binary] {
        let mut heard: Vec<Iteration> = Vec::new();
        let model =
            fit(&groups(60, 3), Some(&groups(60, 4)), &config(objective), &mut |iteration| {
                heard.push(iteration)
            })?;
        assert!(
            model.validation.len() < 120,
            "{objective:?} stopped after {} trees",
            model.validation.len()
        );
        assert_eq!(model.validation.len(), model.best_iteration as usize + 10);
        assert_eq!(
            heard.iter().filter_map(|iteration| iteration.validation).collect::<Vec<_>>(),
            model.validation
        );
        let is_better = |a: f64, b: f64| if objective == Objective::Binary { a < b } else { a > b };
        let best = model.validation[model.best_iteration as usize - 1];
        assert!(model.validation.iter().all(|&value| !is_better(value, best)));
        assert_eq!(
            (model.n_trees, model.forest()?.n_trees()),
            (model.best_iteration, model.best_iteration as usize)
        );
    }
    Ok(())
}

#[test]
fn nothing_to_learn_is_one_constant_tree() -> Result<(), Box<dyn Error>> {
    let mut flat = Groups::new(vec!["constant".into()]);
    for _ in 0..20 {
        flat.push_group(&[1.0; 4], &[1.0, 0.0, 0.0, 0.0]);
    }
    let config = LightGbmConfig { categorical: Vec::new(), ..config(Objective::Binary) };
    let model = fit(&flat, None, &config, &mut |_| {})?;
    let forest = model.forest()?;
    assert_eq!((model.n_trees, forest.n_trees()), (1, 1));
    assert!((forest.score_exact(&[1.0]) - (1.0f64 / 3.0).ln()).abs() < 1e-6);
    Ok(())
}

#[test]
fn bad_input_is_refused_before_training() {
    let error = |change: fn(&mut Groups, &mut LightGbmConfig)| {
        let (mut groups, mut config) = (groups(5, 5), config(Objective::LambdaRank));
        change(&mut groups, &mut config);
        fit(&groups, None, &config, &mut |_| panic!("no tree is grown")).unwrap_err()
    };
    assert!(matches!(
        error(|g, _| g.labels[3] = f32::NAN),
        FitError::Train(InvalidGroups::Label { row: 3, .. })
    ));
    assert!(matches!(error(|g, _| g.sizes[0] += 1), FitError::Train(InvalidGroups::Length { .. })));
    assert!(matches!(
        error(|g, _| g.weights[3] = -1.0),
        FitError::Train(InvalidGroups::Weight { row: 3, .. })
    ));
    assert!(matches!(error(|g, _| g.features[2] = -1.0), FitError::Category { row: 0, .. }));
    assert!(matches!(error(|_, c| c.categorical = vec![0]), FitError::Category { .. }));
    assert!(matches!(error(|_, c| c.n_leaves = 1), FitError::Setting { name: "n_leaves", .. }));
    let mut other = groups(5, 5);
    other.names[0] = "another".into();
    let error = fit(&groups(5, 5), Some(&other), &config(Objective::LambdaRank), &mut |_| {});
    assert!(matches!(error, Err(FitError::Features)));
}

#[test]
fn the_linear_baseline_beats_chance_and_trees_beat_it() -> Result<(), Box<dyn Error>> {
    let (train, test) = (groups(500, 6), groups(300, 7));
    let columns = test.columns();
    let mut linear = vec![0.0; test.n_rows()];
    Linear::fit(&train, &LinearConfig::default())?.score_block(
        &columns,
        test.n_rows(),
        &mut linear,
    );
    let mut trees = vec![0.0; test.n_rows()];
    let forest = fit(&train, None, &config(Objective::LambdaRank), &mut |_| {})?.forest()?;
    forest.score_block(&columns, test.n_rows(), None, &mut trees);
    let mut rng = StdRng::seed_from_u64(8);
    let chance: Vec<f32> = (0..test.n_rows()).map(|_| rng.random()).collect();
    let [chance, linear, trees] = [chance, linear, trees].map(|scores| ndcg(&test, &scores, 10));
    assert!(linear > chance + 0.1 && trees > linear + 0.05, "{chance} {linear} {trees}");
    Ok(())
}

/// LightGBM's NDCG: gains of `2^label - 1`, and a perfect 1 for a group without a positive.
fn ndcg(groups: &Groups, scores: &[f32], k: usize) -> f64 {
    let of_group = |range: std::ops::Range<usize>| {
        let mut shown: Vec<(f32, f32)> =
            range.map(|row| (scores[row], groups.labels[row])).collect();
        shown.sort_by(|a, b| b.0.total_cmp(&a.0));
        let dcg = |labels: &mut dyn Iterator<Item = f32>| -> f64 {
            labels
                .take(k)
                .enumerate()
                .map(|(n, l)| (f64::from(l).exp2() - 1.0) / (n as f64 + 2.0).log2())
                .sum()
        };
        let found = dcg(&mut shown.iter().map(|&(_, label)| label));
        shown.sort_by(|a, b| b.1.total_cmp(&a.1));
        let ideal = dcg(&mut shown.iter().map(|&(_, label)| label));
        if ideal > 0.0 { found / ideal } else { 1.0 }
    };
    groups.ranges().map(of_group).sum::<f64>() / groups.n_groups() as f64
}

/// A file of LightGBM's lambdarank example, unpacked.
fn example_file(name: &str) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    GzDecoder::new(File::open(example().join(format!("{name}.gz")))?).read_to_string(&mut text)?;
    Ok(text)
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/lightgbm-lambdarank")
}

/// `label feature:value ...` in each line; what is not there is 0.
fn example_groups(name: &str, n_features: usize) -> Result<Groups, Box<dyn Error>> {
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    for line in example_file(name)?.lines() {
        let mut fields = line.split_ascii_whitespace();
        labels.push(fields.next().ok_or("an empty line")?.parse()?);
        let start = rows.len();
        rows.resize(start + n_features, 0.0);
        for field in fields {
            let (feature, value) = field.split_once(':').ok_or("no colon")?;
            rows[start + feature.parse::<usize>()?] = value.parse()?;
        }
    }
    let mut groups = Groups::new((0..n_features).map(|n| format!("Column_{n}")).collect());
    let mut row = 0;
    for size in example_file(&format!("{name}.query"))?.lines() {
        let end = row + size.parse::<usize>()?;
        groups.push_group(&rows[row * n_features..end * n_features], &labels[row..end]);
        row = end;
    }
    Ok(groups)
}

fn conf() -> Result<HashMap<String, String>, Box<dyn Error>> {
    let text = example_file("train.conf")?;
    let settings =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    Ok(settings.map(|(key, value)| (key.trim().to_string(), value.trim().to_string())).collect())
}

/// The settings of train.conf that are about the model.
const SETTINGS: [&str; 9] = [
    "num_trees",
    "learning_rate",
    "num_leaves",
    "feature_fraction",
    "bagging_freq",
    "bagging_fraction",
    "min_data_in_leaf",
    "min_sum_hessian_in_leaf",
    "max_bin",
];
const SEED: u64 = 7;

fn our_config(conf: &HashMap<String, String>) -> Result<LightGbmConfig, Box<dyn Error>> {
    let [real, count] = [|n: f64| n, f64::round];
    let number =
        |name: &str, kind: fn(f64) -> f64| Ok::<f64, Box<dyn Error>>(kind(conf[name].parse()?));
    Ok(LightGbmConfig {
        n_trees: number("num_trees", count)? as u32,
        learning_rate: number("learning_rate", real)?,
        n_leaves: number("num_leaves", count)? as u32,
        feature_fraction: number("feature_fraction", real)?,
        bagging_freq: number("bagging_freq", count)? as u32,
        bagging_fraction: number("bagging_fraction", real)?,
        min_data_in_leaf: number("min_data_in_leaf", count)? as u32,
        min_sum_hessian_in_leaf: number("min_sum_hessian_in_leaf", real)?,
        max_bin: number("max_bin", count)? as u32,
        // What LightGBM takes where the file is silent.
        lambda_l2: 0.0,
        truncation_level: 30,
        seed: SEED,
        n_threads: 1,
        ..LightGbmConfig::default()
    })
}

/// Scores of rank.test by LightGBM, which reads the files and trains by itself.
fn their_scores(conf: &HashMap<String, String>, test: &Groups) -> Result<Vec<f32>, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    for name in ["rank.train", "rank.train.query"] {
        fs::write(folder.path().join(name), example_file(name)?)?;
    }
    let mut parameters =
        serde_json::json!({ "objective": "lambdarank", "verbosity": -1, "num_threads": 1 });
    for name in SETTINGS {
        let name = if name == "num_trees" { "num_iterations" } else { name };
        let value = conf.get(name).unwrap_or(&conf["num_trees"]);
        parameters[name] = serde_json::from_str(value)?;
    }
    for name in ["seed", "bagging_seed", "feature_fraction_seed", "objective_seed"] {
        parameters[name] = SEED.into();
    }
    let path = folder.path().join("rank.train");
    let train = Dataset::from_file(path.to_str().ok_or("the path is no text")?)?;
    let booster = Booster::train(train, &parameters)?;
    let scores = booster.raw_scores(&test.features, test.n_features as i32, true)?;
    Ok(scores.into_iter().map(|score| score as f32).collect())
}

#[test]
fn the_lambdarank_example_ranks_as_well_as_lightgbms_own_training() -> Result<(), Box<dyn Error>> {
    if !example().exists() {
        println!("SKIPPED: LightGBM's lambdarank example is not at {}", example().display());
        eprintln!("SKIPPED: LightGBM's lambdarank example is not at {}", example().display());
        return Ok(());
    }
    const N_FEATURES: usize = 301;
    let (train, test) =
        (example_groups("rank.train", N_FEATURES)?, example_groups("rank.test", N_FEATURES)?);
    let conf = conf()?;
    assert_eq!(
        (train.n_groups(), train.n_rows(), test.n_groups(), test.n_rows()),
        (201, 3_005, 50, 768)
    );
    let forest = fit(&train, None, &our_config(&conf)?, &mut |_| {})?.forest()?;
    let mut ours = vec![0.0; test.n_rows()];
    forest.score_block(&test.columns(), test.n_rows(), None, &mut ours);
    let theirs = their_scores(&conf, &test)?;
    for k in [1, 3, 5, 10] {
        let (ours, theirs) = (ndcg(&test, &ours, k), ndcg(&test, &theirs, k));
        println!("ndcg@{k}: ours {ours:.5}, LightGBM's {theirs:.5}");
        assert!((ours - theirs).abs() <= 0.002, "ndcg@{k}: {ours} and {theirs}");
    }
    Ok(())
}
