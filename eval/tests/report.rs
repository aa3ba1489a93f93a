//! The report as its readers see it: a program, a terminal, a browser. `UPDATE_GOLDEN=1` writes the golden files anew.

use std::collections::BTreeMap;
use std::path::Path;

use eval::cohorts::{Cohort, CohortMean};
use eval::intervals::{Interval, PairedDifference};
use eval::reliability::ReliabilityBin;
use eval::report::{
    CohortTable, Comparison, CurvePoint, FeatureImportance, ModelReport, Report, TestSpan,
};
use eval::sources::SourceRecall;
use eval::waterfall::Waterfall;

fn around(mean: f64, margin: f64) -> Interval {
    Interval { mean, low: mean - margin, high: mean + margin }
}

fn model(name: &str, seconds: f64, metrics: [f64; 8]) -> ModelReport {
    let names = [
        "ndcg@10",
        "recall@10/n",
        "recall@20/n",
        "recall@20/min",
        "precision@10",
        "hr@10",
        "mrr@10",
        "map@10/min",
    ];
    let intervals = names.iter().zip(metrics);
    ModelReport {
        name: name.to_owned(),
        metrics: intervals.map(|(name, mean)| ((*name).to_owned(), around(mean, 0.004))).collect(),
        seconds,
        peak_bytes: if name == "pipeline" { 1_395_864_371 } else { 0 },
        catalogue: BTreeMap::from([
            ("coverage@10".to_owned(), metrics[0] / 2.0),
            ("gini@10".to_owned(), 1.0 - metrics[0]),
        ]),
    }
}

fn comparison(baseline: &str, mean: f64) -> Comparison {
    let difference = around(mean, 0.002);
    let p_value = if mean.abs() > 0.002 { 1e-9 } else { 0.21 };
    Comparison {
        baseline: baseline.to_owned(),
        metric: "ndcg@10".to_owned(),
        paired: PairedDifference { difference, p_value, n_users: 1_873 },
        p_holm: p_value * 2.0,
    }
}

fn cohort_table(of: &str, metric: &str, means: [f64; 3]) -> CohortTable {
    let cohorts = [Cohort::Cold, Cohort::Warm, Cohort::Hot];
    let sizes = [112, 1_402, 361];
    let rows = cohorts.into_iter().zip(sizes).zip(means).map(|((cohort, n), mean)| CohortMean {
        cohort,
        n,
        interval: around(mean, 0.2 / (n as f64).sqrt()),
    });
    CohortTable { of: of.to_owned(), metric: metric.to_owned(), rows: rows.collect() }
}

fn source(name: &str, recall: f64, marginal_recall: f64) -> SourceRecall {
    SourceRecall { source: name.to_owned(), recall, marginal_recall }
}

/// Invented figures of the size of the real ones.
fn sample() -> Report {
    let mut report = comparable();
    let metrics = &mut report.models[0].metrics;
    metrics.insert("auc/candidates".to_owned(), around(0.8122, 0.003));
    metrics.insert("log_loss/candidates".to_owned(), around(0.0312, 0.001));
    report
}

/// The sample with those figures only that all models have.
fn comparable() -> Report {
    Report {
        protocol: "temporal".to_owned(),
        n_groups: 11_841,
        models: vec![
            model(
                "pipeline",
                41.3,
                [0.2461, 0.1507, 0.2214, 0.2702, 0.1803, 0.6411, 0.4120, 0.1422],
            ),
            model(
                "best_source",
                3.2,
                [0.2149, 0.1312, 0.1951, 0.2402, 0.1604, 0.5902, 0.3707, 0.1203],
            ),
            model(
                "popular_7d",
                0.412,
                [0.0932, 0.0511, 0.0803, 0.1104, 0.0702, 0.3904, 0.1903, 0.0402],
            ),
            model(
                "own_frequency",
                0.731,
                [0.1992, 0.1204, 0.1805, 0.2206, 0.1507, 0.5708, 0.3509, 0.1101],
            ),
            model(
                "own_frequency_60d",
                0.744,
                [0.2090, 0.1259, 0.1887, 0.2311, 0.1551, 0.5800, 0.3608, 0.1151],
            ),
        ],
        waterfall: Waterfall {
            relevant: 118_733,
            retrieved: 84_107,
            after_filter: 84_107,
            top_ranked: 52_390,
            shown: 21_352,
        },
        settings: serde_json::Map::from_iter([
            ("from".to_owned(), "2017-12-04T00:00:00Z".into()),
            ("k".to_owned(), vec![10, 20].into()),
            ("candidates".to_owned(), 1_000.into()),
        ]),
        seed: 7,
        n_users: 1_873,
        n_without_relevant: 0,
        n_empty: 3,
        span: Some(TestSpan {
            from: "2017-12-04T00:07:36Z".to_owned(),
            until: "2018-01-01T04:01:20Z".to_owned(),
        }),
        comparisons: vec![
            comparison("best_source", 0.0312),
            comparison("popular_7d", 0.1529),
            comparison("own_frequency", 0.0469),
            comparison("own_frequency_60d", 0.0371),
        ],
        cohorts: vec![
            cohort_table("users", "ndcg@10", [0.1012, 0.2384, 0.2803]),
            cohort_table("items", "recall@20/n", [0.0203, 0.1203, 0.3120]),
        ],
        sources: vec![
            source("embedding", 0.4312, 0.0213),
            source("item_item", 0.5120, 0.0401),
            source("own_history", 0.4703, 0.1022),
            source("trending", 0.3011, 0.0104),
            source("popular_in_the_categories_of_the_user", 0.3520, 0.0310),
        ],
        recall_curve: [
            (10, 0.18),
            (20, 0.26),
            (50, 0.37),
            (100, 0.46),
            (200, 0.55),
            (500, 0.65),
            (1_000, 0.71),
        ]
        .map(|(k, recall)| CurvePoint { k, recall })
        .to_vec(),
        features: (0..26)
            .map(|at| FeatureImportance {
                feature: format!("feature_{at}_with_a_name_of_some_length"),
                share: 0.25 * 0.75f64.powi(at),
            })
            .collect(),
        reliability: (1..=10)
            .map(|at| {
                let predicted = 0.002 * f64::from(at * at);
                ReliabilityBin {
                    n: 5_000,
                    predicted,
                    observed: predicted * (1.1 - 0.02 * f64::from(at)),
                }
            })
            .collect(),
        calibration_error: Some(0.0048),
        notes: vec![
            "The data is simulated on real shopping patterns: a working example & no benchmark."
                .to_owned(),
        ],
    }
}

/// Compares with the golden file, or writes it if UPDATE_GOLDEN is set.
fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|set| set == "1") {
        std::fs::write(&path, text).expect("tests/golden can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("tests/golden has the file");
    assert!(text == golden, "{name} has changed: run with UPDATE_GOLDEN=1 and read the difference");
}

#[test]
fn the_json_has_the_keys_of_the_contract_and_nothing_else_has_changed() {
    let json: serde_json::Value = serde_json::from_str(&sample().json()).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let contract = ["protocol", "n_groups", "models", "waterfall", "settings", "seed"];
    assert_eq!(keys[..contract.len()], contract);
    let keys_of = |pointer: &str| -> Vec<String> {
        json.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys_of("/models/0")[..4], ["name", "metrics", "seconds", "peak_bytes"]);
    assert_eq!(keys_of("/models/0/metrics/ndcg@10"), ["mean", "low", "high"]);
    let stages = ["relevant", "retrieved", "after_filter", "top_ranked", "shown"];
    assert_eq!(keys_of("/waterfall"), stages);
    assert_golden("report.json", &sample().json());
}

#[test]
fn a_report_reads_back_from_its_json_also_if_only_the_contract_is_there() {
    let report = sample();
    let read: Report = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(read, report);
    let mut json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    let contract = ["protocol", "n_groups", "models", "waterfall", "settings", "seed"];
    json.as_object_mut().unwrap().retain(|key, _| contract.contains(&key.as_str()));
    let read: Report = serde_json::from_value(json).unwrap();
    assert_eq!((read.models.len(), read.n_users), (report.models.len(), 0));
}

#[test]
fn the_terminal_shows_the_table() {
    let text = sample().text(110);
    assert!(text.lines().all(|line| line.chars().count() <= 110), "a line is too long");
    assert_golden("report.txt", &text);
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let html = sample().html();
    for elsewhere in
        ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "style=", "onload"]
    {
        assert!(!html.contains(elsewhere), "the page holds {elsewhere}");
    }
    assert_golden("report.html", &html);
}

#[test]
fn no_text_of_a_report_reaches_the_page_as_markup() {
    let evil = "<img src=x onerror=\"alert(1)\">&'";
    let mut report = sample();
    report.protocol = evil.to_owned();
    report.notes = vec![evil.to_owned()];
    report.settings = serde_json::Map::from_iter([(evil.to_owned(), evil.into())]);
    report.models[0].name = evil.to_owned();
    report.models[0].metrics.insert(evil.to_owned(), around(0.5, 0.1));
    report.models[0].catalogue.insert(evil.to_owned(), 0.5);
    report.comparisons[0].baseline = evil.to_owned();
    report.comparisons.iter_mut().for_each(|comparison| comparison.metric = evil.to_owned());
    report.cohorts[0].of = evil.to_owned();
    report.sources[0].source = evil.to_owned();
    report.features[0].feature = evil.to_owned();
    report.span = Some(TestSpan { from: evil.to_owned(), until: evil.to_owned() });
    let html = report.html();
    assert!(!html.contains("<img") && html.contains("&lt;img"));
}

#[test]
fn every_element_is_closed_and_every_drawing_has_a_title_and_a_description() {
    let html = sample().html();
    for element in [
        "svg", "section", "figure", "table", "div", "p", "dl", "text", "title", "desc", "main",
        "header",
    ] {
        let opened = html.matches(&format!("<{element}>")).count()
            + html.matches(&format!("<{element} ")).count();
        assert_eq!(opened, html.matches(&format!("</{element}>")).count(), "{element}");
    }
    let drawings = html.matches("<svg").count();
    assert!(drawings >= 14);
    assert_eq!(
        [html.matches("-title\">").count(), html.matches("-desc\">").count() / 2],
        [drawings, drawings]
    );
}

#[test]
fn a_figure_of_one_model_alone_is_defined_and_listed_but_not_drawn() {
    let drawings = |report: &Report| report.html().matches("<svg").count();
    assert_eq!(drawings(&sample()), drawings(&comparable()));
    assert!(sample().html().contains("<th scope=\"row\">auc/candidates</th>"));
    assert!(
        sample().html().contains("<dt>auc</dt>") && !comparable().html().contains("<dt>auc</dt>")
    );
}

#[test]
fn an_empty_report_is_still_a_page() {
    let html = Report::default().html();
    assert!(html.contains("<h1></h1>") && !html.contains("NaN") && !html.contains("<svg"));
}

#[test]
fn a_folder_receives_both_files() {
    let folder = tempfile::tempdir().unwrap();
    let report = sample();
    report.write(&folder.path().join("new/report")).unwrap();
    let read =
        |name: &str| std::fs::read_to_string(folder.path().join("new/report").join(name)).unwrap();
    assert_eq!((read("report.json"), read("report.html")), (report.json(), report.html()));
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = report.write(&folder.path().join("file")).unwrap_err();
    assert!(error.to_string().ends_with("file"));
}
