//! The command `longshore verify`.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Instant;

use longshore::oci_spec::image::Digest;
use longshore::{BlobError, Damage, DamagedBlob, OciLayout, Verified, VerifyOptions, printable};
use serde::Serialize;

use super::args::{Destination, VerifyArguments};
use super::failure::Failure;
use super::format::{bytes, counted, json_line};
use super::say::print;

/// The version of the object that `--json` prints. It changes if a member is removed or gets another meaning.
const REPORT_VERSION: u32 = 1;

/// The maximum number of images that are listed for a blob.
const SHOWN_IMAGES: usize = 5;

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    version: u32,
    layout: String,
    /// The image that was verified alone.
    tag: Option<String>,
    ok: bool,
    images: usize,
    blobs: usize,
    bytes: u64,
    /// The number of layers that were compared with a `diff_id`. `None` if that was not asked for.
    diff_ids: Option<usize>,
    /// The number of foreign layers, which are stored elsewhere.
    foreign_layers: usize,
    problems: Vec<Problem>,
    elapsed_ms: u64,
}

#[derive(Debug, Serialize)]
struct Problem {
    digest: String,
    kind: &'static str,
    message: String,
    /// The size that the blob should have.
    expected_size: Option<u64>,
    found_size: Option<u64>,
    found_digest: Option<String>,
    /// The names of the images that name the blob.
    images: Vec<String>,
    removed: bool,
}

pub(crate) async fn run(arguments: VerifyArguments) -> Result<(), Failure> {
    let started = Instant::now();
    let options = options(&arguments);
    let VerifyArguments {
        layout: Destination { path, tag, .. },
        repair,
        wait,
        json,
        ..
    } = arguments;
    #[cfg(feature = "decompress")]
    let compares = options.diff_ids;
    #[cfg(not(feature = "decompress"))]
    let compares = false;
    let layout = OciLayout::new(path, None);
    let verified = layout.verify(&options).await?;
    let removed = if repair {
        layout.remove_damaged(&verified, wait).await
    } else {
        Ok(Vec::new())
    };
    // The problems are printed even if nothing could be removed.
    let (removed, failure) = match removed {
        Ok(removed) => (removed, None),
        Err(error) => (Vec::new(), Some(Failure::from(error))),
    };
    let removed: HashSet<Digest> = removed.into_iter().collect();
    let text = if json {
        let report = Report {
            version: REPORT_VERSION,
            layout: layout.root().display().to_string(),
            tag,
            ok: verified.damaged.is_empty(),
            images: verified.images,
            blobs: verified.blobs,
            bytes: verified.bytes,
            diff_ids: compares.then_some(verified.diff_ids),
            foreign_layers: verified.foreign_layers,
            problems: (verified.damaged.iter())
                .map(|blob| Problem::of(blob, removed.contains(&blob.digest)))
                .collect(),
            elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let line = json_line(&report).map_err(anyhow::Error::from)?;
        format!("{line}\n")
    } else {
        page(&verified, &removed, compares, tag.is_some())
    };
    print(text).await?;
    match failure {
        Some(failure) => Err(failure),
        None if verified.damaged.is_empty() => Ok(()),
        None => Err(outcome(&verified, &removed, repair)),
    }
}

fn options(arguments: &VerifyArguments) -> VerifyOptions {
    let mut options = VerifyOptions::default().unnamed(arguments.all);
    options.image.clone_from(&arguments.layout.tag);
    options.workers = arguments.workers;
    #[cfg(feature = "decompress")]
    let options = options.diff_ids(arguments.diff_ids);
    options
}

/// The failure of a verification that found something, with what to do.
fn outcome(verified: &Verified, removed: &HashSet<Digest>, repair: bool) -> Failure {
    let problems = counted(verified.damaged.len(), "problem");
    let left = (verified.damaged.iter())
        .filter(|blob| !removed.contains(&blob.digest) && !matches!(blob.damage, Damage::Missing));
    let left: Vec<_> = left.map(|blob| &blob.damage).collect();
    let is_needed =
        |blob: &DamagedBlob| !blob.images.is_empty() || matches!(blob.damage, Damage::Missing);
    let advice = if left.is_empty() && verified.damaged.iter().any(is_needed) {
        "pull the images again: what is missing will be fetched"
    } else if left.is_empty() {
        "what was damaged is removed"
    } else if !repair && left.iter().any(|damage| damage.is_repairable()) {
        "--repair removes damaged files where it can, and the next pull fetches them"
    } else {
        "--repair does not remove what is left: the files have the right digest, or can't be opened or checked"
    };
    Failure::from(anyhow::anyhow!("{problems} found; {advice}"))
}

impl Problem {
    fn of(blob: &DamagedBlob, removed: bool) -> Self {
        let (found_size, expected_size) = match blob.damage {
            Damage::WrongSize {
                found, expected, ..
            } => (Some(found), Some(expected)),
            _ => (None, None),
        };
        let found_digest = match &blob.damage {
            Damage::Corrupt { computed, .. } => Some(computed.to_string()),
            _ => None,
        };
        Self {
            digest: blob.digest.to_string(),
            kind: kind(&blob.damage),
            message: with_causes(&blob.damage),
            expected_size,
            found_size,
            found_digest,
            images: blob.images.clone(),
            removed,
        }
    }
}

/// The kind of a problem in the JSON object.
fn kind(damage: &Damage) -> &'static str {
    match damage {
        Damage::Missing => "missing",
        Damage::WrongSize { .. } => "wrong_size",
        Damage::Corrupt { .. } => "damaged",
        Damage::Unreadable(_) => "unreadable",
        Damage::UnknownAlgorithm => "unknown_algorithm",
        Damage::NotUnderstood(_) => "not_understood",
        Damage::Layer(_) => "wrong_layer",
        _ => "other",
    }
}

/// Returns the damage with its causes, for people.
fn with_causes(damage: &Damage) -> String {
    printable(&format!("{:#}", anyhow::Error::from(damage.clone())))
}

/// Formats the result for people, within 80 columns where digests and reasons allow it.
/// Returns the report as text. `of_one_image` is whether only one image of the layout was verified.
fn page(
    verified: &Verified,
    removed: &HashSet<Digest>,
    compares: bool,
    of_one_image: bool,
) -> String {
    let mut page = String::new();
    for blob in &verified.damaged {
        // Writing to a `String` can't fail.
        let _ = writeln!(page, "{}", blob.digest);
        match &blob.damage {
            Damage::Corrupt { computed, .. } => {
                let _ = writeln!(
                    page,
                    "  is damaged: its bytes have the digest\n  {computed}"
                );
            }
            Damage::Layer(BlobError::WrongDiffId {
                computed, diff_id, ..
            }) => {
                let _ = writeln!(page, "  decompresses to\n  {computed}");
                let _ = writeln!(page, "  but its image config says\n  {diff_id}");
            }
            damage => {
                let _ = writeln!(page, "  {}", with_causes(damage));
            }
        }
        let _ = writeln!(page, "  {}", named_by(&blob.images, of_one_image));
        if removed.contains(&blob.digest) {
            let _ = writeln!(page, "  removed: the next pull that needs it fetches it");
        }
    }
    let Verified {
        images,
        blobs,
        bytes: read,
        diff_ids,
        foreign_layers,
        ..
    } = *verified;
    let _ = write!(
        page,
        "{} of {} read ({})",
        counted(blobs, "blob"),
        counted(images, "image"),
        bytes(read)
    );
    if compares {
        let _ = write!(page, ", {} decompressed", counted(diff_ids, "layer"));
    }
    if foreign_layers > 0 {
        let foreign = counted(foreign_layers, "foreign layer");
        let _ = write!(page, ", {foreign} left out");
    }
    page.push_str(match verified.damaged.len() {
        0 => ": all good\n",
        _ => "\n",
    });
    page
}

fn named_by(images: &[String], of_one_image: bool) -> String {
    let shown: Vec<_> = images.iter().take(SHOWN_IMAGES).collect();
    let shown: Vec<_> = shown.into_iter().map(|name| printable(name)).collect();
    match (shown.join(", "), images.len()) {
        (_, 0) if of_one_image => "not named by the verified image".to_owned(),
        (_, 0) => "named by no image".to_owned(),
        (shown, all) if all > SHOWN_IMAGES => {
            format!("named by {shown} and {} more", all - SHOWN_IMAGES)
        }
        (shown, _) => format!("named by {shown}"),
    }
}
