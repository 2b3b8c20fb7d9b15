//! Shows a pull while it runs, from its events only: bars on a terminal, lines elsewhere, JSON lines in
//! a file.

use std::collections::HashMap;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use longshore::oci_spec::image::Digest;
use longshore::{BlobRef, Event, EventKind, EventStream, Events, printable};
use tokio::fs::File;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::format::{bytes, counted, json_line, short};
use super::say::say;

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

/// Returns where to send events, and a future that ends when all of them have been shown.
///
/// A thread of its own shows the events and writes them to the file. A stopped terminal or a hanging disk
/// holds up this thread, and neither the pull nor a signal.
pub(crate) async fn show(
    style: Style,
    path: Option<PathBuf>,
) -> Result<(Events, impl Future<Output = Result<(), Failure>>), Failure> {
    let (events, stream) = Events::channel();
    let file = match path {
        Some(path) => {
            let created = File::create(&path).await;
            let wrong = |e| Failure::usage(format!("can't write {}: {e}", path.display()));
            let file = created.map_err(wrong)?.into_std().await;
            let to = BufWriter::new(file);
            Some(EventFile { path, to })
        }
        None => None,
    };
    let runtime = Handle::current();
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("longshore-progress".into())
        // The receiver is gone if the command is ending.
        .spawn(move || drop(ended.send(show_all(&runtime, stream, style, file))))?;
    // The sender is dropped without a message only if the thread panicked.
    let showing = async { end.await.unwrap_or(Ok(())) };
    Ok((events, showing))
}

fn show_all(
    runtime: &Handle,
    mut stream: EventStream,
    style: Style,
    mut file: Option<EventFile>,
) -> Result<(), Failure> {
    let mut display = Display::new(style);
    let mut written = Ok(());
    while let Some(event) = runtime.block_on(stream.recv()) {
        // After a write error, events are still shown.
        if written.is_ok()
            && let Some(file) = &mut file
        {
            written = file.write(&event);
        }
        display.take(event.kind);
    }
    display.clear();
    written?;
    file.map_or(Ok(()), EventFile::end)
}

/// The file that events are written to.
struct EventFile {
    path: PathBuf,
    to: BufWriter<std::fs::File>,
}

impl EventFile {
    fn write(&mut self, event: &Event) -> Result<(), Failure> {
        let line = json_line(event).map_err(anyhow::Error::from)?;
        let written = writeln!(self.to, "{line}");
        written.map_err(|error| self.failed(error))
    }

    fn end(mut self) -> Result<(), Failure> {
        let written = self.to.flush();
        written.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Failure {
        let what = format!("can't write events into {}", self.path.display());
        anyhow::Error::from(error).context(what).into()
    }
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
            // If the terminal is gone, there is nothing to clear.
            let _ = bars.all.clear();
        }
    }
}

/// Prints a line for each blob and image that is done.
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
                let layers = counted(layers, "layer");
                say(format!("{reference}: {digest}, {layers}"));
            }
            EventKind::BlobQueued { .. } => self.blobs += 1,
            EventKind::BlobReused { blob, .. } => self.line("reused ", &blob),
            EventKind::BlobVerified { blob, .. } => self.line("fetched", &blob),
            EventKind::BlobRetried {
                blob,
                failed,
                reason,
                wait,
                ..
            } => {
                let digest = short(blob.digest.as_ref());
                let (wait, reason) = (wait.as_secs_f64(), printable(&reason));
                say(format!(
                    "        retry {failed} in {wait:.1} s  {digest}: {reason}"
                ));
            }
            EventKind::ImageFailed {
                reference, reason, ..
            } => {
                let (reference, reason) = (printable(&reference), printable(&reason));
                say(format!("        failed  {reference}: {reason}"));
            }
            _ => {}
        }
    }

    fn line(&mut self, what: &str, blob: &BlobRef) {
        self.done += 1;
        let Self { done, blobs } = self;
        let (digest, size) = (short(blob.digest.as_ref()), bytes(blob.size));
        say(format!("[{done}/{blobs}] {what} {digest} {size}"));
    }
}

/// A bar for the whole pull, and one for each blob in flight.
struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    running: HashMap<Digest, ProgressBar>,
    blobs: usize,
    done: usize,
    images: Images,
}

/// How many images there are, how many are done, and how many failed.
#[derive(Default)]
struct Images {
    opened: usize,
    pulled: usize,
    failed: usize,
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
            images: Images::default(),
        }
    }

    fn take(&mut self, event: EventKind) {
        match event {
            EventKind::ImageOpened { .. } => {
                self.images.opened += 1;
                self.count();
            }
            EventKind::ImagePulled { .. } => {
                self.images.pulled += 1;
                self.count();
            }
            EventKind::ImageFailed { .. } => {
                self.images.failed += 1;
                self.count();
            }
            EventKind::BlobQueued { blob, .. } => {
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
            EventKind::BlobBytes { blob, read, .. } => {
                if let Some(bar) = self.running.get(&blob.digest) {
                    self.total.inc(read.saturating_sub(bar.position()));
                    bar.set_position(read);
                }
            }
            EventKind::BlobReused { blob, .. } | EventKind::BlobVerified { blob, .. } => {
                self.end(&blob, blob.size);
                self.done += 1;
                self.count();
            }
            // The next try starts at zero.
            EventKind::BlobRetried { blob, .. } => self.end(&blob, 0),
            _ => {}
        }
    }

    /// Removes the bar of a blob, and adds this many bytes to the total.
    fn end(&mut self, blob: &BlobRef, bytes: u64) {
        let shown = self.running.remove(&blob.digest).map_or(0, |bar| {
            bar.finish_and_clear();
            self.all.remove(&bar);
            bar.position()
        });
        self.total
            .set_position((self.total.position() + bytes).saturating_sub(shown));
    }

    fn count(&self) {
        let layers = format!("{}/{} layers", self.done, self.blobs);
        let Images {
            opened,
            pulled,
            failed,
        } = self.images;
        let images = match (opened, failed) {
            (0 | 1, 0) => String::new(),
            (_, 0) => format!("{pulled}/{opened} images, "),
            _ => format!("{pulled}/{opened} images, {failed} failed, "),
        };
        self.total.set_message(images + &layers);
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants and valid. A plain bar would be the fallback.
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
