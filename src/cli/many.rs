//! The command `longshore pull` for many images, each of which succeeds or fails on its own.

use std::sync::Arc;
use std::time::Duration;

use longshore::{Fetcher, ImageRequest, OciLayout, Pulled, PulledImages};

use super::failure::Failure;
use super::outcome::{Outcome, Output};
use super::within;

/// The images to pull, and the options.
pub(super) struct Many {
    pub(super) requests: Vec<ImageRequest>,
    /// Whether the pull goes on when an image fails.
    pub(super) keeps_going: bool,
    pub(super) deadline: Option<Duration>,
}

impl Many {
    /// Pulls the images. Returns the failure that ended the pull. The failures of single images are added to `outcome`.
    pub(super) async fn pull(
        self,
        fetcher: Fetcher,
        output: &Output,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        outcome.requested = self.requests.len();
        let pulling = Box::pin(self.pull_each(fetcher, output, outcome));
        match within(self.deadline, pulling).await {
            Ok(Ok(pulled)) => {
                outcome.pulled = pulled;
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
        output: &Output,
        outcome: &mut Outcome,
    ) -> longshore::Result<Result<Pulled, Failure>> {
        let layout = Arc::new(OciLayout::named_by_reference(&output.destination.folder));
        let unnamed = (self.requests.iter()).filter(|request| request.name.is_none());
        let references: Vec<&str> = unnamed.map(|request| request.reference.as_str()).collect();
        layout.check(&references).await?;
        let mut pulling = fetcher.pull_many(self.requests.clone(), layout.clone());
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
                        return Ok(Err(outcome.fatal(request, error)));
                    }
                    outcome.fail(request, error);
                }
            }
        }
        pulling.finish().await.map(Ok)
    }
}
