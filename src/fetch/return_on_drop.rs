//! A value that is sent back to its owner when it is dropped.

use std::io;

use tokio::sync::oneshot;

use crate::error::Error;

/// A lent value. Dropping this sends the value back to its owner.
#[derive(Debug)]
pub(super) struct ReturnOnDrop<T> {
    value: Option<T>,
    owner: Option<oneshot::Sender<T>>,
}

impl<T> ReturnOnDrop<T> {
    /// Makes a value to lend, and the channel through which it comes back.
    pub(super) fn new(value: T) -> (Self, oneshot::Receiver<T>) {
        let (owner, returned) = oneshot::channel();
        let value = Self {
            value: Some(value),
            owner: Some(owner),
        };
        (value, returned)
    }

    /// The value.
    pub(super) fn get(&mut self) -> io::Result<&mut T> {
        let gone = || io::Error::from(Error::Closed);
        self.value.as_mut().ok_or_else(gone)
    }

    /// A shared reference to the value.
    #[cfg(feature = "decompress")]
    pub(super) fn peek(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Takes the value, and the channel through which its owner waits for it.
    pub(super) fn into_parts(mut self) -> Option<(T, oneshot::Sender<T>)> {
        self.value.take().zip(self.owner.take())
    }
}

impl<T> Drop for ReturnOnDrop<T> {
    fn drop(&mut self) {
        if let Some((value, owner)) = self.value.take().zip(self.owner.take()) {
            // The owner is gone if the fetch was dropped.
            let _ = owner.send(value);
        }
    }
}
