//! Keeps an engine between two calls.

use super::Engine;

/// An engine that is kept between two calls. The first caller that takes it gets it. The engine ends with the
/// last clone.
#[derive(Debug, Clone)]
pub(in crate::fetch) struct IdleEngine(async_channel::Receiver<Box<Engine>>);

impl IdleEngine {
    pub(in crate::fetch) fn new(mut engine: Engine) -> Self {
        engine.claims.shrink_to(engine.units.len());
        let (sender, receiver) = async_channel::bounded(1);
        // The channel is empty, so this can't fail.
        let _ = sender.try_send(Box::new(engine));
        Self(receiver)
    }

    pub(in crate::fetch) fn take(&self) -> Option<Engine> {
        self.0.try_recv().ok().map(|engine| *engine)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("units", &self.units.len())
            .finish_non_exhaustive()
    }
}
