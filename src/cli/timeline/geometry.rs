//! The places of all parts of the picture. Pure.

use std::collections::HashMap;
use std::time::Duration;

use super::picture::{Picture, Proxy};

pub(super) const WIDTH: f64 = 1000.0;

/// The space for the names of the proxies, and for the rates.
pub(super) const LEFT: f64 = 84.0;
pub(super) const RIGHT: f64 = 24.0;

/// The height of the title, the totals, the legend, and the labels of the time axis.
const TOP: f64 = 104.0;

/// The space for a line that says why the pull failed.
pub(super) const ABOVE_FAILURE: f64 = 19.0;

/// The height of the throughput's chart.
pub(super) const CHART: f64 = 96.0;

/// The space between the lanes and the chart, with the chart's title.
const ABOVE_CHART: f64 = 34.0;

/// The space between groups of lanes.
const BETWEEN: f64 = 6.0;

/// The shortest time axis.
const SHORTEST: Duration = Duration::from_millis(1);

/// The lanes of a proxy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Group<'a> {
    pub(super) proxy: &'a Proxy,
    pub(super) y: f64,
    pub(super) height: f64,
    /// Whether there is space for the name of the proxy.
    pub(super) is_named: bool,
}

#[derive(Debug)]
pub(super) struct Geometry<'a> {
    pub(super) axis: Duration,
    pub(super) groups: Vec<Group<'a>>,
    by_proxy: HashMap<usize, f64>,
    /// The distance from a lane to the next, and the height of the spans on it.
    pitch: f64,
    pub(super) span_height: f64,
    pub(super) lanes_top: f64,
    pub(super) chart_top: f64,
}

impl<'a> Geometry<'a> {
    /// Places the picture on a time axis that is as long as the pull, or as `axis` if that is longer.
    pub(super) fn of(picture: &'a Picture, axis: Duration) -> Self {
        let axis = picture.totals.duration.max(axis).max(SHORTEST);
        let lanes: usize = picture.proxies.iter().map(lanes_of).sum();
        // Many lanes are thinner, but can still be told apart.
        let (pitch, span_height) = match lanes {
            0..=24 => (16.0, 14.0),
            25..=48 => (12.0, 10.5),
            49..=96 => (8.0, 7.0),
            _ => (5.0, 4.2),
        };
        let lanes_top = if picture.totals.is_complete() {
            TOP
        } else {
            TOP + ABOVE_FAILURE
        };
        let mut y = lanes_top;
        let mut groups = Vec::new();
        let mut named_until = 0.0;
        for proxy in &picture.proxies {
            let height = pitch * to_f64(lanes_of(proxy));
            let is_named = y + height / 2.0 - named_until >= 11.0;
            if is_named {
                named_until = y + height / 2.0;
            }
            groups.push(Group {
                proxy,
                y,
                height,
                is_named,
            });
            y += height + BETWEEN;
        }
        let by_proxy = groups.iter().map(|group| (group.proxy.number, group.y));
        Self {
            axis,
            by_proxy: by_proxy.collect(),
            groups,
            pitch,
            span_height,
            lanes_top,
            chart_top: y + ABOVE_CHART,
        }
    }

    pub(super) fn x(&self, at: Duration) -> f64 {
        LEFT + at.as_secs_f64() / self.axis.as_secs_f64() * (WIDTH - LEFT - RIGHT)
    }

    /// The time that one unit of width stands for.
    pub(super) fn time_of_one(&self) -> Duration {
        self.axis.div_f64(WIDTH - LEFT - RIGHT)
    }

    /// The top of a lane's spans. `None` if the lane is not shown.
    pub(super) fn y(&self, proxy: usize, lane: Option<usize>) -> Option<f64> {
        let top = self.by_proxy.get(&proxy)?;
        let margin = (self.pitch - self.span_height) / 2.0;
        Some(top + self.pitch * to_f64(lane?) + margin)
    }

    pub(super) fn chart_bottom(&self) -> f64 {
        self.chart_top + CHART
    }
}

/// The number of lanes of a proxy. A proxy that was asked for nothing has one, too, which shows when it ran.
fn lanes_of(proxy: &Proxy) -> usize {
    proxy.lanes.max(1)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "small numbers, of lanes and places"
)]
pub(super) fn to_f64(number: usize) -> f64 {
    number as f64
}

/// The maximum width of a text in a font of this size. Most fonts need less, so a text for which there is this much
/// space fits.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let width = |c: char| if c.is_ascii() { 0.6 } else { 1.0 };
    text.chars().map(width).sum::<f64>() * size
}
