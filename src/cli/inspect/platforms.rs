//! The platforms of an index.

use std::collections::BTreeMap;

use longshore::SourceDocument;
use longshore::oci_spec::image::Descriptor;
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::format::{bytes, counted, json_line, platform_of, short};
use crate::cli::page::{Page, fit};

/// The annotation by which buildkit marks a manifest that describes another one.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    image: &'a str,
    digest: &'a str,
    /// The size of the index, or of the manifest if there is no index, in bytes.
    size: usize,
    is_index: bool,
    platforms: Vec<PlatformReport>,
}

#[derive(Debug, Serialize)]
struct PlatformReport {
    /// `None` if the index does not say it. For a single image, it is always `None`.
    platform: Option<String>,
    os_version: Option<String>,
    digest: String,
    /// The size of the manifest in bytes.
    size: u64,
    media_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

/// Returns the list, as JSON or for people. Without `entries`, the document is the manifest of a single image.
pub(super) fn text(
    source: &SourceDocument,
    entries: Option<Vec<Descriptor>>,
    json: bool,
) -> Result<String, Failure> {
    let is_index = entries.is_some();
    let size = source.raw().len();
    let platforms = match entries {
        Some(entries) => entries.iter().map(PlatformReport::of).collect(),
        None => vec![PlatformReport {
            platform: None,
            os_version: None,
            digest: source.digest().to_string(),
            size: size as u64,
            media_type: None,
            annotations: BTreeMap::new(),
        }],
    };
    let report = Report {
        image: source.reference(),
        digest: source.digest().as_ref(),
        size,
        is_index,
        platforms,
    };
    if json {
        let line = json_line(&report).map_err(anyhow::Error::from)?;
        return Ok(format!("{line}\n"));
    }
    Ok(page(&report))
}

impl PlatformReport {
    fn of(entry: &Descriptor) -> Self {
        let platform = entry.platform().as_ref();
        let annotations = entry.annotations().iter().flatten();
        Self {
            platform: platform_of(entry),
            os_version: platform.and_then(|platform| platform.os_version().clone()),
            digest: entry.digest().to_string(),
            size: entry.size(),
            media_type: Some(entry.media_type().to_string()).filter(|kind| !kind.is_empty()),
            annotations: annotations
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        }
    }

    /// Returns the platform of the entry, and whatever else distinguishes the entry from others.
    fn shown(&self) -> String {
        let platform = self.platform.as_deref().unwrap_or("unknown");
        let version = self.os_version.iter().map(|version| format!(" {version}"));
        let kind = self.annotations.get(REFERENCE_TYPE);
        let kind = kind.iter().map(|kind| format!(" ({kind})"));
        version
            .chain(kind)
            .fold(platform.to_owned(), |text, more| text + &more)
    }
}

/// Formats the report for people.
fn page(report: &Report<'_>) -> String {
    let mut page = Page::default();
    page.name("image", report.image);
    page.name("digest", report.digest);
    if !report.is_index {
        page.line("");
        page.line("This is a single image, and no index. Without --platform all, inspect shows");
        page.line("its platform.");
        return page.into_text();
    }
    let count = report.platforms.len();
    let size = bytes(report.size as u64);
    page.text("index", &format!("{}, {size}", counted(count, "manifest")));
    page.line("");
    page.line("  MANIFEST  DIGEST        PLATFORM");
    for platform in &report.platforms {
        let (size, digest) = (bytes(platform.size), short(&platform.digest));
        let row = format!("{size:>10}  {digest}  ");
        page.line(&fit(&row, &platform.shown()));
    }
    page.into_text()
}
