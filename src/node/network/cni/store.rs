//! What containers are attached to, on disk: written before the first plugin is called, and removed after
//! the last one has undone what it did, so that whoever comes after a crash knows what to undo, and with
//! what. In the state folder, since what plugins keep (leases, above all) outlives a reboot as well.

use super::config::NetworkList;
use super::result::Attached;
use gardend_controller::record::{ContainerUid, Handle, PortIn, SandboxId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One container's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    pub container: ContainerUid,
    pub handle: Handle,
    /// CNI_CONTAINERID: a place is attached once, and the next place of its container anew.
    pub sandbox: SandboxId,
    /// As it was when it was attached.
    pub network: NetworkList,
    /// CNI_ARGS.
    pub args: String,
    /// What plugins are told by their capabilities.
    pub told: BTreeMap<String, Value>,
    /// What they answered; `None`: how far they came is not known.
    pub result: Option<Value>,
    /// The node's end of its link, where there is one.
    pub link: Option<String>,
    /// Ports that plugins have made lead to it; `None`: they are at it.
    pub ports: Option<Vec<PortIn>>,
}

impl Attachment {
    /// What plugins answered, once they have.
    pub fn attached(&self) -> Option<Result<Attached, String>> {
        self.result.as_ref().map(Attached::read)
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// # Errors
    /// Where the folder cannot be made.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }

    /// What is there.
    ///
    /// # Errors
    /// Names the file that makes no sense.
    pub fn read_all(&self) -> io::Result<BTreeMap<ContainerUid, Attachment>> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let attachment = read(&path)?;
            all.insert(attachment.container.clone(), attachment);
        }
        Ok(all)
    }

    pub fn put(&self, attachment: &Attachment) -> io::Result<()> {
        let path = path(&self.folder, &attachment.container);
        let new = path.with_extension("new");
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(attachment)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        std::fs::File::open(&self.folder)?.sync_all()
    }

    pub fn remove(&self, container: &ContainerUid) -> io::Result<()> {
        match std::fs::remove_file(path(&self.folder, container)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// What plugins told of name servers for a container, as /etc/resolv.conf has it.
pub(super) fn resolv_conf(folder: &Path, container: &ContainerUid) -> Option<String> {
    read(&path(folder, container)).ok()?.attached()?.ok()?.resolv_conf()
}

fn path(folder: &Path, container: &ContainerUid) -> PathBuf {
    folder.join(format!("{container}.json"))
}

fn read(path: &Path) -> io::Result<Attachment> {
    serde_json::from_slice(&std::fs::read(path)?).map_err(|error| {
        let remedy = "what it stands for is not undone when it is removed by hand";
        io::Error::other(format!("{} makes no sense: {error}; {remedy}", path.display()))
    })
}
