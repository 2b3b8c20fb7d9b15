//! The example client of containers-image-proxy, compiled with longshore-image-proxy. Its source is unchanged.

#![allow(
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    reason = "others wrote it"
)]

include!(concat!(env!("OUT_DIR"), "/ours.rs"));
