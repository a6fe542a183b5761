//! `gardend pull`: an image onto the node, before anything needs it.
//!
//! On a terminal a bar shows how far it is; elsewhere a line tells now and then. The password for its
//! registry comes from a docker configuration file of whoever calls it, and goes to the server with
//! the request, as a create's does.

use super::Context;
use super::client::{PullNews, PullProgress, PullRequest};
use super::flags::Json;
use super::outcome::{Failure, Status};
use super::output::{note, size};
use super::signals::{Ending, Endings};
use crate::docker_config::DockerConfig;
use clap::Args;
use gardend_controller::record::{ImageCredentials, ImageLocation, ImageReference};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// From one line to the next, where there is no bar.
const TELLS: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gardend pull busybox:1.36\n  gardend pull registry.example/team/app@sha256:...\n  \
                        gardend pull oci-layout:///srv/images/app"
)]
pub struct PullArgs {
    /// The image: docker://HOST/NAME[:TAG|@DIGEST], oci-layout:///PATH, or as docker has it: [HOST/]NAME
    #[arg(value_name = "IMAGE", value_parser = parse_reference)]
    image: ImageReference,

    /// A docker configuration file with the registry's password [default: $DOCKER_CONFIG/config.json, or
    /// ~/.docker/config.json, where there is one]
    #[arg(long, value_name = "FILE")]
    registry_config: Option<PathBuf>,

    #[command(flatten)]
    json: Json,
}

/// With the scheme that docker's users leave out. A host has a dot or a port, or is localhost.
fn parse_reference(text: &str) -> Result<ImageReference, String> {
    let whole = match text.split_once('/') {
        _ if ImageReference::has_scheme(text) && text.contains("://") => text.to_owned(),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => format!("docker://{text}"),
        _ => format!("docker:///{text}"),
    };
    whole.parse().map_err(|error: gardend_controller::record::InvalidReference| error.to_string())
}

pub(super) async fn pull(context: &Context, args: PullArgs) -> Result<ExitCode, Failure> {
    let mut endings = Endings::listen().map_err(|error| Failure::Words(format!("cannot take signals: {error}")))?;
    let ImageCredentials { username, password } =
        credentials(&args)?.unwrap_or(ImageCredentials { username: String::new(), password: String::new() });
    let request = PullRequest { uri: args.image.as_str().to_owned(), username, password };
    let mut show = Show::new(&args.image);
    let pulled = async {
        let mut pull = context.client.pull_image(&request).await?;
        loop {
            match pull.next().await? {
                PullNews::Progress(progress) => show.progress(progress),
                PullNews::Pulled(image) => return Ok::<_, Failure>(image),
            }
        }
    };
    let pulled = tokio::select! {
        pulled = pulled => pulled,
        // The server gives the pull up when we are gone, unless others wait for it.
        Ending(signal) = endings.next() => Err(Failure::Told(Status::Signal(signal))),
    };
    show.end();
    let pulled = pulled?;
    if args.json.json {
        context.ui.json(&pulled)?;
        return Ok(ExitCode::SUCCESS);
    }
    context.ui.line(&format!("{} {}", pulled.name, pulled.digest))?;
    note(&match pulled.fetched {
        0 => format!("it was there already, {} unpacked", size(pulled.bytes)),
        fetched => format!("pulled {}, {} unpacked", size(fetched), size(pulled.bytes)),
    });
    Ok(ExitCode::SUCCESS)
}

/// What the image's registry is to be shown.
fn credentials(args: &PullArgs) -> Result<Option<ImageCredentials>, Failure> {
    let ImageLocation::Registry { host, .. } = args.image.location() else { return Ok(None) };
    let read = |path: &Path| DockerConfig::read(path).map(|config| config.of(host).cloned());
    if let Some(path) = &args.registry_config {
        return read(path).map_err(Failure::Words);
    }
    let Some(path) = usual_config(std::env::var_os("DOCKER_CONFIG"), std::env::var_os("HOME")) else { return Ok(None) };
    match path.metadata() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        _ => {}
    }
    // Nobody named it: it may be meant for docker alone.
    Ok(read(&path).unwrap_or_else(|reason| {
        note(&format!("pulling without a password: {reason}"));
        None
    }))
}

fn usual_config(docker: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let set = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set(docker).or_else(|| Some(set(home)?.join(".docker")))?;
    Some(folder.join("config.json"))
}

/// Shows how far it is, on stderr.
enum Show {
    Bar(ProgressBar),
    Lines { last: Instant, told: PullProgress },
}

impl Show {
    fn new(image: &ImageReference) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines { last: Instant::now(), told: PullProgress::default() };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::default_spinner());
        bar.set_message(format!("asking for {image}"));
        bar.tick();
        Self::Bar(bar)
    }

    fn progress(&mut self, progress: Option<PullProgress>) {
        let progress = progress.filter(|progress| progress.total > 0);
        match (self, progress) {
            (Self::Bar(bar), None) => bar.tick(),
            (Self::Bar(bar), Some(PullProgress { bytes, total, layers, unpacked })) => {
                if bar.length().is_none() {
                    bar.set_length(total);
                    // The template is a constant, and sound.
                    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
                        bar.set_style(style.progress_chars("=> "));
                    }
                }
                bar.set_message(format!("{} of {}, {unpacked} of {layers} layers", size(bytes), size(total)));
                bar.set_position(bytes);
                bar.tick();
            }
            (Self::Lines { last, told }, Some(progress)) if *told != progress && last.elapsed() >= TELLS => {
                let PullProgress { bytes, total, layers, unpacked } = progress;
                note(&format!("{} of {}, {unpacked} of {layers} layers unpacked", size(bytes), size(total)));
                (*last, *told) = (Instant::now(), progress);
            }
            (Self::Lines { .. }, _) => {}
        }
    }

    fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_can_be_named_as_docker_has_it() {
        for (text, name) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("team/app:1", "docker.io/team/app:1"),
            ("localhost/app", "localhost/app:latest"),
            ("registry.example:5000/team/app:1", "registry.example:5000/team/app:1"),
            ("docker:///busybox#1", "docker.io/library/busybox:1"),
            ("oci://registry.example/app", "registry.example/app:latest"),
            ("oci-layout:///srv/x", "oci-layout:///srv/x"),
        ] {
            assert_eq!(parse_reference(text).map(|reference| reference.name()), Ok(name.to_owned()), "{text}");
        }
        assert!(parse_reference("Upper").unwrap_err().contains("Upper"));
    }

    #[test]
    fn the_usual_configuration_file_is_dockers() {
        let path = |docker: &str, home: &str| usual_config(Some(docker.into()), Some(home.into()));
        assert_eq!(path("", "/root"), Some("/root/.docker/config.json".into()));
        assert_eq!(path("/etc/docker", "/root"), Some("/etc/docker/config.json".into()));
        assert_eq!(path("", ""), None);
    }
}
