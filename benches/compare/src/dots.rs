//! Draws how much longer the other programs take, in SVG: a row for each case, and a dot for each program.

use std::fmt::Write;

use crate::contestant::Family;
use crate::page::best_of;
use crate::results::Report;
use crate::table::name_of;

const ROW: u32 = 24;
/// The height of the legend and the scale.
const HEAD: u32 = 56;
const LABELS: f64 = 310.0;
const DOTS: f64 = 450.0;
const WIDTH: u32 = 800;
const RADIUS: u32 = 8;
/// The ratios at both ends of the scale, which is logarithmic. Dots beyond them are drawn at the ends.
const ENDS: (f64, f64) = (0.25, 16.0);

/// Draws a row for each case in which longshore has taken part.
pub(crate) fn svg(report: &Report) -> String {
    let mut rows = String::new();
    let mut y = HEAD;
    for case in report.cases() {
        let Some((_, ours)) = best_of(report, case, Family::Longshore) else {
            continue;
        };
        let middle = y + ROW / 2;
        text(
            &mut rows,
            (LABELS - 24.0, middle + 4),
            "end",
            &name_of(case),
        );
        let (left, right) = (LABELS, LABELS + DOTS);
        put(
            &mut rows,
            &format!(
                r##"<line x1="{left}" x2="{right}" y1="{middle}" y2="{middle}" stroke="#ddd"/>"##
            ),
        );
        for family in PEERS {
            if let Some((_, theirs)) = best_of(report, case, family) {
                let x = place(theirs.wall.median / ours.wall.median);
                dot(&mut rows, (x, middle), family);
            }
        }
        y += ROW;
    }
    let mut head = String::new();
    legend(&mut head);
    scale(&mut head, y);
    let height = y + ROW / 2;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{height}" fill="white"/>
{head}{rows}</svg>
"#
    )
}

/// The label of the line that all ratios refer to.
const OURS: &str = "longshore";

const PEERS: [Family; 5] = [
    Family::Umoci,
    Family::Cip,
    Family::Skopeo,
    Family::Oras,
    Family::Crane,
];

/// The letter in the dot of a program, and its color. These colors differ for everybody (Okabe and Ito).
fn look(family: Family) -> (char, &'static str) {
    match family {
        Family::Crane => ('c', "#0072b2"),
        Family::Oras => ('o', "#009e73"),
        Family::Skopeo => ('s', "#cc79a7"),
        Family::Cip => ('p', "#d55e00"),
        Family::Umoci => ('u', "#555555"),
        Family::Longshore | Family::Bare => (' ', "#000000"),
    }
}

fn legend(out: &mut String) {
    let mut x = 20.0;
    for family in PEERS.into_iter().rev() {
        dot(out, (x, 18), family);
        text(out, (x + 14.0, 22), "start", family.name());
        x += match family {
            Family::Cip => 190.0,
            Family::Skopeo => 130.0,
            _ => 80.0,
        };
    }
}

/// The lines of the scale, with their ratios.
fn scale(out: &mut String, bottom: u32) {
    for (ratio, name) in [
        (0.25, "¼ ×"),
        (0.5, "½ ×"),
        (1.0, OURS),
        (2.0, "2 ×"),
        (4.0, "4 ×"),
        (8.0, "8 ×"),
        (16.0, "16 ×"),
    ] {
        let x = place(ratio);
        let color = if name == OURS { "#c2571a" } else { "#bbb" };
        put(
            out,
            &format!(
                r#"<line x1="{x:.1}" x2="{x:.1}" y1="{HEAD}" y2="{bottom}" stroke="{color}"/>"#
            ),
        );
        text(out, (x, HEAD - 8), "middle", name);
    }
}

/// The horizontal place of a ratio.
fn place(ratio: f64) -> f64 {
    let (low, high) = ENDS;
    let share = (ratio.clamp(low, high) / low).ln() / (high / low).ln();
    LABELS + share * DOTS
}

fn dot(out: &mut String, (x, y): (f64, u32), family: Family) {
    let (letter, color) = look(family);
    put(
        out,
        &format!(r#"<circle cx="{x:.1}" cy="{y}" r="{RADIUS}" fill="{color}"/>"#),
    );
    let y = y + 4;
    put(
        out,
        &format!(r#"<text x="{x:.1}" y="{y}" text-anchor="middle" fill="white">{letter}</text>"#),
    );
}

fn text(out: &mut String, (x, y): (f64, u32), anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        r#"<text x="{x:.1}" y="{y}" text-anchor="{anchor}">{text}</text>"#
    );
}

fn put(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{case, report};

    #[test]
    fn a_dot_is_where_its_ratio_is() {
        assert!((place(0.25) - LABELS).abs() < 0.1);
        assert!((place(16.0) - LABELS - DOTS).abs() < 0.1);
        assert!((place(2.0) - LABELS - DOTS * 0.5).abs() < 0.1);
        assert!((place(100.0) - place(16.0)).abs() < 0.1);
        let times: &[(&str, &[f64])] = &[("longshore", &[1.0]), ("crane", &[2.0])];
        let drawn = svg(&report(&case("C", "50 ms"), times));
        assert!(drawn.contains("C, 50 ms"));
        let crane = r##"cx="535.0" cy="68" r="8" fill="#0072b2""##;
        assert!(drawn.contains(crane), "{drawn}");
    }
}
