//! The programs that the tests run, as `tests/tools.sh` installs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use longshore::ImageProxyConfig;

/// The protocol versions for which there is a real skopeo.
pub const SKOPEOS: [&str; 3] = ["0.2.3", "0.2.6", NEWEST];

/// The newest of these versions.
pub const NEWEST: &str = "0.2.8";

/// The folder in which `tests/tools.sh` installs the programs of the tests.
///
/// `$LONGSHORE_TOOLS` names another folder. With `none`, no program is found at all, neither here nor in
/// `$PATH`. `tests/run.sh` uses this to check that tests without `#[ignore]` need no program.
fn folder() -> Option<PathBuf> {
    match std::env::var_os("LONGSHORE_TOOLS") {
        Some(folder) if folder == "none" => None,
        Some(folder) => Some(folder.into()),
        None => Some(Path::new(&std::env::var_os("HOME")?).join(".cache/longshore/tools")),
    }
}

/// The skopeo that speaks this protocol version.
pub fn skopeo(protocol: &str) -> PathBuf {
    private(&format!("skopeo-{protocol}/skopeo"))
}

/// A program in the [`folder`].
pub fn private(name: &str) -> PathBuf {
    let program = folder().map(|folder| folder.join(name));
    found(program.filter(|program| program.exists()), name)
}

/// A program that the system must provide.
pub fn system(program: &str) -> PathBuf {
    let path = folder().and(std::env::var_os("PATH")).unwrap_or_default();
    let candidates = std::env::split_paths(&path).map(|folder| folder.join(program));
    let first = candidates.into_iter().find(|candidate| candidate.exists());
    found(first, program)
}

#[track_caller]
fn found(program: Option<PathBuf>, name: &str) -> PathBuf {
    program.unwrap_or_else(|| {
        panic!("{name} is missing: run `bash tests/tools.sh`, or mark the test: `#[ignore = \"needs ...\"]`")
    })
}

/// The configuration of a proxy with this protocol version.
pub fn config(protocol: &str) -> ImageProxyConfig {
    ImageProxyConfig::default()
        .skopeo_path(skopeo(protocol))
        .insecure_policy(true)
}

/// The configuration of a proxy that is this shell script. Its arguments are in `"$@"`.
pub fn scripted(script: &str) -> ImageProxyConfig {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]);
    started_by(command)
}

/// The configuration of a proxy that is a shell script and starts the newest skopeo, which is in `$skopeo`.
pub fn wrapped(script: &str) -> ImageProxyConfig {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .env("skopeo", skopeo(NEWEST));
    started_by(command)
}

fn started_by(command: Command) -> ImageProxyConfig {
    ImageProxyConfig::default()
        .skopeo_cmd(command)
        .insecure_policy(true)
}

/// The beginning of a script that answers the first call as a proxy of protocol 0.2.8, as far as `dd` and `printf`
/// can, and no other call. The caller appends what the proxy does next.
pub const HELLO: &str =
    r#"dd bs=65536 count=1 >/dev/null 2>&1; printf '{"success":true,"value":"0.2.8"}' >&0;"#;

/// Runs a program, which must succeed.
#[track_caller]
pub fn succeed(command: &mut Command) {
    output_of(command);
}

/// The output of a program, which must succeed.
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
