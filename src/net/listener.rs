//! Listening sockets: claimed before anything is started, listening once there is something to serve.
//!
//! ```text
//! Claim::new (is it free?) ──▶ listen (bind, permissions, listen) ──▶ Listener ──▶ dropped: its file goes
//! ```
//! A TCP port is bound with the claim. A unix socket is bound when it listens: bound and not yet
//! listening, it would look to the next server like one that a dead server left.

use super::{Address, Stream};
use rustix::fs::{FileType, Mode, fchmod, lstat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Who may open a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its permissions.
    pub mode: Mode,
    /// Its group; `None`: that of whoever makes it.
    pub group: Option<u32>,
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody does.
    #[error("{0} is in use by another program; stop that one, or choose another --listen")]
    InUse(Address),
    /// A file of another kind, which is not ours to remove.
    #[error("{} is there and no socket; remove it, or choose another --listen", .0.display())]
    NoSocket(PathBuf),
    /// The kernel refused.
    #[error("cannot {what} {address}: {source}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// Where.
        address: Address,
        /// Why not.
        source: io::Error,
    },
}

/// An address that is free, and will be listened on.
#[derive(Debug)]
pub struct Claim(Claimed);

#[derive(Debug)]
enum Claimed {
    Tcp(TcpSocket, Address),
    Unix(PathBuf),
}

impl Claim {
    /// Takes a port, or finds that a unix socket can be made.
    ///
    /// # Errors
    /// [`ListenError`]: it is in use, or cannot be used.
    pub fn new(address: &Address) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Failed { what: "listen on", address: address.clone(), source };
        match address {
            Address::Tcp(socket_address) | Address::Tls(socket_address) => {
                let socket = match socket_address.is_ipv4() {
                    true => TcpSocket::new_v4(),
                    false => TcpSocket::new_v6(),
                };
                let socket = socket.map_err(failed)?;
                socket.set_reuseaddr(true).map_err(failed)?;
                match socket.bind(*socket_address) {
                    Ok(()) => Ok(Self(Claimed::Tcp(socket, address.clone()))),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(ListenError::InUse(address.clone())),
                    Err(error) => Err(failed(error)),
                }
            }
            Address::Unix(path) => {
                is_stale(path)?;
                let folder = path.parent().unwrap_or(Path::new("/"));
                let found = std::fs::metadata(folder).and_then(|folder| match folder.is_dir() {
                    true => Ok(()),
                    false => Err(io::ErrorKind::NotADirectory.into()),
                });
                found.map_err(|source| ListenError::Failed {
                    what: "find the folder of",
                    address: address.clone(),
                    source,
                })?;
                Ok(Self(Claimed::Unix(path.clone())))
            }
        }
    }

    /// Listens.
    ///
    /// # Errors
    /// [`ListenError`]: somebody was faster, or the kernel refuses.
    pub fn listen(self, access: Access) -> Result<Listener, ListenError> {
        match self.0 {
            Claimed::Tcp(socket, address) => {
                let failed = |source| ListenError::Failed { what: "listen on", address: address.clone(), source };
                let listener = socket.listen(BACKLOG).map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                let address = match address {
                    Address::Tls(_) => Address::Tls(bound),
                    _ => Address::Tcp(bound),
                };
                Ok(Listener { address, socket: Socket::Tcp(listener), _file: None })
            }
            Claimed::Unix(path) => listen_on(path, access),
        }
    }
}

/// Whether a socket's file is one that nobody listens on any more, rather than none.
fn is_stale(path: &Path) -> Result<bool, ListenError> {
    let address = || Address::Unix(path.to_owned());
    let failed = |source: io::Error| ListenError::Failed { what: "look at", address: address(), source };
    match lstat(path) {
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        Err(error) => return Err(failed(error.into())),
        Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::Socket => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    // Without blocking: a listener whose backlog is full is one all the same.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let asked = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| rustix::net::connect(&socket, &SocketAddrUnix::new(path)?));
    match asked {
        Err(rustix::io::Errno::CONNREFUSED) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        // Another kind of socket that somebody holds (PROTOTYPE), or one that answers.
        Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::PROTOTYPE) => Err(ListenError::InUse(address())),
        Err(error) => Err(failed(error.into())),
    }
}

fn listen_on(path: PathBuf, access: Access) -> Result<Listener, ListenError> {
    let address = Address::Unix(path.clone());
    let failed = |what| {
        let address = address.clone();
        move |source: io::Error| ListenError::Failed { what, address, source }
    };
    if is_stale(&path)? {
        std::fs::remove_file(&path).map_err(failed("replace"))?;
    }
    let make = || -> io::Result<_> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets the mode that the socket has when it is bound: it is never open to more.
        fchmod(&socket, access.mode)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        Ok(socket)
    };
    let socket = make().map_err(failed("make"))?;
    let inode = Inode::of(&path).map_err(failed("look at"))?;
    let file = SocketFile { path: path.clone(), inode };
    let open = || -> io::Result<_> {
        if let Some(group) = access.group {
            std::os::unix::fs::lchown(&path, None, Some(group))?;
        }
        // The umask may have taken some of it.
        rustix::fs::chmod(&path, access.mode)?;
        rustix::net::listen(&socket, BACKLOG.try_into().unwrap_or(i32::MAX))?;
        UnixListener::from_std(socket.into())
    };
    let listener = open().map_err(failed("listen on"))?;
    Ok(Listener { address, socket: Socket::Unix(listener), _file: Some(file) })
}

/// A unix socket's file, removed with its listener unless another one has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: Inode,
}

/// A file's device and number.
#[derive(Debug, PartialEq, Eq)]
struct Inode(u64, u64);

impl Inode {
    fn of(path: &Path) -> io::Result<Self> {
        std::fs::symlink_metadata(path).map(|found| Self(found.dev(), found.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Inode::of(&self.path).is_ok_and(|now| now == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a socket's file cannot be removed");
        }
    }
}

/// A listening socket. A unix socket's file goes with it.
#[derive(Debug)]
pub struct Listener {
    address: Address,
    socket: Socket,
    /// Closed first, removed after.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl TryFrom<TcpListener> for Listener {
    type Error = io::Error;

    fn try_from(listener: TcpListener) -> io::Result<Self> {
        Ok(Self { address: Address::Tcp(listener.local_addr()?), socket: Socket::Tcp(listener), _file: None })
    }
}

impl Listener {
    /// Where; with the port that the kernel chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Arrival>> {
        let is_secured = matches!(self.address, Address::Tls(_));
        match &self.socket {
            Socket::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| match is_secured {
                true => Arrival::Unproven(stream),
                false => Arrival::Trusted(stream.into()),
            }),
            Socket::Unix(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| Arrival::Trusted(stream.into())),
        }
    }
}

/// A client that came.
#[derive(Debug)]
pub enum Arrival {
    /// By loopback or a unix socket: the system let it through.
    Trusted(Stream),
    /// To a `tls://` address: TLS is yet to be agreed on, and who it is to be proven.
    Unproven(TcpStream),
}

/// Several listening sockets, accepted from in turn.
#[derive(Debug)]
pub struct Listeners {
    listeners: Vec<Listener>,
    next: usize,
}

impl From<Vec<Listener>> for Listeners {
    fn from(listeners: Vec<Listener>) -> Self {
        Self { listeners, next: 0 }
    }
}

impl Listeners {
    /// The next connection. Cancel-safe: nothing is taken off a queue before it is answered.
    ///
    /// # Errors
    /// accept(2)'s; the listeners are as they were.
    pub async fn accept(&mut self) -> io::Result<Arrival> {
        poll_fn(|cx| {
            for offset in 0..self.listeners.len() {
                let index = (self.next + offset) % self.listeners.len();
                if let Poll::Ready(accepted) = self.listeners[index].poll_accept(cx) {
                    // The others first, next time.
                    self.next = index + 1;
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Where all of them listen, in the order in which they were given.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.listeners.iter().map(Listener::address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    const OWNER: Access = Access { mode: Mode::from_raw_mode(0o600), group: None };

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("garden.sock");
        (folder, path)
    }

    fn trusted(arrival: Arrival) -> Stream {
        match arrival {
            Arrival::Trusted(stream) => stream,
            Arrival::Unproven(_) => panic!("nobody listens by TLS here"),
        }
    }

    fn listen(path: &Path, access: Access) -> Result<Listener, ListenError> {
        Claim::new(&Address::Unix(path.to_owned()))?.listen(access)
    }

    #[tokio::test]
    async fn a_socket_has_the_mode_and_group_that_were_asked_for_and_goes_with_its_listener() {
        let (_folder, path) = folder();
        let group = rustix::process::getegid().as_raw();
        let access = Access { mode: Mode::from_raw_mode(0o666), group: Some(group) };
        let listener = listen(&path, access).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o666, group));
        assert_eq!(listener.address().to_string(), format!("unix://{}", path.display()));
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_a_dead_server_left_is_replaced_and_one_in_use_refused() {
        let (_folder, path) = folder();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = listen(&path, OWNER).unwrap();
        for _ in 0..2 {
            let refused = listen(&path, OWNER).unwrap_err();
            assert!(matches!(refused, ListenError::InUse(_)), "{refused}");
        }
        let mut listeners = Listeners::from(vec![listener]);
        // The two that only asked.
        for _ in 0..2 {
            let mut asked = trusted(listeners.accept().await.unwrap());
            assert_eq!(asked.read(&mut [0]).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let (folder, path) = folder();
        std::fs::write(&path, "precious").unwrap();
        let refused = listen(&path, OWNER).unwrap_err();
        assert!(refused.to_string().contains("is there and no socket"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(matches!(listen(&path, OWNER), Err(ListenError::NoSocket(_))));
        let missing = listen(&folder.path().join("missing/g.sock"), OWNER).unwrap_err();
        assert!(missing.to_string().starts_with("cannot find the folder of unix:///"), "{missing}");
    }

    #[tokio::test]
    async fn a_socket_that_another_server_made_meanwhile_is_left_to_it() {
        let (_folder, path) = folder();
        let listener = listen(&path, OWNER).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = listen(&path, OWNER).unwrap();
        drop(listener);
        UnixStream::connect(&path).await.unwrap();
        drop(other);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn connections_are_accepted_from_all_listeners() {
        let (_folder, path) = folder();
        let tcp = Claim::new(&"127.0.0.1:0".parse().unwrap()).unwrap().listen(OWNER).unwrap();
        let Address::Tcp(port) = *tcp.address() else { panic!("{:?}", tcp.address()) };
        let mut listeners = Listeners::from(vec![tcp, listen(&path, OWNER).unwrap()]);
        for _ in 0..3 {
            let mut clients: [Stream; 2] =
                [TcpStream::connect(port).await.unwrap().into(), UnixStream::connect(&path).await.unwrap().into()];
            for client in &mut clients {
                client.write_all(b"x").await.unwrap();
            }
            let mut kinds = Vec::new();
            for _ in &clients {
                let mut accepted = trusted(listeners.accept().await.unwrap());
                accepted.read_exact(&mut [0]).await.unwrap();
                kinds.push(matches!(accepted, Stream::Tcp(_)));
            }
            kinds.sort_unstable();
            assert_eq!(kinds, [false, true]);
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_refused() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = Claim::new(&Address::Tcp(taken.local_addr().unwrap())).unwrap_err();
        assert!(refused.to_string().ends_with("stop that one, or choose another --listen"), "{refused}");
    }
}
