//! The arguments of `longshore pull`.

use std::fs;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueHint};
use longshore::{FetchOptions, ImageRequest, Platforms, Proxies, RetryPolicy};

use super::destination::{Destination, Form, folder_of};
use super::headings::{IMAGES, LIMITS, OUTPUT, SPEED};
use super::proxy::ProxyArguments;
use super::reference::image_reference;
use super::values::{count, count_or_none, duration, platforms, rate};
use crate::cli::failure::Failure;
use crate::cli::list::{self, Shard};
use crate::cli::progress::Style;
use crate::cli::timeline::Target;

const EXAMPLES: &str = "\
Examples:
  longshore pull docker://quay.io/fedora/fedora:latest oci:fedora:latest
  longshore pull --platform all docker://quay.io/fedora/fedora:latest oci:fedora
  longshore pull docker://quay.io/fedora/fedora:latest oci-archive:fedora.tar
  longshore pull --from images.txt --limit-rate 10M oci:mirror";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(crate) struct PullArguments {
    /// Images, such as docker://HOST/NAME:TAG
    ///
    /// An image is docker://HOST/NAME:TAG, oci:DIR:TAG, dir:DIR, oci-archive:FILE, docker-archive:FILE or
    /// containers-storage:NAME. Several images go into one layout, each under its own name.
    #[arg(value_parser = image_reference, required_unless_present = "from", num_args = 1.., value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
    /// oci:DIR[:TAG], oci-archive:FILE[:TAG] or dir:DIR
    ///
    /// oci:DIR is an OCI image layout, which is created or added to. oci-archive:FILE is such a layout in a tar
    /// archive, which is replaced. dir:DIR is skopeo's folder of a single image; DIR must be empty or not exist
    /// yet, and must not be the current folder. Archive and folder appear when they are complete. If an image of a
    /// list fails, an archive that exists already is not changed; if there is none yet, the new archive contains
    /// the other images.
    ///
    /// TAG names the image. For several images, it is a template of {registry}, {repository}, {name} (the last part of
    /// the repository), {tag} and {platform}. Without TAG, a single image gets no name, and several images are named by
    /// their references.
    ///
    /// For another destination, copy the image from the layout: skopeo copy oci:DIR:TAG containers-storage:NAME,
    /// skopeo copy oci:DIR:TAG docker-archive:FILE:NAME:TAG, or skopeo copy oci:DIR:TAG docker-daemon:NAME:TAG.
    #[arg(value_name = "DEST", value_parser = OsStringValueParser::new().try_map(|text| Destination::parse(&text)))]
    pub(crate) destination: Destination,
    /// Also pull the images that FILE lists
    ///
    /// Each line names one image, optionally followed by platform=OS/ARCH[/VARIANT] or platform=all, and by
    /// name=NAME. # begins a comment. "-" is stdin.
    #[arg(long, value_name = "FILE", help_heading = IMAGES)]
    pub(crate) from: Option<PathBuf>,
    /// Pull only part I of N, counted from 0
    ///
    /// The reference of an image determines its part, so that N machines with the same list pull each image once.
    #[arg(long, value_name = "I/N", help_heading = IMAGES)]
    pub(crate) shard: Option<Shard>,
    /// Go on when an image fails
    ///
    /// This is the default for a list.
    #[arg(long, conflicts_with = "strict", help_heading = IMAGES)]
    pub(crate) keep_going: bool,
    /// Stop when an image fails
    ///
    /// This is the default for images on the command line.
    #[arg(long, help_heading = IMAGES)]
    pub(crate) strict: bool,
    /// Platform to choose from an index, or all
    ///
    /// A platform is OS/ARCH[/VARIANT], such as linux/arm64 or linux/arm/v7. "all" takes every platform, and the index.
    /// Default: this machine's platform. In a list, this option applies to images without a platform of their own.
    #[arg(long, value_name = "PLATFORM", value_parser = platforms, help_heading = IMAGES)]
    pub(crate) platform: Option<Platforms>,
    /// Only print what would be fetched
    ///
    /// The images are opened, and their manifests and configs are fetched, but no layers. Nothing is written, and no
    /// folder is made.
    #[arg(long, conflicts_with_all = ["events", "timeline", "progress"], help_heading = OUTPUT)]
    pub(crate) dry_run: bool,
    /// How to show progress
    ///
    /// auto: a picture on a terminal, and lines elsewhere. plain: lines; the total at most once a second. json: the
    /// events on stderr, one JSON object a line. none: nothing.
    #[arg(long, value_name = "STYLE", value_enum, default_value_t, hide_possible_values = true, help_heading = OUTPUT)]
    pub(crate) progress: Style,
    /// Write the events into FILE; - is stdout
    ///
    /// An event is one JSON object on a line of its own.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(crate) events: Option<PathBuf>,
    /// Draw the pull: a .html, .svg or .json file
    ///
    /// The file is written at the end of the pull, also if it fails. FILE.html is a page with a waterfall of all
    /// requests, FILE.svg its picture alone, FILE.json a trace for https://ui.perfetto.dev.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = OsStringValueParser::new().try_map(|path| Target::parse(&path)), help_heading = OUTPUT)]
    pub(crate) timeline: Option<Target>,
    /// Minimum length of the time axis
    ///
    /// The pictures of two pulls can be compared if this length is the same, and neither pull takes longer. The length
    /// is 500ms, 10s or 2m, for example. Default: the time of the pull.
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "timeline", help_heading = OUTPUT)]
    pub(crate) timeline_axis: Option<Duration>,
    /// Print one JSON object at the end
    ///
    /// No progress is shown then, unless --progress is plain or json.
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,
    /// Print only errors and warnings
    #[arg(short, long, help_heading = OUTPUT)]
    pub(crate) quiet: bool,
    /// Blobs fetched at the same time
    ///
    /// The number is for all skopeo processes together.
    #[arg(long, value_name = "N", default_value_t = longshore::DEFAULT_WORKERS, value_parser = count, help_heading = SPEED)]
    workers: NonZeroUsize,
    /// Number of skopeo processes; default: auto
    ///
    /// "auto" uses as many processes as make the pull faster, at most 16 for a registry. For docker.io, whose quota
    /// counts openings, "auto" uses at most one process for each image. While answers are late, "auto" and MIN-MAX
    /// use up to twice as many. Without this option, the variable LONGSHORE_PROXIES applies.
    #[arg(long, value_name = "auto|N|MIN-MAX", help_heading = SPEED)]
    pub(super) proxies: Option<Proxies>,
    /// Maximum bytes per second; default: no limit
    ///
    /// The limit is for all layers together. It is 500K, 10M or 1G (powers of a thousand), for example.
    #[arg(long, value_name = "RATE", value_parser = rate, help_heading = SPEED)]
    limit_rate: Option<NonZeroU64>,
    #[command(flatten)]
    pub(crate) proxy: ProxyArguments,
    /// Retries of a blob that failed
    ///
    /// This number also applies to the opening of an image. 0 = no retries.
    #[arg(long, alias = "retry-times", value_name = "N", default_value_t = RetryPolicy::default().retries, value_parser = count_or_none, help_heading = LIMITS)]
    pub(crate) retries: u32,
    /// All requests, once the list has been read.
    #[arg(skip)]
    pub(crate) requests: Vec<ImageRequest>,
}

/// Returns the requests of a pull into skopeo's folder of an image, or a message if such a folder can't hold them.
fn folder_requests(requests: Vec<ImageRequest>, is_one: bool) -> Result<Vec<ImageRequest>, String> {
    if !is_one {
        return Err(
            "dir:DIR holds a single image; several images go into oci:DIR or oci-archive:FILE"
                .into(),
        );
    }
    if requests.iter().any(|one| one.platforms == Platforms::All) {
        return Err(
            "dir:DIR holds the image of a single platform; all go into oci:DIR or oci-archive:FILE"
                .into(),
        );
    }
    // The image is pulled into a temporary layout, where it has this name.
    let named = requests.into_iter().map(|one| one.name("image"));
    Ok(named.collect())
}

/// Returns the path of a file without symbolic links, also if the file does not exist yet. Blocks.
fn resolved(path: &Path) -> PathBuf {
    let of_new = || {
        let folder = fs::canonicalize(folder_of(path)).ok()?;
        Some(folder.join(path.file_name()?))
    };
    let of_existing = fs::canonicalize(path).ok();
    let found = of_existing.or_else(of_new);
    found.unwrap_or_else(|| path.to_owned())
}

impl PullArguments {
    /// The names of all images, once the list has been read.
    pub(crate) fn references(&self) -> Vec<&str> {
        let requests = self.requests.iter();
        requests.map(|request| &*request.reference).collect()
    }

    /// Removes and returns the only request, if a single image was asked for. That image and the pull then succeed or
    /// fail together.
    pub(crate) fn take_single(&mut self) -> Option<ImageRequest> {
        let is_alone = self.from.is_none() && self.shard.is_none() && !self.keep_going;
        match self.requests.len() {
            1 if is_alone => self.requests.pop(),
            _ => None,
        }
    }

    /// The folder in which incomplete files are during the pull. `None` for a dry run.
    pub(crate) fn incomplete_in(&self) -> Option<PathBuf> {
        (!self.dry_run).then(|| self.destination.incomplete_in())
    }

    /// Whether complete layers stay in the destination if the pull is interrupted.
    pub(crate) fn keeps_layers(&self) -> bool {
        !self.dry_run && self.destination.form == Form::Layout
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
        if let (Some(events), Some(timeline)) = (&self.events, &self.timeline)
            && resolved(events) == resolved(timeline.path())
        {
            let reason =
                "one file can't have both the events and the timeline; give --events another FILE";
            return Err(Failure::usage(reason.into()));
        }
        let platforms = self.platform.clone().unwrap_or_default();
        for request in &mut requests {
            if request.platforms == Platforms::Configured {
                request.platforms = platforms.clone();
            }
        }
        // The whole list is named, so that two images with the same name are found whichever parts they are in.
        let mut requests = self.name(requests)?;
        if let Some(shard) = self.shard {
            requests.retain(|request| shard.has(&request.reference));
        }
        self.requests = requests;
        Ok(())
    }

    /// Gives the images the names that they get in the destination.
    fn name(&self, requests: Vec<ImageRequest>) -> Result<Vec<ImageRequest>, Failure> {
        let tag = self.destination.tag.as_deref();
        let template = tag.filter(|tag| list::is_template(tag));
        let is_one = self.from.is_none() && self.images.len() == 1;
        if tag.is_some() && template.is_none() && !is_one {
            let reason = "one TAG can't name several images; oci:DIR names each by its reference, and \
                          oci:DIR:TEMPLATE by a template, such as {name}-{tag} (oci-archive:FILE likewise)";
            return Err(Failure::usage(reason.into()));
        }
        if self.destination.form == Form::Folder {
            return folder_requests(requests, is_one).map_err(Failure::usage);
        }
        if !is_one || template.is_some() {
            return list::name_all(requests, template).map_err(Failure::usage);
        }
        let named = |request: ImageRequest| match tag {
            Some(tag) => request.name(tag),
            None => request,
        };
        Ok(requests.into_iter().map(named).collect())
    }

    pub(crate) fn options(&self) -> FetchOptions {
        let retry = RetryPolicy::default().retries(self.retries);
        let options = FetchOptions::default();
        let options = options
            .proxies(self.proxies.unwrap_or(Proxies::Auto))
            .workers(self.workers)
            .retry(retry);
        match self.limit_rate {
            Some(rate) => options.limit_rate(rate),
            None => options,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    /// Reads the arguments of a pull into `oci:all:{name}`.
    fn read(options: &[&str], images: &[&str]) -> Result<PullArguments, Failure> {
        let line = [&["longshore", "pull"], options, images, &["oci:all:{name}"]].concat();
        let parsed = Arguments::try_parse_from(line).expect("arguments");
        let Command::Pull(mut pull) = parsed.command else {
            panic!("another command");
        };
        pull.read_list()?;
        Ok(pull)
    }

    #[test]
    fn two_images_with_the_same_name_are_found_in_each_part() {
        let images = ["docker://a.b/team-a/x:small", "docker://a.b/team-b/x:d"];
        let parts = ["0/2", "1/2"].map(|part| part.parse::<Shard>().expect("a part"));
        let part_of = |image: &str| parts.iter().position(|part| part.has(image));
        assert_ne!(part_of(images[0]), part_of(images[1]));
        for part in ["0/2", "1/2"] {
            let error = read(&["--shard", part], &images).expect_err("the same name");
            assert!(error.to_string().contains("would be called x"), "{error}");
        }
    }

    #[test]
    fn the_events_and_the_timeline_need_two_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::os::unix::fs::symlink(folder.path(), at("link")).expect("a link");
        let read = |events: &str, timeline: &str| {
            let options = ["--events", &at(events), "--timeline", &at(timeline)];
            read(&options, &["docker://a.b/c"])
        };
        for other in ["a.json", "./a.json", "link/a.json"] {
            let error = read(other, "a.json").expect_err(other).to_string();
            assert!(
                error.contains("both the events and the timeline"),
                "{error}"
            );
        }
        fs::write(at("a.json"), "").expect("a file");
        std::os::unix::fs::symlink(at("a.json"), at("b")).expect("a link");
        read("b", "a.json").expect_err("the same file");
        read("c.json", "a.json").expect("two files");
    }

    #[test]
    fn a_part_has_only_its_own_images() {
        let images: Vec<String> = (0..9).map(|n| format!("docker://a.b/{n}:c")).collect();
        let all: Vec<&str> = images.iter().map(String::as_str).collect();
        let mut counts = [0; 3];
        for (index, count) in counts.iter_mut().enumerate() {
            let part = format!("{index}/3");
            let options = ["--shard", &part, "--platform", "linux/arm64"];
            let pull = read(&options, &all).expect("different names");
            assert!(pull.requests.iter().all(|request| request.name.is_some()));
            *count = pull.requests.len();
        }
        assert_eq!(counts.iter().sum::<usize>(), 9);
        assert!(counts.iter().all(|count| *count < 9), "{counts:?}");
    }
}
