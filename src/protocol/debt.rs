//! What the proxy keeps for us until we give it back.

use super::{Call, ImageId, PipeId};

/// Something granted that has to be given back, once, by a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Debt {
    /// An open image.
    Image(ImageId),
    /// A pipe that ends only with `FinishPipe`, which blocks the connection
    /// until all is written to the pipe or its read end is closed.
    Pipe {
        /// Its number.
        id: PipeId,
        /// `FinishPipe` can't block for long.
        payable: bool,
    },
}

impl Debt {
    /// That of a pipe that the proxy fills from its memory. The rest comes as
    /// fast as it is read, and if nobody reads, the read end is closed first.
    pub(crate) fn memory_pipe(id: PipeId) -> Self {
        Self::Pipe { id, payable: true }
    }

    /// That of a pipe that the proxy fills from the network, at whose pace
    /// nobody can tell.
    pub(crate) fn blob_pipe(id: PipeId) -> Self {
        Self::Pipe { id, payable: false }
    }

    /// The pipe is drained.
    pub(crate) fn make_payable(&mut self) {
        match self {
            Self::Pipe { payable, .. } => *payable = true,
            Self::Image(_) => {}
        }
    }

    /// The call that pays it. `None`: it has to be written off, and the proxy
    /// keeps one descriptor until it ends, which is little against a
    /// connection that blocks.
    pub(crate) fn payment(self) -> Option<Call> {
        match self {
            Self::Image(id) => Some(Call::CloseImage(id)),
            Self::Pipe { id, payable: true } => Some(Call::FinishPipe(id)),
            Self::Pipe { payable: false, .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_finished_only_if_that_can_not_block() {
        let id = PipeId::new(3).expect("not zero");
        assert_eq!(Debt::memory_pipe(id).payment(), Some(Call::FinishPipe(id)));
        let mut blob = Debt::blob_pipe(id);
        assert_eq!(blob.payment(), None);
        blob.make_payable();
        assert_eq!(blob.payment(), Some(Call::FinishPipe(id)));
    }
}
