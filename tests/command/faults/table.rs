//! The faults, and their expected outcomes.

use nix::sys::signal::Signal;

use super::cell::Fault;
use super::outcome::Bound::{
    Backoff, Calls, Grace, None as Nothing, Quiet, Server, Skopeo, Stalls,
};
use super::outcome::Outcome::{self, Interrupted, Killed};
use super::outcome::{Bound, Retries};
use super::{descriptions, documents, machine, other_registries, processes};

/// Faults of one kind.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) faults: Vec<Fault>,
}

fn succeeds(retries: usize) -> Outcome {
    Outcome::Succeeds(Retries::Exactly(retries))
}

fn fails(retries: usize, words: &'static str) -> Outcome {
    Outcome::Fails(Retries::Exactly(retries), words)
}

/// Warm proxies also ask for ping and manifest, so it would depend on chance which proxy a fault hits.
const ONE_PROXY: [&str; 2] = ["--proxies", "1"];

/// The error of a blob whose bytes stop.
const STALLED: &str = "stalled: no byte for 4 s";

/// Returns the same outcome for all three skopeos.
fn all(outcome: Outcome) -> [Outcome; 3] {
    [outcome; 3]
}

/// The outcomes with the oldest skopeo, and with the others.
fn until_0_2_6(old: Outcome, new: Outcome) -> [Outcome; 3] {
    [old, new, new]
}

/// The outcomes with the two older skopeos, and with the newest.
fn until_0_2_8(old: Outcome, new: Outcome) -> [Outcome; 3] {
    [old, old, new]
}

/// A fault of the registry, as `registry --fault` reads it. The pull makes this many retries.
fn registry(fault: &str, retries: &'static str, bound: Bound, outcomes: [Outcome; 3]) -> Fault {
    let parsed = fault.parse().unwrap();
    let name = descriptions::describe_all(&[parsed]);
    let of_all_proxies = fault.starts_with("ping:") || fault.starts_with("manifest:");
    let one = if of_all_proxies { &ONE_PROXY[..] } else { &[] };
    Fault::new(name, bound, outcomes)
        .fault(fault)
        .options(&["--retries", retries])
        .options(one)
}

pub(crate) fn sections() -> Vec<Section> {
    vec![
        Section {
            name: "The registry can't be reached",
            about: "A failure that a retry can't change is not retried.",
            faults: unreachable(),
        },
        Section {
            name: "The registry refuses",
            about: "With \"once\" or \"twice\", only the first one or two requests for the object are refused. Otherwise, all of them are. The image has three layers.",
            faults: refusing(),
        },
        Section {
            name: "Answers come late, or never",
            about: "Every wait has a limit. The stall timeout of a blob also applies to the answer to its request.",
            faults: late(),
        },
        Section {
            name: "Bodies are not what they should be",
            about: "From protocol 0.2.6 on, skopeo itself asks for the rest of a transfer that breaks off.\nBefore 0.2.8, no more bytes come then, and only `FinishPipe` tells why. longshore sends this call a second later, if nothing else is left to ask for.",
            faults: bodies(),
        },
        Section {
            name: "Documents are hostile",
            about: "The registry serves these documents unchanged.",
            faults: hostile(),
        },
        Section {
            name: "The local machine",
            about: "The disks are small tmpfs that the test mounts, so this needs root.",
            faults: own_machine(),
        },
        Section {
            name: "Processes and clocks",
            about: "Faults that depend on the moment are repeated at several random moments.",
            faults: process(),
        },
    ]
}

fn unreachable() -> Vec<Fault> {
    vec![
        Fault::new(
            "no server listens",
            Backoff,
            all(fails(1, "connection refused")),
        )
        .options(&["--retries", "1"])
        .before(other_registries::refused),
        Fault::new("no such name", Backoff, all(fails(1, "no such host")))
            .options(&["--retries", "1"])
            .before(other_registries::no_such_name),
        Fault::new(
            "plain HTTP, `--tls-verify=true`",
            Nothing,
            all(fails(0, "server gave HTTP response to HTTPS client")),
        )
        .options(&["--retries", "1"])
        .before(other_registries::plain_http),
        Fault::new(
            "a self-signed certificate",
            Nothing,
            all(fails(0, "x509: certificate signed by unknown authority")),
        )
        .options(&["--retries", "1"])
        .before(other_registries::self_signed),
    ]
}

#[rustfmt::skip] // A table: a line each.
fn refusing() -> Vec<Fault> {
    vec![
        registry("ping:status=401", "1", Nothing, all(succeeds(0))),
        registry("manifest:status=401", "1", Nothing, all(fails(0, "unauthorized"))),
        registry("blob#1:status=401", "1", Nothing, all(fails(0, "unauthorized"))),
        registry("manifest:status=403", "1", Nothing, all(fails(0, "denied"))),
        registry("blob#1:status=403", "1", Nothing, until_0_2_6(fails(0, "403 (Forbidden)"), fails(0, "denied"))),
        registry("manifest:status=404", "1", Nothing, all(fails(0, "name unknown"))),
        registry("blob#1:status=404", "1", Nothing, until_0_2_6(fails(0, "404 (Not Found)"), fails(0, "name unknown"))),
        registry("blob#1:status=429*1", "1", Skopeo(2), all(succeeds(0))),
        registry("blob#1:status=429", "1", Stalls(2), all(fails(1, STALLED))),
        registry("blob#1:status=429", "0", Skopeo(30), until_0_2_6(fails(0, "too many requests to registry"), fails(0, "toomanyrequests"))).name_suffix(", without retries"),
        registry("blob#1:status=429,retry-after=1*2", "1", Skopeo(2), all(succeeds(0))),
        registry("blob#1:status=429,retry-after=30*1", "1", Stalls(1), all(succeeds(1))),
        registry("manifest:status=429,retry-after=1*1", "1", Skopeo(1), all(succeeds(0))),
        registry("manifest:status=429", "1", Calls(2), all(fails(1, "opening the image: skopeo did not answer within 5 s"))),
        registry("ping:status=500*1", "1", Backoff, all(succeeds(1))),
        registry("manifest:status=500*1", "1", Backoff, all(succeeds(1))),
        registry("manifest:status=500", "2", Backoff, all(fails(2, "received unexpected HTTP status: 500"))),
        registry("manifest:status=502*2", "2", Backoff, all(succeeds(2))),
        registry("manifest:status=503", "1", Backoff, all(fails(1, "received unexpected HTTP status: 503"))),
        registry("config:status=500*1", "1", Backoff, all(succeeds(1))),
        registry("blob#1:status=500*2", "2", Backoff, all(succeeds(2))),
        registry("blob#1:status=500", "2", Backoff, until_0_2_6(fails(2, "invalid status code from registry 500"), fails(2, "received unexpected HTTP status: 500"))),
        registry("blob#1:status=502*1", "1", Backoff, all(succeeds(1))),
        registry("blob#1:status=502", "1", Backoff, until_0_2_6(fails(1, "invalid status code from registry 502"), fails(1, "received unexpected HTTP status: 502"))),
        registry("blob#1:status=503*2", "2", Backoff, all(succeeds(2))),
        registry("blob#1:status=503", "1", Backoff, until_0_2_6(fails(1, "invalid status code from registry 503"), fails(1, "received unexpected HTTP status: 503"))),
        registry("blob:status=503,retry-after=120", "2", Backoff, until_0_2_6(Outcome::Fails(Retries::Some, "invalid status code from registry 503"), Outcome::Fails(Retries::Some, "received unexpected HTTP status: 503"))),
        registry("manifest:redirect-loop", "1", Nothing, all(fails(0, "stopped after 10 redirects"))),
        registry("blob#1:redirect-loop", "1", Nothing, all(fails(0, "stopped after 10 redirects"))),
    ]
}

#[rustfmt::skip] // A table: a line each.
fn late() -> Vec<Fault> {
    vec![
        registry("any:ttfb=300ms", "0", Server(4), all(succeeds(0))),
        registry("blob#1:ttfb=60s*1", "1", Stalls(1), all(succeeds(1))),
        registry("blob#1:headers-never*1", "1", Stalls(1), all(succeeds(1))),
        registry("blob#1:headers-never", "1", Stalls(2), all(fails(1, "stalled: no byte for 4 s, after 0 bytes"))),
        registry("config:headers-never*1", "1", Stalls(1), all(succeeds(1))),
        registry("ping:headers-never*1", "1", Calls(1), all(succeeds(1))),
        registry("manifest:headers-never*1", "1", Calls(1), all(succeeds(1))),
        registry("manifest:headers-never", "1", Calls(2), all(fails(1, "opening the image: skopeo did not answer within 5 s"))),
        registry("manifest:stall=half*1", "1", Calls(1), all(succeeds(1))),
        registry("blob#1:stall=0*1", "1", Stalls(1), all(succeeds(1))),
        registry("blob#1:stall=0", "1", Stalls(2), all(fails(1, "stalled: no byte for 4 s, after 0 bytes"))),
        registry("blob#1:stall=half*1", "1", Stalls(1), all(succeeds(1))),
        registry("blob#1:stall=half", "1", Stalls(2), all(fails(1, STALLED))),
        registry("blob#1:stall=last*1", "1", Stalls(1), all(succeeds(1))),
        registry("blob#1:stall=last", "1", Stalls(2), all(fails(1, STALLED))),
        registry("config:stall=half*1", "1", Stalls(1), all(succeeds(1))),
        registry("blob#1:gap=3s", "0", Server(3), all(succeeds(0))),
        registry("blob#1:trickle=1s*1", "1", Stalls(2), all(succeeds(1))),
        registry("blob#1:trickle=1s", "1", Stalls(3), all(fails(1, "too slow: less than 100 bytes a second over 4 s"))),
        registry("config:trickle=1s*1", "1", Stalls(2), all(succeeds(1))),
        registry("manifest:trickle=1s*1", "1", Calls(1), all(succeeds(1))),
        registry("blob#1:trickle=1s", "1", Server(6), all(fails(0, "not done within the deadline"))).options(&["--deadline", "6s"]).name_suffix(", with `--deadline 6s`"),
    ]
}

#[rustfmt::skip] // A table: a line each.
fn bodies() -> Vec<Fault> {
    vec![
        registry("manifest:cut=half*1", "1", Backoff, all(succeeds(1))),
        registry("manifest:cut=half", "1", Backoff, all(fails(1, "unexpected EOF"))),
        registry("blob#1:cut=0*1", "1", Quiet(1), until_0_2_6(succeeds(1), succeeds(0))),
        registry("blob#1:cut=half*1", "1", Quiet(1), until_0_2_6(succeeds(1), succeeds(0))),
        registry("blob#1:cut=last*1", "1", Quiet(1), until_0_2_6(succeeds(1), succeeds(0))),
        registry("blob#1:cut=half", "1", Quiet(2), all(fails(1, "unexpected EOF"))),
        registry("blob#1:reset=half*1", "1", Quiet(1), until_0_2_6(succeeds(1), succeeds(0))),
        registry("blob#1:reset=half", "1", Quiet(2), all(fails(1, "connection reset"))),
        registry("manifest:reset=half*1", "1", Backoff, all(succeeds(1))),
        registry("blob#1:corrupt*1", "1", Backoff, all(succeeds(1))),
        registry("blob#1:corrupt", "2", Backoff, all(fails(2, "corrupt: its bytes have digest"))),
        registry("config:corrupt*1", "1", Backoff, all(succeeds(1))),
        registry("blob#1:shorter=1*1", "1", Backoff, all(succeeds(1))),
        registry("blob#1:shorter=1", "1", Backoff, all(fails(1, "announced with 22038 bytes"))),
        registry("blob#1:longer=1*1", "1", Backoff, all(succeeds(1))),
        registry("blob#1:longer=1", "1", Backoff, all(fails(1, "announced with 22040 bytes"))),
        registry("blob#1:chunked-shorter=1*1", "1", Quiet(1), all(succeeds(1))),
        registry("blob#1:chunked-shorter=1", "1", Quiet(2), until_0_2_8(fails(1, "corrupted blob"), fails(1, "ended after 22038 bytes of 22039"))),
        registry("blob#1:chunked-longer=1*1", "1", Backoff, all(succeeds(1))),
        registry("blob#1:chunked-longer=1", "1", Backoff, all(fails(1, "longer than the expected 22039 bytes"))),
        registry("blob#1:content-length=7*1", "1", Backoff, all(succeeds(1))),
        registry("blob#1:content-length=7", "1", Backoff, all(fails(1, "announced with 7 bytes"))),
        registry("blob#1:content-length=1G", "1", Backoff, all(fails(1, "announced with 1073741824 bytes"))),
        registry("config:content-length=7*1", "1", Backoff, all(succeeds(1))),
    ]
}

#[rustfmt::skip] // A table: a line each.
fn hostile() -> Vec<Fault> {
    let document = |name: &str, image, outcomes| {
        Fault::new(name, Nothing, outcomes)
            .image(image)
            .options(&["--retries", "0"])
    };
    vec![
        registry("manifest:big-manifest=100M", "0", Nothing, all(fails(0, "exceeded maximum allowed size of 4194304 bytes"))),
        registry("manifest:not-json", "0", Nothing, all(fails(0, "reading the manifest failed: invalid character"))),
        document("10,000 layers", documents::ten_thousand_layers, all(succeeds(0))),
        document("no layers", documents::no_layers, all(succeeds(0))),
        document("a layer of 0 bytes", documents::empty_layer, all(succeeds(0))),
        document("a layer that is not there", documents::layer_is_missing, until_0_2_6(fails(0, "404 (Not Found)"), fails(0, "blob unknown"))),
        document("a layer with a digest of an unknown algorithm", documents::layer_of_unknown_algorithm, all(fails(0, "its digest's algorithm can't be checked"))),
        document("a layer's digest is `sha256:../../x`", documents::layer_digest_is_a_path, all(fails(0, "Invalid encoded value ../../x"))),
        document("the config's digest is `sha256:../../x`", documents::config_digest_is_a_path, all(fails(0, "Invalid encoded value ../../x"))),
        document("a layer's size is -1", documents::negative_layer_size, all(fails(0, "a size that is no number of bytes"))),
        document("a layer's size is 2^63", documents::enormous_layer_size, all(fails(0, "cannot unmarshal number 9223372036854775808"))),
        document("a layer's size is 2^53 - 1", documents::large_layer_size, all(fails(0, "its descriptor says 9007199254740991"))),
        document("the config's size is -1", documents::negative_config_size, all(fails(0, "a size that is no number of bytes"))),
        document("the config's size is 2^63", documents::enormous_config_size, all(fails(0, "cannot unmarshal number 9223372036854775808"))),
        document("a config of 5 MiB", documents::config_over_the_bound, all(fails(0, "the image config has more than 4194304 bytes"))),
        document("the config is not JSON", documents::config_is_no_json, all(succeeds(0))),
        document("the config is `{}`", documents::empty_config, all(succeeds(0))),
        document("the config has `diff_ids: null`", documents::no_diff_ids, all(succeeds(0))),
        document("the manifest has `layers: null`", documents::null_layers, all(succeeds(0))),
        document("an annotation is `null`", documents::null_annotation, all(succeeds(0))),
        document("the manifest has `layers` and `Layers`", documents::two_lists_of_layers, all(fails(0, "more than once"))),
        document("a layer occurs with two sizes", documents::layer_of_two_sizes, all(fails(0, "has two sizes"))),
        document("a foreign layer, which is left out", documents::foreign_layer, all(succeeds(0))),
        document("no config", documents::manifest_without_config, all(fails(0, "its manifest names no config"))),
        document("a layer of unknown media type", documents::unknown_layer_type, all(succeeds(0))),
        document("a config of unknown media type", documents::unknown_config_type, all(succeeds(0))),
        document("an index without an image for this platform", documents::index_without_our_platform, all(fails(0, "no image found in"))),
        document("a manifest of unknown media type", documents::unknown_manifest_type, all(fails(0, "reading the manifest failed: unsupported schema version"))),
    ]
}

fn own_machine() -> Vec<Fault> {
    vec![
        Fault::new(
            "the disk is full; another image is there, and stays",
            Nothing,
            all(fails(0, "No space left on device")),
        )
        .image(machine::larger_image)
        .before(machine::full_disk)
        .after(machine::first_image_is_intact),
        Fault::new(
            "no file may have more than 512 KiB (`RLIMIT_FSIZE`)",
            Nothing,
            all(fails(0, "File too large")),
        )
        .image(machine::larger_image)
        .before(machine::small_files),
        Fault::new(
            "the layout's file system is read-only",
            Nothing,
            all(fails(0, "Read-only file system")),
        )
        .before(machine::read_only_layout),
        Fault::new(
            "the layout is a file",
            Nothing,
            all(Outcome::WrongUsage("Not a directory")),
        )
        .before(machine::layout_is_a_file),
        Fault::new(
            "temporary files are on another file system",
            Nothing,
            all(succeeds(0)),
        )
        .before(machine::two_file_systems),
        Fault::new(
            "the signature policy is not JSON",
            Nothing,
            until_0_2_6(
                fails(0, "checking a signature policy needs skopeo 1.13"),
                fails(0, "invalid policy in"),
            ),
        )
        .options(&["--retries", "1"])
        .before(machine::broken_policy),
        Fault::new(
            "the auth file is not JSON",
            Nothing,
            all(fails(0, "unexpected end of JSON input")),
        )
        .options(&["--retries", "1"])
        .before(machine::broken_auth_file),
        Fault::new("the auth file is a pipe", Nothing, all(succeeds(0)))
            .before(machine::auth_file_is_a_pipe),
        Fault::new("stderr is full (`/dev/full`)", Nothing, all(succeeds(0)))
            .before(machine::stderr_is_full),
        Fault::new(
            "there is no folder for temporary files",
            Nothing,
            all(succeeds(0)),
        )
        .before(machine::no_temporary_folder),
        Fault::new(
            "home and caches can't be written to",
            Nothing,
            all(succeeds(0)),
        )
        .before(machine::no_cache),
        Fault::new(
            "64 descriptors at most, 40 layers",
            Nothing,
            all(succeeds(0)),
        )
        .image(machine::forty_layers)
        .before(machine::few_descriptors),
        Fault::new(
            "pipes can't be made larger (`pipe-user-pages-soft`)",
            Nothing,
            all(succeeds(0)),
        )
        .image(machine::larger_image)
        .before(machine::no_pipe_pages)
        .after(machine::pipes_keep_their_size),
    ]
}

fn process() -> Vec<Fault> {
    let endless = |name: &str, outcome| {
        Fault::new(name, Grace, all(outcome))
            .fault("blob#2:headers-never")
            .repeats(3)
    };
    let late = |name: &str, bound, outcomes| {
        Fault::new(name, bound, outcomes)
            .fault("blob#2:ttfb=3s*1")
            .options(&["--retries", "3"])
    };
    vec![
        endless("`SIGINT` to longshore", Interrupted(Signal::SIGINT))
            .during(processes::interrupt_us),
        endless("`SIGTERM` to longshore", Interrupted(Signal::SIGTERM))
            .during(processes::terminate_us),
        Fault::new(
            "`SIGINT` to longshore while skopeo unpacks an archive (skopeo 1.9 leaves its files)",
            Grace,
            all(Interrupted(Signal::SIGINT)),
        )
        .options(&["--limit-rate", "5M"])
        .before(processes::from_an_archive)
        .during(processes::interrupt_us_while_unpacking)
        .after(processes::what_was_unpacked_is_removed),
        endless("`SIGKILL` to longshore", Killed).during(processes::kill_us),
        Fault::new(
            "`SIGKILL` to skopeo",
            Nothing,
            all(Outcome::Succeeds(Retries::Any)),
        )
        .fault("any:ttfb=50ms")
        .options(&["--retries", "3"])
        .repeats(3)
        .during(processes::kill_skopeo_at_a_random_moment),
        late(
            "`SIGKILL` to skopeo while it asks for a blob",
            Nothing,
            all(Outcome::Succeeds(Retries::Some)),
        )
        .during(processes::kill_skopeo_at_a_blob),
        late(
            "`SIGSTOP` to skopeo while it asks for a blob",
            Stalls(1),
            all(Outcome::Succeeds(Retries::Some)),
        )
        .during(processes::stop_skopeo_at_a_blob),
        Fault::new(
            "`SIGSTOP` to skopeo while it asks for the manifest",
            Calls(1),
            all(succeeds(1)),
        )
        .fault("manifest:ttfb=3s*1")
        .options(&ONE_PROXY)
        .options(&["--retries", "1"])
        .during(processes::stop_skopeo_at_the_manifest),
        late(
            "`SIGSTOP` to skopeo, then `SIGINT` to longshore",
            Grace,
            all(Interrupted(Signal::SIGINT)),
        )
        .during(processes::stop_skopeo_and_interrupt_us),
        late(
            "`SIGSTOP` to skopeo, then `SIGKILL` to longshore",
            Grace,
            all(Killed),
        )
        .during(processes::stop_skopeo_and_kill_us),
        Fault::new(
            "longshore's clock jumps 400 days ahead while a blob is stalled",
            Stalls(1),
            all(succeeds(1)),
        )
        .fault("blob#1:stall=half*1")
        .options(&["--retries", "1"])
        .before(machine::with_faketime)
        .during(machine::clock_jumps_forward)
        .after(machine::clock_has_jumped),
        Fault::new(
            "longshore's clock jumps 400 days back while a blob is stalled",
            Stalls(1),
            all(succeeds(1)),
        )
        .fault("blob#1:stall=half*1")
        .options(&["--retries", "1"])
        .before(machine::with_faketime)
        .during(machine::clock_jumps_back)
        .after(machine::clock_has_jumped),
    ]
}
