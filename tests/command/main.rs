//! The `longshore` command, the layouts that it leaves behind, and the examples.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail this way"
)]

mod advice;
mod bad_skopeos;
mod blob;
mod credentials;
mod destinations;
mod digest;
mod doctor;
mod documented;
mod dry_run;
mod durability;
mod environments;
mod examples;
mod export;
mod failures;
mod faults;
mod fleet;
mod formats;
mod harness;
mod help;
mod inspect;
mod kills;
mod layout;
mod layout_hostile;
mod list_tags;
mod lists;
mod odd_documents;
mod platforms;
mod prune;
mod pull;
mod real_image;
mod signatures;
mod streams;
mod terminal;
mod timeline;
mod usage;
mod verify;
mod whole;
mod words;
