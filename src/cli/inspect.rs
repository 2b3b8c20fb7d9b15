//! The command `longshore inspect`.

mod image;
mod platforms;

use longshore::{FetchOptions, ImageProxyConfig};

use super::advice::advised;
use super::args::{InspectArguments, InspectOutput};
use super::failure::Failure;
use super::open::{Opener, reporting_silence};
use super::say::{print, print_document};
use super::{warnings, within};

pub(crate) async fn run(
    arguments: InspectArguments,
    config: ImageProxyConfig,
) -> Result<(), Failure> {
    let (output, platform) = (arguments.output(), arguments.one_platform().cloned());
    let InspectArguments {
        image: reference,
        json,
        proxy,
        ..
    } = arguments;
    let (deadline, access) = (proxy.source.deadline, proxy.source.access());
    let failed = || Failure::on("inspect", &reference);
    let opener = within(deadline, Opener::new(config, FetchOptions::default()));
    let opener = opener.await.map_err(failed())?;
    let fetcher = &opener.fetcher;
    match output {
        InspectOutput::Raw | InspectOutput::Platforms => {
            let reading = reporting_silence(fetcher.fetch_source(&reference));
            let source = within(deadline, reading).await;
            let source = advised(source.map_err(failed()), fetcher, access).await?;
            if output == InspectOutput::Raw {
                return print_document(source.into_raw()).await;
            }
            let entries = source.entries().map_err(failed())?;
            print(platforms::text(&source, entries, json)?).await
        }
        InspectOutput::Image | InspectOutput::Manifest | InspectOutput::Config => {
            let look = async {
                let image = opener.open(&reference).await?;
                // The config says for which platform the image is.
                let content = reporting_silence(fetcher.content(&image)).await?;
                let document = match output {
                    InspectOutput::Manifest => Some(fetcher.source_manifest(&image).await?),
                    InspectOutput::Config => Some(fetcher.source_config(&image).await?),
                    _ => None,
                };
                Ok((content, document))
            };
            let found = within(deadline, look).await.map_err(failed());
            let (content, document) = advised(found, fetcher, access).await?;
            let found = content.platform();
            warnings::of_platform(&reference, platform.as_ref(), found.as_deref());
            match document {
                Some(document) => print_document(document).await,
                None => print(image::text(&reference, &content, json)?).await,
            }
        }
    }
}
