//! Talks to one skopeo, call by call: opens an image, and reads its manifest, its config and its layers.
//!
//! `cargo run --example image_proxy -- docker://quay.io/fedora/fedora:latest`
//!
//! Use it where you want to decide yourself what is asked and when. For whole images, `Fetcher` is faster and does
//! more: it uses several skopeos at once, and retries what failed (`embed.rs`).

use anyhow::{Context, bail};
use longshore::{ImageProxy, ImageProxyConfig};
use tokio::io::AsyncReadExt;

const USAGE: &str = "usage: image_proxy IMAGE [insecure]
IMAGE is for example docker://quay.io/fedora/fedora:latest or oci:FOLDER:TAG.
`insecure` allows plain HTTP, for example for a registry on this machine.";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (reference, insecure) = match arguments.as_slice() {
        [reference] => (reference, false),
        [reference, word] if word == "insecure" => (reference, true),
        _ => bail!(USAGE),
    };
    let config = ImageProxyConfig::default().insecure_skip_tls_verification(insecure);

    // Starts `skopeo experimental-image-proxy` with one end of a socket pair as its stdin, and asks which version of
    // the protocol it speaks. If anything fails from here on, `?` drops the last handle, which ends skopeo.
    let proxy = ImageProxy::new_with_config(config).await?;
    println!("protocol {}", proxy.protocol_version());

    // Sends one packet with the reference. skopeo finds the registry or its mirrors, logs in, fetches the manifest,
    // checks the signature policy, and answers with a number, which is in `image`.
    let image = proxy.open_image(reference).await?;

    // The answer is the manifest's digest and one end of a pipe, through which the manifest comes. If the
    // image is an index, this is the manifest for this machine. `FinishPipe` then asks skopeo to close its end.
    let (digest, manifest) = proxy.fetch_manifest(&image).await?;
    println!("manifest {digest}");

    // The config comes in the same way. skopeo has checked its digest.
    let config = proxy.fetch_config(&image).await?;
    println!("platform {}/{}", config.os(), config.architecture());

    for layer in manifest.layers() {
        // skopeo asks the registry for the blob, and answers when the registry answers. Until then, it answers no
        // other call. The answer contains the read end of a pipe for the bytes, and of a second pipe for an error.
        // (Before skopeo 1.19, there is only the first pipe.)
        let mut blob = proxy.get_descriptor(&image, layer).await?;

        // The bytes come through the pipe, beside the socket. The proxy is free for other calls, so many blobs can be
        // read at the same time. Bytes are not to be trusted before `finish`.
        let mut buffer = vec![0; 64 * 1024];
        let mut bytes = 0;
        while let n @ 1.. = (blob.read(&mut buffer).await)
            .with_context(|| format!("can't read layer {}", layer.digest()))?
        {
            bytes += n; // Here your program uses `buffer[..n]`.
        }

        // Reads what is left, here nothing, and returns an error unless size and digest are right and skopeo saw no
        // error. To abandon a blob, drop it instead. That closes the pipe, and skopeo 1.19 or
        // later ends the transfer.
        blob.finish().await?;
        println!("layer {} has {bytes} bytes", layer.digest());
    }

    // Sends one packet with the image's number. Dropping `image` also sends the packet, but returns no error.
    proxy.close_image(image).await?;

    // Sends the last packet, which tells skopeo to exit. An error here says how skopeo exited: its status, and the last
    // lines of its stderr.
    proxy.finalize().await?;
    Ok(())
}
