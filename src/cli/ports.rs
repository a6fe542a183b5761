//! `gardend ports`: ports of the node that lead into a container.

use super::Context;
use super::client::wire::{NetIn, PortMapping};
use super::flags::Json;
use super::outcome::Failure;
use clap::Args;
use std::process::ExitCode;

#[derive(Debug, Args)]
#[command(
    override_usage = "gardend ports [OPTIONS] HANDLE\n       gardend ports [OPTIONS] HANDLE PORT\n       \
                      gardend ports [OPTIONS] HANDLE add [HOST_PORT:]PORT...",
    after_help = "A port is open for TCP and UDP alike, until the container goes. Without HOST_PORT the server chooses one.\n\n\
                  Examples:\n  gardend ports web\n  gardend ports web 80            # where on the node is its port 80?\n  \
                  gardend ports web add 8080:80\n  gardend ports web add 80 443"
)]
pub struct PortsArgs {
    /// The container
    handle: String,

    /// A port of the container, to tell which of the node's lead to it; or `add`, and ports to open
    #[arg(value_name = "PORT | add [HOST_PORT:]PORT")]
    words: Vec<String>,

    #[command(flatten)]
    json: Json,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    LeadingTo(u16),
    Open(Vec<NetIn>),
}

pub(super) async fn ports(context: &Context, args: PortsArgs) -> Result<ExitCode, Failure> {
    let handle = args.handle.as_str();
    let wanted = wanted(handle, &args.words).map_err(Failure::Usage)?;
    let (mappings, node) = match wanted {
        Wanted::All => (context.client.info(handle).await?.mapped_ports, None),
        Wanted::LeadingTo(port) => {
            let info = context.client.info(handle).await?;
            let mut mappings = info.mapped_ports;
            mappings.retain(|mapping| mapping.container_port == u32::from(port));
            if mappings.is_empty() {
                let words = format!(
                    "no port of the node leads to port {port} of '{handle}'; `gardend ports {handle} add {port}` opens one"
                );
                return Err(Failure::Words(words));
            }
            (mappings, Some(info.external_ip))
        }
        Wanted::Open(asked) => {
            let mut opened = Vec::new();
            for ports in asked {
                let NetIn { host_port, container_port } = context.client.net_in(handle, ports).await?;
                opened.push(PortMapping { host_port, container_port });
            }
            (opened, None)
        }
    };
    match (args.json.json, node) {
        (true, _) => context.ui.json(&mappings)?,
        (false, None) if args.words.is_empty() => {
            let rows = mappings
                .iter()
                .map(|one| vec![one.host_port.to_string().into(), one.container_port.to_string().into()]);
            context.ui.table(&["HOST PORT", "CONTAINER PORT"], rows.collect())?;
        }
        (false, None) => {
            for one in &mappings {
                context.ui.line(&format!("{}:{}", one.host_port, one.container_port))?;
            }
        }
        (false, Some(node)) => {
            for one in &mappings {
                let address = match node.as_str() {
                    "" => one.host_port.to_string(),
                    v6 if v6.contains(':') => format!("[{v6}]:{}", one.host_port),
                    v4 => format!("{v4}:{}", one.host_port),
                };
                context.ui.line(&address)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(handle: &str, words: &[String]) -> Result<Wanted, String> {
    match words {
        [] => Ok(Wanted::All),
        [add] if add == "add" => Err(format!("which port? say: gardend ports {handle} add [HOST_PORT:]PORT")),
        [add, ports @ ..] if add == "add" => {
            ports.iter().map(|ports| opening(ports)).collect::<Result<_, _>>().map(Wanted::Open)
        }
        [pair] if pair.contains(':') => Err(format!("to open a port say: gardend ports {handle} add {pair}")),
        [port] => container_port(port).map(Wanted::LeadingTo),
        [..] => Err(format!("say: gardend ports {handle} PORT, or: gardend ports {handle} add [HOST_PORT:]PORT...")),
    }
}

/// `8080:80`, or `80`. A port 0 of the node's is one that the server chooses.
fn opening(text: &str) -> Result<NetIn, String> {
    let (host, container) = text.rsplit_once(':').unwrap_or(("0", text));
    if host.contains(':') || host.contains('.') {
        return Err(format!("'{text}' names an address; Garden opens a port on all of the node's"));
    }
    let host_port = if host == "0" { 0 } else { container_port(host)?.into() };
    Ok(NetIn { host_port, container_port: container_port(container)?.into() })
}

fn container_port(text: &str) -> Result<u16, String> {
    if let Some((port, _)) = text.split_once('/') {
        return Err(format!("'{text}': Garden's ports are TCP's and UDP's alike; say {port}"));
    }
    let port = text.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("'{text}' is no port; say a number from 1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Wanted, String> {
        wanted("web", &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    fn opened(host_port: u32, container_port: u32) -> NetIn {
        NetIn { host_port, container_port }
    }

    #[test]
    fn words_are_understood_as_docker_users_write_them() {
        assert_eq!(parsed(&[]), Ok(Wanted::All));
        assert_eq!(parsed(&["80"]), Ok(Wanted::LeadingTo(80)));
        assert_eq!(parsed(&["add", "8080:80"]), Ok(Wanted::Open(vec![opened(8080, 80)])));
        assert_eq!(parsed(&["add", "80", "0:443"]), Ok(Wanted::Open(vec![opened(0, 80), opened(0, 443)])));
    }

    #[test]
    fn what_is_no_port_is_explained() {
        for (words, part) in [
            (&["8080:80"][..], "gardend ports web add 8080:80"),
            (&["add"], "add [HOST_PORT:]PORT"),
            (&["80", "81"], "say: gardend ports web PORT"),
            (&["80/tcp"], "say 80"),
            (&["http"], "'http' is no port"),
            (&["0"], "no port"),
            (&["add", "70000"], "no port"),
            (&["add", "127.0.0.1:80:80"], "names an address"),
            (&["add", "80:"], "no port"),
        ] {
            let error = parsed(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
    }
}
