//! The command `longshore pull`.

use std::time::Instant;

use longshore::{Fetcher, ImageProxyConfig, ImageRequest, OciLayout, Platforms};

use super::args::PullArguments;
use super::failure::Failure;
use super::many::Many;
use super::outcome::{Outcome, Output};
use super::progress::{Showing, Style};
use super::{warnings, within};

pub(crate) async fn run(
    arguments: PullArguments,
    config: ImageProxyConfig,
    verbose: bool,
) -> Result<(), Failure> {
    let started = Instant::now();
    let options = arguments.options();
    let is_silent = arguments.quiet || arguments.json;
    let references = arguments.references().into_iter().map(str::to_owned);
    let showing = Showing {
        style: if is_silent {
            Style::None
        } else {
            arguments.progress
        },
        verbose,
        images: references.collect(),
        retries: arguments.retries,
        events: arguments.events.clone(),
        timeline: (arguments.timeline.clone())
            .map(|target| (target, arguments.timeline_axis.unwrap_or_default())),
    };
    let (events, shown) = showing.start().await?;
    let output = Output {
        destination: arguments.destination.clone(),
        is_json: arguments.json,
        is_quiet: arguments.quiet || arguments.events_on_stdout(),
        started,
    };
    // This runs during the pull, because it starts a process.
    let version = (arguments.json).then(|| tokio::spawn(config.skopeo_version()));
    // Boxed, because the future is large.
    let pulling = Box::pin(async {
        let restricts = config.restricts_images();
        let fetcher = Box::pin(Fetcher::new(config, options)).await?;
        let pulled = pull(arguments, fetcher.with_events(events), &output).await;
        if let Ok(outcome) = &pulled {
            warnings::of_policy(restricts, !outcome.pulled.policy_unchecked);
        }
        pulled
    });
    let (pulled, shown) = tokio::join!(pulling, shown);
    let result = match pulled {
        Ok(mut outcome) => {
            outcome.foreign_layers.iter().for_each(warnings::of_foreign);
            let printed = output.print(&mut outcome, version).await;
            match outcome.failure() {
                Some(failure) => Err(failure),
                None => printed.map_err(Failure::after_all),
            }
        }
        Err(failure) => Err(failure),
    };
    let recorded = match shown {
        Ok(Some(record)) => record.end(result.as_ref().err()),
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    match (result, recorded) {
        (Err(failure), Err(unrecorded)) => Err(failure.with_earlier(vec![unrecorded])),
        (Err(failure), Ok(())) => Err(failure),
        (Ok(()), recorded) => recorded.map_err(Failure::after_all),
    }
}

/// Pulls one image, or an index with all its images, as a whole; and many images each on its own.
async fn pull(
    arguments: PullArguments,
    fetcher: Fetcher,
    output: &Output,
) -> Result<Outcome, Failure> {
    let PullArguments {
        mut requests,
        from,
        shard,
        keep_going,
        strict,
        proxy,
        ..
    } = arguments;
    let deadline = proxy.source.deadline;
    let is_alone = from.is_none() && shard.is_none() && !keep_going && requests.len() == 1;
    if is_alone && let Some(request) = requests.pop() {
        let on = Failure::on("pull", &request.reference);
        let pulling = Box::pin(pull_one(&fetcher, &request, output));
        let outcome = within(deadline, pulling).await.map_err(on)?;
        // The events end with the fetcher.
        drop(fetcher);
        return Ok(outcome);
    }
    let many = Many {
        requests,
        keeps_going: keep_going || from.is_some() && !strict,
        deadline,
    };
    many.pull(fetcher, output).await
}

async fn pull_one(
    fetcher: &Fetcher,
    request: &ImageRequest,
    output: &Output,
) -> longshore::Result<Outcome> {
    let image = &*request.reference;
    let destination = &output.destination;
    let name = request.name.clone().or_else(|| destination.tag.clone());
    let layout = OciLayout::new(&destination.folder, name);
    layout.check(&[image]).await?;
    let pulled = if request.platforms == Platforms::All {
        let index = fetcher.open_index(image).await?;
        fetcher.pull_index(&index, layout).await?
    } else {
        let opened = fetcher.open(image).await?;
        fetcher.pull(&opened, layout).await?
    };
    let mut outcome = Outcome::default();
    let (images, index) = (&pulled.images, pulled.index.as_ref());
    let platforms = &request.platforms;
    output.add(&mut outcome, images, index, platforms).await;
    outcome.foreign_layers.clone_from(&pulled.foreign_layers);
    outcome.pulled = pulled;
    Ok(outcome)
}
