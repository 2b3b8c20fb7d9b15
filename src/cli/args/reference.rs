//! The names of images on the command line.

use strsim::damerau_levenshtein;

use super::local::{check_path, image_at, is_archive, is_path};
use crate::cli::name::RegistryName;

/// The transports of skopeo (containers-transports(5)).
const TRANSPORTS: [&str; 10] = [
    "docker",
    "oci",
    "dir",
    "oci-archive",
    "docker-archive",
    "containers-storage",
    "docker-daemon",
    "atomic",
    "ostree",
    "sif",
];

/// The transports whose names are paths.
const PATHS: [&str; 5] = ["oci", "dir", "oci-archive", "docker-archive", "sif"];

/// Checks that the reference has a known transport, and that the name of an image at a registry is well-formed. skopeo
/// checks the rest, with clear messages.
pub(crate) fn image_reference(text: &str) -> Result<String, String> {
    let (transport, rest) = match text.split_once(':') {
        Some((transport, rest)) if TRANSPORTS.contains(&transport) => (transport, rest),
        _ => return Err(unknown_transport(text)),
    };
    if transport == "docker" {
        let Some(name) = rest.strip_prefix("//") else {
            return Err(did_you_mean(rest.trim_start_matches('/')));
        };
        check_name(name)?;
        match RegistryName::parse(name) {
            Ok(RegistryName {
                tag: Some(_),
                digest: Some(digest),
                ..
            }) => Err(tag_and_digest(text, digest)),
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(format!(
                "{error}; an image at a registry is docker://HOST/REPOSITORY[:TAG] or \
                 docker://HOST/REPOSITORY@DIGEST, with REPOSITORY in lower case"
            )),
        }
    } else if rest.is_empty() {
        Err(format!("{transport}: needs a name after the colon"))
    } else {
        if PATHS.contains(&transport) {
            check_path(&text[..=transport.len()], rest)?;
        }
        Ok(text.to_owned())
    }
}

/// Returns a message for the name of an image at a registry if it is wrong in one of the common ways. A name such as
/// `localhost:5000` or `quay.io` is well-formed, and means a repository of Docker Hub with a tag. Nobody means that.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.starts_with('/') {
        return Err(
            "the host before the first slash is missing: docker://HOST/REPOSITORY[:TAG]".into(),
        );
    }
    if let Some((_, rest)) = name.split_once('@')
        && rest.contains('/')
    {
        return Err(
            "credentials can't be in a name; --creds-file FILE or --creds - reads USER:PASS".into(),
        );
    }
    let host = name.trim_end_matches('/');
    let alone = host.split(['@', ':']).next().unwrap_or_default();
    if !host.contains('/') && (alone.contains('.') || alone == "localhost") {
        let port = host.strip_prefix(alone).filter(|rest| is_port(rest));
        let port = port.unwrap_or_default();
        return Err(format!(
            "this names a host and no repository; type docker://{alone}{port}/REPOSITORY"
        ));
    }
    if host != name && RegistryName::parse(host).is_ok() {
        return Err(format!("remove the last slash: docker://{host}"));
    }
    let by_digest = name.replacen(":sha256:", "@sha256:", 1);
    if by_digest != name && RegistryName::parse(&by_digest).is_ok() {
        return Err(format!(
            "a digest follows an @; did you mean docker://{by_digest}?"
        ));
    }
    Ok(())
}

/// Whether this is `:PORT`.
fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the transport that a text begins with, if it begins with one.
pub(super) fn transport_of(text: &str) -> Option<&'static str> {
    let (transport, _) = text.split_once(':')?;
    TRANSPORTS.into_iter().find(|known| *known == transport)
}

/// The command that pulls the image of this name, such as `alpine` or `docker://alpine`, into a layout. `None` if the
/// text may be a destination.
pub(super) fn example_of_pull(text: &str) -> Option<String> {
    let name = text.strip_prefix("docker://").unwrap_or(text);
    if is_path(text)
        || is_archive(text)
        || transport_of(text).is_some_and(|transport| transport != "docker")
    {
        return None;
    }
    let image = image_reference(&format!("docker://{name}")).ok()?;
    let parsed = RegistryName::parse(name).ok()?;
    let folder = parsed.repository.rsplit('/').next()?;
    let tag = parsed.tag.map(|tag| format!(":{tag}")).unwrap_or_default();
    Some(format!("longshore pull {image} oci:{folder}{tag}"))
}

/// The part `docker://REPOSITORY` of a reference to an image at a registry. `None` for other transports.
pub(in crate::cli) fn repository_of(image: &str) -> Option<&str> {
    let name = image.strip_prefix("docker://")?;
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    // A colon before the last slash begins a port.
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[last..].find(':').map_or(name.len(), |at| last + at);
    Some(&image[.."docker://".len() + end])
}

/// The advice for a tag with a digest. No skopeo up to 1.22 opens such an image.
fn tag_and_digest(text: &str, digest: &str) -> String {
    let repository = repository_of(text).unwrap_or(text);
    format!(
        "skopeo takes a tag or a digest, not both; type {repository}@{digest}, which is always the same image"
    )
}

fn unknown_transport(text: &str) -> String {
    if matches!(text, "true" | "false") {
        return "this is no image; a switch takes no value, and the value of --tls-verify follows an equals sign"
            .into();
    }
    if let Some(dash) = text
        .chars()
        .next()
        .filter(|c| "\u{2013}\u{2014}\u{2212}".contains(*c))
    {
        return format!("is this an option? It begins with the character {dash} and not with -");
    }
    if text.starts_with("sha256:") {
        return "this is a digest; an image is docker://HOST/REPOSITORY@sha256:...; longshore blob IMAGE DIGEST fetches \
                one blob"
            .into();
    }
    if let Some(("http" | "https", name)) = text.split_once("://") {
        return did_you_mean(name);
    }
    if let Some((transport, name)) = text.split_once(':') {
        let lower_case = transport.to_ascii_lowercase();
        let is_near = |known: &&str| damerau_levenshtein(known, &lower_case) <= known.len() / 3;
        if let Some(near) = TRANSPORTS.into_iter().find(is_near) {
            let name = name.trim_start_matches("//");
            let slashes = if near == "docker" { "//" } else { "" };
            let meant = format!("{near}:{slashes}{name}");
            if image_reference(&meant).is_ok() {
                return format!("there is no transport {transport}:; did you mean {meant}?");
            }
        }
    }
    if let Some((transport, _)) = text.split_once("://") {
        let known = TRANSPORTS.join(", ");
        return format!("there is no transport {transport}:; skopeo has {known}");
    }
    did_you_mean(text)
}

fn did_you_mean(name: &str) -> String {
    if let Some(transport) = TRANSPORTS.into_iter().find(|known| *known == name) {
        let slashes = if transport == "docker" { "//" } else { "" };
        return format!("{transport} is a transport; an image is {transport}:{slashes}NAME");
    }
    if let Some(image) = image_at(name) {
        return format!("an image is TRANSPORT:REFERENCE; did you mean {image}?");
    }
    // A name that is refused itself is no help.
    let meant = format!("docker://{name}");
    match image_reference(&meant) {
        Ok(_) => format!("an image is TRANSPORT:REFERENCE; did you mean {meant}?"),
        Err(_) => "an image is TRANSPORT:REFERENCE, such as docker://HOST/REPOSITORY:TAG".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore::Platform;

    #[test]
    fn images_have_a_transport_and_a_name() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for good in [
            "docker://a/b",
            "docker://debian",
            "docker://alpine:3",
            "docker://registry:5000",
            "docker://127.0.0.1:5000/a/b:c",
            "docker://[::1]:5000/a",
            "docker://localhost/a_b/c__d/e-f:V1.0_x",
            &format!("docker://quay.io/a@{digest}"),
            "oci:dir",
            "oci:dir:Tag",
            "containers-storage:x",
            "containers-storage:[overlay@/a+/b]x",
            "docker-daemon:a:b",
            "dir:/",
        ] {
            assert_eq!(image_reference(good).as_deref(), Ok(good));
        }
    }

    #[test]
    fn the_repository_of_an_image_has_no_tag_and_no_digest() {
        let table = [
            ("docker://a.b:5000/c/d:e", Some("docker://a.b:5000/c/d")),
            ("docker://a.b:5000/c", Some("docker://a.b:5000/c")),
            ("docker://debian:12", Some("docker://debian")),
            ("docker://a/b@sha256:12", Some("docker://a/b")),
            ("docker://a/b:c@sha256:12", Some("docker://a/b")),
            ("docker://[::1]:5000/a:b", Some("docker://[::1]:5000/a")),
            ("oci:a:b", None),
        ];
        for (image, expected) in table {
            assert_eq!(repository_of(image), expected, "{image}");
        }
    }

    #[test]
    fn a_wrong_image_reference_gets_advice() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let table = [
            ("debian", "did you mean docker://debian?"),
            ("debian:stable", "did you mean docker://debian:stable?"),
            ("localhost:5000/a:b", "docker://localhost:5000/a:b?"),
            ("http://a/b", "did you mean docker://a/b?"),
            ("https://a/b:c", "did you mean docker://a/b:c?"),
            (
                "dokcer://a/b",
                "no transport dokcer:; did you mean docker://a/b?",
            ),
            ("docker:a/b", "did you mean docker://a/b?"),
            ("docker:/a/b", "did you mean docker://a/b?"),
            ("oci-archiv:x.tar", "did you mean oci-archive:x.tar?"),
            ("container-storage:x", "did you mean containers-storage:x?"),
            ("s3://a/b", "no transport s3:; skopeo has docker, oci,"),
            (
                "docker-archive",
                "docker-archive is a transport; an image is docker-archive:NAME",
            ),
            ("docker:", "such as docker://HOST/REPOSITORY:TAG"),
            ("docker://", "docker://HOST/REPOSITORY[:TAG]"),
            ("docker:///a", "the host before the first slash is missing"),
            (
                "docker://127.0.0.1:5000",
                "type docker://127.0.0.1:5000/REPOSITORY",
            ),
            ("docker://localhost", "type docker://localhost/REPOSITORY"),
            (
                "docker://localhost:5000",
                "type docker://localhost:5000/REPOSITORY",
            ),
            ("docker://quay.io", "type docker://quay.io/REPOSITORY"),
            ("docker://quay.io/", "type docker://quay.io/REPOSITORY"),
            (
                "docker://quay.io:latest",
                "type docker://quay.io/REPOSITORY",
            ),
            ("docker://a.b/c/", "remove the last slash: docker://a.b/c"),
            (
                "docker://me:pw@a.b/c",
                "credentials can't be in a name; --creds-file",
            ),
            (
                &format!("docker://a.b/c:{digest}"),
                &format!("did you mean docker://a.b/c@{digest}?"),
            ),
            (
                "DOCKER://a.b/c",
                "no transport DOCKER:; did you mean docker://a.b/c?",
            ),
            (
                "\u{2013}platform",
                "is this an option? It begins with the character \u{2013}",
            ),
            (&digest, "this is a digest; an image is"),
            ("-", "such as docker://HOST/REPOSITORY:TAG"),
            ("services:", "such as docker://HOST/REPOSITORY:TAG"),
            ("quay.io", "such as docker://HOST/REPOSITORY:TAG"),
            ("Debian", "such as docker://HOST/REPOSITORY:TAG"),
            ("docker://a.b/UPPER", "lower case"),
            ("docker://a.b/c@sha256:12", "docker://HOST/REPOSITORY[:TAG]"),
            (
                &format!("docker://a.b:5/c:d@{digest}"),
                &format!("not both; type docker://a.b:5/c@{digest}, which"),
            ),
            ("oci:", "needs a name"),
            (
                "oci://lay:v1",
                "without //; did you mean oci:lay:v1, or oci:/lay:v1?",
            ),
            ("docker-archive:~/x.tar", "type docker-archive:$HOME/x.tar"),
            ("./lay:v1", "did you mean oci:./lay:v1?"),
            (
                "x.tar",
                "did you mean oci-archive:x.tar or docker-archive:x.tar?",
            ),
            ("", "such as docker://"),
            ("false", "a switch takes no value"),
        ];
        for (text, advice) in table {
            let message = image_reference(text).expect_err(text);
            assert!(message.contains(advice), "{text}: {message}");
        }
    }

    #[test]
    fn platforms() {
        assert!("linux/arm64".parse::<Platform>().is_ok());
        assert!("linux/arm/v7".parse::<Platform>().is_ok());
        for bad in ["linux", "", "linux/", "/arm", "a/b/c/d"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
