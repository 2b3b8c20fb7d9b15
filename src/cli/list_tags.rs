//! The command `longshore list-tags`.

use longshore::ImageProxyConfig;
use serde::Serialize;

use super::args::ListTagsArguments;
use super::failure::Failure;
use super::format::json_line;
use super::say::print;
use super::{open, within};

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
    let listing = async { open::fetcher(config).await?.list_tags(&repository).await };
    let tags = within(source.deadline, listing).await;
    let tags = tags.map_err(Failure::on("list the tags of", &repository))?;
    if json {
        let repository = &repository;
        let line = json_line(&Report { repository, tags }).map_err(anyhow::Error::from)?;
        return print(format!("{line}\n")).await;
    }
    print(tags.iter().flat_map(|tag| [tag, "\n"]).collect()).await
}
