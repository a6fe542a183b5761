//! What people see: tables, JSON, errors. Colours only on a terminal and without NO_COLOR; what
//! servers tell is made harmless before it reaches a terminal.

use super::outcome::Failure;
use serde::Serialize;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

const RESET: &str = "\x1b[0m";

/// A colour, by what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Heading,
    Good,
    Doubtful,
    Bad,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Heading => "\x1b[1m",
            Self::Good => "\x1b[32m",
            Self::Doubtful => "\x1b[33m",
            Self::Bad => "\x1b[1;31m",
        }
    }
}

/// One cell of a table.
#[derive(Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Stdout.
pub(crate) struct Ui {
    colours: bool,
    terminal: bool,
}

impl Ui {
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        Self { colours: terminal && colours_wanted(), terminal }
    }

    /// One line. On a terminal without what could disturb it; else as it is.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        let text = if self.terminal { harmless(text) } else { text.into() };
        self.write(&format!("{text}\n"))
    }

    /// Text of our own, as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        self.write(text)
    }

    /// Something as JSON.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Words(error.to_string()))?;
        self.write(&format!("{text}\n"))
    }

    /// The same on one line, for readers of many.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| Failure::Words(error.to_string()))?;
        self.write(&format!("{text}\n"))
    }

    /// A table that takes the place of the one before, on a terminal; else it follows that.
    pub(crate) fn frame(&self, headings: &[&str], rows: Vec<Vec<Cell>>) -> Result<(), Failure> {
        let headings = headings.iter().map(|text| Cell::toned(*text, Tone::Heading)).collect();
        let page = layout(std::iter::once(headings).chain(rows).collect(), self.colours);
        if self.terminal {
            // From the corner on, each line and the page cleared behind its end: nothing flickers.
            self.write(&format!("\x1b[H{}\x1b[J", page.replace('\n', "\x1b[K\n")))
        } else {
            self.write(&format!("{page}\n"))
        }
    }

    /// Rows below headings.
    pub(crate) fn table(&self, headings: &[&str], rows: Vec<Vec<Cell>>) -> Result<(), Failure> {
        let headings = headings.iter().map(|text| Cell::toned(*text, Tone::Heading)).collect();
        self.write(&layout(std::iter::once(headings).chain(rows).collect(), self.colours))
    }

    /// Rows without headings.
    pub(crate) fn rows(&self, rows: Vec<Vec<Cell>>) -> Result<(), Failure> {
        self.write(&layout(rows, self.colours))
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| Failure::writing(&error))
    }
}

/// Columns as wide as their widest cell, two spaces apart, nothing at the ends of lines.
fn layout(rows: Vec<Vec<Cell>>, colours: bool) -> String {
    let rows: Vec<Vec<(String, Tone)>> = rows
        .into_iter()
        .map(|row| row.into_iter().map(|cell| (harmless(&cell.text).into_owned(), cell.tone)).collect())
        .collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut page = String::new();
    for row in &rows {
        let mut gap = 0;
        for ((text, tone), width) in row.iter().zip(&widths) {
            if !text.is_empty() {
                page.extend(std::iter::repeat_n(' ', gap));
                gap = 0;
                paint(&mut page, text, *tone, colours);
            }
            gap += width - text.chars().count() + 2;
        }
        page.push('\n');
    }
    page
}

fn paint(page: &mut String, text: &str, tone: Tone, colours: bool) {
    if colours && tone != Tone::Plain {
        // Writing to a String does not fail.
        let _ = write!(page, "{}{text}{RESET}", tone.code());
    } else {
        page.push_str(text);
    }
}

/// A number of bytes for people, with three digits that count.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let (mut number, mut unit) = (bytes as f64 / 1024.0, 0);
    while number >= 999.5 && unit + 1 < UNITS.len() {
        (number, unit) = (number / 1024.0, unit + 1);
    }
    let digits = if number < 9.995 { 2 } else { usize::from(number < 99.95) };
    format!("{number:.digits$}{}", UNITS[unit])
}

/// Without control characters, which could rewrite what is on a terminal.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
            .collect::<String>()
            .into()
    } else {
        text.into()
    }
}

pub(crate) fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Tells an error on stderr.
pub fn report_error(words: &str) {
    tell("error:", Tone::Bad, words);
}

/// Tells on stderr what is no error.
pub(crate) fn note(words: &str) {
    tell("gardend:", Tone::Heading, words);
}

fn tell(label: &str, tone: Tone, words: &str) {
    let mut line = String::new();
    paint(&mut line, label, tone, io::stderr().is_terminal() && colours_wanted());
    for part in words.trim_end().split('\n') {
        line.push(' ');
        line.push_str(&harmless(part));
        // In raw mode a line feed alone does not go back to the margin.
        line.push_str(if super::terminal::is_raw() { "\r\n" } else { "\n" });
    }
    // Nobody is left to tell when stderr cannot be written.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(texts: &[&str]) -> Vec<Cell> {
        texts.iter().map(|text| Cell::from(*text)).collect()
    }

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let rows = vec![cells(&["HANDLE", "STATE", "PATH"]), cells(&["a", "active", ""]), cells(&["ünï", "", "/p"])];
        assert_eq!(layout(rows, false), "HANDLE  STATE   PATH\na       active\nünï             /p\n");
    }

    #[test]
    fn colours_are_around_the_text_and_not_around_the_padding() {
        let rows = vec![vec![Cell::toned("ok", Tone::Good), "x".into()], cells(&["long", "y"])];
        assert_eq!(layout(rows, true), "\x1b[32mok\x1b[0m    x\nlong  y\n");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00KiB"),
            (64 << 20, "64.0MiB"),
            (1_023_488, "0.98MiB"),
            (1_500_000_000, "1.40GiB"),
            (u64::MAX, "16.0EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn what_a_server_says_cannot_drive_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert!(matches!(harmless("plain ünï"), Cow::Borrowed(_)));
    }
}
