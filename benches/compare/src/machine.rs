//! Describes the machine on which the figures were measured.

use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC,
    statfs,
};

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
    let place = match disk(work)? {
        None => "in memory (tmpfs), where fsync costs nothing".to_owned(),
        Some(kind) => format!("on a disk ({kind}), which is synced before and after each pull"),
    };
    Ok(vec![
        format!("{cores} cores ({cpu}), {memory} of memory"),
        format!("kernel {}, load {load} at the start", kernel.trim()),
        format!("source and destination {place}"),
    ])
}

/// The kind of the file system of a folder, unless the folder is in memory.
pub(crate) fn disk(folder: &Path) -> anyhow::Result<Option<&'static str>> {
    let file_system = statfs(folder)
        .with_context(|| format!("can't find the file system of {}", folder.display()))?;
    let kinds = [
        (BTRFS_SUPER_MAGIC, "btrfs"),
        (EXT4_SUPER_MAGIC, "ext4"),
        (OVERLAYFS_SUPER_MAGIC, "overlayfs"),
        (XFS_SUPER_MAGIC, "xfs"),
    ];
    let kind = file_system.filesystem_type();
    if kind == TMPFS_MAGIC {
        return Ok(None);
    }
    let known = kinds.iter().find(|(magic, _)| *magic == kind);
    Ok(Some(known.map_or("of another kind", |(_, name)| name)))
}

/// The first field with this name in one of the kernel's tables.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
