//! The targets of the project that this program can measure, and whether they are reached.

use std::cmp::Ordering;
use std::fmt::Write;

use crate::registry::ELSEWHERE;
use crate::results::{Case, Report, Summary};
use crate::table::{BARE, is_auto, is_fixed};

/// A target for one or several workloads at one registry. Of several, the worst counts.
#[derive(Clone, Copy)]
struct Target {
    workloads: &'static [&'static str],
    /// The registry. Any registry counts if it is empty.
    registry: &'static str,
    skopeo: &'static str,
    what: What,
    /// Whom we are compared with.
    against: Against,
    relation: Relation,
    /// `None` if there is only an aim.
    must: Option<f64>,
    aim: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum What {
    /// The time, in seconds.
    Time,
    /// The CPU time of the contestant and all its children, in seconds.
    Cpu,
    /// The peak memory of our own process, in MiB.
    OwnMemory,
    /// The peak memory of all processes, in MiB.
    TreeMemory,
}

#[derive(Clone, Copy)]
enum Against {
    /// The best of the contestants whose names begin so, in the same case.
    Peers(&'static [&'static str]),
    /// Ourselves with this workload.
    Workload(&'static str),
    /// Ourselves with this skopeo.
    Skopeo(&'static str),
    /// Ourselves with the best fixed number of proxies.
    FixedProxies,
    /// Nobody: the bound is a figure.
    Bound,
}

#[derive(Clone, Copy)]
enum Relation {
    /// Our value is at most this many times that of the peer.
    AtMost,
    /// The value of the peer is at least this many times ours.
    Faster,
}

use Against::{Bound, FixedProxies, Peers, Skopeo as WithSkopeo, Workload as WithWorkload};
use Relation::{AtMost, Faster};

const CIP: Against = Peers(&["cip"]);
const CIP_16: Against = Peers(&["cip:16"]);
const SKOPEO: Against = Peers(&["skopeo"]);
const SKOPEO_16: Against = Peers(&["skopeo:16"]);
const CRANE: Against = Peers(&["crane"]);
const SHORT_ROAD: Against = Peers(&["crane", "oras"]);
const ON_SKOPEO: Against = Peers(&["skopeo", "cip"]);
const ALL: Against = Peers(&["crane", "oras", "skopeo", "cip"]);
const NEW: &str = crate::NEWEST_SKOPEO;

const NEAR: &str = "30 ms, 1000 Mbit/s";
const FAR: &str = "100 ms, 500 Mbit/s";
const A_TO_D: &[&str] = &["A", "B", "C", "D"];
const A_TO_D_AND_F: &[&str] = &["A", "B", "C", "D", "F"];

/// Layers decompressed and walked; distances; memory; other skopeos.
#[rustfmt::skip]
const SPEED: &[Target] = &[
    time(&["G"], "0 ms", CIP_16, Faster, 2.2, 3.0),
    time(&["G"], "0 ms", CRANE, Faster, 4.0, 5.0),
    Target { what: What::Cpu, ..time(&["G"], "0 ms", Peers(&[BARE]), AtMost, 1.35, 1.15) },
    time(&["A"], NEAR, SHORT_ROAD, AtMost, 1.03, 1.0),
    time(&["C"], NEAR, SHORT_ROAD, AtMost, 1.03, 1.0),
    time(&["D"], NEAR, SHORT_ROAD, AtMost, 1.03, 0.95),
    time(&["A"], FAR, SHORT_ROAD, AtMost, 1.03, 1.0),
    time(&["C"], FAR, SHORT_ROAD, AtMost, 1.03, 1.0),
    time(&["D"], FAR, SHORT_ROAD, AtMost, 1.03, 0.95),
    time(&["B"], NEAR, CRANE, AtMost, 1.25, 1.1),
    time(&["B"], FAR, CRANE, AtMost, 1.25, 1.1),
    Target { what: What::TreeMemory, ..time(&["C"], "", Bound, AtMost, 112.0, 72.0) },
    only_aim(&["C"], "0 ms", CRANE, AtMost, 1.15),
    only_aim(&["C"], "50 ms", CRANE, AtMost, 1.15),
    only_aim(&["E"], "0 ms", ALL, AtMost, 1.1),
    Target { skopeo: "0.2.3", ..time(A_TO_D_AND_F, "0 ms", ON_SKOPEO, Faster, 1.0, 1.0) },
    Target { skopeo: "0.2.3", ..time(A_TO_D_AND_F, "50 ms", ON_SKOPEO, Faster, 1.0, 1.0) },
    Target { skopeo: "0.2.6", ..time(A_TO_D_AND_F, "0 ms", ON_SKOPEO, Faster, 1.0, 1.0) },
    Target { skopeo: "0.2.6", ..time(A_TO_D_AND_F, "50 ms", ON_SKOPEO, Faster, 1.0, 1.0) },
    Target { skopeo: "0.2.6", ..only_aim(A_TO_D_AND_F, "0 ms", WithSkopeo(NEW), AtMost, 1.15) },
    Target { skopeo: "0.2.6", ..only_aim(A_TO_D_AND_F, "50 ms", WithSkopeo(NEW), AtMost, 1.15) },
];

/// Many images; how many proxies are chosen.
#[rustfmt::skip]
const ENGINE: &[Target] = &[
    time(&["H1"], "50 ms", WithWorkload("H1-one"), AtMost, 1.8, 1.2),
    time(&["H1"], "50 ms", ALL, Faster, 2.0, 3.0),
    time(&["H2"], "50 ms", WithWorkload("H1-one"), AtMost, 1.8, 1.4),
    time(&["H2"], "50 ms", ALL, Faster, 2.0, 3.0),
    time(&["H3"], "50 ms", Peers(&["skopeo", "crane"]), Faster, 2.0, 4.0),
    time(&["H4"], "20 ms", Peers(&["oras@8"]), AtMost, 1.3, 0.9),
    time(&["H4x10"], "20 ms", Peers(&["oras@8"]), AtMost, 1.3, 0.9),
    Target { what: What::OwnMemory, ..time(&["H4", "H4x10"], "20 ms", Bound, AtMost, 64.0, 32.0) },
    only_aim(&["B", "D"], "0 ms", CRANE, AtMost, 1.5),
    only_aim(&["B", "D"], "50 ms", CRANE, AtMost, 1.5),
    time(A_TO_D, "0 ms", FixedProxies, AtMost, 1.1, 1.05),
    time(A_TO_D, "10 ms", FixedProxies, AtMost, 1.1, 1.05),
    time(A_TO_D, "50 ms", FixedProxies, AtMost, 1.1, 1.05),
    time(A_TO_D, "200 ms", FixedProxies, AtMost, 1.1, 1.05),
];

/// The targets of the first versions that no later one replaces.
#[rustfmt::skip]
const EARLIER: &[Target] = &[
    time(&["A"], "50 ms", SHORT_ROAD, AtMost, 1.3, 1.0),
    time(&["B"], "50 ms", CIP, Faster, 10.0, 15.0),
    time(&["C"], "50 ms", CIP, Faster, 5.0, 7.0),
    time(&["C"], "50 ms", SKOPEO_16, Faster, 1.3, 1.8),
    time(&["C"], "docker-registry", SKOPEO, Faster, 1.2, 1.5),
    time(&["C"], "docker-registry", ALL, AtMost, 1.3, 1.0),
    time(&["D"], "50 ms", CIP, Faster, 10.0, 18.0),
    time(&["D"], "50 ms", SKOPEO, Faster, 2.5, 4.5),
    time(&["E"], "0 ms", SKOPEO, Faster, 1.2, 1.5),
    time(&["F"], "0 ms", SKOPEO, Faster, 1.2, 1.5),
    time(&["F"], "0 ms", ALL, AtMost, 1.1, 0.95),
    Target { what: What::Cpu, ..time(&["C"], "50 ms", SKOPEO, AtMost, 1.1, 0.9) },
    Target { what: What::OwnMemory, ..time(A_TO_D_AND_F, "", Bound, AtMost, 32.0, 16.0) },
];

/// The targets that need something that this program does not have.
const ELSEWHERE_MEASURED: &[&str] = &[
    "G at most 0.75 × the time of the build before (aim: 0.6), A to F no slower than before by more than 3 %, H4 at \
     least 5 × faster than before: they need an older build",
    "manifest reads, a missing image, wrong passwords, refusals: the tests of the engine",
    "the models of machines and networks: the tests of the scheduler",
];

const fn time(
    workloads: &'static [&'static str],
    registry: &'static str,
    against: Against,
    relation: Relation,
    must: f64,
    aim: f64,
) -> Target {
    Target {
        workloads,
        registry,
        skopeo: NEW,
        what: What::Time,
        against,
        relation,
        must: Some(must),
        aim,
    }
}

const fn only_aim(
    workloads: &'static [&'static str],
    registry: &'static str,
    against: Against,
    relation: Relation,
    aim: f64,
) -> Target {
    Target {
        must: None,
        ..time(workloads, registry, against, relation, aim, aim)
    }
}

/// Formats the targets as Markdown tables.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    for (title, targets) in [
        ("Layers, distances, memory, other skopeos", SPEED),
        ("Many images, and the number of proxies", ENGINE),
        ("Earlier targets that none of these replaces", EARLIER),
    ] {
        let _ = write!(
            text,
            "## {title}\n\n\
             | workload | against | must | aim | measured | |\n\
             | --- | --- | --- | --- | --- | --- |\n"
        );
        for target in targets {
            target.write_row(report, &mut text);
        }
        text.push('\n');
    }
    text.push_str("Not measured by this program:\n\n");
    for target in ELSEWHERE_MEASURED {
        let _ = writeln!(text, "- {target}");
    }
    text
}

/// What was measured for one workload.
struct Measured<'a> {
    /// The ratio, or our figure if there is only a bound.
    figure: f64,
    case: &'a Case,
    /// The names of the two, if there are two.
    names: String,
}

impl Target {
    fn write_row(&self, report: &Report, out: &mut String) {
        let mut measured: Vec<Measured<'_>> = Vec::new();
        let mut missing = Vec::new();
        for workload in self.workloads {
            match self.measure(report, workload) {
                Some(figure) => measured.push(figure),
                None => missing.push(*workload),
            }
        }
        let worst = measured
            .iter()
            .max_by(|one, other| self.by_badness(one.figure, other.figure));
        let (shown, verdict) = match worst {
            Some(worst) => {
                let mut shown = self.put(worst.figure);
                let _ = write!(shown, " ({})", self.place(worst));
                if !missing.is_empty() {
                    let _ = write!(shown, "; without {}", missing.join(", "));
                }
                (shown, self.judge(worst.figure))
            }
            None => ("not measured".into(), ""),
        };
        let must = self.must.map_or("–".into(), |must| self.demand(must));
        let _ = writeln!(
            out,
            "| {} | {} | {must} | {} | {shown} | {verdict} |",
            self.name(),
            self.against_whom(),
            self.demand(self.aim),
        );
    }

    fn name(&self) -> String {
        let mut name = self.workloads.join(", ");
        if !self.registry.is_empty() {
            let _ = write!(name, ", {}", self.registry);
        }
        if self.skopeo != NEW {
            let _ = write!(name, ", skopeo with protocol {}", self.skopeo);
        }
        name += match self.what {
            What::Time => "",
            What::Cpu => ", CPU with all children",
            What::OwnMemory => ", our own memory",
            What::TreeMemory => ", memory of all processes",
        };
        name
    }

    fn against_whom(&self) -> String {
        match self.against {
            Peers(names) => names.join(", "),
            WithWorkload(workload) => format!("longshore, {workload}"),
            WithSkopeo(protocol) => format!("longshore, protocol {protocol}"),
            FixedProxies => "the best fixed number".into(),
            Bound => "–".into(),
        }
    }

    /// Where the worst figure is from, and who the two are.
    fn place(&self, worst: &Measured<'_>) -> String {
        let mut parts = Vec::new();
        if self.workloads.len() > 1 {
            parts.push(worst.case.workload.clone());
        }
        if worst.case.registry != self.registry {
            parts.push(worst.case.registry.clone());
        }
        parts.push(worst.names.clone());
        parts.join(", ")
    }

    fn measure<'a>(&self, report: &'a Report, workload: &str) -> Option<Measured<'a>> {
        let cases = report.cases().into_iter();
        let cases: Vec<&'a Case> = cases
            .filter(|case| {
                case.workload == workload
                    && case.skopeo == self.skopeo
                    && self.is_at(&case.registry)
            })
            .collect();
        // Most registries redirect to another host for blobs, so the figures of such a registry are
        // preferred, if there are any.
        let elsewhere = cases
            .iter()
            .filter(|case| case.registry.ends_with(ELSEWHERE));
        let elsewhere: Vec<&'a Case> = elsewhere.copied().collect();
        let cases = if elsewhere.is_empty() {
            cases
        } else {
            elsewhere
        };
        let of_case = |case: &'a Case| {
            let (ours, our_name) = self.best(report, case, |name| match self.against {
                FixedProxies => is_auto(name),
                _ => name == "longshore",
            })?;
            if matches!(self.against, Bound) {
                return Some(Measured {
                    figure: ours,
                    case,
                    names: our_name.to_owned(),
                });
            }
            let (theirs, their_name) = self.reference(report, case)?;
            let figure = match self.relation {
                AtMost => ours / theirs,
                Faster => theirs / ours,
            };
            let names = format!("{our_name} / {their_name}");
            Some(Measured {
                figure,
                case,
                names,
            })
        };
        let figures = cases.into_iter().filter_map(of_case);
        figures.max_by(|one, other| self.by_badness(one.figure, other.figure))
    }

    /// Orders two figures. The worse one is greater.
    fn by_badness(&self, one: f64, other: f64) -> Ordering {
        match self.relation {
            AtMost => one.total_cmp(&other),
            Faster => other.total_cmp(&one),
        }
    }

    fn is_at(&self, registry: &str) -> bool {
        let plain = registry.strip_suffix(ELSEWHERE).unwrap_or(registry);
        self.registry.is_empty() || plain == self.registry
    }

    /// The figure that ours is compared with, and whose it is.
    fn reference<'a>(&self, report: &'a Report, case: &Case) -> Option<(f64, &'a str)> {
        let is_ours = |name: &str| name == "longshore";
        match self.against {
            Bound => None,
            Peers(peers) => self.best(report, case, |name| {
                peers.iter().any(|peer| {
                    let rest = name.strip_prefix(peer);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
                })
            }),
            FixedProxies => self.best(report, case, is_fixed),
            WithWorkload(workload) => {
                let cases = report.cases().into_iter();
                let mut others = cases.filter(|other| {
                    other.workload == workload
                        && (&other.registry, &other.skopeo) == (&case.registry, &case.skopeo)
                });
                self.best(report, others.next()?, is_ours)
            }
            WithSkopeo(protocol) => {
                let cases = report.cases().into_iter();
                let mut others = cases.filter(|other| {
                    other.skopeo == protocol
                        && (&other.registry, &other.workload) == (&case.registry, &case.workload)
                });
                self.best(report, others.next()?, is_ours)
            }
        }
    }

    /// The lowest figure of some contestants, and the name of the one that has it.
    fn best<'a>(
        &self,
        report: &'a Report,
        case: &Case,
        counts: impl Fn(&str) -> bool,
    ) -> Option<(f64, &'a str)> {
        let names = report.names().filter(|name| counts(name));
        let figures = names.filter_map(|name| {
            let summary = report.summary(case, name)?;
            Some((self.figure(&summary)?, name))
        });
        figures.min_by(|(one, _), (other, _)| one.total_cmp(other))
    }

    fn figure(&self, summary: &Summary) -> Option<f64> {
        let mebibyte = f64::from(1 << 20);
        match self.what {
            What::Time => Some(summary.wall.median),
            What::Cpu => Some(summary.cpu.median),
            // A bound on memory holds for every run.
            What::OwnMemory => Some(summary.peak_rss?.max / mebibyte),
            What::TreeMemory => Some(summary.tree_memory?.max / mebibyte),
        }
    }

    fn demand(&self, bound: f64) -> String {
        match (self.against, self.relation) {
            (Bound, _) => format!("≤ {bound} MiB"),
            (_, AtMost) => format!("≤ {bound} ×"),
            (_, Faster) if bound <= 1.0 => "faster".into(),
            (_, Faster) => format!("≥ {bound} × faster"),
        }
    }

    fn put(&self, figure: f64) -> String {
        match (self.against, self.relation) {
            (Bound, _) => format!("{figure:.1} MiB"),
            (_, AtMost) => format!("{figure:.2} ×"),
            (_, Faster) => format!("{figure:.2} × faster"),
        }
    }

    fn judge(&self, figure: f64) -> &'static str {
        let reaches = |bound: f64| match self.relation {
            AtMost => figure <= bound,
            Faster => figure >= bound,
        };
        match self.must {
            _ if reaches(self.aim) => "aim reached",
            Some(must) if reaches(must) => "must reached",
            Some(_) => "**missed**",
            None => "**aim missed**",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{case, report};

    fn rows(report: &Report) -> String {
        markdown(report)
    }

    #[test]
    fn the_best_of_the_peers_counts_and_the_default_of_ours() {
        let times: &[(&str, &[f64])] = &[
            ("longshore", &[1.0]),
            ("longshore:32", &[0.5]),
            ("cip:6", &[14.0]),
            ("cip:16:raw", &[12.0]),
            ("crane", &[1.6]),
        ];
        let text = rows(&report(&case("B", "50 ms"), times));
        let expected = "12.00 × faster (longshore / cip:16:raw) | must reached |";
        assert!(text.contains(expected), "{text}");
        let expected = "| B, D, 50 ms | crane | – | ≤ 1.5 × | 0.62 × (B, longshore / crane); without D | aim reached |";
        assert!(text.contains(expected), "{text}");
        let expected = "| A, 50 ms | crane, oras | ≤ 1.3 × | ≤ 1 × | not measured |  |";
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains("10.0 MiB (B, 50 ms, longshore); without A, C, D, F | aim reached |")
        );
        // The best fixed number takes half of the time.
        let expected = "2.00 × (B, longshore / longshore:32); without A, C, D | **missed** |";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn the_worst_of_several_workloads_counts() {
        let of = |workload, times: &[(&str, &[f64])]| report(&case(workload, "0 ms"), times);
        let mut all = of("B", &[("longshore", &[1.0]), ("crane", &[1.0])]);
        let slow = of("D", &[("longshore", &[3.0]), ("crane", &[1.0])]);
        all.samples.extend(slow.samples);
        let text = rows(&all);
        let expected = "| ≤ 1.5 × | 3.00 × (D, longshore / crane) | **aim missed** |";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn we_are_compared_with_ourselves() {
        let mut all = report(&case("H1", "50 ms"), &[("longshore", &[1.5])]);
        let one = report(&case("H1-one", "50 ms"), &[("longshore", &[1.0])]);
        all.samples.extend(one.samples);
        let text = rows(&all);
        let expected = "| longshore, H1-one | ≤ 1.8 × | ≤ 1.2 × | 1.50 × (longshore / longshore) | must reached |";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn blobs_elsewhere_are_preferred() {
        let times: &[(&str, &[f64])] = &[("longshore", &[1.0]), ("crane", &[1.0])];
        let mut all = report(&case("B", NEAR), times);
        let times: &[(&str, &[f64])] = &[("longshore", &[2.0]), ("crane", &[1.0])];
        let place = format!("{NEAR}{ELSEWHERE}");
        all.samples
            .extend(report(&case("B", &place), times).samples);
        let text = rows(&all);
        let expected = format!("2.00 × ({place}, longshore / crane) | **missed** |");
        assert!(text.contains(&expected), "{text}");
    }
}
