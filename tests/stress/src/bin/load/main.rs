//! Pulls many blobs at once, and measures the time and the resources of this process.
//!
//! Without `--image`, another process of this program makes an image and serves it on the loopback
//! interface, so that what is counted here is the client's alone.
//!
//! `cargo run --release -p longshore-stress --bin load -- --blobs 10000 --size 100K --workers 512`

mod calls;
mod report;
mod served;
mod times;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use longshore::{
    Discard, EventStream, Events, FetchOptions, Fetcher, ImageProxyConfig, OciLayout, Proxies,
    Pulled,
};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use tokio::time::{interval, sleep};

use longshore_stress::Usage;
use report::Report;
use served::{Order, Served};
use test_registry::units::parse_size;
use times::Times;

/// How often this process samples its own resources.
const SAMPLING: Duration = Duration::from_millis(100);

/// How long skopeo processes may take to exit after the pull.
const ENDING: Duration = Duration::from_secs(5);

/// Pulls many blobs, and reports the time and the resources.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Arguments {
    /// How many blobs to make.
    #[arg(long, default_value_t = 200)]
    blobs: u64,
    /// How large each blob is; K, M and G are understood.
    #[arg(long, default_value = "100K", value_parser = parse_size)]
    size: u64,
    /// The number of proxies: `auto`, a number, or MIN-MAX.
    #[arg(long, default_value = "auto")]
    proxies: Proxies,
    /// Blobs in flight at once.
    #[arg(long, default_value = "32")]
    workers: NonZeroUsize,
    /// Delay each answer of the registry by this many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    ttfb: u64,
    /// Send at most this many bytes per second of each blob, so that many are in flight.
    #[arg(long, value_name = "BYTES_PER_S", value_parser = parse_size)]
    bandwidth: Option<u64>,
    /// Pull this image instead, as skopeo names it.
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// Accept any certificate, and plain HTTP.
    #[arg(long)]
    insecure: bool,
    /// Write the blobs into an OCI image layout in this folder; by default, they are verified and discarded.
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// The skopeo to pull with.
    #[arg(long, default_value = "skopeo")]
    skopeo: PathBuf,
    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
    /// Make the image, and serve it until stdin ends. The other process runs with this option.
    #[arg(long, hide = true)]
    serve: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let order = Order {
        blobs: arguments.blobs,
        size: arguments.size,
        ttfb: arguments.ttfb,
        bandwidth: arguments.bandwidth,
    };
    if arguments.serve {
        return runtime.block_on(served::serve(order));
    }
    let calls = calls::record()?;
    let served = match arguments.image {
        None => Some(Served::start(order)?),
        Some(_) => None,
    };
    // Boxed, because the future is large.
    let report = runtime.block_on(Box::pin(load(&arguments, served.as_ref())))?;
    if arguments.json {
        println!("{}", report.json(&calls.take()));
    } else {
        print!("{}", report.text(&calls.take()));
    }
    Ok(())
}

async fn load(arguments: &Arguments, served: Option<&Served>) -> anyhow::Result<Report> {
    let reference = match (&arguments.image, served) {
        (Some(image), _) => image.as_str(),
        (None, Some(served)) => &served.reference,
        (None, None) => anyhow::bail!("no image"),
    };
    let config = ImageProxyConfig::default()
        .skopeo_path(arguments.skopeo.clone())
        .insecure_skip_tls_verification(arguments.insecure || served.is_some());
    let options = FetchOptions::default()
        .proxies(arguments.proxies)
        .workers(arguments.workers);
    let (events, stream) = Events::channel();
    let watching = tokio::spawn(watch(stream));
    let (cpu_before, begun) = (cpu(UsageWho::RUSAGE_SELF)?, Instant::now());
    let pulled = pull(config, options, events, reference, arguments.into.as_ref()).await?;
    let took = begun.elapsed();
    let own_cpu = cpu(UsageWho::RUSAGE_SELF)?.saturating_sub(cpu_before);
    let (times, peak) = watching.await?;

    let others = usize::from(served.is_some());
    let until = Instant::now() + ENDING;
    while longshore_stress::children().len() > others && Instant::now() < until {
        sleep(Duration::from_millis(5)).await;
    }
    Ok(Report {
        took,
        blobs: pulled.fetched_blobs,
        bytes: pulled.fetched_bytes,
        retries: pulled.retries,
        proxies: pulled.proxies,
        own_cpu,
        // The registry is not reaped yet, so its CPU time is not included.
        children_cpu: cpu(UsageWho::RUSAGE_CHILDREN)?,
        peak: Usage {
            children: peak.children.saturating_sub(others),
            memory_kib: longshore_stress::peak_memory_kib(),
            ..peak
        },
        times,
    })
}

async fn pull(
    config: ImageProxyConfig,
    options: FetchOptions,
    events: Events,
    reference: &str,
    into: Option<&PathBuf>,
) -> longshore::Result<Pulled> {
    let fetcher = Fetcher::new(config, options).await?.with_events(events);
    let image = fetcher.open(reference).await?;
    match into {
        None => fetcher.pull(&image, Discard).await,
        Some(folder) => {
            let layout = OciLayout::new(folder, Some("load".into()));
            fetcher.pull(&image, layout).await
        }
    }
}

/// Receives all events, and samples the resources of this process, until the pull is over.
async fn watch(mut events: EventStream) -> (Times, Usage) {
    let (mut times, mut peak) = (Times::default(), Usage::now());
    let mut sampling = interval(SAMPLING);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => times.record(&event),
                None => return (times, peak.max(Usage::now())),
            },
            _ = sampling.tick() => peak = peak.max(Usage::now()),
        }
    }
}

fn cpu(whose: UsageWho) -> nix::Result<Duration> {
    let usage = getrusage(whose)?;
    let micros = |time: TimeVal| time.num_microseconds().unsigned_abs();
    let micros = micros(usage.user_time()) + micros(usage.system_time());
    Ok(Duration::from_micros(micros))
}
