//! Tests of the tree: small layers, and the paths that are left.

use super::super::layer::At;
use super::*;

/// An entry: `d/` is a folder, `a -> b` a symbolic link, `a = b` a hard link, and anything else a file.
fn entry(text: &str) -> Entry {
    let bytes = |text: &str| text.as_bytes().to_vec();
    let (path, kind) = if let Some((path, target)) = text.split_once(" -> ") {
        (path, Kind::Symlink(bytes(target)))
    } else if let Some((path, target)) = text.split_once(" = ") {
        (path, Kind::Link(bytes(target)))
    } else if text.ends_with('/') {
        (text, Kind::Folder)
    } else {
        (text, Kind::File)
    };
    Entry {
        path: bytes(path),
        kind,
        at: At::default(),
    }
}

fn tree(layers: &[&[&str]]) -> Result<Tree, String> {
    let mut tree = Tree::new();
    for (number, layer) in layers.iter().enumerate() {
        let entries: Vec<Entry> = layer.iter().map(|text| entry(text)).collect();
        tree.add(number, &entries)?;
    }
    Ok(tree)
}

/// The paths of these layers, each with its layer and entry, and with the file that it is a hard link to.
fn paths(layers: &[&[&str]]) -> Vec<String> {
    let mut found = Vec::new();
    let tree = tree(layers).expect("an image");
    let visited = tree.visit(|item| {
        let text = |path: &[u8]| String::from_utf8(path.to_vec()).expect("UTF-8");
        let path = text(item.path);
        let slash = if item.is_folder { "/" } else { "" };
        let link = item.same_as.map(|same| format!(" = {}", text(same)));
        let (EntryId { layer, entry }, link) = (item.id, link.unwrap_or_default());
        found.push(format!("{path}{slash}{link} {layer}.{entry}"));
        Ok(())
    });
    visited.expect("no visitor fails");
    found
}

#[test]
fn upper_layers_replace_and_hide_what_lower_ones_have() {
    type Row = (&'static [&'static [&'static str]], &'static [&'static str]);
    let table: &[Row] = &[
        // The paths are sorted, each folder before what is in it.
        (
            &[&["b", "./", "a/", "a/x", "./a/../c"]],
            &["/ 0.1", "a/ 0.2", "a/x 0.3", "b 0.0", "c 0.4"],
        ),
        // A file is replaced, and so is a folder by a file, and a file by a folder.
        (
            &[&["f", "d/", "d/x", "g"], &["f", "d", "g/", "g/y"]],
            &["d 1.1", "f 1.0", "g/ 1.2", "g/y 1.3"],
        ),
        // A folder keeps what is in it, and gets the new entry.
        (&[&["d/", "d/x"], &["d/"]], &["d/ 1.0", "d/x 0.1"]),
        // A folder for which no layer has an entry gets none.
        (&[&["a/b/c"]], &["a/b/c 0.0"]),
        // A whiteout hides files and folders of lower layers.
        (&[&["f", "d/", "d/x", "e"], &[".wh.f", ".wh.d"]], &["e 0.3"]),
        // A whiteout of what is not there does nothing.
        (&[&["f"], &[".wh.g", "no/.wh.h", "f/.wh.h"]], &["f 0.0"]),
        // A whiteout hides nothing of its own layer, wherever it is.
        (
            &[&["f", "d/", "d/x"], &["f", ".wh.f", "d/y", ".wh.d"]],
            &["d/y 1.2", "f 1.0"],
        ),
        (
            &[&["d/", "d/x"], &["d/", "d/y", ".wh.d"]],
            &["d/ 1.0", "d/y 1.1"],
        ),
        // An opaque folder has nothing of lower layers.
        (
            &[
                &["d/", "d/x", "d/e/", "d/e/z"],
                &["d/", "d/y", "d/e/new", "d/.wh..wh..opq"],
            ],
            &["d/ 1.0", "d/e/new 1.2", "d/y 1.1"],
        ),
        (&[&["a", "d/"], &[".wh..wh..opq", "b"]], &["b 1.1"]),
        // What was hidden can come back.
        (&[&["f"], &[".wh.f"], &["f"]], &["f 2.0"]),
        // What only AUFS understands is left out.
        (
            &[&[".wh..wh.plnk/", ".wh..wh.plnk/1.2", ".wh..wh.aufs", "f"]],
            &["f 0.3"],
        ),
    ];
    for (layers, expected) in table {
        assert_eq!(paths(layers), *expected, "{layers:?}");
    }
}

#[test]
fn hard_links_name_the_file_that_they_were_made_of() {
    type Row = (&'static [&'static [&'static str]], &'static [&'static str]);
    let table: &[Row] = &[
        (&[&["b", "a = b"]], &["a 0.0", "b = a 0.0"]),
        // A link to a file of a lower layer.
        (&[&["b"], &["a = ./b"]], &["a 0.0", "b = a 0.0"]),
        // The first name of the file is hidden, or now belongs to another file.
        (&[&["b", "a = b"], &[".wh.b"]], &["a 0.0"]),
        (
            &[&["b", "c = b", "a = c"], &["b"]],
            &["a 0.0", "b 1.0", "c = a 0.0"],
        ),
        // A link replaces a file, and can link a symbolic link.
        (
            &[&["f", "l -> x", "m = l"], &["f = l"]],
            &["f 0.1", "l = f 0.1", "m = f 0.1"],
        ),
        // A link in the same layer as a whiteout of its file.
        (&[&["b"], &["a = b", ".wh.b"]], &["a 0.0"]),
    ];
    for (layers, expected) in table {
        assert_eq!(paths(layers), *expected, "{layers:?}");
    }
}

#[test]
fn symbolic_links_in_a_path_are_followed_within_the_image() {
    type Row = (&'static [&'static [&'static str]], &'static [&'static str]);
    let table: &[Row] = &[
        (
            &[&["usr/", "usr/lib/", "lib -> usr/lib"], &["lib/x"]],
            &["lib 0.2", "usr/ 0.0", "usr/lib/ 0.1", "usr/lib/x 1.0"],
        ),
        (
            &[&["a/", "b/", "a/l -> /../../b"], &["a/l/x", "a/l/../y"]],
            &["a/ 0.0", "a/l 0.2", "a/y 1.1", "b/ 0.1", "b/x 1.0"],
        ),
        // A link that leads nowhere makes its folder.
        (&[&["l -> new/deep", "l/x"]], &["l 0.0", "new/deep/x 0.1"]),
        // Whiteouts follow links in their path, but remove a link itself.
        (
            &[&["d/", "d/x", "l -> d", "m -> d"], &["l/.wh.x", ".wh.m"]],
            &["d/ 0.0", "l 0.2"],
        ),
        // A folder replaces a link of its name.
        (
            &[&["d/", "l -> d"], &["l/", "l/x"]],
            &["d/ 0.0", "l/ 1.0", "l/x 1.1"],
        ),
        // A hard link may be named by a link in its path.
        (
            &[&["d/", "d/x", "l -> d", "a = l/x"]],
            &["a 0.1", "d/ 0.0", "d/x = a 0.1", "l 0.2"],
        ),
    ];
    for (layers, expected) in table {
        assert_eq!(paths(layers), *expected, "{layers:?}");
    }
}

#[test]
fn errors_name_the_entry() {
    let deep = "d/".repeat(MAX_DEPTH + 1);
    let table: &[(&[&[&str]], &str)] = &[
        (&[&["f", "f/x"]], "f/x: f in its path is no folder"),
        (
            &[&["a = b"]],
            "a: it is a hard link to b, which is not there",
        ),
        (&[&["a = d/b"]], "which is not there"),
        (&[&["a = /"]], "which is not there"),
        (&[&["d/", "a = d"]], "a hard link to the folder d"),
        (&[&["a -> b", "b -> a", "a/x"]], "too many symbolic links"),
        (&[&[&deep]], "nested too deeply"),
        (&[&["d/.wh."]], "a whiteout of no name"),
        (&[&["d/.wh..."]], "a whiteout of no name"),
    ];
    for (layers, words) in table {
        let error = tree(layers).expect_err(words);
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn no_path_leads_out_of_the_image() {
    let found = paths(&[&["../../a", "l -> ../../..", "l/b", "/c", "d/../../../e"]]);
    assert_eq!(found, ["a 0.0", "b 0.2", "c 0.3", "e 0.4", "l 0.1"]);
}
