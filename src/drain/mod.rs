//! Draining a pipe and judging what came out of it. Knows no proxy.

pub(crate) mod aligned;
pub(crate) mod bounded;
pub(crate) mod buffered;
pub(crate) mod pipe;
pub(crate) mod verify;
