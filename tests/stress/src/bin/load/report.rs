//! The report of a load test, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::calls::Calls;
use super::times::{Durations, Times};
use longshore_stress::Usage;

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) took: Duration,
    pub(crate) blobs: usize,
    pub(crate) bytes: u64,
    pub(crate) retries: usize,
    pub(crate) proxies: usize,
    pub(crate) own_cpu: Duration,
    pub(crate) children_cpu: Duration,
    pub(crate) peak: Usage,
    pub(crate) times: Times,
}

/// The columns of the histograms.
const QUANTILES: [(&str, f64); 6] = [
    ("min", 0.0),
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];

impl Report {
    #[expect(clippy::cast_precision_loss, reason = "to show")]
    fn mib_per_second(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.took.as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "to show")]
    fn blobs_per_second(&self) -> f64 {
        self.blobs as f64 / self.took.as_secs_f64()
    }

    fn histograms<'a>(&'a self, calls: &'a Calls) -> [(&'static str, &'a Durations); 5] {
        [
            ("open", &self.times.open),
            ("first byte", &self.times.first_byte),
            ("drain", &self.times.drain),
            ("actor queue", &calls.queued),
            ("round trip", &calls.round_trip),
        ]
    }

    pub(crate) fn text(&self, calls: &Calls) -> String {
        let Self {
            took,
            blobs,
            bytes,
            retries,
            proxies,
            own_cpu,
            children_cpu,
            peak,
            ..
        } = self;
        let mut text = format!(
            "{blobs} blobs, {bytes} bytes in {took:.3?}: {:.1} MiB/s, {:.1} blobs/s; {retries} retries\n\
             {proxies} proxies; CPU {own_cpu:.3?} here, {children_cpu:.3?} in skopeos\n\
             peaks: {:.1} MiB of memory, {} fds, {} threads, {} children\n\n",
            self.mib_per_second(),
            self.blobs_per_second(),
            mib(peak.memory_kib),
            peak.fds,
            peak.threads,
            peak.children,
        );
        let _ = write!(text, "{:11} {:>8}", "ms", "count");
        for (name, _) in QUANTILES {
            let _ = write!(text, " {name:>9}");
        }
        text.push('\n');
        for (name, durations) in self.histograms(calls) {
            let _ = write!(text, "{name:11} {:>8}", durations.0.len());
            for (_, quantile) in QUANTILES {
                let _ = write!(text, " {:>9.3}", millis(durations, quantile));
            }
            text.push('\n');
        }
        text
    }

    pub(crate) fn json(&self, calls: &Calls) -> Value {
        let histogram = |durations: &Durations| -> Value {
            let quantiles = QUANTILES.map(|(name, at)| (name.into(), json!(millis(durations, at))));
            let count = ("count".into(), json!(durations.0.len()));
            Value::Object([count].into_iter().chain(quantiles).collect())
        };
        let histograms = self.histograms(calls);
        let histograms = histograms.map(|(name, durations)| {
            let name = format!("{}_ms", name.replace(' ', "_"));
            (name, histogram(durations))
        });
        let mut report = json!({
            "seconds": self.took.as_secs_f64(),
            "blobs": self.blobs,
            "bytes": self.bytes,
            "retries": self.retries,
            "mib_per_second": self.mib_per_second(),
            "blobs_per_second": self.blobs_per_second(),
            "proxies": self.proxies,
            "cpu_seconds": self.own_cpu.as_secs_f64(),
            "children_cpu_seconds": self.children_cpu.as_secs_f64(),
            "peak_memory_kib": self.peak.memory_kib,
            "peak_fds": self.peak.fds,
            "peak_threads": self.peak.threads,
            "peak_children": self.peak.children,
        });
        for (name, histogram) in histograms {
            report[name] = histogram;
        }
        report
    }
}

#[expect(clippy::cast_precision_loss, reason = "to show")]
fn millis(durations: &Durations, quantile: f64) -> f64 {
    durations.0.value_at_quantile(quantile) as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "to show")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
