//! The report for people.

use super::diagnosis::{Problem, Report};
use super::machine::{Folder, Limits};
use super::settings::{AuthFile, Settings};
use super::skopeo::{Abilities, Opened, Skopeo};
use crate::cli::page::Page;

pub(super) fn text(report: &Report) -> String {
    let mut page = Page::default();
    skopeo(&mut page, &report.skopeo);
    let checks_policy = report
        .skopeo
        .proxy
        .as_ref()
        .map(|proxy| proxy.checks_policy);
    settings(&mut page, &report.settings, checks_policy);
    let limits = limits(&report.machine.limits);
    list(&mut page, "limits", limits.into_iter());
    let folders = report.machine.folders.iter().map(folder);
    list(&mut page, "folders", folders);
    if let Some(image) = &report.skopeo.image {
        opened(&mut page, image);
    }
    for (name, problems) in [("note", &report.notes), ("problem", &report.problems)] {
        for Problem { what, advice } in problems {
            page.line("");
            page.text(name, what);
            page.text("", advice.as_deref().unwrap_or_default());
        }
    }
    page.line("");
    page.line(if report.problems.is_empty() {
        "Pulls can work."
    } else {
        "Pulls can't work."
    });
    page.into_text()
}

fn skopeo(page: &mut Page, skopeo: &Skopeo) {
    let Skopeo {
        program,
        path,
        version,
        proxy,
        ..
    } = skopeo;
    match path {
        Some(path) => page.text("skopeo", path),
        None => return page.text("skopeo", &format!("not found: {program}")),
    }
    let version = version.as_deref().unwrap_or("unknown");
    let Some(proxy) = proxy else {
        return page.text("version", version);
    };
    page.text(
        "version",
        &format!("{version}, protocol {}", proxy.protocol),
    );
    for (name, works) in [("works", true), ("lacks", false)] {
        list(page, name, abilities(proxy, works));
    }
}

/// Returns a line for each thing that the proxy can or can't do.
fn abilities(proxy: &Abilities, works: bool) -> impl Iterator<Item = String> {
    let all = [
        (
            proxy.checks_policy,
            "the check of the signature policy (skopeo 1.13 or later)",
        ),
        (
            proxy.raw_blobs,
            "immediate reports of blob errors (skopeo 1.19 or later)",
        ),
        (
            proxy.layer_info,
            "layers of containers-storage: (skopeo 1.11 or later)",
        ),
        (
            proxy.optional_images,
            "distinction of missing images from other errors (skopeo 1.11 or later)",
        ),
    ];
    let wanted = all.into_iter().filter(move |(can, _)| *can == works);
    wanted.map(|(_, what)| what.to_owned())
}

/// Writes the settings. `checks_policy` says whether skopeo checks the policy; `None` if that is unknown.
fn settings(page: &mut Page, settings: &Settings, checks_policy: Option<bool>) {
    let policy = &settings.policy;
    let checked = match checks_policy {
        Some(true) => " (checked by this skopeo)",
        Some(false) => " (not checked by this skopeo)",
        None => "",
    };
    let says = if policy.restricts_images {
        "may refuse images"
    } else {
        "accepts every image"
    };
    page.text(
        "policy",
        &match &policy.file {
            Some(file) => format!("{file}: {says}{checked}"),
            None if policy.is_off => "off, by --insecure-policy".to_owned(),
            None => "none found".to_owned(),
        },
    );
    let files = settings.registries_conf.iter().cloned();
    list_or(page, "config", files, "no registries.conf found");
    let files = settings.auth_files.iter();
    let files = files.filter(|file| file.exists || file.is_unreadable);
    let none = match (settings.credentials_given, settings.auth_files.is_empty()) {
        (true, _) => "credentials are given by an option",
        (false, true) => "no credentials, by --no-creds",
        (false, false) => "no auth file found",
    };
    let shown = |file: &AuthFile| {
        let state = if file.is_unreadable {
            " (not readable)"
        } else {
            ""
        };
        format!("{}{state}", file.path)
    };
    list_or(page, "auth", files.map(shown), none);
}

fn limits(limits: &Limits) -> [String; 3] {
    let number = |limit: Option<u64>| match limit {
        None => "unknown".to_owned(),
        Some(u64::MAX) => "unlimited".to_owned(),
        Some(limit) => limit.to_string(),
    };
    // For pages, 0 means that there is no limit.
    let pages =
        |limit: Option<u64>| number(limit.map(|limit| if limit == 0 { u64::MAX } else { limit }));
    [
        format!(
            "open files: {}, can be raised to {}",
            number(limits.open_files),
            number(limits.open_files_hard)
        ),
        format!("largest pipe in bytes: {}", number(limits.pipe_max_size)),
        format!(
            "pipe pages of a user: soft limit {}, hard limit {} (above the soft limit, pipes are small)",
            pages(limits.pipe_user_pages_soft),
            pages(limits.pipe_user_pages_hard)
        ),
    ]
}

fn folder(folder: &Folder) -> String {
    let Some(path) = &folder.path else {
        return format!("{} is not set", folder.variable);
    };
    let state = match (folder.exists, folder.is_writable) {
        (true, true) => "",
        (true, false) => " (not writable)",
        (false, _) => " (not there)",
    };
    format!("{}={path}{state}", folder.variable)
}

fn opened(page: &mut Page, image: &Opened) {
    page.line("");
    page.name("image", &image.reference);
    if let Some(digest) = &image.digest {
        page.name("digest", digest);
    }
    let calls = image.calls.iter();
    list(
        page,
        "calls",
        calls.map(|timed| format!("{:>6} ms  {}", timed.ms, timed.call)),
    );
}

/// Adds values, one a line, after one name.
fn list(page: &mut Page, name: &str, values: impl Iterator<Item = String>) {
    for (number, value) in values.enumerate() {
        page.text(if number == 0 { name } else { "" }, &value);
    }
}

fn list_or(page: &mut Page, name: &str, values: impl Iterator<Item = String>, none: &str) {
    let mut values = values.peekable();
    match values.peek() {
        Some(_) => list(page, name, values),
        None => page.text(name, none),
    }
}
