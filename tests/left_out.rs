//! Says in one line what `cargo test` leaves out here: the tests that are marked
//! `#[ignore = "needs ..."]`, counted by what they need.

#![allow(clippy::unwrap_used, reason = "a test may fail this way")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The text that marks such a test. It is written in two parts, so that this line does not count as a mark.
const MARK: &str = concat!("#[ignore = ", "\"needs ");

fn main() {
    // cargo-nextest asks for a list of tests, and `--ignored` and `--include-ignored` leave none out.
    if std::env::args().any(|argument| argument == "--list" || argument.ends_with("ignored")) {
        return;
    }
    let mut marks = Vec::new();
    for folder in ["src", "tests"] {
        find_marks(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
            &mut marks,
        );
    }
    let mut needs = BTreeMap::<&str, usize>::new();
    for need in marks.iter().flat_map(|mark| mark.split(", ")) {
        *needs.entry(need).or_default() += 1;
    }
    let needs: Vec<_> = needs
        .iter()
        .map(|(need, tests)| format!("{need} ({tests})"))
        .collect();
    println!(
        "left out: {} tests, for what they need: {}; `bash tests/run.sh` installs it and runs them",
        marks.len(),
        needs.join(", ")
    );
}

fn find_marks(folder: &Path, marks: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find_marks(&path, marks);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().map(str::trim_start);
            let found = lines.filter_map(|line| line.strip_prefix(MARK)?.strip_suffix("\"]"));
            marks.extend(found.map(str::to_owned));
        }
    }
}
