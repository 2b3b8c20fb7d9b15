//! `longshore pull`.

use std::sync::Arc;
use std::time::Instant;

use longshore::{Events, ImageContent, ImageProxy, OciLayout, Pulled};
use serde::Serialize;

use super::args::PullArguments;
use super::failure::Failure;
use super::format::{bytes, printable};
use super::progress::{self, Style};

/// The line that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    image: String,
    /// Of the manifest at its source.
    digest: String,
    /// Of the manifest in the layout; another one after a conversion.
    stored_digest: String,
    platform: Option<String>,
    layers: usize,
    bytes: u64,
    fetched_blobs: usize,
    fetched_bytes: u64,
    reused_blobs: usize,
    elapsed_ms: u64,
    protocol: String,
    skopeo: String,
}

pub(crate) async fn run(arguments: PullArguments, verbose: bool) -> Result<(), Failure> {
    let started = Instant::now();
    let PullArguments {
        image,
        destination,
        workers,
        json,
        quiet,
        proxy,
    } = arguments;
    let (sender, showing) = progress::show(Style::choose(quiet || json));
    let config = proxy.config(&image, verbose)?;
    // Asked while the pull runs, for it takes a process.
    let question = config.version_question();
    let version = json.then(|| tokio::task::spawn_blocking(move || question.ask()));

    let pulling = async {
        let proxy = ImageProxy::new_with_config(config).await?;
        let sink = Arc::new(OciLayout::new(destination.folder, destination.tag));
        let protocol = proxy.protocol_version().to_string();
        let events = Events::to(sender);
        let done = longshore::pull(&proxy, &image, &sink, workers, events).await?;
        proxy.finalize().await?;
        Ok::<_, longshore::Error>((done, protocol))
    };
    let (pulled, ()) = tokio::join!(pulling, showing);
    let ((content, pulled), protocol) = pulled?;

    if let Some(version) = version {
        let skopeo = version.await.map_err(anyhow::Error::from)??.to_string();
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let report = report(image, &content, pulled, elapsed_ms, protocol, skopeo);
        println!(
            "{}",
            serde_json::to_string(&report).map_err(anyhow::Error::from)?
        );
    } else if !quiet {
        summarize(&image, &content, pulled, started);
    }
    Ok(())
}

fn report(
    image: String,
    content: &ImageContent,
    pulled: Pulled,
    elapsed_ms: u64,
    protocol: String,
    skopeo: String,
) -> Report {
    Report {
        image,
        digest: content.source_digest().to_owned(),
        stored_digest: content.manifest_descriptor().digest().to_string(),
        platform: content.platform(),
        layers: content.layers().len(),
        bytes: content.blobs().map(|layer| layer.descriptor.size()).sum(),
        fetched_blobs: pulled.fetched_blobs,
        fetched_bytes: pulled.fetched_bytes,
        reused_blobs: pulled.reused_blobs,
        elapsed_ms,
        protocol,
        skopeo,
    }
}

fn summarize(image: &str, content: &ImageContent, pulled: Pulled, started: Instant) {
    println!(
        "{}: {}, {} blobs fetched ({}), {} already there, {:.1} s",
        printable(image),
        printable(content.source_digest()),
        pulled.fetched_blobs,
        bytes(pulled.fetched_bytes),
        pulled.reused_blobs,
        started.elapsed().as_secs_f64(),
    );
}
