//! One worker: take a blob from the queue, have the proxy send it, put it
//! into the sink, take the next.

use std::sync::Arc;

use super::event::{Event, Events};
use super::{Layer, LayerReader, Pulled, Sink};
use crate::error::Result;
use crate::proxy::{ImageProxy, OpenedImage};

pub(super) struct Worker<S> {
    pub(super) proxy: ImageProxy,
    pub(super) image: Arc<OpenedImage>,
    pub(super) sink: Arc<S>,
    pub(super) jobs: async_channel::Receiver<Layer>,
    pub(super) events: Events,
}

impl<S: Sink> Worker<S> {
    /// Work until the queue is empty and closed, or something fails.
    pub(super) async fn run(self) -> Result<Pulled> {
        let mut pulled = Pulled::default();
        while let Ok(layer) = self.jobs.recv().await {
            pulled += self.fetch(&layer).await?;
        }
        Ok(pulled)
    }

    async fn fetch(&self, layer: &Layer) -> Result<Pulled> {
        let descriptor = &layer.descriptor;
        let (digest, size) = (descriptor.digest().clone(), descriptor.size());
        if self.sink.has(descriptor).await? {
            self.events.send(Event::BlobReused { digest, size }).await;
            return Ok(Pulled {
                reused_blobs: 1,
                ..Pulled::default()
            });
        }
        let blob = self.proxy.get_descriptor(&self.image, descriptor).await?;
        self.events
            .send(Event::BlobOpened {
                digest: digest.clone(),
                size,
            })
            .await;
        let reader = LayerReader::new(blob, self.events.clone());
        self.sink.store(descriptor, reader).await?;
        self.events.send(Event::BlobStored { digest, size }).await;
        Ok(Pulled {
            fetched_blobs: 1,
            fetched_bytes: size,
            ..Pulled::default()
        })
    }
}
