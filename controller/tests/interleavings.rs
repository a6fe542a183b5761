//! Whatever is asked, whatever fails, whenever gardend dies: in the end the node holds what the
//! ledger holds, and both hold what clients were told.

mod common;

use common::{Machine, handles, named, request, sleep};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::NodeErrorKind;
use gardend_controller::record::{ContainerSpec, CreateRequest, PortIn, PortInAsked, RuleOut, RuleProtocol, StopMode};
use gardend_controller::{AddressSource, Controller, Error, NetworkOptions, Options};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LIMIT: usize = 4;
/// As many as there are in the range of [`network`].
const PORTS: usize = 3;

/// As many subnets as there may be containers, so that one that is lost is missed.
fn network() -> NetworkOptions {
    let addresses = AddressSource::Pools { v4: "10.80.0.0/28".parse().unwrap(), v6: None };
    NetworkOptions { addresses, ports: 61001..=61003, ..NetworkOptions::default() }
}

fn asked(host_port: u16) -> PortInAsked {
    PortInAsked { host_port: NonZeroU16::new(host_port), container_port: NonZeroU16::new(80) }
}

#[derive(Clone, Debug)]
enum Act {
    Create { handle: u8, privileged: bool, network: Option<&'static str>, ports: Vec<u16>, patient: bool },
    Destroy { handle: u8, patient: bool },
    Stop { handle: u8, mode: StopMode },
    Run { handle: u8, program: &'static str, patient: bool },
    Port { handle: u8, host_port: u16, patient: bool },
    Rule { handle: u8, port: u16, patient: bool },
    Flush,
    Listen { port: u16, listens: bool },
    Fail { call: Call, fault: Fault, times: usize },
    KillInit { which: u8 },
    Away(bool),
    LoseEvents(bool),
    Unkillable(bool),
    Full(bool),
    Stray,
    Pass(u64),
}

fn any_fault() -> impl Strategy<Value = Fault> {
    use NodeErrorKind::*;
    let kind = prop::sample::select(vec![Invalid, Unavailable, NotFound, Stuck, Failed]);
    (kind, any::<bool>()).prop_map(|(kind, before)| if before { Fault::Before(kind) } else { Fault::After(kind) })
}

fn any_act() -> impl Strategy<Value = Act> {
    let handle = || 0..6u8;
    let mode = prop::sample::select(vec![StopMode::Terminate, StopMode::Kill]);
    let program = prop::sample::select(vec!["true", "sleep", "stubborn", "cat", "nope"]);
    let port = || prop::sample::select(vec![0, 61001, 61002, 8080]);
    let network =
        prop::option::of(prop::sample::select(vec!["10.1.2.0/29", "10.1.2.2/29", "10.1.2.6/29", "10.1.2.0/30"]));
    let calls: Vec<_> = Call::ALL.into_iter().collect();
    prop_oneof![
        6 => (handle(), any::<bool>(), network, prop::collection::vec(port(), 0..2), any::<bool>()).prop_map(
            |(handle, privileged, network, ports, patient)| {
                Act::Create { handle, privileged, network, ports, patient }
            }),
        2 => (handle(), port(), any::<bool>())
            .prop_map(|(handle, host_port, patient)| Act::Port { handle, host_port, patient }),
        2 => (handle(), 1..5_u16, any::<bool>()).prop_map(|(handle, port, patient)| Act::Rule { handle, port, patient }),
        1 => Just(Act::Flush),
        1 => (61001..61004_u16, any::<bool>()).prop_map(|(port, listens)| Act::Listen { port, listens }),
        3 => (handle(), any::<bool>()).prop_map(|(handle, patient)| Act::Destroy { handle, patient }),
        1 => (handle(), mode).prop_map(|(handle, mode)| Act::Stop { handle, mode }),
        4 => (handle(), program, any::<bool>())
            .prop_map(|(handle, program, patient)| Act::Run { handle, program, patient }),
        4 => (prop::sample::select(calls), any_fault(), 1..4usize)
            .prop_map(|(call, fault, times)| Act::Fail { call, fault, times }),
        1 => any::<u8>().prop_map(|which| Act::KillInit { which }),
        1 => any::<bool>().prop_map(Act::Away),
        1 => any::<bool>().prop_map(Act::LoseEvents),
        1 => any::<bool>().prop_map(Act::Unkillable),
        1 => any::<bool>().prop_map(Act::Full),
        1 => Just(Act::Stray),
        6 => (0..4000u64).prop_map(Act::Pass),
    ]
}

/// What clients were told, and what they cannot know.
#[derive(Debug, Default)]
struct Told {
    /// Made, and not asked to go since.
    there: BTreeSet<String>,
    /// Asked to go without an answer that it has; or asked for when gardend died.
    unsure: BTreeSet<String>,
    /// Creates and destroys that are not answered yet, by handle.
    creating: BTreeMap<String, usize>,
    destroying: BTreeMap<String, usize>,
    /// Something that must not be was seen.
    wrong: Vec<String>,
}

impl Told {
    fn begin(requests: &mut BTreeMap<String, usize>, handle: &str) {
        *requests.entry(handle.to_owned()).or_default() += 1;
    }

    fn end(requests: &mut BTreeMap<String, usize>, handle: &str) {
        if let Some(running) = requests.get_mut(handle) {
            *running -= 1;
        }
        requests.retain(|_, running| *running > 0);
    }

    /// Whoever waited for gardend just then does not know.
    fn crash(&mut self) {
        let waiting = self.creating.keys().chain(self.destroying.keys()).cloned().collect::<Vec<_>>();
        self.unsure.extend(waiting);
        self.creating.clear();
        self.destroying.clear();
    }
}

type Shared = Arc<Mutex<Told>>;

/// Does one thing; what has a client of its own goes on by itself, and its client may leave early.
fn act(machine: &Machine, garden: &Controller, told: &Shared, act: Act, number: usize) {
    let (garden, told) = (garden.clone(), Arc::clone(told));
    match act {
        Act::Create { handle, privileged, network, ports, patient } => {
            let network = network.map(str::to_owned);
            let spec = ContainerSpec { privileged, network, ..ContainerSpec::default() };
            let handle = format!("c{handle}");
            let ports_in = ports.into_iter().map(asked).collect();
            let request = CreateRequest { spec, ports_in, ..request(&handle) };
            Told::begin(&mut told.lock().unwrap().creating, &handle);
            client(async move {
                let answer = patience(patient, garden.create(request)).await;
                let mut told = told.lock().unwrap();
                Told::end(&mut told.creating, &handle);
                match answer {
                    Some(Ok(_)) if told.destroying.contains_key(&handle) => drop(told.unsure.insert(handle)),
                    Some(Ok(_)) => {
                        told.unsure.remove(&handle);
                        if !told.there.insert(handle.clone()) {
                            told.wrong.push(format!("{handle} was made twice"));
                        }
                    }
                    // Refused, undone, or given up by its client: gone.
                    _ => {}
                }
            });
        }
        Act::Destroy { handle, patient } => {
            let handle = format!("c{handle}");
            {
                let mut told = told.lock().unwrap();
                Told::begin(&mut told.destroying, &handle);
                if told.there.remove(&handle) {
                    told.unsure.insert(handle.clone());
                }
            }
            client(async move {
                let answer = patience(patient, garden.destroy(&handle)).await;
                let mut told = told.lock().unwrap();
                Told::end(&mut told.destroying, &handle);
                let gone = matches!(answer, Some(Ok(()) | Err(Error::ContainerNotFound(_))));
                if gone && told.creating.is_empty() && told.destroying.is_empty() {
                    told.unsure.remove(&handle);
                    if garden.info(&handle).is_ok() {
                        told.wrong.push(format!("{handle} was destroyed and is there"));
                    }
                }
            });
        }
        Act::Stop { handle, mode } => client(async move {
            let _ = garden.stop(&format!("c{handle}"), mode).await;
        }),
        Act::Run { handle, program, patient } => {
            let (handle, id) = (format!("c{handle}"), format!("p{number}"));
            client(async move {
                if let Some(Ok(process)) = patience(patient, garden.run(&handle, named(&id, program))).await {
                    process.outcome().await;
                }
            });
        }
        Act::Port { handle, host_port, patient } => client(async move {
            let handle = format!("c{handle}");
            let before = garden.info(&handle);
            let added = patience(patient, garden.add_port(&handle, asked(host_port))).await;
            let (Some(Ok(port)), Ok(before), Ok(after)) = (added, before, garden.info(&handle)) else { return };
            // Another container may have got the handle meanwhile.
            if before.addresses == after.addresses && before.path == after.path && !after.ports_in.contains(&port) {
                told.lock().unwrap().wrong.push(format!("{handle} was given {port:?} and does not have it"));
            }
        }),
        Act::Rule { handle, port, patient } => client(async move {
            let rule = RuleOut { protocol: RuleProtocol::Udp, ports: vec![(port, port)], ..RuleOut::default() };
            let _ = patience(patient, garden.add_rules(&format!("c{handle}"), vec![rule])).await;
        }),
        Act::Flush => machine.fake.flush_rules(),
        Act::Listen { port, listens } => machine.fake.listen(port, listens),
        Act::Fail { call, fault, times } => machine.fake.fail(call, fault, times),
        Act::KillInit { which } => {
            let places = machine.fake.places();
            if !places.is_empty() {
                machine.fake.kill_init(&places[usize::from(which) % places.len()]);
            }
        }
        Act::Away(away) => machine.fake.containerd_away(away),
        Act::LoseEvents(lose) => machine.fake.lose_events(lose),
        Act::Unkillable(unkillable) => machine.fake.unkillable(unkillable),
        Act::Full(full) => machine.ledger.pretend_full(full),
        Act::Stray => {
            machine.fake.add_stray_place();
            machine.fake.add_stray_layers();
        }
        Act::Pass(_) => {}
    }
}

fn client(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

/// Some clients leave early.
async fn patience<T>(patient: bool, request: impl Future<Output = T>) -> Option<T> {
    let patience = if patient { Duration::from_secs(100_000) } else { Duration::from_millis(700) };
    tokio::time::timeout(patience, request).await.ok()
}

fn heal(machine: &Machine) {
    machine.fake.heal();
    machine.fake.containerd_away(false);
    machine.fake.lose_events(false);
    machine.fake.unkillable(false);
    machine.ledger.pretend_full(false);
    network().ports.for_each(|port| machine.fake.listen(port, false));
}

fn check(lives: Vec<Vec<Act>>, delay: u64, pool_size: usize) {
    let machine =
        Machine::with(Options { max_containers: LIMIT, pool_size, network: Some(network()), ..Options::default() });
    for call in Call::ALL {
        machine.fake.delay(call, Duration::from_millis(delay));
    }
    let told = Shared::default();
    for (life, acts) in lives.into_iter().enumerate() {
        machine.life(async |garden| {
            for (number, next) in acts.into_iter().enumerate() {
                if let Act::Pass(ms) = next {
                    sleep(ms as f64 / 1000.0).await;
                }
                act(&machine, &garden, &told, next, life * 1000 + number);
                tokio::task::yield_now().await;
                assert!(handles(&garden).len() <= LIMIT);
            }
        });
        told.lock().unwrap().crash();
    }
    heal(&machine);
    machine.life(async |garden| {
        sleep(300.0).await;
        let there: BTreeSet<String> = handles(&garden).into_iter().collect();
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(told.wrong, Vec::<String>::new());
        for handle in &there {
            let expected = told.there.contains(handle) || told.unsure.contains(handle);
            assert!(expected, "{handle} is there though its create was never answered: {told:?}");
        }
        for handle in &told.there {
            assert!(there.contains(handle), "{handle} was answered and is not there: {told:?}");
            garden.run(handle, named("after", "true")).await.expect("what is there can be used");
            garden.attach(handle, "after").await.unwrap().outcome().await;
        }
        machine.assert_converged().await;
        let contents = machine.ledger.load().await.unwrap();
        assert_eq!(contents.containers.len(), there.len(), "rows of containers that nobody can name");
        let rows: BTreeSet<_> = contents.processes.iter().map(|row| row.uid.clone()).collect();
        for running in machine.fake.running() {
            assert!(rows.contains(&running), "{running} runs without a record");
        }
        // Never refused below the limit: it can be filled up.
        for n in there.len()..LIMIT {
            garden.create(request(&format!("fill{n}"))).await.expect("there is room");
        }
        assert!(matches!(garden.create(request("over")).await, Err(Error::LimitReached { .. })));
        machine.assert_converged().await;
        for handle in handles(&garden) {
            garden.destroy(&handle).await.unwrap();
        }
        sleep(60.0).await;
        machine.assert_converged().await;
        let contents = machine.ledger.load().await.unwrap();
        assert!(contents.containers.is_empty() && contents.processes.is_empty());
        assert_eq!(machine.fake.layers(), []);
        assert_eq!(machine.fake.running(), []);
        // No address and no port was lost.
        for n in 0..LIMIT {
            garden.create(request(&format!("last{n}"))).await.expect("there is a subnet");
        }
        let mut ports = BTreeSet::new();
        for n in 0..PORTS {
            let PortIn { host_port, .. } =
                garden.add_port(&format!("last{n}"), asked(0)).await.expect("there is a port");
            ports.insert(host_port);
        }
        assert_eq!(ports.len(), PORTS);
        garden.add_port("last0", asked(8080)).await.expect("nobody has it");
        machine.assert_converged().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn every_interleaving_converges(
        lives in prop::collection::vec(prop::collection::vec(any_act(), 0..25), 1..5),
        delay in 0..300u64,
        pool_size in 0..3usize,
    ) {
        check(lives, delay, pool_size);
    }
}

/// As PROPTEST_CASES says, for a long run.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(200)
}
