//! A test registry: the pull half of the OCI distribution API. It is served from an OCI image layout, by a
//! server that can break HTTP on purpose.
//!
//! The HTTP layer is written by hand ([`http`], [`reply`]), because a server library exists to keep HTTP
//! right. Half of the work of this registry is to violate it: bodies cut short, connections reset, wrong
//! headers. Only what a registry's client needs is implemented.

#![allow(
    clippy::len_without_is_empty,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    reason = "only this repository uses it, and any error here ends a test"
)]

pub mod archive;
pub mod auth;
pub mod fault;
pub mod fault_text;
pub mod format;
pub mod http;
pub mod image;
pub mod inject;
pub mod layout;
pub mod pull;
pub mod reply;
pub mod server;
pub mod store;
pub mod units;
