//! The outcome of a pull, and how it is printed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use longshore::oci_spec::image::Descriptor;
use longshore::{Error, ImageContent, ImageRequest, IndexContent, Platforms, Pulled, printable};
use semver::Version;
use tokio::task::JoinHandle;

use super::args::{Destination, Form};
use super::failure::Failure;
use super::format::{bytes, counted, json_line, per_second};
use super::plan::Plan;
use super::report::{FailedReport, ImageReport, Report};
use super::say::print;
use super::warnings;

/// The outcome of a pull of one image or of many.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What was fetched. `None` if the pull has ended early.
    pub(super) pulled: Option<Pulled>,
    /// The digests of the foreign layers, for the report.
    foreign_layers: BTreeSet<String>,
    /// How many images were asked for, if there were many.
    pub(super) requested: usize,
    /// The plan, if this is a dry run.
    pub(super) plan: Option<Plan>,
    /// The number of requests whose images were pulled.
    pulled_requests: usize,
    images: Vec<ImageReport>,
    failed: Vec<FailedReport>,
    failures: Vec<Failure>,
    /// The failure of the output, after which nothing is printed.
    print_failure: Option<Failure>,
}

impl Outcome {
    /// Adds an image that failed.
    pub(super) fn fail(&mut self, request: ImageRequest, error: Error) {
        let platform = match &request.platforms {
            Platforms::Configured => None,
            Platforms::One(platform) => Some(platform.to_string()),
            Platforms::All => Some("all".to_owned()),
        };
        let failure = Failure::on("pull", &request.reference)(error);
        self.failed.push(FailedReport {
            image: request.reference,
            platform,
            error: failure.to_string(),
        });
        self.failures.push(failure);
    }

    /// Adds an image that failed, and returns the failure, which ends the pull.
    pub(super) fn fatal(&mut self, request: ImageRequest, error: Error) -> Failure {
        let failure = Failure::on("pull", &request.reference)(error.clone());
        self.fail(request, error);
        self.failures.pop();
        failure
    }

    /// Describes what became of the other images when the failure of one has ended the pull. `option` is what pulls them.
    pub(super) fn others(&self, form: Form, option: &str) -> String {
        let stopped = "stopped at the first failure";
        if self.plan.is_some() {
            return format!("{stopped}; {option} goes on with the others");
        }
        match form {
            Form::Layout => {
                let (pulled, requested) = (self.pulled_requests, self.requested);
                format!(
                    "{stopped}: {pulled} of {requested} images were pulled; {option} pulls the others"
                )
            }
            Form::Archive | Form::Folder => {
                format!("{stopped}, so nothing was written; {option} goes on with the others")
            }
        }
    }

    /// Whether no image has been pulled, and none has failed.
    pub(super) fn is_empty(&self) -> bool {
        self.pulled_requests == 0 && self.failures.is_empty()
    }

    /// Whether an image failed.
    pub(super) fn is_partial(&self) -> bool {
        !self.failures.is_empty()
    }

    /// The failures of images.
    pub(super) fn failures(&mut self) -> &mut Vec<Failure> {
        &mut self.failures
    }

    pub(super) fn into_failures(self) -> Vec<Failure> {
        self.failures
    }

    /// The failure of the command, if images failed.
    pub(super) fn failure(self) -> Option<Failure> {
        let (failures, requested) = (self.failures, self.requested);
        (!failures.is_empty()).then_some(Failure::Several {
            failures,
            requested,
        })
    }
}

/// The destination of the images, and how the outcome is printed.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) destination: Destination,
    pub(super) is_json: bool,
    /// Whether nothing but JSON is printed.
    pub(super) is_quiet: bool,
    pub(super) started: Instant,
}

impl Output {
    /// Adds the images of a request that were pulled, their index and their foreign layers, and prints them. Nothing
    /// is kept except what the report needs, because there may be many requests.
    pub(super) async fn add(
        &self,
        outcome: &mut Outcome,
        request: &ImageRequest,
        images: &[Arc<ImageContent>],
        index: Option<&IndexContent>,
        foreign_layers: &[Descriptor],
    ) {
        for layer in foreign_layers {
            warnings::of_foreign(&request.reference, layer);
            if self.is_json {
                let digest = layer.digest().to_string();
                outcome.foreign_layers.insert(digest);
            }
        }
        outcome.pulled_requests += 1;
        let mut lines = Vec::with_capacity(images.len() + 1);
        for content in images {
            if let Platforms::One(platform) = &request.platforms {
                let found = content.platform();
                warnings::of_platform(content.reference(), Some(platform), found.as_deref());
            }
            let report = ImageReport::of(&request.reference, content, index);
            if let Some(plan) = &mut outcome.plan {
                lines.push(plan.add(content, report));
                continue;
            }
            lines.push(image_lines(content));
            if self.is_json {
                outcome.images.push(report);
            }
        }
        lines.extend(index.map(|index| index_lines(index, outcome.plan.is_some())));
        if self.is_json || self.is_quiet || outcome.print_failure.is_some() {
            return;
        }
        outcome.print_failure = print(lines.concat()).await.err();
    }

    /// Prints the report, or the totals unless a failure has ended the pull.
    pub(super) async fn print(
        &self,
        outcome: &mut Outcome,
        pulled: &Pulled,
        version: Option<JoinHandle<longshore::Result<Version>>>,
        ended_by: Option<&Failure>,
    ) -> Result<(), Failure> {
        if let Some(version) = version {
            let version = version.await.map_err(anyhow::Error::from)?;
            let skopeo = version.ok().map(|version| version.to_string());
            let line = self.json(outcome, pulled, skopeo, ended_by.map(ToString::to_string));
            let line = line.map_err(anyhow::Error::from)?;
            return print(format!("{line}\n")).await;
        }
        if let Some(failure) = outcome.print_failure.take() {
            return Err(failure);
        }
        if self.is_quiet || ended_by.is_some() {
            return Ok(());
        }
        let totals = match &mut outcome.plan {
            Some(plan) => plan.totals(&self.destination, pulled),
            None => self.totals(outcome.requested, pulled),
        };
        print(totals).await
    }

    /// Formats the report of the pull, or of the dry run, as one line of JSON.
    fn json(
        &self,
        outcome: &mut Outcome,
        pulled: &Pulled,
        skopeo: Option<String>,
        error: Option<String>,
    ) -> serde_json::Result<String> {
        let Outcome {
            foreign_layers,
            images,
            failed,
            ..
        } = outcome;
        let (destination, started) = (&self.destination, self.started);
        match &mut outcome.plan {
            Some(plan) => json_line(&plan.report(
                destination,
                failed,
                pulled,
                foreign_layers,
                started,
                (skopeo, error),
            )),
            None => json_line(&Report::new(
                destination,
                (images, failed),
                pulled,
                foreign_layers,
                started,
                skopeo,
                error,
            )),
        }
    }

    /// Formats the totals for people.
    fn totals(&self, requested: usize, pulled: &Pulled) -> String {
        let time = self.started.elapsed();
        let mut parts = Vec::new();
        match (requested, pulled.failed_images) {
            (0 | 1, _) => {}
            (_, 0) => parts.push(counted(requested, "image")),
            (_, failed) => {
                let pulled = requested.saturating_sub(failed);
                parts.push(format!("{pulled} of {}", counted(requested, "image")));
            }
        }
        parts.push(format!(
            "{} fetched ({})",
            counted(pulled.fetched_blobs, "blob"),
            bytes(pulled.fetched_bytes)
        ));
        if pulled.reused_blobs > 0 {
            parts.push(format!("{} already there", pulled.reused_blobs));
        }
        match pulled.retries {
            0 => {}
            1 => parts.push("1 retry".into()),
            retries => parts.push(format!("{retries} retries")),
        }
        if let Some(rate) = per_second(pulled.fetched_bytes, time).filter(|rate| *rate > 0) {
            parts.push(format!("{}/s", bytes(rate)));
        }
        parts.push(format!("{:.1} s", time.as_secs_f64()));
        let destination = printable(&self.destination.to_string());
        format!("{destination}: {}\n", parts.join(", "))
    }
}

/// Formats a pulled image for people.
fn image_lines(content: &ImageContent) -> String {
    let (image, digest) = (content.reference(), content.source_digest());
    let line = format!("{}: {}\n", printable(image), digest);
    let stored = content.manifest_descriptor().digest();
    if stored == digest {
        return line;
    }
    format!("{line}  stored as {stored}: the manifest has another form at its source\n")
}

/// Formats an index for people. In a dry run, nothing is stored.
fn index_lines(index: &IndexContent, is_dry: bool) -> String {
    let (reference, digest) = (index.reference(), index.source_digest());
    let line = format!("{}: {digest} (index)\n", printable(reference));
    let stored = index.descriptor().digest();
    if stored == digest || is_dry {
        return line;
    }
    format!("{line}  stored as {stored}: its images have another form at their source\n")
}
