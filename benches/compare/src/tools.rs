//! The programs that take part, and their versions.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use flate2::read::GzDecoder;
use serde_json::Value;

use crate::NEWEST_SKOPEO;

/// The paths of the programs.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// The repository of longshore.
    pub(crate) repository: PathBuf,
    /// The `longshore` command.
    pub(crate) longshore: PathBuf,
    /// The test registry.
    pub(crate) registry: PathBuf,
    /// The program `cip`, which uses the crate containers-image-proxy.
    pub(crate) cip: PathBuf,
    /// The program that embeds longshore to walk layers.
    pub(crate) longshore_walk: PathBuf,
    /// The program that walks the layers that another program brings.
    pub(crate) walk: PathBuf,
    /// The skopeo that all contestants use.
    pub(crate) skopeo: PathBuf,
    /// The protocol version of this skopeo.
    pub(crate) protocol: String,
    /// The command of go-containerregistry.
    pub(crate) crane: PathBuf,
    /// The command of the ORAS project.
    pub(crate) oras: PathBuf,
    /// The folder with the programs that are not ours.
    folder: PathBuf,
}

impl Tools {
    /// Builds our own programs, and installs the others. The skopeo is the newest one.
    pub(crate) fn prepare() -> anyhow::Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let repository = here
            .ancestors()
            .nth(2)
            .context("not in the repository")?
            .to_owned();
        // The others are built separately, because their dependencies would add features to what is measured: `cip`
        // would inflate with zlib-rs instead of the default of flate2.
        let ours = [
            ["-p", "longshore", "--bin", "longshore"],
            ["-p", "test-registry", "--bin", "registry"],
        ];
        let ours = build(&repository, ours.as_flattened())?;
        let cip = build(&repository, &["-p", "longshore-cip"])?;
        let walkers = ["--bin", "walk", "--bin", "longshore-walk"];
        let walkers = [&["-p", "longshore-compare"], &walkers[..]].concat();
        let walkers = build(&repository, &walkers)?;
        let script = repository.join("tests/tools.sh");
        let folder = PathBuf::from(stdout_of(Command::new(script).stderr(Stdio::inherit()))?);
        Ok(Self {
            longshore: pick(&ours, "longshore")?,
            registry: pick(&ours, "registry")?,
            cip: pick(&cip, "cip")?,
            longshore_walk: pick(&walkers, "longshore-walk")?,
            walk: pick(&walkers, "walk")?,
            skopeo: skopeo(&folder, NEWEST_SKOPEO)?,
            protocol: NEWEST_SKOPEO.to_owned(),
            crane: folder.join("crane/crane"),
            oras: folder.join("oras/oras"),
            repository,
            folder,
        })
    }

    /// The same programs with another skopeo, by its protocol version.
    pub(crate) fn with_skopeo(&self, protocol: &str) -> anyhow::Result<Self> {
        Ok(Self {
            skopeo: skopeo(&self.folder, protocol)?,
            protocol: protocol.to_owned(),
            ..self.clone()
        })
    }

    /// The name and the version of each program, of several that differ in their skopeo only.
    pub(crate) fn versions(all: &[Self]) -> Vec<String> {
        let mut versions = all.first().map_or(Vec::new(), Self::versions_of_one);
        for further in all.iter().skip(1) {
            let skopeo = further.skopeo_version();
            if !versions.contains(&skopeo) {
                versions.push(skopeo);
            }
        }
        versions
    }

    fn skopeo_version(&self) -> String {
        format!(
            "{} (protocol {})",
            ask(&self.skopeo, "--version"),
            self.protocol
        )
    }

    fn versions_of_one(&self) -> Vec<String> {
        let commit = stdout_of(
            Command::new("git")
                .arg("-C")
                .arg(&self.repository)
                .args(["describe", "--always", "--dirty"])
                .stderr(Stdio::null()),
        )
        .unwrap_or_else(|_| "unknown".into());
        let oras = ask(&self.oras, "version");
        vec![
            format!("{} (commit {commit})", ask(&self.longshore, "--version")),
            self.skopeo_version(),
            format!("crane {}", self.crane_version()),
            format!("oras {}", oras.trim_start_matches("Version:").trim()),
            format!("containers-image-proxy {}", cip_version()),
            ask(Path::new("docker-registry"), "--version"),
            ask(Path::new("umoci"), "--version"),
            ask(Path::new("rustc"), "--version"),
        ]
    }

    /// Distributions build crane without its version, but their change log contains it.
    fn crane_version(&self) -> String {
        if let Ok(version) = stdout_of(
            Command::new(&self.crane)
                .arg("version")
                .stderr(Stdio::null()),
        ) && version.starts_with(|c: char| c.is_ascii_digit() || c == 'v')
        {
            return version;
        }
        self.crane_package()
            .unwrap_or_else(|| "of unknown version".into())
    }

    fn crane_package(&self) -> Option<String> {
        let folder = self.crane.parent()?.parent()?;
        let log = File::open(folder.join("forky/usr/share/doc/crane/changelog.Debian.gz")).ok()?;
        let mut line = String::new();
        BufReader::new(GzDecoder::new(log))
            .read_line(&mut line)
            .ok()?;
        let version = line.split_once('(')?.1.split_once(')')?.0;
        Some(format!("{version} (Debian)"))
    }
}

/// The skopeo with this protocol version.
fn skopeo(folder: &Path, protocol: &str) -> anyhow::Result<PathBuf> {
    let skopeo = folder.join(format!("skopeo-{protocol}/skopeo"));
    if !skopeo.is_file() {
        bail!("there is no {}", skopeo.display());
    }
    Ok(skopeo)
}

/// The first line of what a program says of itself.
fn ask(program: &Path, question: &str) -> String {
    let answer = stdout_of(Command::new(program).arg(question).stderr(Stdio::null()));
    answer.map_or_else(
        |_| "of unknown version".into(),
        |text| first_line(&text).to_owned(),
    )
}

/// The version of the crate that is compiled into `cip`.
fn cip_version() -> &'static str {
    let lock = include_str!("../../../Cargo.lock");
    let entry = lock.split_once("name = \"containers-image-proxy\"\nversion = \"");
    entry
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or("of unknown version")
}

/// Builds with cargo in release mode. Returns the executables.
fn build(repository: &Path, what: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let messages = stdout_of(
        Command::new(cargo)
            .args(["build", "--release", "--locked", "--quiet"])
            .arg("--message-format=json-render-diagnostics")
            .args(what)
            .current_dir(repository)
            .stderr(Stdio::inherit()),
    )?;
    let executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    Ok(executables.collect())
}

fn pick(executables: &[PathBuf], name: &str) -> anyhow::Result<PathBuf> {
    let found = executables.iter().find(|path| path.ends_with(name));
    found
        .cloned()
        .with_context(|| format!("cargo says nothing of an executable named {name}"))
}

/// The output of a program, without surrounding white space. An error if the program fails.
pub(crate) fn stdout_of(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .output()
        .with_context(|| format!("can't run {program}"))?;
    // `output` has captured stderr, so it must be printed here.
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed, {}: {}", output.status, complaint.trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().to_owned())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_the_crate_is_known() {
        assert_eq!(cip_version(), "0.11.2");
    }
}
