//! What the proxy holds for us until we release it. Pure.

use super::{Call, ImageId, PipeId};

/// Something that was granted, and has to be released once, by a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// An open image.
    Image(ImageId),
    /// A pipe that ends only with `FinishPipe`, which blocks the connection
    /// until all is written to the pipe or its read end is closed.
    Pipe {
        /// The pipe's number.
        id: PipeId,
        /// Whether the pipe is drained, or filled from memory, so that `FinishPipe` can't block for long.
        drained: bool,
    },
}

impl Held {
    /// A pipe that the proxy fills from its memory. The rest comes as
    /// fast as it is read, and if nobody reads, the read end is closed first.
    pub(crate) fn memory_pipe(id: PipeId) -> Self {
        Self::Pipe { id, drained: true }
    }

    /// A pipe that the proxy fills from the network, at a pace that nobody knows.
    pub(crate) fn blob_pipe(id: PipeId) -> Self {
        Self::Pipe { id, drained: false }
    }

    /// Notes that the pipe is drained.
    pub(crate) fn set_drained(&mut self) {
        match self {
            Self::Pipe { drained, .. } => *drained = true,
            Self::Image(_) => {}
        }
    }

    /// The call that releases it. `None` if that call could block: then the proxy keeps one descriptor until it ends.
    pub(crate) fn release(self) -> Option<Call> {
        match self {
            Self::Image(id) => Some(Call::CloseImage(id)),
            Self::Pipe { id, drained: true } => Some(Call::FinishPipe(id)),
            Self::Pipe { drained: false, .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_finished_only_if_that_can_not_block() {
        let id = PipeId::new(3).expect("not zero");
        assert_eq!(Held::memory_pipe(id).release(), Some(Call::FinishPipe(id)));
        let mut blob = Held::blob_pipe(id);
        assert_eq!(blob.release(), None);
        blob.set_drained();
        assert_eq!(blob.release(), Some(Call::FinishPipe(id)));
    }
}
