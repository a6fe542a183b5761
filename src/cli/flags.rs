//! Flags that several commands share, and what their values mean.

use super::client::{BindMount, ContainerSpec, ImageRef, ResourceLimits};
use clap::Args;
use gardend_controller::record::Properties;
use std::collections::BTreeMap;
use std::path::Path;

const READ_ONLY: u8 = 0;
const READ_WRITE: u8 = 1;

/// The limits of getrlimit(2) that Garden names.
const RLIMITS: [&str; 15] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "sigpending",
    "stack",
];

/// JSON instead of a table.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a container is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Container")]
pub(crate) struct ContainerFlags {
    /// Its files: a folder of the server's machine, or a URI [default: the server's default rootfs]
    #[arg(long, alias = "image", value_name = "PATH|URI", value_parser = parse_rootfs)]
    rootfs: Option<String>,

    /// Show a folder or file of the server's machine inside; writable unless it says `ro`
    #[arg(short = 'v', long = "mount", alias = "volume", value_name = "SRC:DST[:ro|rw]", value_parser = parse_mount)]
    mounts: Vec<BindMount>,

    /// No user namespace, all capabilities: root in it is root on the machine
    #[arg(long)]
    privileged: bool,

    /// A property of it
    #[arg(short = 'p', long = "property", value_name = "KEY=VALUE", value_parser = parse_pair)]
    properties: Vec<(String, String)>,

    /// An address or subnet for it
    #[arg(long, value_name = "ADDR[/N]")]
    network: Option<String>,
}

impl ContainerFlags {
    /// A container spec with what the flags say.
    pub(crate) fn into_spec(self) -> ContainerSpec {
        ContainerSpec {
            image: ImageRef { uri: self.rootfs.unwrap_or_default() },
            bind_mounts: self.mounts,
            network: self.network.unwrap_or_default(),
            properties: self.properties.into_iter().collect(),
            privileged: self.privileged,
            ..ContainerSpec::default()
        }
    }
}

/// What a process is given.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Process")]
pub(crate) struct ProcessFlags {
    /// Run as this user [default: root]
    #[arg(short, long, value_name = "NAME|UID[:GID]")]
    pub(crate) user: Option<String>,

    /// Run in this folder; made where missing [default: the user's home]
    #[arg(short = 'w', long, aliases = ["workdir", "cwd"], value_name = "DIR")]
    pub(crate) dir: Option<String>,

    #[command(flatten)]
    pub(crate) env: EnvFlags,
}

/// An environment.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct EnvFlags {
    /// Set a variable; without a value it is taken from here
    #[arg(short, long = "env", value_name = "KEY[=VALUE]", value_parser = parse_env)]
    env: Vec<EnvFlag>,
}

/// One `--env`.
#[derive(Clone, Debug)]
enum EnvFlag {
    Set(String),
    FromHere(String),
}

impl EnvFlags {
    /// As `K=V`. Variables that are not set here are left out.
    pub(crate) fn resolve(&self) -> Vec<String> {
        let value = |flag: &EnvFlag| match flag {
            EnvFlag::Set(pair) => Some(pair.clone()),
            EnvFlag::FromHere(key) => std::env::var(key).ok().map(|value| format!("{key}={value}")),
        };
        self.env.iter().filter_map(value).collect()
    }
}

/// Resource limits.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Process")]
pub(crate) struct RlimitFlags {
    /// Limit a resource, soft and hard alike: nofile=1024, core=0, stack=unlimited
    #[arg(long = "rlimit", alias = "ulimit", value_name = "NAME=N", value_parser = parse_rlimit)]
    rlimits: Vec<(String, u64)>,
}

impl RlimitFlags {
    pub(crate) fn into_limits(self) -> ResourceLimits {
        ResourceLimits(self.rlimits.into_iter().collect::<BTreeMap<_, _>>())
    }
}

/// A filter over properties.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterFlags {
    /// Only containers with this property; several must all hold
    #[arg(short = 'p', long = "property", visible_alias = "filter", value_name = "KEY=VALUE", value_parser = parse_pair)]
    properties: Vec<(String, String)>,
}

impl FilterFlags {
    pub(crate) fn into_filter(self) -> Properties {
        self.properties.into_iter().collect()
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not KEY=VALUE".to_owned()),
    }
}

fn parse_env(text: &str) -> Result<EnvFlag, String> {
    match text.split_once('=') {
        Some(("", _)) => Err("the variable has no name".to_owned()),
        Some(_) => Ok(EnvFlag::Set(text.to_owned())),
        None if text.is_empty() => Err("the variable has no name".to_owned()),
        None => Ok(EnvFlag::FromHere(text.to_owned())),
    }
}

fn parse_rootfs(text: &str) -> Result<String, String> {
    let has_scheme = text.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    });
    match text {
        "" => Err("it is empty; leave it out for the server's default".to_owned()),
        _ if text.starts_with('/') || has_scheme => Ok(text.to_owned()),
        _ if text.starts_with("./") || text.starts_with("../") || text == "." || text == ".." => absolute(text),
        _ => Err(format!(
            "neither a path that begins with / or ./ nor a URI; an image of a registry is docker:///{text}"
        )),
    }
}

fn absolute(text: &str) -> Result<String, String> {
    let path = std::path::absolute(Path::new(text)).map_err(|error| error.to_string())?;
    path.into_os_string().into_string().map_err(|_| "the folder you are in has a name that is no text".to_owned())
}

fn parse_mount(text: &str) -> Result<BindMount, String> {
    if ["type=", "src=", "source="].iter().any(|start| text.starts_with(start)) {
        return parse_docker_mount(text);
    }
    let mut parts = text.split(':');
    let (Some(source), Some(target), mode, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err("not SRC:DST, SRC:DST:ro or SRC:DST:rw".to_owned());
    };
    let mode = match mode {
        None | Some("rw") => READ_WRITE,
        Some("ro") => READ_ONLY,
        Some(other) => return Err(format!("'{other}' is neither ro nor rw")),
    };
    bind_mount(source, target, mode)
}

/// `type=bind,source=SRC,target=DST[,readonly]`, as docker's `--mount` has it.
fn parse_docker_mount(text: &str) -> Result<BindMount, String> {
    let (mut source, mut target, mut mode) = (None, None, READ_WRITE);
    for part in text.split(',') {
        match part.split_once('=').unwrap_or((part, "true")) {
            ("type", "bind") => {}
            ("type", other) => return Err(format!("mounts of type '{other}' are not Garden's; bind is")),
            ("src" | "source", path) => source = Some(path),
            ("dst" | "destination" | "target", path) => target = Some(path),
            ("ro" | "readonly", "true" | "1") => mode = READ_ONLY,
            ("ro" | "readonly", "false" | "0") => mode = READ_WRITE,
            (other, _) => return Err(format!("'{other}' is not understood; say SRC:DST[:ro|rw]")),
        }
    }
    match (source, target) {
        (Some(source), Some(target)) => bind_mount(source, target, mode),
        _ => Err("source and target are both needed".to_owned()),
    }
}

fn bind_mount(source: &str, target: &str, mode: u8) -> Result<BindMount, String> {
    if source.is_empty() || target.is_empty() {
        return Err("source and target are both needed".to_owned());
    }
    if !target.starts_with('/') {
        return Err(format!("'{target}', where it shall be inside, does not begin with /"));
    }
    let src_path = match source {
        _ if source.starts_with('/') => source.to_owned(),
        _ if source.starts_with("./") || source.starts_with("../") || source == "." => absolute(source)?,
        _ => return Err(format!("'{source}' does not begin with / or ./; Garden has no named volumes")),
    };
    Ok(BindMount { src_path, dst_path: target.to_owned(), mode })
}

fn parse_rlimit(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=N, such as nofile=1024")?;
    let name = name.trim().to_ascii_lowercase();
    let name = name.strip_prefix("rlimit_").unwrap_or(&name);
    if !RLIMITS.contains(&name) {
        return Err(format!("'{name}' is not one of {}", RLIMITS.join(", ")));
    }
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    if soft != hard {
        return Err("Garden sets soft and hard limits alike; name one number".to_owned());
    }
    let value = match soft {
        "unlimited" | "infinity" | "-1" => u64::MAX,
        number => number.parse().map_err(|_| format!("'{number}' is neither a number nor unlimited"))?,
    };
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &str, target: &str, mode: u8) -> Result<BindMount, String> {
        Ok(BindMount { src_path: source.to_owned(), dst_path: target.to_owned(), mode })
    }

    #[test]
    fn mounts_are_read_as_docker_users_write_them() {
        assert_eq!(parse_mount("/a:/b"), mount("/a", "/b", READ_WRITE));
        assert_eq!(parse_mount("/a:/b:ro"), mount("/a", "/b", READ_ONLY));
        assert_eq!(parse_mount("type=bind,source=/a,target=/b,readonly"), mount("/a", "/b", READ_ONLY));
        assert_eq!(parse_mount("src=/a,dst=/b"), mount("/a", "/b", READ_WRITE));
        let here = std::env::current_dir().unwrap();
        assert_eq!(parse_mount("./x:/b").unwrap().src_path, here.join("x").to_str().unwrap());
        for (text, words) in [
            ("/a", "not SRC:DST"),
            ("/a:/b:ro:z", "not SRC:DST"),
            ("/a:/b:r", "neither ro nor rw"),
            ("/a:b", "does not begin with /"),
            ("data:/b", "no named volumes"),
            (":/b", "both needed"),
            ("type=tmpfs,target=/b", "type 'tmpfs'"),
            ("type=bind,src=/a", "both needed"),
        ] {
            assert!(parse_mount(text).unwrap_err().contains(words), "{text}");
        }
    }

    #[test]
    fn a_rootfs_is_a_path_or_a_uri_and_a_bare_name_is_explained() {
        for kept in ["/srv/rootfs", "raw:///srv/rootfs", "docker:///busybox#1.36", "oci:///x"] {
            assert_eq!(parse_rootfs(kept).as_deref(), Ok(kept));
        }
        assert!(parse_rootfs("./rootfs").unwrap().starts_with('/'));
        assert!(parse_rootfs("busybox").unwrap_err().ends_with("docker:///busybox"));
        assert!(parse_rootfs("").is_err());
    }

    #[test]
    fn limits_have_garden_names_and_one_number() {
        assert_eq!(parse_rlimit("nofile=1024"), Ok(("nofile".to_owned(), 1024)));
        assert_eq!(parse_rlimit("RLIMIT_CORE=0"), Ok(("core".to_owned(), 0)));
        assert_eq!(parse_rlimit("nproc=5:5"), Ok(("nproc".to_owned(), 5)));
        assert_eq!(parse_rlimit("stack=unlimited"), Ok(("stack".to_owned(), u64::MAX)));
        for wrong in ["nofile", "files=1", "nofile=many", "nofile=1:2", "nofile="] {
            assert!(parse_rlimit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_variable_without_a_value_is_taken_from_here() {
        let flags = |texts: &[&str]| EnvFlags { env: texts.iter().map(|text| parse_env(text).unwrap()).collect() };
        let path = std::env::var("PATH").unwrap();
        assert_eq!(
            flags(&["A=b=c", "PATH", "NOT_SET_ANYWHERE", "E="]).resolve(),
            ["A=b=c".to_owned(), format!("PATH={path}"), "E=".to_owned()]
        );
        assert!(parse_env("=x").is_err() && parse_env("").is_err());
    }
}
