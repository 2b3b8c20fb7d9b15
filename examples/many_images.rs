//! Pulls a list of images into one OCI layout, and prints the outcome of each as soon as it is known. An image that
//! fails does not stop the others.
//!
//! `cargo run --example many_images -- LIST FOLDER`, where LIST is a file with a line for each image.
//!
//! Use it for mirrors, caches and tests with many images, from two to any number. Layers that images share are fetched
//! once. What is in the layout is not fetched, so a second run fetches what the first one could not.

use std::process::ExitCode;

use anyhow::{Context, bail};
use longshore::{FetchOptions, Fetcher, ImageProxyConfig, ImageRequest, OciLayout};

const USAGE: &str = "usage: many_images LIST FOLDER [insecure]
LIST is a file with a line for each image, such as docker://quay.io/fedora/fedora:latest; # begins a comment.
`insecure` allows plain HTTP, for example for a registry on this machine.";

/// The images of a list. A request can also have a platform and a name in the layout.
fn requests(list: &str) -> Vec<ImageRequest> {
    let lines = list.lines().map(str::trim);
    let references = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    references.map(ImageRequest::new).collect()
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (list, folder, insecure) = match arguments.as_slice() {
        [list, folder] => (list, folder, false),
        [list, folder, word] if word == "insecure" => (list, folder, true),
        _ => bail!(USAGE),
    };
    let text = std::fs::read_to_string(list).with_context(|| format!("can't read {list}"))?;

    let config = ImageProxyConfig::default().insecure_skip_tls_verification(insecure);
    let fetcher = Fetcher::new(config, FetchOptions::default()).await?;
    // In the layout, the name of each image is its reference.
    let mut pulling = fetcher.pull_many(requests(&text), OciLayout::named_by_reference(folder));
    // Outcomes come in the order in which images are complete or have failed for good. The pull goes on while this loop
    // runs; while more than 64 are not taken, it waits. Dropping `pulling` stops everything.
    while let Some(pulled) = pulling.next().await {
        let reference = &pulled.request.reference;
        match pulled.images {
            // There are several images only if all platforms of an index were asked for.
            Ok(images) => {
                for image in images {
                    let (digest, layers) = (image.source_digest(), image.layers().len());
                    println!("{reference}: {digest}, {layers} layers");
                }
            }
            // `{:#}` adds the causes of the error.
            Err(error) => println!("{reference}: failed: {:#}", anyhow::Error::from(error)),
        }
    }
    // This is an error only if the layout can't be used at all.
    let pulled = pulling.finish().await?;
    println!(
        "{} bytes in {} blobs were fetched; failed images: {}",
        pulled.fetched_bytes, pulled.fetched_blobs, pulled.failed_images
    );
    Ok(match pulled.failed_images {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
