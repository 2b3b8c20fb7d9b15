//! The images that are pulled: single ones, either named or with any number of layers of one size, and
//! many together.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, bail};

use crate::tools::{Tools, stdout_of};
use crate::walked::Walked;
use test_registry::image::{ImageBuilder, Written, write_index};
use test_registry::units::parse_size;

/// The tag of every image.
pub(crate) const TAG: &str = "latest";

/// What is done with the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// They are pulled into an OCI layout.
    Pull,
    /// All layers are decompressed, and walked as tar archives.
    Walk,
}

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
    /// The layers of C, decompressed and walked.
    G,
    /// The given number of layers of the given size in bytes.
    Equal { layers: usize, size: u64 },
    /// 24 images of 24 layers, 82 different ones, in one repository.
    H1,
    /// The same in 24 repositories.
    H2,
    /// One image with all layers of H1.
    H1One,
    /// An index of 12 platforms, each with 6 layers of its own of 4 MB.
    H3,
    /// The given number of images with 12 layers of 50 KiB each, 6 that all share and 6 of their own, in as
    /// many repositories.
    H4 { images: usize },
    /// One image with all layers of 100 images of H4.
    H4One,
}

/// A blob that must be there after a pull.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    /// The digest, as `sha256:...`.
    pub(crate) digest: String,
    /// The size in bytes.
    pub(crate) size: u64,
}

/// Images in an OCI layout.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// The folder of the layout.
    pub(crate) layout: PathBuf,
    /// The images.
    pub(crate) images: Vec<Image>,
    /// A description for tables.
    pub(crate) description: String,
    /// What is in the layers, if they are to be walked.
    pub(crate) walked: Option<Walked>,
}

/// An image in the layout.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The name of the image at the registry, as `REPOSITORY:TAG`.
    pub(crate) name: String,
    /// The digest of the manifest.
    pub(crate) manifest: String,
    /// The configuration and the layers.
    pub(crate) blobs: Vec<Blob>,
}

impl Workload {
    /// Makes the images in a layout below `work`, at a small scale if `tiny` is true.
    pub(crate) fn make(self, work: &Path, tools: &Tools, tiny: bool) -> anyhow::Result<Made> {
        let layout = work.join(format!("workload-{self}"));
        if self == Self::H3 {
            return self.make_index(layout, tiny);
        }
        let images = match self {
            Self::C | Self::G => vec![real_layers(tools, tiny)?],
            Self::H1 | Self::H2 | Self::H1One | Self::H4 { .. } | Self::H4One => {
                let images = self.many(tiny);
                images
                    .iter()
                    .map(|layers| numbered_layers(layers))
                    .collect()
            }
            _ => vec![random_layers(&self.sizes(tiny))],
        };
        let is_one = images.len() == 1;
        let mut made = Vec::new();
        for (number, image) in images.into_iter().enumerate() {
            let tag = if is_one {
                TAG.to_owned()
            } else {
                format!("i{number}")
            };
            let written = image
                .write(&layout, &tag)
                .with_context(|| format!("can't make workload {self}"))?;
            let repository = match self {
                Self::H2 | Self::H4 { .. } => format!("image-{number}"),
                _ => "image".to_owned(),
            };
            made.push(Image::new(
                format!("{repository}:{tag}"),
                &layout,
                &written,
            )?);
        }
        let mut known = HashSet::new();
        let layers = made.iter().flat_map(|image| &image.blobs[1..]);
        let distinct: Vec<&Blob> = layers.filter(|blob| known.insert(&blob.digest)).collect();
        let bytes = distinct.iter().map(|blob| blob.size).sum();
        let mut description = self.describe(made.len(), distinct.len(), bytes, tiny);
        let walked = match self.task() {
            Task::Pull => None,
            Task::Walk => Some(Walked::of(&layout, &made[0])?),
        };
        if let Some(walked) = walked {
            let bytes = megabytes(walked.bytes());
            description = format!("{description}, {bytes} not compressed, walked");
        }
        Ok(Made {
            layout,
            images: made,
            description,
            walked,
        })
    }

    /// Makes an index of images.
    fn make_index(self, layout: PathBuf, tiny: bool) -> anyhow::Result<Made> {
        let size = if tiny { 20_000 } else { 4_000_000 };
        let platforms = (0..12).map(|platform| {
            let layers: Vec<(u64, u64)> =
                (0..6).map(|layer| (6 * platform + layer, size)).collect();
            numbered_layers(&layers).platform("linux", &format!("cpu{platform}"))
        });
        let platforms: Vec<ImageBuilder> = platforms.collect();
        let written = write_index(&layout, TAG, &platforms)
            .with_context(|| format!("can't make workload {self}"))?;
        let name = format!("image:{TAG}");
        let images = written.images.iter();
        let images: anyhow::Result<Vec<Image>> = images
            .map(|image| Image::new(name.clone(), &layout, image))
            .collect();
        let mut blobs = Vec::new();
        let mut bytes = 0;
        for image in images? {
            bytes += image.blobs[1..].iter().map(|blob| blob.size).sum::<u64>();
            let size = size_of(&layout, &image.manifest)?;
            let digest = image.manifest;
            blobs.push(Blob { digest, size });
            blobs.extend(image.blobs);
        }
        let index = Image {
            name,
            manifest: written.digest.to_string(),
            blobs,
        };
        Ok(Made {
            layout,
            images: vec![index],
            description: self.describe(platforms.len(), 6 * platforms.len(), bytes, tiny),
            walked: None,
        })
    }

    /// What is done with the image.
    pub(crate) fn task(self) -> Task {
        match self {
            Self::G => Task::Walk,
            _ => Task::Pull,
        }
    }

    /// Whether all platforms of an index are pulled.
    pub(crate) fn is_index(self) -> bool {
        self == Self::H3
    }

    /// The layers of each image: their numbers and their sizes. Equal numbers in several images mean the
    /// same layer.
    fn many(self, tiny: bool) -> Vec<Vec<(u64, u64)>> {
        const SHARED: u64 = 10;
        const RING: u64 = 72;
        let large = if tiny { 30_000 } else { 6_300_000 };
        let of_h1 = |image: u64| {
            let ring = (0..14).map(move |place| SHARED + (3 * image + place) % RING);
            (0..SHARED).chain(ring).map(|layer| (layer, large))
        };
        let of_h4 = |image: u64| {
            let own = 6 + 6 * image..12 + 6 * image;
            (0..6).chain(own).map(|layer| (layer, 50 << 10))
        };
        let fewer = |images: u64| if tiny { images.div_ceil(25) } else { images };
        match self {
            Self::H1 | Self::H2 => (0..24).map(|image| of_h1(image).collect()).collect(),
            Self::H1One => vec![(0..SHARED + RING).map(|layer| (layer, large)).collect()],
            Self::H4 { images } => {
                let images = fewer(images.try_into().unwrap_or(u64::MAX));
                (0..images).map(|image| of_h4(image).collect()).collect()
            }
            Self::H4One => vec![
                (0..6 + 6 * fewer(100))
                    .map(|layer| (layer, 50 << 10))
                    .collect(),
            ],
            _ => Vec::new(),
        }
    }

    /// The sizes of the layers in bytes, before they are put into archives.
    fn sizes(self, tiny: bool) -> Vec<u64> {
        const MB: u64 = 1_000_000;
        let scale = if tiny { 200 } else { 1 };
        let fewer = if tiny { 8 } else { 1 };
        match self {
            Self::A => [52, 36, 24, 16, 10, 6, 4, 2]
                .map(|size| size * MB / scale)
                .to_vec(),
            Self::B => vec![64 << 10; 128 / fewer],
            Self::D => lognormal(400 / fewer, 346 * MB / scale),
            Self::E => {
                let mut sizes = vec![42 * MB / scale; 24];
                sizes.insert(12, 1200 * MB / scale);
                sizes
            }
            Self::F => vec![(1 << 30) / scale],
            Self::Equal { layers, size } => vec![size; layers],
            // The layers of these workloads are made elsewhere.
            Self::C
            | Self::G
            | Self::H1
            | Self::H2
            | Self::H1One
            | Self::H3
            | Self::H4 { .. }
            | Self::H4One => Vec::new(),
        }
    }

    fn describe(self, images: usize, layers: usize, bytes: u64, tiny: bool) -> String {
        let kind = match self {
            Self::C | Self::G => "real ",
            Self::D => "lognormal ",
            _ => "",
        };
        let noun = if layers == 1 { "layer" } else { "layers" };
        let tiny = if tiny { " (tiny)" } else { "" };
        let images = match (images, self) {
            (1, _) => String::new(),
            (_, Self::H3) => format!("an index of {images} platforms, "),
            (_, Self::H1) => format!("{images} images of one repository, "),
            _ => format!("{images} images of as many repositories, "),
        };
        format!(
            "{self}{tiny}: {images}{layers} {kind}{noun}, {}",
            megabytes(bytes)
        )
    }
}

impl Image {
    fn new(name: String, layout: &Path, written: &Written) -> anyhow::Result<Self> {
        let config = written.config_digest.to_string();
        let config_size = size_of(layout, &config)?;
        let mut blobs = vec![Blob {
            digest: config,
            size: config_size,
        }];
        blobs.extend(written.layers.iter().map(|layer| Blob {
            digest: layer.digest().to_string(),
            size: layer.size(),
        }));
        Ok(Self {
            name,
            manifest: written.manifest_digest.to_string(),
            blobs,
        })
    }
}

fn size_of(layout: &Path, digest: &str) -> anyhow::Result<u64> {
    let blobs = layout.join("blobs/sha256");
    Ok(blobs
        .join(digest.trim_start_matches("sha256:"))
        .metadata()?
        .len())
}

/// Formats a number of bytes for people.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

/// Makes layers of bytes that do not compress, so they are stored unchanged.
fn random_layers(sizes: &[u64]) -> ImageBuilder {
    let start = ImageBuilder::new();
    let numbered = sizes.iter().zip(0..);
    numbered.fold(start, |image, (size, seed)| image.layer_random(*size, seed))
}

/// Makes layers like [`random_layers`], with these numbers and sizes.
fn numbered_layers(layers: &[(u64, u64)]) -> ImageBuilder {
    let start = ImageBuilder::new();
    layers.iter().fold(start, |image, (seed, size)| {
        image.layer_random(*size, *seed)
    })
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

/// `count` sizes with this sum, which are always the same. Half of them are below a third of the mean, and a
/// few make up most of the sum.
fn lognormal(count: usize, sum: u64) -> Vec<u64> {
    const SIGMA: f64 = 1.5;
    let mut uniform = Uniform { state: 20_240_229 };
    let weights: Vec<f64> = (0..count)
        .map(|_| {
            // The Box-Muller transform makes a normal number of two uniform ones.
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
            "G" | "g" => Self::G,
            "H1" => Self::H1,
            "H2" => Self::H2,
            "H1-one" => Self::H1One,
            "H3" => Self::H3,
            "H4" => Self::H4 { images: 100 },
            "H4x10" => Self::H4 { images: 1000 },
            "H4-one" => Self::H4One,
            _ => {
                let wrong = || {
                    format!(
                        "{text:?} is none of A to G, H1, H2, H1-one, H3, H4, H4x10, H4-one, and not COUNTxSIZE, such as 40x5M"
                    )
                };
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
            Self::H1One => f.write_str("H1-one"),
            Self::H4 { images: 100 } => f.write_str("H4"),
            Self::H4 { images } => write!(f, "H4x{}", images / 100),
            Self::H4One => f.write_str("H4-one"),
            named => write!(f, "{named:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_add_up_to_the_announced_total() {
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
        for text in [
            "A", "F", "G", "H1", "H2", "H1-one", "H3", "H4", "H4x10", "H4-one", "40x5M", "3x17",
            "128x64K",
        ] {
            let parsed: Result<Workload, _> = text.parse();
            assert_eq!(parsed.map(|workload| workload.to_string()), Ok(text.into()));
        }
        for text in ["I", "", "x", "0x5M", "5x", "AB"] {
            assert!(text.parse::<Workload>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn images_share_layers_as_is_announced() {
        let distinct = |workload: Workload| {
            let images = workload.many(false);
            let layers: HashSet<u64> = images.iter().flatten().map(|(layer, _)| *layer).collect();
            (images.len(), images[0].len(), layers.len())
        };
        assert_eq!(distinct(Workload::H1), (24, 24, 82));
        assert_eq!(distinct(Workload::H1One), (1, 82, 82));
        assert_eq!(distinct(Workload::H4 { images: 100 }), (100, 12, 606));
        assert_eq!(distinct(Workload::H4One), (1, 606, 606));
    }
}
