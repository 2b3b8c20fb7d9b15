//! The images and pipes that the proxy holds for us until we release them.

use super::{Call, ImageId, PipeId};

/// An image or pipe that was granted, and has to be released once, by a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// An open image.
    Image(ImageId),
    /// A pipe that ends only with `FinishPipe`. That call blocks the connection until the proxy has written all bytes
    /// to the pipe, or the read end is closed.
    Pipe {
        /// The pipe's number.
        id: PipeId,
        /// Whether the pipe is drained, or filled from memory, so that `FinishPipe` can't block for long.
        drained: bool,
    },
}

impl Held {
    /// A pipe that the proxy fills from its memory. The bytes come as fast as they are read. A reader that stops
    /// closes the read end before the pipe is released.
    pub(crate) fn memory_pipe(id: PipeId) -> Self {
        Self::Pipe { id, drained: true }
    }

    /// A pipe that the proxy fills from the network, at an unknown rate.
    pub(crate) fn blob_pipe(id: PipeId) -> Self {
        Self::Pipe { id, drained: false }
    }

    /// Records that the pipe is drained. Does nothing for an image.
    pub(crate) fn set_drained(&mut self) {
        match self {
            Self::Pipe { drained, .. } => *drained = true,
            Self::Image(_) => {}
        }
    }

    /// The call that releases the image or pipe. `None` if that call could block. The proxy then keeps one descriptor
    /// until the proxy exits.
    pub(crate) fn release(self) -> Option<Call> {
        match self {
            Self::Image(id) => Some(Call::CloseImage(id)),
            Self::Pipe { id, drained: true } => Some(Call::FinishPipe(id)),
            Self::Pipe { drained: false, .. } => None,
        }
    }

    /// The call that finishes a pipe early, before it is drained. The call blocks the connection until the pipe's blob
    /// has ended. `None` for an image.
    pub(crate) fn finish_early(self) -> Option<Call> {
        match self {
            Self::Image(_) => None,
            Self::Pipe { id, .. } => Some(Call::FinishPipe(id)),
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
        assert_eq!(blob.finish_early(), Some(Call::FinishPipe(id)));
        blob.set_drained();
        assert_eq!(blob.release(), Some(Call::FinishPipe(id)));
    }
}
