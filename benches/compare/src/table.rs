//! The report as Markdown: one table of all medians, and one with all details for each case.

use std::fmt::Write;

use crate::results::{Case, Report, Sample, Spread, Summary};

/// Formats the whole report. Ratios refer to the contestant `against`.
pub(crate) fn markdown(report: &Report, against: &str) -> String {
    let mut text = String::new();
    preamble(&mut text, report);
    overview(&mut text, report);
    for case in report.cases() {
        details(&mut text, report, case, against);
    }
    text
}

fn preamble(out: &mut String, report: &Report) {
    line(out, "## Conditions\n");
    line(out, &format!("    compare {}\n", report.command.join(" ")));
    for item in report.machine.iter().chain(&report.versions) {
        line(out, &format!("- {item}"));
    }
    line(out, "");
    contestants(out, report);
}

/// A table of the contestants, what each runs, and what it makes durable.
pub(crate) fn contestants(out: &mut String, report: &Report) {
    line(out, "| contestant | is | is durable after a run |");
    line(out, "| --- | --- | --- |");
    for one in &report.contestants {
        let (name, explanation, durable) = (&one.name, &one.explanation, &one.durable);
        line(out, &format!("| {name} | {explanation} | {durable} |"));
    }
}

/// The medians of all cases, and the ratio of automatic proxies to the best fixed number.
fn overview(out: &mut String, report: &Report) {
    let names: Vec<&str> = report.names().collect();
    let auto = names.iter().find(|name| is_auto(name));
    let has_fixed = names.iter().any(|name| is_fixed(name));
    let auto = auto.filter(|_| has_fixed);

    line(out, "\n## Medians, in seconds\n");
    let mut head = format!("| workload, registry | {} |", names.join(" | "));
    if auto.is_some() {
        head += " auto / best fixed |";
    }
    line(out, &head);
    line(out, &rule(head.matches('|').count() - 1));
    for case in report.cases() {
        let medians: Vec<Option<f64>> = names
            .iter()
            .map(|name| Some(report.summary(case, name)?.wall.median))
            .collect();
        // The bare minimum is no contestant.
        let contest = names.iter().zip(&medians);
        let contest = contest.filter(|(name, _)| !name.starts_with("bare:"));
        let best = least(contest.map(|(_, median)| *median));
        let mut row = format!("| {} |", name_of(case));
        for (name, median) in names.iter().zip(&medians) {
            let cell = match median {
                Some(median) if Some(*median) == best => format!("**{median:.3}**"),
                Some(median) => format!("{median:.3}"),
                None if report.samples_of(case, name).next().is_some() => "failed".into(),
                None => "–".into(),
            };
            let _ = write!(row, " {cell} |");
        }
        if let Some(auto) = auto {
            let of_fixed = names.iter().zip(&medians);
            let fixed = of_fixed.filter_map(|(name, median)| is_fixed(name).then_some(*median));
            let auto = report
                .summary(case, auto)
                .map(|summary| summary.wall.median);
            let ratio = auto.zip(least(fixed)).map(|(auto, fixed)| auto / fixed);
            let cell = ratio.map_or("–".into(), |ratio| format!("{ratio:.2}"));
            let _ = write!(row, " {cell} |");
        }
        line(out, &row);
    }
}

fn details(out: &mut String, report: &Report, case: &Case, against: &str) {
    line(
        out,
        &format!("\n## {}, {}\n", case.description, place(case)),
    );
    let mut ranking: Vec<(&str, Option<Summary>)> = report
        .names()
        .filter(|name| report.samples_of(case, name).next().is_some())
        .map(|name| (name, report.summary(case, name)))
        .collect();
    let median = |summary: &Option<Summary>| {
        let summary = summary.as_ref();
        summary.map_or(f64::INFINITY, |summary| summary.wall.median)
    };
    ranking.sort_by(|(_, one), (_, other)| median(one).total_cmp(&median(other)));

    let columns = columns(report, case, against);
    let titles: Vec<&str> = columns.iter().map(|column| column.title.as_str()).collect();
    line(
        out,
        &format!("| contestant | {} | runs |", titles.join(" | ")),
    );
    line(out, &rule(columns.len() + 2));
    for (name, summary) in &ranking {
        let of_all = report.samples_of(case, name).count();
        let failed = report
            .samples_of(case, name)
            .filter(|s| s.failure.is_some());
        let valid = of_all - failed.count();
        let runs = if valid == of_all {
            format!("{of_all}")
        } else {
            format!("**{valid} of {of_all}**")
        };
        let cells: Vec<String> = match summary {
            Some(summary) => columns
                .iter()
                .map(|column| (column.cell)(summary))
                .collect(),
            None => std::iter::once("failed")
                .chain(std::iter::repeat("–"))
                .take(columns.len())
                .map(str::to_owned)
                .collect(),
        };
        line(out, &format!("| {name} | {} | {runs} |", cells.join(" | ")));
    }
    remarks(out, report, case);
}

/// A column of the table of a case.
struct Column {
    title: String,
    cell: Box<dyn Fn(&Summary) -> String>,
}

/// The columns between the name and the number of runs. Those that nobody has a figure for are left out.
fn columns(report: &Report, case: &Case, against: &str) -> Vec<Column> {
    let mut columns = Vec::new();
    let mut add = |title: &str, cell: Box<dyn Fn(&Summary) -> String>| {
        let title = title.to_owned();
        columns.push(Column { title, cell });
    };
    let has = |figure: fn(&Sample) -> bool| {
        let mut samples = report.samples.iter();
        samples.any(|sample| sample.case == *case && figure(sample))
    };
    let reference = |name: &str, figure: fn(Summary) -> Spread| {
        report
            .summary(case, name)
            .map(|summary| figure(summary).median)
    };

    add(
        "median, s",
        Box::new(|summary| format!("{:.3}", summary.wall.median)),
    );
    add(
        "min – max, s",
        Box::new(|summary| format!("{:.3} – {:.3}", summary.wall.min, summary.wall.max)),
    );
    let wall = reference(against, |summary| summary.wall);
    add(
        &format!("× {against}"),
        Box::new(move |summary| ratio(summary.wall.median, wall)),
    );
    add(
        "CPU, s",
        Box::new(|summary| format!("{:.2}", summary.cpu.median)),
    );
    if let Some(cpu) = reference(BARE, |summary| summary.cpu) {
        add(
            &format!("CPU × {BARE}"),
            Box::new(move |summary| ratio(summary.cpu.median, Some(cpu))),
        );
    }
    add(
        "peak memory, MiB",
        Box::new(|summary| mebibytes(summary.peak_rss)),
    );
    if has(|sample| sample.tree_memory.is_some()) {
        add(
            "of all its processes, MiB",
            Box::new(|summary| mebibytes(summary.tree_memory)),
        );
    }
    if has(|sample| sample.sync.is_some()) {
        add(
            "until all is on disk, s more",
            Box::new(|summary| {
                let sync = summary.sync;
                sync.map_or("–".into(), |sync| format!("{:.3}", sync.median))
            }),
        );
    }
    columns
}

/// The contestant that shows the least CPU time that the work takes.
pub(crate) const BARE: &str = "bare:1";

fn ratio(figure: f64, reference: Option<f64>) -> String {
    reference.map_or("–".into(), |reference| {
        format!("{:.2}", figure / reference)
    })
}

fn mebibytes(bytes: Option<Spread>) -> String {
    bytes.map_or("–".into(), |bytes| {
        format!("{:.1}", bytes.median / f64::from(1 << 20))
    })
}

/// The failures, each different one once, and the cost of sampling.
pub(crate) fn remarks(out: &mut String, report: &Report, case: &Case) {
    let mut remarks: Vec<String> = Vec::new();
    for sample in report.samples.iter().filter(|sample| sample.case == *case) {
        let name = &sample.contestant;
        if let Some(failure) = &sample.failure {
            remarks.push(format!("- {name} failed: {}", one_line(failure)));
        }
        if sample.left_behind > 0 {
            let count = sample.left_behind;
            remarks.push(format!("- {name} left {count} processes running"));
        }
    }
    let shares = report.samples.iter().filter_map(|sample| {
        (sample.case == *case).then_some(sample.tree_sampling? / sample.wall * 100.0)
    });
    if let Some(Spread { min, max, .. }) = Spread::of(shares.collect()) {
        remarks.push(format!(
            "- sampling the memory of all processes took {min:.1} to {max:.1} % of a processor"
        ));
    }
    let mut seen: Vec<&String> = Vec::new();
    for remark in &remarks {
        if seen.is_empty() {
            line(out, "");
        }
        if !seen.contains(&remark) {
            line(out, remark);
            seen.push(remark);
        }
    }
}

/// A short name of a case.
pub(crate) fn name_of(case: &Case) -> String {
    format!("{}, {}", case.workload, place(case))
}

fn place(case: &Case) -> String {
    match case.skopeo.as_str() {
        crate::NEWEST_SKOPEO => case.registry.clone(),
        old => format!("{}, skopeo with protocol {old}", case.registry),
    }
}

/// Whether this is `longshore`, whose default is `auto`, or `longshore:auto`, with or without workers.
pub(crate) fn is_auto(name: &str) -> bool {
    name == "longshore" || name.starts_with("longshore:auto")
}

pub(crate) fn is_fixed(name: &str) -> bool {
    let setting = name.strip_prefix("longshore:");
    let proxies = setting.and_then(|setting| setting.split(':').next());
    proxies.is_some_and(|proxies| proxies.parse::<u32>().is_ok())
}

fn least(figures: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    figures.flatten().min_by(f64::total_cmp)
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '|'], " ")
}

/// The line between the head and the body of a table: one column of text, the others of figures.
fn rule(columns: usize) -> String {
    format!("| --- |{}", " ---: |".repeat(columns - 1))
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{case, report};

    #[test]
    fn rows_are_sorted_by_time_with_ratios_to_the_reference() {
        let case = case("B", "50 ms");
        let report = report(&case, &[("oras", &[4.0, 2.0, 3.0]), ("crane", &[1.5])]);
        let text = markdown(&report, "crane");
        let row = |start: &str| text.lines().position(|line| line.starts_with(start));
        assert!(text.contains("| oras | 3.000 | 2.000 – 4.000 | 2.00 | 1.50 | 10.0 | 3 |"));
        assert!(row("| crane | 1.500") < row("| oras | 3.000"));
        assert!(text.contains("| B, 50 ms | 3.000 | **1.500** |"), "{text}");
    }

    #[test]
    fn automatic_proxies_are_compared_with_the_best_fixed_number() {
        let case = case("B", "50 ms");
        let times: &[(&str, &[f64])] = &[
            ("longshore:1", &[4.0]),
            ("longshore:8", &[2.0]),
            ("longshore:auto", &[2.2]),
        ];
        let text = markdown(&report(&case, times), "longshore:auto");
        assert!(
            text.contains("| 4.000 | **2.000** | 2.200 | 1.10 |"),
            "{text}"
        );
    }

    #[test]
    fn a_failure_is_listed() {
        let case = case("B", "50 ms");
        let mut report = report(&case, &[("crane", &[1.0, 2.0]), ("oras", &[1.0])]);
        report.samples[1].failure = Some("no".into());
        report.samples[2].failure = Some("never".into());
        let text = markdown(&report, "crane");
        assert!(text.contains("| **1 of 2** |"), "{text}");
        assert!(text.contains("| oras | failed | – | – | – | – | **0 of 1** |"));
        assert!(text.contains("- crane failed: no\n- oras failed: never\n"));
    }
}
