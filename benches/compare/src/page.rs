//! The page of results that is read in a minute: a chart, tables of the programs at their best, and how it was made.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::contestant::{Contestant, Family};
use crate::dots;
use crate::results::{Case, Report, Summary};
use crate::table::{contestants, name_of, remarks};

/// Options whose values are places on the machine that has measured.
const PLACES: [&str; 4] = ["--json", "--page", "--svg", "--work"];

/// Writes the page, and its chart beside it.
pub(crate) fn write(report: &Report, file: &Path) -> anyhow::Result<()> {
    let chart = file.with_extension("svg");
    let name = chart.file_name().context("the page has no name")?;
    let page = markdown(report, &name.to_string_lossy());
    for (file, text) in [(file, page), (&chart, dots::svg(report))] {
        fs::write(file, text).with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}

fn markdown(report: &Report, chart: &str) -> String {
    let mut text = String::from(
        "# Results\n\n\
         Each program pulled the same images from the same registry, in turn.\n\
         Every result was checked.\n\
         A dot is the time of a program, divided by that of longshore: right of the line, longshore is faster.\n\
         Dots beyond the scale are at its end.\n\n",
    );
    let _ = writeln!(text, "![Times, divided by that of longshore]({chart})\n");
    text += "## Times\n\n\
             Medians in seconds: longshore with its defaults, and each other program with the settings that suit it best, \
             which are in parentheses if they are not its defaults.\n\n";
    table(
        &mut text,
        report,
        |summary| Some(summary.wall.median),
        |figure| format!("{figure:.2}"),
    );
    let seconds = |figure: f64| format!("{figure:.2}");
    let mebibytes = |bytes: f64| format!("{:.0}", bytes / f64::from(1 << 20));
    text +=
        "\n## CPU time\n\nSeconds of all processors, of the program and all that it starts.\n\n";
    table(
        &mut text,
        report,
        |summary| Some(summary.cpu.median),
        seconds,
    );
    if report.samples.iter().any(|s| s.tree_memory.is_some()) {
        text += "\n## Memory\n\nThe peak of the program with all that it starts, in MiB (PSS).\n\n";
        let memory = |summary: &Summary| Some(summary.tree_memory?.median);
        table(&mut text, report, memory, mebibytes);
    }
    if report.samples.iter().any(|s| s.sync.is_some()) {
        text +=
            "\n## On disk\n\nSeconds until all is on disk: the pull, and the sync after it.\n\n";
        let durable = |summary: &Summary| Some(summary.wall.median + summary.sync?.median);
        table(&mut text, report, durable, seconds);
    }
    failures(&mut text, report);
    how(&mut text, report);
    text
}

/// A row for each case, with the figures of the best setting of each program. The lowest figure is bold.
fn table(
    out: &mut String,
    report: &Report,
    figure: impl Fn(&Summary) -> Option<f64>,
    format: impl Fn(f64) -> String,
) {
    let families = families(report);
    let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
    let _ = writeln!(out, "| | {} |", names.join(" | "));
    let _ = writeln!(out, "| --- |{}", " ---: |".repeat(names.len()));
    for case in report.cases() {
        let best: Vec<Option<(f64, &str)>> = families
            .iter()
            .map(|family| {
                let (name, summary) = best_of(report, case, *family)?;
                Some((figure(&summary)?, name))
            })
            .collect();
        // Not everything was measured in each run.
        if best.iter().all(Option::is_none) {
            continue;
        }
        let contests = families.iter().zip(&best);
        let contests = contests.filter(|(family, _)| **family != Family::Bare);
        let figures = contests.filter_map(|(_, best)| Some(best.as_ref()?.0));
        let lowest = figures.min_by(f64::total_cmp);
        let _ = write!(out, "| {} |", name_of(case));
        for (family, best) in families.iter().zip(&best) {
            let cell = best.map_or("–".into(), |(figure, name)| {
                let is_lowest = Some(figure) == lowest && *family != Family::Bare;
                let mark = if is_lowest { "**" } else { "" };
                let setting = setting(name);
                format!("{mark}{}{mark}{setting}", format(figure))
            });
            let _ = write!(out, " {cell} |");
        }
        out.push('\n');
    }
}

/// The programs that have taken part.
fn families(report: &Report) -> Vec<Family> {
    let known: Vec<Family> = report.names().filter_map(family_of).collect();
    let all = Family::ALL.into_iter();
    all.filter(|family| known.contains(family)).collect()
}

fn family_of(name: &str) -> Option<Family> {
    let parsed: Result<Contestant, _> = name.parse();
    parsed.ok().map(|contestant| contestant.family())
}

/// The fastest setting of a program. longshore is taken with its defaults, unless it took part with others only.
pub(crate) fn best_of<'a>(
    report: &'a Report,
    case: &Case,
    family: Family,
) -> Option<(&'a str, Summary)> {
    let name = report.names().find(|name| *name == "longshore");
    if let (Family::Longshore, Some(name)) = (family, name)
        && let Some(summary) = report.summary(case, name)
    {
        return Some((name, summary));
    }
    let names = report
        .names()
        .filter(|name| family_of(name) == Some(family));
    let summaries = names.filter_map(|name| Some((name, report.summary(case, name)?)));
    summaries.min_by(|(_, one), (_, other)| one.wall.median.total_cmp(&other.wall.median))
}

/// The setting of a contestant as it is shown behind its figure.
fn setting(name: &str) -> String {
    let start = name.find([':', '@']);
    start.map_or(String::new(), |start| format!(" ({})", &name[start..]))
}

fn failures(out: &mut String, report: &Report) {
    let failed = report.samples.iter().filter(|s| s.failure.is_some());
    let count = failed.count();
    if count > 0 {
        let _ = write!(out, "\n## Failures\n\n{count} pulls failed.\n");
        for case in report.cases() {
            remarks(out, report, case);
        }
    }
}

fn how(out: &mut String, report: &Report) {
    let (year, month, day) = date(report.started);
    let _ = write!(
        out,
        "\n## How it was made\n\nOn {year}-{month:02}-{day:02}, by [compare](compare/README.md), which also says what is \
         measured and what is not.\n\n```console\n"
    );
    for command in report.command.split(|word| word == "+") {
        let _ = writeln!(out, "$ compare {}", without_places(command).join(" "));
    }
    out.push_str("```\n\n");
    for item in report.machine.iter().chain(&report.versions) {
        let _ = writeln!(out, "- {item}");
    }
    out.push('\n');
    contestants(out, report);
}

/// The arguments of a command, without files and folders.
fn without_places(command: &[String]) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = command.iter();
    while let Some(word) = rest.next() {
        let name = word.split_once('=').map_or(word.as_str(), |(name, _)| name);
        if !PLACES.contains(&name) {
            words.push(word.as_str());
        } else if name == word {
            rest.next();
        }
    }
    words
}

/// The year, month and day of a second after the beginning of 1970, in UTC.
fn date(seconds: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that a leap day is the last day of its year. 400 years have 146,097 days.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (400 * era + year, month + 3),
        _ => (400 * era + year + 1, month - 9),
    };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{case, report};

    #[test]
    fn dates_are_right() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(951_782_400), (2000, 2, 29));
        assert_eq!(date(951_868_800), (2000, 3, 1));
        assert_eq!(date(1_798_675_200), (2026, 12, 31));
    }

    #[test]
    fn no_place_is_shown() {
        let command = ["--work", "/a", "--runs", "3", "--json=/b", "--ttfb", "0"];
        let command = command.map(str::to_owned);
        assert_eq!(without_places(&command), ["--runs", "3", "--ttfb", "0"]);
    }

    #[test]
    fn each_program_is_shown_at_its_best() {
        let times: &[(&str, &[f64])] = &[
            ("longshore", &[1.0]),
            ("longshore:64", &[0.5]),
            ("oras", &[3.0]),
            ("oras:16", &[0.8]),
            ("crane", &[2.0]),
        ];
        let mut report = report(&case("C", "50 ms"), times);
        report.command = ["--runs", "1", "+", "--json", "/x"]
            .map(str::to_owned)
            .into();
        let text = markdown(&report, "a.svg");
        assert!(text.contains("| | longshore | crane | oras |"), "{text}");
        let row = "| C, 50 ms | 1.00 | 2.00 | **0.80** (:16) |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("$ compare --runs 1\n$ compare \n"), "{text}");
        assert!(!text.contains("## Memory"), "{text}");
        let chart = text.find("![").unwrap();
        assert!(chart < text.find("## Times").unwrap());
    }
}
