//! An async server that pulls images into an OCI layout for its clients, many at once:
//! `GET /pull?image=docker://quay.io/fedora/fedora:latest` answers with the digests of the layers.
//!
//! `cargo run --example async_server -- ADDRESS FOLDER`

use std::path::PathBuf;

use anyhow::Context;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use longshore::{Error, FetchOptions, Fetcher, ImageProxyConfig, OciLayout};
use serde::Deserialize;
use tokio::net::TcpListener;

const USAGE: &str = "usage: async_server ADDRESS FOLDER [insecure]";

/// The state that all requests share. A clone of the fetcher is cheap.
#[derive(Clone)]
struct Server {
    fetcher: Fetcher,
    folder: PathBuf,
}

#[derive(Deserialize)]
struct PullQuery {
    image: String,
}

/// Pulls an image. axum drops this future when its client disconnects. That ends the pull: its skopeo processes end,
/// and the layout keeps the complete blobs.
async fn pull(
    State(server): State<Server>,
    Query(query): Query<PullQuery>,
) -> Result<String, (StatusCode, String)> {
    let pulling = async {
        let image = server.fetcher.open(&query.image).await?;
        let layout = OciLayout::new(&server.folder, None);
        server.fetcher.pull(&image, layout).await?;
        Ok(image.manifest().clone())
    };
    let manifest = pulling.await.map_err(|error: Error| {
        let reason = format!("{:#}\n", anyhow::Error::from(error));
        (StatusCode::BAD_GATEWAY, reason)
    })?;
    let layers = manifest.layers().iter();
    let digests: Vec<&str> = layers.map(|layer| layer.digest().as_ref()).collect();
    Ok(digests.join("\n"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context(USAGE)?;
    let folder = arguments.next().context(USAGE)?.into();
    // A third argument "insecure" allows plain HTTP, for example for a registry on this machine.
    let insecure = arguments.next().is_some_and(|word| word == "insecure");
    let config = ImageProxyConfig::default().insecure_skip_tls_verification(insecure);
    let fetcher = Fetcher::new(config, FetchOptions::default()).await?;

    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    let routes = Router::new().route("/pull", get(pull));
    axum::serve(listener, routes.with_state(Server { fetcher, folder })).await?;
    Ok(())
}
