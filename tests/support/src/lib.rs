//! Helpers of the tests: a scripted proxy, a check for leaks, the real programs, and small functions.

#![allow(
    clippy::expect_used,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::unwrap_used,
    reason = "what fails here is a test"
)]
#![allow(
    missing_debug_implementations,
    missing_docs,
    reason = "only the tests of this repository use it"
)]

pub mod docker_registry;
pub mod fixture;
pub mod image;
pub mod leaks;
pub mod log;
pub mod memory_proxy;
pub mod peer;
pub mod process;
pub mod registry_process;
pub mod tools;

use std::future::Future;
use std::time::Duration;

use longshore::oci_spec::image::Digest;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// A time limit for what must happen at some time. Only a failing test reaches it.
pub const BOUND: Duration = Duration::from_secs(60);

/// The message of an error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The output of the future, within [`BOUND`].
#[track_caller]
pub fn within_bound<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        tokio::time::timeout(BOUND, future)
            .await
            .unwrap_or_else(|_| panic!("{caller}: still waiting after {BOUND:?}"))
    }
}

/// Waits until `condition` holds, within [`BOUND`].
#[track_caller]
pub fn eventually(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    within_bound(async move {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

pub fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

pub fn sha256(bytes: &[u8]) -> Digest {
    digest(&format!("sha256:{}", hex(&Sha256::digest(bytes))))
}

pub fn sha384(bytes: &[u8]) -> Digest {
    digest(&format!("sha384:{}", hex(&Sha384::digest(bytes))))
}

pub fn sha512(bytes: &[u8]) -> Digest {
    digest(&format!("sha512:{}", hex(&Sha512::digest(bytes))))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Bytes that do not compress and do not repeat. Equal seeds give equal bytes.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // The xorshift64 generator.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
