//! The table as a document.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::outcome::{CALL, STALL};
use super::table::Section;

/// Ask for it to be written anew.
const WRITE: &str = "LONGSHORE_WRITE_FAULTS";

/// Compare what was seen with what is written.
pub(crate) fn compare(sections: &[Section], seen: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/command/faults/FAULTS.md");
    let now = document(sections, seen);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, now).unwrap();
        return;
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differing = now
        .lines()
        .zip(written.lines())
        .find(|(now, was)| now != was);
    assert!(
        now == written,
        "tests/command/faults/FAULTS.md says something else ({WRITE}=1 writes it anew): {differing:?}"
    );
}

fn document(sections: &[Section], seen: &[String]) -> String {
    let mut text = format!(
        "# The fault matrix\n\n\
         Written by the test `every_fault_comes_to_what_the_table_says`, which has each of these faults with each of three real skopeos, \
         by the protocol that they speak, and fails if one comes to something else. \
         `longshore pull` is run with a stall timeout of {} s or a call timeout of {} s where the fault is to meet it, \
         and else with generous ones; with `--proxies 1` where all proxies would meet the fault.\n\n\
         In each of these, whatever the outcome: nothing panics; no process and no temporary file is left; \
         each blob in the layout has the digest that is its name; what the index names is whole; \
         a pull that fails has not named its image, one that succeeds has the registry's manifest. \
         *Waits for* is the most that it waits for besides what is under way; what takes 50 s longer, or a minute in all, has failed.\n\n\
         {} faults, {} pulls or more.\n",
        STALL.as_secs(),
        CALL.as_secs(),
        sections
            .iter()
            .map(|section| section.faults.len())
            .sum::<usize>(),
        seen.len(),
    );
    let mut cells = seen.chunks(3);
    for section in sections {
        let _ = write!(
            text,
            "\n## {}\n\n{}\n\n| fault | `--retries` | 0.2.3 | 0.2.6 | 0.2.8 | waits for |\n| --- | --- | --- | --- | --- | --- |\n",
            section.name, section.about,
        );
        for fault in &section.faults {
            let cell = cells.next().unwrap();
            let bound = fault.bound;
            // What is the same with all is said once.
            let [a, b, c] = cell else { panic!("three") };
            let (b, c) = if a == b && b == c {
                ("same", "same")
            } else {
                (b.as_str(), c.as_str())
            };
            let _ = writeln!(
                text,
                "| {} | {} | {a} | {b} | {c} | {bound} |",
                fault.name,
                fault.retries()
            );
        }
    }
    text
}
