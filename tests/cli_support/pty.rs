//! The real binary on a pseudo-terminal.

use super::{DEADLINE, Said, eventually};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

/// A command on a terminal of its own.
pub struct OnTerminal {
    pub child: Child,
    keyboard: File,
    /// Kept open: a terminal that nobody holds forgets how it was.
    terminal: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
    before: Termios,
}

impl OnTerminal {
    /// Starts a command with the terminal as stdin, stdout and stderr.
    pub fn start(command: Command) -> Self {
        Self::start_with(command, |_| {})
    }

    /// The same, with something changed about its stdio.
    pub fn start_with(mut command: Command, change: impl FnOnce(&mut Command)) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("its other end");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("its other end");
        tcsetwinsize(&terminal, size(100, 30)).expect("a size");
        let before = tcgetattr(&terminal).expect("its settings");
        let end = || terminal.try_clone().expect("a copy");
        command.stdin(end()).stdout(end()).stderr(end());
        change(&mut command);
        super::sys::on_its_stdin_terminal(&mut command);
        let child = command.spawn().expect("the binary starts");
        drop(command);

        let keyboard = File::from(master);
        let mut screen = keyboard.try_clone().expect("a copy");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let screen_shown = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                screen_shown.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Self { child, keyboard, terminal, shown, before }
    }

    /// Types.
    pub fn type_keys(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("keys are taken");
    }

    /// What the terminal has shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until it shows this.
    pub fn wait_to_show(&self, text: &str) {
        let started = std::time::Instant::now();
        while !self.shown().contains(text) {
            assert!(started.elapsed() < DEADLINE, "{text:?} is not shown, but {:?}", self.shown());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Gives the terminal another size; the kernel tells the command.
    pub fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.terminal, size(columns, rows)).expect("a size");
    }

    /// Keys arrive one by one, unseen, and without a meaning.
    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("its settings").local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits until it is.
    pub fn wait_to_be_raw(&self) {
        eventually("the terminal is raw", || self.is_raw().then_some(()));
    }

    /// Waits for the command's end. The terminal must be as it was found.
    pub fn finish(mut self) -> Said {
        let status = eventually("the command ends", || self.child.try_wait().expect("it can be waited for"));
        let after = tcgetattr(&self.terminal).expect("its settings");
        assert_eq!(format!("{after:?}"), format!("{:?}", self.before), "the terminal was not restored");
        // All that was written is in the terminal by now, and the thread is about to read it.
        let marker = "\u{4}end of screen\u{4}";
        File::from(self.terminal.try_clone().expect("a copy")).write_all(marker.as_bytes()).expect("it is written");
        self.wait_to_show(marker);
        use std::os::unix::process::ExitStatusExt;
        let status = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
        Said { status, stdout: self.shown().replace(marker, ""), stderr: String::new() }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // A test that failed leaves nothing running.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
