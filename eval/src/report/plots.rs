//! The plots of the report: bars, differences, and curves.

use super::numbers::{interval, signed};
use super::svg::{Anchor, CHAR_WIDTH, Svg};
use super::{Comparison, CurvePoint};
use crate::reliability::ReliabilityBin;

/// Width of a plot that has the page to itself, in pixels.
pub(super) const WIDE: f64 = 1_000.0;
/// Width of a plot that shares it with another.
pub(super) const HALF: f64 = 480.0;

const ROW_HEIGHT: f64 = 28.0;
const BAR_HEIGHT: f64 = 16.0;
const AXIS_HEIGHT: f64 = 24.0;
/// A name takes at most this share of a plot's width.
const LABEL_SHARE: f64 = 0.32;
const PADDING: f64 = 12.0;

/// How numbers on an axis are written.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Plain,
    Percent,
}

/// What a plot is called.
#[derive(Clone, Copy)]
pub(super) struct Caption<'a> {
    /// Unique within the page.
    pub(super) id: &'a str,
    /// One line.
    pub(super) title: &'a str,
}

/// A horizontal bar.
pub(super) struct Bar<'a> {
    /// Its name, on the left.
    pub(super) label: &'a str,
    /// Its length, not negative.
    pub(super) value: f64,
    /// Class of its colour.
    pub(super) class: &'static str,
    /// A longer bar behind it, and the class of its colour.
    pub(super) behind: Option<(f64, &'static str)>,
    /// Bounds of an interval.
    pub(super) whisker: Option<[f64; 2]>,
    /// What is written on the right.
    pub(super) text: String,
}

/// Horizontal bars from 0, one below the other.
pub(super) fn bars(caption: Caption, width: f64, unit: Unit, bars: &[Bar]) -> String {
    let largest = bars.iter().map(Bar::extent).fold(0.0, f64::max);
    let names = bars.iter().map(|bar| bar.label);
    let texts = bars.iter().map(|bar| bar.text.as_str());
    let frame = Frame::rows(width, names, texts, bars.len());
    let scale = Scale::new([0.0, largest], frame.across);
    let mut svg = Svg::new(width, frame.height());
    frame.draw_grid(&mut svg, &scale, unit);
    for (row, bar) in bars.iter().enumerate() {
        draw_bar(&mut svg, &frame, &scale, row, bar);
    }
    let said: Vec<String> = bars.iter().map(|bar| format!("{}: {}", bar.label, bar.text)).collect();
    svg.finish(caption.id, caption.title, &said.join("; "))
}

impl Bar<'_> {
    /// How far it reaches with all that belongs to it.
    fn extent(&self) -> f64 {
        let behind = self.behind.map_or(0.0, |(value, _)| value);
        let whisker = self.whisker.map_or(0.0, |[_, high]| high);
        self.value.max(behind).max(whisker)
    }
}

fn draw_bar(svg: &mut Svg, frame: &Frame, scale: &Scale, row: usize, bar: &Bar) {
    let middle = frame.middle(row);
    let corner = [scale.at(0.0), middle - BAR_HEIGHT / 2.0];
    let length = |value: f64| scale.at(value) - scale.at(0.0);
    frame.write(svg, row, bar.label, &bar.text);
    if let Some((value, class)) = bar.behind {
        svg.rect(class, corner, length(value), BAR_HEIGHT);
    }
    svg.rect(bar.class, corner, length(bar.value), BAR_HEIGHT);
    if let Some(bounds) = bar.whisker {
        draw_whisker(svg, bounds.map(|bound| scale.at(bound)), middle);
    }
}

fn draw_whisker(svg: &mut Svg, [low, high]: [f64; 2], y: f64) {
    svg.line("whisker", [low, y], [high, y]);
    for end in [low, high] {
        svg.line("whisker", [end, y - 4.0], [end, y + 4.0]);
    }
}

/// Differences with their intervals on both sides of 0.
pub(super) fn differences(caption: Caption, comparisons: &[&Comparison]) -> String {
    let written = |row: &Comparison| interval(&row.paired.difference, signed);
    let texts: Vec<String> =
        comparisons.iter().map(|row| format!("{}  {}", written(row), row.verdict())).collect();
    let names = comparisons.iter().map(|row| row.baseline.as_str());
    let frame = Frame::rows(WIDE, names, texts.iter().map(String::as_str), comparisons.len());
    let bounds =
        comparisons.iter().map(|row| [row.paired.difference.low, row.paired.difference.high]);
    let range = bounds.fold([0.0f64; 2], |all, of| [all[0].min(of[0]), all[1].max(of[1])]);
    let scale = Scale::new(range, frame.across);
    let mut svg = Svg::new(WIDE, frame.height());
    frame.draw_grid(&mut svg, &scale, Unit::Plain);
    svg.line("zero", [scale.at(0.0), 0.0], [scale.at(0.0), frame.bottom()]);
    for (row, (comparison, text)) in comparisons.iter().zip(&texts).enumerate() {
        let of = comparison.paired.difference;
        frame.write(&mut svg, row, &comparison.baseline, text);
        draw_whisker(&mut svg, [scale.at(of.low), scale.at(of.high)], frame.middle(row));
        svg.dot(tone(comparison), [scale.at(of.mean), frame.middle(row)], 5.5);
    }
    let said =
        comparisons.iter().zip(&texts).map(|(row, text)| format!("{}: {text}", row.baseline));
    svg.finish(caption.id, caption.title, &said.collect::<Vec<_>>().join("; "))
}

/// Class of the colour of a verdict.
pub(super) fn tone(comparison: &Comparison) -> &'static str {
    match comparison.verdict() {
        "better" => "good",
        "worse" => "bad",
        _ => "open",
    }
}

/// Recall by the number of candidates, which is drawn on a logarithmic scale.
pub(super) fn recall_curve(caption: Caption, points: &[CurvePoint]) -> String {
    let (first, last) = (points.iter().map(|p| p.k).min(), points.iter().map(|p| p.k).max());
    let ends = [first, last].map(|k| (k.unwrap_or(1).max(1) as f64).log10());
    let highest = points.iter().map(|point| point.recall).fold(0.0, f64::max);
    let plot = Plot::new(WIDE, 300.0);
    let (across, up) = (Scale::exact(ends, plot.across), Scale::new([0.0, highest], plot.up));
    let mut svg = Svg::new(WIDE, 300.0);
    plot.draw_rows(&mut svg, &up);
    for point in points {
        let x = across.at((point.k.max(1) as f64).log10());
        svg.text("tick", [x, plot.up[0] + 18.0], Anchor::Middle, &point.k.to_string());
    }
    let drawn: Vec<[f64; 2]> = points
        .iter()
        .map(|point| [across.at((point.k.max(1) as f64).log10()), up.at(point.recall)])
        .collect();
    svg.path("curve", &drawn);
    for at in &drawn {
        svg.dot("main", *at, 4.0);
    }
    let said = points.iter().map(|p| format!("{} candidates: {:.1} %", p.k, 100.0 * p.recall));
    svg.finish(caption.id, caption.title, &said.collect::<Vec<_>>().join("; "))
}

/// Observed over predicted rates; what is true lies on the diagonal.
pub(super) fn reliability(caption: Caption, bins: &[ReliabilityBin]) -> String {
    let largest = bins.iter().map(|bin| bin.predicted.max(bin.observed)).fold(0.0, f64::max);
    let plot = Plot::new(HALF, 360.0);
    let across = Scale::new([0.0, largest], plot.across);
    let up = Scale::new([0.0, largest], plot.up);
    let mut svg = Svg::new(HALF, 360.0);
    plot.draw_rows(&mut svg, &up);
    for tick in &across.ticks {
        let at = [across.at(*tick), plot.up[0] + 18.0];
        svg.text("tick", at, Anchor::Middle, &across.written(*tick, Unit::Percent));
    }
    let diagonal = across.ends.map(|end| [across.at(end), up.at(end)]);
    svg.line("zero", diagonal[0], diagonal[1]);
    for bin in bins {
        svg.dot("main", [across.at(bin.predicted), up.at(bin.observed)], 5.0);
    }
    let said = bins
        .iter()
        .map(|bin| format!("predicted {:.4}, observed {:.4}", bin.predicted, bin.observed));
    svg.finish(caption.id, caption.title, &said.collect::<Vec<_>>().join("; "))
}

/// Where the parts of a plot with one row for each name lie: names, the plot itself, texts; an axis below.
struct Frame {
    label_width: f64,
    /// Left and right end of the plot itself.
    across: [f64; 2],
    right: f64,
    n_rows: usize,
}

impl Frame {
    fn rows<'a>(
        width: f64,
        names: impl Iterator<Item = &'a str>,
        texts: impl Iterator<Item = &'a str>,
        n_rows: usize,
    ) -> Self {
        let label_width = text_width(names).min(LABEL_SHARE * width);
        let across = [label_width + PADDING, width - text_width(texts) - PADDING];
        Self { label_width, across, right: width, n_rows }
    }

    /// Height of the middle of a row.
    fn middle(&self, row: usize) -> f64 {
        (row as f64 + 0.5) * ROW_HEIGHT
    }

    /// Height of the lower end of the rows.
    fn bottom(&self) -> f64 {
        self.n_rows as f64 * ROW_HEIGHT
    }

    fn height(&self) -> f64 {
        self.bottom() + AXIS_HEIGHT
    }

    /// Name and text of a row.
    fn write(&self, svg: &mut Svg, row: usize, name: &str, text: &str) {
        let base = self.middle(row) + 4.5;
        svg.label([0.0, base], self.label_width, name);
        svg.text("number", [self.right, base], Anchor::End, text);
    }

    fn draw_grid(&self, svg: &mut Svg, scale: &Scale, unit: Unit) {
        for tick in &scale.ticks {
            let x = scale.at(*tick);
            svg.line("gridline", [x, 0.0], [x, self.bottom()]);
            let written = scale.written(*tick, unit);
            svg.text("tick", [x, self.bottom() + 16.0], Anchor::Middle, &written);
        }
    }
}

/// Width that the longest of some texts takes, in pixels.
fn text_width<'a>(texts: impl Iterator<Item = &'a str>) -> f64 {
    texts.map(|text| text.chars().count()).max().unwrap_or(0) as f64 * CHAR_WIDTH
}

/// Where the axes of a plot of points lie.
struct Plot {
    /// Left and right end.
    across: [f64; 2],
    /// Lower and upper end, the lower one being the larger number.
    up: [f64; 2],
}

impl Plot {
    fn new(width: f64, height: f64) -> Self {
        Self { across: [58.0, width - 24.0], up: [height - AXIS_HEIGHT, 12.0] }
    }

    /// Horizontal lines at the ticks of the vertical axis, in percent.
    fn draw_rows(&self, svg: &mut Svg, up: &Scale) {
        for tick in &up.ticks {
            let y = up.at(*tick);
            svg.line("gridline", [self.across[0], y], [self.across[1], y]);
            let at = [self.across[0] - 8.0, y + 4.0];
            svg.text("tick", at, Anchor::End, &up.written(*tick, Unit::Percent));
        }
    }
}

/// From numbers to pixels.
struct Scale {
    /// The numbers at both ends.
    ends: [f64; 2],
    pixels: [f64; 2],
    step: f64,
    /// Round numbers within the ends, ascending.
    ticks: Vec<f64>,
}

impl Scale {
    /// A scale that holds `range` and ends on round numbers.
    fn new(range: [f64; 2], pixels: [f64; 2]) -> Self {
        let step = round_step((range[1] - range[0]) / 4.0);
        let [first, last] = [(range[0] / step).floor(), (range[1] / step).ceil()];
        let ticks = (first as i64..=last as i64).map(|at| at as f64 * step).collect();
        Self { ends: [first * step, last * step], pixels, step, ticks }
    }

    /// A scale that ends where `ends` say, without ticks.
    fn exact(ends: [f64; 2], pixels: [f64; 2]) -> Self {
        Self { ends, pixels, step: 1.0, ticks: Vec::new() }
    }

    /// Where `value` lies; in the middle if the ends are the same.
    fn at(&self, value: f64) -> f64 {
        let span = self.ends[1] - self.ends[0];
        let share = if span > 0.0 { (value - self.ends[0]) / span } else { 0.5 };
        self.pixels[0] + share * (self.pixels[1] - self.pixels[0])
    }

    /// A tick with as many decimals as its step needs.
    fn written(&self, tick: f64, unit: Unit) -> String {
        let (factor, sign) = match unit {
            Unit::Plain => (1.0, ""),
            Unit::Percent => (100.0, " %"),
        };
        let decimals = (-(self.step * factor).log10()).ceil().clamp(0.0, 6.0) as usize;
        // Adding 0 turns -0 into 0.
        format!("{:.decimals$}{sign}", tick * factor + 0.0)
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `step`; 1 if `step` is not above 0.
fn round_step(step: f64) -> f64 {
    if step.is_nan() || step <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(step.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0].into_iter();
    let mut steps = factors.map(|factor| factor * power);
    steps.find(|rounded| *rounded >= step * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_on_round_numbers_around_its_values() {
        let scale = Scale::new([-0.003, 0.0412], [0.0, 100.0]);
        let written: Vec<String> =
            scale.ticks.iter().map(|tick| scale.written(*tick, Unit::Plain)).collect();
        assert_eq!(written, ["-0.02", "0.00", "0.02", "0.04", "0.06"]);
        assert_eq!([scale.at(-0.02), scale.at(0.06)], [0.0, 100.0]);
        let percents = Scale::new([0.0, 0.8], [0.0, 1.0]);
        assert_eq!(percents.written(0.2, Unit::Percent), "20 %");
    }

    #[test]
    fn an_axis_of_nothing_is_drawn_all_the_same() {
        for range in [[0.0, 0.0], [0.0, 1e-12], [0.0, 1e12]] {
            let scale = Scale::new(range, [0.0, 100.0]);
            assert!(scale.at(range[1]).is_finite() && scale.ticks.len() <= 7);
        }
        assert_eq!(Scale::exact([1.0, 1.0], [0.0, 100.0]).at(1.0), 50.0);
    }
}
