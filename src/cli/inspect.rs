//! The command `longshore inspect`.

use std::sync::Arc;

use longshore::{FetchOptions, Fetcher, ImageContent, ImageProxyConfig, printable};
use serde::Serialize;
use serde_json::Value;

use super::args::InspectArguments;
use super::failure::Failure;
use super::format::{bytes, json_line};
use super::say::print;
use super::{warnings, within};

/// The maximum width of the column of media types.
const WIDEST_TYPE: usize = 60;

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    image: &'a str,
    digest: &'a str,
    platform: Option<String>,
    created: Option<String>,
    /// The `config` part of the image config, unchanged.
    config: Value,
    layers: Vec<LayerReport>,
}

#[derive(Debug, Serialize)]
struct LayerReport {
    index: usize,
    media_type: String,
    size: u64,
    digest: String,
    diff_id: Option<String>,
}

pub(crate) async fn run(
    arguments: InspectArguments,
    config: ImageProxyConfig,
) -> Result<(), Failure> {
    let InspectArguments {
        image,
        json,
        platform,
        proxy,
        ..
    } = arguments;
    let content = within(proxy.deadline, content(config, &image))
        .await
        .map_err(Failure::on("inspect", &image))?;
    let report = report(&image, &content);
    warnings::of_platform(&image, platform.as_ref(), report.platform.as_deref());
    let text = if json {
        let line = json_line(&report).map_err(anyhow::Error::from)?;
        format!("{line}\n")
    } else {
        page(&report)
    };
    print(text).await
}

async fn content(config: ImageProxyConfig, image: &str) -> longshore::Result<Arc<ImageContent>> {
    let restricts = config.restricts_images();
    let fetcher = Fetcher::new(config, FetchOptions::default().start_ahead(false)).await?;
    let opened = fetcher.open(image).await?;
    warnings::of_policy(restricts, opened.policy_checked());
    fetcher.content(&opened).await
}

fn report<'a>(image: &'a str, content: &'a ImageContent) -> Report<'a> {
    let config: Value = serde_json::from_slice(content.config()).unwrap_or_default();
    let layer = |layer: &longshore::Layer| LayerReport {
        index: layer.index,
        media_type: layer.descriptor.media_type().to_string(),
        size: layer.descriptor.size(),
        digest: layer.descriptor.digest().to_string(),
        diff_id: layer.diff_id.as_ref().map(ToString::to_string),
    };
    Report {
        image,
        digest: content.source_digest().as_ref(),
        platform: content.platform(),
        created: config
            .get("created")
            .and_then(Value::as_str)
            .map(str::to_owned),
        config: config.get("config").cloned().unwrap_or(Value::Null),
        layers: content.layers().iter().map(layer).collect(),
    }
}

/// Formats the report for people.
fn page(report: &Report<'_>) -> String {
    let mut page = String::new();
    let mut line = |name: &str, value: &str| {
        page.extend([format!("{name:<12} {}\n", printable(value))]);
    };
    line("image", report.image);
    line("digest", report.digest);
    line("platform", report.platform.as_deref().unwrap_or("unknown"));
    line("created", report.created.as_deref().unwrap_or("unknown"));
    if let Some(config) = report.config.as_object() {
        for key in [
            "Entrypoint",
            "Cmd",
            "User",
            "WorkingDir",
            "ExposedPorts",
            "Env",
            "Labels",
        ] {
            match config.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if text.is_empty() => {}
                Some(Value::String(text)) => line(&key.to_lowercase(), text),
                Some(value) => line(&key.to_lowercase(), &value.to_string()),
            }
        }
    }
    let sizes = report.layers.iter().map(|layer| layer.size);
    let total = sizes.fold(0, u64::saturating_add);
    line(
        "layers",
        &format!("{}, {}", report.layers.len(), bytes(total)),
    );
    page.push('\n');
    let types = report.layers.iter().map(|layer| layer.media_type.len());
    // A longer type shifts only its own line.
    let types = types.max().unwrap_or(0).min(WIDEST_TYPE);
    page.extend([format!(
        "{:>5}  {:<types$}  {:>9}  {:<71}  DIFF_ID\n",
        "LAYER", "MEDIA TYPE", "SIZE", "DIGEST"
    )]);
    for LayerReport {
        index,
        media_type,
        size,
        digest,
        diff_id,
    } in &report.layers
    {
        let (media_type, size) = (printable(media_type), bytes(*size));
        let diff_id = diff_id.as_deref().unwrap_or("-");
        page.extend([format!(
            "{index:>5}  {media_type:<types$}  {size:>9}  {digest:<71}  {diff_id}\n"
        )]);
    }
    page
}
