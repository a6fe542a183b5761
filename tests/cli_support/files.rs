//! The files of the test server's containers, as far as tar streams show them.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;
use tar::{Archive, Builder, EntryType, Header};

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Folder,
    /// Content, owner.
    File(Vec<u8>, u64),
    Link(String),
}

/// Files by "HANDLE:/path". The root of every container is there.
#[derive(Default)]
pub struct Files(Mutex<BTreeMap<String, Node>>);

impl Files {
    pub fn put(&self, place: &str, node: Node) {
        self.0.lock().unwrap().insert(place.to_owned(), node);
    }

    pub fn get(&self, place: &str) -> Option<Node> {
        self.0.lock().unwrap().get(place).cloned()
    }

    /// As stream-in does: the destination is made where it is missing.
    pub fn unpack(&self, handle: &str, destination: &str, tar: &[u8]) -> Result<(), String> {
        let folder = format!("{handle}:{}", destination.trim_end_matches('/'));
        let mut files = self.0.lock().unwrap();
        if matches!(files.get(&folder), Some(Node::File(..))) {
            return Err(format!("error streaming in: make the folder {destination:?}: Not a directory"));
        }
        files.insert(folder.clone(), Node::Folder);
        let mut archive = Archive::new(tar);
        for entry in archive.entries().map_err(|error| error.to_string())? {
            let mut entry = entry.map_err(|error| format!("error streaming in: {error}"))?;
            let name =
                entry.path().unwrap().to_str().unwrap().trim_start_matches("./").trim_end_matches('/').to_owned();
            let place = if name.is_empty() || name == "." { folder.clone() } else { format!("{folder}/{name}") };
            let node = match entry.header().entry_type() {
                EntryType::Directory => Node::Folder,
                EntryType::Symlink => Node::Link(entry.link_name().unwrap().unwrap().to_str().unwrap().to_owned()),
                _ => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).map_err(|error| format!("error streaming in: {error}"))?;
                    Node::File(content, entry.header().uid().unwrap())
                }
            };
            files.insert(place, node);
        }
        Ok(())
    }

    /// As stream-out does: by the base name, or the contents where the source ends in a slash.
    pub fn pack(&self, handle: &str, source: &str) -> Result<Vec<u8>, String> {
        let files = self.0.lock().unwrap();
        let place = format!("{handle}:{}", source.trim_end_matches('/'));
        let is_root = place.ends_with(':');
        let node = files.get(&place).cloned().or_else(|| is_root.then_some(Node::Folder));
        let missing = || format!("error streaming out: open {source:?}: No such file or directory");
        let node = node.ok_or_else(missing)?;
        let base = if source.ends_with('/') { "." } else { place.rsplit('/').next().unwrap() };
        let mut builder = Builder::new(Vec::new());
        add(&mut builder, base, &node);
        for (path, node) in files.range(format!("{place}/")..).take_while(|(path, _)| path.starts_with(&place)) {
            if let Some(below) = path.strip_prefix(&format!("{place}/")) {
                add(&mut builder, &format!("{base}/{below}"), node);
            }
        }
        Ok(builder.into_inner().unwrap())
    }
}

fn add(builder: &mut Builder<Vec<u8>>, name: &str, node: &Node) {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    match node {
        Node::Folder => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            builder.append_data(&mut header, format!("{name}/"), &[][..]).unwrap();
        }
        Node::File(content, uid) => {
            header.set_size(content.len() as u64);
            header.set_uid(*uid);
            builder.append_data(&mut header, name, content.as_slice()).unwrap();
        }
        Node::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, name, target).unwrap();
        }
    }
}
