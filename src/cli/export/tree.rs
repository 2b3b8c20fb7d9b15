//! The files of an image: a tree to which the entries of its layers are applied, from the base layer up. Pure.
//!
//! The rules are those of the image specification (`layer.md`), and where it says nothing, those of containerd: a folder
//! in the path of an entry may be a symbolic link, which is followed within the image; an entry replaces whatever has its
//! path, except that a folder keeps what is in it. Whiteouts remove names of lower layers only, wherever in their layer
//! they are.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, btree_map};
use std::io;

use longshore::printable;

use super::layer::{Entry, Kind};

/// The prefix of a whiteout, which removes the name after it.
const WHITEOUT: &[u8] = b".wh.";

/// The prefix of names that only AUFS understands.
const META: &[u8] = b".wh..wh.";

/// The name of a whiteout for everything that lower layers have in its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How deep folders may be nested. Whiteouts are applied by recursion.
const MAX_DEPTH: usize = 512;

/// How many symbolic links a path may lead over, as in Linux.
const MAX_LINKS: u32 = 40;

/// The number of the root folder among the nodes.
const ROOT: usize = 0;

/// The number of a layer, and of an entry in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryId {
    pub(super) layer: usize,
    pub(super) entry: usize,
}

/// The files of an image.
#[derive(Debug)]
pub(super) struct Tree {
    /// Folders and names. Those that were removed are left here, and nothing leads to them.
    nodes: Vec<Node>,
    files: Vec<Inode>,
}

#[derive(Debug)]
struct Node {
    /// The layer that has made or last changed this folder, or made this name.
    layer: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    Folder {
        /// `None` if layers have something in this folder, but no entry for the folder itself.
        entry: Option<EntryId>,
        children: BTreeMap<Vec<u8>, usize>,
    },
    /// A name of the file with this number.
    File(usize),
}

/// A file, a link, a device or a pipe. It has one name or more.
#[derive(Debug)]
struct Inode {
    id: EntryId,
    /// The path to which a symbolic link leads. `None` for everything else.
    target: Option<Vec<u8>>,
    /// Whether the file has had more than one name.
    is_linked: bool,
}

/// A path of the finished tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item<'a> {
    /// The path, without slashes at its ends. It is empty for the root folder.
    pub(super) path: &'a [u8],
    pub(super) id: EntryId,
    pub(super) is_folder: bool,
    /// The path of the same file that came before, if there was one.
    pub(super) same_as: Option<&'a [u8]>,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node {
            layer: 0,
            what: What::Folder {
                entry: None,
                children: BTreeMap::new(),
            },
        };
        Self {
            nodes: vec![root],
            files: Vec::new(),
        }
    }

    /// Applies the entries of a layer. Layers are numbered from the base layer up.
    pub(super) fn add(&mut self, layer: usize, entries: &[Entry]) -> Result<(), String> {
        for (number, entry) in entries.iter().enumerate() {
            let id = EntryId {
                layer,
                entry: number,
            };
            let added = self.add_one(id, entry);
            added.map_err(|reason| format!("{}: {reason}", shown(&entry.path)))?;
        }
        Ok(())
    }

    fn add_one(&mut self, id: EntryId, entry: &Entry) -> Result<(), String> {
        let path = cleaned(&entry.path);
        let Some((name, folder)) = path.split_last() else {
            // The root folder can only be a folder.
            if entry.kind == Kind::Folder {
                self.set_folder(ROOT, id);
            }
            return Ok(());
        };
        if *name == OPAQUE {
            if let Some(folder) = self.folder(folder)? {
                self.remove_lower_children(folder, id.layer);
            }
            return Ok(());
        }
        if path.iter().any(|name| name.starts_with(META)) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err("it is a whiteout of no name".into());
            }
            if let Some(folder) = self.folder(folder)? {
                self.remove_lower(folder, hidden, id.layer);
            }
            return Ok(());
        }
        let file = match &entry.kind {
            Kind::Folder => None,
            Kind::Link(target) => Some(self.file_at(target)?),
            kind => {
                let target = match kind {
                    Kind::Symlink(target) => Some(target.clone()),
                    _ => None,
                };
                self.files.push(Inode {
                    id,
                    target,
                    is_linked: false,
                });
                Some(self.files.len() - 1)
            }
        };
        let folder = self.make_folder(folder, id.layer)?;
        match (self.child(folder, name), file) {
            (Some(node), None) if self.is_folder(node) => self.set_folder(node, id),
            (_, None) => {
                let node = self.add_folder(id.layer);
                self.set_folder(node, id);
                self.put(folder, name, node);
            }
            (_, Some(file)) => {
                self.nodes.push(Node {
                    layer: id.layer,
                    what: What::File(file),
                });
                self.put(folder, name, self.nodes.len() - 1);
            }
        }
        Ok(())
    }

    /// The file that a hard link names.
    fn file_at(&mut self, path: &[u8]) -> Result<usize, String> {
        let path_of = cleaned(path);
        let missing = || format!("it is a hard link to {}, which is not there", shown(path));
        let (name, folder) = path_of.split_last().ok_or_else(missing)?;
        let folder = self.folder(folder)?.ok_or_else(missing)?;
        let node = self.child(folder, name).ok_or_else(missing)?;
        match self.nodes[node].what {
            What::File(file) => {
                self.files[file].is_linked = true;
                Ok(file)
            }
            What::Folder { .. } => Err(format!("it is a hard link to the folder {}", shown(path))),
        }
    }

    /// Follows a path to a folder. `None` if there is none.
    fn folder(&mut self, path: &[&[u8]]) -> Result<Option<usize>, String> {
        self.follow(path, None)
    }

    /// Follows a path to a folder. Makes the folders that are missing, as a part of this layer.
    fn make_folder(&mut self, path: &[&[u8]], layer: usize) -> Result<usize, String> {
        let folder = self.follow(path, Some(layer))?;
        folder.ok_or_else(|| "its folder is missing".into())
    }

    /// Follows a path to a folder, and symbolic links on the way. `make` is the layer that makes missing folders.
    fn follow(&mut self, path: &[&[u8]], make: Option<usize>) -> Result<Option<usize>, String> {
        let mut here = vec![ROOT];
        let mut left: Vec<Vec<u8>> = path.iter().rev().map(|name| name.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                if here.len() > 1 {
                    here.pop();
                }
                continue;
            }
            let folder = here.last().copied().unwrap_or(ROOT);
            let next = match (self.child(folder, &name), make) {
                (Some(next), _) => next,
                (None, None) => return Ok(None),
                (None, Some(layer)) => {
                    let missing = self.add_folder(layer);
                    self.put(folder, &name, missing);
                    missing
                }
            };
            match self.nodes[next].what {
                What::Folder { .. } => here.push(next),
                What::File(file) => {
                    let Some(target) = &self.files[file].target else {
                        return match make {
                            None => Ok(None),
                            Some(_) => Err(format!("{} in its path is no folder", shown(&name))),
                        };
                    };
                    links += 1;
                    if links > MAX_LINKS {
                        return Err("its path leads over too many symbolic links".into());
                    }
                    if target.starts_with(b"/") {
                        here.truncate(1);
                    }
                    left.extend(names_in(target).rev().map(<[u8]>::to_vec));
                }
            }
            if here.len() > MAX_DEPTH || left.len() > MAX_DEPTH {
                return Err("its folders are nested too deeply".into());
            }
        }
        Ok(here.last().copied())
    }

    fn child(&self, folder: usize, name: &[u8]) -> Option<usize> {
        match &self.nodes[folder].what {
            What::Folder { children, .. } => children.get(name).copied(),
            What::File(_) => None,
        }
    }

    fn is_folder(&self, node: usize) -> bool {
        matches!(self.nodes[node].what, What::Folder { .. })
    }

    /// Adds a folder without an entry, which is in no other folder yet.
    fn add_folder(&mut self, layer: usize) -> usize {
        self.nodes.push(Node {
            layer,
            what: What::Folder {
                entry: None,
                children: BTreeMap::new(),
            },
        });
        self.nodes.len() - 1
    }

    fn set_folder(&mut self, folder: usize, id: EntryId) {
        let node = &mut self.nodes[folder];
        node.layer = id.layer;
        if let What::Folder { entry, .. } = &mut node.what {
            *entry = Some(id);
        }
    }

    fn put(&mut self, folder: usize, name: &[u8], node: usize) {
        if let What::Folder { children, .. } = &mut self.nodes[folder].what {
            children.insert(name.to_vec(), node);
        }
    }

    /// Removes what lower layers have under this name.
    fn remove_lower(&mut self, folder: usize, name: &[u8], layer: usize) {
        if let Some(child) = self.child(folder, name)
            && !self.keeps_after_whiteout(child, layer)
            && let What::Folder { children, .. } = &mut self.nodes[folder].what
        {
            children.remove(name);
        }
    }

    fn remove_lower_children(&mut self, folder: usize, layer: usize) {
        let children = match &mut self.nodes[folder].what {
            What::Folder { children, .. } => std::mem::take(children),
            What::File(_) => return,
        };
        let mut kept = children;
        kept.retain(|_, child| self.keeps_after_whiteout(*child, layer));
        if let What::Folder { children, .. } = &mut self.nodes[folder].what {
            *children = kept;
        }
    }

    /// Removes what lower layers have in a node, and returns whether something of this layer is left.
    fn keeps_after_whiteout(&mut self, node: usize, layer: usize) -> bool {
        if !self.is_folder(node) {
            return self.nodes[node].layer == layer;
        }
        self.remove_lower_children(node, layer);
        let found = &mut self.nodes[node];
        let What::Folder { entry, children } = &mut found.what else {
            return false;
        };
        if found.layer == layer {
            return true;
        }
        // The whiteout removes the folder of the lower layers. If this layer has something in it, the folder stays,
        // without an entry.
        *entry = None;
        found.layer = layer;
        !children.is_empty()
    }

    /// Visits all paths that have an entry, each folder before what is in it, sorted by name.
    pub(super) fn visit(
        &self,
        mut visitor: impl FnMut(Item<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        /// The children of a folder that are left, and the length of the folder's path.
        type Level<'a> = (btree_map::Iter<'a, Vec<u8>, usize>, usize);
        let mut path: Vec<u8> = Vec::new();
        let mut seen: HashMap<usize, Vec<u8>> = HashMap::new();
        let mut levels: Vec<Level<'_>> = Vec::new();
        let mut node = ROOT;
        loop {
            match &self.nodes[node].what {
                What::Folder { entry, children } => {
                    if let Some(id) = *entry {
                        visitor(Item {
                            path: &path,
                            id,
                            is_folder: true,
                            same_as: None,
                        })?;
                    }
                    levels.push((children.iter(), path.len()));
                }
                What::File(file) => {
                    let inode = &self.files[*file];
                    let same_as = seen.get(file).map(Vec::as_slice);
                    visitor(Item {
                        path: &path,
                        id: inode.id,
                        is_folder: false,
                        same_as,
                    })?;
                    if inode.is_linked && same_as.is_none() {
                        seen.insert(*file, path.clone());
                    }
                }
            }
            node = loop {
                let Some((children, length)) = levels.last_mut() else {
                    return Ok(());
                };
                path.truncate(*length);
                let Some((name, next)) = children.next() else {
                    levels.pop();
                    continue;
                };
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(name);
                break *next;
            };
        }
    }
}

/// The names in a path, without empty ones and single dots.
fn names_in(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let names = path.split(|byte| *byte == b'/');
    names.filter(|name| !name.is_empty() && *name != b".")
}

/// The names in the path of an entry. Two dots remove the name before them, and lead no higher than the root folder.
fn cleaned(path: &[u8]) -> Vec<&[u8]> {
    let mut names = Vec::new();
    for name in names_in(path) {
        if name == b".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    names
}

/// A path for people. It is shortened if it is long.
fn shown(path: &[u8]) -> String {
    const MAX_CHARS: usize = 200;
    let text = String::from_utf8_lossy(path);
    let short: String = text.chars().take(MAX_CHARS).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    printable(&(short + dots))
}
