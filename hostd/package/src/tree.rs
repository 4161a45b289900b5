//! The tree a package unpacks to: what is where, without conflicts, and no link leaving it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use crate::archive::{Data, Entry, Kind, refuse};
use crate::unpack::Unpack;
use crate::{EntryProblem, Limits, PackageError};

/// Links followed to resolve one path; the kernel's own bound.
const MAX_FOLLOWED: u32 = 40;

/// Steps taken to resolve all links together: far more than packages need, and a second's work at most.
const MAX_STEPS: u32 = 500_000;

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    Folder,
    File { data: Data<'a>, executable: bool },
    Link { target: PathBuf },
}

/// The tree; its order is the order of the image. The root itself is not in it.
#[derive(Debug, Default)]
pub(crate) struct Tree<'a> {
    nodes: BTreeMap<PathBuf, (Node<'a>, u32)>,
}

impl<'a> Tree<'a> {
    /// Makes the tree of `entries`. Folders that are only implied are added.
    pub(crate) fn new(entries: Vec<Entry<'a>>, limits: &Limits) -> Result<Self, PackageError> {
        let mut tree = Self::default();
        for entry in entries {
            tree.insert(entry)?;
            if tree.nodes.len() > usize::try_from(limits.entries).unwrap_or(usize::MAX) {
                return Err(PackageError::TooManyEntries { limit: limits.entries });
            }
        }
        tree.check_links()?;
        if tree.nodes.is_empty() { Err(PackageError::Empty) } else { Ok(tree) }
    }

    /// Everything in the tree with its modification time, a folder before what is in it.
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = (&Path, &Node<'a>, u32)> {
        self.nodes.iter().map(|(path, (node, mtime))| (path.as_path(), node, *mtime))
    }

    fn insert(&mut self, entry: Entry<'a>) -> Result<(), PackageError> {
        let name = entry.path.as_os_str().as_encoded_bytes();
        for above in entry.path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            match self.nodes.get(above) {
                Some((Node::Folder, _)) => break,
                Some(_) => {
                    return Err(refuse(above.as_os_str().as_encoded_bytes(), EntryProblem::NotAFolder));
                }
                None => {
                    // A zip has no time for a folder it does not name: that of its first entry is as good.
                    self.nodes.insert(above.to_owned(), (Node::Folder, entry.mtime));
                }
            }
        }
        if name.is_empty() {
            return Ok(());
        }
        let node = match entry.kind {
            Kind::Folder => Node::Folder,
            Kind::File { data, executable } => Node::File { data, executable },
            Kind::Link { data } => Node::Link { target: target(&data).map_err(|p| refuse(name, p))? },
        };
        match (self.nodes.get(&entry.path).map(|(node, _)| node), &node) {
            // A folder is often named by several tools' entries, or after its files: that says nothing new.
            (None | Some(Node::Folder), Node::Folder) | (None, _) => {}
            (Some(Node::Folder), _) | (Some(_), Node::Folder) => {
                return Err(refuse(name, EntryProblem::NotAFolder));
            }
            (Some(_), _) => return Err(refuse(name, EntryProblem::Duplicate)),
        }
        self.nodes.insert(entry.path, (node, entry.mtime));
        Ok(())
    }

    fn check_links(&self) -> Result<(), PackageError> {
        let mut steps = 0;
        for (path, (node, _)) in &self.nodes {
            if let Node::Link { target } = node {
                let mut walk = Walk { nodes: &self.nodes, followed: 0, steps };
                let folder = path.parent().unwrap_or(Path::new(""));
                let end = walk.resolve(folder, target);
                steps = walk.steps;
                if steps > MAX_STEPS {
                    return Err(PackageError::TooManyLinks);
                }
                if end.is_none() {
                    let target = crate::path::show(target.as_os_str().as_encoded_bytes());
                    let name = path.as_os_str().as_encoded_bytes();
                    return Err(refuse(name, EntryProblem::LinkLeaves { target }));
                }
            }
        }
        Ok(())
    }
}

/// The way from a link to where it points.
struct Walk<'t, 'a> {
    nodes: &'t BTreeMap<PathBuf, (Node<'a>, u32)>,
    followed: u32,
    steps: u32,
}

impl Walk<'_, '_> {
    /// Follows `target` from `folder` as the kernel would; `None` if it leaves the tree or does not end. Names
    /// that do not exist are kept as they are: a dangling link is harmless.
    fn resolve(&mut self, folder: &Path, target: &Path) -> Option<PathBuf> {
        self.followed += 1;
        if self.followed > MAX_FOLLOWED {
            return None;
        }
        let mut at = folder.to_owned();
        for part in target.components() {
            self.steps += 1;
            match part {
                Component::CurDir => {}
                Component::ParentDir if at.pop() => {}
                Component::Normal(name) => {
                    at.push(name);
                    if let Some((Node::Link { target }, _)) = self.nodes.get(&at) {
                        at.pop();
                        at = self.resolve(&at, target)?;
                    }
                }
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
            }
        }
        Some(at)
    }
}

/// Reads the target of a link.
fn target(data: &Data<'_>) -> Result<PathBuf, EntryProblem> {
    let mut bytes = Vec::new();
    let mut reader = Unpack::new(*data);
    if reader.read_to_end(&mut bytes).is_err() {
        return Err(reader.problem().unwrap_or(EntryProblem::LinkTarget));
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && !text.contains('\0') => Ok(PathBuf::from(text)),
        _ => Err(EntryProblem::LinkTarget),
    }
}
