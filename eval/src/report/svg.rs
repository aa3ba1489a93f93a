//! Drawings as SVG text. Colours and fonts are classes of the page's style sheet, so that light and dark follow it.

use std::fmt::Write;

/// Where a text stands relative to its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Middle,
    End,
}

/// A drawing in the making. Lengths are pixels at full width; y grows downwards.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// An empty drawing of this size.
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    /// A rectangle; a negative width draws nothing.
    pub(super) fn rect(&mut self, class: &str, [x, y]: [f64; 2], width: f64, height: f64) {
        let width = width.max(0.0);
        self.push(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2"/>"#
        ));
    }

    /// A straight line.
    pub(super) fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        self.push(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    /// A dot.
    pub(super) fn dot(&mut self, class: &str, [x, y]: [f64; 2], radius: f64) {
        self.push(format_args!(
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{radius:.1}"/>"#
        ));
    }

    /// Straight lines from point to point.
    pub(super) fn path(&mut self, class: &str, points: &[[f64; 2]]) {
        let points: Vec<String> = points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        self.push(format_args!(r#"<polyline class="{class}" points="{}"/>"#, points.join(" ")));
    }

    /// A text, escaped here, its base line at y.
    pub(super) fn text(&mut self, class: &str, [x, y]: [f64; 2], anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.push(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        ));
    }

    /// A name that may be too long for `width` pixels: cut there, the whole of it shown when pointed at.
    pub(super) fn label(&mut self, [x, y]: [f64; 2], width: f64, name: &str) {
        let room = (width / CHAR_WIDTH) as usize;
        let cut = name.chars().count() > room;
        let shown: String =
            name.chars().take(if cut { room.saturating_sub(1) } else { room }).collect();
        let (shown, whole) = (escape(&shown), escape(name));
        let shown = if cut { format!("{shown}…<title>{whole}</title>") } else { shown };
        self.push(format_args!(r#"<text class="label" x="{x:.1}" y="{y:.1}">{shown}</text>"#));
    }

    /// The finished drawing, described in words to those who do not see it. `id` is unique within the page.
    pub(super) fn finish(self, id: &str, title: &str, description: &str) -> String {
        let Self { width, height, body } = self;
        let (title, description) = (escape(title), escape(description));
        // A drawing is not shrunk below what one can read; it scrolls instead.
        let class = if width > 600.0 { "wide" } else { "narrow" };
        format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" \
             aria-labelledby=\"{id}-title {id}-desc\">\n\
             <title id=\"{id}-title\">{title}</title>\n<desc id=\"{id}-desc\">{description}</desc>\n{body}</svg>\n"
        )
    }

    fn push(&mut self, element: std::fmt::Arguments) {
        writeln!(self.body, "{element}").expect("a string takes all that is written");
    }
}

/// Width that a character of a label is given, in pixels: the mean over names and numbers in DejaVu Sans, the widest of
/// the usual sans-serif fonts, at 13 pixels.
pub(super) const CHAR_WIDTH: f64 = 8.0;

/// `text` with the characters that mean something to HTML replaced, also within quotes. What XML forbids even as a
/// reference becomes U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' => escaped.push(' '),
            _ if character.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_html_would_act_upon_is_left() {
        let escaped = escape("<b onclick=\"x\">'a' & b\u{1}</b>\n");
        assert_eq!(
            escaped,
            "&lt;b onclick=&quot;x&quot;&gt;&#39;a&#39; &amp; b\u{fffd}&lt;/b&gt; "
        );
    }

    #[test]
    fn a_long_name_is_cut_between_characters_and_kept_whole_for_the_pointer() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.label([0.0, 0.0], 5.0 * CHAR_WIDTH, "größer<als");
        assert!(svg.body.contains(">größ…<title>größer&lt;als</title></text>"));
    }
}
