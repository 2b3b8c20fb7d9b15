//! Engines between two calls.

use super::Engine;

/// An engine between two calls, for whoever takes it first. With the last clone, it ends.
#[derive(Debug, Clone)]
pub(in crate::fetch) struct Parked(async_channel::Receiver<Box<Engine>>);

impl Parked {
    pub(in crate::fetch) fn new(engine: Engine) -> Self {
        let (park, parked) = async_channel::bounded(1);
        // There is room for it.
        let _ = park.try_send(Box::new(engine));
        Self(parked)
    }

    pub(in crate::fetch) fn take(&self) -> Option<Engine> {
        self.0.try_recv().ok().map(|engine| *engine)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("units", &self.crew.len())
            .finish_non_exhaustive()
    }
}
