//! `longshore pull`.

use std::sync::Arc;
use std::time::Instant;

use longshore::oci_spec::image::Descriptor;
use longshore::{Fetcher, Image, ImageContent, ImageProxyConfig, OciLayout, Pulled, printable};
use serde::Serialize;

use super::args::{Destination, PlatformChoice, PullArguments};
use super::failure::Failure;
use super::format::{bytes, json_line};
use super::progress::{self, Style};
use super::say::print;
use super::{warnings, within};

/// The line that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// The only image, or all of them.
    #[serde(flatten)]
    images: ImageReports,
    /// Of all images' layers, each blob once.
    bytes: u64,
    fetched_blobs: usize,
    fetched_bytes: u64,
    reused_blobs: usize,
    /// Those that were left out.
    foreign_layers: Vec<String>,
    /// The most that were at work at once.
    proxies: usize,
    retries: usize,
    elapsed_ms: u64,
    /// In bytes; of this process, without its children.
    peak_rss: Option<u64>,
    protocol: String,
    /// None if it does not tell.
    skopeo: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ImageReports {
    One(ImageReport),
    Several { images: Vec<ImageReport> },
}

#[derive(Debug, Serialize)]
struct ImageReport {
    image: String,
    /// Of the manifest at its source.
    digest: String,
    /// Of the manifest in the layout; another one after a conversion.
    stored_digest: String,
    platform: Option<String>,
    layers: usize,
}

pub(crate) async fn run(arguments: PullArguments, config: ImageProxyConfig) -> Result<(), Failure> {
    let started = Instant::now();
    let options = arguments.options();
    let PullArguments {
        images,
        destination,
        platform,
        json,
        quiet,
        events,
        proxy,
        ..
    } = arguments;
    let (events, showing) = progress::show(Style::choose(quiet || json), events).await?;
    let all = platform == Some(PlatformChoice::All);
    let wanted = match platform {
        Some(PlatformChoice::One(platform)) => Some(platform),
        _ => None,
    };
    if images.len() > 1 && (all || destination.tag.is_some()) {
        let reason = "several images go into oci:DIR, each under its own name, without a TAG \
                      and one platform each";
        return Err(Failure::usage(reason.into()));
    }
    // Asked while the pull runs, for it takes a process.
    let restricts = config.restricts_images();
    let question = config.version_question();
    let version = json.then(|| tokio::task::spawn_blocking(move || question.ask()));

    // Boxed, because it is large.
    let pulling = Box::pin(async {
        let fetcher = Fetcher::new(config, options).await?.with_events(events);
        pull(&fetcher, &images, all, destination, restricts).await
    });
    let pulling = within(proxy.deadline, pulling);
    let (pulled, shown) = tokio::join!(pulling, showing);
    let (pulled, protocol) = pulled.map_err(Failure::on("pull", &images.join(", ")))?;
    shown.map_err(Failure::after_all)?;
    for content in &pulled.images {
        let found = content.platform();
        warnings::of_platform(content.reference(), wanted.as_ref(), found.as_deref());
    }
    pulled.foreign_layers.iter().for_each(warnings::of_foreign);

    if let Some(version) = version {
        let version = version.await.map_err(anyhow::Error::from)?;
        let skopeo = version.ok().map(|version| version.to_string());
        let report = report(&pulled, started, protocol, skopeo);
        let line = json_line(&report).map_err(anyhow::Error::from)?;
        print(format!("{line}\n")).await.map_err(Failure::after_all)
    } else if quiet {
        Ok(())
    } else {
        print(summary(&pulled, started))
            .await
            .map_err(Failure::after_all)
    }
}

/// Pull, and tell which protocol the proxies spoke.
async fn pull(
    fetcher: &Fetcher,
    images: &[String],
    all_platforms: bool,
    destination: Destination,
    restricts: bool,
) -> longshore::Result<(Pulled, String)> {
    let Destination { folder, tag } = destination;
    let version = |images: &[Image]| {
        let proxy = images.first().map(Image::proxy);
        proxy.map_or_else(String::new, |proxy| {
            warnings::of_policy(restricts, proxy);
            proxy.protocol_version().to_string()
        })
    };
    match images {
        [image] if all_platforms => {
            let layout = Arc::new(OciLayout::new(folder, tag));
            layout.check(&[image]).await?;
            let index = fetcher.open_index(image).await?;
            let version = version(index.images());
            let pulled = fetcher.pull_index(&index, &layout).await?;
            Ok((pulled, version))
        }
        images => {
            let layout = Arc::new(match images {
                [_] => OciLayout::new(folder, tag),
                _ => OciLayout::named_by_reference(folder),
            });
            layout.check(images).await?;
            let opened = fetcher.open_all(images).await?;
            let version = version(&opened);
            let pulled = fetcher.pull_all(&opened, &layout).await?;
            Ok((pulled, version))
        }
    }
}

fn report(pulled: &Pulled, started: Instant, protocol: String, skopeo: Option<String>) -> Report {
    let image = |content: &Arc<ImageContent>| ImageReport {
        image: content.reference().to_owned(),
        digest: content.source_digest().to_owned(),
        stored_digest: content.manifest_descriptor().digest().to_string(),
        platform: content.platform(),
        layers: content.layers().len(),
    };
    let reports: Vec<_> = pulled.images.iter().map(image).collect();
    Report {
        images: match <[ImageReport; 1]>::try_from(reports) {
            Ok([one]) => ImageReports::One(one),
            Err(images) => ImageReports::Several { images },
        },
        bytes: pulled.bytes,
        fetched_blobs: pulled.fetched_blobs,
        fetched_bytes: pulled.fetched_bytes,
        reused_blobs: pulled.reused_blobs,
        foreign_layers: digests(&pulled.foreign_layers),
        proxies: pulled.proxies,
        retries: pulled.retries,
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        peak_rss: peak_rss(),
        protocol,
        skopeo,
    }
}

fn digests(blobs: &[Descriptor]) -> Vec<String> {
    blobs.iter().map(|blob| blob.digest().to_string()).collect()
}

/// The most memory that this process ever had resident (proc(5), `VmHWM`).
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// For people.
fn summary(pulled: &Pulled, started: Instant) -> String {
    let mut lines = Vec::new();
    for content in &pulled.images {
        let (image, digest) = (content.reference(), content.source_digest());
        lines.push(format!("{}: {}\n", printable(image), printable(digest)));
        let stored = content.manifest_descriptor().digest();
        if stored.as_ref() != digest {
            lines.push(format!(
                "  stored as {stored}: its source has it in another form\n"
            ));
        }
    }
    lines.push(format!(
        "{} blobs fetched ({}), {} already there, {:.1} s\n",
        pulled.fetched_blobs,
        bytes(pulled.fetched_bytes),
        pulled.reused_blobs,
        started.elapsed().as_secs_f64(),
    ));
    lines.concat()
}
