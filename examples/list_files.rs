//! Lists the files in all layers of an image, without storing anything.
//!
//! `cargo run --example list_files -- docker://quay.io/fedora/fedora:latest`

use anyhow::Context;
use longshore::{FetchOptions, Fetcher, ImageProxyConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let reference = arguments
        .next()
        .context("usage: list_files IMAGE [insecure]")?;
    // A second argument "insecure" allows plain HTTP, for example for a registry on this machine.
    let insecure = arguments.next().is_some_and(|word| word == "insecure");
    let config = ImageProxyConfig::default().insecure_skip_tls_verification(insecure);

    let fetcher = Fetcher::new(config, FetchOptions::default()).await?;
    let image = fetcher.open(&reference).await?;
    let listings = fetcher
        // The tar library reads synchronously, so it runs on blocking threads.
        .for_each_layer_uncompressed_blocking(&image, |_layer, reader| {
            let mut paths = Vec::new();
            for entry in tar::Archive::new(reader).entries()? {
                paths.push(entry?.path()?.into_owned());
            }
            Ok::<_, anyhow::Error>(paths)
        })
        .await?;
    for (layer, paths) in image.manifest().layers().iter().zip(listings) {
        println!("{}", layer.digest());
        for path in paths {
            println!("    {}", path.display());
        }
    }
    Ok(())
}
