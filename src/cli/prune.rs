//! The command `longshore prune`.

use std::fmt::Write as _;
use std::time::Instant;

use longshore::{OciLayout, PruneOptions, Pruned};
use serde::Serialize;

use super::args::PruneArguments;
use super::failure::Failure;
use super::format::{bytes, counted, json_line};
use super::say::print;

/// The version of the object that `--json` prints. It changes if a member is removed or gets another meaning.
const REPORT_VERSION: u32 = 1;

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    version: u32,
    layout: String,
    dry_run: bool,
    /// Whether all blobs that no image names were removed, or would be.
    complete: bool,
    removed: Vec<Removed>,
    removed_bytes: u64,
    kept_blobs: usize,
    /// The number of killed pulls whose incomplete files were removed, and the size of these files in bytes.
    abandoned_pulls: usize,
    abandoned_bytes: u64,
    elapsed_ms: u64,
}

#[derive(Debug, Serialize)]
struct Removed {
    digest: String,
    size: u64,
}

pub(crate) async fn run(arguments: PruneArguments) -> Result<(), Failure> {
    let started = Instant::now();
    let PruneArguments {
        layout,
        dry_run,
        wait,
        json,
    } = arguments;
    let layout = OciLayout::new(layout.path, None);
    let options = PruneOptions::default().dry_run(dry_run).wait(wait);
    let mut pruned = layout.prune(&options).await?;
    let unfinished = pruned.unfinished.take();
    let text = if json {
        let removed = |blob: &longshore::PrunedBlob| Removed {
            digest: blob.digest.to_string(),
            size: blob.size,
        };
        let report = Report {
            version: REPORT_VERSION,
            layout: layout.root().display().to_string(),
            dry_run,
            complete: unfinished.is_none(),
            removed: pruned.removed.iter().map(removed).collect(),
            removed_bytes: pruned.removed_bytes,
            kept_blobs: pruned.kept_blobs,
            abandoned_pulls: pruned.abandoned_pulls,
            abandoned_bytes: pruned.abandoned_bytes,
            elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let line = json_line(&report).map_err(anyhow::Error::from)?;
        format!("{line}\n")
    } else {
        page(&pruned, dry_run)
    };
    print(text).await?;
    match unfinished {
        None => Ok(()),
        Some(error) => {
            let error = anyhow::Error::from(error);
            Err(error.context("not all blobs were removed").into())
        }
    }
}

/// Formats the result for people. A line with a sha256 digest has 80 columns.
fn page(pruned: &Pruned, dry_run: bool) -> String {
    let mut page = String::new();
    for blob in &pruned.removed {
        // Writing to a `String` can't fail.
        let _ = writeln!(page, "{:>8} {}", bytes(blob.size), blob.digest);
    }
    let removed = counted(pruned.removed.len(), "blob");
    let size = bytes(pruned.removed_bytes);
    let kept = pruned.kept_blobs;
    let _ = if dry_run {
        writeln!(page, "{removed} ({size}) would be removed, {kept} kept")
    } else {
        writeln!(page, "{removed} ({size}) removed, {kept} kept")
    };
    if pruned.abandoned_pulls > 0 {
        let pulls = counted(pruned.abandoned_pulls, "killed pull");
        let size = bytes(pruned.abandoned_bytes);
        let _ = writeln!(page, "incomplete files of {pulls} ({size}) removed");
    }
    page
}
