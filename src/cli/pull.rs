//! The command `longshore pull`.

use std::time::Instant;

use longshore::{Fetcher, ImageProxyConfig, ImageRequest, OciLayout, Platforms, Pulled};

use super::args::{Destination, PullArguments};
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
        style: match arguments.progress {
            // JSON or events on the same terminal would mix with the picture.
            Style::Auto if is_silent || arguments.events_on_stdout() => Style::None,
            style => style,
        },
        verbose,
        has_log: config.debug,
        images: references.collect(),
        retries: arguments.retries,
        events: arguments.events.clone(),
        timeline: (arguments.timeline.clone())
            .map(|target| (target, arguments.timeline_axis.unwrap_or_default())),
    };
    let (events, seen) = showing.start().await?;
    let output = Output {
        destination: arguments.destination.clone(),
        is_json: arguments.json,
        is_quiet: arguments.quiet || arguments.events_on_stdout(),
        started,
    };
    // skopeo is asked for its version during the pull, because that starts a process, which takes time.
    let version = (arguments.json).then(|| tokio::spawn(config.skopeo_version()));
    let mut outcome = Outcome::default();
    // Boxed, because the future is large.
    let pulling = Box::pin(async {
        let restricts = config.restricts_images();
        let fetcher = Box::pin(Fetcher::new(config, options)).await?;
        let fetcher = fetcher.with_events(events);
        pull(arguments, fetcher, &output, &mut outcome).await?;
        warnings::of_policy(restricts, !outcome.pulled.policy_unchecked);
        Ok(())
    });
    let (pulled, seen) = tokio::join!(pulling, seen);
    let printed = output
        .print(&mut outcome, version, pulled.as_ref().err())
        .await;
    let failure = match pulled {
        Ok(()) => outcome.failure(),
        Err(failure) => Some(failure.with_earlier(outcome.into_failures())),
    };
    let mut others = seen.failures;
    others.extend(printed.err());
    if let Some(last) = seen.record {
        let error = failure.as_ref().map(ToString::to_string);
        others.extend(last.write(error).await.err());
    }
    if let Some(failure) = failure {
        return Err(failure.with_earlier(others));
    }
    let mut others: Vec<Failure> = others.into_iter().map(Failure::after_all).collect();
    match others.pop() {
        Some(last) => Err(last.with_earlier(others)),
        None => Ok(()),
    }
}

/// Pulls one image, or an index with all its images, as a whole. Several images succeed or fail each on its own.
async fn pull(
    arguments: PullArguments,
    fetcher: Fetcher,
    output: &Output,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
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
        let pulling = Box::pin(pull_one(&fetcher, &request, &output.destination));
        let pulled = within(deadline, pulling).await;
        // The events end with the fetcher.
        drop(fetcher);
        return match pulled {
            Ok(pulled) => {
                let (images, index) = (&pulled.images, pulled.index.as_ref());
                let foreign = &pulled.foreign_layers;
                output.add(outcome, &request, images, index, foreign).await;
                outcome.pulled = pulled;
                Ok(())
            }
            Err(error) => Err(outcome.fatal(request, error)),
        };
    }
    let many = Many {
        requests,
        keeps_going: keep_going || from.is_some() && !strict,
        deadline,
    };
    many.pull(fetcher, output, outcome).await
}

async fn pull_one(
    fetcher: &Fetcher,
    request: &ImageRequest,
    destination: &Destination,
) -> longshore::Result<Pulled> {
    let image = &*request.reference;
    let name = request.name.clone().or_else(|| destination.tag.clone());
    let layout = OciLayout::new(&destination.folder, name);
    layout.check(&[image]).await?;
    if request.platforms == Platforms::All {
        let index = fetcher.open_index(image).await?;
        fetcher.pull_index(&index, layout).await
    } else {
        let opened = fetcher.open(image).await?;
        fetcher.pull(&opened, layout).await
    }
}
