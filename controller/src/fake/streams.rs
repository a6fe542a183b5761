//! What flows in and out of the fake node's processes. Real sockets, so that front ends can be
//! tried on it.

use super::ports::Life;
use super::programs;
use super::world::Reader;
use crate::ports::{OutputStream, ReaderId, Streams};
use crate::record::{ProcessUid, WindowSize};
use async_trait::async_trait;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How often a socket is looked at that takes no more, or may be closed.
const LOOK: Duration = Duration::from_millis(5);
/// Bytes moved at once.
const CHUNK: usize = 64 * 1024;

/// What a reader can do next.
enum Next {
    Bytes(Vec<u8>),
    Nothing,
    End,
}

impl Life {
    fn next(&self, process: &ProcessUid, reader: ReaderId, stream: usize) -> Next {
        let world = self.world();
        let at = world.readers.get(&reader).filter(|reader| reader.process == *process).map(|reader| reader.at[stream]);
        let (Some(at), Some(process)) = (at, world.processes.get(process)) else { return Next::End };
        let pipe = &process.outputs[stream];
        match &pipe.bytes[at.min(pipe.bytes.len())..] {
            [] if pipe.ended => Next::End,
            [] => Next::Nothing,
            bytes => Next::Bytes(bytes[..bytes.len().min(CHUNK)].to_vec()),
        }
    }

    fn taken(&self, process: &ProcessUid, reader: ReaderId, stream: usize, bytes: usize) {
        let mut world = self.world();
        let Some(reader) = world.readers.get_mut(&reader) else { return };
        reader.at[stream] += bytes;
        let at = reader.at[stream];
        if let Some(process) = world.processes.get_mut(process) {
            let pipe = &mut process.outputs[stream];
            pipe.taken = pipe.taken.max(at);
        }
    }
}

#[async_trait]
impl Streams for Life {
    fn attach(&self, process: &ProcessUid) -> Option<ReaderId> {
        let mut world = self.world();
        let found = world.processes.get_mut(process)?;
        let (alone, outputs) = (found.readers == 0, &found.outputs);
        let at = [0, 1].map(|stream| if alone { outputs[stream].taken } else { outputs[stream].bytes.len() });
        found.readers += 1;
        world.next_id += 1;
        let id = ReaderId(world.next_id);
        world.readers.insert(id, Reader { process: process.clone(), at });
        Some(id)
    }

    fn detach(&self, process: &ProcessUid, reader: ReaderId) {
        let mut world = self.world();
        if world.readers.get(&reader).is_some_and(|found| found.process == *process) {
            world.readers.remove(&reader);
            if let Some(process) = world.processes.get_mut(process) {
                process.readers -= 1;
            }
            world.changed.send_replace(());
        }
    }

    async fn read(&self, process: &ProcessUid, reader: ReaderId, stream: OutputStream, socket: OwnedFd) {
        // Sending and closing are the same for every kind of stream socket.
        let socket = TcpStream::from(socket);
        let stream = usize::from(stream == OutputStream::Stderr);
        let mut changed = self.world().changed.subscribe();
        while !self.is_over() {
            match self.next(process, reader, stream) {
                Next::End => break,
                Next::Nothing => {
                    if matches!(socket.peek(&mut [0]), Ok(0)) {
                        break;
                    }
                    // A change or a while, whichever is first.
                    let _ = tokio::time::timeout(LOOK, changed.changed()).await;
                }
                Next::Bytes(bytes) => match (&socket).write(&bytes) {
                    Ok(written) => self.taken(process, reader, stream, written),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => tokio::time::sleep(LOOK).await,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                },
            }
        }
        // The peer may have closed it already.
        let _ = socket.shutdown(Shutdown::Write);
    }

    async fn write_stdin(&self, process: &ProcessUid, data: &[u8]) {
        self.world().act(process, |process| {
            programs::written(process, data);
            None
        });
    }

    async fn close_stdin(&self, process: &ProcessUid) {
        self.world().act(process, programs::stdin_ended);
    }

    async fn resize(&self, process: &ProcessUid, size: WindowSize) {
        self.world().act(process, |process| {
            programs::resized(process, size.columns, size.rows);
            None
        });
    }

    async fn forget(&self, process: &ProcessUid) {
        let mut world = self.world();
        let ended = world.processes.get(process).is_some_and(|process| process.exit.is_some());
        if ended {
            world.processes.remove(process);
        }
    }

    async fn retain(&self, processes: &[ProcessUid]) {
        let mut world = self.world();
        world.processes.retain(|uid, process| processes.contains(uid) || !process.acknowledged);
    }
}
