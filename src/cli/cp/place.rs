//! The two ends of a copy, as they are written, and paths inside a container.

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Stdin or stdout.
    Stdio,
    /// This machine.
    Here(String),
    /// A container.
    Inside(Inside),
}

/// A place in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) handle: String,
    /// From its root, without a slash at the end.
    pub(super) path: String,
    /// It ends in `/.`: what is in the folder, and not the folder.
    pub(super) contents: bool,
    /// It ends in a slash: a folder is meant.
    pub(super) is_folder: bool,
}

impl End {
    /// A path that begins with / or . is one of this machine, also with a colon in it.
    pub(super) fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stdio;
        }
        match text.split_once(':') {
            Some((handle, path)) if !handle.is_empty() && !text.starts_with(['/', '.']) => {
                Self::Inside(Inside::new(handle, path))
            }
            _ => Self::Here(text.to_owned()),
        }
    }
}

impl Inside {
    fn new(handle: &str, path: &str) -> Self {
        let path_is_contents = path.ends_with("/.") || path == ".";
        let clean = join("/", path);
        Self {
            handle: handle.to_owned(),
            contents: path_is_contents || clean == "/",
            is_folder: path.ends_with('/') || path_is_contents,
            path: clean,
        }
    }
}

/// A path as seen from a folder, without `.`, `..` and slashes too many. As in a path of the kernel's,
/// nothing is above the root; links on the way are not looked at.
pub(super) fn join(folder: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{folder}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The folder that holds a clean path.
pub(super) fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

/// The last name of a clean path.
pub(super) fn base(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, base)| base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(path: &str, contents: bool, is_folder: bool) -> End {
        End::Inside(Inside { handle: "web".to_owned(), path: path.to_owned(), contents, is_folder })
    }

    #[test]
    fn ends_are_told_apart_as_docker_does() {
        for (text, end) in [
            ("-", End::Stdio),
            ("web:/srv", inside("/srv", false, false)),
            ("web:srv", inside("/srv", false, false)),
            ("web:/srv/", inside("/srv", false, true)),
            ("web:/srv/.", inside("/srv", true, true)),
            ("web:/a//b/../c", inside("/a/c", false, false)),
            ("web:/a:b", inside("/a:b", false, false)),
            ("web:/", inside("/", true, true)),
            ("web:", inside("/", true, false)),
            ("./web:/srv", End::Here("./web:/srv".to_owned())),
            ("/web:/srv", End::Here("/web:/srv".to_owned())),
            (":x", End::Here(":x".to_owned())),
            ("dir", End::Here("dir".to_owned())),
        ] {
            assert_eq!(End::parse(text), end, "{text}");
        }
    }

    #[test]
    fn paths_are_joined_below_the_root() {
        for (folder, path, joined) in [
            ("/a", "b", "/a/b"),
            ("/a", "/b", "/b"),
            ("/a", "../../..", "/"),
            ("/", "x/./y/", "/x/y"),
            ("/a/b", "../c", "/a/c"),
        ] {
            assert_eq!(join(folder, path), joined);
        }
        assert_eq!((parent("/a/b"), parent("/a"), base("/a/b"), base("/a")), ("/a", "/", "b", "a"));
    }
}
