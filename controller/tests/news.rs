//! What followers of containers are told, and what they can read.

mod common;

use common::{Machine, command, named, request, sleep};
use gardend_controller::fake::{Call, Fault};
use gardend_controller::ports::NodeErrorKind;
use gardend_controller::record::{Phase, ProcessState};
use gardend_controller::{ContainerView, Controller, Follower, IncidentKind, MAX_INCIDENTS, News, Options};

/// What has come by now, and nothing where nothing has.
async fn news(follower: &mut Follower) -> News {
    tokio::time::timeout(std::time::Duration::from_millis(1), follower.news()).await.unwrap_or_default()
}

fn only(garden: &Controller) -> ContainerView {
    let uids = garden.container_uids();
    assert_eq!(uids.len(), 1);
    garden.view(&uids[0]).unwrap()
}

#[test]
fn each_change_is_told_as_a_name_and_read_as_it_is_by_then() {
    Machine::new().life(async |garden| {
        let mut follower = garden.follow();
        garden.create(request("c")).await.unwrap();
        let view = only(&garden);
        assert!(news(&mut follower).await.containers.contains(&view.uid));
        assert_eq!((view.phase, view.handle.as_str()), (Phase::Ready, "c"));
        sleep(1.0).await;
        news(&mut follower).await;
        assert!(news(&mut follower).await.containers.is_empty(), "what was told is not told again");

        garden.run("c", named("p", "exit 4")).await.unwrap().outcome().await;
        assert!(news(&mut follower).await.containers.contains(&view.uid));
        assert!(matches!(only(&garden).processes[0].state, ProcessState::Exited(_)));
        assert_eq!((garden.view_node().ready, garden.view_node().destroying), (1, 0));

        garden.destroy("c").await.unwrap();
        assert!(news(&mut follower).await.containers.contains(&view.uid));
        assert_eq!((garden.view(&view.uid), garden.container_uids()), (None, vec![]));
    });
}

#[test]
fn nothing_is_kept_for_arguments_and_environments_unless_it_is_asked_for() {
    for keep_arguments in [false, true] {
        let machine = Machine::with(Options { pool_size: 0, keep_arguments, ..Options::default() });
        let secret = async |garden: &Controller| {
            let view = only(garden);
            assert_eq!(format!("{view:?}").contains("hunter2"), keep_arguments);
            assert_eq!(view.processes[0].args.is_empty(), !keep_arguments);
            assert!(view.processes[0].path.ends_with("echo"));
        };
        machine.life(async |garden| {
            let mut asked = request("c");
            asked.spec.env = vec!["TOKEN=hunter3".into()];
            garden.create(asked).await.unwrap();
            let mut process = named("p", "echo hunter2");
            process.env = vec!["TOKEN=hunter3".into()];
            garden.run("c", process).await.unwrap().outcome().await;
            secret(&garden).await;
            assert!(!format!("{:?}", only(&garden)).contains("hunter3"));
        });
        // Taken from the ledger, too.
        machine.life(async |garden| secret(&garden).await);
    }
}

#[test]
fn what_cannot_be_read_afterwards_is_kept_for_a_follower_and_bounded() {
    let machine = Machine::new();
    machine.life(async |garden| {
        let mut follower = garden.follow();
        garden.create(request("lost")).await.unwrap();
        garden.run("lost", command("sleep")).await.unwrap();
        let place = machine.fake.furnished()[0].0.clone();
        machine.fake.out_of_memory(&place, "cat (pid 7)");
        sleep(2.0).await;
        machine.fake.kill_init(&place);
        sleep(2.0).await;
        machine.fake.fail(Call::Furnish, Fault::Before(NodeErrorKind::Invalid), 1);
        garden.create(request("failed")).await.unwrap_err();
        machine.fake.fail(Call::Kill, Fault::Before(NodeErrorKind::Stuck), 2);
        garden.destroy("lost").await.unwrap_err();
        sleep(60.0).await;
        let told: Vec<_> = news(&mut follower).await.incidents.into_iter().map(|one| (one.kind, one.handle)).collect();
        let kinds: Vec<_> = told.iter().map(|(kind, handle)| (*kind, handle.as_str())).collect();
        use IncidentKind::{CreateFailed, OutOfMemory, ProcessLost, Stuck};
        assert_eq!(kinds, [(OutOfMemory, "lost"), (ProcessLost, "lost"), (CreateFailed, "failed"), (Stuck, "lost")]);

        machine.fake.fail(Call::Furnish, Fault::Before(NodeErrorKind::Invalid), MAX_INCIDENTS + 5);
        for number in 0..MAX_INCIDENTS + 5 {
            garden.create(request(&format!("c{number}"))).await.unwrap_err();
        }
        let told = news(&mut follower).await.incidents;
        assert_eq!((told.len(), told[0].handle.as_str()), (MAX_INCIDENTS, "c5"));
    });
}
