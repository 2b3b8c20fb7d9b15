//! The command `longshore pull` for many images, each of which succeeds or fails on its own.

use std::path::Path;
use std::time::Duration;

use longshore::{Fetcher, ImageRequest, OciLayout, Pulled, PulledImages, Sink};

use super::args::PullArguments;
use super::failure::Failure;
use super::outcome::{Outcome, Output};
use super::within;

/// The images to pull, and the options.
pub(super) struct Many {
    requests: Vec<ImageRequest>,
    /// Whether the pull goes on when an image fails.
    keeps_going: bool,
    /// What the user can type so that the pull goes on.
    to_go_on: &'static str,
    deadline: Option<Duration>,
}

impl Many {
    /// Makes a pull of many images from the command line.
    pub(super) fn of(arguments: PullArguments) -> Self {
        let is_list = arguments.from.is_some();
        Self {
            keeps_going: arguments.keep_going || is_list && !arguments.strict,
            to_go_on: match (arguments.strict, is_list) {
                (true, true) => "a pull without --strict",
                (true, false) => "--keep-going instead of --strict",
                (false, _) => "--keep-going",
            },
            deadline: arguments.proxy.source.deadline,
            requests: arguments.requests,
        }
    }

    /// Returns the layout in this folder for the images. Fails if the layout can't have one of them.
    pub(super) async fn layout(&self, folder: &Path) -> Result<OciLayout, Failure> {
        let layout = OciLayout::named_by_reference(folder);
        let unnamed = (self.requests.iter()).filter(|request| request.name.is_none());
        let references: Vec<&str> = unnamed.map(|request| request.reference.as_str()).collect();
        let checked = layout.check(&references).await;
        checked.map_err(|error| Failure::on("pull", "the images")(error).of_folder())?;
        Ok(layout)
    }

    /// Pulls the images into a sink. Returns the failure that ended the pull. The failures of single images are added to
    /// `outcome`.
    pub(super) async fn pull(
        self,
        fetcher: Fetcher,
        sink: impl Sink,
        output: &Output,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        outcome.requested = self.requests.len();
        let pulling = Box::pin(self.pull_each(fetcher, sink, output, outcome));
        match within(self.deadline, pulling).await {
            Ok(Ok(pulled)) => {
                outcome.pulled = Some(pulled);
                Ok(())
            }
            Ok(Err(failure)) => Err(failure),
            Err(error) => Err(Failure::on("pull", "the images")(error)),
        }
    }

    /// Pulls the images. The failure of an image is returned if it ends the pull. The events end with the fetcher.
    async fn pull_each(
        &self,
        fetcher: Fetcher,
        sink: impl Sink,
        output: &Output,
        outcome: &mut Outcome,
    ) -> longshore::Result<Result<Pulled, Failure>> {
        let mut pulling = fetcher.pull_many(self.requests.clone(), sink);
        while let Some(pulled) = pulling.next().await {
            let PulledImages {
                request,
                images,
                index,
                foreign_layers,
                ..
            } = pulled;
            match images {
                Ok(images) => {
                    let (index, foreign) = (index.as_ref(), &foreign_layers);
                    output.add(outcome, &request, &images, index, foreign).await;
                }
                Err(error) => {
                    if !self.keeps_going {
                        let failure = outcome.fatal(request, error);
                        if outcome.requested == 1 || !matches!(failure, Failure::Failed(_)) {
                            return Ok(Err(failure));
                        }
                        let others = outcome.others(output.destination.form, self.to_go_on);
                        return Ok(Err(failure.with_others(others)));
                    }
                    outcome.fail(request, error);
                }
            }
        }
        pulling.finish().await.map(Ok)
    }
}
