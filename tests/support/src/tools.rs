//! The programs that the tests run, as `tests/tools.sh` installs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use longshore::ImageProxyConfig;

/// The protocol versions of which there is a real skopeo.
pub const SKOPEOS: [&str; 3] = ["0.2.3", "0.2.6", NEWEST];

/// The newest of them.
pub const NEWEST: &str = "0.2.8";

/// Where `tests/tools.sh` installs the programs that are the tests' own.
pub fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("LONGSHORE_TOOLS") {
        return folder.into();
    }
    let home = std::env::var_os("HOME").expect("$HOME or $LONGSHORE_TOOLS must be set");
    Path::new(&home).join(".cache/longshore/tools")
}

/// The skopeo that speaks this protocol version.
pub fn skopeo(protocol: &str) -> PathBuf {
    private(&format!("skopeo-{protocol}/skopeo"))
}

/// A program in the [`folder`].
pub fn private(name: &str) -> PathBuf {
    let program = folder().join(name);
    assert!(
        program.exists(),
        "{} is missing: run `bash tests/tools.sh`",
        program.display()
    );
    program
}

/// A program that the system has to have.
pub fn system(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.exists())
        .unwrap_or_else(|| panic!("{program} is missing: run `bash tests/tools.sh`"))
}

/// A proxy of this protocol version.
pub fn config(protocol: &str) -> ImageProxyConfig {
    ImageProxyConfig::default()
        .skopeo_path(skopeo(protocol))
        .insecure_policy(true)
}

/// A proxy started by way of this shell script, which finds the real one, of
/// protocol 0.2.8, in `$skopeo`, and its arguments in `"$@"`.
pub fn scripted(script: &str) -> ImageProxyConfig {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .env("skopeo", skopeo(NEWEST));
    ImageProxyConfig::default()
        .skopeo_cmd(command)
        .insecure_policy(true)
}

/// A script that says hello as a proxy of protocol 0.2.8, as far as `dd` and
/// `printf` can. It has to be followed by what it does then, deaf to all calls.
pub const HELLO: &str =
    r#"dd bs=65536 count=1 >/dev/null 2>&1; printf '{"success":true,"value":"0.2.8"}' >&0;"#;

/// Run a program to its successful end.
#[track_caller]
pub fn succeed(command: &mut Command) {
    output_of(command);
}

/// What a program prints, which must succeed.
#[track_caller]
pub fn output_of(command: &mut Command) -> Vec<u8> {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output.stdout
}
