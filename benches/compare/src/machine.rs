//! Describes the machine on which the figures were measured.

use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

/// Lines about the machine, and about the folder that contains everything.
pub(crate) fn describe(work: &Path) -> anyhow::Result<Vec<String>> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map_or_else(|| "unknown".into(), |kib| format!("{} MiB", kib >> 10));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let place = if is_tmpfs(work)? {
        "in memory (tmpfs), where fsync costs nothing"
    } else {
        "NOT in memory: contestants that sync their files are slower for it, and the others are not"
    };
    Ok(vec![
        format!("{cores} cores ({cpu}), {memory} of memory"),
        format!("kernel {}, load {load} at the start", kernel.trim()),
        format!("source and destination {place}"),
    ])
}

fn is_tmpfs(folder: &Path) -> anyhow::Result<bool> {
    let file_system =
        statfs(folder).with_context(|| format!("what is {} on?", folder.display()))?;
    Ok(file_system.filesystem_type() == TMPFS_MAGIC)
}

/// The first field with this name in one of the kernel's tables.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
