//! What the integration tests share.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod docker_registry;
pub(crate) mod honest;
pub(crate) mod image;
pub(crate) mod leaks;
pub(crate) mod log;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod registry_process;
pub(crate) mod stage;
pub(crate) mod tools;

use std::future::Future;
use std::time::Duration;

use longshore::oci_spec::image::Digest;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// A bound for what must happen at some time: only a failing test reaches it.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// The future's output, within [`BOUND`].
#[track_caller]
pub(crate) fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        tokio::time::timeout(BOUND, future)
            .await
            .unwrap_or_else(|_| panic!("{caller}: still waiting after {BOUND:?}"))
    }
}

/// Wait until `condition` holds, within [`BOUND`].
#[track_caller]
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    soon(async move {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

pub(crate) fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    digest(&format!("sha256:{}", hex(&Sha256::digest(bytes))))
}

pub(crate) fn sha384(bytes: &[u8]) -> Digest {
    digest(&format!("sha384:{}", hex(&Sha384::digest(bytes))))
}

pub(crate) fn sha512(bytes: &[u8]) -> Digest {
    digest(&format!("sha512:{}", hex(&Sha512::digest(bytes))))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Bytes that do not compress and repeat nothing; the same for the same seed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
