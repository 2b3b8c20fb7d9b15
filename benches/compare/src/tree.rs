//! The processes below this one, and their memory.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;

/// The children of this process. Empty if the kernel does not list them.
pub(crate) fn children() -> BTreeSet<u32> {
    children_of("self")
}

/// The memory of these processes and all their descendants, in bytes. Memory that several processes share is divided
/// among them (PSS). Processes that have just ended are not counted.
pub(crate) fn memory(roots: impl IntoIterator<Item = u32>) -> u64 {
    let mut waiting: Vec<u32> = roots.into_iter().collect();
    let mut sum = 0;
    while let Some(pid) = waiting.pop() {
        waiting.extend(children_of(pid));
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        sum += rollup.map_or(0, |text| pss(&text).unwrap_or(0));
    }
    sum
}

/// The children of a process, whichever of its threads has started them.
fn children_of(pid: impl Display) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return found;
    };
    for thread in threads.flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let pids = list.split_whitespace();
        found.extend(pids.filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}

/// Reads the sum in bytes from the kernel's text.
fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_found() {
        let text = "00400000-7ffc000 ---p 00000000 00:00 0 [rollup]\n\
                    Rss:                1234 kB\n\
                    Pss:                 567 kB\n\
                    Pss_Dirty:            89 kB\n";
        assert_eq!(pss(text), Some(567 * 1024));
        assert_eq!(pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(memory([std::process::id()]) > 100_000);
    }
}
