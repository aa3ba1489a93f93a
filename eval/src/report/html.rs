//! The report as a page that needs nothing but itself.

use super::numbers::{bytes, decimal, grouped, interval, p_value, percent, seconds, signed};
use super::plots::{self, Bar, Caption, HALF, Unit, WIDE};
use super::svg::escape;
use super::{CohortTable, Comparison, ModelReport, Report};
use crate::metrics::{Measure, Metric};
use crate::reliability::ReliabilityBin;
use crate::sources::SourceRecall;

const STYLE: &str = include_str!("report.css");

/// Beginnings of the names of figures that are no [`Measure`], and what they are.
const OTHER_DEFINITIONS: [(&str, &str); 7] = [
    (
        "auc",
        "how often a relevant candidate of a group scores above another one, a tie counting half",
    ),
    ("log_loss", "mean of -ln of the probability that was given to what happened"),
    ("diversity", "mean distance between two items of a list, over all its pairs"),
    (
        "novelty",
        "mean of -log2 of the share of users that have an item, over the items of a list, in bits",
    ),
    ("coverage", "share of the catalogue that is in a list at all"),
    (
        "gini",
        "inequality of how often items are shown: 0 if all equally often, near 1 if a few have it all",
    ),
    ("found", "share of the relevant items that are in the list"),
];

/// The whole page. The same report gives the same bytes.
pub(super) fn page(report: &Report) -> String {
    let sections = [
        models(report),
        comparisons(report),
        waterfall(report),
        sources(report),
        recall_curve(report),
        cohorts(report),
        features(report),
        reliability(report),
        table(report),
        settings(report),
        definitions(report),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Cascade evaluation: {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{}<main>\n{}</main>\n\
         </body>\n</html>\n",
        escape(&report.protocol),
        header(report),
        sections.concat()
    )
}

fn header(report: &Report) -> String {
    let span = report.span.as_ref();
    let span = span.map_or(String::new(), |span| format!("{} to {}", span.from, span.until));
    let cards = [headline_card(report), closest_card(report), test_card(report), cost_card(report)];
    format!(
        "<header>\n<p class=\"eyebrow\">Cascade evaluation</p>\n<h1>{}</h1>\n<p class=\"span\">{}</p>\n{}\
         <div class=\"cards\">\n{}</div>\n</header>\n",
        escape(&report.protocol),
        escape(&span),
        verdict(report),
        cards.concat()
    )
}

/// Whether the model under test beats all others, in one sentence.
fn verdict(report: &Report) -> String {
    let compared = headline_comparisons(report);
    let (Some(model), Some(metric), false) =
        (report.under_test(), report.headline(), compared.is_empty())
    else {
        return String::new();
    };
    let names = |verdict: &str| -> Vec<&str> {
        let with = compared.iter().filter(|comparison| comparison.verdict() == verdict);
        with.map(|comparison| comparison.baseline.as_str()).collect()
    };
    let (worse, open) = (names("worse"), names("no difference shown"));
    let (class, mark, text) = match (worse.is_empty(), open.is_empty()) {
        (true, true) => ("good", "✓", format!("beats every baseline in {metric}")),
        (true, false) => {
            ("open", "–", format!("is not shown to beat {} in {metric}", open.join(", ")))
        }
        (false, _) => ("bad", "✗", format!("is worse than {} in {metric}", worse.join(", "))),
    };
    format!(
        "<p class=\"verdict {class}\"><span aria-hidden=\"true\">{mark}</span> <strong>{}</strong> {}</p>\n",
        escape(&model.name),
        escape(&text)
    )
}

fn card(title: &str, value: &str, below: &str) -> String {
    let [title, value, below] = [title, value, below].map(escape);
    format!(
        "<div class=\"card\"><p class=\"name\">{title}</p><p class=\"value\">{value}</p>\
         <p class=\"below\">{below}</p></div>\n"
    )
}

fn headline_card(report: &Report) -> String {
    let (Some(model), Some(metric)) = (report.under_test(), report.headline()) else {
        return String::new();
    };
    model.metrics.get(metric).map_or(String::new(), |of| {
        let bounds = format!("95 %: {} to {}", decimal(of.low), decimal(of.high));
        card(&format!("{metric} of {}", model.name), &decimal(of.mean), &bounds)
    })
}

/// The baseline that comes closest.
fn closest_card(report: &Report) -> String {
    let compared = headline_comparisons(report);
    let lead = |comparison: &&&Comparison| comparison.paired.difference.mean;
    let closest = compared.iter().min_by(|a, b| lead(a).total_cmp(&lead(b)));
    closest.map_or(String::new(), |comparison| {
        let of = comparison.paired.difference;
        let bounds = format!("95 %: {} to {}", signed(of.low), signed(of.high));
        card(&format!("over {}, the closest", comparison.baseline), &signed(of.mean), &bounds)
    })
}

fn test_card(report: &Report) -> String {
    let users = format!("of {} users", grouped(report.n_users as u64));
    card("query groups", &grouped(report.n_groups as u64), &users)
}

fn cost_card(report: &Report) -> String {
    let Some(model) = report.under_test() else { return String::new() };
    let memory = match model.peak_bytes {
        0 => String::new(),
        peak => format!("{} at most in memory", bytes(peak)),
    };
    card("time of the run", &seconds(model.seconds), &memory)
}

/// The comparisons in the metric that the report is headed by.
fn headline_comparisons(report: &Report) -> Vec<&Comparison> {
    let headline = report.headline();
    let compared = report.comparisons.iter();
    compared.filter(|comparison| Some(comparison.metric.as_str()) == headline).collect()
}

/// A part of the page, or nothing without a body.
fn section(title: &str, lead: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    format!(
        "<section>\n<h2>{}</h2>\n<p class=\"lead\">{}</p>\n{body}</section>\n",
        escape(title),
        escape(lead)
    )
}

/// A drawing under its title, which may be empty.
fn figure(title: &str, drawing: &str) -> String {
    let title = match title {
        "" => String::new(),
        _ => format!("<figcaption>{}</figcaption>\n", escape(title)),
    };
    format!("<figure>\n{title}<div class=\"scroll\">{drawing}</div></figure>\n")
}

fn panels(figures: &str) -> String {
    if figures.is_empty() {
        String::new()
    } else {
        format!("<div class=\"panels\">\n{figures}</div>\n")
    }
}

fn models(report: &Report) -> String {
    let figures: String = drawn_metrics(report)
        .iter()
        .enumerate()
        .map(|(at, metric)| {
            let id = format!("metric-{at}");
            let rows = report.models.iter().enumerate();
            let rows: Vec<Bar> =
                rows.filter_map(|(at, model)| model_bar(at, model, metric)).collect();
            figure(
                metric,
                &plots::bars(Caption { id: &id, title: metric }, HALF, Unit::Plain, &rows),
            )
        })
        .collect();
    let lead = "Means over query groups. A whisker is the 95 % interval of a bootstrap over users.";
    section("Models", lead, &panels(&figures))
}

fn model_bar<'a>(at: usize, model: &'a ModelReport, metric: &str) -> Option<Bar<'a>> {
    let of = model.metrics.get(metric)?;
    Some(Bar {
        label: &model.name,
        value: of.mean,
        class: if at == 0 { "main" } else { "other" },
        behind: None,
        whisker: Some([of.low, of.high]),
        text: decimal(of.mean),
    })
}

/// One metric of each measure that models can be compared in: at the headline's k where there is one, else the first.
/// The table has all.
fn drawn_metrics(report: &Report) -> Vec<&str> {
    let k_of = |name: &str| name.parse().map(|metric: Metric| metric.k).ok();
    let measure_of = |name: &str| name.parse().map(|metric: Metric| metric.measure).ok();
    let headline = report.headline().and_then(k_of);
    let n_models = |metric: &str| {
        report.models.iter().filter(|model| model.metrics.contains_key(metric)).count()
    };
    let mut metrics = report.metrics();
    metrics.retain(|metric| n_models(metric) >= report.models.len().min(2));
    let same_measure = metrics
        .chunk_by(|a, b| measure_of(a).is_some_and(|measure| Some(measure) == measure_of(b)));
    same_measure
        .map(|names| names.iter().copied().find(|name| k_of(name) == headline).unwrap_or(names[0]))
        .collect()
}

fn comparisons(report: &Report) -> String {
    let (Some(model), Some(metric)) = (report.under_test(), report.headline()) else {
        return String::new();
    };
    let compared = headline_comparisons(report);
    if compared.is_empty() {
        return String::new();
    }
    let title = format!("{metric}: {} less the baseline", model.name);
    let caption = Caption { id: "differences", title: &title };
    let drawing = figure(&title, &plots::differences(caption, &compared));
    let lead = "Paired: both models answer the same query groups, and the bootstrap draws the same users for both. \
                Right of 0, the model under test is better.";
    section("Against the baselines", lead, &(drawing + &comparison_table(report)))
}

fn comparison_table(report: &Report) -> String {
    let header = ["baseline", "metric", "difference", "p", "p (Holm)", "verdict"];
    let rows = report.comparisons.iter().map(|comparison| {
        let cells = [
            comparison.baseline.clone(),
            comparison.metric.clone(),
            interval(&comparison.paired.difference, signed),
            p_value(comparison.paired.p_value),
            p_value(comparison.p_holm),
        ];
        let verdict = format!(
            "<span class=\"verdict {}\">{}</span>",
            plots::tone(comparison),
            comparison.verdict()
        );
        cells.map(|cell| escape(&cell)).into_iter().chain([verdict]).collect()
    });
    html_table(&header, rows)
}

fn waterfall(report: &Report) -> String {
    let mut before = 1.0;
    let steps = report.waterfall.steps();
    let rows: Vec<Bar> = steps
        .iter()
        .map(|step| {
            let lost = match step.lost {
                0 => String::new(),
                lost => format!("  (-{})", grouped(lost)),
            };
            let text = format!("{}  {}{lost}", percent(step.rate), grouped(step.left));
            let behind = Some((before, "lost"));
            before = step.rate;
            Bar { label: step.name, value: step.rate, class: "main", behind, whisker: None, text }
        })
        .collect();
    if report.waterfall.relevant == 0 {
        return String::new();
    }
    let title = "Relevant items left after each stage";
    let drawing = plots::bars(Caption { id: "waterfall", title }, WIDE, Unit::Percent, &rows);
    let lead = "Of the relevant items of all query groups: how many each stage lets through. What it loses is pale.";
    section("Where relevant items are lost", lead, &figure("", &drawing))
}

fn sources(report: &Report) -> String {
    let rows: Vec<Bar> = report.sources.iter().map(source_bar).collect();
    if rows.is_empty() {
        return String::new();
    }
    let title = "Recall of each source";
    let drawing = plots::bars(Caption { id: "sources", title }, WIDE, Unit::Percent, &rows);
    let lead = "Share of the relevant items that a source proposes. Dark: those that no other source does, which would \
                be lost without it.";
    section("Sources", lead, &figure("", &drawing))
}

fn source_bar(row: &SourceRecall) -> Bar<'_> {
    let (all, alone) = (percent(row.recall), percent(row.marginal_recall));
    Bar {
        label: &row.source,
        value: row.marginal_recall,
        class: "main",
        behind: Some((row.recall, "shared")),
        whisker: None,
        text: format!("{all}  ({alone} alone)"),
    }
}

fn recall_curve(report: &Report) -> String {
    if report.recall_curve.is_empty() {
        return String::new();
    }
    let title = "Recall by number of candidates";
    let drawing = plots::recall_curve(Caption { id: "curve", title }, &report.recall_curve);
    let lead = "Share of the relevant items among the first k candidates of retrieval: what the ranker can reach at \
                most.";
    section("Recall of retrieval", lead, &figure("", &drawing))
}

fn cohorts(report: &Report) -> String {
    let tables = report.cohorts.iter().enumerate();
    let figures: String = tables.map(|(at, table)| cohort_figure(at, table)).collect();
    let lead = "Cold: nothing known. Hot: the fifth with the most of those that are known. Users by their events \
                before the question, items by their users.";
    section("Cohorts", lead, &panels(&figures))
}

fn cohort_figure(at: usize, table: &CohortTable) -> String {
    let (id, title) =
        (format!("cohort-{at}"), format!("{} by cohort of {}", table.metric, table.of));
    let rows: Vec<Bar> = table
        .rows
        .iter()
        .map(|row| Bar {
            label: row.cohort.name(),
            value: row.interval.mean,
            class: "main",
            behind: None,
            whisker: Some([row.interval.low, row.interval.high]),
            text: format!("{}  (n {})", decimal(row.interval.mean), grouped(row.n as u64)),
        })
        .collect();
    figure(&title, &plots::bars(Caption { id: &id, title: &title }, HALF, Unit::Plain, &rows))
}

fn features(report: &Report) -> String {
    let rows: Vec<Bar> = report
        .features
        .iter()
        .map(|row| Bar {
            label: &row.feature,
            value: row.share,
            class: "main",
            behind: None,
            whisker: None,
            text: percent(row.share),
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let title = "Share of the gain by feature";
    let drawing = plots::bars(Caption { id: "features", title }, WIDE, Unit::Percent, &rows);
    let shown: f64 = report.features.iter().map(|row| row.share).sum();
    let lead = format!(
        "Share of the gain of all splits of the ranker: the first {} features, which have {} of it.",
        rows.len(),
        percent(shown)
    );
    section("What the ranker looks at", &lead, &figure("", &drawing))
}

fn reliability(report: &Report) -> String {
    let Some(error) = report.calibration_error else { return String::new() };
    let title = "Observed over predicted rates";
    let drawing = plots::reliability(Caption { id: "reliability", title }, &report.reliability);
    let lead = format!(
        "How probable it is that a candidate is relevant, by the ranker, and how often it is: over all candidates, in \
         bins that expect equally many relevant ones. On the diagonal a probability is true. Expected calibration error: {}.",
        decimal(error)
    );
    let header = ["predicted", "observed", "candidates"];
    let row = |bin: &ReliabilityBin| {
        vec![decimal(bin.predicted), decimal(bin.observed), grouped(bin.n as u64)]
    };
    let table = html_table(&header, report.reliability.iter().map(row));
    section("Calibration", &lead, &panels(&(figure("", &drawing) + &table)))
}

/// Figures by models: there are more figures than models.
fn table(report: &Report) -> String {
    let names = report.models.iter().map(|model| model.name.as_str());
    let header: Vec<&str> = std::iter::once("").chain(names).collect();
    let metrics = report.metrics();
    let metrics = metrics
        .iter()
        .map(|metric| table_row(report, metric, |model| metric_cell(report, model, metric)));
    let catalogue = catalogue_names(report);
    let catalogue = catalogue.iter().map(|name| {
        let cell = |model: &ModelReport| model.catalogue.get(*name).map(|value| decimal(*value));
        table_row(report, name, |model| cell(model).unwrap_or_else(|| "-".to_owned()))
    });
    let cost = [
        table_row(report, "time", |model| seconds(model.seconds)),
        table_row(report, "memory", |model| bytes(model.peak_bytes)),
    ];
    let rows = metrics.chain(catalogue).chain(cost);
    let lead = "Mean and 95 % interval over users; the best of a row is bold.";
    let body = if report.models.is_empty() { String::new() } else { html_table(&header, rows) };
    section("All figures", lead, &body)
}

fn table_row(report: &Report, name: &str, cell: impl Fn(&ModelReport) -> String) -> Vec<String> {
    std::iter::once(escape(name)).chain(report.models.iter().map(cell)).collect()
}

fn catalogue_names(report: &Report) -> Vec<&str> {
    let names = report.models.iter().flat_map(|model| model.catalogue.keys());
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn metric_cell(report: &Report, model: &ModelReport, metric: &str) -> String {
    let Some(of) = model.metrics.get(metric) else { return "-".to_owned() };
    let means = report.models.iter().filter_map(|model| model.metrics.get(metric));
    let best = means.map(|of| of.mean).fold(f64::NEG_INFINITY, f64::max);
    let mean = decimal(of.mean);
    // Whether more is better is known of the ranking metrics only.
    let bold = of.mean == best && metric.parse::<Metric>().is_ok();
    let mean = if bold { format!("<strong>{mean}</strong>") } else { mean };
    format!("{mean}<small>{} to {}</small>", decimal(of.low), decimal(of.high))
}

/// A table of cells that are HTML already; the first of each row heads it.
fn html_table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let titles: String =
        header.iter().map(|title| format!("<th scope=\"col\">{}</th>", escape(title))).collect();
    let body: String = rows.map(|row| html_row(&row)).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )
}

fn html_row(row: &[String]) -> String {
    let Some((first, others)) = row.split_first() else { return String::new() };
    let cells: String = others.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr><th scope=\"row\">{first}</th>{cells}</tr>\n")
}

fn settings(report: &Report) -> String {
    let row = |name: &str, value: String| {
        format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(&value))
    };
    let counts = [
        ("seed", report.seed),
        ("query groups without a relevant item, not counted", report.n_without_relevant as u64),
        ("query groups with an empty list, counted as 0", report.n_empty as u64),
    ];
    let counts = counts.map(|(name, count)| row(name, grouped(count)));
    let given = report.settings.iter().map(|(name, value)| {
        row(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    });
    let rows: String = given.chain(counts).collect();
    let notes: String =
        report.notes.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    let notes = if notes.is_empty() { notes } else { format!("<ul>\n{notes}</ul>\n") };
    let lead = "What the run was asked for, and what one must know to trust it.";
    section("Settings and notes", lead, &format!("{notes}<dl>\n{rows}</dl>\n"))
}

/// Definitions of the figures that the report shows.
fn definitions(report: &Report) -> String {
    let metrics = report.metrics();
    let shown = |measure: &Measure| {
        let mut parsed = metrics.iter().filter_map(|name| name.parse::<Metric>().ok());
        parsed.any(|metric| metric.measure == *measure)
    };
    let measures = Measure::ALL.into_iter().filter(shown);
    let measures = measures.map(|measure| (measure.name_at("k"), measure.definition()));
    let of_cohorts = report.cohorts.iter().map(|table| table.metric.as_str());
    let names = metrics.iter().copied().chain(catalogue_names(report)).chain(of_cohorts);
    let names: Vec<&str> = names.collect();
    let others = OTHER_DEFINITIONS.into_iter();
    let others = others.filter(|(start, _)| names.iter().any(|name| name.starts_with(start)));
    let all = measures.chain(others.map(|(start, definition)| (start.to_owned(), definition)));
    let row = |(name, definition): (String, &str)| {
        format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(&name), escape(definition))
    };
    let rows: String = all.map(row).collect();
    let rows = if rows.is_empty() { rows } else { format!("<dl>\n{rows}</dl>\n") };
    let lead = "A hit is a relevant item among the first k of a list. A metric is the mean over all query groups that \
                have a relevant item; ties in score are broken by the lower item number.";
    section("Definitions", lead, &rows)
}
