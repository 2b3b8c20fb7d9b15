//! The programs that check what was pulled, and the skopeos that pull it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::Scratch;
use test_support::tools::{self, output_of};

/// One of the three skopeos.
#[derive(Debug, Clone)]
pub(crate) struct Skopeo {
    /// The version of the proxy protocol that it speaks.
    pub(crate) protocol: &'static str,
    pub(crate) path: PathBuf,
}

/// All three skopeos, the oldest first.
pub(crate) fn skopeos() -> [Skopeo; 3] {
    tools::SKOPEOS.map(|protocol| Skopeo {
        protocol,
        path: tools::skopeo(protocol),
    })
}

/// The skopeo with the newest protocol.
pub(crate) fn newest_skopeo() -> Skopeo {
    let [.., newest] = skopeos();
    newest
}

/// A script that takes the place of skopeo.
pub(crate) fn script(scratch: &Scratch, lines: &str) -> Skopeo {
    let path = scratch.path("skopeo");
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Skopeo {
        protocol: "none",
        path,
    }
}

pub(crate) fn crane() -> Command {
    Command::new(tools::private("crane/crane"))
}

pub(crate) fn oras() -> Command {
    Command::new(tools::private("oras/oras"))
}

pub(crate) fn umoci() -> Command {
    Command::new(tools::system("umoci"))
}

/// Runs `skopeo copy`, which reads each blob and compares its digest.
#[track_caller]
pub(crate) fn skopeo_copy(skopeo: &Skopeo, from: &str, to: &str) {
    let mut command = Command::new(&skopeo.path);
    command.args(["copy", "--quiet", "--src-tls-verify=false"]);
    output_of(command.args(["--dest-tls-verify=false", from, to]));
}

/// Runs `skopeo inspect` with these options.
#[track_caller]
pub(crate) fn skopeo_inspect(skopeo: &Skopeo, options: &[&str], image: &str) -> serde_json::Value {
    let mut command = Command::new(&skopeo.path);
    command.args(["inspect", "--tls-verify=false"]);
    serde_json::from_slice(&output_of(command.args(options).arg(image))).unwrap()
}

/// Checks that skopeo can read the image.
#[track_caller]
pub(crate) fn assert_skopeo_accepts(skopeo: &Skopeo, image: &str) {
    let folder = tempfile::tempdir().unwrap();
    skopeo_copy(skopeo, image, &format!("dir:{}", folder.path().display()));
    assert!(folder.path().join("manifest.json").is_file());
}
