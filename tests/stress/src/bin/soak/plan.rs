//! The plan of a pull, which is drawn at random. Equal seeds give equal plans.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use longshore::{ConnectionOptions, FetchOptions, ImageProxyConfig, Proxies, RetryPolicy};
use nix::sys::signal::Signal;

use super::faults::{CASES, Case};

/// The maximum number of pulls in a round.
const MAX_PULLS: usize = 6;

/// The number of retries. There are more of them than failures of a blob that must succeed in the end.
const RETRIES: u32 = 8;

/// The time in which kills and cancellations happen. Most pulls are over by then.
const MOMENTS: Duration = Duration::from_millis(1200);

/// Some pulls at the same time, and the signals to their proxies.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) pulls: Vec<Plan>,
    /// The signals, each with its time from the start of the round. They go to random children.
    pub(crate) signals: Vec<(Duration, Signal)>,
}

/// The plan of one pull.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) case: Case,
    /// The fault, with the number of the layer filled in.
    pub(crate) fault: String,
    /// The number of the image.
    pub(crate) image: usize,
    pub(crate) skopeo: PathBuf,
    pub(crate) into: Destination,
    pub(crate) cancel: Option<Duration>,
    pub(crate) options: FetchOptions,
    pub(crate) stall_timeout: Duration,
}

/// The destination of the blobs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination {
    Layout,
    /// All images go into one layout, in one pull. The fault hits every image that has such a layer.
    Many,
    Discard,
    /// A handler computes digests of its own.
    Handler,
}

impl Round {
    /// Draws a round. `layers` contains the number of layers of each image.
    pub(crate) fn draw(
        rng: &mut Rng,
        skopeos: &[PathBuf],
        layers: &[usize],
        stall_timeout: Duration,
    ) -> Self {
        let killed = rng.u8(..3) == 0;
        let signals = (0..if killed { rng.usize(1..=3) } else { 0 })
            .map(|_| (moment(rng), signal(rng)))
            .collect();
        let pulls = (0..rng.usize(1..=MAX_PULLS))
            .map(|_| Plan::draw(rng, skopeos, layers, stall_timeout, killed))
            .collect();
        Self { pulls, signals }
    }
}

impl Plan {
    fn draw(
        rng: &mut Rng,
        skopeos: &[PathBuf],
        layers: &[usize],
        stall_timeout: Duration,
        killed: bool,
    ) -> Self {
        let case = loop {
            let case = CASES[rng.usize(..CASES.len())];
            // With few tries, the kill of a proxy could be the reason of a failure.
            if !(killed && case.slow) {
                break case;
            }
        };
        let image = rng.usize(..layers.len());
        let layer = rng.usize(..layers[image]);
        Self {
            case,
            fault: case.fault.replace("#N", &format!("#{layer}")),
            image,
            skopeo: skopeos[rng.usize(..skopeos.len())].clone(),
            into: [
                Destination::Layout,
                Destination::Many,
                Destination::Discard,
                Destination::Handler,
            ][rng.usize(..4)],
            cancel: cancel(rng),
            options: options(rng, if case.slow { 1 } else { RETRIES }),
            stall_timeout,
        }
    }

    /// The same plan without faults and cancellation.
    pub(crate) fn without_faults(&self) -> Self {
        Self {
            case: CASES[0],
            fault: String::new(),
            cancel: None,
            skopeo: self.skopeo.clone(),
            options: self.options.clone().retry(retries(RETRIES)),
            ..*self
        }
    }

    pub(crate) fn config(&self) -> ImageProxyConfig {
        ImageProxyConfig::default()
            .skopeo_path(self.skopeo.clone())
            .insecure_policy(true)
            .insecure_skip_tls_verification(true)
            .connection(
                ConnectionOptions::default()
                    .stall_timeout(self.stall_timeout)
                    .call_timeout(self.stall_timeout * 2),
            )
    }
}

fn options(rng: &mut Rng, tries: u32) -> FetchOptions {
    let number = |number| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
    let proxies = match rng.u8(..4) {
        0 | 1 => Proxies::Auto,
        2 => Proxies::Fixed(number(rng.usize(1..=6))),
        _ => Proxies::Range {
            min: number(rng.usize(1..=2)),
            max: number(rng.usize(2..=8)),
        },
    };
    let options = FetchOptions::default()
        .proxies(proxies)
        .workers(number([1, 2, 8, 32][rng.usize(..4)]))
        .private_blob_info_cache(rng.bool())
        .retry(retries(tries));
    match NonZeroU64::new(rng.u64(2_000_000..20_000_000)) {
        Some(rate) if rng.u8(..5) == 0 => options.limit_rate(rate),
        _ => options,
    }
}

fn retries(number: u32) -> RetryPolicy {
    RetryPolicy::default()
        .retries(number)
        .initial_backoff(Duration::from_millis(20))
        .max_backoff(Duration::from_millis(500))
}

fn cancel(rng: &mut Rng) -> Option<Duration> {
    (rng.u8(..10) < 2).then(|| moment(rng))
}

fn signal(rng: &mut Rng) -> Signal {
    match rng.u8(..6) {
        0 => Signal::SIGTERM,
        // The process hangs, and keeps everything that it has open.
        1 => Signal::SIGSTOP,
        _ => Signal::SIGKILL,
    }
}

fn moment(rng: &mut Rng) -> Duration {
    MOMENTS.mul_f64(rng.f64())
}
