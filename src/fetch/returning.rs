//! A value that comes back to whoever handed it out.

use std::io;

use tokio::sync::oneshot;

use crate::error::Error;

/// A value in somebody else's hands. Dropping it sends the value back to its owner.
#[derive(Debug)]
pub(super) struct Returning<T> {
    value: Option<T>,
    owner: Option<oneshot::Sender<T>>,
}

impl<T> Returning<T> {
    /// Returns the value to be handed out, and the channel by which it comes back.
    pub(super) fn new(value: T) -> (Self, oneshot::Receiver<T>) {
        let (owner, returned) = oneshot::channel();
        let value = Self {
            value: Some(value),
            owner: Some(owner),
        };
        (value, returned)
    }

    /// The value. It is there until this is dropped.
    pub(super) fn get(&mut self) -> io::Result<&mut T> {
        let gone = || io::Error::from(Error::Closed);
        self.value.as_mut().ok_or_else(gone)
    }

    /// The value, to look at.
    #[cfg(feature = "decompress")]
    pub(super) fn peek(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Takes the value, and the way by which its owner waits for it.
    pub(super) fn into_parts(mut self) -> Option<(T, oneshot::Sender<T>)> {
        self.value.take().zip(self.owner.take())
    }
}

impl<T> Drop for Returning<T> {
    fn drop(&mut self) {
        if let Some((value, owner)) = self.value.take().zip(self.owner.take()) {
            // Nobody waits if the fetch was given up.
            let _ = owner.send(value);
        }
    }
}
