//! The terminal: drawn on, read from, lent to other commands, and given back as it was.
//!
//! Reading keys blocks, so all of this has a thread of its own. While another command has the
//! terminal nothing is read from it here. Signals and samples are looked for between two keys.

use super::super::client::Target;
use super::super::outcome::{Failure, Status};
use super::super::output::colours_wanted;
use super::super::session::local_failure;
use super::super::signals::{Ending, Endings};
use super::super::terminal::Raw;
use super::model::{Model, Sample};
use super::update::Act;
use super::view::{Palette, draw};
use super::watch::Watch;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{self, Stdout, Write};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a key is waited for before signals and samples are looked for.
const TICK: Duration = Duration::from_millis(50);
/// What a shell's own Ctrl-C, or that of `logs`, exits with.
const INTERRUPTED: i32 = 130;

/// Shows the model until somebody leaves.
pub(super) async fn run(
    watch: Watch,
    model: Model,
    target: &Target,
    mut endings: Endings,
) -> Result<ExitCode, Failure> {
    let (to, samples) = mpsc::channel();
    let soon = Arc::new(Notify::new());
    let watching = tokio::spawn(watch.run(to, Arc::clone(&soon)));
    let (told, signals) = mpsc::channel();
    let listening = tokio::spawn(async move {
        loop {
            if told.send(endings.next().await).is_err() {
                return;
            }
        }
    });
    let target = target.to_string();
    let shown =
        tokio::task::spawn_blocking(move || Shown { model, samples, signals, soon, target, ending: None }.run());
    let ended = shown.await;
    watching.abort();
    listening.abort();
    match ended {
        Ok(ended) => ended,
        // It has told so itself, on a terminal that was restored.
        Err(_) => Err(Failure::Told(Status::Failed)),
    }
}

/// The whole terminal, until it is dropped.
struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    _raw: Raw,
}

/// The alternate screen is shown.
static ALTERNATE: AtomicBool = AtomicBool::new(false);

impl Screen {
    fn enter() -> io::Result<Self> {
        leave_in_a_panic();
        let raw = Raw::enter()?;
        ALTERNATE.store(true, Ordering::Relaxed);
        let entered = execute!(io::stdout(), EnterAlternateScreen, Clear(ClearType::All));
        let terminal = entered.and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match terminal {
            Ok(terminal) => Ok(Self { terminal, _raw: raw }),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn leave() {
    if ALTERNATE.swap(false, Ordering::Relaxed) {
        // A terminal that is gone needs none of it.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    }
}

/// The message of a panic is shown on the terminal's own screen.
fn leave_in_a_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            next(info);
        }));
    });
}

struct Shown {
    model: Model,
    samples: Receiver<Result<Sample, String>>,
    signals: Receiver<Ending>,
    soon: Arc<Notify>,
    target: String,
    /// Came while another command had the terminal.
    ending: Option<Ending>,
}

impl Shown {
    fn run(mut self) -> Result<ExitCode, Failure> {
        let palette = if colours_wanted() { Palette::Colours } else { Palette::Plain };
        let mut screen = Screen::enter().map_err(|error| local_failure(&error))?;
        let mut changed = true;
        loop {
            while let Ok(told) = self.samples.try_recv() {
                self.model.heard(told);
                changed = true;
            }
            if let Some(ending) = self.ending.take().or_else(|| self.signals.try_recv().ok()) {
                drop(screen);
                return Err(Failure::Told(Status::Signal(ending.0)));
            }
            if changed {
                let drawn = screen.terminal.draw(|frame| draw(frame, &mut self.model, palette));
                drawn.map_err(|error| local_failure(&error))?;
            }
            let act = match next_event() {
                Ok(None) => {
                    changed = false;
                    continue;
                }
                Ok(Some(Event::Key(key))) => self.model.press(key),
                // Another size: drawn anew.
                Ok(Some(_)) => None,
                Err(error) => return Err(local_failure(&error)),
            };
            changed = true;
            match act {
                None => {}
                Some(Act::Quit) => return Ok(ExitCode::SUCCESS),
                Some(Act::Refresh) => self.soon.notify_one(),
                Some(Act::Shell(handle)) => {
                    screen = self.lend(screen, &["shell", "--", &handle], Afterwards::ComeBack)?
                }
                Some(Act::Output(handle, process)) => {
                    screen =
                        self.lend(screen, &["logs", "--follow", "--", &handle, &process], Afterwards::WaitForAKey)?;
                }
            }
        }
    }

    /// Another of this program's commands has the terminal until it ends.
    fn lend(&mut self, screen: Screen, args: &[&str], afterwards: Afterwards) -> Result<Screen, Failure> {
        drop(screen);
        let status = self.run_beside(args);
        let interrupted = |status: &ExitStatus| status.code() == Some(INTERRUPTED);
        let mut pause = afterwards == Afterwards::WaitForAKey && self.ending.is_none();
        match status {
            Ok(status) if interrupted(&status) => pause = false,
            // What it told is still to be read.
            Ok(status) => pause |= matches!(status.code(), Some(125..=127)) && self.ending.is_none(),
            Err(error) => self.model.notice = Some(format!("cannot start '{}': {error}", args.join(" "))),
        }
        if pause {
            print!("[any key goes back]");
            // It is only to be read.
            let _ = io::stdout().flush();
            let raw = Raw::enter().map_err(|error| local_failure(&error))?;
            while self.ending.is_none() && !matches!(next_event(), Ok(Some(Event::Key(_))) | Err(_)) {
                self.ending = self.signals.try_recv().ok();
            }
            drop(raw);
            println!();
        }
        self.soon.notify_one();
        Screen::enter().map_err(|error| local_failure(&error))
    }

    fn run_beside(&mut self, args: &[&str]) -> io::Result<ExitStatus> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(["--target", &self.target]).args(args).spawn()?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            // A key's signals reach the child by themselves; others are for both.
            if let Ok(ending) = self.signals.recv_timeout(TICK)
                && !matches!(ending.0, libc::SIGINT | libc::SIGQUIT)
            {
                self.ending = Some(ending);
                if let Some(signal) = Signal::from_named_raw(ending.0) {
                    // It may have ended just now.
                    let _ = kill_process(Pid::from_child(&child), signal);
                }
            }
        }
    }
}

/// What is done once the other command has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    ComeBack,
    /// What it showed is still to be read.
    WaitForAKey,
}

fn next_event() -> io::Result<Option<Event>> {
    if event::poll(TICK)? { event::read().map(Some) } else { Ok(None) }
}
