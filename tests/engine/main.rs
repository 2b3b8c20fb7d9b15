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
mod few_requests;
mod futures;
mod given_proxies;
mod handlers;
mod harness;
mod many;
mod numbers;
mod ordered;
mod proxies;
mod sinks;
mod some_layers;
mod sources;
