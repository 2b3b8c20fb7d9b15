//! Progress on stderr, made from the events of a pull and nothing else.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use longshore::Event;
use longshore::oci_spec::image::Digest;
use tokio::sync::mpsc;

use super::format::{bytes, short};

/// Events that may wait while the terminal is busy.
const EVENTS: usize = 256;

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

/// Show events until their sender is gone.
pub(crate) fn show(style: Style) -> (mpsc::Sender<Event>, impl Future<Output = ()>) {
    let (sender, mut events) = mpsc::channel(EVENTS);
    let showing = async move {
        let mut display = Display::new(style);
        while let Some(event) = events.recv().await {
            display.take(event);
        }
        display.clear();
    };
    (sender, showing)
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

    fn take(&mut self, event: Event) {
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

/// A line for each blob that is done.
#[derive(Default)]
struct Lines {
    done: usize,
    blobs: usize,
}

impl Lines {
    fn take(&mut self, event: Event) {
        match event {
            Event::ImageOpened { content } => {
                self.blobs = content.blobs().count();
                let size = content.blobs().map(|layer| layer.descriptor.size()).sum();
                let digest = content.source_digest();
                eprintln!("{digest}: {} layers to store, {}", self.blobs, bytes(size));
            }
            Event::BlobReused { digest, size } => self.line("reused ", &digest, size),
            Event::BlobStored { digest, size } => self.line("fetched", &digest, size),
            _ => {}
        }
    }

    fn line(&mut self, what: &str, digest: &Digest, size: u64) {
        self.done += 1;
        let Self { done, blobs } = self;
        eprintln!(
            "[{done}/{blobs}] {what} {} {}",
            short(digest.as_ref()),
            bytes(size)
        );
    }
}

/// A bar for all, and one for each blob that is on its way.
struct Bars {
    all: MultiProgress,
    total: ProgressBar,
    running: HashMap<Digest, ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let total = all.add(ProgressBar::new(0));
        total.set_style(style(
            "{wide_bar:.green/dim} {bytes}/{total_bytes} {bytes_per_sec} {elapsed} {msg}",
        ));
        total.enable_steady_tick(Duration::from_millis(200));
        Self {
            all,
            total,
            running: HashMap::new(),
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::ImageOpened { content } => {
                let size = content.blobs().map(|layer| layer.descriptor.size()).sum();
                self.total.set_length(size);
                self.total
                    .set_message(format!("{} layers", content.blobs().count()));
            }
            Event::BlobReused { size, .. } => self.total.inc(size),
            Event::BlobOpened { digest, size } => {
                let bar = self.all.insert_before(&self.total, ProgressBar::new(size));
                bar.set_style(style("{prefix} {wide_bar} {bytes}/{total_bytes}"));
                bar.set_prefix(short(digest.as_ref()).to_owned());
                self.running.insert(digest, bar);
            }
            Event::BlobBytes { digest, read } => {
                if let Some(bar) = self.running.get(&digest) {
                    self.total.inc(read.saturating_sub(bar.position()));
                    bar.set_position(read);
                }
            }
            Event::BlobStored { digest, size } => {
                if let Some(bar) = self.running.remove(&digest) {
                    self.total.inc(size.saturating_sub(bar.position()));
                    bar.finish_and_clear();
                    self.all.remove(&bar);
                }
            }
            _ => {}
        }
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
        for template in [
            "{prefix} {wide_bar} {bytes}/{total_bytes}",
            "{wide_bar:.green/dim} {msg}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
