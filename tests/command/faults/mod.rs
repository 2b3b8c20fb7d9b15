//! The fault matrix: each fault of the table, with each of the three skopeos, through the command.
//! `tests/command/faults/FAULTS.md` contains the outcomes, and the test fails if that file says something
//! else. `LONGSHORE_WRITE_FAULTS=1` writes it again.

mod cell;
mod descriptions;
mod documents;
pub(crate) mod machine;
mod other_registries;
mod outcome;
mod processes;
mod report;
mod table;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::harness::skopeos;

/// The number of pulls at the same time. Most of the time they wait.
const CONCURRENT_PULLS: usize = 12;

#[test]
#[ignore = "needs skopeo, root, faketime, openssl"]
fn every_fault_has_the_outcome_of_the_table() {
    let sections = table::sections();
    let skopeos = skopeos();
    // A name selects some faults, for work on them.
    let wanted = std::env::var("LONGSHORE_FAULT").unwrap_or_default();
    let cells: Vec<_> = sections
        .iter()
        .flat_map(|section| &section.faults)
        .filter(|fault| fault.name.contains(&wanted))
        .flat_map(|fault| (0..skopeos.len()).map(move |which| (fault, which)))
        .collect();
    assert!(!cells.is_empty(), "no fault is called {wanted:?}");

    let next = AtomicUsize::new(0);
    let seen = Mutex::new(vec![None; cells.len()]);
    thread::scope(|scope| {
        for _ in 0..CONCURRENT_PULLS {
            scope.spawn(|| {
                while let Some((number, (fault, which))) = take(&next, &cells) {
                    let cell = || fault.run_with(&skopeos[*which], *which);
                    let outcome = catch_unwind(AssertUnwindSafe(cell)).map_err(|panic| {
                        let protocol = skopeos[*which].protocol;
                        format!("{} with {protocol}: {}", fault.name, panic_message(&*panic))
                    });
                    seen.lock().unwrap()[number] = Some(outcome);
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap().into_iter().map(Option::unwrap);
    let (seen, wrong): (Vec<_>, Vec<_>) = seen.partition(Result::is_ok);
    let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    if wanted.is_empty() {
        let seen: Vec<_> = seen.into_iter().map(Result::unwrap).collect();
        report::compare(&sections, &seen);
    }
}

#[test]
fn each_fault_has_its_own_name() {
    let mut names = HashSet::new();
    for section in table::sections() {
        for fault in section.faults {
            let name = (section.name, fault.name);
            assert!(!names.contains(&name), "twice: {name:?}");
            names.insert(name);
        }
    }
}

fn take<'a, T>(next: &AtomicUsize, all: &'a [T]) -> Option<(usize, &'a T)> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    all.get(number).map(|one| (number, one))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}
