//! What a layout names survives a loss of power: bytes reach the disk before their name does, and names
//! before what names them. The system calls of a whole pull show this.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Scratch, Served, newest_skopeo, small_image};

/// A call that succeeded. Threads make calls at the same time, so each call has the line of its beginning and
/// the line of its end.
#[derive(Debug)]
struct Call {
    kind: Kind,
    began: usize,
    ended: usize,
}

#[derive(Debug)]
enum Kind {
    Sync(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
}

/// The calls in the output of `strace -f -y`:
///
/// ```text
/// 17 fdatasync(9</layout/.longshore-17-0/2>) = 0
/// 17 renameat(8</layout/.longshore-17-0>, "2", 10</layout>, "index.json" <unfinished ...>
/// 18 fsync(10</layout>) = 0
/// 17 <... renameat resumed>) = 0
/// ```
fn calls(trace: &str) -> Vec<Call> {
    let mut unfinished = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        let (began, call) = if let Some(first) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (number, first));
            continue;
        } else if call.starts_with("<... ") {
            let (line, first) = unfinished.remove(thread).unwrap();
            (line, format!("{first}{}", call.split_once('>').unwrap().1))
        } else {
            (number, call.to_owned())
        };
        if !call.ends_with(" = 0") {
            continue;
        }
        calls.extend(kind(&call).map(|kind| Call {
            kind,
            began,
            ended: number,
        }));
    }
    calls
}

fn kind(call: &str) -> Option<Kind> {
    let (name, arguments) = call.split_once('(')?;
    let folders: Vec<_> = between(arguments, '<', '>');
    let names: Vec<_> = between(arguments, '"', '"');
    match (name, &folders[..], &names[..]) {
        ("fsync" | "fdatasync", [path], []) => Some(Kind::Sync(path.into())),
        ("renameat" | "renameat2", [from, to], [old, new]) => Some(Kind::Rename {
            from: Path::new(from).join(old),
            to: Path::new(to).join(new),
        }),
        _ => None,
    }
}

fn between(text: &str, open: char, close: char) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(open) {
        let Some((inside, after)) = after.split_once(close) else {
            break;
        };
        found.push(inside);
        rest = after;
    }
    found
}

#[test]
#[ignore = "needs skopeo, strace"]
fn bytes_reach_the_disk_before_names_and_names_before_the_index() {
    let (served, image) = Served::image("v1", &small_image(1));
    let scratch = Scratch::new();
    let layout = scratch.layout("new/image");
    let trace = scratch.path("trace");
    scratch
        .pull(
            &newest_skopeo(),
            &served.reference("v1"),
            &layout.tagged("v1"),
        )
        .traced(&trace, "fsync,fdatasync,rename,renameat,renameat2")
        .run()
        .succeeded();
    layout.assert_valid();

    let trace = fs::read_to_string(&trace).unwrap();
    let calls = calls(&trace);
    let root = layout.folder().canonicalize().unwrap();
    let renames = || {
        calls.iter().filter_map(|call| match &call.kind {
            Kind::Rename { from, to } if to.starts_with(&root) => Some((from, to, call)),
            _ => None,
        })
    };
    let synced = |path: &Path, after: usize, before: usize| {
        let found = calls.iter().any(|call| {
            matches!(&call.kind, Kind::Sync(synced) if synced == path)
                && call.began >= after
                && call.ended < before
        });
        let path = path.display();
        assert!(
            found,
            "{path} is not synced between lines {after} and {before}:\n{trace}"
        );
    };

    for (from, _, rename) in renames() {
        synced(from, 0, rename.began);
    }
    let (.., named) = renames()
        .rfind(|(_, to, _)| **to == root.join("index.json"))
        .unwrap();
    let blobs = renames().filter(|(_, to, _)| to.starts_with(root.join("blobs")));
    let blobs: Vec<_> = blobs.collect();
    assert_eq!(
        blobs.len(),
        image.layers.len() + 2,
        "layers, config, manifest"
    );
    for (_, to, rename) in blobs {
        synced(to.parent().unwrap(), rename.ended, named.began);
    }
    synced(&root.join("blobs"), 0, named.began);
    synced(&root, 0, named.began);
    synced(&root, named.ended, usize::MAX);
    // The layout is new, and so is its parent folder.
    for made in [&root, root.parent().unwrap()] {
        synced(made.parent().unwrap(), 0, named.began);
    }
}
