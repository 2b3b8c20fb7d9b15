//! Advice for a pull that has filled a disk: how much is missing.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::failure::Failure;
use super::format::bytes;
use super::progress::Unwritten;

/// Adds advice to each failure that a full disk has caused: how many bytes are missing in this folder.
pub(super) async fn advise(failure: &mut Failure, folder: &Path, unwritten: Unwritten) {
    let full = failure.parts().into_iter();
    let full: Vec<_> = full.filter(|failed| failed.is_full_disk()).collect();
    if full.is_empty() {
        return;
    }
    let folder = folder.to_owned();
    let asked = tokio::task::spawn_blocking(move || free_bytes(&folder));
    let advice = advice(unwritten, asked.await.ok().flatten());
    for failed in full {
        failed.advise(advice.clone());
    }
}

/// The advice for a disk with this many free bytes. The incomplete files of the pull have been removed.
fn advice(unwritten: Unwritten, free: Option<u64>) -> String {
    const GO_ON: &str = "run it again: it goes on where it stopped";
    let Unwritten {
        bytes: missing,
        is_all,
    } = unwritten;
    if missing == 0 {
        return format!("free some space and {GO_ON}");
    }
    let least = if is_all { "" } else { "at least " };
    let left = format!("{least}{} are still to be written", bytes(missing));
    match free {
        Some(free) if free < missing => {
            let (free, short) = (bytes(free), bytes(missing - free));
            format!("{left}, and {free} are free; free {short} more and {GO_ON}")
        }
        _ => format!("{left}; free some space and {GO_ON}"),
    }
}

/// The bytes that this user can still write into a folder, or into the one where it would be created. `None` if the
/// system does not say it. Blocks.
fn free_bytes(folder: &Path) -> Option<u64> {
    // A relative path of one component has an empty parent.
    let mut folders = folder.ancestors().map(|folder| match folder {
        here if here.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    });
    let found = folders.find_map(|folder| statvfs(folder).ok())?;
    let blocks: u64 = found.blocks_available();
    Some(blocks.saturating_mul(found.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_says_how_many_bytes_are_missing() {
        let table = [
            (
                15_700_000,
                true,
                Some(5_200_000),
                "15.7 MB are still to be written, and 5.2 MB are free; free 10.5 MB more and run it again: it goes on \
                 where it stopped",
            ),
            (
                1_000,
                false,
                Some(0),
                "at least 1.0 kB are still to be written, and 0 B are free; free 1.0 kB more and run it again: it \
                 goes on where it stopped",
            ),
            (
                1_000,
                true,
                Some(2_000),
                "1.0 kB are still to be written; free some space and run it again: it goes on where it stopped",
            ),
            (
                0,
                true,
                None,
                "free some space and run it again: it goes on where it stopped",
            ),
        ];
        for (bytes, is_all, free, expected) in table {
            assert_eq!(advice(Unwritten { bytes, is_all }, free), expected);
        }
    }

    #[test]
    fn a_missing_folder_has_the_free_bytes_of_its_parent() {
        let folder = tempfile::tempdir().expect("a folder");
        let free = free_bytes(folder.path()).expect("a number");
        assert!(free > 0);
        assert!(free_bytes(&folder.path().join("a/b")).is_some());
        assert!(free_bytes(Path::new("not-there")).is_some());
    }
}
