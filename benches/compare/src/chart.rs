//! Draws the medians as bars, in SVG.

use std::fmt::Write;

use crate::results::{Report, Spread};
use crate::table::name_of;

const ROW: usize = 20;
const LABELS: usize = 150;
const BARS: f64 = 480.0;
const WIDTH: usize = 720;

/// Draws one group of bars for each case, with a line from the shortest to the longest time. Each group has a
/// scale of its own.
pub(crate) fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 0;
    for case in report.cases() {
        y += ROW;
        let title = escape(&name_of(case));
        put(
            &mut body,
            &format!(
                r#"<text x="8" y="{}" font-weight="bold">{title}</text>"#,
                y + 14
            ),
        );
        y += ROW;
        let bars: Vec<(&str, Spread)> = report
            .names()
            .filter_map(|name| Some((name, report.summary(case, name)?.wall)))
            .collect();
        let longest = bars.iter().map(|(_, wall)| wall.max).fold(0.0, f64::max);
        for (name, wall) in bars {
            let scaled = |seconds: f64| seconds / longest * BARS;
            put(&mut body, &bar(name, wall, y, scaled));
            y += ROW;
        }
    }
    let height = y + ROW;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{height}" fill="white"/>
{body}</svg>
"#
    )
}

fn bar(name: &str, wall: Spread, y: usize, scaled: impl Fn(f64) -> f64) -> String {
    let Spread { median, min, max } = wall;
    let color = if name.starts_with("longshore") {
        "#c2571a"
    } else {
        "#7a8ca3"
    };
    let label = escape(name);
    let (end, text_y, middle) = (LABELS - 6, y + 14, y + 9);
    let [from, to, width] = [min, max, median].map(scaled);
    #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
    let left = LABELS as f64;
    let mut text = format!(
        r#"<text x="{end}" y="{text_y}" text-anchor="end">{label}</text>
<rect x="{left}" y="{}" width="{width:.1}" height="14" fill="{color}"/>
"#,
        y + 2
    );
    let _ = write!(
        text,
        r#"<line x1="{:.1}" x2="{:.1}" y1="{middle}" y2="{middle}" stroke="black"/>
<text x="{:.1}" y="{text_y}">{median:.2} s</text>"#,
        left + from,
        left + to,
        left + to + 6.0
    );
    text
}

fn put(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{case, report};

    #[test]
    fn the_longest_time_takes_the_whole_width() {
        let text = svg(&report(
            &case("B", "50 ms"),
            &[("a", &[2.0]), ("b", &[1.0])],
        ));
        assert!(text.contains(r#"width="480.0" height="14""#));
        assert!(text.contains(r#"width="240.0" height="14""#));
    }
}
