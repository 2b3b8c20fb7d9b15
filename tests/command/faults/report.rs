//! Formats the table as a document.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::outcome::{CALL, STALL};
use super::table::Section;

/// The environment variable that makes the test write the document.
const WRITE: &str = "LONGSHORE_WRITE_FAULTS";

/// Compares the observed outcomes with the document.
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
         The test `every_fault_has_the_outcome_of_the_table` writes this page, with `LONGSHORE_WRITE_FAULTS=1`.\n\
         It runs each fault with three real skopeos, and fails if an outcome differs.\n\
         The columns are their protocol versions: 0.2.3 is skopeo 1.9, 0.2.6 is 1.18, and 0.2.8 is 1.20 or later.\n\
         The stall timeout of `longshore pull` is {} s for a fault that makes it expire, and the call timeout is {} s for a fault that makes it expire. A timeout that must not expire is longer.\n\
         The pull has `--proxies 1` if it would otherwise depend on chance which proxy meets the fault.\n\n\
         After each pull, whatever the outcome, the test checks that:\n\n\
         - nothing has panicked;\n\
         - no process and no temporary file is left;\n\
         - each blob in the layout has the digest that is its name;\n\
         - everything that the index names is complete;\n\
         - after a failed pull, the index does not name the image; after a successful one, it names the registry's manifest.\n\n\
         *Waits for* is the longest wait of a pull, apart from its work.\n\
         The test fails if a pull takes 50 s longer than this wait, or 60 s in all.\n\n\
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
            // An outcome that is the same with all skopeos is written once.
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
