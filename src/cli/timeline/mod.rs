//! `longshore pull --timeline FILE`: the picture of a pull, made of its events.
//!
//! The [`Model`] makes a [`Picture`] of the events, and one of three renderers writes it: [`Svg`], [`Html`]
//! around the same SVG, or a [`trace`] for Perfetto.

mod chrome;
mod escape;
mod file;
mod geometry;
mod html;
mod join;
mod model;
mod names;
mod picture;
mod scale;
mod style;
mod svg;
mod text;
mod throughput;

use std::time::{Duration, Instant};

use longshore::{BlobRef, DocumentKind, Event, EventKind, printable};

pub(crate) use self::file::Target;

use self::chrome::trace;
use self::file::Format;
use self::html::Html;
use self::model::{Document, Layer, Model};
use self::picture::Picture;
use self::svg::Svg;
use super::failure::Failure;
use super::format::json_line;

/// A picture that is being made.
pub(super) struct Timeline {
    target: Target,
    /// The minimum length of the time axis.
    axis: Duration,
    model: Model,
    started: Instant,
}

impl Timeline {
    /// Begins a picture. The times of the events must be counted from now on. Blocks.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] if the file can't be written.
    pub(super) fn begin(target: Target, axis: Duration) -> Result<Self, Failure> {
        target.check()?;
        Ok(Self {
            target,
            axis,
            model: Model::new(),
            started: Instant::now(),
        })
    }

    pub(super) fn take(&mut self, event: &Event) {
        take(&mut self.model, event);
    }

    /// Writes the picture, also of a pull that failed. Blocks.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let picture = self.model.finish(self.started.elapsed());
        let text = render(&picture, self.target.format, self.axis)?;
        self.target.write(&text)
    }
}

fn render(picture: &Picture, format: Format, axis: Duration) -> Result<String, Failure> {
    Ok(match format {
        Format::Html => Html { picture, axis }.to_string(),
        Format::Svg => Svg { picture, axis }.to_string(),
        Format::Trace => json_line(&trace(picture)).map_err(anyhow::Error::from)? + "\n",
    })
}

fn take(model: &mut Model, Event { at, kind, .. }: &Event) {
    let at = *at;
    match kind {
        EventKind::ImageOpened {
            image, reference, ..
        } => model.image_opened(at, *image, &printable(reference)),
        EventKind::ProxyStarted { proxy, .. } => model.proxy_started(at, *proxy),
        EventKind::ProxyEnded { proxy, reason, .. } => {
            model.proxy_ended(at, *proxy, reason.as_deref());
        }
        EventKind::DocumentRequested {
            image,
            reference,
            document,
            proxy,
            ..
        } => {
            if let Some(document) = of_kind(*document) {
                model.document_requested(at, *proxy, (*image, &printable(reference)), document);
            }
        }
        EventKind::DocumentAnswered {
            image,
            document,
            proxy,
            error,
            ..
        } => {
            if let Some(document) = of_kind(*document) {
                model.document_answered(at, *proxy, *image, document, error.as_deref());
            }
        }
        EventKind::BlobReused { .. } => model.blob_reused(at),
        EventKind::BlobRequested { blob, proxy, .. } => {
            model.blob_requested(at, *proxy, &layer(blob));
        }
        EventKind::BlobOpened { blob, .. } => model.blob_answered(at, blob.digest.as_ref()),
        EventKind::BlobBytes { blob, read, .. } => {
            model.blob_bytes(at, blob.digest.as_ref(), *read);
        }
        EventKind::BlobVerified { blob, .. } => {
            model.blob_verified(at, blob.digest.as_ref(), blob.size);
        }
        EventKind::BlobRetried {
            blob, reason, wait, ..
        } => model.blob_failed(at, blob.digest.as_ref(), reason, Some(*wait)),
        EventKind::BlobFailed { blob, reason, .. } => {
            model.blob_failed(at, blob.digest.as_ref(), reason, None);
        }
        EventKind::ImagePulled {
            image, reference, ..
        } => model.image_pulled(at, *image, &printable(reference)),
        EventKind::BlobQueued { .. } => model.blob_queued(at),
        EventKind::ImageFailed {
            image,
            reference,
            reason,
            ..
        } => model.image_failed(at, *image, &printable(reference), reason),
        // The picture does not need the other kinds. Later versions of the library can add kinds.
        _ => {}
    }
}

fn layer(blob: &BlobRef) -> Layer<'_> {
    Layer {
        image: blob.image,
        number: blob.layer,
        digest: blob.digest.as_ref(),
        size: blob.size,
    }
}

fn of_kind(document: DocumentKind) -> Option<Document> {
    match document {
        DocumentKind::Manifest => Some(Document::Manifest),
        DocumentKind::Config => Some(Document::Config),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
