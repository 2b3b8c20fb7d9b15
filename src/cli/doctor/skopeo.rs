//! The skopeo that was found, and what its proxy can do. With an image, the time that each call takes.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore::oci_spec::image::Descriptor;
use longshore::{Error, ImageProxy, ImageProxyConfig, RefusalKind};
use nix::unistd::{AccessFlags, access};
use serde::Serialize;
use tokio::io::AsyncReadExt;

use super::diagnosis::Problem;
use super::settings::shown;
use crate::cli::advice;
use crate::cli::hint::Access;
use crate::cli::within;

/// An image at a port of this machine where no registry runs.
const NO_REGISTRY: &str = "docker://127.0.0.1:1/longshore/doctor:1";

#[derive(Debug, Serialize)]
pub(super) struct Skopeo {
    /// The program that is run.
    pub(super) program: String,
    /// The path where the program was found. `None` if it was not found.
    pub(super) path: Option<String>,
    /// The version that the program prints. `None` if it prints none.
    pub(super) version: Option<String>,
    /// The abilities of the proxy of this skopeo. `None` if no proxy could be started.
    pub(super) proxy: Option<Abilities>,
    /// The calls that opened the image, if one was named.
    pub(super) image: Option<Opened>,
    /// The reason why skopeo could not be used.
    #[serde(skip)]
    pub(super) failed: Option<Problem>,
    /// The settings of this machine with which skopeo opens no image of a registry.
    #[serde(skip)]
    pub(super) settings_problem: Option<Problem>,
    /// The reason why the version of skopeo is unknown.
    #[serde(skip)]
    pub(super) version_problem: Option<Problem>,
}

/// The abilities of a proxy.
#[derive(Debug, Clone, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an ability of its own"
)]
pub(super) struct Abilities {
    /// The version of the protocol that the proxy speaks.
    pub(super) protocol: String,
    /// Whether the proxy checks the signature policy.
    pub(super) checks_policy: bool,
    /// Whether the proxy reports the errors of a blob at once, and ends the transfer of a blob that is cancelled.
    pub(super) raw_blobs: bool,
    /// Whether the proxy lists the layers of `containers-storage:` images.
    pub(super) layer_info: bool,
    /// Whether the proxy distinguishes a missing image from other errors.
    pub(super) optional_images: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Opened {
    pub(super) reference: String,
    /// The digest of the image's manifest. `None` if the image could not be opened.
    pub(super) digest: Option<String>,
    pub(super) calls: Vec<TimedCall>,
}

/// A call, and how long it took.
#[derive(Debug, Serialize)]
pub(super) struct TimedCall {
    pub(super) call: &'static str,
    pub(super) ms: u64,
}

/// Runs skopeo, and opens the image, if there is one.
pub(super) async fn examine(
    config: ImageProxyConfig,
    image: Option<&str>,
    deadline: Option<Duration>,
    access: Access,
) -> Skopeo {
    let program = config.skopeo_path.clone();
    let program = program.unwrap_or_else(|| "skopeo".into());
    let mut skopeo = Skopeo {
        path: find(&program).as_deref().map(shown),
        program: shown(&program),
        version: None,
        proxy: None,
        image: image.map(|image| Opened {
            reference: image.to_owned(),
            digest: None,
            calls: Vec::new(),
        }),
        failed: None,
        settings_problem: None,
        version_problem: None,
    };
    match config.skopeo_version().await {
        Ok(version) => skopeo.version = Some(version.to_string()),
        Err(error) => {
            let what = "find the version of skopeo";
            let problem = Some(Problem::of(what, &error, None, access));
            if matches!(error, Error::Spawn { .. }) {
                skopeo.failed = problem;
                return skopeo;
            }
            skopeo.version_problem = problem;
        }
    }
    let using = within(deadline, skopeo.use_proxy(config.clone(), access));
    if let Err(error) = Box::pin(using).await {
        let what = match (&skopeo.proxy, image) {
            (Some(_), Some(image)) => format!("open {image}"),
            _ => "start a proxy".to_owned(),
        };
        let mut problem = Problem::of(&what, &error, image, access);
        if let Some(image) = image {
            let looked_up = Box::pin(advice::on_image(&error, image, config, access)).await;
            problem.advice = looked_up.or(problem.advice);
        }
        skopeo.failed = Some(problem);
    }
    skopeo
}

impl Skopeo {
    async fn use_proxy(
        &mut self,
        config: ImageProxyConfig,
        access: Access,
    ) -> longshore::Result<()> {
        let mut calls = Calls::default();
        let started = calls.time("start", ImageProxy::new_with_config(config));
        let proxy = started.await?;
        self.proxy = Some(Abilities {
            protocol: proxy.protocol_version().to_string(),
            checks_policy: proxy.checks_policy(),
            raw_blobs: proxy.supports_get_raw_blob(),
            layer_info: proxy.supports_get_layer_info(),
            optional_images: proxy.supports_open_image_optional(),
        });
        let opened = if let Some(image) = &mut self.image {
            image.open(&proxy, &mut calls).await
        } else {
            self.settings_problem = try_settings(&proxy, access).await;
            Ok(())
        };
        let ended = calls.time("end", proxy.finalize()).await;
        if let Some(image) = &mut self.image {
            image.calls = calls.0;
        }
        opened.and(ended)
    }
}

/// Lets the proxy open an image that does not exist, and returns the problem if the proxy can't use a file of its
/// settings: an auth file, registries.conf, a certificate. skopeo reads these files only when it opens an image, and before
/// it connects to the registry. It reads the policy later.
async fn try_settings(proxy: &ImageProxy, access: Access) -> Option<Problem> {
    let error = proxy.open_image(NO_REGISTRY).await.err()?;
    let Error::Refused { refusal, .. } = &error else {
        return None;
    };
    let message = &refusal.message;
    let is_of_settings = match refusal.kind() {
        // A registries.conf may block this registry, or all that it does not name.
        RefusalKind::Invalid => !message.contains("is blocked in"),
        // An auth file that this user may not read is a problem of its own.
        RefusalKind::Unreadable => !message.contains("getting username and password"),
        _ => false,
    };
    is_of_settings.then(|| Problem::of("open an image of a registry", &error, None, access))
}

impl Opened {
    /// Opens the image, reads its documents, and waits for the first byte of its first layer.
    async fn open(&mut self, proxy: &ImageProxy, calls: &mut Calls) -> longshore::Result<()> {
        let image = calls
            .time("open", proxy.open_image(&self.reference))
            .await?;
        let manifest = calls.time("manifest", proxy.fetch_manifest(&image)).await;
        let (digest, manifest) = manifest?;
        self.digest = Some(digest.to_string());
        calls.time("config", proxy.fetch_config_raw(&image)).await?;
        // A foreign layer is not at the source.
        let is_there = |layer: &&Descriptor| layer.urls().iter().flatten().next().is_none();
        if let Some(layer) = manifest.layers().iter().find(is_there)
            && !stores_other_layers(&self.reference)
        {
            let first_byte = async {
                let mut blob = proxy.get_descriptor(&image, layer).await?;
                blob.read(&mut [0]).await.map_err(Error::handler)
            };
            calls.time("first byte of a layer", first_byte).await?;
        }
        calls.time("close", proxy.close_image(image)).await
    }
}

/// Whether the layers of this image are not those of its manifest.
fn stores_other_layers(reference: &str) -> bool {
    reference.starts_with("containers-storage:")
}

#[derive(Debug, Default)]
struct Calls(Vec<TimedCall>);

impl Calls {
    async fn time<T>(&mut self, call: &'static str, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let done = work.await;
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.push(TimedCall { call, ms });
        done
    }
}

/// The file of a program: itself if it is a path, or else the first one of this name in the `PATH`.
fn find(program: &Path) -> Option<PathBuf> {
    find_in(program, &env::var_os("PATH")?)
}

fn find_in(program: &Path, folders: &OsStr) -> Option<PathBuf> {
    let runs = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    if program.as_os_str().to_string_lossy().contains('/') {
        return Some(program.to_owned()).filter(runs);
    }
    env::split_paths(folders)
        .map(|folder| folder.join(program))
        .find(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_the_system_finds_it() {
        let folders = "/nowhere:/bin:/usr/bin".as_ref();
        let found = |program: &str| find_in(program.as_ref(), folders);
        assert_eq!(found("sh"), Some("/bin/sh".into()));
        assert_eq!(found("/bin/sh"), Some("/bin/sh".into()));
        assert_eq!(found("no-such-program"), None);
        assert_eq!(found("/etc/passwd"), None, "it is no program");
        assert_eq!(found("/"), None);
    }
}
