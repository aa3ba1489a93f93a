//! The report on a terminal: plain text in aligned columns.

use super::numbers::{decimal, grouped, interval, p_value, percent, seconds, signed};
use super::{CohortTable, ModelReport, Report};

/// Columns that a bar of the waterfall takes at most.
const BAR_WIDTH: f64 = 24.0;

/// Features that are listed at most; the page has more of them.
const MAX_FEATURES: usize = 10;

/// The whole report as text, each part after an empty line; a part without content is left out.
pub(super) fn text(report: &Report, width: usize) -> String {
    let mut parts = vec![heading(report)];
    parts.extend(metric_blocks(report, width));
    parts.push(catalogue(report));
    parts.push(comparisons(report));
    parts.push(waterfall(report));
    parts.push(sources(report));
    parts.extend(report.cohorts.iter().map(cohorts));
    parts.push(features(report));
    parts.push(reliability(report));
    parts.push(report.notes.iter().map(|note| format!("note: {note}\n")).collect());
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn heading(report: &Report) -> String {
    let counted = [report.n_groups, report.n_users].map(|count| grouped(count as u64));
    let span = report.span.as_ref();
    let span = span.map_or(String::new(), |span| format!(", {} to {}", span.from, span.until));
    format!(
        "{}: {} query groups of {} users{span}\nmean [95 % interval over users], seed {}\n",
        report.protocol, counted[0], counted[1], report.seed
    )
}

/// Models by metrics, as many metrics side by side as fit into `width` columns, at least one.
fn metric_blocks(report: &Report, width: usize) -> Vec<String> {
    let names = report.models.iter().map(|model| model.name.chars().count());
    let interval_width = "0.0000 [0.0000, 0.0000]".len() + GAP.len();
    let room = width.saturating_sub(names.max().unwrap_or(0));
    let metrics = report.metrics();
    metrics
        .chunks((room / interval_width).max(1))
        .map(|block| {
            let header = headed("model", block.iter().map(|name| (*name).to_owned()));
            let rows = report.models.iter().map(|model| {
                let cells = block.iter().map(|metric| metric_cell(model, metric));
                headed(&model.name, cells)
            });
            aligned(std::iter::once(header).chain(rows).collect())
        })
        .collect()
}

fn metric_cell(model: &ModelReport, metric: &str) -> String {
    model.metrics.get(metric).map_or("-".to_owned(), |of| interval(of, decimal))
}

fn catalogue(report: &Report) -> String {
    let mut names: Vec<&String> =
        report.models.iter().flat_map(|model| model.catalogue.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let titles = names.iter().map(|name| (*name).clone());
    let header = headed("model", titles.chain(["time".to_owned()]));
    let rows = report.models.iter().map(|model| {
        let value =
            |name: &&String| model.catalogue.get(*name).map_or("-".to_owned(), |&v| decimal(v));
        headed(&model.name, names.iter().map(value).chain([seconds(model.seconds)]))
    });
    titled(header, rows.collect())
}

fn comparisons(report: &Report) -> String {
    let Some(model) = report.under_test() else { return String::new() };
    let titles = ["metric", "difference", "p (Holm)", ""].map(str::to_owned);
    let rows = report.comparisons.iter().map(|comparison| {
        let cells = [
            comparison.metric.clone(),
            interval(&comparison.paired.difference, signed),
            p_value(comparison.p_holm),
            comparison.verdict().to_owned(),
        ];
        headed(&comparison.baseline, cells)
    });
    titled(headed(&format!("{} against", model.name), titles), rows.collect())
}

fn waterfall(report: &Report) -> String {
    let header = headed("relevant items", ["left", "share", "lost here"].map(str::to_owned));
    let steps = report.waterfall.steps();
    let mut rows = vec![header];
    rows.extend(steps.iter().map(|step| {
        headed(step.name, [grouped(step.left), percent(step.rate), grouped(step.lost)])
    }));
    let bars = steps.iter().map(|step| "█".repeat((step.rate * BAR_WIDTH).round() as usize));
    let bars = std::iter::once(String::new()).chain(bars);
    let lines = aligned(rows);
    lines
        .lines()
        .zip(bars)
        .map(|(line, bar)| format!("{line}{GAP}{bar}").trim_end().to_owned() + "\n")
        .collect()
}

fn sources(report: &Report) -> String {
    let header = headed("source", ["recall", "it alone"].map(str::to_owned));
    let rows = report
        .sources
        .iter()
        .map(|row| headed(&row.source, [percent(row.recall), percent(row.marginal_recall)]));
    titled(header, rows.collect())
}

fn cohorts(table: &CohortTable) -> String {
    let header = headed(&table.of, ["n".to_owned(), table.metric.clone()]);
    let rows = table.rows.iter().map(|row| {
        headed(row.cohort.name(), [grouped(row.n as u64), interval(&row.interval, decimal)])
    });
    titled(header, rows.collect())
}

fn features(report: &Report) -> String {
    let header = headed("feature of the ranker", ["gain".to_owned()]);
    let rows = report.features.iter().take(MAX_FEATURES);
    titled(header, rows.map(|row| headed(&row.feature, [percent(row.share)])).collect())
}

fn reliability(report: &Report) -> String {
    let Some(error) = report.calibration_error else { return String::new() };
    let header = headed("predicted", ["observed", "candidates"].map(str::to_owned));
    let rows = report
        .reliability
        .iter()
        .map(|bin| headed(&decimal(bin.predicted), [decimal(bin.observed), grouped(bin.n as u64)]));
    let table = titled(header, rows.collect());
    format!("{table}expected calibration error {}\n", decimal(error))
}

/// What stands between two columns.
const GAP: &str = "  ";

fn headed(first: &str, others: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(others).collect()
}

/// `header` over `rows`, or nothing where there are no rows.
fn titled(header: Vec<String>, rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    aligned(std::iter::once(header).chain(rows).collect())
}

/// Lines of equally many cells, the first column to the left, the others to the right.
fn aligned(rows: Vec<Vec<String>>) -> String {
    let n_columns = rows.first().map_or(0, Vec::len);
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..n_columns).map(|column| widest(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells =
            row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{GAP}{cell:>width$}"),
            });
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_alphabet() {
        let rows = [["model", "n"], ["größer", "1,000"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        assert_eq!(aligned(rows), "model       n\ngrößer  1,000\n");
    }

    #[test]
    fn an_empty_report_is_a_heading_and_an_empty_waterfall() {
        let text = text(&Report::default(), 100);
        assert!(text.starts_with(": 0 query groups of 0 users\n"));
        assert_eq!(text.lines().count(), 9);
    }
}
