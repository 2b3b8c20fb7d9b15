//! A skopeo whose answers are files: `manifest`, `digest`, `config`, `layers`, `index`, and blobs by their
//! digests, in the folder that `FILES_AS_SKOPEO` names.

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

// The instrumented code of a build for libFuzzer calls this crate.
use bolero as _;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use nix::unistd::pipe;
use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(std::env::var_os("FILES_AS_SKOPEO").unwrap_or_default());
    let arguments: Vec<String> = std::env::args().collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("--version") {
        println!("skopeo version 1.22.0");
    } else if has("inspect") {
        io::stdout().write_all(&fs::read(folder.join("index"))?)?;
    } else if has("experimental-image-proxy") {
        serve(&folder)?;
    }
    Ok(())
}

fn serve(folder: &Path) -> io::Result<()> {
    let mut packet = vec![0; 64 * 1024];
    // The write ends that `FinishPipe` closes.
    let mut open = Vec::new();
    loop {
        let length = recv(0, &mut packet, MsgFlags::empty())?;
        if length == 0 {
            return Ok(());
        }
        let call: Value = serde_json::from_slice(&packet[..length])?;
        let (mut value, mut id, mut read) = (Value::Null, 0, Vec::new());
        match call["method"].as_str().unwrap_or_default() {
            "Shutdown" => return Ok(()),
            "Initialize" => value = json!("0.2.8"),
            "OpenImage" => value = json!(1),
            method @ ("GetManifest" | "GetFullConfig" | "GetLayerInfoPiped") => {
                let name = match method {
                    "GetManifest" => "manifest",
                    "GetFullConfig" => "config",
                    _ => "layers",
                };
                if method == "GetManifest" {
                    value = json!(fs::read_to_string(folder.join("digest"))?);
                }
                let (ours, theirs) = filled(&fs::read(folder.join(name))?)?;
                open.push(theirs);
                id = 7;
                read.push(ours);
            }
            "GetRawBlob" => {
                let digest = call["args"][1].as_str().unwrap_or_default();
                // The client has parsed the digest, so it can't be a path.
                assert!(!digest.contains('/'), "{digest}");
                let Ok(blob) = fs::read(folder.join(digest)) else {
                    answer(&json!({ "success": false, "error": "no such blob" }), &[])?;
                    continue;
                };
                value = json!(blob.len());
                read.push(filled(&blob)?.0);
                read.push(filled(b"")?.0);
            }
            "FinishPipe" => open.clear(),
            _ => {}
        }
        let reply = json!({ "success": true, "value": value, "pipeid": id });
        answer(&reply, &read)?;
    }
}

/// A pipe that contains these bytes, with both ends. They must fit into the pipe.
fn filled(content: &[u8]) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe()?;
    let mut file = File::from(write);
    file.write_all(content)?;
    Ok((read, file.into()))
}

fn answer(reply: &Value, fds: &[OwnedFd]) -> io::Result<()> {
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights };
    let reply = reply.to_string();
    let reply = [IoSlice::new(reply.as_bytes())];
    sendmsg::<()>(0, &reply, rights, MsgFlags::empty(), None)?;
    Ok(())
}
