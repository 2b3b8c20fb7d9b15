//! The overview of one image.

use longshore::ImageContent;
use serde::Serialize;
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::format::{bytes, json_line, short, short_type};
use crate::cli::page::{Page, fit};

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

/// The overview, as JSON or for people.
pub(super) fn text(image: &str, content: &ImageContent, json: bool) -> Result<String, Failure> {
    let report = report(image, content);
    if json {
        let line = json_line(&report).map_err(anyhow::Error::from)?;
        return Ok(format!("{line}\n"));
    }
    Ok(page(&report))
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
    let mut page = Page::default();
    page.name("image", report.image);
    page.name("digest", report.digest);
    page.text("platform", report.platform.as_deref().unwrap_or("unknown"));
    page.text("created", report.created.as_deref().unwrap_or("unknown"));
    if let Some(config) = report.config.as_object() {
        for (name, key) in [
            ("entry", "Entrypoint"),
            ("cmd", "Cmd"),
            ("user", "User"),
            ("workdir", "WorkingDir"),
            ("ports", "ExposedPorts"),
            ("env", "Env"),
            ("labels", "Labels"),
        ] {
            let values = config.get(key).map(|value| values(key, value));
            for (number, value) in values.into_iter().flatten().enumerate() {
                page.text(if number == 0 { name } else { "" }, &value);
            }
        }
    }
    let sizes = report.layers.iter().map(|layer| layer.size);
    let total = sizes.fold(0, u64::saturating_add);
    let layers = report.layers.len();
    page.text("layers", &format!("{layers}, {}", bytes(total)));
    if !report.layers.is_empty() {
        page.line("");
        page.line("LAYER        SIZE  DIGEST        TYPE");
    }
    for layer in &report.layers {
        let (size, digest) = (bytes(layer.size), short(&layer.digest));
        let row = format!("{:>5}  {size:>10}  {digest}  ", layer.index);
        page.line(&(fit(&row, &short_type(&layer.media_type))));
    }
    page.into_text()
}

/// The values of a member of the config, one a line.
fn values(key: &str, value: &Value) -> Vec<String> {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match (key, value) {
        (_, Value::Null) => Vec::new(),
        (_, Value::String(text)) if text.is_empty() => Vec::new(),
        ("Env", Value::Array(variables)) => variables.iter().map(shown).collect(),
        ("Labels", Value::Object(labels)) => {
            let label = |(name, value)| format!("{name}={}", shown(value));
            labels.iter().map(label).collect()
        }
        ("ExposedPorts", Value::Object(ports)) if !ports.is_empty() => {
            let ports: Vec<&str> = ports.keys().map(String::as_str).collect();
            vec![ports.join(", ")]
        }
        (_, value) => vec![shown(value)],
    }
}
