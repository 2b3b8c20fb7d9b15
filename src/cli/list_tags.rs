//! The command `longshore list-tags`.

use longshore::{FetchOptions, ImageProxyConfig};
use serde::Serialize;

use super::advice::advised;
use super::args::ListTagsArguments;
use super::failure::Failure;
use super::format::json_line;
use super::open::{Opener, reporting_silence};
use super::say::print;
use super::within;

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    repository: &'a str,
    tags: Vec<String>,
}

pub(crate) async fn run(
    arguments: ListTagsArguments,
    config: ImageProxyConfig,
) -> Result<(), Failure> {
    let ListTagsArguments {
        repository,
        json,
        source,
    } = arguments;
    let failed = || Failure::on("list the tags of", &repository);
    let opener = within(
        source.deadline,
        Opener::new(config, FetchOptions::default()),
    );
    let Opener { fetcher, .. } = opener.await.map_err(failed())?;
    let listing = reporting_silence(fetcher.list_tags(&repository));
    let tags = within(source.deadline, listing).await;
    let tags = advised(tags.map_err(failed()), &fetcher, source.access()).await?;
    if json {
        let repository = &repository;
        let line = json_line(&Report { repository, tags }).map_err(anyhow::Error::from)?;
        return print(format!("{line}\n")).await;
    }
    print(tags.iter().flat_map(|tag| [tag, "\n"]).collect()).await
}
