//! A managed containerd's log: a file that outlives us, shown through our own log.
//!
//! A pipe would break, and containerd with it, when gardend ends. The file is emptied when it has
//! grown past [`MAX`]: containerd appends, and so goes on at its beginning. A line that is written
//! in just that instant is lost.

use super::super::watch::Watch;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// The file's size is held at about this.
const MAX: u64 = 8 * 1024 * 1024;
/// What is read at a time, and the longest line that is kept whole.
const CHUNK: usize = 64 * 1024;

/// The log file's end, from where on it is shown.
pub(super) struct Tail {
    path: PathBuf,
    file: File,
    watch: Watch,
    rest: Vec<u8>,
}

/// Opens the log for containerd to write to.
pub(super) fn writer(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// The file's last lines, for an error that has to explain a containerd that did not start.
pub(super) fn last_lines(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut bytes = Vec::new();
        file.take(4096).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().rev().take(3).map(|line| Entry::parse(line).text).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

impl Tail {
    /// From the file's end on.
    pub fn new(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { path: path.to_owned(), file, watch: Watch::content(path)?, rest: Vec::new() })
    }

    /// Shows line after line, for ever.
    pub async fn run(mut self) {
        loop {
            let step = match self.show_new() {
                Ok(()) => self.watch.changed().await,
                Err(error) => Err(error),
            };
            if let Err(error) = step {
                tracing::warn!(%error, log = %self.path.display(), "containerd's log is not shown any more");
                return;
            }
        }
    }

    fn show_new(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let bytes = self.file.read(&mut chunk)?;
            if bytes == 0 {
                break;
            }
            self.rest.extend_from_slice(&chunk[..bytes]);
            while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<_> = self.rest.drain(..=end).collect();
                Entry::parse(String::from_utf8_lossy(&line).trim_end()).show();
            }
            if self.rest.len() > CHUNK {
                Entry::parse(&String::from_utf8_lossy(&self.rest)).show();
                self.rest.clear();
            }
        }
        if self.file.stream_position()? > MAX {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
        }
        Ok(())
    }
}

/// One line of it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    level: tracing::Level,
    text: String,
}

impl Entry {
    /// containerd's JSON; its text, as long as it has not read its configuration, and the shims'; or
    /// whatever else it said (a panic).
    fn parse(line: &str) -> Self {
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else {
            let is_text = line.starts_with("time=");
            let field = is_text.then(|| line.split_ascii_whitespace().find_map(|word| word.strip_prefix("level=")));
            return Self { level: level(field.flatten().unwrap_or_default()), text: line.to_owned() };
        };
        let text = |name| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let level = level(text("level"));
        let further = fields.iter().filter(|(name, _)| !matches!(name.as_str(), "level" | "time" | "msg"));
        let further = further.map(|(name, value)| match value {
            Value::String(value) => format!(" {name}={value:?}"),
            value => format!(" {name}={value}"),
        });
        Self { level, text: format!("{}{}", text("msg"), further.collect::<String>()) }
    }

    fn show(&self) {
        let text = &self.text;
        match self.level {
            tracing::Level::TRACE => tracing::trace!(target: "containerd", "{text}"),
            tracing::Level::DEBUG => tracing::debug!(target: "containerd", "{text}"),
            tracing::Level::INFO => tracing::info!(target: "containerd", "{text}"),
            tracing::Level::ERROR => tracing::error!(target: "containerd", "{text}"),
            _ => tracing::warn!(target: "containerd", "{text}"),
        }
    }
}

/// Ours by logrus's name. What has none is worth a look.
fn level(name: &str) -> tracing::Level {
    match name {
        "trace" => tracing::Level::TRACE,
        "debug" => tracing::Level::DEBUG,
        "info" => tracing::Level::INFO,
        "error" | "fatal" | "panic" => tracing::Level::ERROR,
        _ => tracing::Level::WARN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_line_keeps_its_level_and_its_fields() {
        let entry = Entry::parse(r#"{"error":"no such file","level":"error","msg":"failed to load","time":"now"}"#);
        assert_eq!(entry, Entry { level: tracing::Level::ERROR, text: "failed to load error=\"no such file\"".into() });
        let entry = Entry::parse(r#"time="now" level=info msg="loading plugin""#);
        assert_eq!((entry.level, entry.text.contains("loading plugin")), (tracing::Level::INFO, true));
        let entry = Entry::parse("panic: oh");
        assert_eq!((entry.level, entry.text.as_str()), (tracing::Level::WARN, "panic: oh"));
    }

    #[tokio::test]
    async fn a_log_that_has_grown_is_emptied_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = writer(&path).unwrap();
        let mut tail = Tail::new(&path).unwrap();
        for _ in 0..=MAX / 1024 {
            writer.write_all(&[b'x'; 1023]).unwrap();
            writer.write_all(b"\n").unwrap();
        }
        tail.show_new().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        writer.write_all(b"{\"level\":\"info\",\"msg\":\"after\"}\n").unwrap();
        tail.show_new().unwrap();
        assert_eq!(last_lines(&path), "after");
        assert!(tail.rest.is_empty());
    }
}
