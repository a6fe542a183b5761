//! The limit of containers, under clients that all come at once and across a kill.

use crate::rootfs;
use crate::server::Server;
use crate::wire::Refusal;

#[test]
fn fifty_creates_at_once_fill_the_limit_exactly_also_after_a_kill() {
    let mut server = Server::start(&["--pool-size", "0", "--max-containers", "10"]);
    let root = rootfs::unprivileged(&server.scratch().join("root"));
    for round in 0..2 {
        let garden = server.garden;
        let outcomes: Vec<Result<(), Refusal>> = std::thread::scope(|scope| {
            let root = &root;
            let clients: Vec<_> =
                (0..50).map(|number| scope.spawn(move || garden.create(&format!("c{round}-{number}"), root))).collect();
            clients.into_iter().map(|client| client.join().expect("a client")).collect()
        });
        let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(made, 10, "round {round}");
        for said in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert!(said.message().contains("limit of 10"), "{}", said.message());
        }
        server.kill();
        server.restart();
        assert_eq!(server.garden.list().len(), 10);
        server.garden.create("one-more", &root).expect_err("the limit holds");
        for handle in server.garden.list() {
            server.garden.destroy(&handle).expect("a destroy");
        }
    }
    crate::census::settles(&server, 0, 0);
}
