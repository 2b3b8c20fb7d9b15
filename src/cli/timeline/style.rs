//! Colours, and the legend that explains them.
//!
//! Blobs are amber, blue and navy; proxies are grey; failures are vermilion and hatched. The colours differ in
//! lightness, too, so that they can be distinguished with any kind of colour vision, and in grey.

use super::picture::{Outcome, Phase, Picture, Span, What};

/// An entry of the legend.
pub(super) struct Entry {
    /// The class of its colour.
    pub(super) class: &'static str,
    pub(super) name: &'static str,
    pub(super) meaning: &'static str,
    /// Whether the picture contains it.
    is_in: fn(&Picture) -> bool,
}

const ENTRIES: [Entry; 9] = [
    Entry {
        class: "ls-start",
        name: "proxy starts",
        meaning: "A skopeo process starts, and waits until it is asked for something.",
        is_in: |picture| picture.proxies.iter().any(|proxy| proxy.asked.is_some()),
    },
    Entry {
        class: "ls-document",
        name: "open",
        meaning: "A proxy opens an image and fetches its manifest, or it fetches the image's config.",
        is_in: |picture| {
            has(picture, |span| {
                matches!(span.what, What::Manifest | What::Config)
            })
        },
    },
    Entry {
        class: "ls-wait",
        name: "wait",
        meaning: "The registry was asked for a layer, and has not sent its first byte.",
        is_in: |picture| !picture.totals.wait.is_zero(),
    },
    Entry {
        class: "ls-receive",
        name: "receive",
        meaning: "The bytes of a layer arrive, and are hashed and written.",
        is_in: |picture| !picture.totals.receive.is_zero(),
    },
    Entry {
        class: "ls-store",
        name: "verify and store",
        meaning: "All bytes are there. Size and digest are checked, and the layer is stored.",
        is_in: |picture| !picture.totals.store.is_zero(),
    },
    Entry {
        class: "ls-stall",
        name: "stall",
        meaning: "Bytes are expected, and none has come for a second or longer.",
        is_in: |picture| !picture.totals.stall.is_zero(),
    },
    Entry {
        class: "ls-failed",
        name: "failed try",
        meaning: "The try failed. What can be retried is retried, perhaps by another proxy.",
        is_in: |picture| picture.totals.failed_tries > 0,
    },
    Entry {
        class: "ls-several",
        name: "several",
        meaning: "Tries that are too short, or too many, to be shown one by one.",
        is_in: |picture| has(picture, |span| matches!(span.what, What::Several { .. })),
    },
    Entry {
        class: "ls-unfinished",
        name: "unfinished",
        meaning: "The pull, or a proxy that was no longer needed, ended first.",
        is_in: |picture| has(picture, |span| span.outcome == Outcome::Unfinished),
    },
];

fn has(picture: &Picture, wanted: impl Fn(&Span) -> bool) -> bool {
    picture.spans.iter().any(wanted)
}

/// Returns the entries of the legend that the picture needs.
pub(super) fn legend(picture: &Picture) -> impl Iterator<Item = &'static Entry> {
    static ALL: [Entry; 9] = ENTRIES;
    ALL.iter().filter(|entry| (entry.is_in)(picture))
}

/// The class of a part of a span.
pub(super) fn class(phase: Phase, has_failed: bool) -> &'static str {
    match phase {
        Phase::Stall => "ls-stall",
        _ if has_failed => "ls-failed",
        Phase::Document => "ls-document",
        Phase::Wait => "ls-wait",
        Phase::Receive => "ls-receive",
        Phase::Store => "ls-store",
        Phase::Several => "ls-several",
    }
}

/// The patterns that the colours use.
pub(super) const PATTERNS: &str = concat!(
    r#"<defs><pattern id="ls-hatch" width="5" height="5" patternUnits="userSpaceOnUse" "#,
    r#"patternTransform="rotate(45)"><rect class="ls-failure" width="5" height="5"/>"#,
    r#"<rect class="ls-paper" width="1.6" height="5"/></pattern>"#,
    r#"<pattern id="ls-dots" width="4" height="4" patternUnits="userSpaceOnUse">"#,
    r#"<rect class="ls-paper" width="4" height="4"/>"#,
    r#"<circle class="ls-receive" cx="2" cy="2" r="1.1"/></pattern></defs>"#,
);

/// The colours, for light and dark. Within a page, only what is in the picture has these classes.
pub(super) const CSS: &str = "\
.ls text{font:11px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;\
fill:#1f2328;font-variant-numeric:tabular-nums}\
.ls .ls-title{font-size:17px;font-weight:600}\
.ls .ls-totals{font-size:13px}\
.ls .ls-muted{fill:#59636e}\
.ls .ls-bad{fill:#b84300;font-weight:600}\
.ls .ls-r{text-anchor:end}.ls .ls-m{text-anchor:middle}\
.ls .ls-in{fill:#fff;font-size:9px;pointer-events:none}\
.ls .ls-rank{fill:#fff;font-size:9px;font-weight:700;text-anchor:middle;pointer-events:none}\
.ls-paper{fill:#fff}.ls-band{fill:#f0f2f4}.ls-grid{stroke:#d4d9de;stroke-width:1;fill:none}\
.ls-start{fill:#c3cad1}.ls-document{fill:#69737d}\
.ls-wait{fill:#f2c55c}.ls-receive{fill:#2277b4}.ls-store{fill:#0b3a5e}\
.ls-failure{fill:#d55e00}.ls-several{fill:#8fb3cf}.ls-mark{fill:#1f2328}\
.ls-area{fill:#2277b4;fill-opacity:.22}.ls-line{fill:none;stroke:#2277b4;stroke-width:1.5}\
.ls-average{stroke:#1f2328;stroke-width:1;stroke-dasharray:2 3}\
.ls-end{stroke:#59636e;stroke-width:2}.ls-broken{stroke:#d55e00;stroke-width:3}\
.ls-failed{fill:url(#ls-hatch);stroke:#d55e00;stroke-width:.8}\
.ls-stall{fill:url(#ls-dots);stroke:#2277b4;stroke-width:.8}\
.ls-unfinished{fill:none;stroke:#1f2328;stroke-width:1;stroke-dasharray:2 2}\
.ls-s:hover path{stroke:#1f2328;stroke-width:1.5}\
@media(prefers-color-scheme:dark){\
.ls text{fill:#e6edf3}.ls .ls-muted{fill:#9aa4ae}.ls .ls-bad{fill:#ff9a5c}\
.ls .ls-in{fill:#0f1419}.ls .ls-rank{fill:#0f1419}\
.ls-paper{fill:#0f1419}.ls-band{fill:#1a2129}.ls-grid{stroke:#2c353e}\
.ls-start{fill:#3f4953}.ls-document{fill:#8b949e}\
.ls-wait{fill:#8a6a1c}.ls-receive{fill:#4aa3e8}.ls-store{fill:#cfe8fb}\
.ls-failure{fill:#ff8a4c}.ls-several{fill:#3b5f7d}.ls-mark{fill:#e6edf3}\
.ls-area{fill:#4aa3e8}.ls-line{stroke:#4aa3e8}.ls-average{stroke:#e6edf3}\
.ls-end{stroke:#9aa4ae}.ls-broken{stroke:#ff8a4c}\
.ls-failed{stroke:#ff8a4c}.ls-stall{stroke:#4aa3e8}\
.ls-unfinished{stroke:#e6edf3}.ls-s:hover path{stroke:#fff}}";
