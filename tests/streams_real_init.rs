//! Processes and their streams by the real garden-init, as pid 1 of a pid namespace of its own.

use gardend::node::place::Folders;
use gardend::node::process::{Options, ProcessNode};
use gardend_controller::ports::{OutputStream, ProcessEvent, Processes, ReaderId, Signal, SpawnError, Streams};
use gardend_controller::record::{ExitStatus, ProcessSpec, ProcessUid, SandboxId, WindowSize};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);

/// The static one that gardend embeds.
const INIT: &str = concat!(env!("OUT_DIR"), "/garden-init");

struct Place {
    sandbox: SandboxId,
    run: tempfile::TempDir,
    unshare: Child,
    init: u32,
}

impl Place {
    fn start() -> Self {
        let run = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let sandbox = SandboxId::generate();
        let folder = Folders::new(run.path().join("state"), run.path()).place(&sandbox);
        std::fs::create_dir_all(&folder).unwrap();
        let init = run.path().join("garden-init");
        std::fs::copy(INIT, &init).unwrap();
        std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755)).unwrap();
        let unshare = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "--",
                "unshare",
                "--pid",
                "--mount-proc",
                "--fork",
                "--kill-child=KILL",
                "--",
            ])
            .arg(&init)
            .arg(&folder)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv and unshare, of util-linux, and the rights of root are needed");
        let mut place = Self { sandbox, run, unshare, init: 0 };
        let children = format!("/proc/{0}/task/{0}/children", place.unshare.id());
        let start = Instant::now();
        while place.init == 0 || !folder.join("init.sock").exists() {
            assert!(start.elapsed() < LONG, "init does not start");
            let child = std::fs::read_to_string(&children).ok().and_then(|text| text.trim().parse().ok());
            place.init = child.unwrap_or(0);
            std::thread::sleep(Duration::from_millis(2));
        }
        place
    }

    async fn node(&self) -> ProcessNode {
        let folders = Folders::new(self.run.path().join("state"), self.run.path());
        let node = ProcessNode::new(folders, Options::default()).unwrap();
        node.connect(&self.sandbox).await.unwrap();
        node
    }

    fn init_fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.init)).unwrap().count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let init = i32::try_from(self.init).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(init) = init {
            let _ = rustix::process::kill_process(init, rustix::process::Signal::KILL);
        }
        let _ = self.unshare.wait();
    }
}

fn shell(script: &str) -> ProcessSpec {
    ProcessSpec {
        path: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        dir: Some("/".into()),
        ..ProcessSpec::default()
    }
}

fn connect(node: &ProcessNode, process: &ProcessUid, reader: ReaderId, stream: OutputStream) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    let server = OwnedFd::from(listener.accept().unwrap().0);
    let (node, process) = (node.clone(), process.clone());
    tokio::spawn(async move { node.read(&process, reader, stream, server).await });
    client
}

fn stdout(node: &ProcessNode, process: &ProcessUid) -> TcpStream {
    let reader = node.attach(process).expect("the process is known");
    connect(node, process, reader, OutputStream::Stdout)
}

async fn to_end(mut client: TcpStream) -> String {
    let read = move || {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    spawn_blocking(read).await.unwrap()
}

/// Reads until the output so far satisfies.
async fn until(client: &TcpStream, satisfies: impl Fn(&str) -> bool + Send + 'static) -> String {
    let mut client = client.try_clone().unwrap();
    let read = move || {
        let mut got = String::new();
        let mut byte = [0];
        while !satisfies(&got) {
            assert_eq!(client.read(&mut byte).unwrap(), 1, "the end came after {got:?}");
            got.push(char::from(byte[0]));
        }
        got
    };
    spawn_blocking(read).await.unwrap()
}

async fn exit_of(events: &mut Receiver<ProcessEvent>, wanted: &ProcessUid) -> ExitStatus {
    loop {
        match timeout(LONG, events.recv()).await.expect("no exit is told").expect("events go on") {
            ProcessEvent::Exited { process, status, .. } if process == *wanted => return status,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_runs_says_what_it_says_and_is_forgotten_without_a_trace() {
    let place = Place::start();
    let node = place.node().await;
    let mut events = node.events();
    let before = place.init_fds();
    let process = ProcessUid::generate();
    // It waits: of one that has ended already the pid is not known any more.
    let spec = shell("cat; echo out $A; echo err >&2; exit 42");
    let pid = node.spawn(&place.sandbox, &process, &["A=1".into()], &spec).await.unwrap();
    assert!(pid > 0);
    node.close_stdin(&process).await;
    let reader = node.attach(&process).unwrap();
    let out = connect(&node, &process, reader, OutputStream::Stdout);
    let err = connect(&node, &process, reader, OutputStream::Stderr);
    assert_eq!(to_end(out).await, "out 1\n");
    assert_eq!(to_end(err).await, "err\n");
    assert_eq!(exit_of(&mut events, &process).await, ExitStatus::Code(42));
    node.acknowledge(&place.sandbox, &process).await.unwrap();
    let start = Instant::now();
    while place.init_fds() > before {
        assert!(start.elapsed() < LONG, "init keeps {} descriptors, {before} before", place.init_fds());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.forget(&process).await;
    assert_eq!(node.attach(&process), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_mebibytes_pass_through_a_process_as_they_are() {
    let place = Place::start();
    let node = place.node().await;
    let process = ProcessUid::generate();
    node.spawn(&place.sandbox, &process, &[], &shell("cat")).await.unwrap();
    let client = stdout(&node, &process);
    let mut random = vec![0; 64 << 20];
    getrandom::fill(&mut random).unwrap();
    let mut copy = client.try_clone().unwrap();
    let got = spawn_blocking(move || {
        let mut got = Vec::new();
        copy.read_to_end(&mut got).unwrap();
        got
    });
    for chunk in random.chunks(64 << 10) {
        node.write_stdin(&process, chunk).await;
    }
    node.close_stdin(&process).await;
    assert!(got.await.unwrap() == random);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_echoes_resizes_and_ends() {
    let place = Place::start();
    let node = place.node().await;
    let mut events = node.events();
    let process = ProcessUid::generate();
    let script = "stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.01; done";
    let spec = ProcessSpec { tty: Some(WindowSize { columns: 99, rows: 11 }), ..shell(script) };
    node.spawn(&place.sandbox, &process, &[], &spec).await.unwrap();
    let reader = node.attach(&process).unwrap();
    let out = connect(&node, &process, reader, OutputStream::Stdout);
    assert_eq!(to_end(connect(&node, &process, reader, OutputStream::Stderr)).await, "");
    assert_eq!(until(&out, |got| got.ends_with("ready\r\n")).await, "11 99\r\nready\r\n");
    node.close_stdin(&process).await;
    node.resize(&process, WindowSize { columns: 33, rows: 22 }).await;
    assert_eq!(to_end(out).await, "22 33\r\n");
    assert_eq!(exit_of(&mut events, &process).await, ExitStatus::Code(5));

    let process = ProcessUid::generate();
    let spec = ProcessSpec { tty: Some(WindowSize::DEFAULT), ..shell("read line; echo got $line") };
    node.spawn(&place.sandbox, &process, &[], &spec).await.unwrap();
    let out = stdout(&node, &process);
    node.write_stdin(&process, b"words\n").await;
    let got = to_end(out).await;
    assert!(got.ends_with("got words\r\n"), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grandchild_holds_neither_the_end_nor_the_exit_back_and_lives_on() {
    let place = Place::start();
    let node = place.node().await;
    let mut events = node.events();
    for tty in [None, Some(WindowSize::DEFAULT)] {
        let process = ProcessUid::generate();
        let mark = place.run.path().join(format!("mark-{}", tty.is_some()));
        let mark = mark.to_str().unwrap();
        let script = format!(
            "(trap '' HUP; sleep 0.5; echo late; echo late; echo alive >{mark}; sleep 60) & sleep 0.2; echo early; exit 3"
        );
        let spec = ProcessSpec { tty, ..shell(&script) };
        node.spawn(&place.sandbox, &process, &[], &spec).await.unwrap();
        let client = stdout(&node, &process);
        let got = to_end(client).await;
        assert!(got.starts_with("early") && !got.contains("late"), "{got:?}");
        assert_eq!(exit_of(&mut events, &process).await, ExitStatus::Code(3));
        node.acknowledge(&place.sandbox, &process).await.unwrap();
        let start = Instant::now();
        while !std::fs::read_to_string(mark).is_ok_and(|text| text == "alive\n") {
            assert!(start.elapsed() < LONG, "the grandchild has died of its output, tty: {}", tty.is_some());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(node.occupied(&place.sandbox).await.unwrap());
        node.signal_all(&place.sandbox, Signal::Kill).await.unwrap();
        while node.occupied(&place.sandbox).await.unwrap() {
            assert!(start.elapsed() < LONG, "something survives KILL");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[test]
fn the_next_gardend_goes_on_where_the_last_one_stopped() {
    let place = Place::start();
    let (talks, ended, terminal) = (ProcessUid::generate(), ProcessUid::generate(), ProcessUid::generate());
    let go = place.run.path().join("go");
    // A runtime each: with it every task and descriptor of one gardend is gone.
    let pid = runtime().block_on(async {
        let node = place.node().await;
        let pid = node.spawn(&place.sandbox, &talks, &[], &shell("cat")).await.unwrap();
        let wait = format!("while ! [ -e {} ]; do sleep 0.01; done; echo while away; exit 9", go.display());
        node.spawn(&place.sandbox, &ended, &[], &shell(&wait)).await.unwrap();
        let spec = ProcessSpec { tty: Some(WindowSize::DEFAULT), ..shell("read line; echo got $line") };
        node.spawn(&place.sandbox, &terminal, &[], &spec).await.unwrap();
        let client = stdout(&node, &talks);
        node.write_stdin(&talks, b"before ").await;
        assert_eq!(until(&client, |got| got.len() == 7).await, "before ");
        pid
    });
    std::fs::write(&go, "").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    runtime().block_on(goes_on(&place, pid, [talks, ended, terminal]));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn goes_on(place: &Place, pid: u32, [talks, ended, terminal]: [ProcessUid; 3]) {
    let node = place.node().await;
    let seen = node.connect(&place.sandbox).await.unwrap();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen.iter().find(|seen| seen.uid == talks).unwrap().pid, pid);
    let away = seen.iter().find(|seen| seen.uid == ended).unwrap();
    assert_eq!((away.pid, away.exit), (0, Some(ExitStatus::Code(9))));
    assert_eq!(to_end(stdout(&node, &ended)).await, "while away\n");
    let client = stdout(&node, &talks);
    node.write_stdin(&talks, b"after").await;
    node.close_stdin(&talks).await;
    assert_eq!(to_end(client).await, "after");
    let client = stdout(&node, &terminal);
    node.write_stdin(&terminal, b"a line\n").await;
    let got = to_end(client).await;
    assert!(got.ends_with("got a line\r\n"), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_to_start_are_told_in_words() {
    let place = Place::start();
    let node = place.node().await;
    let file = |name: &str, text: &str, mode| {
        let path = place.run.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let refused = async |spec: ProcessSpec| {
        let dir = spec.dir.clone().or(Some("/".into()));
        node.spawn(&place.sandbox, &ProcessUid::generate(), &[], &ProcessSpec { dir, ..spec }).await.unwrap_err()
    };
    let path = |path: &str| ProcessSpec { path: path.into(), ..ProcessSpec::default() };
    let error = refused(path("no-such-program")).await;
    assert_eq!(error.to_string(), "exec: \"no-such-program\": executable file not found in $PATH");
    let error = refused(path(&file("locked", "", 0o644))).await;
    assert!(error.to_string().ends_with("permission denied"), "{error}");
    let error = refused(path(&file("nothing", "no program", 0o755))).await;
    assert!(error.to_string().ends_with("exec format error"), "{error}");
    let error = refused(path(&file("orphan", "#!/no/such/interpreter\n", 0o755))).await;
    assert!(error.to_string().contains("missing interpreter"), "{error}");
    let error = refused(ProcessSpec { user: Some("mallory".into()), ..path("true") }).await;
    assert_eq!(error, SpawnError::UnknownUser { user: "mallory".into() });
    let error = refused(ProcessSpec { dir: Some("/dev/null/x".into()), ..path("true") }).await;
    assert!(matches!(error, SpawnError::BadDir { .. }), "{error}");
    let error = refused(ProcessSpec { args: vec!["nul\0byte".into()], ..path("true") }).await;
    assert!(error.to_string().contains("NUL"), "{error}");
    let many = (0..20_000).map(|n| format!("argument {n}")).collect();
    assert_eq!(
        node.spawn(&place.sandbox, &ProcessUid::generate(), &[], &ProcessSpec { args: many, ..shell("exit") })
            .await
            .err(),
        None
    );
    let error = refused(ProcessSpec { args: vec!["x".repeat(5 << 20)], ..path("true") }).await;
    assert!(matches!(error, SpawnError::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_processes_at_once_and_then_one_after_the_other() {
    let place = Place::start();
    let node = place.node().await;
    let mut events = node.events();
    let run = async |node: ProcessNode, number: usize| {
        let process = ProcessUid::generate();
        node.spawn(&place.sandbox, &process, &[], &shell(&format!("echo {number}; exit 1"))).await.unwrap();
        let got = to_end(stdout(&node, &process)).await;
        assert_eq!(got, format!("{number}\n"));
        process
    };
    let start = Instant::now();
    let all = futures_util::future::join_all((0..100).map(|number| run(node.clone(), number))).await;
    println!("100 processes at once in {:?}", start.elapsed());
    let mut exits = 0;
    while exits < all.len() {
        if let Some(ProcessEvent::Exited { status, process, .. }) = timeout(LONG, events.recv()).await.unwrap() {
            assert_eq!(status, ExitStatus::Code(1));
            node.acknowledge(&place.sandbox, &process).await.unwrap();
            exits += 1;
        }
    }
    let spec = ProcessSpec { path: "/bin/true".into(), dir: Some("/".into()), ..ProcessSpec::default() };
    let mut times = Vec::new();
    for _ in 0..200 {
        let process = ProcessUid::generate();
        let start = Instant::now();
        node.spawn(&place.sandbox, &process, &[], &spec).await.unwrap();
        assert_eq!(exit_of(&mut events, &process).await, ExitStatus::Code(0));
        times.push(start.elapsed());
        node.acknowledge(&place.sandbox, &process).await.unwrap();
        node.forget(&process).await;
    }
    times.sort();
    println!("request to exit status of /bin/true: p50 {:?}, p99 {:?}", times[100], times[198]);
}
