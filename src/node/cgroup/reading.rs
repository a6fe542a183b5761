//! Reading a group's files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// A number, or none at all ("max").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// So many.
    Number(u64),
    /// Without a limit.
    Max,
}

impl Figure {
    /// As Garden has it: 0 is no limit.
    pub fn or_zero(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Max => 0,
        }
    }
}

/// A file of one number.
pub(super) fn figure(folder: &Path, file: &str) -> io::Result<Figure> {
    let (text, wrong) = text(folder, file)?;
    match text.trim() {
        "max" => Ok(Figure::Max),
        number => number.parse().map(Figure::Number).map_err(|_| wrong()),
    }
}

/// A file of one number, which is never "max".
pub(super) fn number(folder: &Path, file: &str) -> io::Result<u64> {
    figure(folder, file).map(Figure::or_zero)
}

/// A file of lines "name number". Lines of another form are passed over.
pub(super) fn table(folder: &Path, file: &str) -> io::Result<BTreeMap<String, u64>> {
    let (text, _) = text(folder, file)?;
    let row = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(row).collect())
}

/// One number of such a file; 0 where it is not there.
pub(super) fn row(folder: &Path, file: &str, name: &str) -> io::Result<u64> {
    let (text, _) = text(folder, file)?;
    let number = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    Ok(text.lines().find_map(number).unwrap_or(0))
}

fn text(folder: &Path, file: &str) -> io::Result<(String, impl Fn() -> io::Error)> {
    let path = folder.join(file);
    let text = fs::read_to_string(&path);
    // With the kernel's number, which tells what has gone from what cannot be read.
    let text = text.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => error,
        _ if error.raw_os_error() == Some(libc::ENODEV) => error,
        kind => io::Error::new(kind, format!("reading {}: {error}", path.display())),
    })?;
    let shown: String = text.chars().take(64).collect();
    Ok((text, move || io::Error::other(format!("{} says {shown:?}, which is not understood", path.display()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_tables_and_no_limit_are_told_apart_from_nonsense() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("a", "12\n");
        put("b", "max\n");
        put("c", "x y\n");
        put("d", "one 1\nmany x\nother two\nlast 18446744073709551615\none_more 2\n");
        assert_eq!(figure(folder.path(), "a").unwrap(), Figure::Number(12));
        assert_eq!(figure(folder.path(), "b").unwrap(), Figure::Max);
        assert!(number(folder.path(), "c").unwrap_err().to_string().contains("\"x y\\n\""));
        let expected = [("one", 1), ("last", u64::MAX), ("one_more", 2)].map(|(name, n)| (name.to_owned(), n));
        assert_eq!(table(folder.path(), "d").unwrap(), BTreeMap::from(expected));
        assert_eq!((row(folder.path(), "d", "one").unwrap(), row(folder.path(), "d", "none").unwrap()), (1, 0));
        assert_eq!(figure(folder.path(), "e").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
