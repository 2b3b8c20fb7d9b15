//! The targets of the project that this program can measure, and whether they are reached.

use std::fmt::Write;

use crate::results::{Case, Report};

/// A target for one workload at one registry.
struct Target {
    workload: &'static str,
    registry: &'static str,
    skopeo: &'static str,
    /// Whether any number of proxies may be chosen. Otherwise the default must reach the target.
    free: bool,
    what: What,
    /// The prefixes of the names of the contestants. The best of them counts.
    peers: &'static [&'static str],
    relation: Relation,
    must: f64,
    aim: f64,
}

#[derive(Clone, Copy)]
enum What {
    Time,
    /// The CPU time of the contestant and all its children.
    Cpu,
}

#[derive(Clone, Copy)]
enum Relation {
    /// Our value is at most this many times that of the peer.
    AtMost,
    /// The value of the peer is at least this many times ours.
    Faster,
}

const CIP: &[&str] = &["cip"];
const SKOPEO: &[&str] = &["skopeo"];
const SKOPEO_16: &[&str] = &["skopeo:16"];
const CRANE: &[&str] = &["crane"];
const ORAS_16: &[&str] = &["oras:16"];
const FASTEST_TOOLS: &[&str] = &["crane", "oras"];
const ALL: &[&str] = &["crane", "oras", "skopeo", "cip"];
const NEW: &str = crate::NEWEST_SKOPEO;

/// The maximum memory of our process in MiB: must, and aim.
const MEMORY: (f64, f64) = (32.0, 16.0);

#[rustfmt::skip]
const TARGETS: &[Target] = &[
    time("A", "50 ms", FASTEST_TOOLS, Relation::AtMost, 1.3, 1.0),
    time("B", "50 ms", CIP, Relation::Faster, 10.0, 15.0),
    free("B", "50 ms", CRANE, Relation::AtMost, 1.8, 1.0),
    time("C", "50 ms", CIP, Relation::Faster, 5.0, 7.0),
    time("C", "50 ms", SKOPEO_16, Relation::Faster, 1.3, 1.8),
    time("C", "50 ms", CRANE, Relation::AtMost, 1.3, 1.0),
    time("C", "docker-registry", SKOPEO, Relation::Faster, 1.2, 1.5),
    time("C", "docker-registry", ALL, Relation::AtMost, 1.3, 1.0),
    time("D", "50 ms", CIP, Relation::Faster, 10.0, 18.0),
    time("D", "50 ms", SKOPEO, Relation::Faster, 2.5, 4.5),
    free("D", "50 ms", CRANE, Relation::AtMost, 1.7, 1.0),
    free("D", "50 ms", ORAS_16, Relation::AtMost, 1.0, 0.7),
    time("E", "0 ms", SKOPEO, Relation::Faster, 1.2, 1.5),
    time("E", "0 ms", ALL, Relation::AtMost, 1.1, 0.95),
    time("F", "0 ms", SKOPEO, Relation::Faster, 1.2, 1.5),
    time("F", "0 ms", ALL, Relation::AtMost, 1.1, 0.95),
    Target { skopeo: "0.2.3", ..time("F", "0 ms", CIP, Relation::Faster, 2.0, 3.0) },
    Target { what: What::Cpu, ..time("C", "50 ms", SKOPEO, Relation::AtMost, 1.1, 0.9) },
];

const fn time(
    workload: &'static str,
    registry: &'static str,
    peers: &'static [&'static str],
    relation: Relation,
    must: f64,
    aim: f64,
) -> Target {
    Target {
        workload,
        registry,
        skopeo: NEW,
        free: false,
        what: What::Time,
        peers,
        relation,
        must,
        aim,
    }
}

const fn free(
    workload: &'static str,
    registry: &'static str,
    peers: &'static [&'static str],
    relation: Relation,
    must: f64,
    aim: f64,
) -> Target {
    Target {
        free: true,
        ..time(workload, registry, peers, relation, must, aim)
    }
}

/// Formats the targets as a Markdown table.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = "| workload | against | must | aim | measured | |\n\
                    | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for target in TARGETS {
        target.write_row(report, &mut text);
    }
    memory(report, &mut text);
    text
}

impl Target {
    fn write_row(&self, report: &Report, out: &mut String) {
        let mut name = format!("{}, {}", self.workload, self.registry);
        if self.skopeo != NEW {
            let _ = write!(name, ", skopeo with protocol {}", self.skopeo);
        }
        if self.free {
            name += ", any `--proxies`";
        }
        if matches!(self.what, What::Cpu) {
            name += ", CPU with all children";
        }
        let (measured, verdict) = match self.measure(report) {
            Some((ratio, ours, theirs)) => {
                let who = format!("{} ({ours} / {theirs})", self.relation.put(ratio));
                (who, self.relation.judge(ratio, self.must, self.aim))
            }
            None => ("not measured".into(), ""),
        };
        let against = self.peers.join(", ");
        let must = self.relation.demand(self.must);
        let aim = self.relation.demand(self.aim);
        let _ = writeln!(
            out,
            "| {name} | {against} | {must} | {aim} | {measured} | {verdict} |"
        );
    }

    /// The ratio, and the names of the two contestants.
    fn measure<'a>(&self, report: &'a Report) -> Option<(f64, &'a str, &'a str)> {
        let case = report.cases().into_iter().find(|case| {
            case.workload == self.workload
                && case.registry == self.registry
                && case.skopeo == self.skopeo
        })?;
        let (ours, our_name) = self.best(report, case, |name| {
            name == "longshore" || self.free && name.starts_with("longshore:")
        })?;
        let (theirs, their_name) = self.best(report, case, |name| {
            self.peers.iter().any(|peer| {
                let rest = name.strip_prefix(peer);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            })
        })?;
        let ratio = match self.relation {
            Relation::AtMost => ours / theirs,
            Relation::Faster => theirs / ours,
        };
        Some((ratio, our_name, their_name))
    }

    fn best<'a>(
        &self,
        report: &'a Report,
        case: &Case,
        counts: impl Fn(&str) -> bool,
    ) -> Option<(f64, &'a str)> {
        let figures = report
            .names()
            .filter(|name| counts(name))
            .filter_map(|name| {
                let summary = report.summary(case, name)?;
                let spread = match self.what {
                    What::Time => summary.wall,
                    What::Cpu => summary.cpu,
                };
                Some((spread.median, name))
            });
        figures.min_by(|(one, _), (other, _)| one.total_cmp(other))
    }
}

impl Relation {
    fn demand(self, bound: f64) -> String {
        match self {
            Self::AtMost => format!("≤ {bound} ×"),
            Self::Faster => format!("≥ {bound} × faster"),
        }
    }

    fn put(self, ratio: f64) -> String {
        match self {
            Self::AtMost => format!("{ratio:.2} ×"),
            Self::Faster => format!("{ratio:.2} × faster"),
        }
    }

    fn judge(self, ratio: f64, must: f64, aim: f64) -> &'static str {
        let reaches = |bound: f64| match self {
            Self::AtMost => ratio <= bound,
            Self::Faster => ratio >= bound,
        };
        if reaches(aim) {
            "aim reached"
        } else if reaches(must) {
            "must reached"
        } else {
            "**missed**"
        }
    }
}

/// The highest memory of our pulls, including the failed ones.
fn memory(report: &Report, out: &mut String) {
    let ours = report
        .samples
        .iter()
        .filter(|sample| sample.contestant.starts_with("longshore"));
    let peak = ours
        .filter_map(|sample| Some((sample.peak_rss?, sample)))
        .max_by_key(|(rss, _)| *rss);
    let (must, aim) = MEMORY;
    let (measured, verdict) = match peak {
        Some((bytes, sample)) => {
            #[allow(clippy::cast_precision_loss, reason = "no process is that large")]
            let mebibytes = bytes as f64 / f64::from(1 << 20);
            let who = format!("{} in {}", sample.contestant, sample.case.workload);
            let verdict = Relation::AtMost.judge(mebibytes, must, aim);
            (format!("{mebibytes:.1} MiB ({who})"), verdict)
        }
        None => ("not measured".into(), ""),
    };
    let _ = writeln!(
        out,
        "| any, our own memory | – | ≤ {must} MiB | ≤ {aim} MiB | {measured} | {verdict} |"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{case, report};

    #[test]
    fn the_best_peer_and_our_default_are_compared() {
        let times: &[(&str, &[f64])] = &[
            ("longshore", &[1.0]),
            ("longshore:32", &[0.5]),
            ("cip:6", &[14.0]),
            ("cip:16:raw", &[12.0]),
            ("crane", &[1.0]),
        ];
        let text = markdown(&report(&case("B", "50 ms"), times));
        let expected = "12.00 × faster (longshore / cip:16:raw) | must reached |";
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains("0.50 × (longshore:32 / crane) | aim reached |"),
            "{text}"
        );
        assert!(text.contains("| A, 50 ms | crane, oras | ≤ 1.3 × | ≤ 1 × | not measured |  |"));
        assert!(
            text.contains("10.0 MiB (longshore:32 in B) | aim reached |"),
            "{text}"
        );
    }
}
