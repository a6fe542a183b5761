//! Who is let in at a `tls://` address where Kubernetes says whose tokens are: by tokens of service accounts, with the
//! rights that the chart gives to gardend and the role that it has for clients.

use crate::server::{PATIENCE, Server, eventually};
use crate::world::{World, unique};
use gardend::garden::{Garden, Machine, serve};
use gardend::kube::{Place, Reviewer, connect};
use gardend::net::secure::{self, Credentials, Secure, SecureOptions, Verifier};
use gardend::net::{Access, Address, Claim};
use rustix::fs::Mode;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A status of HTTP and all that was said.
type Said = (u16, String);

/// Garden, served by TLS to whoever has a token, and on loopback.
struct Front {
    by_token: SocketAddr,
    plain: SocketAddr,
    credentials: Credentials,
    _folder: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Front {
    /// Asks the API server at this place.
    fn start(world: &World, place: Place) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(path("cert.pem"), signed.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), signed.signing_key.serialize_pem()).unwrap();
        let credentials = Credentials { authorities: Some(path("cert.pem")), ..Credentials::default() };
        let options = SecureOptions {
            certificate: path("cert.pem"),
            key: path("key.pem"),
            client_authorities: None,
            tokens: None,
        };
        let reviewer: Arc<dyn Verifier> = Arc::new(Reviewer::new(place, "gardend"));
        let garden = Garden::new(world.controller.clone(), Machine::new(folder.path()))
            .with_secure(Secure::new(options, Some(reviewer)).unwrap());
        let access = Access { mode: Mode::from_raw_mode(0o600), group: None };
        let listen = |address: &str| Claim::new(&address.parse().unwrap()).unwrap().listen(access).unwrap();
        let listeners = [listen("tls://127.0.0.1:0"), listen("127.0.0.1:0")];
        let [by_token, plain] = listeners.each_ref().map(|listener| match *listener.address() {
            Address::Tls(address) | Address::Tcp(address) => address,
            Address::Unix(_) => panic!("{listener:?}"),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listeners.into(), garden, async {
            let _ = stopped.await;
        }));
        Self { by_token, plain, credentials, _folder: folder, stop, task }
    }

    async fn ping(&self, token: &str) -> Said {
        let stream = TcpStream::connect(self.by_token).await.unwrap();
        let stream = secure::connect(stream, "127.0.0.1", &self.credentials).await.unwrap();
        said(stream, &format!("Authorization: Bearer {token}\r\n")).await
    }

    async fn ping_on_loopback(&self) -> Said {
        said(TcpStream::connect(self.plain).await.unwrap(), "").await
    }

    /// Waits until a token is answered like this.
    async fn answers(&self, token: &str, status: u16) -> String {
        crate::world::eventually(&format!("the answer is {status}"), async || match self.ping(token).await {
            (found, words) if found == status => Ok(words),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    async fn end(self) {
        let _ = self.stop.send(());
        timeout(PATIENCE, self.task).await.expect("it ends").unwrap();
    }
}

async fn said(mut stream: impl AsyncRead + AsyncWrite + Unpin, header: &str) -> Said {
    let request = format!("GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is answered in time").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer of HTTP: {answer:?}")), answer)
}

/// A service account of this name, and a token of it.
fn account(world: &World, name: &str) -> String {
    world.kubectl(&["create", "serviceaccount", name]);
    token(world, name, &["--audience=gardend"])
}

fn token(world: &World, name: &str, more: &[&str]) -> String {
    world.kubectl(&[&["create", "token", name], more].concat()).trim().to_owned()
}

/// The same with another signature. Not in its last letter, of which some bits mean nothing.
fn altered(token: &str) -> String {
    let (before, after) = token.split_at(token.len() - 100);
    let other = if after.starts_with('A') { 'B' } else { 'A' };
    format!("{before}{other}{}", &after[1..])
}

/// The API server, by a service account.
async fn place_of(world: &World, account: &str) -> Place {
    let token = token(world, account, &[]);
    let mut config: Value = serde_yaml::from_str(&std::fs::read_to_string(world.server.kubeconfig()).unwrap()).unwrap();
    config["users"] = json!([{ "name": "u", "user": { "token": token } }]);
    let file = world.server.path().join(unique("kubeconfig"));
    std::fs::write(&file, config.to_string()).unwrap();
    connect(Some(&file), Some(&world.place.namespace), world.place.node.clone()).await.unwrap()
}

fn apply(world: &World, items: &[Value]) {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let applied = world.server.kubectl_with(&["apply"], &list);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// What the chart gives where tokens are reviewed and nothing is shown.
fn apply_chart(world: &World) {
    let values = ["mirror.enabled=false", "garden.tls.tokenReview.enabled=true"];
    let text = world.server.chart(&world.place.namespace, &["templates/rbac.yaml"], &values);
    let documents = serde_yaml::Deserializer::from_str(&text);
    let items: Vec<Value> =
        documents.map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap()).collect();
    apply(world, &items);
}

/// The role for Garden of one node, and its binding to an account.
fn may_use(world: &World, account: &str, node: &str) {
    let namespace = &world.place.namespace;
    let name = json!({ "name": format!("{account}-{namespace}") });
    let api = "rbac.authorization.k8s.io";
    let (version, subject) =
        (format!("{api}/v1"), json!({ "kind": "ServiceAccount", "name": account, "namespace": namespace }));
    let rule = json!({ "apiGroups": ["gardend.dev"], "resources": ["gardennodes/garden"], "verbs": ["use"], "resourceNames": [node] });
    apply(
        world,
        &[
            json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": name, "rules": [rule] }),
            json!({
                "apiVersion": version,
                "kind": "ClusterRoleBinding",
                "metadata": name,
                "roleRef": { "apiGroup": api, "kind": "ClusterRole", "name": name["name"] },
                "subjects": [subject],
            }),
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_accounts_that_may_use_the_node_let_in_and_no_others_do() {
    let world = World::new().await;
    let namespace = world.place.namespace.clone();
    apply_chart(&world);
    let front = Front::start(&world, place_of(&world, "gardend").await);

    let web = account(&world, "web");
    let said = front.answers(&web, 403).await;
    let who = format!("system:serviceaccount:{namespace}:web may not use this node's Garden");
    assert!(said.contains(&who) && said.contains(&format!("for the name {}", world.node())), "{said}");
    let role = format!("--clusterrole=gardend-client-{namespace}");
    let binding = format!("web-{namespace}");
    let subject = format!("--serviceaccount={namespace}:web");
    world.kubectl(&["create", "clusterrolebinding", &binding, &role, &subject]);
    front.answers(&web, 200).await;

    for (what, other) in [
        ("for the API server", token(&world, "web", &[])),
        ("for another audience", token(&world, "web", &["--audience=other"])),
        ("altered", altered(&web)),
        ("no token of Kubernetes'", "a-token-that-nobody-guesses".to_owned()),
    ] {
        let (status, said) = front.ping(&other).await;
        assert!(status == 401 && said.contains("the audience 'gardend'"), "{what}: {said}");
        assert!(said.to_lowercase().contains("www-authenticate: bearer"), "{what}: {said}");
    }

    // A role may be for one node.
    let one = account(&world, "one");
    may_use(&world, "one", world.node());
    front.answers(&one, 200).await;
    let elsewhere = account(&world, "elsewhere");
    may_use(&world, "elsewhere", "another-node");
    let (status, said) = front.ping(&elsewhere).await;
    assert_eq!(status, 403, "{said}");

    // What was given can be taken back, and who is gone stays out.
    world.kubectl(&["delete", "clusterrolebinding", &binding]);
    front.answers(&web, 403).await;
    world.kubectl(&["delete", "serviceaccount", "one"]);
    let said = front.answers(&one, 401).await;
    assert!(said.contains("its account be gone"), "{said}");
    front.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_with_a_token_cost_one_question_and_none_is_let_in_while_nobody_answers() {
    let server = Arc::new(Server::start());
    let world = World::on(Arc::clone(&server)).await;
    let web = account(&world, "web");
    may_use(&world, "web", world.node());
    let front = Arc::new(Front::start(&world, world.place.clone()));
    let mark = server.audit_mark();
    let pings: Vec<_> = (0..20)
        .map(|_| {
            let (front, web) = (Arc::clone(&front), web.clone());
            tokio::spawn(async move { front.ping(&web).await.0 })
        })
        .collect();
    for ping in pings {
        assert_eq!(ping.await.unwrap(), 200);
    }
    // One more where the twenty took longer than an answer counts.
    let asked = eventually("the audit log tells", || {
        let asked = server.writes_since(mark, "tokenreviews", "");
        if asked.is_empty() { Err("nothing yet".to_owned()) } else { Ok(asked) }
    });
    assert!(asked.len() <= 2, "{asked:?}");

    // While it does not answer, nobody is let in on its old word for long, and other addresses are served as ever.
    server.signal("kube-apiserver", "STOP");
    let said = front.answers(&web, 503).await;
    assert!(said.contains("the API server did not answer within 5 s"), "{said}");
    assert_eq!(front.ping_on_loopback().await.0, 200);
    server.signal("kube-apiserver", "CONT");
    front.answers(&web, 200).await;
    Arc::into_inner(front).expect("no ping is left").end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gardend_that_may_not_ask_lets_nobody_in_and_names_the_right() {
    let world = World::new().await;
    let web = account(&world, "web");
    may_use(&world, "web", world.node());
    world.kubectl(&["create", "serviceaccount", "powerless"]);
    let front = Front::start(&world, place_of(&world, "powerless").await);
    let (status, said) = front.ping(&web).await;
    assert!(status == 503 && said.contains("the verb create on tokenreviews"), "{said}");
    front.end().await;
}
