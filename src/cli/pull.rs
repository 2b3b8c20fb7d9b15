//! The command `longshore pull`.

use std::sync::Arc;
use std::time::Instant;

use longshore::{
    Fetcher, Image, ImageContent, ImageProxyConfig, IndexContent, OciLayout, Platforms, Pulled,
    printable,
};

use super::args::{Destination, PullArguments};
use super::failure::Failure;
use super::format::{bytes, counted, json_line};
use super::many::Many;
use super::progress::{self, Style};
use super::report::{ImageReports, Report};
use super::say::print;
use super::{warnings, within};

pub(crate) async fn run(arguments: PullArguments, config: ImageProxyConfig) -> Result<(), Failure> {
    let started = Instant::now();
    let options = arguments.options();
    let PullArguments {
        images,
        requests,
        destination,
        from,
        shard,
        keep_going,
        strict,
        platform,
        json,
        quiet,
        events,
        proxy,
        ..
    } = arguments;
    let (events, showing) = progress::show(Style::choose(quiet || json), events).await?;
    // This runs during the pull, because it starts a process.
    let restricts = config.restricts_images();
    let version = json.then(|| tokio::spawn(config.skopeo_version()));
    let is_together = from.is_none() && shard.is_none() && !keep_going;
    let has_names = requests.iter().any(|request| request.name.is_some());
    let all = requests
        .iter()
        .any(|request| request.platforms == Platforms::All);
    if !is_together || requests.len() > 1 && (has_names || all) {
        let many = Many {
            requests,
            folder: destination.folder,
            keeps_going: keep_going || from.is_some() && !strict,
            json,
            quiet,
            deadline: proxy.source.deadline,
        };
        let fetcher = Box::pin(Fetcher::new(config, options)).await?;
        let fetcher = fetcher.with_events(events);
        return many
            .pull(fetcher, started, restricts, showing, version)
            .await;
    }
    let wanted = match platform {
        Some(Platforms::One(platform)) => Some(platform),
        _ => None,
    };
    let name = requests.first().and_then(|request| request.name.clone());
    let destination = Destination {
        tag: name.or(destination.tag),
        ..destination
    };

    // Boxed, because the future is large.
    let pulling = Box::pin(async {
        let fetcher = Fetcher::new(config, options).await?.with_events(events);
        pull(&fetcher, &images, all, destination, restricts).await
    });
    let pulling = within(proxy.source.deadline, pulling);
    let (pulled, shown) = tokio::join!(pulling, showing);
    let pulled = pulled.map_err(Failure::on("pull", &images.join(", ")))?;
    shown.map_err(Failure::after_all)?;
    for content in &pulled.images {
        let found = content.platform();
        warnings::of_platform(content.reference(), wanted.as_ref(), found.as_deref());
    }
    pulled.foreign_layers.iter().for_each(warnings::of_foreign);

    if let Some(version) = version {
        let version = version.await.map_err(anyhow::Error::from)?;
        let skopeo = version.ok().map(|version| version.to_string());
        let images = ImageReports::of(&pulled.images);
        let report = Report::new(
            images,
            None,
            &pulled,
            &pulled.foreign_layers,
            started,
            skopeo,
        );
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

async fn pull(
    fetcher: &Fetcher,
    images: &[String],
    all_platforms: bool,
    destination: Destination,
    restricts: bool,
) -> longshore::Result<Pulled> {
    let Destination { folder, tag } = destination;
    let warn = |images: &[Image]| {
        if let Some(image) = images.first() {
            warnings::of_policy(restricts, image.policy_checked());
        }
    };
    match images {
        [image] if all_platforms => {
            let layout = Arc::new(OciLayout::new(folder, tag));
            layout.check(&[image]).await?;
            let index = fetcher.open_index(image).await?;
            warn(index.images());
            fetcher.pull_index(&index, layout.clone()).await
        }
        images => {
            let layout = Arc::new(match images {
                [_] => OciLayout::new(folder, tag),
                _ => OciLayout::named_by_reference(folder),
            });
            layout.check(images).await?;
            let opened = fetcher.open_all(images).await?;
            warn(&opened);
            fetcher.pull_all(&opened, layout.clone()).await
        }
    }
}

/// Formats the result for people.
fn summary(pulled: &Pulled, started: Instant) -> String {
    let images = pulled.images.iter().map(|content| of_image(content));
    let index = pulled.index.iter().map(of_index);
    let lines: Vec<String> = (images.chain(index))
        .chain([totals(pulled, started)])
        .collect();
    lines.concat()
}

/// Formats a pulled index for people.
pub(super) fn of_index(index: &IndexContent) -> String {
    let (reference, digest) = (index.reference(), index.source_digest());
    let line = format!("{}: {digest} (index)\n", printable(reference));
    let stored = index.descriptor().digest();
    if stored == digest {
        return line;
    }
    format!("{line}  stored as {stored}: its images have another form at their source\n")
}

/// Formats a pulled image for people.
pub(super) fn of_image(content: &ImageContent) -> String {
    let (image, digest) = (content.reference(), content.source_digest());
    let line = format!("{}: {}\n", printable(image), digest);
    let stored = content.manifest_descriptor().digest();
    if stored == digest {
        return line;
    }
    format!("{line}  stored as {stored}: its source has it in another form\n")
}

/// Formats the totals for people.
pub(super) fn totals(pulled: &Pulled, started: Instant) -> String {
    format!(
        "{} fetched ({}), {} already there, {:.1} s\n",
        counted(pulled.fetched_blobs, "blob"),
        bytes(pulled.fetched_bytes),
        pulled.reused_blobs,
        started.elapsed().as_secs_f64(),
    )
}
