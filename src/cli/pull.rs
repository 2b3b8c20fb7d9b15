//! The command `longshore pull`.

use std::path::Path;
use std::time::Instant;

use longshore::{Fetcher, ImageProxyConfig, ImageRequest, OciLayout, Platforms, Pulled};

use super::advice::{advise, advised};
use super::args::{Form, PullArguments};
use super::failure::Failure;
use super::many::Many;
use super::outcome::{Outcome, Output};
use super::plan;
use super::progress::{ProgressOptions, Style};
use super::whole::Whole;
use super::{full_disk, warnings, within};

pub(crate) async fn run(
    arguments: PullArguments,
    config: ImageProxyConfig,
    verbose: bool,
) -> Result<(), Failure> {
    let started = Instant::now();
    let is_dry = arguments.dry_run;
    // A dry run fetches no layers, so it needs no further proxies.
    let options = arguments.options().start_ahead(!is_dry);
    let is_silent = arguments.quiet || arguments.json;
    let references = arguments.references().into_iter().map(str::to_owned);
    let progress = ProgressOptions {
        style: match arguments.progress {
            // JSON or events on the same terminal would mix with the picture.
            Style::Auto if is_silent || arguments.events_on_stdout() => Style::None,
            style => style,
        },
        is_dry,
        verbose,
        has_log: config.debug,
        images: references.collect(),
        retries: arguments.retries,
        events: arguments.events.clone(),
        timeline: (arguments.timeline.clone())
            .map(|target| (target, arguments.timeline_axis.unwrap_or_default())),
    };
    let (events, displaying) = progress.start().await?;
    let output = Output {
        destination: arguments.destination.clone(),
        is_json: arguments.json,
        is_quiet: arguments.quiet || arguments.events_on_stdout(),
        started,
    };
    let access = arguments.proxy.source.access();
    // skopeo is asked for its version during the pull, because that starts a process, which takes time.
    let version = (arguments.json).then(|| tokio::spawn(config.skopeo_version()));
    let mut outcome = Outcome::default();
    // Boxed, because the future is large.
    let pulling = Box::pin(async {
        let restricts = config.restricts_images();
        let fetcher = Box::pin(Fetcher::new(config, options)).await?;
        // This clone has no events. Otherwise, the events would not end with the pull.
        let looking = fetcher.clone();
        let fetcher = fetcher.with_events(events);
        let pulled = if is_dry {
            plan(arguments, fetcher, &output, &mut outcome).await
        } else {
            pull(arguments, fetcher, &output, &mut outcome).await
        };
        if pulled.is_ok() {
            let pulled = outcome.pulled.as_ref();
            warnings::of_policy(
                restricts,
                !pulled.is_some_and(|pulled| pulled.policy_unchecked),
            );
        }
        advise(outcome.failures(), &looking, access).await;
        advised(pulled, &looking, access).await
    });
    let (pulled, displayed) = tokio::join!(pulling, displaying);
    let pulled = match pulled {
        // Wrong usage that was found at once is the whole outcome, and there is no report of it.
        Err(failure @ Failure::Usage(_)) if outcome.is_empty() => {
            let mut others = displayed.failures;
            if let Some(last) = displayed.record {
                others.extend(last.write(Some(failure.to_string())).await.err());
            }
            return Err(failure.with_earlier(others));
        }
        pulled => pulled.map_err(Failure::not_usage),
    };
    let totals = match outcome.pulled.take() {
        Some(totals) => totals,
        // Each layer of a dry run counts as one that is there.
        None if is_dry => Pulled::default(),
        None => displayed.totals.pulled(),
    };
    let printed = output
        .print(&mut outcome, &totals, version, pulled.as_ref().err())
        .await;
    let mut failure = match pulled {
        Ok(()) => outcome.failure(),
        Err(failure) => Some(failure.with_earlier(outcome.into_failures())),
    };
    let destination = &output.destination;
    // An archive or a folder is removed when its pull fails, so that everything would have to be written again.
    if destination.form == Form::Layout
        && let Some(failure) = &mut failure
    {
        full_disk::advise(failure, &destination.path, displayed.unwritten).await;
    }
    let mut others = displayed.failures;
    others.extend(printed.err());
    if let Some(last) = displayed.record {
        let error = failure.as_ref().map(ToString::to_string);
        others.extend(last.write(error).await.err());
    }
    if let Some(failure) = failure {
        return Err(failure.with_earlier(others));
    }
    let complete = if is_dry { "the dry run" } else { "the pull" };
    let after_success = |failure: Failure| failure.after_success(complete);
    let mut others: Vec<Failure> = others.into_iter().map(after_success).collect();
    match others.pop() {
        Some(last) => Err(last.with_earlier(others)),
        None => Ok(()),
    }
}

/// Pulls the images to their destination.
async fn pull(
    arguments: PullArguments,
    fetcher: Fetcher,
    output: &Output,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let destination = &output.destination;
    match Whole::begin(destination).await? {
        None => pull_into(&destination.path, arguments, fetcher, output, outcome).await,
        Some(whole) => {
            let deadline = arguments.proxy.source.deadline;
            pull_into(&whole.layout(), arguments, fetcher, output, outcome).await?;
            let left = deadline.map(|all| all.saturating_sub(output.started.elapsed()));
            let is_partial = outcome.is_partial();
            if is_partial && whole.replaces_archive().await? {
                let (failed, requested) = (outcome.failures().len(), outcome.requested);
                let what = format!(
                    "can't write {destination}: {failed} of {requested} images failed, so the file stays as it was"
                );
                return Err(anyhow::Error::msg(what).into());
            }
            let finishing = Box::pin(async { Ok(whole.finish(is_partial).await) });
            let finished = within(left, finishing).await;
            finished.map_err(Failure::on("write", &destination.to_string()))?
        }
    }
}

/// Pulls one image, or an index with all its images, as a whole. Several images succeed or fail each on its own.
/// `folder` is that of the layout.
async fn pull_into(
    folder: &Path,
    mut arguments: PullArguments,
    fetcher: Fetcher,
    output: &Output,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let deadline = arguments.proxy.source.deadline;
    let Some(request) = arguments.take_single() else {
        let many = Many::of(arguments);
        let layout = many.layout(folder).await?;
        return many.pull(fetcher, layout, output, outcome).await;
    };
    let layout = match layout_of_one(&request, folder).await {
        Ok(layout) => layout,
        Err(error) => return Err(outcome.fatal(request, error).of_folder()),
    };
    let pulling = Box::pin(pull_one(&fetcher, &request, layout));
    let pulled = within(deadline, pulling).await;
    // The events end with the fetcher.
    drop(fetcher);
    match pulled {
        Ok(pulled) => {
            let (images, index) = (&pulled.images, pulled.index.as_ref());
            let foreign = &pulled.foreign_layers;
            output.add(outcome, &request, images, index, foreign).await;
            outcome.pulled = Some(pulled);
            Ok(())
        }
        Err(error) => Err(outcome.fatal(request, error)),
    }
}

async fn pull_one(
    fetcher: &Fetcher,
    request: &ImageRequest,
    layout: OciLayout,
) -> longshore::Result<Pulled> {
    let image = &*request.reference;
    if request.platforms == Platforms::All {
        let index = fetcher.open_index(image).await?;
        fetcher.pull_index(&index, layout).await
    } else {
        let opened = fetcher.open(image).await?;
        fetcher.pull(&opened, layout).await
    }
}

/// Returns the layout in this folder for a single image, if the image can go there.
async fn layout_of_one(request: &ImageRequest, folder: &Path) -> longshore::Result<OciLayout> {
    let layout = OciLayout::new(folder, request.name.clone());
    layout.check(&[&*request.reference]).await?;
    Ok(layout)
}

/// Finds out what a pull would fetch. Fails where the pull would fail before it fetches layers.
async fn plan(
    mut arguments: PullArguments,
    fetcher: Fetcher,
    output: &Output,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let destination = &output.destination;
    let folder = &destination.path;
    let (many, layout) = if destination.form != Form::Layout {
        Whole::check(destination).await?;
        (Many::of(arguments), None)
    } else if let Some(request) = arguments.take_single() {
        let layout = match layout_of_one(&request, folder).await {
            Ok(layout) => layout,
            Err(error) => return Err(outcome.fatal(request, error).of_folder()),
        };
        arguments.requests.push(request);
        (Many::of(arguments), Some(layout))
    } else {
        let many = Many::of(arguments);
        let layout = many.layout(folder).await?;
        (many, Some(layout))
    };
    let (survey, plan) = plan::survey(layout);
    outcome.plan = Some(plan);
    many.pull(fetcher, survey, output, outcome).await
}
