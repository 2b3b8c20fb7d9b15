//! A picture of a pull for a terminal: lines of text that fit. Pure.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::state::{Pause, Progress, Running, percent};
use crate::cli::format::{bytes, counted, seconds, short};

/// After this time without a byte or an answer, the picture says how long a blob or a request has waited.
const QUIET_AFTER: Duration = Duration::from_secs(3);

const WIDEST_BAR: usize = 30;
const NARROWEST_BAR: usize = 8;

/// The columns before a bar: two spaces, and the first digits of a digest.
const BEGIN: usize = 14;

/// The fewest columns in which a name is shown that does not fit.
const SHORTEST_NAME: usize = 8;

/// A terminal, as far as it matters for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terminal {
    pub(super) columns: usize,
    pub(super) rows: usize,
    /// Whether it shows characters beyond ASCII.
    pub(super) is_unicode: bool,
}

/// Returns the lines that show a pull: the total, the counts, and a line for each blob in flight as far as there are rows.
/// No line fills the last column, because some terminals then begin another one.
pub(super) fn frame(
    progress: &Progress,
    subject: &str,
    now: Duration,
    terminal: Terminal,
) -> Vec<String> {
    let columns = terminal.columns.saturating_sub(1);
    let mut lines = if progress.is_opening() {
        let opening = format!("opening  {}  ", seconds(now));
        let subject = end_of(subject, columns, opening.width(), terminal.is_unicode);
        vec![opening + &subject]
    } else {
        vec![
            total(progress, columns, terminal.is_unicode),
            counts(progress, subject, now, columns, terminal.is_unicode),
        ]
    };
    lines.extend(waits(progress, now));
    // One row stays free for the cursor, and one for the line that counts the other blobs.
    let room = terminal.rows.saturating_sub(lines.len() + 2);
    let shown = progress.running.len().min(room);
    let running = progress.running.iter().take(shown);
    lines.extend(running.map(|running| blob(running, now, columns, terminal.is_unicode)));
    let others = progress.running.len() - shown;
    if others > 0 && room > 0 {
        lines.push(format!("  and {} more", counted(others, "blob")));
    }
    lines.truncate(terminal.rows.saturating_sub(1));
    lines.iter().map(|line| cut(line, columns)).collect()
}

fn total(progress: &Progress, columns: usize, is_unicode: bool) -> String {
    let percent = progress.percent();
    let sizes = (progress.bytes(), progress.total_bytes);
    row(
        &format!("{percent:>3} %"),
        percent,
        sizes,
        columns,
        is_unicode,
    )
}

/// A row with a bar. All rows of a picture have the same columns.
fn row(
    begin: &str,
    percent: u64,
    (read, size): (u64, u64),
    columns: usize,
    is_unicode: bool,
) -> String {
    let begin = format!("{begin:<BEGIN$}");
    let (read, size) = (bytes(read), bytes(size));
    let both = format!("{read:>8} of {size:>8}");
    let one = format!("{read:>8}");
    for sizes in [&both, &one] {
        let space = columns.saturating_sub(begin.width() + sizes.width() + 4);
        if space >= NARROWEST_BAR {
            let bar = bar(percent, space.min(WIDEST_BAR), is_unicode);
            return format!("{begin}  {bar}  {sizes}");
        }
    }
    format!("{begin}  {both}")
}

fn counts(
    progress: &Progress,
    subject: &str,
    now: Duration,
    columns: usize,
    is_unicode: bool,
) -> String {
    let mut parts = Vec::new();
    if progress.requested > 1 || progress.opened > 1 || progress.failed > 0 {
        let images = progress.requested.max(progress.opened);
        parts.push(format!(
            "{} of {}",
            progress.pulled,
            counted(images, "image")
        ));
    }
    if progress.failed > 0 {
        parts.push(format!("{} failed", progress.failed));
    }
    parts.push(format!(
        "{} of {}",
        progress.done,
        counted(progress.blobs, "layer")
    ));
    if progress.retries > 0 {
        let ending = if progress.retries == 1 { "y" } else { "ies" };
        parts.push(format!("{} retr{ending}", progress.retries));
    }
    parts.extend(progress.rate().map(|rate| format!("{}/s", bytes(rate))));
    // The blob that waits may be the last one to come.
    let is_quiet = |of: &Running| now.saturating_sub(of.last_byte) >= QUIET_AFTER;
    if !progress.running.iter().any(is_quiet) {
        let left = progress.remaining();
        parts.extend(left.map(|left| format!("{} left", seconds(left))));
    }
    let counts = format!("  {}", parts.join(", "));
    // The subject of several requests is only their number, which the counts have.
    if progress.requested > 1 {
        return counts;
    }
    let subject = end_of(subject, columns, counts.width() + 2, is_unicode);
    format!("{counts}  {subject}").trim_end().to_owned()
}

/// The lines about what the pull waits for, besides the blobs in flight.
fn waits(progress: &Progress, now: Duration) -> Vec<String> {
    let pause = |pause: &Pause| {
        let Pause { registry, until } = pause;
        // Rounded up, so that it does not end with 0 s.
        let left = seconds(until.saturating_sub(now) + Duration::from_millis(999));
        // The time comes first, because a narrow terminal cuts the end of the line.
        format!("  next request in {left}: the last one to {registry} failed")
    };
    let mut lines: Vec<String> = progress.pauses(now).map(pause).collect();
    if !progress.is_opening()
        && let Some((count, time)) = progress.unanswered(now)
        && time >= QUIET_AFTER
    {
        let (requests, time) = (counted(count, "request"), seconds(time));
        lines.push(format!("  no answer for {time} ({requests})"));
    }
    lines
}

fn blob(running: &Running, now: Duration, columns: usize, is_unicode: bool) -> String {
    let Running {
        blob,
        read,
        last_byte,
    } = running;
    let begin = format!("  {}", short(blob.digest.as_ref()));
    let quiet = now.saturating_sub(*last_byte);
    if quiet >= QUIET_AFTER {
        let (read, size, time) = (bytes(*read), bytes(blob.size), seconds(quiet));
        return format!("{begin:<BEGIN$}  no byte for {time}, after {read} of {size}");
    }
    let percent = percent(*read, blob.size);
    row(&begin, percent, (*read, blob.size), columns, is_unicode)
}

/// A bar of this many columns.
fn bar(percent: u64, columns: usize, is_unicode: bool) -> String {
    let (full, empty) = if is_unicode {
        ("━", "─")
    } else {
        ("#", "-")
    };
    let done = usize::try_from(percent).unwrap_or(100) * columns / 100;
    full.repeat(done) + &empty.repeat(columns - done)
}

/// Returns a name in what is left of the columns. If it is too long, its end is kept, where the tag is. It is left out
/// if there is hardly any space.
fn end_of(name: &str, columns: usize, used: usize, is_unicode: bool) -> String {
    let space = columns.saturating_sub(used);
    if name.width() <= space {
        return name.to_owned();
    }
    let ellipsis = if is_unicode { "…" } else { "..." };
    let mut left = space.saturating_sub(ellipsis.width());
    if left < SHORTEST_NAME {
        return String::new();
    }
    let fits = |c: &char| {
        let width = c.width().unwrap_or(0);
        let fits = width <= left;
        left = left.saturating_sub(width);
        fits
    };
    let end: Vec<char> = name.chars().rev().take_while(fits).collect();
    let end: String = end.into_iter().rev().collect();
    format!("{ellipsis}{end}")
}

/// Cuts a line to this many columns.
fn cut(line: &str, columns: usize) -> String {
    let mut used = 0;
    let fits = |c: &char| {
        used += c.width().unwrap_or(0);
        used <= columns
    };
    line.chars().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::super::state::tests::blob;
    use super::*;

    const WIDE: Terminal = Terminal {
        columns: 81,
        rows: 24,
        is_unicode: false,
    };

    fn pull() -> Progress {
        let mut progress = Progress::of(1);
        progress.opened = 1;
        for number in 0..4 {
            progress.queue(blob(number, 1_000_000).size);
        }
        progress.sample(Duration::ZERO);
        progress.complete(&blob(0, 1_000_000));
        progress.start(Duration::from_secs(1), blob(1, 1_000_000));
        progress.read(Duration::from_secs(2), &blob(1, 0).digest, 500_000);
        progress.start(Duration::from_secs(2), blob(2, 1_000_000));
        progress.sample(Duration::from_secs(2));
        progress
    }

    #[test]
    fn a_pull_on_a_wide_terminal() {
        let lines = frame(&pull(), "an image", Duration::from_secs(2), WIDE);
        assert_eq!(
            lines,
            [
                " 37 %           ###########-------------------    1.5 MB of   4.0 MB",
                "  1 of 4 layers, 750.0 kB/s  an image",
                "  010101010101  ###############---------------  500.0 kB of   1.0 MB",
                "  020202020202  ------------------------------       0 B of   1.0 MB",
            ]
        );
        let narrow = Terminal {
            columns: 40,
            ..WIDE
        };
        let name = "docker://a.b/some/repository:v1";
        let lines = frame(&pull(), name, Duration::from_secs(2), narrow);
        assert_eq!(
            lines,
            [
                " 37 %           ####---------    1.5 MB",
                "  1 of 4 layers, 750.0 kB/s",
                "  010101010101  ######-------  500.0 kB",
                "  020202020202  -------------       0 B",
            ]
        );
        let less = Terminal {
            columns: 52,
            ..WIDE
        };
        let lines = frame(&pull(), name, Duration::from_secs(2), less);
        assert_eq!(
            lines[1],
            "  1 of 4 layers, 750.0 kB/s  .../some/repository:v1"
        );
    }

    #[test]
    fn waits_and_refusals_are_shown() {
        let opening = frame(
            &Progress::of(1),
            "docker://a/b",
            Duration::from_secs(7),
            WIDE,
        );
        assert_eq!(opening, ["opening  7 s  docker://a/b"]);
        let lines = frame(&pull(), "an image", Duration::from_secs(62), WIDE);
        assert_eq!(
            lines[2],
            "  010101010101  no byte for 1 min 0 s, after 500.0 kB of 1.0 MB"
        );
        let mut refused = pull();
        refused.pause("a.b:5000", Duration::from_millis(4_500));
        let lines = frame(&refused, "an image", Duration::from_secs(3), WIDE);
        assert_eq!(
            lines[2],
            "  next request in 2 s: the last one to a.b:5000 failed"
        );
        let mut asked = pull();
        asked.ask_for(blob(9, 0), Duration::from_secs(2));
        asked.ask_for(blob(8, 0), Duration::from_secs(4));
        let lines = frame(&asked, "an image", Duration::from_secs(5), WIDE);
        assert_eq!(lines[2], "  no answer for 3 s (2 requests)");
        let mut many = pull();
        (many.requested, many.pulled, many.failed, many.retries) = (24, 3, 1, 2);
        let lines = frame(&many, "24 images", Duration::from_secs(2), WIDE);
        assert_eq!(
            lines[1],
            "  3 of 24 images, 1 failed, 1 of 4 layers, 2 retries, 750.0 kB/s"
        );
    }

    #[test]
    fn a_picture_fits_every_terminal() {
        let mut many = pull();
        for number in 10..90 {
            many.start(Duration::ZERO, blob(number, u64::MAX));
        }
        for columns in [0, 1, 2, 9, 10, 20, 39, 40, 41, 60, 79, 80, 81, 130] {
            for rows in [0, 1, 2, 3, 4, 5, 10, 24, 50] {
                for is_unicode in [false, true] {
                    let terminal = Terminal {
                        columns,
                        rows,
                        is_unicode,
                    };
                    for progress in [&many, &Progress::of(3)] {
                        let lines = frame(progress, "名前", Duration::from_secs(2), terminal);
                        assert!(lines.len() <= rows.saturating_sub(1), "{terminal:?}");
                        let widest = lines.iter().map(|line| line.width()).max();
                        assert!(
                            widest.unwrap_or(0) <= columns.saturating_sub(1),
                            "{terminal:?}"
                        );
                    }
                }
            }
        }
        let lines = frame(&many, "", Duration::ZERO, Terminal { rows: 10, ..WIDE });
        assert_eq!((lines.len(), &*lines[8]), (9, "  and 76 blobs more"));
    }
}
