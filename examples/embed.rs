//! Computes a checksum of each layer of an image, of many layers at the same time.
//!
//! `cargo run --example embed -- docker://quay.io/fedora/fedora:latest`

use anyhow::Context;
use longshore::{FetchOptions, Fetcher, ImageProxyConfig};
use tokio::io::AsyncReadExt;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let reference = arguments.next().context("usage: embed IMAGE [insecure]")?;
    // A second argument "insecure" allows plain HTTP, for example for a registry on this machine.
    let insecure = arguments.next().is_some_and(|word| word == "insecure");
    let config = ImageProxyConfig::default().insecure_skip_tls_verification(insecure);

    let fetcher = Fetcher::new(config, FetchOptions::default()).await?;
    let image = fetcher.open(&reference).await?;
    let checksums = fetcher
        .for_each_layer(&image, |_layer, mut reader| async move {
            // Many of these run at the same time, each in a task of its own. A reader ends only if size and
            // digest were right. If a layer breaks off, the handler gets it again, from its start.
            let (mut buffer, mut sum) = (vec![0; 64 * 1024], 0_u32);
            while let n @ 1.. = reader.read(&mut buffer).await? {
                for byte in &buffer[..n] {
                    sum = sum.rotate_left(1) ^ u32::from(*byte);
                }
            }
            Ok::<_, std::io::Error>(sum)
        })
        .await?;
    for (layer, sum) in image.manifest().layers().iter().zip(checksums) {
        println!("{} {sum:08x}", layer.digest());
    }
    Ok(())
}
