//! The images that are pulled: six with names, and any number of layers of one size.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, bail};

use crate::tools::{Tools, stdout_of};
use test_registry::image::ImageBuilder;
use test_registry::units::parse_size;

/// The tag of every image.
pub(crate) const TAG: &str = "latest";

/// An image to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// 8 layers, 150 MB: what a language's official image looks like.
    A,
    /// 128 layers of 64 KiB: nothing but requests.
    B,
    /// The layers of a real image, which `tests/real-image.sh` makes.
    C,
    /// 400 layers of lognormal sizes, 346 MB: what ostree makes of an operating system.
    D,
    /// 25 layers, 2.2 GB, one of them 1.2 GB.
    E,
    /// One layer of 1 GiB.
    F,
    /// So many layers of so many bytes.
    Equal { layers: usize, size: u64 },
}

/// A blob that has to be there after a pull.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    /// `sha256:...`
    pub(crate) digest: String,
    /// In bytes.
    pub(crate) size: u64,
}

/// An image in an OCI layout.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// The layout's directory.
    pub(crate) layout: PathBuf,
    /// The digest of its manifest.
    pub(crate) manifest: String,
    /// Its configuration, and its layers.
    pub(crate) blobs: Vec<Blob>,
    /// What a table says about it.
    pub(crate) description: String,
}

impl Workload {
    /// Makes it in a layout below `work`, at a small scale if `tiny`.
    pub(crate) fn make(self, work: &Path, tools: &Tools, tiny: bool) -> anyhow::Result<Made> {
        let layout = work.join(format!("workload-{self}"));
        let image = match self {
            Self::C => real_layers(tools, tiny)?,
            _ => random_layers(&self.sizes(tiny)),
        };
        let written = image
            .write(&layout, TAG)
            .with_context(|| format!("can't make workload {self}"))?;
        let config = written.config_digest.to_string();
        let config_size = layout
            .join("blobs/sha256")
            .join(config.trim_start_matches("sha256:"))
            .metadata()?
            .len();
        let mut blobs = vec![Blob {
            digest: config,
            size: config_size,
        }];
        blobs.extend(written.layers.iter().map(|layer| Blob {
            digest: layer.digest().to_string(),
            size: layer.size(),
        }));
        let bytes = blobs[1..].iter().map(|blob| blob.size).sum();
        Ok(Made {
            layout,
            manifest: written.manifest_digest.to_string(),
            description: self.describe(blobs.len() - 1, bytes, tiny),
            blobs,
        })
    }

    /// The layers' sizes in bytes, before they are wrapped up in archives.
    fn sizes(self, tiny: bool) -> Vec<u64> {
        const MB: u64 = 1_000_000;
        let scale = if tiny { 200 } else { 1 };
        let fewer = if tiny { 8 } else { 1 };
        match self {
            Self::A => [52, 36, 24, 16, 10, 6, 4, 2]
                .map(|size| size * MB / scale)
                .to_vec(),
            Self::B => vec![64 << 10; 128 / fewer],
            Self::C => Vec::new(),
            Self::D => lognormal(400 / fewer, 346 * MB / scale),
            Self::E => {
                let mut sizes = vec![42 * MB / scale; 24];
                sizes.insert(12, 1200 * MB / scale);
                sizes
            }
            Self::F => vec![(1 << 30) / scale],
            Self::Equal { layers, size } => vec![size; layers],
        }
    }

    fn describe(self, layers: usize, bytes: u64, tiny: bool) -> String {
        let kind = match self {
            Self::C => "real ",
            Self::D => "lognormal ",
            _ => "",
        };
        let noun = if layers == 1 { "layer" } else { "layers" };
        let tiny = if tiny { " (tiny)" } else { "" };
        format!("{self}{tiny}: {layers} {kind}{noun}, {}", megabytes(bytes))
    }
}

/// Bytes for a person.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

/// Layers whose bytes do not compress, and so are served as they are.
fn random_layers(sizes: &[u64]) -> ImageBuilder {
    let start = ImageBuilder::new();
    let numbered = sizes.iter().zip(0..);
    numbered.fold(start, |image, (size, seed)| image.layer_random(*size, seed))
}

/// The layers of `tests/real-image.sh --large`, or some of the small ones, in their order.
fn real_layers(tools: &Tools, tiny: bool) -> anyhow::Result<ImageBuilder> {
    let script = tools.repository.join("tests/real-image.sh");
    let mut making = Command::new(script);
    if !tiny {
        making.arg("--large");
    }
    let folder = stdout_of(making.stderr(Stdio::inherit()))?;
    let mut files = Vec::new();
    for entry in Path::new(&folder).read_dir().context("no real layers")? {
        files.push(entry?.path());
    }
    files.sort();
    files.truncate(if tiny { 8 } else { usize::MAX });
    if files.is_empty() {
        bail!("tests/real-image.sh made no layers");
    }
    files.iter().try_fold(ImageBuilder::new(), |image, file| {
        let bytes =
            std::fs::read(file).with_context(|| format!("can't read {}", file.display()))?;
        Ok(image.layer_tar_gz(bytes))
    })
}

/// So many sizes with this sum, the same ones every time: half of them are less than a third of the
/// mean, and a few are the bulk of it.
fn lognormal(count: usize, sum: u64) -> Vec<u64> {
    const SIGMA: f64 = 1.5;
    let mut uniform = Uniform { state: 20_240_229 };
    let weights: Vec<f64> = (0..count)
        .map(|_| {
            // Box and Muller's way from two uniform numbers to a normal one.
            let radius = (-2.0 * uniform.next().ln()).sqrt();
            let angle = std::f64::consts::TAU * uniform.next();
            (SIGMA * radius * angle.cos()).exp()
        })
        .collect();
    let total: f64 = weights.iter().sum();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "positive, and far below 2^52"
    )]
    let scale = |weight: &f64| ((weight / total * sum as f64) as u64).max(1);
    weights.iter().map(scale).collect()
}

/// Numbers above 0 and up to 1 that look random (`SplitMix64`).
struct Uniform {
    state: u64,
}

impl Uniform {
    fn next(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let high = u32::try_from(word >> 32).unwrap_or(u32::MAX);
        (f64::from(high) + 1.0) / (f64::from(u32::MAX) + 1.0)
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "A" | "a" => Self::A,
            "B" | "b" => Self::B,
            "C" | "c" => Self::C,
            "D" | "d" => Self::D,
            "E" | "e" => Self::E,
            "F" | "f" => Self::F,
            _ => {
                let wrong =
                    || format!("{text:?} is neither one of A to F nor COUNTxSIZE, such as 40x5M");
                let (layers, size) = text.split_once('x').ok_or_else(wrong)?;
                let layers = layers.parse().map_err(|_| wrong())?;
                let size = parse_size(size)?;
                if layers == 0 {
                    return Err(wrong());
                }
                Self::Equal { layers, size }
            }
        })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal { layers, size } if size % (1 << 20) == 0 => {
                write!(f, "{layers}x{}M", size >> 20)
            }
            Self::Equal { layers, size } if size % (1 << 10) == 0 => {
                write!(f, "{layers}x{}K", size >> 10)
            }
            Self::Equal { layers, size } => write!(f, "{layers}x{size}"),
            named => write!(f, "{named:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_are_those_that_are_announced() {
        let sum = |workload: Workload| workload.sizes(false).iter().sum::<u64>();
        assert_eq!(sum(Workload::A), 150_000_000);
        assert_eq!(sum(Workload::B), 128 << 16);
        assert_eq!(sum(Workload::E), 2_208_000_000);
        assert_eq!(sum(Workload::F), 1 << 30);
        let sum = sum(Workload::D);
        assert!((345_900_000..=346_000_000).contains(&sum), "{sum}");
    }

    #[test]
    fn lognormal_sizes_are_uneven_and_always_the_same() {
        let mut sizes = lognormal(400, 346_000_000);
        assert_eq!(sizes, lognormal(400, 346_000_000));
        sizes.sort_unstable();
        let mean = 346_000_000 / 400;
        assert!(sizes[200] < mean / 2, "the median is {}", sizes[200]);
        assert!(sizes[399] > 10 * mean, "the largest is {}", sizes[399]);
    }

    #[test]
    fn a_workload_is_written_as_it_is_read() {
        for text in ["A", "F", "40x5M", "3x17", "128x64K"] {
            let parsed: Result<Workload, _> = text.parse();
            assert_eq!(parsed.map(|workload| workload.to_string()), Ok(text.into()));
        }
        for text in ["G", "", "x", "0x5M", "5x", "AB"] {
            assert!(text.parse::<Workload>().is_err(), "{text:?}");
        }
    }
}
