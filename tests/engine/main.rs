//! `Fetcher`: pulls of images at the test registry, through real skopeos.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail this way"
)]

mod bounds;
mod decompress;
mod events;
mod faults;
mod futures;
mod given;
mod handlers;
mod harness;
mod many;
mod numbers;
mod ordered;
mod proxies;
mod quiet;
mod sinks;
mod some;
mod sources;
