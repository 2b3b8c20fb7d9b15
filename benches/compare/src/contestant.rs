//! The contestants, their settings, and how each is started.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use crate::each;
use crate::tools::Tools;
use crate::walked::Found;
use crate::workload::{TAG, Task};

/// The protocol version from which on skopeo has `GetRawBlob`. All versions have one digit a part, so they can be
/// compared as text.
const RAW_BLOBS: &str = "0.2.8";

/// Runs a command, which copies an image into a layout, and then unpacks that layout.
const COPY_AND_UNPACK: &str = r#"umoci=$1 layout=$2 rootfs=$3
shift 3
"$@"
[ "$(id -u)" = 0 ] || rootless=--rootless
exec "$umoci" raw unpack ${rootless:-} --image "$layout" "$rootfs""#;

/// Properties of the registry and the image that the command depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// Whether the registry speaks HTTP without TLS.
    pub(crate) is_plain: bool,
    /// Whether all platforms of an index are wanted.
    pub(crate) is_index: bool,
}

/// A program that pulls an image, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// `longshore[:PROXIES[:WORKERS]]`
    Longshore {
        proxies: Option<String>,
        workers: Option<NonZeroU32>,
    },
    /// `skopeo[:PARALLEL]`, with its `copy` command.
    Skopeo(Option<NonZeroU32>),
    /// `crane`
    Crane,
    /// `oras[:CONCURRENCY]`
    Oras(Option<NonZeroU32>),
    /// `cip:LAYERS[:raw]`, the crate containers-image-proxy.
    Cip { layers: NonZeroU32, raw: bool },
    /// `umoci[:PARALLEL]`: `skopeo copy`, and then `umoci raw unpack`.
    Umoci(Option<NonZeroU32>),
    /// `bare:THREADS`: walks layers that are in memory, without a registry. It is no contestant, but shows how much
    /// time the others need at least.
    Bare(NonZeroU32),
    /// `CONTESTANT@N`: many images, N of them at once, each by a process of its own.
    AtOnce {
        contestant: Box<Contestant>,
        images: NonZeroU32,
    },
}

/// A program that takes part, whatever its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Longshore,
    Crane,
    Oras,
    Skopeo,
    Cip,
    Umoci,
    Bare,
}

impl Family {
    /// All programs, in the order of columns.
    pub(crate) const ALL: [Self; 7] = [
        Self::Longshore,
        Self::Crane,
        Self::Oras,
        Self::Skopeo,
        Self::Cip,
        Self::Umoci,
        Self::Bare,
    ];

    /// The name of the program for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Longshore => "longshore",
            Self::Crane => "crane",
            Self::Oras => "oras",
            Self::Skopeo => "skopeo copy",
            Self::Cip => "containers-image-proxy",
            Self::Umoci => "skopeo copy, umoci",
            Self::Bare => "bare minimum",
        }
    }
}

impl Contestant {
    /// Whether the contestant is longshore, which handles skopeo's cache itself.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Longshore { .. })
    }

    /// The program, whatever its settings. Names in the tables are those of their settings.
    pub(crate) fn family(&self) -> Family {
        match self {
            Self::AtOnce { contestant, .. } => contestant.family(),
            Self::Longshore { .. } => Family::Longshore,
            Self::Skopeo(_) => Family::Skopeo,
            Self::Crane => Family::Crane,
            Self::Oras(_) => Family::Oras,
            Self::Cip { .. } => Family::Cip,
            Self::Umoci(_) => Family::Umoci,
            Self::Bare(_) => Family::Bare,
        }
    }

    /// Why the contestant can't take part in this task with this skopeo, if it can't.
    pub(crate) fn obstacle(&self, task: Task, skopeo: &str) -> Option<&'static str> {
        match self {
            Self::AtOnce { contestant, .. } => contestant.obstacle(task, skopeo),
            Self::Umoci(_) | Self::Bare(_) if task == Task::Pull => {
                Some("it only walks or unpacks layers")
            }
            Self::Cip { raw: true, .. } if skopeo < RAW_BLOBS => {
                Some("this skopeo has no GetRawBlob")
            }
            _ => None,
        }
    }

    /// The command that decompresses all layers of an image, and walks them as tar archives. `folder` is a new folder
    /// for what it stores. `source` is the layout that the registry has the image from.
    pub(crate) fn walk(
        &self,
        tools: &Tools,
        image: &str,
        folder: &Path,
        source: &Path,
        how: How,
    ) -> Command {
        let image_with_transport = format!("docker://{image}");
        let layout = folder.join("layout");
        let mut command = Command::new(&tools.walk);
        match self {
            Self::AtOnce { contestant, .. } => {
                return contestant.walk(tools, image, folder, source, how);
            }
            Self::Longshore { proxies, workers } => {
                command = Command::new(&tools.longshore_walk);
                command.arg("--skopeo").arg(&tools.skopeo);
                command.args(how.is_plain.then_some("--insecure"));
                option(&mut command, "--proxies", proxies.as_ref());
                option(&mut command, "--workers", workers.as_ref());
                command.arg(image_with_transport);
            }
            Self::Cip { layers, raw } => {
                command = Command::new(&tools.cip);
                command.arg("--walk").arg("--skopeo").arg(&tools.skopeo);
                option(&mut command, "--layers", Some(layers));
                command.args(raw.then_some("--raw"));
                command.arg(image_with_transport);
            }
            Self::Crane => {
                command.args(["output", "--"]).arg(&tools.crane);
                command.arg("export");
                command.args(how.is_plain.then_some("--insecure"));
                command.args([image, "-"]);
            }
            Self::Skopeo(_) | Self::Oras(_) => {
                let copy = self.command(tools, image, &layout, how);
                command.args(["after", "--verified"]).arg(&layout).arg("--");
                command.arg(copy.get_program()).args(copy.get_args());
            }
            Self::Umoci(parallel) => {
                let copy = Self::Skopeo(*parallel).command(tools, image, &layout, how);
                command = Command::new("sh");
                command.args(["-ec", COPY_AND_UNPACK, "sh", "umoci"]);
                command.arg(tagged(&layout)).arg(folder.join("rootfs"));
                command.arg(copy.get_program()).args(copy.get_args());
            }
            Self::Bare(threads) => {
                command.arg("layout").arg(source);
                option(&mut command, "--threads", Some(threads));
            }
        }
        command
    }

    /// The result of a contestant that has walked an image, from its output and its folder.
    pub(crate) fn found<'a>(&self, output: &'a str, folder: &Path) -> Found<'a> {
        match self {
            Self::AtOnce { contestant, .. } => contestant.found(output, folder),
            Self::Crane => Found::Archive(output),
            Self::Umoci(_) => Found::Folder(folder.join("rootfs")),
            _ => Found::Layers(output),
        }
    }

    /// A description for readers of the tables: what is on disk for certain after these tasks.
    pub(crate) fn durable(&self, tasks: &[Task]) -> String {
        self.for_each(tasks, |task| self.durable_after(task).into())
    }

    fn durable_after(&self, task: Task) -> &'static str {
        match (self, task) {
            (Self::AtOnce { contestant, .. }, _) => contestant.durable_after(task),
            (Self::Longshore { .. }, Task::Pull) => "each blob, the index",
            (Self::Skopeo(_), _) => "each blob",
            (Self::Umoci(_), _) => "each blob, no file",
            (Self::Longshore { .. }, Task::Walk)
            | (Self::Crane | Self::Oras(_) | Self::Cip { .. }, _) => "nothing",
            (Self::Bare(_), _) => "–",
        }
    }

    /// The command that pulls these images into the OCI layout `layout`. The images have no transport in
    /// front. If several processes pull at once, each has a layout of its own in that folder, because they
    /// would damage a common one.
    pub(crate) fn pull(
        &self,
        tools: &Tools,
        images: &[String],
        layout: &Path,
        how: How,
    ) -> anyhow::Result<Command> {
        if let [image] = images {
            return Ok(self.command(tools, image, layout, how));
        }
        let list = layout.with_extension("list");
        if let Self::Longshore { .. } = self {
            let lines = images.iter().map(|image| format!("docker://{image}\n"));
            std::fs::write(&list, lines.collect::<String>())?;
            let mut command = self.command(tools, "", layout, how);
            let mut arguments: Vec<OsString> = command.get_args().map(OsStr::to_owned).collect();
            // Image and layout are the last two arguments.
            arguments.truncate(arguments.len() - 2);
            arguments.extend(["--from".into(), list.into()]);
            arguments.push(format!("oci:{}", layout.display()).into());
            command = Command::new(&tools.longshore);
            command.args(arguments);
            return Ok(command);
        }
        std::fs::write(&list, images.join("\n"))?;
        let at_once = match self {
            Self::AtOnce { images, .. } => *images,
            _ => NonZeroU32::MIN,
        };
        let each = self.command(tools, each::IMAGE, Path::new(each::LAYOUT), how);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["each", "--at-once", &at_once.to_string()]);
        command.arg("--into").arg(layout).arg("--list").arg(list);
        command
            .arg("--")
            .arg(each.get_program())
            .args(each.get_args());
        Ok(command)
    }

    /// The layout into which [`pull`](Self::pull) pulls the image with this number, out of `images`.
    pub(crate) fn layout_of(&self, layout: &Path, number: usize, images: usize) -> PathBuf {
        match self {
            Self::AtOnce {
                images: at_once, ..
            } if images > 1 && at_once.get() > 1 => layout.join(number.to_string()),
            _ => layout.to_owned(),
        }
    }

    /// The command that pulls `image` into an OCI layout. The image has no transport in front.
    fn command(&self, tools: &Tools, image: &str, layout: &Path, how: How) -> Command {
        let image_with_transport = format!("docker://{image}");
        let tagged_layout = tagged(layout);
        match self {
            // They take part in no pull: see `obstacle`.
            Self::Umoci(parallel) => Self::Skopeo(*parallel).command(tools, image, layout, how),
            Self::Bare(_) => Command::new("false"),
            Self::AtOnce { contestant, .. } => contestant.command(tools, image, layout, how),
            Self::Longshore { proxies, workers } => {
                let mut command = Command::new(&tools.longshore);
                command
                    .args(["pull", "--quiet", "--insecure-policy", "--skopeo"])
                    .arg(&tools.skopeo)
                    .args(how.is_plain.then_some("--tls-verify=false"))
                    .args(how.is_index.then_some("--platform=all"));
                option(&mut command, "--proxies", proxies.as_ref());
                option(&mut command, "--workers", workers.as_ref());
                command
                    .arg(image_with_transport)
                    .arg(format!("oci:{tagged_layout}"));
                command
            }
            Self::Skopeo(parallel) => {
                let mut command = Command::new(&tools.skopeo);
                command.args(["--insecure-policy", "copy", "--quiet"]);
                command.args(how.is_plain.then_some("--src-tls-verify=false"));
                command.args(how.is_index.then_some("--all"));
                option(&mut command, "--image-parallel-copies", parallel.as_ref());
                command
                    .arg(image_with_transport)
                    .arg(format!("oci:{tagged_layout}"));
                command
            }
            Self::Crane => {
                let mut command = Command::new(&tools.crane);
                command.args(["pull", "--format=oci"]);
                command.args(how.is_plain.then_some("--insecure"));
                command.arg(image).arg(layout);
                command
            }
            Self::Oras(concurrency) => {
                let mut command = Command::new(&tools.oras);
                command.args(["copy", "--no-tty", "--to-oci-layout"]);
                command.args(how.is_plain.then_some("--from-plain-http"));
                option(&mut command, "--concurrency", concurrency.as_ref());
                command.args([image, &tagged_layout]);
                command
            }
            Self::Cip { layers, raw } => {
                let mut command = Command::new(&tools.cip);
                command.arg("--skopeo").arg(&tools.skopeo);
                option(&mut command, "--layers", Some(layers));
                command.args(raw.then_some("--raw"));
                command.arg(image_with_transport).arg(layout);
                command
            }
        }
    }

    /// A description for readers of the tables: what is run for each of these tasks.
    pub(crate) fn explanation(&self, tasks: &[Task]) -> String {
        self.for_each(tasks, |task| match task {
            Task::Pull => self.how_it_pulls(),
            Task::Walk => self.how_it_walks(),
        })
    }

    /// What `describe` says about each of these tasks, once if it says the same about both. A contestant that can't do
    /// one of them is described for the last one.
    fn for_each(&self, tasks: &[Task], describe: impl Fn(Task) -> String) -> String {
        match tasks {
            [Task::Pull, Task::Walk] if self.obstacle(Task::Pull, RAW_BLOBS).is_none() => {
                let (pull, walk) = (describe(Task::Pull), describe(Task::Walk));
                if pull == walk {
                    return pull;
                }
                format!("{pull}; in G: {walk}")
            }
            _ => tasks.last().copied().map_or(String::new(), describe),
        }
    }

    fn how_it_pulls(&self) -> String {
        match self {
            Self::AtOnce { contestant, images } => {
                format!("{}, {images} images at once", contestant.how_it_pulls())
            }
            Self::Longshore { .. } => format!("longshore pull{}", self.settings()),
            Self::Skopeo(_) => format!("skopeo copy{}", self.settings()),
            Self::Crane => "crane pull --format=oci".into(),
            Self::Oras(_) => format!("oras copy --to-oci-layout{}", self.settings()),
            Self::Cip { .. } => format!("containers-image-proxy{}", self.settings()),
            Self::Umoci(_) | Self::Bare(_) => self.how_it_walks(),
        }
    }

    fn how_it_walks(&self) -> String {
        match self {
            Self::AtOnce { contestant, .. } => contestant.how_it_walks(),
            Self::Longshore { .. } => format!(
                "the library's for_each_layer_uncompressed_blocking{}, and tar",
                self.settings()
            ),
            Self::Skopeo(_) | Self::Oras(_) => {
                format!("{}, then zlib-rs and tar", self.how_it_pulls())
            }
            Self::Crane => "crane export, and tar".into(),
            Self::Cip { .. } => format!("{}, then flate2 and tar", self.how_it_pulls()),
            Self::Umoci(_) => format!("skopeo copy{}, then umoci raw unpack", self.settings()),
            Self::Bare(threads) => {
                let noun = if threads.get() == 1 {
                    "thread"
                } else {
                    "threads"
                };
                format!("zlib-rs, SHA-256 twice, and tar, from memory, {threads} {noun}")
            }
        }
    }

    /// The settings as they are in an explanation.
    fn settings(&self) -> String {
        let option = |name: &str, value: Option<&str>| {
            value.map_or(String::new(), |value| format!(" --{name} {value}"))
        };
        let number = |number: &Option<NonZeroU32>| number.map(|number| number.to_string());
        match self {
            Self::Longshore { proxies, workers } => {
                let workers = option("workers", number(workers).as_deref());
                option("proxies", proxies.as_deref()) + &workers
            }
            Self::Skopeo(parallel) | Self::Umoci(parallel) => {
                option("image-parallel-copies", number(parallel).as_deref())
            }
            Self::Oras(concurrency) => option("concurrency", number(concurrency).as_deref()),
            Self::Cip { layers, raw } => {
                let call = if *raw { "get_raw_blob" } else { "get_blob" };
                let noun = if layers.get() == 1 { "layer" } else { "layers" };
                format!(", {layers} {noun} at once with {call}")
            }
            Self::Crane | Self::Bare(_) | Self::AtOnce { .. } => String::new(),
        }
    }
}

/// The name of the image in a layout, for skopeo, oras and umoci.
fn tagged(layout: &Path) -> String {
    format!("{}:{TAG}", layout.display())
}

fn option(command: &mut Command, name: &str, value: Option<&impl ToString>) {
    if let Some(value) = value {
        command.arg(name).arg(value.to_string());
    }
}

impl FromStr for Contestant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((contestant, images)) = text.split_once('@') {
            let contestant: Self = contestant.parse()?;
            let images = images
                .parse()
                .map_err(|_| format!("{images:?} is not a number above 0"))?;
            if contestant.is_ours() {
                return Err("longshore pulls many images by itself".into());
            }
            let contestant = Box::new(contestant);
            return Ok(Self::AtOnce { contestant, images });
        }
        let parts: Vec<&str> = text.split(':').collect();
        let number = |text: &str| {
            let parsed: Result<NonZeroU32, _> = text.parse();
            parsed.map_err(|_| format!("{text:?} is not a number above 0"))
        };
        Ok(match parts[..] {
            ["longshore"] => Self::Longshore {
                proxies: None,
                workers: None,
            },
            ["longshore", proxies] => Self::Longshore {
                proxies: Some(proxies.to_owned()),
                workers: None,
            },
            ["longshore", proxies, workers] => Self::Longshore {
                proxies: Some(proxies.to_owned()),
                workers: Some(number(workers)?),
            },
            ["skopeo"] => Self::Skopeo(None),
            ["skopeo", parallel] => Self::Skopeo(Some(number(parallel)?)),
            ["umoci"] => Self::Umoci(None),
            ["umoci", parallel] => Self::Umoci(Some(number(parallel)?)),
            ["bare", threads] => Self::Bare(number(threads)?),
            ["crane"] => Self::Crane,
            ["oras"] => Self::Oras(None),
            ["oras", concurrency] => Self::Oras(Some(number(concurrency)?)),
            ["cip", layers] => Self::Cip {
                layers: number(layers)?,
                raw: false,
            },
            ["cip", layers, "raw"] => Self::Cip {
                layers: number(layers)?,
                raw: true,
            },
            _ => {
                return Err(format!(
                    "{text:?} is none of longshore[:PROXIES[:WORKERS]], skopeo[:PARALLEL], crane, \
                     oras[:CONCURRENCY], cip:LAYERS[:raw], umoci[:PARALLEL], bare:THREADS"
                ));
            }
        })
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtOnce { contestant, images } => write!(f, "{contestant}@{images}"),
            Self::Longshore { proxies, workers } => {
                f.write_str("longshore")?;
                if let Some(proxies) = proxies {
                    write!(f, ":{proxies}")?;
                }
                workers.map_or(Ok(()), |workers| write!(f, ":{workers}"))
            }
            Self::Skopeo(None) => f.write_str("skopeo"),
            Self::Skopeo(Some(parallel)) => write!(f, "skopeo:{parallel}"),
            Self::Umoci(None) => f.write_str("umoci"),
            Self::Umoci(Some(parallel)) => write!(f, "umoci:{parallel}"),
            Self::Bare(threads) => write!(f, "bare:{threads}"),
            Self::Crane => f.write_str("crane"),
            Self::Oras(None) => f.write_str("oras"),
            Self::Oras(Some(concurrency)) => write!(f, "oras:{concurrency}"),
            Self::Cip { layers, raw } => {
                write!(f, "cip:{layers}{}", if *raw { ":raw" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contestant_is_written_as_it_is_read() {
        for text in [
            "longshore",
            "longshore:1-64",
            "longshore:auto:32",
            "skopeo",
            "skopeo:16",
            "crane",
            "oras",
            "oras:16",
            "cip:1",
            "cip:16:raw",
            "umoci",
            "umoci:16",
            "bare:2",
            "crane@8",
        ] {
            let parsed: Result<Contestant, _> = text.parse();
            assert_eq!(parsed.map(|parsed| parsed.to_string()), Ok(text.into()));
        }
        for text in [
            "",
            "docker",
            "skopeo:x",
            "oras:0",
            "cip",
            "cip:3:cooked",
            "bare",
        ] {
            assert!(text.parse::<Contestant>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn who_can_not_take_part_is_known() {
        let obstacle = |name: &str, task, skopeo| {
            let contestant: Contestant = name.parse().unwrap();
            contestant.obstacle(task, skopeo).is_some()
        };
        assert!(obstacle("cip:16:raw", Task::Pull, "0.2.6"));
        assert!(!obstacle("cip:16", Task::Pull, "0.2.3"));
        assert!(!obstacle("cip:16:raw", Task::Walk, "0.2.8"));
        assert!(obstacle("bare:1", Task::Pull, "0.2.8"));
        assert!(!obstacle("umoci", Task::Walk, "0.2.3"));
    }

    #[test]
    fn an_explanation_has_what_is_run_for_each_task() {
        let explain = |name: &str, tasks: &[Task]| {
            let contestant: Contestant = name.parse().unwrap();
            contestant.explanation(tasks)
        };
        assert_eq!(
            explain("crane", &[Task::Pull, Task::Walk]),
            "crane pull --format=oci; in G: crane export, and tar"
        );
        assert_eq!(
            explain("longshore:4:8", &[Task::Pull]),
            "longshore pull --proxies 4 --workers 8"
        );
        assert_eq!(
            explain("umoci:2", &[Task::Pull, Task::Walk]),
            "skopeo copy --image-parallel-copies 2, then umoci raw unpack"
        );
    }

    #[test]
    fn what_is_durable_depends_on_the_task() {
        let durable = |name: &str, tasks: &[Task]| {
            let contestant: Contestant = name.parse().unwrap();
            contestant.durable(tasks)
        };
        let both = [Task::Pull, Task::Walk];
        let all = "each blob, the index; in G: nothing";
        assert_eq!(durable("longshore", &both), all);
        assert_eq!(durable("longshore", &[Task::Walk]), "nothing");
        assert_eq!(durable("crane", &both), "nothing");
        assert_eq!(durable("umoci", &both), "each blob, no file");
    }
}
