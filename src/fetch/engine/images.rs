//! The images of the engine: what is opened, taken over, fetched and forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::super::event::EventKind;
use super::super::handler::Job;
use super::super::image::ImageData;
use super::super::scheduler::{ImageId, UnitId, Wanted, call_time_from};
use super::super::unit::ProxyOrigin;
use super::super::{Image, ImageContent, Layer};
use super::units::UnitHandle;
use super::{Engine, Entry, FirstOpened};
use crate::config::Platform;
use crate::error::{Error, Result};
use crate::reference::source_of;

impl Engine {
    /// Adds an image to open, for this platform or else for the configured one. `number` is that of the image, as
    /// callers and events count images.
    pub(in crate::fetch) fn open(
        &mut self,
        number: usize,
        reference: &str,
        platform: Option<&Platform>,
    ) -> ImageId {
        let (host, kind) = self.host_and_kind(reference, platform);
        let source = source_of(reference);
        let id = self.scheduler.add_image(host, kind, source, Instant::now());
        let entry = Entry {
            number,
            reference: reference.into(),
            known: None,
            first_opened: None,
            content: None,
        };
        self.images.insert(id, entry);
        id
    }

    /// Takes over an image that was opened by this engine or by another one. Returns its number, which is not in
    /// `others`: an image that occurs twice gets two numbers.
    pub(super) fn take_over(
        &mut self,
        number: usize,
        image: &Image,
        others: &[ImageId],
    ) -> ImageId {
        let known = self.images.iter_mut().find(|(id, entry)| {
            let known = entry.known.as_ref();
            known.is_some_and(|known| Arc::ptr_eq(known, &image.data)) && !others.contains(id)
        });
        let known = known.map(|(id, entry)| {
            entry.number = number;
            *id
        });
        let (host, kind) = self.host_and_kind(image.reference(), None);
        let has_it_open = |(_, handle): &(&UnitId, &UnitHandle)| {
            let proxy = handle.proxy.as_ref();
            proxy.is_some_and(|proxy| image.first_opened.opened.is_open_in(proxy))
        };
        let opened_by = self.units.iter().find(has_it_open).map(|(unit, _)| *unit);
        if let (Some(id), Some(_)) = (known, opened_by) {
            return id;
        }
        let now = Instant::now();
        self.tally.protocol = Some(image.proxy().protocol_version().clone());
        self.tally.policy_unchecked |= !image.proxy().checks_policy();
        let unit = opened_by.unwrap_or_else(|| {
            let unit = self.scheduler.add_unit(host, kind, now);
            self.spawn(unit, ProxyOrigin::Running(image.first_opened.proxy.clone()));
            unit
        });
        let id = if let Some(id) = known {
            self.scheduler.record_open(unit, id);
            id
        } else {
            let source = source_of(image.reference());
            self.scheduler.add_open_image(host, kind, source, unit)
        };
        let guess = call_time_from(image.first_opened.opening);
        self.scheduler
            .set_estimates(host, image.first_opened.starting, guess);
        if let Some(handle) = self.units.get_mut(&unit) {
            handle
                .opened
                .insert(id, Arc::clone(&image.first_opened.opened));
        }
        let entry = Entry {
            number,
            reference: image.reference().into(),
            known: Some(Arc::clone(&image.data)),
            first_opened: Some(image.first_opened.clone()),
            content: None,
        };
        self.images.insert(id, entry);
        id
    }

    /// Starts to fetch these layers of an open image, each blob once, and its config if `config` is true. Returns the
    /// total size, in bytes, of the blobs that are new to the scheduler.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if the same digest occurs with two sizes.
    pub(in crate::fetch) fn fetch(
        &mut self,
        image: ImageId,
        layers: &[Layer],
        config: bool,
    ) -> Result<u64> {
        let once = distinct(layers)?.into_iter().map(|layer| (layer, 0));
        Ok(self.fetch_copies(image, once, config))
    }

    /// Starts to fetch these layers in their order. A layer that occurs twice is fetched twice. Up to `ahead`
    /// layers are fetched besides the one that is due, and only layers below the value of `window`.
    pub(in crate::fetch) fn fetch_in_order(
        &mut self,
        image: ImageId,
        layers: &[Layer],
        ahead: usize,
        window: watch::Receiver<usize>,
    ) -> Result<()> {
        distinct(layers)?;
        self.scheduler.switch_to_order(ahead);
        self.claims.want_blobs(ahead.saturating_add(1));
        self.window = Some(window);
        let copies = layers.iter().cloned().zip(0..);
        self.fetch_copies(image, copies, false);
        Ok(())
    }

    fn fetch_copies(
        &mut self,
        image: ImageId,
        layers: impl Iterator<Item = (Layer, usize)>,
        config: bool,
    ) -> u64 {
        let Some(entry) = self.images.get(&image) else {
            return 0;
        };
        let mut bytes: u64 = 0;
        let layers: Vec<(Layer, usize)> = layers.collect();
        let wanted = |(layer, copy): &(Layer, usize)| Wanted {
            digest: layer.descriptor.digest().clone(),
            copy: *copy,
            size: layer.descriptor.size(),
        };
        let wanted: Vec<Wanted> = layers.iter().map(wanted).collect();
        let blobs = self.scheduler.fetch(image, &wanted, config);
        for ((blob, is_new), (layer, _)) in blobs.into_iter().zip(layers) {
            if is_new {
                let job = Job {
                    number: blob.0,
                    image: entry.number,
                    reference: Arc::clone(&entry.reference),
                    layer,
                };
                bytes = bytes.saturating_add(job.layer.descriptor.size());
                self.events
                    .send(|| EventKind::BlobQueued { blob: job.name() });
                self.jobs.insert(blob, job);
            }
        }
        bytes
    }

    /// Removes an image of which nothing is wanted any more.
    pub(in crate::fetch) fn forget(&mut self, image: ImageId) {
        self.images.remove(&image);
        self.scheduler.forget(image);
        let scheduler = &self.scheduler;
        self.jobs.retain(|blob, _| scheduler.has_blob(*blob));
    }

    /// The image and the proxy that opened it first, once it is open.
    pub(in crate::fetch) fn image(&self, id: ImageId) -> Option<(Arc<ImageData>, FirstOpened)> {
        let entry = self.images.get(&id)?;
        Some((entry.known.clone()?, entry.first_opened.clone()?))
    }

    pub(in crate::fetch) fn known(&self, id: ImageId) -> Option<&Arc<ImageData>> {
        self.images.get(&id)?.known.as_ref()
    }

    pub(in crate::fetch) fn content(&self, id: ImageId) -> Option<&Arc<ImageContent>> {
        self.images.get(&id)?.content.as_ref()
    }
}

/// Returns each blob of these layers once.
///
/// # Errors
///
/// [`Error::Image`] if the same digest occurs with two sizes.
fn distinct(layers: &[Layer]) -> Result<Vec<Layer>> {
    let mut known = HashMap::new();
    let mut distinct = Vec::new();
    for layer in layers {
        let (digest, size) = (layer.descriptor.digest(), layer.descriptor.size());
        match known.insert(digest, size) {
            None => distinct.push(layer.clone()),
            Some(other) if other == size => {}
            Some(other) => return Err(two_sizes(digest, other, size)),
        }
    }
    Ok(distinct)
}

fn two_sizes(digest: &oci_spec::image::Digest, one: u64, other: u64) -> Error {
    Error::image(format!(
        "layer {digest} has two sizes: {one} and {other} bytes"
    ))
}
