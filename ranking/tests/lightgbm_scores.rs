//! Our scores against LightGBM's own, which are computed by its C interface.

use std::error::Error;

use lightgbm3::{Booster, ImportanceType};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_assert, prop_oneof, proptest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ranking::forest::Forest;
use ranking::groups::Groups;
use ranking::lightgbm::{LightGbmConfig, LightGbmModel, Objective, fit};
use ranking::model_text;

const N_FEATURES: usize = 8;
/// Features that hold categories; the others hold numbers.
const CATEGORICAL: [usize; 2] = [2, 5];

/// Groups with gaps, exact zeros, skewed and discrete numbers, and categories that matter.
fn train_groups(n_groups: usize, seed: u64) -> Groups {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut groups = Groups::new((0..N_FEATURES).map(|n| format!("feature {n}: [x]")).collect());
    for _ in 0..n_groups {
        let (mut rows, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..rng.random_range(5..30) {
            let row: [f32; N_FEATURES] = std::array::from_fn(|feature| match feature {
                2 | 5 if rng.random_bool(0.05) => f32::NAN,
                2 => rng.random_range(0..6) as f32,
                5 => rng.random_range(0..200) as f32,
                0 | 1 if rng.random_bool(0.2) => f32::NAN,
                3 if rng.random_bool(0.5) => 0.0,
                4 => rng.random_range(-3..4) as f32,
                6 => rng.random_range(-1f32..1.0) * 1e-30,
                _ => rng.random_range(-1f32..1.0).powi(3) * 100.0,
            });
            let signal = if row[0].is_nan() { 0.3 } else { row[0] / 100.0 }
                + if row[5] % 7.0 < 2.0 { 0.5 } else { 0.0 }
                + if row[2] == 3.0 { 0.4 } else { 0.0 }
                + row[4] * 0.1;
            rows.extend(row);
            labels.push(
                (signal + rng.random_range(-0.3..0.6)).clamp(0.0, 1.0).mul_add(3.0, 0.0).floor(),
            );
        }
        labels[0] = 1.0;
        groups.push_group(&rows, &labels);
    }
    groups
}

fn model(objective: Objective, n_leaves: u32, seed: u64) -> Result<LightGbmModel, Box<dyn Error>> {
    let config = LightGbmConfig {
        objective,
        n_trees: 60,
        n_leaves,
        categorical: CATEGORICAL.to_vec(),
        early_stopping_rounds: None,
        seed,
        ..LightGbmConfig::default()
    };
    Ok(fit(&train_groups(400, seed), None, &config, &mut |_| {})?)
}

/// Values of every kind that a server may meet, `[n_rows, N_FEATURES]`.
fn random_rows(n_rows: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let odd = [
        f32::NAN,
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        1e-35,
        -1e-35,
        1.1e-35,
        1e-40,
        -1e-38,
        -0.5,
        -1.0,
        2_147_483_520.0,
        4e9,
    ];
    let value = |place: usize| match rng.random_range(0..10) {
        0 | 1 => odd[rng.random_range(0..odd.len())],
        2 => f32::from_bits(rng.random()),
        3 => rng.random_range(-5..400) as f32,
        _ if CATEGORICAL.contains(&(place % N_FEATURES)) => {
            rng.random_range(0..210) as f32 + rng.random_range(0.0..0.4)
        }
        4 | 5 => rng.random_range(-3..4) as f32,
        6 => rng.random_range(-1f32..1.0) * 1e-30,
        _ => rng.random_range(-1f32..1.0).powi(3) * 120.0,
    };
    (0..n_rows * N_FEATURES).map(value).collect()
}

fn columns_of(rows: &[f32]) -> Vec<f32> {
    (0..N_FEATURES)
        .flat_map(|feature| rows.iter().skip(feature).step_by(N_FEATURES).copied())
        .collect()
}

fn assert_bit_equal(
    text: &str,
    forest: &Forest,
    n_rows: usize,
    seed: u64,
) -> Result<(), Box<dyn Error>> {
    let rows = random_rows(n_rows, seed);
    let theirs = Booster::from_string(text)?.raw_scores_with_params(
        &rows,
        N_FEATURES as i32,
        true,
        "num_threads=1",
    )?;
    let mut block = vec![0.0; n_rows];
    forest.score_block(&columns_of(&rows), n_rows, None, &mut block);
    for ((row, theirs), block) in rows.chunks_exact(N_FEATURES).zip(theirs).zip(block) {
        let exact = forest.score_exact(row);
        assert_eq!(exact.to_bits(), theirs.to_bits(), "{exact} is not {theirs} of {row:?}");
        assert_eq!(block, exact as f32, "a block scores as a row does: {row:?}");
    }
    Ok(())
}

#[test]
fn lambdarank_scores_equal_lightgbms_bit_for_bit() -> Result<(), Box<dyn Error>> {
    let model = model(Objective::LambdaRank, 31, 1)?;
    assert_bit_equal(&model.text, &model.forest()?, 100_000, 11)
}

#[test]
fn binary_scores_equal_lightgbms_bit_for_bit() -> Result<(), Box<dyn Error>> {
    let model = model(Objective::Binary, 31, 2)?;
    assert_bit_equal(&model.text, &model.forest()?, 100_000, 12)
}

#[test]
fn trees_of_any_size_score_alike() -> Result<(), Box<dyn Error>> {
    for n_leaves in [2, 32, 33, 64, 65, 200] {
        let model = model(Objective::LambdaRank, n_leaves, 3)?;
        assert_bit_equal(&model.text, &model.forest()?, 3_000, 13)?;
    }
    Ok(())
}

/// LightGBM writes `decision_type`s other than these only for settings that we do not train with,
/// but others may.
#[test]
fn every_kind_of_missing_value_is_scored_as_lightgbm_does() -> Result<(), Box<dyn Error>> {
    let original = model(Objective::LambdaRank, 31, 4)?.text;
    for kind in [0, 2, 4, 6, 8, 10] {
        let change = |line: &str| match line.strip_prefix("decision_type=") {
            Some(kinds) => {
                let number = |n: &str| if n == "1" { n.to_string() } else { kind.to_string() };
                let kinds: Vec<String> = kinds.split(' ').map(number).collect();
                format!("decision_type={}\n", kinds.join(" "))
            }
            // The sizes of the trees, by which LightGBM finds them, are no longer right.
            None => format!("{line}\n"),
        };
        let changed: String = original.lines().map(change).collect();
        let forest = model_text::parse(&changed)?;
        let theirs: String = changed
            .lines()
            .filter(|line| !line.starts_with("tree_sizes="))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_bit_equal(&theirs, &forest, 3_000, 14)?;
    }
    Ok(())
}

#[test]
fn the_first_trees_score_as_lightgbms_first_iterations() -> Result<(), Box<dyn Error>> {
    let model = model(Objective::LambdaRank, 31, 5)?;
    let (forest, rows) = (model.forest()?, random_rows(100, 15));
    let mut booster = Booster::from_string(&model.text)?;
    booster.set_max_iterations(7)?;
    let theirs = booster.raw_scores(&rows, N_FEATURES as i32, true)?;
    let mut ours = vec![0.0; 100];
    forest.score_block(&columns_of(&rows), 100, Some(7), &mut ours);
    assert!(ours.iter().zip(&theirs).all(|(&ours, &theirs)| ours == theirs as f32));
    forest.score_block(&columns_of(&rows), 100, Some(usize::MAX), &mut ours);
    assert_eq!(ours[3], forest.score_exact(&rows[3 * N_FEATURES..4 * N_FEATURES]) as f32);
    Ok(())
}

#[test]
fn contributions_sum_to_the_score() -> Result<(), Box<dyn Error>> {
    let forest = model(Objective::Binary, 31, 6)?.forest()?;
    for row in random_rows(1_000, 16).chunks_exact(N_FEATURES) {
        let sum: f64 = forest.contributions(row).iter().sum();
        assert!((sum - forest.score_exact(row)).abs() < 1e-9);
    }
    Ok(())
}

#[test]
fn the_gain_of_a_feature_is_what_lightgbm_says_of_it() -> Result<(), Box<dyn Error>> {
    let model = model(Objective::LambdaRank, 31, 18)?;
    let theirs = Booster::from_string(&model.text)?.feature_importance(ImportanceType::Gain)?;
    let ours = model.forest()?.gain_by_feature();
    assert_eq!(ours.len(), theirs.len());
    for (feature, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert!((ours - theirs).abs() <= 1e-5 * theirs, "feature {feature}: {ours}, {theirs}");
    }
    assert!(ours[5] > ours[7], "feature 7 is noise: {ours:?}");
    Ok(())
}

#[test]
fn bytes_keep_everything() -> Result<(), Box<dyn Error>> {
    let forest = model(Objective::LambdaRank, 31, 7)?.forest()?;
    assert_eq!(forest.names()[3], "feature 3: [x]");
    let bytes = forest.to_bytes();
    let opened = Forest::from_bytes(&bytes)?;
    assert_eq!(opened, forest);
    assert_eq!(opened.to_bytes(), bytes);
    Ok(())
}

/// A few bytes changed, or the end cut off.
fn damage(bytes: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    if rng.random_bool(0.2) {
        damaged.truncate(rng.random_range(0..bytes.len()));
    }
    for _ in 0..rng.random_range(1..4) {
        if !damaged.is_empty() {
            let place = rng.random_range(0..damaged.len());
            // Half of them become another digit, which is still a number.
            damaged[place] =
                if rng.random_bool(0.5) { b'0' + rng.random_range(0..10) } else { rng.random() };
        }
    }
    damaged
}

/// Whatever opens must score every row, in bounds and in finite time.
fn score_some(forest: &Forest) {
    let n = forest.names().len();
    let row = vec![0.5; n];
    let exact = forest.score_exact(&row);
    let mut out = [0.0];
    forest.score_block(&row, 1, None, &mut out);
    assert_eq!(out[0], exact as f32);
}

#[test]
fn damaged_texts_and_bytes_never_panic() -> Result<(), Box<dyn Error>> {
    let config = LightGbmConfig {
        n_trees: 6,
        categorical: CATEGORICAL.to_vec(),
        early_stopping_rounds: None,
        ..LightGbmConfig::default()
    };
    let model = fit(&train_groups(100, 8), None, &config, &mut |_| {})?;
    let bytes = model.forest()?.to_bytes();
    let mut rng = StdRng::seed_from_u64(17);
    let mut refused = [0, 0];
    for _ in 0..500 {
        let text = damage(model.text.as_bytes(), &mut rng);
        match model_text::parse(&String::from_utf8_lossy(&text)) {
            Ok(forest) => score_some(&forest),
            Err(_) => refused[0] += 1,
        }
        match Forest::from_bytes(&damage(&bytes, &mut rng)) {
            Ok(forest) => score_some(&forest),
            Err(_) => refused[1] += 1,
        }
    }
    assert!(refused.iter().all(|&n| n > 100), "damage is mostly seen: {refused:?}");
    Ok(())
}

#[test]
fn a_text_that_is_off_is_refused_with_its_line_and_key() -> Result<(), Box<dyn Error>> {
    let text = model(Objective::LambdaRank, 4, 9)?.text;
    let error = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        model_text::parse(&text.replacen(from, to, 1)).unwrap_err().to_string()
    };
    assert_eq!(error("num_class=1", "num_class=3"), "line 3: num_class is \"3\", but must be 1");
    assert_eq!(
        error("objective=lambdarank", "objective=poisson"),
        "line 7: objective is \"poisson\", but must be lambdarank, binary sigmoid:1 or regression"
    );
    let averaged = error("objective=lambdarank", "objective=lambdarank\naverage_output");
    assert!(averaged.starts_with("line 8: average_output"), "{averaged}");
    assert_eq!(error("left_child=", "left_child=9 "), "line 19: tree 0 is not sound");
    assert!(error("Tree=1", "Tree=2").contains("\"Tree=2\""));
    assert!(error("end of trees", "").contains("ends before"));
    assert!(error("is_linear=0", "is_linear=1").contains("is_linear is \"1\""));
    Ok(())
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![Just(f32::NAN), Just(0.0), any::<f32>(), -120f32..120.0]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_place_in_a_block_does_not_matter(
        row in proptest::collection::vec(value(), N_FEATURES),
        n_rows in 1usize..200,
    ) {
        thread_local! {
            static FOREST: Forest = model(Objective::LambdaRank, 31, 10).unwrap().forest().unwrap();
        }
        FOREST.with(|forest| {
            let columns: Vec<f32> =
                row.iter().flat_map(|&value| std::iter::repeat_n(value, n_rows)).collect();
            let mut out = vec![0.0; n_rows];
            forest.score_block(&columns, n_rows, None, &mut out);
            let expected = forest.score_exact(&row) as f32;
            prop_assert!(out.iter().all(|&score| score == expected));
            Ok(())
        })?;
    }
}
