//! The example client of containers-image-proxy, compiled with that crate.

#![allow(
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    reason = "others wrote it"
)]

include!(concat!(env!("OUT_DIR"), "/theirs.rs"));
