//! `gardend cp`: files into and out of containers, with docker cp's rules for what lands where.
//!
//! Garden moves tar streams and knows no "what is there": it is found out by asking for the
//! destination's own stream and reading its first header.

mod pack;
mod place;
mod unpack;

use super::Context;
use super::client::{Client, GardenErrorKind, TarStream, io_reason};
use super::local::Stdin;
use super::outcome::Failure;
use bytes::Bytes;
use clap::Args;
use pack::Packing;
use place::{End, Inside};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tokio::sync::mpsc;
use unpack::{First, Unpacking};

/// Links followed before a path is taken for a circle, as the kernel has it.
const MAX_LINKS: usize = 40;
/// Pieces of a stream that wait on this side.
const AHEAD: usize = 4;

#[derive(Debug, Args)]
#[command(
    override_usage = "gardend cp [OPTIONS] SRC HANDLE:DEST\n       gardend cp [OPTIONS] HANDLE:SRC DEST",
    after_help = "A folder goes into a destination that is there, and becomes one that is not; SRC/. stands for what is in \
                  it. A file goes into a folder, takes a file's place, or becomes DEST, unless that ends in /. With `-` a tar \
                  stream comes from stdin or goes to stdout. Paths in a container begin at its /. A local path with a colon is \
                  written ./a:b.\n\n\
                  Examples:\n  gardend cp ./dir web:/srv/\n  gardend cp ./dir/. web:/srv\n  gardend cp web:/etc/hosts -\n  \
                  gardend cp web:/var/log ./logs\n  tar c src | gardend cp --user app - web:/home/app"
)]
pub struct CpArgs {
    /// What to copy: a path here, HANDLE:PATH, or `-` for a tar stream from stdin
    #[arg(value_name = "SRC")]
    source: String,

    /// Where to: HANDLE:PATH, a path here, or `-` for a tar stream to stdout
    #[arg(value_name = "DEST", allow_hyphen_values = true)]
    destination: String,

    /// As whom to read or write in the container [default: root]
    #[arg(short, long, value_name = "NAME|UID[:GID]")]
    user: Option<String>,

    /// Keep owners and all permission bits; else files are root's there, and yours here
    #[arg(short, long)]
    archive: bool,

    /// Follow SRC where it is a symbolic link
    #[arg(short = 'L', long)]
    follow_link: bool,
}

pub(super) async fn cp(context: &Context, args: CpArgs) -> Result<ExitCode, Failure> {
    let ends = (End::parse(&args.source), End::parse(&args.destination));
    let copy = Copy { client: &context.client, user: args.user.as_deref().unwrap_or_default(), args: &args };
    match ends {
        (End::Inside(source), End::Stdio) => copy.pack_to_stdout(source).await?,
        (End::Inside(source), End::Here(destination)) => {
            copy.outwards(source, Unpacking::new(&destination, args.archive)).await?
        }
        (End::Stdio, End::Inside(destination)) => copy.unpack_stdin(destination).await?,
        (End::Here(source), End::Inside(destination)) => copy.inwards(&source, destination).await?,
        (End::Inside(_), End::Inside(_)) => {
            let words = "both are in containers: copy through here, as in `gardend cp A:/x - | gardend cp - B:/`";
            return Err(Failure::Usage(words.to_owned()));
        }
        _ => {
            let words = "neither is in a container: one of SRC and DEST is HANDLE:PATH, as in web:/srv";
            return Err(Failure::Usage(words.to_owned()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is at a place in a container.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Nothing,
    File,
    Folder,
}

struct Copy<'a> {
    client: &'a Client,
    user: &'a str,
    args: &'a CpArgs,
}

impl Copy<'_> {
    /// Files of this machine into a container.
    async fn inwards(&self, source: &str, inside: Inside) -> Result<(), Failure> {
        let mut packing = Packing::of(source, self.args.follow_link, self.args.archive)?;
        let handle = inside.handle.as_str();
        let (there, path) = self.look(handle, &inside.path).await?;
        let folder = match (there, packing.is_folder()) {
            (There::Folder, _) => path,
            (There::File, true) => {
                return Err(Failure::Words(format!(
                    "'{}' in '{handle}' is a file, and a folder cannot take its place",
                    inside.path
                )));
            }
            (There::File, false) if inside.is_folder => {
                return Err(Failure::Words(format!("'{}' in '{handle}' is a file, and no folder", inside.path)));
            }
            (There::Nothing, false) if inside.is_folder => {
                return Err(Failure::Words(format!(
                    "there is no folder '{}' in '{handle}'; make it first",
                    inside.path
                )));
            }
            (There::Nothing, true) => {
                self.parent_of(handle, &path).await?;
                packing.take_contents();
                path
            }
            (There::Nothing | There::File, false) => {
                let parent = self.parent_of(handle, &path).await?;
                packing.name(place::base(&path));
                parent
            }
        };
        let pieces = packing.start()?;
        Ok(self.client.stream_in(handle, self.user, &folder, pieces).await?)
    }

    /// A tar stream of stdin into a folder of a container.
    async fn unpack_stdin(&self, inside: Inside) -> Result<(), Failure> {
        if io::stdin().is_terminal() {
            return Err(Failure::Usage("a tar stream is read from stdin, which is a terminal".to_owned()));
        }
        let (there, path) = self.look(&inside.handle, &inside.path).await?;
        if there != There::Folder {
            let words = format!("there is no folder '{}' in '{}' to unpack a stream in", inside.path, inside.handle);
            return Err(Failure::Words(words));
        }
        let mut stdin = Stdin::open().map_err(|error| Failure::Words(format!("cannot read stdin: {error}")))?;
        let (sender, pieces) = mpsc::channel(AHEAD);
        let reading = async {
            while let Some(piece) = stdin.next().await {
                if sender.send(Ok(Bytes::from(piece))).await.is_err() {
                    break;
                }
            }
            drop(sender);
        };
        // The reading is not needed any more once the server has answered.
        let unpacked = self.client.stream_in(&inside.handle, self.user, &path, pieces);
        let (mut unpacked, mut reading) = (std::pin::pin!(unpacked), std::pin::pin!(reading));
        tokio::select! {
            done = &mut unpacked => done?,
            () = &mut reading => unpacked.await?,
        }
        Ok(())
    }

    /// A tar stream of a container's files on stdout.
    async fn pack_to_stdout(&self, inside: Inside) -> Result<(), Failure> {
        if io::stdout().is_terminal() {
            return Err(Failure::Usage("a tar stream is not for a terminal; send stdout elsewhere".to_owned()));
        }
        let mut stream = self.open(inside).await?;
        while let Some(piece) = stream.next().await? {
            io::stdout().lock().write_all(&piece).map_err(|error| Failure::writing(&error))?;
        }
        Ok(())
    }

    /// A container's files onto this machine.
    async fn outwards(&self, inside: Inside, unpacking: Unpacking) -> Result<(), Failure> {
        let (contents, name) = (inside.contents, inside.path.clone());
        let stream = self.open(inside).await?;
        let unpacked = unpack(stream, move |pieces| unpacking.run(pieces, contents)).await;
        unpacked?.map_err(|error| Failure::Words(format!("cannot copy '{name}': {}", causes(&error))))
    }

    async fn open(&self, inside: Inside) -> Result<TarStream, Failure> {
        let Inside { handle, mut path, contents, .. } = inside;
        if self.args.follow_link {
            path = self.look(&handle, &path).await?.1;
        }
        // Garden's own sign for a folder's contents.
        let source = if contents { format!("{}/", path.trim_end_matches('/')) } else { path };
        Ok(self.client.stream_out(&handle, self.user, &source).await?)
    }

    /// What is at a path of a container, and its path with links followed.
    async fn look(&self, handle: &str, path: &str) -> Result<(There, String), Failure> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            if path == "/" {
                return Ok((There::Folder, path));
            }
            let stream = match self.client.stream_out(handle, "", &path).await {
                Ok(stream) => stream,
                Err(error) => {
                    // Garden has no type for it, only the system's words.
                    let is_missing = error.kind() == Some(GardenErrorKind::Other)
                        && error.to_string().to_lowercase().contains("no such file");
                    return if is_missing { Ok((There::Nothing, path)) } else { Err(error.into()) };
                }
            };
            let first = unpack(stream, unpack::first).await?;
            match first.map_err(|error| Failure::Words(format!("cannot look at '{path}': {error}")))? {
                First::Folder => return Ok((There::Folder, path)),
                First::Other => return Ok((There::File, path)),
                First::Link(target) => path = place::join(place::parent(&path), &target),
            }
        }
        Err(Failure::Words(format!("'{path}' in '{handle}' is a link that leads in a circle")))
    }

    /// The folder above a path that is not there yet.
    async fn parent_of(&self, handle: &str, path: &str) -> Result<String, Failure> {
        let parent = place::parent(path);
        match self.look(handle, parent).await? {
            (There::Folder, parent) => Ok(parent),
            _ => Err(Failure::Words(format!("there is no folder '{parent}' in '{handle}'; make it first"))),
        }
    }
}

/// An error with what is behind it: the library's own words name a file and no reason.
fn causes(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(std::error::Error::source);
    let mut words = if error.get_ref().is_some() { error.to_string() } else { io_reason(error) };
    let mut next = inner;
    while let Some(cause) = next {
        let text = cause.to_string();
        let reason = text.split(" (os error ").next().unwrap_or(&text);
        if !words.contains(reason) {
            words.push_str(": ");
            words.push_str(reason);
        }
        next = cause.source();
    }
    words
}

/// Hands a stream to something that reads it on a thread; answers what that made of it. What it does
/// not read is not fetched.
async fn unpack<T: Send + 'static>(
    mut stream: TarStream,
    read: impl FnOnce(unpack::Pieces) -> io::Result<T> + Send + 'static,
) -> Result<io::Result<T>, Failure> {
    let (sender, pieces) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || read(unpack::Pieces::new(pieces)));
    loop {
        let piece = stream.next().await;
        // A stream that is cut is told by its own error, and not by what its reader makes of that.
        let piece = match piece {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => {
                let cut = io::Error::other(error.to_string());
                let _ = sender.send(Err(cut)).await;
                drop(sender);
                return match reading.await {
                    // It had read all that it wanted.
                    Ok(Ok(done)) => Ok(Ok(done)),
                    _ => Err(error.into()),
                };
            }
        };
        if sender.send(Ok(piece)).await.is_err() {
            break;
        }
    }
    drop(sender);
    reading.await.map_err(|error| Failure::Words(format!("the stream's reader failed: {error}")))
}
