//! `ImageProxy` and its images and blobs: against a scripted proxy where a real one can't be made to
//! misbehave, and against three real skopeos.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail this way"
)]

mod blobs;
mod blobs_many;
mod blobs_split;
mod blobs_unchecked;
mod cancellation;
mod child_death;
mod conformance;
mod documents;
mod lifecycle;
mod ordering;
mod packets;
mod releases;
mod runtimes;
mod secrets;
mod violations;
