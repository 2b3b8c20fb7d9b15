//! How to pull many images: a list, all platforms of an image, a mirror that is kept up to date.
//!
//! After this guide you can pull any number of images in bounded memory, learn the outcome of each, and continue
//! after an interruption.
//!
//! # Which method
//!
//! | you have | use | if one fails | visible in the sink |
//! | --- | --- | --- | --- |
//! | a few images that belong together | [`pull_all`](crate::Fetcher::pull_all) | the whole pull fails | together, at the end |
//! | all platforms of one image | [`pull_index`](crate::Fetcher::pull_index) | the whole pull fails | with the index, at the end |
//! | a list | [`pull_many`](crate::Fetcher::pull_many) | the others go on | each when it is complete |
//! | requests that come in over time | [`pull_stream`](crate::Fetcher::pull_stream) | the others go on | each when it is complete |
//!
//! If several images that are pulled at the same time name the same layer, each of these methods fetches it only once.
//! None of them fetches a layer that the sink has. [`Discard`](crate::Discard) never has one.
//!
//! # A list
//!
//! ```no_run
//! # async fn example() -> longshore::Result<()> {
//! use longshore::{FetchOptions, Fetcher, ImageProxyConfig, ImageRequest, OciLayout, Platforms};
//!
//! let fetcher = Fetcher::new(ImageProxyConfig::default(), FetchOptions::default()).await?;
//! let requests = [
//!     ImageRequest::new("docker://quay.io/podman/hello:latest"),
//!     ImageRequest::new("docker://quay.io/fedora/fedora:latest").platforms(Platforms::All).name("fedora"),
//! ];
//! let mut pulling = fetcher.pull_many(requests, OciLayout::named_by_reference("mirror"));
//! while let Some(done) = pulling.next().await {
//!     match &done.images {
//!         Ok(images) => println!("{}: {} images", done.request.reference, images.len()),
//!         Err(error) => println!("{}: {error}", done.request.reference),
//!     }
//! }
//! let pulled = pulling.finish().await?;
//! println!("{} of the requests failed, {} bytes came", pulled.failed_images, pulled.fetched_bytes);
//! # Ok(()) }
//! ```
//!
//! - Results come in the order in which requests are done. [`number`](crate::PulledImages::number) is the place in the list.
//! - An error of one request is in its result. An error of [`finish`](crate::PullMany::finish) concerns the whole pull:
//!   the sink can't be used, or the deadline has passed.
//! - If two requests have the same name in the sink, the one that is committed later replaces the other one. The
//!   command refuses such a list.
//! - If you drop the [`PullMany`](crate::PullMany), the pull stops. Images that were complete stay.
//!
//! # Requests that come in over time
//!
//! A request is anything that becomes an [`ImageRequest`](crate::ImageRequest), and a stream of requests can be a
//! channel. The stream is polled only when there is room for one more request. So a bounded channel makes its senders
//! wait (backpressure):
//!
//! ```no_run
//! use futures_util::stream;
//! use longshore::{Fetcher, ImageRequest, OciLayout, PullMany};
//! use tokio::sync::mpsc;
//!
//! fn serve(fetcher: &Fetcher, requests: mpsc::Receiver<ImageRequest>) -> PullMany {
//!     let requests = stream::unfold(requests, |mut requests| async move {
//!         let next = requests.recv().await?;
//!         Some((next, requests))
//!     });
//!     fetcher.pull_stream(requests, OciLayout::named_by_reference("mirror"))
//! }
//! ```
//!
//! # Bounds
//!
//! | what | bound |
//! | --- | --- |
//! | requests held at once, from the moment when they are taken until their result is taken | 65 |
//! | bytes of all documents of a request | [`max_documents_bytes`](crate::FetchOptions#structfield.max_documents_bytes), 64 MiB |
//! | blobs in flight | [`workers`](crate::FetchOptions#structfield.workers), 32 |
//! | proxies | [`proxies_per_host`](crate::FetchOptions#structfield.proxies_per_host), 16 for a registry, and not more than workers (except those that replace late ones) |
//!
//! While the known documents of all held requests together have `max_documents_bytes` or more, no further request is
//! taken. While more than 64 results are not taken, the pull waits, so take the results. A run of 1,000 images used 21
//! MiB of memory in this process (`benches/RESULTS.md`, *Many images*, 2026-11-28, 2 processors).
//!
//! # A failure affects only its own images
//!
//! An image that does not exist fails alone. A blob that one repository lacks is asked for at another one that names it. If a
//! registry refuses again and again, its images fail, and those of other registries go on. After a pause of a minute, that registry
//! is asked again.
//!
//! # All platforms of an image
//!
//! ```no_run
//! # async fn example(fetcher: longshore::Fetcher) -> longshore::Result<()> {
//! use longshore::OciLayout;
//!
//! let index = fetcher.open_index("docker://quay.io/fedora/fedora:latest").await?;
//! println!("{} images", index.images().len());
//! fetcher.pull_index(&index, OciLayout::new("fedora", Some("latest".into()))).await?;
//! # Ok(()) }
//! ```
//!
//! The index is stored byte for byte, so its digest stays the same. The exception: if skopeo converts one of the images
//! from a Docker format to OCI, the stored index names the converted manifests, and has another digest.
//!
//! The index must be at a registry. To list the platforms without opening them, use
//! [`fetch_source`](crate::Fetcher::fetch_source).
//!
//! # A mirror that is kept up to date
//!
//! Run the same list again. Blobs that the layout has are reused if their size matches; manifests are read anew, because a
//! tag may have moved. Whatever a killed run has completed stays. From time to time, compare all digests:
//!
//! ```no_run
//! # async fn example() -> longshore::Result<()> {
//! use longshore::{OciLayout, VerifyOptions};
//! use std::time::Duration;
//!
//! let layout = OciLayout::named_by_reference("mirror");
//! let verified = layout.verify(&VerifyOptions::default()).await?;
//! println!("{} blobs, {} damaged", verified.blobs, verified.damaged.len());
//! // What is damaged is removed, so that the next pull fetches it. This waits for running pulls, up to a minute.
//! let removed = layout.remove_damaged(&verified, Duration::from_secs(60)).await?;
//! println!("{} removed", removed.len());
//! # Ok(()) }
//! ```
//!
//! # On the command line
//!
//! ```text
//! longshore pull --from images.txt --json 'oci:mirror:{repository}-{tag}'
//! ```
//!
//! A line of `images.txt` names an image. After it, the line may have `platform=OS/ARCH` or `platform=all`, and it may
//! have `name=NAME`. `#` begins a comment. Exit code 1 means that at least one image failed; `--json` says which ones.
//! If one machine is not enough, see the guide [`fleet`](super::fleet).
