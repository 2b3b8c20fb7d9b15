//! The contestants, their settings, and how each is started.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use crate::each;
use crate::tools::Tools;
use crate::workload::TAG;

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
    /// `CONTESTANT@N`: many images, N of them at once, each by a process of its own.
    AtOnce {
        contestant: Box<Contestant>,
        images: NonZeroU32,
    },
}

impl Contestant {
    /// Whether the contestant is longshore, which handles skopeo's cache itself.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Longshore { .. })
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
        let tagged_layout = format!("{}:{TAG}", layout.display());
        match self {
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
                if *raw {
                    command.arg("--raw");
                }
                command.arg(image_with_transport).arg(layout);
                command
            }
        }
    }

    /// A description for readers of the tables.
    pub(crate) fn explanation(&self) -> String {
        match self {
            Self::AtOnce { contestant, images } => {
                format!("{}, {images} images at once", contestant.explanation())
            }
            Self::Longshore { proxies, workers } => {
                let proxies = proxies.as_ref();
                let proxies = proxies.map_or(String::new(), |n| format!(" --proxies {n}"));
                let workers = workers.map_or(String::new(), |n| format!(" --workers {n}"));
                format!("longshore pull{proxies}{workers}")
            }
            Self::Skopeo(None) => "skopeo copy".into(),
            Self::Skopeo(Some(n)) => format!("skopeo copy --image-parallel-copies {n}"),
            Self::Crane => "crane pull --format=oci".into(),
            Self::Oras(None) => "oras copy --to-oci-layout".into(),
            Self::Oras(Some(n)) => format!("oras copy --to-oci-layout --concurrency {n}"),
            Self::Cip { layers, raw } => {
                let call = if *raw { "get_raw_blob" } else { "get_blob" };
                let noun = if layers.get() == 1 { "layer" } else { "layers" };
                format!("containers-image-proxy, {layers} {noun} at once with {call}")
            }
        }
    }
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
                     oras[:CONCURRENCY], cip:LAYERS[:raw]"
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
        ] {
            let parsed: Result<Contestant, _> = text.parse();
            assert_eq!(parsed.map(|parsed| parsed.to_string()), Ok(text.into()));
        }
        for text in ["", "docker", "skopeo:x", "oras:0", "cip", "cip:3:cooked"] {
            assert!(text.parse::<Contestant>().is_err(), "{text:?}");
        }
    }
}
