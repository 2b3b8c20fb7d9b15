//! A real registry for the tests of the client, with their images.

use std::process::Command;

use super::image::TestImage;
use super::registry_process::RegistryProcess;
use super::tools;

/// The user who has access to a registry made by [`DockerRegistry::locked`].
pub const USER: &str = "somebody";
/// The password of that user.
pub const PASSWORD: &str = "correct-horse-battery";
/// The output of `htpasswd -nbB somebody correct-horse-battery`.
const HTPASSWD: &str = "somebody:$2y$05$nTADvIhu5cVKCMKA5Fzj3unWtJRfPJCtcf7zz/PJbisoigcS/ABFu\n";

/// A running `docker-registry`. Dropping it kills it.
#[derive(Debug)]
pub struct DockerRegistry {
    process: RegistryProcess,
    locked: bool,
}

impl DockerRegistry {
    pub fn open() -> Self {
        Self {
            process: RegistryProcess::start(),
            locked: false,
        }
    }

    /// Starts a registry that asks for a user name and a password.
    pub fn locked() -> Self {
        Self {
            process: RegistryProcess::with_password(HTPASSWD),
            locked: true,
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The address, as `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.process.address().to_owned()
    }

    /// Pushes an image, and returns skopeo's name for it.
    pub fn push(&self, image: &TestImage, name: &str) -> String {
        let layout = self.process.folder().join(format!("layout-{name}"));
        image.write_layout(&layout, "it");
        let reference = self.process.reference(&format!("{name}:latest"));
        let mut copy = Command::new(tools::skopeo("0.2.8"));
        copy.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ]);
        if self.locked {
            copy.args(["--dest-creds", &format!("{USER}:{PASSWORD}")]);
        }
        copy.arg(format!("oci:{}:it", layout.display()));
        tools::succeed(copy.arg(&reference));
        reference
    }
}
