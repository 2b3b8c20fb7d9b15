//! The `longshore` command as a test runs it: in folders of its own, within a
//! bounded time, and with a look at what it leaves behind.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

#[path = "../support/registry_process.rs"]
pub(crate) mod docker_registry;
pub(crate) mod layout;
pub(crate) mod processes;
pub(crate) mod programs;
#[path = "../../examples/registry/mod.rs"]
pub(crate) mod registry;
pub(crate) mod run;
pub(crate) mod served;
#[path = "../support/tools.rs"]
pub(crate) mod tools;

pub(crate) use self::layout::Layout;
pub(crate) use self::programs::{
    Skopeo, assert_skopeo_accepts, newest_skopeo, output_of, skopeo_copy, skopeo_inspect, skopeos,
};
pub(crate) use self::registry::image::ImageBuilder;
pub(crate) use self::run::{Longshore, Run, Running, Scratch};
pub(crate) use self::served::Served;

use std::thread;
use std::time::{Duration, Instant};

/// A bound for what must happen at some time: only a failing test reaches it.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// Wait until `condition` holds, within [`BOUND`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "still not after {BOUND:?}: {what}"
        );
        thread::sleep(Duration::from_millis(2));
    }
}

/// An image of three small layers.
pub(crate) fn small_image(seed: u64) -> ImageBuilder {
    (0..3).fold(ImageBuilder::new(), |image, layer| {
        image.layer_random(10_000 * (layer + 1), 10 * seed + layer)
    })
}

/// For what comes in no certain order.
pub(crate) fn sorted(mut digests: Vec<String>) -> Vec<String> {
    digests.sort();
    digests
}
