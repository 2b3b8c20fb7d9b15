//! The command `longshore inspect`.

mod image;
mod platforms;

use longshore::{FetchOptions, ImageProxyConfig};

use super::args::{InspectArguments, Shown};
use super::failure::Failure;
use super::say::{print, print_document};
use super::{open, warnings, within};

pub(crate) async fn run(
    arguments: InspectArguments,
    config: ImageProxyConfig,
) -> Result<(), Failure> {
    let (shown, platform) = (arguments.shown(), arguments.one_platform().cloned());
    let InspectArguments {
        image: reference,
        json,
        proxy,
        ..
    } = arguments;
    let deadline = proxy.source.deadline;
    let failed = || Failure::on("inspect", &reference);
    match shown {
        Shown::Raw | Shown::Platforms => {
            let source = async { open::fetcher(config).await?.fetch_source(&reference).await };
            let source = within(deadline, source).await.map_err(failed())?;
            if shown == Shown::Raw {
                return print_document(source.into_raw()).await;
            }
            let entries = source.entries().map_err(failed())?;
            print(platforms::text(&source, entries, json)?).await
        }
        Shown::Image | Shown::Manifest | Shown::Config => {
            let fetched = async {
                let options = FetchOptions::default();
                let (fetcher, image) = open::image(config, options, &reference).await?;
                // The config says for which platform the image is.
                let content = fetcher.content(&image).await?;
                let document = match shown {
                    Shown::Manifest => Some(fetcher.source_manifest(&image).await?),
                    Shown::Config => Some(fetcher.source_config(&image).await?),
                    _ => None,
                };
                Ok((content, document))
            };
            let (content, document) = within(deadline, fetched).await.map_err(failed())?;
            let found = content.platform();
            warnings::of_platform(&reference, platform.as_ref(), found.as_deref());
            match document {
                Some(document) => print_document(document).await,
                None => print(image::text(&reference, &content, json)?).await,
            }
        }
    }
}
