//! Drains a pipe, and verifies its bytes. This module knows nothing of proxies.

pub(crate) mod aligned;
pub(crate) mod bounded;
pub(crate) mod buffered;
pub(crate) mod pipe;
pub(crate) mod verify;
