//! What a pull shows while it runs, made from its events and nothing else:
//! bars on a terminal, lines elsewhere, JSON lines in a file.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use longshore::oci_spec::image::Digest;
use longshore::{BlobName, EventKind, Events, printable};
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};

use super::failure::Failure;
use super::format::{bytes, json_line, short};

/// How progress is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style {
    None,
    Lines,
    Bars,
}

impl Style {
    pub(crate) fn choose(silent: bool) -> Self {
        match (silent, std::io::stderr().is_terminal()) {
            (true, _) => Self::None,
            (false, true) => Self::Bars,
            (false, false) => Self::Lines,
        }
    }
}

/// Where to send events, and what shows them until they have ended.
pub(crate) async fn show(
    style: Style,
    file: Option<PathBuf>,
) -> Result<(Events, impl Future<Output = Result<(), Failure>>), Failure> {
    let (events, mut stream) = Events::channel();
    let mut file = match file {
        Some(path) => {
            let created = File::create(&path).await;
            let wrong = |e| Failure::usage(format!("can't write {}: {e}", path.display()));
            Some(BufWriter::new(created.map_err(wrong)?))
        }
        None => None,
    };
    let showing = async move {
        let mut display = Display::new(style);
        while let Some(event) = stream.recv().await {
            if let Some(file) = &mut file {
                let line = json_line(&event).map_err(anyhow::Error::from)?;
                file.write_all(line.as_bytes()).await?;
                file.write_all(b"\n").await?;
            }
            display.take(event.kind);
        }
        if let Some(file) = &mut file {
            file.flush().await?;
        }
        display.clear();
        Ok(())
    };
    Ok((events, showing))
}

enum Display {
    None,
    Lines(Lines),
    Bars(Bars),
}

impl Display {
    fn new(style: Style) -> Self {
        match style {
            Style::None => Self::None,
            Style::Lines => Self::Lines(Lines::default()),
            Style::Bars => Self::Bars(Bars::new()),
        }
    }

    fn take(&mut self, event: EventKind) {
        match self {
            Self::None => {}
            Self::Lines(lines) => lines.take(event),
            Self::Bars(bars) => bars.take(event),
        }
    }

    fn clear(&self) {
        if let Self::Bars(bars) = self {
            // The terminal is gone: nothing to clear.
            let _ = bars.all.clear();
        }
    }
}

/// A line for each thing that is done.
#[derive(Default)]
struct Lines {
    done: usize,
    blobs: usize,
}

impl Lines {
    fn take(&mut self, event: EventKind) {
        match event {
            EventKind::ImageOpened {
                reference,
                digest,
                layers,
                ..
            } => {
                let (reference, digest) = (printable(&reference), printable(&digest));
                eprintln!("{reference}: {digest}, {layers} layers");
            }
            EventKind::BlobQueued { .. } => self.blobs += 1,
            EventKind::BlobReused { blob } => self.line("reused ", &blob),
            EventKind::BlobVerified { blob, .. } => self.line("fetched", &blob),
            EventKind::BlobRetried { blob, reason, .. } => {
                let digest = short(blob.digest.as_ref());
                eprintln!("        again   {digest}: {}", printable(&reason));
            }
            _ => {}
        }
    }

    fn line(&mut self, what: &str, blob: &BlobName) {
        self.done += 1;
        let Self { done, blobs } = self;
        let (digest, size) = (short(blob.digest.as_ref()), bytes(blob.size));
        eprintln!("[{done}/{blobs}] {what} {digest} {size}");
    }
}

/// A bar for all, and one for each blob that is on its way.
struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    running: HashMap<Digest, ProgressBar>,
    blobs: usize,
    done: usize,
}

const TOTAL: &str = "{wide_bar:.green/dim} {decimal_bytes}/{decimal_total_bytes} \
                     {decimal_bytes_per_sec} {elapsed} {msg}";
const BLOB: &str = "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes}";

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let total = all.add(ProgressBar::new(0));
        total.set_style(style(TOTAL));
        total.enable_steady_tick(Duration::from_millis(200));
        Self {
            all,
            total,
            running: HashMap::new(),
            blobs: 0,
            done: 0,
        }
    }

    fn take(&mut self, event: EventKind) {
        match event {
            EventKind::BlobQueued { blob } => {
                self.blobs += 1;
                self.total.inc_length(blob.size);
                self.count();
            }
            EventKind::BlobOpened { blob, .. } => {
                let bar = self
                    .all
                    .insert_before(&self.total, ProgressBar::new(blob.size));
                bar.set_style(style(BLOB));
                bar.set_prefix(short(blob.digest.as_ref()).to_owned());
                self.running.insert(blob.digest, bar);
            }
            EventKind::BlobBytes { blob, read } => {
                if let Some(bar) = self.running.get(&blob.digest) {
                    self.total.inc(read.saturating_sub(bar.position()));
                    bar.set_position(read);
                }
            }
            EventKind::BlobReused { blob } | EventKind::BlobVerified { blob, .. } => {
                self.end(&blob, blob.size);
                self.done += 1;
                self.count();
            }
            // Its next try begins at nothing.
            EventKind::BlobRetried { blob, .. } => self.end(&blob, 0),
            _ => {}
        }
    }

    /// Take a blob's bar away, and have that many of its bytes in the total.
    fn end(&mut self, blob: &BlobName, bytes: u64) {
        let shown = self.running.remove(&blob.digest).map_or(0, |bar| {
            bar.finish_and_clear();
            self.all.remove(&bar);
            bar.position()
        });
        self.total
            .set_position((self.total.position() + bytes).saturating_sub(shown));
    }

    fn count(&self) {
        self.total
            .set_message(format!("{}/{} layers", self.done, self.blobs));
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are ours and right; a plain bar would do otherwise.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_right() {
        for template in [TOTAL, BLOB] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
