//! What a pull has fetched so far, counted from its events. Pure.
//!
//! The library returns the totals of a pull that was done to its end. These are for a pull that ended early.

use std::collections::BTreeSet;

use longshore::{EventKind, Pulled};

/// The totals of layers. No event has the size of a config, so configs are not counted.
#[derive(Debug, Default)]
pub(in crate::cli) struct Totals {
    pulled: Pulled,
    /// The proxies that can fetch blobs now.
    ready: BTreeSet<usize>,
}

impl Totals {
    pub(super) fn take(&mut self, event: &EventKind) {
        let pulled = &mut self.pulled;
        match event {
            EventKind::BlobQueued { blob, .. } => {
                pulled.bytes = pulled.bytes.saturating_add(blob.size);
            }
            EventKind::BlobReused { .. } => pulled.reused_blobs += 1,
            EventKind::BlobVerified { blob, .. } => {
                pulled.fetched_blobs += 1;
                pulled.fetched_bytes = pulled.fetched_bytes.saturating_add(blob.size);
            }
            EventKind::BlobRetried { .. } => pulled.retries += 1,
            EventKind::ProxyReady { proxy, .. } => {
                self.ready.insert(*proxy);
                pulled.proxies = pulled.proxies.max(self.ready.len());
            }
            EventKind::ProxyEnded { proxy, .. } => {
                self.ready.remove(proxy);
            }
            _ => {}
        }
    }

    /// The totals, as the library would return them, without the version of the protocol.
    pub(in crate::cli) fn pulled(self) -> Pulled {
        self.pulled
    }
}
