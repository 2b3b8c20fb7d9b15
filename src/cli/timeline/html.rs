//! The picture as a page: the same SVG, and tables below it. The page has no script, and loads no other file.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::escape::Escaped;
use super::names::{of_span, without_transport};
use super::picture::{Outcome, Picture, Span, What};
use super::scale::duration;
use super::style::legend;
use super::svg::Svg;
use super::text;
use crate::cli::format::{bytes, short};

pub(super) struct Html<'a> {
    pub(super) picture: &'a Picture,
    pub(super) axis: Duration,
}

/// The content security policy of the page. Even if text from a registry became HTML by mistake, it could load
/// and run nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const CSS: &str = "\
:root{color-scheme:light dark}\
body{margin:0 auto;max-width:1240px;padding:12px;background:#fff;color:#1f2328;\
font:14px/1.45 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}\
figure{margin:0 0 8px}figure svg{display:block;width:100%;height:auto}\
h2{font-size:15px;margin:22px 16px 6px}\
.wide{overflow-x:auto;margin:0 16px}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}\
th,td{padding:4px 14px 4px 0;text-align:left;vertical-align:top;border-bottom:1px solid #d4d9de}\
th{font-weight:600;color:#59636e}td.n,th.n{text-align:right}td.n,td.w{white-space:nowrap}\
code{font:12px ui-monospace,'DejaVu Sans Mono',monospace}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 14px;margin:0 16px}\
dt{white-space:nowrap}dd{margin:0;color:#59636e}\
dt svg{width:12px;height:10px;margin-right:7px;overflow:visible}\
@media(prefers-color-scheme:dark){body{background:#0f1419;color:#e6edf3}\
th,dd{color:#9aa4ae}th,td{border-color:#2c353e}}";

impl Display for Html<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self { picture, axis } = *self;
        let title = text::title(picture);
        writeln!(f, "<!DOCTYPE html>")?;
        writeln!(f, r#"<html lang="en"><head><meta charset="utf-8"/>"#)?;
        writeln!(
            f,
            r#"<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>"#
        )?;
        writeln!(f, r#"<meta name="viewport" content="width=device-width"/>"#)?;
        writeln!(f, "<title>{} · longshore pull</title>", Escaped(&title))?;
        writeln!(f, "<style>{CSS}</style></head><body>")?;
        writeln!(f, "<figure>{}</figure>", Svg { picture, axis })?;
        legend_list(f, picture)?;
        slowest(f, picture)?;
        failures(f, picture)?;
        images(f, picture)?;
        writeln!(f, "</body></html>")
    }
}

fn legend_list(f: &mut Formatter, picture: &Picture) -> fmt::Result {
    writeln!(f, "<h2>How to read it</h2><dl>")?;
    for entry in legend(picture) {
        let (class, name, meaning) = (entry.class, entry.name, entry.meaning);
        writeln!(
            f,
            r#"<dt><svg class="ls" viewBox="0 0 12 10"><path class="{class}" d="M0 0h12v10H0z"/></svg>{name}</dt><dd>{meaning}</dd>"#
        )?;
    }
    writeln!(
        f,
        "<dt>lanes</dt><dd>A proxy is a skopeo process. Each of its lanes shows one request at a time. The grey band \
         is as long as the proxy ran. Rest the pointer on a bar to see what it is.</dd></dl>"
    )
}

fn slowest(f: &mut Formatter, picture: &Picture) -> fmt::Result {
    if picture.slowest.is_empty() {
        return Ok(());
    }
    writeln!(f, r#"<h2>Slowest layers</h2><div class="wide"><table>"#)?;
    writeln!(
        f,
        r#"<tr><th>layer</th><th class="n">size</th><th class="n">time</th><th>of which</th><th>began</th><th>proxy</th></tr>"#
    )?;
    for span in &picture.slowest {
        writeln!(
            f,
            r#"<tr><td>{}</td><td class="n">{}</td><td class="n">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>"#,
            Name { span, picture },
            size(span),
            duration(span.length()),
            text::phases(span),
            duration(span.begin),
            span.proxy,
        )?;
    }
    writeln!(f, "</table></div>")
}

fn failures(f: &mut Formatter, picture: &Picture) -> fmt::Result {
    let broken: Vec<_> = picture
        .proxies
        .iter()
        .filter(|proxy| proxy.reason.is_some())
        .collect();
    if picture.failures.is_empty() && broken.is_empty() {
        return Ok(());
    }
    writeln!(f, r#"<h2>What failed</h2><div class="wide"><table>"#)?;
    writeln!(
        f,
        r#"<tr><th>what</th><th class="n">after</th><th>at</th><th>proxy</th><th>reason</th><th>then</th></tr>"#
    )?;
    for span in &picture.failures {
        let then = match &span.outcome {
            Outcome::Failed {
                retry_after: Some(wait),
                ..
            } => format!("retried after {}", duration(*wait)),
            _ => String::new(),
        };
        writeln!(
            f,
            r#"<tr><td>{}</td><td class="n">{}</td><td class="w">{}</td><td>{}</td><td>{}</td><td class="w">{then}</td></tr>"#,
            Name { span, picture },
            duration(span.length()),
            duration(span.end),
            span.proxy,
            Escaped(&text::short_reason(text::reason(span).unwrap_or_default())),
        )?;
    }
    for proxy in broken {
        let end = proxy.end.unwrap_or_default();
        writeln!(
            f,
            r#"<tr><td>the proxy</td><td class="n">{}</td><td class="w">{}</td><td>{}</td><td>{}</td><td></td></tr>"#,
            duration(end.saturating_sub(proxy.begin)),
            duration(end),
            proxy.number,
            Escaped(proxy.reason.as_deref().unwrap_or_default()),
        )?;
    }
    writeln!(f, "</table></div>")?;
    let more = picture
        .totals
        .failed_tries
        .saturating_sub(picture.failures.len());
    if more > 0 {
        writeln!(f, r#"<p class="wide">More failed tries: {more}.</p>"#)?;
    }
    Ok(())
}

fn images(f: &mut Formatter, picture: &Picture) -> fmt::Result {
    if picture.images.len() < 2 {
        return Ok(());
    }
    writeln!(f, r#"<h2>Images</h2><div class="wide"><table>"#)?;
    writeln!(
        f,
        "<tr><th>image</th><th>first asked for</th><th>open</th><th>complete</th></tr>"
    )?;
    let at = |at: Option<Duration>| at.map(duration).unwrap_or_default();
    for image in &picture.images {
        let end = match &image.failed {
            Some((time, reason)) => format!("failed at {}: {reason}", duration(*time)),
            None => at(image.complete),
        };
        writeln!(
            f,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            Escaped(without_transport(&image.name)),
            at(image.asked),
            at(image.opened),
            Escaped(&end),
        )?;
    }
    writeln!(f, "</table></div>")?;
    let more = picture.totals.images.saturating_sub(picture.images.len());
    if more > 0 {
        writeln!(f, r#"<p class="wide">More images: {more}.</p>"#)?;
    }
    Ok(())
}

/// A span's name, with its digest and, if there are several, its image.
struct Name<'a> {
    span: &'a Span,
    picture: &'a Picture,
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{}", Escaped(&of_span(self.span, false)))?;
        if let What::Layer { digest, .. } = &self.span.what {
            write!(f, " <code>{}</code>", Escaped(short(digest)))?;
        }
        if self.picture.images.len() > 1 {
            let image = without_transport(&self.span.image);
            write!(f, "<br/>{}", Escaped(image))?;
        }
        Ok(())
    }
}

fn size(span: &Span) -> String {
    match span.what {
        What::Layer { size, .. } => bytes(size),
        _ => String::new(),
    }
}
