//! Signals, to us and to skopeo.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::cell::Cell;
use crate::command::Running;
use crate::command::processes::signal;

/// A pull of the small image takes less, most of the time.
const MOMENTS: u64 = 400;

fn random_moment() {
    // The moment is not reproducible by a seed, so there is none.
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
    // There may be none yet, or no more.
    for proxy in running.living_proxies() {
        let pid = nix::unistd::Pid::from_raw(proxy.pid.cast_signed());
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
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
    running.gate("the manifest is asked for", |_| {
        cell.served.registry.manifest_gets() > 0
    });
    to_skopeo(running, Signal::SIGSTOP);
}

/// The largest layer, which is the first.
fn wait_for_blob(cell: &Cell, running: &mut Running) {
    let largest = cell.image.layers[2].digest();
    running.gate("the blob is asked for", |_| {
        cell.served.registry.blob_gets(largest) > 0
    });
}

fn to_skopeo(running: &mut Running, what: Signal) {
    for proxy in running.proxies() {
        signal(proxy.pid, what);
    }
}
