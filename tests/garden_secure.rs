//! The front end by TLS: who is let in, and that the command line's calls and streams go through.

mod cli_support;
mod garden_support;

use cli_support::{Said, bare, outcome};
use garden_support::{FixedFacts, PATIENCE, controller};
use gardend::garden::{Garden, serve};
use gardend::net::secure::{Secure, SecureOptions};
use gardend::net::{Access, Address, Claim};
use gardend_controller::Options;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::fs::Mode;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const TOKEN: &str = "a-token-that-nobody-guesses";

/// An authority with a folder for what it signs.
struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { folder: tempfile::tempdir().unwrap(), issuer };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// As tools do that renew what a program reads.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("next"), text).unwrap();
        std::fs::rename(self.path("next"), self.path(name)).unwrap();
    }

    /// Signs `NAME.pem` and its `NAME.key` for a host.
    fn sign(&self, name: &str, host: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        self.write(&format!("{name}.key"), &key.serialize_pem());
        self.write(&format!("{name}.pem"), &params.signed_by(&key, &self.issuer).unwrap().pem());
    }
}

struct Server {
    authority: Authority,
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// Lets in who has a certificate, a token, or either.
    async fn start(by_certificate: bool, by_token: bool) -> Self {
        let authority = Authority::new();
        authority.sign("server", "127.0.0.1");
        authority.sign("client", "client.example");
        authority.write("tokens", &format!("web {TOKEN}\n"));
        authority.write("token", &format!("{TOKEN}\n"));
        let options = SecureOptions {
            certificate: authority.path("server.pem"),
            key: authority.path("server.key"),
            client_authorities: by_certificate.then(|| authority.path("ca.pem")),
            tokens: by_token.then(|| authority.path("tokens")),
        };
        let (controller, _node) = controller(Options::default()).await;
        let garden = Garden::new(controller, FixedFacts).with_secure(Secure::new(options, None).unwrap());
        let access = Access { mode: Mode::from_raw_mode(0o600), group: None };
        let listener = Claim::new(&"tls://127.0.0.1:0".parse().unwrap()).unwrap().listen(access).unwrap();
        let Address::Tls(address) = *listener.address() else { panic!("{listener:?}") };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(vec![listener], garden, async {
            let _ = stopped.await;
        }));
        Self { authority, address, stop: Some(stop), task: Some(task) }
    }

    /// The command line, with flags before the command and bytes for its stdin.
    async fn said(&self, flags: &[&str], command: &[&str], stdin: &[u8]) -> Said {
        let target = format!("https://{}", self.address);
        let all = [&["--target", &target], flags, command].concat();
        let mut command = bare(&all);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let stdin = stdin.to_vec();
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            let writer = std::thread::spawn(move || drop(input.write_all(&stdin)));
            let said = outcome(child);
            writer.join().unwrap();
            said
        })
        .await
        .unwrap()
    }

    fn trusting(&self) -> [String; 2] {
        ["--ca-file".to_owned(), self.authority.text("ca.pem")]
    }

    fn certified(&self) -> [String; 6] {
        let [ca, path] = self.trusting();
        let (cert, key) = (self.authority.text("client.pem"), self.authority.text("client.key"));
        [ca, path, "--cert-file".to_owned(), cert, "--key-file".to_owned(), key]
    }

    fn with_token(&self) -> [String; 4] {
        let [ca, path] = self.trusting();
        [ca, path, "--bearer-file".to_owned(), self.authority.text("token")]
    }

    async fn end(mut self) {
        let _ = self.stop.take().unwrap().send(());
        timeout(PATIENCE, self.task.take().unwrap()).await.expect("the server ends").unwrap();
    }
}

fn words(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_a_certificate_is_let_in_with_calls_and_streams() {
    let server = Server::start(true, false).await;
    let flags = server.certified();
    let flags = words(&flags);
    let created = server.said(&flags, &["create", "--handle", "h"], b"").await;
    assert_eq!((created.status, created.stdout.trim()), (0, "h"), "{created:?}");
    // More than the sockets between hold.
    let bytes: Vec<u8> = (0..4 << 20).map(|at: u32| b'a' + (at * 31 % 25) as u8).collect();
    let ran = server.said(&flags, &["run", "-i", "h", "--", "cat"], &bytes).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.as_bytes() == bytes, "{} of {} bytes came back", ran.stdout.len(), bytes.len());
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_none_or_one_of_another_authority_is_not_let_in() {
    let server = Server::start(true, false).await;
    let trusting = server.trusting();
    let none = server.said(&words(&trusting), &["ping"], b"").await;
    assert_eq!(none.status, 1, "{none:?}");
    let other = Authority::new();
    other.sign("client", "client.example");
    let (cert, key) = (other.text("client.pem"), other.text("client.key"));
    let flags = [&words(&trusting), &["--cert-file", &cert, "--key-file", &key][..]].concat();
    let wrong = server.said(&flags, &["ping"], b"").await;
    assert_eq!(wrong.status, 1, "{wrong:?}");
    for said in [none, wrong] {
        assert!(said.stderr.contains("--cert-file"), "{said:?}");
    }
    // Nor with a token, where nobody asked for one.
    let token = server.with_token();
    assert_eq!(server.said(&words(&token), &["ping"], b"").await.status, 1);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_does_not_believe_a_server_that_nobody_vouches_for() {
    let server = Server::start(true, false).await;
    let said = server.said(&[], &["ping"], b"").await;
    assert_eq!(said.status, 1);
    assert!(said.stderr.contains("--ca-file"), "{said:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_wanted_with_every_request_and_can_be_taken_back() {
    let server = Server::start(false, true).await;
    let flags = server.with_token();
    let flags = words(&flags);
    assert_eq!(server.said(&flags, &["create", "--handle", "h"], b"").await.status, 0);
    let ran = server.said(&flags, &["run", "-i", "h", "--", "cat"], b"through").await;
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "through"), "{ran:?}");

    let trusting = server.trusting();
    for command in [&["ping"][..], &["ls"], &["run", "h", "--", "cat"]] {
        let refused = server.said(&words(&trusting), command, b"").await;
        assert_ne!(refused.status, 0, "{command:?}");
        assert!(refused.stderr.contains("wants a token"), "{command:?}: {refused:?}");
    }
    server.authority.write("other", "no-token-that-anybody-knows");
    let other = server.authority.text("other");
    let flags_of_other = [&words(&trusting), &["--bearer-file", &other][..]].concat();
    let refused = server.said(&flags_of_other, &["rm", "h"], b"").await;
    assert!(refused.status == 1 && refused.stderr.contains("not one that lets clients in"), "{refused:?}");

    server.authority.write("tokens", "web another-token-that-nobody-guesses\n");
    let taken_back = server.said(&flags, &["ping"], b"").await;
    assert!(taken_back.status == 1 && taken_back.stderr.contains("not one that lets clients in"), "{taken_back:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_is_enough_where_both_are_taken() {
    let server = Server::start(true, true).await;
    for flags in [server.certified().to_vec(), server.with_token().to_vec()] {
        assert_eq!(server.said(&words(&flags), &["ping"], b"").await.status, 0);
    }
    let trusting = server.trusting();
    let refused = server.said(&words(&trusting), &["ping"], b"").await;
    assert!(refused.status == 1 && refused.stderr.contains("wants a token"), "{refused:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_was_renewed_is_shown_without_a_restart() {
    let server = Server::start(false, true).await;
    let flags = server.with_token();
    assert_eq!(server.said(&words(&flags), &["ping"], b"").await.status, 0);
    server.authority.sign("server", "elsewhere.example");
    let said = server.said(&words(&flags), &["ping"], b"").await;
    assert!(said.status == 1 && said.stderr.contains("not valid for name"), "{said:?}");
    // Half of a pair, as between the two writes of whoever renews it: the last whole one is shown.
    server.authority.write("server.key", "no key");
    let said = server.said(&words(&flags), &["ping"], b"").await;
    assert!(said.status == 1 && said.stderr.contains("not valid for name"), "{said:?}");
    server.authority.sign("server", "127.0.0.1");
    assert_eq!(server.said(&words(&flags), &["ping"], b"").await.status, 0);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_speaks_no_tls_or_nothing_at_all_holds_nobody_up() {
    let server = Server::start(false, true).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // An alert or a reset; never Garden's answer.
    let _ = timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("it is closed");
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"), "{answer:?}");
    let flags = server.with_token();
    assert_eq!(server.said(&words(&flags), &["ping"], b"").await.status, 0);
    assert_eq!(timeout(PATIENCE, silent.read(&mut [0])).await.expect("it is closed").unwrap_or(0), 0);
    server.end().await;
}
