//! Signals to the command and to skopeo.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::cell::{Cell, Guard};
use crate::harness::{
    ImageBuilder, Longshore, Run, Running, newest_skopeo, processes, skopeo_copy,
};

/// Most of the time, a pull of the small image takes less than this many milliseconds.
const MOMENTS: u64 = 400;

fn random_moment() {
    // A seed would not make the time reproducible, so there is none.
    sleep(Duration::from_millis(fastrand::u64(0..MOMENTS)));
}

pub(crate) fn interrupt_us(_: &Cell, running: &mut Running) {
    random_moment();
    running.signal(Signal::SIGINT);
}

pub(crate) fn terminate_us(_: &Cell, running: &mut Running) {
    random_moment();
    running.signal(Signal::SIGTERM);
}

pub(crate) fn kill_us(_: &Cell, running: &mut Running) {
    random_moment();
    running.signal(Signal::SIGKILL);
}

pub(crate) fn stop_skopeo_and_interrupt_us(cell: &Cell, running: &mut Running) {
    stop_skopeo_at_a_blob(cell, running);
    running.signal(Signal::SIGINT);
}

pub(crate) fn stop_skopeo_and_kill_us(cell: &Cell, running: &mut Running) {
    stop_skopeo_at_a_blob(cell, running);
    running.signal(Signal::SIGKILL);
}

pub(crate) fn kill_skopeo_at_a_random_moment(_: &Cell, running: &mut Running) {
    random_moment();
    // There may be no proxy yet, or none any more.
    for proxy in running.running_proxies() {
        processes::signal_if_there(proxy.pid, Signal::SIGKILL);
    }
}

pub(crate) fn kill_skopeo_at_a_blob(cell: &Cell, running: &mut Running) {
    wait_for_blob(cell, running);
    to_skopeo(running, Signal::SIGKILL);
}

pub(crate) fn stop_skopeo_at_a_blob(cell: &Cell, running: &mut Running) {
    wait_for_blob(cell, running);
    to_skopeo(running, Signal::SIGSTOP);
}

pub(crate) fn stop_skopeo_at_the_manifest(cell: &Cell, running: &mut Running) {
    running.wait_until("the manifest is asked for", |_| {
        cell.served.registry.manifest_gets() > 0
    });
    to_skopeo(running, Signal::SIGSTOP);
}

/// Waits for the first layer, which is the largest.
fn wait_for_blob(cell: &Cell, running: &mut Running) {
    let largest = cell.image.layers[2].digest();
    running.wait_until("the blob is asked for", |_| {
        cell.served.registry.blob_gets(largest) > 0
    });
}

/// The image is in an archive, which skopeo unpacks into `/var/tmp`. That is a folder of the test here.
pub(crate) fn from_an_archive(cell: &Cell, _: Longshore) -> (Longshore, Guard) {
    let (source, archive) = (cell.scratch.path("source"), cell.scratch.path("archive"));
    let image = ImageBuilder::new().layer_random(10_000_000, 3);
    image.write(&source, "v1").unwrap();
    let archive = format!("oci-archive:{}:v1", archive.display());
    let source = format!("oci:{}:v1", source.display());
    skopeo_copy(&newest_skopeo(), &source, &archive);
    let unpacked = unpacked(cell);
    fs::create_dir(&unpacked).unwrap();
    let script = r#"mount --bind "$0" /var/tmp && exec "$@""#;
    let under = ["--mount", "sh", "-c", script, unpacked.to_str().unwrap()];
    (
        cell.pull_from(&archive).under("unshare", under),
        Box::new(()),
    )
}

fn unpacked(cell: &Cell) -> PathBuf {
    cell.scratch.path("unpacked")
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

pub(crate) fn interrupt_us_while_unpacking(cell: &Cell, running: &mut Running) {
    let unpacked = unpacked(cell);
    running.wait_until("the archive is being unpacked", |_| !is_empty(&unpacked));
    running.signal(Signal::SIGINT);
}

/// Checks that skopeo has removed what it unpacked. Only the skopeo of protocol 0.2.3 may leave it.
pub(crate) fn what_was_unpacked_is_removed(cell: &Cell, run: &Run) {
    let removed = is_empty(&unpacked(cell));
    assert!(removed || cell.skopeo.protocol == "0.2.3", "{run}");
}

fn to_skopeo(running: &mut Running, what: Signal) {
    for proxy in running.proxies() {
        processes::signal_if_there(proxy.pid, what);
    }
}
