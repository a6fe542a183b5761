//! Addresses, ports in and rules out, on the fake node.

mod common;

use common::{Machine, command, request, sleep};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::{NetworkWanted, NodeErrorKind};
use gardend_controller::record::{
    ContainerSpec, CreateRequest, Desired, Limits, PortIn, PortInAsked, RuleOut, RuleProtocol,
};
use gardend_controller::{AddressSource, Controller, Error, MAX_PORTS_IN, MAX_RULES_OUT, NetworkOptions, Options};
use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::time::Duration;

fn machine() -> Machine {
    machine_of(NetworkOptions::default())
}

fn pools_of(v4: &str, v6: Option<&str>) -> AddressSource {
    AddressSource::Pools { v4: v4.parse().unwrap(), v6: v6.map(|v6| v6.parse().unwrap()) }
}

fn machine_of(network: NetworkOptions) -> Machine {
    Machine::with(Options { pool_size: 0, network: Some(network), ..Options::default() })
}

fn port(host: u16, container: u16) -> PortInAsked {
    PortInAsked { host_port: NonZeroU16::new(host), container_port: NonZeroU16::new(container) }
}

fn rule(port: u16) -> RuleOut {
    RuleOut { protocol: RuleProtocol::Tcp, ports: vec![(port, port)], ..RuleOut::default() }
}

fn at(handle: &str, network: &str) -> CreateRequest {
    let spec = ContainerSpec { network: Some(network.into()), ..ContainerSpec::default() };
    CreateRequest { spec, ..request(handle) }
}

fn network_of(machine: &Machine, handle: &str) -> NetworkWanted {
    let networks = machine.fake.networks();
    networks.into_iter().find(|network| network.handle.as_str() == handle).expect("it has a network")
}

fn address(controller: &Controller, handle: &str) -> String {
    controller.info(handle).unwrap().addresses.expect("it has addresses").address.to_string()
}

#[test]
fn a_container_has_its_network_before_its_create_is_answered() {
    let options = NetworkOptions {
        addresses: pools_of("10.80.0.0/16", Some("fd00::/64")),
        external: Some("192.0.2.1".parse().unwrap()),
        ..NetworkOptions::default()
    };
    let machine = machine_of(options);
    machine.life(async |controller| {
        let limits = Limits { bandwidth_rate: 1000, bandwidth_burst: 2000, ..Limits::default() };
        let request = CreateRequest {
            spec: ContainerSpec { limits, ..ContainerSpec::default() },
            ports_in: vec![port(0, 80), port(8080, 0)],
            rules_out: vec![rule(53)],
            ..request("c")
        };
        controller.create(request).await.unwrap();
        let network = network_of(&machine, "c");
        let ports = [PortIn { host_port: 61001, container_port: 80 }, PortIn { host_port: 8080, container_port: 8080 }];
        assert_eq!((&network.ports_in[..], &network.rules_out[..]), (&ports[..], &[rule(53)][..]));
        assert_eq!((network.bandwidth_rate, network.bandwidth_burst), (1000, 2000));
        let info = controller.info("c").unwrap();
        assert_eq!((info.addresses.as_ref(), &info.ports_in[..]), (Some(&network.addresses), &ports[..]));
        assert_eq!(info.external, Some("192.0.2.1".parse().unwrap()));
        let addresses = network.addresses;
        assert_eq!(
            (addresses.address.to_string(), addresses.gateway.to_string()),
            ("10.80.0.2".into(), "10.80.0.1".into())
        );
        assert_eq!(addresses.ipv6.unwrap().to_string(), "fd00::2");
        controller.run("c", command("true")).await.unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn limits_of_bandwidth_are_read_back_from_the_node() {
    let machine = machine();
    machine.life(async |controller| {
        let limits = Limits { bandwidth_rate: 1000, bandwidth_burst: 2000, ..Limits::default() };
        let spec = ContainerSpec { limits, ..ContainerSpec::default() };
        controller.create(CreateRequest { spec, ..request("c") }).await.unwrap();
        let seen = controller.limits("c").await.unwrap();
        assert_eq!((seen.bandwidth_rate, seen.bandwidth_burst, machine.fake.calls(Call::Bandwidth)), (1000, 2000, 1));
    });
}

#[test]
fn without_networks_nothing_is_asked_of_the_node_and_who_needs_one_is_told() {
    let machine = Machine::new();
    machine.life(async |controller| {
        controller.create(CreateRequest { rules_out: vec![rule(1)], ..request("c") }).await.unwrap();
        controller.add_rules("c", vec![rule(2)]).await.unwrap();
        let refused = [
            controller.create(at("d", "10.1.2.0/24")).await.map(drop),
            controller.create(CreateRequest { ports_in: vec![port(0, 0)], ..request("d") }).await.map(drop),
            controller.add_port("c", port(0, 80)).await.map(drop),
        ];
        for refused in refused {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Address(_)) && error.to_string().contains("--network"), "{error}");
        }
        let info = controller.info("c").unwrap();
        assert_eq!((info.addresses, info.external, info.ports_in), (None, None, Vec::new()));
        controller.destroy("c").await.unwrap();
        let calls =
            [Call::EnsureNetwork, Call::ReleaseNetwork, Call::RestoreNetwork, Call::CheckRules, Call::CheckPort];
        assert_eq!(calls.map(|call| machine.fake.calls(call)), [0; 5]);
    });
}

#[test]
fn what_was_asked_for_is_kept_as_text_beside_what_was_given() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(at("one", "10.1.2.0/24")).await.unwrap();
        controller.create(at("two", "10.1.2.9/24")).await.unwrap();
        assert_eq!((address(&controller, "one"), address(&controller, "two")), ("10.1.2.2".into(), "10.1.2.9".into()));
        let records = machine.ledger.load().await.unwrap().containers;
        let asked: BTreeSet<_> = records.iter().map(|record| record.spec.network.clone().unwrap()).collect();
        assert_eq!(asked, ["10.1.2.0/24".to_owned(), "10.1.2.9/24".to_owned()].into());
        let error = controller.create(at("three", "10.1.2.9/24")).await.unwrap_err().to_string();
        assert!(error.contains("10.1.2.9 of 10.1.2.0/24 is already in use by container 'two'"), "{error}");
        let error = controller.create(at("three", "10.80.1.0/24")).await.unwrap_err().to_string();
        assert!(error.contains("overlaps 10.80.0.0/16, the pool"), "{error}");
        assert!(controller.create(at("three", "nowhere")).await.is_err());
        assert!(controller.info("three").is_err(), "nothing is left of it");
        machine.assert_converged().await;
    });
}

#[test]
fn many_creates_at_once_get_each_an_address_and_a_port_of_their_own() {
    let machine = machine();
    machine.life(async |controller| {
        let creates: Vec<_> = (0..50)
            .map(|n| {
                let (controller, ports_in) = (controller.clone(), vec![port(0, 80)]);
                let request = CreateRequest { ports_in, ..request(&format!("c{n}")) };
                tokio::spawn(async move { controller.create(request).await })
            })
            .collect();
        for create in creates {
            create.await.unwrap().unwrap();
        }
        let networks = machine.fake.networks();
        let addresses: BTreeSet<_> = networks.iter().map(|network| network.addresses.address).collect();
        let ports: BTreeSet<_> = networks.iter().flat_map(|network| network.ports_in.clone()).collect();
        assert_eq!((addresses.len(), ports.len()), (50, 50));
        machine.assert_converged().await;
    });
}

#[test]
fn a_create_that_fails_at_whatever_step_gives_everything_back() {
    let options =
        NetworkOptions { addresses: pools_of("10.80.0.0/30", None), ports: 61001..=61001, ..NetworkOptions::default() };
    for (call, kind) in [
        (Call::CheckPort, NodeErrorKind::Unavailable),
        (Call::CheckRules, NodeErrorKind::Invalid),
        (Call::Check, NodeErrorKind::Invalid),
        (Call::Furnish, NodeErrorKind::Invalid),
        (Call::EnsureNetwork, NodeErrorKind::Invalid),
        (Call::EnsureNetwork, NodeErrorKind::Failed),
        (Call::Connect, NodeErrorKind::Failed),
    ] {
        let machine = machine_of(options.clone());
        machine.life(async |controller| {
            let request = || CreateRequest { ports_in: vec![port(0, 80)], rules_out: vec![rule(1)], ..request("c") };
            for fault in [Fault::Before(kind), Fault::After(kind)] {
                machine.fake.fail(call, fault, 3);
                let error = controller.create(request()).await.unwrap_err();
                if call == Call::EnsureNetwork {
                    assert!(error.to_string().contains("making its network failed"), "{error}");
                }
                machine.fake.heal();
                controller.create(request()).await.unwrap_or_else(|error| panic!("after {call:?} {fault:?}: {error}"));
                machine.assert_converged().await;
                controller.destroy("c").await.unwrap();
                assert_eq!(machine.fake.networks(), [], "{call:?}");
            }
        });
    }
}

#[test]
fn a_client_that_leaves_its_create_leaves_no_address_and_no_port_behind() {
    let options =
        NetworkOptions { addresses: pools_of("10.80.0.0/30", None), ports: 61001..=61001, ..NetworkOptions::default() };
    for call in [Call::CheckPort, Call::Furnish, Call::EnsureNetwork, Call::Connect] {
        let machine = machine_of(options.clone());
        machine.life(async |controller| {
            let request = |handle| CreateRequest { ports_in: vec![port(0, 80)], ..request(handle) };
            machine.fake.delay(call, Duration::from_secs(2));
            let left = tokio::time::timeout(Duration::from_secs(1), controller.create(request("left"))).await;
            assert!(left.is_err(), "{call:?}");
            machine.fake.delay(call, Duration::ZERO);
            sleep(10.0).await;
            controller.create(request("next")).await.unwrap_or_else(|error| panic!("after {call:?}: {error}"));
            machine.assert_converged().await;
        });
    }
}

#[test]
fn a_container_whose_place_dies_has_the_same_network_in_the_next() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(CreateRequest { ports_in: vec![port(0, 80)], ..request("c") }).await.unwrap();
        let before = network_of(&machine, "c");
        machine.fake.kill_init(&before.sandbox);
        sleep(5.0).await;
        let after = network_of(&machine, "c");
        assert_ne!(after.sandbox, before.sandbox);
        assert_eq!(NetworkWanted { sandbox: before.sandbox.clone(), ..after }, before);
        assert_eq!(machine.fake.calls(Call::ReleaseNetwork), 0);
        machine.assert_converged().await;
    });
}

#[test]
fn nothing_leads_to_a_container_any_more_when_its_destroy_is_answered() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(CreateRequest { ports_in: vec![port(8080, 80)], ..at("c", "10.1.2.3/24") }).await.unwrap();
        machine.fake.fail(Call::ReleaseNetwork, Fault::Before(NodeErrorKind::Failed), 2);
        controller.destroy("c").await.unwrap();
        assert_eq!(machine.fake.networks(), []);
        controller.create(CreateRequest { ports_in: vec![port(8080, 80)], ..at("c", "10.1.2.3/24") }).await.unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn a_network_that_does_not_go_keeps_its_container_stuck_and_its_address_taken() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(CreateRequest { ports_in: vec![port(8080, 80)], ..at("c", "10.1.2.3/24") }).await.unwrap();
        machine.fake.fail(Call::ReleaseNetwork, Fault::Before(NodeErrorKind::Failed), 1000);
        let error = controller.destroy("c").await.unwrap_err();
        assert!(
            matches!(&error, Error::Stuck { .. }) && error.to_string().contains("ReleaseNetwork failed"),
            "{error}"
        );
        let error = controller.create(at("d", "10.1.2.3/24")).await.unwrap_err().to_string();
        assert!(error.contains("already in use by container 'c'"), "{error}");
        let error =
            controller.create(CreateRequest { ports_in: vec![port(8080, 1)], ..request("d") }).await.unwrap_err();
        assert!(error.to_string().contains("host port 8080 is already in use by container 'c'"), "{error}");
        machine.fake.heal();
        sleep(15.0).await;
        assert_eq!((machine.fake.networks(), machine.fake.running()), (Vec::new(), Vec::new()));
        controller.create(CreateRequest { ports_in: vec![port(8080, 1)], ..at("d", "10.1.2.3/24") }).await.unwrap();
    });
}

#[test]
fn a_port_that_is_added_leads_there_when_that_is_answered_and_after_a_restart() {
    let machine = machine();
    let expected = [PortIn { host_port: 61001, container_port: 61001 }, PortIn { host_port: 8080, container_port: 80 }];
    machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        assert_eq!(controller.add_port("c", port(0, 0)).await.unwrap(), expected[0]);
        for _ in 0..2 {
            assert_eq!(controller.add_port("c", port(8080, 80)).await.unwrap(), expected[1], "also asked for again");
        }
        assert_eq!(network_of(&machine, "c").ports_in, expected);
    });
    machine.life(async |controller| {
        assert_eq!(controller.info("c").unwrap().ports_in, expected);
        controller.create(request("d")).await.unwrap();
        assert_eq!(controller.add_port("d", port(0, 80)).await.unwrap().host_port, 61002);
        machine.assert_converged().await;
    });
}

#[test]
fn a_port_that_somebody_has_is_refused_by_name() {
    let machine = machine();
    machine.life(async |controller| {
        controller
            .create(CreateRequest { ports_in: vec![port(8080, 80), port(8080, 80)], ..request("c") })
            .await
            .unwrap();
        assert_eq!(controller.info("c").unwrap().ports_in.len(), 1);
        controller.create(request("d")).await.unwrap();
        machine.fake.listen(9090, true);
        for (handle, asked, words) in [
            ("d", port(8080, 80), "host port 8080 is already in use by container 'c'"),
            ("c", port(8080, 81), "host port 8080 already leads to port 80 of this container"),
            ("c", port(8080, 0), "host port 8080 already leads to port 80 of this container"),
            ("c", port(9090, 80), "already listens on port 9090"),
        ] {
            let error = controller.add_port(handle, asked).await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let both = vec![port(8081, 80), port(8081, 81)];
        let error = controller.create(CreateRequest { ports_in: both, ..request("e") }).await.unwrap_err().to_string();
        assert!(error.contains("host port 8081 already leads to port 80"), "{error}");
        // Nothing was kept of what was refused.
        machine.fake.listen(9090, false);
        controller.add_port("d", port(9090, 80)).await.unwrap();
        controller.add_port("d", port(8081, 80)).await.unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn ports_of_the_nodes_programs_are_passed_over_and_told_of_when_none_is_left() {
    let machine = machine_of(NetworkOptions { ports: 61001..=61004, ..NetworkOptions::default() });
    machine.life(async |controller| {
        machine.fake.listen(61001, true);
        machine.fake.listen(61003, true);
        controller.create(CreateRequest { ports_in: vec![port(0, 80)], ..request("c") }).await.unwrap();
        assert_eq!(controller.info("c").unwrap().ports_in[0].host_port, 61002);
        assert_eq!(controller.add_port("c", port(0, 80)).await.unwrap().host_port, 61004);
        let error = controller.add_port("c", port(0, 80)).await.unwrap_err().to_string();
        assert!(error.contains("no host port from 61001 to 61004 is free (2 that containers do not have"), "{error}");
        machine.fake.listen(61003, false);
        assert_eq!(controller.add_port("c", port(0, 80)).await.unwrap().host_port, 61003);
    });
}

#[test]
fn who_names_a_port_has_it_before_it_is_given_to_who_names_none() {
    let machine = machine();
    machine.life(async |controller| {
        let ports_in = vec![port(0, 80), port(61001, 81)];
        controller.create(CreateRequest { ports_in, ..request("c") }).await.unwrap();
        let expected =
            [PortIn { host_port: 61002, container_port: 80 }, PortIn { host_port: 61001, container_port: 81 }];
        assert_eq!(controller.info("c").unwrap().ports_in, expected);
    });
}

#[test]
fn ports_and_rules_that_are_added_at_once_do_not_lose_each_other() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        machine.fake.delay(Call::EnsureNetwork, Duration::from_millis(100));
        let adds: Vec<_> = (0..20)
            .map(|n| {
                let controller = controller.clone();
                tokio::spawn(async move {
                    controller.add_port("c", port(0, 80)).await.unwrap();
                    controller.add_rules("c", vec![rule(n)]).await.unwrap();
                })
            })
            .collect();
        for add in adds {
            add.await.unwrap();
        }
        let network = network_of(&machine, "c");
        assert_eq!((network.ports_in.len(), network.rules_out.len()), (20, 20));
        machine.assert_converged().await;
    });
}

#[test]
fn what_cannot_be_put_in_force_is_not_recorded_either() {
    let machine = machine_of(NetworkOptions { ports: 61001..=61001, ..NetworkOptions::default() });
    machine.life(async |controller| {
        controller.create(CreateRequest { rules_out: vec![rule(1)], ..request("c") }).await.unwrap();
        controller.create(request("d")).await.unwrap();
        let kinds = [NodeErrorKind::Failed, NodeErrorKind::Unavailable];
        for fault in kinds.into_iter().flat_map(|kind| [Fault::Before(kind), Fault::After(kind)]) {
            machine.fake.fail(Call::EnsureNetwork, fault, 1);
            assert!(matches!(controller.add_port("c", port(0, 80)).await, Err(Error::Node(_))));
            machine.fake.fail(Call::EnsureNetwork, fault, 1);
            assert!(matches!(controller.add_rules("c", vec![rule(2), rule(1)]).await, Err(Error::Node(_))));
            machine.assert_converged().await;
            let network = network_of(&machine, "c");
            assert_eq!((&network.ports_in[..], &network.rules_out[..]), (&[][..], &[rule(1)][..]));
            // It is nobody's: another may have it.
            machine.fake.listen(61001, false);
            assert_eq!(controller.add_port("d", port(0, 80)).await.unwrap().host_port, 61001);
            controller.destroy("d").await.unwrap();
            controller.create(request("d")).await.unwrap();
        }
    });
}

#[test]
fn a_port_that_may_still_lead_somewhere_is_given_to_nobody_else() {
    let machine = machine_of(NetworkOptions { ports: 61001..=61001, ..NetworkOptions::default() });
    machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        controller.create(request("d")).await.unwrap();
        machine.fake.fail(Call::EnsureNetwork, Fault::After(NodeErrorKind::Failed), 2);
        controller.add_port("c", port(61001, 80)).await.unwrap_err();
        let error = controller.add_port("d", port(61001, 80)).await.unwrap_err().to_string();
        assert!(error.contains("already in use by container 'c'"), "{error}");
        sleep(15.0).await;
        assert_eq!(network_of(&machine, "c").ports_in, []);
        controller.add_port("c", port(61001, 80)).await.unwrap();
        controller.destroy("c").await.unwrap();
        controller.add_port("d", port(61001, 80)).await.unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn a_full_disk_changes_nothing() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        machine.ledger.pretend_full(true);
        // More than what finds room where the record is.
        let many = (0..1000).map(rule).collect();
        assert!(matches!(controller.add_rules("c", many).await, Err(Error::Ledger(_))));
        let request = CreateRequest { ports_in: vec![port(8080, 80)], ..at("d", "10.1.2.3/24") };
        assert!(matches!(controller.create(request).await, Err(Error::Ledger(_))));
        machine.ledger.pretend_full(false);
        machine.assert_converged().await;
        controller.create(CreateRequest { ports_in: vec![port(8080, 80)], ..at("d", "10.1.2.3/24") }).await.unwrap();
    });
}

#[test]
fn a_change_goes_on_to_its_end_also_when_its_client_has_left() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        machine.fake.delay(Call::EnsureNetwork, Duration::from_secs(2));
        let left = tokio::time::timeout(Duration::from_secs(1), controller.add_port("c", port(8080, 80))).await;
        assert!(left.is_err());
        sleep(5.0).await;
        assert_eq!(network_of(&machine, "c").ports_in.len(), 1);
        machine.assert_converged().await;
    });
}

#[test]
fn a_change_of_a_container_that_goes_away_meanwhile_puts_nothing_back() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        machine.fake.delay(Call::CheckPort, Duration::from_secs(2));
        let (added, destroyed) = tokio::join!(controller.add_port("c", port(8080, 80)), controller.destroy("c"));
        destroyed.unwrap();
        let error = added.unwrap_err();
        assert!(matches!(error, Error::ContainerNotFound(_) | Error::NotReady { .. }), "{error}");
        assert_eq!(machine.fake.networks(), []);
        machine.fake.delay(Call::CheckPort, Duration::ZERO);
        controller.create(CreateRequest { ports_in: vec![port(8080, 80)], ..request("c") }).await.unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn a_container_that_is_not_ready_is_not_changed() {
    let machine = machine();
    machine.life(async |controller| {
        machine.fake.delay(Call::Furnish, Duration::from_secs(2));
        let (created, (port, rules)) = tokio::join!(controller.create(request("c")), async {
            sleep(1.0).await;
            (controller.add_port("c", port(0, 80)).await, controller.add_rules("c", vec![rule(1)]).await)
        });
        created.unwrap();
        assert!(matches!(port, Err(Error::NotReady { .. })) && matches!(rules, Err(Error::NotReady { .. })));
        assert!(matches!(controller.add_port("d", self::port(0, 80)).await, Err(Error::ContainerNotFound(_))));
    });
}

#[test]
fn there_may_not_be_more_ports_and_rules_than_a_container_may_have() {
    let machine = machine_of(NetworkOptions { ports: 30001..=60000, ..NetworkOptions::default() });
    machine.life(async |controller| {
        let error = controller.create(CreateRequest { ports_in: vec![port(0, 80); MAX_PORTS_IN + 1], ..request("c") });
        assert!(error.await.unwrap_err().to_string().contains("1025 ports for one container; the limit is 1024"));
        let rules: Vec<RuleOut> = (0..MAX_RULES_OUT as u16).map(rule).collect();
        let ports_in = vec![port(0, 80); MAX_PORTS_IN];
        controller.create(CreateRequest { ports_in, rules_out: rules.clone(), ..request("c") }).await.unwrap();
        assert!(controller.add_port("c", port(0, 80)).await.unwrap_err().to_string().contains("the limit is 1024"));
        // The same again are no more.
        controller.add_rules("c", rules).await.unwrap();
        let error = controller.add_rules("c", vec![rule(60000)]).await.unwrap_err().to_string();
        assert!(error.contains("4097 rules for one container; the limit is 4096"), "{error}");
        controller.add_rules("c", vec![rule(7)]).await.unwrap();
        assert_eq!(network_of(&machine, "c").rules_out.last(), Some(&rule(7)), "the last one is the last");
    });
}

#[test]
fn rules_that_the_node_cannot_keep_are_refused_before_anything_is_recorded() {
    let machine = machine();
    machine.life(async |controller| {
        machine.fake.fail(Call::CheckRules, Fault::Before(NodeErrorKind::Invalid), 1);
        let refused = controller.create(CreateRequest { rules_out: vec![rule(1)], ..request("c") }).await;
        assert!(matches!(refused, Err(Error::Node(_))));
        controller.create(request("c")).await.unwrap();
        machine.fake.fail(Call::CheckRules, Fault::Before(NodeErrorKind::Invalid), 1);
        assert!(matches!(controller.add_rules("c", vec![rule(1)]).await, Err(Error::Node(_))));
        assert_eq!(machine.ledger.load().await.unwrap().containers[0].rules_out, []);
    });
}

#[test]
fn what_others_flush_is_put_back_soon_whether_or_not_that_is_told() {
    let machine = machine();
    machine.life(async |controller| {
        for handle in ["a", "b"] {
            controller.create(request(handle)).await.unwrap();
        }
        sleep(1.0).await;
        machine.fake.flush_rules();
        assert_eq!(machine.fake.cut_off().len(), 2);
        sleep(1.0).await;
        assert_eq!(machine.fake.cut_off(), []);
        machine.fake.lose_events(true);
        machine.fake.flush_rules();
        sleep(11.0).await;
        assert_eq!(machine.fake.cut_off(), []);
        machine.assert_converged().await;
    });
}

#[test]
fn a_program_that_flushes_without_end_keeps_nobody_busy() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        let before = machine.fake.calls(Call::RestoreNetwork);
        for _ in 0..1000 {
            machine.fake.flush_rules();
            sleep(0.01).await;
        }
        let looks = machine.fake.calls(Call::RestoreNetwork) - before;
        assert!((10..=25).contains(&looks), "{looks} looks in 10 s");
        sleep(1.0).await;
        assert_eq!(machine.fake.cut_off(), []);
    });
}

#[test]
fn a_start_has_every_network_in_force_and_nobody_elses_before_anybody_is_served() {
    let machine = machine();
    machine.life(async |controller| {
        controller.create(request("answered")).await.unwrap();
        machine.fake.delay(Call::Connect, Duration::from_secs(5));
        let request = CreateRequest { ports_in: vec![port(8080, 80)], ..at("unanswered", "10.1.2.3/24") };
        assert!(tokio::time::timeout(Duration::from_secs(1), controller.create(request)).await.is_err());
        assert_eq!(machine.fake.networks().len(), 2);
    });
    machine.fake.delay(Call::Connect, Duration::ZERO);
    machine.fake.delay(Call::Kill, Duration::from_secs(2));
    machine.fake.flush_rules();
    machine.life(async |controller| {
        assert_eq!(machine.fake.cut_off(), []);
        assert_eq!(machine.fake.networks().len(), 1);
        // Who asks for the same again gets it, though the first is not dead yet.
        let request = CreateRequest { ports_in: vec![port(8080, 80)], ..at("unanswered", "10.1.2.3/24") };
        controller.create(request).await.unwrap();
        sleep(20.0).await;
        machine.assert_converged().await;
    });
}

#[test]
fn where_the_first_look_fails_an_unanswered_creates_address_stays_taken_until_it_is_gone() {
    let machine = machine();
    machine.life(async |controller| {
        machine.fake.delay(Call::Connect, Duration::from_secs(5));
        let creating = controller.create(at("unanswered", "10.1.2.3/24"));
        assert!(tokio::time::timeout(Duration::from_secs(1), creating).await.is_err());
    });
    machine.fake.delay(Call::Connect, Duration::ZERO);
    machine.fake.delay(Call::Kill, Duration::from_secs(2));
    machine.fake.fail(Call::RestoreNetwork, Fault::Before(NodeErrorKind::Failed), 1);
    machine.life(async |controller| {
        let error = controller.create(at("unanswered", "10.1.2.3/24")).await.unwrap_err().to_string();
        assert!(error.contains("10.1.2.3 of 10.1.2.0/24 is already in use"), "{error}");
        sleep(20.0).await;
        controller.create(at("unanswered", "10.1.2.3/24")).await.unwrap();
        machine.assert_converged().await;
    });
}

#[test]
fn a_container_that_gets_ready_while_the_whole_is_looked_at_keeps_its_network() {
    let machine = machine();
    machine.life(async |controller| {
        machine.fake.delay(Call::RestoreNetwork, Duration::from_secs(3));
        machine.fake.flush_rules();
        let creates: Vec<_> = (0..20)
            .map(|n| {
                let controller = controller.clone();
                tokio::spawn(async move {
                    sleep(f64::from(n) * 0.3).await;
                    controller.create(request(&format!("c{n}"))).await
                })
            })
            .collect();
        for create in creates {
            create.await.unwrap().unwrap();
            machine.fake.flush_rules();
        }
        sleep(10.0).await;
        machine.assert_converged().await;
        assert_eq!(machine.fake.networks().len(), 20);
    });
}

#[test]
fn a_reboot_makes_the_same_networks_again() {
    let mut machine = machine();
    machine.life(async |controller| {
        for handle in ["a", "b"] {
            controller.create(CreateRequest { ports_in: vec![port(0, 80)], ..request(handle) }).await.unwrap();
        }
        controller.destroy("a").await.unwrap();
    });
    let before = network_of(&machine, "b");
    machine.boot = "another".into();
    machine.life(async |controller| {
        sleep(20.0).await;
        let after = network_of(&machine, "b");
        assert_eq!((&after.addresses, &after.ports_in), (&before.addresses, &before.ports_in));
        machine.assert_converged().await;
        // It goes on where the last one ended.
        controller.create(request("c")).await.unwrap();
        assert_eq!(address(&controller, "c"), "10.80.0.10");
    });
}

#[test]
fn a_gardend_without_networks_leaves_records_alone_and_the_next_with_them_makes_them() {
    let mut machine = machine();
    machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
    });
    let network = machine.options.network.take();
    machine.life(async |controller| {
        assert_eq!(controller.info("c").unwrap().addresses, None);
        sleep(15.0).await;
        let (sandbox, _) = machine.fake.furnished().remove(0);
        machine.fake.kill_init(&sandbox);
        sleep(15.0).await;
        controller.run("c", command("true")).await.unwrap();
    });
    machine.options.network = network;
    machine.life(async |controller| {
        assert_eq!(address(&controller, "c"), "10.80.0.2");
        sleep(1.0).await;
        machine.assert_converged().await;
        let records = machine.ledger.load().await.unwrap().containers;
        assert!(records.iter().all(|record| record.desired == Desired::Present));
    });
}

#[test]
fn capacity_is_what_there_are_subnets_for() {
    let machine = machine_of(NetworkOptions { addresses: pools_of("10.80.0.0/28", None), ..NetworkOptions::default() });
    machine.life(async |controller| assert_eq!(controller.max_containers(), 4));
}

fn given_by_the_node() -> Machine {
    machine_of(NetworkOptions { addresses: AddressSource::Node, ..NetworkOptions::default() })
}

#[test]
fn where_the_node_gives_addresses_they_are_recorded_told_and_kept_over_a_restart() {
    let machine = given_by_the_node();
    let first = machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        controller.create(request("d")).await.unwrap();
        let first = address(&controller, "c");
        assert_ne!(first, address(&controller, "d"));
        assert_eq!(network_of(&machine, "c").addresses.address.to_string(), first);
        controller.add_port("c", port(0, 80)).await.unwrap();
        first
    });
    machine.life(async |controller| {
        assert_eq!(address(&controller, "c"), first);
        assert_eq!(machine.fake.calls(Call::Attach), 2);
        for handle in ["c", "d"] {
            controller.destroy(handle).await.unwrap();
        }
        assert!(machine.fake.networks().is_empty() && machine.fake.attached().is_empty());
    });
}

#[test]
fn what_the_node_began_to_give_is_taken_away_with_the_create_that_failed() {
    let machine = given_by_the_node();
    machine.life(async |controller| {
        machine.fake.fail(Call::EnsureNetwork, Fault::Before(NodeErrorKind::Invalid), 1);
        let error = controller.create(request("c")).await.unwrap_err();
        assert!(matches!(error, Error::CreateFailed { .. }), "{error}");
        assert!(machine.fake.attached().is_empty());
        machine.fake.fail(Call::Attach, Fault::Before(NodeErrorKind::Failed), 1);
        controller.create(request("c")).await.expect("another place is tried");
        assert_eq!(machine.fake.attached().len(), 1);
    });
}

#[test]
fn a_place_that_is_made_again_is_given_other_addresses() {
    let machine = given_by_the_node();
    machine.life(async |controller| {
        controller.create(request("c")).await.unwrap();
        let before = address(&controller, "c");
        let place = network_of(&machine, "c").sandbox;
        machine.fake.kill_init(&place);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while address(&controller, "c") == before {
            assert!(tokio::time::Instant::now() < deadline, "it keeps {before}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}
