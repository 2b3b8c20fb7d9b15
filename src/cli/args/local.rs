//! Images and layouts on this machine, as they are named on the command line.

use std::fs;
use std::path::Path;

/// Returns a message for a path that begins like that of a URL, or with a `~` that the shell has not replaced.
/// `prefix` is the transport, with its colon.
pub(super) fn check_path(prefix: &str, path: &str) -> Result<(), String> {
    if path.starts_with("//") && !path.starts_with("///") {
        let name = path.trim_start_matches('/');
        return Err(format!(
            "{prefix} takes a path without //; did you mean {prefix}{name}, or {prefix}/{name}?"
        ));
    }
    match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Err(format!(
            "the shell replaces ~ only at the beginning of a word; type {prefix}$HOME{rest}"
        )),
        _ => Ok(()),
    }
}

/// The image on this machine that is meant by a path without a transport: a layout or an archive that exists, or what
/// can only be a path. Blocks.
pub(super) fn image_at(text: &str) -> Option<String> {
    let path = match text.split_once(':') {
        Some((path, _)) if !Path::new(text).exists() => path,
        _ => text,
    };
    let folder = Path::new(path);
    let is_archive = is_archive(path);
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {
            if folder.join("index.json").exists() {
                return Some(format!("oci:{text}"));
            }
            let is_dir = folder.join("manifest.json").exists();
            is_dir.then(|| format!("dir:{path}"))
        }
        Err(_) if !is_archive && is_path(path) => Some(format!("oci:{text}")),
        Ok(_) if is_archive || is_path(path) => Some(archive(text)),
        Err(_) if is_archive => Some(archive(text)),
        _ => None,
    }
}

/// The two forms of an archive. Which one it is can't be seen from its name.
fn archive(text: &str) -> String {
    format!("oci-archive:{text} or docker-archive:{text}")
}

/// Whether the name is that of a tar archive.
pub(super) fn is_archive(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    [".tar", ".tar.gz", ".tgz"]
        .iter()
        .any(|end| path.ends_with(end))
}

/// Whether the text can only be a path, because no name of an image begins like this.
pub(super) fn is_path(text: &str) -> bool {
    matches!(text, "." | "..")
        || text.starts_with('/')
        || text.starts_with("./")
        || text.starts_with("../")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_a_transport_is_found_on_this_machine() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_str().expect("UTF-8");
        for (name, file) in [
            ("lay", "index.json"),
            ("flat", "manifest.json"),
            ("other", "x"),
        ] {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("a folder");
            fs::write(path.join(file), "").expect("a file");
        }
        for file in ["x.tar", "y"] {
            fs::write(folder.path().join(file), "").expect("a file");
        }
        let table = [
            ("lay", Some("oci:R/lay")),
            ("lay:v1", Some("oci:R/lay:v1")),
            ("flat", Some("dir:R/flat")),
            ("other", None),
            (
                "x.tar",
                Some("oci-archive:R/x.tar or docker-archive:R/x.tar"),
            ),
            ("y", Some("oci-archive:R/y or docker-archive:R/y")),
            (
                "missing.tar",
                Some("oci-archive:R/missing.tar or docker-archive:R/missing.tar"),
            ),
            ("missing:v1", Some("oci:R/missing:v1")),
        ];
        for (name, expected) in table {
            let found = image_at(&format!("{root}/{name}"));
            let expected = expected.map(|text| text.replace('R', root));
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(image_at("debian:12"), None);
        assert_eq!(image_at("quay.io/a/b:c"), None);
        assert_eq!(
            image_at("./no/such:v1").as_deref(),
            Some("oci:./no/such:v1")
        );
    }

    #[test]
    fn a_path_has_neither_two_slashes_nor_a_tilde() {
        for good in ["x", "/x", "///x", "a//b", "a~", "./~/x", "~user"] {
            assert_eq!(check_path("oci:", good), Ok(()), "{good}");
        }
        for (wrong, advice) in [
            ("//x", "did you mean oci:x, or oci:/x?"),
            ("~/x:v1", "type oci:$HOME/x:v1"),
            ("~", "type oci:$HOME"),
        ] {
            let message = check_path("oci:", wrong).expect_err(wrong);
            assert!(message.contains(advice), "{wrong}: {message}");
        }
    }
}
