//! The same program, compiled with containers-image-proxy and with this crate, has the same results: with real skopeos,
//! the test registry and a layout.
//!
//! `texts.rs`, `calls.rs` and `blobs.rs` are that program. It is written as users of the other crate write, and uses
//! the crate that is in scope as `cip`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail this way"
)]

/// The program with the crate that this one stands in for.
mod theirs {
    use incumbent as cip;

    include!("texts.rs");
    include!("calls.rs");
    include!("blobs.rs");
}

/// The program with this crate.
mod ours {
    use ::containers_image_proxy as cip;

    include!("texts.rs");
    include!("calls.rs");
    include!("blobs.rs");
}

use std::path::PathBuf;

use incumbent::oci_spec::image::Digest;
use tempfile::TempDir;
use test_registry::image::{ImageBuilder, Written};
use test_registry::server::{Options, Registry};
use test_support::{digest, tools, within_bound};

/// A line of what a program found: what it did, and what came of it.
type Line = (String, String);

/// Where a program finds its image.
struct Subject {
    skopeo: PathBuf,
    /// The references of the image and of one that does not exist.
    image: String,
    missing: String,
    /// The layers: a small one, and one that no pipe holds.
    layers: Vec<(Digest, u64)>,
}

/// An image at a registry of its own.
struct Served {
    registry: Registry,
    image: Written,
    layout: TempDir,
}

impl Served {
    fn new() -> Self {
        let layout = tempfile::tempdir().unwrap();
        let image = ImageBuilder::new()
            .layer_random(5_000, 1)
            .layer_random(1 << 20, 2)
            .label("test", "longshore");
        let image = image.write(layout.path(), "latest").unwrap();
        let registry = Registry::start(layout.path(), Options::default()).unwrap();
        Self {
            registry,
            image,
            layout,
        }
    }

    fn set_fault(&self, fault: &str) {
        self.registry.set_faults(vec![fault.parse().unwrap()]);
    }

    fn at_registry(&self, protocol: &str) -> Subject {
        self.subject(
            protocol,
            self.registry.reference("latest"),
            self.registry.reference("missing"),
        )
    }

    fn in_layout(&self, protocol: &str) -> Subject {
        let layout = self.layout.path().display();
        self.subject(
            protocol,
            format!("oci:{layout}:latest"),
            format!("oci:{layout}:missing"),
        )
    }

    fn subject(&self, protocol: &str, image: String, missing: String) -> Subject {
        let layers = self.image.layers.iter();
        Subject {
            skopeo: tools::skopeo(protocol),
            image,
            missing,
            layers: layers
                .map(|layer| (layer.digest().clone(), layer.size()))
                .collect(),
        }
    }
}

#[track_caller]
fn assert_same(what: &str, theirs: &[Line], ours: &[Line]) {
    let pairs = theirs.iter().zip(ours);
    let shown = |(theirs, ours): (&Line, &Line)| {
        let same = theirs == ours;
        (!same).then(|| format!("{}\n  theirs: {}\n  ours:   {}", ours.0, theirs.1, ours.1))
    };
    let differences: Vec<_> = pairs.filter_map(shown).collect();
    assert!(
        differences.is_empty(),
        "{what}:\n{}",
        differences.join("\n")
    );
    assert_eq!(ours.len(), theirs.len(), "{what}");
    assert!(!ours.is_empty(), "{what}");
}

#[test]
fn references_and_errors_have_the_same_texts() {
    assert_same("texts", &theirs::texts(), &ours::texts());
}

#[test]
fn configurations_become_the_same_commands() {
    assert_same("commands", &theirs::commands(), &ours::commands());
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn every_call_has_the_same_outcome() {
    let served = Served::new();
    for protocol in tools::SKOPEOS {
        for subject in [served.at_registry(protocol), served.in_layout(protocol)] {
            let theirs = within_bound(theirs::every_call(&subject)).await;
            let ours = within_bound(ours::every_call(&subject)).await;
            let what = format!("{protocol}, {}", subject.image);
            assert_same(&what, &theirs, &ours);
        }
    }
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn failed_blobs_have_the_same_errors() {
    let served = Served::new();
    let whole = [
        "blob#1:ttfb=0ms",
        "blob#1:corrupt",
        "blob#1:status=404",
        "blob#1:status=403",
    ];
    // With an older proxy, ours learns after the stall timeout that no more comes.
    let short = ["blob#1:cut=half", "blob#1:chunked-shorter=1000"];
    let cases = [
        ("0.2.6", whole.to_vec()),
        (tools::NEWEST, [&whole[..], &short].concat()),
    ];
    for (protocol, faults) in cases {
        let subject = served.at_registry(protocol);
        for fault in faults {
            served.set_fault(fault);
            let theirs = within_bound(theirs::blobs(&subject)).await;
            let ours = within_bound(ours::blobs(&subject)).await;
            assert_same(&format!("{protocol}, {fault}"), &theirs, &ours);
        }
    }
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn failed_starts_have_the_same_errors() {
    assert_same(
        "starts",
        &within_bound(theirs::bad_starts()).await,
        &within_bound(ours::bad_starts()).await,
    );
}

#[tokio::test]
#[ignore = "needs skopeo"]
async fn layers_are_fetched_concurrently_by_separate_tasks() {
    let served = Served::new();
    let subject = served.at_registry(tools::NEWEST);
    let theirs = within_bound(theirs::in_tasks(&subject)).await;
    assert_same(
        "tasks",
        &theirs,
        &within_bound(ours::in_tasks(&subject)).await,
    );
}

/// A digest that no blob has.
fn unknown_digest() -> Digest {
    digest(&format!("sha256:{}", "0".repeat(64)))
}
