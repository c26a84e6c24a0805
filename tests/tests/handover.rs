//! An agent takes another one's place under load: nobody notices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::scope;

use anyhow::{Context, Result, ensure};
use mesh_tests::http1::{Client, echo_server};
use mesh_tests::lab::{Running, eventually};
use mesh_tests::server::Server;
use mesh_tests::shop::Shop;
use mesh_tests::sockets::Host;
use mesh_tests::{PATIENCE, SOON};
use nix::sys::signal::Signal;

/// Drains for longer than the tests look.
fn shop(name: &str) -> Option<Shop> {
    let options = mesh_tests::agent_options()?.flag("drain-time", "60s");
    Some(Shop::start(name, options).unwrap())
}

/// A connection of its own for each request, until told to stop; requests that were answered.
fn ask(from: &Host, to: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let stream = from.connect(to).with_context(|| format!("connecting to {to}"))?;
        let answer = Client::new(stream).get("h", "/").with_context(|| format!("asking {to}"))?;
        ensure!(answer.status() == 200, "{to} answered {}", answer.status());
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits until `count` has grown by `more`.
fn grows(count: &AtomicU64, more: u64) {
    let before = count.load(Ordering::Relaxed);
    eventually(SOON, || {
        ensure!(count.load(Ordering::Relaxed) >= before + more, "no more requests");
        Ok(())
    })
    .unwrap();
}

fn ends(former: &mut Running) {
    eventually(PATIENCE, || former.try_wait().context("the former agent goes on")).unwrap();
}

#[test]
fn no_connection_fails_while_an_agent_takes_over_from_another() {
    let Some(mut shop) = shop("takeover") else { return };
    let service = shop.http("taken", "http", 2).unwrap();
    let port = shop.port();
    let _outside = echo_server(shop.outside.listen(port).unwrap(), "outside");
    let (web, outside) = (shop.web.clone(), shop.outside.clone());
    let pod = shop.carts[0].at(service.target);
    let (stop, counts) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 3]);
    let ways = [(&web, service.at()), (&web, outside.at(port)), (&outside, pod)];
    scope(|scope| {
        let clients: Vec<_> = ways
            .iter()
            .zip(&counts)
            .map(|((from, to), count)| scope.spawn(|| ask(from, *to, &stop, count)))
            .collect();
        counts.iter().for_each(|count| grows(count, 10));
        for _ in 0..3 {
            let pid = shop.agent.pid();
            let mut former = shop.agent.upgrade().unwrap();
            assert_ne!(shop.agent.pid(), pid);
            counts.iter().for_each(|count| grows(count, 20));
            // Nothing of it is left but what it carries, and these clients keep no connection.
            ends(&mut former);
            assert_eq!(former.try_wait(), Some(0), "{}", former.stderr());
            let log = shop.agent.log();
            assert!(log.contains("the former agent has let go"), "it wasn't told so: {log}");
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap().unwrap();
        }
    });
    // What is asked is answered by the new one, and it goes by what changes from now on.
    let status = shop.agent.cli_json(&["status"]).unwrap();
    assert_eq!(status["agent"]["pid"].as_u64(), Some(shop.agent.pid().into()), "{status}");
    assert_eq!(shop.agent.get("/readyz").unwrap().0, 200);
    let later = shop.http("later", "http", 1).unwrap();
    assert_eq!(shop.get(&later, "/").unwrap().status(), 200);
}

#[test]
fn what_the_former_agent_carries_goes_on_until_it_ends() {
    let Some(mut shop) = shop("carried") else { return };
    let port = shop.port();
    let _far = Server::new(shop.outside.listen(port).unwrap(), |mut stream, _| {
        // Its end is the other side's business.
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    });
    let mut stream = shop.web.connect(shop.outside.at(port)).unwrap();
    let mut exchange = || {
        stream.write_all(b"ping").unwrap();
        let mut got = [0; 4];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ping");
    };
    exchange();
    let mut former = shop.agent.upgrade().unwrap();
    exchange();
    assert_eq!(former.try_wait(), None, "it carries a connection still");
    exchange();
    drop(stream);
    ends(&mut former);
}

#[test]
fn a_newcomer_that_dies_before_it_serves_changes_nothing() {
    let Some(mut shop) = shop("stillborn") else { return };
    let service = shop.http("stays", "http", 1).unwrap();
    let pid = shop.agent.pid();
    let mut newcomer = shop.agent.beside().unwrap();
    newcomer.signal(Signal::SIGKILL);
    eventually(SOON, || newcomer.try_wait().context("it lives")).unwrap();
    for _ in 0..20 {
        assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
    }
    assert_eq!(shop.agent.pid(), pid);
    assert_eq!(shop.agent.get("/readyz").unwrap().0, 200);
    // The next one takes over all the same.
    let mut former = shop.agent.upgrade().unwrap();
    ends(&mut former);
    assert_eq!(shop.get(&service, "/").unwrap().status(), 200);
}
