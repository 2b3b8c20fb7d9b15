//! The command `longshore digest`.

use longshore::{FetchOptions, ImageProxyConfig, SourceDocument};
use serde::Deserialize;

use super::advice::advised;
use super::args::DigestArguments;
use super::failure::Failure;
use super::open::{Opener, reporting_silence};
use super::say::print;
use super::{warnings, within};

pub(crate) async fn run(
    arguments: DigestArguments,
    config: ImageProxyConfig,
) -> Result<(), Failure> {
    let DigestArguments {
        image: reference,
        platform,
        proxy,
    } = arguments;
    let (deadline, access) = (proxy.source.deadline, proxy.source.access());
    let failed = || Failure::on("find the digest of", &reference);
    let opener = within(deadline, Opener::new(config, FetchOptions::default()));
    let opener = opener.await.map_err(failed())?;
    let fetcher = &opener.fetcher;
    let digest = match &platform {
        None => {
            let reading = reporting_silence(fetcher.fetch_source(&reference));
            let source = within(deadline, reading).await;
            let source = advised(source.map_err(failed()), fetcher, access).await?;
            check_form(&source)?;
            source.digest().clone()
        }
        Some(platform) => {
            let look = async {
                let image = opener.open(&reference).await?;
                // The config says for which platform the image is.
                let content = reporting_silence(fetcher.content(&image)).await?;
                Ok((image.digest().clone(), content.platform()))
            };
            let found = within(deadline, look).await.map_err(failed());
            let (digest, found) = advised(found, fetcher, access).await?;
            warnings::of_platform(&reference, Some(platform), found.as_deref());
            digest
        }
    };
    print(format!("{digest}\n")).await
}

/// Returns a failure for a signed Docker manifest of schema 1. The digest of such a manifest leaves out the signatures,
/// so it is not that of all its bytes.
fn check_form(source: &SourceDocument) -> Result<(), Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Form {
        schema_version: u64,
        #[serde(default)]
        signatures: Vec<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice::<Form>(source.raw()) {
        Ok(form) if form.schema_version == 1 && !form.signatures.is_empty() => {
            let image = source.reference();
            Err(anyhow::anyhow!(
                "{image} has a signed Docker manifest of schema 1, whose digest is not that of its bytes; such an \
                 image can't be pulled either, so push it anew with a current tool"
            )
            .into())
        }
        _ => Ok(()),
    }
}
