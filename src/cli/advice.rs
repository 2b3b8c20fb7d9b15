//! Advice that needs a lookup, such as the names in a layout that does not have the wanted name.

use std::io;
use std::path::Path;
use std::time::Duration;

use longshore::oci_spec::image::Descriptor;
use longshore::{Error, FetchOptions, Fetcher, ImageProxyConfig, OciLayout, RefusalKind};
use strsim::damerau_levenshtein;
use tokio::time::timeout;

use super::failure::Failure;
use super::format::{listed, platform_of};
use super::hint::{Access, Login};

/// How long a lookup may take. The failure itself is known already, and can be reported without advice.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of failures that are looked up. Each may cost the registry a request, and all of them may have the
/// same reason.
const MAX_LOOK_UPS: usize = 8;

/// The number of names or platforms that are listed.
const MAX_LISTED: usize = 20;

/// The lookup that an error asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question<'a> {
    /// The platforms of an index that does not have the wanted one.
    Platforms(&'a str),
    /// The names of the images in a layout, for an image that could not be opened.
    Names(InLayout<'a>),
    /// The reason why there is no image of skopeo's form (`dir:`) in this folder.
    InFolder(&'a str),
    /// Whether an auth file has credentials for the registry, which has refused the request as unauthorized.
    Credentials(&'a str, AuthFile),
}

/// The auth file in which credentials are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuthFile {
    /// The command line or the environment names it.
    Given,
    /// The file is one of the default auth files.
    Default,
}

/// An image in a layout: `oci:FOLDER[:NAME]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InLayout<'a> {
    folder: &'a str,
    name: Option<&'a str>,
}

impl<'a> Question<'a> {
    /// The question that an error about this image raises, if it raises one.
    fn of(error: &Error, image: &'a str, access: Access) -> Option<Self> {
        let Error::Refused { refusal, .. } = error else {
            return None;
        };
        let is_of_platform = refusal.message.contains("no image found in");
        match (refusal.kind(), InLayout::of(image)) {
            (RefusalKind::Invalid, _) if is_of_platform => Some(Self::Platforms(image)),
            (RefusalKind::Unauthorized, None) => {
                let file = match access.login {
                    Login::FromGivenFile => AuthFile::Given,
                    Login::FromFiles => AuthFile::Default,
                    Login::Given | Login::Forbidden => return None,
                };
                Some(Self::Credentials(image, file))
            }
            (_, Some(image)) => Some(Self::Names(image)),
            (RefusalKind::Invalid | RefusalKind::Other, None) => {
                image.strip_prefix("dir:").map(Self::InFolder)
            }
            _ => None,
        }
    }

    /// Finds the answer. `None` if it can't be found, or explains nothing.
    async fn answer(self, fetcher: &Fetcher) -> Option<String> {
        match self {
            Self::Platforms(image) => {
                let source = fetcher.fetch_source(image).await.ok()?;
                on_platforms(&source.entries().ok()??)
            }
            Self::Names(image) => {
                let layout = OciLayout::new(image.folder, None);
                let folder = image.folder;
                match layout.names().await {
                    Ok(names) => on_names(image, &names),
                    Err(_) if kind_of(folder).await == PathKind::Missing => {
                        Some(format!("there is no folder {folder}"))
                    }
                    Err(_) if kind_of(folder).await == PathKind::File => Some(format!(
                        "{folder} is no folder, and oci: names the folder of an image layout"
                    )),
                    Err(error) if is_missing(&error) => {
                        Some(format!("the folder {folder} is no OCI image layout"))
                    }
                    Err(_) => None,
                }
            }
            Self::InFolder(folder) => {
                let marker = format!("{folder}/oci-layout");
                match kind_of(folder).await {
                    PathKind::Missing => Some(format!("there is no folder {folder}")),
                    PathKind::File => Some(format!("{folder} is no folder")),
                    PathKind::Folder if kind_of(&marker).await == PathKind::File => {
                        Some(format!("the folder is an OCI image layout: oci:{folder}"))
                    }
                    PathKind::Folder | PathKind::Unknown => None,
                }
            }
            Self::Credentials(image, file) => {
                let has_some = fetcher.may_have_credentials(image).await;
                Some(on_credentials(has_some, file).to_owned())
            }
        }
    }
}

impl<'a> InLayout<'a> {
    fn of(image: &'a str) -> Option<Self> {
        let image = image.strip_prefix("oci:")?;
        Some(match image.split_once(':') {
            Some((folder, name)) => Self {
                folder,
                name: Some(name),
            },
            None => Self {
                folder: image,
                name: None,
            },
        })
    }
}

/// Returns the result of an action, with the advice for its failure.
pub(super) async fn advised<T>(
    done: Result<T, Failure>,
    fetcher: &Fetcher,
    access: Access,
) -> Result<T, Failure> {
    match done {
        Ok(done) => Ok(done),
        Err(mut failure) => {
            advise([&mut failure], fetcher, access).await;
            Err(failure)
        }
    }
}

/// Adds advice to failures.
pub(super) async fn advise(
    failures: impl IntoIterator<Item = &mut Failure>,
    fetcher: &Fetcher,
    access: Access,
) {
    let looking = async {
        let parts = failures.into_iter().flat_map(Failure::parts);
        for failed in parts.take(MAX_LOOK_UPS) {
            let (Some(error), Some(image)) = (failed.error(), failed.image()) else {
                continue;
            };
            let advice = look_up(error, image, fetcher, access).await;
            if let Some(advice) = advice {
                failed.advise(advice);
            }
        }
    };
    // If the time runs out, the advice that was found so far is used.
    let _ = timeout(LOOK_UP_TIMEOUT, looking).await;
}

/// Looks up the advice for an error about this image, with a fetcher of its own. `None` if there is nothing to look up.
pub(super) async fn on_image(
    error: &Error,
    image: &str,
    config: ImageProxyConfig,
    access: Access,
) -> Option<String> {
    Question::of(error, image, access)?;
    let looking = async {
        let fetcher = Fetcher::new(config, FetchOptions::default()).await.ok()?;
        look_up(error, image, &fetcher, access).await
    };
    timeout(LOOK_UP_TIMEOUT, looking).await.ok().flatten()
}

/// Looks up the advice for an error about this image. `None` if there is nothing to look up.
async fn look_up(error: &Error, image: &str, fetcher: &Fetcher, access: Access) -> Option<String> {
    let question = Question::of(error, image, access)?;
    Box::pin(question.answer(fetcher)).await
}

/// Whether something is missing that each layout has.
fn is_missing(error: &Error) -> bool {
    let expected = [io::ErrorKind::NotFound, io::ErrorKind::AlreadyExists];
    matches!(error, Error::Io { source, .. } if expected.contains(&source.kind()))
}

/// The kind of file that a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathKind {
    Missing,
    Folder,
    File,
    /// The path can't be looked at.
    Unknown,
}

async fn kind_of(path: &str) -> PathKind {
    match tokio::fs::metadata(Path::new(path)).await {
        Ok(found) if found.is_dir() => PathKind::Folder,
        Ok(_) => PathKind::File,
        Err(error) if error.kind() == io::ErrorKind::NotFound => PathKind::Missing,
        Err(_) => PathKind::Unknown,
    }
}

/// The advice for an index with these entries, none of which is for the wanted platform.
fn on_platforms(entries: &[Descriptor]) -> Option<String> {
    let mut platforms: Vec<String> = Vec::new();
    for platform in entries.iter().filter_map(platform_of) {
        // buildkit gives this platform to entries that describe images, such as attestations.
        if platform != "unknown/unknown" && !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        return None;
    }
    let platforms = listed(&platforms, MAX_LISTED);
    Some(format!(
        "the platforms that there are: {platforms}; --platform chooses one"
    ))
}

/// The advice for an image that could not be opened in a layout whose images have these names.
fn on_names(wanted: InLayout<'_>, names: &[String]) -> Option<String> {
    let InLayout { folder, name } = wanted;
    let Some(name) = name else {
        let first = match names {
            [first, _, ..] => first,
            [_] => return None,
            [] => {
                return Some(format!(
                    "the layout is empty, or has several images without a name; a pull into oci:{folder}:TAG gives an \
                     image a name"
                ));
            }
        };
        let names = listed(names, MAX_LISTED);
        return Some(format!(
            "the names that there are: {names}; oci:{folder}:{first} is the first of them"
        ));
    };
    if names.iter().any(|known| known == name) {
        return None;
    }
    if names.is_empty() {
        return Some(format!(
            "no image in this layout has a name; if there is only one, oci:{folder} is this image"
        ));
    }
    let distance = |known: &&String| damerau_levenshtein(known, name);
    let near = (names.iter()).min_by_key(distance);
    let near = near.filter(|near| distance(near) <= near.chars().count() / 3);
    let names = listed(names, MAX_LISTED);
    Some(match near {
        Some(near) => {
            format!("did you mean oci:{folder}:{near}? The names that there are: {names}")
        }
        None => format!("the names that there are: {names}"),
    })
}

/// The advice for a registry that wants credentials, or others than those that were found in the auth file.
fn on_credentials(has_some: bool, file: AuthFile) -> &'static str {
    match (has_some, file) {
        (true, AuthFile::Given) => {
            "the registry does not accept the credentials of the auth file that was given (skopeo ignores a credsStore \
             there); log in anew with skopeo login, and name the same auth file there"
        }
        (false, AuthFile::Given) => {
            "the auth file that was given has no credentials for this registry"
        }
        (true, AuthFile::Default) => {
            "skopeo has no credentials that the registry accepts: log in anew with skopeo login, or give others: \
             --authfile, --creds-file or --creds -"
        }
        (false, AuthFile::Default) => {
            "no credentials were given, and no auth file has any for this registry: --authfile, --creds-file or --creds -"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_names_of_a_layout_are_listed_if_the_wanted_one_is_missing() {
        let table = [
            (
                "oci:d",
                &["one", "two"][..],
                Some("are: one, two; oci:d:one is"),
            ),
            ("oci:d", &["one"], None),
            ("oci:d", &[], Some("the layout is empty")),
            ("oci:d:one", &["one", "two"], None),
            ("oci:d:v3", &["one", "two"], Some("are: one, two")),
            (
                "oci:d:latst",
                &["latest"],
                Some("did you mean oci:d:latest?"),
            ),
            (
                "oci:d:a/b:c",
                &[],
                Some("no image in this layout has a name"),
            ),
        ];
        for (image, known, expected) in table {
            let image = InLayout::of(image).expect("an image in a layout");
            let advice = on_names(image, &names(known));
            assert_eq!(
                advice.is_some(),
                expected.is_some(),
                "{image:?}: {advice:?}"
            );
            let words = expected.unwrap_or_default();
            let advice = advice.unwrap_or_default();
            assert!(advice.contains(words), "{image:?}: {advice}");
        }
    }

    #[test]
    fn an_auth_file_is_advised_only_if_none_was_given() {
        for has_some in [true, false] {
            let advises = |file| on_credentials(has_some, file).contains("--authfile");
            assert!(!advises(AuthFile::Given), "{has_some}");
            assert!(advises(AuthFile::Default), "{has_some}");
        }
    }

    #[test]
    fn the_platforms_of_an_index_are_listed_once() {
        let entry = |platform: &str| -> Descriptor {
            let (os, architecture) = platform.split_once('/').expect("a platform");
            serde_json::from_value(serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", "a".repeat(64)),
                "size": 7,
                "platform": { "os": os, "architecture": architecture },
            }))
            .expect("a descriptor")
        };
        let entries = [
            "linux/arm64",
            "windows/amd64",
            "windows/amd64",
            "unknown/unknown",
        ]
        .map(entry);
        let advice = on_platforms(&entries).expect("advice");
        assert!(
            advice.contains("are: linux/arm64, windows/amd64;"),
            "{advice}"
        );
        assert_eq!(on_platforms(&[]), None);
    }
}
