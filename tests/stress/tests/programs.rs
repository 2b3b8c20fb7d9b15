//! Short runs of the programs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail this way"
)]

use std::process::Command;

use test_support::tools::{self, NEWEST};

#[test]
#[ignore = "needs skopeo"]
fn load_prints_its_measurements() {
    let skopeo = tools::skopeo(NEWEST);
    let mut load = Command::new(env!("CARGO_BIN_EXE_load"));
    load.args(["--blobs", "30", "--size", "10K", "--workers", "8", "--json"]);
    let printed = tools::output_of(load.arg("--skopeo").arg(skopeo));
    let report: serde_json::Value = serde_json::from_slice(&printed).unwrap();
    // The config is the last one.
    assert_eq!(report["blobs"], 31);
    assert_eq!(report["retries"], 0);
    for histogram in ["open_ms", "first_byte_ms", "drain_ms"] {
        assert_eq!(report[histogram]["count"], 30, "{histogram}: {report}");
    }
    for histogram in ["actor_queue_ms", "round_trip_ms"] {
        // The calls are those for the blobs, and those before them.
        assert!(report[histogram]["count"].as_u64() > Some(30), "{report}");
    }
    assert!(report["peak_memory_kib"].as_u64() > Some(0), "{report}");
}

/// A real run takes minutes. This one ends after its first round.
#[test]
#[ignore = "needs skopeo"]
fn soak_prints_its_tables() {
    let skopeo = tools::skopeo(NEWEST);
    let mut soak = Command::new(env!("CARGO_BIN_EXE_soak"));
    soak.args(["--minutes", "0.001", "--seed", "1"]);
    let printed = tools::output_of(soak.arg("--skopeo").arg(skopeo));
    let printed = String::from_utf8(printed).unwrap();
    assert!(printed.starts_with("seed 1\n"), "{printed}");
    assert!(printed.contains("| **all** |"), "{printed}");
    assert!(printed.contains("at rest, 1 times"), "{printed}");
    assert!(printed.ends_with("all is well\n"), "{printed}");
}
