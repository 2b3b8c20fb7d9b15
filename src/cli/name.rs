//! The name of an image at a registry, in its parts.
//!
//! The grammar is the one of the module `reference` of distribution, which skopeo uses, too. The crate `oci-spec` has a
//! parser for it. Its regular expression takes longer to build than an image takes to open, so it serves only as the
//! model in the tests here (docs/decisions.md, "The command").

use std::borrow::Cow;

const DOCKER_HUB: &str = "docker.io";

/// The maximum length of a repository, in bytes (distribution's `NameTotalLengthMax`).
const MAX_REPOSITORY_BYTES: usize = 255;

/// The maximum length of a tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// The parts of `[HOST/]REPOSITORY[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegistryName<'a> {
    /// The host and the port, if there is one. `docker.io` for a name without a host.
    pub(crate) host: &'a str,
    /// The repository, with `library/` if it is one of Docker Hub's own.
    pub(crate) repository: Cow<'a, str>,
    pub(crate) tag: Option<&'a str>,
    pub(crate) digest: Option<&'a str>,
}

impl<'a> RegistryName<'a> {
    /// Reads a name without its transport. The error says which part is wrong.
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest)),
            None => (text, None),
        };
        let (host, rest) = split_host(text);
        // The host is split off, so a colon starts the tag.
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        check_host(host)?;
        check_path(path)?;
        tag.map_or(Ok(()), check_tag)?;
        digest.map_or(Ok(()), check_digest)?;
        let host = match host {
            None | Some("index.docker.io") => DOCKER_HUB,
            Some(host) => host,
        };
        let repository = if host == DOCKER_HUB && !path.contains('/') {
            Cow::Owned(format!("library/{path}"))
        } else {
            Cow::Borrowed(path)
        };
        if repository.len() > MAX_REPOSITORY_BYTES {
            return Err(format!(
                "the repository has more than {MAX_REPOSITORY_BYTES} characters"
            ));
        }
        Ok(Self {
            host,
            repository,
            tag,
            digest,
        })
    }
}

/// Splits a name at its first slash if the part before looks like a host.
fn split_host(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (Some(first), rest)
        }
        _ => (None, text),
    }
}

fn check_host(host: Option<&str>) -> Result<(), String> {
    let Some(host) = host else { return Ok(()) };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let address = name.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let is_name = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(is_label),
    };
    let is_port =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    if is_name && is_port {
        Ok(())
    } else {
        Err(format!("{host:?} is not a host"))
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the repository is missing".into());
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("the repository {path:?} has upper-case letters"));
    }
    match path.split('/').find(|part| !is_path_component(part)) {
        Some(part) => Err(format!("{part:?} can't be a part of a repository")),
        None => Ok(()),
    }
}

/// Whether the text consists of lower-case letters and digits, with `.`, `_`, `__` or hyphens between them.
fn is_path_component(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_plain)
        && text.ends_with(is_plain)
        && text.split(is_plain).all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
        })
}

fn check_tag(tag: &str) -> Result<(), String> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let is_tag = tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
        && tag.bytes().next().is_some_and(is_word)
        && tag.len() <= MAX_TAG_BYTES;
    if is_tag {
        Ok(())
    } else {
        Err(format!("{tag:?} is not a tag"))
    }
}

fn check_digest(digest: &str) -> Result<(), String> {
    let digits = match digest.split_once(':') {
        Some(("sha256", _)) => 64,
        Some(("sha384", _)) => 96,
        Some(("sha512", _)) => 128,
        _ => {
            return Err(format!(
                "{digest:?} is not a digest, such as sha256:0123..."
            ));
        }
    };
    let hex = &digest[digest.find(':').map_or(0, |colon| colon + 1)..];
    if hex.len() != digits {
        return Err(format!(
            "the digest {digest:?} has {} digits instead of {digits}",
            hex.len()
        ));
    }
    if hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(())
    } else {
        Err(format!("the digest {digest:?} is not hexadecimal"))
    }
}

#[cfg(test)]
mod tests {
    use longshore::oci_spec::distribution::Reference;
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str) -> Option<(String, String, Option<String>, Option<String>)> {
        let name = RegistryName::parse(text).ok()?;
        let owned = |part: Option<&str>| part.map(str::to_owned);
        let parts = (name.host.to_owned(), name.repository.into_owned());
        Some((parts.0, parts.1, owned(name.tag), owned(name.digest)))
    }

    /// The parts, by the parser of `oci-spec`, which adds the tag `latest` where there is neither tag nor digest.
    fn parts_by_oci_spec(text: &str) -> Option<(String, String, Option<String>, Option<String>)> {
        let name: Reference = text.parse().ok()?;
        let owned = |part: Option<&str>| part.map(str::to_owned);
        let tag = if text.contains(":latest") || name.tag() != Some("latest") {
            owned(name.tag())
        } else {
            None
        };
        let repository = name.repository().to_owned();
        Some((
            name.registry().to_owned(),
            repository,
            tag,
            owned(name.digest()),
        ))
    }

    #[test]
    fn the_host_may_be_an_address_of_ipv6() {
        let name = RegistryName::parse("[::1]:5000/a/b:c").expect("a name");
        assert_eq!((name.host, &*name.repository), ("[::1]:5000", "a/b"));
        assert_eq!(
            RegistryName::parse("[::1]/a").expect("a name").host,
            "[::1]"
        );
        for wrong in ["[::1/a", "[x]:1/a", "[::1]:x/a", "[::1]5/a"] {
            RegistryName::parse(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn the_error_says_which_part_is_wrong() {
        let table = [
            ("", "the repository is missing"),
            ("a.b/", "the repository is missing"),
            ("-a.b/c", "not a host"),
            ("a.b:x/c", "not a host"),
            ("a.b/C", "upper-case"),
            // skopeo says the same of these two. `oci-spec` accepts the second one.
            ("A", "upper-case"),
            ("A/a", "upper-case"),
            ("a.b/c..d", "\"c..d\" can't be a part"),
            ("a.b/c//d", "\"\" can't be a part"),
            ("a.b/c:", "\"\" is not a tag"),
            ("a.b/c:-x", "not a tag"),
            ("a.b/c@", "not a digest"),
            ("a.b/c@sha256:12", "2 digits instead of 64"),
        ];
        for (text, expected) in table {
            let error = RegistryName::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn names_are_read_as_oci_spec_reads_them(
            text in "((localhost|[a-cA-]{0,3}[.:]?[a1-]{0,2})/){0,2}[a-bA._-]{0,5}(:[a1._-]{0,4}|:latest)?(@sha256:[0-9a-f]{64}|@sha256:1|@)?"
        ) {
            let has_upper_case_first = text.split_once('/').is_some_and(|(first, _)| {
                !first.contains(['.', ':']) && first.contains(char::is_uppercase)
            });
            prop_assume!(!has_upper_case_first);
            prop_assert_eq!(parts(&text), parts_by_oci_spec(&text));
        }
    }
}
