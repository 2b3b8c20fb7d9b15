//! Runs the `longshore` command in folders of its own and within a bounded time, and checks what it
//! leaves behind.

pub(crate) mod answers;
pub(crate) mod layout;
pub(crate) mod processes;
pub(crate) mod programs;
pub(crate) mod run;
pub(crate) mod served;

pub(crate) use self::answers::{Answer, answering};
pub(crate) use self::layout::Layout;
pub(crate) use self::programs::{
    Skopeo, assert_skopeo_accepts, newest_skopeo, script, skopeo_copy, skopeo_inspect, skopeos,
};
pub(crate) use self::run::{Longshore, Run, Running, Scratch};
pub(crate) use self::served::Served;
pub(crate) use test_registry::image::ImageBuilder;
pub(crate) use test_support::tools::output_of;

use std::thread;
use std::time::{Duration, Instant};

use test_support::BOUND;

/// Waits until `condition` holds, within [`BOUND`].
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        let waited = begun.elapsed();
        assert!(waited < BOUND, "still not after {BOUND:?}: {what}");
        // Many tests wait at the same time. The longer a test has waited, the less often it looks.
        thread::sleep((waited / 10).clamp(Duration::from_millis(2), Duration::from_millis(50)));
    }
}

/// An image of three small layers.
pub(crate) fn small_image(seed: u64) -> ImageBuilder {
    (0..3).fold(ImageBuilder::new(), |image, layer| {
        image.layer_random(10_000 * (layer + 1), 10 * seed + layer)
    })
}

/// The digests in sorted order, for those that come in no certain order.
pub(crate) fn sorted(mut digests: Vec<String>) -> Vec<String> {
    digests.sort();
    digests
}
