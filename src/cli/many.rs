//! The command `longshore pull` for many images, each of which succeeds or fails on its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::oci_spec::image::Descriptor;
use longshore::{
    Error, Fetcher, ImageContent, ImageRequest, OciLayout, Platforms, Pulled, PulledImages,
};
use semver::Version;
use tokio::task::JoinHandle;

use super::failure::Failure;
use super::format::json_line;
use super::pull::{of_image, of_index, totals};
use super::report::{FailedReport, ImageReport, ImageReports, Report};
use super::say::print;
use super::{warnings, within};

/// The images to pull, and the options.
pub(super) struct Many {
    pub(super) requests: Vec<ImageRequest>,
    pub(super) folder: PathBuf,
    /// Whether the pull goes on when an image fails.
    pub(super) keeps_going: bool,
    pub(super) json: bool,
    pub(super) quiet: bool,
    pub(super) deadline: Option<Duration>,
}

/// The results of all images so far.
#[derive(Default)]
struct Results {
    reports: Vec<ImageReport>,
    failures: Vec<Failure>,
    failed: Vec<FailedReport>,
    foreign_layers: Vec<Descriptor>,
}

impl Many {
    pub(super) async fn pull(
        self,
        fetcher: Fetcher,
        started: Instant,
        restricts: bool,
        showing: impl Future<Output = Result<(), Failure>>,
        version: Option<JoinHandle<longshore::Result<Version>>>,
    ) -> Result<(), Failure> {
        let mut results = Results::default();
        let count = self.requests.len();
        let pulling = within(self.deadline, self.pull_each(fetcher, &mut results));
        let (pulled, shown) = tokio::join!(pulling, showing);
        let pulled = match pulled {
            Ok(Some(pulled)) => pulled,
            // The pull was stopped at the first failure.
            Ok(None) => {
                return Err(results.failures.pop().unwrap_or(Failure::Several {
                    failures: Vec::new(),
                    of: count,
                }));
            }
            Err(error) => {
                let failure = Failure::on("pull", "the images")(error);
                return Err(failure.with_earlier(results.failures));
            }
        };
        warnings::of_policy(restricts, !pulled.policy_unchecked);
        results.foreign_layers.iter().for_each(warnings::of_foreign);
        if let Some(version) = version {
            let version = version.await.map_err(anyhow::Error::from)?;
            let skopeo = version.ok().map(|version| version.to_string());
            let images = ImageReports::Several {
                images: results.reports,
            };
            let failed = Some(results.failed);
            let foreign = &results.foreign_layers;
            let report = Report::new(images, failed, &pulled, foreign, started, skopeo);
            let line = json_line(&report).map_err(anyhow::Error::from)?;
            let printed = print(format!("{line}\n")).await;
            printed.map_err(Failure::after_all)?;
        } else if !self.quiet {
            let printed = print(totals(&pulled, started)).await;
            printed.map_err(Failure::after_all)?;
        }
        if results.failures.is_empty() {
            return shown.map_err(Failure::after_all);
        }
        Err(Failure::Several {
            failures: results.failures,
            of: count,
        })
    }

    /// Pulls the images. `None` if the pull was stopped at a failure. The events end with the fetcher.
    async fn pull_each(
        &self,
        fetcher: Fetcher,
        results: &mut Results,
    ) -> longshore::Result<Option<Pulled>> {
        let layout = Arc::new(OciLayout::named_by_reference(&self.folder));
        let unnamed = (self.requests.iter()).filter(|request| request.name.is_none());
        let references: Vec<&str> = unnamed.map(|request| request.reference.as_str()).collect();
        layout.check(&references).await?;
        let mut pulling = fetcher.pull_many(self.requests.clone(), layout.clone());
        while let Some(pulled) = pulling.next().await {
            let has_failed = pulled.images.is_err();
            self.take(pulled, results).await?;
            if has_failed && !self.keeps_going {
                return Ok(None);
            }
        }
        pulling.finish().await.map(Some)
    }

    async fn take(&self, pulled: PulledImages, results: &mut Results) -> longshore::Result<()> {
        let PulledImages {
            request,
            images,
            index,
            foreign_layers,
            ..
        } = pulled;
        results.foreign_layers.extend(foreign_layers);
        match images {
            Ok(images) => {
                for content in &images {
                    warn_of_platform(content, &request.platforms);
                    if self.json {
                        results.reports.push(ImageReport::of(content));
                    } else if !self.quiet {
                        let printed = print(of_image(content)).await;
                        printed.map_err(|_| Error::Cancelled)?;
                    }
                }
                if let Some(index) = index.filter(|_| !self.json && !self.quiet) {
                    let printed = print(of_index(&index)).await;
                    printed.map_err(|_| Error::Cancelled)?;
                }
            }
            Err(error) => {
                let platform = match &request.platforms {
                    Platforms::Configured => None,
                    Platforms::One(platform) => Some(platform.to_string()),
                    Platforms::All => Some("all".to_owned()),
                };
                let failure = Failure::on("pull", &request.reference)(error);
                results.failed.push(FailedReport {
                    image: request.reference,
                    platform,
                    error: failure.to_string(),
                });
                results.failures.push(failure);
            }
        }
        Ok(())
    }
}

fn warn_of_platform(content: &ImageContent, platforms: &Platforms) {
    if let Platforms::One(platform) = platforms {
        let found = content.platform();
        warnings::of_platform(content.reference(), Some(platform), found.as_deref());
    }
}
