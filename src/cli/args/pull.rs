//! The arguments of `longshore pull`.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use longshore::{FetchOptions, ImageRequest, Platforms, Proxies, RetryPolicy};

use super::destination::Destination;
use super::proxy::ProxyArguments;
use super::reference::image_reference;
use super::values::{duration, rate};
use crate::cli::failure::Failure;
use crate::cli::list::{self, Shard};
use crate::cli::progress::Style;
use crate::cli::timeline::Target;

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(crate) struct PullArguments {
    /// The image: docker://HOST/NAME:TAG, oci:DIR:TAG, dir:DIR, oci-archive:FILE, docker-archive:FILE,
    /// containers-storage:NAME. Several images go into one layout, each under its own name
    #[arg(value_parser = image_reference, required_unless_present = "from", num_args = 1.., value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// The destination: oci:DIR[:TAG], an image layout that is created or added to. For several images, TAG
    /// is a template of {registry}, {repository}, {name} (the last part of the repository), {tag} and
    /// {platform}
    #[arg(value_name = "DEST", value_parser = OsStringValueParser::new().try_map(|text| Destination::parse(&text)))]
    pub(crate) destination: Destination,
    /// Also pull the images of a list. Each line names one image, optionally followed by
    /// platform=OS/ARCH[/VARIANT] or platform=all, and by name=NAME. # begins a comment; - is stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Pull only part I of N of all images, counted from 0. The name of an image determines its part
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<Shard>,
    /// When an image fails, go on with the others; the default for a list
    #[arg(long, conflicts_with = "strict")]
    pub(crate) keep_going: bool,
    /// When an image fails, stop; the default for images on the command line
    #[arg(long)]
    pub(crate) strict: bool,
    /// The platform to choose from a multi-platform index (linux/arm64, linux/arm/v7), or all of them, with
    /// the index. Default: this machine's. In a list, it applies to images without a platform of their own
    #[arg(long, value_name = "OS/ARCH[/VARIANT]|all")]
    pub(crate) platform: Option<Platforms>,
    /// Blobs in flight at once, over all proxies
    #[arg(long, value_name = "N", default_value_t = longshore::DEFAULT_WORKERS)]
    workers: NonZeroUsize,
    /// The number of skopeo processes: auto, N, or MIN-MAX. auto uses as many as make the pull faster, at
    /// most 16 for a registry. For docker.io, whose quota counts openings, it uses one for each image
    #[arg(long, value_name = "auto|N|MIN-MAX", default_value = "auto")]
    proxies: Proxies,
    /// How often to retry a blob that failed; 0 = never
    #[arg(long, alias = "retry-times", value_name = "N", default_value_t = RetryPolicy::default().retries)]
    pub(crate) retries: u32,
    /// The maximum number of bytes per second, over all blobs: 500K, 10M, 1G (powers of a thousand)
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<NonZeroU64>,
    /// How to show the progress: a picture on a terminal and lines elsewhere (auto), lines, events as JSON, or nothing
    #[arg(long, value_name = "STYLE", value_enum, default_value_t)]
    pub(crate) progress: Style,
    /// Write the events into this file, one JSON object a line; - is stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) events: Option<PathBuf>,
    /// Draw the pull into this file at its end, also if it fails: FILE.html is a page with a waterfall of all
    /// requests, FILE.svg its picture alone, FILE.json a trace for https://ui.perfetto.dev
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(|path| Target::parse(&path)))]
    pub(crate) timeline: Option<Target>,
    /// The least length of the time axis, so that the pictures of two pulls can be compared: 500ms, 10s, 2m
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "timeline")]
    pub(crate) timeline_axis: Option<Duration>,
    /// Print one JSON object at the end, and no progress
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
    /// All requests, once the list has been read.
    #[arg(skip)]
    pub(crate) requests: Vec<ImageRequest>,
}

impl PullArguments {
    /// The names of all images, once the list has been read.
    pub(crate) fn references(&self) -> Vec<&str> {
        let requests = self.requests.iter();
        requests.map(|request| &*request.reference).collect()
    }

    /// Whether the events go to stdout.
    pub(crate) fn events_on_stdout(&self) -> bool {
        self.events.as_deref() == Some(Path::new("-"))
    }

    /// Collects the requests from the command line and from the list. Blocks.
    pub(crate) fn read_list(&mut self) -> Result<(), Failure> {
        let given = self.images.iter().map(ImageRequest::new);
        let mut requests: Vec<ImageRequest> = given.collect();
        if let Some(path) = &self.from {
            if path == Path::new("-") && self.proxy.read_stdin() {
                let reason = "stdin can't be both the list and the credentials; use --creds-file";
                return Err(Failure::usage(reason.into()));
            }
            requests.extend(list::read(path)?);
        }
        if self.json && self.events_on_stdout() {
            let reason = "stdout can't have both the events and the report of --json";
            return Err(Failure::usage(reason.into()));
        }
        if let Some(shard) = self.shard {
            requests.retain(|request| shard.has(&request.reference));
        }
        let platforms = self.platform.clone().unwrap_or_default();
        for request in &mut requests {
            if request.platforms == Platforms::Configured {
                request.platforms = platforms.clone();
            }
        }
        let tag = self.destination.tag.as_deref();
        let template = tag.filter(|tag| list::is_template(tag));
        let is_one = self.from.is_none() && self.images.len() == 1;
        if tag.is_some() && template.is_none() && !is_one {
            let reason = "several images go into oci:DIR, each under its own name, or into \
                          oci:DIR:TEMPLATE, such as {name}-{tag}";
            return Err(Failure::usage(reason.into()));
        }
        self.requests = if is_one && template.is_none() {
            let named = |request: ImageRequest| match tag {
                Some(tag) => request.name(tag),
                None => request,
            };
            requests.into_iter().map(named).collect()
        } else {
            list::name_all(requests, template).map_err(Failure::usage)?
        };
        Ok(())
    }

    pub(crate) fn options(&self) -> FetchOptions {
        let retry = RetryPolicy::default().retries(self.retries);
        let options = FetchOptions::default();
        let options = options
            .proxies(self.proxies)
            .workers(self.workers)
            .retry(retry);
        match self.limit_rate {
            Some(rate) => options.limit_rate(rate),
            None => options,
        }
    }
}
