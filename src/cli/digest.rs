//! The command `longshore digest`.

use longshore::{FetchOptions, ImageProxyConfig, SourceDocument};
use serde::Deserialize;

use super::args::DigestArguments;
use super::failure::Failure;
use super::say::print;
use super::{open, warnings, within};

pub(crate) async fn run(
    arguments: DigestArguments,
    config: ImageProxyConfig,
) -> Result<(), Failure> {
    let DigestArguments {
        image: reference,
        platform,
        proxy,
    } = arguments;
    let deadline = proxy.source.deadline;
    let failed = Failure::on("find the digest of", &reference);
    let digest = match &platform {
        None => {
            let source = async { open::fetcher(config).await?.fetch_source(&reference).await };
            let source = within(deadline, source).await.map_err(failed)?;
            check_form(&source)?;
            source.digest().clone()
        }
        Some(platform) => {
            let opened = async {
                let options = FetchOptions::default();
                let (fetcher, image) = open::image(config, options, &reference).await?;
                // The config says for which platform the image is.
                let content = fetcher.content(&image).await?;
                Ok((image.digest().clone(), content.platform()))
            };
            let (digest, found) = within(deadline, opened).await.map_err(failed)?;
            warnings::of_platform(&reference, Some(platform), found.as_deref());
            digest
        }
    };
    print(format!("{digest}\n")).await
}

/// Returns a failure for a manifest whose registry leaves its signatures out of the digest.
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
