//! The picture as SVG: the lanes of each proxy, and the throughput below, on one time axis.

use std::fmt::{self, Display, Formatter, Write as _};
use std::time::Duration;

use super::escape::Escaped;
use super::geometry::{
    ABOVE_FAILURE, CHART, Geometry, Group, LEFT, RIGHT, WIDTH, text_width, to_f64,
};
use super::join::join_below;
use super::names::{of_span, shorten_middle};
use super::picture::{Outcome, Phase, Picture, Span, What};
use super::scale::{duration, rate, rate_ticks, time_ticks};
use super::style::{CSS, PATTERNS, class, legend};
use super::text;
use crate::cli::format::bytes;

/// The number of blobs that are marked as the slowest.
const MARKED: usize = 5;

/// A blob is marked, besides the slowest one, if it takes longer than this many times the median.
const STANDS_OUT: f64 = 1.5;

/// The highest number of ticks of the time axis, besides the one at 0.
const TICKS: u32 = 10;

/// The minimum width of a part of the throughput's chart.
const PART: f64 = 6.0;

/// The right end of the lanes.
const END: f64 = WIDTH - RIGHT;

/// A picture, on a time axis that is at least as long as `axis`.
pub(super) struct Svg<'a> {
    pub(super) picture: &'a Picture,
    pub(super) axis: Duration,
}

impl Display for Svg<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let picture = self.picture;
        let drawing = Drawing {
            picture,
            place: Geometry::of(picture, self.axis),
            several_images: picture.images.len() > 1,
        };
        drawing.write(f)
    }
}

struct Drawing<'a> {
    picture: &'a Picture,
    place: Geometry<'a>,
    several_images: bool,
}

impl Drawing<'_> {
    fn write(&self, f: &mut Formatter) -> fmt::Result {
        let slowest = self.slowest();
        let list_top = self.place.chart_bottom() + 46.0;
        let lines = slowest.len() + usize::from(!slowest.is_empty());
        let notes: Vec<String> = [
            text::shares(&self.picture.totals),
            text::left_out(self.picture),
        ]
        .into_iter()
        .flatten()
        .collect();
        let height = list_top + 17.0 * to_f64(lines + notes.len()) + 4.0;
        let label = format!("Timeline of a pull: {}", text::title(self.picture));
        writeln!(
            f,
            r#"<svg class="ls" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" aria-label="{}">"#,
            Escaped(&label),
        )?;
        writeln!(f, "<style>{CSS}</style>{PATTERNS}")?;
        writeln!(
            f,
            r#"<rect class="ls-paper" width="{WIDTH}" height="{height}"/>"#
        )?;
        self.head(f)?;
        self.time_axis(f)?;
        for group in &self.place.groups {
            self.group(f, group)?;
        }
        let spans = self.picture.spans.iter().cloned();
        for span in join_below(spans, self.place.time_of_one()) {
            self.span(f, &span)?;
        }
        self.throughput(f)?;
        for (number, span) in (1_u32..).zip(&slowest) {
            self.mark(f, number, span)?;
        }
        self.foot(f, list_top, &slowest, &notes)?;
        f.write_str("</svg>\n")
    }

    fn head(&self, f: &mut Formatter) -> fmt::Result {
        let title = text::title(self.picture);
        label(f, ("ls-title", 16.0, 28.0), &title)?;
        let mut y = 49.0;
        if let Some(failure) = text::failure(self.picture) {
            label(
                f,
                ("ls-totals ls-bad", 16.0, y),
                &shorten_middle(&failure, 120),
            )?;
            y += ABOVE_FAILURE;
        }
        label(
            f,
            ("ls-totals ls-muted", 16.0, y),
            &text::totals(self.picture),
        )?;
        let mut x = 16.0;
        for entry in legend(self.picture) {
            let class = entry.class;
            writeln!(
                f,
                r#"<path class="{class}" d="M{x:.0} {}h12v10h-12z"/>"#,
                y + 13.0
            )?;
            label(f, ("ls-muted", x + 17.0, y + 22.0), entry.name)?;
            x += 17.0 + text_width(entry.name, 10.0) + 14.0;
        }
        Ok(())
    }

    fn time_axis(&self, f: &mut Formatter) -> fmt::Result {
        let (top, bottom) = (self.place.lanes_top - 4.0, self.place.chart_bottom());
        for (at, text) in time_ticks(self.place.axis, TICKS) {
            let x = self.place.x(at);
            writeln!(f, r#"<path class="ls-grid" d="M{x:.1} {top}V{bottom}"/>"#)?;
            for y in [self.place.lanes_top - 9.0, bottom + 15.0] {
                label(f, ("ls-muted ls-m", x, y), &text)?;
            }
        }
        Ok(())
    }

    /// Draws the time in which a proxy ran, as a band behind its lanes.
    fn group(&self, f: &mut Formatter, group: &Group) -> fmt::Result {
        let Group {
            proxy, y, height, ..
        } = *group;
        let end = proxy.end.unwrap_or(self.picture.totals.duration);
        let (left, right) = (self.place.x(proxy.begin), self.place.x(end));
        f.write_str(r#"<g class="ls-proxy">"#)?;
        title(f, &text::of_proxy(proxy))?;
        rect(f, "ls-band", (left, right), y, height)?;
        let starts_until = self.place.x(proxy.asked.unwrap_or(end));
        let first = self.place.span_height;
        rect(
            f,
            "ls-start",
            (left, starts_until),
            y + (height.min(16.0) - first) / 2.0,
            first,
        )?;
        if proxy.end.is_some() {
            let class = match proxy.reason {
                Some(_) => "ls-broken",
                None => "ls-end",
            };
            write!(
                f,
                r#"<path class="{class}" d="M{right:.1} {y:.1}v{height:.1}"/>"#
            )?;
        }
        if group.is_named {
            let name = format!("proxy {}", proxy.number);
            label(f, ("ls-r", LEFT - 8.0, y + height / 2.0 + 4.0), &name)?;
        }
        f.write_str("</g>\n")
    }

    fn span(&self, f: &mut Formatter, span: &Span) -> fmt::Result {
        let Some(y) = self.place.y(span.proxy, span.lane) else {
            return Ok(());
        };
        let height = self.place.span_height;
        f.write_str(r#"<g class="ls-s">"#)?;
        title(f, &text::of_span_in_full(span, self.several_images))?;
        let mut widest = (0.0, 0.0);
        for (phase, begin, end) in span.phases() {
            let (left, right) = (self.place.x(begin), self.place.x(end));
            let class = class(phase, span.has_failed());
            path(f, class, (left, right), y, height)?;
            let may_be_named = matches!(phase, Phase::Receive | Phase::Document);
            if may_be_named && right - left > widest.1 - widest.0 {
                widest = (left, right);
            }
        }
        let (left, right) = (self.place.x(span.begin), self.place.x(span.end));
        if span.outcome == Outcome::Unfinished {
            path(f, "ls-unfinished", (left, right), y, height)?;
        } else if span.begin == span.end {
            path(
                f,
                class(Phase::Several, span.has_failed()),
                (left, left + 0.5),
                y,
                height,
            )?;
        }
        if height > 10.0 && !span.has_failed() {
            self.name_within(f, span, widest, y + height / 2.0 + 3.2)?;
        }
        f.write_str("</g>\n")
    }

    /// Names the span if there is space for it.
    fn name_within(
        &self,
        f: &mut Formatter,
        span: &Span,
        (left, right): (f64, f64),
        y: f64,
    ) -> fmt::Result {
        let name = of_span(span, self.several_images);
        let long = match span.what {
            What::Layer { size, .. } => format!("{name} · {}", bytes(size)),
            What::Manifest | What::Config => name.clone(),
            What::Several { .. } => return Ok(()),
        };
        let space = right - left - 8.0;
        match [long, name]
            .iter()
            .find(|text| text_width(text, 9.0) <= space)
        {
            Some(text) => label(f, ("ls-in", left + 4.0, y), text),
            None => Ok(()),
        }
    }

    fn throughput(&self, f: &mut Formatter) -> fmt::Result {
        let (top, bottom) = (self.place.chart_top, self.place.chart_bottom());
        let totals = &self.picture.totals;
        let shown = self.place.x(totals.duration) - LEFT;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the width of the picture, which is small"
        )]
        let most = (shown / PART).max(1.0) as usize;
        let (width, rates) = self.picture.throughput.rates(totals.duration, most);
        let highest = rates.iter().copied().fold(0.0, f64::max);
        let mut title = "Throughput: no layer came".to_owned();
        if let Some(average) = text::average(totals) {
            title = format!(
                "Throughput: {} on average (dotted), {} at most",
                rate(average),
                rate(highest)
            );
        }
        label(f, ("", LEFT, top - 9.0), &title)?;
        let ticks = rate_ticks(highest);
        let end = ticks.last().map_or(1.0, |(end, _)| *end);
        let y_of = |rate: f64| bottom - CHART * (rate / end);
        for (at, text) in &ticks {
            let y = y_of(*at);
            writeln!(f, r#"<path class="ls-grid" d="M{LEFT} {y:.1}H{END}"/>"#)?;
            label(f, ("ls-muted ls-r", LEFT - 8.0, y + 4.0), text)?;
        }
        let x = |part: u32| {
            self.place
                .x(width.saturating_mul(part).min(totals.duration))
        };
        let mut line = String::new();
        // Neighbours of the same height, such as 0, are one step.
        let mut part = 0;
        for same in rates.chunk_by(|one, other| one.to_bits() == other.to_bits()) {
            match part {
                0 => write!(line, "M{LEFT} ")?,
                _ => line.push('V'),
            }
            part += u32::try_from(same.len()).unwrap_or(u32::MAX);
            write!(line, "{:.1}H{:.1}", y_of(same[0]), x(part))?;
        }
        if !rates.is_empty() {
            write!(f, r#"<path class="ls-area" d="{line}V{bottom}H{LEFT}z"/>"#)?;
            writeln!(f, r#"<path class="ls-line" d="{line}"/>"#)?;
        }
        if let Some(average) = text::average(totals) {
            let (y, right) = (y_of(average), self.place.x(totals.duration));
            writeln!(
                f,
                r#"<path class="ls-average" d="M{LEFT} {y:.1}H{right:.1}"/>"#
            )?;
        }
        Ok(())
    }

    /// The slowest blobs that are on a lane: the first one, and others that stand out.
    fn slowest(&self) -> Vec<&Span> {
        let layers = self.picture.spans.iter();
        let layers = layers.filter(|span| matches!(span.what, What::Layer { .. }));
        let mut lengths: Vec<Duration> = layers.map(Span::length).collect();
        lengths.sort_unstable();
        let median = lengths.get(lengths.len() / 2).copied().unwrap_or_default();
        let shown = self
            .picture
            .slowest
            .iter()
            .filter(|span| span.lane.is_some());
        let numbered = shown.take(MARKED).enumerate();
        let stand_out = numbered
            .filter(|(number, span)| *number == 0 || span.length() > median.mul_f64(STANDS_OUT));
        stand_out.map(|(_, span)| span).collect()
    }

    fn mark(&self, f: &mut Formatter, number: u32, span: &Span) -> fmt::Result {
        let Some(y) = self.place.y(span.proxy, span.lane) else {
            return Ok(());
        };
        let y = y + self.place.span_height / 2.0;
        let x = self.place.x(span.begin);
        write!(
            f,
            r#"<circle class="ls-mark" cx="{x:.1}" cy="{y:.1}" r="6"/>"#
        )?;
        label(f, ("ls-rank", x, y + 3.2), &number.to_string())
    }

    fn foot(
        &self,
        f: &mut Formatter,
        top: f64,
        slowest: &[&Span],
        notes: &[String],
    ) -> fmt::Result {
        let mut y = top;
        if !slowest.is_empty() {
            label(f, ("ls-muted", 16.0, y), "Slowest")?;
            y += 17.0;
        }
        for (number, span) in (1_u32..).zip(slowest) {
            write!(
                f,
                r#"<circle class="ls-mark" cx="22" cy="{}" r="6"/>"#,
                y - 4.0
            )?;
            label(f, ("ls-rank", 22.0, y - 0.8), &number.to_string())?;
            label(f, ("", 34.0, y), &in_one_line(span, self.several_images))?;
            y += 17.0;
        }
        for note in notes {
            label(f, ("ls-muted", 16.0, y), note)?;
            y += 17.0;
        }
        Ok(())
    }
}

fn in_one_line(span: &Span, several_images: bool) -> String {
    let name = of_span(span, several_images);
    let size = match span.what {
        What::Layer { size, .. } => format!(", {}", bytes(size)),
        _ => String::new(),
    };
    let (length, phases) = (duration(span.length()), text::phases(span));
    let text = format!("{name}{size}: {length} ({phases})");
    match text::reason(span) {
        Some(reason) => {
            let reason = shorten_middle(&text::short_reason(reason), 80);
            format!("{text}, failed: {reason}")
        }
        None => text,
    }
}

fn title(f: &mut Formatter, lines: &[String]) -> fmt::Result {
    f.write_str("<title>")?;
    for (number, line) in lines.iter().enumerate() {
        let separator = if number == 0 { "" } else { "\n" };
        write!(f, "{separator}{}", Escaped(line))?;
    }
    f.write_str("</title>")
}

/// Writes text at a place, with its classes.
fn label(f: &mut Formatter, (class, x, y): (&str, f64, f64), text: &str) -> fmt::Result {
    let class = match class {
        "" => String::new(),
        class => format!(r#" class="{class}""#),
    };
    let text = Escaped(text);
    writeln!(f, r#"<text{class} x="{x:.1}" y="{y:.1}">{text}</text>"#)
}

fn rect(
    f: &mut Formatter,
    class: &str,
    (left, right): (f64, f64),
    y: f64,
    height: f64,
) -> fmt::Result {
    let width = (right - left).max(0.0);
    write!(
        f,
        r#"<rect class="{class}" x="{left:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#
    )
}

/// Writes a rectangle as a path, which has fewer bytes than `rect`.
fn path(
    f: &mut Formatter,
    class: &str,
    (left, right): (f64, f64),
    y: f64,
    height: f64,
) -> fmt::Result {
    write!(
        f,
        r#"<path class="{class}" d="M{left:.1} {y:.1}H{right:.1}v{height}H{left:.1}z"/>"#
    )
}
