//! A typical program that embeds longshore: walks all layers of an image as tar archives, and prints what is in
//! them. longshore decompresses them, and checks digests and `diff_id`s.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bench_walk::{Totals, walk};
use clap::Parser;
use longshore::{FetchOptions, Fetcher, ImageProxyConfig, Proxies};

/// Walks the layers of an image with longshore.
#[derive(Debug, Parser)]
#[command(name = "longshore-walk")]
struct Arguments {
    /// The skopeo to run
    #[arg(long, value_name = "PATH", default_value = "skopeo")]
    skopeo: PathBuf,
    /// Accept plain HTTP
    #[arg(long)]
    insecure: bool,
    /// The number of proxies: auto, N or MIN-MAX
    #[arg(long, default_value = "auto")]
    proxies: Proxies,
    /// The number of workers
    #[arg(long)]
    workers: Option<NonZeroUsize>,
    /// The image, with its transport
    image: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore-walk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = ImageProxyConfig::default()
        .skopeo_path(arguments.skopeo)
        .insecure_policy(true)
        .insecure_skip_tls_verification(arguments.insecure);
    let mut options = FetchOptions::default().proxies(arguments.proxies);
    if let Some(workers) = arguments.workers {
        options = options.workers(workers);
    }
    let fetcher = Fetcher::new(config, options).await?;
    let image = fetcher.open(&arguments.image).await?;
    let layers = fetcher
        .for_each_layer_uncompressed_blocking(&image, |_layer, reader| walk(reader))
        .await?;
    let mut totals = Totals::default();
    for layer in layers {
        totals += layer;
    }
    totals.print().context("can't print the totals")
}
