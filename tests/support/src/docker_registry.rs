//! A real registry for the client's tests, and their images in it.

use std::process::Command;

use super::image::TestImage;
use super::registry_process::RegistryProcess;
use super::tools;

/// Who may enter a registry made by [`DockerRegistry::locked`].
pub const USER: &str = "somebody";
/// With this.
pub const PASSWORD: &str = "correct-horse-battery";
/// `htpasswd -nbB somebody correct-horse-battery`
const HTPASSWD: &str = "somebody:$2y$05$nTADvIhu5cVKCMKA5Fzj3unWtJRfPJCtcf7zz/PJbisoigcS/ABFu\n";

/// A running `docker-registry`, killed when dropped.
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

    /// One that asks for user name and password.
    pub fn locked() -> Self {
        Self {
            process: RegistryProcess::with_password(HTPASSWD),
            locked: true,
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.process.address().to_owned()
    }

    /// Put an image there, and return skopeo's name for it.
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
